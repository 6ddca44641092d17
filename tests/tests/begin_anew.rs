//! The only root was cut off, and its key is with a CA outside: the authority begins anew under
//! another root, by hand or by the program that asks an upstream CA.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, ensure};
use arx_daemon::files::write_atomically;
use arx_identity::Certificate;
use arx_tests::http as web;
use arx_tests::mesh::{Mesh, Options};
use arx_tests::openssl::Ca;
use arx_tests::pair::Pair;
use arx_tests::process::{binary, until};
use arx_tests::rotating;
use serde_json::Value;

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

/// What it says of itself, if it was carried out.
fn said(output: &Output) -> anyhow::Result<String> {
    ensure!(output.status.success(), "{output:?}");
    Ok(String::from_utf8(output.stdout.clone())?)
}

/// Waits until the authority is not ready, for the reason with this code.
async fn refuses(mesh: &Mesh, code: &str) -> anyhow::Result<String> {
    let seen = std::cell::RefCell::new(String::new());
    until(code, || async {
        let (status, body) = web::get(mesh.ops_port, "/readyz").await?;
        let there = status == 503 && body.contains(code);
        seen.replace(body);
        Ok(there)
    })
    .await
    .with_context(|| seen.borrow().clone())?;
    Ok(seen.into_inner())
}

fn root_of(ca: &Ca) -> anyhow::Result<Certificate> {
    let chain = Certificate::list_from_pem(&ca.chain)?;
    chain.into_iter().next().context("a root")
}

/// Cuts off the only root, and waits until nothing is trusted any more.
async fn cut_off(mesh: &Mesh, root: &Ca) -> anyhow::Result<()> {
    let id = root_of(root)?
        .subject_key_id()
        .context("it has one")?
        .to_string();
    let plain = arx(mesh, &["distrust", &id, "--reason", "stolen"], "")?;
    let error = String::from_utf8_lossy(&plain.stderr).into_owned();
    ensure!(
        !plain.status.success() && error.contains("ARX-DISTRUST-ONLY-ROOT"),
        "{error}"
    );
    let understood = "--i-understand-nothing-will-connect";
    let wish = [
        "distrust", &id, "--reason", "stolen", "--cap", "3s", understood,
    ];
    said(&arx(mesh, &wish, "")?)?;
    rotating::reaches(mesh, "done", |it| it.phase == "done").await?;
    refuses(mesh, "ARX-AUTHORITY-NOTHING-TRUSTED").await?;
    Ok(())
}

/// Whether the nodes come back under this root as soon as they have its bundle file.
async fn comes_back(pair: &Pair, root: &Ca) -> anyhow::Result<()> {
    let root = root_of(root)?;
    ensure!(rotating::roots(&pair.mesh).await? == [root.der()]);
    write_atomically(pair.mesh.bundle(), root.pem().as_bytes(), 0o644)?;
    until("they talk again", || async {
        Ok(pair.talks().await.is_ok())
    })
    .await
}

/// What `arx authority install` says of a chain, and whether it was taken.
fn install(mesh: &Mesh, chain: &str) -> anyhow::Result<(bool, Value)> {
    let output = arx(mesh, &["-o", "json", "authority", "install", "-"], chain)?;
    let told = serde_json::from_slice(&output.stdout).with_context(|| format!("{output:?}"))?;
    Ok((output.status.success(), told))
}

/// Has the request certified by this CA, and gives the authority what comes of it.
fn certified(mesh: &Mesh, ca: &Ca) -> anyhow::Result<(bool, Value)> {
    let request = said(&arx(mesh, &["authority", "csr"], "")?)?;
    install(mesh, &ca.certify(&request, 1, 365)?)
}

