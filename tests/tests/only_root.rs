//! Distrust of the only root, where no other can take its place: refused, unless the operator has
//! understood that nothing will connect.

use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, ensure};
use arx_daemon::Clock;
use arx_daemon::files::write_atomically;
use arx_identity::{Certificate, Sequence, TrustBundle, TrustDomain};
use arx_proto::admin::v1::GetBundleRequest;
use arx_tests::http as web;
use arx_tests::mesh::{Mesh, Options, TRUST_DOMAIN, pem};
use arx_tests::pair::{API, Pair, WEB};
use arx_tests::process::{binary, until};
use arx_tests::root::Root;
use arx_tests::thief::{Thief, call};
use serde_json::{Value, json};

const LIFETIME: Duration = Duration::from_secs(300 * 86_400);
const FLAG: &str = "--i-understand-nothing-will-connect";

fn now() -> SystemTime {
    Clock::system().now()
}

/// Two nodes with their Envoys under an operator's root, and somebody who has its key.
async fn robbed() -> anyhow::Result<(Pair, Thief)> {
    let mut mesh = Mesh::prepare(Options::default())?;
    let root = Root::new(TRUST_DOMAIN, now(), LIFETIME)?;
    let files = root.write(&mesh.directory)?;
    mesh.reconfigure(|options| options.roots = format!("{files}\nfiles_interval = \"200ms\""))?;
    mesh.start_authority().await?;
    let pair = Pair::over(mesh, |_| {}).await?;
    Ok((pair, Thief::with(root)))
}

/// What `arx` prints, and its exit code.
fn ask(mesh: &Mesh, arguments: &[&str]) -> anyhow::Result<(Option<i32>, Value, String)> {
    let mut command = Command::new(binary("arx")?);
    command.arg("--socket").arg(mesh.admin_socket());
    let output = command.args(["-o", "json"]).args(arguments).output()?;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    let told = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    Ok((output.status.code(), told, error))
}

