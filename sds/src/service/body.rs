//! The response body: what the HTTP server polls, and all there is of a stream.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
use tonic::{Code, Status};

use super::fetching::Fetching;
use super::input::Input;
use super::streaming::Streaming;
use crate::request::{Node, Request, Shape};
use crate::session::Session;

/// A response body of [`SdsService`](crate::SdsService). Dropping it ends its stream.
pub struct Body<B> {
    phase: Phase,
    /// None once nothing more is read.
    input: Option<Input<B>>,
    /// Parts of one response that are still to leave.
    pieces: std::vec::IntoIter<Bytes>,
}

/// Which method was called.
#[derive(Clone, Copy)]
pub(super) enum Call {
    Stream(Shape),
    Fetch,
}

pub(super) type Opening = Pin<Box<dyn Future<Output = Result<Session, Status>> + Send>>;
type Open = Box<dyn FnOnce(Option<Node>) -> Opening + Send>;

enum Phase {
    /// Until the first message is there.
    Silent {
        call: Call,
        open: Open,
    },
    /// Until it is known who this is.
    Opening {
        call: Call,
        opening: Opening,
        first: Box<Request>,
    },
    Streaming(Box<Streaming>),
    Fetching(Box<Fetching>),
    Over,
}

/// What an open stream or fetch does next.
pub(super) enum Step {
    Send(Vec<Bytes>),
    End(Status),
}

impl<B: http_body::Body<Data = Bytes> + Unpin> Body<B> {
    pub(super) fn new(call: Call, input: B, open: Open) -> Self {
        let shape = match call {
            Call::Stream(shape) => shape,
            Call::Fetch => Shape::StateOfTheWorld,
        };
        Self {
            phase: Phase::Silent { call, open },
            input: Some(Input::new(input, shape)),
            pieces: Vec::new().into_iter(),
        }
    }

    /// Comes back with the next step; phases that have none move on.
    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        let Some(input) = &mut self.input else {
            return Poll::Ready(Step::End(Status::ok("")));
        };
        loop {
            let next = match &mut self.phase {
                Phase::Silent { .. } => ready!(poll_first(&mut self.phase, input, cx)),
                Phase::Opening {
                    call,
                    opening,
                    first,
                } => {
                    let opened = ready!(opening.as_mut().poll(cx));
                    opened.and_then(|session| {
                        opened_phase(*call, session, std::mem::take(&mut **first))
                    })
                }
                Phase::Streaming(streaming) => return streaming.poll(input, cx),
                Phase::Fetching(fetching) => return fetching.poll(input, cx),
                Phase::Over => return Poll::Ready(Step::End(Status::ok(""))),
            };
            match next {
                Ok(phase) => self.phase = phase,
                Err(status) => return Poll::Ready(Step::End(status)),
            }
        }
    }
}

impl<B> Body<B> {
    /// Without any content.
    pub(super) fn none() -> Self {
        Self {
            phase: Phase::Over,
            input: None,
            pieces: Vec::new().into_iter(),
        }
    }
}

fn poll_first<B>(
    phase: &mut Phase,
    input: &mut Input<B>,
    cx: &mut Context<'_>,
) -> Poll<Result<Phase, Status>>
where
    B: http_body::Body<Data = Bytes> + Unpin,
{
    let Some(mut first) = ready!(input.poll(cx))? else {
        return Poll::Ready(Err(match phase {
            Phase::Silent {
                call: Call::Fetch, ..
            } => Status::invalid_argument("a fetch is one message, send one"),
            _ => Status::ok(""),
        }));
    };
    let Phase::Silent { call, open } = std::mem::replace(phase, Phase::Over) else {
        return Poll::Ready(Ok(Phase::Over));
    };
    let opening = open(first.node.take());
    Poll::Ready(Ok(Phase::Opening {
        call,
        opening,
        first: Box::new(first),
    }))
}

fn opened_phase(call: Call, session: Session, first: Request) -> Result<Phase, Status> {
    Ok(match call {
        Call::Stream(shape) => Phase::Streaming(Box::new(Streaming::new(shape, session, first)?)),
        Call::Fetch => Phase::Fetching(Box::new(Fetching::new(session, first)?)),
    })
}

impl<B: http_body::Body<Data = Bytes> + Unpin> http_body::Body for Body<B> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        loop {
            if let Some(piece) = self.pieces.next() {
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            if self.input.is_none() {
                return Poll::Ready(None);
            }
            match ready!(self.poll_step(cx)) {
                Step::Send(pieces) => self.pieces = pieces.into_iter(),
                Step::End(status) => {
                    self.phase = Phase::Over;
                    self.input = None;
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers(&status)))));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.input.is_none() && self.pieces.as_slice().is_empty()
    }
}

fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    // It fails only for metadata and messages that are no header values: what a source
    // may have put in, but not the code.
    if status.add_header(&mut trailers).is_err() {
        let code = Status::new(
            Code::Internal,
            "the status of this stream can't be sent, see the server's log",
        );
        tracing::error!(code = ?status.code(), "a source gave a status that is no header value");
        let _ = code.add_header(&mut trailers);
    }
    trailers
}

impl<B> fmt::Debug for Body<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let phase = match &self.phase {
            Phase::Silent { .. } => "silent",
            Phase::Opening { .. } => "opening",
            Phase::Streaming(_) => "streaming",
            Phase::Fetching(_) => "fetching",
            Phase::Over => "over",
        };
        f.debug_struct("Body")
            .field("phase", &phase)
            .finish_non_exhaustive()
    }
}
