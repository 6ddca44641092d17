//! The owner of everything that changes on this node: identities, roots, subscribers and
//! the cache. One task; everybody else sends it what happened and sees snapshots.
//!
//! The order that it keeps: what came is sealed first, pushed then, and reported last.

mod report;
mod sealing;
mod streams;

use crate::authority::{Event as FromAuthority, Link};
use crate::cache::{Cache, Loaded, State};
use crate::config::Config;
use crate::doorway::Open;
use crate::issue::{self, Answer, Terms, WorkloadId};
use crate::metrics::Metrics;
use crate::quiet::Quiet;
use crate::roots::Roots;
use crate::subscribers::{Holder, Now, Subscribers};
use crate::trust;
use crate::workloads::{Applied, Report, Workloads};
use arx_daemon::Clock;
use arx_daemon::drain::{Drain, OnPanic, Tasks};
use arx_daemon::ops::Condition;
use arx_identity::{KeyId, Svid, TrustBundle};
use arx_proto::node::v1::{RenewalHint, Welcome};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;

/// Calls to the authority at a time.
const CALLS: usize = 6;
/// How long wants are gathered to make a batch.
const GATHER: Duration = Duration::from_millis(2);
/// Events that are taken in before anything is done about them.
const EVENTS: usize = 1024;
/// Answers at once after which so much that was needed for them is free that it is worth
/// looking for.
const MANY: usize = 16;
/// How often things are looked at that nothing announces.
const LOOK: Duration = Duration::from_secs(30);

/// What the owner is made from.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) config: watch::Receiver<Arc<Config>>,
    pub(crate) clock: Clock,
    pub(crate) metrics: Metrics,
    pub(crate) cache: Cache,
    pub(crate) loaded: Loaded,
    pub(crate) conditions: Conditions,
    /// Told when something has left free memory behind.
    pub(crate) loosened: Arc<Notify>,
}

/// What the owner says about how it goes.
#[derive(Clone, Debug)]
pub(crate) struct Conditions {
    /// Roots are being served.
    pub(crate) trust: Condition,
    /// What changes can be written down.
    pub(crate) cache: Condition,
}

/// Where the owner hears what happens.
#[derive(Debug)]
pub(crate) struct Ears {
    pub(crate) opens: mpsc::Receiver<Open>,
    pub(crate) streams: mpsc::UnboundedReceiver<arx_sds::Event>,
    pub(crate) authority: mpsc::Receiver<FromAuthority>,
}

/// The owner.
#[derive(Debug)]
pub(crate) struct Agent {
    config: watch::Receiver<Arc<Config>>,
    clock: Clock,
    metrics: Metrics,
    conditions: Conditions,
    loosened: Arc<Notify>,
    roots: Roots,
    workloads: Workloads,
    subscribers: Subscribers,
    streams: streams::Streams,
    node: Option<(Svid, KeyId)>,
    sealing: sealing::Sealing,
    follow: report::Follow,
    calls: JoinSet<Vec<Answer>>,
    /// Since when somebody waits for a batch.
    gathering: Option<Instant>,
    deaths: JoinSet<Holder>,
    next_look: Instant,
    /// Tokens that were never good for anything.
    refused_tokens: Quiet,
}

impl Agent {
    /// Takes over what the cache held.
    pub(crate) fn new(parts: Parts) -> Self {
        let config = Arc::clone(&parts.config.borrow());
        let Loaded { state, subscribers } = parts.loaded;
        let now = Now {
            wall: parts.clock.now(),
            monotonic: parts.clock.monotonic(),
        };
        let vouched = state.bundle.as_ref().is_some_and(|bundle| {
            let node = state.node.iter().map(|(svid, _)| svid);
            let leaves = state.workloads.iter().map(|workload| &workload.svid);
            trust::cached_bundle_is_good(bundle, leaves.chain(node), now.wall)
        });
        let trust_domain = config.trust_domain.clone();
        let roots = Roots::new(trust_domain, config.names.clone(), state.bundle, vouched);
        let mut workloads = Workloads::new(config.attestation.linger.get());
        workloads.restore(state.workloads, now);
        let mut agent = Self {
            config: parts.config,
            follow: report::Follow::new(parts.cache.id(), state.inventory_ordinal),
            sealing: sealing::Sealing::new(parts.cache),
            clock: parts.clock,
            metrics: parts.metrics,
            conditions: parts.conditions,
            loosened: parts.loosened,
            roots,
            workloads,
            subscribers,
            streams: streams::Streams::default(),
            node: state.node,
            calls: JoinSet::new(),
            gathering: None,
            deaths: JoinSet::new(),
            next_look: now.monotonic + LOOK,
            refused_tokens: Quiet::default(),
        };
        agent.find_processes(now);
        agent.serve_roots(now);
        if agent.roots.served().is_none() {
            agent.conditions.trust.set_failing(
                "ARX-AGENT-NO-ROOTS",
                "no roots are served until the authority has been reached",
            );
        }
        let served = agent
            .workloads
            .iter()
            .filter_map(|(_, w)| w.served.as_ref());
        let node = agent.node.iter().map(|(svid, _)| svid);
        for svid in served.map(|leaf| &leaf.svid).chain(node) {
            agent.metrics.serves(svid.spiffe_id(), svid.not_after());
        }
        agent.show();
        agent
    }

