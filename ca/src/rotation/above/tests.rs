use std::time::{Duration, SystemTime};

use super::wish::{Wish, wish};
use super::*;
use crate::rotation::begin;
use crate::state::{Forced, KeyPlace, Kind, Opener, Passed, Rotations, Terms};
use crate::testing::bundle;

fn id(certificate: &Certificate) -> KeyId {
    certificate.subject_key_id().expect("it has one")
}

fn three() -> [Certificate; 3] {
    [1, 2, 3].map(|number| bundle(number).roots()[0].clone())
}

fn heard(roots: &[&Certificate], active: &Certificate, next: Option<&Certificate>) -> Heard {
    Heard {
        sequence: Sequence {
            epoch: 1,
            number: 1,
        },
        roots: roots.iter().map(|root| (*root).clone()).collect(),
        active: id(active),
        next: next.map(id),
        distrusted: Vec::new(),
    }
}

fn rotation(from: &Certificate, to: &Certificate, phase: Phase) -> Rotation {
    let terms = Terms {
        window: Duration::ZERO,
        dwell: Duration::ZERO,
        patience: None,
    };
    let (all, now) = (&mut Rotations::default(), SystemTime::UNIX_EPOCH);
    let begun = begin(all, id(from), terms, String::new(), now);
    Rotation {
        phase,
        to: Some(id(to)),
        sequence: Some(Sequence {
            epoch: 1,
            number: 2,
        }),
        ..begun.expect("none is under way")
    }
}

/// What follows in this phase of a rotation from the first root to the second.
fn in_phase(said: &Heard, from: &Certificate, to: &Certificate, phase: Phase) -> Wish {
    wish(said, id(from), false, Some(&rotation(from, to, phase)))
}

fn back() -> Wish {
    Wish::Return("r1".to_owned())
}

#[test]
fn a_root_that_is_coming_above_is_followed_at_once_and_so_is_one_that_has_come() {
    let [a, b, _] = &three();
    let coming = heard(&[a, b], a, Some(b));
    assert_eq!(wish(&coming, id(a), false, None), Wish::Follow(id(b)));
    assert_eq!(wish(&coming, id(a), true, None), Wish::Nothing);
    let come = heard(&[b], b, None);
    assert_eq!(wish(&come, id(a), false, None), Wish::Follow(id(b)));
    assert_eq!(wish(&come, id(b), false, None), Wish::Nothing);
}

#[test]
fn a_rotation_that_goes_on_above_goes_on_here() {
    let [a, b, _] = &three();
    let (on, over) = (heard(&[a, b], a, Some(b)), heard(&[a, b], b, None));
    for phase in [Phase::Prepare, Phase::Distribute] {
        assert_eq!(in_phase(&on, a, b, phase), Wish::Nothing);
        assert_eq!(in_phase(&over, a, b, phase), Wish::Nothing);
    }
    for phase in [Phase::Activate, Phase::Reissue] {
        // An operator here would not wait.
        assert_eq!(in_phase(&on, a, b, phase), Wish::Nothing);
        assert_eq!(in_phase(&over, a, b, phase), Wish::Nothing);
    }
    let gone = heard(&[b], b, None);
    assert_eq!(in_phase(&gone, a, b, Phase::Reissue), Wish::Nothing);
    assert_eq!(in_phase(&gone, a, b, Phase::Retire), Wish::Nothing);
}

#[test]
fn a_rotation_above_that_is_turned_round_turns_the_one_here_round() {
    let [a, b, c] = &three();
    let (withdrawn, returned) = (heard(&[a], a, None), heard(&[a, b], a, None));
    for phase in [
        Phase::Prepare,
        Phase::Distribute,
        Phase::Activate,
        Phase::Reissue,
    ] {
        assert_eq!(in_phase(&withdrawn, a, b, phase), back(), "{phase:?}");
        assert_eq!(in_phase(&returned, a, b, phase), back(), "{phase:?}");
    }
    // And once more, while the one here goes back.
    let again = heard(&[a, b], b, None);
    let turned = Rotation {
        aborting: true,
        ..rotation(b, a, Phase::Reissue)
    };
    assert_eq!(wish(&again, id(a), false, Some(&turned)), back());
    assert_eq!(wish(&returned, id(a), false, Some(&turned)), Wish::Nothing);
    // What is neither any more is not gone back to.
    let other = heard(&[c], c, None);
    assert_eq!(in_phase(&other, a, b, Phase::Reissue), Wish::Nothing);
    assert_eq!(in_phase(&other, a, b, Phase::Distribute), back());
}

