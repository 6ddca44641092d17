//! Whether the replica that is followed can issue: one whose ledger is paused, or that has no
//! intermediate, keeps its connections, and others may be well.

use crate::authority::CallFailure;
use arx_proto::node::v1::{IssueResult, issue_result::Outcome};
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::sync::Notify;

/// So many calls in a row in which nothing could be issued are no chance.
pub(super) const IN_A_ROW: u32 = 3;
/// What an authority refuses everything with that cannot issue at all.
const CODES: [&str; 2] = ["ARX-LEDGER-PAUSED", "ARX-AUTHORITY-NOT-READY"];

/// The calls in a row in which nothing could be issued.
#[derive(Debug, Default)]
pub(super) struct Unable {
    in_a_row: AtomicU32,
    told: Notify,
}

impl Unable {
    /// What came of a call for certificates.
    pub(super) fn note(&self, answer: Result<&[IssueResult], &CallFailure>) {
        let is_unable = match answer {
            Ok(results) => results.iter().all(is_unable),
            Err(failure) => !failure.is_about_the_caller(),
        };
        if !is_unable {
            self.forget();
        } else if self.in_a_row.fetch_add(1, Ordering::Relaxed) + 1 >= IN_A_ROW {
            self.told.notify_one();
        }
    }

    /// Another replica, or another try.
    pub(super) fn forget(&self) {
        self.in_a_row.store(0, Ordering::Relaxed);
    }

    /// Comes when nothing could be issued for [`IN_A_ROW`] calls.
    pub(super) async fn told(&self) {
        self.told.notified().await;
        // What was told of another replica counts no more.
        while self.in_a_row.load(Ordering::Relaxed) < IN_A_ROW {
            self.told.notified().await;
        }
    }
}

fn is_unable(result: &IssueResult) -> bool {
    match &result.outcome {
        Some(Outcome::Refused(refusal)) => CODES.contains(&refusal.code.as_str()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arx_proto::node::v1::{Issued, Refusal};
    use futures_util::FutureExt as _;
    use std::time::Duration;
    use tonic::{Code, Status};

    fn refused(code: &str) -> IssueResult {
        IssueResult {
            outcome: Some(Outcome::Refused(Refusal {
                code: code.to_owned(),
                ..Refusal::default()
            })),
            ..IssueResult::default()
        }
    }

    fn issued() -> IssueResult {
        IssueResult {
            outcome: Some(Outcome::Issued(Issued::default())),
            ..IssueResult::default()
        }
    }

    #[test]
    fn a_replica_that_could_issue_nothing_in_call_after_call_is_told_of_and_no_other() {
        let unable = Unable::default();
        let is_told = || unable.told().now_or_never().is_some();
        let paused = [
            refused("ARX-LEDGER-PAUSED"),
            refused("ARX-AUTHORITY-NOT-READY"),
        ];
        let hangs = CallFailure::timeout(Duration::from_secs(5));
        unable.note(Ok(&paused));
        unable.note(Err(&hangs));
        assert!(!is_told());
        unable.note(Ok(&paused));
        assert!(is_told());
        assert!(!is_told(), "once");
        unable.note(Ok(&paused));
        assert!(is_told(), "and again when there may be another by then");
        // One that answers anything else is well: it says something of a workload, or of this node.
        let denied = CallFailure::from(Status::new(Code::PermissionDenied, ""));
        for well in [
            Ok(&[refused("ARX-LEDGER-PAUSED"), issued()][..]),
            Ok(&[refused("ARX-DENIED")][..]),
            Err(&denied),
        ] {
            unable.note(Ok(&paused));
            unable.note(Ok(&paused));
            unable.note(well);
            unable.note(Ok(&paused));
            assert!(!is_told());
            unable.forget();
        }
    }
}
