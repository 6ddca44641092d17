//! The connections of proxies: HTTP/2 with small windows, each with the process at its
//! other end known before anything of it is read.

mod crowd;
mod pieces;
mod weighed;

use crate::attest::peer::PeerError;
use crate::attest::{Asker, Peer};
use crate::doorway;
use crate::heap;
use crate::metrics::Metrics;
use arx_daemon::calls::{Calls, Running};
use arx_daemon::drain::{Drain, OnPanic, Tasks};
use futures_util::TryFutureExt as _;
use futures_util::future::{Either, ready};
use http_body::Body;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, Semaphore, watch};
use tower_service::Service;

use crowd::Crowd;
use pieces::Pieces;
use weighed::Weighed;

/// A whole first message, of which a proxy's node is some 61 KB, needs no more window: a
/// stream is bounded by its connection.
const STREAM_WINDOW: u32 = 128 * 1024;
/// All that a connection can have us hold by sending what is not read yet; what is read is
/// made good for at once.
const CONNECTION_WINDOW: u32 = 64 * 1024;
const SEND_BUFFER: usize = 8 * 1024;
/// As few as RFC 9113, 6.5.2 recommends: a proxy has a stream for each name and way to ask
/// for it, and is served five names. All of them may ACK at once without exceeding what h2
/// grants to small frames that were not read yet (256 bytes for each of a hundred).
const MOST_STREAMS: u32 = 100;
/// Room for a token of 16 KiB in base64.
const HEADERS: u32 = 32 * 1024;
/// A connection on which nothing is asked for so long is closed: proxies connect in order to
/// ask.
const FIRST_REQUEST: Duration = Duration::from_secs(30);
/// When nothing was heard of a peer for so long, it is asked whether it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// And given up when it does not answer within this.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(15);
/// Pause after a failed accept: most likely file descriptors ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Memory goes back to the kernel when for this long no connection began or ended, and no
/// large inventory was sent;
const TRIM_AFTER: Duration = Duration::from_millis(100);
/// and while that goes on, this long after it began.
const TRIM_AT_LATEST: Duration = Duration::from_millis(500);
/// How long a connection may take to end when the process does.
const LINGER: Duration = Duration::from_secs(2);

