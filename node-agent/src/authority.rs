//! The agent's side of the authority: it joins, stays connected, keeps the node's own
//! SVID alive and passes on what Follow says. It never gives up, and never ends because
//! something has expired.

mod connect;
mod failure;
mod follow;
mod join;
mod node;
pub(crate) mod spread;
mod unable;
mod way;

pub(crate) use connect::Channel;
pub use failure::CallFailure;
pub(crate) use node::NodeId;

use crate::config::Config;
use crate::metrics::Metrics;
use crate::renewal;
use crate::seed;
use arx_daemon::Clock;
use arx_daemon::drain::{Drain, OnPanic, Tasks};
use arx_daemon::ops::Condition;
use arx_identity::tls::TlsError;
use arx_identity::{Certificate, SpiffeId, Svid, TrustBundle, VerifiedPeer, crypto};
use arx_proto::node::v1::node_client::NodeClient;
use arx_proto::node::v1::{AgentMessage, Hello, IssueResult, RenewalHint, TrustUpdate, Welcome};
use bytes::Bytes;
use connect::{ConnectError, Connection};
use spread::Replicas;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};
use unable::Unable;
use way::{Found, Way};

/// The version of `arx.node.v1` that is spoken here.
const PROTOCOL: u32 = 1;
const FIRST_RETRY: Duration = Duration::from_millis(200);
/// A connection that was to be replaced is, within this.
const RECONNECT_SPREAD: Duration = Duration::from_secs(2);
/// The nodes of a replica that is away go to the others within this.
const FAILOVER_SPREAD: Duration = Duration::from_secs(1);
/// Sessions that ended before a Welcome until the node's certificate is suspected: with
/// TLS 1.3 a refused client certificate looks like a lost connection.
const SUSPICIOUS: u32 = 3;

/// What comes from the authority, in order.
#[derive(Debug)]
pub(crate) enum Event {
    /// The node has a new SVID.
    Node(Svid),
    /// Trust to be judged.
    Trust(TrustUpdate),
    /// A Follow has begun; what is sent into `up` goes to the authority.
    Following {
        /// The authority's first words.
        welcome: Welcome,
        /// Ends with the connection.
        up: mpsc::UnboundedSender<AgentMessage>,
    },
    /// There is no connection for the time being.
    Lost,
    /// Certificates to be renewed early.
    Renew(RenewalHint),
    /// The report of this ordinal has arrived.
    ReportSeen(u64),
}

/// How others call the authority: the connection as it is now.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    client: watch::Receiver<Option<NodeClient<Channel>>>,
    rejoin: Arc<Notify>,
    unable: Arc<Unable>,
}

impl Link {
    /// The client of the open connection; none while there is no connection.
    pub(crate) fn client(&self) -> Option<NodeClient<Channel>> {
        self.client.borrow().clone()
    }

    /// A call was refused because of the node's own certificate.
    pub(crate) fn node_was_refused(&self) {
        self.rejoin.notify_one();
    }

    /// What came of a call for certificates.
    pub(crate) fn answered(&self, answer: Result<&[IssueResult], &CallFailure>) {
        self.unable.note(answer);
    }
}

/// Why a session ended or never began.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    /// No roots to verify the authority with.
    #[error("no roots to trust: {0}; write them in PEM into authority.bundle_file")]
    NoAnchors(String),
    /// No token to join with.
    #[error("the token to join with cannot be read: {0}; look at authority.token_file")]
    NoToken(String),
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Join was answered with an error.
    #[error("the authority refuses to let this node join: {0}")]
    Join(CallFailure),
    /// Another call was.
    #[error("{0}")]
    Call(#[from] CallFailure),
    /// It goes on, and issues nothing to anybody.
    #[error(
        "the authority could issue nothing {} times in a row",
        unable::IN_A_ROW
    )]
    Unable,
    /// A certificate for another node.
    #[error(
        "the authority knows this agent as {got}, and by `cluster` and `node` of its configuration it is {own}: correct these, or give it the token of this node's agent (authority.token_file)"
    )]
    OtherNode {
        /// Whom the token proves.
        got: SpiffeId,
        /// Who the configuration says this is.
        own: SpiffeId,
    },
    /// An answer that makes no sense.
    #[error("the authority's answer is not usable: {0}")]
    Answer(String),
    /// Follow is over.
    #[error("the connection to the authority was lost: {0}")]
    Lost(String),
}

