use std::time::{Duration, UNIX_EPOCH};

use arx_identity::{Sequence, Serial};
use arx_proto::node::v1 as wire;
use wire::subscriber::Holder::{PodUid, Process};

use super::*;
use crate::caller::Node;
use crate::fleet::Session;
use crate::testing::bundle;

mod confirm;
mod users;

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

const CONNECTED: u64 = 1_000;
const REPORTED: u64 = 1_010;
const NOW: u64 = 1_020;
/// When the certificates here end.
const END: u64 = 5_000;
const SKEW: u64 = 300;

fn name(node: &str) -> NodeName {
    NodeName {
        cluster: "c".into(),
        node: node.into(),
    }
}

fn holder(node: &str) -> Holder {
    Holder {
        cluster: "c".into(),
        node: node.into(),
        identities: vec!["spiffe://example.org/w".into()],
        count: 1,
        ends: at(END),
    }
}

/// A fleet and the bundle that it should confirm.
struct Scene {
    fleet: Fleet,
    published: TrustBundle,
}

impl Scene {
    fn new() -> Self {
        Self {
            fleet: Fleet::default(),
            published: bundle(2),
        }
    }

    fn position(&self) -> wire::TrustPosition {
        let Sequence { epoch, number } = self.published.sequence();
        wire::TrustPosition {
            kind: wire::TrustKind::X509Roots.into(),
            sequence: Some(wire::Sequence { epoch, number }),
            sha256: self.published.sha256().to_vec().into(),
        }
    }

    fn hello(&self, cache: u8) -> wire::Hello {
        wire::Hello {
            instance_id: vec![1; 16].into(),
            cache_id: vec![cache; 16].into(),
            boot_id: "boot".to_owned(),
            trust: vec![self.position()],
            ..wire::Hello::default()
        }
    }

    fn follow(&self, node: &str, hello: &wire::Hello) -> Session {
        let node = Node {
            name: name(node),
            id: format!("spiffe://example.org/arx/node/c/{node}").into(),
            serial: Serial::from_bytes(&[99]).expect("a serial"),
            not_after: at(END),
            issuers: [].into(),
        };
        let session = self.fleet.follow(&node, hello, at(CONNECTED));
        session.expect("it is admitted")
    }

    /// An agent that has stored the bundle and told all of these consumers.
    fn agent(&self, node: &str, states: Vec<wire::SubscriberState>) -> Session {
        let session = self.follow(node, &self.hello(1));
        tell(&session, states, true);
        session
    }

    fn confirmations(&self, holders: &[Holder], now: u64) -> Gate {
        self.fleet.confirmations(&self.published, holders, at(now))
    }

    /// The reasons of everybody who has not confirmed.
    fn open(&self, holders: &[Holder]) -> Vec<Reason> {
        let gate = self.confirmations(holders, NOW);
        gate.unconfirmed.iter().map(|open| open.reason).collect()
    }

    fn acked(&self, state: wire::SubscriberState) -> wire::SubscriberState {
        wire::SubscriberState {
            acked_trust: Some(self.position()),
            sent_trust: None,
            ..state
        }
    }

    fn nacked(&self, state: wire::SubscriberState) -> wire::SubscriberState {
        wire::SubscriberState {
            nack: Some(wire::Nack {
                content_sha256: self.published.sha256().to_vec().into(),
                detail: "no \u{1b}[31mgood".to_owned(),
                ..wire::Nack::default()
            }),
            ..state
        }
    }
}

fn tell(session: &Session, states: Vec<wire::SubscriberState>, complete: bool) {
    let report = wire::SubscriberReport {
        ordinal: 1,
        states,
        complete,
    };
    let taken = session.subscribers(report, at(REPORTED));
    taken.expect("the report is taken");
}

fn consumer(pid: u32, resource: &str) -> wire::SubscriberState {
    wire::SubscriberState {
        subscriber: Some(wire::Subscriber {
            holder: Some(Process(wire::Process {
                pid,
                start_time: 7,
                boot_id: "boot".to_owned(),
            })),
            resource_name: resource.to_owned(),
            streams: 1,
            grade: wire::Grade::Acked.into(),
        }),
        presence: wire::Presence::Connected.into(),
        ..wire::SubscriberState::default()
    }
}

