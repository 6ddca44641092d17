//! Opening a state that was put back: by the fleet's word, or an operator's.

use std::time::{Duration, SystemTime};

use arx_daemon::clock::rfc3339;
use arx_identity::Certificate;
use tokio::time::Instant;

use super::heard::Ours;
use super::{AGAIN, Verdict, verdict};
use crate::ca::Ca;
use crate::caller::NodeName;
use crate::ledger;
use crate::refusal::{Fault, Refusal};
use crate::state::{Decision, Document as _, Heard, Loaded, Opened, Restored, StateError};

/// What many say at once is looked at once.
const GATHER: Duration = Duration::from_millis(200);

/// On whose word a state is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// That of so many agents.
    Agents(u64),
    /// An operator's, who gives a reason.
    Operator {
        reason: String,
        /// Also if the fleet has what is not known here.
        although_ahead: bool,
    },
}

/// What the log was told.
#[derive(Default)]
struct Told {
    verdict: Option<Verdict>,
    doubtful: u64,
}

impl Told {
    /// Tells how it stands, if that is anything new.
    fn tell(&mut self, restored: &Restored) -> Verdict {
        let doubtful = restored.doubtful();
        let agents = doubtful.iter().map(|it| it.agents).sum();
        if let Some(one) = doubtful.first().filter(|_| self.doubtful != agents) {
            let node = one.nodes.first().map_or("", String::as_str);
            tracing::warn!(code = "ARX-RESTORE-DOUBTFUL", agents, bundle = %one.sequence, node, "agents say that they hold a bundle to which no history leads from here: what they say does not count");
        }
        self.doubtful = agents;
        let verdict = verdict(restored);
        if self.verdict.as_ref() != Some(&verdict) {
            let message = verdict.in_words(restored);
            tracing::warn!(code = "ARX-RESTORE-SHUT", backup = %restored.backup, "restored, and shut: {message}");
            self.verdict = Some(verdict.clone());
        }
        verdict
    }
}

