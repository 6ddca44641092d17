//! Two replicas on one etcd, and the one that leads is killed.

use std::time::Instant;

use anyhow::Context as _;

use super::Effort;
use super::figure::{Figure, Goal, median};
use crate::etcd::Etcd;
use crate::rotating::{quickly, reaches, rotate};

/// How long the lease lasts.
const LEASE: f64 = 6.0;

/// From the leader's death to the next step of its rotation by the other. An agent of the other
/// joins meanwhile.
pub(crate) async fn leader(effort: Effort) -> anyhow::Result<Vec<Figure>> {
    let (mut seconds, mut joins) = (vec![], vec![]);
    for repetition in 0..effort.repetitions {
        let etcd = Etcd::start(1).await?;
        let mut one = etcd.replica("ca-1")?;
        let mut other = etcd.replica("ca-2")?;
        other.joins_cluster_of(&one)?;
        one.start_authority().await?;
        other.start_authority().await?;
        // For as long as it takes to kill its leader.
        let mut slowly = quickly();
        slowly.dwell_ms = Some(4000);
        rotate(&one, slowly).await?;
        // Both have said that nobody is in the way, and it waits for the dwell alone.
        let stands = reaches(&other, "the dwell", |it| {
            it.phase == "distribute" && it.gate == "dwell"
        });
        let stands = stands.await?;
        one.authority.take().context("it runs")?.kill().await?;
        let start = Instant::now();
        // Issuance does not wait for a leader.
        let mut agent = other.prepare_agent(&format!("n{repetition}"))?;
        one.write_join_token(&agent)?;
        agent.start().await?;
        joins.push(start.elapsed().as_secs_f64());
        reaches(&other, "the next step", |it| it.phase != stands.phase).await?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    let figure = Figure::new("failover_s", "s", Goal::AtMost(LEASE + 2.0), seconds);
    Ok(vec![figure.note(format!(
        "a lease of {LEASE} s; an agent that joined meanwhile was ready after {:.2} s",
        median(&joins)
    ))])
}
