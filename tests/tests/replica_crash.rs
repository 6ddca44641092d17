//! SIGKILL of a replica in each phase of a rotation: of the one that leads, and of one that does
//! not. Each rotation ends as if nothing had been.

use anyhow::{Context as _, ensure};
use arx_proto::admin::v1::{RotateRootRequest, VerifyLedgerRequest};
use arx_tests::rotating::{quickly, reaches, roots, rotate, stands};
use arx_tests::several::{REPLICAS, Several};
use rustix::process::Signal;

/// No gate is passed sooner, so that whoever is killed when a phase begins is killed in it.
const DWELL_MS: u64 = 2000;

/// Who is killed.
#[derive(Clone, Copy, Debug)]
enum Victim {
    /// Whoever takes the steps.
    Leader,
    /// Another.
    Other,
}

impl Victim {
    fn of(self, leader: usize) -> usize {
        match self {
            Self::Leader => leader,
            Self::Other => (leader + 1) % REPLICAS,
        }
    }
}

/// Neither leads nor is killed.
fn witness(leader: usize) -> usize {
    (leader + 2) % REPLICAS
}

/// Kills a replica in this phase, in which another sees the rotation before and after.
async fn killed(
    several: &mut Several,
    (victim, witness): (usize, usize),
    phase: &str,
) -> anyhow::Result<()> {
    several.replica_mut(victim).kill_authority().await?;
    let stands = stands(several.replica(witness)).await?;
    ensure!(stands.phase == phase, "killed too late: {stands:#?}");
    Ok(())
}

/// In the first phase, which nobody takes further while the leader is stopped.
async fn killed_in_the_first(several: &mut Several, victim: Victim) -> anyhow::Result<String> {
    let leader = several.leader().await?;
    let stopped = several.replica(leader).authority.as_ref();
    stopped.context("it runs")?.signal(Signal::STOP)?;
    let request = RotateRootRequest {
        dwell_ms: Some(DWELL_MS),
        ..quickly()
    };
    let begun = rotate(several.replica(witness(leader)), request).await?;
    ensure!(begun.phase == "prepare", "{begun:#?}");
    let victim = victim.of(leader);
    killed(several, (victim, witness(leader)), "prepare").await?;
    if victim != leader {
        let stopped = several.replica(leader).authority.as_ref();
        stopped.context("it runs")?.signal(Signal::CONT)?;
    }
    several.without(victim).await?;
    several.is_back(victim).await?;
    Ok(begun.id)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_loss_of_any_replica_in_any_phase_of_a_rotation_loses_no_request_and_no_confirmation()
-> anyhow::Result<()> {
    let mut several = Several::start().await?;
    let load = several.pair.load();
    for victim in [Victim::Leader, Victim::Other] {
        let before = roots(several.replica(0)).await?;
        let id = killed_in_the_first(&mut several, victim).await?;
        for phase in ["distribute", "activate", "reissue", "retire"] {
            let leader = several.leader().await?;
            let seen = reaches(several.replica(witness(leader)), phase, |it| {
                it.phase == phase
            });
            ensure!(seen.await?.id == id);
            let victim = victim.of(leader);
            killed(&mut several, (victim, witness(leader)), phase).await?;
            several.without(victim).await?;
            several.is_back(victim).await?;
        }
        for n in 0..REPLICAS {
            let done = reaches(several.replica(n), "done", |it| it.phase == "done").await?;
            ensure!(done.id == id && done.forced.is_empty(), "{done:#?}");
            let after = roots(several.replica(n)).await?;
            ensure!(after.len() == 1 && after != before, "another root alone");
        }
    }
    load.stop().await.without_failure()?;
    several.pair.talks().await?;
    for n in 0..REPLICAS {
        let mut admin = several.replica(n).admin().await?;
        let report = admin.verify_ledger(VerifyLedgerRequest {}).await?;
        let problems = report.into_inner().problems;
        ensure!(problems.is_empty(), "{problems:?}");
    }
    Ok(())
}
