//! What surrounds every request of a connection, for any service: the limits of its headers, of its
//! message and of its answer. Used by `server` only.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::time::Instant;
use tonic::body::Body;
use tonic::service::Routes;
use tower::ServiceExt as _;

use super::activity::Activity;
use super::answer::Answer;
use super::body::{Arriving, Fate};
use super::budget::Budgets;
use crate::budget::Share;
use crate::peer::{Peer, Reply};

/// How many headers a request may have.
const HEADERS: usize = 100;

/// Above this size, in bytes, the headers that nothing reads are dropped before the wait for the
/// message.
const LEAN: usize = 1024;

/// The headers that this server or the gRPC library reads, and the most bytes of each value.
const READ: &[(&str, usize)] = &[
    ("content-type", 128),
    ("te", 32),
    ("grpc-encoding", 64),
    ("grpc-accept-encoding", 128),
    ("grpc-timeout", 32),
    // `Bearer `, and the longest token.
    ("authorization", 8 + 4096),
    ("traceparent", 256),
    ("tracestate", 512),
];

/// How long the message of a request may take to be complete: a health request is short, and a
/// reflection request is a conversation. A service that limits its calls itself is not in this table.
const WHOLE_WITHIN: &[(&str, Duration)] =
    &[("/grpc.health.", Duration::from_secs(2)), ("/grpc.reflection.", Duration::from_secs(30))];

/// The same for all other paths.
const OTHERS_WHOLE_WITHIN: Duration = Duration::from_secs(2);

/// Answers the requests of a listener.
pub trait Handler: Send + Sync + 'static {
    /// Whether the service with that path limits the time of its calls itself, and that of their
    /// messages.
    fn bounds_itself(&self, _path: &str) -> bool {
        false
    }

    /// Answers one request of that peer.
    fn handle(&self, request: Request<Arriving>, peer: &Arc<Peer>) -> Replying;
}

/// A request in progress, whose reply is to come.
pub type Replying = Pin<Box<dyn Future<Output = Reply> + Send>>;

impl Handler for Routes {
    fn handle(&self, mut request: Request<Arriving>, peer: &Arc<Peer>) -> Replying {
        request.extensions_mut().insert(Arc::clone(peer));
        let answer = self.clone().oneshot(request);
        Box::pin(async move {
            let response = answer.await.unwrap_or_else(|never| match never {});
            response.into()
        })
    }
}

/// Answers the requests of one connection.
pub(super) struct Service {
    pub(super) handler: Arc<dyn Handler>,
    pub(super) peer: Arc<Peer>,
    pub(super) budgets: Arc<Budgets>,
    /// Set where the time of the last request matters.
    pub(super) activity: Option<Arc<Activity>>,
}

impl Service {
    /// When the message of a request for `path` must be complete; `None` where its service limits
    /// that itself.
    fn whole_by(&self, path: &str) -> Option<Instant> {
        if self.handler.bounds_itself(path) {
            return None;
        }
        let row = WHOLE_WITHIN.iter().find(|(prefix, _)| path.starts_with(prefix));
        Some(Instant::now() + row.map_or(OTHERS_WHOLE_WITHIN, |(_, within)| *within))
    }
}

impl hyper::service::Service<Request<Incoming>> for Service {
    type Response = Response<Answer>;
    type Error = h2::Error;
    type Future = Call;

    fn call(&self, request: Request<Incoming>) -> Call {
        self.activity.iter().for_each(|activity| activity.note());
        let budgets = Arc::clone(&self.budgets);
        let Some(stream) = budgets.streams.take(1) else { return Call(State::Refused) };
        let (mut parts, body) = request.into_parts();
        if parts.headers.len() > HEADERS {
            let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
            return Call(State::Answered(Some((empty(status), budgets, stream))));
        }
        shed(&mut parts.headers);
        let fate = Arc::<Fate>::default();
        let deadline = self.whole_by(parts.uri.path());
        let body = Arriving::new(body, deadline, Arc::clone(&budgets), Arc::clone(&fate));
        let answer = self.handler.handle(Request::from_parts(parts, body), &self.peer);
        Call(State::UnderWay { answer, fate, ends: Some((budgets, stream)) })
    }
}

/// A request in progress.
pub(super) struct Call(State);

enum State {
    /// Too many requests are in progress.
    Refused,
    Answered(Option<(Response<Body>, Arc<Budgets>, Share)>),
    UnderWay {
        answer: Replying,
        fate: Arc<Fate>,
        ends: Option<(Arc<Budgets>, Share)>,
    },
}

impl Future for Call {
    type Output = Result<Response<Answer>, h2::Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // To a gRPC client this means that the call has not begun, so it can ask again.
        let refused = || Poll::Ready(Err(h2::Reason::REFUSED_STREAM.into()));
        let (answer, ends) = match &mut self.0 {
            State::Refused => return refused(),
            State::Answered(answer) => match answer.take() {
                Some((answer, budgets, stream)) => (answer.into(), Some((budgets, stream))),
                None => return refused(),
            },
            State::UnderWay { answer, fate, ends } => {
                let Poll::Ready(answer) = answer.as_mut().poll(context) else {
                    return Poll::Pending;
                };
                if fate.is_refused() {
                    return refused();
                }
                // The service's own answer does not count: it had no message.
                let overdue = fate.is_overdue();
                let late = || empty(StatusCode::REQUEST_TIMEOUT).into();
                (if overdue { late() } else { answer }, ends.take())
            }
        };
        let Some((budgets, stream)) = ends else { return refused() };
        Poll::Ready(Ok(Answer::of(answer, budgets, stream)))
    }
}

fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// Drops the headers that nothing reads, where the headers are large: they would be held until the
/// message has arrived.
fn shed(headers: &mut HeaderMap) {
    let size: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if size <= LEAN {
        return;
    }
    let mut read = HeaderMap::new();
    for (name, most) in READ {
        // Two values show that there are several; an empty one stands for one that is too long.
        for value in headers.get_all(*name).iter().take(2) {
            let fits = Some(value).filter(|value| value.len() <= *most).cloned();
            read.append(*name, fits.unwrap_or(HeaderValue::from_static("")));
        }
    }
    *headers = read;
}
