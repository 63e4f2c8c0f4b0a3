//! The one log line of a call, filled in by every part that handles the call. It also holds what
//! lasts as long as the call: its permits and its span. Used by `grpc` only; docs/logging.md explains
//! the fields.
#![allow(clippy::disallowed_types, reason = "one of the modules of tonic::Status")]

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::HeaderMap;
use tokio::time::Instant;
use tonic::Status;
use tracing::Level;

use super::admission::Permits;
use super::meters::Meters;
use super::status::{self, code_name};
use crate::budget::Share;
use crate::error::{Error, Fault, Verdict};
use crate::orders::Answer;
use crate::pb::{self, GetOrderResponse, OrderRef, Source, WatchOrderResponse};
use crate::telemetry::spans::{self, CallEnd, Span};

/// The log line of a call. When the last clone is dropped, the line is written and the call's permits
/// are returned. This happens exactly once, however the call ends.
#[derive(Clone)]
pub(super) struct Record(Arc<Mutex<Line>>);

struct Line {
    method: &'static str,
    begin: Instant,
    /// When the answer was ready; its caller may read it later.
    end: Option<Instant>,
    span: Span,
    trace_id: Option<String>,
    caller: Option<String>,
    provider: Option<String>,
    account: Option<String>,
    order: Option<String>,
    source: Option<Source>,
    vendor_latency: Option<Duration>,
    batch: Option<Counts>,
    /// How many messages a stream has sent.
    messages: Option<u64>,
    /// `None` until it is known; it stays `None` where the caller leaves first.
    outcome: Option<Result<(), Box<Error>>>,
    permits: Vec<Permits>,
    shares: Vec<Share>,
    meters: Arc<Meters>,
}

/// The result of a batch.
#[derive(Clone, Copy)]
pub(super) struct Counts {
    /// How many different orders it asks for.
    pub(super) orders: usize,
    /// How many of them cannot be read.
    pub(super) failed: usize,
}

/// Logs at a level that is known only at run time: the level is part of an event's type.
macro_rules! event {
    ($level:expr, $($fields:tt)*) => {
        match $level {
            Level::ERROR => tracing::error!($($fields)*),
            Level::WARN => tracing::warn!($($fields)*),
            _ => tracing::info!($($fields)*),
        }
    };
}

impl Record {
    /// The record of a call that begins now.
    pub(super) fn new(
        method: &'static str,
        streams: bool,
        headers: &HeaderMap,
        meters: &Arc<Meters>,
    ) -> Self {
        let (span, trace_id) = spans::call(method, headers);
        Self(Arc::new(Mutex::new(Line {
            method,
            begin: Instant::now(),
            end: None,
            span,
            trace_id,
            caller: None,
            provider: None,
            account: None,
            order: None,
            source: None,
            vendor_latency: None,
            batch: None,
            messages: streams.then_some(0),
            outcome: None,
            permits: Vec::new(),
            shares: Vec::new(),
            meters: Arc::clone(meters),
        })))
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The call's span.
    pub(super) fn span(&self) -> Span {
        self.line().span.clone()
    }

    /// Holds permits for as long as the call lasts.
    pub(super) fn hold(&self, permits: Permits) {
        self.line().permits.push(permits);
    }

    /// Holds a client's own permits for as long as the call lasts.
    pub(super) fn hold_share(&self, share: Option<Share>) {
        self.line().shares.extend(share);
    }

    /// Records the caller, by its name in the configuration.
    pub(super) fn caller(&self, name: &str) {
        self.line().caller = Some(name.to_owned()).filter(|name| !name.is_empty());
    }

    /// Records the order that is asked for. Its account is recorded later, once it is known to exist.
    pub(super) fn asks(&self, order: &OrderRef) {
        let mut line = self.line();
        line.provider = provider(order.provider);
        line.order = shortened(&order.id);
    }

    /// Records the answer for the order.
    pub(super) fn found(&self, answer: &Answer) {
        let GetOrderResponse { order, source, .. } = &answer.response;
        let mut line = self.line();
        line.account = order.as_ref().map(|order| order.account.clone());
        line.source = Source::try_from(*source).ok();
        line.vendor_latency = answer.vendor_latency;
    }

    /// Records a message that a stream is about to send.
    pub(super) fn sends(&self, message: &WatchOrderResponse) {
        let mut line = self.line();
        line.account = message.order.as_ref().map(|order| order.account.clone());
        line.messages = line.messages.map(|count| count + 1);
    }

    /// Records the result of a batch.
    pub(super) fn counts(&self, counts: Counts) {
        self.line().batch = Some(counts);
    }

    /// Logs one order of a batch that cannot be read, in its own line beside the call's.
    pub(super) fn order_failed(&self, order: &OrderRef, error: &Error) {
        let line = self.line();
        line.count(error);
        event!(
            error.verdict().level,
            method = line.method,
            caller = line.caller,
            provider = provider(order.provider),
            account = error.account,
            order = shortened(&order.id),
            reason = pb::short_name(error.reason),
            code = code_name(error.verdict().code),
            field = error.field,
            provider_code = error.provider_code,
            detail = error.detail,
            trace_id = line.trace_id,
            "an order of a batch: {}",
            error.message
        );
    }

    /// Records that the call has its answer.
    pub(super) fn succeed(&self) {
        self.line().ends(Ok(()));
    }

    /// Records that the call has failed, and returns the status for its caller.
    pub(super) fn fail(&self, error: &Error) -> Status {
        self.line().ends(Err(Box::new(error.clone())));
        status::status(error)
    }
}

impl Line {
    /// Counts an error that a caller gets instead of an order.
    fn count(&self, error: &Error) {
        let account = error.account.as_deref().unwrap_or_default();
        self.meters.metrics.errors.with([account, pb::short_name(error.reason)]).inc();
    }

