//! The one conversion from our error to a gRPC status, with the details that the contract promises.
//! Used by `grpc` only.
#![allow(clippy::disallowed_types, reason = "one of the modules of tonic::Status")]

use std::collections::HashMap;
use std::time::Duration;

use tonic::metadata::MetadataMap;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::error::Error;
use crate::pb::{self, ErrorReason, OrderError};

/// The `domain` of every `google.rpc.ErrorInfo`.
const DOMAIN: &str = "orderquery";

/// The header that gRPC's built-in retries obey; they ignore `RetryInfo`.
const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// The longest wait that is worth a retry within one call.
const LONGEST_PUSHBACK: Duration = Duration::from_secs(1);

/// The code's name, as gRPC writes it.
pub(super) fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// The failure of one order of a batch, as the contract's message.
pub(super) fn in_batch(error: &Error) -> OrderError {
    OrderError {
        code: error.verdict().code.into(),
        message: error.message.clone(),
        reason: error.reason.into(),
        retry_delay: error.retry_after.and_then(|wait| wait.try_into().ok()),
        provider_code: error.provider_code.clone().unwrap_or_default(),
        provider_message: error.provider_message.clone().unwrap_or_default(),
        field: error.field.unwrap_or_default().to_owned(),
    }
}

/// The status that the caller of a failed call gets.
pub(super) fn status(error: &Error) -> Status {
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
    let code = error.verdict().code;
    Status::with_error_details_and_metadata(code, error.message.as_str(), details, pushback)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Verdict;

    #[test]
    fn pushback_delays_or_forbids_a_retry() {
        for (wait, pushback) in [(1, "1000"), (2, "-1")] {
            let error = Error::unavailable("x").retry_after(Duration::from_secs(wait));
            let status = status(&error);
            assert_eq!(status.metadata().get(PUSHBACK).unwrap(), pushback);
            let delay = status.get_error_details().retry_info().unwrap().retry_delay;
            assert_eq!(delay, Some(Duration::from_secs(wait)));
        }
        assert!(status(&Error::internal("x")).metadata().get(PUSHBACK).is_none());
    }

    /// Callers read the page about errors and the comments of the contract.
    #[test]
    fn every_reason_is_documented_with_its_code_and_retry_delay() {
        let page = include_str!("../../docs/errors.md");
        let contract = include_str!("../../proto/orderquery/v1/order_service.proto");
        let rows: Vec<Vec<&str>> = page
            .lines()
            .map(|line| line.split('|').map(str::trim).collect::<Vec<_>>())
            .filter(|cells| cells.len() == 6 && cells[1].starts_with('`'))
            .collect();
        let reasons: Vec<_> =
            (1..).map_while(|number| ErrorReason::try_from(number).ok()).collect();
        assert_eq!(rows.len(), reasons.len(), "one row for each reason, in the contract's order");
        for (reason, row) in reasons.into_iter().zip(rows) {
            let name = reason.as_str_name();
            let code = code_name(Verdict::of(reason).code);
            let (before, _) = contract.split_once(&format!("  {name} =")).unwrap();
            let (_, comment) = before.rsplit_once(";\n").unwrap();
            let comment = comment.trim_start().trim_start_matches("// ");
            assert_eq!(row[1], format!("`{}`", pb::short_name(reason)));
            assert_eq!(row[2], code, "{name}");
            assert!(comment.starts_with(code), "{name}: {comment}");
            let waits = comment.starts_with(&format!("{code}, with RetryInfo:"));
            assert_eq!(row[3] == "after `RetryInfo`", waits, "{name}: {comment}");
        }
    }
}
