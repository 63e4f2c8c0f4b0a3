//! The methods of the service. Used by `grpc` only.

use crate::pb::order_service_server::SERVICE_NAME;

/// A method of the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    /// `GetOrder`
    GetOrder,
    /// `BatchGetOrders`
    BatchGetOrders,
    /// `WatchOrder`
    WatchOrder,
    /// Any other name. It must not reach a log or a metric: its caller wrote it.
    Unknown,
}

impl Method {
    /// Every method, in the order of their numbers.
    pub(super) const ALL: [Self; 4] =
        [Self::GetOrder, Self::BatchGetOrders, Self::WatchOrder, Self::Unknown];

    /// The method that a path names.
    pub(super) fn of(path: &str) -> Self {
        let name = path.strip_prefix('/').and_then(|path| path.strip_prefix(SERVICE_NAME));
        let name = name.and_then(|name| name.strip_prefix('/')).unwrap_or_default();
        let known = Self::ALL.into_iter().find(|known| known.name() == name);
        known.unwrap_or(Self::Unknown)
    }

    /// The name in the contract; empty for [`Unknown`](Self::Unknown).
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::GetOrder => "GetOrder",
            Self::BatchGetOrders => "BatchGetOrders",
            Self::WatchOrder => "WatchOrder",
            Self::Unknown => "",
        }
    }

    /// Whether it answers with a stream. A stream ends when its caller or its connection ends.
    pub(super) fn streams(self) -> bool {
        self == Self::WatchOrder
    }
}