    /// The node's SVID from the cache, and where durable roots can be seen.
    pub(crate) fn for_the_authority(&self) -> (Option<Svid>, watch::Receiver<Option<TrustBundle>>) {
        let svid = self.node.as_ref().map(|(svid, _)| svid.clone());
        (svid, self.roots.durable())
    }

    /// Starts the task.
    pub(crate) fn start(self, ears: Ears, link: Link, drain: &Drain, tasks: &Tasks) {
        let drain = drain.clone();
        tasks.spawn("agent", OnPanic::End, self.run(ears, link, drain));
    }

    async fn run(mut self, mut ears: Ears, link: Link, drain: Drain) {
        let mut jumps = self.clock.jumps();
        let (mut opens, mut events) = (Vec::new(), Vec::new());
        loop {
            let wake = self.next_wake();
            tokio::select! {
                taken = ears.opens.recv_many(&mut opens, EVENTS) => {
                    let now = self.now();
                    for open in opens.drain(..taken) {
                        self.open(open, now);
                    }
                }
                taken = ears.streams.recv_many(&mut events, EVENTS) => {
                    let now = self.now();
                    for event in events.drain(..taken) {
                        self.on_stream(event, now);
                    }
                }
                Some(event) = ears.authority.recv() => self.on_authority(event, self.now()),
                Some(answers) = self.calls.join_next() => self.on_answers(answers.unwrap_or_default(), self.now()),
                Some(written) = self.sealing.written() => {
                    self.on_written(written, self.now());
                    // What streams have sent until here may be older than what is shown to
                    // them now, and must be known before the authority hears of it.
                    let taken = ears.streams.len();
                    for event in std::iter::from_fn(|| ears.streams.try_recv().ok()).take(taken) {
                        self.on_stream(event, self.now());
                    }
                }
                Some(holder) = self.deaths.join_next() => {
                    if let Ok(holder) = holder {
                        self.on_death(&holder, self.now());
                    }
                }
                Ok(()) = jumps.changed() => self.workloads.reschedule(self.now()),
                Ok(()) = self.config.changed() => {
                    let linger = self.config.borrow().attestation.linger.get();
                    self.workloads.set_linger(linger);
                }
                () = tokio::time::sleep_until(wake.into()) => {}
                () = drain.requested() => break,
            }
            self.act(&link, self.now());
        }
        self.end(ears).await;
    }

    fn now(&self) -> Now {
        Now {
            wall: self.clock.now(),
            monotonic: self.clock.monotonic(),
        }
    }

    /// Everything that is due.
    fn act(&mut self, link: &Link, now: Now) {
        let looks = now.monotonic >= self.next_look;
        if looks {
            self.next_look = now.monotonic + LOOK;
        }
        let next_tick = self.subscribers.next_tick();
        if looks || next_tick.is_some_and(|at| at <= now.monotonic) {
            let before = self.subscribers.len();
            self.subscribers.tick(now);
            if self.subscribers.len() != before {
                self.follow.leaves_changed(now.monotonic);
            }
        }
        for gone in self.workloads.forget_unused(now) {
            self.forgotten(&gone, now);
        }
        if let Some(more) = self.refused_tokens.due(now.monotonic) {
            tracing::warn!(
                code = "ARX-AGENT-TOKENS-REFUSED",
                more,
                "more tokens got no certificate within the last minute"
            );
        }
        self.ask(link, now);
        self.seal(now);
        self.report(now);
        self.show();
    }

