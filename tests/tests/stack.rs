//! `make up` and `make down`, as a person uses them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context as _, ensure};
use arx_tests::app::App;
use arx_tests::envoy::{Ports, served};
use arx_tests::process::{Process, binary, tool, until};

/// A folder whose stack is stopped at the end, whatever happens.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("arx-").tempdir_in("/tmp")?;
        Ok(Self(folder))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn read(&self, name: &str) -> anyhow::Result<String> {
        fs::read_to_string(self.path(name)).with_context(|| name.to_owned())
    }

    fn stack(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        let mut command = Command::new(binary("arx-stack")?);
        Ok(command
            .args(arguments)
            .arg("--dir")
            .arg(self.0.path())
            .output()?)
    }

    /// Does it, and expects that it works; what it prints.
    fn done(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self.stack(arguments)?;
        ensure!(output.status.success(), "{output:?}");
        Ok(String::from_utf8(output.stdout)?)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _stopped = self.stack(&["down"]);
    }
}

/// The value of a variable in `env`, as a shell reads it.
fn variable(env: &Path, name: &str) -> anyhow::Result<String> {
    let script = format!(". '{}' && printf %s \"${name}\"", env.display());
    let output = Command::new("sh").args(["-c", &script]).output()?;
    ensure!(output.status.success(), "{output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

fn indented(text: &str, by: usize) -> String {
    let lines = text.lines().map(|line| format!("{:by$}{line}\n", ""));
    lines.collect()
}

/// The snippet in the place of an Envoy's configuration where it belongs.
fn configuration(snippet: &str, ports: Ports, app: u16) -> anyhow::Result<String> {
    let (node, rest) = snippet.split_once("\n\n").context("three parts")?;
    let (clusters, transport_socket) = rest.split_once("\n\n").context("three parts")?;
    let Ports { admin, inbound, .. } = ports;
    Ok(format!(
        r#"{node}
admin: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {admin} }} }} }}
static_resources:
{}
  - name: app
    type: STATIC
    load_assignment: {{ cluster_name: app, endpoints: [ {{ lb_endpoints: [ {{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {app} }} }} }} }} ] }} ] }}
  listeners:
  - name: inbound
    address: {{ socket_address: {{ address: 127.0.0.1, port_value: {inbound} }} }}
    filter_chains:
    - filters:
      - name: envoy.filters.network.tcp_proxy
        typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: app, cluster: app }}
{}"#,
        indented(clusters, 2),
        indented(transport_socket, 6)
    ))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_proxy_with_the_snippet_that_up_prints_gets_its_identity() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let printed = folder.done(&["up", "--ttl", "8s"])?;
    let snippet = folder.read("envoy-snippet.yaml")?;
    ensure!(printed.contains(&snippet));
    let page = printed.split_once("http://localhost:");
    let page = page.and_then(|(_, rest)| rest.split_once('/'));
    let (port, _) = page.context("the address of the status page")?;
    let (status, page) = arx_tests::http::get(port.parse()?, "/").await?;
    ensure!(status == 200 && page.contains("local.arx"), "{page}");
    let (app, ports) = (App::start().await?, Ports::free()?);
    let config = folder.path("envoy.yaml");
    fs::write(&config, configuration(&snippet, ports, app.port)?)?;
    let base_id = ports.admin.to_string();
    let arguments = [
        "-c",
        config.to_str().context("text")?,
        "--concurrency",
        "1",
        "--base-id",
        &base_id,
        "--disable-hot-restart",
        "-l",
        "warn",
    ];
    let envoy = Process::start("envoy", &tool("envoy")?, &arguments)?;
    until("its identity", || async {
        let served = served(ports.admin).await?;
        Ok(served.identity.starts_with("spiffe://local.arx/user/"))
    })
    .await
    .with_context(|| envoy.log().tail())?;
    let before = served(ports.admin).await?;
    until("renewal", || async {
        Ok(served(ports.admin).await?.serial != before.serial)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn up_twice_is_harmless_and_after_down_it_goes_on_with_its_state() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    folder.done(&["up"])?;
    let env = folder.path("env");
    let bundle = PathBuf::from(variable(&env, "ARX_BUNDLE_FILE")?);
    ensure!(variable(&env, "ARX_TRUST_DOMAIN")? == "local.arx");
    for name in ["ARX_SDS_SOCKET", "ARX_ADMIN_SOCKET"] {
        let socket = variable(&env, name)?;
        ensure!(Path::new(&socket).exists(), "{name} is {socket}");
    }
    let root = fs::read_to_string(&bundle)?;
    let processes = (
        folder.read("arx-ca.pid")?,
        folder.read("arx-node-agent.pid")?,
    );
    let again = folder.done(&["up", "--ttl", "5m"])?;
    ensure!(again.contains("running already") && again.contains("stop it first"));
    ensure!(
        processes
            == (
                folder.read("arx-ca.pid")?,
                folder.read("arx-node-agent.pid")?
            )
    );

    ensure!(folder.done(&["down"])?.contains("Stopped"));
    ensure!(folder.done(&["down"])?.contains("Nothing is running"));
    ensure!(!folder.path("arx-ca.pid").exists());
    let status = Command::new(binary("arx")?)
        .args(["--socket", &variable(&env, "ARX_ADMIN_SOCKET")?, "status"])
        .output()?;
    ensure!(!status.status.success(), "it answers still: {status:?}");

    folder.done(&["up", "--ttl", "5m"])?;
    ensure!(fs::read_to_string(&bundle)? == root, "it is another root");
    let status = Command::new(binary("arx")?)
        .args(["--socket", &variable(&env, "ARX_ADMIN_SOCKET")?, "status"])
        .output()?;
    ensure!(status.status.success(), "{status:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn up_takes_other_ports_where_somebody_has_taken_its_own() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    folder.done(&["up"])?;
    folder.done(&["down"])?;
    let settings: serde_json::Value = serde_json::from_str(&folder.read("settings.json")?)?;
    let port = settings["node_api"].as_u64().context("a port")?;
    let _taken = std::net::TcpListener::bind(("127.0.0.1", u16::try_from(port)?))?;
    folder.done(&["up"])?;
    let settings: serde_json::Value = serde_json::from_str(&folder.read("settings.json")?)?;
    ensure!(settings["node_api"].as_u64() != Some(port));
    Ok(())
}

#[test]
fn what_cannot_work_is_said_with_what_to_do() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let output = folder.stack(&["up", "--ttl", "soon"])?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(1)
            && said.contains("policy.max_ttl: not a duration")
            && said.contains("arx-ca.toml"),
        "{output:?}"
    );
    // And it is not in the way of the next one.
    folder.done(&["up"])?;
    let long = folder.path(&"long".repeat(30));
    let output = Command::new(binary("arx-stack")?)
        .args(["up", "--dir"])
        .arg(&long)
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(1) && said.contains("choose a shorter DIR"),
        "{output:?}"
    );
    Ok(())
}

#[tokio::test]
async fn down_makes_no_folder_where_there_was_none() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let nowhere = folder.path().join("nowhere");
    let output = Command::new(binary("arx-stack")?)
        .args(["down", "--dir"])
        .arg(&nowhere)
        .output()?;
    ensure!(output.status.success(), "{output:?}");
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(said.contains("Nothing is running"), "{said}");
    ensure!(!nowhere.exists());
    Ok(())
}
