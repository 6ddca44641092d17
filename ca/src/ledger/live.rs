//! The certificates that are valid, by issuer, identity and node: built from the segments
//! at the start, and kept up with every commit.
//!
//! An entry is removed some time after its certificate has ended, not at its end, so that a
//! clock that jumps ahead and comes back loses nothing. What is told is always as of the
//! time that the caller gives.

mod alone;
mod holders;
mod lines;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::fs::File;
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use arx_identity::{KeyId, Serial};
use tokio::sync::watch;

pub use holders::Holder;
pub use lines::NodeLine;

use super::codec::{Kind, Outline};
use super::error::Error;
use super::json::Entry as Recorded;
use super::record::{Event, MAX_SERIAL, from_millis, to_millis};
use super::search::read_at;
use super::segment;
use crate::hex::Hex;

/// How long after its end a certificate is kept in the index.
const KEPT_MS: u64 = 2 * 3600 * 1000;

/// Where a record lies: the segment and the offset in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) segment: u32,
    pub(super) offset: u32,
}

impl Place {
    pub(super) fn new(segment: u32, offset: u64) -> Self {
        // A segment ends soon after its limit, which is far below 4 GiB.
        Self {
            segment,
            offset: u32::try_from(offset).unwrap_or(u32::MAX),
        }
    }
}

/// The certificates that are valid. Clones are the same index.
#[derive(Clone)]
pub struct Live {
    shared: Arc<Shared>,
}

struct Shared {
    directory: PathBuf,
    state: Mutex<State>,
    ready: watch::Sender<Progress>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Progress {
    Building,
    Ready,
    Failed(String),
}

/// A serial number in place: there are four of each, and following a pointer for every
/// comparison in a tree costs more than the rest of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct SerialKey {
    length: u8,
    bytes: [u8; MAX_SERIAL],
}

type NodeKey = (Arc<str>, Arc<str>);

/// Whether `called` names the node, with its cluster or without. No name has a slash.
fn is_called((cluster, node): &NodeKey, called: &str) -> bool {
    match called.split_once('/') {
        Some(whole) => whole == (&**cluster, &**node),
        None => called == &**node,
    }
}

impl SerialKey {
    fn new(serial: &[u8]) -> Option<Self> {
        let mut bytes = [0; MAX_SERIAL];
        bytes.get_mut(..serial.len())?.copy_from_slice(serial);
        let length = u8::try_from(serial.len()).ok()?;
        Some(Self { length, bytes })
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

#[derive(Default)]
struct State {
    leaves: HashMap<SerialKey, Leaf>,
    identities: BTreeMap<Arc<str>, BTreeSet<SerialKey>>,
    nodes: BTreeMap<NodeKey, HashSet<SerialKey>>,
    /// Of the certificate that was added last.
    last_node: Option<NodeKey>,
    /// By end, with what counting needs.
    ends: BTreeMap<(u64, SerialKey), Above>,
    /// Who signed those of no node: the authority's own.
    own: HashMap<SerialKey, Arc<str>>,
    lines: lines::Released,
    authorities: Vec<Vec<u8>>,
    under_issuer: HashMap<u32, u64>,
    under_root: HashMap<u32, u64>,
    /// Released before their certificate was seen: older segments are read last.
    released: HashSet<SerialKey>,
    complete: bool,
}

/// Places of the authorities above a certificate.
#[derive(Clone, Copy)]
struct Above {
    issuer: u32,
    root: u32,
}

struct Leaf {
    identity: Arc<str>,
    node: NodeKey,
    not_after_ms: u64,
    issued_ms: u64,
    above: Above,
    place: Place,
}

/// Which certificates; all that is set must fit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LiveFilter {
    /// A SPIFFE id, or the beginning of one that ends in `/`.
    pub identity: Option<String>,
    /// A node, as `<cluster>/<node>` or by its name alone; empty for what belongs to none.
    pub node: Option<String>,
    /// Serial number.
    pub serial: Option<Serial>,
}

/// A part of a list.
#[derive(Clone, Debug)]
pub struct LivePage {
    /// In the order of identity and serial number.
    pub leaves: Vec<LiveLeaf>,
    /// Where the next page begins.
    pub next: Option<String>,
}

/// A certificate that is valid, as the ledger has it.
#[derive(Clone, Debug)]
pub struct LiveLeaf {
    /// Whom it names.
    pub spiffe_id: Arc<str>,
    /// Its serial number.
    pub serial: Serial,
    /// First moment of its validity.
    pub not_before: SystemTime,
    /// Last moment of its validity.
    pub not_after: SystemTime,
    /// When it was issued.
    pub issued: SystemTime,
    /// Key of the intermediate that signed.
    pub issuer_key_id: Vec<u8>,
    /// Key of the root above.
    pub root_key_id: Vec<u8>,
    /// Its own key.
    pub subject_key_id: Vec<u8>,
    /// Cluster of the node that asked.
    pub cluster: Arc<str>,
    /// Node that asked.
    pub node: Arc<str>,
    /// What it was granted on.
    pub evidence: Arc<str>,
    /// Serial number of the certificate that it replaced.
    pub replaces: Vec<u8>,
}

/// A certificate that is about to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// Whom it names.
    pub identity: Arc<str>,
    /// Cluster of the node that holds it.
    pub cluster: Arc<str>,
    /// Node that holds it.
    pub node: Arc<str>,
    /// Its serial number.
    pub serial: Vec<u8>,
    /// When it was issued.
    pub issued: SystemTime,
    /// Last moment of its validity.
    pub ends: SystemTime,
}

