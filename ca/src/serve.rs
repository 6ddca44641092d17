//! Accepting connections: TLS for the nodes, a Unix socket for the operator. What is
//! said on them is [`node_api`](crate::node_api)'s and [`admin`](crate::admin)'s affair.
//!
//! Nobody can hold a connection longer than they are entitled to: strangers get a minute,
//! nodes until their certificate ends or its root is no longer trusted. Nobody can hold more
//! than their share of connections, calls and memory.

mod local;
mod message;
mod operator;

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arx_daemon::Clock;
use arx_daemon::calls::{Calls, Running};
use arx_daemon::drain::{Drain, OnPanic, Tasks};
use arx_daemon::places::{Place, Places};
use arx_identity::{KeyId, TrustBundle, tls};
use arx_proto::nested::v1::nested_server::NestedServer;
use arx_proto::node::v1::node_server::NodeServer;
use arx_proto::peer::v1::peer_server::PeerServer;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::rt::bounds::Http2ServerConnExec;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tower_service::Service as _;

use crate::ca::Ca;
use crate::caller::{Caller, NodeName};
use crate::metrics::OpenConnection;
use crate::nested::Api as NestedApi;
use crate::node_api::Api as NodeApi;
use crate::peer::Api as PeerApi;
use crate::refusal::{Fault, Peer, Refusal};
use crate::share::Shares;
pub use local::serve_admin;
use message::{Metered, Taken};
pub use operator::{Answers, Operator};

/// How long somebody without a certificate may stay: long enough for one join.
const STRANGERS: Duration = Duration::from_secs(60);
/// Largest message of somebody without a certificate: a join has some 500 bytes.
const STRANGERS_MESSAGE: usize = 64 * 1024;
/// When nothing was heard of a peer for so long, it is asked whether it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// And given up when it does not answer within this.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// So a peer that is gone without a word is given up within this.
pub(crate) const GIVEN_UP: Duration = KEEP_ALIVE.saturating_add(KEEP_ALIVE_TIMEOUT);
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
/// Connections of one node at a time. An agent has one, and for a moment a second when it takes
/// another certificate; what is beyond them was left behind by a network that broke, or belongs
/// to somebody else who has the node's key.
const OF_NODE: usize = 8;
/// Calls at a time on a connection: of somebody without a certificate, who wants to join once;
/// of a node.
const STREAMS_OF_STRANGER: u32 = 4;
const STREAMS_OF_NODE: u32 = 64;
/// Of all connections, one in so many may be of those without a certificate; as many more may
/// wait for such a place, and as many be in their handshake, of which the oldest goes first.
/// The rest is left to nodes.
const SHARE_OF_STRANGERS: usize = 4;
/// How long one of them waits for its place.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of one node's messages that may be under way, whole or not: two of the largest.
const BYTES_OF_NODE: usize = 2 * message::LARGEST;
/// The one call that goes on for as long as the connection.
const FOLLOW: &str = "/arx.node.v1.Node/Follow";
/// The one call that is open to everybody.
const JOIN: &str = "/arx.node.v1.Node/Join";
/// The calls of authorities below begin so.
const NESTED: &str = "/arx.nested.v1.Nested/";
/// And those of other replicas.
const PEER: &str = "/arx.peer.v1.Peer/";
/// Connections whose root left the bundle close within this, not all at once.
const SPREAD: Duration = Duration::from_secs(5);

/// Serves the node API.
pub struct Nodes {
    ca: Arc<Ca>,
    tls: Arc<tls::Server>,
    /// Connections are its tasks.
    tasks: Tasks,
    api: NodeServer<NodeApi>,
    api_of_strangers: NodeServer<NodeApi>,
    nested: NestedServer<NestedApi>,
    peer: PeerServer<PeerApi>,
    places: Places<NodeName>,
    handshakes: Places<()>,
    strangers: Semaphore,
    waiting: Semaphore,
    bytes: Shares,
}

impl Nodes {
    /// Answers on behalf of `ca`, at most `most` connections at a time. `tls` presents the
    /// serving certificate of the moment.
    #[must_use]
    pub fn new(ca: Arc<Ca>, tls: Arc<tls::Server>, tasks: Tasks, most: usize) -> Self {
        let api = NodeServer::new(NodeApi::new(Arc::clone(&ca)));
        let nested = NestedServer::new(NestedApi::new(Arc::clone(&ca)));
        let peer = PeerServer::new(PeerApi::new(Arc::clone(&ca)));
        let share = (most / SHARE_OF_STRANGERS).max(1);
        Self {
            ca,
            tls,
            tasks,
            api: api.clone().max_decoding_message_size(message::LARGEST),
            api_of_strangers: api.max_decoding_message_size(STRANGERS_MESSAGE),
            nested: nested.max_decoding_message_size(STRANGERS_MESSAGE),
            peer: peer.max_decoding_message_size(STRANGERS_MESSAGE),
            places: Places::new(OF_NODE),
            // Nodes must get in, whoever else calls.
            handshakes: Places::new(share),
            strangers: Semaphore::new(share),
            waiting: Semaphore::new(share),
            bytes: Shares::of_bytes(BYTES_OF_NODE),
        }
    }

