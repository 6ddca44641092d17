//! Twenty real Envoys on two nodes, all under load: what rotations do to them, counted by the
//! callers and by the Envoys' own statistics.

use std::time::Duration;

use anyhow::ensure;
use arx_proto::admin::v1::RotateRootRequest;
use arx_tests::fleet::{Fleet, stopped};
use arx_tests::mesh::Options;
use arx_tests::rotating::{abort, quickly, reaches, roots, rotate};

const NODES: usize = 2;
const PROXIES: usize = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_proxies_follow_a_rotation_and_one_that_is_turned_round_without_a_failed_request()
-> anyhow::Result<()> {
    let fleet = Fleet::start(Options::default(), NODES, PROXIES).await?;
    let mesh = &fleet.mesh;
    let first = (roots(mesh).await?, fleet.serials().await?);
    let loads = fleet.load();

    rotate(mesh, quickly()).await?;
    let done = reaches(mesh, "done", |it| it.phase == "done").await?;
    ensure!(done.forced.is_empty() && !done.aborting, "{done:?}");
    let second = (roots(mesh).await?, fleet.serials().await?);
    ensure!(second.0.len() == 1 && second.0 != first.0);
    let renewed = first.1.iter().zip(&second.1);
    ensure!(renewed.filter(|(before, after)| before == after).count() == 0);

    // Half of them are renewed by the time that it is turned round, more or less.
    let slowly = RotateRootRequest {
        window_ms: Some(4000),
        ..quickly()
    };
    rotate(mesh, slowly).await?;
    reaches(mesh, "half-way", |it| {
        it.phase == "reissue" && it.unconfirmed_total <= PROXIES as u64 / 2
    })
    .await?;
    abort(mesh).await?;
    let ended = reaches(mesh, "aborted", |it| it.phase == "aborted").await?;
    ensure!(ended.forced.is_empty(), "{ended:?}");
    ensure!(roots(mesh).await? == second.0, "it ends as it began");

    tokio::time::timeout(Duration::from_secs(30), fleet.talks()).await??;
    let outcome = stopped(loads).await?;
    outcome.without_failure()?;
    eprintln!("{} requests were answered", outcome.good);
    let failures = fleet.failures().await?;
    ensure!(failures.is_empty(), "{failures:?}");
    Ok(())
}
