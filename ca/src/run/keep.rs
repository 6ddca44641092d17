//! Everything that goes on beside answering calls.

use std::sync::Arc;
use std::time::Duration;

use arx_daemon::clock::rfc3339;
use arx_daemon::ops::{Condition, Readiness};
use arx_identity::Certificate;

use crate::ca::Ca;
use crate::caller::NodeName;
use crate::ledger;
use crate::refusal;
use crate::state::LedgerLost;
use crate::store::StoreError;

/// Between looks at whether the store can write.
const PROBE: Duration = Duration::from_secs(5);
/// Between looks at how long the upper intermediate lives.
const UPPER: Duration = Duration::from_secs(60);
/// Between looks at how the pods of clusters are known.
const PODS: Duration = Duration::from_secs(1);
/// A cluster whose pods were never read keeps others waiting for so long after the start.
const FIRST_READ: Duration = Duration::from_secs(30);
/// Between looks at what is published in clusters.
const PUBLISHED: Duration = Duration::from_secs(1);
/// Between removals of old segments.
const PRUNE: Duration = Duration::from_secs(3600);

/// What has to be well for the process to be ready.
pub(super) struct Conditions {
    pub(super) authority: Condition,
    pub(super) files: Condition,
    pub(super) key: Condition,
    pub(super) ledger: Condition,
    pub(super) pods: Condition,
    pub(super) publish: Condition,
    pub(super) store: Condition,
}

impl Conditions {
    pub(super) fn new(readiness: &Readiness) -> Self {
        Self {
            authority: readiness.condition("authority"),
            files: readiness.condition("files"),
            key: readiness.condition("root key"),
            ledger: readiness.condition("ledger"),
            pods: readiness.condition("pods"),
            publish: readiness.condition("publish"),
            store: readiness.condition("store"),
        }
    }
}

pub(super) async fn watch_authority(ca: Arc<Ca>, condition: Condition) {
    let mut health = ca.authority.health();
    loop {
        {
            let health = health.borrow_and_update();
            // Its first report comes with its first look, a little after the start.
            let starting = health.until.is_none() && ca.authority.issuing().is_some();
            match (&health.trouble, health.can_issue || starting) {
                (_, true) => condition.set_ok(),
                (Some((code, message)), false) => condition.set_failing(code, message.clone()),
                (None, false) => condition.set_failing(
                    "ARX-AUTHORITY-NOT-READY",
                    "there is no valid intermediate: see the log",
                ),
            }
        }
        if health.changed().await.is_err() {
            return;
        }
    }
}

/// Tells once a minute of refusals of which only the first was told.
pub(super) async fn tell_refusals(ca: Arc<Ca>) {
    loop {
        tokio::time::sleep(refusal::COUNTED).await;
        ca.told.tell_due(ca.clock.monotonic());
    }
}

/// Files that are not taken are no reason not to be ready: what was taken before is in use.
pub(super) async fn watch_files(ca: Arc<Ca>, condition: Condition) {
    let mut told = ca.overview.files();
    loop {
        match &*told.borrow_and_update() {
            Some((code, message)) => condition.set_warning(code, message.clone()),
            None => condition.set_ok(),
        }
        if told.changed().await.is_err() {
            return;
        }
    }
}

