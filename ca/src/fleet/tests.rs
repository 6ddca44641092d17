use std::time::{Duration, UNIX_EPOCH};

use arx_identity::{KeyId, Sequence};

use super::*;

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn serial(number: u8) -> Serial {
    Serial::from_bytes(&[number]).expect("a serial")
}

fn node(number: u8) -> Node {
    Node {
        name: NodeName {
            cluster: "c".into(),
            node: "n".into(),
        },
        id: "spiffe://example.org/arx/node/c/n".into(),
        serial: serial(number),
        not_after: at(1000),
        issuers: [].into(),
    }
}

fn hello(cache: u8) -> wire::Hello {
    wire::Hello {
        min_version: 1,
        max_version: 1,
        instance_id: vec![1; 16].into(),
        cache_id: vec![cache; 16].into(),
        clock_unix_ms: 103_000,
        ..wire::Hello::default()
    }
}

fn join(token: u8, issued: u64, key: u8) -> Join {
    Join {
        token_id: [token; 32],
        issued_at: at(issued),
        key_id: KeyId::from_slice(&[key; 20]).expect("a key id"),
    }
}

fn inventory(ordinal: u64, serials: &[u8]) -> wire::Inventory {
    let leaf = |number: &u8| wire::HeldLeaf {
        serial: vec![*number].into(),
        current: true,
        ..Default::default()
    };
    wire::Inventory {
        cache_id: vec![1; 16].into(),
        ordinal,
        leaves: serials.iter().map(leaf).collect(),
        complete: true,
    }
}

use std::future::Future as _;

fn ends_with(session: &mut Session) -> Option<Down> {
    use std::task::{Context, Poll, Waker};
    let mut next = std::pin::pin!(session.next());
    match next.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(down) => down,
        Poll::Pending => None,
    }
}

/// A join at `fleet`; the node with its certificate.
fn joined(fleet: &Fleet, join: Join, now: u64) -> (Node, Option<Superseded>) {
    let name = node(1).name;
    let serial = fleet.line_for(&name, &join, at(now)).serial();
    let superseded = fleet.joined(&name, join, serial.clone(), at(now + 900));
    (Node { serial, ..node(1) }, superseded)
}

/// `node` with its certificate renewed at `fleet`.
fn renewed(fleet: &Fleet, node: &Node) -> Node {
    let serial = Line::of(&node.serial).expect("it tells its line").serial();
    fleet.renewed(node, serial.clone(), at(2000));
    Node {
        serial,
        ..node.clone()
    }
}

fn is_cut_off(fleet: &Fleet, node: &Node) -> bool {
    match fleet.admit(node) {
        Ok(_) => false,
        Err(refusal) => {
            assert_eq!(refusal.code, "ARX-NODE-SUPERSEDED");
            true
        }
    }
}

#[test]
fn a_newer_token_cuts_off_the_earlier_line_and_says_so() {
    let fleet = Fleet::default();
    let (earlier, superseded) = joined(&fleet, join(1, 10, 1), 100);
    assert_eq!(superseded, None);
    let mut follow = fleet
        .follow(&earlier, &hello(1), at(100))
        .expect("admitted");
    fleet
        .may_join(&earlier.name, &join(2, 20, 2))
        .expect("a newer token may join");
    let (later, superseded) = joined(&fleet, join(2, 20, 2), 100);
    assert_eq!(superseded, Some(Superseded));
    assert!(matches!(ends_with(&mut follow), Some(Down::Superseded)));
    assert!(is_cut_off(&fleet, &earlier));
    assert!(!is_cut_off(&fleet, &later));
    assert_eq!(fleet.size(), (0, 1));
}

