//! Spans: what a trace shows of a call, of the searches for its orders, and of their requests to the
//! store and to vendors. Only this module defines their names, kinds and attributes, which are
//! OpenTelemetry's own where it has any (docs/operations.md lists them). Used by `grpc`, `orders`,
//! `store` and `outbound`; `telemetry` sends them.
//!
//! No attribute holds what a caller or a vendor wrote: no id of an order, no URL, no text. Where no
//! traces are sent, no span is created.

use std::borrow::Cow;
use std::sync::OnceLock;

use futures_util::FutureExt as _;
use futures_util::future::Either;
use http::HeaderMap;
use opentelemetry::global::BoxedTracer;
use opentelemetry::trace::{
    FutureExt as _, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt as _,
    TraceFlags, TraceId, TraceState, Tracer,
};
use opentelemetry::{Context, KeyValue, Value};

use crate::error::Error;
use crate::pb::order_service_server::SERVICE_NAME;
use crate::pb::{self, ErrorReason, Source};

/// The longest `tracestate` that is accepted from a caller, in bytes: W3C Trace Context asks everyone
/// to pass on this much.
const STATE_LIMIT: usize = 512;

static TRACER: OnceLock<BoxedTracer> = OnceLock::new();

/// Creates spans with this tracer from here on. A second call changes nothing.
pub fn make_with<T>(tracer: T)
where
    T: Tracer + Send + Sync + 'static,
    T::Span: Send + Sync + 'static,
{
    let _ = TRACER.set(BoxedTracer::new(Box::new(tracer)));
}

/// A span in progress, or nothing where no span is created. Clones share one span. It ends when it is
/// ended explicitly, otherwise with its last clone.
#[derive(Clone)]
pub struct Span(Option<Context>);

/// What the span of a call reports at its end.
pub struct CallEnd<'a> {
    /// The name of the gRPC status code.
    pub code: &'static str,
    /// Why the call failed, if it did.
    pub reason: Option<ErrorReason>,
    /// Whether a failure is the server's fault, and not the caller's.
    pub is_at_fault: bool,
    /// The caller, by its name in the configuration.
    pub caller: Option<&'a str>,
    /// The vendor, as `Provider::word` names it.
    pub provider: Option<&'a str>,
    /// The account that was used.
    pub account: Option<&'a str>,
    /// Where the answer comes from.
    pub source: Option<Source>,
}

/// Begins the span of a call, in its caller's trace where the headers name one. `method` is empty
/// where the service has no such method.
///
/// Also returns the trace's id for the log: the caller's, otherwise that of a new trace if it is
/// sent.
#[must_use]
pub fn call(method: &'static str, headers: &HeaderMap) -> (Span, Option<String>) {
    let caller = caller(headers);
    let trace_id = caller.as_ref().map(SpanContext::trace_id);
    let Some(tracer) = TRACER.get() else {
        return (Span(None), trace_id.map(|id| id.to_string()));
    };
    let parent =
        caller.map_or_else(Context::new, |caller| Context::new().with_remote_span_context(caller));
    // A method's name that a stranger wrote must not become a span's name.
    let (name, method) = if method.is_empty() {
        ("grpc".to_owned(), "_OTHER".to_owned())
    } else {
        let method = format!("{SERVICE_NAME}/{method}");
        (method.clone(), method)
    };
    let attributes =
        [KeyValue::new("rpc.system.name", "grpc"), KeyValue::new("rpc.method", method)];
    let context = begin(tracer, &parent, SpanKind::Server, name, attributes);
    let own = context.span().span_context().clone();
    let trace_id = trace_id.or(own.is_sampled().then(|| own.trace_id()));
    (Span(Some(context)), trace_id.map(|id| id.to_string()))
}

/// Begins the span of a search for an order, which asks the vendor if necessary. It is a child of the
/// current span, which may end before it; without a current span it begins a trace of its own.
#[must_use]
pub fn search(provider: pb::Provider, account: &str) -> Span {
    let Some(tracer) = TRACER.get() else { return Span(None) };
    let parent = Context::current();
    if parent.has_active_span() && !is_sampled(&parent) {
        return Span(None);
    }
    let attributes = [
        KeyValue::new("order_query.provider", provider.word()),
        KeyValue::new("order_query.account", account.to_owned()),
    ];
    Span(Some(begin(tracer, &parent, SpanKind::Internal, "find order", attributes)))
}

/// Begins the span of a store operation, as a child of the current span; without a current span there
/// is none. `is_server` says whether the store is a separate server.
#[must_use]
pub fn store(system: &'static str, is_server: bool, operation: &'static str) -> Span {
    let kind = if is_server { SpanKind::Client } else { SpanKind::Internal };
    part(kind, operation, || {
        vec![KeyValue::new("db.system.name", system), KeyValue::new("db.operation.name", operation)]
    })
}

