//! The owner as a machine: what happened goes in with the time, what is to be done comes
//! out. It reads no clock, awaits nothing and touches no file.

mod report;
mod sealing;
mod streams;

pub(crate) use sealing::{What, Write, Written};

use super::PodEvent;
use crate::attest::peer::ProcessWatch;
use crate::authority::Event as FromAuthority;
use crate::cache::{Loaded, State};
use crate::config::Config;
use crate::issue::{self, Answer, Terms, Wanted, WorkloadId};
use crate::metrics::Metrics;
use crate::quiet::QuietByCode;
use crate::roots::Roots;
use crate::subscribers::{Holder, Now, Subscribers};
use crate::trust::{self, nearer_root};
use crate::workloads::{Applied, Key, Report, Workloads};
use arx_daemon::ops::Condition;
use arx_identity::{KeyId, Svid, TrustBundle};
use arx_proto::node::v1::{RenewalHint, Welcome};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};

/// Calls to the authority at a time.
const CALLS: usize = 6;
/// How long wants are gathered to make a batch.
const GATHER: Duration = Duration::from_millis(2);
/// How often things are looked at that nothing announces.
const LOOK: Duration = Duration::from_secs(30);

/// What the owner is made from.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) config: watch::Receiver<Arc<Config>>,
    pub(crate) metrics: Metrics,
    /// Which cache it is.
    pub(crate) cache_id: [u8; 16],
    /// What was in it.
    pub(crate) loaded: Loaded,
    pub(crate) conditions: Conditions,
    /// Told when something has left free memory behind.
    pub(crate) loosened: Arc<Notify>,
    /// Differs from agent to agent.
    pub(crate) seed: u64,
}

/// What the owner says about how it goes.
#[derive(Clone, Debug)]
pub(crate) struct Conditions {
    /// Roots are being served.
    pub(crate) trust: Condition,
    /// What changes can be written down.
    pub(crate) cache: Condition,
}

/// What is to be done outside. Whoever does it tells the owner what came of it.
#[derive(Debug)]
pub(crate) enum Effect {
    /// Ask the authority: [`Owner::on_answers`].
    Ask(Vec<Wanted>, Box<Terms>),
    /// Write this down: [`Owner::on_written`].
    Write(Write),
    /// Wait for the holder's death: [`Owner::on_death`].
    Watch(Holder, ProcessWatch),
}

/// The owner.
#[derive(Debug)]
pub(crate) struct Owner {
    config: watch::Receiver<Arc<Config>>,
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
    /// Calls that were not answered yet.
    calls: usize,
    /// Since when somebody waits for a batch.
    gathering: Option<Instant>,
    next_look: Instant,
    /// Tokens that were never good for anything.
    refused_tokens: QuietByCode,
    effects: Vec<Effect>,
}

impl Owner {
    /// Takes over what the cache held.
    pub(crate) fn new(parts: Parts, now: Now) -> Self {
        let config = Arc::clone(&parts.config.borrow());
        let Loaded { state, subscribers } = parts.loaded;
        let vouched = state.bundle.as_ref().is_some_and(|bundle| {
            let node = state.node.iter().map(|(svid, _)| svid);
            let leaves = state.workloads.iter().map(|workload| &workload.svid);
            trust::cached_bundle_is_good(bundle, leaves.chain(node), now.wall)
        });
        let trust_domain = config.trust_domain.clone();
        let roots = Roots::new(trust_domain, config.names.clone(), state.bundle, vouched);
        let mut workloads = Workloads::new(config.attestation.linger.get(), parts.seed);
        workloads.restore(state.workloads, now);
        let mut owner = Self {
            config: parts.config,
            follow: report::Follow::new(parts.cache_id, state.inventory_ordinal),
            sealing: sealing::Sealing::new(parts.seed),
            metrics: parts.metrics,
            conditions: parts.conditions,
            loosened: parts.loosened,
            roots,
            workloads,
            subscribers,
            streams: streams::Streams::default(),
            node: state.node,
            calls: 0,
            gathering: None,
            next_look: now.monotonic + LOOK,
            refused_tokens: QuietByCode::default(),
            effects: Vec::new(),
        };
        owner.serve_roots(now);
        if owner.roots.served().is_none() {
            owner.conditions.trust.set_failing(
                "ARX-AGENT-NO-ROOTS",
                "no roots are served until the authority has been reached",
            );
        }
        let served = owner
            .workloads
            .iter()
            .filter_map(|(_, w)| w.served.as_ref());
        let node = owner.node.iter().map(|(svid, _)| svid);
        for svid in served.map(|leaf| &leaf.svid).chain(node) {
            owner.metrics.serves(svid.spiffe_id(), svid.not_after());
        }
        owner.show();
        owner
    }

