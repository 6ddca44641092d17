//! Who fails when a root is distrusted: whoever is not within reach to be given other roots and
//! another certificate first.

use std::time::SystemTime;

use arx_identity::KeyId;

use crate::ca::Ca;
use crate::denial::Apart;
use crate::fleet::Gone;
use crate::rotation::Obstacle;
use crate::state::StateError;

/// Identities that are named in all.
const NAMED: usize = 10_000;

/// Who is concerned.
#[derive(Clone, Debug, Default)]
pub struct Blast {
    /// Those who fail, those that will hardly come back by themselves first.
    pub fails: Vec<Fails>,
    /// Certificates under the root, of agents and workloads.
    pub certificates: u64,
    /// Who is denied, and fails as well, for good.
    pub denied: Vec<Fails>,
    /// Agents and proxies that are within reach.
    pub reachable: u64,
}

/// Somebody who fails.
#[derive(Clone, Debug)]
pub struct Fails {
    /// Who, and why.
    pub who: Obstacle,
    /// Every identity that depends on it, as far as there is room for all.
    pub identities: Vec<String>,
}

impl Ca {
    /// All who hold something under `root`: they fail if it is cut off with no other in its
    /// place.
    ///
    /// # Errors
    /// [`StateError`] if it cannot be read who stands below.
    pub async fn whole_blast(&self, root: KeyId, now: SystemTime) -> Result<Blast, StateError> {
        let below = self.below(root, now).await?;
        let live = self.ledger.live();
        let holders = live.holders(now, Some(&root));
        let gate = self.fleet.users_of(&root, &holders, Gone::ShownOnce, now);
        let mut fails: Vec<_> = gate.unconfirmed.into_iter().map(Obstacle::from).collect();
        fails.extend(below);
        fails.extend(self.history_lost(&self.state.replicas().await?, now));
        Ok(Blast {
            fails: self.with_identities(fails, now),
            certificates: live.count_under_root(&root, now),
            denied: Vec::new(),
            reachable: 0,
        })
    }

    /// Who would fail if `root` were distrusted as things are. Denied holders are told
    /// apart: they are not waited for. Of an authority below, it is known whether it follows,
    /// and not who stands under it.
    ///
    /// # Errors
    /// [`StateError`] if it cannot be read who stands below.
    pub async fn blast(&self, root: KeyId, now: SystemTime) -> Result<Blast, StateError> {
        let (near, away) = self.below_apart(root, now).await?;
        let live = self.ledger.live();
        let holders = live.holders(now, None);
        let gate = self
            .fleet
            .confirmations(&self.trust.current(), &holders, now);
        let mut waiting: Vec<_> = gate.unconfirmed.into_iter().map(Obstacle::from).collect();
        waiting.extend(away);
        waiting.extend(self.history_lost(&self.state.replicas().await?, now));
        let Apart { waits, denied } = self.denied_apart(waiting, now).await;
        Ok(Blast {
            fails: self.with_identities(waits, now),
            certificates: live.count_under_root(&root, now),
            denied: self.with_identities(denied, now),
            reachable: gate.confirmed + near,
        })
    }

    /// Each with all that it holds.
    fn with_identities(&self, fails: Vec<Obstacle>, now: SystemTime) -> Vec<Fails> {
        let live = self.ledger.live();
        let mut room = NAMED;
        let fails = fails.into_iter().map(|who| {
            let all = match who.node.split_once('/') {
                // The node as a whole: what it holds is in the ledger.
                Some((cluster, node)) if who.process.is_empty() => {
                    live.identities_on(cluster, node, None, now)
                }
                _ => Vec::new(),
            };
            let identities: Vec<_> = if all.is_empty() {
                who.workloads.iter().take(room).cloned().collect()
            } else {
                let all = all.iter().take(room);
                all.map(ToString::to_string).collect()
            };
            room -= identities.len();
            Fails { who, identities }
        });
        fails.collect()
    }
}
