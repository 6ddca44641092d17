//! A cross-certificate of a rotation, and whoever verifies certificates in a mesh: a verifier
//! that has the old root alone, the new one alone, or both, believes a certificate under the new
//! root; one that has neither does not.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use arx_identity::profile::{self, Issuer, Leaf, Unsigned, Validity};
use arx_identity::{
    CertChain, Certificate, KeyAlgorithm, PrivateKey, Sequence, SpiffeId, TrustBundle, TrustDomain,
    verify,
};
use arx_tests::mesh::TRUST_DOMAIN;
use arx_tests::process::{Process, free_port, tool, until};
use arx_tests::root::Root;
use arx_tests::token_issuer::now;
use serde_json::{Value, json};

const DAY: Duration = Duration::from_secs(86_400);

/// What verifiers are given, and in which files it lies.
struct Given {
    /// The leaf's certificate, its intermediate, and the cross-certificate.
    chain: CertChain,
    folder: PathBuf,
}

impl Given {
    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        Ok(std::fs::write(self.file(name), text)?)
    }
}

fn sign(unsigned: Unsigned, key: &PrivateKey) -> anyhow::Result<Certificate> {
    let signature = key.sign(unsigned.to_be_signed())?;
    Ok(unsigned.complete(&signature)?)
}

/// A certificate under the new root, its way up to the old one, and the bundles `old.pem`,
/// `new.pem`, `both.pem` and `neither.pem`.
fn given(folder: &Path, kind: KeyAlgorithm) -> anyhow::Result<Given> {
    let trust_domain = TrustDomain::parse(TRUST_DOMAIN)?;
    let root = || Root::of_kind(kind, TRUST_DOMAIN, now(), 10 * DAY);
    let (old, new, foreign) = (root()?, root()?, root()?);
    let [old_issuer, new_issuer] = [&old, &new].map(|root| Issuer::new(&root.certificate));
    let (old_issuer, new_issuer) = (old_issuer?, new_issuer?);
    let cross = sign(
        profile::cross(&old_issuer, &new_issuer, now(), now() + 10 * DAY)?,
        &old.key,
    )?;
    let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256)?;
    let validity = Validity::authority(now(), DAY);
    let unsigned = profile::intermediate(
        &new_issuer,
        key.public_key(),
        &trust_domain,
        "issuing",
        validity,
        0,
    )?;
    let issuing = sign(unsigned, &new.key)?;
    let issuer = Issuer::new(&issuing)?;
    let leaf_key = PrivateKey::generate(KeyAlgorithm::EcdsaP256)?;
    let leaf = Leaf {
        public_key: leaf_key.public_key(),
        id: &SpiffeId::new(&trust_domain, "/ns/shop/sa/web")?,
        dns_names: &[],
        validity: Validity::leaf(&issuer, now(), DAY),
        revocable: false,
    };
    let leaf = sign(profile::leaf(&issuer, &leaf)?, &key)?;
    let given = Given {
        chain: CertChain::new(vec![leaf.clone(), issuing.clone(), cross.clone()])?,
        folder: folder.to_owned(),
    };
    given.write("leaf.pem", &leaf.pem())?;
    given.write("leaf.key", &leaf_key.pkcs8_pem())?;
    given.write("above.pem", &format!("{}{}", issuing.pem(), cross.pem()))?;
    given.write("chain.pem", &given.chain.pem())?;
    given.write("old.pem", &old.certificate.pem())?;
    given.write("new.pem", &new.certificate.pem())?;
    let both = format!("{}{}", old.certificate.pem(), new.certificate.pem());
    given.write("both.pem", &both)?;
    given.write("neither.pem", &foreign.certificate.pem())?;
    Ok(given)
}

/// Whether this verifier believes the certificate, having this bundle.
async fn believes(verifier: &str, given: &Given, bundle: &str) -> anyhow::Result<bool> {
    match verifier {
        "identity, by webpki" => {
            let pem = std::fs::read_to_string(given.file(bundle))?;
            let trust_domain = TrustDomain::parse(TRUST_DOMAIN)?;
            let bundle = TrustBundle::from_pem(trust_domain, Sequence::default(), &pem)?;
            Ok(verify(&given.chain, &bundle, now()).is_ok())
        }
        "OpenSSL" => {
            let verified = Command::new("openssl")
                .args(["verify", "-x509_strict", "-no-CApath", "-no-CAstore"])
                .args([Path::new("-CAfile"), &given.file(bundle)])
                .args([Path::new("-untrusted"), &given.file("above.pem")])
                .arg(given.file("leaf.pem"))
                .output()
                .context("can't run openssl")?;
            Ok(verified.status.success())
        }
        "Go" => {
            let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("go/verify.go");
            let verified = Command::new("go")
                .args([Path::new("run"), &program])
                .args([given.file("chain.pem"), given.file(bundle)])
                .output()
                .context("can't run go")?;
            let said = String::from_utf8_lossy(&verified.stdout).into_owned();
            match said.trim() {
                "believed" => Ok(true),
                "not believed" => Ok(false),
                _ => anyhow::bail!(
                    "go says {said}{}",
                    String::from_utf8_lossy(&verified.stderr)
                ),
            }
        }
        "Envoy" => let_in_by_envoy(given, json!({"trusted_ca": file(given, bundle)})).await,
        "Envoy, by its SPIFFE validator" => {
            let validator = json!({"custom_validator_config": {
                "name": "envoy.tls.cert_validator.spiffe",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig",
                    "trust_domains": [{"name": TRUST_DOMAIN, "trust_bundle": file(given, bundle)}],
                },
            }});
            let_in_by_envoy(given, validator).await
        }
        other => anyhow::bail!("no verifier {other}"),
    }
}