#[test]
fn a_later_line_that_began_at_another_replica_cuts_off_the_earlier_one_here_and_says_so() {
    let (here, there) = (Fleet::default(), Fleet::default());
    let (earlier, _) = joined(&here, join(1, 10, 1), 100);
    let mut follow = here.follow(&earlier, &hello(1), at(100)).expect("admitted");
    let (later, _) = joined(&there, join(1, 10, 2), 101);
    let later = renewed(&there, &later);
    assert_eq!(here.admit(&later).expect("later"), Some(Superseded));
    assert!(matches!(ends_with(&mut follow), Some(Down::Superseded)));
    assert!(is_cut_off(&here, &earlier));
    assert_eq!(here.admit(&later).expect("known by now"), None);
    assert_eq!(here.size(), (0, 1));
    // The token that began it is not known here.
    here.may_join(&later.name, &join(1, 10, 3))
        .expect("nobody has joined with it here");
}

#[test]
fn a_line_is_later_than_those_before_it_whatever_the_clock_says_and_the_same_for_the_same_join() {
    let fleet = Fleet::default();
    let (first, _) = joined(&fleet, join(1, 10, 1), 100);
    let (again, superseded) = joined(&fleet, join(1, 10, 1), 101);
    assert_eq!(Line::of(&again.serial), Line::of(&first.serial));
    assert_ne!(again.serial, first.serial);
    assert_eq!(superseded, None);
    assert!(!is_cut_off(&fleet, &first) && !is_cut_off(&fleet, &again));
    // The clock was set back.
    let (second, _) = joined(&fleet, join(2, 20, 2), 50);
    assert!(Line::of(&second.serial) > Line::of(&first.serial));
    assert!(is_cut_off(&fleet, &first) && !is_cut_off(&fleet, &second));
}

#[test]
fn a_join_that_a_later_one_has_overtaken_does_not_count() {
    let fleet = Fleet::default();
    let name = node(1).name;
    let slow = fleet.line_for(&name, &join(1, 10, 1), at(100));
    let (quick, _) = joined(&fleet, join(2, 20, 2), 101);
    let _follow = fleet.follow(&quick, &hello(1), at(101)).expect("admitted");
    let overtaken = fleet.joined(&name, join(1, 10, 1), slow.serial(), at(1000));
    assert_eq!(overtaken, None);
    assert!(!is_cut_off(&fleet, &quick));
    assert_eq!(fleet.size(), (1, 1));
}

#[test]
fn a_token_joins_with_one_key_only_while_its_agent_is_connected() {
    let fleet = Fleet::default();
    let name = node(1).name;
    fleet.joined(&name, join(1, 10, 1), serial(1), at(1000));
    let follow = fleet
        .follow(&node(1), &hello(1), at(100))
        .expect("admitted");
    let refused = fleet
        .may_join(&name, &join(1, 10, 2))
        .expect_err("another key");
    assert_eq!(refused.code, "ARX-JOIN-TOKEN-REPLAYED");
    let refused = fleet
        .may_join(&name, &join(3, 5, 2))
        .expect_err("an older token");
    assert_eq!(refused.code, "ARX-JOIN-TOKEN-OLDER");
    fleet
        .may_join(&name, &join(1, 10, 1))
        .expect("the same join again");
    drop(follow);
    fleet
        .may_join(&name, &join(1, 10, 2))
        .expect("an agent that lost its cache");
}

#[test]
fn of_an_agent_that_is_away_it_is_known_when_it_was_last_heard_of() {
    let fleet = Fleet::default();
    let follow = fleet.follow(&node(1), &hello(1), at(100));
    let follow = follow.expect("admitted");
    follow
        .inventory(inventory(1, &[1]), Vec::new, at(150))
        .expect("in order");
    let times = || {
        let (agents, _) = fleet.page(None, 1, |agent| {
            (agent.is_connected(), agent.since(), agent.heard())
        });
        agents[0]
    };
    assert_eq!(times(), (true, Some(at(100)), Some(at(150))));
    drop(follow);
    assert_eq!(times(), (false, Some(at(100)), Some(at(150))));
}

