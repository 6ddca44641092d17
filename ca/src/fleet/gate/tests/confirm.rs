//! Whose word is needed for a bundle.

use super::*;

#[test]
fn an_agent_and_its_consumers_confirm_exactly_what_is_published() {
    let scene = Scene::new();
    let states = vec![
        scene.acked(roots(1)),
        certificate(1, 5),
        scene.acked(roots(2)),
    ];
    let _agent = scene.agent("n", states);
    let gate = scene.confirmations(&[holder("n")], NOW);
    assert_eq!(gate.unconfirmed, []);
    assert_eq!(gate.confirmed, 3);
}

#[test]
fn what_an_agent_says_confirms_nothing_for_another_node() {
    let scene = Scene::new();
    let _agent = scene.agent("n", vec![scene.acked(roots(1)), certificate(1, 5)]);
    let gate = scene.confirmations(&[holder("n"), holder("other")], NOW);
    let [open] = &gate.unconfirmed[..] else {
        panic!("one is open: {gate:?}")
    };
    assert_eq!(&*open.node.node, "other");
}

#[test]
fn a_node_that_only_the_ledger_knows_of_does_not_confirm() {
    let scene = Scene::new();
    let gate = scene.confirmations(&[holder("n")], NOW);
    let [open] = &gate.unconfirmed[..] else {
        panic!("one is open: {gate:?}")
    };
    assert_eq!((open.reason, open.since), (Reason::AgentAway, None));
    assert_eq!(open.workloads, ["spiffe://example.org/w"]);
    assert_eq!(open.last_certificate_ends, Some(at(END)));
}

#[test]
fn an_agent_that_went_away_does_not_confirm_though_it_had_before() {
    let scene = Scene::new();
    drop(scene.agent("n", vec![scene.acked(roots(1))]));
    let gate = scene.confirmations(&[holder("n")], NOW);
    assert_eq!(gate.confirmed, 0);
    assert_eq!(gate.unconfirmed[0].reason, Reason::AgentAway);
    assert_eq!(gate.unconfirmed[0].since, Some(at(REPORTED)));
}

#[test]
fn an_agent_that_is_away_counts_by_its_last_inventory_until_what_it_held_has_ended() {
    let scene = Scene::new();
    let agent = scene.agent("n", vec![]);
    inventory(&agent, 1, vec![leaf(1, 7)], &[], NOW);
    drop(agent);
    assert_eq!(scene.open(&[]), [Reason::AgentAway]);
    let after = |now| scene.confirmations(&[], now).unconfirmed.len();
    assert_eq!(after(END + SKEW), 1);
    assert_eq!(after(END + SKEW + 1), 0);
}

#[test]
fn a_node_whose_leaves_have_all_ended_needs_no_confirmation() {
    let scene = Scene::new();
    drop(scene.agent("n", vec![roots(1)]));
    assert_eq!(scene.confirmations(&[], NOW), Gate::default());
}

#[test]
fn an_agent_that_has_not_stored_the_bundle_is_behind() {
    let scene = Scene::new();
    let earlier = |number, hash: u8| wire::TrustPosition {
        sequence: Some(wire::Sequence { epoch: 1, number }),
        sha256: vec![hash; 32].into(),
        ..scene.position()
    };
    // The same place with another content, another place, and nothing at all.
    for trust in [vec![earlier(2, 1)], vec![earlier(1, 1)], vec![]] {
        let hello = wire::Hello {
            trust,
            ..scene.hello(1)
        };
        let agent = scene.follow("n", &hello);
        tell(&agent, vec![], true);
        assert_eq!(scene.open(&[holder("n")]), [Reason::AgentBehind]);
        agent.stored(scene.position());
        assert_eq!(scene.open(&[holder("n")]), []);
    }
}

#[test]
fn what_an_agent_stored_is_forgotten_when_it_comes_back_without() {
    let scene = Scene::new();
    drop(scene.agent("n", vec![]));
    let hello = wire::Hello {
        trust: vec![],
        ..scene.hello(2)
    };
    let _agent = scene.follow("n", &hello);
    assert_eq!(scene.open(&[]), [Reason::AgentBehind]);
}

#[test]
fn an_agent_has_to_tell_all_consumers_in_each_follow() {
    let scene = Scene::new();
    let confirmed = || vec![scene.acked(roots(1))];
    drop(scene.agent("n", confirmed()));
    let agent = scene.follow("n", &scene.hello(1));
    assert_eq!(scene.open(&[]), [Reason::NotReported]);
    tell(&agent, vec![], false);
    assert_eq!(scene.open(&[]), [Reason::NotReported]);
    tell(&agent, confirmed(), true);
    assert_eq!(scene.open(&[]), []);
}

