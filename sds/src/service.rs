//! The service over HTTP/2: which path is which, and a response body that is the whole
//! stream. Nothing is spawned: a stream lives in the body that the HTTP server polls, and
//! is gone when the server lets go of it.

mod body;
mod fetching;
mod input;
mod live;
mod streaming;

use std::convert::Infallible;
use std::fmt;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use tonic::Status;
use tower_service::Service;

pub use body::Body;

use crate::request::Shape;
use crate::session::Source;
use body::Call;

const PREFIX: &str = "/envoy.service.secret.v3.SecretDiscoveryService/";

/// `envoy.service.secret.v3.SecretDiscoveryService`. Other services, such as aggregated
/// discovery (ADS), are answered with UNIMPLEMENTED.
///
/// The HTTP/2 settings are the server's. Below 16 KiB of stream window Envoy's first
/// messages can stall. All streams of a connection ACK at once: h2 holds small unread DATA
/// frames against a budget of half the connection's window, but at least 25 KiB, and some
/// 200 ACKs end a connection with a window of 64 KiB (ENHANCE_YOUR_CALM). Whoever allows
/// more streams needs more of a window.
pub struct SdsService<S> {
    source: Arc<S>,
}

impl<S: Source> SdsService<S> {
    /// A service that asks `source` about each stream.
    #[must_use]
    pub fn new(source: Arc<S>) -> Self {
        Self { source }
    }
}

impl<S> Clone for SdsService<S> {
    fn clone(&self) -> Self {
        Self {
            source: self.source.clone(),
        }
    }
}

impl<S> fmt::Debug for SdsService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SdsService").finish_non_exhaustive()
    }
}

impl<S, B> Service<Request<B>> for SdsService<S>
where
    S: Source,
    B: http_body::Body<Data = Bytes> + Unpin + Send + 'static,
{
    type Response = Response<Body<B>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        ready(Ok(self.respond(request)))
    }
}

impl<S: Source> SdsService<S> {
    fn respond<B>(&self, request: Request<B>) -> Response<Body<B>>
    where
        B: http_body::Body<Data = Bytes> + Unpin,
    {
        let (mut parts, input) = request.into_parts();
        // gRPC over HTTP2, Requests: whoever does not speak it would not see a gRPC status.
        if parts.method != Method::POST {
            return refused(StatusCode::METHOD_NOT_ALLOWED);
        }
        if !parts.headers.get(CONTENT_TYPE).is_some_and(is_grpc) {
            return refused(StatusCode::UNSUPPORTED_MEDIA_TYPE);
        }
        let call = match parts.uri.path().strip_prefix(PREFIX) {
            Some("StreamSecrets") => Call::Stream(Shape::StateOfTheWorld),
            Some("DeltaSecrets") => Call::Stream(Shape::Delta),
            Some("FetchSecrets") => Call::Fetch,
            _ => return unimplemented(parts.uri.path()),
        };
        // It may be long, and is held until the first message is there.
        parts.uri = http::Uri::default();
        let source = Arc::clone(&self.source);
        let open = Box::new(move |node| -> body::Opening {
            Box::pin(async move { source.open(&parts, node).await })
        });
        let mut response = Response::new(Body::new(call, input, open));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-accept-encoding", HeaderValue::from_static("identity"));
        response
    }
}

fn is_grpc(content_type: &HeaderValue) -> bool {
    let rest = content_type.as_bytes().strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

fn refused<B>(status: StatusCode) -> Response<Body<B>> {
    let mut response = Response::new(Body::none());
    *response.status_mut() = status;
    response
}

fn unimplemented<B>(path: &str) -> Response<Body<B>> {
    let asked: String = path.chars().take(200).collect();
    let status = Status::unimplemented(format!(
        "`{asked}` is not served here, use `{PREFIX}StreamSecrets` (in Envoy: api_config_source with GRPC or DELTA_GRPC, not ads)"
    ));
    status.into_http::<()>().map(|()| Body::none())
}
