//! What replicas tell each other of a gate: each knows those to whom it has issued and those who
//! follow it, and the gate waits for all of them.
//!
//! A report is bounded, however large the fleet: counts, and the first of those who are waited
//! for. A node whose certificates are in one replica's ledger and whose agent is connected to
//! another is missed by the first; the second says whether it is well.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime};

use arx_identity::KeyId;
use serde_json::Map;

use super::facts::Obstacle;
use super::sight::Sight;
use crate::caller::NodeName;
use crate::fleet::{Fleet, Reason};
use crate::serve::GIVEN_UP;
use crate::state::{Gate, Open, Phase, Report, Rotation};

/// Those who are waited for that a report names.
const NAMED: usize = 100;
/// Bytes of a number of ms since 1970 with what is around it.
const NUMBER: usize = 20;
/// Bytes of names of nodes that a report asks others for,
const AWAY: usize = 64 * 1024;
/// and of those that it says to be well: of what two or three others ask for. With what else
/// stands in a replica's document it is less than [`MAX_VALUE`](crate::store::MAX_VALUE).
const WELL: usize = 192 * 1024;
/// Reports that say nothing decisive are not stored more often.
const EVERY: Duration = Duration::from_secs(1);
/// A report by which others take nodes for well is said again this often at least,
const BEAT: Duration = Duration::from_secs(4);
/// and not believed for longer than this.
const BELIEVED: Duration = Duration::from_secs(10);
/// What others say of a node that has been here lately may be older than what was heard here: where
/// it was before it is not given up yet, and what was said there is believed for a while. Of one that
/// was here so long ago every word counts, lest a clock that was set back keep it from that.
const LATELY: Duration = GIVEN_UP.saturating_mul(2);
/// For so long a gate stays shut at least that rests on another replica's word: in less, nothing can
/// be said again in time.
const LEAST: Duration = Duration::from_secs(2);

/// Why somebody is in the way, as other replicas may tell it.
const REASONS: [&str; 12] = [
    "refused",
    "no-bundle",
    "agent-away",
    "waited",
    "not-reported",
    "agent-behind",
    "not-renewed",
    "not-acked",
    "index-building",
    "clock-doubtful",
    "history-lost",
    "replica-behind",
];

/// What this replica has told last, and when.
#[derive(Clone, Debug)]
pub(super) struct Told {
    report: Report,
    at: Instant,
}

/// When each other replica's report was last seen to be another one, by this replica's clock;
/// never, if it has been the same since this process began to look. None before that.
pub(super) type Heard = Option<BTreeMap<String, Saying>>;

/// A report by when it was said, and when that changed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Saying {
    said: Option<SystemTime>,
    changed: Option<Instant>,
}

/// How long a gate stays shut after the last who was in its way, if it rests on another replica's
/// word.
pub(super) fn dwell(own: Duration) -> Duration {
    own.max(LEAST)
}

/// How often a word is said again at a gate of this dwell; and how often is looked whether it was.
pub(super) fn beat(own: Duration) -> Duration {
    (dwell(own) / 4).min(BEAT)
}

/// For how long a word is believed at a gate of this dwell: what is believed when the gate opens was
/// said, seen, and counted anew since the last who was in its way.
fn believed(own: Duration) -> Duration {
    (dwell(own) * 2 / 3).min(BELIEVED)
}

/// The replicas whose word about a node counts at `now`, at a gate of this dwell: a node may have
/// left one that is dead, and be well no more.
pub(super) fn alive<'a>(
    heard: &mut Heard,
    reports: impl Iterator<Item = (&'a String, &'a Report)>,
    dwell: Duration,
    now: Instant,
) -> BTreeSet<&'a str> {
    let before = heard.take();
    let mut alive = BTreeSet::new();
    let mut all = BTreeMap::new();
    for (name, report) in reports {
        let said = report.said;
        let known = before.as_ref().map(|all| all.get(name));
        let saying = match known {
            Some(Some(known)) if known.said == said => *known,
            Some(_) => Saying {
                said,
                changed: Some(now),
            },
            None => Saying {
                said,
                changed: None,
            },
        };
        if saying.changed.is_some_and(|at| now < at + believed(dwell)) {
            alive.insert(name.as_str());
        }
        all.insert(name.clone(), saying);
    }
    *heard = Some(all);
    alive
}

/// What the gate is called at which `rotation` stands, if its phase has one.
#[must_use]
pub fn gate(rotation: &Rotation) -> Option<Gate> {
    let waits = match rotation.phase {
        Phase::Distribute | Phase::Retire | Phase::Restore => rotation.sequence.is_some(),
        Phase::Reissue => true,
        Phase::Prepare => rotation.without_successor,
        _ => false,
    };
    waits.then(|| Gate {
        rotation: rotation.id.clone(),
        phase: rotation.phase,
        began: rotation.phase_began,
        sequence: rotation.sequence,
    })
}

