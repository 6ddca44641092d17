//! The request body as requests.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tonic::Status;

use crate::request::{Decoder, Request, Shape};

/// What the client sends. Nothing is held between two polls but a request under way.
pub(super) struct Input<B> {
    /// None once the client has sent its last.
    body: Option<B>,
    decoder: Decoder,
    /// What is left of the DATA frame under way.
    chunk: Bytes,
}

impl<B: http_body::Body<Data = Bytes> + Unpin> Input<B> {
    pub(super) fn new(body: B, shape: Shape) -> Self {
        Self {
            body: Some(body),
            decoder: Decoder::new(shape),
            chunk: Bytes::new(),
        }
    }

    /// The next request, or none once the client has sent its last.
    ///
    /// # Errors
    /// The status that ends the stream.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Request>, Status>> {
        loop {
            if !self.chunk.is_empty() {
                let request = self.decoder.next(&mut self.chunk)?;
                if self.chunk.is_empty() {
                    // Even an empty part would keep the connection's read buffer alive.
                    self.chunk = Bytes::new();
                }
                if request.is_some() {
                    return Poll::Ready(Ok(request));
                }
            }
            let Some(body) = &mut self.body else {
                return Poll::Ready(Ok(None));
            };
            match ready!(Pin::new(body).poll_frame(cx)) {
                // Trailers say nothing here.
                Some(Ok(frame)) => self.chunk = frame.into_data().unwrap_or_default(),
                Some(Err(_)) => {
                    return Poll::Ready(Err(Status::cancelled("the client has reset the stream")));
                }
                None => {
                    self.body = None;
                    if !self.decoder.at_boundary() {
                        let text = "the client has ended the stream within a message";
                        return Poll::Ready(Err(Status::invalid_argument(text)));
                    }
                }
            }
        }
    }
}
