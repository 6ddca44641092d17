//! Streams of proxies: what each sees, and what it says about it.

use super::{Effect, Owner};
use crate::attest::Caller;
use crate::attest::peer::ProcessWatch;
use crate::doorway::{Open, Opened};
use crate::issue::WorkloadId;
use crate::roots::Roots;
use crate::subscribers::{Content, Event, Holder, Now, StreamId};
use crate::workloads::{Key, Workload};
use arx_sds::{EventKind, Secret, Session, Snapshot};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::watch;
use tonic::Status;

/// Peers in pid namespaces that the agent does not see, of no pod: all of these are one
/// holder, which confirms nothing that not all have.
const UNSEEN: &str = "unseen";
/// Contents that are remembered by version, beyond those that may still be answered.
const SPARE_CONTENTS: usize = 64;
/// Pushes of one stream that are measured at a time.
const MOST_MEASURED: usize = 8;

/// All open streams.
#[derive(Debug, Default)]
pub(super) struct Streams {
    last: u64,
    open: HashMap<StreamId, Stream>,
    /// What a version stands for; versions follow from the content.
    contents: HashMap<Arc<str>, Arc<Content>>,
    /// Holders whose death is waited for.
    watched: HashSet<Holder>,
}

#[derive(Debug)]
struct Stream {
    holder: Holder,
    workload: WorkloadId,
    /// None once the stream was told to end.
    view: Option<watch::Sender<Arc<Snapshot>>>,
    /// The process is dead: what comes on this stream is about nobody.
    dead: bool,
    /// When secrets left that were not acknowledged yet.
    sent: Vec<(Arc<Secret>, Instant)>,
}

impl Stream {
    fn measure(&mut self, secret: &Arc<Secret>, now: Instant) {
        if self.sent.len() >= MOST_MEASURED {
            self.sent.remove(0);
        }
        self.sent.push((Arc::clone(secret), now));
    }

    fn measured(&mut self, secret: &Arc<Secret>) -> Option<Instant> {
        let place = self
            .sent
            .iter()
            .position(|(sent, _)| Arc::ptr_eq(sent, secret));
        place.map(|place| self.sent.remove(place).1)
    }
}

impl Streams {
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    #[cfg(test)]
    pub(super) fn workload(&self, stream: StreamId) -> Option<WorkloadId> {
        Some(self.open.get(&stream)?.workload)
    }

    pub(super) fn belongs_to(&mut self, stream: StreamId, workload: WorkloadId) {
        if let Some(stream) = self.open.get_mut(&stream) {
            stream.workload = workload;
        }
    }

    /// Ends a stream from this side, with a status that makes the proxy come again.
    pub(super) fn end(&mut self, stream: StreamId) {
        if let Some(stream) = self.open.get_mut(&stream) {
            stream.view = None;
        }
    }

    pub(super) fn end_all(&mut self) {
        for stream in self.open.values_mut() {
            stream.view = None;
        }
    }

    fn show(&self, stream: StreamId, snapshot: &Arc<Snapshot>) {
        let view = self.open.get(&stream).and_then(|s| s.view.as_ref());
        if let Some(view) = view {
            view.send_replace(Arc::clone(snapshot));
        }
    }

    /// Remembers what the versions in a snapshot stand for.
    fn remember(
        &mut self,
        version: &Arc<str>,
        content: impl FnOnce() -> Arc<Content>,
        live: usize,
    ) {
        if self.contents.contains_key(version) {
            return;
        }
        if self.contents.len() > 2 * live + SPARE_CONTENTS {
            self.contents
                .retain(|_, content| Arc::strong_count(content) > 1);
        }
        self.contents.insert(Arc::clone(version), content());
    }
}

impl Owner {
    /// A stream asks.
    pub(crate) fn open(&mut self, open: Open, now: Now) {
        let Open {
            caller,
            asker,
            process,
            node,
            events,
            reply,
        } = open;
        let expired = matches!(&caller, Caller::Token(token) if token.says_expired(now.wall));
        self.streams.last += 1;
        let stream = StreamId(self.streams.last);
        let (process, watch) = process.map_or((None, None), |(process, watch)| {
            (Some(Holder::Process(process)), watch)
        });
        let subscribers = &self.subscribers;
        let has_held = |id: &arx_identity::SpiffeId| {
            let process = process.as_ref();
            process.is_some_and(|holder| subscribers.has_held(holder, id.as_str()))
        };
        let attached = self.workloads.attach(stream, caller, asker, has_held, now);
        let Ok(workload) = attached else {
            let status = Status::resource_exhausted(
                "too many of your tokens have not been proved, wait or show fewer",
            );
            let _ = reply.send(Err(status));
            return;
        };
        if expired
            && self
                .workloads
                .get(workload)
                .is_none_or(|w| w.newest().is_none())
        {
            // Nothing could ever come of it. Who has proved something before is served
            // until it is time for a fresh token.
            self.workloads.detach(stream, workload, now);
            let status = Status::unauthenticated("the token has expired, send a fresh one");
            let _ = reply.send(Err(status));
            return;
        }
        let holder = process.or_else(|| self.unseen(workload));
        let holder = holder.unwrap_or(Holder::Stream(stream));
        let view = watch::Sender::new(self.snapshot(workload, now));
        // If the proxy has given up meanwhile, that comes as the stream's last event.
        let _ = reply.send(Ok(Opened::new(Session {
            stream: stream.0,
            view: view.subscribe(),
            events,
        })));
        tracing::debug!(stream = stream.0, ?holder, node, "stream opened");
        if let Some(watch) = watch {
            self.found(holder.clone(), watch);
        }
        self.streams.open.insert(
            stream,
            Stream {
                holder,
                workload,
                view: Some(view),
                dead: false,
                sent: Vec::new(),
            },
        );
    }

