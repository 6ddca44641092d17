//! How many nodes there are: those with valid certificates of their own by the ledgers of all
//! replicas, each counted once by its name, but for denied ones. Each replica stores what its own
//! ledger says, so that one of them can make a backup.

use std::time::{Duration, SystemTime};

use crate::ca::Ca;
use crate::caller::NodeName;
use crate::nested;
use crate::refusal::{Fault, Refusal};
use crate::state::{Counted, Nodes, hash_of};

/// Between looks at the ledger: a backup may be behind by as much.
const EVERY: Duration = Duration::from_secs(60);
/// Ends of certificates are told as precisely as this, so that not each renewal is a write.
const HOUR: Duration = Duration::from_secs(3600);

impl Ca {
    /// Whether a node is denied: then its word does not count, neither for nor against anything.
    pub(crate) fn is_denied(&self, node: &NodeName, now: SystemTime) -> bool {
        if self.denials.get().all.is_empty() {
            return false;
        }
        let id = self.node_id(node);
        id.is_none_or(|id| self.not_denied(&id, node, None, now).is_err())
    }

    /// What the ledger here says.
    fn counted_here(&self, now: SystemTime) -> Counted {
        let mut counted = Counted {
            nodes: Nodes::default(),
            until: now,
        };
        for line in self.ledger.live().nodes(now) {
            let name = NodeName {
                cluster: line.cluster,
                node: line.node,
            };
            if self.is_denied(&name, now) {
                continue;
            }
            counted.nodes.add(hash_of(&name.to_string()));
            let ends = line.certificates.iter().map(|(_, ends)| *ends);
            counted.until = ends.fold(counted.until, SystemTime::max);
        }
        counted.until = whole_hours(counted.until);
        counted
    }

    /// How many nodes there are, and the replicas that may have issued to more and have not said
    /// so.
    ///
    /// # Errors
    /// `ARX-BACKUP-BUSY` while that is not known yet; [`Refusal`] if the state cannot be read.
    pub(super) async fn count_nodes(&self, now: SystemTime) -> Result<(u64, Vec<String>), Refusal> {
        let live = self.ledger.live();
        if live.is_building() {
            return Err(Refusal::new(
                "ARX-BACKUP-BUSY",
                Fault::Dependency,
                "the ledger is being read, by which the agents are counted: ask again in a moment",
            ));
        }
        let mut nodes = match live.is_ready() {
            true => self.counted_here(now).nodes,
            // A damaged ledger is the worst moment to have no backup.
            false => self.connected(now),
        };
        let stored = self.state.authorities().await.map_err(Refusal::from)?;
        let stored = stored.map(|stored| stored.value).unwrap_or_default();
        let valid = stored.registrations.iter().filter(|it| it.not_after > now);
        let others = valid.map(|it| &it.replica);
        let mut silent: Vec<String> = others
            .filter(|it| ***it != *self.replica && !nested::is_below(it))
            .cloned()
            .collect();
        silent.sort();
        silent.dedup();
        for (name, document) in self.state.replicas().await.map_err(Refusal::from)? {
            let Some(counted) = document.counted.filter(|_| *name != *self.replica) else {
                continue;
            };
            silent.retain(|it| *it != name);
            if counted.until >= now {
                nodes.join(&counted.nodes);
            }
        }
        Ok((nodes.count(), silent))
    }

    /// The agents that are known here otherwise.
    fn connected(&self, now: SystemTime) -> Nodes {
        let (names, _) = self
            .fleet
            .page(None, usize::MAX, |agent| agent.name().clone());
        let names = names.iter().filter(|name| !self.is_denied(name, now));
        names.map(|name| hash_of(&name.to_string())).collect()
    }

    /// Stores what the ledger here says, once.
    ///
    /// # Errors
    /// [`Refusal`] if it could not be stored.
    pub(super) async fn store_counted(&self) -> Result<(), Refusal> {
        let counted = self.counted_here(self.clock.now());
        let stored = self.state.counted(&self.replica, counted).await;
        stored.map_err(Refusal::from)
    }

    /// Stores what the ledger here says, for as long as the process runs.
    pub async fn keep_counted(&self) {
        self.ledger.live().ready().await;
        loop {
            if let Err(error) = self.store_counted().await {
                tracing::warn!(
                    code = error.code,
                    "how many nodes there are could not be stored for a backup: {}",
                    error.message
                );
            }
            tokio::time::sleep(EVERY).await;
        }
    }
}

/// The next full hour.
fn whole_hours(time: SystemTime) -> SystemTime {
    let since = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let hours = since.as_secs().div_ceil(HOUR.as_secs());
    SystemTime::UNIX_EPOCH + Duration::from_secs(hours.saturating_mul(HOUR.as_secs()))
}
