//! Below a real step-ca, which is asked through its own command line, as docs/custody.md says.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use arx_tests::mesh::{Mesh, Options};
use arx_tests::openssl::openssl;
use arx_tests::process::{Process, free_port, tool, until};
use arx_tests::sds::{Connection, chain, secrets};
use serde_json::json;

/// A step-ca of its own, in a folder.
struct StepCa {
    folder: PathBuf,
    step: PathBuf,
    port: u16,
}

/// What an authority's certificate has to say, with so many below it.
fn template(path_length: u8) -> String {
    format!(
        r#"{{"subject": {{{{ toJson .Subject }}}}, "keyUsage": ["certSign", "crlSign"],
        "basicConstraints": {{"isCA": true, "maxPathLen": {path_length}}}}}"#
    )
}

impl StepCa {
    /// Makes its PKI: a root, and an intermediate with room for ours and the replicas' own.
    fn new(folder: &Path, step: &Path) -> anyhow::Result<Self> {
        let this = Self {
            folder: folder.to_owned(),
            step: step.to_owned(),
            port: free_port()?,
        };
        std::fs::write(this.path("password"), "a password of a test\n")?;
        for (name, path_length) in [("root", 3), ("intermediate", 2), ("upper", 1)] {
            std::fs::write(this.path(&format!("{name}.tpl")), template(path_length))?;
        }
        let (root, key) = (this.text("root.crt")?, this.text("root.key")?);
        let bare = [
            "--kty",
            "EC",
            "--no-password",
            "--insecure",
            "--not-after",
            "8760h",
        ];
        let made = ["certificate", "create", "Root", &root, &key, "--template"];
        this.step(&[&made[..], &[&this.text("root.tpl")?], &bare[..]].concat())?;
        let (password, address) = (this.text("password")?, format!("127.0.0.1:{}", this.port));
        this.step(&[
            "ca",
            "init",
            "--deployment-type",
            "standalone",
            "--name",
            "Test",
            "--dns",
            "127.0.0.1",
            "--address",
            &address,
            "--provisioner",
            "arx",
            "--password-file",
            &password,
            "--provisioner-password-file",
            &password,
            "--root",
            &root,
            "--key",
            &key,
        ])?;
        let (below, below_key) = (
            this.text("intermediate.crt")?,
            this.text("intermediate.key")?,
        );
        let made = [
            "certificate",
            "create",
            "Intermediate",
            &below,
            &below_key,
            "--template",
        ];
        let by = ["--ca", &root, "--ca-key", &key];
        let template = this.text("intermediate.tpl")?;
        this.step(&[&made[..], &[&template], &bare[..], &by[..]].concat())?;
        this.configure()?;
        Ok(this)
    }

    /// Lets its provisioner certify authorities.
    fn configure(&self) -> anyhow::Result<()> {
        let path = self.path("config/ca.json");
        let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path)?)?;
        config["crt"] = self.text("intermediate.crt")?.into();
        config["key"] = self.text("intermediate.key")?.into();
        let provisioner = &mut config["authority"]["provisioners"][0];
        provisioner["options"] = json!({ "x509": { "templateFile": self.text("upper.tpl")? } });
        provisioner["claims"] = json!({ "maxTLSCertDuration": "2160h" });
        std::fs::write(path, config.to_string())?;
        Ok(())
    }

    async fn start(&self) -> anyhow::Result<Process> {
        let (config, password) = (self.text("config/ca.json")?, self.text("password")?);
        let arguments = [&config, "--password-file", &password];
        let process = Process::start("step-ca", &tool("step-ca")?, &arguments)?;
        until("step-ca", || async {
            Ok(tokio::net::TcpStream::connect(("127.0.0.1", self.port))
                .await
                .is_ok())
        })
        .await
        .with_context(|| process.log().tail())?;
        Ok(process)
    }

    /// The command of docs/custody.md.
    fn command(&self) -> anyhow::Result<PathBuf> {
        let ca = format!(
            "--ca-url https://127.0.0.1:{} --root {}",
            self.port,
            self.text("root.crt")?
        );
        let script = format!(
            r#"#!/bin/sh
set -eu
umask 077
export STEPPATH={folder}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/csr"
token=$({step} ca token authority --san spiffe://example.org --provisioner arx \
    --provisioner-password-file {folder}/password {ca})
{step} ca sign --force --token "$token" --not-after 720h {ca} "$folder/csr" "$folder/crt" >&2
cat "$folder/crt" {folder}/root.crt
"#,
            folder = self.folder.display(),
            step = self.step.display(),
        );
        let path = self.path("certify");
        std::fs::write(&path, script)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
        Ok(path)
    }

    fn step(&self, arguments: &[&str]) -> anyhow::Result<()> {
        let output = Command::new(&self.step)
            .args(arguments)
            .env("STEPPATH", &self.folder)
            .stdin(std::process::Stdio::null())
            .output()?;
        ensure!(output.status.success(), "step {arguments:?}: {output:?}");
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn text(&self, name: &str) -> anyhow::Result<String> {
        self.path(name).to_str().map(str::to_owned).context("text")
    }
}

/// `step`, with `step-ca` beside it. Only where nobody checks in earnest may they be missing.
fn found() -> anyhow::Result<Option<PathBuf>> {
    match (tool("step"), tool("step-ca")) {
        (Ok(step), Ok(_)) => Ok(Some(step)),
        _ if std::env::var_os("CI").is_some() => {
            anyhow::bail!("step and step-ca are not there: run `make step-ca` first")
        }
        _ => {
            eprintln!("skipped: step and step-ca are not there: run `make step-ca` first");
            Ok(None)
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_authority_below_a_real_step_ca_issues_what_openssl_verifies_up_to_its_root()
-> anyhow::Result<()> {
    let Some(step) = found()? else {
        return Ok(());
    };
    let folder = tempfile::tempdir()?;
    let ca = StepCa::new(folder.path(), &step)?;
    let command = ca.command()?.display().to_string();
    let mut mesh = Mesh::prepare(Options {
        roots: format!("upstream = {{ command = [{command:?}], environment = [\"PATH\"] }}"),
        ..Options::default()
    })?;
    // It is away at the first start, which waits for it.
    mesh.spawn_authority()?;
    let mut log = mesh.authority.as_ref().context("it runs")?.log();
    log.until("ARX-UPSTREAM-FAILED", 0).await?;
    let running = ca.start().await?;
    mesh.authority_is_ready().await?;
    mesh.write_bundle().await?;

    let agent = mesh.agent("n1").await?;
    let token = mesh.token("shop", "web", "n1");
    let connection = Connection::open(&agent.socket, Some(&token)).await?;
    let response = connection.stream(&["default"]).await?.next().await?;
    let chain = chain(&secrets(&response)?[0])?;
    ensure!(chain.certificates().len() == 4, "{chain:?}");
    let (leaf, above) = (ca.path("leaf.pem"), ca.path("above.pem"));
    std::fs::write(&leaf, chain.leaf().pem())?;
    let certificates = chain.certificates()[1..].iter();
    std::fs::write(&above, certificates.map(|it| it.pem()).collect::<String>())?;
    openssl(&[
        "verify",
        "-x509_strict",
        "-CAfile",
        &ca.text("root.crt")?,
        "-untrusted",
        &ca.text("above.pem")?,
        &ca.text("leaf.pem")?,
    ])?;

    // Once it has certified, nobody needs it.
    running.kill().await?;
    mesh.stop_authority().await?;
    mesh.spawn_authority()?;
    mesh.authority_is_ready().await
}
