//! Publishing the roots of the trust domain, as a sequence that only grows.
//!
//! The content of a sequence is in the state store, and never changes there, before anybody can
//! be sent it. A replica hands out only what it read there, and promises so
//! ([`Replica::saw_sequence`]) before the first hand-out, so it never hands out less again.
//!
//! # Epochs
//! The epoch grows only when history was lost, because then the numbers after the loss would be
//! given a second time, with other content; whoever holds the higher ones (agents, publishers)
//! would rightly refuse them. So:
//! - A first start publishes (1, 1).
//! - State that is older than what the ledger names is a restored backup. It is refused, unless
//!   the operator accepts the loss; then its roots are published as (highest epoch + 1, 1).
//! - State that was deleted while the ledger remains is refused in the same way: a new authority
//!   would have another root, and nobody could verify it. With the loss accepted, it begins at
//!   (highest epoch + 1, 1), so that agents that were given its root take it.
//! - Where ledger and state are both gone, nobody here can know what was. It is a first start,
//!   (1, 1), and agents that remember another bundle of that or a higher sequence refuse it and
//!   say so ([`standing`]).

mod error;
mod standing;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arx_identity::{Certificate, Sequence, TrustBundle};
use serde_json::Map;
use tokio::sync::watch;
use tokio::time::timeout;

pub use self::error::TrustError;
pub use self::standing::{Standing, standing};
use crate::state::{Document as _, Published, Replica, State, StateError};

/// How long to wait for a store that did not answer.
const RETRY: Duration = Duration::from_secs(5);

const FIRST: Sequence = Sequence {
    epoch: 1,
    number: 1,
};

/// What is known about the history of trust from outside of the state store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// The highest sequence that the ledger names.
    pub highest: Option<Sequence>,
    /// Whether the operator accepts that newer state is lost.
    pub accept_loss: bool,
    /// Whether the state is a backup that was put back and is not open yet: what is stored
    /// stands until then, whatever is known from outside.
    pub is_restored: bool,
}

/// The trust bundle of this trust domain.
#[derive(Debug)]
pub struct Trust {
    state: State,
    replica: Replica,
    current: watch::Sender<Arc<TrustBundle>>,
}

/// What is published next at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begin {
    /// What is stored goes on.
    GoOn,
    /// This sequence is published.
    Publish(Sequence),
}

impl Trust {
    /// The published bundle, which is made of the active `root` if nothing was published yet.
    ///
    /// # Errors
    /// [`TrustError`] if history was lost, or contradicts the root or itself, or the store does
    /// not answer.
    pub async fn open(
        state: State,
        replica: &Replica,
        root: &Certificate,
        evidence: Evidence,
        now: SystemTime,
    ) -> Result<Self, TrustError> {
        let (history, begin) = look(&state, Some(replica), evidence).await?;
        let head = history.last();
        let begin = match (begin, head) {
            // What it has is never trusted again: the root was cut off, and another begins anew.
            (Begin::GoOn, Some(head))
                if without_distrusted(&state, &head.roots, root).await? == [root.clone()]
                    && !head.roots.contains(root) =>
            {
                Begin::Publish(after(head.sequence)?)
            }
            (begin, _) => begin,
        };
        let (sequence, roots) = match (begin, head) {
            (Begin::GoOn, Some(head)) => (head.sequence, head.roots.clone()),
            (Begin::GoOn, None) => return Err(TrustError::Nothing),
            (Begin::Publish(sequence), Some(head)) => (
                sequence,
                without_distrusted(&state, &head.roots, root).await?,
            ),
            (Begin::Publish(sequence), None) => (sequence, vec![root.clone()]),
        };
        if !roots.contains(root) {
            let root = root.subject().to_owned();
            return Err(TrustError::RootMissing { sequence, root });
        }
        let published = match (begin, head) {
            (Begin::GoOn, Some(head)) => head.clone(),
            _ => {
                // Another process may have been faster; then its content is what stands.
                commit(&state, &entry(&state, replica, sequence, roots, head, now)?).await?
            }
        };
        let bundle = bundle(&state, &published)?;
        if !bundle.roots().contains(root) {
            let root = root.subject().to_owned();
            return Err(TrustError::RootMissing { sequence, root });
        }
        replica.saw_sequence(bundle.sequence()).await?;
        Ok(Self {
            state,
            replica: replica.clone(),
            current: watch::Sender::new(Arc::new(bundle)),
        })
    }

    /// Whether history may begin in a store that has nothing of it.
    ///
    /// # Errors
    /// [`TrustError::Lost`] if there was one.
    pub fn may_begin(evidence: Evidence) -> Result<(), TrustError> {
        begin(None, None, evidence).map(drop)
    }

    /// Whether [`Trust::open`] will find history whole, asked before anything is made that would
    /// have to be trusted. Writes nothing; without a replica, what that has seen is not known.
    ///
    /// # Errors
    /// [`TrustError`] if history was lost, or contradicts itself, or the store does not answer.
    pub async fn examine(
        state: &State,
        replica: Option<&Replica>,
        evidence: Evidence,
    ) -> Result<(), TrustError> {
        let (history, _) = look(state, replica, evidence).await?;
        history
            .iter()
            .try_for_each(|published| bundle(state, published).map(drop))
    }

