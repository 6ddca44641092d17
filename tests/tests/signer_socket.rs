//! The root's key behind a signer socket: the reference signer as a real process, and one that
//! lies.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use arx_daemon::files::write_atomically;
use arx_identity::{Certificate, KeyAlgorithm, PrivateKey};
use arx_proto::admin::v1::Authority;
use arx_proto::signer::v1::signer_server::{Signer, SignerServer};
use arx_proto::signer::v1::{PublicKeyRequest, PublicKeyResponse, SignRequest, SignResponse};
use arx_tests::http;
use arx_tests::mesh::{Mesh, Options};
use arx_tests::process::{Process, binary, free_port, until};
use arx_tests::sds::{Connection, chain, secrets};
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use rustix::process::Signal;
use tokio::net::UnixListener;
use tokio::task::JoinSet;
use tonic::{Request, Response, Status};

/// A new key in a file.
fn key_file(folder: &Path, algorithm: KeyAlgorithm) -> anyhow::Result<PathBuf> {
    let path = folder.join("root.key");
    let key = PrivateKey::generate(algorithm)?;
    write_atomically(&path, key.pkcs8_pem().as_bytes(), 0o600)?;
    Ok(path)
}

/// The reference signer on a Unix socket, with the key `root` from this file.
fn start_signer(folder: &Path, key: &Path) -> anyhow::Result<Process> {
    let socket = folder.join("signer.sock");
    let arguments = [
        "--socket".to_owned(),
        socket.display().to_string(),
        "--key".to_owned(),
        format!("root={}", key.display()),
    ];
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    Process::start("arx-signer", &binary("arx-signer")?, &arguments)
}

/// `[authority.signer]` for that.
fn table(folder: &Path) -> String {
    let socket = folder.join("signer.sock");
    format!("[authority.signer]\nsocket = {socket:?}\nkey = \"root\"\ndeadline = \"1s\"\n")
}

/// A mesh whose root's key is behind a socket in its own folder, before anything runs.
fn mesh() -> anyhow::Result<Mesh> {
    let mut mesh = Mesh::prepare(Options::default())?;
    let table = table(&mesh.directory);
    mesh.reconfigure(|options| options.authority = table)?;
    Ok(mesh)
}

async fn root(mesh: &Mesh) -> anyhow::Result<Authority> {
    let status = mesh.status().await?;
    let root = status
        .authorities
        .into_iter()
        .find(|one| one.role == "root");
    root.context("there is a root")
}

/// A new workload certificate, that stands under the root.
async fn issues(mesh: &Mesh, node: &str) -> anyhow::Result<()> {
    let agent = mesh.agent(node).await?;
    let token = mesh.token("shop", "web", node);
    let pod = Connection::open(&agent.socket, Some(&token)).await?;
    let response = pod.stream(&["default"]).await?.next().await?;
    let chain = chain(&secrets(&response)?[0])?;
    let root = Certificate::from_der(&root(mesh).await?.certificate)?;
    let last = chain.certificates().last().context("not empty")?;
    ensure!(
        last.is_signed_by(&root),
        "it stands under the signer's root"
    );
    Ok(())
}

/// Waits until the operator's port says this.
async fn says(mesh: &Mesh, text: &str) -> anyhow::Result<()> {
    let port = mesh.ops_port;
    until(text, || async {
        Ok(http::get(port, "/readyz").await?.1.contains(text))
    })
    .await
}

