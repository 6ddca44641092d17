//! The distrust of the only root where no other can be had: it goes at once, and nothing
//! connects any more.
//!
//! A bundle is never empty, because a verifier that is given no root may take that for having
//! nothing to verify. So a placeholder takes the root's place: a root whose key was forgotten as
//! soon as it had signed itself. It signs nothing, and goes when the authority begins anew.
//!
//! | phase | looked |
//! |---|---|
//! | Prepare | cuts the root off, then notes all who hold something under it; Retire |
//! | Retire | stops signing; Done when everybody has confirmed the bundle, or its time is up |

use std::time::SystemTime;

use super::facts::Facts;
use super::step::{DISTRUST, Effect, RotationError, Step, forced, gate, pass};
use crate::state::{Kind, Opener, Phase, Rotation};

/// What follows for a distrust that is under way and finds no other root.
pub(super) fn step(rotation: &Rotation, facts: &Facts) -> Result<Step, RotationError> {
    let waits = rotation.kind == Kind::Distrust && rotation.phase == Phase::Prepare;
    if !waits || rotation.to.is_some() || facts.prepared.is_some() {
        return Err(RotationError::Followed(rotation.id.clone()));
    }
    let alone = Rotation {
        without_successor: true,
        ..rotation.clone()
    };
    Ok(Step::stand(rotation, alone))
}

