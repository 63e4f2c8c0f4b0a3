//! The findings of `check --live`, in words for an operator. Used by `live_check` only.

use std::fmt;
use std::time::{Duration, SystemTime};

use crate::accounts::LiveChecked;
use crate::certificate::{self, ENDS_SOON};
use crate::error::Error;
use crate::pb::ErrorReason;
use crate::providers::{CLOCK_TOLERANCE, LiveCheck};

const DAY: u64 = 24 * 60 * 60;

/// The result of one check.
#[derive(Debug)]
pub struct Finding {
    /// The path of the setting that was checked.
    pub path: String,
    /// Whether the check passed.
    pub verdict: Verdict,
    /// The facts and the advice, in one line.
    pub text: String,
}

impl Finding {
    /// Whether calls for orders would fail.
    #[must_use]
    pub fn is_failure(&self) -> bool {
        self.verdict == Verdict::Failed
    }
}

/// The outcome of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The check passed.
    Passed,
    /// The check passed, and may soon fail.
    Warning,
    /// Calls for orders would fail.
    Failed,
    /// The vendor was not asked.
    NotAsked,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, verdict, text } = self;
        let verdict = match verdict {
            Verdict::Passed => "ok",
            Verdict::Warning => "warning",
            Verdict::Failed => "failed",
            Verdict::NotAsked => "not asked",
        };
        write!(f, "{verdict}: {path}: {text}")
    }
}

impl Finding {
    /// The finding for one account, with the time `now` of this machine's clock. `unasked` is the
    /// reason why a vendor that was not asked must not be asked.
    pub(super) fn of(checked: LiveChecked, unasked: &str, now: SystemTime) -> Self {
        let path = format!("accounts.{}", checked.account);
        let mut report = Report::default();
        match checked.outcome {
            None => return Self { path, verdict: Verdict::NotAsked, text: unasked.to_owned() },
            Some(Ok(LiveCheck { credentials, clock_difference, clock_limit, certificate })) => {
                report.credentials(credentials);
                report.clock(clock_difference, clock_limit);
                report.certificate(certificate.as_deref(), now);
            }
            Some(Err(error)) => report.credentials(Err(error)),
        }
        report.finding(path, checked.time)
    }
}

/// A finding under construction.
#[derive(Default)]
struct Report {
    facts: Vec<String>,
    advice: Vec<String>,
    failed: bool,
}

impl Report {
    fn credentials(&mut self, credentials: Result<&'static str, Error>) {
        match credentials {
            Ok(what) => self.facts.push(what.to_owned()),
            Err(error) => {
                self.failed = true;
                let (what, advice) = failure(error.reason);
                self.advice.push(error.advice.unwrap_or(advice).to_owned());
                let said = [error.provider_code, error.provider_message.or(error.detail)];
                let said: Vec<String> = said.into_iter().flatten().collect();
                let said = if said.is_empty() { error.message } else { said.join(": ") };
                self.facts.push(format!("{what} ({said})"));
            }
        }
    }

    fn clock(&mut self, difference: Option<i64>, limit: Option<u64>) {
        let Some(difference) = difference else {
            return self.facts.push("the vendor sends no Date header".to_owned());
        };
        let seconds = difference.unsigned_abs();
        let side = if difference > 0 { "ahead of" } else { "behind" };
        self.facts.push(match seconds {
            // The vendor reports whole seconds, and its answer needs time to arrive.
            0 | 1 => "clocks agree within 2s".to_owned(),
            _ => format!("the vendor's clock is {seconds}s {side} ours"),
        });
        if seconds < CLOCK_TOLERANCE {
            return;
        }
        let advice = "set this machine's clock, unless the vendor's is wrong";
        self.advice.push(match limit {
            Some(limit) => format!("{advice}: from {limit}s on the vendor rejects every call"),
            None => advice.to_owned(),
        });
        self.failed |= limit.is_some_and(|limit| seconds >= limit);
    }

    fn certificate(&mut self, certificate: Option<&[u8]>, now: SystemTime) {
        let Some(der) = certificate else {
            return self.facts.push("no certificate".to_owned());
        };
        let Some(end) = certificate::not_after(der) else {
            return self.facts.push("certificate trusted, its expiry unreadable".to_owned());
        };
        let left = end.duration_since(now).unwrap_or_default();
        let days = left.as_secs() / DAY;
        self.facts.push(format!("certificate trusted, {days} days left"));
        if left < ENDS_SOON {
            self.advice.push("ask the vendor to renew its certificate".to_owned());
        }
    }

    fn finding(mut self, path: String, took: Duration) -> Finding {
        let verdict = match (self.failed, self.advice.is_empty()) {
            (true, _) => Verdict::Failed,
            (false, true) => Verdict::Passed,
            (false, false) => Verdict::Warning,
        };
        self.facts.push(format!("{}ms", took.as_millis()));
        let parts = [vec![self.facts.join(", ")], self.advice].concat();
        Finding { path, verdict, text: parts.join("; ") }
    }
}

/// What a reason means to an operator: what happened, and what to do if the error has no advice of its
/// own.
fn failure(reason: ErrorReason) -> (&'static str, &'static str) {
    match reason {
        ErrorReason::ProviderCredentialsRejected => {
            ("the vendor rejects the account", "check the account's credentials")
        }
        ErrorReason::ProviderUnavailable => (
            "the vendor does not answer",
            "check this machine's network, base_url and proxy; the vendor itself may be failing",
        ),
        ErrorReason::ProviderQuotaExhausted => {
            ("the vendor receives too many requests", "wait before retrying")
        }
        ErrorReason::StoreUnavailable => ("the store cannot be used", "check store.url"),
        _ => ("the answer is not a valid answer of the vendor", "check base_url"),
    }
}
