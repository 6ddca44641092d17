//! What keeps a root in use.

use super::*;

const OLD: u8 = 7;
const NEW: u8 = 8;

fn root(number: u8) -> KeyId {
    KeyId::from_slice(&[number; 20]).expect("a key id")
}

impl Scene {
    fn users(&self, holders: &[Holder], now: u64) -> Gate {
        self.fleet
            .users_of(&root(OLD), holders, Gone::ShownTwice, at(now))
    }

    fn reasons(&self, holders: &[Holder]) -> Vec<Reason> {
        let gate = self.users(holders, NOW);
        gate.unconfirmed.iter().map(|open| open.reason).collect()
    }
}

#[test]
fn a_root_that_nobody_holds_anything_under_has_no_users() {
    let scene = Scene::new();
    let agent = scene.agent("n", vec![certificate(1, 5)]);
    inventory(&agent, 1, vec![leaf(5, NEW), leaf(6, NEW)], &[], NOW);
    let gate = scene.users(&[], NOW);
    assert_eq!((gate.unconfirmed, gate.confirmed), (vec![], 2));
}

#[test]
fn a_node_that_holds_leaves_by_the_ledger_uses_it_though_it_was_never_seen() {
    let scene = Scene::new();
    let gate = scene.users(&[holder("n")], NOW);
    assert_eq!(gate.unconfirmed[0].reason, Reason::AgentAway);
    assert_eq!(gate.unconfirmed[0].workload_count, 1);
}

#[test]
fn a_leaf_that_only_an_inventory_shows_uses_it_until_it_has_ended() {
    let scene = Scene::new();
    let agent = scene.agent("n", vec![]);
    inventory(&agent, 1, vec![leaf(5, OLD)], &[], NOW);
    assert_eq!(scene.reasons(&[]), [Reason::NotRenewed]);
    drop(agent);
    assert_eq!(scene.reasons(&[]), [Reason::AgentAway]);
    assert_eq!(scene.users(&[], END + SKEW).unconfirmed.len(), 1);
    assert_eq!(scene.users(&[], END + SKEW + 1).unconfirmed, []);
}

#[test]
fn a_consumer_that_has_not_taken_the_successor_is_named() {
    let scene = Scene::new();
    let state = wire::SubscriberState {
        sent_serial: vec![6].into(),
        ..certificate(1, 5)
    };
    let agent = scene.agent("n", vec![state.clone()]);
    inventory(&agent, 1, vec![used(5, OLD), leaf(6, NEW)], &[], NOW);
    let gate = scene.users(&[holder("n")], NOW);
    let [open] = &gate.unconfirmed[..] else {
        panic!("one is open: {gate:?}")
    };
    assert_eq!(open.reason, Reason::NotAcked);
    assert_eq!(open.process.as_deref(), Some("pid 1"));
    assert_eq!(open.resource.as_deref(), Some("default"));
    assert_eq!(open.workloads, ["spiffe://example.org/w5"]);
    tell(&agent, vec![scene.nacked(state)], false);
    assert_eq!(scene.reasons(&[holder("n")]), [Reason::Refused]);
}

#[test]
fn a_leaf_that_nobody_is_named_for_is_waited_for_all_the_same() {
    let scene = Scene::new();
    let agent = scene.agent("n", vec![]);
    inventory(&agent, 1, vec![used(5, OLD)], &[], NOW);
    assert_eq!(scene.reasons(&[]), [Reason::NotAcked]);
}

#[test]
fn an_agent_has_to_send_an_inventory_in_each_follow() {
    let scene = Scene::new();
    let agent = scene.agent("n", vec![]);
    assert_eq!(scene.reasons(&[]), [Reason::NotReported]);
    inventory(&agent, 1, vec![], &[], NOW);
    assert_eq!(scene.reasons(&[]), []);
    drop(agent);
    let _agent = scene.agent("n", vec![]);
    assert_eq!(scene.reasons(&[]), [Reason::NotReported]);
}

#[test]
fn a_leaf_of_the_ledger_that_an_inventory_lacks_counts_until_it_is_released() {
    let scene = Scene::new();
    let agent = scene.agent("n", vec![]);
    inventory(&agent, 1, vec![], &[5], NOW);
    assert_eq!(scene.reasons(&[holder("n")]), [Reason::NotReported]);
    let released = inventory(&agent, 1, vec![], &[5], NOW + 5);
    assert_eq!(released.len(), 1);
    assert_eq!(scene.reasons(&[]), []);
}

#[test]
fn the_authoritys_own_certificate_is_waited_for_under_the_name_of_its_replica() {
    let scene = Scene::new();
    let own = Holder {
        cluster: "".into(),
        ..holder("replica-1")
    };
    let gate = scene.users(&[own], NOW);
    assert_eq!(gate.unconfirmed[0].reason, Reason::NotRenewed);
    assert_eq!(&*gate.unconfirmed[0].node.node, "replica-1");
}

#[test]
fn a_consumers_leaf_is_not_released_because_the_agent_lost_its_cache() {
    let scene = Scene::new();
    let agent = scene.agent("n", vec![certificate(1, 5)]);
    let in_use = wire::HeldLeaf {
        subscribers: 1,
        ..leaf(5, OLD)
    };
    inventory(&agent, 1, vec![in_use, leaf(6, OLD)], &[5, 6], NOW);
    drop(agent);
    let agent = scene.follow("n", &scene.hello(2));
    tell(&agent, vec![], true);
    inventory(&agent, 2, vec![], &[5, 6], NOW + 1);
    let released = inventory(&agent, 2, vec![], &[5, 6], NOW + 6);
    // Nobody had the other one.
    assert_eq!(released, [Serial::from_bytes(&[6]).expect("a serial")]);
    assert_eq!(scene.reasons(&[]), [Reason::NotAcked]);
    assert_eq!(scene.users(&[], END + SKEW + 1).unconfirmed, []);
}

#[test]
fn a_node_s_certificate_from_here_is_released_when_it_has_come_with_a_later_one_from_elsewhere() {
    let serial = || Serial::from_bytes(&[98]).expect("a serial");
    let released = |ends: u64| {
        let scene = Scene::new();
        scene.fleet.restore(&name("n"), [(serial(), at(ends))]);
        // With one that ends at `END`.
        let agent = scene.agent("n", vec![]);
        inventory(&agent, 1, vec![], &[98], NOW);
        inventory(&agent, 1, vec![], &[98], NOW + 5)
    };
    // What was issued last may be on its way to it.
    assert_eq!(released(END + 1), []);
    assert_eq!(released(END - 1), [serial()]);
}

#[test]
fn the_newest_certificate_of_a_node_itself_is_never_released() {
    let scene = Scene::new();
    let serial = |number: u8| Serial::from_bytes(&[number]).expect("a serial");
    let restored = [(serial(99), at(END)), (serial(98), at(END))];
    scene.fleet.restore(&name("n"), restored);
    let agent = scene.agent("n", vec![]);
    inventory(&agent, 1, vec![], &[98, 99], NOW);
    let released = inventory(&agent, 1, vec![], &[98, 99], NOW + 5);
    assert_eq!(released, [serial(99)]);
}
