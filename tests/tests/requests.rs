//! Requests for certificates that must not be given: wrong CSRs, and workloads that the
//! evidence does not prove.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};
use arx_identity::{Certificate, KeyAlgorithm, PrivateKey, Svid, profile};
use arx_proto::admin::v1::SearchLedgerRequest;
use arx_proto::node::v1::issue_item::Evidence;
use arx_proto::node::v1::issue_result::Outcome;
use arx_proto::node::v1::{IssueItem, IssueRequest, LocalProcess};
use arx_tests::http as web;
use arx_tests::mesh::{AUDIENCE, Mesh, Options};
use arx_tests::node::{Authority, issued, unique};
use arx_tests::token_issuer::Claims;
use tonic::Code;

/// A node that asks.
struct Node {
    authority: Authority,
    svid: Svid,
}

impl Node {
    async fn join(mesh: &Mesh, name: &str) -> anyhow::Result<Self> {
        let authority = Authority {
            port: mesh.node_port,
            bundle: mesh.bundle(),
        };
        let audience = format!("{AUDIENCE}/join");
        let claims = Claims::new(&audience, "arx-system", "arx-node-agent", name);
        let token = mesh.issuer.mint(&claims);
        let svid = authority.new_node(&authority.tls(None)?, &token).await?;
        Ok(Self { authority, svid })
    }

    async fn ask(&self, items: Vec<IssueItem>) -> anyhow::Result<Vec<Option<Outcome>>> {
        let tls = self.authority.tls(Some(&self.svid))?;
        let mut client = self.authority.connect(&tls).await?;
        let answer = client.issue(IssueRequest { items }).await?.into_inner();
        let issuers = answer.issuers;
        let mut outcomes: Vec<_> = answer.results.into_iter().map(|it| it.outcome).collect();
        for outcome in &mut outcomes {
            if let Some(Outcome::Issued(issued)) = outcome
                && issued.chain.len() == 1
            {
                issued.chain.extend_from_slice(&issuers);
            }
        }
        Ok(outcomes)
    }
}

fn item(csr: Vec<u8>, evidence: Evidence) -> IssueItem {
    IssueItem {
        idempotency_key: unique(),
        csr: csr.into(),
        evidence: Some(evidence),
        ..IssueItem::default()
    }
}

fn csr() -> anyhow::Result<Vec<u8>> {
    Ok(PrivateKey::generate(KeyAlgorithm::EcdsaP256)?.create_csr()?)
}

/// A CSR that only somebody else makes: by `openssl req` with these arguments.
fn openssl(folder: &Path, arguments: &[&str]) -> anyhow::Result<Vec<u8>> {
    let output = Command::new("openssl")
        .args([
            "req", "-new", "-nodes", "-outform", "DER", "-subj", "/CN=root",
        ])
        .args(arguments)
        .arg("-keyout")
        .arg(folder.join("unused.key"))
        .output()
        .context("openssl")?;
    ensure!(output.status.success(), "{output:?}");
    Ok(output.stdout)
}

