//! How the objects stand: for gates, for operators, for metrics.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use arx_identity::Sequence;
use tokio::time::Instant;

use super::trouble::Trouble;
use super::world::Standing;
use super::{Publisher, Publishers, TOLD};
use crate::rotation::Obstacle;

/// What becomes of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Written,
    /// Somebody else's.
    Foreign,
    Failed,
}

/// How the objects of a cluster stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Health {
    /// Objects that hold what is published.
    pub(crate) current: u64,
    /// Objects that are to hold it, and do not.
    pub(crate) behind: u64,
    /// What is in the way of some of them, the first by name, and of how many.
    pub(crate) trouble: Option<(&'static str, String)>,
    /// Writes, by outcome.
    pub(crate) writes: [(&'static str, u64); 3],
}

impl Outcome {
    pub(super) fn of(trouble: Option<&Trouble>) -> Self {
        match trouble {
            None => Self::Written,
            Some(trouble) if trouble.code == "ARX-PUBLISH-FOREIGN" => Self::Foreign,
            Some(_) => Self::Failed,
        }
    }
}

impl Publishers {
    /// Who holds the bundle of this sequence, and which objects are in the way of a gate.
    pub(crate) fn gate(&self, sequence: Sequence, now: Instant) -> (u64, Vec<Obstacle>) {
        let (mut confirmed, mut waiting) = (0, Vec::new());
        for publisher in &self.all {
            confirmed += publisher.gate(sequence, now, &mut waiting);
        }
        (confirmed, waiting)
    }

    /// How each cluster stands.
    pub(crate) fn health(&self) -> Vec<(Arc<str>, Health)> {
        let each = self.all.iter();
        each.map(|it| (Arc::clone(&it.cluster), it.health()))
            .collect()
    }

    /// Whether anything is published.
    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }
}

impl Publisher {
    pub(super) fn gate(
        &self,
        sequence: Sequence,
        now: Instant,
        waiting: &mut Vec<Obstacle>,
    ) -> u64 {
        let mut world = self.world();
        world.make_known();
        let mut confirmed = 0;
        let obstacle = |process: String, reason, detail: String| Obstacle {
            node: self.cluster.to_string(),
            process,
            reason,
            detail,
            ..Obstacle::default()
        };
        for (number, place) in self.places.iter().enumerate() {
            if let Some(why) = world.unread(number) {
                let why = why.map_or("they are being read", |trouble| &trouble.message);
                let namespaces = if place.is_in_namespaces() { "*" } else { "" };
                let name = place.describe(namespaces);
                waiting.push(obstacle(name, NOT_WRITTEN, why.to_owned()));
            }
        }
        let newest = world.wanted().stamp.sequence == sequence;
        for standing in world.standings() {
            if standing.is_absent {
                continue;
            }
            let place = world.place(&standing.target);
            let settle = match place.kind.is_file_in_pods() {
                true => self.settle,
                false => Duration::ZERO,
            };
            let name = || place.describe(&standing.target.namespace);
            match standing.holds_since.filter(|_| newest) {
                None => {
                    let why = standing.trouble.map(|trouble| trouble.message);
                    let why = why.unwrap_or_else(|| "it is about to be".to_owned());
                    waiting.push(obstacle(name(), NOT_WRITTEN, why));
                }
                Some(since) if now < since + settle => {
                    let left = (since + settle - now).as_secs() + 1;
                    let words = format!("written; within {left} s pods have it in their files");
                    waiting.push(obstacle(name(), DELIVERED, words));
                }
                Some(_) => confirmed += 1,
            }
        }
        confirmed
    }

    pub(super) fn health(&self) -> Health {
        let mut world = self.world();
        world.make_known();
        let mut health = Health::default();
        let mut wrong: Vec<(String, Trouble)> = Vec::new();
        for (number, place) in self.places.iter().enumerate() {
            let why = match world.unread(number) {
                Some(why) => why,
                None => world.unheard(number),
            };
            if let Some(why) = why {
                let namespaces = if place.is_in_namespaces() { "*" } else { "" };
                wrong.push((place.describe(namespaces), why.clone()));
            }
        }
        for standing in world.standings() {
            let Standing {
                target,
                holds_since,
                trouble,
                ..
            } = standing;
            match (holds_since, &trouble) {
                (Some(_), None) => health.current += 1,
                _ => health.behind += 1,
            }
            if let Some(trouble) = trouble {
                wrong.push((world.place(&target).describe(&target.namespace), trouble));
            }
        }
        health.trouble = wrong.first().map(|(name, trouble)| {
            let others = match wrong.len() - 1 {
                0 => String::new(),
                more => format!("; and {more} more"),
            };
            let cluster = &self.cluster;
            let message = format!(
                "cluster {cluster}: {name} not written: {}{others}",
                trouble.message
            );
            (trouble.code, message)
        });
        let outcomes = ["written", "foreign", "failed"];
        health.writes =
            std::array::from_fn(|n| (outcomes[n], self.counted[n].load(Ordering::Relaxed)));
        health
    }

    /// Tells the log of what is in the way, each kind once in a while.
    pub(super) fn tell(&self) {
        let Some((code, message)) = self.health().trouble else {
            return;
        };
        let now = Instant::now();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = told.get(code).is_some_and(|at| now < *at + TOLD);
        if !recent {
            told.insert(code, now);
            tracing::warn!(code, "{message}");
        }
    }
}

/// Why an object is in the way of a gate.
const NOT_WRITTEN: &str = "not-written";
const DELIVERED: &str = "delivered";
