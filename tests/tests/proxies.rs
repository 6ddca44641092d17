//! Real Envoys that take their identity from real agents.

use std::time::Duration;

use anyhow::ensure;
use arx_tests::app::App;
use arx_tests::envoy::{Envoy, Options as Proxy};
use arx_tests::load::{Load, Outcome};
use arx_tests::mesh::{Agent, Mesh, Options};
use arx_tests::process::until;
use arx_tests::{http as web, mesh};

/// Two nodes, a proxy on each with an application behind it; `web` calls `api`.
struct Pair {
    mesh: Mesh,
    agents: [Agent; 2],
    web: Envoy,
    api: Envoy,
    _apps: [App; 2],
}

const WEB: &str = "spiffe://example.org/ns/shop/sa/web";
const API: &str = "spiffe://example.org/ns/shop/sa/api";

impl Pair {
    async fn start(options: Options) -> anyhow::Result<Self> {
        Self::with(options, |_| {}).await
    }

    async fn with(options: Options, change: impl Fn(&mut Proxy)) -> anyhow::Result<Self> {
        let mesh = Mesh::start(options).await?;
        let agents = [mesh.agent("n1").await?, mesh.agent("n2").await?];
        let apps = [App::start().await?, App::start().await?];
        let mut api = Proxy::new("api", &agents[1].socket, apps[1].port);
        api.token = Some(mesh.token("shop", "api", "n2"));
        api.accept = WEB.to_owned();
        change(&mut api);
        let api = Envoy::warm(&mesh.directory, api).await?;
        let mut web = Proxy::new("web", &agents[0].socket, apps[0].port);
        web.token = Some(mesh.token("shop", "web", "n1"));
        web.peer = Some((api.ports.inbound, API.to_owned()));
        change(&mut web);
        let web = Envoy::warm(&mesh.directory, web).await?;
        Ok(Self {
            mesh,
            agents,
            web,
            api,
            _apps: apps,
        })
    }

    fn load(&self) -> Load {
        Load::start(self.web.ports.outbound, 4, Duration::from_millis(10))
    }
}

fn without_failure(outcome: &Outcome) -> anyhow::Result<()> {
    ensure!(outcome.good > 0, "nothing was answered");
    ensure!(
        outcome.failed == 0,
        "{} of {} failed: {:?}",
        outcome.failed,
        outcome.good + outcome.failed,
        outcome.reasons
    );
    Ok(())
}

