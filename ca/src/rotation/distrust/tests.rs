//! Every phase in which a root may have to be distrusted, and every event of a distrust.

use std::time::Duration;

use arx_identity::Sequence;

use super::*;
use crate::rotation::{Effect, Obstacle, begin, step as decide};
use crate::state::Rotations;

fn key(number: u8) -> KeyId {
    KeyId::from_slice(&[number; 20]).expect("20 bytes")
}

fn at(second: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_780_000_000 + second)
}

const ONE: Sequence = Sequence {
    epoch: 1,
    number: 1,
};

fn pace() -> Terms {
    Terms {
        window: Duration::from_secs(2),
        dwell: Duration::from_secs(1),
        patience: Some(Duration::from_secs(5)),
    }
}

fn planned(phase: Phase) -> Rotation {
    let terms = Terms {
        window: Duration::from_secs(600),
        dwell: Duration::from_secs(15),
        patience: None,
    };
    let begun = begin(
        &mut Rotations::default(),
        key(1),
        terms,
        String::new(),
        at(0),
    );
    Rotation {
        phase,
        to: (phase != Phase::Prepare).then(|| key(2)),
        ..begun.expect("none is under way")
    }
}

/// Both roots have keys, and nobody is in the way.
fn facts() -> Facts {
    Facts {
        active: key(1),
        prepared: None,
        roots: vec![key(1), key(2)],
        signs_under: key(1),
        serves_under: key(1),
        bundle: vec![key(1), key(2)],
        sequence: ONE,
        from_ends: None,
        longest_leaf: Duration::from_secs(3600),
        reissue_takes: Duration::ZERO,
        counting_for: Some(Duration::from_secs(3600)),
        confirmed: 3,
        obstacles: Vec::new(),
        denied: Vec::new(),
        by_word: false,
        clear_for: Duration::MAX,
    }
}

fn obstacle() -> Obstacle {
    Obstacle {
        node: "c1/n1".to_owned(),
        reason: "agent-away",
        workloads: vec!["spiffe://example.org/web".to_owned()],
        workload_count: 3,
        ..Obstacle::default()
    }
}

fn distrusted(
    rotation: &Rotation,
    root: KeyId,
    facts: &Facts,
) -> Result<Option<Rotation>, RotationError> {
    let event = Event::Distrust(root, pace(), "stolen".to_owned());
    let step = decide(rotation, &event, facts, at(100))?;
    assert_eq!(step.effects, [], "what is decided is stored first");
    Ok(step.next)
}

#[test]
fn a_planned_rotation_becomes_the_distrust_of_either_root_where_nothing_is_lost() {
    let (a, b) = (key(1), key(2));
    for (phase, root, expected) in [
        // Of the one that leaves: it goes on, and what was turned round goes on again.
        (Phase::Prepare, a, (Phase::Prepare, None)),
        (Phase::Distribute, a, (Phase::Distribute, Some(b))),
        (Phase::Activate, a, (Phase::Activate, Some(b))),
        (Phase::Reissue, a, (Phase::Reissue, Some(b))),
        (Phase::Retire, a, (Phase::Retire, Some(b))),
        (Phase::Withdraw, a, (Phase::Distribute, Some(b))),
        (Phase::Restore, a, (Phase::Retire, Some(b))),
        (Phase::Held, a, (Phase::Retire, Some(b))),
        // Of the one that comes: it goes the other way.
        (Phase::Distribute, b, (Phase::Retire, Some(a))),
        (Phase::Activate, b, (Phase::Activate, Some(a))),
        (Phase::Reissue, b, (Phase::Activate, Some(a))),
        (Phase::Retire, b, (Phase::Distribute, Some(a))),
        (Phase::Withdraw, b, (Phase::Retire, Some(a))),
        (Phase::Restore, b, (Phase::Distribute, Some(a))),
        (Phase::Held, b, (Phase::Activate, Some(a))),
    ] {
        let next = distrusted(&planned(phase), root, &facts()).expect("it can be");
        let next = next.expect("something changes");
        assert_eq!((next.phase, next.to), expected, "{phase:?} {root}");
        assert_eq!((next.from, next.kind), (root, Kind::Distrust));
        assert_eq!((next.terms, &*next.reason), (pace(), "stolen"));
        assert_eq!((next.phase_began, next.aborting), (at(100), false));
        assert_eq!(next.passed.len(), 1, "the phase before is on record");
    }
}

#[test]
fn a_root_that_is_prepared_and_one_that_is_alone_can_be_distrusted_too() {
    let prepared = Facts {
        prepared: Some(key(2)),
        ..facts()
    };
    let next = distrusted(&planned(Phase::Prepare), key(2), &prepared).expect("it can be");
    let next = next.expect("something changes");
    assert_eq!((next.phase, next.to), (Phase::Retire, Some(key(1))));
    // The other is gone: another is made.
    let alone = Facts {
        active: key(2),
        roots: vec![key(2)],
        ..facts()
    };
    let next = distrusted(&planned(Phase::Retire), key(2), &alone).expect("it can be");
    let next = next.expect("something changes");
    assert_eq!((next.phase, next.to), (Phase::Prepare, None));
    // What was being withdrawn is gone: another is made.
    let withdrawn = Facts {
        roots: vec![key(1)],
        ..facts()
    };
    let next = distrusted(&planned(Phase::Withdraw), key(1), &withdrawn).expect("it can be");
    let next = next.expect("something changes");
    assert_eq!((next.phase, next.to), (Phase::Prepare, None));
}

