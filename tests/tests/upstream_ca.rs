//! Another CA certifies what signs here: asked by a program, in time, and never while anybody
//! waits for a certificate.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use arx_proto::admin::v1::RotationStatusRequest;
use arx_tests::http as web;
use arx_tests::mesh::{Mesh, Options};
use arx_tests::openssl::Ca;
use arx_tests::pair::Pair;
use arx_tests::process::until;
use arx_tests::rotating;
use arx_tests::sds::{Connection, chain, secrets};

/// Writes a program of the shell, and answers its path.
fn program(folder: &Path, name: &str, script: &str) -> anyhow::Result<PathBuf> {
    let path = folder.join(name);
    // By another name first: a program that is open for writing cannot be started.
    let new = folder.join(format!("{name}.new"));
    std::fs::write(&new, format!("#!/bin/sh\n{script}\n"))?;
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o755))?;
    std::fs::rename(new, &path)?;
    Ok(path)
}

/// Lines of the shell that sign by a CA of `openssl`, for so many days from `when` on, and keep
/// count.
fn signing(folder: &Path, ca: &Ca, when: &str, days: u32) -> String {
    format!(
        "set -e\nd=$(mktemp -d)\ntrap 'rm -rf $d' EXIT\n\
         printf '%s\\n' basicConstraints=critical,CA:TRUE,pathlen:1 \
         keyUsage=critical,keyCertSign,cRLSign subjectKeyIdentifier=hash \
         authorityKeyIdentifier=keyid > $d/ext\n\
         cat > $d/csr\n\
         faketime -f {when} openssl x509 -req -in $d/csr -CA {0} -CAkey {1} \
         -set_serial 0x4$(openssl rand -hex 15) -sha256 -days {days} -extfile $d/ext -out $d/crt\n\
         cat $d/crt {0}\necho one >> {2}",
        ca.path("pem").display(),
        ca.path("key").display(),
        folder.join("signed").display(),
    )
}

fn signed(folder: &Path) -> usize {
    std::fs::read_to_string(folder.join("signed")).map_or(0, |text| text.lines().count())
}

/// An authority below what this program does, not started yet.
fn below(script: &str) -> anyhow::Result<Mesh> {
    let mut mesh = Mesh::prepare(Options::default())?;
    let path = program(&mesh.directory, "certify", script)?;
    configure(&mut mesh, &path)?;
    Ok(mesh)
}

fn configure(mesh: &mut Mesh, program: &Path) -> anyhow::Result<()> {
    let program = program.to_str().context("text")?.to_owned();
    mesh.reconfigure(|options| {
        options.roots = format!(
            "upstream = {{ command = [\"{program}\"], deadline = \"5s\", environment = [\"PATH\"] }}"
        );
    })
}

