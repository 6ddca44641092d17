//! Standing below another Arx: what that trusts is heard again and again, and what follows is
//! done. Its roots come into the bundle here before anybody there has a certificate under them,
//! and leave it only when they have left the bundle there.
//!
//! A rotation here is one of this authority's own, with the same gates. Two of them wait
//! for the authority above: nothing is signed under a new root before it does, and a root stays
//! until it has let it go. Nobody turns such a rotation round but the authority above: what was
//! confirmed to it is counted upon there.

mod follow;
mod wish;

use std::sync::{Mutex, PoisonError};

use arx_identity::{Certificate, KeyId, Sequence};
use tokio::sync::watch;

use super::driver::View;
use super::facts::Obstacle;
use crate::state::{Phase, Root, RootState, Rotation};

/// Why a gate is shut until the authority above signs under the new root,
const WAITS: &str = "upstream-waits";
/// and until it does not trust the old one any more.
const TRUSTS: &str = "upstream-trusts";

/// What the authority above has said last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// The sequence of its bundle.
    pub sequence: Sequence,
    /// The roots in it.
    pub roots: Vec<Certificate>,
    /// The root that it signs under.
    pub active: KeyId,
    /// The one that follows, which is in its bundle already.
    pub next: Option<KeyId>,
    /// Those that must not be trusted any more, or are about to be out of its bundle for that.
    pub distrusted: Vec<KeyId>,
}

/// What is known of the authority above.
#[derive(Debug, Default)]
pub struct Above {
    /// Nothing, before it has said anything to this process.
    heard: Mutex<Option<Heard>>,
    /// Code and message, while it cannot be heard or followed.
    trouble: watch::Sender<Option<(&'static str, String)>>,
}

impl Heard {
    fn trusts(&self, root: KeyId) -> bool {
        let mut roots = self.roots.iter();
        roots.any(|it| it.subject_key_id() == Some(root))
    }

    fn has_exactly(&self, roots: &[Certificate]) -> bool {
        roots.len() == self.roots.len() && roots.iter().all(|root| self.roots.contains(root))
    }

    /// Whether it signs under this root, or is to.
    fn goes_to(&self, root: KeyId) -> bool {
        self.active == root || self.next == Some(root)
    }
}

impl Above {
    /// Why it cannot be heard or followed, by code and message.
    #[must_use]
    pub fn trouble(&self) -> watch::Receiver<Option<(&'static str, String)>> {
        self.trouble.subscribe()
    }

    fn heard(&self) -> Option<Heard> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.clone()
    }

    /// Takes what it says now; whether that is anything new.
    fn hears(&self, said: &Heard) -> bool {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.replace(said.clone()).as_ref() != Some(said)
    }

    /// What keeps `rotation` from going on.
    fn obstacle(&self, rotation: &Rotation, address: &str) -> Option<Obstacle> {
        let heard = self.heard();
        let reason = match (rotation.phase, heard) {
            (Phase::Distribute, Some(heard)) if Some(heard.active) == rotation.to => return None,
            (Phase::Distribute, _) => WAITS,
            (Phase::Reissue, Some(heard)) if !heard.trusts(rotation.from) => return None,
            (Phase::Reissue, _) => TRUSTS,
            _ => return None,
        };
        Some(Obstacle {
            node: address.to_owned(),
            reason,
            ..Obstacle::default()
        })
    }
}

/// Whether nobody here is in the way of a gate.
fn is_clear(view: &View) -> bool {
    let mut obstacles = view.obstacles.iter();
    obstacles.all(|it| it.reason == WAITS || it.reason == TRUSTS)
}

/// Whether everybody here has confirmed the bundle that is published here.
fn is_confirmed(view: Option<&View>) -> bool {
    view.is_none_or(|view| match view.rotation.phase {
        Phase::Done | Phase::Aborted | Phase::Activate | Phase::Reissue | Phase::Held => true,
        Phase::Distribute => {
            view.rotation.sequence.is_some() && view.trouble.is_none() && is_clear(view)
        }
        _ => false,
    })
}

/// Whether something here may be valid under `root`.
fn is_held(root: &Root, view: Option<&View>) -> bool {
    match root.state {
        RootState::Active | RootState::Prepared => true,
        RootState::Retiring => !view.is_some_and(|view| {
            let leaves = root.key_id() == Some(view.rotation.from);
            let nothing = match view.rotation.phase {
                Phase::Reissue => view.trouble.is_none() && is_clear(view),
                Phase::Retire | Phase::Done | Phase::Aborted => true,
                _ => false,
            };
            leaves && nothing
        }),
        RootState::Distrusted | RootState::Unknown(_) => false,
    }
}

#[cfg(test)]
mod tests;