    fn next_wake(&self) -> Instant {
        let due = if self.follow.is_up() && self.calls.len() < CALLS {
            self.workloads.next_due().map(|at| match self.gathering {
                Some(since) => at.max(since + GATHER),
                None => at,
            })
        } else {
            None
        };
        let wakes = [
            due,
            self.workloads.next_unused(),
            self.subscribers.next_tick(),
            self.sealing.next_write(),
            self.follow.next_report(),
            self.refused_tokens.next(),
        ];
        wakes
            .into_iter()
            .flatten()
            .fold(self.next_look, Instant::min)
    }

    /// Sends off what is wanted, in batches.
    fn ask(&mut self, link: &Link, now: Now) {
        if link.client().is_none() || !self.follow.is_up() {
            return;
        }
        while self.calls.len() < CALLS {
            let due = self
                .workloads
                .next_due()
                .is_some_and(|at| at <= now.monotonic);
            if !due {
                self.gathering = None;
                return;
            }
            let since = *self.gathering.get_or_insert(now.monotonic);
            if now.monotonic < since + GATHER {
                return;
            }
            let due = self.workloads.take_due(issue::BATCH, now);
            for id in due.starved {
                self.starved(id);
            }
            if due.wanted.is_empty() {
                continue;
            }
            let config = self.config.borrow();
            let terms = Terms {
                algorithm: config.certificates.key,
                ttl: config.certificates.ttl.map(|ttl| ttl.get()),
                timeout: config.authority.call_timeout.get(),
                bundle: self.roots.newest().cloned(),
                wall: now.wall,
                monotonic: now.monotonic,
                inventories: self.follow.inventories(),
            };
            drop(config);
            self.calls
                .spawn(issue::issue(link.clone(), due.wanted, terms));
        }
    }

    fn on_answers(&mut self, answers: Vec<Answer>, now: Now) {
        if answers.len() >= MANY {
            self.loosened.notify_one();
        }
        for answer in answers {
            let id = answer.workload;
            let generation = self.sealing.generation();
            let inventories = self.follow.inventories();
            let applied = self.workloads.apply(answer, generation, inventories, now);
            let changed = applied.changed;
            let report = self.take_over(applied, now);
            if let Some(report) = report {
                self.metrics.attempt(&report);
                self.log(&report, now);
            }
            if let Some(workload) = self.workloads.get(id)
                && let Some(leaf) = workload.newest().filter(|_| changed)
            {
                tracing::info!(
                    spiffe_id = %leaf.svid.spiffe_id(),
                    serial = %leaf.svid.serial(),
                    evidence = workload.evidence_in_words(),
                    not_after = arx_daemon::clock::rfc3339(leaf.svid.not_after()),
                    "certificate issued"
                );
            }
        }
    }

    fn on_authority(&mut self, event: FromAuthority, now: Now) {
        match event {
            FromAuthority::Node(svid) => self.on_node(svid, now),
            FromAuthority::Trust(update) => {
                let generation = self.sealing.generation();
                match self.roots.offer(&update, generation) {
                    Ok(changed) => {
                        if changed {
                            self.sealing.changed();
                            self.check_early(generation, now);
                        }
                        self.serve_roots(now);
                    }
                    Err(refused) => {
                        let (code, message) = (refused.code(), refused.to_string());
                        tracing::error!(code, "roots from the authority are refused: {message}");
                        self.conditions.trust.set_failing(code, message);
                    }
                }
            }
            FromAuthority::Following { welcome, up } => {
                self.on_welcome(&welcome, now);
                self.follow.began(up, now.monotonic);
                // Roots that came with the join may have reached the disk only after the Hello.
                if let Some(bundle) = self.roots.durable().borrow().as_ref() {
                    self.follow.stored(bundle);
                }
                self.workloads.connected(now);
            }
            FromAuthority::Lost => self.follow.lost(),
            FromAuthority::Renew(wish) => self.on_wish(&wish, now),
            FromAuthority::ReportSeen(ordinal) => self.follow.seen(ordinal),
        }
    }

    fn on_node(&mut self, svid: Svid, now: Now) {
        let newest = self.roots.newest();
        let verified = newest.map(|roots| arx_identity::verify(svid.chain(), roots, now.wall));
        let issuers = verified.and_then(Result::ok).map(|peer| peer.issuers);
        if let Some(root) = issuers.and_then(|issuers| issuers.last().copied()) {
            self.metrics.serves(svid.spiffe_id(), svid.not_after());
            self.node = Some((svid, root));
            self.sealing.changed();
            self.follow.leaves_changed(now.monotonic);
        }
    }

