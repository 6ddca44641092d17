//! SIGKILL of the authority at random moments of rotations: each ends as if nothing had been.
//! Twenty kills by default; `ARX_CRASH=N` for more, `ARX_CRASH_SEED=S` to repeat a run.

use std::time::Duration;

use anyhow::ensure;
use arx_proto::admin::v1::VerifyLedgerRequest;
use arx_tests::dice::{Dice, times};
use arx_tests::mesh::Options;
use arx_tests::pair::Pair;
use arx_tests::rotating::{quickly, reaches, roots, rotate, stands};

/// A rotation takes some seconds: several kills fall into each, and some into no phase at all.
const BETWEEN_KILLS: u64 = 8000;

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_authority_that_is_killed_at_any_moment_of_a_rotation_ends_it() -> anyhow::Result<()> {
    let mut dice = Dice::seeded_by("ARX_CRASH_SEED");
    let mut pair = Pair::start(Options::default()).await?;
    let load = pair.load();
    let mut before = roots(&pair.mesh).await?;
    let (mut kills, mut rotations) = (0, 0);
    let mut moments = Vec::new();
    while kills < times("ARX_CRASH", 20) {
        let begun = rotate(&pair.mesh, quickly()).await?;
        rotations += 1;
        ensure!(begun.id == format!("r{rotations}"), "{begun:?}");
        while kills < times("ARX_CRASH", 20) {
            tokio::time::sleep(Duration::from_millis(dice.below(BETWEEN_KILLS))).await;
            let stands = stands(&pair.mesh).await?;
            if stands.phase == "done" {
                break;
            }
            moments.push(stands.phase);
            pair.mesh.kill_authority().await?;
            kills += 1;
            pair.mesh.spawn_authority()?;
            pair.mesh.authority_is_ready().await?;
        }
        let done = reaches(&pair.mesh, "done", |it| it.phase == "done").await?;
        ensure!(done.forced.is_empty() && !done.aborting, "{done:?}");
        let after = roots(&pair.mesh).await?;
        ensure!(after.len() == 1 && after != before, "another root alone");
        before = after;
    }
    load.stop().await.without_failure()?;
    pair.talks().await?;
    let mut admin = pair.mesh.admin().await?;
    let report = admin.verify_ledger(VerifyLedgerRequest {}).await?;
    let problems = report.into_inner().problems;
    ensure!(problems.is_empty(), "{problems:?}");
    eprintln!("{kills} kills over {rotations} rotations, in {moments:?}");
    Ok(())
}