async fn issues(mesh: &Mesh, node: &str, root: &Ca) -> anyhow::Result<()> {
    let agent = mesh.agent(node).await?;
    let token = mesh.token("shop", "web", node);
    let connection = Connection::open(&agent.socket, Some(&token)).await?;
    let response = connection.stream(&["default"]).await?.next().await?;
    let chain = chain(&secrets(&response)?[0])?;
    let root = arx_identity::Certificate::list_from_pem(&root.chain)?;
    let last = chain.certificates().last().context("a chain")?;
    ensure!(chain.certificates().len() == 3 && last.is_signed_by(&root[0]));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_upstream_ca_is_asked_once_at_the_first_start_and_not_at_the_next() -> anyhow::Result<()>
{
    let mut mesh = Mesh::prepare(Options::default())?;
    let root = Ca::root(&mesh.directory, "root")?;
    let script = signing(&mesh.directory, &root, "+0d", 300);
    let certify = program(&mesh.directory, "certify", &script)?;
    configure(&mut mesh, &certify)?;
    mesh.start_authority().await?;
    issues(&mesh, "n1", &root).await?;
    mesh.stop_authority().await?;
    mesh.start_authority().await?;
    issues(&mesh, "n2", &root).await?;
    ensure!(signed(&mesh.directory) == 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn whatever_the_command_does_the_start_waits_says_why_and_goes_on_when_it_is_mended()
-> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let (root, other) = (
        Ca::root(folder.path(), "root")?,
        Ca::root(folder.path(), "other")?,
    );
    let another_key = other.intermediate("another", 1)?.chain;
    let printed = folder.path().join("another.chain");
    std::fs::write(&printed, another_key)?;
    let wrong_key = format!("cat {}", printed.display());
    for (script, code, word) in [
        ("sleep 1000", "ARX-UPSTREAM-DEADLINE", "within 5s"),
        ("echo garbage", "ARX-AUTHORITY-CERTIFICATE-FILE", "in PEM"),
        (
            "echo no such profile >&2; exit 1",
            "ARX-UPSTREAM-FAILED",
            "it said: no such profile",
        ),
        (
            "head -c 10000000 /dev/zero",
            "ARX-UPSTREAM-OUTPUT",
            "256 KiB",
        ),
        (&wrong_key, "ARX-AUTHORITY-KEY-MISMATCH", "not for the key"),
    ] {
        let mut mesh = below(script)?;
        mesh.spawn_authority()?;
        until(code, || async {
            let (status, body) = web::get(mesh.ops_port, "/readyz").await?;
            Ok(status == 503 && body.contains(code) && body.contains(word))
        })
        .await
        .with_context(|| {
            format!(
                "{script}: {:?}",
                mesh.authority.as_ref().map(|it| it.log().tail())
            )
        })?;
        // The same request is put again, to a program that works now.
        let script = signing(&mesh.directory, &root, "+0d", 300);
        program(&mesh.directory, "certify", &script)?;
        mesh.authority_is_ready().await.context(code)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_renewal_that_fails_is_told_and_issuance_goes_on_until_it_works() -> anyhow::Result<()> {
    let mut mesh = Mesh::prepare(Options::default())?;
    let root = Ca::root(&mesh.directory, "root")?;
    // The first is in the last third of its life; after it, the upstream CA is away.
    let once = format!(
        "if [ -e {} ]; then echo away >&2; exit 7; fi\n{}",
        mesh.directory.join("signed").display(),
        signing(&mesh.directory, &root, "-25d", 30)
    );
    let certify = program(&mesh.directory, "certify", &once)?;
    configure(&mut mesh, &certify)?;
    mesh.start_authority().await?;
    until("a warning", || async {
        let status = mesh.status().await?;
        let upper = status.health.iter().find(|it| it.component == "upper");
        Ok(upper.is_some_and(|upper| {
            upper.ok
                && upper.warning
                && upper.code == "ARX-UPSTREAM-FAILED"
                && upper.message.contains("within 7 days")
                && upper.message.contains("it said: away")
        }))
    })
    .await?;
    let before = mesh.status().await?;
    ensure!(
        before
            .authorities
            .iter()
            .any(|it| it.role == "intermediate")
    );

    let (ready, body) = web::get(mesh.ops_port, "/readyz").await?;
    ensure!(
        ready == 200 && body.contains("ARX-UPSTREAM-FAILED") && body.contains("it ends within"),
        "{body}"
    );
    issues(&mesh, "n1", &root).await?;

    let script = signing(&mesh.directory, &root, "+0d", 30);
    program(&mesh.directory, "certify", &script)?;
    until("the renewal", || async {
        let status = mesh.status().await?;
        let upper = status.health.iter().find(|it| it.component == "upper");
        let end = |status: &arx_proto::admin::v1::StatusResponse, role: &str| {
            let mut all = status.authorities.iter();
            all.find(|it| it.role == role)
                .map(|it| it.not_after_unix_ms)
        };
        Ok(upper.is_some_and(|upper| !upper.warning)
            && end(&status, "upper") > end(&before, "upper")
            && end(&status, "intermediate") > end(&before, "intermediate"))
    })
    .await?;
    ensure!(signed(&mesh.directory) == 2);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_upstream_ca_that_certifies_under_another_root_is_followed_there_by_a_rotation()
-> anyhow::Result<()> {
    let mut mesh = Mesh::prepare(Options {
        authority: "[rotation]\nwindow = \"1s\"\ndwell = \"500ms\"".to_owned(),
        ..Options::default()
    })?;
    let (a, b) = (
        Ca::root(&mesh.directory, "a")?,
        Ca::root(&mesh.directory, "b")?,
    );
    // What the first root has certified is due at once; the second one follows it.
    let script = format!(
        "if [ -e {0}/next ]; then\n{1}\nelif [ -e {0}/signed ]; then exit 1\nelse\n{2}\nfi",
        mesh.directory.display(),
        signing(&mesh.directory, &b, "+0d", 300),
        signing(&mesh.directory, &a, "-25d", 30),
    );
    let certify = program(&mesh.directory, "certify", &script)?;
    configure(&mut mesh, &certify)?;
    mesh.start_authority().await?;
    let pair = Pair::over(mesh, |_| {}).await?;
    let load = pair.load();
    std::fs::write(pair.mesh.directory.join("next"), "")?;
    until("a rotation", || async {
        let admin = &mut pair.mesh.admin().await?;
        let asked = RotationStatusRequest::default();
        Ok(admin
            .rotation_status(asked)
            .await?
            .into_inner()
            .rotation
            .is_some())
    })
    .await?;
    let done = rotating::reaches(&pair.mesh, "the end", |it| it.phase == "done").await?;
    load.stop().await.without_failure()?;
    ensure!(done.started_by == "the upstream CA", "{done:?}");
    let root = arx_identity::Certificate::list_from_pem(&b.chain)?;
    ensure!(rotating::roots(&pair.mesh).await? == [root[0].der()]);
    pair.talks().await
}