    fn ends(&mut self, outcome: Result<(), Box<Error>>) {
        self.outcome = Some(outcome);
        self.end = Some(Instant::now());
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let failure = match &self.outcome {
            Some(Err(error)) => Some(error.as_ref()),
            _ => None,
        };
        let (level, code, message) = match &self.outcome {
            Some(Ok(())) => (Level::INFO, tonic::Code::Ok, "answered"),
            Some(Err(error)) => {
                self.count(error);
                let Verdict { level, code, .. } = *error.verdict();
                (level, code, error.message.as_str())
            }
            None => (
                Level::INFO,
                tonic::Code::Cancelled,
                "the caller canceled the call or disconnected",
            ),
        };
        let time = self.end.unwrap_or_else(Instant::now) - self.begin;
        if let Some((handled, seconds)) = self.meters.of(self.method, code_name(code)) {
            handled.inc();
            seconds.observe(time);
        }
        let account = self.account.as_ref().or(failure.and_then(|error| error.account.as_ref()));
        self.span.end_call(&CallEnd {
            code: code_name(code),
            reason: failure.map(|error| error.reason),
            is_at_fault: failure.is_some_and(|error| error.verdict().fault == Fault::Server),
            caller: self.caller.as_deref(),
            provider: self.provider.as_deref(),
            account: account.map(String::as_str),
            source: self.source,
        });
        let latency = milliseconds(time);
        event!(
            level,
            method = self.method,
            caller = self.caller,
            provider = self.provider,
            account,
            order = self.order,
            orders = self.batch.map(|counts| counts.orders),
            found = self.batch.map(|counts| counts.orders - counts.failed),
            failed = self.batch.map(|counts| counts.failed),
            messages = self.messages,
            source = self.source.map(pb::short_name),
            code = code_name(code),
            reason = failure.map(|error| pb::short_name(error.reason)),
            field = failure.and_then(|error| error.field),
            provider_code = failure.and_then(|error| error.provider_code.as_ref()),
            detail = failure.and_then(|error| error.detail.as_ref()),
            vendor_latency_ms = self.vendor_latency.map(milliseconds),
            latency_ms = Some(latency).filter(|_| self.messages.is_none()),
            duration_ms = Some(latency).filter(|_| self.messages.is_some()),
            trace_id = self.trace_id,
            "{message}"
        );
    }
}

fn provider(number: i32) -> Option<String> {
    let provider = pb::Provider::try_from(number).ok();
    provider.filter(|provider| *provider != pb::Provider::Unspecified).map(pb::Provider::word)
}

/// Milliseconds, rounded to the microsecond.
fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1_000_000.0).round() / 1000.0
}

/// The end of an order's id for the log: enough to find the order, with the caller's help.
fn shortened(id: &str) -> Option<String> {
    let start = id.char_indices().rev().nth(3).map_or(0, |(start, _)| start);
    Some(format!("…{}", &id[start..])).filter(|_| !id.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_truncated_by_characters_not_bytes() {
        assert_eq!(shortened("DD2981741311549200000").as_deref(), Some("…0000"));
        assert_eq!(shortened("号号号号号").as_deref(), Some("…号号号号"));
        assert_eq!(shortened("").as_deref(), None);
    }

    #[test]
    fn durations_are_logged_to_the_microsecond() {
        assert_eq!(milliseconds(Duration::from_nanos(1_234_567)).to_string(), "1.235");
        assert_eq!(milliseconds(Duration::from_millis(200)).to_string(), "200");
    }
}
