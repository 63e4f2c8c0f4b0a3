//! The one table that says what each of the contract's reasons means. Every decision that depends on a
//! reason uses this table, so a new reason needs one new row.
//!
//! The table is next to the error, below the accounts that use most of it, because higher modules read
//! it as well: `grpc` reads the code and the level, and the store's waiters read only the reason.

use tonic::Code;
use tracing::Level;

use super::Exchange;
use crate::pb::ErrorReason;

/// What a vendor's answer with this reason is about.
///
/// The breaker, the credentials check and a paused account each ask whether "the vendor answered", and
/// each mean something different. All three read this one scale:
///
/// - any answer closes the breaker: the vendor is there, and asking does it no harm;
/// - only an answer about the order shows that the account's credentials are valid and that a paused
///   account is served again. A gateway's page or an unnamed error shows neither: it may come from
///   something in front of the vendor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Answer {
    /// No answer: the vendor was not asked, or did not answer.
    Missing,
    /// An answer that is not about the order.
    Other,
    /// An answer about the order.
    AboutOrder,
}

/// Whose fault a failed call is, by OpenTelemetry's rule for server spans: only the server's fault
/// makes the span an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The caller can fix it, or it is a valid answer.
    Caller,
    /// The fault of this deployment, the vendor, or the connection to it.
    Server,
}

/// The meaning of a reason: one row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// The reason.
    pub reason: ErrorReason,
    /// What the vendor's answer is about.
    pub answer: Answer,
    /// Whether an immediate retry can help, if the exchange failed.
    pub may_retry: bool,
    /// Whether an older answer may be returned instead.
    pub allows_stale: bool,
    /// Whether it ends a watch, because waiting cannot help.
    pub ends_watch: bool,
    /// The log level: a warning needs the operator's attention.
    pub level: Level,
    /// The gRPC status code.
    pub code: Code,
    /// Whose fault it is.
    pub fault: Fault,
}

/// Builds a row in one line.
const fn row(
    reason: ErrorReason,
    answer: Answer,
    [may_retry, allows_stale, ends_watch]: [bool; 3],
    level: Level,
    code: Code,
    fault: Fault,
) -> Verdict {
    Verdict { reason, answer, may_retry, allows_stale, ends_watch, level, code, fault }
}

const YES: bool = true;
const NO: bool = false;

/// One row per reason, by its number in the contract. In brackets: whether it may be retried at once,
/// whether an older answer may be returned instead, whether it ends a watch.
#[rustfmt::skip]
const VERDICTS: &[Verdict] = {
    use Answer::{AboutOrder, Missing, Other};
    use ErrorReason as R;
    use Fault::{Caller, Server};
    &[
        row(R::Unspecified,                 Missing,    [NO,  NO,  NO],  Level::INFO,  Code::Internal,           Server),
        row(R::InvalidRequest,              AboutOrder, [NO,  NO,  YES], Level::INFO,  Code::InvalidArgument,    Caller),
        row(R::CallerUnauthenticated,       Missing,    [NO,  NO,  NO],  Level::INFO,  Code::Unauthenticated,    Caller),
        row(R::CallerForbidden,             Missing,    [NO,  NO,  NO],  Level::INFO,  Code::PermissionDenied,   Caller),
        row(R::ProviderNotConfigured,       Missing,    [NO,  NO,  YES], Level::INFO,  Code::FailedPrecondition, Caller),
        row(R::OrderNotFound,               AboutOrder, [NO,  NO,  YES], Level::INFO,  Code::NotFound,           Caller),
        row(R::OrderExpired,                AboutOrder, [NO,  NO,  YES], Level::INFO,  Code::FailedPrecondition, Caller),
        // Also used for our own limits: only the exchange shows whether the vendor reported it.
        row(R::ProviderQuotaExhausted,      Missing,    [NO,  YES, NO],  Level::INFO,  Code::ResourceExhausted,  Caller),
        row(R::ProviderUnavailable,         Missing,    [YES, YES, NO],  Level::WARN,  Code::Unavailable,        Server),
        row(R::ProviderCredentialsRejected, Other,      [NO,  NO,  YES], Level::WARN,  Code::FailedPrecondition, Caller),
        // A whole answer arrived in time: one unreadable order must not stop questions for others.
        row(R::ProviderResponseInvalid,     Other,      [NO,  NO,  NO],  Level::WARN,  Code::Internal,           Server),
        row(R::ProviderError,               Other,      [NO,  NO,  NO],  Level::WARN,  Code::Unknown,            Server),
        row(R::ServerOverloaded,            Missing,    [NO,  NO,  NO],  Level::INFO,  Code::ResourceExhausted,  Caller),
        row(R::DeadlineExceeded,            Missing,    [NO,  NO,  NO],  Level::INFO,  Code::DeadlineExceeded,   Server),
        row(R::Internal,                    Missing,    [NO,  NO,  NO],  Level::ERROR, Code::Internal,           Server),
        row(R::StoreUnavailable,            Missing,    [NO,  YES, NO],  Level::WARN,  Code::Unavailable,        Server),
        row(R::ServerDraining,              Missing,    [NO,  NO,  NO],  Level::INFO,  Code::Unavailable,        Server),
        row(R::Unimplemented,               Missing,    [NO,  NO,  NO],  Level::INFO,  Code::Unimplemented,      Server),
    ]
};

