//! What denied holders still hold, by the ledger, and which obstacles of a rotation they are.

use std::collections::{BTreeSet, HashMap};
use std::time::SystemTime;

use super::{Subject, subject};
use crate::ca::Ca;
use crate::caller::NodeName;
use crate::ledger::{self, Holder, Live, LiveFilter, LiveLeaf};
use crate::rotation::Obstacle;
use crate::state::Denials;

/// Certificates of a service account that are read at a time.
const PAGE: usize = 500;
/// Identities that are named of one holder.
const NAMED: usize = 20;

/// The certificates of a holder that are valid.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// How many.
    pub certificates: u64,
    /// Some of the identities that they name; at most 20.
    pub identities: Vec<String>,
    /// How many identities they name.
    pub identity_count: u64,
    /// End of the one that ends last.
    pub ends: Option<SystemTime>,
}

/// Who has not done what a gate is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Apart {
    /// Those who keep it shut.
    pub(crate) waits: Vec<Obstacle>,
    /// Those who are denied, and left out.
    pub(crate) denied: Vec<Obstacle>,
}

impl Apart {
    fn waits_for(waits: Vec<Obstacle>) -> Self {
        Self {
            waits,
            denied: Vec::new(),
        }
    }
}

impl Ca {
    /// What `subject` holds at `now`; `holders` are those of the index at that time. A
    /// service account is known by the identities that policy gives it now. Reads segments:
    /// blocks.
    ///
    /// # Errors
    /// What keeps a segment from being read.
    pub(crate) fn held(
        &self,
        subject: &Subject,
        holders: &[Holder],
        now: SystemTime,
    ) -> Result<Held, ledger::Error> {
        let live = self.ledger.live();
        match subject {
            Subject::Identity(id) => {
                let filter = LiveFilter {
                    identity: Some(id.as_str().to_owned()),
                    ..LiveFilter::default()
                };
                let serials = live.serials_by_node(&filter, now);
                let serials: Vec<_> = serials.into_values().flatten().collect();
                let one = u64::from(!serials.is_empty());
                Ok(Held {
                    certificates: serials.len() as u64,
                    identities: (one > 0)
                        .then(|| id.as_str().to_owned())
                        .into_iter()
                        .collect(),
                    identity_count: one,
                    ends: serials
                        .iter()
                        .filter_map(|serial| live.not_after(serial))
                        .max(),
                })
            }
            Subject::Node(node) => {
                let serials = live.on_node(&node.cluster, &node.node, now);
                let ends = serials
                    .iter()
                    .filter_map(|(serial, _)| live.not_after(serial));
                let mut holder = holders
                    .iter()
                    .filter(|it| it.cluster == node.cluster && it.node == node.node);
                let holder = holder.next().filter(|_| !serials.is_empty());
                Ok(Held {
                    certificates: serials.len() as u64,
                    identities: holder.map_or_else(Vec::new, |it| {
                        it.identities.iter().map(ToString::to_string).collect()
                    }),
                    identity_count: holder.map_or(0, |it| it.count.into()),
                    ends: ends.max(),
                })
            }
            Subject::Account { namespace, name } => {
                let mut held = Held::default();
                let policy = &self.rules.get().policy;
                for id in policy.identities(namespace, name) {
                    let before = held.certificates;
                    leaves(&live, id.as_str(), None, now, |leaf| {
                        if is_of_account(leaf, namespace, name) {
                            held.certificates += 1;
                            held.ends = held.ends.max(Some(leaf.not_after));
                        }
                        true
                    })?;
                    if held.certificates > before {
                        held.identity_count += 1;
                        if held.identities.len() < NAMED {
                            held.identities.push(id.as_str().to_owned());
                        }
                    }
                }
                Ok(held)
            }
        }
    }

    /// Those of `obstacles` that a gate has to wait for apart from those of a node that is
    /// denied, or of denied workloads alone. Where that is not certain, it has to wait.
    pub(crate) async fn denied_apart(&self, obstacles: Vec<Obstacle>, now: SystemTime) -> Apart {
        let denials = self.denials.get();
        if obstacles.is_empty() || denials.holding(now).next().is_none() {
            return Apart::waits_for(obstacles);
        }
        let accounts = self.denied_accounts(&denials, now);
        let live = self.ledger.live();
        let all = obstacles.clone();
        let apart = tokio::task::spawn_blocking(move || {
            let waits = |it: &Obstacle| !is_denied(it, &denials, &accounts, &live, now);
            let (waits, denied) = obstacles.into_iter().partition(waits);
            Apart { waits, denied }
        });
        apart.await.unwrap_or_else(|_| Apart::waits_for(all))
    }

    /// Identities that policy gives to service accounts that are denied, with which those are.
    fn denied_accounts(&self, denials: &Denials, now: SystemTime) -> Accounts {
        let policy = &self.rules.get().policy;
        let mut accounts = Accounts::new();
        for (subject, _) in denials.holding(now) {
            if let Ok(Subject::Account { namespace, name }) =
                Subject::parse(subject, &self.trust_domain)
            {
                for id in policy.identities(&namespace, &name) {
                    let of_id = accounts.entry(id.as_str().to_owned()).or_default();
                    of_id.insert((namespace.clone(), name.clone()));
                }
            }
        }
        accounts
    }
}

type Accounts = HashMap<String, BTreeSet<(String, String)>>;

/// Whether `obstacle` is about denied holders only.
fn is_denied(
    obstacle: &Obstacle,
    denials: &Denials,
    accounts: &Accounts,
    live: &Live,
    now: SystemTime,
) -> bool {
    let Some((cluster, node)) = obstacle.node.split_once('/') else {
        // A replica, or the index.
        return false;
    };
    let name = NodeName {
        cluster: cluster.into(),
        node: node.into(),
    };
    if denials.of(&subject::of_node(&name), now).is_some() {
        return true;
    }
    let all_named = obstacle.workload_count as usize == obstacle.workloads.len();
    if obstacle.workloads.is_empty() || !all_named {
        return false;
    }
    obstacle.workloads.iter().all(|id| {
        denials.of(id, now).is_some()
            || accounts.get(id).is_some_and(|accounts| {
                // Policy may give the same identity to others, too.
                let mut every = true;
                let read = leaves(live, id, Some(node), now, |leaf| {
                    every &= *leaf.cluster != *cluster
                        || accounts
                            .iter()
                            .any(|(namespace, name)| is_of_account(leaf, namespace, name));
                    every
                });
                every && read.is_ok()
            })
    })
}

/// Whether it was granted on a token of this service account. As `admission` describes it.
fn is_of_account(leaf: &LiveLeaf, namespace: &str, name: &str) -> bool {
    let token = leaf.evidence.strip_prefix("token: ");
    let rest = token.and_then(|token| token.strip_prefix(namespace)?.strip_prefix('/'));
    rest.and_then(|rest| rest.strip_prefix(name))
        .is_some_and(|rest| rest.starts_with(','))
}

/// Reads the certificates of an identity, on a node of this name, until `each` has enough.
fn leaves(
    live: &Live,
    id: &str,
    node: Option<&str>,
    now: SystemTime,
    mut each: impl FnMut(&LiveLeaf) -> bool,
) -> Result<(), ledger::Error> {
    let filter = LiveFilter {
        identity: Some(id.to_owned()),
        node: node.map(str::to_owned),
        serial: None,
    };
    let mut token = String::new();
    loop {
        let page = live.page(&filter, &token, PAGE, now)?;
        if !page.leaves.iter().all(&mut each) {
            return Ok(());
        }
        match page.next {
            Some(next) => token = next,
            None => return Ok(()),
        }
    }
}