/// Closes a socket when it is dropped, and ends its connections.
#[derive(Debug)]
pub(crate) struct Close(#[expect(dead_code, reason = "it is dropped")] watch::Sender<()>);

/// When a socket's connections end.
#[derive(Clone, Debug)]
struct End {
    drain: Drain,
    /// Its sender is dropped to close the socket; none if it lasts as long as the process.
    closed: Option<watch::Receiver<()>>,
}

impl End {
    fn of(drain: &Drain) -> Self {
        Self {
            drain: drain.clone(),
            closed: None,
        }
    }

    async fn comes(&self) {
        let closed = async {
            match self.closed.clone() {
                Some(mut closed) => while closed.changed().await.is_ok() {},
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.drain.requested() => {}
            () = closed => {}
        }
    }
}

/// What the connections of one socket share.
#[derive(Clone, Debug)]
pub(crate) struct Connections {
    pub(crate) max: usize,
    /// How it is found out who connects.
    pub(crate) peers: fn(&UnixStream) -> Result<Peer, PeerError>,
    pub(crate) drain: Drain,
    pub(crate) tasks: Tasks,
    pub(crate) metrics: Metrics,
    /// Told when something has left free memory behind.
    pub(crate) loosened: Arc<Notify>,
}

impl Connections {
    /// Accepts until the process ends. Each request carries the [`Peer`] and the [`Asker`]
    /// of its connection among its extensions.
    pub(crate) fn serve<S, B>(self, listener: UnixListener, service: S)
    where
        S: Service<
                http::Request<hyper::body::Incoming>,
                Response = http::Response<B>,
                Error = Infallible,
            > + Clone
            + Send
            + 'static,
        S::Future: Send + 'static,
        B: Body<Data = bytes::Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (tasks, trimming) = (self.tasks.clone(), self.clone());
        tasks.spawn("trim", OnPanic::Continue, trimming.trim());
        let end = End::of(&self.drain);
        tasks.spawn("socket", OnPanic::End, self.accept(listener, service, end));
    }

    /// The same for one socket of many: accepts until the process ends, or what is answered is
    /// dropped.
    pub(crate) fn serve_until_closed<S, B>(&self, listener: UnixListener, service: S) -> Close
    where
        S: Service<
                http::Request<hyper::body::Incoming>,
                Response = http::Response<B>,
                Error = Infallible,
            > + Clone
            + Send
            + 'static,
        S::Future: Send + 'static,
        B: Body<Data = bytes::Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (close, closed) = watch::channel(());
        let end = End {
            drain: self.drain.clone(),
            closed: Some(closed),
        };
        let accepting = self.clone().accept(listener, service, end);
        self.tasks.spawn("pod socket", OnPanic::Continue, accepting);
        Close(close)
    }

    async fn accept<S, B>(self, listener: UnixListener, service: S, end: End)
    where
        S: Service<
                http::Request<hyper::body::Incoming>,
                Response = http::Response<B>,
                Error = Infallible,
            > + Clone
            + Send
            + 'static,
        S::Future: Send + 'static,
        B: Body<Data = bytes::Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let places = Arc::new(Semaphore::new(self.max));
        let crowd = Crowd::new(self.max);
        let mut number = 0;
        loop {
            let place = tokio::select! {
                place = Arc::clone(&places).acquire_owned() => place,
                () = end.comes() => return,
            };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = end.comes() => return,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(
                        code = "ARX-AGENT-ACCEPT",
                        %error,
                        "a connection was not accepted; raise the limit of open files if this goes on"
                    );
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let (shared, service, crowd) = (self.clone(), service.clone(), crowd.clone());
            let end = end.clone();
            number += 1;
            self.tasks
                .spawn("connection", OnPanic::Continue, async move {
                    let guest = (stream, number);
                    shared.connection(guest, service, &crowd, end).await;
                    drop(place);
                });
        }
    }

    async fn connection<S, B>(
        self,
        (stream, number): (UnixStream, u64),
        service: S,
        crowd: &Crowd,
        end: End,
    ) where
        S: Service<
                http::Request<hyper::body::Incoming>,
                Response = http::Response<B>,
                Error = Infallible,
            > + Clone
            + Send
            + 'static,
        S::Future: Send + 'static,
        B: Body<Data = bytes::Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let peer = match (self.peers)(&stream) {
            Ok(peer) => Arc::new(peer),
            Err(error) => {
                self.metrics.rejected("peer");
                tracing::debug!(code = "ARX-AGENT-PEER", %error, "connection refused");
                return;
            }
        };
        let Some(guest) = crowd.enter(peer.uid()) else {
            self.metrics.rejected("crowd");
            tracing::debug!(
                code = "ARX-AGENT-CROWD",
                uid = peer.uid(),
                "connection refused: its user has as many as one may have"
            );
            return;
        };
        let asker = Asker {
            uid: peer.uid(),
            connection: number,
        };
        self.metrics.connections.inc();
        // First messages are large, and leave free memory behind.
        self.loosened.notify_one();
        let asked = Arc::new(Notify::new());
        let silent = {
            let asked = Arc::clone(&asked);
            async move {
                if tokio::time::timeout(FIRST_REQUEST, asked.notified())
                    .await
                    .is_ok()
                {
                    std::future::pending::<()>().await;
                }
            }
        };
        let metrics = self.metrics.clone();
        let answer = service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
            asked.notify_one();
            let credentials = doorway::lighten(request.headers_mut());
            let weight = guest.stream(credentials);
            let answer = weight.map(|weight| {
                request.extensions_mut().insert(Arc::clone(&peer));
                request.extensions_mut().insert(asker);
                (service.clone().call(request), weight)
            });
            if answer.is_none() {
                metrics.rejected("crowd");
            }
            // Not an async block, which would hold the answer twice, for as long as it lasts.
            match answer {
                Some((answer, weight)) => {
                    let weigh = |body| Weighed::new(body, weight);
                    Either::Left(answer.map_ok(|answer| answer.map(weigh)))
                }
                None => Either::Right(ready(Ok(Weighed::refused()))),
            }
        });
        let pieces = Pieces::new(stream);
        let (calls, mut running) = (Calls::default(), Running::default());
        let connection = http2::Builder::new(calls.clone())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .max_concurrent_streams(MOST_STREAMS)
            .max_header_list_size(HEADERS)
            // One or two requests in a connection's life repeat nothing worth a table.
            .header_table_size(0)
            .serve_connection(TokioIo::new(pieces), answer);
        let mut connection = pin!(connection);
        let ended = tokio::select! {
            ended = calls.clone().drive(connection.as_mut(), &mut running) => ended,
            () = silent => {
                self.metrics.rejected("silent");
                Ok(())
            }
            () = end.comes() => {
                // The streams end by themselves, each with a status.
                connection.as_mut().graceful_shutdown();
                let ending = calls.drive(connection.as_mut(), &mut running);
                tokio::time::timeout(LINGER, ending).await.unwrap_or(Ok(()))
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "connection of a proxy ended");
        }
        self.metrics.connections.dec();
        self.loosened.notify_one();
    }

    async fn trim(self) {
        loop {
            tokio::select! {
                () = self.loosened.notified() => {}
                () = self.drain.requested() => return,
            }
            // Whatever happens meanwhile is covered.
            let _ = tokio::time::timeout(TRIM_AT_LATEST, async {
                let again = || tokio::time::timeout(TRIM_AFTER, self.loosened.notified());
                while again().await.is_ok() {}
            })
            .await;
            let _ = tokio::task::spawn_blocking(|| {
                heap::forget_the_code();
                heap::trim();
            })
            .await;
        }
    }
}

#[cfg(test)]
mod tests;