impl Live {
    pub(super) fn new(directory: PathBuf) -> Self {
        let shared = Shared {
            directory,
            state: Mutex::default(),
            ready: watch::Sender::new(Progress::Building),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_ready(&self) {
        {
            let mut state = self.lock();
            state.complete = true;
            state.released = HashSet::new();
        }
        self.shared.ready.send_replace(Progress::Ready);
    }

    #[cfg(test)]
    pub(crate) fn set_building(&self) {
        self.shared.ready.send_replace(Progress::Building);
    }

    pub(crate) fn set_failed(&self, reason: String) {
        self.shared.ready.send_replace(Progress::Failed(reason));
    }

    /// Returns when all segments have been read. Never, if one can't be: see the log.
    pub async fn ready(&self) {
        let mut ready = self.shared.ready.subscribe();
        // The sender is in `self`, so that the channel cannot close while we wait.
        let _ready = ready
            .wait_for(|progress| *progress == Progress::Ready)
            .await;
    }

    /// Returns why some segment can't be read. Never, if all can.
    #[cfg(test)]
    pub(super) async fn failed(&self) -> String {
        let mut ready = self.shared.ready.subscribe();
        let failed = ready.wait_for(|progress| matches!(progress, Progress::Failed(_)));
        match failed.await.as_deref() {
            Ok(Progress::Failed(reason)) => reason.clone(),
            _ => String::new(),
        }
    }

    /// Whether all segments have been read.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        *self.shared.ready.borrow() == Progress::Ready
    }

    /// Whether they are still being read.
    #[must_use]
    pub fn is_building(&self) -> bool {
        *self.shared.ready.borrow() == Progress::Building
    }

    pub(super) fn add(&self, outline: Outline<'_>, place: Place) {
        self.lock().add(outline, place);
    }

    pub(super) fn add_all<'a>(&self, records: impl Iterator<Item = (Outline<'a>, Place)>) {
        let mut state = self.lock();
        let mut newest = 0;
        for (outline, place) in records {
            newest = newest.max(outline.time_ms);
            state.add(outline, place);
        }
        state.forget(newest.saturating_sub(KEPT_MS));
    }

    /// How many are valid.
    #[must_use]
    pub fn count(&self, now: SystemTime) -> u64 {
        let state = self.lock();
        (state.leaves.len() - state.ended(to_millis(now)).count()) as u64
    }

    /// How many are valid under this root.
    #[must_use]
    pub fn count_under_root(&self, root: &KeyId, now: SystemTime) -> u64 {
        let state = self.lock();
        state.count_under(&state.under_root, root, now, |above| above.root)
    }

    /// How many are valid that this intermediate has signed.
    #[must_use]
    pub fn count_under_issuer(&self, issuer: &KeyId, now: SystemTime) -> u64 {
        let state = self.lock();
        state.count_under(&state.under_issuer, issuer, now, |above| above.issuer)
    }

    /// End and identity of the valid one that ends first, where a workload or a node holds
    /// it.
    #[must_use]
    pub fn soonest(&self, now: SystemTime) -> Option<(SystemTime, Arc<str>)> {
        let first = self.ending(now, 1).into_iter().next()?;
        Some((first.ends, first.identity))
    }

    /// At most `most` of the valid ones that workloads and nodes hold, those that end first.
    #[must_use]
    pub fn ending(&self, now: SystemTime, most: usize) -> Vec<Ending> {
        let state = self.lock();
        let valid = state.ends.range((
            Bound::Included((to_millis(now), SerialKey::default())),
            Bound::Unbounded,
        ));
        let ending = valid.filter_map(|((_, key), _)| {
            let leaf = state.leaves.get(key)?;
            (!leaf.node.1.is_empty()).then(|| Ending {
                identity: Arc::clone(&leaf.identity),
                cluster: Arc::clone(&leaf.node.0),
                node: Arc::clone(&leaf.node.1),
                serial: key.as_bytes().to_vec(),
                issued: from_millis(leaf.issued_ms),
                ends: from_millis(leaf.not_after_ms),
            })
        });
        ending.take(most).collect()
    }

    /// End of a certificate, if it is known here.
    #[must_use]
    pub fn not_after(&self, serial: &Serial) -> Option<SystemTime> {
        let state = self.lock();
        state
            .leaves
            .get(&SerialKey::new(serial.as_bytes())?)
            .map(|leaf| from_millis(leaf.not_after_ms))
    }

    /// Serial number and time of issue of the valid ones that a node and its workloads have.
    #[must_use]
    pub fn on_node(&self, cluster: &str, node: &str, now: SystemTime) -> Vec<(Serial, SystemTime)> {
        let state = self.lock();
        let now = to_millis(now);
        let on_node = state
            .nodes
            .get(&(cluster.into(), node.into()))
            .into_iter()
            .flatten();
        let valid = on_node.filter_map(|serial| {
            let leaf = state.leaves.get(serial)?;
            let serial = Serial::from_bytes(serial.as_bytes())?;
            (leaf.not_after_ms >= now).then(|| (serial, from_millis(leaf.issued_ms)))
        });
        valid.collect()
    }

    /// Serial numbers of the valid ones that fit, by cluster and node.
    #[must_use]
    pub fn serials_by_node(
        &self,
        filter: &LiveFilter,
        now: SystemTime,
    ) -> BTreeMap<NodeKey, Vec<Serial>> {
        let state = self.lock();
        let mut nodes = BTreeMap::<_, Vec<_>>::new();
        for (_, serial, leaf) in state.matching(filter, None, to_millis(now)) {
            if let Some(serial) = Serial::from_bytes(serial.as_bytes()) {
                nodes.entry(leaf.node.clone()).or_default().push(serial);
            }
        }
        nodes
    }

    /// The nodes with certificates that are called so, as `<cluster>/<node>`.
    #[must_use]
    pub fn nodes_called(&self, called: &str) -> Vec<String> {
        let state = self.lock();
        let nodes = state.nodes.keys().filter(|node| is_called(node, called));
        nodes
            .map(|(cluster, node)| format!("{cluster}/{node}"))
            .collect()
    }

    /// A part of the list of valid certificates. Reads each from its segment: blocks.
    ///
    /// # Errors
    /// [`Error::Token`] if the token is none of this list's, and what keeps a segment from
    /// being read.
    pub fn page(
        &self,
        filter: &LiveFilter,
        token: &str,
        limit: usize,
        now: SystemTime,
    ) -> Result<LivePage, Error> {
        let from = decode_token(token)?;
        let (found, next) = self
            .lock()
            .page(filter, from.as_ref(), limit.max(1), to_millis(now));
        let mut leaves = Vec::with_capacity(found.len());
        for place in found {
            let path = segment::path(&self.shared.directory, place.segment);
            let file = File::open(&path).map_err(Error::io("open", &path))?;
            leaves.extend(leaf(read_at(&file, &path, place.offset)?));
        }
        let next = next.map(|(identity, serial)| format!("{}@{identity}", Hex(serial.as_bytes())));
        Ok(LivePage { leaves, next })
    }
}