    /// The node's SVID from the cache, and where durable roots can be seen.
    pub(crate) fn for_the_authority(&self) -> (Option<Svid>, watch::Receiver<Option<TrustBundle>>) {
        let svid = self.node.as_ref().map(|(svid, _)| svid.clone());
        (svid, self.roots.durable())
    }

    /// What is to be done outside since the last call.
    pub(crate) fn effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// Everything that is due; `reachable` if the authority can be called.
    pub(crate) fn act(&mut self, reachable: bool, now: Now) {
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
        for (refused, more) in self.refused_tokens.due(now.monotonic) {
            tracing::warn!(
                code = "ARX-AGENT-TOKENS-REFUSED",
                refused,
                more,
                "more tokens got no certificate within the last minute"
            );
        }
        self.ask(reachable, now);
        self.seal(now);
        self.report(now);
        self.show();
    }

    /// When [`Self::act`] has something to do next, whatever happens.
    pub(crate) fn next_wake(&self) -> Instant {
        let due = if self.follow.is_up() && self.calls < CALLS {
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
    fn ask(&mut self, reachable: bool, now: Now) {
        if !reachable || !self.follow.is_up() {
            return;
        }
        while self.calls < CALLS {
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
            self.calls += 1;
            self.effects.push(Effect::Ask(due.wanted, Box::new(terms)));
        }
    }

    /// A call has ended; without answers if nothing is known of what it was for.
    pub(crate) fn on_answers(&mut self, answers: Vec<Answer>, now: Now) {
        self.calls = self.calls.saturating_sub(1);
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

    /// A kubelet says something.
    pub(crate) fn on_pod(&mut self, event: PodEvent, now: Now) {
        match event {
            PodEvent::Published { pod, token } => self.workloads.published(pod, token, now),
            PodEvent::Gone { pod } => {
                self.workloads.unpublished(&pod, now);
                // A kubelet takes a volume away when no process of the pod is left.
                self.on_death(&Holder::Pod(pod.uid.to_string()), now);
            }
        }
    }

    /// The authority says something.
    pub(crate) fn on_authority(&mut self, event: FromAuthority, now: Now) {
        match event {
            FromAuthority::Node(svid) => self.on_node(svid, now),
            FromAuthority::Trust(update) => {
                let generation = self.sealing.generation();
                match self.roots.offer(&update, generation) {
                    Ok(changed) => {
                        if changed {
                            self.sealing.changed(now.monotonic);
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
            self.sealing.changed(now.monotonic);
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
        let mut anew = self.workloads.count_anew(&bundle);
        if let Some((svid, counted)) = &mut self.node
            && let Some(root) = nearer_root(svid, *counted, &bundle)
        {
            *counted = root;
            anew = true;
        }
        if anew {
            self.sealing.changed(now.monotonic);
            self.follow.leaves_changed(now.monotonic);
        }
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
            self.sealing.changed(now.monotonic);
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
        if let Key::Socket(pod) = &workload.key {
            // Its proxies have no tokens, so nothing would come of ending their streams.
            tracing::info!(
                code = "ARX-CSI-TOKEN-AWAITED",
                %pod,
                "no certificate before the kubelet brings the pod's next token"
            );
            return;
        }
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

    /// The wall clock has jumped.
    pub(crate) fn on_jump(&mut self, now: Now) {
        self.workloads.reschedule(now);
    }

    /// The configuration was read again.
    pub(crate) fn on_config(&mut self) {
        let linger = self.config.borrow_and_update().attestation.linger.get();
        self.workloads.set_linger(linger);
    }

    /// Tells every stream to end.
    pub(crate) fn end_streams(&mut self) {
        self.streams.end_all();
    }
}

impl Owner {
    fn log(&mut self, report: &Report, now: Now) {
        if report.outcome == "issued" {
            return;
        }
        let more = if report.unproved {
            self.refused_tokens.happened(&report.code, now.monotonic)
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