    /// Who holds what a workload is given, where processes can't be seen; none while nobody
    /// has vouched for its token.
    fn unseen(&self, id: WorkloadId) -> Option<Holder> {
        match &self.workloads.get(id)?.key {
            Key::Unproven(_) => None,
            Key::Account(subject) if !subject.pod_uid.is_empty() => {
                Some(Holder::Pod(subject.pod_uid.clone()))
            }
            Key::Socket(pod) => Some(Holder::Pod(pod.uid.to_string())),
            Key::Process(uid) => Some(Holder::Pod(uid.to_string())),
            Key::Account(_) | Key::Local(_) => Some(Holder::Pod(UNSEEN.to_owned())),
        }
    }

    /// The authority has vouched for a workload's token: what its streams say counts.
    pub(super) fn proved(&mut self, id: WorkloadId, now: Now) {
        let (Some(holder), Some(workload)) = (self.unseen(id), self.workloads.get(id)) else {
            return;
        };
        for stream in &workload.streams {
            if let Some(open) = self.streams.open.get_mut(stream)
                && open.holder == Holder::Stream(*stream)
            {
                open.holder = holder.clone();
                self.subscribers.proved(*stream, &holder, now);
                self.sealing.subscribers_changed(false, now.monotonic);
            }
        }
    }

    /// What the streams of a workload see.
    fn snapshot(&mut self, id: WorkloadId, now: Now) -> Arc<Snapshot> {
        let Some(workload) = self.workloads.get_mut(id) else {
            return Arc::new(self.roots.snapshot().clone());
        };
        let expired = workload
            .served
            .as_ref()
            .is_some_and(|leaf| leaf.svid.not_after() <= now.wall);
        if let Some(snapshot) = workload.snapshot.as_ref().filter(|_| !expired) {
            return Arc::clone(snapshot);
        }
        let name = &self.config.borrow().names.certificate;
        let (snapshot, is_whole) = secrets(&self.roots, workload, name, expired);
        let snapshot = Arc::new(snapshot);
        if !expired {
            workload.snapshot = Some(Arc::clone(&snapshot));
        }
        let leaf = workload.served.as_ref().map(crate::subscribers::Leaf::from);
        if !is_whole {
            self.workloads.not_vouched_for(id, now);
        }
        let live = self.workloads.len() + self.streams.len();
        for secret in snapshot.secrets() {
            let content = || match secret.content() {
                arx_sds::Content::Trust(bundle) => Some(Roots::content(bundle)),
                arx_sds::Content::All(bundles) => bundles.first().map(Roots::content),
                arx_sds::Content::Certificate(_) => {
                    leaf.clone().map(|leaf| Arc::new(Content::Leaf(leaf)))
                }
            };
            if let Some(content) = content() {
                self.streams.remember(secret.version(), || content, live);
            }
        }
        snapshot
    }

    /// Shows every stream of a workload what is served for it now.
    pub(super) fn push(&mut self, id: WorkloadId, now: Now) {
        if self.workloads.get(id).is_none_or(|w| w.streams.is_empty()) {
            return;
        }
        let snapshot = self.snapshot(id, now);
        if let Some(workload) = self.workloads.get(id) {
            for stream in &workload.streams {
                self.streams.show(*stream, &snapshot);
            }
        }
    }

    pub(super) fn push_to_all(&mut self, now: Now) {
        let ids: Vec<_> = self
            .workloads
            .iter_mut()
            .map(|(id, workload)| {
                workload.snapshot = None;
                id
            })
            .collect();
        for id in ids {
            self.push(id, now);
        }
    }

