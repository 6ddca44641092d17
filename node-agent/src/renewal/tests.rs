use super::*;
use crate::testing::{Authority, noon};
use proptest::prelude::*;
use std::time::UNIX_EPOCH;

const HOUR: Duration = Duration::from_secs(3600);

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn facts(lifetime: u64, seed: u64) -> Facts {
    Facts {
        not_before: at(1_000_000),
        not_after: at(1_000_000 + lifetime),
        failures: 0,
        retry_after: Duration::ZERO,
        hint: None,
        seed,
    }
}

#[test]
fn renewals_of_many_certificates_fill_the_window_evenly() {
    let mut buckets = [0u32; 10];
    for seed in 0..10_000 {
        let wait = wait(&facts(1000, seed), at(1_000_000)).as_secs_f64();
        assert!((400.0..=600.0).contains(&wait), "{wait}");
        buckets[((wait - 400.0) / 20.0).min(9.0) as usize] += 1;
    }
    assert!(
        buckets.iter().all(|n| (800..1200).contains(n)),
        "{buckets:?}"
    );
}

#[test]
fn a_clock_an_hour_ahead_spreads_those_that_became_due() {
    let waits: Vec<_> = (0..1000)
        .map(|seed| wait(&facts(2 * 3600, seed), at(1_000_000) + HOUR + HOUR / 2))
        .collect();
    let first_second = waits
        .iter()
        .filter(|w| **w < Duration::from_secs(1))
        .count();
    assert!(first_second < 50, "{first_second} of 1000 at once");
    assert!(waits.iter().all(|w| *w <= Duration::from_secs(120)));
}

#[test]
fn an_expired_certificate_is_tried_within_seconds_and_for_ever() {
    for failures in [0, 1, 5, 1_000_000, u32::MAX] {
        let facts = Facts {
            failures,
            ..facts(3600, 7)
        };
        let wait = wait(&facts, at(1_000_000) + 1000 * HOUR);
        assert!(wait <= Duration::from_secs(15), "{failures}: {wait:?}");
    }
}

#[test]
fn a_hint_moves_the_renewal_into_its_window() {
    let now = at(1_000_100);
    for seed in 0..1000 {
        let facts = Facts {
            hint: Some(Hint {
                received: now,
                renew_by: now + Duration::from_secs(60),
            }),
            ..facts(86_400, seed)
        };
        assert!(wait(&facts, now) <= Duration::from_secs(60));
    }
}

#[test]
fn a_hint_without_a_window_means_now() {
    let now = at(1_000_100);
    let facts = Facts {
        hint: Some(Hint {
            received: now,
            renew_by: now,
        }),
        ..facts(86_400, 7)
    };
    assert_eq!(wait(&facts, now), Duration::ZERO);
}

#[test]
fn a_wish_names_its_certificates_by_serial_and_by_any_issuer_above() {
    let authority = Authority::new();
    let svid = authority.svid("/a", noon(), HOUR);
    let elsewhere = Authority::new();
    let other = elsewhere.svid("/a", noon(), HOUR);
    let serial = |svid: &Svid| svid.serial().as_bytes().to_vec().into();
    let root = authority.root.subject_key_id().expect("a root has one");
    let foreign = elsewhere.root.subject_key_id().expect("a root has one");
    let wish = |issuer: &[u8], serials| RenewalHint {
        issuer_key_id: issuer.to_vec().into(),
        serials,
        ..RenewalHint::default()
    };
    let below = svid.chain().leaf().authority_key_id().expect("an issuer");
    assert!(is_meant(&wish(below.as_bytes(), vec![]), &svid, root));
    assert!(is_meant(&wish(&[], vec![]), &svid, root));
    assert!(is_meant(&wish(root.as_bytes(), vec![]), &svid, root));
    assert!(!is_meant(&wish(root.as_bytes(), vec![]), &other, foreign));
    assert!(is_meant(
        &wish(&[], vec![serial(&other), serial(&svid)]),
        &svid,
        root
    ));
    assert!(!is_meant(&wish(&[], vec![serial(&other)]), &svid, root));
    assert!(!is_meant(&wish(b"no key id", vec![]), &svid, root));
}

