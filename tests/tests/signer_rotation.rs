//! A whole rotation of a root whose key is behind a signer socket, to one whose key is there, too.

use anyhow::{Context as _, ensure};
use arx_identity::{Certificate, KeyAlgorithm};
use arx_proto::admin::v1::{Authority, RequestRenewalRequest};
use arx_tests::mesh::{Mesh, Options};
use arx_tests::pair::Pair;
use arx_tests::process::until;
use arx_tests::rotating::{abort, quickly, reaches, roots, rotate};
use arx_tests::signer::Signer;

async fn root(mesh: &Mesh) -> anyhow::Result<Authority> {
    let status = mesh.status().await?;
    let mut roots = status
        .authorities
        .into_iter()
        .filter(|one| one.role == "root");
    let root = roots.next().context("there is a root")?;
    ensure!(roots.next().is_none(), "there is another");
    Ok(root)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_root_behind_a_signer_socket_is_rotated_under_load_to_another_key_there()
-> anyhow::Result<()> {
    let mut mesh = Mesh::prepare(Options::default())?;
    let signer = Signer::at(&mesh.directory);
    signer.make("first", KeyAlgorithm::EcdsaP384)?;
    signer.make("second", KeyAlgorithm::Rsa(3072))?;
    let process = signer.start(&["first", "second"])?;
    mesh.reconfigure(|options| options.authority = signer.table("first"))?;
    mesh.start_authority().await?;
    let before = root(&mesh).await?;
    ensure!(before.custody == "signer socket, key first", "{before:?}");
    let mut pair = Pair::over(mesh, |_| {}).await?;
    let load = pair.load();

    // The next key is named as the one before was, and the authority started again.
    let second = signer.table("second");
    pair.mesh
        .reconfigure(|options| options.authority = second)?;
    pair.mesh.stop_authority().await?;
    pair.mesh.spawn_authority()?;
    pair.mesh.authority_is_ready().await?;
    ensure!(root(&pair.mesh).await?.certificate == before.certificate);

    rotate(&pair.mesh, quickly()).await?;
    let done = reaches(&pair.mesh, "done", |it| it.phase == "done").await?;
    load.stop().await.without_failure()?;
    ensure!(done.forced.is_empty(), "{done:?}");
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
    let after = root(&pair.mesh).await?;
    ensure!(after.custody == "signer socket, key second", "{after:?}");
    ensure!(after.key_algorithm == "rsa-3072", "{after:?}");
    ensure!(roots(&pair.mesh).await? == std::slice::from_ref(&after.certificate));
    // Its certificate is by itself, and by the key that the signer has.
    let certificate = Certificate::from_der(&after.certificate)?;
    ensure!(certificate.is_signed_by(&certificate));

    // The first key is of no use any more.
    process.kill().await?;
    let _process = signer.start(&["second"])?;
    pair.mesh.stop_authority().await?;
    pair.mesh.spawn_authority()?;
    pair.mesh.authority_is_ready().await?;
    ensure!(root(&pair.mesh).await?.certificate == after.certificate);
    until("both agents' return", || async {
        Ok(pair.mesh.status().await?.agents_connected == 2)
    })
    .await?;
    let since = pair.serials().await?;
    let all = RequestRenewalRequest {
        all: true,
        ..RequestRenewalRequest::default()
    };
    pair.mesh.admin().await?.request_renewal(all).await?;
    pair.renewed(&since).await?;
    pair.talks().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_rotation_waits_for_another_key_while_the_signer_has_only_that_of_the_present_root()
-> anyhow::Result<()> {
    let mut mesh = Mesh::prepare(Options::default())?;
    let signer = Signer::at(&mesh.directory);
    signer.make("root", KeyAlgorithm::EcdsaP256)?;
    let _process = signer.start(&["root"])?;
    mesh.reconfigure(|options| options.authority = signer.table("root"))?;
    mesh.start_authority().await?;
    let before = root(&mesh).await?;
    rotate(&mesh, quickly()).await?;
    reaches(&mesh, "it says what keeps it", |it| {
        it.phase == "prepare" && it.message.contains("ARX-SIGNER-KEY-USED")
    })
    .await?;
    ensure!(roots(&mesh).await? == std::slice::from_ref(&before.certificate));
    abort(&mesh).await?;
    reaches(&mesh, "aborted", |it| it.phase == "aborted").await?;
    ensure!(root(&mesh).await?.certificate == before.certificate);
    Ok(())
}
