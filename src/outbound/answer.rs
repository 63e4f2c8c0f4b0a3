//! What a vendor answered: the body, and what HTTP says about it. Used by the vendors' modules.
#![allow(clippy::disallowed_types, reason = "a part of the one module of reqwest")]

use std::time::{Duration, SystemTime};

use reqwest::tls::TlsInfo;

use crate::error::{Error, Exchange};
use crate::pb::ErrorReason;

/// How long to wait after HTTP 429 without a `Retry-After`.
const TOO_MANY_REQUESTS_RETRY: Duration = Duration::from_mins(1);

/// A vendor's answer, with any HTTP status.
pub struct Answer {
    /// The body, at most 256 KiB.
    pub body: Vec<u8>,
    /// When the request was sent, by our clock.
    pub sent: SystemTime,
    /// How many seconds the vendor's clock is ahead of ours, by the answer's `Date`; negative where
    /// it is behind. A `Date` has whole seconds, so this may be off by one.
    pub clock_difference: Option<i64>,
    pub(super) tls: Option<TlsInfo>,
    pub(super) status: u16,
    pub(super) retry_after: Option<Duration>,
}

impl Answer {
    /// The certificate that the vendor has shown and that was verified, in DER; `None` over plain
    /// HTTP.
    #[must_use]
    pub fn certificate(&self) -> Option<&[u8]> {
        self.tls.as_ref()?.peer_certificate()
    }

    /// The HTTP status.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Whether the answer is a page for people, or a status without a body: something on the way to
    /// the vendor wrote it, not the vendor.
    #[must_use]
    pub fn is_page(&self) -> bool {
        let body = self.body.trim_ascii_start();
        if body.is_empty() { self.status != 200 } else { body.starts_with(b"<") }
    }

    /// What an HTTP status other than 2xx means, where the body does not say it better.
    ///
    /// # Errors
    /// `QUOTA_EXHAUSTED` for 429, `PROVIDER_UNAVAILABLE` for 408 and 5xx, else
    /// `PROVIDER_ERROR`: a redirect and a 404 come from a wrong `base_url`, not from an order.
    pub fn check_status(&self) -> Result<(), Error> {
        let error = match self.status {
            200..=299 => return Ok(()),
            429 => Error::too_often(
                self.retry_after.unwrap_or(TOO_MANY_REQUESTS_RETRY),
                false,
                "the vendor answered that it receives too many requests (HTTP 429); wait before \
                 retrying",
            ),
            status @ (408 | 500..=599) => {
                let error = Error::failed(format!(
                    "the vendor answered that it is unavailable (HTTP {status}); retry later"
                ));
                // A vendor that says when to ask again also says not to ask before.
                let exchange = Exchange::Failed { retry_after: self.retry_after };
                Error { retry_after: self.retry_after.or(error.retry_after), exchange, ..error }
            }
            status => Error::new(
                ErrorReason::ProviderError,
                format!(
                    "the vendor answered with HTTP {status}, which says nothing about an order; \
                     the operator should check the account's base_url"
                ),
            ),
        };
        Err(error)
    }
}
