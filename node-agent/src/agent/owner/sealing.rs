//! Writing the cache down: what, when, and what may be done once it is on disk. Changes that
//! come while a write is under way go together with the next one.

use super::{Effect, Owner};
use crate::renewal;
use crate::subscribers::Now;
use arx_proto::node::v1::SubscriberReport;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// Changes of subscribers are gathered for this long, refusals are not.
const GATHER: Duration = Duration::from_millis(250);
/// Waits after a failed write.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));

/// What is not on disk yet.
#[derive(Debug)]
pub(super) struct Sealing {
    state: File,
    subscribers: File,
    /// What the next write of the state will carry.
    generation: u64,
    failures: u32,
    not_before: Option<Instant>,
    seed: u64,
}

#[derive(Debug, Default)]
struct File {
    /// Since when it differs from what is on disk.
    due: Option<Instant>,
    writing: bool,
}

/// Content for one of the files.
#[derive(Debug)]
pub(crate) struct Write {
    pub(crate) what: What,
    pub(crate) content: Zeroizing<Vec<u8>>,
}

/// A write that has ended.
#[derive(Debug)]
pub(crate) enum Written {
    Ended {
        what: What,
        /// With the file that could not be written.
        result: Result<(), (PathBuf, io::Error)>,
    },
    /// Nothing is known of the files.
    Unknown,
}

/// Which file, and what follows when it is on disk.
#[derive(Debug)]
pub(crate) enum What {
    State {
        generation: u64,
    },
    /// What may be told now.
    Subscribers(Option<SubscriberReport>),
}

impl Sealing {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            state: File::default(),
            subscribers: File::default(),
            generation: 1,
            failures: 0,
            not_before: None,
            seed,
        }
    }

    /// The number that a change gets which is made now.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// Roots or certificates have changed.
    pub(super) fn changed(&mut self, now: Instant) {
        // Somebody waits for it.
        self.state.due.get_or_insert(now);
    }

    /// Subscribers have changed; `urgent` if the change must not get lost.
    pub(super) fn subscribers_changed(&mut self, urgent: bool, now: Instant) {
        let at = if urgent { now } else { now + GATHER };
        self.subscribers.due = Some(self.subscribers.due.map_or(at, |due| due.min(at)));
    }

    pub(super) fn subscribers_are_written(&self) -> bool {
        self.subscribers.due.is_none() && !self.subscribers.writing
    }

    pub(super) fn next_write(&self) -> Option<Instant> {
        let next = [&self.state, &self.subscribers]
            .into_iter()
            .filter(|file| !file.writing)
            .filter_map(|file| file.due)
            .min()?;
        Some(self.not_before.map_or(next, |at| next.max(at)))
    }

    fn is_due(&self, file: &File, now: Instant) -> bool {
        let may = self.not_before.is_none_or(|at| at <= now);
        may && !file.writing && file.due.is_some_and(|at| at <= now)
    }
}

impl Owner {
    /// Begins the writes that are due.
    pub(super) fn seal(&mut self, now: Now) {
        if self.sealing.is_due(&self.sealing.state, now.monotonic) {
            let generation = self.sealing.generation;
            self.sealing.generation += 1;
            self.sealing.state.begin();
            let write = Write {
                what: What::State { generation },
                content: self.state().encode(),
            };
            self.effects.push(Effect::Write(write));
        }
        if self
            .sealing
            .is_due(&self.sealing.subscribers, now.monotonic)
        {
            let content = Zeroizing::new(self.subscribers.save());
            let report = self.follow.next(&mut self.subscribers, now.monotonic);
            self.sealing.subscribers.begin();
            let write = Write {
                what: What::Subscribers(report),
                content,
            };
            self.effects.push(Effect::Write(write));
        }
    }

    /// A write has ended.
    pub(crate) fn on_written(&mut self, written: Written, now: Now) {
        let Written::Ended { what, result } = written else {
            self.sealing.state.writing = false;
            self.sealing.subscribers.writing = false;
            self.sealing.changed(now.monotonic);
            self.sealing.subscribers_changed(true, now.monotonic);
            self.follow.report_was_not_sent();
            return;
        };
        let file = match what {
            What::State { .. } => &mut self.sealing.state,
            What::Subscribers(_) => &mut self.sealing.subscribers,
        };
        file.writing = false;
        if let Err((path, error)) = result {
            file.due = Some(now.monotonic);
            if let What::Subscribers(Some(_)) = what {
                self.follow.report_was_not_sent();
            }
            self.write_failed(&path, &error, now);
            return;
        }
        if self.sealing.failures > 0 {
            self.sealing.failures = 0;
            self.sealing.not_before = None;
        }
        self.conditions.cache.set_ok();
        match what {
            What::Subscribers(report) => {
                if let Some(report) = report {
                    self.follow.send_report(report);
                }
            }
            What::State { generation } => self.on_sealed(generation, now),
        }
    }

    /// Everything up to this generation is on disk: it may be pushed, then told.
    fn on_sealed(&mut self, generation: u64, now: Now) {
        let stored = self.roots.sealed(generation);
        let ready = self.workloads.sealed(generation);
        for id in &ready {
            let workload = self.workloads.get(*id);
            if let Some(leaf) = workload.and_then(|w| w.served.as_ref()) {
                self.metrics
                    .serves(leaf.svid.spiffe_id(), leaf.svid.not_after());
            }
        }
        if stored.is_some() {
            self.serve_roots(now);
        }
        if !ready.is_empty() {
            // What they replace may be gone with this.
            self.follow.leaves_changed(now.monotonic);
        }
        for id in ready {
            self.push(id, now);
        }
        if let Some(bundle) = stored {
            tracing::info!(sequence = %bundle.sequence(), "roots are stored and served");
            self.follow.stored(&bundle);
        }
    }

    fn write_failed(&mut self, path: &Path, error: &io::Error, now: Now) {
        self.sealing.failures = self.sealing.failures.saturating_add(1);
        let failures = self.sealing.failures;
        let wait = renewal::backoff(failures, RETRY.0, RETRY.1, self.sealing.seed);
        self.sealing.not_before = Some(now.monotonic + wait);
        self.metrics.cache_failures.inc();
        self.conditions.cache.set_failing(
            "ARX-AGENT-CACHE-WRITE",
            format!(
                "{} cannot be written: {error}; new certificates and roots wait for it, so free space or make it writable",
                path.display()
            ),
        );
    }

    /// What is to be written down at the end of the process: the state, if it has changed,
    /// and the subscribers.
    pub(crate) fn last_words(&mut self) -> (Option<Zeroizing<Vec<u8>>>, Zeroizing<Vec<u8>>) {
        let due = self.sealing.state.due.is_some();
        let state = due.then(|| self.state().encode());
        (state, Zeroizing::new(self.subscribers.save()))
    }
}

impl File {
    fn begin(&mut self) {
        self.due = None;
        self.writing = true;
    }
}