impl State {
    fn add(&mut self, outline: Outline<'_>, place: Place) {
        match outline.kind {
            Kind::Issued(issued) => {
                let Some(serial) = SerialKey::new(issued.serial) else {
                    return;
                };
                if self.leaves.contains_key(&serial) {
                    return;
                }
                if self.released.contains(&serial) {
                    self.lines.add_issued(serial, &issued, place);
                    return;
                }
                let identity = match self.identities.get_key_value(issued.spiffe_id) {
                    Some((known, _)) => Arc::clone(known),
                    None => issued.spiffe_id.into(),
                };
                let node = self.node(issued.cluster, issued.node);
                if node.1.is_empty() {
                    self.own.insert(serial, issued.replica.into());
                }
                let leaf = Leaf {
                    identity: Arc::clone(&identity),
                    node: node.clone(),
                    not_after_ms: issued.not_after_ms,
                    issued_ms: outline.time_ms,
                    above: Above {
                        issuer: self.authority(issued.issuer_key_id),
                        root: self.authority(issued.root_key_id),
                    },
                    place,
                };
                *self.under_issuer.entry(leaf.above.issuer).or_default() += 1;
                *self.under_root.entry(leaf.above.root).or_default() += 1;
                self.identities.entry(identity).or_default().insert(serial);
                self.nodes.entry(node).or_default().insert(serial);
                self.ends.insert((leaf.not_after_ms, serial), leaf.above);
                self.leaves.insert(serial, leaf);
            }
            Kind::Released { serial, .. } => {
                let Some(serial) = SerialKey::new(serial) else {
                    return;
                };
                match self.remove(&serial) {
                    Some(leaf) => self.lines.add(serial, &leaf),
                    None if !self.complete => {
                        self.released.insert(serial);
                    }
                    None => {}
                }
            }
            _ => {}
        }
    }

