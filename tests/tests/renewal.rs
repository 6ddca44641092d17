//! Certificates that are short-lived enough to be replaced while somebody looks.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use arx_tests::mesh::Options;
use arx_tests::pair::Pair;
use arx_tests::process::until;

fn lives(ttl: &str) -> Options {
    Options {
        ttl: ttl.to_owned(),
        ..Options::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn leaves_are_renewed_under_load_without_a_failed_request() -> anyhow::Result<()> {
    let pair = Pair::start(lives("8s")).await?;
    let load = pair.load();
    for _ in 0..3 {
        let serials = pair.serials().await?;
        pair.renewed(&serials).await?;
    }
    load.stop().await.without_failure()?;
    for name in ["default", "ROOTCA"] {
        let refused = format!("sds.{name}.update_rejected");
        ensure!(pair.web.stat(&refused).await? == 0);
    }
    // What is valid now is what the ledger says: nothing was issued and forgotten.
    let status = pair.mesh.status().await?;
    ensure!(status.issued_total >= 2 + 2 * 4, "{status:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn agents_renew_their_own_certificates_and_stay_connected() -> anyhow::Result<()> {
    let options = Options {
        node_ttl: "8s".to_owned(),
        ..Options::default()
    };
    let pair = Pair::start(options).await?;
    let issued = pair.mesh.status().await?.issued_total;
    until("two renewals of each", || async {
        Ok(pair.mesh.status().await?.issued_total >= issued + 4)
    })
    .await?;
    let log = pair.agents[0].process.as_ref().context("it runs")?.log();
    ensure!(
        log.count("the node has joined") == 1,
        "it has joined again instead: {}",
        log.tail()
    );
    ensure!(pair.mesh.status().await?.agents_connected == 2);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_authority_may_be_away_for_longer_than_half_a_lifetime() -> anyhow::Result<()> {
    let mut pair = Pair::start(lives("20s")).await?;
    let load = pair.load();
    let before = pair.serials().await?;
    pair.mesh.kill_authority().await?;
    // Longer than half of the lifetime, and less than all of it.
    tokio::time::sleep(Duration::from_secs(12)).await;
    ensure!(pair.serials().await? == before, "nobody could have renewed");
    let mut log = pair.agents[0].process.as_ref().context("it runs")?.log();
    log.until("ARX-AGENT-UNREACHABLE", 0).await?;
    pair.mesh.spawn_authority()?;
    pair.renewed(&before).await?;
    load.stop().await.without_failure()
}
