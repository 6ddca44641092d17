//! The answer of a stream, which counts for its user for as long as it lasts.

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::pin::Pin;
use std::task::{Context, Poll};
use tonic::Status;

use super::crowd::Weight;

/// A response body with what it weighs; none of both if the stream was refused.
#[derive(Debug)]
pub(crate) struct Weighed<B>(Option<(B, Weight)>);

impl<B> Weighed<B> {
    pub(crate) fn new(body: B, weight: Weight) -> Self {
        Self(Some((body, weight)))
    }

    /// For a stream that its user may not have as well.
    pub(crate) fn refused() -> http::Response<Self> {
        let status = Status::resource_exhausted(
            "this user has as many streams as one may have, close some or wait",
        );
        status.into_http::<()>().map(|()| Self(None))
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Weighed<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match &mut self.0 {
            Some((body, _)) => Pin::new(body).poll_frame(context),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|(body, _)| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.0
            .as_ref()
            .map_or(SizeHint::with_exact(0), |(body, _)| body.size_hint())
    }
}