    /// The key of a node. Certificates of the same one come together.
    fn node(&mut self, cluster: &str, node: &str) -> NodeKey {
        match &self.last_node {
            Some(last) if (&*last.0, &*last.1) == (cluster, node) => last.clone(),
            _ => {
                let new = (cluster.into(), node.into());
                let known = self.nodes.get_key_value(&new);
                let node = known.map_or(new, |(known, _)| known.clone());
                self.last_node.insert(node).clone()
            }
        }
    }

    fn authority(&mut self, id: &[u8]) -> u32 {
        let known = self.authorities.iter().position(|known| known == id);
        let place = known.unwrap_or_else(|| {
            self.authorities.push(id.to_vec());
            self.authorities.len() - 1
        });
        u32::try_from(place).unwrap_or(u32::MAX)
    }

    fn remove(&mut self, serial: &SerialKey) -> Option<Leaf> {
        let leaf = self.leaves.remove(serial)?;
        self.own.remove(serial);
        for count in [
            self.under_issuer.get_mut(&leaf.above.issuer),
            self.under_root.get_mut(&leaf.above.root),
        ] {
            count.into_iter().for_each(|count| *count -= 1);
        }
        self.ends.remove(&(leaf.not_after_ms, *serial));
        if let Some(serials) = self.identities.get_mut(&leaf.identity) {
            serials.remove(serial);
            if serials.is_empty() {
                self.identities.remove(&leaf.identity);
            }
        }
        if let Some(serials) = self.nodes.get_mut(&leaf.node) {
            serials.remove(serial);
            if serials.is_empty() {
                self.nodes.remove(&leaf.node);
            }
        }
        Some(leaf)
    }

    fn forget(&mut self, before_ms: u64) {
        self.lines.forget(before_ms);
        while let Some(((end, serial), _)) = self.ends.first_key_value() {
            if *end >= before_ms {
                return;
            }
            let serial = *serial;
            self.remove(&serial);
        }
    }

