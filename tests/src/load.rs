//! A load that is bounded: a few callers, one request after the other, until it is told to
//! stop. What fails is kept with the reason.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::ensure;
use http::StatusCode;
use tokio::task::JoinSet;

use crate::http::Connection;

/// Failures whose reasons are kept.
const KEPT: usize = 20;

/// A load that runs; it ends with this.
pub struct Load {
    shared: Arc<Shared>,
    callers: JoinSet<()>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    good: AtomicU64,
    failed: AtomicU64,
    reasons: Mutex<Vec<String>>,
}

/// What became of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Requests that were answered with 200.
    pub good: u64,
    /// All others.
    pub failed: u64,
    /// Why, of the first of them.
    pub reasons: Vec<String>,
}

impl Outcome {
    /// Whether something was answered and nothing failed.
    ///
    /// # Errors
    /// If not, with the reasons.
    pub fn without_failure(&self) -> anyhow::Result<()> {
        ensure!(self.good > 0, "nothing was answered: {:?}", self.reasons);
        ensure!(
            self.failed == 0,
            "{} of {} failed: {:?}",
            self.failed,
            self.good + self.failed,
            self.reasons
        );
        Ok(())
    }
}

impl Load {
    /// `callers` of them send a request to `port` every `pause`; every second one on a new
    /// connection each time.
    #[must_use]
    pub fn start(port: u16, callers: usize, pause: Duration) -> Self {
        let shared = Arc::new(Shared::default());
        let mut tasks = JoinSet::new();
        for caller in 0..callers {
            let shared = Arc::clone(&shared);
            tasks.spawn(async move {
                let mut connection = None;
                while !shared.stop.load(Ordering::Relaxed) {
                    shared.one(port, &mut connection).await;
                    if caller % 2 == 1 {
                        connection = None;
                    }
                    tokio::time::sleep(pause).await;
                }
            });
        }
        Self {
            shared,
            callers: tasks,
        }
    }

    /// Up to now.
    #[must_use]
    pub fn so_far(&self) -> Outcome {
        Outcome {
            good: self.shared.good.load(Ordering::Relaxed),
            failed: self.shared.failed.load(Ordering::Relaxed),
            reasons: self
                .shared
                .reasons
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
        }
    }

    /// Lets the requests under way end, and tells what became of all.
    pub async fn stop(mut self) -> Outcome {
        self.shared.stop.store(true, Ordering::Relaxed);
        while self.callers.join_next().await.is_some() {}
        self.so_far()
    }
}

impl Shared {
    async fn one(&self, port: u16, kept: &mut Option<Connection>) {
        let answer = async {
            let connection = match kept {
                Some(connection) => connection,
                None => kept.insert(Connection::open(port).await?),
            };
            connection.get("/").await
        };
        let reason = match answer.await {
            Ok((StatusCode::OK, _)) => {
                self.good.fetch_add(1, Ordering::Relaxed);
                return;
            }
            Ok((status, body)) => format!("{status}: {body}"),
            Err(error) => {
                *kept = None;
                format!("{error:#}")
            }
        };
        self.failed.fetch_add(1, Ordering::Relaxed);
        let mut reasons = self.reasons.lock().unwrap_or_else(PoisonError::into_inner);
        if reasons.len() < KEPT {
            reasons.push(reason);
        }
    }
}