/// The same of what is well.
fn arx(mesh: &Mesh, arguments: &[&str]) -> anyhow::Result<Value> {
    let (code, told, error) = ask(mesh, arguments)?;
    ensure!(code == Some(0), "{arguments:?}: {code:?} {told} {error}");
    Ok(told)
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

fn names<'a>(list: &'a Value, field: &'a str) -> Vec<&'a str> {
    let list = list.as_array().map_or(&[][..], Vec::as_slice);
    list.iter().filter_map(|one| one[field].as_str()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_only_root_is_not_distrusted_unless_it_is_understood_what_that_means()
-> anyhow::Result<()> {
    let (pair, thief) = robbed().await?;
    let root = thief.root_id()?.to_string();
    let (code, plan, _) = ask(&pair.mesh, &["distrust", &root, "--dry-run"])?;
    ensure!(
        code == Some(1)
            && plan["refusals"][0]["code"] == "ARX-DISTRUST-ONLY-ROOT"
            && plan["without_successor"] == false,
        "{plan:#}"
    );
    let (code, _, error) = ask(&pair.mesh, &["distrust", &root, "--reason", "stolen"])?;
    ensure!(code == Some(1), "{error}");
    for part in [
        "ARX-DISTRUST-ONLY-ROOT",
        thief.root.subject(),
        "put a new root in its place",
        FLAG,
    ] {
        ensure!(error.contains(part), "{part:?} is not in {error}");
    }
    ensure!(arx(&pair.mesh, &["rotate", "history"])? == json!([]));
    ensure!(roots(&pair.mesh).await?.roots() == [thief.root]);
    pair.talks().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn understood_the_only_root_goes_at_once_and_the_authority_begins_anew_with_another()
-> anyhow::Result<()> {
    let (mut pair, thief) = robbed().await?;
    let root = thief.root_id()?.to_string();
    let forged = thief.forge(WEB, now())?;
    let old = roots(&pair.mesh).await?;
    let port = pair.api.ports.inbound;
    let said = call(&forged, &old, port, API).await?;
    ensure!(said.contains(WEB), "he is taken for {WEB}: {said}");

    let plan = arx(&pair.mesh, &["distrust", &root, "--dry-run", FLAG])?;
    let fails = names(&plan["fails"], "node");
    ensure!(
        plan["without_successor"] == true
            && plan["refusals"] == json!([])
            && fails.contains(&"c1/n1")
            && fails.contains(&"c1/n2"),
        "{plan:#}"
    );
    let everybody: Vec<_> = plan["fails"].as_array().into_iter().flatten().collect();
    let has = |id: &str| {
        let mut all = everybody.iter();
        all.any(|one| one["workloads"].to_string().contains(id))
    };
    ensure!(has(WEB) && has(API), "{plan:#}");
    ensure!(arx(&pair.mesh, &["rotate", "history"])? == json!([]));

    let wish = ["distrust", &root, "--reason", "stolen", FLAG];
    let begun = arx(&pair.mesh, &[&wish[..], &["--cap", "3s"]].concat())?;
    ensure!(
        begun["kind"] == "distrust" && begun["without_successor"] == true,
        "{begun:#}"
    );
    until("done", || async {
        Ok(arx(&pair.mesh, &["rotate", "status"])?["phase"] == "done")
    })
    .await?;

    // Whoever has the bundle believes the thief no more, and nobody else either.
    let placeholder = roots(&pair.mesh).await?;
    ensure!(placeholder.roots().len() == 1 && !placeholder.roots().contains(&thief.root));
    until("he is refused", || async {
        Ok(call(&forged, &old, port, API).await.is_err())
    })
    .await?;
    let report = arx(&pair.mesh, &["rotate", "report", "r1"])?;
    let off = names(&report["cut_off"], "node");
    ensure!(
        report["without_successor"] == true
            && report["outcome"] == "done"
            && off.contains(&"c1/n1")
            && off.contains(&"c1/n2"),
        "{report:#}"
    );
    let ledger = Command::new(binary("arx")?)
        .arg("--socket")
        .arg(pair.mesh.admin_socket())
        .args(["ledger", "export"])
        .output()?;
    let ledger = String::from_utf8_lossy(&ledger.stdout).into_owned();
    ensure!(ledger.contains("without_successor") && ledger.contains("distrusted"));
    ensure!(arx(&pair.mesh, &["ledger", "verify"]).is_ok());
    // Nothing is issued, and it is said what to do.
    until("it says so", || async {
        let (status, body) = web::get(pair.mesh.ops_port, "/readyz").await?;
        Ok(status == 503 && body.contains("ARX-AUTHORITY-NOTHING-TRUSTED"))
    })
    .await?;
    let (code, _, error) = ask(&pair.mesh, &["rotate", "root", "--reason", "another"])?;
    ensure!(
        code == Some(1) && error.contains("ARX-AUTHORITY-NOTHING-TRUSTED"),
        "{error}"
    );

    // With the stolen root it does not start again; with another one it does, and the nodes come
    // back by their tokens as soon as they have its bundle.
    pair.mesh.stop_authority().await?;
    let another = Root::new(TRUST_DOMAIN, now(), LIFETIME)?;
    another.write(&pair.mesh.directory)?;
    pair.mesh.spawn_authority()?;
    pair.mesh.authority_is_ready().await?;
    let anew = roots(&pair.mesh).await?;
    ensure!(anew.roots() == std::slice::from_ref(&another.certificate));
    let bundle = pem("CERTIFICATE", another.certificate.der());
    write_atomically(pair.mesh.bundle(), bundle.as_bytes(), 0o644)?;
    until("they talk again", || async {
        Ok(pair.talks().await.is_ok())
    })
    .await
    .with_context(|| {
        let logs = pair
            .agents
            .iter()
            .map(|it| it.process.as_ref().map(|it| it.log().tail()));
        format!("the agents say: {:?}", logs.collect::<Vec<_>>())
    })?;
    ensure!(
        call(&forged, &anew, port, API).await.is_err(),
        "the thief is believed again"
    );
    ensure!(arx(&pair.mesh, &["rotate", "status"])?["phase"] == "done");
    Ok(())
}
