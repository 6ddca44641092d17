//! How much is issued and refused, in the last ten minutes.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use crate::ca::Ca;

/// Between two counts.
const STEP: Duration = Duration::from_secs(10);
/// Counts that are kept.
const KEPT: usize = 61;
/// Steps of the rate that is told in one number: a minute.
const RECENT: usize = 6;

/// Totals since the start, every ten seconds.
#[derive(Debug, Default)]
pub(super) struct Rate(Mutex<VecDeque<(u64, u64)>>);

/// What was counted.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Counted {
    /// Issued in each ten seconds, oldest first.
    pub(super) issued: Vec<u64>,
    /// Issued in a second, over the last minute.
    pub(super) per_second: f64,
    /// Refused in all that time.
    pub(super) refused: u64,
}

impl Rate {
    pub(super) async fn keep(&self, ca: &OnceLock<Arc<Ca>>) {
        let mut step = tokio::time::interval(STEP);
        step.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            step.tick().await;
            if let Some(ca) = ca.get() {
                self.add(ca.metrics.totals());
            }
        }
    }

    fn add(&self, totals: (u64, u64)) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(totals);
    }

    pub(super) fn counted(&self) -> Counted {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let pairs = kept.iter().zip(kept.iter().skip(1));
        let issued: Vec<_> = pairs.map(|((a, _), (b, _))| b.saturating_sub(*a)).collect();
        let recent = issued.iter().rev().take(RECENT);
        let steps = recent.len();
        #[allow(
            clippy::cast_precision_loss,
            reason = "what is issued in a minute is far below 2^52"
        )]
        let sum = recent.sum::<u64>() as f64;
        let refused = match (kept.front(), kept.back()) {
            (Some((_, first)), Some((_, last))) => last.saturating_sub(*first),
            _ => 0,
        };
        let seconds = STEP.as_secs_f64() * f64::from(u32::try_from(steps).unwrap_or(1).max(1));
        Counted {
            per_second: sum / seconds,
            issued,
            refused,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_last_minute_and_the_rest_is_forgotten_in_time() {
        let rate = Rate::default();
        assert_eq!(rate.counted(), Counted::default());
        for step in 0..100 {
            rate.add((step * 30, step / 50));
        }
        let counted = rate.counted();
        assert_eq!(counted.issued, [30; KEPT - 1]);
        assert!((counted.per_second - 3.0).abs() < 1e-9);
        assert_eq!(counted.refused, 1);
    }
}
