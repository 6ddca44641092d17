//! An authority that speaks `arx.node.v1` over real TLS with real certificates, decides
//! as a test tells it to, and remembers what it was told.

use super::{Authority, bundle, id, trust_domain};
use crate::attest::ServiceAccountToken;
use crate::wire;
use arx_daemon::drain::{Drain, OnPanic, Tasks};
use arx_identity::tls::Server;
use arx_identity::{Certificate, KeyPolicy, SpiffeId, TrustBundle, VerifiedCsr};
use arx_proto::google::rpc;
use arx_proto::node::v1::node_server::{Node, NodeServer};
use arx_proto::node::v1::*;
use bytes::Bytes;
use futures_util::stream::{BoxStream, StreamExt, poll_fn};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Poll;
use std::time::{Duration, SystemTime};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tonic::{Code, Request, Response, Status, Streaming};
use tower_service::Service;

pub(crate) const NODE: &str = "/arx/node/demo/node-1";

/// What the authority was told, as it came.
#[derive(Debug)]
pub(crate) enum Told {
    Join,
    Issue(Vec<IssueItem>),
    Up(AgentMessage),
}

/// How it decides.
#[derive(Debug)]
pub(crate) struct Mind {
    pub(crate) authority: Authority,
    pub(crate) bundle: TrustBundle,
    pub(crate) ttl: Duration,
    pub(crate) node_ttl: Duration,
    /// Signatures of tokens that are no tokens.
    pub(crate) forged: HashSet<String>,
    pub(crate) refuse_local: bool,
    follows: Vec<mpsc::UnboundedSender<AuthorityMessage>>,
    silent: Vec<mpsc::UnboundedSender<AuthorityMessage>>,
}

/// How one replica of it behaves.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum Manner {
    #[default]
    Good,
    /// Takes a Follow, and never answers it.
    Mute,
    /// Refuses whoever joins or follows with this code, and wants to be left alone for so long.
    Refuses(Code, Duration),
    /// Nodes join and follow, and nothing is issued.
    Paused,
    /// Believes only certificates of the line that begins with the next join at it.
    Forgot,
}

/// The authority at work.
#[derive(Clone, Debug)]
pub(crate) struct Ca {
    pub(crate) address: String,
    mind: Arc<Mutex<Mind>>,
    manner: Arc<Mutex<Manner>>,
    told: mpsc::UnboundedSender<Told>,
}

/// What a test holds of it: it ends when this is dropped or stopped.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) ca: Ca,
    pub(crate) told: mpsc::UnboundedReceiver<Told>,
    states: Vec<SubscriberState>,
    stop: watch::Sender<bool>,
}

#[expect(clippy::disallowed_methods, reason = "TLS goes by the machine's clock")]
pub(crate) fn now() -> SystemTime {
    SystemTime::now()
}

impl Running {
    pub(crate) async fn start() -> Self {
        let authority = Authority::made(now());
        let bundle = bundle(1, &[&authority.root]);
        let mind = Arc::new(Mutex::new(Mind {
            authority,
            bundle,
            ttl: Duration::from_secs(3600),
            node_ttl: Duration::from_secs(3600),
            forged: HashSet::new(),
            refuse_local: false,
            follows: Vec::new(),
            silent: Vec::new(),
        }));
        Self::listen("127.0.0.1:0", mind).await
    }

    async fn listen(address: &str, mind: Arc<Mutex<Mind>>) -> Self {
        let listener = TcpListener::bind(address).await.expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let (told, receiver) = mpsc::unbounded_channel();
        let ca = Ca {
            address,
            mind,
            manner: Arc::default(),
            told,
        };
        let (stop, stopped) = watch::channel(false);
        let drain = Drain::new(Duration::from_secs(1));
        Tasks::new(&drain).spawn("ca", OnPanic::Continue, ca.clone().serve(listener, stopped));
        Self {
            ca,
            told: receiver,
            states: Vec::new(),
            stop,
        }
    }

