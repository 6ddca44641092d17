//! What every consumer of a secret has taken and what it refused: the ground that a
//! rotation stands on. A pure state machine over what happens on streams.
//!
//! It must never say more than is proved. A subscriber is one resource of one process
//! (or pod). It outlives its streams and the agent, and it ends only when its process is
//! proved dead, when it unsubscribes, or when its last leaf has expired:
//! - silence confirms nothing, connected or not;
//! - content that a process refused is never confirmed by that process's later ACK of
//!   the same content, because Envoy ACKs bytes that it has stored but not loaded;
//! - what is confirmed only grows;
//! - a process with several streams has confirmed what all of them have; a stream that
//!   does not come back is forgiven a minute after the process's first one did.

mod content;
mod report;
mod saved;

pub use content::{Content, Leaf};
pub use saved::DamagedSubscribers;

use crate::attest::ProcessId;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// How long a stream may be missing after the first of its process has returned.
pub const FORGIVEN_AFTER: Duration = Duration::from_secs(60);
/// For how long after its end a leaf may still be taken for valid by a slow clock.
const SKEW: Duration = Duration::from_secs(300);
/// A pod that never held a leaf, and of which no process is known, is given up after this.
const LEAFLESS_POD: Duration = Duration::from_secs(24 * 3600);
/// Contents that one subscriber was sent without answering any; older ones are dropped.
const MOST_UNCONFIRMED: usize = 16;
/// Contents that one holder has refused; older ones are dropped.
const MOST_REFUSED: usize = 64;
/// Of a consumer's own words.
const LONGEST_DETAIL: usize = 1024;

/// Whoever holds what was sent.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Holder {
    /// A process that can be proved dead.
    Process(ProcessId),
    /// A pod, where its processes can't be seen.
    Pod(String),
    /// A stream of a process that can't be seen, with a token that nobody has vouched for
    /// yet. Anybody can name a pod: it counts for nobody, and is told to nobody, until it
    /// is proved whose it is.
    Stream(StreamId),
}

/// One stream of the running agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub u64);

/// Both clocks at one moment: what is stored goes by the wall's, what is waited for by
/// the monotonic one.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Time of day.
    pub wall: SystemTime,
    /// Time that never jumps.
    pub monotonic: Instant,
}

/// What happened to one resource on one stream.
#[derive(Clone, Debug)]
pub enum Event {
    /// The content left for the consumer.
    Sent(Arc<Content>),
    /// The consumer says that it has taken it.
    Acked(Arc<Content>),
    /// The consumer says that it has not.
    Nacked {
        /// What it refused.
        content: Arc<Content>,
        /// The version that was refused.
        version: String,
        /// The consumer's own words.
        detail: String,
    },
    /// The consumer does not want the resource on this stream any more.
    Unsubscribed,
    /// The stream is over, which says nothing about the process.
    Ended,
}

/// All subscribers of this node.
#[derive(Debug, Default)]
pub struct Subscribers {
    holders: HashMap<Holder, State>,
    changed: BTreeSet<(Holder, Arc<str>)>,
    ended: Vec<Ended>,
}

/// What is known of one holder.
#[derive(Debug, Default)]
struct State {
    members: BTreeMap<Arc<str>, Member>,
    refused: Vec<Refused>,
    /// End of the leaf that ends last among all that it was ever sent.
    last_leaf_end: Option<SystemTime>,
}

/// One subscriber: one resource of one holder.
#[derive(Debug)]
struct Member {
    confirmed: Option<Arc<Content>>,
    /// Sent since, in order, and possibly in use; the newest is last.
    unconfirmed: Vec<Arc<Content>>,
    streams: BTreeMap<StreamId, Stream>,
    /// As many streams as it ever had at once, less those given up or forgiven.
    expected: usize,
    /// Since when the holder is back (or was never gone) without all of them.
    short_since: Option<Instant>,
    changed: SystemTime,
}

#[derive(Debug, Default)]
struct Stream {
    acked: Option<Arc<Content>>,
}

/// A content that a holder refused, for good.
#[derive(Clone, Debug)]
struct Refused {
    sha256: [u8; 32],
    version: String,
    detail: String,
    at: SystemTime,
}

/// Remembered until it has been reported.
#[derive(Debug)]
struct Ended {
    holder: Holder,
    resource: Arc<str>,
    member: Member,
}

