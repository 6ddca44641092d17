//! Who is in the way of a gate: asked of the registrations of replicas, the ledger and the
//! agents' own words, all at one time.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use arx_identity::{Sequence, TrustBundle};

use super::facts::Obstacle;
use crate::fleet::{Fleet, Gate, Gone, Reason, Unconfirmed};
use crate::ledger::Live;
use crate::nested;
use crate::state::{Kind, Phase, Registration, Report, Rotation};

/// How long after its end an intermediate may still be taken for valid by a slow clock.
const SKEW: Duration = Duration::from_secs(300);

/// Why somebody who may sign is in the way: a replica, or an authority below.
type Late = [&'static str; 2];
/// It has not followed,
const BEHIND: Late = ["replica-behind", "below-behind"];
/// or what it has under the root that leaves may still be valid.
const SIGNS: Late = ["replica-signs", "below-signs"];
/// It has not said whom it waits for.
const SILENT: Late = ["replica-silent", "below-behind"];

/// What a gate is judged by.
#[derive(Debug)]
pub struct Sight<'a> {
    /// The replica that looks.
    pub replica: &'a str,
    /// Who may sign under which root, and until when.
    pub registrations: &'a [Registration],
    /// The newest bundle that each replica has promised never to go below.
    pub seen: BTreeMap<String, Sequence>,
    /// What each other replica knows of this gate, if it has said.
    pub reports: BTreeMap<String, &'a Report>,
    /// The bundle that is published.
    pub bundle: &'a TrustBundle,
    /// The certificates that are valid.
    pub live: &'a Live,
    /// The agents.
    pub fleet: &'a Fleet,
}

/// What was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Who has done what the phase waits for.
    pub confirmed: u64,
    /// The authority's own who have not.
    pub replicas: Vec<Obstacle>,
    /// Nodes and consumers who have not.
    pub waiting: Vec<Obstacle>,
}

impl Sight<'_> {
    /// Who has done what the phase waits for, and who has not.
    #[must_use]
    pub fn gate(&self, rotation: &Rotation, now: SystemTime) -> Seen {
        let mut seen = self.at_gate(rotation, now);
        for waiting in &mut seen.waiting {
            waiting.since = in_phase(waiting, rotation);
        }
        seen
    }

    fn at_gate(&self, rotation: &Rotation, now: SystemTime) -> Seen {
        match rotation.phase {
            Phase::Distribute | Phase::Retire | Phase::Restore
                if rotation.sequence == Some(self.bundle.sequence()) =>
            {
                self.confirmations(now)
            }
            Phase::Activate => {
                let late = self.others(now, |other| {
                    let same = |it: &&Registration| it.replica == other.replica;
                    let mut own = self.registrations.iter().filter(same);
                    own.all(|it| Some(it.root) != rotation.to)
                });
                Seen {
                    replicas: obstacles(late, BEHIND),
                    ..Seen::default()
                }
            }
            Phase::Reissue => self.users(rotation, now),
            // All who lose what they have.
            Phase::Prepare if rotation.without_successor => self.users(rotation, now),
            _ => Seen::default(),
        }
    }

    fn confirmations(&self, now: SystemTime) -> Seen {
        if !self.live.is_ready() {
            return index();
        }
        let newest = self.bundle.sequence();
        let behind = self.others(now, |other| {
            self.seen
                .get(&other.replica)
                .is_none_or(|seen| *seen < newest)
        });
        let silent = self.others(now, |other| {
            let has_seen = self
                .seen
                .get(&other.replica)
                .is_some_and(|seen| *seen >= newest);
            has_seen && self.owes_a_report(other)
        });
        let mut replicas = obstacles(behind, BEHIND);
        replicas.extend(obstacles(silent, SILENT));
        let holders = self.live.holders(now, None);
        let gate = self.fleet.confirmations(self.bundle, &holders, now);
        seen(gate, replicas)
    }

    fn users(&self, rotation: &Rotation, now: SystemTime) -> Seen {
        if !self.live.is_ready() {
            return index();
        }
        let from = rotation.from;
        // A replica that signs under another root from now on has nothing to wait for but what
        // it tells of.
        let signing = self.others(now, |other| {
            let report = self.reports.get(&other.replica);
            other.root == from && report.is_none_or(|report| report.signs_under == from)
        });
        let silent = self.others(now, |other| other.root != from && self.owes_a_report(other));
        let silent = silent.into_iter().filter(|it| {
            let mut signing = signing.iter();
            signing.all(|other| other.replica != it.replica)
        });
        let silent = obstacles(silent.collect(), SILENT);
        let holders = self.live.holders(now, Some(&from));
        let gone = match rotation.kind {
            // What is in an answer that is under way is refused by whoever gets it.
            Kind::Distrust => Gone::ShownOnce,
            _ => Gone::ShownTwice,
        };
        let mut gate = self.fleet.users_of(&from, &holders, gone, now);
        let to = rotation.to.map(|to| self.live.count_under_root(&to, now));
        gate.confirmed = to.unwrap_or(0);
        let mut replicas = obstacles(signing, SIGNS);
        replicas.extend(silent);
        seen(gate, replicas)
    }

    /// Whether it is a replica that has not said whom it waits for. An authority below says so
    /// otherwise: by what it confirms, and by what it is registered for.
    fn owes_a_report(&self, other: &Registration) -> bool {
        !nested::is_below(&other.replica) && !self.reports.contains_key(&other.replica)
    }

    /// Of each other replica the first registration that has not ended and is wanted.
    fn others(
        &self,
        now: SystemTime,
        wanted: impl Fn(&Registration) -> bool,
    ) -> Vec<&Registration> {
        let mut others: Vec<_> = self
            .registrations
            .iter()
            .filter(|it| *it.replica != *self.replica && it.not_after + SKEW > now && wanted(it))
            .collect();
        others.sort_by(|a, b| a.replica.cmp(&b.replica));
        others.dedup_by(|a, b| a.replica == b.replica);
        others
    }
}