    /// Closes the port and every connection.
    pub(crate) async fn stop(&mut self) {
        self.stop.send_replace(true);
        self.end_follows();
        self.stop.closed().await;
    }

    /// Ends every Follow, and no connection.
    pub(crate) fn end_follows(&self) {
        self.mind().follows.clear();
    }

    /// From now on.
    pub(crate) fn behaves(&self, manner: Manner) {
        *self.ca.manner.lock().expect("no test panics with it") = manner;
    }

    /// The same authority on the same port.
    pub(crate) async fn again(&mut self) {
        self.stop().await;
        *self = Self::listen(&self.ca.address, Arc::clone(&self.ca.mind)).await;
    }

    /// Another replica of the same authority.
    pub(crate) async fn beside(&self, address: &str) -> Self {
        Self::listen(address, Arc::clone(&self.ca.mind)).await
    }

    pub(crate) fn mind(&self) -> MutexGuard<'_, Mind> {
        self.ca.mind()
    }

    /// Sends something down every Follow.
    pub(crate) fn say(&self, message: authority_message::Message) {
        let message = AuthorityMessage {
            message: Some(message),
        };
        let mut mind = self.mind();
        mind.follows
            .retain(|follow| follow.send(message.clone()).is_ok());
    }

    /// Publishes these roots at a sequence.
    pub(crate) fn publish(&self, number: u64, roots: &[&Certificate]) {
        let bundle = bundle(number, roots);
        self.mind().bundle = bundle.clone();
        self.say(authority_message::Message::Trust(update(&bundle)));
    }

    /// Waits until it is told something of which `wanted` makes something.
    pub(crate) async fn hear<T>(&mut self, mut wanted: impl FnMut(&Told) -> Option<T>) -> T {
        loop {
            let told = self.told.recv().await.expect("the authority is there");
            if let Some(found) = wanted(&told) {
                return found;
            }
        }
    }

    /// Waits for a subscriber's state in a report that was not asked for before.
    pub(crate) async fn hear_state(
        &mut self,
        mut wanted: impl FnMut(&SubscriberState) -> bool,
    ) -> SubscriberState {
        loop {
            if let Some(place) = self.states.iter().position(&mut wanted) {
                return self.states.remove(place);
            }
            let told = self.told.recv().await.expect("the authority is there");
            if let Told::Up(AgentMessage {
                message: Some(agent_message::Message::Subscribers(report)),
            }) = told
            {
                // A report tells how things stand: what was said before is over.
                let resource =
                    |s: &SubscriberState| s.subscriber.as_ref().map(|s| s.resource_name.clone());
                for state in report.states {
                    self.states.retain(|s| resource(s) != resource(&state));
                    self.states.push(state);
                }
            }
        }
    }
}

fn refusal(code: Code, after: Duration) -> Status {
    let info = rpc::RetryInfo {
        retry_delay: after.try_into().ok(),
    };
    let details = rpc::Status {
        details: vec![prost_types::Any {
            type_url: "type.googleapis.com/google.rpc.RetryInfo".into(),
            value: info.encode_to_vec(),
        }],
        ..rpc::Status::default()
    };
    Status::with_details(code, "as the test wants it", details.encode_to_vec().into())
}

pub(crate) fn update(bundle: &TrustBundle) -> TrustUpdate {
    TrustUpdate {
        position: Some(wire::position(bundle.sequence(), &bundle.sha256())),
        trust_domain: bundle.trust_domain().to_string(),
        roots: bundle.roots().iter().map(der).collect(),
    }
}

fn der(certificate: &Certificate) -> Bytes {
    Bytes::copy_from_slice(certificate.der())
}

