//! A backup, and what follows when one was put back: the fleet may have gone on since, so
//! nothing is issued and nothing is published before more than half of it was compared with
//! what the backup knows. Who decides is told by [`verdict`]; what it stands on is in the state
//! store, so that several replicas count together and a restart forgets nothing.

mod adopt;
mod backup;
mod command;
mod counted;
mod frame;
mod heard;
mod history;
mod open;
mod put;

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arx_identity::Sequence;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

pub(crate) use self::backup::Made;
pub use self::command::command;
use self::heard::Ours;
pub(crate) use self::heard::Said;
pub(crate) use self::history::{ledgers_word, note_history};
pub(crate) use self::open::Word;
pub use self::put::{PutBack, PutError, put_back};
use crate::caller::NodeName;
use crate::refusal::{Fault, Refusal};
use crate::state::{Document as _, Heard, Restored, State, StateError};

/// After the store could not be read.
const AGAIN: Duration = Duration::from_millis(500);
/// What an agent should wait before it asks again.
const COME_BACK: Duration = Duration::from_secs(5);

/// Whether this state was put back and is shut, as far as this process knows.
#[derive(Debug)]
pub struct Current {
    state: State,
    document: watch::Sender<Option<Arc<Restored>>>,
    said: Mutex<heard::All>,
    /// An agent has said something.
    heard: Notify,
}

impl Current {
    /// What is stored now.
    ///
    /// # Errors
    /// [`StateError`] if it cannot be read: then nothing may be issued.
    pub async fn open(state: State) -> Result<Self, StateError> {
        let this = Self {
            state,
            document: watch::Sender::default(),
            said: Mutex::default(),
            heard: Notify::new(),
        };
        this.refresh().await?;
        Ok(this)
    }

    /// What is stored; none of a state that was never put back.
    #[must_use]
    pub fn get(&self) -> Option<Arc<Restored>> {
        self.document.borrow().clone()
    }

    /// Tells of changes.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Option<Arc<Restored>>> {
        self.document.subscribe()
    }

    /// Whether something may be issued.
    ///
    /// # Errors
    /// If this state was put back, and is not open.
    pub fn is_open(&self) -> Result<(), Refusal> {
        let document = self.document.borrow();
        let Some(restored) = document.as_ref().filter(|it| it.is_shut()) else {
            return Ok(());
        };
        Err(Refusal {
            code: "ARX-RESTORE-SHUT",
            fault: Fault::Dependency,
            message: format!(
                "this authority was restored from a backup and issues nothing yet: {}: see `arx restore status`",
                verdict(restored).in_words(restored)
            ),
            retry_after: Some(COME_BACK),
        })
    }

    /// Whether a rotation may go on: also the one away from a root of the fleet's, before
    /// anything is issued.
    pub(crate) fn lets_rotate(&self) -> Result<(), Refusal> {
        let adopts = |it: &Arc<Restored>| it.adopts.as_ref().is_some_and(|it| it.has_begun);
        if self.document.borrow().as_ref().is_some_and(adopts) {
            return Ok(());
        }
        self.is_open()
    }

    /// Notes what an agent holds, as long as that matters.
    pub(crate) fn note(&self, node: &NodeName, said: Said) {
        let shut = |it: &Option<Arc<Restored>>| it.as_ref().is_some_and(|it| it.is_shut());
        if shut(&self.document.borrow()) {
            let mut all = self.said.lock().unwrap_or_else(PoisonError::into_inner);
            all.note(node, said);
            self.heard.notify_one();
        }
    }

    /// Notes under which roots an authority below stands, and what it has followed, as long as
    /// that matters.
    pub(crate) fn note_below(&self, name: &str, said: Said) {
        if self.is_open().is_err() {
            let mut all = self.said.lock().unwrap_or_else(PoisonError::into_inner);
            all.note_below(name, said);
            self.heard.notify_one();
        }
    }

    /// Notes what the ledger says to have been handed out, which the state does not know.
    pub(crate) fn note_ledger(&self, said: Said) {
        let mut all = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        all.note_ledger(said);
    }

    /// Remembers, once, what this replica had heard when it ran before.
    fn remember(&self, before: Option<&Heard>) {
        let mut all = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        all.remember(before);
    }

    /// Since when an agent has said something.
    fn first_said(&self) -> Option<Instant> {
        let all = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        all.first()
    }

    /// Until an agent says something.
    async fn said_something(&self) {
        self.heard.notified().await;
    }

    fn tally(
        &self,
        ours: &Ours,
        restored: &Restored,
        replica: &str,
        denied: impl Fn(&NodeName) -> bool,
    ) -> Heard {
        let all = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        all.tally(ours, restored, replica, denied)
    }

    async fn refresh(&self) -> Result<(), StateError> {
        let found = self.state.restored().await?.map(Arc::new);
        self.document.send_if_modified(|known| {
            let changed = *known != found;
            *known = found;
            changed
        });
        Ok(())
    }

    /// Takes over what any process stores, whenever it does. Never ends while the store is
    /// open; drop it to stop.
    pub async fn follow(&self) -> Infallible {
        let mut changes = self.state.changes(&Restored::KIND);
        loop {
            let wait = match self.refresh().await {
                Ok(()) => Duration::MAX,
                Err(error) => {
                    tracing::warn!(
                        code = error.code(),
                        "what was restored cannot be read: {error}"
                    );
                    AGAIN
                }
            };
            if let Ok(Err(_closed)) = timeout(wait, changes.changed()).await {
                std::future::pending::<Infallible>().await;
            }
        }
    }
}

