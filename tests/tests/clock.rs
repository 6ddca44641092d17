//! The clock of the machine jumps by an hour, forwards and backwards. Played with
//! libfaketime, which lets wall time jump for the processes that it is loaded into and
//! leaves monotonic time alone.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use arx_proto::admin::v1::Unconfirmed;
use arx_tests::app::App;
use arx_tests::envoy::{Envoy, Options as Proxy};
use arx_tests::faketime;
use arx_tests::http as web;
use arx_tests::mesh::{AUDIENCE, Mesh, Options};
use arx_tests::pair::Pair;
use arx_tests::process::{Process, binary, until};
use arx_tests::rotating::{quickly, reaches, rotate};
use arx_tests::token_issuer::Claims;
use rustix::process::Signal;

fn start(name: &str, config: &Path, library: &Path, clock: &Path) -> anyhow::Result<Process> {
    let config = config.display().to_string();
    let environment = faketime::environment(library, clock);
    Process::start_in(&environment, name, &binary(name)?, &["--config", &config])
}

fn jumps(process: &Process) -> usize {
    process
        .log()
        .lines()
        .iter()
        .filter(|line| line.contains("ARX-CLOCK-JUMP"))
        .count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_jump_of_the_clock_is_logged_once_and_starts_no_storm() -> anyhow::Result<()> {
    let Some(library) = faketime::library()? else {
        return Ok(());
    };
    // Shorter than the jump: whatever a workload has is over by it.
    let options = Options {
        ttl: "50m".to_owned(),
        node_ttl: "5h".to_owned(),
        ..Options::default()
    };
    let mut mesh = Mesh::start(options).await?;
    mesh.stop_authority().await?;
    let clock = mesh.directory.join("clock");
    std::fs::write(&clock, "+0")?;
    mesh.authority = Some(start("arx-ca", &mesh.authority_config(), &library, &clock)?);
    mesh.authority_is_ready().await?;
    let mut agent = mesh.prepare_agent("n1")?;
    agent.process = Some(start("arx-node-agent", &agent.config, &library, &clock)?);
    agent.is_ready().await?;
    let app = App::start().await?;
    let mut proxy = Proxy::new("web", &agent.socket, app.port);
    // Longer than the jump, other than what a workload has.
    let mut claims = Claims::new(AUDIENCE, "shop", "web", "n1");
    claims.lifetime = 3 * 3600;
    proxy.token = Some(mesh.issuer.mint(&claims));
    let envoy = Envoy::warm(&mesh.directory, proxy).await?;
    let issued = || async { anyhow::Ok(mesh.status().await?.issued_total) };

    for (number, offset) in ["+1h", "+0"].into_iter().enumerate() {
        let before = issued().await?;
        std::fs::write(&clock, offset)?;
        let authority = mesh.authority.as_ref().context("it runs")?;
        let process = agent.process.as_ref().context("it runs")?;
        until("the word on the jump", || async {
            Ok(jumps(authority) > number && jumps(process) > number)
        })
        .await?;
        if offset == "+1h" {
            until("renewal", || async { Ok(issued().await? > before) }).await?;
        }
        // A storm would show within this.
        tokio::time::sleep(Duration::from_secs(3)).await;
        ensure!(
            jumps(authority) == number + 1,
            "the authority has told it {} times",
            jumps(authority)
        );
        ensure!(
            jumps(process) == number + 1,
            "the agent has told it {} times",
            jumps(process)
        );
        let after = issued().await?;
        ensure!(
            after - before <= 4,
            "{} certificates were issued after {offset}",
            after - before
        );
        ensure!(web::get(mesh.ops_port, "/readyz").await?.0 == 200);
        ensure!(web::get(agent.ops_port, "/readyz").await?.0 == 200);
    }
    ensure!(envoy.stat("sds.default.update_rejected").await? == 0);
    for process in [mesh.authority.as_ref(), agent.process.as_ref()] {
        let log = process.context("it runs")?.log().lines().join("\n");
        ensure!(!log.contains("panicked"), "{log}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_clock_that_is_wrong_ends_nothing_that_a_rotation_waits_for() -> anyhow::Result<()> {
    let Some(library) = faketime::library()? else {
        return Ok(());
    };
    let mut mesh = Mesh::start(Options::default()).await?;
    mesh.stop_authority().await?;
    let clock = mesh.directory.join("clock");
    std::fs::write(&clock, "+0")?;
    mesh.authority = Some(start("arx-ca", &mesh.authority_config(), &library, &clock)?);
    mesh.authority_is_ready().await?;
    let pair = Pair::over(mesh, |_| {}).await?;
    pair.api.process.signal(Signal::STOP)?;
    rotate(&pair.mesh, quickly()).await?;
    let waits = |it: &Unconfirmed| it.reason == "not-acked";
    let doubts = |it: &Unconfirmed| it.reason == "clock-doubtful";
    reaches(&pair.mesh, "only the hanging one is in the way", |it| {
        it.phase == "distribute" && it.unconfirmed_total == 1 && waits(&it.unconfirmed[0])
    })
    .await?;

    // Now whatever the hanging one has would be over, if the clock were right.
    std::fs::write(&clock, "+3h")?;
    let stuck = reaches(&pair.mesh, "the clock is in the way", |it| {
        it.unconfirmed.iter().any(doubts)
    })
    .await?;
    ensure!(stuck.phase == "distribute", "{stuck:?}");
    ensure!(stuck.unconfirmed.iter().any(waits), "{stuck:?}");

    std::fs::write(&clock, "+0")?;
    reaches(&pair.mesh, "the clock is right", |it| {
        it.unconfirmed_total == 1 && waits(&it.unconfirmed[0])
    })
    .await?;
    pair.api.process.signal(Signal::CONT)?;
    let done = reaches(&pair.mesh, "done", |it| it.phase == "done").await?;
    ensure!(done.forced.is_empty(), "{done:?}");
    pair.talks().await
}
