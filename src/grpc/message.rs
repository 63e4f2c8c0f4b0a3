//! The message of a request and the message of an answer, as gRPC frames them. Used by the layer, for
//! calls that are answered from memory: all others leave both to `tonic`.

use std::pin::Pin;
use std::task::{Context, Poll};

use http::{HeaderMap, HeaderValue};
use http_body::{Body, Frame};
use prost::bytes::{BufMut as _, Bytes, BytesMut};

/// What precedes each message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// The body of a request, of which as much has been read as was there.
pub(super) struct Gathered<B: Body> {
    body: B,
    /// What has been read.
    head: Bytes,
    state: State<B::Error>,
}

enum State<E> {
    /// More may come.
    Open,
    /// The body cannot be read any further.
    Failed(Option<E>),
    Ended,
}

impl<B: Body<Data = Bytes> + Unpin> Gathered<B> {
    pub(super) fn new(body: B) -> Self {
        Self { body, head: Bytes::new(), state: State::Open }
    }

    /// Reads what is there, up to `limit` bytes and one frame more. It does not wait.
    pub(super) fn gather(&mut self, limit: usize, context: &mut Context<'_>) {
        while matches!(self.state, State::Open) && self.head.len() <= limit {
            match Pin::new(&mut self.body).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => {
                    // Trailers of a request mean nothing in gRPC.
                    let data = frame.into_data().unwrap_or_default();
                    self.head = joined(&self.head, data);
                }
                Poll::Ready(Some(Err(error))) => self.state = State::Failed(Some(error)),
                Poll::Ready(None) => self.state = State::Ended,
                Poll::Pending => return,
            }
        }
    }

    /// The only message of the request, if all of it has been read and it is not compressed.
    pub(super) fn message(&self) -> Option<&[u8]> {
        let (prefix, message) = self.head.split_at_checked(PREFIX)?;
        let (compressed, length) = prefix.split_first()?;
        let length = u32::from_be_bytes(length.try_into().ok()?);
        let is_whole = matches!(self.state, State::Ended)
            && *compressed == 0
            && usize::try_from(length) == Ok(message.len());
        is_whole.then_some(message)
    }
}

fn joined(head: &Bytes, data: Bytes) -> Bytes {
    if head.is_empty() {
        return data;
    }
    let mut both = BytesMut::with_capacity(head.len() + data.len());
    both.extend_from_slice(head);
    both.extend_from_slice(&data);
    both.freeze()
}

/// The body as if nothing had been read.
impl<B: Body<Data = Bytes> + Unpin> Body for Gathered<B>
where
    B::Error: Unpin,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if !self.head.is_empty() {
            let head = std::mem::take(&mut self.head);
            return Poll::Ready(Some(Ok(Frame::data(head))));
        }
        match &mut self.state {
            State::Open => Pin::new(&mut self.body).poll_frame(context),
            State::Failed(error) => Poll::Ready(error.take().map(Err)),
            State::Ended => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        let has_ended = match &self.state {
            State::Open => self.body.is_end_stream(),
            State::Failed(error) => error.is_none(),
            State::Ended => true,
        };
        self.head.is_empty() && has_ended
    }
}

/// Frames the message that `encode` writes.
pub(super) fn framed(size: usize, encode: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let mut frame = Vec::with_capacity(PREFIX + size);
    frame.put_slice(&[0; PREFIX]);
    encode(&mut frame);
    // The messages that are framed here are far smaller than 4 GiB.
    let length = u32::try_from(frame.len() - PREFIX).unwrap_or(u32::MAX);
    if let Some(place) = frame.get_mut(1..PREFIX) {
        place.copy_from_slice(&length.to_be_bytes());
    }
    frame.into()
}

/// The body of an answer: one framed message, and the status OK.
pub(super) struct Found {
    frame: Option<Bytes>,
    has_ended: bool,
}

impl Found {
    pub(super) fn new(frame: Bytes) -> Self {
        Self { frame: Some(frame), has_ended: false }
    }
}

impl Body for Found {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        if let Some(frame) = self.frame.take() {
            return Poll::Ready(Some(Ok(Frame::data(frame))));
        }
        if std::mem::replace(&mut self.has_ended, true) {
            return Poll::Ready(None);
        }
        let mut trailers = HeaderMap::with_capacity(1);
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.has_ended
    }
}
