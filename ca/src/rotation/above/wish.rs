//! What follows here from what the authority above has said.

use arx_identity::KeyId;

use super::Heard;
use crate::state::{Kind, Phase, Rotation};

/// What follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Nothing,
    /// A certificate under this root is asked for, and rotated to.
    Follow(KeyId),
    /// The rotation is turned round.
    Return(String),
    /// The rotation that was turned round in Retire is let go on.
    GoOn(String),
    /// The rotation becomes the distrust of this root.
    Distrust(KeyId),
}

/// What follows where `active` is the root that signs here, another may be prepared, and a
/// rotation may be under way.
pub(super) fn wish(
    heard: &Heard,
    active: KeyId,
    prepared: bool,
    running: Option<&Rotation>,
) -> Wish {
    let Some(running) = running else {
        let target = heard.next.unwrap_or(heard.active);
        return match prepared || target == active {
            // The rotation to what is prepared begins by itself.
            true => Wish::Nothing,
            false => Wish::Follow(target),
        };
    };
    if running.kind != Kind::Planned {
        return Wish::Nothing;
    }
    let from = running.from;
    let roots = [Some(from), running.to].into_iter().flatten();
    // Not before there is another root to go to.
    let mut distrusted = roots.filter(|it| heard.distrusted.contains(it) && *it != heard.active);
    if let Some(root) = distrusted.next() {
        return Wish::Distrust(root);
    }
    let Some(to) = running.to else {
        return Wish::Nothing;
    };
    let back = || Wish::Return(running.id.clone());
    let stays = heard.goes_to(to);
    match running.phase {
        Phase::Prepare | Phase::Distribute if !stays => back(),
        Phase::Activate | Phase::Reissue if !stays && heard.trusts(from) => back(),
        // Unless somebody here would not wait for it to let the old one go.
        Phase::Retire if heard.trusts(from) && !was_forced(running) => back(),
        Phase::Held if heard.active == from => back(),
        Phase::Held if !heard.trusts(from) => Wish::GoOn(running.id.clone()),
        _ => Wish::Nothing,
    }
}

fn was_forced(rotation: &Rotation) -> bool {
    let last = rotation.passed.last();
    last.is_some_and(|last| last.forced.is_some())
}