    fn ended(&self, now_ms: u64) -> impl Iterator<Item = &Above> {
        let before = (
            Bound::Unbounded,
            Bound::Excluded((now_ms, SerialKey::default())),
        );
        self.ends.range(before).map(|(_, above)| above)
    }

    fn count_under(
        &self,
        counts: &HashMap<u32, u64>,
        id: &KeyId,
        now: SystemTime,
        of: impl Fn(&Above) -> u32,
    ) -> u64 {
        let same = |known: &Vec<u8>| known == id.as_bytes();
        let Some(place) = self.authorities.iter().position(same) else {
            return 0;
        };
        let place = u32::try_from(place).unwrap_or(u32::MAX);
        let all = counts.get(&place).copied().unwrap_or(0);
        let ended = self.ended(to_millis(now));
        all - ended.filter(|above| of(above) == place).count() as u64
    }

    /// The certificates that fit and come after `from`, in the order of the list.
    fn matching<'a>(
        &'a self,
        filter: &'a LiveFilter,
        from: Option<&'a (String, SerialKey)>,
        now_ms: u64,
    ) -> impl Iterator<Item = (&'a Arc<str>, &'a SerialKey, &'a Leaf)> {
        let wanted = filter.identity.as_deref().unwrap_or("");
        let start = from.map_or(wanted, |(identity, _)| identity.as_str().max(wanted));
        let begin: Arc<str> = start.into();
        let below = self
            .identities
            .range(begin..)
            .take_while(move |(identity, _)| {
                wanted.is_empty()
                    || ***identity == *wanted
                    || (wanted.ends_with('/') && identity.starts_with(wanted))
            });
        below
            .flat_map(|(identity, serials)| serials.iter().map(move |serial| (identity, serial)))
            .filter(move |(identity, serial)| {
                from.is_none_or(|(last, after)| (&***identity, *serial) > (last.as_str(), after))
            })
            .filter_map(|(identity, serial)| Some((identity, serial, self.leaves.get(serial)?)))
            .filter(move |(_, serial, leaf)| {
                leaf.not_after_ms >= now_ms
                    && filter
                        .node
                        .as_deref()
                        .is_none_or(|called| is_called(&leaf.node, called))
                    && filter
                        .serial
                        .as_ref()
                        .is_none_or(|wanted| wanted.as_bytes() == serial.as_bytes())
            })
    }

    /// Places of at most `limit` certificates, and the last of them if there are more.
    fn page(
        &self,
        filter: &LiveFilter,
        from: Option<&(String, SerialKey)>,
        limit: usize,
        now_ms: u64,
    ) -> (Vec<Place>, Option<(Arc<str>, SerialKey)>) {
        let mut leaves = self.matching(filter, from, now_ms);
        let mut last = None;
        let mut places = Vec::new();
        for (identity, serial, leaf) in leaves.by_ref().take(limit) {
            places.push(leaf.place);
            last = Some((Arc::clone(identity), *serial));
        }
        let next = leaves.next().and(last);
        (places, next)
    }
}

fn leaf(recorded: Recorded) -> Option<LiveLeaf> {
    let super::Content::Known(Event::Issued(issued)) = recorded.content else {
        return None;
    };
    Some(LiveLeaf {
        spiffe_id: issued.spiffe_id.into(),
        serial: Serial::from_bytes(&issued.serial)?,
        not_before: issued.validity.not_before,
        not_after: issued.validity.not_after,
        issued: recorded.time,
        issuer_key_id: issued.issuer_key_id,
        root_key_id: issued.root_key_id,
        subject_key_id: issued.subject_key_id,
        cluster: issued.cluster.into(),
        node: issued.node.into(),
        evidence: issued.evidence.into(),
        replaces: issued.replaces,
    })
}

fn decode_token(token: &str) -> Result<Option<(String, SerialKey)>, Error> {
    if token.is_empty() {
        return Ok(None);
    }
    let (serial, identity) = token.split_once('@').ok_or(Error::Token)?;
    let serial: Serial = serial.parse().map_err(|_| Error::Token)?;
    let serial = SerialKey::new(serial.as_bytes()).ok_or(Error::Token)?;
    Ok(Some((identity.to_owned(), serial)))
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Live({} leaves)", self.lock().leaves.len())
    }
}