impl Ca {
    pub(crate) fn mind(&self) -> MutexGuard<'_, Mind> {
        self.mind.lock().expect("no test panics with it")
    }

    async fn serve(self, listener: TcpListener, mut stopped: watch::Receiver<bool>) {
        let tls = {
            let mind = self.mind();
            let svid = mind
                .authority
                .svid("/arx/ca", now(), Duration::from_secs(3600));
            Arc::new(Server::new(&svid, &mind.bundle).expect("a good SVID"))
        };
        let mut connections = tokio::task::JoinSet::new();
        loop {
            let stream = tokio::select! {
                accepted = listener.accept() => accepted.expect("accepts").0,
                _ = stopped.changed() => return,
            };
            let (ca, tls) = (self.clone(), Arc::clone(&tls));
            connections.spawn(async move {
                let Ok(stream) = tls.accept(stream).await else {
                    return;
                };
                let peer = stream.peer().map(|peer| peer.id.clone());
                let service = NodeServer::new(ca);
                let answer =
                    service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
                        if let Some(peer) = &peer {
                            request.extensions_mut().insert(peer.clone());
                        }
                        service.clone().call(request)
                    });
                let _ = http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), answer)
                    .await;
            });
        }
    }

    fn manner(&self) -> Manner {
        *self.manner.lock().expect("no test panics with it")
    }

    fn admit(&self) -> Result<(), Status> {
        match self.manner() {
            Manner::Good | Manner::Mute | Manner::Paused => Ok(()),
            Manner::Refuses(code, after) => Err(refusal(code, after)),
            Manner::Forgot => Err(refusal(Code::Unauthenticated, Duration::ZERO)),
        }
    }

    fn tell(&self, told: Told) {
        let _ = self.told.send(told);
    }

    fn welcome(&self) -> Welcome {
        let mind = self.mind();
        let (sequence, sha256) = (mind.bundle.sequence(), mind.bundle.sha256());
        Welcome {
            version: 1,
            trust_domain: trust_domain().to_string(),
            replica_id: self.address.clone(),
            trust: vec![wire::position(sequence, &sha256)],
            ..Welcome::default()
        }
    }

    fn issued(&self, csr: &[u8], id: &SpiffeId, ttl: Duration) -> Result<Issued, Status> {
        let csr = VerifiedCsr::verify(csr, &KeyPolicy::default());
        let csr = csr.map_err(|error| Status::invalid_argument(error.to_string()))?;
        let mind = self.mind();
        let chain = mind.authority.issue(csr.public_key(), id, now(), ttl);
        let sequence = mind.bundle.sequence();
        Ok(Issued {
            spiffe_id: id.to_string(),
            chain: chain.certificates().iter().map(der).collect(),
            bundle_sequence: Some(Sequence {
                epoch: sequence.epoch,
                number: sequence.number,
            }),
        })
    }

    fn decide(&self, item: &IssueItem, caller: &SpiffeId) -> issue_result::Outcome {
        let refuse = |code: &str, retry_after_ms| {
            issue_result::Outcome::Refused(Refusal {
                code: code.into(),
                message: "as the test wants it".into(),
                grpc_code: 7,
                retry_after_ms,
            })
        };
        if matches!(self.manner(), Manner::Paused) {
            return refuse("ARX-LEDGER-PAUSED", 100);
        }
        let (ttl, node_ttl, refuse_local) = {
            let mind = self.mind();
            (mind.ttl, mind.node_ttl, mind.refuse_local)
        };
        let (id, ttl) = match &item.evidence {
            Some(issue_item::Evidence::Node(_)) => (caller.clone(), node_ttl),
            Some(issue_item::Evidence::Local(_)) if refuse_local => {
                return refuse("ARX-POLICY-NO-RULE", 0);
            }
            Some(issue_item::Evidence::Local(process)) => {
                (id(&format!("/local/{}", process.uid)), ttl)
            }
            Some(issue_item::Evidence::ServiceAccountToken(token)) => {
                let signature = token.rsplit('.').next().unwrap_or_default();
                if self.mind().forged.contains(signature) {
                    return refuse("ARX-TOKEN-SIGNATURE", 0);
                }
                let token = ServiceAccountToken::new(token).expect("the agent has read it");
                let account = token.claims().subject.account.clone();
                let name = account.rsplit(':').next().unwrap_or_default().to_owned();
                (id(&format!("/sa/{name}")), ttl)
            }
            Some(issue_item::Evidence::PodUid(uid)) => (id(&format!("/pod/{uid}")), ttl),
            None => return refuse("ARX-EVIDENCE-MISSING", 0),
        };
        match self.issued(&item.csr, &id, ttl) {
            Ok(issued) => issue_result::Outcome::Issued(issued),
            Err(_) => refuse("ARX-CSR-MALFORMED", 0),
        }
    }
}