impl SessionError {
    fn code(&self) -> &'static str {
        match self {
            Self::NoAnchors(_) => "ARX-AGENT-BUNDLE-FILE",
            Self::NoToken(_) => "ARX-AGENT-TOKEN-FILE",
            Self::Connect(ConnectError::Tls {
                error: TlsError::PeerRefused(_) | TlsError::WrongPeer { .. },
                ..
            }) => "ARX-AGENT-AUTHORITY-UNTRUSTED",
            Self::Connect(_) => "ARX-AGENT-UNREACHABLE",
            Self::Join(_) => "ARX-AGENT-JOIN-REFUSED",
            Self::Call(_) => "ARX-AGENT-FOLLOW-REFUSED",
            Self::OtherNode { .. } => "ARX-AGENT-OTHER-NODE",
            Self::Answer(_) => "ARX-AGENT-PROTOCOL",
            Self::Lost(_) => "ARX-AGENT-UNREACHABLE",
            Self::Unable => "ARX-AGENT-FAILOVER",
        }
    }

    /// Whether no replica was asked.
    fn is_of_our_own(&self) -> bool {
        matches!(self, Self::NoAnchors(_) | Self::NoToken(_))
    }

    /// Whether the node is believed no more by whoever was asked, and a join there begins another
    /// line of certificates.
    fn asks_for_a_join(&self) -> bool {
        matches!(self, Self::Call(failure) if failure.refuses_the_node())
    }

    /// Whether every replica would say the same: it is about who this node is, not about one of
    /// them.
    fn is_about_the_node(&self) -> bool {
        match self {
            Self::OtherNode { .. } => true,
            Self::Join(failure) | Self::Call(failure) => failure.is_about_the_caller(),
            _ => self.is_of_our_own(),
        }
    }

    fn retry_after(&self) -> Duration {
        match self {
            Self::Join(failure) | Self::Call(failure) => failure.retry_after,
            _ => Duration::ZERO,
        }
    }
}

/// What a task for the authority is made from.
#[derive(Debug)]
pub(crate) struct Authority {
    pub(crate) config: Arc<Config>,
    pub(crate) clock: Clock,
    pub(crate) drain: Drain,
    pub(crate) tasks: Tasks,
    /// Who this node is, and who the authority must be.
    pub(crate) ids: NodeId,
    /// As the cache has it; none if it must join.
    pub(crate) svid: Option<Svid>,
    /// As old as the cache.
    pub(crate) cache_id: [u8; 16],
    /// What is held durably.
    pub(crate) trust: watch::Receiver<Option<TrustBundle>>,
    pub(crate) events: mpsc::Sender<Event>,
    /// Well while Follow is up.
    pub(crate) condition: Condition,
    pub(crate) metrics: Metrics,
}

/// The task at work.
struct Running {
    setup: Authority,
    instance_id: [u8; 16],
    client: watch::Sender<Option<NodeClient<Channel>>>,
    rejoin: Arc<Notify>,
    unable: Arc<Unable>,
    /// Who does not believe our certificate: to be joined although it is valid.
    refused_by: Option<SocketAddr>,
    /// Sessions in a row that ended before a Welcome.
    unwelcome: u32,
    renewal: node::Renewal,
    way: Way,
    replicas: Replicas,
    /// Its replica has said that it goes away.
    drained: bool,
    /// Whom this session is with.
    at: Option<SocketAddr>,
    /// Where the node belongs, to be gone to next: it has answered already.
    next: Option<(NodeClient<Channel>, VerifiedPeer, SocketAddr)>,
}

impl Authority {
    /// Starts the task, which ends with the process.
    pub(crate) fn start(self) -> Link {
        let (client, receiver) = watch::channel(None);
        let rejoin = Arc::new(Notify::new());
        let unable = Arc::new(Unable::default());
        let link = Link {
            client: receiver,
            rejoin: Arc::clone(&rejoin),
            unable: Arc::clone(&unable),
        };
        let (tasks, drain) = (self.tasks.clone(), self.drain.clone());
        tasks.spawn("authority", OnPanic::End, async move {
            // The first random number of a process takes tens of milliseconds, in which a
            // proxy could already be served from the cache: not on the runtime's thread.
            let instance_id = tokio::task::spawn_blocking(crypto::random::<16>).await;
            let instance_id = instance_id.unwrap_or_default();
            let running = Running::new(self, instance_id, client, rejoin, unable);
            tokio::select! {
                () = running.run() => {}
                () = drain.requested() => {}
            }
        });
        link
    }
}

