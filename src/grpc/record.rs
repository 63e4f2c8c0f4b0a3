//! The record of a call, filled in by every part that handles the call: at the end it is counted, traced
//! and logged. It also holds what lasts as long as the call: its permits and its span. Used by `grpc`
//! only; docs/logging.md explains the fields of the log line.
#![allow(clippy::disallowed_types, reason = "one of the modules of tonic::Status")]

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::HeaderMap;
use tokio::time::Instant;
use tonic::Status;
use tracing::Level;

use super::admission::RETRY;
use super::meters::Meters;
use super::method::Method;
use super::status::{self, code_name};
use crate::budget::Share;
use crate::error::{Error, Fault, Verdict};
use crate::orders::Answer;
use crate::pb::{self, ErrorReason, GetOrderResponse, OrderRef, Source, WatchOrderResponse};
use crate::peer::Outstanding;
use crate::telemetry::LogCalls;
use crate::telemetry::spans::{self, CallEnd, Span};

/// A call that takes longer is logged in any case.
const SLOW: Duration = Duration::from_millis(100);

/// The record of a call. Its drop ends the call: this happens exactly once, however the call ends.
pub(super) struct Record {
    method: Method,
    begin: Instant,
    /// When the answer was ready; its caller may read it later.
    end: Option<Instant>,
    span: Span,
    trace_id: Option<String>,
    caller: Option<Arc<str>>,
    provider: Option<pb::Provider>,
    account: Option<Arc<str>>,
    order: Option<Tail>,
    source: Option<Source>,
    vendor_latency: Option<Duration>,
    batch: Option<Counts>,
    /// How many messages a stream has sent.
    messages: Option<u64>,
    /// `None` until it is known; it stays `None` where the caller leaves first.
    outcome: Option<Result<(), Box<Error>>>,
    /// The call's own permit.
    permit: Option<Share>,
    /// The permits of the further orders of a batch.
    further_permits: Option<Share>,
    /// The permits of the caller's own limit.
    share: Option<Share>,
    meters: Arc<Meters>,
}

/// A record that the parts of one call share.
#[derive(Clone)]
pub(super) struct SharedRecord(Arc<Mutex<Record>>);

impl SharedRecord {
    pub(super) fn new(record: Record) -> Self {
        Self(Arc::new(Mutex::new(record)))
    }

    /// Locks the record. Nobody holds this lock across an await.
    pub(super) fn lock(&self) -> MutexGuard<'_, Record> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outstanding for SharedRecord {
    fn refuse(self: Box<Self>) -> HeaderMap {
        self.lock().refuse()
    }
}

impl Outstanding for Record {
    fn refuse(mut self: Box<Self>) -> HeaderMap {
        Record::refuse(&mut self)
    }
}

/// The result of a batch.
#[derive(Clone, Copy)]
pub(super) struct Counts {
    /// How many different orders it asks for.
    pub(super) orders: usize,
    /// How many of them cannot be read.
    pub(super) failed: usize,
    /// How many of them come from the cache.
    pub(super) cached: usize,
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
    pub(super) fn new(method: Method, headers: &HeaderMap, meters: &Arc<Meters>) -> Self {
        let (span, trace_id) = spans::call(method.name(), headers);
        Self {
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
            messages: method.streams().then_some(0),
            outcome: None,
            permit: None,
            further_permits: None,
            share: None,
            meters: Arc::clone(meters),
        }
    }

    /// When the call arrived.
    pub(super) fn begin(&self) -> Instant {
        self.begin
    }

    /// The call's span.
    pub(super) fn span(&self) -> Span {
        self.span.clone()
    }

    /// Holds the call's permit for as long as the call lasts.
    pub(super) fn hold(&mut self, permit: Share) {
        self.permit = Some(permit);
    }

    /// Holds the permits of further orders, too.
    pub(super) fn hold_further(&mut self, permits: Share) {
        self.further_permits = Some(permits);
    }

    /// Holds a client's own permits for as long as the call lasts.
    pub(super) fn hold_share(&mut self, share: Option<Share>) {
        self.share = share;
    }

    /// Records the caller, by its name in the configuration.
    pub(super) fn caller(&mut self, name: &Arc<str>) {
        self.caller = Some(Arc::clone(name)).filter(|name| !name.is_empty());
    }

    /// Records the order that is asked for. Its account is recorded later, once it is known to exist.
    pub(super) fn asks(&mut self, provider: i32, id: &str) {
        self.provider = pb::Provider::known(provider);
        self.order = Tail::of(id);
    }

    /// Records the answer for the order.
    pub(super) fn found(&mut self, answer: &Answer) {
        let GetOrderResponse { order, source, .. } = &answer.response;
        self.account = order.as_ref().map(|order| order.account.as_str().into());
        self.source = Source::try_from(*source).ok();
        self.vendor_latency = answer.vendor_latency;
    }

    /// Records an answer from the cache, which ends the call.
    pub(super) fn hit(&mut self, account: &Arc<str>) {
        self.account = Some(Arc::clone(account));
        self.source = Some(Source::Cache);
        self.succeed();
    }

    /// Records a message that a stream is about to send.
    pub(super) fn sends(&mut self, message: &WatchOrderResponse) {
        self.account = message.order.as_ref().map(|order| order.account.as_str().into());
        self.messages = self.messages.map(|count| count + 1);
    }

