//! Connections among which some say nothing, by a clock that the tests move.

use super::*;
use bytes::Bytes;
use http_body::Frame;
use hyper::client::conn::http2::{Connection, SendRequest};
use hyper_util::rt::TokioExecutor;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;

/// What a client begins with, and SETTINGS that set nothing.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Answers everything, and never to the end.
#[derive(Clone, Debug)]
struct Endless;

impl Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Pending
    }
}

impl Service<http::Request<hyper::body::Incoming>> for Endless {
    type Response = http::Response<Self>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Request<hyper::body::Incoming>) -> Self::Future {
        std::future::ready(Ok(http::Response::new(Self)))
    }
}

struct Socket {
    directory: tempfile::TempDir,
    drain: Drain,
    metrics: Metrics,
}

impl Socket {
    fn listen() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let listener = UnixListener::bind(directory.path().join("s")).expect("a socket");
        let drain = Drain::new(Duration::from_secs(1));
        let metrics = Metrics::default();
        let connections = Connections {
            max: 8,
            peers: Peer::of,
            drain: drain.clone(),
            tasks: Tasks::new(&drain),
            metrics: metrics.clone(),
            loosened: Arc::default(),
        };
        connections.serve(listener, Endless);
        Self {
            directory,
            drain,
            metrics,
        }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("s")
    }

    async fn connect(&self) -> UnixStream {
        UnixStream::connect(self.path()).await.expect("it listens")
    }

    async fn client(&self) -> (SendRequest<Endless>, Http2) {
        let io = TokioIo::new(self.connect().await);
        let made = hyper::client::conn::http2::handshake(TokioExecutor::new(), io);
        made.await.expect("it speaks HTTP/2")
    }
}

type Http2 = Connection<TokioIo<UnixStream>, Endless, TokioExecutor>;
type Answer = http::Response<hyper::body::Incoming>;

async fn ask(requests: &mut SendRequest<Endless>) -> hyper::Result<Answer> {
    requests.ready().await?;
    let request = http::Request::post("http://sds/a").body(Endless);
    requests.send_request(request.expect("a request")).await
}

#[tokio::test(start_paused = true)]
async fn a_client_that_says_nothing_is_cut_off_and_others_notice_nothing() {
    let socket = Socket::listen();
    let (mut requests, connection) = socket.client().await;
    let mut tasks = JoinSet::new();
    tasks.spawn(connection);
    let mut stream = ask(&mut requests).await.expect("an answer").into_body();
    // One says nothing at all, one only that it speaks HTTP/2.
    let (mut silent, mut polite) = (socket.connect().await, socket.connect().await);
    polite.write_all(PREFACE).await.expect("written");
    for connection in [&mut silent, &mut polite] {
        let mut said = Vec::new();
        connection.read_to_end(&mut said).await.expect("closed");
    }
    assert_eq!(socket.metrics.connections.get(), 1);
    // The stream is open, and more can be asked for.
    let next =
        std::future::poll_fn(|context| Poll::Ready(Pin::new(&mut stream).poll_frame(context)));
    assert!(next.await.is_pending());
    ask(&mut requests).await.expect("an answer");
    assert!(tasks.try_join_next().is_none(), "it goes on");
    socket.drain.request(arx_daemon::drain::Cause::Finished);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_has_asked_and_does_not_answer_any_more_is_given_up() {
    let socket = Socket::listen();
    let mut gone = socket.connect().await;
    gone.write_all(PREFACE).await.expect("written");
    // HEADERS with END_HEADERS on stream 1: POST, http, /, and an authority.
    let ask = b"\0\0\x08\x01\x04\0\0\0\x01\x83\x86\x84\x41\x03sds";
    gone.write_all(ask).await.expect("written");
    let mut said = Vec::new();
    gone.read_to_end(&mut said).await.expect("closed");
    // Something that was said is a PING, 8 bytes, without ACK.
    let ping = b"\0\0\x08\x06\0\0\0\0\0";
    assert!(
        said.windows(ping.len()).any(|part| part == ping),
        "{said:?}"
    );
    socket.drain.request(arx_daemon::drain::Cause::Finished);
}