fn file(given: &Given, name: &str) -> Value {
    json!({"filename": given.file(name)})
}

/// Whether an Envoy that validates clients like this answers one that has the certificate.
async fn let_in_by_envoy(given: &Given, validation: Value) -> anyhow::Result<bool> {
    let port = free_port()?;
    let filters = "type.googleapis.com/envoy.extensions.filters";
    let tls = json!({
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "require_client_certificate": true,
        "common_tls_context": {
            // Whatever the server is, the client does not look.
            "tls_certificates": [{"certificate_chain": file(given, "leaf.pem"), "private_key": file(given, "leaf.key")}],
            "validation_context": validation,
        },
    });
    let manager = json!({
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": format!("{filters}.network.http_connection_manager.v3.HttpConnectionManager"),
            "stat_prefix": "inbound",
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
                {"match": {"prefix": "/"}, "direct_response": {"status": 200}},
            ]}]},
            "http_filters": [{
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": format!("{filters}.http.router.v3.Router")},
            }],
        },
    });
    let config = json!({"static_resources": {"listeners": [{
        "name": "inbound",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [{
            "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": tls},
            "filters": [manager],
        }],
    }]}});
    let path = given.file("envoy.json");
    std::fs::write(&path, config.to_string())?;
    let path = path.to_str().context("the folder's name is text")?;
    let base = format!("{port}");
    let arguments = [
        "-c",
        path,
        "--concurrency",
        "1",
        "--base-id",
        &base,
        "--disable-hot-restart",
        "-l",
        "warn",
    ];
    let envoy = Process::start("envoy", &tool("envoy")?, &arguments)?;
    let warm = until("warming", || async {
        Ok(tokio::net::TcpStream::connect(("127.0.0.1", port))
            .await
            .is_ok())
    });
    warm.await
        .with_context(|| format!("the Envoy says:\n{}", envoy.log().tail()))?;
    let given = (
        given.file("leaf.pem"),
        given.file("above.pem"),
        given.file("leaf.key"),
    );
    tokio::task::spawn_blocking(move || {
        let mut client = Command::new("openssl")
            .args(["s_client", "-quiet", "-nocommands", "-connect"])
            .arg(format!("127.0.0.1:{port}"))
            .args([Path::new("-cert"), &given.0])
            .args([Path::new("-cert_chain"), &given.1])
            .args([Path::new("-key"), &given.2])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("can't start openssl")?;
        let mut stdin = client.stdin.take().context("it is piped")?;
        // Whoever is not let in may be gone already.
        let _refused =
            stdin.write_all(b"GET / HTTP/1.1\r\nhost: envoy\r\nconnection: close\r\n\r\n");
        let mut said = String::new();
        let stdout = client.stdout.as_mut().context("it is piped")?;
        stdout.read_to_string(&mut said)?;
        client.kill()?;
        client.wait()?;
        Ok(said.starts_with("HTTP/1.1 200"))
    })
    .await?
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_certificate_under_the_new_root_is_believed_by_whoever_has_either_root()
-> anyhow::Result<()> {
    let verifiers = [
        "identity, by webpki",
        "OpenSSL",
        "Go",
        "Envoy",
        "Envoy, by its SPIFFE validator",
    ];
    let mut wrong = Vec::new();
    for kind in [KeyAlgorithm::EcdsaP256, KeyAlgorithm::EcdsaP384] {
        let folder = tempfile::tempdir()?;
        let given = given(folder.path(), kind)?;
        let cross = given.chain.certificates().last().context("a chain")?;
        // Its own length in three bytes, and that of no extensions in two (RFC 8446, 4.4.2).
        let bytes = cross.der().len() + 5;
        eprintln!("{kind}: {bytes} bytes more in a handshake");
        ensure!((400..800).contains(&bytes), "{bytes}");
        for verifier in verifiers {
            for (bundle, expected) in [
                ("old.pem", true),
                ("new.pem", true),
                ("both.pem", true),
                ("neither.pem", false),
            ] {
                let believed = believes(verifier, &given, bundle).await?;
                eprintln!("{kind} {verifier} {bundle}: {believed}");
                if believed != expected {
                    wrong.push(format!("{kind}, {verifier}, {bundle}: {believed}"));
                }
            }
        }
    }
    ensure!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}
