//! How long it takes this authority to issue everything under a root anew.

use std::time::{Duration, Instant, SystemTime};

use arx_identity::KeyId;
use arx_identity::profile::{Leaf, Validity};

use crate::authority::sign_leaf;
use crate::ca::Ca;

/// Certificates that are signed to measure how fast that is.
const SAMPLE: u32 = 16;

impl Ca {
    /// How long this authority needs to issue everything under `root` anew, by what it signs
    /// now; nothing if that is less than a second.
    pub(crate) fn reissue_takes(&self, root: KeyId, now: SystemTime) -> Duration {
        let certificates = self.ledger.live().count_under_root(&root, now);
        takes(certificates, self.measured_rate())
    }

    /// Certificates that this process can issue in a second, by what it takes it to sign some
    /// now. Half of that: the rest of issuing takes as long, and workloads that start go first.
    fn measured_rate(&self) -> u64 {
        let Some(issuing) = self.authority.issuing() else {
            return 0;
        };
        let Some(svid) = self.authority.serving() else {
            return 0;
        };
        let id = svid.spiffe_id();
        let begun = Instant::now();
        for _ in 0..SAMPLE {
            let ttl = Duration::from_secs(60);
            let leaf = Leaf {
                public_key: svid.chain().leaf().public_key(),
                id,
                dns_names: &[],
                validity: Validity::leaf(issuing.issuer(), self.clock.now(), ttl),
                revocable: false,
            };
            // Nobody is given any of them.
            if sign_leaf(&issuing, &leaf).is_err() {
                return 0;
            }
        }
        let one = begun.elapsed() / SAMPLE;
        let processors = std::thread::available_parallelism().map_or(1, |it| it.get() as u64);
        let nanos = u64::try_from(one.as_nanos()).unwrap_or(u64::MAX).max(1);
        (1_000_000_000 / nanos * processors / 2).max(1)
    }
}

/// How long it takes to issue so many, at `rate` in a second; nothing if it is less than a
/// second, or the rate is not known.
fn takes(certificates: u64, rate: u64) -> Duration {
    if certificates <= rate || rate == 0 {
        return Duration::ZERO;
    }
    Duration::from_secs(certificates.div_ceil(rate))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{House, Outcome};

    #[test]
    fn spread_over_that_time_no_second_has_more_renewals_than_can_be_issued() {
        assert_eq!(takes(0, 2000), Duration::ZERO);
        assert_eq!(takes(2000, 2000), Duration::ZERO, "all in one second");
        assert_eq!(takes(2001, 2000), Duration::from_secs(2));
        assert_eq!(takes(1_000_000, 2000), Duration::from_secs(500));
        assert_eq!(takes(5, 0), Duration::ZERO, "nothing is known");
        for certificates in (0..100_000).step_by(777) {
            for rate in [1, 7, 100, 5000] {
                let seconds = takes(certificates, rate).as_secs().max(1);
                assert!(
                    certificates.div_ceil(seconds) <= rate,
                    "{certificates} {rate}"
                );
            }
        }
    }

    #[tokio::test]
    async fn an_authority_that_has_nothing_to_sign_by_yet_has_no_rate() -> Outcome {
        let house = House::new().await?;
        let (ca, now) = (&house.ca, house.clock.now());
        assert_eq!(ca.measured_rate(), 0);
        let root = ca.authority.root_key_id();
        assert_eq!(ca.reissue_takes(root, now), Duration::ZERO);
        Ok(())
    }
}
