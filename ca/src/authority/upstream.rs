//! Another CA that certifies the upper intermediate, asked by this process, long before it has
//! to be there and never while anybody waits for a certificate.

mod arx;
mod command;

use std::time::SystemTime;

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
    async fn chain(&self, state: &State, request: &str) -> Result<String, AuthorityError> {
        match self {
            Self::Command(command) => Ok(command.run(request).await?),
            Self::Arx(arx) => arx.chain(state, request).await,
        }
    }
}

/// Has the request that waits certified, and puts the chain in its place.
///
/// # Errors
/// [`AuthorityError`] if the other CA did not answer, or if the chain is not in order; then
/// nothing was changed, and the same request can be put again.
pub(super) async fn renew(
    upstream: &Upstream,
    state: &State,
    replica: &Replica,
    options: &Options,
    another: Another,
    now: impl Fn() -> SystemTime,
) -> Result<Installed, AuthorityError> {
    let asked = outside::request(state, replica, now()).await?;
    let chain = upstream.chain(state, &asked.request).await?;
    let how = How {
        another,
        dry_run: false,
    };
    outside::take(state, replica, options, &chain, how, now()).await
}

/// Full jitter, doubling from one second up to five minutes: another CA must not be run over
/// by one that cannot use what it gives.
pub(super) fn backoff(failures: u32) -> std::time::Duration {
    use std::time::Duration;
    const LEAST: Duration = Duration::from_secs(1);
    const MOST: Duration = Duration::from_secs(300);
    let most = (LEAST * 2_u32.saturating_pow(failures.min(10))).min(MOST);
    let dice = u32::from_be_bytes(random());
    LEAST.max(most.mul_f64(f64::from(dice) / f64::from(u32::MAX)))
}
