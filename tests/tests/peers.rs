//! Three replicas of one authority on one etcd, each with a ledger of its own: a search at one of
//! them asks all, and who does not answer is named.

use std::collections::BTreeSet;
use std::process::{Command, Output};
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use arx_identity::{CertChain, KeyAlgorithm, PrivateKey, Svid};
use arx_proto::admin::v1::SearchLedgerRequest;
use arx_proto::node::v1::issue_item::Evidence;
use arx_proto::node::v1::{IssueItem, IssueRequest};
use arx_proto::peer::v1 as peer;
use arx_tests::etcd::Etcd;
use arx_tests::mesh::{AUDIENCE, Mesh};
use arx_tests::node::{Authority, Http2, issued, unique};
use arx_tests::process::binary;
use arx_tests::token_issuer::Claims;
use rustix::process::Signal;
use serde_json::Value;
use tokio::net::TcpStream;
use tonic::{Code, Status};

const WEB: &str = "spiffe://example.org/ns/shop/sa/web";
/// Certificates of `web` that each replica has issued.
const OF_EACH: usize = 2;

struct Three {
    replicas: Vec<Mesh>,
    /// Of the node that has joined at the first replica, and of its workload.
    agent: Svid,
    workload: Svid,
    _etcd: Etcd,
}

impl Three {
    /// A node has joined at each, and `web` has certificates of all.
    async fn start() -> anyhow::Result<Self> {
        let etcd = Etcd::start(1).await?;
        let mut replicas: Vec<Mesh> = Vec::new();
        let mut svids = Vec::new();
        for n in 0..3 {
            let mut mesh = etcd.replica(&format!("ca-{n}"))?;
            if let Some(first) = replicas.first() {
                mesh.joins_cluster_of(first)?;
            }
            mesh.start_authority().await?;
            replicas.push(mesh);
            let agent = join(&replicas[n], &replicas[0], &format!("n{n}")).await?;
            for _ in 0..OF_EACH {
                let token = replicas[0].token("shop", "web", &format!("n{n}"));
                svids.push((agent.clone(), workload(&replicas[n], &agent, token).await?));
            }
        }
        let (agent, workload) = svids.swap_remove(0);
        Ok(Self {
            replicas,
            agent,
            workload,
            _etcd: etcd,
        })
    }

    /// `arx ledger search` at a replica.
    fn search(&self, n: usize, arguments: &[&str]) -> anyhow::Result<Output> {
        let mut command = Command::new(binary("arx")?);
        command.arg("--socket").arg(self.replicas[n].admin_socket());
        command.args(["ledger", "search", "--identity"]);
        Ok(command.args(arguments).output()?)
    }

    fn found(&self, n: usize, arguments: &[&str]) -> anyhow::Result<Value> {
        let output = self.search(n, &[arguments, &["-o", "json"]].concat())?;
        serde_json::from_slice(&output.stdout).with_context(|| format!("{output:?}"))
    }
}

fn authority(mesh: &Mesh) -> Authority {
    Authority {
        port: mesh.node_port,
        bundle: mesh.bundle(),
    }
}

async fn join(at: &Mesh, issuer: &Mesh, node: &str) -> anyhow::Result<Svid> {
    let audience = format!("{AUDIENCE}/join");
    let claims = Claims::new(&audience, "arx-system", "arx-node-agent", node);
    let authority = authority(at);
    let stranger = authority.tls(None)?;
    let token = issuer.issuer.mint(&claims);
    authority.new_node(&stranger, &token).await
}

async fn workload(at: &Mesh, agent: &Svid, token: String) -> anyhow::Result<Svid> {
    let key = Arc::new(PrivateKey::generate(KeyAlgorithm::EcdsaP256)?);
    let item = IssueItem {
        idempotency_key: unique(),
        csr: key.create_csr()?.into(),
        evidence: Some(Evidence::ServiceAccountToken(token)),
        ..IssueItem::default()
    };
    let authority = authority(at);
    let mut client = authority.connect(&authority.tls(Some(agent))?).await?;
    let answer = client.issue(IssueRequest { items: vec![item] }).await?;
    let mut answer = answer.into_inner();
    let mut chain = issued(answer.results.pop().context("a result")?.outcome)?.chain;
    if chain.len() == 1 {
        chain.extend_from_slice(&answer.issuers);
    }
    let chain = CertChain::from_der_list(chain.iter().map(AsRef::as_ref))?;
    Ok(Svid::new(chain, key)?)
}

