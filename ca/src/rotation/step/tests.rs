//! What a step writes down, row by row.

use arx_identity::Sequence;

use super::*;
use crate::rotation::Obstacle;

const HOUR: Duration = Duration::from_secs(3600);

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

fn rotation(phase: Phase, window: Duration) -> Rotation {
    let terms = Terms {
        window,
        dwell: Duration::ZERO,
        patience: None,
    };
    let why = String::new();
    let begun = begin(&mut Rotations::default(), key(1), terms, why, at(0));
    Rotation {
        phase,
        to: Some(key(2)),
        sequence: Some(ONE),
        ..begun.expect("none is under way")
    }
}

/// Both roots are there, the second signs, and somebody is in the way.
fn facts() -> Facts {
    Facts {
        active: key(2),
        prepared: None,
        roots: vec![key(1), key(2)],
        signs_under: key(2),
        serves_under: key(2),
        bundle: vec![key(1), key(2)],
        sequence: ONE,
        from_ends: None,
        longest_leaf: HOUR,
        reissue_takes: Duration::ZERO,
        counting_for: Some(HOUR),
        confirmed: 0,
        denied: Vec::new(),
        by_word: false,
        clear_for: Duration::MAX,
        obstacles: vec![Obstacle {
            node: "c1/n1".to_owned(),
            reason: "agent-away",
            ..Obstacle::default()
        }],
    }
}

/// The window that Reissue begins with, and until when everybody is told to renew.
fn reissue(window: u64, takes: u64) -> (u64, u64) {
    let clear = Facts {
        obstacles: Vec::new(),
        reissue_takes: Duration::from_secs(takes),
        ..facts()
    };
    let before = rotation(Phase::Activate, Duration::from_secs(window));
    let begun = step(&before, &Event::Looked, &clear, at(100)).expect("a look");
    let begun = begun.next.expect("the gate is open");
    assert_eq!(begun.phase, Phase::Reissue);
    let told = step(&begun, &Event::Looked, &facts(), at(100)).expect("a look");
    let [Effect::Renew(root, by)] = told.effects[..] else {
        panic!("{:?}", told.effects);
    };
    assert_eq!(root, key(1));
    let by = by.duration_since(at(100)).expect("it is later");
    (begun.terms.window.as_secs(), by.as_secs())
}

#[test]
fn nobody_is_told_to_renew_sooner_than_the_authority_can_issue_whatever_was_asked_for() {
    assert_eq!(reissue(0, 0), (0, 0), "few, at once");
    assert_eq!(reissue(0, 500), (500, 500), "many, as fast as can be");
    assert_eq!(reissue(60, 500), (500, 500));
    assert_eq!(reissue(600, 500), (600, 600), "slowly enough");
    // By then everybody has renewed anyway.
    assert_eq!(reissue(0, 9000), (3600, 3600));
}

#[test]
fn a_distrust_too_has_everything_issued_anew_no_faster_than_that_can_be_done() {
    let begun = begin_distrust(
        &mut Rotations::default(),
        key(1),
        Terms {
            window: Duration::ZERO,
            dwell: Duration::ZERO,
            patience: Some(Duration::from_secs(5)),
        },
        String::new(),
        at(0),
    );
    let before = Rotation {
        phase: Phase::Activate,
        to: Some(key(2)),
        sequence: Some(ONE),
        phase_began: at(0),
        ..begun.expect("none is under way")
    };
    let many = Facts {
        reissue_takes: Duration::from_secs(500),
        obstacles: Vec::new(),
        ..facts()
    };
    let next = step(&before, &Event::Looked, &many, at(1)).expect("a look");
    let next = next.next.expect("the gate is open");
    assert_eq!(
        (next.phase, next.terms.window),
        (Phase::Reissue, Duration::from_secs(500))
    );
    // And whoever is in the way has that long, besides the patience.
    for (second, goes_on) in [(505, false), (506, true)] {
        let looked = step(&next, &Event::Looked, &facts(), at(second)).expect("a look");
        let phase = looked.next.map(|next| next.phase);
        assert_eq!(phase == Some(Phase::Retire), goes_on, "{second}: {phase:?}");
    }
}

