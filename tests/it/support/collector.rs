//! A simulated collector of spans: it accepts OTLP over gRPC, behaves as configured, and records
//! what it receives.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::{self as proto, status::StatusCode};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use crate::support::child::PATIENCE;
use crate::support::serve;

/// How the collector responds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behavior {
    Takes,
    /// With a status of the transport.
    Unavailable,
    /// Rejects this many spans.
    Refuses(i64),
    /// Never answers.
    Hangs,
}

/// A received message.
#[derive(Debug, Clone)]
pub struct Message {
    pub behavior: Behavior,
    pub metadata: MetadataMap,
    pub request: ExportTraceServiceRequest,
}

/// A span, as tests compare it.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    pub name: String,
    pub kind: SpanKind,
    pub trace: String,
    pub id: String,
    /// Empty for the root of a trace.
    pub parent: String,
    pub state: String,
    pub failed: bool,
    pub attributes: BTreeMap<String, String>,
}

/// The collector.
#[derive(Clone)]
pub struct Collector {
    behavior: Arc<Mutex<Behavior>>,
    messages: watch::Sender<Vec<Message>>,
}

impl Collector {
    pub fn new() -> Self {
        Self { behavior: Arc::new(Mutex::new(Behavior::Takes)), messages: watch::Sender::default() }
    }

    /// Starts in plaintext. Returns its address as well.
    pub async fn start() -> (Self, SocketAddr) {
        let collector = Self::new();
        let routes = Routes::new(collector.service());
        (collector, serve(routes, CancellationToken::new()).await)
    }

    pub fn service(&self) -> TraceServiceServer<Self> {
        TraceServiceServer::new(self.clone())
    }

    pub fn set(&self, behavior: Behavior) {
        *self.behavior.lock().unwrap() = behavior;
    }

    pub fn messages(&self) -> Vec<Message> {
        self.messages.borrow().clone()
    }

    /// The spans that arrived while the collector behaved that way.
    pub fn spans_while(&self, behavior: Behavior) -> Vec<Span> {
        let messages = self.messages();
        let messages = messages.iter().filter(|message| message.behavior == behavior);
        let resources = messages.flat_map(|message| &message.request.resource_spans);
        let scopes = resources.flat_map(|spans| &spans.scope_spans);
        scopes.flat_map(|spans| &spans.spans).map(Span::from).collect()
    }

    /// The spans that it has accepted.
    pub fn spans(&self) -> Vec<Span> {
        self.spans_while(Behavior::Takes)
    }

    /// Waits for a span of that name.
    pub async fn has(&self, name: &str) -> Span {
        let mut news = self.messages.subscribe();
        loop {
            news.borrow_and_update();
            if let Some(span) = self.spans().into_iter().find(|span| span.name == name) {
                return span;
            }
            tokio::time::timeout(PATIENCE, news.changed()).await.expect(name).unwrap();
        }
    }

    /// Waits for this many messages.
    pub async fn until_sent(&self, messages: usize) {
        let mut news = self.messages.subscribe();
        let enough = news.wait_for(|all| all.len() >= messages);
        tokio::time::timeout(PATIENCE, enough).await.unwrap().unwrap();
    }
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let behavior = *self.behavior.lock().unwrap();
        let metadata = request.metadata().clone();
        let message = Message { behavior, metadata, request: request.into_inner() };
        self.messages.send_modify(|all| all.push(message));
        let rejected_spans = match behavior {
            Behavior::Takes => 0,
            Behavior::Refuses(spans) => spans,
            Behavior::Unavailable => return Err(Status::unavailable("a text of the collector's")),
            Behavior::Hangs => std::future::pending().await,
        };
        let refused = ExportTracePartialSuccess { rejected_spans, ..Default::default() };
        Ok(Response::new(ExportTraceServiceResponse { partial_success: Some(refused) }))
    }
}

impl From<&proto::Span> for Span {
    fn from(span: &proto::Span) -> Self {
        assert!(span.start_time_unix_nano <= span.end_time_unix_nano);
        assert!(span.events.is_empty() && span.links.is_empty(), "{span:?}");
        Self {
            name: span.name.clone(),
            kind: span.kind(),
            trace: hex(&span.trace_id),
            id: hex(&span.span_id),
            parent: hex(&span.parent_span_id),
            state: span.trace_state.clone(),
            failed: span.status.as_ref().is_some_and(|it| it.code() == StatusCode::Error),
            attributes: words(&span.attributes),
        }
    }
}

/// The attributes, numbers as strings.
pub fn words(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let word =
        |attribute: &KeyValue| match attribute.value.as_ref().and_then(|value| value.value.clone())
        {
            Some(Value::StringValue(text)) => text,
            Some(Value::IntValue(number)) => number.to_string(),
            other => panic!("{}: {other:?}", attribute.key),
        };
    let words: BTreeMap<_, _> =
        attributes.iter().map(|attribute| (attribute.key.clone(), word(attribute))).collect();
    assert_eq!(words.len(), attributes.len(), "one is there twice: {attributes:?}");
    words
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}
