//! The cross-certificate that a planned rotation carries: in chains while the old root retires,
//! and in none after it, or where it is not wanted.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use arx_identity::{CertChain, Certificate};
use arx_proto::admin::v1::{RequestRenewalRequest, RotateRootRequest, Unconfirmed};
use arx_tests::mesh::{Agent, Mesh, Options, pem};
use arx_tests::openssl::openssl;
use arx_tests::pair::Pair;
use arx_tests::process::until;
use arx_tests::rotating::{distrust, force, quickly, reaches, roots, rotate, stands};
use arx_tests::sds::{Connection, chain, secrets};

/// What a workload that starts now gets.
async fn issued(mesh: &Mesh, agent: &Agent, account: &str) -> anyhow::Result<CertChain> {
    let token = mesh.token("shop", account, &agent.node);
    let connection = Connection::open(&agent.socket, Some(&token)).await?;
    let mut stream = connection.stream(&["default"]).await?;
    let response = stream.next().await?;
    chain(&secrets(&response)?.pop().context("a secret")?)
}

/// Whether somebody who has only this root believes the chain, says OpenSSL.
fn is_believed(chain: &CertChain, root: &[u8], folder: &Path) -> anyhow::Result<bool> {
    let path = |name: &str| folder.join(name).to_string_lossy().into_owned();
    let (leaf, others) = chain.certificates().split_first().context("a leaf")?;
    let others: String = others.iter().map(Certificate::pem).collect();
    std::fs::write(path("leaf.pem"), leaf.pem())?;
    std::fs::write(path("others.pem"), others)?;
    std::fs::write(path("root.pem"), pem("CERTIFICATE", root))?;
    let verdict = openssl(&[
        "verify",
        "-x509_strict",
        "-CAfile",
        &path("root.pem"),
        "-untrusted",
        &path("others.pem"),
        &path("leaf.pem"),
    ]);
    Ok(verdict.is_ok())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn while_the_old_root_retires_whoever_has_missed_the_new_one_believes_it_all_the_same()
-> anyhow::Result<()> {
    let mesh = Mesh::start(Options::default()).await?;
    let agent = mesh.agent("n1").await?;
    let old = roots(&mesh).await?.pop().context("a root")?;
    let slowly = RotateRootRequest {
        window_ms: Some(600_000),
        ..quickly()
    };
    rotate(&mesh, slowly).await?;
    reaches(&mesh, "reissue", |it| it.phase == "reissue").await?;
    let during = issued(&mesh, &agent, "during").await?;
    let both = roots(&mesh).await?;
    let new = both.iter().find(|it| **it != old).context("two roots")?;
    let folder = tempfile::tempdir()?;
    ensure!(is_believed(&during, &old, folder.path())?, "{during:?}");
    ensure!(is_believed(&during, new, folder.path())?, "{during:?}");
    let [_, intermediate, cross] = during.certificates() else {
        anyhow::bail!("no cross-certificate: {during:?}");
    };
    ensure!(intermediate.authority_key_id() == cross.subject_key_id());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn after_a_rotation_and_where_it_is_not_wanted_no_chain_carries_one() -> anyhow::Result<()> {
    let mesh = Mesh::start(Options::default()).await?;
    let agent = mesh.agent("n1").await?;
    rotate(&mesh, quickly()).await?;
    reaches(&mesh, "done", |it| it.phase == "done").await?;
    ensure!(issued(&mesh, &agent, "after").await?.certificates().len() == 2);

    let unwanted = Mesh::start(Options {
        authority: "[rotation]\ncross_certificate = false\n".to_owned(),
        ..Options::default()
    })
    .await?;
    let agent = unwanted.agent("n1").await?;
    let old = roots(&unwanted).await?.pop().context("a root")?;
    let slowly = RotateRootRequest {
        window_ms: Some(600_000),
        ..quickly()
    };
    rotate(&unwanted, slowly).await?;
    reaches(&unwanted, "reissue", |it| it.phase == "reissue").await?;
    let during = issued(&unwanted, &agent, "during").await?;
    ensure!(during.certificates().len() == 2, "{during:?}");
    let folder = tempfile::tempdir()?;
    ensure!(!is_believed(&during, &old, folder.path())?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_envoy_that_knows_the_old_root_alone_goes_on_with_peers_under_the_new_one_until_that_goes()
-> anyhow::Result<()> {
    let mesh = Mesh::start(Options::default()).await?;
    let file = mesh.directory.join("only-the-old-root.pem");
    let old = roots(&mesh).await?.pop().context("a root")?;
    std::fs::write(&file, pem("CERTIFICATE", &old))?;
    let pair = Pair::over(mesh, |proxy| {
        if proxy.id == "web" {
            proxy.roots_file = Some(file.clone());
        }
    })
    .await?;
    pair.talks().await?;
    let before = pair.serials().await?;
    let load = pair.load();
    rotate(&pair.mesh, quickly()).await?;
    // It takes no bundle from its agent, so nothing tells what it trusts.
    let web = format!("pid {}", pair.web.process.id());
    let is_web = |it: &Unconfirmed| it.process == web;
    force(&pair.mesh, "distribute", is_web).await?;
    reaches(&pair.mesh, "retire", |it| it.phase == "retire").await?;
    pair.renewed(&before).await?;
    pair.talks().await?;
    load.stop().await.without_failure()?;
    force(&pair.mesh, "retire", is_web).await?;
    reaches(&pair.mesh, "done", |it| it.phase == "done").await?;

    // What is issued from now on has nothing that the old root has signed.
    let crossed = pair.serials().await?;
    let all = RequestRenewalRequest {
        all: true,
        ..RequestRenewalRequest::default()
    };
    pair.mesh.admin().await?.request_renewal(all).await?;
    pair.renewed(&crossed).await?;
    until("web refuses its peer", || async {
        Ok(pair.talks().await.is_err())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_agent_that_was_left_behind_comes_back_by_itself_while_the_old_root_retires()
-> anyhow::Result<()> {
    let mut pair = Pair::start(Options::default()).await?;
    pair.agents[1].kill().await?;
    rotate(&pair.mesh, quickly()).await?;
    let is_away = |it: &Unconfirmed| it.node == "c1/n2";
    force(&pair.mesh, "distribute", is_away).await?;
    reaches(&pair.mesh, "reissue", |it| it.phase == "reissue").await?;
    // The bundle file of its node, and its cache, have the old root alone.
    pair.agents[1].start().await?;
    reaches(&pair.mesh, "done", |it| it.phase == "done").await?;
    pair.talks().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_old_root_that_is_distrusted_in_the_middle_of_a_rotation_vouches_for_nobody_from_then_on()
-> anyhow::Result<()> {
    let mesh = Mesh::start(Options::default()).await?;
    let (agent, mut other) = (mesh.agent("n1").await?, mesh.agent("n2").await?);
    let old = roots(&mesh).await?.pop().context("a root")?;
    let slowly = RotateRootRequest {
        window_ms: Some(600_000),
        ..quickly()
    };
    rotate(&mesh, slowly).await?;
    reaches(&mesh, "reissue", |it| it.phase == "reissue").await?;
    ensure!(issued(&mesh, &agent, "before").await?.certificates().len() == 3);
    // It holds a certificate under the old root, so that this goes on for as long as it may.
    other.kill().await?;
    let id = Certificate::from_der(&old)?.subject_key_id();
    let id = id.context("a root has one")?.to_string();
    distrust(&mesh, &id, Duration::from_secs(300)).await?;
    let account = std::sync::atomic::AtomicU32::new(0);
    until("a chain has no cross-certificate", || async {
        let number = account.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let chain = issued(&mesh, &agent, &format!("after-{number}")).await?;
        Ok(chain.certificates().len() == 2)
    })
    .await?;
    let stands = stands(&mesh).await?;
    ensure!(
        stands.kind == "distrust" && stands.phase == "reissue",
        "{stands:?}"
    );
    Ok(())
}
