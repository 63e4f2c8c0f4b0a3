//! The export of spans to a collector, in OTLP over gRPC. Used by `telemetry` only.
//!
//! Spans that have ended wait here, up to a bound, and a separate task sends them: code that ends a
//! span never waits. Spans that the collector does not accept in time are lost, and each one is
//! counted. OpenTelemetry's own exporter counts none, and reads settings and headers from the
//! environment; this one reads none.

use std::error::Error as _;
use std::io;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc as thread_mpsc;
use std::time::Duration;

use opentelemetry::trace::TracerProvider as _;
use opentelemetry::{Context, KeyValue};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    IdGenerator as _, RandomIdGenerator, Sampler, SdkTracerProvider, Span, SpanData, SpanLimits,
    SpanProcessor,
};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};

use super::metrics::Counter;
use super::settings::Traces;
use super::spans;

/// The most spans that may wait.
const WAITING: usize = 2048;

/// The most spans in one request.
const BATCH: usize = 512;

/// How long the first span of a batch waits for others.
const GATHERING: Duration = Duration::from_millis(500);

/// How long the collector may take to accept a batch, connecting included.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The running export of spans.
pub(super) struct SpanExport {
    ending: CancellationToken,
    /// Carries no message: it is closed once everything is sent.
    sent: thread_mpsc::Receiver<()>,
}

impl SpanExport {
    /// Creates and sends spans from here on. It must be called within a runtime, because the sending
    /// is a task of that runtime.
    ///
    /// # Errors
    /// Where the collector's certificate could not be verified.
    pub(super) fn start(traces: &Traces, spans_lost: Counter) -> io::Result<Self> {
        let (put, outbox) = mpsc::channel(WAITING);
        let overflow = Arc::new(AtomicU64::new(0));
        let ending = CancellationToken::new();
        let (done, sent) = thread_mpsc::channel();
        let resource = resource();
        let exporter = Exporter {
            outbox,
            batch: Vec::new(),
            ending: ending.clone(),
            endpoint: endpoint(traces).map_err(io::Error::other)?,
            resource: (&resource).into(),
            overflow: Arc::clone(&overflow),
            lost: 0,
            spans_lost: spans_lost.clone(),
            _done: done,
        };
        tokio::spawn(exporter.run());
        let ratio = Sampler::TraceIdRatioBased(traces.ratio.0);
        // Everything that the environment could set is set here.
        let provider = SdkTracerProvider::builder()
            .with_sampler(Sampler::ParentBased(Box::new(ratio)))
            .with_span_limits(SpanLimits::default())
            .with_resource(resource)
            .with_span_processor(SpanQueue { put, overflow, lost: spans_lost })
            .build();
        spans::make_with(provider.tracer(env!("CARGO_PKG_NAME")));
        Ok(Self { ending, sent })
    }

    /// Waits until every span is sent, or until `time` has passed.
    pub(super) fn flush(&self, time: Duration) {
        self.ending.cancel();
        if self.sent.recv_timeout(time) == Err(thread_mpsc::RecvTimeoutError::Timeout) {
            tracing::warn!("the last spans are lost, because no collector accepted them in time");
        }
    }
}

/// The attributes that identify this process.
fn resource() -> Resource {
    let instance = RandomIdGenerator::default().new_trace_id().to_string();
    let attributes = [
        KeyValue::new("service.name", env!("CARGO_PKG_NAME")),
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("service.instance.id", instance),
    ];
    Resource::builder_empty().with_attributes(attributes).build()
}

/// Checks that the collector's certificate could be verified.
///
/// # Errors
/// Why it could not.
pub(super) fn check(traces: &Traces) -> Result<(), String> {
    endpoint(traces).map(drop).map_err(|_| {
        "cannot be verified: the system has no trusted authorities; set telemetry.otlp_ca_file"
            .to_owned()
    })
}

fn endpoint(traces: &Traces) -> Result<Endpoint, tonic::transport::Error> {
    let endpoint = Endpoint::from(traces.endpoint.clone());
    if traces.endpoint.scheme_str() != Some("https") {
        return Ok(endpoint);
    }
    let tls = match &traces.authorities {
        Some(pem) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)),
        None => ClientTlsConfig::new().with_native_roots(),
    };
    endpoint.tls_config(tls)
}

/// Queues the spans that have ended.
#[derive(Debug)]
struct SpanQueue {
    put: mpsc::Sender<SpanData>,
    /// How many spans did not fit since the last report.
    overflow: Arc<AtomicU64>,
    lost: Counter,
}