    /// Records the result of a batch.
    pub(super) fn counts(&mut self, counts: Counts) {
        self.batch = Some(counts);
    }

    /// Logs one order of a batch that cannot be read, in its own line beside the call's.
    pub(super) fn order_failed(&self, order: &OrderRef, error: &Error) {
        self.count(error);
        event!(
            error.verdict().level,
            method = self.method.name(),
            caller = self.caller.as_deref(),
            provider = pb::Provider::known(order.provider).map(pb::Provider::word),
            account = error.account,
            order = Tail::of(&order.id).map(tracing::field::display),
            reason = pb::short_name(error.reason),
            code = code_name(error.verdict().code),
            field = error.field,
            provider_code = error.provider_code,
            detail = error.detail,
            trace_id = self.trace_id,
            "an order of a batch: {}",
            error.message
        );
    }

    /// Records that the call has its answer.
    pub(super) fn succeed(&mut self) {
        self.ends(Ok(()));
    }

    /// Records that the call has failed, and returns the status for its caller.
    pub(super) fn fail(&mut self, error: &Error) -> Status {
        self.ends(Err(Box::new(error.clone())));
        status::status(error)
    }

    /// Ends a call whose answer exceeds the memory budget. Returns the trailers that say so.
    fn refuse(&mut self) -> HeaderMap {
        let message = "this server holds too many answers that their callers have not read; read the \
                       answers, and retry later";
        let error = Error::new(ErrorReason::ServerOverloaded, message).retry_after(RETRY);
        let mut trailers = HeaderMap::new();
        // The text is plain ASCII, so this cannot fail.
        let _ = self.fail(&error).add_header(&mut trailers);
        trailers
    }

    /// Counts an error that a caller gets instead of an order.
    fn count(&self, error: &Error) {
        let account = error.account.as_deref().unwrap_or_default();
        self.meters.metrics.errors.with([account, pb::short_name(error.reason)]).inc();
    }

    fn ends(&mut self, outcome: Result<(), Box<Error>>) {
        self.outcome = Some(outcome);
        self.end = Some(Instant::now());
    }

    /// Writes the call's line.
    fn log(
        &self,
        level: Level,
        code: &str,
        message: &str,
        failure: Option<&Error>,
        account: Option<&str>,
        time: Duration,
    ) {
        let latency = milliseconds(time);
        event!(
            level,
            method = self.method.name(),
            caller = self.caller.as_deref(),
            provider = self.provider.map(pb::Provider::word),
            account,
            order = self.order.map(tracing::field::display),
            orders = self.batch.map(|counts| counts.orders),
            found = self.batch.map(|counts| counts.orders - counts.failed),
            failed = self.batch.map(|counts| counts.failed),
            messages = self.messages,
            source = self.source.map(pb::short_name),
            code,
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

    /// Whether the call is more than a plain answer from the cache.
    fn is_notable(&self, time: Duration) -> bool {
        let is_cached = match self.batch {
            Some(Counts { orders, cached, .. }) => orders == cached,
            None => self.source == Some(Source::Cache),
        };
        !is_cached || !matches!(self.outcome, Some(Ok(()))) || time >= SLOW
    }
}

impl Drop for Record {
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
        let (handled, seconds) = self.meters.of(self.method, code_name(code));
        handled.inc();
        seconds.observe(time);
        let is_logged = self.meters.log_calls == LogCalls::All || self.is_notable(time);
        let account =
            self.account.as_deref().or(failure.and_then(|error| error.account.as_deref()));
        if self.span.is_some() {
            self.span.end_call(&CallEnd {
                code: code_name(code),
                reason: failure.map(|error| error.reason),
                is_at_fault: failure.is_some_and(|error| error.verdict().fault == Fault::Server),
                caller: self.caller.as_deref(),
                provider: self.provider.map(pb::Provider::word).as_deref(),
                account,
                source: self.source,
            });
        }
        if is_logged {
            self.log(level, code_name(code), message, failure, account, time);
        }
    }
}

/// The last four characters of an order's id: enough to find the order in a log, with the caller's help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tail([Option<char>; 4]);

impl Tail {
    /// `None` for an empty id.
    fn of(id: &str) -> Option<Self> {
        let mut last = [None; 4];
        for (place, c) in last.iter_mut().rev().zip(id.chars().rev()) {
            *place = Some(c);
        }
        Some(Self(last)).filter(|_| !id.is_empty())
    }
}

impl fmt::Display for Tail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Write::write_char(f, '…')?;
        self.0.into_iter().flatten().try_for_each(|c| fmt::Write::write_char(f, c))
    }
}

/// Milliseconds, rounded to the microsecond.
fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1_000_000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_truncated_by_characters_not_bytes() {
        let tail = |id| Tail::of(id).map(|tail| tail.to_string());
        assert_eq!(tail("DD2981741311549200000").as_deref(), Some("…0000"));
        assert_eq!(tail("号号号号号").as_deref(), Some("…号号号号"));
        assert_eq!(tail("a号").as_deref(), Some("…a号"));
        assert_eq!(tail(""), None);
    }

    #[test]
    fn durations_are_logged_to_the_microsecond() {
        assert_eq!(milliseconds(Duration::from_nanos(1_234_567)).to_string(), "1.235");
        assert_eq!(milliseconds(Duration::from_millis(200)).to_string(), "200");
    }
}
