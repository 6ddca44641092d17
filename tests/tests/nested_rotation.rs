//! Rotations and distrusts of the root of an authority that another one stands below, with real
//! processes and Envoys under both.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use arx_identity::Certificate;
use arx_proto::admin::v1::{ContinueRotationRequest, RotateRootRequest};
use arx_tests::across::{Across, above, below};
use arx_tests::http as web;
use arx_tests::mesh::Mesh;
use arx_tests::process::{binary, until};
use arx_tests::rotating::{abort, distrust, quickly, reaches, roots, rotate, stands};
use rustix::process::Signal;

struct Both {
    up: Mesh,
    down: Mesh,
}

impl Both {
    async fn start() -> anyhow::Result<(Self, Across)> {
        let up = Mesh::start(above()).await?;
        let mut down = below(&up, "arx-ca", "")?;
        down.spawn_authority()?;
        down.authority_is_ready().await?;
        down.write_bundle().await?;
        let across = Across::start(&up, &down).await?;
        Ok((Self { up, down }, across))
    }

    fn signal_below(&self, signal: Signal) -> anyhow::Result<()> {
        let process = self.down.authority.as_ref();
        process.context("it was started")?.signal(signal)
    }

    /// Waits until the one below rotates, and is where `there` says.
    async fn below_reaches(&self, phase: &str) -> anyhow::Result<()> {
        until(phase, || async {
            let stands = stands(&self.down).await;
            Ok(stands.is_ok_and(|it| it.phase == phase))
        })
        .await
        .with_context(|| format!("below: {:?}", self.log_below()))
    }

    fn log_below(&self) -> Option<String> {
        let process = self.down.authority.as_ref();
        process.map(|it| format!("{:?}", it.log().tail()))
    }

