//! Looking at the world for a rotation.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use arx_identity::{Certificate, KeyId};

use super::driver::Wrong;
use super::facts::{Facts, Obstacle};
use super::reports::{self, Away, Told, Well};
use super::sight::{Seen, Sight};
use super::time::Doubt;
use crate::ca::Ca;
use crate::denial::Apart;
use crate::nested;
use crate::state::{
    Authorities, Below, Gate, Phase, ReplicaDocument, Report, Root, RootState, Rotation,
};

/// How a gate stands.
struct Judged {
    /// Who has done what the phase waits for.
    confirmed: u64,
    /// Who has not.
    obstacles: Vec<Obstacle>,
    /// Denied holders who have not.
    denied: Vec<Obstacle>,
    /// Whether somebody is out of the way by another replica's word alone.
    by_word: bool,
}

impl Ca {
    /// What is seen at `now` of everything that `rotation` depends on.
    pub(super) async fn facts(
        &self,
        rotation: &Rotation,
        now: SystemTime,
        doubt: Option<Doubt>,
    ) -> Result<Facts, Wrong> {
        let looked = self.clock.monotonic();
        let stored = self.state.authorities().await?;
        let stored = stored.ok_or_else(|| Wrong::gone("the authorities"))?.value;
        let active = stored
            .active()
            .and_then(Root::key_id)
            // Cut off, with no other in its place.
            .or(rotation.without_successor.then_some(rotation.from))
            .ok_or_else(|| Wrong::gone("the active root"))?;
        let of = |state: &RootState| {
            let mut roots = stored.roots.iter();
            roots
                .find(|root| root.state == *state)
                .and_then(Root::key_id)
        };
        let bundle = self.trust.current();
        let nobody = KeyId::from_slice(&[0; 20]).unwrap_or(active);
        let serves_under = self.authority.serving().and_then(|svid| {
            let mut above = svid.chain().authorities();
            above.find(|id| stored.root(*id).is_some())
        });
        let replicas = self.state.replicas().await?;
        let Judged {
            mut confirmed,
            mut obstacles,
            denied,
            by_word,
        } = self.gate(rotation, &stored, &replicas, now).await?;
        let (held, unwritten) = self.published(rotation);
        confirmed += held;
        obstacles.extend(unwritten);
        obstacles.extend(doubt.map(|doubt| self.clock(doubt)));
        if reports::gate(rotation).is_some() {
            obstacles.extend(self.history_lost(&replicas, now));
        }
        obstacles.extend(self.waits_for_above(rotation));
        Ok(Facts {
            active,
            prepared: of(&RootState::Prepared),
            roots: stored
                .roots
                .iter()
                .filter(|root| root.state != RootState::Distrusted)
                .filter_map(Root::key_id)
                .collect(),
            signs_under: self.authority.issuing().map_or(nobody, |it| it.root()),
            serves_under: serves_under.unwrap_or(nobody),
            bundle: bundle
                .roots()
                .iter()
                .filter_map(Certificate::subject_key_id)
                .collect(),
            sequence: bundle.sequence(),
            from_ends: stored
                .root(rotation.from)
                .map(|root| root.certificate.not_after()),
            longest_leaf: self.authority.longest_leaf(),
            reissue_takes: match rotation.phase {
                Phase::Activate => self.reissue_takes(rotation.from, now),
                _ => Duration::ZERO,
            },
            counting_for: self.counting_for(),
            confirmed,
            clear_for: self
                .rotator
                .clear_for(rotation, obstacles.is_empty(), looked),
            obstacles,
            denied,
            by_word,
        })
    }

    /// How long this process has known who holds what.
    fn counting_for(&self) -> Option<Duration> {
        let is_ready = self.ledger.live().is_ready();
        is_ready.then(|| self.rotator.counting_for(self.clock.monotonic()))
    }