impl Subscribers {
    /// Takes in what happened. Events of streams that were never sent anything are not
    /// events of a subscriber.
    pub fn apply(
        &mut self,
        holder: &Holder,
        resource: &str,
        stream: StreamId,
        event: Event,
        now: Now,
    ) {
        match event {
            Event::Sent(content) => self.sent(holder, resource, stream, content, now),
            Event::Acked(content) => self.acked(holder, resource, stream, &content, now),
            Event::Nacked {
                content,
                version,
                detail,
            } => {
                let refused = Refused {
                    sha256: *content.sha256(),
                    version,
                    detail: shortened(detail),
                    at: now.wall,
                };
                self.nacked(holder, resource, content, refused, now);
            }
            Event::Unsubscribed => self.left(holder, resource, stream, true, now),
            Event::Ended => self.left(holder, resource, stream, false, now),
        }
    }

    /// It is proved that a stream belongs to `holder`: what it has taken and refused counts
    /// for that one from here on.
    pub fn proved(&mut self, stream: StreamId, holder: &Holder, now: Now) {
        let Some(before) = self.holders.remove(&Holder::Stream(stream)) else {
            return;
        };
        let state = self.holders.entry(holder.clone()).or_default();
        for refused in before.refused {
            state.refuse(refused);
        }
        for (resource, member) in before.members {
            for content in member.in_use() {
                self.sent(holder, &resource, stream, Arc::clone(content), now);
            }
            let acked = member.streams.get(&stream).and_then(|s| s.acked.as_ref());
            if let Some(content) = acked {
                self.acked(holder, &resource, stream, content, now);
            }
        }
    }

    /// The holder's process is proved dead, its pod is gone, or its stream is over.
    pub fn died(&mut self, holder: &Holder, now: Now) {
        let Some(state) = self.holders.remove(holder) else {
            return;
        };
        for (resource, member) in state.members {
            self.end(holder.clone(), resource, member, now);
        }
    }

    /// Does what is due at `now`: forgives missing streams, and ends whoever is away and
    /// holds nothing valid any more.
    pub fn tick(&mut self, now: Now) {
        let holders: Vec<_> = self.holders.keys().cloned().collect();
        for holder in holders {
            let Some(state) = self.holders.get_mut(&holder) else {
                continue;
            };
            if state.is_over(&holder, now.wall) {
                self.died(&holder, now);
                continue;
            }
            let mut given_up = Vec::new();
            for (resource, member) in &mut state.members {
                let due = |since: Instant| now.monotonic >= since + FORGIVEN_AFTER;
                if member.short_since.is_some_and(due) {
                    member.expected = member.streams.len();
                    member.short_since = None;
                    member.changed = now.wall;
                    if member.expected == 0 {
                        given_up.push(Arc::clone(resource));
                    } else {
                        member.confirm();
                    }
                    note(&mut self.changed, &holder, Arc::clone(resource));
                }
            }
            for resource in given_up {
                self.remove(&holder, &resource, now);
            }
        }
    }

    /// When [`Self::tick`] has something to forgive next.
    #[must_use]
    pub fn next_tick(&self) -> Option<Instant> {
        let members = self.holders.values().flat_map(|s| s.members.values());
        members
            .filter_map(|m| m.short_since)
            .min()
            .map(|since| since + FORGIVEN_AFTER)
    }

    /// Whether the holder has any stream open.
    #[must_use]
    pub fn is_connected(&self, holder: &Holder) -> bool {
        self.holders.get(holder).is_some_and(State::is_connected)
    }

    /// Whether the holder was ever given a leaf of this identity. Never, of a process that
    /// can't be seen: its pod is only what its token says, and anybody can say that.
    #[must_use]
    pub fn has_held(&self, holder: &Holder, spiffe_id: &str) -> bool {
        if !matches!(holder, Holder::Process(_)) {
            return false;
        }
        let Some(state) = self.holders.get(holder) else {
            return false;
        };
        let mut leaves = state.members.values().flat_map(Member::in_use);
        leaves.any(|c| c.leaf().is_some_and(|l| l.spiffe_id.as_str() == spiffe_id))
    }

    /// Every holder that is known.
    pub fn holders(&self) -> impl Iterator<Item = &Holder> {
        self.holders.keys()
    }