#[test]
fn a_root_that_is_taken_back_above_in_retire_is_taken_back_here_unless_somebody_has_forced_that() {
    let [a, b, _] = &three();
    let (both, only) = (heard(&[a, b], b, None), heard(&[b], b, None));
    assert_eq!(in_phase(&both, a, b, Phase::Retire), back());
    assert_eq!(in_phase(&both, a, b, Phase::Restore), Wish::Nothing);
    assert_eq!(in_phase(&both, a, b, Phase::Held), Wish::Nothing);
    let on = Wish::GoOn("r1".to_owned());
    assert_eq!(in_phase(&only, a, b, Phase::Held), on);
    let returned = heard(&[a, b], a, None);
    assert_eq!(in_phase(&returned, a, b, Phase::Held), back());

    let now = SystemTime::UNIX_EPOCH;
    let passed = Passed {
        phase: Phase::Reissue,
        began: now,
        ended: now,
        sequence: None,
        confirmed: 0,
        forced: Some(Forced {
            by: Opener::Operator,
            reason: "a test".to_owned(),
            left_behind: Vec::new(),
            count: 0,
            holders: Vec::new(),
        }),
        aborted: None,
        denied: None,
    };
    let forced = Rotation {
        passed: vec![passed],
        ..rotation(a, b, Phase::Retire)
    };
    assert_eq!(wish(&both, id(b), false, Some(&forced)), Wish::Nothing);
}

#[test]
fn a_root_that_is_distrusted_above_is_distrusted_here_once_there_is_another_to_go_to() {
    let [a, b, _] = &three();
    let of = |root: &Certificate, said: Heard| Heard {
        distrusted: vec![id(root)],
        ..said
    };
    let before = of(a, heard(&[a, b], a, Some(b)));
    assert_eq!(wish(&before, id(a), false, None), Wish::Follow(id(b)));
    let phase = Phase::Distribute;
    assert_eq!(in_phase(&before, a, b, phase), Wish::Nothing);
    let after = of(a, heard(&[a, b], b, None));
    assert_eq!(in_phase(&after, a, b, phase), Wish::Distrust(id(a)));
    let gone = of(a, heard(&[b], b, None));
    assert_eq!(wish(&gone, id(a), false, None), Wish::Follow(id(b)));
    assert_eq!(in_phase(&gone, a, b, phase), Wish::Distrust(id(a)));
    // The one that was coming.
    let came = of(b, heard(&[a, b], a, None));
    assert_eq!(in_phase(&came, a, b, Phase::Reissue), Wish::Distrust(id(b)));
    let distrust = Rotation {
        kind: Kind::Distrust,
        ..rotation(a, b, Phase::Reissue)
    };
    assert_eq!(wish(&gone, id(b), false, Some(&distrust)), Wish::Nothing);
}

#[test]
fn gates_wait_for_the_authority_above_and_stay_shut_while_it_was_never_heard() {
    let [a, b, _] = &three();
    let above = Above::default();
    let reason = |above: &Above, phase| {
        let waits = above.obstacle(&rotation(a, b, phase), "above:8443");
        waits.map(|it| it.reason)
    };
    assert_eq!(reason(&above, Phase::Distribute), Some(WAITS));
    assert_eq!(reason(&above, Phase::Reissue), Some(TRUSTS));
    for (said, distribute, reissue) in [
        (heard(&[a, b], a, Some(b)), Some(WAITS), Some(TRUSTS)),
        (heard(&[a, b], b, None), None, Some(TRUSTS)),
        (heard(&[b], b, None), None, None),
    ] {
        assert!(above.hears(&said));
        assert!(!above.hears(&said), "it is nothing new");
        assert_eq!(reason(&above, Phase::Distribute), distribute);
        assert_eq!(reason(&above, Phase::Reissue), reissue);
        assert_eq!(reason(&above, Phase::Activate), None);
    }
}

#[test]
fn a_bundle_is_confirmed_and_a_root_free_only_when_nobody_here_is_in_the_way() {
    let [a, b, _] = &three();
    let view = |phase, reasons: &[&'static str]| View {
        rotation: rotation(a, b, phase),
        confirmed: 0,
        obstacles: reasons
            .iter()
            .map(|reason| Obstacle {
                reason,
                ..Obstacle::default()
            })
            .collect(),
        denied: Vec::new(),
        trouble: None,
    };
    assert!(is_confirmed(None));
    assert!(is_confirmed(Some(&view(Phase::Distribute, &[WAITS]))));
    let late = view(Phase::Distribute, &[WAITS, "not-acked"]);
    assert!(!is_confirmed(Some(&late)));
    assert!(!is_confirmed(Some(&view(Phase::Retire, &[]))));
    assert!(!is_confirmed(Some(&view(Phase::Restore, &[]))));
    assert!(is_confirmed(Some(&view(Phase::Done, &[]))));

    let root = |state| Root {
        certificate: a.clone(),
        state,
        key: KeyPlace::Erased,
        above: Vec::new(),
        added: SystemTime::UNIX_EPOCH,
        cross: None,
        extra: serde_json::Map::new(),
    };
    let retiring = root(RootState::Retiring);
    assert!(is_held(&root(RootState::Active), None) && is_held(&retiring, None));
    let late = view(Phase::Reissue, &[TRUSTS, "not-renewed"]);
    assert!(is_held(&retiring, Some(&late)));
    assert!(!is_held(&retiring, Some(&view(Phase::Reissue, &[TRUSTS]))));
    assert!(is_held(&retiring, Some(&view(Phase::Held, &[]))));
}
