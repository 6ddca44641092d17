//! A client that is the agents of a cluster at the moment in which everything starts: each joins,
//! and asks for the certificates of all pods on its node.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use arx_proto::node::v1::issue_item::Evidence;
use arx_proto::node::v1::{IssueItem, IssueRequest, Urgency};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use super::client::Boss;
use super::issue::{Report, percentile};
use super::node::{self, Authority, requests};

/// Items of a call.
const BATCH: usize = 50;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Options {
    pub(crate) authority: Authority,
    pub(crate) nodes: usize,
    /// Pods of each node.
    pub(crate) pods: usize,
}

/// What is told with each order: files of tokens, one a line.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    /// Of the agents, by node.
    pub(crate) joins: PathBuf,
    /// Of the pods, those of one node after the other.
    pub(crate) pods: PathBuf,
}

pub(crate) async fn play(boss: &mut Boss, options: Options) -> anyhow::Result<()> {
    let tls = Arc::new(options.authority.tls(None)?);
    let keys = requests(options.nodes * options.pods)?;
    boss.say("ready", &())?;
    while let Some(order) = boss.order().await? {
        let order: Order = serde_json::from_str(&order)?;
        let lines = |path: &PathBuf| -> anyhow::Result<Vec<String>> {
            let text = std::fs::read_to_string(path)?;
            Ok(text.lines().map(str::to_owned).collect())
        };
        let (joins, pods) = (lines(&order.joins)?, lines(&order.pods)?);
        let start = Instant::now();
        let mut agents = JoinSet::new();
        let nodes = joins.into_iter().zip(pods.chunks(options.pods));
        for ((join, tokens), keys) in nodes.zip(keys.chunks(options.pods)) {
            let (tls, authority) = (Arc::clone(&tls), options.authority.clone());
            let (tokens, keys) = (tokens.to_vec(), keys.to_vec());
            agents.spawn(async move {
                let svid = authority.new_node(&tls, &join).await?;
                let mut client = authority.connect(&authority.tls(Some(&svid))?).await?;
                let items: Vec<(String, Bytes)> = tokens.into_iter().zip(keys).collect();
                let mut times = Vec::new();
                for batch in items.chunks(BATCH) {
                    let items = batch.iter().map(|(token, csr)| IssueItem {
                        idempotency_key: node::unique(),
                        csr: csr.clone(),
                        urgency: Urgency::Start.into(),
                        evidence: Some(Evidence::ServiceAccountToken(token.clone())),
                        ..IssueItem::default()
                    });
                    let items = items.collect();
                    let answer = client.issue(IssueRequest { items }).await?.into_inner();
                    anyhow::ensure!(answer.results.len() == batch.len(), "each is answered");
                    for result in answer.results {
                        node::issued(result.outcome)?;
                        times.push(start.elapsed());
                    }
                }
                anyhow::Ok(times)
            });
        }
        let mut times = Vec::new();
        while let Some(agent) = agents.join_next().await {
            times.extend(agent??);
        }
        let wall = start.elapsed();
        times.sort_unstable();
        boss.say(
            "done",
            &Report {
                certificates: times.len(),
                wall_s: wall.as_secs_f64(),
                p50_ms: percentile(&times, 50),
                p99_ms: percentile(&times, 99),
            },
        )?;
    }
    Ok(())
}