/// How a state stands that was put back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is open.
    Open,
    /// Not enough agents have come to know.
    Waits {
        /// So many agree.
        agree: u64,
        /// So many have to.
        needed: u64,
    },
    /// Enough agree, and nobody knows better.
    Agrees,
    /// A root of the fleet's was taken over, and nothing is issued before everybody has that one
    /// and the one that signs.
    Adopts,
    /// The fleet has what this state does not know.
    Ahead {
        /// The highest sequence that it has.
        sequence: Sequence,
    },
}

/// How `restored` stands.
#[must_use]
pub fn verdict(restored: &Restored) -> Verdict {
    if !restored.is_shut() {
        return Verdict::Open;
    }
    if restored.adopts.is_some() {
        return Verdict::Adopts;
    }
    let ahead = restored.ahead();
    if let Some(sequence) = ahead.iter().map(|ahead| ahead.sequence).max() {
        return Verdict::Ahead { sequence };
    }
    let (agree, needed) = (restored.agree(), restored.needed());
    match agree >= needed {
        true => Verdict::Agrees,
        false => Verdict::Waits { agree, needed },
    }
}

impl Verdict {
    /// For a person: why it is shut, and what to do.
    #[must_use]
    pub fn in_words(&self, restored: &Restored) -> String {
        match self {
            Self::Open => "it is open".to_owned(),
            Self::Adopts => "the fleet's root is trusted here, and issuing begins when everybody has the one that signs here too: see `arx rotate status --watch`".to_owned(),
            Self::Agrees => "enough agents agree, and it opens in a moment".to_owned(),
            Self::Waits { .. } if restored.agents == 0 => {
                "the backup knows of no agents, so the first that comes and agrees opens it".to_owned()
            }
            Self::Waits { agree, needed } => format!(
                "{agree} of the {needed} agents that are needed have come and agree; an agent that trusts none of its roots can't come at all"
            ),
            Self::Ahead { sequence } => {
                let ahead = restored.ahead();
                let agents = match ahead.iter().map(|ahead| ahead.agents).sum() {
                    0 => None,
                    1_u64 => Some("1 agent holds".to_owned()),
                    agents => Some(format!("{agents} agents hold")),
                };
                let ledgers = ahead.iter().flat_map(|ahead| &ahead.ledgers);
                let ledgers: Vec<_> = ledgers.map(String::as_str).collect();
                let ledgers = (!ledgers.is_empty())
                    .then(|| format!("the ledger of {} tells of", ledgers.join(", ")));
                let who: Vec<_> = agents.into_iter().chain(ledgers).collect();
                format!(
                    "{} bundle {sequence} or others that this backup does not know: restore a newer one",
                    who.join(", and ")
                )
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