impl Running {
    fn new(
        setup: Authority,
        instance_id: [u8; 16],
        client: watch::Sender<Option<NodeClient<Channel>>>,
        rejoin: Arc<Notify>,
        unable: Arc<Unable>,
    ) -> Self {
        let way = Way {
            config: Arc::clone(&setup.config),
            ids: setup.ids.clone(),
            trust: setup.trust.clone(),
        };
        Self {
            instance_id,
            way,
            setup,
            client,
            rejoin,
            unable,
            refused_by: None,
            unwelcome: 0,
            renewal: node::Renewal::default(),
            replicas: Replicas::default(),
            drained: false,
            at: None,
            next: None,
        }
    }

    async fn run(mut self) {
        let mut failures = 0u32;
        loop {
            let ended = Box::pin(self.session()).await;
            let wait = self.wait_after(ended, &mut failures).await;
            tokio::time::sleep(wait).await;
        }
    }

    /// How long until the next session.
    async fn wait_after(
        &mut self,
        ended: Result<(), SessionError>,
        failures: &mut u32,
    ) -> Duration {
        let Err(error) = ended else {
            *failures = 0;
            return if self.next.is_some() {
                Duration::ZERO
            } else if std::mem::take(&mut self.drained) {
                self.within(FAILOVER_SPREAD)
            } else {
                self.within(RECONNECT_SPREAD)
            };
        };
        let was_up = self.client.send_replace(None).is_some();
        if was_up {
            *failures = 0;
            let _ = self.setup.events.send(Event::Lost).await;
        }
        *failures = failures.saturating_add(1);
        tracing::debug!(code = error.code(), %error, failures, "session failed");
        self.setup
            .condition
            .set_failing(error.code(), error.to_string());
        self.until_next(&error, *failures)
    }

    /// After a failure: how long until the next attempt.
    fn until_next(&mut self, error: &SessionError, failures: u32) -> Duration {
        let longest = self.setup.config.authority.longest_retry.get();
        let about_the_node = error.is_about_the_node();
        let asked = self.at.take();
        let has_failed = !error.is_of_our_own() && !error.asks_for_a_join();
        if let Some(failed) = asked.filter(|_| has_failed) {
            match error {
                SessionError::Unable => self.replicas.is_unable(failed),
                _ => self.replicas.failed(failed, error.retry_after()),
            }
            if !about_the_node && self.replicas.has_another() {
                self.setup.metrics.failovers.inc();
                tracing::warn!(
                    code = "ARX-AGENT-FAILOVER",
                    address = %failed,
                    "this replica of the authority is left: the next one is tried"
                );
                return self.within(FAILOVER_SPREAD.min(longest));
            }
        }
        let draw = u64::from(self.draw());
        let wait = renewal::backoff(failures, FIRST_RETRY.min(longest), longest, draw);
        // One that is busy is left alone as long as it wants; what it says of the node, the others
        // would say too.
        wait.max(if about_the_node {
            error.retry_after()
        } else {
            self.replicas.until_next()
        })
    }

    fn within(&self, most: Duration) -> Duration {
        most.mul_f64(f64::from(self.draw() % 1000) / 1000.0)
    }

    /// From connecting to the end of Follow; `Ok` if it is to be replaced by another.
    async fn session(&mut self) -> Result<(), SessionError> {
        if self.has_expired() || self.refused_by.is_some() || self.unwelcome >= SUSPICIOUS {
            if let Err(error) = self.join().await {
                self.may_be_believed_elsewhere();
                return Err(error);
            }
            self.refused_by = None;
            self.unwelcome = 0;
        }
        let svid = self.setup.svid.clone();
        let (client, peer) = match self.next.take() {
            Some((client, peer, address)) => {
                self.at = Some(address);
                (client, peer)
            }
            None => {
                let connection = self.connect(svid.as_ref()).await?;
                self.drive(connection)
            }
        };
        self.unwelcome += 1;
        self.follow(client, peer).await
    }

    /// It is to join where it is believed no more.
    fn is_believed_no_more(&mut self) {
        self.refused_by = self.at;
    }

