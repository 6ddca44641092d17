//! A proxy gets its own identity and no other, whatever it asks for.

use anyhow::ensure;
use arx_tests::app::App;
use arx_tests::envoy::{Envoy, Options as Proxy};
use arx_tests::http as web;
use arx_tests::mesh::{Mesh, Options};
use arx_tests::pair::{API, WEB};
use arx_tests::process::until;
use arx_tests::sds::{Connection, chain, request, secrets};
use arx_tests::token_issuer::Claims;

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_envoy_that_asks_for_another_s_certificate_waits_for_ever() -> anyhow::Result<()> {
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
    API.clone_into(&mut thief.certificate);
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
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn every_name_leads_to_one_s_own_certificate_or_to_silence() -> anyhow::Result<()> {
    let mesh = Mesh::start(Options::default()).await?;
    let agent = mesh.agent("n1").await?;
    let api = Connection::open(&agent.socket, Some(&mesh.token("shop", "api", "n1"))).await?;
    let mut others = api.stream(&["default"]).await?;
    others.next().await?;
    let connection =
        Connection::open(&agent.socket, Some(&mesh.token("shop", "web", "n1"))).await?;
    for name in ["default", WEB] {
        let mut stream = connection.stream(&[name]).await?;
        let response = stream.next().await?;
        let secrets = secrets(&response)?;
        ensure!(secrets.len() == 1 && secrets[0].name == name);
        ensure!(chain(&secrets[0])?.spiffe_id().as_str() == WEB);
    }
    let node = "spiffe://example.org/arx/node/c1/n1";
    let authority = "spiffe://example.org/arx/ca";
    for name in [
        API,
        node,
        authority,
        "",
        "*",
        "../default",
        "spiffe://example.org/ns/shop/sa/WEB",
    ] {
        let mut stream = connection.stream(&[name]).await?;
        // The same stream answers what may be answered, so it has come so far.
        stream.send(request(&[name, "default"]))?;
        let response = stream.next().await?;
        let secrets = secrets(&response)?;
        ensure!(
            secrets.len() == 1 && chain(&secrets[0])?.spiffe_id().as_str() == WEB,
            "{name:?} is answered by more"
        );
        ensure!(stream.is_silent().await, "{name:?} is answered");
    }
    ensure!(others.is_silent().await, "another stream noticed something");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn evidence_that_proves_nothing_here_brings_nothing() -> anyhow::Result<()> {
    let mesh = Mesh::start(Options::default()).await?;
    let agent = mesh.agent("n1").await?;
    let claims = || Claims::new("arx", "shop", "web", "n1");
    let change = |change: &dyn Fn(&mut Claims)| {
        let mut claims = claims();
        change(&mut claims);
        mesh.issuer.mint(&claims)
    };
    let elsewhere = mesh.token("shop", "web", "n2");
    let joining = change(&|claims| claims.audience = "arx/join".to_owned());
    let foreign = change(&|claims| claims.audience = "other".to_owned());
    let confused = change(&|claims| claims.algorithm = Some("HS256".to_owned()));
    for (what, code, token) in [
        ("of a pod on another node", "ARX-EVIDENCE-NODE", &elsewhere),
        ("for joining", "ARX-TOKEN-PURPOSE", &joining),
        ("for somebody else", "ARX-TOKEN-AUDIENCE", &foreign),
        (
            "signed with the public key",
            "ARX-TOKEN-ALGORITHM",
            &confused,
        ),
    ] {
        let mut log = agent.process.as_ref().expect("it runs").log();
        let from = log.lines().len();
        let connection = Connection::open(&agent.socket, Some(token)).await?;
        // The agent may refuse it at the door; the authority would in any case.
        let Ok(mut stream) = connection.stream(&["default"]).await else {
            continue;
        };
        log.until(code, from).await?;
        ensure!(stream.is_silent().await, "a token {what} brought something");
    }
    let log = agent.process.as_ref().expect("it runs").log();
    for token in [elsewhere, joining, foreign, confused] {
        let signature = token.rsplit('.').next().unwrap_or_default();
        ensure!(log.count(signature) == 0, "a token is in the log");
    }
    Ok(())
}