pub(super) fn looked(rotation: &Rotation, facts: &Facts, now: SystemTime) -> Step {
    let from = rotation.from;
    if facts.roots.contains(&from) || facts.bundle.contains(&from) {
        return Step::act(Effect::CutOff(from));
    }
    if facts.signs_under == from {
        return Step::act(Effect::StopSigning);
    }
    if rotation.phase == Phase::Prepare {
        // Who holds what is what everybody will want to know.
        if facts.counting_for.is_none() {
            return Step::default();
        }
        let behind = !facts.obstacles.is_empty();
        let behind = behind.then(|| forced(rotation, Opener::Distrust, DISTRUST.to_owned(), facts));
        return pass(rotation, Phase::Retire, facts, now, behind, None);
    }
    // Another one, if the authority has begun anew meanwhile.
    let to = facts.bundle.first().copied();
    if rotation.to != to || rotation.sequence != Some(facts.sequence) {
        let published = Rotation {
            to,
            sequence: Some(facts.sequence),
            clear_since: None,
            ..rotation.clone()
        };
        return Step::stand(rotation, published);
    }
    gate(rotation, Phase::Done, facts, now)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use arx_identity::{KeyId, Sequence};

    use super::*;
    use crate::rotation::{Event, Obstacle, begin_cut_off, begin_distrust, step as decide};
    use crate::state::{Rotations, Terms};

    fn key(number: u8) -> KeyId {
        KeyId::from_slice(&[number; 20]).expect("20 bytes")
    }

    fn at(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_780_000_000 + second)
    }

    const TERMS: Terms = Terms {
        window: Duration::ZERO,
        dwell: Duration::from_secs(1),
        patience: Some(Duration::from_secs(5)),
    };

    fn cut_off() -> Rotation {
        let why = "stolen".to_owned();
        begin_cut_off(&mut Rotations::default(), key(1), TERMS, why, at(0))
            .expect("none is under way")
    }

    /// The only root signs, and somebody holds something under it.
    fn facts() -> Facts {
        Facts {
            active: key(1),
            prepared: None,
            roots: vec![key(1)],
            signs_under: key(1),
            serves_under: key(1),
            bundle: vec![key(1)],
            sequence: Sequence {
                epoch: 1,
                number: 1,
            },
            from_ends: None,
            longest_leaf: Duration::from_secs(3600),
            reissue_takes: Duration::ZERO,
            counting_for: Some(Duration::from_secs(3600)),
            confirmed: 0,
            obstacles: vec![Obstacle {
                node: "c1/n1".to_owned(),
                reason: "not-renewed",
                workloads: vec!["spiffe://example.org/web".to_owned()],
                workload_count: 1,
                ..Obstacle::default()
            }],
            denied: Vec::new(),
            by_word: false,
            clear_for: Duration::MAX,
        }
    }

    /// It is gone, and a placeholder is in its place.
    fn after() -> Facts {
        Facts {
            roots: Vec::new(),
            signs_under: key(0),
            bundle: vec![key(9)],
            sequence: Sequence {
                epoch: 1,
                number: 2,
            },
            ..facts()
        }
    }

    fn look(rotation: &Rotation, facts: &Facts, second: u64) -> Step {
        decide(rotation, &Event::Looked, facts, at(second)).expect("a look never fails")
    }

    #[test]
    fn the_only_root_goes_first_and_again_until_it_is_in_no_bundle() {
        let cut = [Effect::CutOff(key(1))];
        assert_eq!(look(&cut_off(), &facts(), 0).effects, cut);
        let published = Facts {
            roots: Vec::new(),
            ..facts()
        };
        assert_eq!(look(&cut_off(), &published, 0).effects, cut);
    }

    #[test]
    fn nothing_goes_on_before_this_replica_signs_nothing_more() {
        let signs = Facts {
            signs_under: key(1),
            ..after()
        };
        let step = look(&cut_off(), &signs, 0);
        assert_eq!(step.effects, [Effect::StopSigning]);
        assert_eq!(step.next, None);
    }

    #[test]
    fn all_who_hold_something_are_on_record_as_soon_as_it_is_known_who_does() {
        let unknown = Facts {
            counting_for: None,
            ..after()
        };
        assert_eq!(look(&cut_off(), &unknown, 0), Step::default());
        let next = look(&cut_off(), &after(), 0).next.expect("it goes on");
        assert_eq!(next.phase, Phase::Retire);
        let forced = next.passed[0]
            .forced
            .as_ref()
            .expect("they are left behind");
        assert_eq!(forced.left_behind, ["c1/n1 not-renewed"]);
        assert_eq!(forced.holders[0].workloads, ["spiffe://example.org/web"]);
    }

    #[test]
    fn it_is_done_when_everybody_has_the_bundle_or_the_time_is_up() {
        let retire = Rotation {
            phase: Phase::Retire,
            ..cut_off()
        };
        let published = look(&retire, &after(), 1).next.expect("what is confirmed");
        assert_eq!(published.to, Some(key(9)));
        assert_eq!(look(&published, &after(), 4), Step::default());
        let done = look(&published, &after(), 5).next.expect("time is up");
        assert_eq!(done.phase, Phase::Done);
        let confirmed = Facts {
            obstacles: Vec::new(),
            ..after()
        };
        let clear = look(&published, &confirmed, 1).next.expect("the dwell");
        let done = look(&clear, &confirmed, 2).next.expect("all have it");
        assert_eq!(done.phase, Phase::Done);
        assert_eq!(done.passed[0].forced, None);
    }

    #[test]
    fn an_authority_that_has_begun_anew_meanwhile_ends_it_with_its_new_root() {
        let retire = Rotation {
            phase: Phase::Retire,
            to: Some(key(9)),
            sequence: Some(after().sequence),
            ..cut_off()
        };
        let anew = Facts {
            active: key(2),
            roots: vec![key(2)],
            signs_under: key(2),
            bundle: vec![key(2)],
            sequence: Sequence {
                epoch: 1,
                number: 3,
            },
            ..facts()
        };
        let step = look(&retire, &anew, 1);
        assert_eq!(step.effects, []);
        assert_eq!(step.next.expect("it goes on").to, Some(key(2)));
    }

    #[test]
    fn only_a_distrust_that_has_no_other_root_yet_becomes_one_without() {
        let why = String::new();
        let begun = begin_distrust(&mut Rotations::default(), key(1), TERMS, why, at(0));
        let begun = begun.expect("none is under way");
        let alone = |rotation: &Rotation, facts: &Facts| {
            decide(rotation, &Event::Alone, facts, at(1)).map(|step| step.next)
        };
        let next = alone(&begun, &facts())
            .expect("it can be")
            .expect("it does");
        assert!(next.without_successor);
        assert_eq!(alone(&next, &facts()), Ok(None), "said twice");
        let prepared = Facts {
            prepared: Some(key(2)),
            ..facts()
        };
        let later = Rotation {
            phase: Phase::Distribute,
            ..begun.clone()
        };
        let planned = Rotation {
            kind: Kind::Planned,
            ..begun.clone()
        };
        for (rotation, facts) in [
            (&begun, &prepared),
            (&later, &facts()),
            (&planned, &facts()),
        ] {
            let refused = alone(rotation, facts).expect_err("it is refused");
            assert_eq!(refused.code(), "ARX-DISTRUST-FOLLOWED");
        }
    }

    #[test]
    fn it_has_no_gate_to_force_and_no_way_back() {
        for (event, code) in [
            (Event::Abort(String::new()), "ARX-DISTRUST-ABORT"),
            (Event::Force("now".to_owned()), "ARX-ROTATION-NO-GATE"),
            (Event::Continue, "ARX-ROTATION-NOT-HELD"),
        ] {
            let refused = decide(&cut_off(), &event, &facts(), at(1)).expect_err("refused");
            assert_eq!(refused.code(), code);
        }
    }
}
