//! Denied holders: nothing new for them, bundles all the same, and no gate that waits for them.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::UNIX_EPOCH;

use anyhow::{Context as _, ensure};
use arx_identity::Svid;
use arx_proto::admin::v1::rotate_root_response::Outcome as Rotated;
use arx_proto::admin::v1::{RotateRootRequest, Rotation, RotationStatusRequest};
use arx_proto::node::v1::issue_item::Evidence;
use arx_proto::node::v1::issue_result::Outcome;
use arx_proto::node::v1::{IssueItem, IssueRequest, Issued, Urgency};
use arx_tests::http;
use arx_tests::mesh::{AUDIENCE, Mesh, Options};
use arx_tests::node::{Authority, issued, requests, unique};
use arx_tests::process::{binary, until};
use arx_tests::sds::{Connection, chain, names, secrets};
use arx_tests::token_issuer::{Claims, now};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

const API: &str = "spiffe://example.org/ns/shop/sa/api";
const WEB: &str = "spiffe://example.org/ns/shop/sa/web";

/// What `arx` prints.
fn arx(socket: &Path, arguments: &[&str]) -> anyhow::Result<Value> {
    let mut command = Command::new(binary("arx")?);
    let command = command.arg("--socket").arg(socket).args(["-o", "json"]);
    let output = command.args(arguments).output()?;
    ensure!(output.status.success(), "{arguments:?}: {output:?}");
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn deny(mesh: &Mesh, whom: &str) -> anyhow::Result<Value> {
    arx(
        &mesh.admin_socket(),
        &["deny", whom, "--reason", "a test", "--until", "1h"],
    )
}

/// A connection of a pod of this service account.
async fn pod(mesh: &Mesh, socket: &Path, account: &str) -> anyhow::Result<Connection> {
    let token = mesh.token("shop", account, "n1");
    Connection::open(socket, Some(&token)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_denied_account_gets_roots_and_no_certificate_until_it_is_allowed() -> anyhow::Result<()>
{
    let mut mesh = Mesh::start(Options::default()).await?;
    let agent = mesh.agent("n1").await?;
    let denied = deny(&mesh, "sa/shop/web")?;
    ensure!(denied["unreached"] == serde_json::json!([]), "{denied}");
    // What was denied once stays so.
    mesh.kill_authority().await?;
    mesh.spawn_authority()?;
    mesh.authority_is_ready().await?;

    let mut log = agent.process.as_ref().context("it runs")?.log();
    let web = pod(&mesh, &agent.socket, "web").await?;
    let mut waiting = web.stream(&["default"]).await?;
    log.until("ARX-DENIED", 0).await?;
    let api = pod(&mesh, &agent.socket, "api").await?;
    let response = api.stream(&["default"]).await?.next().await?;
    let issued = chain(&secrets(&response)?[0])?;
    ensure!(issued.spiffe_id().as_str() == API);
    let roots = web.stream(&["ROOTCA"]).await?.next().await?;
    ensure!(names(&roots)? == ["ROOTCA"]);
    ensure!(waiting.is_silent().await);

    let socket = mesh.admin_socket();
    let list = arx(&socket, &["deny", "list"])?;
    ensure!(
        list[0]["subject"] == "sa/shop/web" && list[0]["certificates"] == 0,
        "{list}"
    );
    arx(&socket, &["allow", "sa/shop/web"])?;
    ensure!(arx(&socket, &["deny", "list"])? == serde_json::json!([]));
    let web = pod(&mesh, &agent.socket, "web").await?;
    let response = web.stream(&["default"]).await?.next().await?;
    let issued = chain(&secrets(&response)?[0])?;
    ensure!(issued.spiffe_id().as_str() == WEB);
    Ok(())
}

async fn stands(mesh: &Mesh) -> anyhow::Result<Rotation> {
    let request = RotationStatusRequest::default();
    let answer = mesh.admin().await?.rotation_status(request).await?;
    answer.into_inner().rotation.context("there is a rotation")
}

async fn reaches(mesh: &Mesh, what: &str, there: impl Fn(&Rotation) -> bool) -> anyhow::Result<()> {
    let reached = until(what, || async { Ok(there(&stands(mesh).await?)) }).await;
    let rotation = stands(mesh).await?;
    reached.with_context(|| format!("it stands like this: {rotation:#?}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_rotation_waits_neither_for_a_denied_node_nor_for_a_denied_workload_and_lists_both()
-> anyhow::Result<()> {
    let mesh = Mesh::start(Options::default()).await?;
    let agent = mesh.agent("n1").await?;
    let mut lost = mesh.agent("n2").await?;
    let web = pod(&mesh, &agent.socket, "web").await?;
    let mut certificate = web.stream(&["default"]).await?;
    let first = certificate.next().await?;
    certificate.ack(&first)?;
    let mut roots = web.stream(&["ROOTCA"]).await?;
    let first = roots.next().await?;
    roots.ack(&first)?;
    lost.kill().await?;

    let request = RotateRootRequest {
        window_ms: Some(1000),
        dwell_ms: Some(500),
        ..RotateRootRequest::default()
    };
    let begun = mesh.admin().await?.rotate_root(request).await?;
    ensure!(matches!(
        begun.into_inner().outcome,
        Some(Rotated::Rotation(_))
    ));
    // It gets the new roots, and does not say that it uses them.
    let both = roots.next().await?;
    ensure!(names(&both)? == ["ROOTCA"]);
    reaches(&mesh, "both are in the way", |it| {
        let names = |node: &str, reason: &str| {
            let mut all = it.unconfirmed.iter();
            all.any(|one| one.node == node && one.reason == reason)
        };
        it.unconfirmed_total == 2 && names("c1/n1", "not-acked") && names("c1/n2", "agent-away")
    })
    .await?;
    let node = deny(&mesh, "node/c1/n2")?;
    ensure!(
        node["certificates"] == 1 && !node["last_certificate_ends"].is_null(),
        "{node}"
    );
    reaches(&mesh, "only the workload is in the way", |it| {
        it.phase == "distribute" && it.unconfirmed_total == 1 && it.unconfirmed[0].node == "c1/n1"
    })
    .await?;
    let page = || async { Ok::<_, anyhow::Error>(http::get(mesh.ops_port, "/rotation").await?.1) };
    let shown = page().await?;
    let (_, apart) = shown
        .split_once("Left out, because denied</h2>")
        .with_context(|| shown.clone())?;
    let (apart, _) = apart.split_once("</section>").context("it ends")?;
    for part in [
        "1 is not waited for",
        "href=\"/agents/c1/n2\"",
        "agent-away",
    ] {
        ensure!(apart.contains(part), "{part}: {apart}");
    }
    ensure!(!apart.contains("c1/n1"), "it is waited for: {apart}");
    // The line of the node, and no other, says so as well.
    let lines = shown
        .split("<tr>")
        .filter(|line| line.contains("denied, left out"));
    let lines: Vec<_> = lines.collect();
    ensure!(lines.len() == 1 && lines[0].contains("c1/n2"), "{shown}");
    let account = deny(&mesh, "sa/shop/web")?;
    ensure!(
        account["identities"] == serde_json::json!([WEB]),
        "{account}"
    );
    reaches(&mesh, "done", |it| it.phase == "done").await?;
    let done = stands(&mesh).await?;
    ensure!(done.forced.is_empty() && !done.aborting, "{done:?}");
    let shown = page().await?;
    for part in ["Passed without denied holders", "c1/n2", "agent-away"] {
        ensure!(shown.contains(part), "{part}: {shown}");
    }
    // Neither has followed, and the evidence says so of each gate.
    let socket = mesh.admin_socket();
    let report = arx(&socket, &["rotate", "report", &done.id])?;
    for phase in ["distribute", "reissue", "retire"] {
        let mut denied = report["denied"].as_array().into_iter().flatten();
        let denied = denied.find(|it| it["phase"] == phase).context(phase)?;
        let holds = |node: &str, reason: &str, workload: &str| {
            let mut holders = denied["holders"].as_array().into_iter().flatten();
            holders.any(|it| {
                it["node"] == node && it["reason"] == reason && it["workloads"][0] == workload
            })
        };
        let late = if phase == "reissue" {
            "not-renewed"
        } else {
            "not-acked"
        };
        ensure!(
            denied["left_out"] == 2
                && holds("c1/n1", late, WEB)
                && holds("c1/n2", "agent-away", "spiffe://example.org/arx/node/c1/n2"),
            "{phase}: {report}"
        );
    }
    let status = arx(&socket, &["rotate", "status"])?;
    let mut phases = status["phases"].as_array().into_iter().flatten();
    ensure!(
        phases.any(|it| it["phase"] == "retire" && it["denied"] == 2),
        "{status}"
    );
    let plan = arx(&socket, &["rotate", "root", "--dry-run"])?;
    ensure!(
        plan["denied_total"] == 2 && plan["blockers_total"] == 0,
        "{plan}"
    );
    // Both are still told as holders of what nobody accepts any more.
    let list = arx(&mesh.admin_socket(), &["deny", "list"])?;
    ensure!(
        list.as_array().map(Vec::len) == Some(2)
            && list[0]["certificates"] == 1
            && list[1]["certificates"] == 1,
        "{list}"
    );
    Ok(())
}

/// Since when, in milliseconds, the rotation has this node apart as away.
fn apart(rotation: &Rotation, node: &str) -> Option<i64> {
    let mut denied = rotation.denied.iter();
    let found = denied.find(|it| it.node == node && it.reason == "agent-away");
    found.map(|it| it.since_unix_ms)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_denied_node_that_goes_away_is_told_as_away_since_then_and_still_not_waited_for()
-> anyhow::Result<()> {
    let mesh = Mesh::start(Options::default()).await?;
    let _agent = mesh.agent("n1").await?;
    let mut lost = mesh.agent("n2").await?;
    deny(&mesh, "node/c1/n2")?;
    // It is denied, and follows still.
    let agents = arx(&mesh.admin_socket(), &["agents", "--away"])?;
    ensure!(agents == serde_json::json!([]), "{agents}");
    let before = unix_ms();
    lost.kill().await?;
    until("it is away", || async {
        let agents = arx(&mesh.admin_socket(), &["agents", "--away"])?;
        Ok(agents[0]["node"] == "n2")
    })
    .await?;
    let after = unix_ms();

    let slowly = RotateRootRequest {
        window_ms: Some(1000),
        dwell_ms: Some(500),
        ..RotateRootRequest::default()
    };
    mesh.admin().await?.rotate_root(slowly).await?;
    reaches(&mesh, "it is apart", |it| apart(it, "c1/n2").is_some()).await?;
    let since = apart(&stands(&mesh).await?, "c1/n2").context("it is apart")?;
    ensure!(
        (before..=after).contains(&since),
        "{before} {since} {after}"
    );
    reaches(&mesh, "done", |it| it.phase == "done").await?;
    ensure!(stands(&mesh).await?.forced.is_empty());
    Ok(())
}

fn unix_ms() -> i64 {
    let since = now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// What one of those that go on asking for a certificate has got: was the command over before it
/// asked, and what was it told.
type Answered = (bool, Result<Issued, String>);

/// Goes on asking for a certificate of this service account, as the agent of a node does.
async fn asks_on(
    node: (Authority, Svid),
    token: String,
    over: Arc<AtomicBool>,
    answered: mpsc::Sender<Answered>,
) -> anyhow::Result<()> {
    let tls = node.0.tls(Some(&node.1))?;
    let mut client = node.0.connect(&tls).await?;
    loop {
        let item = IssueItem {
            idempotency_key: unique(),
            csr: requests(1)?.remove(0),
            evidence: Some(Evidence::ServiceAccountToken(token.clone())),
            urgency: Urgency::Start.into(),
            ..IssueItem::default()
        };
        let was_over = over.load(Ordering::SeqCst);
        let answer = client.issue(IssueRequest { items: vec![item] }).await?;
        let outcome = answer.into_inner().results.remove(0).outcome;
        let told = match outcome {
            Some(Outcome::Refused(refusal)) => Err(refusal.code),
            outcome => Ok(issued(outcome)?),
        };
        if answered.send((was_over, told)).await.is_err() {
            return Ok(());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn once_the_command_is_over_nobody_gets_anything_for_the_denied_however_many_ask()
-> anyhow::Result<()> {
    let mesh = Mesh::start(Options::default()).await?;
    let authority = Authority {
        port: mesh.node_port,
        bundle: mesh.bundle(),
    };
    let over = Arc::new(AtomicBool::new(false));
    let (mut asking, mut channels) = (JoinSet::new(), Vec::new());
    for account in ["web", "api"] {
        let (send, receive) = mpsc::channel(1);
        for n in 1..=3 {
            let name = &format!("{account}-{n}");
            let audience = format!("{AUDIENCE}/join");
            let claims = Claims::new(&audience, "arx-system", "arx-node-agent", name);
            let token = mesh.issuer.mint(&claims);
            let svid = authority.new_node(&authority.tls(None)?, &token).await?;
            let token = mesh.token("shop", account, name);
            let node = (authority.clone(), svid);
            asking.spawn(asks_on(node, token, Arc::clone(&over), send.clone()));
        }
        channels.push(receive);
    }
    let [web, api] = &mut channels[..] else {
        anyhow::bail!("there are two");
    };
    for _ in 0..10 {
        for channel in [&mut *web, &mut *api] {
            let (_, told) = channel.recv().await.context("somebody asks")?;
            ensure!(told.is_ok(), "{told:?}");
        }
    }
    // Both go on while the command runs.
    let socket = mesh.admin_socket();
    let command = tokio::task::spawn_blocking(move || {
        arx(&socket, &["deny", "sa/shop/web", "--reason", "a test"])
    });
    tokio::pin!(command);
    let mut given = Vec::new();
    let denied = loop {
        tokio::select! {
            denied = &mut command => break denied??,
            Some((_, told)) = web.recv() => given.push(told),
            Some((_, told)) = api.recv() => ensure!(told.is_ok(), "{told:?}"),
        }
    };
    over.store(true, Ordering::SeqCst);
    ensure!(denied["unreached"] == serde_json::json!([]), "{denied}");
    // Whoever asked after that is refused; whoever asked before may have been in time.
    let mut refused = 0;
    while refused < 30 {
        let (after, told) = web.recv().await.context("somebody asks")?;
        match told {
            Err(code) => ensure!(code == "ARX-DENIED", "{code}"),
            Ok(_) => ensure!(!after, "it was given after the command was over"),
        }
        refused += u32::from(after);
        let (_, told) = api.recv().await.context("somebody asks")?;
        ensure!(told.is_ok(), "a neighbour: {told:?}");
    }
    asking.abort_all();
    Ok(())
}