    /// It could not join where it is believed no more: another replica may believe the certificate
    /// that it has.
    fn may_be_believed_elsewhere(&mut self) {
        if let Some(by) = self.refused_by
            && self.replicas.has_another_than(Some(by))
        {
            self.replicas.failed(by, Duration::ZERO);
            self.refused_by = None;
        }
    }

    /// Also if there is none.
    fn has_expired(&self) -> bool {
        let now = self.setup.clock.now();
        let svid = self.setup.svid.as_ref();
        svid.is_none_or(|svid| svid.not_after() <= now)
    }

    /// To the replica that is the next one to be tried.
    async fn connect(&mut self, svid: Option<&Svid>) -> Result<Connection, SessionError> {
        self.at = None;
        let known = self.way.look_up().await?;
        self.replicas.take(known);
        let Some(target) = self.replicas.choose() else {
            return Err(SessionError::Lost("it has no address".to_owned()));
        };
        self.at = Some(target.address);
        self.way.dial(&target, svid).await
    }

    /// Takes what was found on the way back; whether the node goes there now.
    fn comes_back(&mut self, found: Result<Found, SessionError>) -> bool {
        let Found { known, own } = match found {
            Ok(found) => found,
            Err(error) => {
                tracing::debug!(%error, "no replica can be looked up: staying");
                return false;
            }
        };
        self.replicas.take(known);
        let Some((target, answer)) = own else {
            return false;
        };
        match answer {
            Ok(connection) => {
                tracing::info!(address = %target.address, "going back to the replica of this node");
                self.replicas.is_well(target.address);
                let (client, peer) = self.drive(connection);
                self.next = Some((client, peer, target.address));
                true
            }
            Err(error) => {
                tracing::debug!(%error, "the replica of this node does not answer: staying");
                self.replicas.failed(target.address, error.retry_after());
                false
            }
        }
    }

    /// Lets the connection work until nobody uses it any more.
    fn drive(&self, connection: Connection) -> (NodeClient<Channel>, VerifiedPeer) {
        let Connection {
            client,
            peer,
            driver,
        } = connection;
        let drain = self.setup.drain.clone();
        let tasks = &self.setup.tasks;
        tasks.spawn("authority_connection", OnPanic::Continue, async move {
            tokio::select! {
                ended = driver => if let Err(error) = ended {
                    tracing::debug!(%error, "connection to the authority ended");
                },
                () = drain.requested() => {}
            }
        });
        (client, peer)
    }

    fn anchors(&self) -> Result<Vec<TrustBundle>, SessionError> {
        self.way.anchors()
    }

    fn hello(&self) -> Hello {
        let trust = self.setup.trust.borrow();
        let position = |b: &TrustBundle| crate::wire::position(b.sequence(), &b.sha256());
        let roots = trust.iter().flat_map(TrustBundle::roots);
        let ids = roots.filter_map(Certificate::subject_key_id);
        Hello {
            min_version: PROTOCOL,
            max_version: PROTOCOL,
            features: Vec::new(),
            instance_id: Bytes::copy_from_slice(&self.instance_id),
            cache_id: Bytes::copy_from_slice(&self.setup.cache_id),
            boot_id: crate::attest::peer::boot_id().to_string(),
            clock_unix_ms: crate::wire::unix_ms(self.setup.clock.now()),
            trust: trust.iter().map(position).collect(),
            software: concat!("arx-node-agent/", env!("CARGO_PKG_VERSION")).to_owned(),
            root_key_ids: ids
                .map(|id| Bytes::copy_from_slice(id.as_bytes()))
                .collect(),
        }
    }

    fn draw(&self) -> u32 {
        seed::random() as u32
    }

    async fn tell(&self, event: Event) {
        // Nobody listens only while the process ends.
        let _ = self.setup.events.send(event).await;
    }
}

fn is_welcome(welcome: &Welcome, trust_domain: &SpiffeId) -> Result<(), SessionError> {
    if welcome.version != PROTOCOL {
        return Err(SessionError::Answer(format!(
            "it chose version {} of the protocol, which this agent does not speak",
            welcome.version
        )));
    }
    let ours = trust_domain.trust_domain().as_str();
    if welcome.trust_domain != ours {
        let theirs: String = welcome.trust_domain.chars().take(256).collect();
        return Err(SessionError::Answer(format!(
            "it is of the trust domain {theirs:?}, not {ours:?}"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
