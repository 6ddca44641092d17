//! What is read of the roots and of the rotation that is under way.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use super::seconds;
use crate::rotation::View;
use crate::state::{Kind, Phase};

/// The phases in which a rotation is under way; the last is of a newer version.
const PHASES: [Phase; 9] = [
    Phase::Prepare,
    Phase::Distribute,
    Phase::Activate,
    Phase::Reissue,
    Phase::Retire,
    Phase::Withdraw,
    Phase::Restore,
    Phase::Held,
    Phase::Unknown,
];

/// A root.
#[derive(Clone, Debug, EncodeLabelSet)]
pub struct RootLabel {
    /// Its part in a rotation.
    pub state: Arc<str>,
    /// Its subject key identifier, in hex.
    pub key_id: String,
}

#[derive(Clone, Debug, EncodeLabelSet)]
struct PhaseLabel {
    phase: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

/// The rotation that is under way; nothing of it, if there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rotating {
    /// Its phase, and when that began.
    phase: Option<(Phase, SystemTime)>,
    confirmed: u64,
    /// Who is in the way, by reason.
    unconfirmed: BTreeMap<&'static str, u64>,
    /// How long the first of them has been in the way.
    oldest: Duration,
    /// Something keeps the authority itself from going on.
    trouble: bool,
    /// The root that leaves must not be trusted any more.
    distrust: bool,
}

impl Rotating {
    /// Of what was seen last.
    #[must_use]
    pub fn of(view: Option<&View>, now: SystemTime) -> Self {
        let Some(view) = view.filter(|view| !view.rotation.phase.is_over()) else {
            return Self::default();
        };
        let began = view.rotation.phase_began;
        let mut unconfirmed = BTreeMap::new();
        let mut oldest = Duration::ZERO;
        for obstacle in &view.obstacles {
            *unconfirmed.entry(obstacle.reason).or_default() += 1;
            // Whoever was away before is in the way only since there is something to confirm.
            let since = obstacle.since.map_or(began, |since| since.max(began));
            oldest = oldest.max(now.duration_since(since).unwrap_or_default());
        }
        Self {
            phase: Some((view.rotation.phase, began)),
            confirmed: view.confirmed,
            unconfirmed,
            oldest,
            trouble: view.trouble.is_some(),
            distrust: view.rotation.kind == Kind::Distrust,
        }
    }

    pub(super) fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut phases = encoder.encode_descriptor(
            "arx_ca_rotation_phase",
            "1 for the phase in which a rotation of the root is under way",
            None,
            MetricType::Gauge,
        )?;
        for phase in PHASES {
            let is_it = self.phase.is_some_and(|(now, _)| now == phase);
            let label = PhaseLabel {
                phase: phase.as_str(),
            };
            ConstGauge::new(i64::from(is_it)).encode(phases.encode_family(&label)?)?;
        }
        let began = encoder.encode_descriptor(
            "arx_ca_rotation_phase_start_timestamp",
            "When the rotation's phase began, since 1970; 0 while none is under way",
            Some(&Unit::Seconds),
            MetricType::Gauge,
        )?;
        ConstGauge::new(self.phase.map_or(0.0, |(_, began)| seconds(began))).encode(began)?;
        let confirmed = encoder.encode_descriptor(
            "arx_ca_rotation_confirmed",
            "How many have done what the rotation's phase waits for",
            None,
            MetricType::Gauge,
        )?;
        count(self.confirmed).encode(confirmed)?;
        let mut unconfirmed = encoder.encode_descriptor(
            "arx_ca_rotation_unconfirmed",
            "How many have not, by reason",
            None,
            MetricType::Gauge,
        )?;
        for (reason, number) in &self.unconfirmed {
            let label = ReasonLabel { reason };
            count(*number).encode(unconfirmed.encode_family(&label)?)?;
        }
        let oldest = encoder.encode_descriptor(
            "arx_ca_rotation_oldest_unconfirmed",
            "How long the first of them has kept the gate shut",
            Some(&Unit::Seconds),
            MetricType::Gauge,
        )?;
        ConstGauge::new(self.oldest.as_secs_f64()).encode(oldest)?;
        let trouble = encoder.encode_descriptor(
            "arx_ca_rotation_trouble",
            "1 while something keeps the authority itself from going on with the rotation",
            None,
            MetricType::Gauge,
        )?;
        ConstGauge::new(i64::from(self.trouble)).encode(trouble)?;
        let distrust = encoder.encode_descriptor(
            "arx_ca_rotation_distrust",
            "1 while the rotation that is under way is the distrust of a root",
            None,
            MetricType::Gauge,
        )?;
        ConstGauge::new(i64::from(self.distrust)).encode(distrust)
    }
}

pub(super) fn encode_roots(
    roots: &[(RootLabel, SystemTime)],
    encoder: &mut DescriptorEncoder<'_>,
) -> Result<(), fmt::Error> {
    let mut ends = encoder.encode_descriptor(
        "arx_ca_root_expiry_timestamp",
        "End of each root, by its part in a rotation, since 1970",
        Some(&Unit::Seconds),
        MetricType::Gauge,
    )?;
    for (label, end) in roots {
        ConstGauge::new(seconds(*end)).encode(ends.encode_family(label)?)?;
    }
    Ok(())
}

fn count(number: u64) -> ConstGauge<i64> {
    ConstGauge::new(i64::try_from(number).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arx_identity::KeyId;

    use crate::rotation::{Obstacle, begin};
    use crate::state::{Rotations, Terms};
    use crate::testing::Outcome;

    #[test]
    fn who_is_in_the_way_is_counted_by_reason_and_since_the_phase_began() -> Outcome {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let from = KeyId::from_slice(&[1; 20]).ok_or("a key id")?;
        let terms = Terms {
            window: Duration::ZERO,
            dwell: Duration::ZERO,
            patience: None,
        };
        let rotation = begin(
            &mut Rotations::default(),
            from,
            terms,
            String::new(),
            at(1000),
        )?;
        let obstacle = |reason, since| Obstacle {
            reason,
            since,
            ..Obstacle::default()
        };
        let mut view = View {
            rotation,
            confirmed: 7,
            denied: Vec::new(),
            obstacles: vec![
                obstacle("agent-away", Some(at(10))),
                obstacle("not-acked", Some(at(1050))),
                obstacle("not-acked", None),
            ],
            trouble: None,
        };
        let seen = Rotating::of(Some(&view), at(1100));
        assert_eq!(seen.phase, Some((Phase::Prepare, at(1000))));
        let expected = BTreeMap::from([("agent-away", 1), ("not-acked", 2)]);
        assert_eq!((seen.confirmed, seen.unconfirmed), (7, expected));
        assert_eq!(seen.oldest, Duration::from_secs(100));
        assert!(!seen.distrust);
        view.rotation.kind = Kind::Distrust;
        assert!(Rotating::of(Some(&view), at(1100)).distrust);
        view.rotation.phase = Phase::Done;
        assert_eq!(Rotating::of(Some(&view), at(1100)), Rotating::default());
        Ok(())
    }
}