async fn reachable(mesh: &Mesh, wanted: f64) -> anyhow::Result<()> {
    let port = mesh.ops_port;
    until("the metric", || async {
        let found = http::metric(port, "arx_ca_root_key_reachable").await?;
        Ok(found == Some(wanted))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn each_kind_of_key_signs_behind_a_unix_socket_and_is_found_again() -> anyhow::Result<()> {
    for algorithm in [KeyAlgorithm::EcdsaP256, KeyAlgorithm::EcdsaP384] {
        let mut mesh = mesh()?;
        let key = key_file(&mesh.directory, algorithm)?;
        let _signer = start_signer(&mesh.directory, &key)?;
        mesh.start_authority().await?;
        let made = root(&mesh).await?;
        ensure!(made.key_algorithm == algorithm.to_string());
        ensure!(made.custody == "signer socket, key root", "{made:?}");
        issues(&mesh, "n1").await?;
        mesh.stop_authority().await?;
        mesh.start_authority().await?;
        ensure!(root(&mesh).await?.certificate == made.certificate);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_signer_that_hangs_or_is_killed_stops_nothing_and_is_found_again_by_itself()
-> anyhow::Result<()> {
    let mut mesh = mesh()?;
    let key = key_file(&mesh.directory, KeyAlgorithm::EcdsaP256)?;
    let signer = start_signer(&mesh.directory, &key)?;
    mesh.start_authority().await?;
    reachable(&mesh, 1.0).await?;
    issues(&mesh, "n1").await?;

    signer.signal(Signal::STOP)?;
    reachable(&mesh, 0.0).await?;
    says(&mesh, "[!] root key: ARX-SIGNER-DEADLINE").await?;
    // Also a process that has never had an answer from it goes on.
    mesh.kill_authority().await?;
    mesh.start_authority().await?;
    issues(&mesh, "n2").await?;
    says(&mesh, "[!] root key: ARX-SIGNER-DEADLINE").await?;
    signer.signal(Signal::CONT)?;
    reachable(&mesh, 1.0).await?;

    signer.kill().await?;
    says(&mesh, "[!] root key: ARX-SIGNER-UNREACHABLE").await?;
    issues(&mesh, "n3").await?;
    let _signer = start_signer(&mesh.directory, &key)?;
    reachable(&mesh, 1.0).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn another_key_under_the_same_name_is_told_and_signs_nothing() -> anyhow::Result<()> {
    let mut mesh = mesh()?;
    let key = key_file(&mesh.directory, KeyAlgorithm::EcdsaP256)?;
    let signer = start_signer(&mesh.directory, &key)?;
    mesh.start_authority().await?;
    signer.kill().await?;
    let key = key_file(&mesh.directory, KeyAlgorithm::EcdsaP256)?;
    let _signer = start_signer(&mesh.directory, &key)?;
    says(&mesh, "ARX-SIGNER-KEY-MISSING").await?;
    issues(&mesh, "n1").await
}

/// Shows one key, and signs by another.
struct Liar {
    shown: PrivateKey,
    used: PrivateKey,
}

#[tonic::async_trait]
impl Signer for Liar {
    async fn public_key(
        &self,
        _request: Request<PublicKeyRequest>,
    ) -> Result<Response<PublicKeyResponse>, Status> {
        let spki = self.shown.public_key().spki_der().to_vec();
        Ok(Response::new(PublicKeyResponse { spki: spki.into() }))
    }

    async fn sign(&self, request: Request<SignRequest>) -> Result<Response<SignResponse>, Status> {
        let signed = self.used.sign(&request.into_inner().message);
        let signature = signed.map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(SignResponse {
            signature: signature.into(),
        }))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_wrong_signature_is_thrown_away_before_anything_is_made_of_it() -> anyhow::Result<()> {
    let mut mesh = mesh()?;
    let liar = SignerServer::new(Liar {
        shown: PrivateKey::generate(KeyAlgorithm::EcdsaP256)?,
        used: PrivateKey::generate(KeyAlgorithm::EcdsaP256)?,
    });
    let listener = UnixListener::bind(mesh.directory.join("signer.sock"))?;
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = TowerToHyperService::new(liar.clone());
            let connection = http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service);
            let _ended = connection.await;
        }
    });
    mesh.spawn_authority()?;
    says(&mesh, "ARX-SIGNER-WRONG-SIGNATURE").await?;
    let process = mesh.authority.as_mut().context("it was started")?;
    ensure!(process.is_running(), "it goes on asking");
    ensure!(!mesh.admin_socket().exists(), "no root was made");
    Ok(())
}

/// Certificates by openssl: an authority, the signer's for `localhost`, and the caller's.
fn certificates(folder: &Path) -> anyhow::Result<()> {
    let openssl = |arguments: &str| -> anyhow::Result<()> {
        let mut command = Command::new("openssl");
        command.current_dir(folder).args(arguments.split(' '));
        let output = command.output().context("openssl")?;
        ensure!(output.status.success(), "{arguments}: {output:?}");
        Ok(())
    };
    let key = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1";
    openssl(&format!(
        "{key} -subj /CN=authority -keyout ca.key -out ca.pem"
    ))?;
    for (name, alternative) in [("server", "DNS:localhost"), ("client", "DNS:arx-ca")] {
        let own =
            format!("-subj /CN={name} -keyout {name}.key -out {name}.pem -CA ca.pem -CAkey ca.key");
        let leaf = "-addext basicConstraints=critical,CA:FALSE";
        openssl(&format!(
            "{key} {own} {leaf} -addext subjectAltName={alternative}"
        ))?;
        let path = folder.join(format!("{name}.key"));
        let content = std::fs::read(&path)?;
        std::fs::remove_file(&path)?;
        write_atomically(&path, &content, 0o600)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_signer_on_another_machine_is_asked_by_mutual_tls_and_answers_nobody_else()
-> anyhow::Result<()> {
    let mut mesh = Mesh::prepare(Options::default())?;
    let folder = mesh.directory.clone();
    certificates(&folder)?;
    let key = key_file(&folder, KeyAlgorithm::EcdsaP256)?;
    let port = free_port()?;
    let file = |name: &str| folder.join(name).display().to_string();
    let arguments = [
        "--listen".to_owned(),
        format!("127.0.0.1:{port}"),
        "--certificate".to_owned(),
        file("server.pem"),
        "--tls-key".to_owned(),
        file("server.key"),
        "--clients".to_owned(),
        file("ca.pem"),
        "--key".to_owned(),
        format!("root={}", key.display()),
    ];
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let _signer = Process::start("arx-signer", &binary("arx-signer")?, &arguments)?;
    let table = |certificate: &str| {
        format!(
            "[authority.signer]\naddress = \"127.0.0.1:{port}\"\nserver_name = \"localhost\"\n\
             ca_file = {:?}\ncertificate_file = {:?}\nkey_file = {:?}\nkey = \"root\"\ndeadline = \"1s\"\n",
            file("ca.pem"),
            file(&format!("{certificate}.pem")),
            file(&format!("{certificate}.key")),
        )
    };
    // Of another authority: the signer does not talk to it.
    let elsewhere = folder.join("elsewhere");
    std::fs::create_dir(&elsewhere)?;
    certificates(&elsewhere)?;
    mesh.reconfigure(|options| options.authority = table("elsewhere/client"))?;
    mesh.spawn_authority()?;
    says(&mesh, "ARX-SIGNER-UNREACHABLE").await?;
    mesh.kill_authority().await?;

    mesh.reconfigure(|options| options.authority = table("client"))?;
    mesh.start_authority().await?;
    issues(&mesh, "n1").await
}
