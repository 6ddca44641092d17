//! SIGKILL at any moment: nothing that was acknowledged is lost, and the ledger verifies.
//! Twenty kills by default; `ARX_CHAOS=N` for more, `ARX_CHAOS_SEED=S` to repeat a run.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use arx_identity::{Certificate, KeyAlgorithm, PrivateKey};
use arx_proto::admin::v1::{GetBundleRequest, SearchLedgerRequest, VerifyLedgerRequest};
use arx_proto::node::v1::issue_item::Evidence;
use arx_proto::node::v1::issue_result::Outcome;
use arx_proto::node::v1::{IssueItem, IssueRequest};
use arx_tests::app::App;
use arx_tests::dice::{Dice, times};
use arx_tests::envoy::{Envoy, Options as Proxy};
use arx_tests::mesh::{AUDIENCE, Mesh, Options, pem};
use arx_tests::node::{Authority, unique};
use arx_tests::process::{binary, until};
use arx_tests::token_issuer::Claims;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Asks for certificates until told to stop, whatever happens to the authority; the
/// serial numbers of all that it was given.
async fn customer(
    authority: Authority,
    token: String,
    stop: watch::Receiver<bool>,
) -> anyhow::Result<Vec<String>> {
    let mut serials = Vec::new();
    let key = Arc::new(PrivateKey::generate(KeyAlgorithm::EcdsaP256)?);
    let mut node = None;
    while !*stop.borrow() {
        let round = async {
            let svid = match &node {
                Some(svid) => svid,
                None => node.insert(authority.new_node(&authority.tls(None)?, &token).await?),
            };
            let mut client = authority.connect(&authority.tls(Some(svid))?).await?;
            while !*stop.borrow() {
                let items = (0..3).map(|_| {
                    anyhow::Ok(IssueItem {
                        idempotency_key: unique(),
                        csr: key.create_csr()?.into(),
                        evidence: Some(Evidence::Local(arx_proto::node::v1::LocalProcess {
                            uid: 4711,
                            ..Default::default()
                        })),
                        ..Default::default()
                    })
                });
                let items = items.collect::<Result<_, _>>()?;
                for result in client
                    .issue(IssueRequest { items })
                    .await?
                    .into_inner()
                    .results
                {
                    if let Some(Outcome::Issued(issued)) = result.outcome {
                        serials.push(
                            Certificate::from_der(&issued.chain[0])?
                                .serial()
                                .to_string(),
                        );
                    }
                }
            }
            anyhow::Ok(())
        };
        if round.await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    Ok(serials)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn nothing_that_the_authority_acknowledged_is_lost_whenever_it_is_killed()
-> anyhow::Result<()> {
    let mut dice = Dice::seeded_by("ARX_CHAOS_SEED");
    let local = "[[policy.local]]\npath = \"/chaos\"\nnodes = [\"c1/*\"]\nuid = 4711\n".to_owned();
    let mut mesh = Mesh::start(Options {
        authority: local,
        ..Options::default()
    })
    .await?;
    let authority = Authority {
        port: mesh.node_port,
        bundle: mesh.bundle(),
    };
    let (stop, stopped) = watch::channel(false);
    let mut customers = JoinSet::new();
    for number in 0..4 {
        let claims = Claims::new(
            &format!("{AUDIENCE}/join"),
            "arx-system",
            "arx-node-agent",
            &format!("chaos-{number}"),
        );
        customers.spawn(customer(
            authority.clone(),
            mesh.issuer.mint(&claims),
            stopped.clone(),
        ));
    }
    let root = std::fs::read_to_string(mesh.bundle())?;
    for _ in 0..times("ARX_CHAOS", 20) {
        // Some are killed before they are ready.
        tokio::time::sleep(Duration::from_millis(dice.below(300))).await;
        mesh.kill_authority().await?;
        let config = mesh.authority_config();
        let verified = Command::new(binary("arx-ca")?)
            .arg("--config")
            .arg(config)
            .arg("verify-ledger")
            .output()?;
        // A torn end is no damage: it was never acknowledged, and the next start cuts it.
        ensure!(
            verified.status.success(),
            "{}",
            String::from_utf8_lossy(&verified.stderr)
        );
        mesh.spawn_authority()?;
    }
    mesh.authority_is_ready().await?;
    stop.send_replace(true);
    let mut serials = Vec::new();
    while let Some(acknowledged) = customers.join_next().await {
        serials.extend(acknowledged??);
    }
    ensure!(
        serials.len() > 50,
        "only {} certificates were issued",
        serials.len()
    );
    let mut admin = mesh.admin().await?;
    for serial_hex in &serials {
        let request = SearchLedgerRequest {
            serial_hex: serial_hex.clone(),
            ..Default::default()
        };
        let found = admin.search_ledger(request).await?.into_inner().records;
        ensure!(
            found.len() == 1,
            "serial {serial_hex} has {} records",
            found.len()
        );
    }
    let report = admin
        .verify_ledger(VerifyLedgerRequest {})
        .await?
        .into_inner();
    ensure!(report.problems.is_empty(), "{:?}", report.problems);
    let bundle = admin.get_bundle(GetBundleRequest {}).await?.into_inner();
    ensure!(pem("CERTIFICATE", &bundle.roots[0]) == root, "another root");
    eprintln!(
        "{} certificates over {} kills",
        serials.len(),
        times("ARX_CHAOS", 20)
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_proxy_is_served_what_it_has_confirmed_whenever_its_agent_is_killed() -> anyhow::Result<()>
{
    let mut dice = Dice::seeded_by("ARX_CHAOS_SEED");
    let mesh = Mesh::start(Options::default()).await?;
    let mut agent = mesh.agent("n1").await?;
    let app = App::start().await?;
    let mut options = Proxy::new("web", &agent.socket, app.port);
    options.token = Some(mesh.token("shop", "web", "n1"));
    let envoy = Envoy::warm(&mesh.directory, options).await?;
    let before = envoy.certificate().await?;
    for _ in 0..times("ARX_CHAOS", 20) {
        tokio::time::sleep(Duration::from_millis(dice.below(100))).await;
        agent.kill().await?;
        agent.spawn()?;
    }
    until("the streams' return", || async {
        let streams = arx_tests::http::metric(agent.ops_port, "arx_agent_streams").await?;
        Ok(streams == Some(2.0))
    })
    .await?;
    ensure!(envoy.certificate().await? == before, "another certificate");
    ensure!(envoy.stat("sds.default.update_rejected").await? == 0);
    let log = agent
        .process
        .as_ref()
        .context("it runs")?
        .log()
        .lines()
        .join("\n");
    ensure!(!log.contains("discarded"), "{log}");
    Ok(())
}