/// A consumer of roots that was sent them and has not answered.
fn roots(pid: u32) -> wire::SubscriberState {
    wire::SubscriberState {
        sent_trust: Some(wire::TrustPosition {
            kind: wire::TrustKind::X509Roots.into(),
            ..wire::TrustPosition::default()
        }),
        ..consumer(pid, "ROOTCA")
    }
}

/// A consumer that has taken the certificate `serial`.
fn certificate(pid: u32, serial: u8) -> wire::SubscriberState {
    wire::SubscriberState {
        acked_serial: vec![serial].into(),
        spiffe_id: format!("spiffe://example.org/w{serial}"),
        ..consumer(pid, "default")
    }
}

/// A leaf of an inventory, current and under the root of this number.
fn leaf(serial: u8, root: u8) -> wire::HeldLeaf {
    wire::HeldLeaf {
        serial: vec![serial].into(),
        spiffe_id: format!("spiffe://example.org/w{serial}"),
        root_key_id: vec![root; 20].into(),
        not_after_unix_ms: i64::try_from(END * 1000).expect("it fits"),
        current: true,
        subscribers: 0,
    }
}

/// One that was replaced, and that a consumer still uses.
fn used(serial: u8, root: u8) -> wire::HeldLeaf {
    wire::HeldLeaf {
        current: false,
        subscribers: 1,
        ..leaf(serial, root)
    }
}

fn inventory(
    session: &Session,
    cache: u8,
    leaves: Vec<wire::HeldLeaf>,
    live: &[u8],
    now: u64,
) -> Vec<Serial> {
    let part = wire::Inventory {
        cache_id: vec![cache; 16].into(),
        ordinal: now,
        leaves,
        complete: true,
    };
    let serial = |number: &u8| Serial::from_bytes(&[*number]).expect("a serial");
    let live = || live.iter().map(|number| (serial(number), at(10))).collect();
    let released = session.inventory(part, live, at(now));
    released.expect("the inventory is taken").0
}

#[test]
fn those_that_will_not_confirm_by_themselves_come_first() {
    let open = |node: &str, reason, workloads| Unconfirmed {
        workload_count: workloads,
        ..Unconfirmed::new(&name(node), reason, Names::default())
    };
    let gate = Gate {
        confirmed: 0,
        unconfirmed: vec![
            open("a", Reason::NotAcked, 9),
            open("c", Reason::AgentAway, 1),
            open("b", Reason::AgentAway, 1),
            open("d", Reason::AgentAway, 5),
            open("e", Reason::Refused, 1),
        ],
    };
    let order: Vec<_> = gate.sorted().unconfirmed;
    let order: Vec<_> = order.iter().map(|open| &*open.node.node).collect();
    assert_eq!(order, ["e", "d", "b", "c", "a"]);
}

#[test]
fn every_reason_has_a_name_of_its_own() {
    let all = [
        Reason::Refused,
        Reason::NoBundle,
        Reason::AgentAway,
        Reason::Waited,
        Reason::NotReported,
        Reason::AgentBehind,
        Reason::NotRenewed,
        Reason::NotAcked,
    ];
    let names: std::collections::BTreeSet<_> = all.iter().map(|reason| reason.as_str()).collect();
    assert_eq!(names.len(), all.len());
    assert_eq!(Reason::AgentAway.to_string(), "agent-away");
}

#[test]
fn what_others_say_is_cut_and_moves_no_cursor() {
    assert_eq!(
        names::shown("a\u{1b}[2J\u{202e}ä\n", 100),
        "a\\u{1b}[2J\\u{202e}ä\\n"
    );
    assert_eq!(names::shown("abcdef", 3), "abc…");
    assert_eq!(names::shown("abc", 3), "abc");
}

#[tokio::test]
async fn whatever_a_gate_may_wait_for_is_told_as_a_change() {
    let scene = Scene::new();
    let mut changed = scene.fleet.changed();
    let mut news = || {
        let news = changed.has_changed().expect("the fleet is there");
        changed.mark_unchanged();
        news
    };
    assert!(!news());
    let session = scene.follow("n", &scene.hello(1));
    assert!(news(), "a Follow began");
    tell(&session, vec![roots(1)], true);
    assert!(news(), "a report");
    inventory(&session, 1, vec![leaf(1, 7)], &[], NOW);
    assert!(news(), "an inventory");
    session.stored(scene.position());
    assert!(news(), "a stored position");
    drop(session);
    assert!(news(), "a Follow ended");
    assert!(!news());
}