    /// How the gate of the phase stands.
    async fn gate(
        &self,
        rotation: &Rotation,
        stored: &Authorities,
        replicas: &[(String, ReplicaDocument)],
        now: SystemTime,
    ) -> Result<Judged, Wrong> {
        let mut others = stored.registrations.iter();
        let others_sign = others
            .any(|other| *other.replica != *self.replica && !nested::is_below(&other.replica));
        let gate = reports::gate(rotation);
        let others = replicas.iter().filter(|(name, _)| **name != *self.replica);
        let reports = others
            .clone()
            .filter_map(|(name, document)| Some((name, document.report.as_ref()?)));
        let dwell = rotation.terms.dwell;
        let alive = self.rotator.alive(reports, dwell, self.clock.monotonic());
        let said = others.filter_map(|(name, document)| {
            let report = document.report.as_ref()?;
            (Some(&report.gate) == gate.as_ref()).then(|| (name.clone(), report))
        });
        let said: BTreeMap<String, &Report> = said.collect();
        let told_elsewhere = said.values().flat_map(|report| &report.below);
        let told_elsewhere: Vec<_> = told_elsewhere
            .map(|below| (below.name.clone(), below.sequence))
            .collect();
        let sight = Sight {
            replica: &self.replica,
            registrations: &stored.registrations,
            seen: replicas
                .iter()
                .filter_map(|(name, document)| Some((name.clone(), document.seen.sequence?)))
                // Whoever was told last knows the highest.
                .chain(told_elsewhere)
                .chain(self.confirmed_below.all())
                .collect(),
            reports: said,
            bundle: &self.trust.current(),
            live: &self.ledger.live(),
            fleet: &self.fleet,
        };
        let Seen {
            mut confirmed,
            replicas: mut obstacles,
            waiting,
        } = sight.gate(rotation, now);
        let Apart { mut waits, denied } = self.denied_apart(waiting, now).await;
        // Also those of which another says that they are well: it has to go on saying so.
        let away = Away::of(&waits, &self.fleet, self.clock.now());
        let alive = sight
            .reports
            .iter()
            .filter(|(name, _)| alive.contains(name.as_str()));
        let well = Well::of(alive.map(|(_, report)| *report));
        let mut by_word = reports::without_well(&mut waits, &away, &well);
        let signs_under = self.authority.issuing().map(|it| it.root());
        if let Some(gate) = gate {
            // Not before it is known who has been issued what.
            let signs_under = signs_under.filter(|_| self.ledger.live().is_ready());
            if let Some(signs_under) = signs_under.filter(|_| !others_sign) {
                self.mark_gate(gate, signs_under).await?;
            } else if let Some(signs_under) = signs_under {
                let known = (confirmed, &waits[..]);
                let below = self
                    .confirmed_below
                    .all()
                    .into_iter()
                    .map(|(name, sequence)| Below { name, sequence });
                let report = Report {
                    below: below.collect(),
                    ..sight.report(rotation, gate, signs_under, known, away, now)
                };
                self.tell_replicas(report, dwell).await?;
            }
            if others_sign {
                by_word |= reports::rest_on(sight.reports.values(), &well);
                confirmed += sight.reports.values().map(|it| it.confirmed).sum::<u64>();
                let mut others = reports::of_others(sight.reports.iter(), &well);
                sight.without_well_here(rotation, &mut others, now);
                obstacles.extend(others);
            }
        }
        obstacles.extend(waits);
        Ok(Judged {
            confirmed,
            obstacles,
            denied,
            by_word,
        })
    }

    /// Notes how far the ledger is before the gate can open: what was issued under the root that
    /// leaves stands before that.
    async fn mark_gate(&self, gate: Gate, signs_under: KeyId) -> Result<(), Wrong> {
        let marked = (gate, signs_under);
        if !self.rotator.has_marked(&marked) {
            self.note_checkpoint().await?;
            self.rotator.mark(marked);
        }
        Ok(())
    }

    /// Stores what this replica knows of a gate, for the others.
    async fn tell_replicas(&self, report: Report, dwell: Duration) -> Result<(), Wrong> {
        let now = self.clock.monotonic();
        let told = self.rotator.told();
        if Told::is_out_of_date(told.as_ref(), &report, dwell, now) {
            let checkpoint = self.checkpoint();
            let stored = self.state.report(&self.replica, report.clone(), checkpoint);
            stored.await?;
            self.rotator.has_told(Told::new(report, now));
        }
        Ok(())
    }

    /// Objects in clusters that hold the bundle which has to be confirmed, and those that do not.
    fn published(&self, rotation: &Rotation) -> (u64, Vec<Obstacle>) {
        let waits = [Phase::Distribute, Phase::Retire, Phase::Restore].contains(&rotation.phase);
        let sequence = self.trust.current().sequence();
        if !waits || rotation.sequence != Some(sequence) {
            return (0, Vec::new());
        }
        let now = tokio::time::Instant::now();
        let (held, mut unwritten) = self.publishers.gate(sequence, now);
        for object in &mut unwritten {
            object.since = Some(rotation.phase_began);
        }
        (held, unwritten)
    }

    /// Nothing counts as ended while this authority's clock may be wrong.
    fn clock(&self, doubt: Doubt) -> Obstacle {
        let (seconds, agents) = (doubt.offset_ms / 1000, doubt.agents);
        let direction = if seconds < 0 { "ahead of" } else { "behind" };
        let seconds = seconds.abs();
        Obstacle {
            node: self.replica.to_string(),
            reason: "clock-doubtful",
            detail: format!(
                "its clock is {seconds} s {direction} the middle one of {agents} connected agents"
            ),
            ..Obstacle::default()
        }
    }
}
