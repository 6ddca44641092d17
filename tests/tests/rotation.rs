//! Rotating the root under load: with real Envoys, and with what gets in the way.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use arx_daemon::files::write_atomically;
use arx_proto::admin::v1::{
    AbortRotationRequest, ContinueRotationRequest, RotateRootRequest, Unconfirmed,
};
use arx_tests::mesh::{Options, pem};
use arx_tests::pair::Pair;
use arx_tests::rotating::{quickly, reaches, roots, rotate, stands};
use rustix::process::Signal;

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_root_is_rotated_under_load_without_a_failed_request() -> anyhow::Result<()> {
    let pair = Pair::start(Options::default()).await?;
    let before = (roots(&pair.mesh).await?, pair.serials().await?);
    let load = pair.load();
    let begun = rotate(&pair.mesh, quickly()).await?;
    ensure!(begun.id == "r1", "{begun:?}");
    let done = reaches(&pair.mesh, "done", |rotation| rotation.phase == "done").await?;
    load.stop().await.without_failure()?;

    let after = roots(&pair.mesh).await?;
    ensure!(after.len() == 1 && after != before.0);
    let serials = pair.serials().await?;
    ensure!(serials[0] != before.1[0] && serials[1] != before.1[1]);
    ensure!(done.forced.is_empty() && !done.aborting, "{done:?}");
    let phases: Vec<_> = done.phases.iter().map(|entered| &*entered.phase).collect();
    let expected = [
        "prepare",
        "distribute",
        "activate",
        "reissue",
        "retire",
        "done",
    ];
    ensure!(phases == expected, "{phases:?}");
    pair.talks().await?;
    for proxy in [&pair.web, &pair.api] {
        for name in ["default", "ROOTCA"] {
            let refused = format!("sds.{name}.update_rejected");
            ensure!(proxy.stat(&refused).await? == 0);
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_rotation_that_is_turned_round_half_way_ends_as_it_began() -> anyhow::Result<()> {
    let pair = Pair::start(Options::default()).await?;
    let before = roots(&pair.mesh).await?;
    let load = pair.load();
    let slowly = RotateRootRequest {
        window_ms: Some(600_000),
        ..quickly()
    };
    rotate(&pair.mesh, slowly).await?;
    reaches(&pair.mesh, "reissue", |it| it.phase == "reissue").await?;
    let request = AbortRotationRequest {
        reason: "a test".to_owned(),
        ..AbortRotationRequest::default()
    };
    let turned = pair.mesh.admin().await?.abort_rotation(request).await?;
    let turned = turned.into_inner().rotation.context("a rotation")?;
    ensure!(turned.aborting && turned.phase == "activate", "{turned:?}");
    let ended = reaches(&pair.mesh, "aborted", |it| it.phase == "aborted").await?;
    load.stop().await.without_failure()?;
    ensure!(roots(&pair.mesh).await? == before);
    ensure!(ended.abort_reason == "a test");
    pair.talks().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_proxy_that_hangs_keeps_the_gate_shut_and_is_named() -> anyhow::Result<()> {
    let pair = Pair::start(Options::default()).await?;
    let hanging = &pair.api.process;
    hanging.signal(Signal::STOP)?;
    rotate(&pair.mesh, quickly()).await?;
    let names_it = |it: &Unconfirmed| {
        it.node == "c1/n2"
            && it.process == format!("pid {}", hanging.id())
            && it.reason == "not-acked"
    };
    let stuck = reaches(&pair.mesh, "only the hanging one is in the way", |it| {
        it.phase == "distribute" && it.unconfirmed_total == 1 && names_it(&it.unconfirmed[0])
    })
    .await?;
    // Not by asking to go on, and not by force without a reason.
    let mut admin = pair.mesh.admin().await?;
    for request in [
        ContinueRotationRequest::default(),
        ContinueRotationRequest {
            force: true,
            digest: stuck.unconfirmed_digest.clone(),
            ..ContinueRotationRequest::default()
        },
    ] {
        let refused = admin.continue_rotation(request).await;
        ensure!(refused.is_err(), "{refused:?}");
    }
    ensure!(stands(&pair.mesh).await?.phase == "distribute");
    hanging.signal(Signal::CONT)?;
    reaches(&pair.mesh, "done", |it| it.phase == "done").await?;
    pair.talks().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_agent_that_is_away_keeps_the_gate_shut_until_somebody_forces_it() -> anyhow::Result<()>
{
    let mut pair = Pair::start(Options::default()).await?;
    pair.agents[1].kill().await?;
    rotate(&pair.mesh, quickly()).await?;
    let away = |it: &Unconfirmed| it.node == "c1/n2" && it.reason == "agent-away";
    let stuck = reaches(&pair.mesh, "the agent that is away is named", |it| {
        it.phase == "distribute" && it.unconfirmed.iter().any(away)
    })
    .await?;
    let force = |digest| ContinueRotationRequest {
        force: true,
        reason: "it will not come back".to_owned(),
        digest,
        ..ContinueRotationRequest::default()
    };
    let mut admin = pair.mesh.admin().await?;
    let changed = admin.continue_rotation(force(vec![7; 32].into())).await;
    ensure!(
        changed.is_err_and(|status| status.code() == tonic::Code::Aborted),
        "another list was shown"
    );
    let stuck = reaches(&pair.mesh, "nobody else is in the way", |it| {
        it.unconfirmed.iter().all(away)
    })
    .await
    .unwrap_or(stuck);
    let forced = admin
        .continue_rotation(force(stuck.unconfirmed_digest))
        .await?
        .into_inner();
    let forced = forced.rotation.context("a rotation")?;
    ensure!(
        forced.forced.len() == 1 && forced.forced[0].phase == "distribute",
        "{forced:?}"
    );
    ensure!(forced.forced[0].left_behind > 0);
    // It comes back. What it was left behind with no longer vouches for the authority, so it
    // needs the bundle from whoever spreads the file; then it takes what it has missed.
    let bundle: String = roots(&pair.mesh)
        .await?
        .iter()
        .map(|root| pem("CERTIFICATE", root))
        .collect();
    write_atomically(pair.mesh.bundle(), bundle.as_bytes(), 0o644)?;
    pair.agents[1].start().await?;
    reaches(&pair.mesh, "done", |it| it.phase == "done").await?;
    pair.talks().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_authority_that_is_killed_in_each_state_of_any_phase_ends_the_rotation()
-> anyhow::Result<()> {
    let mut pair = Pair::start(Options::default()).await?;
    let load = pair.load();
    rotate(&pair.mesh, quickly()).await?;
    // Each phase is stored as it begins, and again when nobody is in its way any more.
    let phases = ["distribute", "activate", "reissue", "retire", "done"];
    let states = phases[..4]
        .iter()
        .flat_map(|phase| [(*phase, false), (*phase, true)]);
    for (phase, clear) in states {
        let place = |name: &str| phases.iter().position(|known| *known == name);
        reaches(&pair.mesh, phase, |it| {
            (place(&it.phase), it.gate == "dwell") >= (place(phase), clear)
        })
        .await?;
        pair.mesh.kill_authority().await?;
        pair.mesh.spawn_authority()?;
        pair.mesh.authority_is_ready().await?;
    }
    let done = reaches(&pair.mesh, "done", |it| it.phase == "done").await?;
    load.stop().await.without_failure()?;
    ensure!(done.forced.is_empty(), "{done:?}");
    tokio::time::timeout(Duration::from_secs(10), pair.talks()).await?
}
