//! Which replica leads: takes the steps of rotations, and writes into clusters. Issuing needs no
//! leader.
//!
//! The lease spares replicas each other's work, and keeps what is written in order; safety does
//! not rest on it. Every step is a compare-and-swap on what it was decided by, and what follows
//! from a step carries that step's number ([`at_step`](crate::authority)): a leader that was
//! stopped for long and wakes up changes nothing that a later one has changed.
//!
//! Nobody compares clocks. Who does not have the lease watches it, and takes it when it has not
//! changed for as long as it lasts, by its own clock that never jumps; who has it stops leading
//! earlier than that after its last renewal.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::ca::Ca;
use crate::state::{Decision, Document as _, Lease, Loaded, State, StateError};

/// How long it lasts after a renewal.
const LASTS: Duration = Duration::from_secs(6);

/// The lease, as one replica sees it.
#[derive(Debug)]
pub struct Leading {
    lasts: Duration,
    seen: Mutex<Option<Seen>>,
    leads: watch::Sender<bool>,
}

/// What was seen last, and since when.
#[derive(Clone, Debug)]
struct Seen {
    lease: Lease,
    since: Instant,
}

/// What became of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    /// It is ours, from a moment before it was asked for.
    Ours,
    /// It is somebody else's.
    Theirs(Lease),
}

impl Default for Leading {
    fn default() -> Self {
        Self::lasting(LASTS)
    }
}

impl Leading {
    /// With a lease of this length.
    #[must_use]
    pub fn lasting(lasts: Duration) -> Self {
        Self {
            lasts,
            seen: Mutex::default(),
            leads: watch::Sender::new(false),
        }
    }

    /// Of one that nobody else wants.
    #[cfg(test)]
    pub(crate) fn alone() -> Self {
        let this = Self::default();
        this.leads.send_replace(true);
        this
    }

    /// Has it lead or not.
    #[cfg(test)]
    pub(crate) fn set(&self, leads: bool) {
        self.leads.send_replace(leads);
    }

    /// Whether this replica leads.
    #[must_use]
    pub fn leads(&self) -> bool {
        *self.leads.borrow()
    }

    /// Tells when it begins or ends to lead.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<bool> {
        self.leads.subscribe()
    }

    /// Looks at the lease at `now`, and takes or renews it if it is free or ours. Answers until
    /// when this replica leads, if it does.
    ///
    /// # Errors
    /// [`StateError`] if the store does not answer.
    async fn look(
        &self,
        state: &State,
        replica: &str,
        now: Instant,
    ) -> Result<Option<Instant>, StateError> {
        let seen = self
            .seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let lasts_ms = u64::try_from(self.lasts.as_millis()).unwrap_or(u64::MAX);
        let key = state.key(&Lease::KIND);
        let outcome = state
            .update(&key, |found: Option<Loaded<Lease>>| {
                let found = found.map(|found| found.value);
                let Some(lease) = found else {
                    let first = Lease {
                        holder: replica.to_owned(),
                        term: 1,
                        renewed: 1,
                        lasts_ms,
                        extra: serde_json::Map::new(),
                    };
                    return Ok::<_, StateError>(Decision::Write(first, Outcome::Ours));
                };
                let ours = lease.holder == replica;
                if !ours && !is_over(&lease, seen.as_ref(), now) {
                    return Ok(Decision::Keep(Outcome::Theirs(lease)));
                }
                let next = Lease {
                    holder: replica.to_owned(),
                    term: lease.term + u64::from(!ours),
                    renewed: lease.renewed + 1,
                    lasts_ms,
                    ..lease
                };
                Ok(Decision::Write(next, Outcome::Ours))
            })
            .await?;
        Ok(match outcome {
            // Before it is over for those who watch, who begin to count later than this.
            Outcome::Ours => Some(now + self.lasts * 2 / 3),
            Outcome::Theirs(lease) => {
                let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
                if seen.as_ref().is_none_or(|seen| seen.lease != lease) {
                    *seen = Some(Seen { lease, since: now });
                }
                None
            }
        })
    }
}

/// Whether a lease has not changed for as long as it lasts.
fn is_over(lease: &Lease, seen: Option<&Seen>, now: Instant) -> bool {
    let lasts = Duration::from_millis(lease.lasts_ms);
    seen.is_some_and(|seen| seen.lease == *lease && now >= seen.since + lasts)
}

