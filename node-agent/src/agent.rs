//! The owner of everything that changes on this node: identities, roots, subscribers and
//! the cache. One task; everybody else sends it what happened and sees snapshots.
//!
//! The order that it keeps: what came is sealed first, pushed then, and reported last.

mod disk;
pub(crate) mod owner;

pub(crate) use owner::Conditions;

use crate::attest::peer::ProcessWatch;
use crate::attest::{Peer, Pod, ServiceAccountToken};
use crate::authority::{Event as FromAuthority, Link};
use crate::cache::{Cache, Loaded};
use crate::config::Config;
use crate::doorway::Open;
use crate::issue::{self, Answer};
use crate::metrics::Metrics;
use crate::seed;
use crate::subscribers::{Holder, Now};
use arx_daemon::Clock;
use arx_daemon::drain::{Drain, OnPanic, Tasks};
use arx_identity::{Svid, TrustBundle};
use disk::Disk;
use owner::{Effect, Owner};
use std::sync::Arc;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;

/// Events that are taken in before anything is done about them.
const EVENTS: usize = 1024;

/// What the agent is made from.
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

/// What a kubelet says about a pod.
#[derive(Debug)]
pub(crate) enum PodEvent {
    /// It has a socket of its own, or comes with another token.
    Published {
        pod: Arc<Pod>,
        token: Option<Arc<ServiceAccountToken>>,
    },
    /// Its processes have ended.
    Gone { pod: Arc<Pod> },
}

/// Where the owner hears what happens.
#[derive(Debug)]
pub(crate) struct Ears {
    /// Closed if no kubelet is listened to.
    pub(crate) pods: mpsc::Receiver<PodEvent>,
    pub(crate) opens: mpsc::Receiver<Open>,
    pub(crate) streams: mpsc::UnboundedReceiver<arx_sds::Event>,
    pub(crate) authority: mpsc::Receiver<FromAuthority>,
}

/// The owner, with the clock, the disk, the network and the processes that it decides about.
#[derive(Debug)]
pub(crate) struct Agent {
    owner: Owner,
    config: watch::Receiver<Arc<Config>>,
    clock: Clock,
    disk: Disk,
    calls: JoinSet<Vec<Answer>>,
    deaths: JoinSet<Holder>,
}

impl Agent {
    /// Takes over what the cache held.
    pub(crate) fn new(parts: Parts) -> Self {
        let now = now(&parts.clock);
        let mut agent = Self {
            owner: Owner::new(
                owner::Parts {
                    config: parts.config.clone(),
                    metrics: parts.metrics,
                    cache_id: parts.cache.id(),
                    loaded: parts.loaded,
                    conditions: parts.conditions,
                    loosened: parts.loosened,
                    seed: seed::random(),
                },
                now,
            ),
            config: parts.config,
            clock: parts.clock,
            disk: Disk::new(parts.cache),
            calls: JoinSet::new(),
            deaths: JoinSet::new(),
        };
        agent.find_processes(now);
        agent
    }

    /// After a restart: which of the processes that hold something are still there.
    fn find_processes(&mut self, now: Now) {
        for holder in self.owner.holders() {
            let Holder::Process(process) = &holder else {
                continue;
            };
            match Peer::find(process) {
                Some(watch) => self.owner.found(holder, watch),
                None => self.owner.on_death(&holder, now),
            }
        }
    }

    /// The node's SVID from the cache, and where durable roots can be seen.
    pub(crate) fn for_the_authority(&self) -> (Option<Svid>, watch::Receiver<Option<TrustBundle>>) {
        self.owner.for_the_authority()
    }

    /// Starts the task.
    pub(crate) fn start(self, ears: Ears, link: Link, drain: &Drain, tasks: &Tasks) {
        let drain = drain.clone();
        tasks.spawn("agent", OnPanic::End, self.run(ears, link, drain));
    }

    async fn run(mut self, mut ears: Ears, link: Link, drain: Drain) {
        let mut jumps = self.clock.jumps();
        let (mut opens, mut events) = (Vec::new(), Vec::new());
        self.carry_out(&link);
        loop {
            let wake = self.owner.next_wake();
            tokio::select! {
                taken = ears.opens.recv_many(&mut opens, EVENTS) => {
                    let now = self.now();
                    for open in opens.drain(..taken) {
                        self.owner.open(open, now);
                    }
                }
                taken = ears.streams.recv_many(&mut events, EVENTS) => {
                    let now = self.now();
                    for event in events.drain(..taken) {
                        self.owner.on_stream(event, now);
                    }
                }
                Some(event) = ears.pods.recv() => self.owner.on_pod(event, now(&self.clock)),
                Some(event) = ears.authority.recv() => self.owner.on_authority(event, now(&self.clock)),
                Some(answers) = self.calls.join_next() => {
                    let answers = answers.unwrap_or_default();
                    self.owner.on_answers(answers, now(&self.clock));
                }
                Some(written) = self.disk.written() => {
                    self.owner.on_written(written, now(&self.clock));
                    // What streams have sent until here may be older than what is shown to
                    // them now, and must be known before the authority hears of it.
                    let taken = ears.streams.len();
                    for event in std::iter::from_fn(|| ears.streams.try_recv().ok()).take(taken) {
                        self.owner.on_stream(event, now(&self.clock));
                    }
                }
                Some(holder) = self.deaths.join_next() => {
                    if let Ok(holder) = holder {
                        self.owner.on_death(&holder, now(&self.clock));
                    }
                }
                Ok(()) = jumps.changed() => self.owner.on_jump(now(&self.clock)),
                Ok(()) = self.config.changed() => self.owner.on_config(),
                () = tokio::time::sleep_until(wake.into()) => {}
                () = drain.requested() => break,
            }
            self.owner.act(link.client().is_some(), self.now());
            self.carry_out(&link);
        }
        self.end(ears).await;
    }

    fn now(&self) -> Now {
        now(&self.clock)
    }

    fn carry_out(&mut self, link: &Link) {
        for effect in self.owner.effects() {
            match effect {
                Effect::Ask(wanted, terms) => {
                    self.calls.spawn(issue::issue(link.clone(), wanted, *terms));
                }
                Effect::Write(write) => self.disk.write(write),
                Effect::Watch(holder, watch) => {
                    self.deaths.spawn(dead(holder, watch));
                }
            }
        }
    }

    /// Ends every stream, and writes down what is not yet.
    async fn end(mut self, mut ears: Ears) {
        self.owner.end_streams();
        // What proxies have said so far is taken in; their streams end meanwhile.
        while let Ok(event) = ears.streams.try_recv() {
            self.owner.on_stream(event, now(&self.clock));
        }
        while let Some(written) = self.disk.written().await {
            self.owner.on_written(written, now(&self.clock));
        }
        let (state, subscribers) = self.owner.last_words();
        self.disk.flush(state, subscribers).await;
    }
}

async fn dead(holder: Holder, watch: ProcessWatch) -> Holder {
    watch.ended().await;
    holder
}

fn now(clock: &Clock) -> Now {
    Now {
        wall: clock.now(),
        monotonic: clock.monotonic(),
    }
}