    /// Accepts until drained; connections beyond `most` wait in the backlog.
    pub async fn serve(self, listener: TcpListener, most: usize) {
        let connections = Arc::new(Semaphore::new(most));
        // Shared, and not copied: each of many thousand connections holds it.
        let this = Arc::new(self);
        loop {
            let accepted = tokio::select! {
                biased;
                () = this.ca.drain.requested() => return,
                accepted = accept(&connections, || listener.accept()) => accepted,
            };
            let Some((place, (stream, address))) = accepted else {
                continue;
            };
            let nodes = Arc::clone(&this);
            this.tasks
                .spawn("node connection", OnPanic::Continue, async move {
                    nodes.connection(stream, address.ip()).await;
                    drop(place);
                });
        }
    }

    async fn connection(self: &Arc<Self>, stream: TcpStream, address: IpAddr) {
        // Boxed, so that nothing of it stays for as long as the connection.
        let Some(mut begun) = Box::pin(self.begin(stream, address)).await else {
            return;
        };
        let Begun {
            connection,
            calls,
            stay,
            place,
            ..
        } = &mut begun;
        tokio::select! {
            () = run(connection.as_mut(), calls, stay.over(), &self.ca.drain) => {}
            // At once: whoever goes on calling must not keep it.
            name = lost(place.as_ref()) => {
                let peer = Peer::Node(name.clone());
                self.ca.refused(&lost_its_place(), &peer, "connection closed");
            }
        }
    }

    /// Finds out who is there, and whether there is a place for them.
    async fn begin(self: &Arc<Self>, stream: TcpStream, address: IpAddr) -> Option<Begun<'_>> {
        // Without it each small answer waits for the peer's delayed ACK.
        let _cosmetic = stream.set_nodelay(true);
        let stream = self.handshake(stream).await?;
        let caller = Caller::of(stream.peer(), &self.ca.trust_domain);
        // A node that was cut off may join again, as a stranger may.
        let node = match &caller {
            Caller::Node(node) if self.ca.admit_node(node).is_ok() => Some(Arc::clone(node)),
            _ => None,
        };
        let calls = Calls::default();
        let (streams, stay, place, stranger) = match &node {
            Some(node) => (
                STREAMS_OF_NODE,
                Stay::node(&self.ca, node.not_after, node.issuers.last().copied()),
                Some(self.places.take(node.name.clone())),
                None,
            ),
            // A message is read before anybody is known.
            None => (
                STREAMS_OF_STRANGER,
                Stay::stranger(&self.ca),
                None,
                Some(self.place_of_stranger().await?),
            ),
        };
        let service = Connection {
            nodes: Arc::clone(self),
            caller,
            address,
            stranger: node.is_none(),
        };
        let connection = protocol(&calls, streams).serve_connection(TokioIo::new(stream), service);
        Some(Begun {
            connection: Box::pin(connection),
            calls,
            stay,
            place,
            _stranger: stranger,
            _open: self.ca.metrics.connection(),
        })
    }

    async fn handshake(&self, stream: TcpStream) -> Option<tls::ServerStream<TcpStream>> {
        let place = self.handshakes.take(());
        let accepted = tokio::select! {
            accepted = self.tls.accept(stream) => accepted.map_err(|error| error.to_string()),
            _ = place.lost() => Err("too many have not ended their handshake".to_owned()),
        };
        accepted
            .inspect_err(|error| {
                self.ca.metrics.handshake_failed();
                tracing::debug!(code = "ARX-HANDSHAKE", %error, "no connection");
            })
            .ok()
    }

    async fn place_of_stranger(&self) -> Option<SemaphorePermit<'_>> {
        let place = match self.waiting.try_acquire() {
            Ok(_waiting) => {
                let place = tokio::time::timeout(PATIENCE, self.strangers.acquire());
                place.await.ok().and_then(Result::ok)
            }
            Err(_) => None,
        };
        if place.is_none() {
            tracing::debug!(
                code = "ARX-STRANGERS",
                "too many are connected without a certificate: one was turned away"
            );
        }
        place
    }

    /// Why `caller` gets nothing but a join, if that is so, before anything of it is read.
    fn turned_away(&self, caller: &Caller, path: &str) -> Option<Refusal> {
        match caller {
            Caller::Node(node) if path != JOIN => self.ca.admit_node(node).err(),
            _ => None,
        }
    }
}