    /// What is handed out now.
    #[must_use]
    pub fn current(&self) -> Arc<TrustBundle> {
        self.current.borrow().clone()
    }

    /// What is handed out, and what will be.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<TrustBundle>> {
        self.current.subscribe()
    }

    /// Everything that was ever published, oldest first.
    ///
    /// # Errors
    /// [`TrustError`] if it cannot be read, or contradicts itself.
    pub async fn history(&self) -> Result<Vec<Published>, TrustError> {
        history(&self.state).await
    }

    /// Publishes `roots` as what follows `after`. When this answers, they are handed out.
    ///
    /// # Errors
    /// [`TrustError::Moved`] if something else has followed it already: decide again.
    /// [`TrustError::Distrusted`] if one of them must never be trusted again. [`TrustError`] if they are no bundle, or it is not known whether they were stored.
    pub async fn publish(
        &self,
        after: Sequence,
        roots: Vec<Certificate>,
        now: SystemTime,
    ) -> Result<Arc<TrustBundle>, TrustError> {
        if let Some(stored) = self.state.authorities().await? {
            let mut distrusted = roots.iter().filter_map(|root| stored.value.tombstone(root));
            if let Some(root) = distrusted.next() {
                return Err(TrustError::Distrusted {
                    root: root.certificate.subject().to_owned(),
                });
            }
        }
        self.put(after, roots, now).await
    }

    /// Publishes what is published, and `adopted` with it, as the first of the epoch after `known`,
    /// but for what must never be trusted again.
    ///
    /// # Errors
    /// [`TrustError`] as of [`Trust::publish`].
    pub async fn begin_epoch(
        &self,
        known: Option<Sequence>,
        root: &Certificate,
        adopted: Option<&Certificate>,
        now: SystemTime,
    ) -> Result<Arc<TrustBundle>, TrustError> {
        let history = self.history().await?;
        let head = history.last().ok_or(TrustError::Nothing)?;
        let highest = known.map_or(head.sequence, |known| known.max(head.sequence));
        let next = first_after(highest)?;
        let mut roots = head.roots.clone();
        roots.extend(adopted.filter(|it| !head.roots.contains(it)).cloned());
        let roots = without_distrusted(&self.state, &roots, root).await?;
        let entry = entry(&self.state, &self.replica, next, roots, Some(head), now)?;
        let stored = commit(&self.state, &entry).await?;
        self.adopt(&stored).await?;
        Ok(self.current())
    }

    /// Publishes that nothing is trusted any more, as what follows `after`: a bundle of nothing
    /// but a `placeholder` that signs nothing.
    ///
    /// # Errors
    /// As of [`Trust::publish`].
    pub async fn publish_nothing(
        &self,
        after: Sequence,
        placeholder: Certificate,
        now: SystemTime,
    ) -> Result<Arc<TrustBundle>, TrustError> {
        self.put(after, vec![placeholder], now).await
    }

    async fn put(
        &self,
        after: Sequence,
        roots: Vec<Certificate>,
        now: SystemTime,
    ) -> Result<Arc<TrustBundle>, TrustError> {
        let history = self.history().await?;
        let head = history.last().ok_or(TrustError::Nothing)?;
        if head.sequence != after {
            return Err(TrustError::Moved {
                after,
                head: head.sequence,
            });
        }
        let next = self::after(after)?;
        let next = entry(&self.state, &self.replica, next, roots, Some(head), now)?;
        let stored = commit(&self.state, &next).await?;
        self.adopt(&stored).await?;
        if stored != next {
            return Err(TrustError::Moved {
                after,
                head: stored.sequence,
            });
        }
        Ok(self.current())
    }

    /// Takes over what other processes have published.
    ///
    /// # Errors
    /// [`TrustError`] if it cannot be read.
    pub async fn refresh(&self) -> Result<Arc<TrustBundle>, TrustError> {
        if let Some(head) = self.history().await?.last() {
            self.adopt(head).await?;
        }
        Ok(self.current())
    }

    /// Takes over what other processes publish, whenever they do. Never ends while the store is
    /// open; drop it to stop.
    pub async fn follow(&self) -> Infallible {
        let mut changes = self.state.changes(&Published::KIND);
        loop {
            let wait = match self.refresh().await {
                Ok(_) => Duration::MAX,
                Err(error) => {
                    tracing::warn!(
                        code = error.code(),
                        "published trust cannot be read: {error}"
                    );
                    RETRY
                }
            };
            if let Ok(Err(_closed)) = timeout(wait, changes.changed()).await {
                std::future::pending::<Infallible>().await;
            }
        }
    }

    /// Hands out `published`, unless what is handed out is newer.
    async fn adopt(&self, published: &Published) -> Result<(), TrustError> {
        if published.sequence <= self.current().sequence() {
            return Ok(());
        }
        let bundle = Arc::new(bundle(&self.state, published)?);
        self.replica.saw_sequence(published.sequence).await?;
        self.current.send_if_modified(|current| {
            let newer = bundle.sequence() > current.sequence();
            if newer {
                *current = bundle;
            }
            newer
        });
        Ok(())
    }
}

