//! The root's key behind a signer socket: the reference signer as a real process, and one that
//! lies.

use anyhow::{Context as _, ensure};
use arx_identity::{Certificate, KeyAlgorithm, PrivateKey};
use arx_proto::admin::v1::Authority;
use arx_proto::signer::v1::signer_server::{Signer, SignerServer};
use arx_proto::signer::v1::{PublicKeyRequest, PublicKeyResponse, SignRequest, SignResponse};
use arx_tests::http;
use arx_tests::mesh::{Mesh, Options};
use arx_tests::process::{free_port, until};
use arx_tests::sds::{Connection, chain, secrets};
use arx_tests::signer::Signer as Reference;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use rustix::process::Signal;
use tokio::net::{TcpStream, UnixListener};
use tokio::task::JoinSet;
use tonic::{Request, Response, Status};

/// A mesh whose root's key is behind a socket in its own folder, before anything runs.
fn mesh() -> anyhow::Result<(Mesh, Reference)> {
    let mut mesh = Mesh::prepare(Options::default())?;
    let signer = Reference::at(&mesh.directory);
    mesh.reconfigure(|options| options.authority = signer.table("root"))?;
    Ok((mesh, signer))
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
    for algorithm in [
        KeyAlgorithm::EcdsaP256,
        KeyAlgorithm::EcdsaP384,
        KeyAlgorithm::Rsa(3072),
        KeyAlgorithm::Rsa(4096),
    ] {
        let (mut mesh, signer) = mesh()?;
        signer.make("root", algorithm)?;
        let _signer = signer.start(&["root"])?;
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
    let (mut mesh, reference) = mesh()?;
    reference.make("root", KeyAlgorithm::EcdsaP256)?;
    let signer = reference.start(&["root"])?;
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
    let _signer = reference.start(&["root"])?;
    reachable(&mesh, 1.0).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn another_key_under_the_same_name_is_told_and_signs_nothing() -> anyhow::Result<()> {
    let (mut mesh, reference) = mesh()?;
    reference.make("root", KeyAlgorithm::EcdsaP256)?;
    let signer = reference.start(&["root"])?;
    mesh.start_authority().await?;
    signer.kill().await?;
    reference.make("root", KeyAlgorithm::EcdsaP256)?;
    let _signer = reference.start(&["root"])?;
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
    let (mut mesh, _reference) = mesh()?;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_signer_on_another_machine_is_asked_by_mutual_tls_and_answers_nobody_else()
-> anyhow::Result<()> {
    let mut mesh = Mesh::prepare(Options::default())?;
    let reference = Reference::at(&mesh.directory);
    reference.certificates()?;
    reference.make("root", KeyAlgorithm::EcdsaP256)?;
    let port = free_port()?;
    let _signer = reference.start_tls(&["root"], port)?;
    // Of another authority: the signer does not talk to it.
    let elsewhere = mesh.directory.join("elsewhere");
    std::fs::create_dir(&elsewhere)?;
    Reference::at(&elsewhere).certificates()?;
    mesh.reconfigure(|options| {
        options.authority = reference.tls_table("root", port, "elsewhere/client");
    })?;
    mesh.spawn_authority()?;
    says(&mesh, "ARX-SIGNER-UNREACHABLE").await?;
    mesh.kill_authority().await?;

    // Nor do those keep anybody out who never show a certificate.
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(TcpStream::connect(("127.0.0.1", port)).await?);
    }
    mesh.reconfigure(|options| options.authority = reference.tls_table("root", port, "client"))?;
    mesh.start_authority().await?;
    issues(&mesh, "n1").await
}
