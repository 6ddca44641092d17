//! A root whose key is with a CA that no process reaches: `openssl`, by hand.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, ensure};
use arx_tests::http as web;
use arx_tests::mesh::{Mesh, Options};
use arx_tests::openssl::{Ca, openssl};
use arx_tests::pair::Pair;
use arx_tests::process::{binary, until};
use arx_tests::rotating;
use arx_tests::sds::{Connection, chain, secrets};
use serde_json::Value;

const WEB: &str = "spiffe://example.org/ns/shop/sa/web";

fn offline() -> Options {
    Options {
        roots: "root = \"offline\"".to_owned(),
        ..Options::default()
    }
}

/// Runs `arx` with this on its standard input.
fn arx(mesh: &Mesh, arguments: &[&str], input: &str) -> anyhow::Result<Output> {
    use std::io::Write as _;
    let mut child = Command::new(binary("arx")?)
        .arg("--socket")
        .arg(mesh.admin_socket())
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().context("it is piped")?;
    stdin.write_all(input.as_bytes())?;
    drop(stdin);
    Ok(child.wait_with_output()?)
}

fn csr(mesh: &Mesh) -> anyhow::Result<String> {
    let output = arx(mesh, &["authority", "csr"], "")?;
    ensure!(output.status.success(), "{output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

/// What `arx authority install` says of a chain, and whether it was taken.
fn install(mesh: &Mesh, chain: &str) -> anyhow::Result<(bool, Value)> {
    let output = arx(mesh, &["-o", "json", "authority", "install", "-"], chain)?;
    let said = serde_json::from_slice(&output.stdout).with_context(|| format!("{output:?}"))?;
    Ok((output.status.success(), said))
}

fn taken(mesh: &Mesh, chain: &str) -> anyhow::Result<Value> {
    let (taken, said) = install(mesh, chain)?;
    ensure!(taken, "{said}");
    Ok(said)
}

/// The code of the one problem that there is.
fn refused(mesh: &Mesh, chain: &str) -> anyhow::Result<String> {
    let (taken, said) = install(mesh, chain)?;
    ensure!(
        !taken && said["problems"].as_array().map(Vec::len) == Some(1),
        "{said}"
    );
    Ok(said["problems"][0]["code"]
        .as_str()
        .context("a code")?
        .to_owned())
}

/// An authority that waits for its certificate.
async fn waiting(options: Options) -> anyhow::Result<Mesh> {
    let mut mesh = Mesh::prepare(options)?;
    mesh.spawn_authority()?;
    until("the wait for a chain", || async {
        let (status, body) = web::get(mesh.ops_port, "/readyz").await?;
        let awaits = body.contains("ARX-AUTHORITY-AWAITING");
        Ok(status == 503 && awaits && mesh.admin_socket().exists())
    })
    .await?;
    Ok(mesh)
}

/// A certificate of the workload, verified by `openssl` from the root down.
async fn verified(mesh: &Mesh, socket: &Path, root: &Path) -> anyhow::Result<String> {
    let token = mesh.token("shop", "web", "n1");
    let connection = Connection::open(socket, Some(&token)).await?;
    let response = connection.stream(&["default"]).await?.next().await?;
    let chain = chain(&secrets(&response)?[0])?;
    ensure!(chain.spiffe_id().as_str() == WEB);
    let (leaf, above) = (
        mesh.directory.join("leaf.pem"),
        mesh.directory.join("above.pem"),
    );
    std::fs::write(&leaf, chain.leaf().pem())?;
    let certificates = chain.certificates()[1..].iter();
    std::fs::write(&above, certificates.map(|it| it.pem()).collect::<String>())?;
    let text = |path: &Path| path.to_str().map(str::to_owned).context("text");
    openssl(&[
        "verify",
        "-x509_strict",
        "-CAfile",
        &text(root)?,
        "-untrusted",
        &text(&above)?,
        &text(&leaf)?,
    ])?;
    Ok(chain.certificates().last().context("a chain")?.pem())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_offline_ca_certifies_the_authority_and_renews_it_while_it_issues() -> anyhow::Result<()>
{
    let mut mesh = waiting(offline()).await?;
    let root = Ca::root(&mesh.directory, "root")?;
    let policy = root.intermediate("policy", 2)?;
    let status = arx(&mesh, &["status"], "")?;
    ensure!(
        status.status.code() == Some(1)
            && String::from_utf8_lossy(&status.stderr).contains("ARX-AUTHORITY-AWAITING"),
        "{status:?}"
    );
    let request = csr(&mesh)?;
    // The request outlives the process.
    mesh.kill_authority().await?;
    mesh.spawn_authority()?;
    until("the same request", || async { Ok(csr(&mesh)? == request) }).await?;

    let first = policy.certify(&request, 1, 365)?;
    let said = taken(&mesh, &first)?;
    ensure!(said["outcome"] == "first", "{said}");
    mesh.authority_is_ready().await?;
    ensure!(taken(&mesh, &first)?["outcome"] == "already");
    mesh.write_bundle().await?;
    let bundle = std::fs::read_to_string(mesh.bundle())?;
    ensure!(bundle.trim() == root.chain.trim(), "{bundle}");
    let agent = mesh.agent("n1").await?;
    let top = verified(&mesh, &agent.socket, &root.path("pem")).await?;
    ensure!(
        policy.chain.starts_with(&top),
        "the operator's own comes last"
    );

    // A renewal, while the agent is connected; the next certificates stand under it.
    let renewed = policy.certify(&csr(&mesh)?, 1, 400)?;
    ensure!(taken(&mesh, &renewed)?["outcome"] == "renewed");
    let handed = arx_identity::Certificate::list_from_pem(&renewed)?;
    until("certificates under the renewed one", || async {
        let status = mesh.status().await?;
        let authorities = status.authorities.iter();
        let mut own = authorities.filter(|it| it.role == "intermediate");
        let own = own.next().context("an intermediate")?;
        let own = arx_identity::Certificate::from_der(&own.certificate)?;
        Ok(own.is_signed_by(&handed[0]))
    })
    .await?;
    let agent = mesh.agent("n2").await?;
    verified_on(&mesh, &agent.socket, &root).await?;

    // All of that was recorded, and is there after a restart.
    mesh.stop_authority().await?;
    mesh.spawn_authority()?;
    mesh.authority_is_ready().await?;
    let export = arx(&mesh, &["ledger", "export", "--last", "1h"], "")?;
    let export = String::from_utf8(export.stdout)?;
    let records = export
        .lines()
        .filter(|line| line.contains("install authority"));
    ensure!(records.count() == 2, "{export}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_root_whose_key_is_outside_is_called_as_its_certificate_says_and_none_is_made_after_it()
-> anyhow::Result<()> {
    let mut mesh = waiting(offline()).await?;
    let root = Ca::root(&mesh.directory, "root")?;
    taken(&mesh, &root.certify(&csr(&mesh)?, 1, 365)?)?;
    mesh.authority_is_ready().await?;
    let status = mesh.status().await?;
    let shown = status.authorities.iter().find(|it| it.role == "root");
    let shown = shown.context("a root")?;
    let certificate = arx_identity::Certificate::from_der(&shown.certificate)?;
    let id = certificate.subject_key_id().context("an identifier")?;
    ensure!(shown.key_id == *id.as_bytes(), "{shown:?}");
    ensure!(shown.custody == "with a CA outside", "{shown:?}");
    // By that, it is found again.
    let named = arx(&mesh, &["distrust", &id.to_string(), "--dry-run"], "")?;
    let named = String::from_utf8(named.stdout)?;
    ensure!(named.contains(certificate.subject()), "{named}");

    let plan = arx(&mesh, &["rotate", "root", "--dry-run"], "")?;
    let told = String::from_utf8(plan.stdout)?;
    ensure!(plan.status.code() == Some(1), "{told}");
    ensure!(told.contains("ARX-AUTHORITY-ROOT-OUTSIDE"), "{told}");
    let refused = arx(&mesh, &["rotate", "root"], "")?;
    let told = String::from_utf8(refused.stderr)?;
    ensure!(refused.status.code() == Some(1), "{told}");
    ensure!(told.contains("ARX-AUTHORITY-ROOT-OUTSIDE"), "{told}");
    let history = arx(&mesh, &["-o", "json", "rotate", "history"], "")?;
    let history: Value = serde_json::from_slice(&history.stdout)?;
    ensure!(history == Value::Array(Vec::new()), "{history}");
    Ok(())
}

async fn verified_on(mesh: &Mesh, socket: &Path, root: &Ca) -> anyhow::Result<()> {
    let token = mesh.token("shop", "web", "n2");
    let connection = Connection::open(socket, Some(&token)).await?;
    let response = connection.stream(&["default"]).await?.next().await?;
    let chain = chain(&secrets(&response)?[0])?;
    let root = arx_identity::Certificate::list_from_pem(&root.chain)?;
    let last = chain.certificates().last().context("a chain")?;
    ensure!(last.is_signed_by(&root[0]));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn each_wrong_chain_is_refused_by_name_and_the_right_one_is_taken_afterwards()
-> anyhow::Result<()> {
    let mut mesh = waiting(offline()).await?;
    let root = Ca::root(&mesh.directory, "root")?;
    let other = root.intermediate("other", 1)?;
    let request = csr(&mesh)?;
    let sign = |path_length, days| root.certify(&request, path_length, days);

    ensure!(refused(&mesh, &other.chain)? == "ARX-AUTHORITY-KEY-MISMATCH");
    ensure!(refused(&mesh, &sign(0, 365)?)? == "ARX-AUTHORITY-PATH-LENGTH");
    let half = sign(1, 365)?.replace(&root.chain, "");
    ensure!(refused(&mesh, &half)? == "ARX-AUTHORITY-CHAIN");
    let leaf = root.sign(
        &request,
        "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n\
         subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n",
        365,
    )?;
    let (taken_up, said) = install(&mesh, &leaf)?;
    ensure!(
        !taken_up && said.to_string().contains("ARX-AUTHORITY-PROFILE"),
        "{said}"
    );
    let elsewhere = root.sign(
        &request,
        "basicConstraints=critical,CA:TRUE,pathlen:1\nkeyUsage=critical,keyCertSign,cRLSign\n\
         subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n\
         subjectAltName=URI:spiffe://example.com\n",
        365,
    )?;
    ensure!(refused(&mesh, &elsewhere)? == "ARX-AUTHORITY-TRUST-DOMAIN");
    ensure!(refused(&mesh, "")? == "ARX-AUTHORITY-CERTIFICATE-FILE");
    // For people, each on a line with what to do.
    let text = arx(&mesh, &["authority", "install", "-"], &half)?;
    let text = String::from_utf8(text.stdout)?;
    ensure!(
        text.starts_with("the chain is refused, and nothing was changed:\n- ")
            && text.contains("append the chain up to and including the root"),
        "{text}"
    );

    ensure!(taken(&mesh, &sign(1, 365)?)?["outcome"] == "first");
    mesh.authority_is_ready().await?;
    // One that cannot be told from the present one by its name can't follow it.
    let folder = mesh.directory.join("namesake");
    std::fs::create_dir(&folder)?;
    let namesake = Ca::root(&folder, "root")?;
    let another = namesake.certify(&csr(&mesh)?, 1, 365)?;
    ensure!(refused(&mesh, &another)? == "ARX-AUTHORITY-SAME-SUBJECT");
    let status = mesh.status().await?;
    let upper = status.authorities.iter().find(|it| it.role == "upper");
    ensure!(upper.is_some_and(|it| it.custody == "state store"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_upper_intermediate_in_the_last_third_of_its_life_is_announced() -> anyhow::Result<()> {
    let mut mesh = waiting(offline()).await?;
    let root = Ca::root(&mesh.directory, "root")?;
    // It began 90 days ago, and has 10 to go.
    let request = csr(&mesh)?;
    let chain = root.certify_at("-90d", &request, 1, 100)?;
    taken(&mesh, &chain)?;
    mesh.authority_is_ready().await?;
    let status = arx(&mesh, &["status"], "")?;
    let text = String::from_utf8(status.stdout)?;
    let warned = |line: &str| {
        [
            "upper",
            "warning",
            "ARX-AUTHORITY-UPPER-ENDING",
            "arx authority csr",
        ]
        .iter()
        .all(|part| line.contains(part))
    };
    ensure!(
        status.status.success() && text.lines().any(warned),
        "{text}"
    );
    let (_, metrics) = web::get(mesh.ops_port, "/metrics").await?;
    for name in ["expiry", "renewal"] {
        let series = format!("arx_ca_authority_{name}_timestamp_seconds{{role=\"upper\"}}");
        ensure!(
            metrics.contains(&series),
            "{series} is missing in:\n{metrics}"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_chain_under_another_offline_root_is_rotated_to_under_load_without_a_failed_request()
-> anyhow::Result<()> {
    let mut mesh = waiting(Options {
        authority: "[rotation]\nwindow = \"1s\"\ndwell = \"500ms\"".to_owned(),
        ..offline()
    })
    .await?;
    let (a, b) = (
        Ca::root(&mesh.directory, "a")?,
        Ca::root(&mesh.directory, "b")?,
    );
    taken(&mesh, &a.certify(&csr(&mesh)?, 1, 365)?)?;
    mesh.authority_is_ready().await?;
    mesh.write_bundle().await?;
    let mut pair = Pair::over(mesh, |_| {}).await?;
    let load = pair.load();

    let chain = b.certify(&csr(&pair.mesh)?, 1, 365)?;
    let install = |more: &[&str]| {
        let arguments = [&["authority", "install", "-"], more].concat();
        arx(&pair.mesh, &arguments, &chain)
    };
    let plan = String::from_utf8(install(&["--dry-run"])?.stdout)?;
    ensure!(
        plan.contains("nothing was changed, and a rotation to it would begin")
            && plan.contains("distribute"),
        "{plan}"
    );
    let before = arx(&pair.mesh, &["-o", "json", "rotate", "history"], "")?;
    ensure!(String::from_utf8(before.stdout)?.trim() == "[]");
    let said = String::from_utf8(install(&[])?.stdout)?;
    ensure!(said.contains("a rotation to that has begun"), "{said}");
    // It goes on whatever happens to the process.
    for phase in ["distribute", "reissue"] {
        let later = ["activate", "reissue", "retire", "done"];
        rotating::reaches(&pair.mesh, phase, |rotation| {
            rotation.phase == phase || later.contains(&&*rotation.phase)
        })
        .await?;
        pair.mesh.kill_authority().await?;
        pair.mesh.spawn_authority()?;
        pair.mesh.authority_is_ready().await?;
    }
    let done = rotating::reaches(&pair.mesh, "the end", |it| it.phase == "done").await?;
    load.stop().await.without_failure()?;
    ensure!(done.id == "r1" && done.forced.is_empty(), "{done:?}");
    let root = arx_identity::Certificate::list_from_pem(&b.chain)?;
    ensure!(rotating::roots(&pair.mesh).await? == [root[0].der()]);
    pair.talks().await?;

    // The next renewal is under the new one, as any.
    let renewed = b.certify(&csr(&pair.mesh)?, 1, 400)?;
    ensure!(taken(&pair.mesh, &renewed)?["outcome"] == "renewed");
    pair.talks().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_rotation_to_another_offline_root_is_turned_round_and_the_first_signs_on()
-> anyhow::Result<()> {
    let mut mesh = waiting(Options {
        authority: "[rotation]\nwindow = \"600s\"\ndwell = \"500ms\"".to_owned(),
        ..offline()
    })
    .await?;
    let (a, b) = (
        Ca::root(&mesh.directory, "a")?,
        Ca::root(&mesh.directory, "b")?,
    );
    taken(&mesh, &a.certify(&csr(&mesh)?, 1, 365)?)?;
    mesh.authority_is_ready().await?;
    mesh.write_bundle().await?;
    let pair = Pair::over(mesh, |_| {}).await?;
    let load = pair.load();
    let said = taken(&pair.mesh, &b.certify(&csr(&pair.mesh)?, 1, 365)?)?;
    ensure!(
        said["outcome"] == "follows" && said["rotation"] == "r1",
        "{said}"
    );
    rotating::reaches(&pair.mesh, "reissue", |it| it.phase == "reissue").await?;
    rotating::abort(&pair.mesh).await?;
    rotating::reaches(&pair.mesh, "the end", |it| it.phase == "aborted").await?;
    load.stop().await.without_failure()?;
    let root = arx_identity::Certificate::list_from_pem(&a.chain)?;
    ensure!(rotating::roots(&pair.mesh).await? == [root[0].der()]);
    let renewed = a.certify(&csr(&pair.mesh)?, 1, 400)?;
    ensure!(taken(&pair.mesh, &renewed)?["outcome"] == "renewed");
    pair.talks().await
}