#[tonic::async_trait]
impl Node for Ca {
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        self.tell(Told::Join);
        let mut manner = self.manner.lock().expect("no test panics with it");
        if matches!(*manner, Manner::Forgot) {
            *manner = Manner::Good;
        }
        drop(manner);
        self.admit()?;
        let bearer = request.metadata().get("authorization");
        if bearer.is_none_or(|value| !value.as_bytes().starts_with(b"Bearer ")) {
            return Err(Status::unauthenticated("no token"));
        }
        let node_ttl = self.mind().node_ttl;
        let node = self.issued(&request.get_ref().csr, &id(NODE), node_ttl)?;
        let trust = update(&self.mind().bundle);
        Ok(Response::new(JoinResponse {
            welcome: Some(self.welcome()),
            node: Some(node),
            trust: Some(trust),
        }))
    }

    async fn issue(
        &self,
        request: Request<IssueRequest>,
    ) -> Result<Response<IssueResponse>, Status> {
        let caller = request.extensions().get::<SpiffeId>().cloned();
        let caller = caller.ok_or_else(|| Status::unauthenticated("no certificate"))?;
        let items = request.into_inner().items;
        let result = |item: &IssueItem| IssueResult {
            idempotency_key: item.idempotency_key.clone(),
            outcome: Some(self.decide(item, &caller)),
        };
        let results = items.iter().map(result).collect();
        self.tell(Told::Issue(items));
        Ok(Response::new(IssueResponse {
            results,
            issuers: Vec::new(),
        }))
    }

    type FollowStream = BoxStream<'static, Result<AuthorityMessage, Status>>;

    async fn follow(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        if request.extensions().get::<SpiffeId>().is_none() {
            return Err(Status::unauthenticated("no certificate"));
        }
        self.admit()?;
        let mut incoming = request.into_inner();
        let (down, mut outgoing) = mpsc::unbounded_channel();
        if matches!(self.manner(), Manner::Mute) {
            // The stream has nothing to say, and does not end.
            self.mind().silent.push(down.clone());
        } else {
            let _ = down.send(AuthorityMessage {
                message: Some(authority_message::Message::Welcome(self.welcome())),
            });
            let mut mind = self.mind();
            // Whatever was published since the agent joined.
            let _ = down.send(AuthorityMessage {
                message: Some(authority_message::Message::Trust(update(&mind.bundle))),
            });
            mind.follows.push(down.clone());
        }
        let down = down.downgrade();
        let told = self.told.clone();
        // Both directions in one stream: there is no task to be left behind.
        let both = poll_fn(move |cx| {
            while let Poll::Ready(next) = incoming.poll_next_unpin(cx) {
                let Some(Ok(message)) = next else {
                    return Poll::Ready(None);
                };
                if let Some(agent_message::Message::Subscribers(report)) = &message.message
                    && let Some(down) = down.upgrade()
                {
                    let seen = authority_message::Message::ReportSeen(report.ordinal);
                    let _ = down.send(AuthorityMessage {
                        message: Some(seen),
                    });
                }
                let _ = told.send(Told::Up(message));
            }
            outgoing.poll_recv(cx).map(|message| message.map(Ok))
        });
        Ok(Response::new(both.boxed()))
    }
}
