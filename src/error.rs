//! The one error type: why a question has no answer, in the contract's reasons. Any module may create
//! one; only `grpc` converts it to a gRPC status.

mod verdict;

use std::fmt;
use std::time::Duration;

pub use self::verdict::{Answer, Fault, Verdict};

use crate::config::Secret;
use crate::pb::{self, ErrorReason};

/// The maximum length of a vendor's own text shown to callers, in characters.
const PROVIDER_TEXT_LIMIT: usize = 256;

/// How long to wait after the vendor or the store was unavailable, if it does not say so itself.
const UNAVAILABLE_RETRY: Duration = Duration::from_secs(1);

/// Why a question has no answer.
///
/// Everything except [`detail`](Self::detail) and [`advice`](Self::advice) reaches the caller, so it
/// contains no secret, no URL and no personal data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// The contract's reason.
    pub reason: ErrorReason,
    /// What happened, to what, and what to do about it.
    pub message: String,
    /// The invalid field of the request.
    pub field: Option<&'static str>,
    /// How long to wait before a retry can succeed; `None` if no retry can.
    pub retry_after: Option<Duration>,
    /// The vendor that was asked, once known.
    pub provider: Option<pb::Provider>,
    /// The account that was used, once known.
    pub account: Option<String>,
    /// The vendor's own code, verbatim.
    pub provider_code: Option<String>,
    /// The vendor's own text, safe to show.
    pub provider_message: Option<String>,
    /// The limit that is used up.
    pub quota: Option<String>,
    /// How the exchange with the vendor ended.
    pub exchange: Exchange,
    /// Details for the operator that must not leave the server: for the log only.
    pub detail: Option<String>,
    /// What the operator should do, if the reason alone does not say it.
    pub advice: Option<&'static str>,
}

/// How an exchange with a vendor ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exchange {
    /// No exchange: the vendor was not asked.
    NotSent,
    /// The vendor answered.
    Answered,
    /// The vendor answered that it gets too many calls: the account is paused.
    TooOften {
        /// How long the account is paused.
        wait: Duration,
        /// Whether a single call is tried after that, and the others only once it is answered.
        probe: bool,
    },
    /// The vendor, or the connection to it, failed.
    Failed {
        /// How long a retry is useless; `None` if one may help at once.
        retry_after: Option<Duration>,
    },
}

impl Error {
    /// Creates an error with that reason and no other details.
    pub fn new(reason: ErrorReason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            field: None,
            retry_after: None,
            provider: None,
            account: None,
            provider_code: None,
            provider_message: None,
            quota: None,
            exchange: Verdict::of(reason).exchange(),
            detail: None,
            advice: None,
        }
    }

    /// Creates the error for an invalid `field` of the request.
    pub fn invalid(field: &'static str, message: impl Into<String>) -> Self {
        let exchange = Exchange::NotSent;
        Self { field: Some(field), exchange, ..Self::new(ErrorReason::InvalidRequest, message) }
    }

    /// Creates the error for a vendor that reports too many calls: see [`Exchange::TooOften`].
    pub fn too_often(wait: Duration, probe: bool, message: impl Into<String>) -> Self {
        let exchange = Exchange::TooOften { wait, probe };
        Self { exchange, ..Self::new(ErrorReason::ProviderQuotaExhausted, message) }
            .retry_after(wait)
    }

    /// Creates the error for a vendor that cannot be asked now, or did not answer.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(ErrorReason::ProviderUnavailable, message).retry_after(UNAVAILABLE_RETRY)
    }

    /// Creates the error for state of a call that must be stored and cannot be; `detail` goes to the
    /// log.
    pub fn store_unavailable(detail: impl Into<String>) -> Self {
        Self::new(
            ErrorReason::StoreUnavailable,
            "the call's state cannot be stored, so the vendor was not asked; retry later",
        )
        .retry_after(UNAVAILABLE_RETRY)
        .detail(detail)
    }

    /// Creates the error for an unreadable answer of the vendor; `what` says why.
    pub fn unreadable(what: impl fmt::Display) -> Self {
        Self::new(
            ErrorReason::ProviderResponseInvalid,
            format!("the vendor's answer could not be read: {what}"),
        )
    }

    /// Creates the error for a failure of this server; `detail` goes to its log.
    pub fn internal(detail: impl Into<String>) -> Self {
        Self::new(ErrorReason::Internal, "this server failed; its log has the reason")
            .detail(detail)
    }

    /// Creates the error for a vendor, or a connection to it, that failed; a retry may help at once.
    pub fn failed(message: impl Into<String>) -> Self {
        let exchange = Exchange::Failed { retry_after: None };
        Self { exchange, ..Self::unavailable(message) }
    }

    /// Returns what the error's reason means.
    #[must_use]
    pub fn verdict(&self) -> &'static Verdict {
        Verdict::of(self.reason)
    }

    /// Adds how long to wait before a retry.
    #[must_use]
    pub fn retry_after(self, wait: Duration) -> Self {
        Self { retry_after: Some(wait), ..self }
    }

    /// Adds details for the log only.
    #[must_use]
    pub fn detail(self, detail: impl Into<String>) -> Self {
        Self { detail: Some(detail.into()), ..self }
    }

    /// Adds what the operator should do.
    #[must_use]
    pub fn advice(self, advice: &'static str) -> Self {
        Self { advice: Some(advice), ..self }
    }

    /// Adds the vendor's own code and text. A text about our credentials can contain our address and
    /// more, so it goes to the log instead of to the caller.
    #[must_use]
    pub fn vendor_said(mut self, code: Option<String>, text: Option<String>) -> Self {
        self.provider_code = code;
        if self.reason == ErrorReason::ProviderCredentialsRejected {
            self.detail = text.or(self.detail);
        } else {
            self.provider_message = text;
        }
        self
    }

    /// Removes a secret that only the vendor's module knows, in case the vendor repeated it.
    #[must_use]
    pub fn without(mut self, secret: &Secret) -> Self {
        for said in [&mut self.provider_code, &mut self.provider_message, &mut self.detail] {
            *said = said.take().map(|text| concealed(&text, std::slice::from_ref(secret)));
        }
        self
    }

    /// Makes the vendor's own code and text safe to show: removes the account's secrets, in case the
    /// vendor repeated them, removes control characters, and truncates the text.
    #[must_use]
    pub fn presentable(mut self, secrets: &[Secret]) -> Self {
        for said in [&mut self.provider_code, &mut self.provider_message, &mut self.detail] {
            *said = said.take().map(|text| presentable(&text, secrets)).filter(|t| !t.is_empty());
        }
        self
    }

    /// Adds the vendor and the account that were asked.
    #[must_use]
    pub fn at(self, provider: pb::Provider, account: &str) -> Self {
        Self { provider: Some(provider), account: Some(account.to_owned()), ..self }
    }
}

