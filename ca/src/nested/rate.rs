//! How often an authority below may ask: each certificate is signed by the root's key, which may
//! be slow, and one that asks again and again does something wrong.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use arx_identity::SpiffeId;

use crate::refusal::{Fault, Refusal};

/// So many requests of one authority, with all its replicas,
const MOST: usize = 20;
/// within this.
const WITHIN: Duration = Duration::from_secs(600);

/// When who has asked lately. Only those who may ask are counted, so that the list is short.
#[derive(Debug, Default)]
pub struct Rate(Mutex<HashMap<SpiffeId, VecDeque<Instant>>>);

impl Rate {
    /// Counts a request.
    ///
    /// # Errors
    /// `ARX-NESTED-BUSY`, with the time to come back, if there were too many.
    pub fn count(&self, id: &SpiffeId, now: Instant) -> Result<(), Refusal> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = all.entry(id.clone()).or_default();
        recent.retain(|at| now.saturating_duration_since(*at) < WITHIN);
        match recent.front() {
            Some(first) if recent.len() >= MOST => Err(Refusal::new(
                "ARX-NESTED-BUSY",
                Fault::Overload,
                format!(
                    "{id} has asked {MOST} times within {} minutes: see in its log why it does not use what it gets",
                    WITHIN.as_secs() / 60
                ),
            )
            .after(WITHIN.saturating_sub(now.saturating_duration_since(*first)))),
            _ => {
                recent.push_back(now);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_too_often_has_to_wait_and_nobody_else() {
        let rate = Rate::default();
        let id = |name: &str| SpiffeId::parse(&format!("spiffe://example.org/{name}"));
        let (wild, calm) = (id("wild").expect("an id"), id("calm").expect("an id"));
        let begin = Instant::now();
        for second in 0..MOST as u64 {
            let now = begin + Duration::from_secs(second);
            rate.count(&wild, now).expect("within its rate");
        }
        let now = begin + Duration::from_secs(60);
        let refused = rate.count(&wild, now).expect_err("too often");
        assert_eq!(refused.code, "ARX-NESTED-BUSY");
        assert_eq!(refused.retry_after, Some(WITHIN - Duration::from_secs(60)));
        rate.count(&calm, now).expect("its own rate");
        rate.count(&wild, begin + WITHIN).expect("after the wait");
    }
}