    /// How many subscribers there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.holders.values().map(|s| s.members.len()).sum()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.holders.is_empty()
    }

    /// The leaves that are or may be in use, each with the number of its subscribers.
    #[must_use]
    pub fn leaves_in_use(&self) -> Vec<(&Leaf, u32)> {
        let mut counted: BTreeMap<&[u8; 32], (&Leaf, u32)> = BTreeMap::new();
        for member in self.holders.values().flat_map(|s| s.members.values()) {
            for content in member.in_use() {
                if let Some(leaf) = content.leaf() {
                    counted.entry(&leaf.sha256).or_insert((leaf, 0)).1 += 1;
                }
            }
        }
        counted.into_values().collect()
    }

    fn sent(
        &mut self,
        holder: &Holder,
        resource: &str,
        stream: StreamId,
        content: Arc<Content>,
        now: Now,
    ) {
        let state = self.holders.entry(holder.clone()).or_default();
        let returned = !state.is_connected();
        let end = content.leaf().map(|leaf| leaf.not_after);
        state.last_leaf_end = state.last_leaf_end.max(end);
        let name = match state.members.get_key_value(resource) {
            Some((name, _)) => Arc::clone(name),
            None => Arc::from(resource),
        };
        let member = state
            .members
            .entry(Arc::clone(&name))
            .or_insert_with(|| Member::new(now.wall));
        member.streams.entry(stream).or_default();
        member.expected = member.expected.max(member.streams.len());
        let is_news = match member.unconfirmed.last() {
            Some(newest) => *newest != content,
            None => member.confirmed.as_ref() != Some(&content),
        };
        if is_news {
            member.unconfirmed.retain(|c| *c != content);
            member.unconfirmed.push(content);
            if member.unconfirmed.len() > MOST_UNCONFIRMED {
                member.unconfirmed.remove(0);
            }
        }
        member.changed = now.wall;
        state.measure(returned, now.monotonic);
        note(&mut self.changed, holder, name);
    }

    fn acked(
        &mut self,
        holder: &Holder,
        resource: &str,
        stream: StreamId,
        content: &Arc<Content>,
        now: Now,
    ) {
        let Some((state, name)) = self.member(holder, resource) else {
            return;
        };
        if state.refused.iter().any(|r| r.sha256 == *content.sha256()) {
            return;
        }
        let Some(member) = state.members.get_mut(&name) else {
            return;
        };
        let Some(stream) = member.streams.get_mut(&stream) else {
            return;
        };
        stream.acked = Some(Arc::clone(content));
        member.confirm();
        member.changed = now.wall;
        note(&mut self.changed, holder, name);
    }

    fn nacked(
        &mut self,
        holder: &Holder,
        resource: &str,
        content: Arc<Content>,
        refused: Refused,
        now: Now,
    ) {
        let Some((state, name)) = self.member(holder, resource) else {
            return;
        };
        state.refuse(refused);
        if let Some(member) = state.members.get_mut(&name) {
            // Another stream may have taken it already: from here on that is in doubt, and what
            // that stream has said of it counts as little as what it will say.
            for stream in member.streams.values_mut() {
                stream.acked.take_if(|acked| *acked == content);
            }
            if !member.unconfirmed.contains(&content) {
                member.unconfirmed.push(content);
            }
            member.changed = now.wall;
        }
        note(&mut self.changed, holder, name);
    }

    fn left(
        &mut self,
        holder: &Holder,
        resource: &str,
        stream: StreamId,
        unsubscribed: bool,
        now: Now,
    ) {
        let Some((state, name)) = self.member(holder, resource) else {
            return;
        };
        let Some(member) = state.members.get_mut(&name) else {
            return;
        };
        if member.streams.remove(&stream).is_none() {
            return;
        }
        member.changed = now.wall;
        if unsubscribed {
            member.expected -= 1;
            member.confirm();
        }
        let over = member.expected == 0;
        state.measure(false, now.monotonic);
        note(&mut self.changed, holder, Arc::clone(&name));
        if over {
            self.remove(holder, &name, now);
        }
    }

    fn member(&mut self, holder: &Holder, resource: &str) -> Option<(&mut State, Arc<str>)> {
        let state = self.holders.get_mut(holder)?;
        let (name, _) = state.members.get_key_value(resource)?;
        let name = Arc::clone(name);
        Some((state, name))
    }

    fn remove(&mut self, holder: &Holder, resource: &Arc<str>, now: Now) {
        let Some(state) = self.holders.get_mut(holder) else {
            return;
        };
        if let Some(member) = state.members.remove(resource) {
            // What the holder refused is forgotten only with the holder itself.
            if state.members.is_empty() && state.refused.is_empty() {
                self.holders.remove(holder);
            }
            self.end(holder.clone(), Arc::clone(resource), member, now);
        }
    }

    fn end(&mut self, holder: Holder, resource: Arc<str>, mut member: Member, now: Now) {
        if !holder.is_known() {
            return;
        }
        member.changed = now.wall;
        member.streams.clear();
        self.changed
            .remove(&(holder.clone(), Arc::clone(&resource)));
        self.ended.push(Ended {
            holder,
            resource,
            member,
        });
    }
}