/// The first of the epoch after that of `known`.
fn first_after(known: Sequence) -> Result<Sequence, TrustError> {
    let epoch = known.epoch.checked_add(1);
    let epoch = epoch.ok_or(TrustError::Last { known })?;
    Ok(Sequence { epoch, number: 1 })
}

fn after(known: Sequence) -> Result<Sequence, TrustError> {
    let number = known.number.checked_add(1);
    let number = number.ok_or(TrustError::Last { known })?;
    Ok(Sequence { number, ..known })
}

async fn look(
    state: &State,
    replica: Option<&Replica>,
    evidence: Evidence,
) -> Result<(Vec<Published>, Begin), TrustError> {
    let seen = match replica {
        Some(replica) => replica.document().await?.seen.sequence,
        None => None,
    };
    let history = history(state).await?;
    let begin = begin(history.last().map(|head| head.sequence), seen, evidence)?;
    Ok((history, begin))
}

/// Roots that were published before, but for those that must never be trusted again; where one
/// is left out, the active `root` is among the others.
async fn without_distrusted(
    state: &State,
    roots: &[Certificate],
    root: &Certificate,
) -> Result<Vec<Certificate>, StateError> {
    let stored = state.authorities().await?.map(|stored| stored.value);
    let stored = stored.unwrap_or_default();
    let mut trusted = roots.to_vec();
    trusted.retain(|it| stored.tombstone(it).is_none());
    if trusted.len() < roots.len() && !trusted.contains(root) {
        trusted.push(root.clone());
    }
    Ok(trusted)
}

/// What to do about a head, the highest sequence that this replica has handed out, and what is
/// known from outside.
fn begin(
    head: Option<Sequence>,
    seen: Option<Sequence>,
    evidence: Evidence,
) -> Result<Begin, TrustError> {
    let known = seen.max(evidence.highest);
    if head >= known || (evidence.is_restored && head.is_some()) {
        return Ok(if head.is_some() {
            Begin::GoOn
        } else {
            Begin::Publish(FIRST)
        });
    }
    let Some(known) = known else {
        return Ok(Begin::Publish(FIRST));
    };
    if evidence.accept_loss {
        return first_after(known).map(Begin::Publish);
    }
    Err(match head {
        None => TrustError::Lost { known },
        Some(stored) => TrustError::Behind { stored, known },
    })
}

fn entry(
    state: &State,
    replica: &Replica,
    sequence: Sequence,
    roots: Vec<Certificate>,
    previous: Option<&Published>,
    now: SystemTime,
) -> Result<Published, TrustError> {
    let bundle = TrustBundle::new(state.trust_domain().clone(), sequence, roots)?;
    Ok(Published {
        sequence,
        roots: bundle.roots().to_vec(),
        sha256: bundle.sha256(),
        // As it will be read back.
        at: whole_millis(now),
        replica: replica.name().to_owned(),
        previous: previous.map(Published::link),
        extra: Map::new(),
    })
}

fn whole_millis(time: SystemTime) -> SystemTime {
    let since = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let nanos = since.subsec_nanos() % 1_000_000;
    time - Duration::from_nanos(nanos.into())
}

async fn commit(state: &State, entry: &Published) -> Result<Published, StateError> {
    let key = state
        .key(&Published::KIND)
        .named(Published::name(entry.sequence));
    state.create(&key, entry).await
}

/// The way to the newest that is published, oldest first: each names the one before it, by
/// content. What is not on that way was published by somebody who did not know of a new epoch.
async fn history(state: &State) -> Result<Vec<Published>, TrustError> {
    let mut all = state.published().await?;
    let mut way: Vec<Published> = Vec::with_capacity(all.len());
    while let Some(published) = all.pop() {
        let Some(next) = way.last() else {
            way.push(published);
            continue;
        };
        match next.previous {
            Some(link) if link == published.link() => way.push(published),
            Some(link) if published.sequence > link.sequence => {}
            Some(_) => return Err(contradiction(state, next, "what it follows is not there")),
            None => {}
        }
    }
    match way.last() {
        Some(first) if first.previous.is_some() => {
            Err(contradiction(state, first, "what it follows is not there"))
        }
        _ => {
            way.reverse();
            Ok(way)
        }
    }
}

fn bundle(state: &State, published: &Published) -> Result<TrustBundle, TrustError> {
    published
        .bundle(state.trust_domain())
        .map_err(|detail| contradiction(state, published, &detail))
}

fn contradiction(state: &State, published: &Published, detail: &str) -> TrustError {
    let key = state
        .key(&Published::KIND)
        .named(Published::name(published.sequence));
    TrustError::State(StateError::Contradiction {
        key: key.to_string(),
        detail: detail.to_owned(),
    })
}

#[cfg(test)]
mod tests;
