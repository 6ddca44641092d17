//! Which lifetimes go together, and when something is due.

use proptest::prelude::*;

use super::*;

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn told(options: &Options) -> Vec<(&'static str, &'static str)> {
    options
        .problems()
        .iter()
        .map(|problem| (problem.setting, problem.code))
        .collect()
}

#[test]
fn the_defaults_work() {
    assert_eq!(options().problems(), []);
}

#[test]
fn a_leaf_that_outlives_its_issuer_is_refused_by_name() {
    let ttl = |setting| vec![(setting, "ARX-AUTHORITY-TTL")];
    let of = |change: fn(&mut Options)| {
        let mut options = options();
        change(&mut options);
        options
    };
    for (options, expected) in [
        (
            of(|o| o.longest_leaf = 7 * DAY),
            ttl("authority.intermediate_ttl"),
        ),
        (
            of(|o| o.longest_leaf = 7 * DAY - seconds(2)),
            ttl("authority.intermediate_ttl"),
        ),
        (of(|o| o.longest_leaf = 7 * DAY - seconds(3)), vec![]),
        (
            of(|o| o.serving_ttl = 8 * DAY),
            ttl("authority.serving_ttl"),
        ),
        (of(|o| o.root_ttl = 7 * DAY), ttl("authority.root_ttl")),
        (
            of(|o| o.serving_ttl = Duration::ZERO),
            ttl("authority.serving_ttl"),
        ),
        (
            of(|o| o.root_ttl = Duration::MAX),
            ttl("authority.root_ttl"),
        ),
        (
            of(|o| o.root_renewal = RootRenewal::Auto(Some(DAY))),
            ttl("authority.root_renewal_lead"),
        ),
        (
            of(|o| o.root_renewal = RootRenewal::Auto(Some(3650 * DAY))),
            ttl("authority.root_renewal_lead"),
        ),
        (
            of(|o| (o.intermediate_ttl, o.root_ttl) = (2 * DAY, 3 * DAY)),
            ttl("authority.root_ttl"),
        ),
        (
            of(|o| {
                (o.intermediate_ttl, o.root_ttl) = (2 * DAY, 3 * DAY);
                o.root_renewal = RootRenewal::Manual;
            }),
            vec![],
        ),
        (
            of(|o| {
                o.root_ttl = HOUR;
                o.operator = Some(OperatorFiles {
                    certificate: "c".into(),
                    key: Some("k".into()),
                    previous: None,
                    every: MINUTE,
                });
            }),
            vec![],
        ),
    ] {
        assert_eq!(told(&options), expected, "{options:?}");
    }
    let message = of(|o| o.longest_leaf = 8 * DAY).problems()[0].to_string();
    assert!(
        message
            .starts_with("authority.intermediate_ttl: the longest lifetime that policy gives (8d)"),
        "{message}"
    );
    assert!(message.contains("an intermediate of 7d"), "{message}");
}

#[test]
fn a_root_key_of_another_kind_is_refused() {
    for root_key in [KeyAlgorithm::Ed25519, KeyAlgorithm::Rsa(2048)] {
        let options = Options {
            root_key,
            ..options()
        };
        assert_eq!(
            told(&options),
            [("authority.root_key", "ARX-AUTHORITY-KEY-ALGORITHM")]
        );
    }
}

#[tokio::test]
async fn a_start_with_lifetimes_that_cannot_work_makes_nothing() {
    let store = memory();
    let impossible = Options {
        longest_leaf: 30 * DAY,
        ..options()
    };
    assert_eq!(codes(open(&store, impossible).await), ["ARX-AUTHORITY-TTL"]);
    assert!(
        state(&store)
            .await
            .authorities()
            .await
            .expect("it reads")
            .is_none()
    );
}

#[tokio::test]
async fn a_policy_that_is_loaded_again_is_held_against_the_intermediate() {
    let authority = start(&memory()).await;
    let problems = authority
        .set_longest_leaf(7 * DAY)
        .expect_err("it does not fit");
    assert_eq!(problems[0].code, "ARX-AUTHORITY-TTL");
    assert_eq!(authority.longest_leaf(), DAY);
    authority.set_longest_leaf(3 * DAY).expect("it fits");
    assert_eq!(authority.longest_leaf(), 3 * DAY);
}

fn term(lifetime: Duration) -> Term {
    Term {
        made: now(),
        ends: now() + lifetime,
        issuer_ends: now() + lifetime * 10,
    }
}

#[test]
fn a_week_is_renewed_after_four_days_if_leaves_live_for_one() {
    let term = term(7 * DAY);
    assert_eq!(renewal_at(&term, DAY), Some(now() + 4 * DAY));
    assert!(!renewal_due(&term, now() + 4 * DAY - seconds(1), DAY));
    assert!(renewal_due(&term, now() + 4 * DAY, DAY));
    assert!(
        renewal_due(&term, now() + 40 * DAY, DAY),
        "after a long sleep too"
    );
}

#[test]
fn a_clock_that_went_back_beyond_the_validity_makes_a_renewal_due() {
    let term = term(7 * DAY);
    assert!(
        !renewal_due(&term, now() - HOUR, DAY),
        "it is backdated by that much"
    );
    assert!(renewal_due(&term, now() - HOUR - seconds(1), DAY));
    assert!(serving_due(now(), now() + DAY, now() - seconds(1)));
}

#[test]
fn a_serving_certificate_is_renewed_at_half_of_its_life() {
    let due = |at| serving_due(now(), now() + DAY, now() + at);
    assert!(!due(12 * HOUR - seconds(1)));
    assert!(due(12 * HOUR));
}

proptest! {
    #[test]
    fn a_renewal_comes_while_the_longest_leaf_still_fits(
        leaf in 1_u64..1_000_000,
        spare in 3_u64..1_000_000,
    ) {
        let (leaf, lifetime) = (seconds(leaf), seconds(leaf + spare));
        let term = term(lifetime);
        let at = renewal_at(&term, leaf).expect("a new one lives longer");
        prop_assert!(at + leaf <= term.ends, "a leaf fits when it is due");
        let left = term.ends.duration_since(at + leaf).expect("just shown");
        prop_assert!(left >= seconds(1), "and there is time to renew: {left:?}");
        prop_assert!(at >= term.made + seconds(2), "and it is not due at once");
        prop_assert!(!renewal_due(&term, term.made, leaf));
    }

    #[test]
    fn what_is_due_stays_due(lifetime in 4_u64..1_000_000, a in 0_u64..2_000_000, b in 0_u64..1_000_000) {
        let term = term(seconds(lifetime));
        let early = renewal_due(&term, now() + seconds(a), seconds(1));
        let late = renewal_due(&term, now() + seconds(a + b), seconds(1));
        prop_assert!(!early || late);
    }

    #[test]
    fn what_cannot_be_extended_is_never_due(lifetime in 0_u64..1_000_000, at in 0_u64..2_000_000) {
        let ends = now() + seconds(lifetime);
        let term = Term { made: now(), ends, issuer_ends: ends };
        prop_assert!(!renewal_due(&term, now() + seconds(at), seconds(60)));
    }
}