/// The nodes that are well by the words of replicas, and when their Follows there began.
#[derive(Debug, Default)]
pub(super) struct Well<'a>(BTreeMap<&'a str, Option<i64>>);

impl<'a> Well<'a> {
    /// By what these say.
    pub(super) fn of(reports: impl Iterator<Item = &'a Report>) -> Self {
        let mut well = BTreeMap::new();
        for report in reports {
            let began = report.well_began_ms.iter().copied().map(Some);
            let began = began.chain(std::iter::repeat(None));
            for (node, began) in report.well.iter().zip(began) {
                let latest = well.entry(node.as_str()).or_default();
                *latest = began.max(*latest);
            }
        }
        Self(well)
    }

    /// Whether `node` is, by what it has told in a later Follow than that which began at `last`.
    fn has(&self, node: &str, last: Option<i64>) -> bool {
        let began = self.0.get(node);
        began.is_some_and(|began| last.is_none() || *began > last)
    }
}

/// The nodes that others are asked for.
#[derive(Debug, Default)]
pub(super) struct Away {
    nodes: Vec<String>,
    /// When the last Follow here began of those that have left lately, by their agents' clocks.
    began_ms: BTreeMap<String, i64>,
}

impl Away {
    /// The first of the nodes that are only not connected here.
    pub(super) fn of(waiting: &[Obstacle], fleet: &Fleet, now: SystemTime) -> Self {
        let away = waiting.iter().filter(|it| is_away(it.reason));
        let nodes = first(AWAY, away.map(|it| it.node.clone()), String::len);
        let began_ms = nodes.iter().filter_map(|name| {
            let began = fleet.followed(&node(name)?, now.checked_sub(LATELY)?)?;
            Some((name.clone(), began))
        });
        let began_ms = began_ms.collect();
        Self { nodes, began_ms }
    }
}

/// Nodes, and the Follow after which what they have told counts.
type Asked<'a> = BTreeMap<&'a str, Option<i64>>;

fn asked<'a>(
    nodes: &'a [String],
    began_ms: &'a BTreeMap<String, i64>,
) -> impl Iterator<Item = (&'a str, Option<i64>)> {
    let asked = nodes.iter();
    asked.map(|node| (node.as_str(), began_ms.get(node).copied()))
}

/// Takes out of `waiting` the nodes that are only not connected here, are asked for, and are `well`.
/// Whether there are such.
pub(super) fn without_well(waiting: &mut Vec<Obstacle>, away: &Away, well: &Well<'_>) -> bool {
    let asked = asked(&away.nodes, &away.began_ms).collect();
    let before = waiting.len();
    waiting.retain(|it| !(is_away(it.reason) && is_well(&it.node, &asked, well)));
    waiting.len() < before
}

fn is_well(node: &str, asked: &Asked<'_>, well: &Well<'_>) -> bool {
    asked.get(node).is_some_and(|last| well.has(node, *last))
}

/// Whether some of those whom other replicas miss are out of the way by the word of another.
pub(super) fn rest_on<'a>(
    mut reports: impl Iterator<Item = &'a &'a Report>,
    well: &Well<'_>,
) -> bool {
    reports.any(|report| {
        let mut asked = asked(&report.away, &report.away_began_ms);
        asked.any(|(node, last)| well.has(node, last))
    })
}

/// As many of `items` as have so many bytes together.
fn first<T>(bytes: usize, items: impl Iterator<Item = T>, size: impl Fn(&T) -> usize) -> Vec<T> {
    let mut left = bytes;
    let fits = |item: &T| {
        let rest = left.checked_sub(size(item));
        left = rest.unwrap_or(0);
        rest.is_some()
    };
    items.take_while(fits).collect()
}

fn is_away(reason: &str) -> bool {
    reason == Reason::AgentAway.as_str()
}

/// What others wait for, as obstacles: those that are named, unless they are asked for and `well` by
/// the word of one of them, and one for the rest of each. Also those whom they miss and believe to be well, which is
/// for everybody to judge by what is still said of it.
pub(super) fn of_others<'a>(
    reports: impl Iterator<Item = (&'a String, &'a &'a Report)>,
    well: &Well<'_>,
) -> Vec<Obstacle> {
    let mut obstacles = Vec::new();
    for (replica, report) in reports {
        let mut told = 0;
        let asked: Asked<'_> = asked(&report.away, &report.away_began_ms).collect();
        for open in &report.named {
            told += 1;
            if is_away(&open.reason) && is_well(&open.node, &asked, well) {
                continue;
            }
            let mut reasons = REASONS.iter();
            obstacles.push(Obstacle {
                node: open.node.clone(),
                process: open.process.clone(),
                resource: open.resource.clone(),
                reason: reasons
                    .find(|known| **known == open.reason)
                    .copied()
                    .unwrap_or("other"),
                workload_count: open.workload_count,
                last_certificate_ends: open.ends,
                detail: format!("told by {replica}"),
                told_by: replica.clone(),
                began_ms: open.began_ms,
                ..Obstacle::default()
            });
        }
        if report.open <= told {
            let missed = asked.into_iter().filter(|(node, last)| {
                let is_named = |open: &Open| open.node == *node && is_away(&open.reason);
                !well.has(node, *last) && !report.named.iter().any(is_named)
            });
            obstacles.extend(missed.map(|(node, last)| Obstacle {
                node: node.to_owned(),
                reason: Reason::AgentAway.as_str(),
                detail: format!("told by {replica}"),
                told_by: replica.clone(),
                began_ms: last,
                ..Obstacle::default()
            }));
        } else {
            obstacles.push(Obstacle {
                node: replica.clone(),
                reason: "replica-waits",
                detail: format!("it waits for {} more", report.open - told),
                told_by: replica.clone(),
                unnamed: report.open - told,
                ..Obstacle::default()
            });
        }
    }
    obstacles
}