#[test]
fn renewals_go_on_with_the_line_at_any_replica_and_after_a_restart() {
    let (here, there, restarted) = (Fleet::default(), Fleet::default(), Fleet::default());
    let (first, _) = joined(&here, join(1, 10, 1), 100);
    let (cut_off, _) = joined(&there, join(9, 1, 9), 99);
    let second = renewed(&there, &first);
    let third = renewed(&restarted, &second);
    for fleet in [&here, &there, &restarted] {
        for good in [&third, &first, &second] {
            assert!(!is_cut_off(fleet, good));
        }
        assert!(is_cut_off(fleet, &cut_off));
    }
}

#[test]
fn what_the_ledger_tells_after_a_restart_restores_the_line_of_the_last_join() {
    let before = Fleet::default();
    let (cut_off, _) = joined(&before, join(1, 10, 1), 100);
    let (last, _) = joined(&before, join(2, 20, 2), 101);
    let renewal = renewed(&before, &last);
    let fleet = Fleet::default();
    let certificates = [&cut_off, &last, &renewal].map(|node| (node.serial.clone(), at(2000)));
    fleet.restore(&last.name, certificates);
    assert!(is_cut_off(&fleet, &cut_off));
    assert!(!is_cut_off(&fleet, &last) && !is_cut_off(&fleet, &renewal));
}

#[test]
fn the_second_follow_of_a_node_ends_the_first() {
    let fleet = Fleet::default();
    let mut first = fleet
        .follow(&node(1), &hello(1), at(100))
        .expect("admitted");
    let second = fleet
        .follow(&node(1), &hello(1), at(101))
        .expect("admitted");
    assert!(matches!(ends_with(&mut first), Some(Down::Replaced)));
    drop(first);
    assert_eq!(fleet.size(), (1, 1));
    drop(second);
    assert_eq!(fleet.size(), (0, 1));
}

#[test]
fn a_leaf_is_released_when_two_later_inventories_of_one_cache_lack_it() {
    let fleet = Fleet::default();
    let follow = fleet
        .follow(&node(1), &hello(1), at(100))
        .expect("admitted");
    let live = || vec![(serial(7), at(50)), (serial(8), at(50))];
    let released = |inventory, now| follow.inventory(inventory, live, at(now)).expect("taken").0;
    assert!(released(inventory(1, &[7]), 110).is_empty());
    assert_eq!(released(inventory(2, &[7]), 120), [serial(8)]);
    assert!(released(inventory(3, &[7, 8]), 130).is_empty());
}

#[test]
fn a_leaf_that_was_issued_after_the_first_inventory_is_not_released_by_the_second() {
    let fleet = Fleet::default();
    let follow = fleet
        .follow(&node(1), &hello(1), at(100))
        .expect("admitted");
    let released = |inventory, live: Vec<_>, now| {
        follow
            .inventory(inventory, || live, at(now))
            .expect("taken")
            .0
    };
    assert!(released(inventory(1, &[]), vec![], 110).is_empty());
    assert!(released(inventory(2, &[]), vec![(serial(8), at(115))], 120).is_empty());
    assert_eq!(
        released(inventory(3, &[]), vec![(serial(8), at(115))], 130),
        [serial(8)]
    );
}

#[test]
fn another_cache_begins_to_count_anew() {
    let fleet = Fleet::default();
    let first = fleet
        .follow(&node(1), &hello(1), at(100))
        .expect("admitted");
    let live = || vec![(serial(8), at(50))];
    first
        .inventory(inventory(1, &[]), live, at(110))
        .expect("taken");
    let second = fleet
        .follow(&node(1), &hello(2), at(115))
        .expect("admitted");
    let other = wire::Inventory {
        cache_id: vec![2; 16].into(),
        ..inventory(1, &[])
    };
    assert_eq!(
        second.inventory(other, live, at(120)).expect("taken"),
        Released::default()
    );
}

