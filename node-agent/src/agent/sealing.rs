//! Writing the cache down, away from the runtime's thread. Changes that come while a
//! write is under way go together with the next one.

use super::Agent;
use crate::cache::Cache;
use crate::renewal;
use crate::seed;
use crate::subscribers::Now;
use arx_daemon::files::SealedFile;
use arx_proto::node::v1::SubscriberReport;
use std::io;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
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
    writes: JoinSet<Written>,
    /// Nobody else may use the directory meanwhile.
    _cache: Cache,
    /// What the next write of the state will carry.
    generation: u64,
    failures: u32,
    not_before: Option<Instant>,
}

#[derive(Debug)]
struct File {
    file: SealedFile,
    /// Since when it differs from what is on disk.
    due: Option<Instant>,
    writing: bool,
}

/// A write that has ended.
#[derive(Debug)]
pub(super) struct Written {
    what: What,
    result: io::Result<()>,
}

#[derive(Debug)]
enum What {
    State {
        generation: u64,
    },
    /// What may be told now.
    Subscribers(Option<SubscriberReport>),
}

impl Sealing {
    pub(super) fn new(cache: Cache) -> Self {
        let file = |file| File {
            file,
            due: None,
            writing: false,
        };
        Self {
            state: file(cache.state_file()),
            subscribers: file(cache.subscribers_file()),
            writes: JoinSet::new(),
            _cache: cache,
            generation: 1,
            failures: 0,
            not_before: None,
        }
    }

    /// The number that a change gets which is made now.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// Roots or certificates have changed.
    pub(super) fn changed(&mut self) {
        // Somebody waits for it.
        self.state.due.get_or_insert_with(Instant::now);
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

    /// Waits for a write to end; `None` when none is under way.
    pub(super) async fn written(&mut self) -> Option<Written> {
        match self.writes.join_next().await? {
            Ok(written) => Some(written),
            Err(error) => {
                // A panic while sealing: nothing is known of the files.
                tracing::error!(code = "ARX-AGENT-CACHE-WRITE", %error, "sealing panicked");
                self.state.writing = false;
                self.subscribers.writing = false;
                self.changed();
                self.subscribers_changed(true, Instant::now());
                None
            }
        }
    }

    fn write(&mut self, what: What, content: Zeroizing<Vec<u8>>) {
        let file = match what {
            What::State { .. } => &mut self.state,
            What::Subscribers(_) => &mut self.subscribers,
        };
        file.due = None;
        file.writing = true;
        let file = file.file.clone();
        self.writes.spawn_blocking(move || Written {
            result: file.write(&content),
            what,
        });
    }

    fn is_due(&self, file: &File, now: Instant) -> bool {
        let may = self.not_before.is_none_or(|at| at <= now);
        may && !file.writing && file.due.is_some_and(|at| at <= now)
    }
}

impl Agent {
    /// Begins the writes that are due.
    pub(super) fn seal(&mut self, now: Now) {
        if self.sealing.is_due(&self.sealing.state, now.monotonic) {
            let generation = self.sealing.generation;
            self.sealing.generation += 1;
            let content = self.state().encode();
            self.sealing.write(What::State { generation }, content);
        }
        if self
            .sealing
            .is_due(&self.sealing.subscribers, now.monotonic)
        {
            let content = Zeroizing::new(self.subscribers.save());
            let report = self.follow.next(&mut self.subscribers, now.monotonic);
            self.sealing.write(What::Subscribers(report), content);
        }
    }

    pub(super) fn on_written(&mut self, written: Written, now: Now) {
        let Written { what, result } = written;
        let file = match what {
            What::State { .. } => &mut self.sealing.state,
            What::Subscribers(_) => &mut self.sealing.subscribers,
        };
        file.writing = false;
        if let Err(error) = result {
            let path = file.file.path().display().to_string();
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

    fn write_failed(&mut self, path: &str, error: &io::Error, now: Now) {
        self.sealing.failures = self.sealing.failures.saturating_add(1);
        let failures = self.sealing.failures;
        let wait = renewal::backoff(failures, RETRY.0, RETRY.1, seed::random());
        self.sealing.not_before = Some(now.monotonic + wait);
        self.metrics.cache_failures.inc();
        self.conditions.cache.set_failing(
            "ARX-AGENT-CACHE-WRITE",
            format!(
                "{path} cannot be written: {error}; new certificates and roots wait for it, so free space or make it writable"
            ),
        );
    }

    /// Writes down what is not yet, at the end of the process.
    pub(super) async fn flush(&mut self) {
        while let Some(written) = self.sealing.written().await {
            self.on_written(written, self.now());
        }
        let state = self
            .sealing
            .state
            .due
            .is_some()
            .then(|| self.state().encode());
        let (state_file, file) = (
            self.sealing.state.file.clone(),
            self.sealing.subscribers.file.clone(),
        );
        let subscribers = Zeroizing::new(self.subscribers.save());
        let last = tokio::task::spawn_blocking(move || {
            if let Some(state) = state {
                state_file.write(&state)?;
            }
            file.write(&subscribers)
        });
        if let Ok(Err(error)) = last.await {
            tracing::warn!(code = "ARX-AGENT-CACHE-WRITE", %error, "the last changes are not written down");
        }
    }
}
