//! What each reason of the contract means: the one table of it. Everyone who must decide by a reason
//! asks here, so that a new reason is decided in one row.
//!
//! The table stands beside the error, below the accounts that use most of it, because the edges ask it
//! as well: `grpc` for the code and the level, the store's waiters for nothing but the reason.

use tonic::Code;
use tracing::Level;

use super::Exchange;
use crate::pb::ErrorReason;

/// What a vendor's answer with this reason is about.
///
/// The breaker, the credentials and a paused account each ask whether "the vendor answered", and mean
/// three things; this is the one scale that all three read:
///
/// - any answer closes the breaker: the vendor is there, and asking does it no harm;
/// - only an answer about the order shows that the account's credentials are good and that a paused
///   account is served again. A page of a gateway or an error without a name shows neither: it may
///   come from something in front of the vendor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Answer {
    /// There is none: the vendor was not asked, or did not answer.
    Missing,
    /// An answer that is not about the order.
    Other,
    /// An answer about the order.
    AboutOrder,
}

/// Whose fault a failed call is, as OpenTelemetry has it for the span of a server: only the server's
/// makes the span an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The caller can mend it, or it is an answer.
    Caller,
    /// This deployment, the vendor, or the way to it.
    Server,
}

/// What a reason means: one row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// The reason.
    pub reason: ErrorReason,
    /// What the vendor's answer is about.
    pub answer: Answer,
    /// Whether asking the vendor again at once can help, where the exchange failed.
    pub may_retry: bool,
    /// Whether an older answer may stand in.
    pub allows_stale: bool,
    /// Whether it ends a watch: waiting cannot help.
    pub ends_watch: bool,
    /// How loudly it is logged: what the operator should look at is a warning.
    pub level: Level,
    /// The gRPC status code.
    pub code: Code,
    /// Whose fault it is.
    pub fault: Fault,
}

/// Makes a row in one line.
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

/// One row a reason, by its number in the contract. In brackets: may it be retried at once, may an older
/// answer stand in, does it end a watch.
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
        // For our own limits as well: only the exchange tells whether the vendor said it.
        row(R::ProviderQuotaExhausted,      Missing,    [NO,  YES, NO],  Level::INFO,  Code::ResourceExhausted,  Caller),
        row(R::ProviderUnavailable,         Missing,    [YES, YES, NO],  Level::WARN,  Code::Unavailable,        Server),
        row(R::ProviderCredentialsRejected, Other,      [NO,  NO,  YES], Level::WARN,  Code::FailedPrecondition, Caller),
        // A whole answer came, in time: one order that cannot be read does not keep others from being asked for.
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
    /// The row of a reason.
    #[must_use]
    pub fn of(reason: ErrorReason) -> &'static Self {
        // A test walks every reason; one without a row would be an internal failure.
        usize::try_from(i32::from(reason))
            .ok()
            .and_then(|row| VERDICTS.get(row))
            .unwrap_or(&VERDICTS[0])
    }

    /// What an error with this reason says of the exchange, unless it says more.
    #[must_use]
    pub fn exchange(&self) -> Exchange {
        match self.answer {
            Answer::Missing => Exchange::NotSent,
            Answer::Other | Answer::AboutOrder => Exchange::Answered,
        }
    }

    /// What it says of the account's credentials: that the vendor accepts them, or not; or nothing.
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
    fn every_reason_has_its_row() {
        assert_eq!(every_reason().count(), VERDICTS.len());
        for reason in every_reason() {
            assert_eq!(Verdict::of(reason).reason, reason);
        }
    }

    /// The lists that the table replaced, as the design has them.
    #[test]
    fn every_reason_means_what_the_design_says() {
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

    /// OpenTelemetry names the gRPC codes that make a server's span an error.
    #[test]
    fn a_span_is_an_error_where_opentelemetry_says_so() {
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
