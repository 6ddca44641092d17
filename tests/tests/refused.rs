//! Peers that must not get through.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use arx_identity::tls::Client;
use arx_identity::{Sequence, SpiffeId, Svid, TrustBundle, TrustDomain};
use arx_tests::app::App;
use arx_tests::envoy::{Envoy, Options as Proxy};
use arx_tests::http as web;
use arx_tests::mesh::{Agent, Mesh, Options, TRUST_DOMAIN};
use arx_tests::pair::{API, Pair};
use arx_tests::process::until;
use arx_tests::root::Root;
use arx_tests::sds::{Connection, secrets, svid};
use arx_tests::token_issuer::now;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// How often an Envoy refused a peer at its listener, for this reason.
async fn refused(envoy: &Envoy, reason: &str) -> anyhow::Result<u64> {
    let listener = format!("listener.127.0.0.1_{}.ssl.{reason}", envoy.ports.inbound);
    envoy.stat(&listener).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_peer_of_another_identity_is_refused_on_either_side() -> anyhow::Result<()> {
    let pair = Pair::start(Options::default()).await?;
    let Pair {
        web: proxy,
        api,
        agents: _agents,
        mesh: _mesh,
        ..
    } = pair;
    // The caller expects somebody else.
    let other = "spiffe://example.org/ns/shop/sa/other";
    let proxy = proxy
        .restart(|options| {
            let (_, who) = options.peer.as_mut().expect("a peer");
            other.clone_into(who);
        })
        .await?;
    proxy.is_warm().await?;
    let (status, _) = web::get(proxy.ports.outbound, "/").await?;
    ensure!(status == 503, "{status}");
    ensure!(proxy.stat("cluster.peer.ssl.fail_verify_san").await? > 0);
    // The callee accepts somebody else.
    let api = api
        .restart(|options| other.clone_into(&mut options.accept))
        .await?;
    api.is_warm().await?;
    let proxy = proxy
        .restart(|options| {
            let (_, who) = options.peer.as_mut().expect("a peer");
            API.clone_into(who);
        })
        .await?;
    proxy.is_warm().await?;
    let (status, _) = web::get(proxy.ports.outbound, "/").await?;
    ensure!(status == 503, "{status}");
    ensure!(refused(&api, "fail_verify_san").await? > 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_peer_that_speaks_plain_text_is_refused() -> anyhow::Result<()> {
    let pair = Pair::start(Options::default()).await?;
    let answer = web::get(pair.api.ports.inbound, "/").await;
    ensure!(answer.is_err(), "{answer:?}");
    ensure!(refused(&pair.api, "handshake").await? == 0);
    // And one that expects mTLS does not talk to somebody who speaks plain text.
    let plain = App::start().await?;
    let Pair {
        web: proxy,
        agents: _agents,
        mesh: _mesh,
        ..
    } = pair;
    let proxy = proxy
        .restart(|options| options.peer.as_mut().expect("a peer").0 = plain.port)
        .await?;
    proxy.is_warm().await?;
    let (status, _) = web::get(proxy.ports.outbound, "/").await?;
    ensure!(status == 503, "{status}");
    ensure!(proxy.stat("cluster.peer.ssl.handshake").await? == 0);
    Ok(())
}

/// Sends a request to `api` from outside of Envoy: as whom `svid` says, or as nobody.
async fn intrude(pair: &Pair, svid: Option<&Svid>) -> anyhow::Result<()> {
    let pem = std::fs::read_to_string(pair.mesh.bundle())?;
    let first = Sequence {
        epoch: 1,
        number: 1,
    };
    let bundle = TrustBundle::from_pem(TrustDomain::parse(TRUST_DOMAIN)?, first, &pem)?;
    let client = Client::new(&[bundle], svid, SpiffeId::parse(API)?)?;
    let stream = TcpStream::connect(("127.0.0.1", pair.api.ports.inbound)).await?;
    // In TLS 1.3 a client is done before the server has judged it (RFC 8446, 2).
    let mut stream = client.connect(stream).await?;
    let mut answer = Vec::new();
    let request = b"GET / HTTP/1.1\r\nhost: api\r\nconnection: close\r\n\r\n";
    let _sent = stream.write_all(request).await;
    let _sent = stream.flush().await;
    stream.read_to_end(&mut answer).await?;
    ensure!(answer.starts_with(b"HTTP/1.1 200"), "not answered with 200");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_peer_without_a_certificate_is_refused() -> anyhow::Result<()> {
    let pair = Pair::start(Options::default()).await?;
    ensure!(intrude(&pair, None).await.is_err());
    until("the refusal", || async {
        Ok(refused(&pair.api, "fail_verify_no_cert").await? > 0)
    })
    .await
}

/// The identity of `web`, from the agent of its node.
async fn web_svid(mesh: &Mesh, agent: &Agent) -> anyhow::Result<Svid> {
    let token = mesh.token("shop", "web", &agent.node);
    let connection = Connection::open(&agent.socket, Some(&token)).await?;
    let response = connection.stream(&["default"]).await?.next().await?;
    svid(&secrets(&response)?[0])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_peer_under_a_foreign_root_is_refused_on_either_side() -> anyhow::Result<()> {
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
    // A foreign client that believes everything is not believed itself.
    intrude(&pair, Some(&web_svid(&pair.mesh, &pair.agents[0]).await?)).await?;
    let before = refused(&pair.api, "fail_verify_error").await?;
    ensure!(
        intrude(&pair, Some(&web_svid(&foreign, &agent).await?))
            .await
            .is_err()
    );
    until("the refusal", || async {
        Ok(refused(&pair.api, "fail_verify_error").await? > before)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_agent_does_not_join_an_authority_under_a_foreign_root() -> anyhow::Result<()> {
    let mesh = Mesh::start(Options::default()).await?;
    let foreign = Mesh::start(Options::default()).await?;
    std::fs::copy(foreign.bundle(), mesh.bundle())?;
    let mut agent = mesh.prepare_agent("n1")?;
    agent.spawn()?;
    let mut log = agent.process.as_ref().context("it runs")?.log();
    log.until("ARX-AGENT-AUTHORITY-UNTRUSTED", 0).await?;
    ensure!(mesh.status().await?.agents_known == 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn when_the_root_has_run_out_nobody_is_believed_any_more() -> anyhow::Result<()> {
    const LIFETIME: Duration = Duration::from_secs(16);
    let mut mesh = Mesh::prepare(Options {
        ttl: "6s".to_owned(),
        node_ttl: "6s".to_owned(),
        policy: "max_ttl = \"6s\"".to_owned(),
        ..Options::default()
    })?;
    let root = Root::new(TRUST_DOMAIN, now(), LIFETIME)?;
    let lines = root.write(&mesh.directory)?;
    mesh.reconfigure(|options| {
        options.roots = format!("{lines}\nintermediate_ttl = \"12s\"\nserving_ttl = \"6s\"");
    })?;
    mesh.start_authority().await?;
    let mut pair = Pair::over(mesh, |_| {}).await?;
    pair.talks().await?;
    // Connections that are open are never judged again, so each request has its own.
    until("the end of it", || async {
        let (status, _) = web::get(pair.web.ports.outbound, "/").await?;
        Ok(status == 503 && now() > root.certificate.not_after())
    })
    .await?;
    // Nothing has crashed over it.
    for agent in &mut pair.agents {
        let process = agent.process.as_mut().context("it ran")?;
        ensure!(process.is_running(), "{}", process.log().tail());
    }
    let authority = pair.mesh.authority.as_mut().context("it ran")?;
    ensure!(authority.is_running(), "{}", authority.log().tail());
    Ok(())
}
