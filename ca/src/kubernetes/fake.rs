//! An API server of the test's, below kube's client.

use std::io;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use http::{Method, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

type Answer = Response<StreamBody<BoxStream<'static, io::Result<Frame<Bytes>>>>>;

/// Hands each request to the test, which answers it.
#[derive(Clone)]
pub(crate) struct ApiServer(mpsc::UnboundedSender<Asked>);

/// A request that waits for its answer.
pub(crate) struct Asked {
    pub(crate) method: Method,
    /// Path and query.
    pub(crate) what: String,
    /// What it brings, if it is JSON.
    pub(crate) body: Value,
    answer: oneshot::Sender<Answer>,
}

/// A client of it, and what is asked of it.
pub(crate) fn api_server() -> (kube::Client, mpsc::UnboundedReceiver<Asked>) {
    let (sender, asked) = mpsc::unbounded_channel();
    (kube::Client::new(ApiServer(sender), "default"), asked)
}

impl tower_service::Service<Request<Body>> for ApiServer {
    type Response = Answer;
    type Error = io::Error;
    type Future = BoxFuture<'static, Result<Answer, io::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (answer, answered) = oneshot::channel();
        let (method, what) = (request.method().clone(), request.uri().to_string());
        let this = self.0.clone();
        async move {
            let body = request.into_body().collect().await;
            let body = body.map_err(io::Error::other)?.to_bytes();
            let asked = Asked {
                method,
                what,
                body: serde_json::from_slice(&body).unwrap_or_default(),
                answer,
            };
            this.send(asked).map_err(io::Error::other)?;
            answered.await.map_err(io::Error::other)
        }
        .boxed()
    }
}

impl Asked {
    /// Answers with all of this.
    pub(crate) fn whole(self, status: u16, json: &Value) {
        let body = stream::iter([Ok(Frame::data(Bytes::from(json.to_string())))]);
        self.send(status, body.boxed());
    }

    /// Answers with all of this, as of this time (RFC 9110, 5.6.7).
    pub(crate) fn dated(self, date: &str, json: &Value) {
        let body = stream::iter([Ok(Frame::data(Bytes::from(json.to_string())))]);
        let response = Response::builder().header(http::header::DATE, date);
        let response = response.body(StreamBody::new(body.boxed()));
        let response = response.expect("a response");
        assert!(self.answer.send(response).is_ok(), "nobody waits");
    }

    /// Answers that it is asked too often, and when to come again.
    pub(crate) fn too_many(self, seconds: u32) {
        let response = Response::builder()
            .status(429)
            .header(http::header::RETRY_AFTER, seconds);
        let response = response.body(StreamBody::new(stream::empty().boxed()));
        let response = response.expect("a response");
        assert!(self.answer.send(response).is_ok(), "nobody waits");
    }

    /// Resets the connection in the middle of this answer.
    pub(crate) fn cut_short(self, json: &Value) {
        let text = json.to_string();
        let half = Bytes::from(text[..text.len() / 2].to_owned());
        let body = stream::iter([Ok(Frame::data(half)), Err(reset())]);
        self.send(200, body.boxed());
    }

    /// Answers with a watch, to which lines are sent.
    pub(crate) fn open(self) -> Watch {
        let (lines, sent) = mpsc::unbounded_channel::<io::Result<Bytes>>();
        let body = stream::unfold(sent, |mut sent| async move {
            Some((sent.recv().await?.map(Frame::data), sent))
        });
        self.send(200, body.boxed());
        Watch(lines)
    }

    fn send(self, status: u16, body: BoxStream<'static, io::Result<Frame<Bytes>>>) {
        let response = Response::builder().status(status);
        let response = response.body(StreamBody::new(body)).expect("a response");
        assert!(self.answer.send(response).is_ok(), "nobody waits");
    }
}

/// A watch that is open.
pub(crate) struct Watch(mpsc::UnboundedSender<io::Result<Bytes>>);

fn reset() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}

impl Watch {
    pub(crate) fn say(&self, kind: &str, object: &Value) {
        let line = json!({"type": kind, "object": object}).to_string() + "\n";
        // A line comes in parts.
        let (one, other) = line.split_at(line.len() / 2);
        for part in [one, other] {
            assert!(
                self.0.send(Ok(part.to_owned().into())).is_ok(),
                "nobody watches"
            );
        }
    }

    /// Resets the connection in the middle of a line.
    pub(crate) fn reset(self) {
        for said in [Ok(Bytes::from_static(b"{\"type\": \"DELE")), Err(reset())] {
            assert!(self.0.send(said).is_ok(), "nobody watches");
        }
    }
}