impl Verdict {
    /// Returns the row of a reason.
    #[must_use]
    pub fn of(reason: ErrorReason) -> &'static Self {
        // A test covers every reason; a reason without a row is an internal failure.
        usize::try_from(i32::from(reason))
            .ok()
            .and_then(|row| VERDICTS.get(row))
            .unwrap_or(&VERDICTS[0])
    }

    /// The exchange that this reason implies, unless the error says more.
    #[must_use]
    pub fn exchange(&self) -> Exchange {
        match self.answer {
            Answer::Missing => Exchange::NotSent,
            Answer::Other | Answer::AboutOrder => Exchange::Answered,
        }
    }

    /// Whether the vendor accepts the account's credentials; `None` if the reason does not say.
    #[must_use]
    pub fn accepts_credentials(&self) -> Option<bool> {
        match (self.reason, self.answer) {
            (ErrorReason::ProviderCredentialsRejected, _) => Some(false),
            (_, Answer::AboutOrder) => Some(true),
            (_, Answer::Other | Answer::Missing) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_reason() -> impl Iterator<Item = ErrorReason> {
        (0..).map_while(|number| ErrorReason::try_from(number).ok())
    }

    #[test]
    fn every_reason_has_a_row() {
        assert_eq!(every_reason().count(), VERDICTS.len());
        for reason in every_reason() {
            assert_eq!(Verdict::of(reason).reason, reason);
        }
    }

    /// The separate lists that the table replaced, as the design has them.
    #[test]
    fn every_reason_matches_the_design() {
        use ErrorReason as R;
        let reasons = |says: fn(&Verdict) -> bool| -> Vec<_> {
            every_reason().filter(|reason| says(Verdict::of(*reason))).collect()
        };
        let about_order = [R::InvalidRequest, R::OrderNotFound, R::OrderExpired];
        assert_eq!(reasons(|row| row.answer == Answer::AboutOrder), about_order);
        let other = [R::ProviderCredentialsRejected, R::ProviderResponseInvalid, R::ProviderError];
        assert_eq!(reasons(|row| row.answer == Answer::Other), other);
        assert_eq!(reasons(|row| row.exchange() == Exchange::Answered).len(), 6);
        assert_eq!(reasons(|row| row.accepts_credentials() == Some(true)), about_order);
        let rejected = [R::ProviderCredentialsRejected];
        assert_eq!(reasons(|row| row.accepts_credentials() == Some(false)), rejected);
        assert_eq!(reasons(|row| row.may_retry), [R::ProviderUnavailable]);
        let stale = [R::ProviderQuotaExhausted, R::ProviderUnavailable, R::StoreUnavailable];
        assert_eq!(reasons(|row| row.allows_stale), stale);
        let ends = [
            R::InvalidRequest,
            R::ProviderNotConfigured,
            R::OrderNotFound,
            R::OrderExpired,
            R::ProviderCredentialsRejected,
        ];
        assert_eq!(reasons(|row| row.ends_watch), ends);
        assert_eq!(reasons(|row| row.level == Level::ERROR), [R::Internal]);
        let warned = [
            R::ProviderUnavailable,
            R::ProviderCredentialsRejected,
            R::ProviderResponseInvalid,
            R::ProviderError,
            R::StoreUnavailable,
        ];
        assert_eq!(reasons(|row| row.level == Level::WARN), warned);
    }

    /// OpenTelemetry lists the gRPC codes that make a server span an error.
    #[test]
    fn spans_are_errors_as_opentelemetry_defines() {
        const SERVER: [Code; 6] = [
            Code::Unknown,
            Code::DeadlineExceeded,
            Code::Unimplemented,
            Code::Internal,
            Code::Unavailable,
            Code::DataLoss,
        ];
        for row in VERDICTS {
            assert_eq!(row.fault == Fault::Server, SERVER.contains(&row.code), "{:?}", row.reason);
        }
    }
}
