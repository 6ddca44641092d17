//! Another CA that certifies the upper intermediate, asked by this process, long before it has
//! to be there and never while anybody waits for a certificate.

mod arx;
mod command;

use std::time::SystemTime;

use arx_identity::KeyId;
use arx_identity::crypto::random;

use super::outside::{self, Another, How, Installed};
use super::{AuthorityError, Options};
use crate::state::{Replica, State};

pub use self::arx::{Arx, ArxError, Credentials};
pub use self::command::{Command, CommandError};

/// How the other CA is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upstream {
    /// By running a program.
    Command(Command),
    /// Another Arx, by its own protocol.
    Arx(Arx),
}

impl Upstream {
    /// The chain for this request, as the other CA gives it; nothing about it is checked.
    async fn chain(
        &self,
        state: &State,
        request: &str,
        root: Option<KeyId>,
    ) -> Result<String, AuthorityError> {
        match self {
            Self::Command(command) => Ok(command.run(request).await?),
            Self::Arx(arx) => arx.chain(state, request, root).await,
        }
    }
}

/// Has the request that waits certified, under this root if the other CA can be told one, and puts the chain in its place.
///
/// # Errors
/// [`AuthorityError`] if the other CA did not answer, or if the chain is not in order; then
/// nothing was changed, and the same request can be put again.
pub(super) async fn renew(
    upstream: &Upstream,
    state: &State,
    replica: &Replica,
    options: &Options,
    (root, another): (Option<KeyId>, Another),
    now: impl Fn() -> SystemTime,
) -> Result<Installed, AuthorityError> {
    let asked = outside::request(state, replica, now()).await?;
    let chain = upstream.chain(state, &asked.request, root).await?;
    let how = How {
        another,
        dry_run: false,
    };
    outside::take(state, replica, options, &chain, how, now()).await
}

/// Full jitter, doubling from one second up to five minutes: another CA must not be run over
/// by one that cannot use what it gives.
pub(crate) fn backoff(failures: u32) -> std::time::Duration {
    use std::time::Duration;
    const LEAST: Duration = Duration::from_secs(1);
    const MOST: Duration = Duration::from_secs(300);
    let most = (LEAST * 2_u32.saturating_pow(failures.min(10))).min(MOST);
    let dice = u32::from_be_bytes(random());
    LEAST.max(most.mul_f64(f64::from(dice) / f64::from(u32::MAX)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_ca_above_that_fails_is_asked_again_after_growing_pauses_of_five_minutes_at_most() {
        for failures in 1..40 {
            let most = Duration::from_secs(2_u64.pow(failures.min(9)).min(300));
            for _ in 0..50 {
                let pause = backoff(failures);
                assert!(
                    Duration::from_secs(1) <= pause && pause <= most,
                    "{failures}: {pause:?}"
                );
            }
        }
        // Drawn by dice, so that many do not come at once; of so many one is long.
        let longest = (0..500).map(|_| backoff(9)).max();
        assert!(longest > Some(Duration::from_secs(150)), "{longest:?}");
    }
}
