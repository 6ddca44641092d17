//! HTTP/1.1 as an operator's port speaks it. One request per connection, so that a slow or silent client can hold one of
//! a few places for a few seconds, until another needs it, and nothing else; who follows what goes on can hold one for longer.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

/// A few probes and scrapers at a time; one more takes the place of the one that has been there longest.
pub(super) const CONNECTIONS: usize = 64;
/// A request has no body and few headers.
pub(super) const HEADERS: usize = 64;
pub(super) const HEADER_BYTES: usize = 16 << 10;
/// To send the request's header, and to have received the whole answer.
pub(super) const HEADER_TIME: Duration = Duration::from_secs(5);
pub(super) const TIME: Duration = Duration::from_secs(10);
/// Pause after a failed accept: most likely file descriptors ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What is sent.
pub type Body = UnsyncBoxBody<Bytes, Infallible>;

/// An answer that is being made.
pub type Answer = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;

/// An extension of an answer that goes on: how long it may, beyond the ten seconds of any other. Who answers so bounds
/// how many there are.
#[derive(Clone, Copy, Debug)]
pub struct Lasting(pub Duration);

/// Lets `serve` have what connects, for as long as it is polled: 64 connections at a time. Whoever opens more, and says
/// nothing, does not keep a probe waiting: what has been open longest is closed. Answers that last are left alone.
pub async fn accept<F>(listener: TcpListener, serve: impl Fn(TcpStream) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    let mut opened = VecDeque::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    opened.retain(|(_, connection): &(_, AbortHandle)| !connection.is_finished());
                    opened.push_back((Instant::now(), connections.spawn(serve(stream))));
                    if connections.len() == CONNECTIONS {
                        give_way(&mut opened);
                    }
                }
                Err(error) => {
                    tracing::warn!(code = "ARX-OPS-ACCEPT", %error, "operator port: a connection was not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended
                    && error.is_panic()
                {
                    tracing::error!(code = "ARX-TASK-PANIC", task = "ops", %error, "operator port: an answer panicked");
                }
            }
        }
    }
}

/// Closes the connection that was opened first of those that have not outlived the time of any answer but one that lasts.
fn give_way(opened: &mut VecDeque<(Instant, AbortHandle)>) {
    let oldest = opened.iter().position(|(since, _)| since.elapsed() <= TIME);
    if let Some((_, connection)) = oldest.and_then(|place| opened.remove(place)) {
        connection.abort();
    }
}

/// Reads one request from `stream` and sends its answer.
pub async fn serve<IO, F>(stream: IO, answer: impl Fn(Request<Incoming>) -> F)
where
    IO: AsyncRead + AsyncWrite + Unpin,
    F: Future<Output = Response<Body>>,
{
    let lasting = Arc::new(OnceLock::new());
    let answer = service_fn(|request| {
        let (answer, lasting) = (answer(request), Arc::clone(&lasting));
        async move {
            let answer = answer.await;
            if let Some(Lasting(time)) = answer.extensions().get() {
                let _once = lasting.set(*time);
            }
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME)
        .max_headers(HEADERS)
        .max_buf_size(HEADER_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), answer);
    let mut connection = pin!(connection);
    let mut ended = tokio::time::timeout(TIME, connection.as_mut()).await;
    if let (Err(_), Some(time)) = (&ended, lasting.get()) {
        ended = tokio::time::timeout(*time, connection).await;
    }
    // Whatever went wrong is the client's business.
    if let Ok(Err(error)) = ended {
        tracing::debug!(%error, "operator port: connection ended early");
    }
}
