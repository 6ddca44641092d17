//! How a process ends: it is asked to (SIGTERM, SIGINT, or a part of it that failed), stops taking work, finishes what
//! it has within a grace period, and exits with a code that says how it went. A second signal ends it at once.

mod signals;
mod tasks;

pub use signals::{Reloads, listen};
pub use tasks::{OnPanic, Tasks, Unfinished};

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::exit;

/// The end of a process, to be asked for and waited for. Clones are the same end.
#[derive(Clone)]
pub struct Drain {
    grace: Duration,
    state: Arc<watch::Sender<Option<Requested>>>,
}

/// An end that was asked for.
#[derive(Clone, Debug)]
struct Requested {
    deadline: Instant,
    cause: Cause,
    failed: bool,
}

/// Why a process ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// This signal came, `SIGTERM` or `SIGINT`.
    Signal(&'static str),
    /// It has done what it was started for.
    Finished,
    /// It can't go on, for this reason: the exit code will be [`exit::RUNTIME`].
    Failed(String),
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Signal(name) => f.write_str(name),
            Cause::Finished => f.write_str("finished"),
            Cause::Failed(reason) => write!(f, "failed: {reason}"),
        }
    }
}

impl Drain {
    /// An end that nobody has asked for yet; once they do, the process has `grace` to finish. Without signals: a
    /// process uses [`listen`].
    pub fn new(grace: Duration) -> Self {
        Self {
            grace,
            state: Arc::new(watch::Sender::new(None)),
        }
    }

    /// Asks for the end. The first cause and its deadline stand; a failure that comes later still makes the exit code
    /// that of a failure.
    pub fn request(&self, cause: Cause) {
        let failed = matches!(cause, Cause::Failed(_));
        let deadline = Instant::now() + self.grace;
        let first = self.state.send_if_modified(|state| match state {
            None => {
                *state = Some(Requested {
                    deadline,
                    cause: cause.clone(),
                    failed,
                });
                true
            }
            Some(requested) => {
                requested.failed |= failed;
                false
            }
        });
        match (first, failed) {
            (true, true) => {
                tracing::error!(code = "ARX-FAILED", %cause, grace = ?self.grace, "draining")
            }
            (true, false) => tracing::info!(%cause, grace = ?self.grace, "draining"),
            (false, true) => tracing::error!(code = "ARX-FAILED", %cause, "failed while draining"),
            (false, false) => {}
        }
    }

    /// Returns when the end has been asked for, at once if it was before.
    pub async fn requested(&self) {
        // The sender is in `self`, so that the channel cannot close while we wait.
        let _ = self.state.subscribe().wait_for(Option::is_some).await;
    }

    /// True once the end has been asked for.
    pub fn is_requested(&self) -> bool {
        self.state.borrow().is_some()
    }

    /// Why the end was asked for.
    pub fn cause(&self) -> Option<Cause> {
        self.state
            .borrow()
            .as_ref()
            .map(|requested| requested.cause.clone())
    }

    /// When the grace period ends; `None` as long as nobody has asked for the end.
    pub fn deadline(&self) -> Option<Instant> {
        self.state
            .borrow()
            .as_ref()
            .map(|requested| requested.deadline)
    }

    /// Returns when the grace period is over; whatever still runs then should be cut off.
    pub async fn expired(&self) {
        self.requested().await;
        if let Some(deadline) = self.deadline() {
            tokio::time::sleep_until(deadline).await;
        }
    }

    /// [`exit::RUNTIME`] after a failure, else [`exit::OK`].
    pub fn exit_code(&self) -> u8 {
        match &*self.state.borrow() {
            Some(Requested { failed: true, .. }) => exit::RUNTIME,
            _ => exit::OK,
        }
    }
}

impl fmt::Debug for Drain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drain")
            .field("grace", &self.grace)
            .field("requested", &*self.state.borrow())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(20);

    #[tokio::test(start_paused = true)]
    async fn every_clone_learns_of_the_request_before_and_after() {
        let drain = Drain::new(GRACE);
        assert!(!drain.is_requested() && drain.deadline().is_none() && drain.cause().is_none());
        let waiting = drain.clone();
        let ((), ()) = tokio::join!(async { waiting.requested().await }, async {
            drain.request(Cause::Signal("SIGTERM"));
        });
        drain.requested().await;
        assert!(drain.is_requested());
        assert_eq!(drain.cause(), Some(Cause::Signal("SIGTERM")));
    }

    #[tokio::test(start_paused = true)]
    async fn the_grace_period_counts_from_the_first_request() {
        let drain = Drain::new(GRACE);
        let started = Instant::now();
        drain.request(Cause::Finished);
        tokio::time::sleep(GRACE / 2).await;
        drain.request(Cause::Signal("SIGINT"));
        drain.expired().await;
        assert_eq!(started.elapsed(), GRACE);
        assert_eq!(drain.cause(), Some(Cause::Finished));
    }

    #[tokio::test]
    async fn the_exit_code_is_that_of_a_failure_even_if_it_comes_late() {
        let drain = Drain::new(GRACE);
        assert_eq!(drain.exit_code(), exit::OK);
        drain.request(Cause::Signal("SIGTERM"));
        assert_eq!(drain.exit_code(), exit::OK);
        drain.request(Cause::Failed("the store is gone".to_owned()));
        assert_eq!(drain.exit_code(), exit::RUNTIME);
        assert_eq!(drain.cause(), Some(Cause::Signal("SIGTERM")));
    }
}