/// Since when it is in the way: not from before there was anything to do, unless it was away.
fn in_phase(waiting: &Obstacle, rotation: &Rotation) -> Option<SystemTime> {
    if waiting.reason == Reason::AgentAway.as_str() {
        return waiting.since;
    }
    let since = waiting.since?;
    Some(since.max(rotation.phase_began))
}

fn seen(gate: Gate, replicas: Vec<Obstacle>) -> Seen {
    Seen {
        confirmed: gate.confirmed,
        replicas,
        waiting: gate.unconfirmed.into_iter().map(Obstacle::from).collect(),
    }
}

/// After a start it takes a moment to know who holds what.
fn index() -> Seen {
    let obstacle = Obstacle {
        reason: "index-building",
        ..Obstacle::default()
    };
    Seen {
        replicas: vec![obstacle],
        ..Seen::default()
    }
}

fn obstacles(registrations: Vec<&Registration>, [replica, below]: Late) -> Vec<Obstacle> {
    let each = |registration: &Registration| Obstacle {
        node: registration.replica.clone(),
        reason: match nested::is_below(&registration.replica) {
            true => below,
            false => replica,
        },
        last_certificate_ends: Some(registration.not_after),
        ..Obstacle::default()
    };
    registrations.into_iter().map(each).collect()
}