impl SpanProcessor for SpanQueue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if self.put.try_send(span).is_err() {
            self.lost.inc();
            self.overflow.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// Sends the spans of the outbox.
struct Exporter {
    outbox: mpsc::Receiver<SpanData>,
    batch: Vec<SpanData>,
    ending: CancellationToken,
    endpoint: Endpoint,
    resource: ResourceAttributesWithSchema,
    overflow: Arc<AtomicU64>,
    /// How many spans have been lost since the collector last accepted all of them.
    lost: u64,
    spans_lost: Counter,
    /// Dropped at the end, with everything else.
    _done: thread_mpsc::Sender<()>,
}

impl Exporter {
    async fn run(mut self) {
        let mut collector = self.collector();
        let mut open = true;
        while open {
            open = self.gather().await;
            let others = async {
                while open && self.batch.len() < BATCH {
                    open = self.gather().await;
                }
            };
            // Spans that end soon after the first one go into the same batch.
            let _ = timeout(GATHERING, others).await;
            if self.batch.is_empty() {
                continue;
            }
            let spans = mem::take(&mut self.batch);
            let count = spans.len() as u64;
            let resource_spans = group_spans_by_resource_and_scope(spans, &self.resource);
            let sending = collector.export(ExportTraceServiceRequest { resource_spans });
            let (lost, why) = match timeout(TIMEOUT, sending).await {
                Ok(Ok(answer)) => {
                    let refused = answer.into_inner().partial_success;
                    let refused = refused.map_or(0, |refused| refused.rejected_spans);
                    // The collector may report any number.
                    let refused = u64::try_from(refused).unwrap_or(0).min(count);
                    (refused, "the collector refuses them".to_owned())
                }
                failed => {
                    let why = match failed {
                        Ok(Err(status)) => causes(status.code(), status.source()),
                        _ => format!("no answer within {TIMEOUT:?}"),
                    };
                    // A connection that hangs would hang forever.
                    collector = self.collector();
                    (count, why)
                }
            };
            self.report_loss(lost, &why);
        }
    }

    fn collector(&self) -> TraceServiceClient<tonic::transport::Channel> {
        TraceServiceClient::new(self.endpoint.connect_lazy())
    }

    /// Waits for more spans of the batch. False where no more will come.
    async fn gather(&mut self) -> bool {
        let room = BATCH - self.batch.len();
        tokio::select! {
            biased;
            () = self.ending.cancelled(), if !self.outbox.is_closed() => {
                self.outbox.close();
                true
            }
            count = self.outbox.recv_many(&mut self.batch, room) => count > 0,
        }
    }

    /// Counts the lost spans of a batch, and logs when the loss begins and when it ends.
    fn report_loss(&mut self, of_batch: u64, why: &str) {
        self.spans_lost.add(of_batch);
        let overflow = self.overflow.swap(0, Ordering::Relaxed);
        let lost = of_batch + overflow;
        if lost == 0 && self.lost > 0 {
            let lost = mem::take(&mut self.lost);
            tracing::info!(lost, "the collector accepts spans again");
        }
        if lost > 0 && self.lost == 0 {
            let why = if of_batch > 0 { why } else { "there are more than it accepts in time" };
            tracing::warn!(why, "spans are lost, because the collector does not accept them");
        }
        self.lost += lost;
    }
}

/// Why the export failed, without any text of the collector's own.
fn causes(code: tonic::Code, mut source: Option<&(dyn std::error::Error + 'static)>) -> String {
    let mut text = code.to_string();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{Span as _, Tracer as _};

    use super::*;
    use crate::telemetry::metrics::Metrics;

    #[test]
    fn overflowing_spans_are_counted_and_do_not_block() {
        let (put, mut outbox) = mpsc::channel(WAITING);
        let overflow = Arc::new(AtomicU64::new(0));
        let metrics = Metrics::default();
        let lost = metrics.spans_lost.with([]);
        let ended = SpanQueue { put, overflow: Arc::clone(&overflow), lost };
        let provider = SdkTracerProvider::builder().with_span_processor(ended).build();
        let tracer = provider.tracer("test");
        for _ in 0..WAITING + 3 {
            tracer.start("span").end();
        }
        assert_eq!(overflow.load(Ordering::Relaxed), 3);
        assert!(metrics.page().unwrap().contains("order_query_spans_lost_total 3\n"));
        let mut waiting = 0;
        while outbox.try_recv().is_ok() {
            waiting += 1;
        }
        assert_eq!(waiting, WAITING);
        tracer.start("span").end();
        assert_eq!((overflow.load(Ordering::Relaxed), outbox.try_recv().is_ok()), (3, true));
    }
}
