//! Agents that know several replicas of their authority.

use anyhow::Context as _;
use arx_tests::rotating::{quickly, reaches, rotate};
use arx_tests::several::{Known, REPLICAS, Several};
use rustix::process::Signal;

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn agents_go_to_every_address_that_the_name_of_their_authority_has() -> anyhow::Result<()> {
    let mut several = Several::known(Known::Named).await?;
    let load = several.pair.load();
    for n in 0..REPLICAS {
        several.replica_mut(n).kill_authority().await?;
        several.without(n).await?;
        several.is_back(n).await?;
    }
    load.stop().await.without_failure()?;
    several.pair.talks().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn whichever_replica_hangs_its_agents_are_at_the_others_and_no_request_is_lost()
-> anyhow::Result<()> {
    let several = Several::start().await?;
    let load = several.pair.load();
    for n in 0..REPLICAS {
        let process = several.replica(n).authority.as_ref().context("it runs")?;
        process.signal(Signal::STOP)?;
        several.without(n).await?;
        process.signal(Signal::CONT)?;
        several.follow_among(&[true; REPLICAS]).await?;
    }
    load.stop().await.without_failure()?;
    several.pair.talks().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_rolling_upgrade_in_a_rotation_loses_no_request_and_no_confirmation() -> anyhow::Result<()>
{
    let mut several = Several::start().await?;
    let load = several.pair.load();
    let mut slowly = quickly();
    slowly.window_ms = Some(20_000);
    rotate(several.replica(0), slowly).await?;
    for n in 0..REPLICAS {
        several.replica_mut(n).stop_authority().await?;
        several.without(n).await?;
        several.is_back(n).await?;
    }
    reaches(several.replica(0), "retire", |it| it.phase == "retire").await?;
    let done = reaches(several.replica(0), "done", |it| it.phase == "done").await?;
    anyhow::ensure!(done.forced.is_empty(), "{done:#?}");
    load.stop().await.without_failure()?;
    several.nodes_have_joined_once().await?;
    several.pair.talks().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn whichever_replica_is_killed_in_a_rotation_no_request_is_lost_and_no_confirmation()
-> anyhow::Result<()> {
    let mut several = Several::start().await?;
    let load = several.pair.load();
    for n in 0..REPLICAS {
        rotate(several.replica((n + 1) % REPLICAS), quickly()).await?;
        several.replica_mut(n).kill_authority().await?;
        several.without(n).await?;
        several.is_back(n).await?;
        let done = reaches(several.replica(n), "done", |it| it.phase == "done").await?;
        anyhow::ensure!(done.forced.is_empty(), "{done:#?}");
    }
    load.stop().await.without_failure()?;
    several.nodes_have_joined_once().await?;
    several.pair.talks().await
}