#[test]
fn a_gate_opens_when_whoever_opens_it_has_seen_it_clear_for_as_long_as_the_clocks_say() {
    let dwell = Duration::from_secs(15);
    let mut waits = rotation(Phase::Distribute, Duration::ZERO);
    waits.terms.dwell = dwell;
    // By the clock of another replica.
    waits.clear_since = Some(at(100));
    let opens = |second: u64, seen: u64| {
        let clear = Facts {
            obstacles: Vec::new(),
            clear_for: Duration::from_secs(seen),
            ..facts()
        };
        let looked = step(&waits, &Event::Looked, &clear, at(second)).expect("a look");
        looked.next.is_some()
    };
    assert!(opens(115, 15));
    assert!(!opens(114, 15));
    assert!(!opens(120, 14), "its own clock may be ahead");
}

#[test]
fn a_gate_that_is_forced_into_reissue_keeps_to_what_can_be_issued_too() {
    let many = Facts {
        reissue_takes: Duration::from_secs(500),
        ..facts()
    };
    let before = rotation(Phase::Activate, Duration::ZERO);
    let force = Event::Force("now".to_owned());
    let next = step(&before, &force, &many, at(1)).expect("it can be");
    let next = next.next.expect("it goes on");
    assert_eq!(next.terms.window, Duration::from_secs(500));
}

#[test]
fn whoever_is_denied_and_has_not_followed_is_on_record_with_the_gate_that_was_passed() {
    let denied = Facts {
        obstacles: Vec::new(),
        denied: facts().obstacles,
        ..facts()
    };
    for phase in [Phase::Distribute, Phase::Activate, Phase::Reissue] {
        let before = rotation(phase, Duration::ZERO);
        let next = step(&before, &Event::Looked, &denied, at(100)).expect("a look");
        let next = next.next.expect("nobody is waited for");
        let passed = next.passed.last().expect("it was left");
        let left_out = passed.denied.as_ref().expect("on record");
        assert_eq!((left_out.count, &*left_out.holders[0].node), (1, "c1/n1"));
        // As the ledger has it.
        let record = serde_json::to_value(passed).expect("JSON");
        assert_eq!(record["denied"]["holders"][0]["node"], "c1/n1");
    }
}

/// By whom the gate was passed and why, if it was.
fn opened(rotation: &Rotation, event: &Event, facts: &Facts) -> Option<(Opener, String)> {
    let next = step(rotation, event, facts, at(1000))
        .expect("it can be")
        .next?;
    let forced = next.passed.last()?.forced.clone()?;
    Some((forced.by, forced.reason))
}

#[test]
fn it_is_on_record_who_or_what_has_passed_a_shut_gate() {
    for phase in [Phase::Distribute, Phase::Activate, Phase::Reissue] {
        let planned = rotation(phase, Duration::ZERO);
        let looked = |rotation: &Rotation, facts: &Facts| opened(rotation, &Event::Looked, facts);
        assert_eq!(looked(&planned, &facts()), None, "it waits");

        let force = Event::Force("it is scrap".to_owned());
        let by = opened(&planned, &force, &facts()).expect("passed");
        assert_eq!(by, (Opener::Operator, "it is scrap".to_owned()));

        let mut patient = planned.clone();
        patient.terms.patience = Some(Duration::from_secs(900));
        let by = looked(&patient, &facts()).expect("passed");
        let reason = "the rotation was begun with --wait-unconfirmed 15m";
        assert_eq!(by, (Opener::WaitUnconfirmed, reason.to_owned()));

        let ending = Facts {
            from_ends: Some(at(2000)),
            ..facts()
        };
        let (by, reason) = looked(&planned, &ending).expect("passed");
        assert_eq!(by, Opener::RootEnd);
        assert!(
            reason.starts_with("the root that leaves ends at 20"),
            "{reason}"
        );

        let mut distrust = patient.clone();
        distrust.kind = Kind::Distrust;
        let by = looked(&distrust, &facts()).expect("passed");
        assert_eq!(by, (Opener::Distrust, DISTRUST.to_owned()));
    }
}