    /// Something happened on a stream.
    pub(crate) fn on_stream(&mut self, event: arx_sds::Event, now: Now) {
        let id = StreamId(event.stream);
        let Some(stream) = self.streams.open.get_mut(&id) else {
            return;
        };
        let contents = &self.streams.contents;
        let of = |secret: &Secret| contents.get(secret.version()).cloned();
        let mut fetched = false;
        let (resource, event) = match event.kind {
            EventKind::Sent(secret) => {
                stream.measure(&secret, now.monotonic);
                (Arc::clone(secret.name()), of(&secret).map(Event::Sent))
            }
            // It will never say whether it has taken it: sent, and not confirmed.
            EventKind::Fetched(secret) => {
                fetched = true;
                (Arc::clone(secret.name()), of(&secret).map(Event::Sent))
            }
            EventKind::Acked(secret) => {
                if let Some(at) = stream.measured(&secret) {
                    let after = now.monotonic.saturating_duration_since(at);
                    self.metrics.acked(after);
                }
                (Arc::clone(secret.name()), of(&secret).map(Event::Acked))
            }
            EventKind::Nacked { secret, detail } => {
                let kind = match secret.content() {
                    arx_sds::Content::Certificate(_) => "certificate",
                    arx_sds::Content::Trust(_) => "trust",
                    arx_sds::Content::All(_) => "all",
                };
                self.metrics.nacked(kind, &detail);
                tracing::warn!(
                    code = "ARX-AGENT-NACK",
                    resource = &**secret.name(),
                    version = &**secret.version(),
                    holder = ?stream.holder,
                    detail,
                    "a proxy refused a secret and goes on with the one before it"
                );
                let nacked = of(&secret).map(|content| Event::Nacked {
                    content,
                    version: secret.version().to_string(),
                    detail,
                });
                (Arc::clone(secret.name()), nacked)
            }
            EventKind::Unsubscribed { resource } => (resource, Some(Event::Unsubscribed)),
            EventKind::Ended { resource } => (resource, Some(Event::Ended)),
            EventKind::Closed => return self.closed(id, now),
        };
        let (Some(event), false) = (event, stream.dead) else {
            return;
        };
        // Losing a refusal would make a later ACK of the same bytes look true.
        let urgent = matches!(event, Event::Nacked { .. });
        let changes_leaves = match &event {
            Event::Sent(content) | Event::Acked(content) => content.leaf().is_some(),
            // It may have been the last to use one.
            Event::Unsubscribed => true,
            Event::Nacked { .. } | Event::Ended => false,
        };
        let holder = &stream.holder;
        // Of whom nobody knows who it is, nothing is written down.
        let is_known = !matches!(holder, Holder::Stream(_));
        if changes_leaves && is_known {
            self.follow.leaves_changed(now.monotonic);
        }
        self.subscribers.apply(holder, &resource, id, event, now);
        if fetched {
            self.subscribers
                .apply(holder, &resource, id, Event::Ended, now);
        }
        if is_known {
            self.sealing.subscribers_changed(urgent, now.monotonic);
        }
    }

    fn closed(&mut self, id: StreamId, now: Now) {
        if let Some(stream) = self.streams.open.remove(&id) {
            if matches!(stream.holder, Holder::Stream(_)) {
                self.subscribers.died(&stream.holder, now);
            }
            self.workloads.detach(id, stream.workload, now);
        }
    }

    /// A holder's process is dead.
    pub(crate) fn on_death(&mut self, holder: &Holder, now: Now) {
        self.streams.watched.remove(holder);
        for stream in self.streams.open.values_mut() {
            if stream.holder == *holder {
                stream.dead = true;
            }
        }
        self.subscribers.died(holder, now);
        self.sealing.subscribers_changed(false, now.monotonic);
        self.follow.leaves_changed(now.monotonic);
    }

    /// Everybody who holds something.
    pub(crate) fn holders(&self) -> Vec<Holder> {
        self.subscribers.holders().cloned().collect()
    }

    /// The holder's process is there, and its death can be waited for.
    pub(crate) fn found(&mut self, holder: Holder, watch: ProcessWatch) {
        if self.streams.watched.insert(holder.clone()) {
            self.effects.push(Effect::Watch(holder, watch));
        }
    }

    /// An identity that nobody has used for long enough is kept no longer.
    pub(super) fn forgotten(&mut self, workload: &Workload, now: Now) {
        let Some(leaf) = &workload.served else {
            return;
        };
        let id = leaf.svid.spiffe_id();
        tracing::info!(spiffe_id = %id, "identity is unused and not kept any longer");
        let mut others = self.workloads.iter().filter_map(|(_, w)| w.served.as_ref());
        if !others.any(|other| other.svid.spiffe_id() == id) {
            self.metrics.serves_no_more(id);
        }
        self.sealing.changed(now.monotonic);
        self.follow.leaves_changed(now.monotonic);
    }
}

/// The roots, and the workload's own certificate under its names if it has a good one; false
/// if the roots do not vouch for it.
fn secrets(roots: &Roots, workload: &Workload, name: &str, expired: bool) -> (Snapshot, bool) {
    let shared = roots.snapshot();
    let leaf = workload.served.as_ref().filter(|_| !expired);
    // Without roots beside it nobody can judge it, and the proxy can't use it.
    let (Some(leaf), true) = (leaf, roots.served().is_some()) else {
        return (shared.clone(), true);
    };
    let names = [name, leaf.svid.spiffe_id().as_str()];
    let whole = Snapshot::builder()
        .with(shared)
        .certificate(names, &leaf.svid)
        .build();
    match whole {
        Ok(snapshot) => (snapshot, true),
        Err(error) => {
            tracing::warn!(
                code = "ARX-AGENT-SNAPSHOT",
                spiffe_id = %leaf.svid.spiffe_id(),
                %error,
                "the certificate does not go with the roots: only the roots are served until it is renewed"
            );
            (shared.clone(), false)
        }
    }
}