#[test]
fn a_consumer_that_says_nothing_is_waited_for_connected_or_not() {
    let scene = Scene::new();
    let away = wire::SubscriberState {
        presence: wire::Presence::Away.into(),
        ..roots(2)
    };
    let agent = scene.agent("n", vec![roots(1), away, certificate(1, 5)]);
    inventory(&agent, 1, vec![leaf(5, 7)], &[], NOW);
    let gate = scene.confirmations(&[], NOW);
    assert_eq!(scene.open(&[]), [Reason::NotAcked, Reason::NotAcked]);
    let one = &gate.unconfirmed[0];
    assert_eq!(one.process.as_deref(), Some("pid 1"));
    assert_eq!(one.resource.as_deref(), Some("ROOTCA"));
    assert_eq!(one.workloads, ["spiffe://example.org/w5"]);
    assert_eq!(one.last_certificate_ends, Some(at(END)));
    assert_eq!(one.since, Some(at(REPORTED)));
    let ended = |state| wire::SubscriberState {
        presence: wire::Presence::Ended.into(),
        ..state
    };
    tell(
        &agent,
        vec![ended(roots(1)), ended(roots(2)), ended(certificate(1, 5))],
        false,
    );
    assert_eq!(scene.open(&[]), []);
}

#[test]
fn an_acknowledgement_of_an_earlier_place_with_the_same_roots_does_not_count() {
    let scene = Scene::new();
    let earlier = wire::TrustPosition {
        sequence: Some(wire::Sequence {
            epoch: 1,
            number: 1,
        }),
        ..scene.position()
    };
    let state = wire::SubscriberState {
        acked_trust: Some(earlier),
        ..consumer(1, "ROOTCA")
    };
    let _agent = scene.agent("n", vec![state]);
    assert_eq!(scene.open(&[]), [Reason::NotAcked]);
}

#[test]
fn each_resource_of_a_process_confirms_by_itself() {
    let scene = Scene::new();
    let other = wire::SubscriberState {
        subscriber: consumer(1, "spiffe://example.org").subscriber,
        ..roots(1)
    };
    let _agent = scene.agent("n", vec![scene.acked(roots(1)), other]);
    let gate = scene.confirmations(&[], NOW);
    let open = gate.unconfirmed.iter().map(|open| open.resource.as_deref());
    assert_eq!(open.collect::<Vec<_>>(), [Some("spiffe://example.org")]);
}

#[test]
fn an_acknowledgement_after_a_refusal_of_the_same_content_does_not_count() {
    let scene = Scene::new();
    let agent = scene.agent("n", vec![scene.nacked(roots(1))]);
    let gate = scene.confirmations(&[], NOW);
    assert_eq!(gate.unconfirmed[0].reason, Reason::Refused);
    assert_eq!(gate.unconfirmed[0].detail, "no \\u{1b}[31mgood");
    tell(&agent, vec![scene.acked(roots(1))], false);
    assert_eq!(scene.open(&[]), [Reason::Refused]);
    // Also when another agent tells it, which has no memory of that.
    drop(agent);
    let agent = scene.follow("n", &scene.hello(2));
    tell(&agent, vec![scene.acked(roots(1))], true);
    assert_eq!(scene.open(&[]), [Reason::Refused]);
    // Another process has refused nothing.
    tell(&agent, vec![scene.acked(roots(2))], false);
    assert_eq!(scene.open(&[]), [Reason::Refused]);
}

#[test]
fn a_process_that_ended_takes_its_refusal_with_it() {
    let scene = Scene::new();
    let agent = scene.agent("n", vec![scene.nacked(roots(1))]);
    let ended = wire::SubscriberState {
        presence: wire::Presence::Ended.into(),
        ..roots(1)
    };
    tell(&agent, vec![ended, scene.acked(roots(2))], false);
    assert_eq!(scene.open(&[]), []);
}

