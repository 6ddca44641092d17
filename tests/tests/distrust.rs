//! Distrust with real Envoys under load: a stolen key is cut out, and nobody else notices.

use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context as _, ensure};
use arx_daemon::files::write_atomically;
use arx_identity::{Certificate, Sequence, TrustBundle, TrustDomain};
use arx_proto::admin::v1::{GetBundleRequest, RotateRootRequest};
use arx_tests::mesh::{Mesh, Options, TRUST_DOMAIN, pem};
use arx_tests::pair::{API, Pair, WEB};
use arx_tests::process::{binary, until};
use arx_tests::sds::{Connection, chain, secrets};
use arx_tests::thief::{Thief, call};
use serde_json::Value;

/// The clock of this test.
fn now() -> SystemTime {
    arx_daemon::Clock::system().now()
}

/// What `arx` prints, and its exit code.
fn ask(socket: &Path, arguments: &[&str]) -> anyhow::Result<(Option<i32>, String, String)> {
    let mut command = Command::new(binary("arx")?);
    let command = command.arg("--socket").arg(socket).args(["-o", "json"]);
    let output = command.args(arguments).output()?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok((
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    ))
}

/// The same of what is well.
fn arx(mesh: &Mesh, arguments: &[&str]) -> anyhow::Result<Value> {
    let (code, out, error) = ask(&mesh.admin_socket(), arguments)?;
    ensure!(code == Some(0), "{arguments:?}: {code:?} {out} {error}");
    Ok(serde_json::from_str(&out)?)
}

/// Waits until the rotation is where `there` says.
async fn reaches(mesh: &Mesh, what: &str, there: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
    let stands = || arx(mesh, &["rotate", "status"]);
    let reached = until(what, || async { Ok(there(&stands()?)) }).await;
    let rotation = stands()?;
    reached.with_context(|| format!("it stands like this: {rotation:#}"))?;
    Ok(rotation)
}

async fn is_done(mesh: &Mesh) -> anyhow::Result<Value> {
    reaches(mesh, "done", |it| it["phase"] == "done").await
}

async fn roots(mesh: &Mesh) -> anyhow::Result<TrustBundle> {
    let bundle = mesh.admin().await?.get_bundle(GetBundleRequest {}).await?;
    let roots = bundle.into_inner().roots;
    let roots: Result<_, _> = roots
        .iter()
        .map(|root| Certificate::from_der(root))
        .collect();
    let trust_domain = TrustDomain::parse(TRUST_DOMAIN)?;
    Ok(TrustBundle::new(trust_domain, Sequence::default(), roots?)?)
}

/// Gives the bundle of today to all nodes, as an operator does.
async fn spread_bundle(mesh: &Mesh) -> anyhow::Result<()> {
    let roots = roots(mesh).await?;
    let text: String = roots
        .roots()
        .iter()
        .map(|root| pem("CERTIFICATE", root.der()))
        .collect();
    write_atomically(mesh.bundle(), text.as_bytes(), 0o644)?;
    Ok(())
}

/// A mesh from which somebody has stolen the root.
async fn robbed() -> anyhow::Result<(Mesh, Thief)> {
    let mut mesh = Mesh::start(Options::default()).await?;
    mesh.stop_authority().await?;
    let thief = Thief::of(&mesh, now()).await?;
    mesh.spawn_authority()?;
    mesh.authority_is_ready().await?;
    Ok((mesh, thief))
}

/// How often this Envoy has refused a peer's certificate.
async fn refused_peers(pair: &Pair) -> anyhow::Result<u64> {
    let port = pair.api.ports.inbound;
    let name = format!("listener.127.0.0.1_{port}.ssl.fail_verify_error");
    pair.api.stat(&name).await
}

