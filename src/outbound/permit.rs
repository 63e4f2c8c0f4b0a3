//! What a request needs to be sent: the permit of a call that a gate has counted, or the statement
//! that no limit counts it. So a vendor's module that forgets to count does not compile. Used by the
//! vendors' modules; `providers` makes the permits.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// How far a counted request got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// It was never sent, so the vendor cannot count it.
    NotSent,
    /// It may have reached the vendor, which may still count it.
    Unknown,
    /// Its answer has come, so the vendor has counted it by now.
    Answered,
}

/// Permission to send one request.
#[derive(Debug)]
pub struct Permit(Arc<AtomicU8>);

/// Reports how far the request of a permit got.
#[derive(Debug)]
pub(crate) struct Receipt(Arc<AtomicU8>);

/// No limit counts the request: it is for a token, or for a check that asks for no order.
#[derive(Debug, Clone, Copy)]
pub struct Uncounted;

/// A permit, or the statement that none is needed.
#[derive(Debug)]
pub struct Counting(Option<Permit>);

impl Permit {
    /// A permit for one request, and its receipt.
    pub(crate) fn new() -> (Self, Receipt) {
        let delivery = Arc::new(AtomicU8::new(Delivery::NotSent as u8));
        (Self(Arc::clone(&delivery)), Receipt(delivery))
    }
}

impl Receipt {
    /// How far the request has got.
    pub(crate) fn delivery(&self) -> Delivery {
        let delivery = self.0.load(Ordering::Acquire);
        let known = [Delivery::NotSent, Delivery::Answered];
        known.into_iter().find(|known| *known as u8 == delivery).unwrap_or(Delivery::Unknown)
    }
}

impl From<Permit> for Counting {
    fn from(permit: Permit) -> Self {
        Self(Some(permit))
    }
}

impl From<Uncounted> for Counting {
    fn from(_: Uncounted) -> Self {
        Self(None)
    }
}

impl Counting {
    /// Records how far the request has got.
    pub(super) fn note(&self, delivery: Delivery) {
        if let Some(Permit(noted)) = &self.0 {
            noted.store(delivery as u8, Ordering::Release);
        }
    }
}
