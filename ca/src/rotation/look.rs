//! Looking at the world for a rotation.

use std::time::SystemTime;

use arx_identity::{Certificate, KeyId};

use super::driver::Wrong;
use super::facts::{Facts, Obstacle};
use super::time::Doubt;
use crate::ca::Ca;
use crate::fleet::{Gate, Unconfirmed};
use crate::state::{Authorities, KeyPlace, Phase, Registration, Root, RootState, Rotation};

impl Ca {
    /// What is seen at `now` of everything that `rotation` depends on.
    pub(super) async fn facts(
        &self,
        rotation: &Rotation,
        now: SystemTime,
        doubt: Option<Doubt>,
    ) -> Result<Facts, Wrong> {
        let stored = self.state.authorities().await?;
        let stored = stored.ok_or_else(|| Wrong::gone("the authorities"))?.value;
        let active = stored
            .active()
            .and_then(Root::key_id)
            .ok_or_else(|| Wrong::gone("the active root"))?;
        let of = |state: &RootState| {
            let mut roots = stored.roots.iter();
            roots
                .find(|root| root.state == *state)
                .and_then(Root::key_id)
        };
        let bundle = self.trust.current();
        let nobody = KeyId::from_slice(&[0; 20]).unwrap_or(active);
        let serves_under = self
            .authority
            .serving()
            .and_then(|svid| svid.chain().certificates().last()?.authority_key_id());
        let (confirmed, mut obstacles) = self.gate(rotation, &stored, now).await?;
        obstacles.extend(doubt.map(|doubt| self.clock(doubt)));
        Ok(Facts {
            active,
            prepared: of(&RootState::Prepared),
            roots: stored
                .roots
                .iter()
                .filter(|root| !matches!(root.key, KeyPlace::Erased))
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
            confirmed,
            obstacles,
        })
    }

    /// Who has done what the phase waits for, and who has not.
    async fn gate(
        &self,
        rotation: &Rotation,
        stored: &Authorities,
        now: SystemTime,
    ) -> Result<(u64, Vec<Obstacle>), Wrong> {
        let live = self.ledger.live();
        let others = |wanted: fn(&Registration) -> bool| {
            let mut others: Vec<_> = stored
                .registrations
                .iter()
                .filter(|it| *it.replica != *self.replica && it.not_after > now && wanted(it))
                .collect();
            others.sort_by(|a, b| a.replica.cmp(&b.replica));
            others.dedup_by(|a, b| a.replica == b.replica);
            others
        };
        let bundle = self.trust.current();
        let (gate, mut obstacles) = match rotation.phase {
            Phase::Distribute | Phase::Retire | Phase::Restore
                if rotation.sequence == Some(bundle.sequence()) =>
            {
                if !live.is_ready() {
                    return Ok((0, vec![index()]));
                }
                let mut behind = Vec::new();
                for registration in others(|_| true) {
                    if self.seen(&registration.replica).await? < Some(bundle.sequence()) {
                        behind.push(replica(registration, "replica-behind"));
                    }
                }
                let holders = live.holders(now, None);
                (self.fleet.confirmations(&bundle, &holders, now), behind)
            }
            Phase::Activate => {
                let to = rotation.to;
                let late = others(|_| true).into_iter().filter(|registration| {
                    !stored.registrations.iter().any(|other| {
                        other.replica == registration.replica && Some(other.root) == to
                    })
                });
                let late = late.map(|it| replica(it, "replica-behind"));
                (Gate::default(), late.collect())
            }
            Phase::Reissue => {
                if !live.is_ready() {
                    return Ok((0, vec![index()]));
                }
                let signing = others(|_| true)
                    .into_iter()
                    .filter(|it| it.root == rotation.from)
                    .map(|it| replica(it, "replica-signs"))
                    .collect();
                let holders = live.holders(now, Some(&rotation.from));
                let mut gate = self.fleet.users_of(&rotation.from, &holders, now);
                let to = rotation.to.map(|to| live.count_under_root(&to, now));
                gate.confirmed = to.unwrap_or(0);
                (gate, signing)
            }
            _ => return Ok((0, Vec::new())),
        };
        let waiting = gate.unconfirmed.into_iter().map(Obstacle::from).collect();
        obstacles.extend(self.without_denied(waiting, now).await);
        Ok((gate.confirmed, obstacles))
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

    /// The newest bundle that a replica has promised never to go below.
    async fn seen(&self, replica: &str) -> Result<Option<arx_identity::Sequence>, Wrong> {
        let all = self.state.replicas().await?;
        let found = all.into_iter().find(|(name, _)| name == replica);
        Ok(found.and_then(|(_, document)| document.seen.sequence))
    }
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
        }
    }
}

fn replica(registration: &Registration, reason: &'static str) -> Obstacle {
    Obstacle {
        node: registration.replica.clone(),
        reason,
        last_certificate_ends: Some(registration.not_after),
        ..Obstacle::default()
    }
}

/// After a start it takes a moment to know who holds what.
fn index() -> Obstacle {
    Obstacle {
        reason: "index-building",
        ..Obstacle::default()
    }
}