#[test]
fn subscribers_are_counted_as_confirmed_only_for_the_newest_bundle() {
    let fleet = Fleet::default();
    let follow = fleet
        .follow(&node(1), &hello(1), at(100))
        .expect("admitted");
    let position = |number| wire::TrustPosition {
        sequence: Some(wire::Sequence { epoch: 1, number }),
        ..Default::default()
    };
    let state = |pid, number: Option<u64>, nacked: bool| wire::SubscriberState {
        subscriber: Some(wire::Subscriber {
            holder: Some(wire::subscriber::Holder::Process(wire::Process {
                pid,
                start_time: 1,
                boot_id: "b".into(),
            })),
            resource_name: "ROOTCA".into(),
            ..Default::default()
        }),
        acked_trust: number.map(position),
        nack: nacked.then(wire::Nack::default),
        ..Default::default()
    };
    let states = vec![
        state(1, Some(2), false),
        state(2, Some(1), false),
        state(3, None, false),
        state(4, Some(2), true),
    ];
    follow
        .subscribers(
            wire::SubscriberReport {
                ordinal: 1,
                states,
                complete: true,
            },
            at(101),
        )
        .expect("taken");
    let counts = || {
        fleet
            .page(None, 10, |agent| {
                agent.counts(Sequence {
                    epoch: 1,
                    number: 2,
                })
            })
            .0[0]
    };
    assert_eq!(
        counts(),
        Counts {
            leaves: 0,
            subscribers: 4,
            confirmed: 1,
            nacks: 1
        }
    );
    let gone = wire::SubscriberState {
        presence: wire::Presence::Ended as i32,
        ..state(4, Some(2), true)
    };
    follow
        .subscribers(
            wire::SubscriberReport {
                ordinal: 2,
                states: vec![gone],
                complete: false,
            },
            at(102),
        )
        .expect("taken");
    assert_eq!(counts().nacks, 0);
}

#[test]
fn hints_reach_the_connected_agents_that_they_are_meant_for() {
    let fleet = Fleet::default();
    let mut follow = fleet
        .follow(&node(1), &hello(1), at(100))
        .expect("admitted");
    let message = Arc::new(wire::AuthorityMessage::default());
    assert_eq!(fleet.tell(&message, |name| &*name.node == "other"), 0);
    assert_eq!(fleet.tell(&message, |_| true), 1);
    assert!(matches!(ends_with(&mut follow), Some(Down::Message(_))));
}

#[test]
fn how_far_clocks_are_apart_follows_our_own_when_that_is_set() {
    let fleet = Fleet::default();
    // The agent's clock says 103 s.
    let session = fleet
        .follow(&node(1), &hello(1), at(100))
        .expect("admitted");
    assert_eq!(fleet.clock_offsets_ms(0), [3_000]);
    assert_eq!(fleet.clock_offsets_ms(60_000), [-57_000]);
    drop(session);
    assert!(fleet.clock_offsets_ms(60_000).is_empty());
    let again = fleet.follow(&node(1), &hello(1), at(161));
    let _session = again.expect("admitted");
    assert_eq!(fleet.clock_offsets_ms(60_000), [-58_000]);
}

#[test]
fn a_certificate_is_served_while_the_connected_agent_hands_it_out() {
    let fleet = Fleet::default();
    let name = node(1).name;
    let follow = fleet
        .follow(&node(1), &hello(1), at(100))
        .expect("admitted");
    let mut told = inventory(1, &[7, 8]);
    told.leaves[1].current = false;
    follow
        .inventory(told, Vec::new, at(100))
        .expect("an inventory");
    assert!(fleet.serves(&name, &serial(7)));
    assert!(!fleet.serves(&name, &serial(8)), "it was replaced");
    assert!(!fleet.serves(&name, &serial(9)), "it holds none such");
    drop(follow);
    assert!(!fleet.serves(&name, &serial(7)), "the agent is away");
}
