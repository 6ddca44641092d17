//! An operator's root that is replaced by another one in its files, with real Envoys and load.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use arx_daemon::Clock;
use arx_daemon::files::write_atomically;
use arx_proto::admin::v1::{GetBundleRequest, Health, Rotation, RotationStatusRequest};
use arx_tests::http as web;
use arx_tests::mesh::{Mesh, Options, TRUST_DOMAIN};
use arx_tests::pair::Pair;
use arx_tests::process::until;
use arx_tests::root::Root;

const LIFETIME: Duration = Duration::from_secs(300 * 86_400);

fn root() -> anyhow::Result<Root> {
    Root::new(TRUST_DOMAIN, Clock::system().now(), LIFETIME)
}

/// Two nodes with their Envoys under the operator's root.
async fn over(root: &Root, window: &str) -> anyhow::Result<Pair> {
    let mut mesh = Mesh::prepare(Options {
        authority: format!("[rotation]\nwindow = \"{window}\"\ndwell = \"500ms\""),
        ..Options::default()
    })?;
    let files = root.write(&mesh.directory)?;
    mesh.reconfigure(|options| options.roots = format!("{files}\nfiles_interval = \"200ms\""))?;
    mesh.start_authority().await?;
    Pair::over(mesh, |_| {}).await
}

async fn last(mesh: &Mesh) -> anyhow::Result<Option<Rotation>> {
    let request = RotationStatusRequest::default();
    let answer = mesh.admin().await?.rotation_status(request).await?;
    Ok(answer.into_inner().rotation)
}

async fn reaches(mesh: &Mesh, phases: &[&str]) -> anyhow::Result<Rotation> {
    let reached = until(phases[0], || async {
        let last = last(mesh).await?;
        Ok(last.is_some_and(|last| phases.contains(&&*last.phase)))
    });
    let reached = reached.await;
    let last = last(mesh).await?;
    reached.with_context(|| format!("it stands like this: {last:#?}"))?;
    last.context("there is a rotation")
}

async fn files(mesh: &Mesh) -> anyhow::Result<Health> {
    let health = mesh.status().await?.health.into_iter();
    let mut files = health.filter(|it| it.component == "files");
    files.next().context("the files are among what can be well")
}

async fn bundle(mesh: &Mesh) -> anyhow::Result<Vec<bytes::Bytes>> {
    let request = GetBundleRequest::default();
    let bundle = mesh.admin().await?.get_bundle(request).await?;
    Ok(bundle.into_inner().roots)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_replaced_root_is_rotated_to_without_a_failed_request_also_over_kills()
-> anyhow::Result<()> {
    let (a, b) = (root()?, root()?);
    let mut pair = over(&a, "1s").await?;
    let load = pair.load();

    // Half of the next set: told, and nothing else.
    let certificate = pair.mesh.directory.join("root.pem");
    write_atomically(&certificate, b.certificate.pem().as_bytes(), 0o644)?;
    until("the half set is told", || async {
        let told = files(&pair.mesh).await?;
        Ok(told.ok && told.warning && told.code == "ARX-AUTHORITY-KEY-MISMATCH")
    })
    .await?;
    let (status, body) = web::get(pair.mesh.ops_port, "/readyz").await?;
    ensure!(
        status == 200 && body.contains("[!] files: ARX-AUTHORITY-KEY-MISMATCH"),
        "{body}"
    );
    ensure!(
        last(&pair.mesh).await?.is_none() && bundle(&pair.mesh).await? == [a.certificate.der()]
    );

    b.write(&pair.mesh.directory)?;
    let order = ["distribute", "activate", "reissue", "retire", "done"];
    for at in [0, 1, 2] {
        reaches(&pair.mesh, &order[at..]).await?;
        pair.mesh.kill_authority().await?;
        pair.mesh.spawn_authority()?;
        pair.mesh.authority_is_ready().await?;
    }
    let done = reaches(&pair.mesh, &order[4..]).await?;
    load.stop().await.without_failure()?;
    ensure!(done.started_by == "the operator's files", "{done:?}");
    ensure!(done.forced.is_empty() && done.id == "r1", "{done:?}");
    ensure!(bundle(&pair.mesh).await? == [b.certificate.der()]);
    until("the files are as they should be", || async {
        Ok(!files(&pair.mesh).await?.warning)
    })
    .await?;
    pair.talks().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_first_root_in_its_files_again_turns_the_rotation_round_also_after_a_kill()
-> anyhow::Result<()> {
    let (a, b) = (root()?, root()?);
    let mut pair = over(&a, "600s").await?;
    let load = pair.load();
    b.write(&pair.mesh.directory)?;
    reaches(&pair.mesh, &["reissue"]).await?;
    pair.mesh.kill_authority().await?;
    pair.mesh.spawn_authority()?;
    pair.mesh.authority_is_ready().await?;
    a.write(&pair.mesh.directory)?;
    let ended = reaches(&pair.mesh, &["aborted"]).await?;
    load.stop().await.without_failure()?;
    ensure!(
        ended.abort_reason.contains("the first root again"),
        "{ended:?}"
    );
    ensure!(bundle(&pair.mesh).await? == [a.certificate.der()]);
    pair.talks().await
}
