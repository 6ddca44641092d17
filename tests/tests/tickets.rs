//! A session of before a rotation opens no door after it: the authority hands out nothing to
//! resume by, and judges each connection by the roots of its own moment.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;

use anyhow::{Context as _, ensure};
use arx_daemon::files::write_atomically;
use arx_proto::admin::v1::RotateRootRequest;
use arx_tests::mesh::{AUDIENCE, Mesh, Options};
use arx_tests::node::{Authority, keep};
use arx_tests::process::PATIENCE;
use arx_tests::rotating::{quickly, reaches, roots, rotate};
use arx_tests::token_issuer::Claims;

/// The connection preface of HTTP/2 and empty settings (RFC 9113 section 3.4): whoever was let
/// in is answered.
const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// OpenSSL's client with a node's certificate.
struct Client {
    port: u16,
    bundle: PathBuf,
    identity: PathBuf,
    session: PathBuf,
}

impl Client {
    /// Connects, resuming the session that it has kept if there is one, and keeps what it is
    /// given; what it says. The authority has answered if that has a NUL in it, as settings do
    /// and text does not.
    fn connect(&self, version: &str) -> anyhow::Result<String> {
        let mut command = Command::new("openssl");
        command
            .args([
                "s_client",
                version,
                "-nocommands",
                "-alpn",
                "h2",
                "-connect",
            ])
            .arg(format!("127.0.0.1:{}", self.port))
            .arg("-CAfile")
            .arg(&self.bundle)
            .args([Path::new("-cert"), &self.identity])
            .args([Path::new("-cert_chain"), &self.identity])
            .args([Path::new("-key"), &self.identity])
            .args([Path::new("-sess_out"), &self.session]);
        if self.session.exists() {
            command.args([Path::new("-sess_in"), &self.session]);
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("can't start openssl")?;
        let mut stdin = child.stdin.take().context("it is piped")?;
        let mut stdout = child.stdout.take().context("it is piped")?;
        // Nobody may be there to read it any more.
        let _refused = stdin.write_all(HELLO);
        let (heard, said) = mpsc::channel();
        std::thread::spawn(move || {
            let (mut all, mut some) = (Vec::new(), [0; 4096]);
            while let Ok(length @ 1..) = stdout.read(&mut some) {
                all.extend_from_slice(&some[..length]);
                if some[..length].contains(&0) {
                    break;
                }
            }
            let _gone = heard.send(all);
        });
        let said = said.recv_timeout(PATIENCE);
        child.kill()?;
        child.wait()?;
        Ok(String::from_utf8_lossy(&said.context("openssl says nothing")?).into_owned())
    }
}

fn was_let_in(said: &str) -> bool {
    said.contains('\0')
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_session_of_before_a_rotation_lets_nobody_in_after_it() -> anyhow::Result<()> {
    let mesh = Mesh::start(Options::default()).await?;
    let authority = Authority {
        port: mesh.node_port,
        bundle: mesh.bundle(),
    };
    let claims = Claims::new(
        &format!("{AUDIENCE}/join"),
        "arx-system",
        "arx-node-agent",
        "n1",
    );
    let token = mesh.issuer.mint(&claims);
    let svid = authority.new_node(&authority.tls(None)?, &token).await?;
    let identity = mesh.directory.join("node.pem");
    keep(&svid, &identity)?;
    let clients = ["-tls1_2", "-tls1_3"].map(|version| {
        let client = Client {
            port: mesh.node_port,
            bundle: mesh.directory.join("all-roots.pem"),
            identity: identity.clone(),
            session: mesh.directory.join(format!("session{version}")),
        };
        (version, client)
    });
    let first = std::fs::read_to_string(mesh.bundle())?;
    write_atomically(
        mesh.directory.join("all-roots.pem"),
        first.as_bytes(),
        0o644,
    )?;
    for (version, client) in &clients {
        for _ in 0..2 {
            let said = client.connect(version)?;
            ensure!(was_let_in(&said), "{version}: {said}");
            ensure!(
                said.contains("\nNew, "),
                "a whole handshake: {version}: {said}"
            );
            ensure!(!said.contains("session ticket:"), "{version}: {said}");
        }
    }

    // The node is no agent, so it never confirms: it is left behind.
    let request = RotateRootRequest {
        wait_unconfirmed_ms: Some(0),
        ..quickly()
    };
    rotate(&mesh, request).await?;
    let done = reaches(&mesh, "done", |it| it.phase == "done").await?;
    ensure!(!done.forced.is_empty() && done.forced.iter().all(|it| it.by == "wait-unconfirmed"));
    let new: String = roots(&mesh)
        .await?
        .iter()
        .map(|root| arx_tests::mesh::pem("CERTIFICATE", root))
        .collect();
    // So that it is not the client that refuses.
    let both = format!("{first}{new}");
    write_atomically(mesh.directory.join("all-roots.pem"), both.as_bytes(), 0o644)?;
    for (version, client) in &clients {
        let said = client.connect(version)?;
        ensure!(!was_let_in(&said), "{version}: {said}");
    }
    Ok(())
}