#[test]
fn a_process_with_a_certificate_and_without_our_roots_blocks_while_it_is_valid() {
    let scene = Scene::new();
    let agent = scene.agent("n", vec![certificate(1, 5)]);
    let gate = scene.confirmations(&[], NOW);
    assert_eq!(gate.unconfirmed[0].reason, Reason::NoBundle);
    assert_eq!(gate.unconfirmed[0].process.as_deref(), Some("pid 1"));
    assert_eq!(gate.unconfirmed[0].resource, None);
    inventory(&agent, 1, vec![leaf(5, 7)], &[], NOW);
    assert_eq!(scene.open(&[]), [Reason::NoBundle]);
    let after = scene.confirmations(&[], END + SKEW + 1);
    assert_eq!(after.unconfirmed, []);
    tell(&agent, vec![scene.acked(roots(1))], false);
    assert_eq!(scene.open(&[]), []);
}

#[test]
fn keys_for_tokens_are_another_matter() {
    let scene = Scene::new();
    let state = wire::SubscriberState {
        acked_trust: Some(wire::TrustPosition {
            kind: wire::TrustKind::JwtKeys.into(),
            ..scene.position()
        }),
        ..consumer(1, "JWT")
    };
    let _agent = scene.agent("n", vec![state]);
    assert_eq!(scene.open(&[]), []);
}

#[test]
fn who_cannot_answer_is_waited_for_until_its_last_certificate_ends() {
    let scene = Scene::new();
    let pod = |resource: &str| {
        Some(wire::Subscriber {
            holder: Some(PodUid("uid-1".to_owned())),
            resource_name: resource.to_owned(),
            streams: 0,
            grade: wire::Grade::Waited.into(),
        })
    };
    let states = vec![
        wire::SubscriberState {
            subscriber: pod("ROOTCA"),
            ..roots(1)
        },
        wire::SubscriberState {
            subscriber: pod("default"),
            ..certificate(1, 5)
        },
    ];
    let agent = scene.agent("n", states);
    inventory(&agent, 1, vec![leaf(5, 7)], &[], NOW);
    let gate = scene.confirmations(&[], END + SKEW);
    assert_eq!(gate.unconfirmed[0].reason, Reason::Waited);
    assert_eq!(gate.unconfirmed[0].process.as_deref(), Some("uid-1"));
    assert_eq!(gate.unconfirmed[0].last_certificate_ends, Some(at(END)));
    let gate = scene.confirmations(&[], END + SKEW + 1);
    assert_eq!((gate.unconfirmed, gate.confirmed), (vec![], 2));
}

#[test]
fn consumers_that_a_lost_cache_knew_of_count_until_their_certificates_end() {
    let scene = Scene::new();
    let agent = scene.agent("n", vec![roots(1), certificate(1, 5)]);
    inventory(&agent, 1, vec![leaf(5, 7)], &[], NOW);
    drop(agent);
    let agent = scene.follow("n", &scene.hello(2));
    tell(&agent, vec![], true);
    assert_eq!(scene.open(&[]), [Reason::NotAcked]);
    let after = scene.confirmations(&[], END + SKEW + 1);
    assert_eq!(after.unconfirmed, []);
    // It comes back, and the agent tells of it again.
    tell(&agent, vec![scene.acked(roots(1))], false);
    assert_eq!(scene.open(&[]), []);
}

#[test]
fn nobody_from_before_is_there_when_the_node_was_started_anew() {
    let scene = Scene::new();
    let agent = scene.agent("n", vec![roots(1), certificate(1, 5)]);
    inventory(&agent, 1, vec![leaf(5, 7)], &[], NOW);
    drop(agent);
    let hello = wire::Hello {
        boot_id: "another".to_owned(),
        ..scene.hello(2)
    };
    let agent = scene.follow("n", &hello);
    tell(&agent, vec![], true);
    assert_eq!(scene.open(&[]), []);
}

#[test]
fn the_authoritys_own_certificates_confirm_nothing_here() {
    let scene = Scene::new();
    let own = Holder {
        cluster: "".into(),
        ..holder("replica-1")
    };
    assert_eq!(scene.open(&[own]), []);
}

#[test]
fn since_is_when_a_consumer_was_first_told_of_whatever_is_told_later() {
    let scene = Scene::new();
    let agent = scene.agent("n", vec![roots(1)]);
    let report = wire::SubscriberReport {
        ordinal: 2,
        states: vec![roots(1), roots(2)],
        complete: true,
    };
    agent
        .subscribers(report, at(NOW))
        .expect("the report is taken");
    let gate = scene.confirmations(&[], NOW);
    let since = gate.unconfirmed.iter().map(|open| open.since);
    assert_eq!(
        since.collect::<Vec<_>>(),
        [Some(at(REPORTED)), Some(at(NOW))]
    );
}
