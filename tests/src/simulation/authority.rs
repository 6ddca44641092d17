//! The authority: its store and its ledger, which survive, and its process, which does not.
//! What it decides is the real code; what it makes comes from the pool.

mod rotating;

pub use rotating::{DISTRUST, Looked, Wish};

use std::collections::{BTreeMap, HashMap};

use arx_ca::caller::{Node, NodeName};
use arx_ca::fleet::{Down, Fleet, Session};
use arx_ca::ledger::{Issued, Live, Record, Released, Validity};
use arx_ca::rotation::{self, Hints};
use arx_ca::state::{Phase, Registration, Report, RootState, Rotation, Rotations};
use arx_identity::{KeyId, Sequence, Serial, Svid, TrustBundle};
use arx_node_agent::simulation::{Reply, Request};
use arx_proto::node::v1 as wire;
use bytes::Bytes;
use futures_util::FutureExt as _;
use serde_json::Map;

use super::clock::{Millis, wall};
use super::fault::Fault;
use super::pool::{Pool, TRUST_DOMAIN};
use crate::dice::Dice;

/// How long a leaf lives.
pub const TTL: Millis = 10 * 60_000;
/// How long an intermediate lives.
const INTERMEDIATE: Millis = 22 * 60_000;
/// So long after its end slow clocks may take a certificate for valid.
const SKEW: Millis = 5 * 60_000;
/// The cluster of all nodes.
pub const CLUSTER: &str = "c1";
/// The replica that drives rotations, and another.
const REPLICAS: [&str; 2] = ["ca-1", "ca-2"];

/// The authority.
pub struct Authority {
    /// What survives it.
    pub store: Store,
    /// What it has recorded.
    records: Vec<Record>,
    /// The process, while it runs.
    process: Option<Process>,
    /// It starts again then.
    pub starts_at: Millis,
    /// Another replica.
    other: Option<Replica>,
    /// Certificates of one kind that were made in one minute.
    made: HashMap<(usize, usize, String, Millis), usize>,
    /// It is looked at again then.
    pub look_at: Millis,
    /// Requests that were made again, and answered as before.
    pub repeated: u64,
    /// Nodes that get no certificates.
    pub denied: Vec<usize>,
    fault: Option<Fault>,
    /// Bundles that were pushed before they were stored, and since when.
    pushed: BTreeMap<u64, Millis>,
}

/// What is in the state store.
#[derive(Clone, Debug)]
pub struct Store {
    /// The document of rotations.
    pub rotations: Rotations,
    /// Roots, and what each is for.
    pub roots: Vec<(KeyId, RootState)>,
    /// All bundles, the newest last.
    pub published: Vec<TrustBundle>,
    registrations: Vec<Registration>,
    seen: BTreeMap<String, Sequence>,
    report: Option<Report>,
    /// Roots that were ever made.
    made: usize,
    /// A root that is gone, and offered again when the next one is made.
    pub forgotten: Option<KeyId>,
    /// Keys that cannot sign.
    pub mute: Vec<KeyId>,
}

struct Process {
    began: Millis,
    live: Live,
    fleet: Fleet,
    hints: Hints,
    signs_under: KeyId,
    serves: Svid,
    answers: HashMap<[u8; 16], (Svid, Sequence)>,
}

/// A replica of which only the signing matters.
struct Replica {
    signs_under: KeyId,
    /// What it has issued, by root, and when each ends.
    issued: Vec<(KeyId, Millis)>,
    next_at: Millis,
    lags: bool,
}

/// What the other replica says of a gate: that it waits for nobody, once what it has issued under
/// the root that leaves has ended for slow clocks, too. Those who hold what it has issued follow
/// the one that drives rotations.
fn report(other: &mut Replica, rotation: Option<&Rotation>, now: Millis) -> Option<Report> {
    other.issued.retain(|(_, ends)| ends + SKEW > now);
    let rotation = rotation?;
    let gate = rotation::gate(rotation)?;
    let mut issued = other.issued.iter();
    if rotation.phase == Phase::Reissue && issued.any(|(root, _)| *root == rotation.from) {
        return None;
    }
    Some(Report {
        gate,
        signs_under: other.signs_under,
        confirmed: 0,
        open: 0,
        named: Vec::new(),
        away: Vec::new(),
        away_began_ms: BTreeMap::new(),
        well: Vec::new(),
        well_began_ms: Vec::new(),
        below: Vec::new(),
        said: None,
        extra: Map::new(),
    })
}

