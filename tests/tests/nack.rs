//! Secrets that a proxy refuses.

use anyhow::{Context as _, ensure};
use arx_proto::admin::v1::ListAgentsRequest;
use arx_tests::app::App;
use arx_tests::envoy::{Envoy, Options as Proxy};
use arx_tests::mesh::{Mesh, Options};
use arx_tests::process::until;
use arx_tests::sds::{Connection, request};

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_envoy_that_refuses_its_roots_is_reported_and_disturbs_nobody() -> anyhow::Result<()> {
    let options = Options {
        ttl: "8s".to_owned(),
        ..Options::default()
    };
    let mesh = Mesh::start(options).await?;
    let agent = mesh.agent("n1").await?;
    let app = App::start().await?;
    let proxy = |id: &str| {
        let mut options = Proxy::new(id, &agent.socket, app.port);
        options.token = Some(mesh.token("shop", id, "n1"));
        options
    };
    let good = Envoy::warm(&mesh.directory, proxy("web")).await?;
    let before = good.certificate().await?.serial;
    let mut refusing = proxy("api");
    refusing.refuses_roots = true;
    let refusing = Envoy::start(&mesh.directory, refusing)?;
    let mut log = agent.process.as_ref().context("it runs")?.log();
    let record = log
        .record("ARX-AGENT-NACK", |record| {
            record["code"] == "ARX-AGENT-NACK"
        })
        .await?;
    ensure!(
        record.to_string().contains("SHA-256"),
        "the proxy's reason is missing: {record}"
    );
    until("the authority's notice", || async {
        let mut admin = mesh.admin().await?;
        let agents = admin.list_agents(ListAgentsRequest::default()).await?;
        Ok(agents.into_inner().agents[0].nacks > 0)
    })
    .await?;
    // The other one is renewed as ever, and what was refused is not sent again.
    until("renewal", || async {
        Ok(good.certificate().await?.serial != before)
    })
    .await?;
    let refused = refusing.stat("sds.ROOTCA.update_rejected").await?
        + refusing.stat("sds.default.update_rejected").await?;
    ensure!(refused <= 2, "refused {refused} times");
    ensure!(refusing.stat("cluster.sds.upstream_cx_total").await? == 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_was_refused_is_not_sent_again_and_the_next_certificate_is() -> anyhow::Result<()> {
    let options = Options {
        ttl: "8s".to_owned(),
        ..Options::default()
    };
    let mesh = Mesh::start(options).await?;
    let agent = mesh.agent("n1").await?;
    let token = mesh.token("shop", "web", "n1");
    let connection = Connection::open(&agent.socket, Some(&token)).await?;
    let mut stream = connection.stream(&["default"]).await?;
    let first = stream.next().await?;
    stream.nack(&first, "I don't like it")?;
    let mut log = agent.process.as_ref().context("it runs")?.log();
    log.until("I don't like it", 0).await?;
    // Whatever comes now is the renewal.
    let second = stream.next().await?;
    ensure!(second.version_info != first.version_info);
    ensure!(second.nonce != first.nonce);
    // A stale answer to the first changes nothing, and neither does a stranger's.
    stream.nack(&first, "late")?;
    let mut stranger = request(&["default"]);
    "never-given".clone_into(&mut stranger.response_nonce);
    stream.send(stranger)?;
    stream.ack(&second)?;
    let third = stream.next().await?;
    ensure!(third.version_info != second.version_info);
    Ok(())
}