fn short_lived() -> Options {
    Options {
        ttl: "6s".to_owned(),
        ..Options::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn two_envoys_speak_mtls_with_what_arx_issued_and_each_knows_the_other() -> anyhow::Result<()>
{
    let pair = Pair::start(Options::default()).await?;
    let (status, body) = web::get(pair.web.ports.outbound, "/").await?;
    ensure!(
        status == 200 && body.contains(&format!("URI={WEB}")),
        "{status}: {body}"
    );
    ensure!(pair.web.certificate().await?.identity == WEB);
    ensure!(pair.api.certificate().await?.identity == API);
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
    let (status, _) = web::get(pair.web.ports.outbound, "/").await?;
    ensure!(status == 200, "{status}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn leaves_are_renewed_under_load_without_a_failed_request() -> anyhow::Result<()> {
    let pair = Pair::start(short_lived()).await?;
    let load = pair.load();
    until("three renewals of each", || async {
        Ok(pair.web.pushes().await? >= 4 && pair.api.pushes().await? >= 4)
    })
    .await?;
    without_failure(&load.stop().await)?;
    ensure!(pair.web.stat("sds.default.update_rejected").await? == 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_agent_that_is_killed_comes_back_with_the_same_certificate() -> anyhow::Result<()> {
    let mut pair = Pair::start(Options::default()).await?;
    let before = pair.web.certificate().await?;
    let load = pair.load();
    let attempts = pair.web.stat("sds.default.update_attempt").await?;
    // Without the authority: what is served again comes from the sealed cache.
    pair.mesh.kill_authority().await?;
    pair.agents[0].kill().await?;
    pair.agents[0].spawn()?;
    until("the streams' return", || async {
        let streams = web::metric(pair.agents[0].ops_port, "arx_agent_streams").await?;
        Ok(streams == Some(2.0) && pair.web.stat("sds.default.update_attempt").await? > attempts)
    })
    .await?;
    ensure!(pair.web.certificate().await? == before);
    without_failure(&load.stop().await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_authority_may_be_away_for_longer_than_half_a_lifetime() -> anyhow::Result<()> {
    let options = Options {
        ttl: "16s".to_owned(),
        ..Options::default()
    };
    let mut pair = Pair::start(options).await?;
    let load = pair.load();
    let pushed = pair.web.pushes().await?;
    pair.mesh.kill_authority().await?;
    // Half of the lifetime is over when the agent tries to renew in vain.
    let mut log = pair.agents[0].process.as_ref().expect("it runs").log();
    log.until("ARX-AGENT-UNREACHABLE", 0).await?;
    tokio::time::sleep(Duration::from_secs(9)).await;
    ensure!(
        pair.web.pushes().await? == pushed,
        "nobody could have renewed"
    );
    pair.mesh.spawn_authority()?;
    until("renewal", || async {
        Ok(pair.web.pushes().await? > pushed && pair.api.pushes().await? > 1)
    })
    .await?;
    without_failure(&load.stop().await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_peer_of_another_identity_is_refused_on_either_side() -> anyhow::Result<()> {
    let pair = Pair::start(Options::default()).await?;
    let Pair {
        web: proxy, api, ..
    } = pair;
    // The caller expects somebody else.
    let web = proxy.restart(|options| {
        let (port, _) = options.peer.take().expect("a peer");
        options.peer = Some((port, "spiffe://example.org/ns/shop/sa/other".to_owned()));
    });
    let proxy = web.await?;
    proxy.is_warm().await?;
    let (status, _) = web::get(proxy.ports.outbound, "/").await?;
    ensure!(status == 503, "{status}");
    ensure!(proxy.stat("cluster.peer.ssl.fail_verify_san").await? > 0);
    // The callee accepts somebody else.
    let api = api
        .restart(|options| options.accept = "spiffe://example.org/ns/shop/sa/other".to_owned())
        .await?;
    api.is_warm().await?;
    let proxy = proxy
        .restart(|options| {
            let (port, _) = options.peer.take().expect("a peer");
            options.peer = Some((port, API.to_owned()));
        })
        .await?;
    proxy.is_warm().await?;
    let (status, _) = web::get(proxy.ports.outbound, "/").await?;
    ensure!(status == 503, "{status}");
    let refused = format!(
        "listener.127.0.0.1_{}.ssl.fail_verify_san",
        api.ports.inbound
    );
    ensure!(api.stat(&refused).await? > 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_peer_that_speaks_plain_text_is_refused() -> anyhow::Result<()> {
    let pair = Pair::start(Options::default()).await?;
    let answer = web::get(pair.api.ports.inbound, "/").await;
    ensure!(answer.is_err(), "{answer:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_peer_under_a_foreign_root_is_refused() -> anyhow::Result<()> {
    let pair = Pair::start(Options::default()).await?;
    // The same names, issued by another authority of the same trust domain's name.
    let foreign = Mesh::start(Options::default()).await?;
    let agent = foreign.agent("n1").await?;
    let app = App::start().await?;
    let mut options = Proxy::new("foreign", &agent.socket, app.port);
    options.token = Some(foreign.token("shop", "web", "n1"));
    options.peer = Some((pair.api.ports.inbound, API.to_owned()));
    let envoy = Envoy::warm(&foreign.directory, options).await?;
    let (status, _) = web::get(envoy.ports.outbound, "/").await?;
    ensure!(status == 503, "{status}");
    ensure!(envoy.stat("cluster.peer.ssl.fail_verify_error").await? > 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_proxy_gets_its_own_identity_only_whatever_names_it_asks_for() -> anyhow::Result<()> {
    let mesh = Mesh::start(Options::default()).await?;
    let agent = mesh.agent("n1").await?;
    let app = App::start().await?;
    let proxy = |id: &str, account: &str| {
        let mut options = Proxy::new(id, &agent.socket, app.port);
        options.token = Some(mesh.token("shop", account, "n1"));
        options
    };
    // The identity that the thief wants is alive on this node.
    let _api = Envoy::warm(&mesh.directory, proxy("api", "api")).await?;
    let mut thief = proxy("thief", "web");
    thief.certificate = API.to_owned();
    let thief = Envoy::start(&mesh.directory, thief)?;
    until("its question", || async {
        Ok(thief.stat("sds.ROOTCA.update_success").await? > 0)
    })
    .await?;
    ensure!(
        thief.certificate().await.is_err(),
        "it has got a certificate"
    );
    let (_, warming) = web::get(
        thief.ports.admin,
        "/config_dump?resource=dynamic_warming_secrets",
    )
    .await?;
    ensure!(warming.contains(API), "{warming}");
    ensure!(mesh::AUDIENCE == "arx");
    Ok(())
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
    let closed = tokio::net::TcpStream::connect(("127.0.0.1", envoy.ports.inbound))
        .await
        .is_err();
    ensure!(closed, "the listener is open without a certificate");
    mesh.spawn_authority()?;
    envoy.is_warm().await
}