impl Authority {
    /// With one root, that signs.
    pub fn new(pool: &mut Pool, replicas: usize, fault: Option<Fault>) -> anyhow::Result<Self> {
        let root = pool.root_id(0);
        let first = bundle(pool, 1, &[root])?;
        let mut authority = Self {
            store: Store {
                rotations: Rotations::default(),
                roots: vec![(root, RootState::Active)],
                published: vec![first],
                registrations: Vec::new(),
                seen: BTreeMap::new(),
                report: None,
                made: 1,
                forgotten: None,
                mute: Vec::new(),
            },
            records: Vec::new(),
            process: None,
            starts_at: 0,
            other: (replicas > 1).then_some(Replica {
                signs_under: root,
                issued: Vec::new(),
                next_at: 0,
                lags: false,
            }),
            made: HashMap::new(),
            look_at: 0,
            repeated: 0,
            denied: Vec::new(),
            fault,
            pushed: BTreeMap::new(),
        };
        authority.start(pool, 0);
        authority.other_acts(&mut Dice::new(0), 0);
        Ok(authority)
    }

    /// Whether the process runs.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.process.is_some()
    }

    /// The bundle that is published.
    #[must_use]
    pub fn bundle(&self) -> &TrustBundle {
        self.store.published.last().expect("there is a first one")
    }

    /// The last rotation, as whoever else writes it finds it.
    pub fn last(&mut self) -> Option<&mut Rotation> {
        self.store.rotations.all.last_mut()
    }

    /// The certificate that it serves with.
    #[must_use]
    pub fn serves(&self) -> Option<&Svid> {
        self.process.as_ref().map(|process| &process.serves)
    }

    /// The process dies, and another starts then.
    pub fn crash(&mut self, starts_at: Millis) {
        self.process = None;
        self.starts_at = starts_at;
    }

    /// A process starts, from what survived.
    pub fn start(&mut self, pool: &mut Pool, now: Millis) {
        let signs_under = self.store.active();
        self.store.register(pool, 0, signs_under, now);
        let live = Live::without_files(self.records.iter().cloned());
        let serves = self.make((pool.place(signs_under), 0), "/arx/ca", now, TTL * 80, pool);
        let record = record(&serves, signs_under, 0, None, self.bundle().sequence(), now);
        live.note([record.clone()]);
        self.records.push(record);
        self.process = Some(Process {
            began: now,
            live,
            fleet: Fleet::default(),
            hints: Hints::default(),
            signs_under,
            serves,
            answers: HashMap::new(),
        });
        self.release_replaced(now);
        self.look_at = now;
    }

    /// A node's Follow begins; what goes down first, and whether trust is to follow.
    pub fn follow(&mut self, node: &Node, hello: &wire::Hello, now: Millis) -> Option<Following> {
        let newest = position(self.bundle());
        let process = self.process.as_mut()?;
        let session = process.fleet.follow(node, hello, wall(now)).ok()?;
        let welcome = wire::Welcome {
            version: 1,
            trust_domain: TRUST_DOMAIN.to_owned(),
            replica_id: REPLICAS[0].to_owned(),
            trust: vec![newest.clone()],
            ..wire::Welcome::default()
        };
        let known = hello.trust.contains(&newest);
        self.look_soon(now);
        Some(Following {
            session,
            issuers: node.issuers.iter().copied().collect(),
            welcome: Some(welcome),
            told: known.then(|| self.bundle().sequence()),
        })
    }

    /// What goes down a Follow now; `None` if it ends, as it does when the root leaves that its
    /// node was believed by.
    pub fn says(&mut self, following: &mut Following) -> Option<Vec<wire::AuthorityMessage>> {
        self.process.as_ref()?;
        let mut messages = Vec::new();
        let newest = self.bundle();
        let mut issuers = following.issuers.iter();
        let believed = issuers.any(|issuer| newest.root(issuer).is_some());
        if !believed && self.fault != Some(Fault::ConnectionsStay) {
            return None;
        }
        let withheld = self.fault == Some(Fault::DeniedGetNoBundle)
            && self
                .denied
                .iter()
                .any(|node| name(*node) == *following.session.name());
        if !withheld && following.told != Some(newest.sequence()) {
            following.told = Some(newest.sequence());
            messages.push(message(Message::Trust(trust_update(newest))));
        }
        while let Some(down) = following.session.next().now_or_never() {
            match down? {
                Down::Message(message) => messages.push((*message).clone()),
                Down::Replaced | Down::Superseded => return None,
            }
        }
        Some(messages)
    }

    /// Takes in what came up a Follow; the answer, if it has one.
    pub fn takes(
        &mut self,
        following: &Following,
        up: wire::AgentMessage,
        now: Millis,
    ) -> Option<wire::AuthorityMessage> {
        use wire::agent_message::Message as Up;
        let process = self.process.as_mut()?;
        let (session, at) = (&following.session, wall(now));
        let answer = match up.message? {
            Up::Inventory(inventory) => {
                let name = session.name().clone();
                let live = || process.live.held_on(&name.cluster, &name.node, at);
                let mut released = Vec::new();
                if self.fault == Some(Fault::OneInventoryReleases) && inventory.complete {
                    let held = |serial: &Serial| {
                        let mut leaves = inventory.leaves.iter();
                        leaves.any(|leaf| leaf.serial == serial.as_bytes())
                    };
                    let lacked = live().into_iter().map(|(serial, _)| serial);
                    released.extend(lacked.filter(|serial| !held(serial)));
                }
                released.extend(session.inventory(inventory, live, at).ok()?.0);
                self.release(released, "missing from two inventories", now);
                None
            }
            Up::Subscribers(report) => {
                let ordinal = report.ordinal;
                session.subscribers(report, at).ok()?;
                Some(message(Message::ReportSeen(ordinal)))
            }
            Up::Stored(position) => {
                session.stored(position);
                None
            }
            Up::Hello(_) => None,
        };
        self.look_soon(now);
        answer
    }

    /// Answers a request for a certificate of a node or of one of its workloads.
    pub fn issue(
        &mut self,
        pool: &mut Pool,
        (node, request): (usize, &Request),
        dice: &mut Dice,
        now: Millis,
    ) -> Option<Reply> {
        if self.denied.contains(&node) {
            let refusal = wire::Refusal {
                code: "ARX-POLICY-DENIED".to_owned(),
                ..wire::Refusal::default()
            };
            return Some(Reply::Refused(refusal));
        }
        let path = format!("/w/{node}/{}", request.uid);
        if self.other.is_some() && dice.one_in(2) {
            return self.issue_elsewhere(pool, &path, now);
        }
        let process = self.process.as_ref()?;
        if let Some((svid, sequence)) = process.answers.get(&request.idempotency_key) {
            self.repeated += 1;
            return Some(Reply::Issued(svid.clone(), *sequence));
        }
        let svid = self.issue_own(pool, &path, Some(node), now)?;
        let sequence = self.bundle().sequence();
        let process = self.process.as_mut()?;
        let answer = (svid.clone(), sequence);
        process.answers.insert(request.idempotency_key, answer);
        Some(Reply::Issued(svid, sequence))
    }

    /// A certificate of a node itself.
    pub fn issue_node(&mut self, pool: &mut Pool, node: usize, now: Millis) -> Option<Svid> {
        let path = format!("/arx/node/{CLUSTER}/n{node}");
        self.issue_own(pool, &path, Some(node), now)
    }

    fn issue_own(
        &mut self,
        pool: &mut Pool,
        path: &str,
        node: Option<usize>,
        now: Millis,
    ) -> Option<Svid> {
        let root = self.process.as_ref()?.signs_under;
        if self.store.mute.contains(&root) {
            return None;
        }
        let svid = self.make((pool.place(root), 0), path, now, TTL, pool);
        let own = path.starts_with("/arx/");
        if !(own && self.fault == Some(Fault::OwnCertificatesForgotten)) {
            let record = record(&svid, root, 0, node, self.bundle().sequence(), now);
            self.append(vec![record]);
        }
        Some(svid)
    }

    fn issue_elsewhere(&mut self, pool: &mut Pool, path: &str, now: Millis) -> Option<Reply> {
        let root = self.other.as_ref()?.signs_under;
        let ends = if self.fault == Some(Fault::SignsUnregistered) {
            now + INTERMEDIATE
        } else {
            self.store.registered_until(1, root)?
        };
        let lifetime = TTL.min(ends.saturating_sub(now));
        if lifetime < 2 * 60_000 || self.store.mute.contains(&root) {
            return None;
        }
        let svid = self.make((pool.place(root), 1), path, now, lifetime, pool);
        if let Some(other) = &mut self.other {
            other.issued.push((root, now + lifetime));
        }
        Some(Reply::Issued(svid, self.bundle().sequence()))
    }

    fn make(
        &mut self,
        signer: (usize, usize),
        path: &str,
        now: Millis,
        lifetime: Millis,
        pool: &mut Pool,
    ) -> Svid {
        let kind = (signer.0, signer.1, path.to_owned(), now / 60_000);
        let nth = self.made.entry(kind).or_default();
        *nth += 1;
        pool.leaf(signer, path, now, lifetime, *nth)
    }

    fn append(&mut self, records: Vec<Record>) {
        if let Some(process) = &self.process {
            process.live.note(records.iter().cloned());
        }
        self.records.extend(records);
    }

    fn release(&mut self, serials: Vec<Serial>, reason: &str, now: Millis) {
        let Some(process) = &self.process else {
            return;
        };
        let records = serials.iter().filter_map(|serial| {
            let released = Released {
                serial: serial.as_bytes().to_vec(),
                not_after: process.live.not_after(serial)?,
                reason: reason.to_owned(),
            };
            Some(Record::new(wall(now), released))
        });
        let records = records.collect();
        self.append(records);
    }

    /// Serving certificates that nobody is shown any more.
    fn release_replaced(&mut self, now: Millis) {
        let Some(process) = &self.process else {
            return;
        };
        let own = process.live.on_node("", "", wall(now));
        let others = own.into_iter().map(|(serial, _)| serial);
        let replaced = others.filter(|serial| serial != process.serves.serial());
        let replaced = replaced.collect();
        self.release(replaced, "replaced", now);
    }

    /// When the other replica does something next.
    #[must_use]
    pub fn other_at(&self) -> Millis {
        self.other
            .as_ref()
            .map_or(Millis::MAX, |other| other.next_at)
    }

    /// The other replica looks at the store, and follows it or lags behind.
    pub fn other_acts(&mut self, dice: &mut Dice, now: Millis) {
        let active = self.store.active();
        let newest = self.bundle().sequence();
        let Some(other) = &mut self.other else {
            return;
        };
        let away = self.fault == Some(Fault::SignsUnregistered);
        if !std::mem::replace(&mut other.lags, dice.one_in(4)) && !away {
            other.signs_under = active;
            self.store.seen.insert(REPLICAS[1].to_owned(), newest);
            // Which key it signs with matters to nobody here.
            self.store.register_as(1, active, active, now);
            self.store.report = report(other, self.store.rotations.all.last(), now);
        }
        other.next_at = now + 1000 + dice.below(30_000);
        self.look_soon(now);
    }

    fn look_soon(&mut self, now: Millis) {
        self.look_at = self.look_at.min(now + 50);
    }
}

