//! A client that joins nodes, each on a connection of its own.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use super::client::Boss;
use super::issue::{Report, percentile};
use super::node::{Authority, requests};

const KEYS: usize = 50;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Options {
    pub(crate) authority: Authority,
    /// One token a line, each of another node.
    pub(crate) tokens: PathBuf,
    /// Joins at a time.
    pub(crate) in_flight: usize,
    /// Joins of one run.
    pub(crate) joins: usize,
}

pub(crate) async fn play(boss: &mut Boss, options: Options) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(&options.tokens)?;
    let mut tokens = text.lines().map(str::to_owned);
    let tls = Arc::new(options.authority.tls(None)?);
    let keys = requests(KEYS)?;
    boss.say("ready", &())?;
    while boss.order().await?.is_some() {
        let start = Instant::now();
        let mut workers = JoinSet::new();
        for worker in 0..options.in_flight {
            let mine: Vec<String> = tokens
                .by_ref()
                .take(options.joins / options.in_flight)
                .collect();
            let (tls, authority) = (Arc::clone(&tls), options.authority.clone());
            let csr = keys[worker % keys.len()].clone();
            workers.spawn(async move {
                let mut times = Vec::with_capacity(mine.len());
                for token in mine {
                    let start = Instant::now();
                    authority.join(&tls, &token, csr.clone()).await?;
                    times.push(start.elapsed());
                }
                anyhow::Ok(times)
            });
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
                certificates: times.len(),
                wall_s: wall.as_secs_f64(),
                p50_ms: percentile(&times, 50),
                p99_ms: percentile(&times, 99),
            },
        )?;
    }
    Ok(())
}