#[test]
fn the_last_gate_too_says_who_has_passed_it() {
    let alone = Facts {
        bundle: vec![key(2)],
        ..facts()
    };
    let mut retire = rotation(Phase::Retire, Duration::ZERO);
    let force = Event::Force("it is scrap".to_owned());
    let by = opened(&retire, &force, &alone).expect("passed");
    assert_eq!(by.0, Opener::Operator);
    retire.terms.patience = Some(Duration::ZERO);
    let by = opened(&retire, &Event::Looked, &alone).expect("passed");
    assert_eq!(by.0, Opener::WaitUnconfirmed);
}

#[test]
fn a_record_of_before_that_does_not_say_it_was_by_an_operator_and_one_of_later_is_read() {
    let read = |text: &str| serde_json::from_str::<Forced>(text).map(|it| it.by);
    let before = r#"{"reason":"x","left_behind":[],"count":1}"#;
    assert_eq!(read(before).ok(), Some(Opener::Operator));
    let later = r#"{"by":"a-vote","reason":"x","left_behind":[],"count":1}"#;
    assert_eq!(read(later).ok(), Some(Opener::Unknown));
    let told = serde_json::to_string(&Opener::WaitUnconfirmed);
    assert_eq!(told.ok().as_deref(), Some(r#""wait-unconfirmed""#));
}

#[test]
fn a_gate_is_never_forced_without_a_reason_in_any_phase() {
    for phase in [
        Phase::Prepare,
        Phase::Distribute,
        Phase::Activate,
        Phase::Reissue,
        Phase::Retire,
        Phase::Withdraw,
        Phase::Restore,
        Phase::Held,
    ] {
        for nothing in ["", " ", "\t\n"] {
            let force = Event::Force(nothing.to_owned());
            let planned = rotation(phase, Duration::ZERO);
            let refused = step(&planned, &force, &facts(), at(1)).expect_err("refused");
            assert_eq!(refused, RotationError::NoReason, "{phase:?}");
        }
    }
}

#[test]
fn nothing_is_changed_of_a_rotation_that_has_ended_whoever_wishes_what() {
    for phase in [Phase::Done, Phase::Aborted] {
        let over = rotation(phase, Duration::ZERO);
        for wish in [
            Event::Abort(String::new()),
            Event::Continue,
            Event::Force("now".to_owned()),
            Event::Distrust(key(2), over.terms, String::new()),
            Event::Alone,
        ] {
            let refused = step(&over, &wish, &facts(), at(1)).expect_err("refused");
            assert_eq!(refused.code(), "ARX-ROTATION-NONE");
            assert!(refused.to_string().contains("rotation r1 has ended"));
        }
        let looked = step(&over, &Event::Looked, &facts(), at(1));
        assert_eq!(looked, Ok(Step::default()));
    }
}

#[test]
fn a_second_rotation_or_distrust_does_not_begin_beside_one_that_is_under_way() {
    let mut all = Rotations::default();
    let terms = rotation(Phase::Prepare, Duration::ZERO).terms;
    begin(&mut all, key(1), terms, String::new(), at(0)).expect("the first");
    let before = all.clone();
    for begin in [begin, begin_distrust, begin_cut_off] {
        let refused = begin(&mut all, key(1), terms, String::new(), at(1)).expect_err("refused");
        assert_eq!(refused, RotationError::UnderWay("r1".to_owned()));
        assert!(refused.to_string().contains("`arx rotate abort`"));
    }
    assert_eq!(all, before);
}
