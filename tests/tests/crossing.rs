//! The cross-certificate that a planned rotation carries: in chains while the old root retires,
//! and in none after it, or where it is not wanted.

use std::path::Path;

use anyhow::{Context as _, ensure};
use arx_identity::CertChain;
use arx_proto::admin::v1::RotateRootRequest;
use arx_tests::mesh::{Agent, Mesh, Options, pem};
use arx_tests::openssl::openssl;
use arx_tests::rotating::{quickly, reaches, roots, rotate};
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
    let others: String = others.iter().map(arx_identity::Certificate::pem).collect();
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