fn distrust<'a>(root: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["distrust", root, "--reason", "a test"], more].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_stolen_root_is_cut_out_under_load_and_only_the_thief_is_refused() -> anyhow::Result<()> {
    let (mesh, thief) = robbed().await?;
    let pair = Pair::over(mesh, |_| {}).await?;
    let root = thief.root_id()?.to_string();
    let forged = thief.forge(WEB, now())?;
    let said = call(
        &forged,
        &roots(&pair.mesh).await?,
        pair.api.ports.inbound,
        API,
    )
    .await?;
    ensure!(said.contains(WEB), "he is taken for {WEB}: {said}");
    let before = pair.serials().await?;
    let load = pair.load();

    let dry_run = || arx(&pair.mesh, &["distrust", &root[..8], "--dry-run"]);
    // Two agents and two proxies.
    until("everybody has reported", || async {
        let plan = dry_run()?;
        Ok(plan["fails"] == serde_json::json!([]) && plan["reachable"] == 4)
    })
    .await?;
    ensure!(arx(&pair.mesh, &["rotate", "history"])? == serde_json::json!([]));
    let begun = arx(&pair.mesh, &distrust(&root[..8], &["--cap", "30s"]))?;
    ensure!(begun["kind"] == "distrust" && begun["from"]["key_id"] == *root);
    let (code, _, error) = ask(&pair.mesh.admin_socket(), &["rotate", "abort"])?;
    ensure!(
        code == Some(1) && error.contains("ARX-DISTRUST-ABORT"),
        "{error}"
    );
    let done = is_done(&pair.mesh).await?;
    ensure!(done["forced"] == serde_json::json!([]), "{done:#}");

    let refused = refused_peers(&pair).await?;
    ensure!(refused == 0, "{refused} of our own were refused");
    let late = call(
        &forged,
        &roots(&pair.mesh).await?,
        pair.api.ports.inbound,
        API,
    )
    .await;
    ensure!(late.is_err(), "he is still believed: {late:?}");
    ensure!(refused_peers(&pair).await? == 1);
    load.stop().await.without_failure()?;
    let serials = pair.serials().await?;
    ensure!(serials[0] != before[0] && serials[1] != before[1]);
    pair.talks().await?;

    let status = arx(&pair.mesh, &["status"])?;
    let all = status["authorities"].as_array().context("authorities")?;
    let tombstone = all.iter().find(|it| it["key_id"] == *root);
    let tombstone = tombstone.context("what is left of it")?;
    ensure!(
        tombstone["state"] == "distrusted" && tombstone["custody"] == "erased",
        "{tombstone:#}"
    );
    let report = arx(&pair.mesh, &["rotate", "report", "r1"])?;
    ensure!(report["kind"] == "distrust" && report["outcome"] == "done");
    ensure!(report["cut_off"] == serde_json::json!([]), "{report:#}");
    let (code, _, error) = ask(&pair.mesh.admin_socket(), &distrust(&root, &[]))?;
    ensure!(
        code == Some(1) && error.contains("ARX-DISTRUST-DONE"),
        "{error}"
    );
    ensure!(arx(&pair.mesh, &["ledger", "verify"]).is_ok());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_agent_that_is_away_is_cut_off_by_name_and_comes_back_by_its_token() -> anyhow::Result<()>
{
    const LOST: &str = "spiffe://example.org/ns/shop/sa/lost";
    let pair = Pair::start(Options::default()).await?;
    let mut away = pair.mesh.agent("n3").await?;
    let token = pair.mesh.token("shop", "lost", "n3");
    let connection = Connection::open(&away.socket, Some(&token)).await?;
    let mut certificate = connection.stream(&["default"]).await?;
    let first = certificate.next().await?;
    certificate.ack(&first)?;
    away.kill().await?;
    let load = pair.load();

    let old = roots(&pair.mesh).await?;
    let root = old.roots()[0].subject().to_owned();
    until("it is known to be away", || async {
        let agents = arx(&pair.mesh, &["agents", "--away"])?;
        Ok(agents.as_array().is_some_and(|it| it.len() == 1))
    })
    .await?;
    let plan = arx(&pair.mesh, &["distrust", &root, "--dry-run"])?;
    let node = "spiffe://example.org/arx/node/c1/n3";
    ensure!(
        plan["fails_total"] == 1
            && plan["fails"][0]["node"] == "c1/n3"
            && plan["fails"][0]["reason"] == "agent-away"
            && plan["fails"][0]["workloads"] == serde_json::json!([node, LOST]),
        "{plan:#}"
    );
    arx(&pair.mesh, &distrust(&root, &["--cap", "3s"]))?;
    let done = is_done(&pair.mesh).await?;
    load.stop().await.without_failure()?;
    pair.talks().await?;
    let forced = done["forced"].as_array().context("gates")?;
    ensure!(
        !forced.is_empty()
            && forced.iter().all(|it| it["reason"] == "distrust"
                && it["by"] == "distrust"
                && it["left_behind"] == 1),
        "{done:#}"
    );
    let report = arx(&pair.mesh, &["rotate", "report", "r1"])?;
    ensure!(
        report["cut_off"][0]["node"] == "c1/n3"
            && report["cut_off"][0]["workloads"] == serde_json::json!([node, LOST])
            && report["cut_off"].as_array().map(Vec::len) == Some(1)
            && report["to_come_back"] == serde_json::json!(["c1/n3"]),
        "{report:#}"
    );

    // All that it has stands under what nobody trusts any more, its own certificate too. With
    // the file that vouches for the authority of today it needs nobody.
    spread_bundle(&pair.mesh).await?;
    away.start().await?;
    let connection = Connection::open(&away.socket, Some(&token)).await?;
    let response = connection.stream(&["default"]).await?.next().await;
    let log = || away.process.as_ref().map(|it| it.log().tail());
    let response = response.with_context(|| format!("the agent says: {:?}", log()))?;
    let issued = chain(&secrets(&response)?[0])?;
    let verified = arx_identity::verify(&issued, &roots(&pair.mesh).await?, now());
    ensure!(verified.is_ok() && issued.spiffe_id().as_str() == LOST);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_stolen_intermediate_is_replaced_at_once_and_its_end_is_told() -> anyhow::Result<()> {
    let pair = Pair::start(Options::default()).await?;
    let before = pair.serials().await?;
    let status = arx(&pair.mesh, &["status"])?;
    let all = status["authorities"].as_array().context("authorities")?;
    let stolen = all.iter().find(|it| it["role"] == "intermediate");
    let stolen = stolen.context("an intermediate")?.clone();
    let id = stolen["key_id"].as_str().context("a key identifier")?;
    let load = pair.load();

    let plan = arx(&pair.mesh, &["distrust", id, "--dry-run"])?;
    ensure!(
        plan["signs_now"] == *id && plan["certificates"].as_u64() >= Some(4),
        "{plan:#}"
    );
    let told = arx(&pair.mesh, &distrust(id, &[]))?;
    ensure!(
        told["signs_now"] != *id && told["not_after"] == stolen["not_after"] && told["agents"] == 2,
        "{told:#}"
    );
    ensure!(
        told["root"]["key_id"].is_string(),
        "the root's distrust is offered"
    );
    pair.renewed(&before).await?;
    until("nothing stands under it", || async {
        Ok(arx(&pair.mesh, &distrust(id, &[]))?["certificates"] == 0)
    })
    .await?;
    load.stop().await.without_failure()?;
    ensure!(arx(&pair.mesh, &["rotate", "history"])? == serde_json::json!([]));
    pair.talks().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_planned_rotation_that_runs_becomes_the_distrust_of_the_root_that_comes()
-> anyhow::Result<()> {
    let pair = Pair::start(Options::default()).await?;
    let before = roots(&pair.mesh).await?;
    let load = pair.load();
    let slowly = RotateRootRequest {
        window_ms: Some(3_600_000),
        dwell_ms: Some(500),
        ..RotateRootRequest::default()
    };
    pair.mesh.admin().await?.rotate_root(slowly).await?;
    let both = reaches(&pair.mesh, "both roots sign", |it| it["phase"] == "reissue").await;
    let to = both?["to"]["key_id"].as_str().context("a root")?.to_owned();
    arx(&pair.mesh, &distrust(&to, &["--cap", "30s"]))?;
    let done = is_done(&pair.mesh).await?;
    load.stop().await.without_failure()?;
    ensure!(
        done["kind"] == "distrust" && done["from"]["key_id"] == *to,
        "{done:#}"
    );
    ensure!(done["forced"] == serde_json::json!([]), "{done:#}");
    ensure!(roots(&pair.mesh).await?.roots() == before.roots());
    pair.talks().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_authority_that_is_killed_ends_the_distrust_and_an_older_state_does_not_undo_it()
-> anyhow::Result<()> {
    let (mesh, thief) = robbed().await?;
    let mut pair = Pair::over(mesh, |_| {}).await?;
    let root = thief.root_id()?.to_string();
    let load = pair.load();
    let state = pair.mesh.directory.join("authority/state.redb");
    let backup = pair.mesh.directory.join("backup.redb");
    pair.mesh.stop_authority().await?;
    std::fs::copy(&state, &backup)?;
    pair.mesh.spawn_authority()?;
    pair.mesh.authority_is_ready().await?;

    arx(&pair.mesh, &distrust(&root, &["--cap", "30s"]))?;
    for phase in ["distribute", "reissue", "retire"] {
        let order = [
            "prepare",
            "distribute",
            "activate",
            "reissue",
            "retire",
            "done",
        ];
        let place = |name: &str| order.iter().position(|known| *known == name);
        reaches(&pair.mesh, phase, |it| {
            it["phase"].as_str().and_then(place) >= place(phase)
        })
        .await?;
        pair.mesh.kill_authority().await?;
        pair.mesh.spawn_authority()?;
        pair.mesh.authority_is_ready().await?;
    }
    is_done(&pair.mesh).await?;
    load.stop().await.without_failure()?;
    pair.talks().await?;

    // The state is lost, and the backup is from before.
    pair.mesh.stop_authority().await?;
    std::fs::copy(&backup, &state)?;
    pair.mesh.spawn_authority_with(&["--accept-loss"])?;
    pair.mesh.authority_is_ready().await?;
    let roots = roots(&pair.mesh).await?;
    ensure!(
        !roots.roots().contains(&thief.root),
        "the stolen root is trusted again"
    );
    let status = arx(&pair.mesh, &["status"])?;
    let all = status["authorities"].as_array().context("authorities")?;
    let left = all.iter().find(|it| it["key_id"] == *root);
    ensure!(left.context("what is left of it")?["state"] == "distrusted");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_distrust_waits_for_nobody_who_is_denied() -> anyhow::Result<()> {
    let mesh = Mesh::start(Options::default()).await?;
    let _agent = mesh.agent("n1").await?;
    let mut denied = mesh.agent("n2").await?;
    denied.kill().await?;
    arx(
        &mesh,
        &["deny", "node/c1/n2", "--reason", "stolen with the key"],
    )?;
    let root = roots(&mesh).await?.roots()[0].subject().to_owned();
    let plan = arx(&mesh, &["distrust", &root, "--dry-run"])?;
    ensure!(plan["fails"] == serde_json::json!([]), "{plan:#}");
    ensure!(
        plan["denied_total"] == 1
            && plan["denied"][0]["node"] == "c1/n2"
            && plan["denied"][0]["reason"] == "agent-away"
            && plan["denied"][0]["workloads"][0] == "spiffe://example.org/arx/node/c1/n2",
        "{plan:#}"
    );
    let mut people = Command::new(binary("arx")?);
    let people = people.arg("--socket").arg(mesh.admin_socket());
    let said = people.args(["distrust", &root, "--dry-run"]).output()?;
    let said = String::from_utf8(said.stdout)?;
    ensure!(
        said.contains("left out, because denied: 1") && said.contains("fails: nobody"),
        "{said}"
    );
    arx(&mesh, &distrust(&root, &["--cap", "1h"]))?;
    let done = is_done(&mesh).await?;
    ensure!(done["forced"] == serde_json::json!([]), "{done:#}");
    let report = arx(&mesh, &["rotate", "report", "r1"])?;
    let mut phases = report["denied"].as_array().into_iter().flatten();
    ensure!(
        phases.any(|it| it["left_out"] == 1 && it["holders"][0]["node"] == "c1/n2"),
        "{report:#}"
    );
    Ok(())
}