impl Store {
    /// The root that signs.
    #[must_use]
    pub fn active(&self) -> KeyId {
        let mut roots = self.roots.iter();
        let active = roots.find(|(_, state)| *state == RootState::Active);
        active.map_or(self.roots[0].0, |(id, _)| *id)
    }

    /// Whether nothing that a rotation decides has changed.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        self.rotations == other.rotations
            && self.roots == other.roots
            && self.published.len() == other.published.len()
    }

    /// An older copy takes its place.
    pub fn go_back(&mut self) {
        if self.published.len() > 1 {
            self.published.pop();
        }
    }

    fn prepared(&self) -> Option<KeyId> {
        let mut roots = self.roots.iter();
        let prepared = roots.find(|(_, state)| *state == RootState::Prepared);
        prepared.map(|(id, _)| *id)
    }

    fn register(&mut self, pool: &Pool, replica: usize, root: KeyId, now: Millis) {
        let intermediate = pool.intermediate_id(pool.place(root), replica);
        self.register_as(replica, root, intermediate, now);
    }

    fn register_as(&mut self, replica: usize, root: KeyId, intermediate: KeyId, now: Millis) {
        let not_after = wall(now + INTERMEDIATE);
        let name = REPLICAS[replica];
        let mut same = self.registrations.iter_mut();
        match same.find(|known| known.replica == name && known.root == root) {
            Some(known) => known.not_after = not_after,
            None => self.registrations.push(Registration {
                replica: name.to_owned(),
                root,
                intermediate,
                not_after,
                extra: serde_json::Map::new(),
            }),
        }
    }

    fn registered_until(&self, replica: usize, root: KeyId) -> Option<Millis> {
        let mut all = self.registrations.iter();
        let same = all.find(|it| it.replica == REPLICAS[replica] && it.root == root)?;
        let since = same.not_after.duration_since(wall(0)).ok()?;
        u64::try_from(since.as_millis()).ok()
    }
}