impl Sight<'_> {
    /// Takes out of what others wait for the nodes whose agents have come here, and are well: the
    /// newest word of a node is what it tells in its latest Follow. Whoever waits for them may
    /// be dead.
    pub(super) fn without_well_here(
        &self,
        rotation: &Rotation,
        obstacles: &mut Vec<Obstacle>,
        now: std::time::SystemTime,
    ) {
        let nodes: BTreeSet<&str> = obstacles.iter().map(|it| it.node.as_str()).collect();
        let nodes: Vec<NodeName> = nodes.into_iter().filter_map(node).collect();
        let well = self.well(rotation, &nodes, now);
        obstacles.retain(|it| {
            let began = well.get(&it.node).copied();
            began.is_none() || began <= it.began_ms
        });
    }

    fn well(
        &self,
        rotation: &Rotation,
        nodes: &[NodeName],
        now: std::time::SystemTime,
    ) -> BTreeMap<String, i64> {
        match rotation.phase {
            Phase::Reissue | Phase::Prepare => self.fleet.well_without(nodes, &rotation.from, now),
            _ => self.fleet.well_with(nodes, self.bundle, now),
        }
    }

    /// What this replica tells the others, who have said `reports`.
    pub(super) fn report(
        &self,
        rotation: &Rotation,
        gate: Gate,
        signs_under: KeyId,
        (confirmed, waiting): (u64, &[Obstacle]),
        away: Away,
        now: std::time::SystemTime,
    ) -> Report {
        let missed: BTreeSet<&str> = self
            .reports
            .values()
            .flat_map(|report| report.away.iter().map(String::as_str))
            .collect();
        let missed: Vec<NodeName> = missed.into_iter().filter_map(node).collect();
        let well = self.well(rotation, &missed, now).into_iter();
        let well = first(WELL, well, |(name, _)| name.len() + NUMBER);
        let (well, well_began_ms) = well.into_iter().unzip();
        let left = |name: &String| away.began_ms.get(name).copied();
        let here = |name: &String| self.fleet.followed(&node(name)?, now);
        Report {
            gate,
            signs_under,
            confirmed,
            open: waiting.len() as u64,
            named: waiting
                .iter()
                .take(NAMED)
                .map(|it| Open {
                    node: it.node.clone(),
                    process: it.process.clone(),
                    resource: it.resource.clone(),
                    reason: it.reason.to_owned(),
                    workload_count: it.workload_count,
                    began_ms: left(&it.node).or_else(|| here(&it.node)),
                    ends: it.last_certificate_ends,
                })
                .collect(),
            away: away.nodes,
            away_began_ms: away.began_ms,
            well,
            well_began_ms,
            below: Vec::new(),
            said: Some(now),
            extra: Map::new(),
        }
    }
}

fn node(text: &str) -> Option<NodeName> {
    let (cluster, node) = text.split_once('/')?;
    Some(NodeName {
        cluster: cluster.into(),
        node: node.into(),
    })
}

impl Told {
    pub(super) fn new(report: Report, at: Instant) -> Self {
        Self { report, at }
    }

    /// Whether `report` is to be stored now: it says something else, and either decides
    /// something or the last one was some time ago, at a gate of this dwell.
    pub(super) fn is_out_of_date(
        told: Option<&Self>,
        report: &Report,
        dwell: Duration,
        now: Instant,
    ) -> bool {
        let Some(told) = told else { return true };
        let as_told = Report {
            said: told.report.said,
            ..report.clone()
        };
        if told.report == as_told {
            return !report.well.is_empty() && now >= told.at + beat(dwell);
        }
        let decides = told.report.gate != report.gate
            || report.open == 0
            || told.report.open == 0
            || told.report.signs_under != report.signs_under
            || told.report.away != report.away
            || told.report.well != report.well;
        decides || now >= told.at + EVERY
    }
}

#[cfg(test)]
mod tests;