#[test]
fn a_wish_for_what_stands_under_the_old_root_is_none_for_what_is_cross_certified_by_it() {
    let old = Authority::new();
    let new = old.followed();
    let svid = new.svid("/a", noon(), HOUR);
    let [old, root] = [&old, &new].map(|it| it.root.subject_key_id().expect("a root has one"));
    let wish = |issuer: KeyId| RenewalHint {
        issuer_key_id: issuer.as_bytes().to_vec().into(),
        ..RenewalHint::default()
    };
    assert!(!is_meant(&wish(old), &svid, root));
    assert!(is_meant(&wish(root), &svid, root));
}

#[test]
fn a_hint_never_delays() {
    let now = at(1_000_000);
    let plain = facts(1000, 3);
    let hinted = Facts {
        hint: Some(Hint {
            received: now,
            renew_by: now + 1000 * HOUR,
        }),
        ..plain.clone()
    };
    assert!(wait(&hinted, now) <= wait(&plain, now));
}

#[test]
fn what_the_authority_asks_for_is_honoured_and_spread() {
    let ask = Duration::from_secs(30);
    let waits: Vec<_> = (0..100)
        .map(|seed| {
            let facts = Facts {
                failures: 1,
                retry_after: ask,
                ..facts(3600, seed)
            };
            wait(&facts, at(1_001_000))
        })
        .collect();
    assert!(waits.iter().all(|w| *w >= ask && *w <= ask * 3 / 2));
    assert!(waits.iter().max() > waits.iter().min());
}

proptest! {
    #[test]
    fn whatever_the_times_are_the_wait_is_finite_and_sane(
        not_before in 0u64..1 << 40, lifetime in 0u64..1 << 32, now in 0u64..1 << 40,
        failures: u32, seed: u64, received in 0u64..1 << 40, renew_by in 0u64..1 << 40,
        hinted: bool,
    ) {
        let facts = Facts {
            not_before: at(not_before), not_after: at(not_before + lifetime), failures,
            retry_after: Duration::ZERO, seed,
            hint: hinted.then(|| Hint { received: at(received), renew_by: at(renew_by) }),
        };
        let wait = wait(&facts, at(now));
        let lifetime = Duration::from_secs(lifetime);
        let bound = if failures == 0 {
            lifetime.mul_f64(0.6).max(EXPIRED_SPREAD)
        } else {
            LONGEST_BACKOFF
        };
        prop_assert!(wait <= bound + Duration::from_millis(1), "{wait:?}");
    }

    #[test]
    fn a_failing_renewal_is_always_tried_again_before_the_end(
        lifetime in 2u64..1 << 24, elapsed in 0.0f64..1.0, failures in 1u32.., seed: u64,
    ) {
        let facts = Facts { failures, ..facts(lifetime, seed) };
        let lifetime = Duration::from_secs(lifetime);
        let now = facts.not_before + lifetime.mul_f64(elapsed);
        let remaining = since(facts.not_after, now);
        prop_assume!(remaining > 2 * SHORTEST_RETRY);
        prop_assert!(wait(&facts, now) < remaining);
    }

    #[test]
    fn the_first_attempt_comes_before_the_end(
        lifetime in 1u64..1 << 24, elapsed in 0.0f64..1.0, seed: u64,
    ) {
        let facts = facts(lifetime, seed);
        let lifetime = Duration::from_secs(lifetime);
        let now = facts.not_before + lifetime.mul_f64(elapsed);
        let remaining = since(facts.not_after, now);
        prop_assume!(!remaining.is_zero());
        prop_assert!(wait(&facts, now) < remaining);
    }

    #[test]
    fn the_function_is_deterministic(lifetime in 1u64..1 << 24, failures: u32, seed: u64) {
        let facts = Facts { failures, ..facts(lifetime, seed) };
        prop_assert_eq!(wait(&facts, at(1_000_001)), wait(&facts, at(1_000_001)));
    }
}

#[test]
fn what_its_issuer_has_cut_short_is_not_halved_without_end() {
    let end = UNIX_EPOCH + Duration::from_secs(1_000_000);
    let mut now = end - Duration::from_secs(20);
    let mut renewals = 0;
    while now < end {
        // Each certificate begins when it is issued, and ends with its issuer.
        let facts = Facts {
            not_before: now,
            not_after: end,
            failures: 0,
            retry_after: Duration::ZERO,
            hint: None,
            seed: renewals,
        };
        now += wait(&facts, now).max(Duration::from_millis(1));
        renewals += 1;
    }
    assert!(renewals <= 5, "{renewals} renewals");
}
