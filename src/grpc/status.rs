//! The one way from our error to a gRPC status, with the details that the contract promises, and
//! the one line that is logged for it. Used by `grpc` only.

use std::collections::HashMap;
use std::time::Duration;

use tonic::metadata::MetadataMap;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::error::Error;
use crate::pb::{self, ErrorReason, OrderError};

/// The `domain` of every `google.rpc.ErrorInfo`.
const DOMAIN: &str = "orderquery";

/// What gRPC's built-in retries obey; they ignore `RetryInfo`.
const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// The longest wait that is worth a retry within one call.
const LONGEST_PUSHBACK: Duration = Duration::from_secs(1);

/// Which code a reason goes with.
fn code(reason: ErrorReason) -> Code {
    match reason {
        ErrorReason::InvalidRequest => Code::InvalidArgument,
        ErrorReason::CallerUnauthenticated => Code::Unauthenticated,
        ErrorReason::CallerForbidden => Code::PermissionDenied,
        ErrorReason::OrderNotFound => Code::NotFound,
        ErrorReason::ProviderNotConfigured
        | ErrorReason::OrderExpired
        | ErrorReason::ProviderCredentialsRejected => Code::FailedPrecondition,
        ErrorReason::ProviderQuotaExhausted | ErrorReason::ServerOverloaded => {
            Code::ResourceExhausted
        }
        ErrorReason::ProviderUnavailable
        | ErrorReason::StoreUnavailable
        | ErrorReason::ServerDraining => Code::Unavailable,
        ErrorReason::ProviderError => Code::Unknown,
        ErrorReason::DeadlineExceeded => Code::DeadlineExceeded,
        ErrorReason::ProviderResponseInvalid | ErrorReason::Internal | ErrorReason::Unspecified => {
            Code::Internal
        }
    }
}

/// Logs the failure of a call, and makes its status.
pub(super) fn fail(method: &str, id: &str, error: &Error) -> Status {
    log(method, id, error);
    status(error)
}

/// The failure of one order of a batch, in the batch's words.
pub(super) fn in_batch(error: &Error) -> OrderError {
    OrderError {
        code: code(error.reason).into(),
        message: error.message.clone(),
        reason: error.reason.into(),
        retry_delay: error.retry_after.and_then(|wait| wait.try_into().ok()),
        provider_code: error.provider_code.clone().unwrap_or_default(),
        provider_message: error.provider_message.clone().unwrap_or_default(),
        field: error.field.unwrap_or_default().to_owned(),
    }
}

fn status(error: &Error) -> Status {
    let metadata = [
        ("provider", error.provider.map(pb::Provider::word)),
        ("account", error.account.clone()),
        ("provider_code", error.provider_code.clone()),
        ("provider_message", error.provider_message.clone()),
    ];
    let metadata: HashMap<String, String> =
        metadata.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect();
    let mut details = ErrorDetails::with_error_info(pb::short_name(error.reason), DOMAIN, metadata);
    if let Some(field) = error.field {
        details.add_bad_request_violation(field, error.message.as_str());
    }
    if error.reason == ErrorReason::ProviderQuotaExhausted {
        let account = || format!("account/{}", error.account.as_deref().unwrap_or_default());
        let subject = error.quota.clone().unwrap_or_else(account);
        details.add_quota_failure_violation(subject, error.message.as_str());
    }
    let mut pushback = MetadataMap::new();
    if let Some(wait) = error.retry_after {
        details.set_retry_info(Some(wait));
        let millis =
            if wait > LONGEST_PUSHBACK { "-1".to_owned() } else { wait.as_millis().to_string() };
        if let Ok(millis) = millis.parse() {
            pushback.insert(PUSHBACK, millis);
        }
    }
    let code = code(error.reason);
    Status::with_error_details_and_metadata(code, error.message.as_str(), details, pushback)
}

/// Logs the failure of a call, or of one order of it.
pub(super) fn log(method: &str, id: &str, error: &Error) {
    /// An event's level is part of its type, so each level needs a line of its own.
    macro_rules! event {
        ($level:ident) => {
            tracing::$level!(
                method,
                provider = error.provider.map(pb::Provider::word),
                account = error.account,
                order = shortened(id),
                reason = pb::short_name(error.reason),
                field = error.field,
                provider_code = error.provider_code,
                detail = error.detail,
                "{}",
                error.message
            )
        };
    }
    match error.reason {
        ErrorReason::Internal => event!(error),
        ErrorReason::ProviderCredentialsRejected
        | ErrorReason::ProviderResponseInvalid
        | ErrorReason::ProviderError
        | ErrorReason::ProviderUnavailable
        | ErrorReason::StoreUnavailable => event!(warn),
        _ => event!(info),
    }
}

/// An order's id for the log: enough to find it by, with the caller's help.
fn shortened(id: &str) -> Option<String> {
    let start = id.char_indices().rev().nth(3).map_or(0, |(start, _)| start);
    Some(format!("…{}", &id[start..])).filter(|_| !id.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retry_is_pushed_back_or_forbidden() {
        for (wait, pushback) in [(1, "1000"), (2, "-1")] {
            let error = Error::unavailable("x").retry_after(Duration::from_secs(wait));
            let status = status(&error);
            assert_eq!(status.metadata().get(PUSHBACK).unwrap(), pushback);
            let delay = status.get_error_details().retry_info().unwrap().retry_delay;
            assert_eq!(delay, Some(Duration::from_secs(wait)));
        }
        assert!(status(&Error::internal("x")).metadata().get(PUSHBACK).is_none());
    }

    #[test]
    fn an_id_is_shortened_by_characters() {
        assert_eq!(shortened("DD2981741311549200000").as_deref(), Some("…0000"));
        assert_eq!(shortened("号号号号号").as_deref(), Some("…号号号号"));
        assert_eq!(shortened("").as_deref(), None);
    }
}