    fn on_welcome(&mut self, welcome: &Welcome, now: Now) {
        if let Some(theirs) = self.roots.compare(&welcome.trust) {
            let code = "ARX-AGENT-TRUST-LOWER";
            tracing::warn!(
                code,
                replica = welcome.replica_id,
                "the authority stands at sequence {theirs}, which this node has passed: keeping its own roots"
            );
        }
        self.serve_roots(now);
    }

    fn on_wish(&mut self, wish: &RenewalHint, now: Now) {
        let certificates = self.workloads.hint(wish, now);
        let reason: String = wish.reason.chars().take(256).collect();
        tracing::info!(
            certificates,
            reason,
            "the authority wants certificates renewed early"
        );
    }

    fn check_early(&mut self, generation: u64, now: Now) {
        let Some(bundle) = self.roots.newest().cloned() else {
            return;
        };
        let inventories = self.follow.inventories();
        let arrived = self
            .workloads
            .trust_arrived(&bundle, generation, inventories, now);
        for applied in arrived {
            self.take_over(applied, now);
        }
    }

    /// Goes by what an answer has changed, and passes on what it says.
    fn take_over(&mut self, applied: Applied, now: Now) -> Option<Report> {
        if applied.changed {
            self.sealing.changed();
            self.follow.leaves_changed(now.monotonic);
        }
        for (stream, workload) in applied.moved {
            self.streams.belongs_to(stream, workload);
        }
        if let Some(id) = applied.proved {
            self.proved(id, now);
        }
        applied.report
    }

    /// Takes new roots into service and pushes them.
    fn serve_roots(&mut self, now: Now) {
        if self.roots.serve() {
            self.push_to_all(now);
        }
        if let Some(bundle) = self.roots.served() {
            self.metrics.trust(bundle.sequence());
            self.conditions.trust.set_ok();
        }
    }

    fn state(&self) -> State {
        State {
            bundle: self.roots.newest().cloned(),
            node: self.node.clone(),
            workloads: self.workloads.save(),
            inventory_ordinal: self.follow.inventory_ordinal(),
        }
    }

    fn starved(&mut self, id: WorkloadId) {
        let Some(workload) = self.workloads.get(id) else {
            return;
        };
        tracing::warn!(
            code = "ARX-AGENT-TOKEN-EXPIRED",
            evidence = workload.evidence_in_words(),
            streams = workload.streams.len(),
            "every token of this workload has expired: its streams are ended, so that they come again with fresh ones"
        );
        let streams: Vec<_> = workload.streams.iter().copied().collect();
        for stream in streams {
            self.streams.end(stream);
        }
    }

    fn show(&self) {
        let gauge = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.metrics.workloads.set(gauge(self.workloads.len()));
        self.metrics.subscribers.set(gauge(self.subscribers.len()));
        self.metrics.streams.set(gauge(self.streams.len()));
        self.metrics
            .follow_connected
            .set(i64::from(self.follow.is_up()));
    }

    /// Ends every stream, and writes down what is not yet.
    async fn end(mut self, mut ears: Ears) {
        self.streams.end_all();
        // What proxies have said so far is taken in; their streams end meanwhile.
        while let Ok(event) = ears.streams.try_recv() {
            self.on_stream(event, self.now());
        }
        self.flush().await;
    }
}

impl Agent {
    fn log(&mut self, report: &Report, now: Now) {
        if report.outcome == "issued" {
            return;
        }
        let more = if report.unproved {
            self.refused_tokens.happened(now.monotonic)
        } else {
            Some(0)
        };
        log(report, more);
    }
}

/// `more` is how many others like it were not told; none if this one is not to be, either.
fn log(report: &Report, more: Option<u64>) {
    let message = "no certificate; it is tried again";
    let code = report.code.as_str();
    let (evidence, reason) = (report.evidence.as_str(), report.message.as_str());
    let spiffe_id = report.spiffe_id.as_ref().map(ToString::to_string);
    let failures = report.failures;
    // The first time loudly; whoever looks for more finds it at debug.
    let loudly = failures == 0 || failures.is_power_of_two();
    if let Some(more) = more.filter(|_| loudly) {
        tracing::warn!(
            code,
            outcome = report.outcome,
            evidence,
            spiffe_id,
            reason,
            failures,
            more = (more > 0).then_some(more),
            "{message}"
        );
    } else {
        tracing::debug!(
            code,
            outcome = report.outcome,
            evidence,
            spiffe_id,
            reason,
            failures,
            "{message}"
        );
    }
}

#[cfg(test)]
mod tests;
