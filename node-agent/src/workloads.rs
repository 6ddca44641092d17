//! The identities of this node: who has proved which one, what is served for it, and
//! what is due. A state machine without I/O; whoever owns it seals, calls and pushes.
//!
//! An identity belongs to evidence. Local processes of which the kernel says the same
//! share one, and so do those of a pod. Tokens can't be verified here, so what a token claims gives nobody
//! anything: a stream is served
//! - when the authority has issued for the very token that it presents, or
//! - when its process, held by a pidfd, was given this identity before and presents a
//!   token of the same account and pod, as after the token was refreshed.
//!
//! Any other token is shown to the authority first, and until it has answered the stream
//! is one of its own.

mod unproved;
mod workload;

pub(crate) use workload::{Key, Leaf, Workload};

use crate::attest::{Asker, Caller, Pod, ServiceAccountToken};
use crate::cache::{SavedKey, SavedWorkload};
use crate::issue::{Answer, Outcome, Verified, Wanted, WorkloadId};
use crate::renewal;
use crate::seed;
use crate::subscribers::{Now, StreamId};
use crate::trust::nearer_root;
use arx_identity::{SpiffeId, TrustBundle, verify};
use arx_proto::node::v1::RenewalHint;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};
use unproved::Unproved;
use workload::{Early, Presence, Schedule};

/// Everybody who has or wants an identity.
#[derive(Debug, Default)]
pub(crate) struct Workloads {
    last_id: u64,
    all: HashMap<WorkloadId, Workload>,
    by_key: HashMap<Key, WorkloadId>,
    /// The tokens that the authority has issued for, and those that it is being shown.
    by_token: HashMap<[u8; 32], WorkloadId>,
    due: BTreeSet<(Instant, WorkloadId)>,
    unused: BTreeSet<(Instant, WorkloadId)>,
    unproved: Unproved,
    linger: Duration,
    /// Of the workload that came last.
    seed: u64,
}

/// For so long a refused token is remembered: shown again, it is not asked about again.
const REFUSED_LINGER: Duration = Duration::from_secs(15);

/// Whoever asks has too many tokens that nobody has vouched for yet.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooManyUnproved;

/// What an answer has changed.
#[derive(Debug, Default)]
pub(crate) struct Applied {
    /// Something is to be sealed.
    pub(crate) changed: bool,
    /// These streams belong to another workload now, because a token was proved.
    pub(crate) moved: Vec<(StreamId, WorkloadId)>,
    /// Its streams are known to be its own now.
    pub(crate) proved: Option<WorkloadId>,
    /// For the log and the metrics.
    pub(crate) report: Option<Report>,
}

/// How an attempt ended, for people.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) renewal: bool,
    pub(crate) outcome: &'static str,
    pub(crate) code: String,
    pub(crate) message: String,
    pub(crate) failures: u32,
    /// It is about a token that was never good for anything: anybody can cause it.
    pub(crate) unproved: bool,
    pub(crate) spiffe_id: Option<SpiffeId>,
    /// What it is known by, for the log.
    pub(crate) evidence: String,
}

/// What is to be done now.
#[derive(Debug, Default)]
pub(crate) struct Due {
    pub(crate) wanted: Vec<Wanted>,
    /// All tokens of these have ended: their streams must come again with fresh ones.
    pub(crate) starved: Vec<WorkloadId>,
}

impl Workloads {
    /// `seed` differs from agent to agent.
    pub(crate) fn new(linger: Duration, seed: u64) -> Self {
        Self {
            linger,
            seed,
            ..Self::default()
        }
    }

    pub(crate) fn set_linger(&mut self, linger: Duration) {
        self.linger = linger;
    }

    /// Takes over what was sealed. Nobody is connected yet.
    pub(crate) fn restore(&mut self, saved: Vec<SavedWorkload>, now: Now) {
        for saved in saved {
            let key = match saved.key {
                SavedKey::Local(process) => Key::Local(process),
                SavedKey::Account(subject) => Key::Account(subject),
                SavedKey::Socket(pod) => Key::Socket(Arc::new(pod)),
                SavedKey::Process(uid) => Key::Process(uid),
            };
            let mut workload = self.workload(key);
            workload.proven = saved.proven;
            workload.served = Some(Leaf::new(saved.svid, saved.root));
            let id = self.insert(workload);
            self.schedule(id, now);
            self.note_use(id, now);
        }
    }

