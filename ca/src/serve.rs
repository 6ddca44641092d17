//! Accepting connections: TLS for the nodes, a Unix socket for the operator. What is
//! said on them is [`node_api`](crate::node_api)'s and [`admin`](crate::admin)'s affair.
//!
//! Nobody can hold a connection longer than they are entitled to: strangers get a minute,
//! nodes until their certificate ends or its root is no longer trusted.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arx_daemon::Clock;
use arx_daemon::calls::{Calls, Running};
use arx_daemon::drain::{Drain, OnPanic, Tasks};
use arx_identity::{KeyId, TrustBundle, TrustDomain, tls};
use arx_proto::admin::v1::admin_server::AdminServer;
use arx_proto::node::v1::node_server::NodeServer;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::{Semaphore, watch};
use tower_service::Service as _;

use crate::admin::Api as AdminApi;
use crate::caller::Caller;
use crate::metrics::Metrics;
use crate::node_api::Api as NodeApi;

/// How long somebody without a certificate may stay: long enough for one join.
const STRANGERS: Duration = Duration::from_secs(60);
/// Largest message of somebody without a certificate: a join has some 500 bytes.
const STRANGERS_MESSAGE: usize = 64 * 1024;
/// When nothing was heard of a peer for so long, it is asked whether it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// And given up when it does not answer within this.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(15);
/// A service-account token travels in a header and has about 1 KiB; the bound of all
/// headers together is what a stranger can make us hold.
const HEADERS: u32 = 64 * 1024;
/// Waits after `accept` fails, which it does when file descriptors run out.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// How long a connection that is over may take to end: as long as a call may. What is still
/// open then is cut off; a Follow would never end by itself.
const ENDING: Duration = Duration::from_secs(20);
/// A call that is no Follow has to be over within this, the reading of it included.
const WHOLE_CALL: Duration = Duration::from_secs(30);
/// Calls at a time on a connection: of somebody without a certificate, who wants to join once;
/// of a node; of an operator.
const STREAMS_OF_STRANGER: u32 = 4;
const STREAMS_OF_NODE: u32 = 64;
const STREAMS_OF_OPERATOR: u32 = 256;
/// Of all connections, one in so many may be of those without a certificate.
const SHARE_OF_STRANGERS: usize = 4;
/// How long one of them waits for its place.
const PATIENCE: Duration = Duration::from_secs(10);
/// The one call that goes on for as long as the connection.
const FOLLOW: &str = "/arx.node.v1.Node/Follow";
/// Connections whose root left the bundle close within this, not all at once.
const SPREAD: Duration = Duration::from_secs(5);

/// Serves the node API.
#[derive(Clone)]
pub struct Nodes {
    /// Presents the serving certificate of the moment.
    pub tls: Arc<tls::Server>,
    /// Whose nodes are served.
    pub trust_domain: TrustDomain,
    /// What callers are verified by.
    pub trust: watch::Receiver<Arc<TrustBundle>>,
    /// Answers the calls.
    pub api: NodeServer<NodeApi>,
    /// The one wall clock.
    pub clock: Clock,
    /// Connections are its tasks.
    pub tasks: Tasks,
    /// Ends the acceptance of connections.
    pub drain: Drain,
    /// Counts.
    pub metrics: Metrics,
}

