//! A client that asks for certificates over connections that are kept.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arx_proto::node::v1::issue_item::Evidence;
use arx_proto::node::v1::node_client::NodeClient;
use arx_proto::node::v1::{IssueItem, IssueRequest, LocalProcess, Urgency};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use super::client::Boss;
use super::node::{self, Authority, Http2, requests};

/// Different keys that are asked for.
const KEYS: usize = 200;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Options {
    pub(crate) authority: Authority,
    /// The node that asks.
    pub(crate) node: PathBuf,
    pub(crate) connections: usize,
    /// Calls at a time, over all connections.
    pub(crate) in_flight: usize,
    /// Items of a call.
    pub(crate) batch: usize,
    /// Calls of one run.
    pub(crate) calls: usize,
    /// One token a line, each of another identity: they are used one after the other, over
    /// and over. Without, all is for one identity, that of the process.
    pub(crate) tokens: Option<PathBuf>,
}

/// What a run has come to.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) certificates: usize,
    pub(crate) wall_s: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
}

pub(crate) async fn play(boss: &mut Boss, options: Options) -> anyhow::Result<()> {
    let svid = node::kept(&options.node)?;
    let tls = options.authority.tls(Some(&svid))?;
    let mut connections = Vec::new();
    for _ in 0..options.connections {
        connections.push(options.authority.connect(&tls).await?);
    }
    let keys = requests(KEYS)?;
    let uid = rustix::process::getuid().as_raw();
    let local = Evidence::Local(LocalProcess {
        uid,
        ..LocalProcess::default()
    });
    let proofs: Vec<Evidence> = match &options.tokens {
        None => vec![local],
        Some(path) => {
            let tokens = std::fs::read_to_string(path)?;
            let tokens = tokens.lines().map(str::to_owned);
            tokens.map(Evidence::ServiceAccountToken).collect()
        }
    };
    let proofs: Arc<[Evidence]> = proofs.into();
    let mut used = 0;
    boss.say("ready", &())?;
    while boss.order().await?.is_some() {
        let start = Instant::now();
        let mut workers = JoinSet::new();
        for worker in 0..options.in_flight {
            let client = connections[worker % connections.len()].clone();
            let calls = options.calls / options.in_flight;
            let work = Work {
                client,
                keys: keys.clone(),
                proofs: Arc::clone(&proofs),
                first: used,
                worker,
            };
            used += calls * options.batch;
            workers.spawn(work.run(calls, options.batch));
        }
        let mut times = Vec::new();
        while let Some(worked) = workers.join_next().await {
            times.extend(worked??);
        }
        let wall = start.elapsed();
        times.sort_unstable();
        boss.say(
            "done",
            &Report {
                certificates: times.len() * options.batch,
                wall_s: wall.as_secs_f64(),
                p50_ms: percentile(&times, 50),
                p99_ms: percentile(&times, 99),
            },
        )?;
    }
    Ok(())
}

/// What one worker has.
struct Work {
    client: NodeClient<Http2>,
    keys: Vec<Bytes>,
    proofs: Arc<[Evidence]>,
    /// The proof that it begins with.
    first: usize,
    worker: usize,
}

impl Work {
    async fn run(mut self, calls: usize, batch: usize) -> anyhow::Result<Vec<Duration>> {
        let mut times = Vec::with_capacity(calls);
        let mut keys = self.keys.into_iter().cycle().skip(self.worker * 7);
        let mut proofs = self
            .proofs
            .iter()
            .cycle()
            .skip(self.first % self.proofs.len());
        for _ in 0..calls {
            let items = keys.by_ref().take(batch).zip(proofs.by_ref());
            let items = items.map(|(csr, proof)| IssueItem {
                idempotency_key: node::unique(),
                csr,
                urgency: Urgency::Start.into(),
                evidence: Some(proof.clone()),
                ..IssueItem::default()
            });
            let request = IssueRequest {
                items: items.collect(),
            };
            let start = Instant::now();
            let answer = self.client.issue(request).await?.into_inner();
            times.push(start.elapsed());
            anyhow::ensure!(answer.results.len() == batch, "every item is answered");
            for result in answer.results {
                node::issued(result.outcome)?;
            }
        }
        Ok(times)
    }
}

/// Of sorted times, in milliseconds.
pub(crate) fn percentile(sorted: &[Duration], percent: usize) -> f64 {
    let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted
        .get(at)
        .map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
}