/// One agent's Follow, from the authority's side.
pub struct Following {
    session: Session,
    /// The roots that its node was believed by.
    pub issuers: Vec<KeyId>,
    /// Goes down first.
    pub welcome: Option<wire::Welcome>,
    told: Option<Sequence>,
}

/// The name of a node.
#[must_use]
pub fn name(node: usize) -> NodeName {
    NodeName {
        cluster: CLUSTER.into(),
        node: format!("n{node}").into(),
    }
}

use wire::authority_message::Message;

fn message(message: Message) -> wire::AuthorityMessage {
    wire::AuthorityMessage {
        message: Some(message),
    }
}

/// A bundle of these roots.
///
/// # Errors
/// If they are none.
pub fn bundle(pool: &Pool, number: u64, roots: &[KeyId]) -> anyhow::Result<TrustBundle> {
    let sequence = Sequence { epoch: 1, number };
    let roots = roots.iter().map(|id| pool.root(pool.place(*id)).clone());
    Ok(TrustBundle::new(
        pool.trust_domain().clone(),
        sequence,
        roots.collect(),
    )?)
}

/// As an agent is sent it.
#[must_use]
pub fn trust_update(bundle: &TrustBundle) -> wire::TrustUpdate {
    let der = |root: &arx_identity::Certificate| Bytes::copy_from_slice(root.der());
    wire::TrustUpdate {
        position: Some(position(bundle)),
        trust_domain: TRUST_DOMAIN.to_owned(),
        roots: bundle.roots().iter().map(der).collect(),
    }
}