impl Nodes {
    /// Accepts until drained, at most `most` connections at a time; further ones wait in
    /// the backlog.
    pub async fn serve(self, listener: TcpListener, most: usize) {
        let connections = Arc::new(Semaphore::new(most));
        // Nodes must get in, whoever else calls.
        let strangers = Arc::new(Semaphore::new((most / SHARE_OF_STRANGERS).max(1)));
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.drain.requested() => return,
                accepted = accept(&connections, || listener.accept()) => accepted,
            };
            let Some((place, (stream, _address))) = accepted else {
                continue;
            };
            let (this, strangers) = (self.clone(), Arc::clone(&strangers));
            self.tasks
                .spawn("node connection", OnPanic::Continue, async move {
                    this.connection(stream, &strangers).await;
                    drop(place);
                });
        }
    }

    async fn connection(&self, stream: TcpStream, strangers: &Semaphore) {
        // Without it each small answer waits for the peer's delayed ACK.
        let _cosmetic = stream.set_nodelay(true);
        let stream = match self.tls.accept(stream).await {
            Ok(stream) => stream,
            Err(error) => {
                self.metrics.handshake_failed();
                tracing::debug!(code = "ARX-HANDSHAKE", %error, "no connection");
                return;
            }
        };
        let caller = Caller::of(stream.peer(), &self.trust_domain);
        let stay = Stay::new(self, &caller);
        let (api, streams, _place) = match &caller {
            Caller::Node(_) => (self.api.clone(), STREAMS_OF_NODE, None),
            // A message is read before anybody is known.
            Caller::Stranger | Caller::Other(_) => {
                let place = tokio::time::timeout(PATIENCE, strangers.acquire()).await;
                let Ok(Ok(place)) = place else {
                    tracing::debug!(
                        code = "ARX-STRANGERS",
                        "too many are connected without a certificate: one was turned away"
                    );
                    return;
                };
                let api = self.api.clone();
                let api = api.max_decoding_message_size(STRANGERS_MESSAGE);
                (api, STREAMS_OF_STRANGER, Some(place))
            }
        };
        let service = Connection { caller, api };
        let _open = self.metrics.connection();
        let calls = Calls::default();
        let connection = protocol(&calls, streams).serve_connection(TokioIo::new(stream), service);
        run(Box::pin(connection), calls, stay.over(), &self.drain).await;
    }
}

/// Serves the admin API to the CA's own user and to root.
pub async fn serve_admin(
    listener: UnixListener,
    api: AdminServer<AdminApi>,
    tasks: Tasks,
    drain: Drain,
) {
    let connections = Arc::new(Semaphore::new(64));
    let own = rustix::process::geteuid().as_raw();
    loop {
        let accepted = tokio::select! {
            biased;
            () = drain.requested() => return,
            accepted = accept(&connections, || listener.accept()) => accepted,
        };
        let Some((place, (stream, _address))) = accepted else {
            continue;
        };
        match stream.peer_cred() {
            Ok(peer) if peer.uid() == 0 || peer.uid() == own => {}
            Ok(peer) => {
                tracing::warn!(
                    code = "ARX-ADMIN-REFUSED",
                    uid = peer.uid(),
                    "only root and the authority's own user may administer it"
                );
                continue;
            }
            Err(error) => {
                tracing::warn!(code = "ARX-ADMIN-REFUSED", %error, "who asks could not be found out");
                continue;
            }
        }
        let api = api.clone();
        let until = drain.clone();
        tasks.spawn("admin connection", OnPanic::Continue, async move {
            let service = Admin { api };
            let calls = Calls::default();
            let connection = protocol(&calls, STREAMS_OF_OPERATOR)
                .serve_connection(TokioIo::new(stream), service);
            run(Box::pin(connection), calls, std::future::pending(), &until).await;
            drop(place);
        });
    }
}

async fn accept<T, F>(
    places: &Arc<Semaphore>,
    next: impl FnOnce() -> F,
) -> Option<(tokio::sync::OwnedSemaphorePermit, T)>
where
    F: Future<Output = io::Result<T>>,
{
    let place = Arc::clone(places).acquire_owned().await.ok()?;
    match next().await {
        Ok(accepted) => Some((place, accepted)),
        Err(error) => {
            tracing::warn!(code = "ARX-ACCEPT", %error, "can't accept connections: if these are too many open files, raise the limit");
            tokio::time::sleep(ACCEPT_AGAIN).await;
            None
        }
    }
}

/// An agent asks for batches of some 20 KiB and reads little, so large windows win nothing.
fn protocol(calls: &Calls, streams: u32) -> http2::Builder<Calls> {
    let mut builder = http2::Builder::new(calls.clone());
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(64 * 1024)
        .initial_connection_window_size(512 * 1024)
        .max_send_buf_size(16 * 1024)
        .max_header_list_size(HEADERS)
        .max_concurrent_streams(streams)
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
    builder
}