/// A connection of somebody who has a place.
struct Begun<'a> {
    connection: Pin<Box<Http2>>,
    calls: Calls,
    stay: Stay<'a>,
    place: Option<Place<'a, NodeName>>,
    _stranger: Option<SemaphorePermit<'a>>,
    _open: OpenConnection,
}

type Http2 = http2::Connection<TokioIo<tls::ServerStream<TcpStream>>, Connection, Calls>;

/// Returns when a node has lost its place.
async fn lost<'a>(place: Option<&'a Place<'_, NodeName>>) -> &'a NodeName {
    match place {
        Some(place) => place.lost().await,
        None => std::future::pending().await,
    }
}

/// Why a connection that has lost its place is closed.
fn lost_its_place() -> Refusal {
    Refusal::new(
        "ARX-NODE-CONNECTIONS",
        Fault::Overload,
        format!(
            "one node has at most {OF_NODE} connections, and its oldest was closed for a new one: if that goes on, look at what connects with this node's certificate"
        ),
    )
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
fn protocol<E: Clone>(calls: &E, streams: u32) -> http2::Builder<E> {
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
async fn run<S, IO, E>(
    mut connection: Pin<&mut http2::Connection<TokioIo<IO>, S, E>>,
    calls: &Calls,
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
    E: Http2ServerConnExec<S::Future, tonic::body::Body>,
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
            let ending = calls.clone().drive(connection.as_mut(), &mut running);
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
struct Stay<'a> {
    clock: &'a Clock,
    trust: watch::Receiver<Arc<TrustBundle>>,
    until: Option<SystemTime>,
    root: Option<KeyId>,
}

impl<'a> Stay<'a> {
    fn node(ca: &'a Ca, until: SystemTime, root: Option<KeyId>) -> Self {
        Self {
            until: Some(until),
            root,
            ..Self::stranger(ca)
        }
    }

    fn stranger(ca: &'a Ca) -> Self {
        Self {
            clock: &ca.clock,
            trust: ca.trust.watch(),
            until: None,
            root: None,
        }
    }

    /// Returns when it is over.
    async fn over(&mut self) {
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
    nodes: Arc<Nodes>,
    caller: Caller,
    address: IpAddr,
    /// Without a certificate that counts.
    stranger: bool,
}

impl hyper::service::Service<Request<Incoming>> for Connection {
    type Response = Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let path = request.uri().path();
        let (follow, nested) = (path == FOLLOW, path.starts_with(NESTED));
        let replicas = path.starts_with(PEER);
        let peer = Peer::of(&self.caller, self.address);
        if let Some(refusal) = self.nodes.turned_away(&self.caller, path) {
            self.nodes.ca.refused(&refusal, &peer, "call refused");
            return Box::pin(std::future::ready(Ok(
                tonic::Status::from(refusal).into_http()
            )));
        }
        request.extensions_mut().insert(self.caller.clone());
        request.extensions_mut().insert(peer);
        if nested {
            let mut api = self.nodes.nested.clone();
            return whole(api.call(request));
        }
        if replicas {
            let mut api = self.nodes.peer.clone();
            return whole(api.call(request));
        }
        let node = match &self.caller {
            Caller::Node(node) if !self.stranger => node,
            _ => {
                let mut api = self.nodes.api_of_strangers.clone();
                return whole(api.call(request));
            }
        };
        let share = self.nodes.bytes.of(&node.name);
        let ca = Arc::clone(&self.nodes.ca);
        let mut api = self.nodes.api.clone();
        if follow {
            return api.call(request.map(|body| Metered::stream(body, share, ca)));
        }
        let taken = Taken::new(share);
        let held = taken.clone();
        let call = api.call(request.map(|body| Metered::call(body, taken, ca)));
        whole(async move {
            let answer = call.await;
            drop(held);
            answer
        })
    }
}

/// The answer to a call that has to be over within [`WHOLE_CALL`].
fn whole<F>(call: F) -> BoxFuture<'static, Result<Response<tonic::body::Body>, Infallible>>
where
    F: Future<Output = Result<Response<tonic::body::Body>, Infallible>> + Send + 'static,
{
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

impl fmt::Debug for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Nodes of {}", self.ca.trust_domain)
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
            run(std::pin::pin!(connection), &calls, over, &drain).await;
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