/// The outcome as one word: `OK`, or the reason of the error.
pub fn outcome<T>(result: &Result<T, Error>) -> &'static str {
    result.as_ref().map_or_else(|error| pb::short_name(error.reason), |_| "OK")
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", pb::short_name(self.reason), self.message)
    }
}

impl std::error::Error for Error {}

/// Removes control characters and the secrets from the text; secrets both as they are and URL-encoded.
/// Control characters go first: they could split a secret, which would be whole again once they are
/// removed.
fn concealed(text: &str, secrets: &[Secret]) -> String {
    let mut text: String = text.chars().filter(|c| !c.is_control()).collect();
    for secret in secrets {
        let plain = secret.expose();
        let escaped: String = form_urlencoded::byte_serialize(plain.as_bytes()).collect();
        text = text.replace(plain, "[secret]").replace(&escaped, "[secret]");
    }
    text
}

fn presentable(text: &str, secrets: &[Secret]) -> String {
    concealed(text, secrets).chars().take(PROVIDER_TEXT_LIMIT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vendor_text_is_truncated_and_has_no_control_characters() {
        let text = format!("a\r\nb\u{1b}[31m{}", "号".repeat(300));
        let error = Error::new(ErrorReason::ProviderError, "x")
            .vendor_said(Some("\u{0}7".into()), Some(text))
            .presentable(&[]);
        let shown = error.provider_message.unwrap();
        assert_eq!(shown.chars().count(), 256);
        assert!(shown.starts_with("ab[31m号"), "{shown}");
        assert_eq!(error.provider_code.as_deref(), Some("7"));
    }

    #[test]
    fn secrets_that_a_vendor_echoes_are_redacted() {
        let secrets = [Secret::from("s3cret"), Secret::from("k3y")];
        let said = |reason| {
            Error::new(reason, "x")
                .vendor_said(Some("k3y".into()), Some("bad sign of s3cret and k3y".into()))
                .presentable(&secrets)
        };
        let error = said(ErrorReason::ProviderError);
        assert_eq!(error.provider_code.as_deref(), Some("[secret]"));
        assert_eq!(error.provider_message.as_deref(), Some("bad sign of [secret] and [secret]"));
        let error = said(ErrorReason::ProviderCredentialsRejected);
        assert_eq!(error.detail.as_deref(), Some("bad sign of [secret] and [secret]"));
        let long = Error::new(ErrorReason::ProviderError, "x")
            .vendor_said(None, Some(format!("{}s3cret", "x".repeat(253))))
            .presentable(&secrets);
        assert!(!long.provider_message.unwrap().contains("s3c"), "cut after it is taken out");
    }

    #[test]
    fn a_secret_split_by_control_characters_is_redacted() {
        let (ours, modules) = (Secret::from("s3cret"), Secret::from("t0ken"));
        let text = "s\u{7f}3cret, t0\u{85}ken and s\u{0}3\u{0}cret";
        let error = Error::new(ErrorReason::ProviderError, "x")
            .vendor_said(Some("s3cre\u{1b}t".into()), Some(text.into()))
            .without(&modules)
            .presentable(&[ours]);
        assert_eq!(error.provider_code.as_deref(), Some("[secret]"));
        let shown = error.provider_message.as_deref();
        assert_eq!(shown, Some("[secret], [secret] and [secret]"));
    }

    #[test]
    fn vendor_text_about_rejected_credentials_is_only_logged() {
        let error = Error::new(ErrorReason::ProviderCredentialsRejected, "x")
            .vendor_said(Some("40164".into()), Some("invalid ip 10.1.2.3".into()));
        assert_eq!(error.provider_message, None);
        assert_eq!(error.provider_code.as_deref(), Some("40164"));
        assert_eq!(error.detail.as_deref(), Some("invalid ip 10.1.2.3"));
    }
}