    /// What is to be sealed: the newest certificate of each, in the order in which they came.
    pub(crate) fn save(&self) -> Vec<SavedWorkload> {
        let mut all: Vec<_> = self.all.iter().collect();
        all.sort_unstable_by_key(|(id, _)| **id);
        let saved = all.into_iter().filter_map(|(_, workload)| {
            let leaf = workload.newest()?;
            let key = match &workload.key {
                Key::Local(process) => SavedKey::Local(process.clone()),
                Key::Account(subject) => SavedKey::Account(subject.clone()),
                Key::Socket(pod) => SavedKey::Socket(Pod::clone(pod)),
                Key::Process(uid) => SavedKey::Process(uid.clone()),
                Key::Unproven(_) => return None,
            };
            Some(SavedWorkload {
                key,
                proven: workload.proven.clone(),
                svid: leaf.svid.clone(),
                root: leaf.root,
            })
        });
        saved.collect()
    }

    /// A stream asks, whose caller is known as far as its attestor goes. `has_held` says whether its process was given an
    /// identity before.
    pub(crate) fn attach(
        &mut self,
        stream: StreamId,
        caller: Caller,
        asker: Asker,
        has_held: impl Fn(&SpiffeId) -> bool,
        now: Now,
    ) -> Result<WorkloadId, TooManyUnproved> {
        let id = match caller {
            Caller::Local(process) => self.of_key(Key::Local(process)),
            Caller::Socket(pod) => self.of_key(Key::Socket(pod)),
            Caller::Process(uid) => self.of_key(Key::Process(uid)),
            Caller::Token(token) => self.of_token(token, asker, has_held, now)?,
        };
        if let Some(workload) = self.all.get_mut(&id) {
            workload.streams.insert(stream);
            if workload.schedule == Schedule::Never {
                self.schedule(id, now);
            }
        }
        self.note_use(id, now);
        Ok(id)
    }

    /// A pod has a socket of its own, or comes with another token: its certificate is fetched
    /// before it asks, and kept for as long as the pod is there.
    pub(crate) fn published(
        &mut self,
        pod: Arc<Pod>,
        token: Option<Arc<ServiceAccountToken>>,
        now: Now,
    ) {
        let id = self.of_key(Key::Socket(pod));
        if let Some(workload) = self.all.get_mut(&id) {
            workload.presence = Presence::Published;
            if token.is_some() && workload.starved {
                // It has failed for want of this alone.
                workload.failures = 0;
            }
        }
        if let Some(token) = token {
            self.offer(id, token, now);
        }
        if self
            .all
            .get(&id)
            .is_some_and(|workload| workload.schedule == Schedule::Never)
        {
            self.schedule(id, now);
        }
        self.note_use(id, now);
    }

    /// A pod has no socket any more: its processes have ended.
    pub(crate) fn unpublished(&mut self, pod: &Arc<Pod>, now: Now) {
        let Some(id) = self.by_key.get(&Key::Socket(Arc::clone(pod))).copied() else {
            return;
        };
        if let Some(workload) = self.all.get_mut(&id) {
            workload.presence = Presence::Gone;
            workload.tokens.clear();
            if let Some(at) = workload.unused_until.take() {
                self.unused.remove(&(at, id));
            }
        }
        self.note_use(id, now);
    }

    fn of_token(
        &mut self,
        token: Arc<ServiceAccountToken>,
        asker: Asker,
        has_held: impl Fn(&SpiffeId) -> bool,
        now: Now,
    ) -> Result<WorkloadId, TooManyUnproved> {
        let digest = *token.digest();
        if let Some(id) = self.by_token.get(&digest).copied() {
            self.offer(id, token, now);
            return Ok(id);
        }
        let account = Key::Account(token.claims().subject.clone());
        if let Some(id) = self.by_key.get(&account).copied()
            && let Some(workload) = self.all.get(&id)
            && workload
                .newest()
                .is_some_and(|leaf| has_held(leaf.svid.spiffe_id()))
        {
            // Good for the next renewal, but no proof for anybody else.
            self.offer(id, token, now);
            return Ok(id);
        }
        if !self.unproved.take(asker) {
            return Err(TooManyUnproved);
        }
        let mut workload = self.workload(Key::Unproven(digest));
        workload.asker = Some(asker);
        let id = self.insert(workload);
        self.know_by(digest, id);
        self.offer(id, token, now);
        Ok(id)
    }

    fn offer(&mut self, id: WorkloadId, token: Arc<ServiceAccountToken>, now: Now) {
        let Some(workload) = self.all.get_mut(&id) else {
            return;
        };
        workload.offer(token);
        if workload.starved {
            workload.starved = false;
            self.schedule(id, now);
        }
    }

