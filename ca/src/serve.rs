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
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.drain.requested() => return,
                accepted = accept(&connections, || listener.accept()) => accepted,
            };
            let Some((place, (stream, _address))) = accepted else {
                continue;
            };
            let this = self.clone();
            self.tasks
                .spawn("node connection", OnPanic::Continue, async move {
                    this.connection(stream).await;
                    drop(place);
                });
        }
    }

    async fn connection(&self, stream: TcpStream) {
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
        let api = match &caller {
            Caller::Node(_) => self.api.clone(),
            // A message is read before anybody is known.
            Caller::Stranger | Caller::Other(_) => self
                .api
                .clone()
                .max_decoding_message_size(STRANGERS_MESSAGE),
        };
        let service = Connection { caller, api };
        let _open = self.metrics.connection();
        let calls = Calls::default();
        let connection = protocol(&calls).serve_connection(TokioIo::new(stream), service);
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
            let connection = protocol(&calls).serve_connection(TokioIo::new(stream), service);
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
fn protocol(calls: &Calls) -> http2::Builder<Calls> {
    let mut builder = http2::Builder::new(calls.clone());
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(64 * 1024)
        .initial_connection_window_size(512 * 1024)
        .max_send_buf_size(16 * 1024)
        .max_header_list_size(HEADERS)
        .max_concurrent_streams(256)
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
    builder
}

/// Drives a connection until its peer ends it, or it has `over`stayed, or the process is
/// drained; what is being answered then is still answered.
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
            calls.drive(connection.as_mut(), &mut running).await
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
    type Future = <NodeServer<NodeApi> as tower_service::Service<Request<Incoming>>>::Future;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        request.extensions_mut().insert(self.caller.clone());
        self.api.clone().call(request)
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