impl Ca {
    /// Compares what agents hold with a state that was put back, and opens it when enough of
    /// them agree. Returns when it is open, or was never put back.
    pub async fn keep_restored(&self, settle: Duration) {
        let mut document = self.restore.watch();
        let mut rotation = self.rotator.watch();
        let mut denials = self.denials.watch();
        let mut told = Told::default();
        loop {
            let Some(restored) = document.borrow_and_update().clone() else {
                return;
            };
            if !restored.is_shut() {
                return;
            }
            if restored.adopts.is_some() || restored.opening.is_some() {
                // What was decided is ended, also by a process that has started since.
                let ended = match restored.opening.is_some() {
                    true => self.end_opening(&restored).await.map(drop),
                    false => self.follow_adoption(&restored).await,
                };
                if let Err(error) = ended {
                    tracing::warn!(
                        code = error.code,
                        "a restored state was not opened yet: {}",
                        error.message
                    );
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
                tokio::select! {
                    Ok(()) = document.changed() => {}
                    Ok(()) = rotation.changed() => {}
                }
                continue;
            }
            let first = self.restore.first_said();
            if let Err(error) = self.tally(&restored).await {
                tracing::warn!(
                    code = error.code(),
                    "what the agents hold could not be noted: {error}"
                );
                tokio::time::sleep(AGAIN).await;
                continue;
            }
            let Some(restored) = self.restore.get() else {
                return;
            };
            let verdict = told.tell(&restored);
            let opens = first
                .filter(|_| verdict == Verdict::Agrees)
                .map(|first| first + settle);
            tokio::select! {
                () = self.restore.said_something() => tokio::time::sleep(GATHER).await,
                Ok(()) = document.changed() => {}
                // Whoever is denied has no word.
                Ok(()) = denials.changed() => {}
                () = until(opens) => {
                    if let Err(refusal) = self.open_restored(Word::Agents(restored.agree())).await {
                        tracing::warn!(code = refusal.code, "a restored state was not opened: {}", refusal.message);
                        tokio::time::sleep(AGAIN).await;
                    }
                }
            }
        }
    }

    /// What is published here.
    fn ours(&self) -> Ours {
        let bundle = self.trust.current();
        let roots = bundle.roots().iter();
        let sequence = bundle.sequence();
        let known = self.ledger.last_sequence();
        Ours {
            sequence,
            sha256: bundle.sha256(),
            roots: roots.filter_map(Certificate::subject_key_id).collect(),
            active: self.authority.root_key_id(),
            known: known.map_or(sequence, |known| known.max(sequence)),
        }
    }

    /// Stores what this process was told.
    async fn tally(&self, known: &Restored) -> Result<(), StateError> {
        let now = self.clock.now();
        let denied = |node: &NodeName| self.is_denied(node, now);
        self.restore.remember(known.heard.get(&*self.replica));
        let heard = self
            .restore
            .tally(&self.ours(), known, &self.replica, denied);
        let is_left_out = |name: &str| {
            let name = name.split_once('/').map(|(cluster, node)| NodeName {
                cluster: cluster.into(),
                node: node.into(),
            });
            name.is_some_and(|name| denied(&name))
        };
        let with_ours = |restored: &Restored| {
            let mut all = restored.heard.clone();
            // Also what was said to a process before this one.
            let before = all.get(&*self.replica).and_then(|it| it.highest);
            let heard = Heard {
                highest: heard.highest.max(before),
                ..heard.clone()
            };
            all.insert(self.replica.to_string(), heard);
            all.values_mut().for_each(|it| it.leave_out(is_left_out));
            all
        };
        if with_ours(known) == known.heard {
            return Ok(());
        }
        let key = self.state.key(&Restored::KIND);
        self.state
            .update(&key, |found: Option<Loaded<Restored>>| {
                Ok::<_, StateError>(match found.map(|found| found.value) {
                    Some(mut restored) if restored.is_shut() => {
                        restored.heard = with_ours(&restored);
                        Decision::Write(restored, ())
                    }
                    _ => Decision::Keep(()),
                })
            })
            .await?;
        self.restore.refresh().await
    }

    /// Begins an epoch with what was put back, and issues from then on.
    ///
    /// # Errors
    /// [`Refusal`] if it is open, or the fleet knows better and the operator has not said that
    /// this does not matter; or it could not be stored.
    pub(crate) async fn open_restored(&self, word: Word) -> Result<Restored, Refusal> {
        let shut = || self.restore.get().filter(|it| it.is_shut());
        // Also what was said just now, and what the ledger here says.
        self.tally(&*shut().ok_or_else(nothing_to_open)?).await?;
        let restored = shut().ok_or_else(nothing_to_open)?;
        may_open(&restored, &word)?;
        let now = self.clock.now();
        let (agents, reason, who) = match &word {
            Word::Agents(agents) => (Some(*agents), String::new(), "the agents"),
            Word::Operator { reason, .. } => (None, reason.clone(), "admin socket"),
        };
        let detail = format!(
            "backup {} of {}, {} agents agree: {}",
            restored.backup,
            rfc3339(restored.made),
            restored.agree(),
            match reason.as_str() {
                "" => "more than half of the agents that there were",
                reason => reason,
            }
        );
        // Before anything follows from it: what can't be recorded stays shut.
        self.record_opening(who, "open-restored", detail.clone(), now)
            .await?;
        let opening = Opened {
            at: now,
            agents,
            reason,
        };
        // What another replica has heard meanwhile counts.
        let decided = self
            .change_restored(|restored| {
                may_open(restored, &word)?;
                restored.opening.get_or_insert_with(|| opening.clone());
                Ok(())
            })
            .await?;
        let open = self.end_opening(&decided).await?;
        tracing::warn!("a restored state is open: {detail}");
        Ok(open)
    }

    /// Begins the epoch of a state whose opening was decided, and opens it.
    async fn end_opening(&self, decided: &Restored) -> Result<Restored, Refusal> {
        let now = self.clock.now();
        let known = decided.highest().max(self.ledger.last_sequence());
        let root = self.authority.root();
        let begun = self.trust.begin_epoch(known, &root, None, now).await;
        let begun = begun
            .map_err(|error| Refusal::new(error.code(), Fault::Dependency, error.to_string()))?;
        let open = self
            .change_restored(|restored| {
                restored.opened = restored.opening.take();
                Ok(())
            })
            .await?;
        tracing::info!(bundle = %begun.sequence(), "an epoch has begun");
        self.rotator.wake();
        Ok(open)
    }

    pub(super) async fn record_opening(
        &self,
        who: &str,
        action: &str,
        detail: String,
        now: SystemTime,
    ) -> Result<(), Refusal> {
        let record = ledger::Operator {
            who: who.to_owned(),
            action: action.to_owned(),
            detail,
        };
        let recorded = self.ledger.append(vec![ledger::Record::new(now, record)]);
        recorded.await.map(drop).map_err(|error| {
            Refusal::new(
                error.code(),
                Fault::Dependency,
                format!("it stays shut, because that could not be recorded: {error}"),
            )
        })
    }

    /// Changes what is stored as long as it is shut; answers what stands there then.
    pub(super) async fn change_restored(
        &self,
        change: impl Fn(&mut Restored) -> Result<(), Refusal>,
    ) -> Result<Restored, Refusal> {
        let key = self.state.key(&Restored::KIND);
        let stored = self
            .state
            .update(&key, |found: Option<Loaded<Restored>>| {
                let Some(mut restored) = found.map(|found| found.value) else {
                    return Err(nothing_to_open());
                };
                if !restored.is_shut() {
                    return Ok::<_, Refusal>(Decision::Keep(restored));
                }
                change(&mut restored)?;
                Ok(Decision::Write(restored.clone(), restored))
            })
            .await?;
        self.restore.refresh().await?;
        Ok(stored)
    }
}

/// Whether this word is enough: against what the fleet has, and before it has what is here, it
/// takes a second one.
fn may_open(restored: &Restored, word: &Word) -> Result<(), Refusal> {
    let found = verdict(restored);
    let is_against = matches!(found, Verdict::Ahead { .. } | Verdict::Adopts);
    let is_said = matches!(
        word,
        Word::Operator {
            although_ahead: true,
            ..
        }
    );
    if is_against && !is_said {
        return Err(Refusal::new(
            "ARX-RESTORE-AHEAD",
            Fault::Changed,
            format!("{}: see `arx restore status`", found.in_words(restored)),
        ));
    }
    Ok(())
}

pub(super) fn nothing_to_open() -> Refusal {
    Refusal::new(
        "ARX-RESTORE-OPEN",
        Fault::Request,
        "this authority was not restored from a backup, or is open: there is nothing to do",
    )
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
