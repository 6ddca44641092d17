//! The page on a listener of its own, by TLS.

use std::path::Path;
use std::process::Stdio;

use anyhow::ensure;
use arx_daemon::files::write_atomically;
use arx_identity::Svid;
use arx_tests::mesh::{Mesh, pem};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

/// Who shows the certificate of a listed client is let in, and nobody else; what the page
/// shows is verified by the trust bundle and the configured name.
pub(crate) async fn is_for_clients_alone(
    mesh: &Mesh,
    port: u16,
    client: &Svid,
) -> anyhow::Result<()> {
    let [chain, key] = ["client.pem", "client.key"].map(|name| mesh.directory.join(name));
    let certificates = client.chain().certificates().iter();
    let text: String = certificates
        .map(|it| pem("CERTIFICATE", it.der()))
        .collect();
    write_atomically(&chain, text.as_bytes(), 0o600)?;
    write_atomically(
        &key,
        pem("PRIVATE KEY", client.key().pkcs8_der()).as_bytes(),
        0o600,
    )?;

    let known = ask(mesh, port, Some((&chain, &key)), "ca.example.org").await?;
    ensure!(known.starts_with("HTTP/1.1 200 "), "{known}");
    ensure!(
        known.contains("<title>Overview · example.org · Arx</title>"),
        "{known}"
    );
    let stranger = ask(mesh, port, None, "ca.example.org").await?;
    ensure!(stranger.starts_with("HTTP/1.1 401 "), "{stranger}");
    ensure!(stranger.contains("ARX-PAGE-UNAUTHENTICATED"), "{stranger}");
    let rebound = ask(mesh, port, Some((&chain, &key)), "evil.example").await?;
    ensure!(rebound.starts_with("HTTP/1.1 421 "), "{rebound}");
    ensure!(rebound.contains("ARX-PAGE-HOST"), "{rebound}");
    // Nothing of it is on the port that everybody may scrape.
    let (status, _) = arx_tests::http::get(mesh.ops_port, "/").await?;
    ensure!(status == 404, "{status}");
    Ok(())
}

async fn ask(
    mesh: &Mesh,
    port: u16,
    client: Option<(&Path, &Path)>,
    host: &str,
) -> anyhow::Result<String> {
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
    if let Some((chain, key)) = client {
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
    let mut input = openssl.stdin.take();
    if let Some(input) = &mut input {
        let request = format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n");
        input.write_all(request.as_bytes()).await?;
    }
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
