//! The keys of one cluster's issuer, kept at hand. Readers take a snapshot and never wait
//! for a fetch; a fetch is made once for all who need it, and not more often than allowed.

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use arx_daemon::Clock;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};

use super::jwks::KeySet;
use super::source::Source;

/// Keys are fetched anew after this time, however long they may be used.
const REFRESH: Duration = Duration::from_secs(300);

pub(super) struct Keys {
    inner: Arc<Inner>,
    latest: Mutex<Option<Attempt>>,
}

struct Inner {
    cluster: Arc<str>,
    source: Source,
    stale_grace: Duration,
    refetch_interval: Duration,
    clock: Clock,
    held: RwLock<Held>,
}

#[derive(Default)]
struct Held {
    snapshot: Option<Arc<Snapshot>>,
    /// Why the latest fetch failed, if it did.
    failure: Option<Arc<str>>,
}

pub(super) struct Snapshot {
    pub(super) set: KeySet,
    /// When the fetch that brought them was begun.
    fetched: Instant,
}

/// A fetch, running or done. Whoever needs it drives it, so one that all callers gave up
/// goes on with the next.
struct Attempt {
    begun: Instant,
    done: Shared<BoxFuture<'static, ()>>,
}

impl Keys {
    pub(super) fn new(
        cluster: Arc<str>,
        source: Source,
        stale_grace: Duration,
        refetch_interval: Duration,
        clock: Clock,
    ) -> Self {
        // A file is not a server that must be spared.
        let refetch_interval = if source.is_file() {
            refetch_interval.min(Duration::from_secs(1))
        } else {
            refetch_interval
        };
        Self {
            inner: Arc::new(Inner {
                cluster,
                source,
                stale_grace,
                refetch_interval,
                clock,
                held: RwLock::default(),
            }),
            latest: Mutex::default(),
        }
    }

    /// The keys, unless there are none yet or they are too old to be trusted.
    pub(super) fn current(&self) -> Option<Arc<Snapshot>> {
        let snapshot = self.inner.read().snapshot.clone()?;
        (self.inner.age(&snapshot) <= self.inner.stale_grace).then_some(snapshot)
    }

    /// Why the latest fetch failed; `None` if it did not.
    pub(super) fn failure(&self) -> Option<Arc<str>> {
        self.inner.read().failure.clone()
    }

    /// Fetches the keys, or waits for the fetch that runs; does nothing if the latest is
    /// not long enough ago.
    pub(super) async fn refetch(&self) {
        self.fetch_unless_within(self.inner.refetch_interval).await;
    }

    /// Fetches the keys now, because somebody who may has asked for it.
    pub(super) async fn refetch_at_once(&self) {
        self.fetch_unless_within(Duration::ZERO).await;
    }

    async fn fetch_unless_within(&self, interval: Duration) {
        let now = self.inner.clock.monotonic();
        let done = {
            let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
            match &*latest {
                Some(running) if running.done.peek().is_none() => running.done.clone(),
                Some(over) if now.saturating_duration_since(over.begun) < interval => return,
                _ => {
                    let inner = self.inner.clone();
                    let done = async move { inner.fetch(now).await }.boxed().shared();
                    *latest = Some(Attempt {
                        begun: now,
                        done: done.clone(),
                    });
                    done
                }
            }
        };
        done.await;
    }

    /// Whether it is time to fetch the keys anew, though nobody misses one.
    pub(super) fn is_due(&self) -> bool {
        let held = self.inner.read();
        let due = if self.inner.source.is_file() {
            self.inner.refetch_interval
        } else {
            (self.inner.stale_grace / 4).min(REFRESH)
        };
        held.failure.is_some()
            || held
                .snapshot
                .as_ref()
                .is_none_or(|snapshot| self.inner.age(snapshot) >= due)
    }

    pub(super) fn refetch_interval(&self) -> Duration {
        self.inner.refetch_interval
    }

    pub(super) fn source(&self) -> &Source {
        &self.inner.source
    }

    /// Whether these are the keys that `other` would keep, in the same way.
    pub(super) fn is_same_as(&self, other: &Self) -> bool {
        let (this, other) = (&self.inner, &other.inner);
        this.cluster == other.cluster
            && this.source == other.source
            && this.stale_grace == other.stale_grace
            && this.refetch_interval == other.refetch_interval
    }
}

impl Inner {
    fn read(&self) -> std::sync::RwLockReadGuard<'_, Held> {
        self.held.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn age(&self, snapshot: &Snapshot) -> Duration {
        self.clock
            .monotonic()
            .saturating_duration_since(snapshot.fetched)
    }

    async fn fetch(&self, begun: Instant) {
        let fetched = self.source.fetch().await;
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        match fetched {
            Ok(set) => {
                let before = held.snapshot.as_ref().map(|it| it.set.kids());
                let changed = before.is_none_or(|before| !before.eq(set.kids()));
                if changed || held.failure.is_some() {
                    tracing::info!(cluster = %self.cluster, keys = set.len(), "keys of the token issuer read");
                }
                held.failure = None;
                held.snapshot = Some(Arc::new(Snapshot {
                    set,
                    fetched: begun,
                }));
            }
            Err(why) => {
                let why: Arc<str> = why.into();
                if held.failure.as_ref() != Some(&why) {
                    tracing::warn!(
                        code = "ARX-TOKEN-KEYS-UNAVAILABLE",
                        cluster = %self.cluster,
                        "keys of the token issuer cannot be read ({why}); those at hand are used until they are {} s old",
                        self.stale_grace.as_secs()
                    );
                }
                held.failure = Some(why);
            }
        }
    }
}