#[test]
fn what_can_not_be_distrusted_is_refused() {
    let unknown = distrusted(&planned(Phase::Reissue), key(9), &facts());
    assert_eq!(unknown, Err(RotationError::NoSuchRoot(key(9))));
    let running = Rotation {
        kind: Kind::Distrust,
        ..planned(Phase::Reissue)
    };
    assert_eq!(distrusted(&running, key(1), &facts()), Ok(None), "it is");
    let other = distrusted(&running, key(2), &facts());
    assert_eq!(other, Err(RotationError::Distrusting("r1".to_owned())));
    for phase in [Phase::Done, Phase::Aborted] {
        let over = distrusted(&planned(phase), key(1), &facts());
        assert_eq!(over, Err(RotationError::Over("r1".to_owned())));
    }
    let newer = distrusted(&planned(Phase::Unknown), key(1), &facts());
    assert_eq!(newer, Err(RotationError::Newer("r1".to_owned())));
}

#[test]
fn a_distrust_is_never_turned_round_in_any_phase() {
    for phase in [
        Phase::Prepare,
        Phase::Distribute,
        Phase::Activate,
        Phase::Reissue,
        Phase::Retire,
    ] {
        let rotation = Rotation {
            kind: Kind::Distrust,
            ..planned(phase)
        };
        let abort = Event::Abort(String::new());
        let refused = decide(&rotation, &abort, &facts(), at(1)).expect_err("refused");
        assert_eq!(refused.code(), "ARX-DISTRUST-ABORT");
        let waits = decide(&rotation, &Event::Continue, &facts(), at(1));
        assert!(matches!(waits, Err(RotationError::NotHeld { .. })));
    }
}

#[test]
fn a_kind_of_a_newer_version_takes_no_step() {
    let rotation = Rotation {
        kind: Kind::Unknown,
        ..planned(Phase::Retire)
    };
    let looked = decide(&rotation, &Event::Looked, &facts(), at(1_000_000));
    assert_eq!(looked, Ok(Step::default()));
    let abort = Event::Abort(String::new());
    let refused = decide(&rotation, &abort, &facts(), at(1)).expect_err("refused");
    assert_eq!(refused.code(), "ARX-ROTATION-NEWER");
}

#[test]
fn each_gate_is_passed_when_its_time_is_up_and_says_who_was_left_behind_with_what() {
    let busy = Facts {
        active: key(2),
        signs_under: key(2),
        serves_under: key(2),
        obstacles: vec![obstacle()],
        ..facts()
    };
    for (phase, next, waits) in [
        (Phase::Distribute, Phase::Activate, 5),
        (Phase::Activate, Phase::Reissue, 5),
        // With the window.
        (Phase::Reissue, Phase::Retire, 7),
    ] {
        let rotation = Rotation {
            kind: Kind::Distrust,
            terms: pace(),
            sequence: Some(ONE),
            ..planned(phase)
        };
        let looked = |second| {
            let step = decide(&rotation, &Event::Looked, &busy, at(second)).expect("a look");
            step.next.filter(|next| next.phase != phase)
        };
        assert_eq!(looked(waits - 1), None, "{phase:?}");
        let passed = looked(waits).expect("its time is up");
        assert_eq!(passed.phase, next);
        let forced = passed.passed[0].forced.as_ref().expect("it was shut");
        assert_eq!((&*forced.reason, forced.count), ("distrust", 1));
        assert_eq!(forced.left_behind, ["c1/n1 agent-away"]);
        assert_eq!(forced.holders[0].workloads, ["spiffe://example.org/web"]);
        assert_eq!(forced.holders[0].count, 3);
    }
}

#[test]
fn an_authority_that_was_away_gives_everybody_the_time_to_be_seen_again() {
    let rotation = Rotation {
        kind: Kind::Distrust,
        terms: pace(),
        sequence: Some(ONE),
        ..planned(Phase::Distribute)
    };
    let mut busy = Facts {
        counting_for: None,
        obstacles: vec![obstacle()],
        ..facts()
    };
    assert!(!is_over(&rotation, &busy, at(1_000_000)), "nobody is known");
    busy.counting_for = Some(Duration::from_secs(4));
    assert!(!is_over(&rotation, &busy, at(1_000_000)));
    busy.counting_for = Some(Duration::from_secs(5));
    assert!(is_over(&rotation, &busy, at(1_000_000)));
    assert!(!is_over(&rotation, &busy, at(4)));
}

#[test]
fn the_last_gate_notes_who_is_left_behind_and_only_then_the_root_goes_for_good() {
    let rotation = Rotation {
        kind: Kind::Distrust,
        terms: pace(),
        sequence: Some(ONE),
        ..planned(Phase::Retire)
    };
    let mut seen = Facts {
        active: key(2),
        bundle: vec![key(2)],
        obstacles: vec![obstacle()],
        ..facts()
    };
    let step = decide(&rotation, &Event::Looked, &seen, at(5)).expect("a look");
    assert_eq!(step.effects, []);
    let noted = step.next.expect("it is noted");
    assert_eq!(noted.phase, Phase::Retire);
    assert!(noted.passed[0].forced.is_some());
    let step = decide(&noted, &Event::Looked, &seen, at(6)).expect("a look");
    assert_eq!(step.effects, [Effect::Distrust(key(1))]);
    assert_eq!(step.next, None, "noted once");
    seen.roots = vec![key(2)];
    let step = decide(&noted, &Event::Looked, &seen, at(7)).expect("a look");
    assert_eq!(step.next.map(|next| next.phase), Some(Phase::Done));
}
