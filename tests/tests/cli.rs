//! The operator's command line against a real authority, and the configuration that it
//! prints against a real Envoy.

use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context as _, ensure};
use arx_tests::app::App;
use arx_tests::http as web;
use arx_tests::mesh::{Mesh, Options};
use arx_tests::process::{Process, binary, free_port, tool, until};
use serde_json::Value;

fn arx(socket: &Path, arguments: &[&str]) -> anyhow::Result<Output> {
    let mut command = Command::new(binary("arx")?);
    Ok(command
        .arg("--socket")
        .arg(socket)
        .args(arguments)
        .output()?)
}

fn json(socket: &Path, arguments: &[&str]) -> anyhow::Result<Value> {
    let output = arx(socket, &[&["-o", "json"], arguments].concat())?;
    serde_json::from_slice(&output.stdout)
        .with_context(|| format!("{arguments:?} printed {output:?}"))
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_operator_sees_the_whole_fleet_and_a_well_one_passes_the_check() -> anyhow::Result<()> {
    let mesh = Mesh::start(Options::default()).await?;
    let mut agent = mesh.agent("n1").await?;
    let socket = mesh.admin_socket();
    until("the agent's word on its roots", || async {
        let agents = json(&socket, &["agents"])?;
        Ok(agents[0]["trust_sequence"] == "1.1")
    })
    .await?;
    let status = arx(&socket, &["status"])?;
    ensure!(
        status.status.success() && text(&status).contains("1 connected, 1 known"),
        "{status:?}"
    );
    let check = arx(&socket, &["check"])?;
    ensure!(
        check.status.success() && text(&check).contains("all is well"),
        "{}",
        text(&check)
    );
    let node = "spiffe://example.org/arx/node/c1/n1";
    let svids = json(&socket, &["svid", "list", "--identity", node])?;
    let serial = svids[0]["serial"].as_str().context("a serial number")?;
    ensure!(text(&arx(&socket, &["svid", "show", serial])?).contains("arx-system/arx-node-agent"));
    let found = json(&socket, &["ledger", "search", "--serial", serial])?;
    let record = &found["records"][0];
    ensure!(record["spiffe_id"] == node, "{found}");
    ensure!(found["replicas"] == 1 && found["unanswered"] == serde_json::json!([]));
    ensure!(json(&socket, &["ledger", "verify"])?["problems"] == serde_json::json!([]));
    let export = arx(&socket, &["ledger", "export", "--last", "1h"])?;
    ensure!(text(&export).lines().count() >= 3, "{export:?}");
    let bundle = mesh.bundle();
    let inspected = arx(&socket, &["inspect", bundle.to_str().context("text")?])?;
    ensure!(
        inspected.status.success() && text(&inspected).contains("root certificate"),
        "{inspected:?}"
    );

    agent.kill().await?;
    until("the authority's notice", || async {
        Ok(json(&socket, &["agents"])?[0]["connected"] == false)
    })
    .await?;
    let check = arx(&socket, &["check"])?;
    ensure!(
        check.status.code() == Some(1) && text(&check).contains("c1/n1: see their logs"),
        "{}",
        text(&check)
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_node_is_named_with_its_cluster_or_without() -> anyhow::Result<()> {
    let mesh = Mesh::start(Options::default()).await?;
    let _agent = mesh.agent("n1").await?;
    for (called, fit) in [("n1", true), ("c1/n1", true), ("c2/n1", false)] {
        let listed = json(&mesh.admin_socket(), &["svid", "list", "--node", called])?;
        let found = listed.as_array().is_some_and(|all| !all.is_empty());
        ensure!(found == fit, "{called}: {listed}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn whoever_asks_an_agent_s_socket_is_told_that_it_is_not_the_authority_s()
-> anyhow::Result<()> {
    let mesh = Mesh::start(Options::default()).await?;
    let agent = mesh.agent("n1").await?;
    let told = arx(&agent.socket, &["status"])?;
    let said = String::from_utf8_lossy(&told.stderr);
    ensure!(
        !told.status.success()
            && said.contains("a node agent's socket")
            && said.contains("admin.socket"),
        "{said}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn asking_for_renewal_renews_what_was_asked_for() -> anyhow::Result<()> {
    let mesh = Mesh::start(Options::default()).await?;
    let _agent = mesh.agent("n1").await?;
    let socket = mesh.admin_socket();
    let serial = || anyhow::Ok(json(&socket, &["svid", "list", "--node", "n1"])?);
    let before = serial()?;
    let refused = arx(&socket, &["svid", "renew"])?;
    ensure!(
        refused.status.code() == Some(2),
        "everything is renewed only when that is said: {refused:?}"
    );
    let asked = arx(
        &socket,
        &["svid", "renew", "--node", "n1", "--within", "0s"],
    )?;
    ensure!(asked.status.success(), "{asked:?}");
    until("renewal", || async {
        Ok(serial()?.as_array().map_or(0, Vec::len) > before.as_array().map_or(0, Vec::len))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_proxy_with_the_configuration_that_arx_prints_speaks_mtls() -> anyhow::Result<()> {
    let mesh = Mesh::start(Options::default()).await?;
    let agent = mesh.agent("n1").await?;
    let app = App::start().await?;
    let token = mesh.directory.join("web.token");
    std::fs::write(&token, mesh.token("shop", "web", "n1"))?;
    let (inbound, outbound, admin) = (free_port()?, free_port()?, free_port()?);
    let id = "spiffe://example.org/ns/shop/sa/web";
    let printed = Command::new(binary("arx")?)
        .args([
            "envoy",
            "bootstrap",
            "--accept",
            "spiffe://example.org/ns/shop/",
            "--sds-socket",
        ])
        .arg(&agent.socket)
        .args([
            "--listen",
            &inbound.to_string(),
            "--app",
            &app.port.to_string(),
            "--admin",
            &admin.to_string(),
        ])
        .args([
            "--upstream",
            &format!("{outbound}=127.0.0.1:{inbound},{id}"),
            "--token-file",
        ])
        .arg(&token)
        .output()?;
    ensure!(printed.status.success(), "{printed:?}");
    let config = mesh.directory.join("envoy.yaml");
    std::fs::write(&config, &printed.stdout)?;
    let config = config.to_str().context("text")?;
    let arguments = [
        "-c",
        config,
        "--concurrency",
        "1",
        "--disable-hot-restart",
        "--base-id",
        &inbound.to_string(),
        "-l",
        "warn",
    ];
    let _envoy = Process::start("envoy", &tool("envoy")?, &arguments)?;
    until("an answer through mTLS", || async {
        let (status, body) = web::get(outbound, "/").await?;
        Ok(status == 200 && body.contains(&format!("URI={id}")))
    })
    .await
}

#[test]
fn an_authority_that_is_not_there_is_said_with_what_to_do() -> anyhow::Result<()> {
    let output = arx(Path::new("/nonexistent/admin.sock"), &["status"])?;
    ensure!(output.status.code() == Some(3), "{output:?}");
    ensure!(
        String::from_utf8_lossy(&output.stderr).contains("ARX_ADMIN_SOCKET"),
        "{output:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_backup_comes_out_of_standard_output_alone_where_a_pod_has_no_shell() -> anyhow::Result<()>
{
    let mut mesh = Mesh::start(Options::default()).await?;
    let socket = mesh.admin_socket();
    let piped = arx(&socket, &["backup", "-"])?;
    let said = String::from_utf8_lossy(&piped.stderr);
    ensure!(
        piped.status.success() && said.contains("keep it apart from the sealing key"),
        "{said}"
    );
    let json = arx(&socket, &["-o", "json", "backup", "-"])?;
    ensure!(json.status.code() == Some(2) && json.stdout.is_empty());
    let backup = mesh.directory.join("backup");
    std::fs::write(&backup, &piped.stdout)?;
    mesh.stop_authority().await?;
    std::fs::remove_dir_all(mesh.directory.join("authority"))?;
    let restored = Command::new(binary("arx-ca")?)
        .arg("--config")
        .arg(mesh.authority_config())
        .arg("restore")
        .arg(&backup)
        .output()?;
    ensure!(restored.status.success(), "{restored:?}");
    Ok(())
}
