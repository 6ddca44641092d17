//! How an identity comes to a real Envoy.

use anyhow::ensure;
use arx_tests::app::App;
use arx_tests::envoy::{Envoy, Options as Proxy};
use arx_tests::http as web;
use arx_tests::mesh::{Mesh, Options};
use arx_tests::pair::{API, Pair, WEB};
use arx_tests::process::until;

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn two_envoys_speak_mtls_with_what_arx_issued_and_each_knows_the_other() -> anyhow::Result<()>
{
    let pair = Pair::start(Options::default()).await?;
    pair.talks().await?;
    ensure!(pair.web.certificate().await?.identity == WEB);
    ensure!(pair.api.certificate().await?.identity == API);
    let ledger = pair.mesh.status().await?;
    // Two nodes and two workloads.
    ensure!(ledger.issued_total >= 4, "{ledger:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn delta_and_the_ids_as_names_work_as_well_with_a_sidecar_s_large_node() -> anyhow::Result<()>
{
    let pair = Pair::with(Options::default(), |proxy| {
        proxy.delta = proxy.id == "web";
        proxy.padding = 61_000;
        proxy.certificate = format!("spiffe://example.org/ns/shop/sa/{}", proxy.id);
        proxy.trust = "spiffe://example.org".to_owned();
    })
    .await?;
    pair.talks().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_listener_warms_until_its_secrets_are_ready_and_then_opens() -> anyhow::Result<()> {
    let mut mesh = Mesh::start(Options::default()).await?;
    mesh.kill_authority().await?;
    let mut agent = mesh.prepare_agent("n1")?;
    agent.spawn()?;
    let app = App::start().await?;
    let mut options = Proxy::new("web", &agent.socket, app.port);
    options.token = Some(mesh.token("shop", "web", "n1"));
    let envoy = Envoy::start(&mesh.directory, options)?;
    until("its streams", || async {
        Ok(web::metric(agent.ops_port, "arx_agent_streams").await? == Some(2.0))
    })
    .await?;
    let opened = tokio::net::TcpStream::connect(("127.0.0.1", envoy.ports.inbound)).await;
    ensure!(
        opened.is_err(),
        "the listener is open without a certificate"
    );
    mesh.spawn_authority()?;
    envoy.is_warm().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_envoy_that_is_there_before_its_agent_is_served_when_the_agent_comes()
-> anyhow::Result<()> {
    let mesh = Mesh::start(Options::default()).await?;
    let mut agent = mesh.prepare_agent("n1")?;
    let app = App::start().await?;
    let mut options = Proxy::new("web", &agent.socket, app.port);
    options.token = Some(mesh.token("shop", "web", "n1"));
    let envoy = Envoy::start(&mesh.directory, options)?;
    until("a failed attempt", || async {
        Ok(envoy.stat("cluster.sds.upstream_cx_connect_fail").await? > 0)
    })
    .await?;
    agent.start().await?;
    envoy.is_warm().await
}