/// An authority below the first of two offline roots, ready.
async fn below_an_offline_root() -> anyhow::Result<(Mesh, Ca, Ca)> {
    let mut mesh = Mesh::prepare(Options {
        roots: "root = \"offline\"".to_owned(),
        ..Options::default()
    })?;
    mesh.spawn_authority()?;
    refuses(&mesh, "ARX-AUTHORITY-AWAITING").await?;
    let (a, b) = (
        Ca::root(&mesh.directory, "a")?,
        Ca::root(&mesh.directory, "b")?,
    );
    let (taken, told) = certified(&mesh, &a)?;
    ensure!(taken && told["outcome"] == "first", "{told}");
    mesh.authority_is_ready().await?;
    mesh.write_bundle().await?;
    Ok((mesh, a, b))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn after_its_offline_root_was_cut_off_an_authority_begins_anew_by_a_chain_under_another()
-> anyhow::Result<()> {
    let (mesh, a, b) = below_an_offline_root().await?;
    let mut pair = Pair::over(mesh, |_| {}).await?;
    pair.talks().await?;
    cut_off(&pair.mesh, &a).await?;
    let placeholder = rotating::roots(&pair.mesh).await?;

    let (taken, told) = certified(&pair.mesh, &a)?;
    ensure!(
        !taken && told["problems"][0]["code"] == "ARX-AUTHORITY-DISTRUSTED",
        "{told}"
    );
    let (taken, told) = certified(&pair.mesh, &b)?;
    ensure!(taken && told["outcome"] == "restart", "{told}");
    // Nothing of that before the next start: nobody has it in a bundle.
    let mut log = pair.mesh.authority.as_ref().context("it runs")?.log();
    let from = log.lines().len();
    log.until("ARX-AUTHORITY-NOTHING-TRUSTED", from).await?;
    refuses(&pair.mesh, "ARX-AUTHORITY-NOTHING-TRUSTED").await?;
    ensure!(rotating::roots(&pair.mesh).await? == placeholder);
    let wish = ["rotate", "root", "--reason", "another"];
    let error = arx(&pair.mesh, &wish, "")?.stderr;
    let error = String::from_utf8_lossy(&error).into_owned();
    ensure!(error.contains("ARX-AUTHORITY-NOTHING-TRUSTED"), "{error}");

    for _ in 0..2 {
        pair.mesh.stop_authority().await?;
        pair.mesh.spawn_authority()?;
        pair.mesh.authority_is_ready().await?;
        comes_back(&pair, &b).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn started_again_before_there_is_another_chain_it_waits_for_one_as_at_its_first_start()
-> anyhow::Result<()> {
    let (mut mesh, a, b) = below_an_offline_root().await?;
    cut_off(&mesh, &a).await?;
    mesh.stop_authority().await?;
    mesh.spawn_authority()?;
    let why = refuses(&mesh, "ARX-AUTHORITY-AWAITING").await?;
    ensure!(why.contains("the root before is distrusted"), "{why}");
    let (taken, told) = certified(&mesh, &a)?;
    ensure!(
        !taken && told["problems"][0]["code"] == "ARX-AUTHORITY-DISTRUSTED",
        "{told}"
    );
    let (taken, told) = certified(&mesh, &b)?;
    ensure!(taken && told["outcome"] == "first", "{told}");
    mesh.authority_is_ready().await?;
    ensure!(rotating::roots(&mesh).await? == [root_of(&b)?.der()]);
    Ok(())
}

/// Makes `certify` in this folder ask this CA.
fn asks(folder: &Path, ca: &Ca) -> anyhow::Result<String> {
    let script = format!(
        "#!/bin/sh\nset -e\nd=$(mktemp -d)\ntrap 'rm -rf $d' EXIT\n\
         printf '%s\\n' basicConstraints=critical,CA:TRUE,pathlen:1 \
         keyUsage=critical,keyCertSign,cRLSign subjectKeyIdentifier=hash \
         authorityKeyIdentifier=keyid > $d/ext\n\
         cat > $d/csr\n\
         openssl x509 -req -in $d/csr -CA {0} -CAkey {1} -set_serial 0x4$(openssl rand -hex 15) \
         -sha256 -days 300 -extfile $d/ext -out $d/crt\n\
         cat $d/crt {0}\n",
        ca.path("pem").display(),
        ca.path("key").display(),
    );
    // By another name first: a program that is open for writing cannot be started.
    let (path, new) = (folder.join("certify"), folder.join("certify.new"));
    std::fs::write(&new, script)?;
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o755))?;
    std::fs::rename(new, &path)?;
    path.to_str().map(str::to_owned).context("text")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn after_the_root_of_its_upstream_ca_was_cut_off_an_authority_waits_until_that_certifies_under_another()
-> anyhow::Result<()> {
    let mut mesh = Mesh::prepare(Options::default())?;
    let (a, b) = (
        Ca::root(&mesh.directory, "a")?,
        Ca::root(&mesh.directory, "b")?,
    );
    let program = asks(&mesh.directory, &a)?;
    mesh.reconfigure(|options| {
        options.roots =
            format!("upstream = {{ command = [{program:?}], environment = [\"PATH\"] }}");
    })?;
    mesh.start_authority().await?;
    let mut pair = Pair::over(mesh, |_| {}).await?;
    pair.talks().await?;
    cut_off(&pair.mesh, &a).await?;

    // The upstream CA certifies under the stolen root still: nothing of that is taken.
    pair.mesh.stop_authority().await?;
    pair.mesh.spawn_authority()?;
    let why = refuses(&pair.mesh, "ARX-AUTHORITY-DISTRUSTED").await?;
    ensure!(why.contains(root_of(&a)?.subject()), "{why}");
    asks(&pair.mesh.directory, &b)?;
    pair.mesh.authority_is_ready().await?;
    comes_back(&pair, &b).await?;
    pair.mesh.stop_authority().await?;
    pair.mesh.spawn_authority()?;
    pair.mesh.authority_is_ready().await?;
    comes_back(&pair, &b).await
}