/// Drives a connection until its peer ends it, or it has overstayed, or the process is
/// drained; what is being answered then is still answered, if that takes no longer than
/// [`ENDING`].
async fn run<S, IO>(
    mut connection: std::pin::Pin<Box<http2::Connection<TokioIo<IO>, S, Calls>>>,
    calls: Calls,
    over: impl Future<Output = ()>,
    drain: &Drain,
) where
    S: hyper::service::Service<
            Request<Incoming>,
            Response = Response<tonic::body::Body>,
            Error = Infallible,
        >,
    S::Future: Send + 'static,
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let mut running = Running::default();
    let ended = tokio::select! {
        ended = calls.clone().drive(connection.as_mut(), &mut running) => Some(ended),
        () = over => None,
        () = drain.requested() => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            let ending = calls.drive(connection.as_mut(), &mut running);
            match tokio::time::timeout(ENDING, ending).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}

/// Until when a connection may stay.
struct Stay {
    clock: Clock,
    trust: watch::Receiver<Arc<TrustBundle>>,
    until: Option<SystemTime>,
    root: Option<KeyId>,
}

impl Stay {
    fn new(nodes: &Nodes, caller: &Caller) -> Self {
        let (until, root) = match caller {
            Caller::Node(node) => (Some(node.not_after), node.issuers.last().copied()),
            Caller::Stranger | Caller::Other(_) => (None, None),
        };
        Self {
            clock: nodes.clock.clone(),
            trust: nodes.trust.clone(),
            until,
            root,
        }
    }

    /// Returns when it is over.
    async fn over(mut self) {
        let Some(until) = self.until else {
            return tokio::time::sleep(STRANGERS).await;
        };
        loop {
            if let Some(root) = self.root
                && self.trust.borrow_and_update().root(&root).is_none()
            {
                let [jitter] = arx_identity::crypto::random::<1>();
                return tokio::time::sleep(SPREAD * u32::from(jitter) / 256).await;
            }
            let Ok(left) = until.duration_since(self.clock.now()) else {
                return;
            };
            // Wall time can jump while we sleep, so we look again now and then.
            let look_again = left.clamp(Duration::from_millis(10), Duration::from_secs(60));
            tokio::select! {
                () = tokio::time::sleep(look_again) => {}
                changed = self.trust.changed() => if changed.is_err() { return },
            }
        }
    }
}

/// Tells the API who calls.
struct Connection {
    caller: Caller,
    api: NodeServer<NodeApi>,
}

impl hyper::service::Service<Request<Incoming>> for Connection {
    type Response = Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        request.extensions_mut().insert(self.caller.clone());
        let follow = request.uri().path() == FOLLOW;
        let call = self.api.clone().call(request);
        if follow {
            return call;
        }
        Box::pin(async move {
            match tokio::time::timeout(WHOLE_CALL, call).await {
                Ok(answer) => answer,
                Err(_) => Ok(tonic::Status::deadline_exceeded(
                    "the call did not come whole, or took too long",
                )
                .into_http()),
            }
        })
    }
}

struct Admin {
    api: AdminServer<AdminApi>,
}

impl hyper::service::Service<Request<Incoming>> for Admin {
    type Response = Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = <AdminServer<AdminApi> as tower_service::Service<Request<Incoming>>>::Future;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        self.api.clone().call(request)
    }
}

impl fmt::Debug for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Nodes of {}", self.trust_domain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Empty;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioExecutor;

    /// A call is under way that never ends.
    async fn lasts(over: impl Future<Output = ()>) -> Duration {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let client = async {
            let io = TokioIo::new(near);
            let (mut send, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
                    .await
                    .expect("a connection");
            let call = send.send_request(Request::new(Empty::<bytes::Bytes>::new()));
            let (ended, _answer) = tokio::join!(connection, call);
            drop(ended);
        };
        let service = service_fn(|_: Request<Incoming>| {
            std::future::pending::<Result<Response<tonic::body::Body>, Infallible>>()
        });
        let calls = Calls::default();
        let connection =
            protocol(&calls, STREAMS_OF_NODE).serve_connection(TokioIo::new(far), service);
        let drain = Drain::new(Duration::from_secs(3600));
        let begin = tokio::time::Instant::now();
        let served = async {
            run(Box::pin(connection), calls, over, &drain).await;
            begin.elapsed()
        };
        let (lasted, ()) = tokio::join!(served, client);
        lasted
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_is_over_is_cut_off_whatever_its_calls_do() {
        let minute = Duration::from_secs(60);
        let lasted = lasts(tokio::time::sleep(minute)).await;
        assert!(
            lasted >= minute && lasted < minute + 2 * ENDING,
            "{lasted:?}"
        );
    }
}