fn texts(found: &Value, key: &str) -> Vec<String> {
    let records = found["records"].as_array().into_iter().flatten();
    let texts = records.map(|record| record[key].as_str().unwrap_or_default().to_owned());
    texts.collect()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_search_at_one_replica_finds_what_each_has_issued_and_names_who_is_away()
-> anyhow::Result<()> {
    let mut three = Three::start().await?;
    for n in 0..3 {
        let found = three.found(n, &[WEB])?;
        ensure!(found["replicas"] == 3 && found["unanswered"] == serde_json::json!([]));
        let times = texts(&found, "time");
        ensure!(times.len() == 3 * OF_EACH && times.is_sorted_by(|a, b| a >= b));
        let ledgers = texts(&found, "ledger");
        ensure!(ledgers == texts(&found, "replica"), "{found}");
        let names: BTreeSet<_> = ledgers.iter().map(String::as_str).collect();
        ensure!(names.into_iter().eq(["ca-0", "ca-1", "ca-2"]), "{found}");
        let limited = three.found(n, &[WEB, "--limit", "4"])?;
        ensure!(texts(&limited, "serial") == texts(&found, "serial")[..4]);
        ensure!(limited["more"] == true, "{limited}");
    }
    // A page for each record, each by another replica.
    let all = texts(&three.found(0, &[WEB])?, "serial");
    let (mut paged, mut page_token) = (Vec::new(), String::new());
    for n in (0..3).cycle() {
        let request = SearchLedgerRequest {
            identity: WEB.to_owned(),
            page_size: 1,
            page_token,
            ..SearchLedgerRequest::default()
        };
        let mut admin = three.replicas[n].admin().await?;
        let page = admin.search_ledger(request).await?.into_inner();
        ensure!(
            page.unanswered.is_empty() && page.records.len() == 1,
            "{page:?}"
        );
        let record: Value = serde_json::from_str(&page.records[0])?;
        paged.push(record["serial"].as_str().unwrap_or_default().to_owned());
        page_token = page.page_token;
        if page_token.is_empty() {
            break;
        }
    }
    ensure!(paged == all, "{paged:?} {all:?}");
    let nobody = "spiffe://example.org/ns/shop/sa/nobody";
    ensure!(three.search(0, &[nobody])?.status.code() == Some(1));

    three.replicas[2].kill_authority().await?;
    let output = three.search(0, &[WEB])?;
    let told = text(&output);
    let port = three.replicas[2].node_port;
    let gap = format!("\n2 of 3 replicas answered; ca-2: 127.0.0.1:{port} cannot be reached: ");
    ensure!(output.status.success() && told.contains(&gap), "{told}");
    ensure!(told.lines().filter(|line| line.contains(WEB)).count() == 2 * OF_EACH);
    let nothing = three.search(0, &[nobody])?;
    ensure!(nothing.status.code() == Some(4), "{nothing:?}");
    let here = three.search(0, &[nobody, "--here"])?;
    ensure!(
        here.status.code() == Some(1) && text(&here) == "no record\n",
        "{here:?}"
    );

    let hanging = three.replicas[1].authority.as_ref().context("it runs")?;
    hanging.signal(Signal::STOP)?;
    let found = three.found(0, &[WEB])?;
    hanging.signal(Signal::CONT)?;
    ensure!(texts(&found, "ledger") == vec!["ca-0"; OF_EACH], "{found}");
    let reason = found["unanswered"][0]["reason"]
        .as_str()
        .unwrap_or_default();
    ensure!(reason.contains("has not answered within"), "{found}");
    ensure!(found["unanswered"][1]["replica"] == "ca-2", "{found}");

    three.replicas[2].spawn_authority()?;
    three.replicas[2].authority_is_ready().await?;
    ensure!(texts(&three.found(0, &[WEB])?, "serial") == all);
    Ok(())
}

/// What somebody with this certificate, or none, is told who asks a replica as another would.
async fn told(mesh: &Mesh, svid: Option<&Svid>) -> anyhow::Result<Status> {
    let tls = authority(mesh).tls(svid)?;
    let stream = TcpStream::connect(("127.0.0.1", mesh.node_port)).await?;
    let http2 = Http2::over(tls.connect(stream).await?).await?;
    let request = peer::SearchLedgerRequest {
        replica: "ca-0".to_owned(),
        identity: WEB.to_owned(),
        page_size: 10,
        ..peer::SearchLedgerRequest::default()
    };
    let mut client = peer::peer_client::PeerClient::new(http2);
    let answered = client.search_ledger(request).await;
    answered.err().context("it was answered")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_stolen_agent_a_workload_and_a_stranger_search_no_ledger_by_the_node_port()
-> anyhow::Result<()> {
    let three = Three::start().await?;
    let replica = &three.replicas[0];
    for (svid, code, grpc) in [
        (None, "ARX-CALLER-UNKNOWN", Code::Unauthenticated),
        (
            Some(&three.agent),
            "ARX-PEER-NOT-REPLICA",
            Code::PermissionDenied,
        ),
        (
            Some(&three.workload),
            "ARX-PEER-NOT-REPLICA",
            Code::PermissionDenied,
        ),
    ] {
        let status = told(replica, svid).await?;
        let told = status.metadata().get("arx-code").context("a code")?;
        ensure!(told == code && status.code() == grpc, "{status:?}");
    }
    Ok(())
}