fn refusal(outcome: &Option<Outcome>) -> (&str, Code) {
    match outcome {
        Some(Outcome::Refused(refusal)) => (
            &refusal.code,
            i32::try_from(refusal.grpc_code).map_or(Code::Unknown, Code::from),
        ),
        _ => ("", Code::Ok),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_wrong_csr_is_refused_for_its_own_reason_and_that_item_only() -> anyhow::Result<()> {
    let mesh = Mesh::start(Options::default()).await?;
    let node = Node::join(&mesh, "n1").await?;
    let good = csr()?;
    let mut bad_signature = good.clone();
    *bad_signature.last_mut().context("it is not empty")? ^= 1;
    let trailing = [good.as_slice(), b"\0"].concat();
    let weak = openssl(&mesh.directory, &["-newkey", "rsa:1024"])?;
    let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:secp521r1"];
    let unknown = openssl(&mesh.directory, &curve)?;
    let cases = [
        ("", good.clone()),
        ("ARX-CSR-SIGNATURE", bad_signature),
        ("ARX-CSR-TRAILING", trailing),
        ("ARX-CSR-KEY", weak),
        ("ARX-CSR-KEY", unknown),
        ("ARX-CSR-TOO-LARGE", vec![0x30; 1_000_000]),
        ("ARX-CSR-MALFORMED", b"not a request".to_vec()),
        ("ARX-CSR-MALFORMED", Vec::new()),
        ("", csr()?),
    ];
    let token = mesh.token("shop", "web", "n1");
    let evidence = || Evidence::ServiceAccountToken(token.clone());
    let items = cases.iter().map(|(_, csr)| item(csr.clone(), evidence()));
    let outcomes = node.ask(items.collect()).await?;
    for ((reason, _), outcome) in cases.iter().zip(&outcomes) {
        let expected = match *reason {
            "" => Code::Ok,
            _ => Code::InvalidArgument,
        };
        ensure!(
            refusal(outcome) == (*reason, expected),
            "{reason}: {outcome:?}"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn names_and_powers_that_a_csr_asks_for_are_ignored() -> anyhow::Result<()> {
    let mesh = Mesh::start(Options::default()).await?;
    let node = Node::join(&mesh, "n1").await?;
    let greedy = openssl(
        &mesh.directory,
        &[
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-addext",
            "subjectAltName=URI:spiffe://example.org/arx/ca,DNS:bank.example",
            "-addext",
            "basicConstraints=critical,CA:TRUE",
            "-addext",
            "keyUsage=critical,keyCertSign,cRLSign",
        ],
    )?;
    let evidence = Evidence::ServiceAccountToken(mesh.token("shop", "web", "n1"));
    let outcome = node.ask(vec![item(greedy, evidence)]).await?.remove(0);
    let leaf = Certificate::from_der(&issued(outcome)?.chain[0])?;
    let id = leaf.spiffe_id().context("a SPIFFE id")?;
    ensure!(id.as_str() == "spiffe://example.org/ns/shop/sa/web");
    ensure!(!leaf.is_ca() && leaf.dns_names().is_empty());
    let violations = profile::violations(&leaf, profile::Kind::Leaf);
    ensure!(violations.is_empty(), "{violations:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_kind_of_key_that_policy_does_not_allow_is_refused() -> anyhow::Result<()> {
    let mesh = Mesh::start(Options {
        policy: "keys = [\"ecdsa-p384\"]".to_owned(),
        ..Options::default()
    })
    .await?;
    let authority = Authority {
        port: mesh.node_port,
        bundle: mesh.bundle(),
    };
    // Nodes have P-256 keys, so this one can't even join.
    let claims = Claims::new("arx/join", "arx-system", "arx-node-agent", "n1");
    let token = mesh.issuer.mint(&claims);
    let joined = authority.new_node(&authority.tls(None)?, &token).await;
    let error = format!("{:#}", joined.err().context("it has joined")?);
    ensure!(error.contains("ecdsa-p256"), "{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_workload_that_the_evidence_does_not_prove_is_denied_recorded_and_counted()
-> anyhow::Result<()> {
    let local = "[[policy.local]]\npath = \"/local/web\"\nnodes = [\"c1/n2\"]\nuid = 4711\n";
    let mesh = Mesh::start(Options {
        authority: local.to_owned(),
        ..Options::default()
    })
    .await?;
    let node = Node::join(&mesh, "n1").await?;
    let process = |uid| {
        Evidence::Local(LocalProcess {
            uid,
            ..LocalProcess::default()
        })
    };
    let cases = [
        // The rule is for another node.
        ("ARX-POLICY-NO-RULE", process(4711)),
        // There is none.
        ("ARX-POLICY-NO-RULE", process(0)),
        // The pod is on another node.
        (
            "ARX-EVIDENCE-NODE",
            Evidence::ServiceAccountToken(mesh.token("shop", "web", "n2")),
        ),
    ];
    let items = cases
        .iter()
        .map(|(_, evidence)| Ok(item(csr()?, evidence.clone())));
    let outcomes = node.ask(items.collect::<anyhow::Result<_>>()?).await?;
    for ((reason, _), outcome) in cases.iter().zip(&outcomes) {
        ensure!(
            refusal(outcome) == (*reason, Code::PermissionDenied),
            "{reason}: {outcome:?}"
        );
    }
    let mut admin = mesh.admin().await?;
    let found = admin
        .search_ledger(SearchLedgerRequest {
            identity: node.svid.spiffe_id().to_string(),
            ..SearchLedgerRequest::default()
        })
        .await?
        .into_inner();
    for (reason, count) in [("ARX-POLICY-NO-RULE", 2), ("ARX-EVIDENCE-NODE", 1)] {
        let records = found
            .records
            .iter()
            .filter(|record| record.contains(reason));
        ensure!(records.count() == count, "{reason}: {:?}", found.records);
        let metric = format!("arx_ca_refusals_total{{code=\"{reason}\"}}");
        let counted = web::metric(mesh.ops_port, &metric).await?;
        ensure!(
            counted == Some(f64::from(count as u32)),
            "{metric}: {counted:?}"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn who_is_not_a_node_is_issued_nothing() -> anyhow::Result<()> {
    let mesh = Mesh::start(Options::default()).await?;
    let node = Node::join(&mesh, "n1").await?;
    let token = mesh.token("shop", "web", "n1");
    let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256)?;
    let evidence = Evidence::ServiceAccountToken(token.clone());
    let answer = node
        .ask(vec![item(key.create_csr()?, evidence.clone())])
        .await?;
    let workload = issued(answer.into_iter().next().flatten())?;
    let chain = arx_identity::CertChain::from_der_list(workload.chain.iter().map(AsRef::as_ref))?;
    let workload = Svid::new(chain, key.into())?;
    // Neither with nothing, nor with a workload's certificate of the same authority.
    for (svid, code) in [
        (None, Code::Unauthenticated),
        (Some(&workload), Code::PermissionDenied),
    ] {
        let tls = node.authority.tls(svid)?;
        let mut client = node.authority.connect(&tls).await?;
        let items = vec![item(csr()?, evidence.clone())];
        let answer = client.issue(IssueRequest { items }).await;
        let status = answer.err().context("it was answered")?;
        ensure!(status.code() == code, "{status:?}");
    }
    Ok(())
}
