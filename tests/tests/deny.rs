//! Denied holders: nothing new for them, bundles all the same, and no gate that waits for them.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};
use arx_proto::admin::v1::rotate_root_response::Outcome;
use arx_proto::admin::v1::{RotateRootRequest, Rotation, RotationStatusRequest};
use arx_tests::mesh::{Mesh, Options};
use arx_tests::process::{binary, until};
use arx_tests::sds::{Connection, chain, names, secrets};
use serde_json::Value;

const API: &str = "spiffe://example.org/ns/shop/sa/api";
const WEB: &str = "spiffe://example.org/ns/shop/sa/web";

/// What `arx` prints.
fn arx(socket: &Path, arguments: &[&str]) -> anyhow::Result<Value> {
    let mut command = Command::new(binary("arx")?);
    let command = command.arg("--socket").arg(socket).args(["-o", "json"]);
    let output = command.args(arguments).output()?;
    ensure!(output.status.success(), "{arguments:?}: {output:?}");
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn deny(mesh: &Mesh, whom: &str) -> anyhow::Result<Value> {
    arx(
        &mesh.admin_socket(),
        &["deny", whom, "--reason", "a test", "--until", "1h"],
    )
}

/// A connection of a pod of this service account.
async fn pod(mesh: &Mesh, socket: &Path, account: &str) -> anyhow::Result<Connection> {
    let token = mesh.token("shop", account, "n1");
    Connection::open(socket, Some(&token)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_denied_account_gets_roots_and_no_certificate_until_it_is_allowed() -> anyhow::Result<()>
{
    let mut mesh = Mesh::start(Options::default()).await?;
    let agent = mesh.agent("n1").await?;
    let denied = deny(&mesh, "sa/shop/web")?;
    ensure!(denied["unreached"] == serde_json::json!([]), "{denied}");
    // What was denied once stays so.
    mesh.kill_authority().await?;
    mesh.spawn_authority()?;
    mesh.authority_is_ready().await?;

    let mut log = agent.process.as_ref().context("it runs")?.log();
    let web = pod(&mesh, &agent.socket, "web").await?;
    let mut waiting = web.stream(&["default"]).await?;
    log.until("ARX-DENIED", 0).await?;
    let api = pod(&mesh, &agent.socket, "api").await?;
    let response = api.stream(&["default"]).await?.next().await?;
    let issued = chain(&secrets(&response)?[0])?;
    ensure!(issued.spiffe_id().as_str() == API);
    let roots = web.stream(&["ROOTCA"]).await?.next().await?;
    ensure!(names(&roots)? == ["ROOTCA"]);
    ensure!(waiting.is_silent().await);

    let socket = mesh.admin_socket();
    let list = arx(&socket, &["deny", "list"])?;
    ensure!(
        list[0]["subject"] == "sa/shop/web" && list[0]["certificates"] == 0,
        "{list}"
    );
    arx(&socket, &["allow", "sa/shop/web"])?;
    ensure!(arx(&socket, &["deny", "list"])? == serde_json::json!([]));
    let web = pod(&mesh, &agent.socket, "web").await?;
    let response = web.stream(&["default"]).await?.next().await?;
    let issued = chain(&secrets(&response)?[0])?;
    ensure!(issued.spiffe_id().as_str() == WEB);
    Ok(())
}

async fn stands(mesh: &Mesh) -> anyhow::Result<Rotation> {
    let request = RotationStatusRequest::default();
    let answer = mesh.admin().await?.rotation_status(request).await?;
    answer.into_inner().rotation.context("there is a rotation")
}

async fn reaches(mesh: &Mesh, what: &str, there: impl Fn(&Rotation) -> bool) -> anyhow::Result<()> {
    let reached = until(what, || async { Ok(there(&stands(mesh).await?)) }).await;
    let rotation = stands(mesh).await?;
    reached.with_context(|| format!("it stands like this: {rotation:#?}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_rotation_waits_neither_for_a_denied_node_nor_for_a_denied_workload_and_lists_both()
-> anyhow::Result<()> {
    let mesh = Mesh::start(Options::default()).await?;
    let agent = mesh.agent("n1").await?;
    let mut lost = mesh.agent("n2").await?;
    let web = pod(&mesh, &agent.socket, "web").await?;
    let mut certificate = web.stream(&["default"]).await?;
    let first = certificate.next().await?;
    certificate.ack(&first)?;
    let mut roots = web.stream(&["ROOTCA"]).await?;
    let first = roots.next().await?;
    roots.ack(&first)?;
    lost.kill().await?;

    let request = RotateRootRequest {
        window_ms: Some(1000),
        dwell_ms: Some(500),
        ..RotateRootRequest::default()
    };
    let begun = mesh.admin().await?.rotate_root(request).await?;
    ensure!(matches!(
        begun.into_inner().outcome,
        Some(Outcome::Rotation(_))
    ));
    // It gets the new roots, and does not say that it uses them.
    let both = roots.next().await?;
    ensure!(names(&both)? == ["ROOTCA"]);
    reaches(&mesh, "both are in the way", |it| {
        let names = |node: &str, reason: &str| {
            let mut all = it.unconfirmed.iter();
            all.any(|one| one.node == node && one.reason == reason)
        };
        it.unconfirmed_total == 2 && names("c1/n1", "not-acked") && names("c1/n2", "agent-away")
    })
    .await?;
    let node = deny(&mesh, "node/c1/n2")?;
    ensure!(
        node["certificates"] == 1 && !node["last_certificate_ends"].is_null(),
        "{node}"
    );
    reaches(&mesh, "only the workload is in the way", |it| {
        it.phase == "distribute" && it.unconfirmed_total == 1 && it.unconfirmed[0].node == "c1/n1"
    })
    .await?;
    let account = deny(&mesh, "sa/shop/web")?;
    ensure!(
        account["identities"] == serde_json::json!([WEB]),
        "{account}"
    );
    reaches(&mesh, "done", |it| it.phase == "done").await?;
    let done = stands(&mesh).await?;
    ensure!(done.forced.is_empty() && !done.aborting, "{done:?}");
    // Neither has followed, and the evidence says so of each gate.
    let socket = mesh.admin_socket();
    let report = arx(&socket, &["rotate", "report", &done.id])?;
    for phase in ["distribute", "reissue", "retire"] {
        let mut denied = report["denied"].as_array().into_iter().flatten();
        let denied = denied.find(|it| it["phase"] == phase).context(phase)?;
        let holds = |node: &str, reason: &str, workload: &str| {
            let mut holders = denied["holders"].as_array().into_iter().flatten();
            holders.any(|it| {
                it["node"] == node && it["reason"] == reason && it["workloads"][0] == workload
            })
        };
        let late = if phase == "reissue" {
            "not-renewed"
        } else {
            "not-acked"
        };
        ensure!(
            denied["left_out"] == 2
                && holds("c1/n1", late, WEB)
                && holds("c1/n2", "agent-away", "spiffe://example.org/arx/node/c1/n2"),
            "{phase}: {report}"
        );
    }
    let status = arx(&socket, &["rotate", "status"])?;
    let mut phases = status["phases"].as_array().into_iter().flatten();
    ensure!(
        phases.any(|it| it["phase"] == "retire" && it["denied"] == 2),
        "{status}"
    );
    let plan = arx(&socket, &["rotate", "root", "--dry-run"])?;
    ensure!(
        plan["denied_total"] == 2 && plan["blockers_total"] == 0,
        "{plan}"
    );
    // Both are still told as holders of what nobody accepts any more.
    let list = arx(&mesh.admin_socket(), &["deny", "list"])?;
    ensure!(
        list.as_array().map(Vec::len) == Some(2)
            && list[0]["certificates"] == 1
            && list[1]["certificates"] == 1,
        "{list}"
    );
    Ok(())
}