    /// The key identifier of the only root, which is the same here and there.
    async fn only_root(&self) -> anyhow::Result<String> {
        let (up, down) = (roots(&self.up).await?, roots(&self.down).await?);
        ensure!(up == down && up.len() == 1, "{up:?} above, {down:?} below");
        let root = Certificate::from_der(&up[0])?;
        Ok(root.subject_key_id().context("it has one")?.to_string())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_rotation_above_goes_through_below_by_itself_and_waits_for_who_is_away_by_name()
-> anyhow::Result<()> {
    let (both, across) = Both::start().await?;
    let before = both.only_root().await?;
    let load = across.load();
    both.signal_below(Signal::STOP)?;
    rotate(&both.up, quickly()).await?;
    let waits = reaches(&both.up, "nobody but who is away", |it| {
        let only = it.unconfirmed_total == 1 && it.unconfirmed[0].node == "nested:west";
        it.phase == "distribute" && only
    })
    .await?;
    let west = &waits.unconfirmed[0];
    ensure!(west.reason == "below-behind", "{west:?}");
    ensure!(west.last_certificate_ends_unix_ms > 0, "{west:?}");
    ensure!(west.advice.contains("authority below"), "{west:?}");
    both.signal_below(Signal::CONT)?;

    let done = reaches(&both.up, "the end", |it| it.phase == "done").await?;
    ensure!(done.forced.is_empty(), "{done:?}");
    let followed = stands(&both.down).await?;
    ensure!(followed.phase == "done", "{followed:?}");
    ensure!(followed.started_by == "the upstream CA", "{followed:?}");
    ensure!(both.only_root().await? != before);
    load.without_failure().await?;
    across.talks().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_rotation_above_survives_the_death_of_either_authority() -> anyhow::Result<()> {
    let (mut both, across) = Both::start().await?;
    let load = across.load();
    rotate(&both.up, quickly()).await?;
    both.below_reaches("distribute").await?;
    both.up.kill_authority().await?;
    both.up.start_authority().await?;
    both.below_reaches("reissue").await?;
    both.down.kill_authority().await?;
    both.down.spawn_authority()?;
    both.down.authority_is_ready().await?;

    reaches(&both.up, "the end", |it| it.phase == "done").await?;
    ensure!(stands(&both.down).await?.phase == "done");
    both.only_root().await?;
    load.without_failure().await?;
    across.talks().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_rotation_that_is_turned_round_above_turns_round_below_and_nobody_else_turns_it_round_there()
-> anyhow::Result<()> {
    let (both, across) = Both::start().await?;
    let before = both.only_root().await?;
    let load = across.load();
    let slowly = |window_ms, dwell_ms| RotateRootRequest {
        window_ms: Some(window_ms),
        dwell_ms: Some(dwell_ms),
        ..quickly()
    };
    // Before anything was issued under the new root.
    rotate(&both.up, slowly(1000, 60_000)).await?;
    both.below_reaches("distribute").await?;
    let refused = abort(&both.down).await.err().context("it is refused")?;
    let status = refused.downcast_ref::<tonic::Status>();
    let code = status.and_then(|it| it.metadata().get("arx-code"));
    ensure!(
        code.is_some_and(|code| code == "ARX-ROTATION-FOLLOWS"),
        "{refused:?}"
    );
    abort(&both.up).await?;
    reaches(&both.up, "the way back", |it| it.phase == "aborted").await?;
    both.below_reaches("aborted").await?;
    ensure!(both.only_root().await? == before);

    // And when half of everything stands under it.
    rotate(&both.up, slowly(60_000, 500)).await?;
    both.below_reaches("reissue").await?;
    reaches(&both.up, "Reissue", |it| it.phase == "reissue").await?;
    abort(&both.up).await?;
    reaches(&both.up, "the way back", |it| it.phase == "aborted").await?;
    ensure!(stands(&both.down).await?.phase == "aborted");
    ensure!(both.only_root().await? == before);
    load.without_failure().await?;
    across.talks().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_root_that_is_distrusted_above_is_distrusted_below_within_seconds() -> anyhow::Result<()>
{
    let (both, across) = Both::start().await?;
    let before = both.only_root().await?;
    let load = across.load();
    distrust(&both.up, &before, Duration::from_secs(5)).await?;
    reaches(&both.up, "the end", |it| it.phase == "done").await?;
    both.below_reaches("done").await?;
    let followed = stands(&both.down).await?;
    ensure!(followed.kind == "distrust", "{followed:?}");
    ensure!(both.only_root().await? != before);
    let status = both.down.status().await?;
    let mut known = status.authorities.iter();
    ensure!(known.any(|it| it.state == "distrusted"), "{status:?}");
    load.without_failure().await?;
    across.talks().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn who_was_away_when_its_root_was_distrusted_above_is_left_behind_by_name_and_comes_back()
-> anyhow::Result<()> {
    let (both, across) = Both::start().await?;
    let before = both.only_root().await?;
    both.signal_below(Signal::STOP)?;
    distrust(&both.up, &before, Duration::from_secs(1)).await?;
    let done = reaches(&both.up, "the end", |it| it.phase == "done").await?;
    ensure!(done.forced.iter().any(|it| it.left_behind == 1), "{done:?}");
    let report = std::process::Command::new(binary("arx")?)
        .arg("--socket")
        .arg(both.up.admin_socket())
        .args(["rotate", "report", "r1", "-o", "json"])
        .output()?;
    let report = String::from_utf8(report.stdout)?;
    ensure!(report.contains("nested:west"), "{report}");
    both.signal_below(Signal::CONT)?;

    // It can't believe who answers there, and says so, and issues until an operator brings the
    // new root.
    until("word of it", || async {
        let (status, body) = web::get(both.down.ops_port, "/readyz").await?;
        Ok(status == 200 && body.contains("ARX-UPSTREAM-TLS"))
    })
    .await?;
    let (_, metrics) = web::get(both.down.ops_port, "/metrics").await?;
    ensure!(metrics.contains("arx_ca_upstream_reachable 0"), "{metrics}");
    both.up.write_bundle().await?;
    both.below_reaches("done").await?;
    ensure!(stands(&both.down).await?.kind == "distrust");
    ensure!(both.only_root().await? != before);
    across.talks().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_root_that_is_taken_back_above_in_retire_is_trusted_below_until_it_goes()
-> anyhow::Result<()> {
    let (both, across) = Both::start().await?;
    let before = both.only_root().await?;
    let load = across.load();
    let slowly = RotateRootRequest {
        dwell_ms: Some(5000),
        ..quickly()
    };
    rotate(&both.up, slowly).await?;
    // It dwells now, and waits for nobody below, which then does not hear of what is published.
    reaches(&both.up, "nobody in the way of Reissue", |it| {
        it.phase == "reissue" && it.unconfirmed_total == 0 && it.gate == "dwell"
    })
    .await?;
    both.signal_below(Signal::STOP)?;
    reaches(&both.up, "Retire", |it| it.phase == "retire").await?;
    abort(&both.up).await?;
    both.signal_below(Signal::CONT)?;
    reaches(&both.up, "the wait for the operator", |it| it.held).await?;
    ensure!(roots(&both.up).await? == roots(&both.down).await?);
    let on = ContinueRotationRequest::default();
    both.up.admin().await?.continue_rotation(on).await?;
    reaches(&both.up, "the end", |it| it.phase == "done").await?;
    ensure!(stands(&both.down).await?.phase == "done");
    ensure!(both.only_root().await? != before);
    load.without_failure().await?;
    across.talks().await
}
