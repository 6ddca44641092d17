//! What an authority below says of itself, again and again: which bundle everybody there has
//! confirmed, and under which roots something there is still valid. It counts in the gates of a
//! rotation as a replica's word does.
//!
//! Only what it has said to this process counts: whoever has said nothing yet has confirmed
//! nothing.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arx_identity::{KeyId, Sequence};
use arx_proto::nested::v1 as wire;
use bytes::Bytes;

use super::caller::Known;
use super::{called, is_below};
use crate::ca::Ca;
use crate::caller::Caller;
use crate::refusal::{Fault, Refusal};
use crate::restore::Said;
use crate::rotation::Obstacle;
use crate::state::{Kind, Root, RootState, StateError};
use crate::token::Verified;

/// Roots that somebody may name.
const MOST: usize = 16;
/// They call every few seconds.
const NEAR: Duration = Duration::from_secs(15);

/// What the authorities below have confirmed, by what they are called.
#[derive(Debug, Default)]
pub struct Confirmed(Mutex<HashMap<String, Last>>);

#[derive(Clone, Copy, Debug)]
struct Last {
    sequence: Option<Sequence>,
    at: Instant,
}

impl Confirmed {
    /// Whether that is anything new.
    fn set(&self, name: &str, sequence: Option<Sequence>, at: Instant) -> bool {
        let said = Last { sequence, at };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = all.insert(name.to_owned(), said);
        before.map(|before| before.sequence) != Some(sequence)
    }

    /// Whether this one has spoken lately, seen from `now`, and has confirmed this very bundle.
    pub(crate) fn is_near(&self, name: &str, sequence: Sequence, now: Instant) -> bool {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(name).is_some_and(|said| {
            said.sequence == Some(sequence) && now.saturating_duration_since(said.at) < NEAR
        })
    }

    /// All of it.
    #[must_use]
    pub fn all(&self) -> Vec<(String, Sequence)> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = all.iter();
        known
            .filter_map(|(name, said)| Some((name.clone(), said.sequence?)))
            .collect()
    }
}

impl Ca {
    /// Takes what an authority below says, and tells it what is trusted here.
    ///
    /// # Errors
    /// [`Refusal`] if it is none of the list, or the state cannot be read or changed.
    pub(super) async fn sync(
        &self,
        caller: &Caller,
        token: Option<&str>,
        request: &wire::SyncRequest,
    ) -> Result<wire::SyncResponse, Refusal> {
        let now = self.clock.now();
        let known = Known::find(self, caller, token, now).await?;
        let rules = self.rules.get();
        let name = called(rules.nested.name(&known.id)?);
        let held = held(&request.held)?;
        let confirmed = request.confirmed.as_ref().map(|it| Sequence {
            epoch: it.epoch,
            number: it.number,
        });
        let account = known.account.as_ref().map(Verified::account);
        if self
            .not_denied(&known.id, &known.node, account, now)
            .is_ok()
        {
            let said = Said {
                sequence: confirmed.unwrap_or_else(|| self.trust.current().sequence()),
                sha256: [0; 32],
                roots: held.iter().map(|(root, _)| *root).collect(),
            };
            self.restore.note_below(&name, said);
        }
        // Whoever follows what is published here would go back to it.
        self.restore.lets_rotate()?;
        let bundle = self.trust.current();
        // Nobody can have confirmed what was never published.
        let confirmed = confirmed.filter(|confirmed| *confirmed <= bundle.sequence());
        self.authority
            .holds_below(&name, &held, now)
            .await
            .map_err(|error| Refusal::new(error.code(), Fault::Dependency, error.to_string()))?;
        let at = self.clock.monotonic();
        if self.confirmed_below.set(&name, confirmed, at) {
            self.fleet.touch();
        }
        let stored = self.state.authorities().await.map_err(Refusal::from)?;
        let stored = stored.map(|stored| stored.value).unwrap_or_default();
        let of = |state: RootState| {
            let mut roots = stored.roots.iter();
            let root = roots.find(|root| root.state == state);
            root.and_then(Root::key_id).map_or_else(Bytes::new, bytes)
        };
        // A prepared root that is not published yet may be dropped without a word.
        let next = of(RootState::Prepared);
        let is_published = bundle.roots().iter().any(|root| {
            root.subject_key_id()
                .is_some_and(|id| id.as_bytes() == &next[..])
        });
        let rotations = self.state.rotations().await.map_err(Refusal::from)?;
        let running = rotations.running().filter(|it| it.kind == Kind::Distrust);
        let gone = stored.roots.iter();
        let gone = gone.filter(|root| root.state == RootState::Distrusted);
        let mut distrusted: Vec<_> = gone.filter_map(Root::key_id).collect();
        distrusted.extend(running.map(|running| running.from));
        distrusted.dedup();
        let sequence = bundle.sequence();
        let roots = bundle.roots().iter();
        Ok(wire::SyncResponse {
            published: Some(wire::Position {
                epoch: sequence.epoch,
                number: sequence.number,
            }),
            roots: roots
                .map(|root| Bytes::copy_from_slice(root.der()))
                .collect(),
            active: of(RootState::Active),
            next: if is_published { next } else { Bytes::new() },
            distrusted: distrusted.into_iter().map(bytes).collect(),
        })
    }

    /// The authorities below that have a certificate under `root`.
    ///
    /// # Errors
    /// [`StateError`] if that cannot be read.
    pub(crate) async fn below(
        &self,
        root: KeyId,
        now: SystemTime,
    ) -> Result<Vec<Obstacle>, StateError> {
        let stored = self.state.authorities().await?;
        let stored = stored.map(|stored| stored.value).unwrap_or_default();
        let all = stored.registrations.iter();
        let below = all.filter(|it| it.root == root && is_below(&it.replica));
        let valid = below.filter(|it| it.not_after > now).map(|it| Obstacle {
            node: it.replica.clone(),
            reason: "below-behind",
            last_certificate_ends: Some(it.not_after),
            ..Obstacle::default()
        });
        Ok(valid.collect())
    }

    /// How many of them follow, and those that do not.
    ///
    /// # Errors
    /// [`StateError`] if it cannot be read who stands below.
    pub(crate) async fn below_apart(
        &self,
        root: KeyId,
        now: SystemTime,
    ) -> Result<(u64, Vec<Obstacle>), StateError> {
        let (sequence, at) = (self.trust.current().sequence(), self.clock.monotonic());
        let follows = |it: &Obstacle| self.confirmed_below.is_near(&it.node, sequence, at);
        let below = self.below(root, now).await?.into_iter();
        let (near, away): (Vec<_>, Vec<_>) = below.partition(follows);
        Ok((near.len() as u64, away))
    }
}

fn bytes(id: KeyId) -> Bytes {
    Bytes::copy_from_slice(id.as_bytes())
}

fn held(said: &[wire::Held]) -> Result<Vec<(KeyId, SystemTime)>, Refusal> {
    let malformed = |what: &str| Refusal::new("ARX-REQUEST-MALFORMED", Fault::Request, what);
    if said.len() > MOST {
        return Err(malformed("more roots than an authority can have"));
    }
    let each = said.iter().map(|held| {
        let root = KeyId::from_slice(&held.root)?;
        let after = Duration::from_millis(u64::try_from(held.not_after_unix_ms).ok()?);
        Some((root, UNIX_EPOCH.checked_add(after)?))
    });
    let all: Option<Vec<_>> = each.collect();
    all.ok_or_else(|| malformed("what is held has a root, and a time that can be"))
}

#[cfg(test)]
mod tests;