impl Holder {
    /// Whether it is known who it is, so that what it says can count.
    fn is_known(&self) -> bool {
        !matches!(self, Self::Stream(_))
    }
}

impl State {
    fn is_connected(&self) -> bool {
        self.members.values().any(|m| !m.streams.is_empty())
    }

    fn refuse(&mut self, refused: Refused) {
        self.refused.retain(|r| r.sha256 != refused.sha256);
        self.refused.push(refused);
        if self.refused.len() > MOST_REFUSED {
            self.refused.remove(0);
        }
    }

    /// Starts and stops the clock of forgiveness for each member; `returned` if the
    /// holder's first stream has just come back.
    fn measure(&mut self, returned: bool, now: Instant) {
        let connected = self.is_connected();
        for member in self.members.values_mut() {
            if !connected || member.streams.len() >= member.expected {
                member.short_since = None;
            } else if returned || member.short_since.is_none() {
                member.short_since = Some(now);
            }
        }
    }

    /// Away, and nothing that it was ever sent is valid any more.
    fn is_over(&self, holder: &Holder, now: SystemTime) -> bool {
        if self.is_connected() {
            return false;
        }
        match (self.last_leaf_end, holder) {
            (Some(end), _) => end + SKEW < now,
            // It may still verify others by the roots that it was given.
            (None, Holder::Process(_)) => false,
            (None, Holder::Stream(_)) => true,
            (None, Holder::Pod(_)) => {
                let changed = self.members.values().map(|m| m.changed).max();
                changed.is_none_or(|changed| changed + LEAFLESS_POD < now)
            }
        }
    }
}

impl Member {
    fn new(now: SystemTime) -> Self {
        Self {
            confirmed: None,
            unconfirmed: Vec::new(),
            streams: BTreeMap::new(),
            expected: 0,
            short_since: None,
            changed: now,
        }
    }

    /// Moves `confirmed` to the newest content that every expected stream has taken, or
    /// one after it.
    fn confirm(&mut self) {
        if self.streams.is_empty() || self.streams.len() < self.expected {
            return;
        }
        let place = |stream: &Stream| {
            let acked = stream.acked.as_ref()?;
            self.unconfirmed.iter().position(|c| c == acked)
        };
        let Some(common) = self.streams.values().map(place).min().flatten() else {
            return;
        };
        let taken = Arc::clone(&self.unconfirmed[common]);
        if self
            .confirmed
            .as_ref()
            .is_some_and(|c| taken.is_lower_than(c))
        {
            return;
        }
        self.unconfirmed.drain(..=common);
        self.confirmed = Some(taken);
    }

    /// What the consumer may be using.
    fn in_use(&self) -> impl Iterator<Item = &Arc<Content>> {
        self.confirmed.iter().chain(&self.unconfirmed)
    }
}

/// There is something to be told of it, if it is known who it is.
fn note(changed: &mut BTreeSet<(Holder, Arc<str>)>, holder: &Holder, resource: Arc<str>) {
    if holder.is_known() {
        changed.insert((holder.clone(), resource));
    }
}

fn shortened(mut detail: String) -> String {
    let mut end = detail.len().min(LONGEST_DETAIL);
    while !detail.is_char_boundary(end) {
        end -= 1;
    }
    detail.truncate(end);
    detail
}

#[cfg(test)]
mod tests;
