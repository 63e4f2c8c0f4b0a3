//! A collector of spans that a test plays: it takes OTLP over gRPC as it is told to, and remembers
//! what it was sent.

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

/// What the collector does with what it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    Takes,
    /// With a status of the sender's own layer.
    Unavailable,
    /// Takes all but so many.
    Refuses(i64),
    /// Never answers.
    Hangs,
}

/// A message that came.
#[derive(Debug, Clone)]
pub struct Message {
    pub mood: Mood,
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
    /// Empty where it is the first of its trace.
    pub parent: String,
    pub state: String,
    pub failed: bool,
    pub attributes: BTreeMap<String, String>,
}

/// The collector.
#[derive(Clone)]
pub struct Collector {
    mood: Arc<Mutex<Mood>>,
    messages: watch::Sender<Vec<Message>>,
}

impl Collector {
    pub fn new() -> Self {
        Self { mood: Arc::new(Mutex::new(Mood::Takes)), messages: watch::Sender::default() }
    }

    /// Starts in plaintext. Gives back where, as well.
    pub async fn start() -> (Self, SocketAddr) {
        let collector = Self::new();
        let routes = Routes::new(collector.service());
        (collector, serve(routes, CancellationToken::new()).await)
    }

    pub fn service(&self) -> TraceServiceServer<Self> {
        TraceServiceServer::new(self.clone())
    }

    pub fn is(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    pub fn messages(&self) -> Vec<Message> {
        self.messages.borrow().clone()
    }

    /// The spans that came while the collector was of that mood.
    pub fn spans_while(&self, mood: Mood) -> Vec<Span> {
        let messages = self.messages();
        let messages = messages.iter().filter(|message| message.mood == mood);
        let resources = messages.flat_map(|message| &message.request.resource_spans);
        let scopes = resources.flat_map(|spans| &spans.scope_spans);
        scopes.flat_map(|spans| &spans.spans).map(Span::from).collect()
    }

    /// The spans that it has taken.
    pub fn spans(&self) -> Vec<Span> {
        self.spans_while(Mood::Takes)
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

    /// Waits for so many messages.
    pub async fn was_sent(&self, messages: usize) {
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
        let mood = *self.mood.lock().unwrap();
        let metadata = request.metadata().clone();
        let message = Message { mood, metadata, request: request.into_inner() };
        self.messages.send_modify(|all| all.push(message));
        let rejected_spans = match mood {
            Mood::Takes => 0,
            Mood::Refuses(spans) => spans,
            Mood::Unavailable => return Err(Status::unavailable("a text of the collector's")),
            Mood::Hangs => std::future::pending().await,
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

/// The attributes, numbers as words.
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