/// Begins the span of an HTTP request to a vendor's server, as a child of the current span; without a
/// current span there is none. `operation` says what the request is for.
#[must_use]
pub fn vendor_request(
    account: &str,
    operation: &'static str,
    method: &http::Method,
    host: &str,
    port: Option<u16>,
) -> Span {
    part(SpanKind::Client, method.as_str(), || {
        let port = port.map(|port| KeyValue::new("server.port", i64::from(port)));
        [
            KeyValue::new("http.request.method", method.to_string()),
            KeyValue::new("server.address", host.to_owned()),
            KeyValue::new("order_query.account", account.to_owned()),
            KeyValue::new("order_query.operation", operation),
        ]
        .into_iter()
        .chain(port)
        .collect()
    })
}

impl Span {
    /// Whether there is a span.
    #[must_use]
    pub fn is_some(&self) -> bool {
        self.0.is_some()
    }

    /// Runs the work as a part of this span.
    pub fn within<F: Future>(&self, work: F) -> impl Future<Output = F::Output> + use<F> {
        match &self.0 {
            Some(context) => Either::Left(work.with_context(context.clone())),
            None => Either::Right(work),
        }
    }

    /// Runs the work as a part of this span, and ends the span with the work.
    ///
    /// # Errors
    /// Those of the work.
    pub fn around<T>(
        self,
        work: impl Future<Output = Result<T, Error>>,
    ) -> impl Future<Output = Result<T, Error>> {
        self.within(work).map(move |outcome| {
            self.end(outcome.as_ref().err().map(|error| pb::short_name(error.reason)), true, []);
            outcome
        })
    }

    /// Ends the span of a request to a vendor, with the answer's HTTP status or the reason why there
    /// is no answer.
    pub fn end_request(&self, outcome: Result<u16, &Error>) {
        match outcome {
            Ok(status) => {
                let failed = (status >= 400).then(|| status.to_string());
                let status = KeyValue::new("http.response.status_code", i64::from(status));
                self.end(failed, true, [status]);
            }
            Err(error) => self.end(Some(pb::short_name(error.reason)), true, []),
        }
    }

    /// Ends the span of a call.
    pub fn end_call(&self, call: &CallEnd<'_>) {
        let CallEnd { code, reason, is_at_fault, caller, provider, account, source } = *call;
        let words = [
            ("order_query.caller", caller),
            ("order_query.provider", provider),
            ("order_query.account", account),
            ("order_query.source", source.map(pb::short_name)),
            ("rpc.response.status_code", Some(code)),
        ];
        let words =
            words.into_iter().filter_map(|(key, word)| Some(KeyValue::new(key, word?.to_owned())));
        self.end(reason.map(pb::short_name), is_at_fault, words);
    }

    /// Ends the span with its outcome. `at_fault` says whether a failure is the fault of the span's
    /// own side.
    fn end(
        &self,
        failed: Option<impl Into<Value>>,
        at_fault: bool,
        attributes: impl IntoIterator<Item = KeyValue>,
    ) {
        let Some(span) = self.0.as_ref().map(Context::span) else { return };
        if !span.is_recording() {
            return;
        }
        span.set_attributes(attributes);
        if let Some(failed) = failed {
            span.set_attribute(KeyValue::new("error.type", failed));
            if at_fault {
                span.set_status(Status::error(""));
            }
        }
        span.end();
    }
}

/// Begins a child of the current span, if that span is sampled.
fn part(kind: SpanKind, name: &str, attributes: impl FnOnce() -> Vec<KeyValue>) -> Span {
    let Some(tracer) = TRACER.get() else { return Span(None) };
    Context::map_current(|parent| {
        Span(is_sampled(parent).then(|| begin(tracer, parent, kind, name.to_owned(), attributes())))
    })
}

fn begin(
    tracer: &BoxedTracer,
    parent: &Context,
    kind: SpanKind,
    name: impl Into<Cow<'static, str>>,
    attributes: impl IntoIterator<Item = KeyValue>,
) -> Context {
    let span = SpanBuilder::from_name(name).with_kind(kind).with_attributes(attributes);
    parent.with_span(tracer.build_with_context(span, parent))
}

fn is_sampled(context: &Context) -> bool {
    context.span().span_context().is_sampled()
}

/// The caller's own span, from the `traceparent` header of W3C Trace Context; `None` where there is
/// none, or where anything about it breaks the specification.
fn caller(headers: &HeaderMap) -> Option<SpanContext> {
    let mut values = headers.get_all("traceparent").iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let text = value.to_str().ok()?;
    let mut parts = text.split('-');
    let version = hex(parts.next()?, 2).filter(|version| *version != "ff")?;
    let trace = TraceId::from_hex(hex(parts.next()?, 32)?).ok()?;
    let parent = SpanId::from_hex(hex(parts.next()?, 16)?).ok()?;
    let flags = u8::from_str_radix(hex(parts.next()?, 2)?, 16).ok()?;
    // Later versions may have more parts.
    if version == "00" && parts.next().is_some() {
        return None;
    }
    let flags = TraceFlags::new(flags) & TraceFlags::SAMPLED;
    // An id of zeros is invalid.
    Some(SpanContext::new(trace, parent, flags, true, state(headers))).filter(SpanContext::is_valid)
}