impl Ca {
    /// Whether this replica takes the steps that only one may take.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.leading.leads()
    }

    /// Holds the lease as long as it can be had, for as long as the process runs.
    pub async fn keep_leading(&self) {
        let leading = &self.leading;
        let mut until = None;
        loop {
            let now = self.clock.monotonic();
            let look = leading.look(&self.state, &self.replica, now);
            // A store that hangs must not keep it longer than it is ours. Once it is not, there is
            // as much time to get it as it lasts.
            let left = until.map(|until: Instant| until.saturating_duration_since(now));
            let patience = left.filter(|left| !left.is_zero()).unwrap_or(leading.lasts);
            match tokio::time::timeout(patience, look).await {
                Ok(Ok(found)) => until = found,
                Ok(Err(error)) => {
                    tracing::debug!(code = error.code(), "the lease cannot be read: {error}");
                }
                Err(_elapsed) => tracing::debug!("the store does not answer in time"),
            }
            let now = self.clock.monotonic();
            let leads = until.is_some_and(|until| now < until);
            leading.leads.send_if_modified(|known| {
                let changed = *known != leads;
                *known = leads;
                if changed {
                    tracing::info!(replica = %self.replica, leads, "the leader has changed");
                }
                changed
            });
            let pause = leading.lasts / 6;
            let wait = until.map_or(pause, |until| {
                // Not one moment longer than it is ours.
                pause.min(until.saturating_duration_since(now))
            });
            tokio::time::sleep(wait.max(Duration::from_millis(20))).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::seal::Seal;
    use crate::store::Memory;
    use crate::testing::Outcome as Tested;

    async fn state() -> Result<State, StateError> {
        let domain = arx_identity::TrustDomain::parse("example.org").expect("a trust domain");
        State::open(Arc::new(Memory::new()), Seal::plain(), &domain, "test").await
    }

    #[tokio::test]
    async fn one_leads_until_it_has_been_silent_for_as_long_as_the_lease_lasts() -> Tested {
        let state = state().await?;
        let (one, other) = (Leading::default(), Leading::default());
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(one.look(&state, "ca-1", at(0)).await?, Some(at(4)));
        assert_eq!(other.look(&state, "ca-2", at(1)).await?, None);
        // It is renewed, so the other begins to count anew.
        assert_eq!(one.look(&state, "ca-1", at(3)).await?, Some(at(7)));
        assert_eq!(other.look(&state, "ca-2", at(6)).await?, None);
        assert_eq!(other.look(&state, "ca-2", at(11)).await?, None);
        assert_eq!(other.look(&state, "ca-2", at(12)).await?, Some(at(16)));
        // The first one wakes up, and has lost it.
        assert_eq!(one.look(&state, "ca-1", at(13)).await?, None);
        assert_eq!(one.look(&state, "ca-1", at(18)).await?, None);
        assert_eq!(one.look(&state, "ca-1", at(19)).await?, Some(at(23)));
        Ok(())
    }

    #[tokio::test]
    async fn of_many_who_find_it_free_one_gets_it() -> Tested {
        let state = state().await?;
        let start = Instant::now();
        let names: Vec<String> = (0..8).map(|number| format!("ca-{number}")).collect();
        let all: Vec<Leading> = names.iter().map(|_| Leading::default()).collect();
        let mut looks = all.iter().zip(&names);
        let looks: Vec<_> = looks
            .by_ref()
            .map(|(one, name)| one.look(&state, name, start))
            .collect();
        let found = futures_util::future::try_join_all(looks).await?;
        assert_eq!(found.into_iter().flatten().count(), 1);
        Ok(())
    }

    #[test]
    fn who_leads_stops_before_anybody_else_can_begin() {
        let lease = Lease {
            lasts_ms: 6000,
            ..Lease::default()
        };
        let renewed = Instant::now();
        // Whoever watches saw it at the earliest when it was renewed.
        let seen = Seen {
            lease: lease.clone(),
            since: renewed,
        };
        let ends = renewed + Leading::default().lasts * 2 / 3;
        assert!(!is_over(&lease, Some(&seen), ends));
        assert!(is_over(
            &lease,
            Some(&seen),
            renewed + Duration::from_secs(6)
        ));
        assert!(!is_over(&lease, None, renewed + Duration::from_secs(60)));
    }
}
