//! Denied holders: by the word of an operator nothing new is issued to them, by any process
//! of the authority. They still get bundles, and nothing that they hold is taken from them.
//!
//! What is in force is in the state store and, as a snapshot, in memory: an admission asks
//! no store. A process that cannot read the store goes on with what it has read last.

mod held;
mod subject;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arx_daemon::clock::rfc3339;
use arx_identity::SpiffeId;
use serde_json::Map;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

pub(crate) use self::held::Apart;
pub use self::held::Held;
pub use self::subject::Subject;
pub(crate) use self::subject::of_node;
use crate::ca::Ca;
use crate::caller::NodeName;
use crate::ledger;
use crate::nested;
use crate::refusal::{Fault, Refusal};
use crate::state::{
    Decision, Denial, Denials, Document as _, Loaded, Replica, ReplicaDocument, State, StateError,
};
use crate::token::Account;

/// After the store could not be read.
const AGAIN: Duration = Duration::from_millis(500);
/// How long the other processes are given to say that they know.
const REACH: Duration = Duration::from_secs(2);
/// Denials at one time: the document has to fit into a value of the store.
const MOST: usize = 500;

/// Who is denied, as far as this process knows.
#[derive(Debug)]
pub struct Current {
    state: State,
    replica: Replica,
    snapshot: watch::Sender<Snapshot>,
}

/// What is stored, as of a generation.
#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshot {
    generation: u64,
    denials: Arc<Denials>,
}

/// What became of an operator's word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spread {
    /// Replicas with an intermediate that is valid, of which it is not known that they go by
    /// it.
    pub unreached: Vec<String>,
}

impl Current {
    /// What is stored now.
    ///
    /// # Errors
    /// [`StateError`] if it cannot be read: then nothing may be issued.
    pub async fn open(state: State, replica: &Replica) -> Result<Self, StateError> {
        let this = Self {
            state,
            replica: replica.clone(),
            snapshot: watch::Sender::default(),
        };
        this.refresh().await?;
        Ok(this)
    }

    /// The denials that admissions go by.
    #[must_use]
    pub fn get(&self) -> Arc<Denials> {
        Arc::clone(&self.snapshot.borrow().denials)
    }

    /// Tells of each change of what admissions go by.
    pub(crate) fn watch(&self) -> watch::Receiver<Snapshot> {
        self.snapshot.subscribe()
    }

    /// Takes over what is stored, and says so to the other replicas.
    ///
    /// # Errors
    /// [`StateError`] if it cannot be read, or the others could not be told.
    pub async fn refresh(&self) -> Result<(), StateError> {
        let Some(stored) = self.state.denials().await? else {
            return Ok(());
        };
        let found = Snapshot {
            generation: stored.generation,
            denials: Arc::new(stored.value),
        };
        self.snapshot.send_if_modified(|current| {
            let newer = found.generation > current.generation;
            if newer {
                current.clone_from(&found);
            }
            newer
        });
        // After it is in force here, and never before.
        self.replica.saw_denials(found.generation).await
    }

    /// Takes over what any process stores, whenever it does. Never ends while the store is
    /// open; drop it to stop.
    pub async fn follow(&self) -> Infallible {
        let mut changes = self.state.changes(&Denials::KIND);
        loop {
            let wait = match self.refresh().await {
                Ok(()) => Duration::MAX,
                Err(error) => {
                    tracing::warn!(code = error.code(), "denials cannot be read: {error}");
                    AGAIN
                }
            };
            if let Ok(Err(_closed)) = timeout(wait, changes.changed()).await {
                std::future::pending::<Infallible>().await;
            }
        }
    }
}

impl Ca {
    /// Whether `id` may be issued to something on `node`, as far as denials go; `account` is
    /// the service account that it is of, if it is of one.
    ///
    /// # Errors
    /// If one of them is denied.
    pub(crate) fn not_denied(
        &self,
        id: &SpiffeId,
        node: &NodeName,
        account: Option<Account<'_>>,
        now: SystemTime,
    ) -> Result<(), Refusal> {
        let denials = self.denials.get();
        if denials.all.is_empty() {
            return Ok(());
        }
        let check = |subject: &str| match denials.of(subject, now) {
            None => Ok(()),
            Some(denial) => Err(Refusal::new(
                "ARX-DENIED",
                Fault::Forbidden,
                format!(
                    "{subject} is denied {}: ask the operator of the authority",
                    end(denial.until)
                ),
            )),
        };
        check(id.as_str())?;
        check(&subject::of_node(node))?;
        account.map_or(Ok(()), |Account { namespace, name }| {
            check(&subject::of_account(namespace, name))
        })
    }