impl From<Unconfirmed> for Obstacle {
    fn from(unconfirmed: Unconfirmed) -> Self {
        Self {
            node: unconfirmed.node.to_string(),
            process: unconfirmed.process.unwrap_or_default(),
            resource: unconfirmed.resource.unwrap_or_default(),
            reason: unconfirmed.reason.as_str(),
            since: unconfirmed.since,
            workloads: unconfirmed.workloads,
            workload_count: unconfirmed.workload_count,
            last_certificate_ends: unconfirmed.last_certificate_ends,
            detail: unconfirmed.detail,
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Rotations, Terms};
    use crate::testing::{bundle, node};
    use arx_identity::KeyId;
    use arx_proto::node::v1 as wire;
    use serde_json::Map;

    fn key(number: u8) -> KeyId {
        KeyId::from_slice(&[number; 20]).expect("20 bytes")
    }

    fn at(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(second)
    }

    fn registration(replica: &str, root: u8, not_after: u64) -> Registration {
        Registration {
            replica: replica.to_owned(),
            root: key(root),
            intermediate: key(root + 100),
            not_after: at(not_after),
            extra: Map::new(),
        }
    }

    fn rotation(phase: Phase, from: u8, to: u8) -> Rotation {
        let terms = Terms {
            window: Duration::ZERO,
            dwell: Duration::ZERO,
            patience: None,
        };
        let begun = crate::rotation::begin(
            &mut Rotations::default(),
            key(from),
            terms,
            String::new(),
            at(0),
        );
        Rotation {
            phase,
            to: Some(key(to)),
            ..begun.expect("none is under way")
        }
    }

    /// Replicas in the way of a gate, by name and reason.
    fn in_the_way(
        registrations: &[Registration],
        rotation: &Rotation,
        now: u64,
    ) -> Vec<(String, &'static str)> {
        let sight = Sight {
            replica: "ca-1",
            registrations,
            seen: BTreeMap::new(),
            reports: BTreeMap::new(),
            bundle: &bundle(1),
            live: &Live::without_files(Vec::new()),
            fleet: &Fleet::default(),
        };
        let seen = sight.gate(rotation, at(now));
        let each = seen.replicas.into_iter();
        each.map(|it| (it.node, it.reason)).collect()
    }

    #[test]
    fn a_replica_with_an_intermediate_under_the_root_that_leaves_keeps_the_gate_shut() {
        let both = [registration("ca-2", 1, 5000), registration("ca-2", 2, 9000)];
        let signs = vec![("ca-2".to_owned(), "replica-signs")];
        for (from, to) in [(1, 2), (2, 1)] {
            let rotation = rotation(Phase::Reissue, from, to);
            assert_eq!(in_the_way(&both, &rotation, 100), signs, "away from {from}");
        }
    }

    #[test]
    fn an_authority_below_that_says_nothing_keeps_every_gate_shut_until_its_certificate_has_ended()
    {
        let one = [registration("nested:west", 1, 5000)];
        let published = Rotation {
            sequence: Some(bundle(1).sequence()),
            ..rotation(Phase::Distribute, 1, 2)
        };
        for (rotation, reason) in [
            (published, "below-behind"),
            (rotation(Phase::Activate, 1, 2), "below-behind"),
            (rotation(Phase::Reissue, 1, 2), "below-signs"),
        ] {
            let named = vec![("nested:west".to_owned(), reason)];
            assert_eq!(in_the_way(&one, &rotation, 5299), named);
            assert_eq!(in_the_way(&one, &rotation, 5300), []);
        }
    }

    #[test]
    fn an_intermediate_counts_until_slow_clocks_have_seen_its_end() {
        let one = [registration("ca-2", 1, 5000)];
        let rotation = rotation(Phase::Reissue, 1, 2);
        assert_eq!(in_the_way(&one, &rotation, 5299).len(), 1);
        assert_eq!(in_the_way(&one, &rotation, 5300), []);
    }

    #[test]
    fn who_is_waited_for_is_so_since_the_phase_began_and_who_is_away_since_it_went() {
        let fleet = Fleet::default();
        let hello = wire::Hello {
            instance_id: vec![1; 16].into(),
            cache_id: vec![2; 16].into(),
            ..Default::default()
        };
        let agent = fleet.follow(&node(), &hello, at(10)).expect("admitted");
        let leaf = wire::HeldLeaf {
            serial: vec![5; 16].into(),
            not_after_unix_ms: 9_000_000,
            ..Default::default()
        };
        let inventory = wire::Inventory {
            ordinal: 1,
            cache_id: vec![2; 16].into(),
            leaves: vec![leaf],
            complete: true,
        };
        agent
            .inventory(inventory, Vec::new, at(20))
            .expect("it is whole");
        let bundle = bundle(1);
        let rotation = Rotation {
            phase_began: at(100),
            sequence: Some(bundle.sequence()),
            ..rotation(Phase::Distribute, 1, 2)
        };
        let waiting = || {
            let sight = Sight {
                replica: "ca-1",
                registrations: &[],
                seen: BTreeMap::new(),
                reports: BTreeMap::new(),
                bundle: &bundle,
                live: &Live::without_files(Vec::new()),
                fleet: &fleet,
            };
            let waiting = sight.gate(&rotation, at(200)).waiting.into_iter();
            waiting.map(|it| (it.reason, it.since)).collect::<Vec<_>>()
        };
        assert_eq!(waiting(), [("agent-behind", Some(at(100)))]);
        agent.lost(at(50));
        drop(agent);
        assert_eq!(waiting(), [("agent-away", Some(at(50)))]);
    }

    #[test]
    fn activation_waits_for_every_replica_to_stand_under_the_new_root() {
        let rotation = rotation(Phase::Activate, 1, 2);
        let old = [registration("ca-1", 1, 5000), registration("ca-2", 1, 5000)];
        let behind = vec![("ca-2".to_owned(), "replica-behind")];
        assert_eq!(in_the_way(&old, &rotation, 100), behind);
        let both = [old[1].clone(), registration("ca-2", 2, 9000)];
        assert_eq!(in_the_way(&both, &rotation, 100), []);
    }
}