/// The key above may be away for as long as an intermediate is there: then whoever looks is told
/// until when.
pub(super) async fn watch_key(ca: Arc<Ca>, condition: Condition) {
    let (mut reach, mut issuing) = (ca.authority.reach(), ca.authority.watch());
    loop {
        let until = issuing
            .borrow_and_update()
            .as_ref()
            .map(|it| it.not_after());
        match reach.borrow_and_update().trouble(until) {
            Some((code, message)) => condition.set_warning(code, message),
            None => condition.set_ok(),
        }
        let changed = tokio::select! {
            changed = reach.changed() => changed,
            changed = issuing.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}

/// What a CA outside has certified may be due to be renewed: whoever looks is told until when
/// issuance goes on.
pub(super) async fn watch_upper(ca: Arc<Ca>, condition: Condition) {
    let mut changes = ca.authority.watch_upper();
    loop {
        changes.borrow_and_update();
        let upper = ca.authority.upper();
        match upper.and_then(|upper| upper.notice(ca.clock.now())) {
            Some((code, message)) => condition.set_warning(code, message),
            None => condition.set_ok(),
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(UPPER) => {}
        }
    }
}

/// Agents have to come before a state that was put back can be opened, so it is no reason not to
/// be ready.
pub(super) async fn watch_restored(ca: Arc<Ca>, condition: Condition) {
    let mut document = ca.restore.watch();
    loop {
        document.borrow_and_update();
        match ca.restore.is_open() {
            Ok(()) => condition.set_ok(),
            Err(shut) => condition.set_warning(shut.code, shut.message),
        }
        if document.changed().await.is_err() {
            return;
        }
    }
}

/// What was issued before the ledger was lost is in the way of rotations, and of nothing else.
pub(super) async fn watch_history(ca: Arc<Ca>, lost: LedgerLost, condition: Condition) {
    let until = rfc3339(lost.until);
    let message = format!(
        "the ledger of before is not there, and what stood in it may be valid until {until}: rotations wait for that"
    );
    condition.set_warning("ARX-LEDGER-LOST", message);
    while ca.clock.now() < lost.until {
        tokio::time::sleep(UPPER).await;
    }
    condition.set_ok();
}

/// The authority above may be away: whoever looks is told until when issuance goes on.
pub(super) async fn watch_above(ca: Arc<Ca>, condition: Condition) {
    let mut trouble = ca.above.trouble();
    loop {
        trouble.borrow_and_update();
        match ca.above_is_away() {
            Some((code, message)) => condition.set_warning(code, message),
            None => condition.set_ok(),
        }
        if trouble.changed().await.is_err() {
            return;
        }
    }
}

pub(super) async fn watch_ledger(ca: Arc<Ca>, condition: Condition) {
    let mut paused = ca.ledger.paused();
    loop {
        match &*paused.borrow_and_update() {
            Some(pause) => condition.set_failing(
                "ARX-LEDGER-PAUSED",
                format!("nothing is issued, because the ledger is paused: {pause}"),
            ),
            None => condition.set_ok(),
        }
        if paused.changed().await.is_err() {
            return;
        }
    }
}

/// Pods are read before the process is ready, so that no token is refused for want of them. But a
/// cluster that can't be read keeps the agents of others waiting for [`FIRST_READ`] at most. One
/// that is not kept up is told, since whoever it knows goes on.
pub(super) async fn watch_pods(ca: Arc<Ca>, condition: Condition) {
    let begun = ca.clock.monotonic();
    loop {
        let waited = ca.clock.monotonic().saturating_duration_since(begun);
        let tokens = ca.rules.get().tokens.clone();
        match tokens.trouble(waited < FIRST_READ) {
            Some((code, message, true)) => condition.set_failing(code, message),
            Some((code, message, false)) => condition.set_warning(code, message),
            None => condition.set_ok(),
        }
        tokio::time::sleep(PODS).await;
    }
}

/// Objects that can't be written are no reason not to be ready: who looks is told.
pub(super) async fn watch_published(ca: Arc<Ca>, condition: Condition) {
    loop {
        let health = ca.publishers.health();
        let trouble = health.into_iter().find_map(|(_, health)| health.trouble);
        match trouble {
            Some((code, message)) => condition.set_warning(code, message),
            None => condition.set_ok(),
        }
        if ca.publishers.is_empty() {
            return;
        }
        tokio::time::sleep(PUBLISHED).await;
    }
}

pub(super) async fn watch_store(ca: Arc<Ca>, condition: Condition) {
    loop {
        match ca.state.store().probe().await {
            Ok(()) => condition.set_ok(),
            // Certificates are issued all the same, and whoever looks is told.
            Err(error @ StoreError::Moved { .. }) => {
                condition.set_warning(error.code(), error.to_string());
            }
            Err(error) => condition.set_failing(error.code(), error.to_string()),
        }
        tokio::time::sleep(PROBE).await;
    }
}

/// Refreshes the keys that tokens are verified with, also those of later rules.
pub(super) async fn keep_keys(ca: Arc<Ca>) {
    let mut rules = ca.rules.watch();
    loop {
        let tokens = rules.borrow_and_update().tokens.clone();
        tokio::select! {
            () = async { tokens.keep().await } => {}
            changed = rules.changed() => if changed.is_err() { return },
        }
    }
}

/// Puts into the ledger which bundles are handed out: a state from before is known by that, also
/// when nothing was issued since.
pub(super) async fn record_published(ca: Arc<Ca>) {
    let mut trust = ca.trust.watch();
    loop {
        let bundle = Arc::clone(&trust.borrow_and_update());
        let sequence = bundle.sequence();
        if ca.ledger.last_sequence() < Some(sequence) {
            let ids = bundle
                .roots()
                .iter()
                .filter_map(Certificate::subject_key_id);
            let published = ledger::Published {
                replica: ca.replica.to_string(),
                epoch: sequence.epoch,
                number: sequence.number,
                sha256: bundle.sha256().to_vec(),
                roots: ids.map(|id| id.as_bytes().to_vec()).collect(),
            };
            let record = ledger::Record::new(ca.clock.now(), published);
            if let Err(error) = ca.ledger.append(vec![record]).await {
                tracing::warn!(code = error.code(), bundle = %sequence, %error, "a bundle that is handed out is not in the ledger yet");
                tokio::time::sleep(PROBE).await;
                continue;
            }
        }
        if trust.changed().await.is_err() {
            return;
        }
    }
}

pub(super) async fn prune(ca: Arc<Ca>) {
    ca.ledger.live().ready().await;
    loop {
        let retention = ca.rules.get().retention;
        let pruning = Arc::clone(&ca);
        let outcome = tokio::task::spawn_blocking(move || {
            pruning.ledger.prune(pruning.clock.now(), retention)
        })
        .await;
        match outcome {
            Ok(Ok(pruned)) if pruned.segments > 0 => tracing::info!(
                segments = pruned.segments,
                "old segments of the ledger were removed"
            ),
            Ok(Err(error)) => {
                tracing::warn!(code = error.code(), %error, "old segments of the ledger could not be removed")
            }
            _ => {}
        }
        tokio::time::sleep(PRUNE).await;
    }
}

/// Which certificates of nodes belong to the line of their last join is in the ledger.
pub(super) async fn restore_lines(ca: Arc<Ca>) {
    ca.ledger.live().ready().await;
    let now = ca.clock.now();
    for line in ca.ledger.live().nodes(now) {
        let name = NodeName {
            cluster: line.cluster,
            node: line.node,
        };
        ca.fleet.restore(&name, line.certificates);
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;

    use super::*;
    use crate::testing::{House, Outcome, bundle};

    #[tokio::test]
    async fn a_bundle_that_is_handed_out_is_in_the_ledger_though_nothing_was_issued_since()
    -> Outcome {
        let house = House::new().await?;
        let ca = Arc::clone(&house.ca);
        assert_eq!(ca.ledger.last_sequence(), None);
        let mut tasks = JoinSet::new();
        tasks.spawn(record_published(Arc::clone(&ca)));
        let first = ca.trust.current();
        let mut roots = first.roots().to_vec();
        roots.extend_from_slice(bundle(1).roots());
        let next = ca.trust.publish(first.sequence(), roots, house.clock.now());
        let next = next.await?.sequence();
        while ca.ledger.last_sequence() != Some(next) {
            tokio::task::yield_now().await;
        }
        // The state is put back to what it was.
        let evidence = crate::trust::Evidence {
            highest: ca.ledger.last_sequence(),
            ..crate::trust::Evidence::default()
        };
        let behind = House::new().await?;
        let examined = crate::trust::Trust::examine(&behind.ca.state, None, evidence).await;
        assert_eq!(
            examined.map_err(|error| error.code()),
            Err("ARX-TRUST-BEHIND")
        );
        Ok(())
    }
}