    fn of_key(&mut self, key: Key) -> WorkloadId {
        match self.by_key.get(&key) {
            Some(id) => *id,
            None => {
                let workload = self.workload(key);
                self.insert(workload)
            }
        }
    }

    fn workload(&mut self, key: Key) -> Workload {
        self.seed = seed::after(self.seed);
        Workload::new(key, self.seed)
    }

    fn insert(&mut self, workload: Workload) -> WorkloadId {
        self.last_id += 1;
        let id = WorkloadId(self.last_id);
        self.by_key.insert(workload.key.clone(), id);
        let proven = workload.proven.clone();
        self.all.insert(id, workload);
        for digest in proven {
            self.know_by(digest, id);
        }
        id
    }

    /// Whoever shows the token of this digest again is this workload.
    fn know_by(&mut self, digest: [u8; 32], id: WorkloadId) {
        let before = self.by_token.insert(digest, id);
        let Some(workload) = self.all.get_mut(&id).filter(|_| before != Some(id)) else {
            return;
        };
        let forgotten = workload.known_by(digest);
        if let Some(forgotten) = forgotten
            && self.by_token.get(&forgotten) == Some(&id)
        {
            self.by_token.remove(&forgotten);
        }
    }

    /// A stream is over.
    pub(crate) fn detach(&mut self, stream: StreamId, id: WorkloadId, now: Now) {
        if let Some(workload) = self.all.get_mut(&id) {
            workload.streams.remove(&stream);
            self.note_use(id, now);
        }
    }

    pub(crate) fn get(&self, id: WorkloadId) -> Option<&Workload> {
        self.all.get(&id)
    }