fn hex(part: &str, length: usize) -> Option<&str> {
    let is_hex = part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    Some(part).filter(|part| is_hex && part.len() == length)
}

/// What the tracing systems on the caller's side wrote; empty where it is malformed or too long.
fn state(headers: &HeaderMap) -> TraceState {
    let lines = headers.get_all("tracestate").iter().map(|line| line.to_str().ok());
    let text = lines.collect::<Option<Vec<_>>>().unwrap_or_default().join(",");
    let text = Some(text).filter(|text| text.len() <= STATE_LIMIT);
    text.and_then(|text| text.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    fn headers(name: &'static str, values: &[&[u8]]) -> HeaderMap {
        let values = values.iter().map(|value| http::HeaderValue::from_bytes(value).unwrap());
        values.map(|value| (http::HeaderName::from_static(name), value)).collect()
    }

    fn read(values: &[&[u8]]) -> Option<SpanContext> {
        caller(&headers("traceparent", values))
    }

    #[test]
    fn a_valid_traceparent_sets_the_trace() {
        for (text, sampled) in [
            (format!("00-{ID}-00f067aa0ba902b7-01"), true),
            (format!("00-{ID}-00f067aa0ba902b7-00"), false),
            (format!("00-{ID}-00f067aa0ba902b7-ff"), true),
            (format!("cc-{ID}-00f067aa0ba902b7-01"), true),
            (format!("cc-{ID}-00f067aa0ba902b7-01-what-the-future-will-be-like"), true),
        ] {
            let caller = read(&[text.as_bytes()]).unwrap();
            assert_eq!(caller.trace_id().to_string(), ID, "{text}");
            assert_eq!(caller.span_id().to_string(), "00f067aa0ba902b7", "{text}");
            assert_eq!((caller.is_sampled(), caller.is_remote()), (sampled, true), "{text}");
        }
    }

    #[test]
    fn an_invalid_traceparent_is_ignored() {
        assert_eq!(read(&[]), None);
        let valid = format!("00-{ID}-00f067aa0ba902b7-01");
        assert_eq!(read(&[valid.as_bytes(), valid.as_bytes()]), None);
        let bytes = format!("00-{ID}-00f067aa0ba902b7-01\u{85}");
        assert_eq!(read(&[bytes.as_bytes()]), None);
        for text in [
            String::new(),
            "00".to_owned(),
            format!("00-{ID}"),
            format!("00-{ID}-00f067aa0ba902b7"),
            format!("00-{ID}-00f067aa0ba902b7-"),
            format!("00-{ID}-00f067aa0ba902b7-1"),
            format!("00-{ID}-00f067aa0ba902b7-0x"),
            format!("00-{ID}-00f067aa0ba902b7-01-"),
            format!("00-{ID}-00f067aa0ba902b7-01-more"),
            format!("ff-{ID}-00f067aa0ba902b7-01"),
            format!("0-{ID}-00f067aa0ba902b7-01"),
            format!("cc-{ID}-00f067aa0ba902b7-01more"),
            format!("00-{}-00f067aa0ba902b7-01", ID.to_uppercase()),
            format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
            format!("00-{ID}-{}-01", "0".repeat(16)),
            format!("00-{ID}0-00f067aa0ba902b7-01"),
            format!("00-{}-00f067aa0ba902b7-01", &ID[1..]),
            format!(" 00-{ID}-00f067aa0ba902b7-01"),
            format!("00-{ID}-00f067aa0ba902b7-01\t"),
        ] {
            assert_eq!(read(&[text.as_bytes()]), None, "{text:?}");
        }
    }

    #[test]
    fn a_tracestate_is_kept_within_limits() {
        let kept = |lines: &[&[u8]]| state(&headers("tracestate", lines)).header();
        assert_eq!(kept(&[]), "");
        assert_eq!(kept(&[b"one=1, two=2"]), "one=1,two=2");
        assert_eq!(kept(&[b"one=1", b"two=2"]), "one=1,two=2");
        assert_eq!(kept(&[b"no list"]), "");
        assert_eq!(kept(&["one=\u{85}".as_bytes()]), "");
        let longest = format!("one={},two={}", "x".repeat(250), "y".repeat(253));
        assert_eq!(kept(&[longest.as_bytes()]), longest);
        assert_eq!(kept(&[format!("{longest}y").as_bytes()]), "");
    }
}