/// Its place and content.
#[must_use]
pub fn position(bundle: &TrustBundle) -> wire::TrustPosition {
    let Sequence { epoch, number } = bundle.sequence();
    wire::TrustPosition {
        kind: wire::TrustKind::X509Roots.into(),
        sequence: Some(wire::Sequence { epoch, number }),
        sha256: Bytes::copy_from_slice(&bundle.sha256()),
    }
}

fn record(
    svid: &Svid,
    root: KeyId,
    replica: usize,
    node: Option<usize>,
    sequence: Sequence,
    now: Millis,
) -> Record {
    let chain = svid.chain();
    let issuer = chain.leaf().authority_key_id();
    let issued = Issued {
        replica: REPLICAS[replica].to_owned(),
        cluster: node.map(|_| CLUSTER.to_owned()).unwrap_or_default(),
        node: node.map(|node| format!("n{node}")).unwrap_or_default(),
        spiffe_id: svid.spiffe_id().to_string(),
        serial: svid.serial().as_bytes().to_vec(),
        issuer_key_id: issuer.map(|id| id.as_bytes().to_vec()).unwrap_or_default(),
        root_key_id: root.as_bytes().to_vec(),
        validity: Validity {
            not_before: svid.not_before(),
            not_after: svid.not_after(),
        },
        bundle_epoch: sequence.epoch,
        bundle_number: sequence.number,
        ..Issued::default()
    };
    Record::new(wall(now), issued)
}