    /// Issues nothing more to `subject`, before `until` if that is given.
    ///
    /// # Errors
    /// If it could not be stored; or if it is in force, and was not recorded.
    pub async fn deny(
        &self,
        subject: &Subject,
        until: Option<SystemTime>,
        reason: String,
    ) -> Result<(Denial, Spread), Refusal> {
        let now = self.clock.now();
        let denial = Denial {
            since: now,
            until,
            reason,
            extra: Map::new(),
        };
        let name = subject.to_string();
        let generation = self
            .change_denials(now, |denials| {
                denials.all.insert(name.clone(), denial.clone());
                if denials.all.len() > MOST {
                    return Err(Refusal::new(
                        "ARX-DENIAL-LIMIT",
                        Fault::Request,
                        format!("there are {MOST} denials, and no more than that are kept: allow some, or take an exception of the policy"),
                    ));
                }
                Ok(())
            })
            .await?;
        let until = end(until);
        tracing::warn!(subject = %subject, %until, reason = %denial.reason, "an operator denies certificates");
        let detail = format!("{subject} {until}: {}", denial.reason);
        self.record_denial("deny", detail, now).await?;
        Ok((denial, self.spread(generation, now).await?))
    }

    /// Issues to `subject` again.
    ///
    /// # Errors
    /// If it is not denied, or that could not be stored; or if it is in force, and was not
    /// recorded.
    pub async fn allow(&self, subject: &Subject, reason: &str) -> Result<Spread, Refusal> {
        let now = self.clock.now();
        let name = subject.to_string();
        let generation = self
            .change_denials(now, |denials| {
                let found = denials.all.remove(&name);
                found.map(drop).ok_or_else(|| {
                    Refusal::new(
                        "ARX-DENIAL-UNKNOWN",
                        Fault::Request,
                        format!("{name} is not denied: see `arx deny list`"),
                    )
                })
            })
            .await?;
        tracing::info!(subject = %subject, %reason, "an operator allows certificates again");
        self.record_denial("allow", format!("{subject}: {reason}"), now)
            .await?;
        self.spread(generation, now).await
    }

    /// Changes what is stored, and goes by it. Answers its generation.
    async fn change_denials(
        &self,
        now: SystemTime,
        change: impl Fn(&mut Denials) -> Result<(), Refusal>,
    ) -> Result<u64, Refusal> {
        let key = self.state.key(&Denials::KIND);
        let generation = self
            .state
            .update(&key, |found: Option<Loaded<Denials>>| {
                let (mut denials, generation) = found
                    .map(|found| (found.value, found.generation))
                    .unwrap_or_default();
                denials.forget_over(now);
                change(&mut denials)?;
                Ok::<_, Refusal>(Decision::Write(denials, generation + 1))
            })
            .await?;
        self.denials.refresh().await.map_err(|error| half(&error))?;
        Ok(generation)
    }

    async fn record_denial(
        &self,
        action: &str,
        detail: String,
        now: SystemTime,
    ) -> Result<(), Refusal> {
        let record = ledger::Operator {
            who: "admin socket".to_owned(),
            action: action.to_owned(),
            detail,
        };
        let record = ledger::Record::new(now, record);
        self.ledger
            .append(vec![record])
            .await
            .map(drop)
            .map_err(|error| {
                let message =
                    format!("it is in force, and could not be recorded: ask again: {error}");
                Refusal::new(error.code(), Fault::Dependency, message)
            })
    }

    /// Waits a moment for the other replicas to go by this generation.
    async fn spread(&self, generation: u64, now: SystemTime) -> Result<Spread, Refusal> {
        let deadline = Instant::now() + REACH;
        let mut changes = self.state.changes(&ReplicaDocument::KIND);
        loop {
            let behind = self.behind(generation, now).await;
            let unreached = behind.map_err(|error| half(&error))?;
            if unreached.is_empty() {
                return Ok(Spread { unreached });
            }
            if timeout_at(deadline, changes.changed()).await.is_err() {
                tracing::warn!(replicas = %unreached.join(", "), "not known to go by the newest denials");
                return Ok(Spread { unreached });
            }
        }
    }

    /// The other replicas that may sign and have not said that they go by this generation.
    async fn behind(&self, generation: u64, now: SystemTime) -> Result<Vec<String>, StateError> {
        let stored = self.state.authorities().await?;
        let registrations = stored.map(|stored| stored.value.registrations);
        let mut others: Vec<_> = registrations
            .unwrap_or_default()
            .into_iter()
            .filter(|it| *it.replica != *self.replica && it.not_after > now)
            // They grant by a policy of their own.
            .filter(|it| !nested::is_below(&it.replica))
            .map(|it| it.replica)
            .collect();
        others.sort();
        others.dedup();
        if !others.is_empty() {
            for (name, document) in self.state.replicas().await? {
                if document.seen.denials >= generation {
                    others.retain(|other| *other != name);
                }
            }
        }
        Ok(others)
    }
}

/// What is stored stands, whatever fails afterwards.
fn half(error: &StateError) -> Refusal {
    let message =
        format!("it is stored, and not known to be in force everywhere: ask again: {error}");
    Refusal::new(error.code(), Fault::Dependency, message)
}

fn end(until: Option<SystemTime>) -> String {
    until.map_or_else(
        || "until it is allowed".to_owned(),
        |until| format!("until {}", rfc3339(until)),
    )
}

impl From<StateError> for Refusal {
    fn from(error: StateError) -> Self {
        Self::new(error.code(), Fault::Dependency, error.to_string())
    }
}

#[cfg(test)]
mod tests;
