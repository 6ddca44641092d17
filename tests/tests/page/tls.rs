//! The page on a listener of its own, by TLS.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::ensure;
use arx_daemon::files::write_atomically;
use arx_identity::Svid;
use arx_tests::mesh::{Mesh, pem};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};

/// What the page's file has.
pub(crate) const TOKEN: &str = "correct-horse-battery-staple";

/// Whoever asks: what is shown, and what is said.
#[derive(Clone, Debug, Default)]
struct Caller {
    certificate: Option<(PathBuf, PathBuf)>,
    authorization: Option<String>,
}

impl Caller {
    fn with_certificate(mesh: &Mesh, name: &str, svid: &Svid) -> anyhow::Result<Self> {
        let [chain, key] = ["pem", "key"].map(|kind| mesh.directory.join(format!("{name}.{kind}")));
        let certificates = svid.chain().certificates().iter();
        let text: String = certificates
            .map(|it| pem("CERTIFICATE", it.der()))
            .collect();
        write_atomically(&chain, text.as_bytes(), 0o600)?;
        let text = pem("PRIVATE KEY", svid.key().pkcs8_der());
        write_atomically(&key, text.as_bytes(), 0o600)?;
        Ok(Self {
            certificate: Some((chain, key)),
            authorization: None,
        })
    }

    fn with_token(token: &str) -> Self {
        Self::default().and_token(token)
    }

    fn and_token(mut self, token: &str) -> Self {
        self.authorization = Some(format!("Bearer {token}"));
        self
    }
}

/// Who shows the certificate of a listed client is let in, and neither another nor one without;
/// what the page shows is verified by the trust bundle and the configured name.
pub(crate) async fn is_for_listed_clients(
    mesh: &Mesh,
    port: u16,
    listed: &Svid,
    other: &Svid,
) -> anyhow::Result<()> {
    let listed = Caller::with_certificate(mesh, "listed", listed)?;
    let known = ask(mesh, port, &listed, "ca.example.org", "/").await?;
    ensure!(known.starts_with("HTTP/1.1 200 "), "{known}");
    ensure!(
        known.contains("<title>Overview · example.org · Arx</title>"),
        "{known}"
    );
    let other = Caller::with_certificate(mesh, "other", other)?;
    let other = ask(mesh, port, &other, "ca.example.org", "/").await?;
    ensure!(other.starts_with("HTTP/1.1 403 "), "{other}");
    ensure!(other.contains("ARX-PAGE-FORBIDDEN"), "{other}");
    let stranger = ask(mesh, port, &Caller::default(), "ca.example.org", "/").await?;
    ensure!(stranger.starts_with("HTTP/1.1 401 "), "{stranger}");
    ensure!(stranger.contains("ARX-PAGE-UNAUTHENTICATED"), "{stranger}");
    let rebound = ask(mesh, port, &listed, "evil.example", "/").await?;
    ensure!(rebound.starts_with("HTTP/1.1 421 "), "{rebound}");
    ensure!(rebound.contains("ARX-PAGE-HOST"), "{rebound}");
    Ok(())
}

/// Who sends the token in a header is let in, whatever certificate there is beside it; in an
/// address it is refused. Who follows the page by a token is cut off when that is replaced.
pub(crate) async fn is_for_those_with_the_token(
    mesh: &Mesh,
    port: u16,
    other: &Svid,
    file: &Path,
) -> anyhow::Result<()> {
    let host = "ca.example.org";
    let other = Caller::with_certificate(mesh, "other", other)?;
    for caller in [Caller::with_token(TOKEN), other.and_token(TOKEN)] {
        let known = ask(mesh, port, &caller, host, "/certificates").await?;
        ensure!(known.starts_with("HTTP/1.1 200 "), "{caller:?}: {known}");
        ensure!(
            known.contains("spiffe%3A%2F%2Fexample.org%2Fns%2Fshop%2Fsa%2Fweb"),
            "{known}"
        );
    }
    let wrong = Caller::with_token("correct-horse-battery-stapler");
    let wrong = ask(mesh, port, &wrong, host, "/").await?;
    ensure!(wrong.starts_with("HTTP/1.1 401 "), "{wrong}");
    let address = format!("/?token={TOKEN}");
    let told = ask(mesh, port, &Caller::default(), host, &address).await?;
    ensure!(told.starts_with("HTTP/1.1 400 "), "{told}");
    ensure!(told.contains("ARX-PAGE-TOKEN-IN-URL"), "{told}");

    let caller = Caller::with_token(TOKEN);
    let (mut openssl, input) = connect(mesh, port, &caller, host, "/events").await?;
    let output = openssl.stdout.take();
    let mut lines = BufReader::new(output.ok_or_else(|| anyhow::anyhow!("piped"))?).lines();
    let mut begun = false;
    while let Some(line) = lines.next_line().await? {
        if line == "data: begun" {
            begun = true;
            write_atomically(file, b"another-token-than-before", 0o600)?;
        }
    }
    // It has ended, and not because the one who asked had gone.
    drop(input);
    ensure!(begun, "the stream began");
    let late = ask(mesh, port, &caller, host, "/").await?;
    ensure!(late.starts_with("HTTP/1.1 401 "), "{late}");
    Ok(())
}

/// Sends a request; the connection stays open for as long as the input is held.
async fn connect(
    mesh: &Mesh,
    port: u16,
    caller: &Caller,
    host: &str,
    target: &str,
) -> anyhow::Result<(Child, ChildStdin)> {
    let mut openssl = Command::new("openssl");
    openssl
        .args([
            "s_client",
            "-quiet",
            "-verify_return_error",
            "-alpn",
            "http/1.1",
        ])
        .args([
            "-verify_hostname",
            "ca.example.org",
            "-servername",
            "ca.example.org",
        ])
        .arg("-CAfile")
        .arg(mesh.bundle())
        .args(["-connect", &format!("127.0.0.1:{port}")]);
    if let Some((chain, key)) = &caller.certificate {
        openssl
            .arg("-cert")
            .arg(chain)
            .arg("-cert_chain")
            .arg(chain)
            .arg("-key")
            .arg(key);
    }
    let mut openssl = openssl
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let input = openssl.stdin.take();
    let mut input = input.ok_or_else(|| anyhow::anyhow!("its input is piped"))?;
    let authorization = match &caller.authorization {
        Some(value) => format!("authorization: {value}\r\n"),
        None => String::new(),
    };
    let request = format!("GET {target} HTTP/1.1\r\nhost: {host}\r\n{authorization}\r\n");
    input.write_all(request.as_bytes()).await?;
    Ok((openssl, input))
}

async fn ask(
    mesh: &Mesh,
    port: u16,
    caller: &Caller,
    host: &str,
    target: &str,
) -> anyhow::Result<String> {
    let (openssl, input) = connect(mesh, port, caller, host, target).await?;
    // Its input stays open until the answer has ended.
    let output = openssl.wait_with_output().await?;
    drop(input);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        !said.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(said)
}
