//! Nodes on which pods run and no agent does: pods there get no identity.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::{Findings, NAMED, some_of};
use crate::ca::{Ca, Rules};
use crate::caller::NodeName;
use crate::state::{Nodes, hash_of};
use crate::token::Cluster;

const TEST: &str = "each node on which pods run has an agent";

/// Who has an agent: by what is known here, and by what other replicas tell.
pub(super) struct Fleet {
    here: HashSet<NodeName>,
    others: Vec<Nodes>,
}

/// Nodes with pods, and the name of the agent's pod there.
pub(super) type Inhabited = BTreeMap<Arc<str>, Option<String>>;

pub(super) async fn look(ca: &Ca, rules: &Rules, cluster: &Cluster, findings: &mut Findings) {
    let Some(pods) = rules.tokens.pods_of(&cluster.name) else {
        return findings.not_known(TEST, "its pods are not watched (cluster.watch_pods)");
    };
    let is_agent = |namespace: &str, account: &str| {
        let mut agents = cluster.agents.iter().filter_map(|it| it.split_once('/'));
        agents.any(|agent| agent == (namespace, account))
    };
    let inhabited = match pods.nodes(is_agent) {
        Ok(inhabited) => inhabited,
        Err(why) => return findings.not_known(TEST, &why),
    };
    let now = ca.clock.now();
    let fleet = match Fleet::of(ca, now).await {
        Ok(fleet) => fleet,
        Err(why) => return findings.not_known(TEST, &why),
    };
    let inhabited = not_denied(ca, cluster, inhabited, now);
    let (test, wrong) = judge(cluster, inhabited, &fleet);
    findings.test(test, wrong);
}

/// A node that is denied is meant to have nothing.
pub(super) fn not_denied(
    ca: &Ca,
    cluster: &Cluster,
    mut inhabited: Inhabited,
    now: SystemTime,
) -> Inhabited {
    inhabited.retain(|node, _| !ca.is_denied(&name(cluster, node), now));
    inhabited
}

pub(super) fn judge(
    cluster: &Cluster,
    inhabited: Inhabited,
    fleet: &Fleet,
) -> (String, Option<String>) {
    let count = inhabited.len();
    let missing: Vec<_> = inhabited
        .into_iter()
        .filter(|(node, _)| !fleet.may_have(&name(cluster, node)))
        .collect();
    let named = missing.iter().take(NAMED).map(|(node, agent)| match agent {
        Some(pod) => format!("{node} has not joined by its agent's pod {pod}: see that one's log"),
        None => format!("{node} has no pod of an agent"),
    });
    let wrong = some_of(&named.collect::<Vec<_>>(), missing.len());
    let wrong = wrong.map(|it| format!("{it}. Pods there get no identity"));
    (format!("{TEST}, {count} in all"), wrong)
}

fn name(cluster: &Cluster, node: &Arc<str>) -> NodeName {
    NodeName {
        cluster: cluster.name.as_str().into(),
        node: Arc::clone(node),
    }
}

impl Fleet {
    /// Those that are connected here, and those with valid certificates by the ledger of any
    /// replica.
    pub(super) async fn of(ca: &Ca, now: SystemTime) -> Result<Self, String> {
        let live = ca.ledger.live();
        let ready = tokio::time::timeout(Duration::from_secs(10), live.ready()).await;
        ready.map_err(|_| "the index of valid certificates is still being built".to_owned())?;
        let (names, _) = ca.fleet.page(None, usize::MAX, |agent| {
            agent.is_connected().then(|| agent.name().clone())
        });
        let mut here: HashSet<_> = names.into_iter().flatten().collect();
        here.extend(live.nodes(now).into_iter().map(|line| NodeName {
            cluster: line.cluster,
            node: line.node,
        }));
        let replicas = ca.state.replicas().await;
        let replicas = replicas.map_err(|error| format!("the state gives no answer: {error}"))?;
        let others = replicas
            .into_iter()
            .filter(|(name, _)| **name != *ca.replica);
        let others = others.filter_map(|(_, replica)| replica.counted);
        let others = others.filter(|counted| counted.until >= now);
        Ok(Self {
            here,
            others: others.map(|counted| counted.nodes).collect(),
        })
    }

    /// Whether the node has an agent, or may have one: of a large fleet replicas tell a sample.
    fn may_have(&self, name: &NodeName) -> bool {
        let hash = hash_of(&name.to_string());
        self.here.contains(name) || self.others.iter().any(|nodes| nodes.may_have(hash))
    }
}