    pub(crate) fn get_mut(&mut self, id: WorkloadId) -> Option<&mut Workload> {
        self.all.get_mut(&id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (WorkloadId, &Workload)> {
        self.all.iter().map(|(id, workload)| (*id, workload))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (WorkloadId, &mut Workload)> {
        self.all.iter_mut().map(|(id, workload)| (*id, workload))
    }

    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    /// When something is due next: an attempt, or the end of an unused identity.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    pub(crate) fn next_unused(&self) -> Option<Instant> {
        self.unused.first().map(|(at, _)| *at)
    }

    /// At most `limit` certificates that are wanted by now: those that somebody waits for
    /// first, then the one that ends first.
    pub(crate) fn take_due(&mut self, limit: usize, now: Now) -> Due {
        let mut ready: Vec<_> = self
            .due
            .iter()
            .take_while(|(at, _)| *at <= now.monotonic)
            .filter_map(|(at, id)| {
                let workload = self.all.get(id)?;
                let end = workload.newest().map(|leaf| leaf.svid.not_after());
                Some((end, *at, *id))
            })
            .collect();
        ready.sort_unstable();
        ready.truncate(limit);
        let mut due = Due::default();
        for (_, at, id) in ready {
            self.due.remove(&(at, id));
            let Some(workload) = self.all.get_mut(&id) else {
                continue;
            };
            workload.schedule = Schedule::Never;
            let Some(evidence) = workload.evidence(now.wall) else {
                workload.starved = true;
                workload.failures = workload.failures.saturating_add(1);
                due.starved.push(id);
                self.schedule(id, now);
                continue;
            };
            workload.schedule = Schedule::Asked;
            due.wanted.push(Wanted {
                workload: id,
                evidence,
                replaces: workload
                    .newest()
                    .map(|leaf| (leaf.svid.serial().clone(), leaf.svid.not_after())),
                prepared: workload.prepared.take(),
            });
        }
        due
    }

    /// Takes in an answer. `generation` is what the next sealing will carry, `inventories`
    /// how many were sent by now.
    pub(crate) fn apply(
        &mut self,
        answer: Answer,
        generation: u64,
        inventories: u64,
        now: Now,
    ) -> Applied {
        let id = answer.workload;
        let Some(workload) = self.all.get_mut(&id) else {
            return Applied::default();
        };
        workload.schedule = Schedule::Never;
        let mut applied = Applied {
            report: Some(workload.report(&answer.outcome)),
            ..Applied::default()
        };
        match answer.outcome {
            Outcome::Issued(_) | Outcome::Early { .. } if inventories >= answer.inventories + 2 => {
                // Two inventories have said that this leaf is not here; the authority may
                // have believed it.
                workload.retry_now();
                applied.report = None;
            }
            Outcome::Issued(verified) => {
                applied.changed = true;
                self.issued(id, verified, generation, now, &mut applied);
                return applied;
            }
            Outcome::Early { svid, needs, .. } => {
                workload.early = Some(Early {
                    svid,
                    needs,
                    inventories: answer.inventories,
                });
                workload.failed(Duration::from_secs(5));
            }
            Outcome::Refused(refusal) => workload.refused(&refusal),
            Outcome::Failed(failure, prepared) => {
                workload.prepared = prepared;
                workload.failed(failure.retry_after);
            }
            Outcome::Unusable(_) => workload.failed(Duration::ZERO),
        }
        self.schedule(id, now);
        self.note_use(id, now);
        applied
    }

    /// The connection is back: whoever failed for want of it need not wait any longer, and
    /// whoever became overdue meanwhile is spread.
    pub(crate) fn connected(&mut self, now: Now) {
        let mut waiting = Vec::new();
        for (id, workload) in &mut self.all {
            let overdue = matches!(workload.schedule, Schedule::At(at) if at <= now.monotonic);
            let for_want_of_it = workload.failures > 0 && workload.retry_after.is_zero();
            if overdue || for_want_of_it {
                workload.failures = 0;
                waiting.push(*id);
            }
        }
        for id in waiting {
            self.schedule(id, now);
        }
    }

    fn issued(
        &mut self,
        id: WorkloadId,
        verified: Verified,
        generation: u64,
        now: Now,
        applied: &mut Applied,
    ) {
        let root = verified.peer.issuers.last().copied();
        let id = self.proved(id, now, applied);
        if let Some(workload) = self.all.get_mut(&id)
            && let Some(root) = root
        {
            workload.succeeded(Leaf::new(verified.svid, root), generation);
            self.schedule(id, now);
            self.note_use(id, now);
        }
    }

    /// The authority has issued for the token of `id`: what it claims is true.
    fn proved(&mut self, id: WorkloadId, now: Now, applied: &mut Applied) -> WorkloadId {
        let Some(workload) = self.all.get_mut(&id) else {
            return id;
        };
        let Some(token) = workload.asked_with.take() else {
            return id;
        };
        workload.prove(*token.digest());
        self.know_by(*token.digest(), id);
        let Some(workload) = self.all.get_mut(&id) else {
            return id;
        };
        if !matches!(workload.key, Key::Unproven(_)) {
            return id;
        }
        if let Some(asker) = workload.asker.take() {
            self.unproved.release(asker);
        }
        applied.proved = Some(id);
        let account = Key::Account(token.claims().subject.clone());
        self.by_key.remove(&workload.key);
        let Some(known) = self.by_key.get(&account).copied() else {
            workload.key = account.clone();
            self.by_key.insert(account, id);
            return id;
        };
        // Another token of somebody who is here already: they are one from here on.
        let Some(joining) = self.remove(id) else {
            return known;
        };
        self.know_by(*token.digest(), known);
        let moved = joining.streams.iter().map(|s| (*s, known));
        applied.moved.extend(moved);
        applied.proved = Some(known);
        if let Some(workload) = self.all.get_mut(&known) {
            workload.streams.extend(joining.streams);
            workload.prove(*token.digest());
            workload.offer(token);
            if workload.schedule == Schedule::Asked {
                // Its own answer is still to come, and will be newer or older; either is
                // good for both.
                tracing::debug!("two tokens of one account were asked for at once");
            }
        }
        self.note_use(known, now);
        known
    }

    /// Everything up to `generation` is on disk: these have something new to be pushed.
    pub(crate) fn sealed(&mut self, generation: u64) -> Vec<WorkloadId> {
        let ready = self
            .all
            .iter_mut()
            .filter_map(|(id, workload)| workload.sealed(generation).then_some(*id));
        ready.collect()
    }

    /// The roots have changed: whichever certificates they show to stand under another root than
    /// was known; whether there are any.
    pub(crate) fn count_anew(&mut self, bundle: &TrustBundle) -> bool {
        let leaves = self.all.values_mut().flat_map(Workload::leaves_mut);
        let mut changed = false;
        for leaf in leaves {
            if let Some(root) = nearer_root(&leaf.svid, leaf.root, bundle) {
                leaf.root = root;
                changed = true;
            }
        }
        changed
    }

    /// The roots have changed: certificates that came before their roots may be good now.
    pub(crate) fn trust_arrived(
        &mut self,
        bundle: &TrustBundle,
        generation: u64,
        inventories: u64,
        now: Now,
    ) -> Vec<Applied> {
        let mut all = Vec::new();
        let ids: Vec<_> = self.all.keys().copied().collect();
        for id in ids {
            let early = self.all.get_mut(&id).and_then(|workload| {
                workload
                    .early
                    .take_if(|early| early.needs <= bundle.sequence())
            });
            let Some(Early {
                svid,
                inventories: then,
                ..
            }) = early
            else {
                continue;
            };
            if inventories < then + 2
                && let Ok(peer) = verify(svid.chain(), bundle, now.wall)
            {
                let mut applied = Applied {
                    changed: true,
                    ..Applied::default()
                };
                self.issued(id, Verified { svid, peer }, generation, now, &mut applied);
                all.push(applied);
            }
        }
        all
    }

    /// The authority wants some of them earlier; how many.
    pub(crate) fn hint(&mut self, wish: &RenewalHint, now: Now) -> usize {
        let renew_by = crate::wire::time(wish.renew_by_unix_ms);
        let hint = renewal::Hint {
            received: now.wall,
            renew_by,
        };
        let meant: Vec<_> = self
            .all
            .iter_mut()
            .filter(|(_, w)| {
                w.newest()
                    .is_some_and(|leaf| renewal::is_meant(wish, &leaf.svid, leaf.root))
            })
            .map(|(id, w)| {
                w.hint = Some(hint);
                *id
            })
            .collect();
        for id in &meant {
            self.schedule(*id, now);
        }
        meant.len()
    }

    /// The roots do not vouch for what this one is served: it is renewed at once, and if that
    /// fails, whenever it is tried again.
    pub(crate) fn not_vouched_for(&mut self, id: WorkloadId, now: Now) {
        let Some(workload) = self.all.get_mut(&id) else {
            return;
        };
        if workload.next.is_none() && workload.failures == 0 {
            workload.hint = Some(renewal::Hint {
                received: now.wall,
                renew_by: now.wall,
            });
            self.schedule(id, now);
        }
    }

    /// The wall clock has jumped: everything is thought over.
    pub(crate) fn reschedule(&mut self, now: Now) {
        let ids: Vec<_> = self.all.keys().copied().collect();
        for id in ids {
            self.schedule(id, now);
        }
    }

    /// Ends identities that nobody has used for long enough.
    pub(crate) fn forget_unused(&mut self, now: Now) -> Vec<Workload> {
        let mut forgotten = Vec::new();
        while let Some((at, id)) = self.unused.first().copied() {
            if at > now.monotonic {
                break;
            }
            self.unused.remove(&(at, id));
            forgotten.extend(self.remove(id));
        }
        forgotten
    }

    fn remove(&mut self, id: WorkloadId) -> Option<Workload> {
        let workload = self.all.remove(&id)?;
        if let Some(asker) = workload.asker {
            self.unproved.release(asker);
        }
        if let Schedule::At(at) = workload.schedule {
            self.due.remove(&(at, id));
        }
        if let Some(at) = workload.unused_until {
            self.unused.remove(&(at, id));
        }
        if self.by_key.get(&workload.key) == Some(&id) {
            self.by_key.remove(&workload.key);
        }
        // Its own only: a look at all tokens for each of many that go would take seconds.
        for digest in workload.digests() {
            if self.by_token.get(digest) == Some(&id) {
                self.by_token.remove(digest);
            }
        }
        Some(workload)
    }

    /// Decides anew when this one is due, unless its answer is awaited.
    fn schedule(&mut self, id: WorkloadId, now: Now) {
        let Some(workload) = self.all.get_mut(&id) else {
            return;
        };
        match workload.schedule {
            Schedule::Asked => return,
            Schedule::At(at) => {
                self.due.remove(&(at, id));
            }
            Schedule::Never => {}
        }
        let at = now.monotonic + workload.wait(now.wall);
        workload.schedule = Schedule::At(at);
        self.due.insert((at, id));
    }

    /// Starts or stops the time after which an identity without streams is forgotten.
    fn note_use(&mut self, id: WorkloadId, now: Now) {
        let Some(workload) = self.all.get_mut(&id) else {
            return;
        };
        let in_use = !workload.streams.is_empty()
            || workload.schedule == Schedule::Asked
            || workload.presence == Presence::Published;
        match (in_use, workload.unused_until) {
            (true, Some(at)) => {
                self.unused.remove(&(at, id));
                workload.unused_until = None;
            }
            (false, None) => {
                let linger = if workload.presence == Presence::Gone {
                    Duration::ZERO
                } else if workload.newest().is_some() {
                    self.linger
                } else if workload.was_refused {
                    REFUSED_LINGER
                } else {
                    // Nothing would be kept alive.
                    Duration::ZERO
                };
                let at = now.monotonic + linger;
                workload.unused_until = Some(at);
                self.unused.insert((at, id));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
