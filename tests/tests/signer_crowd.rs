//! Who connects to the reference signer, and what they ask: nobody keeps others out.

use anyhow::{Context as _, ensure};
use arx_identity::{KeyAlgorithm, PublicKey};
use arx_proto::signer::v1::signer_client::SignerClient;
use arx_proto::signer::v1::{Algorithm, PublicKeyRequest, SignRequest};
use arx_tests::admin::channel;
use arx_tests::process::Process;
use arx_tests::signer::Signer;
use bytes::Bytes;
use http_body_util::StreamBody;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tonic::Code;
use tonic::transport::Channel;

/// More than there are places.
const CROWD: usize = 200;

fn started() -> anyhow::Result<(tempfile::TempDir, Signer, Process)> {
    let folder = tempfile::Builder::new().prefix("arx-").tempdir_in("/tmp")?;
    let signer = Signer::at(folder.path());
    signer.make("root", KeyAlgorithm::EcdsaP256)?;
    let process = signer.start(&["root"])?;
    Ok((folder, signer, process))
}

async fn public_key(client: &mut SignerClient<Channel>) -> anyhow::Result<PublicKey> {
    let request = PublicKeyRequest {
        key: "root".to_owned(),
    };
    let answer = client.public_key(request).await?.into_inner();
    Ok(PublicKey::from_spki_der(&answer.spki)?)
}

#[tokio::test]
async fn connections_on_which_nothing_is_asked_keep_nobody_out_and_the_oldest_of_them_goes_first()
-> anyhow::Result<()> {
    let (_folder, signer, _process) = started()?;
    let mut first = signer.client().await?;
    public_key(&mut first).await?;
    let mut silent = Vec::new();
    let mut asked = Vec::new();
    for _ in 0..CROWD {
        silent.push(UnixStream::connect(signer.socket()).await?);
    }
    for _ in 0..CROWD {
        let mut client = SignerClient::new(channel(&signer.socket()).await?);
        public_key(&mut client).await?;
        asked.push(client);
    }
    // The oldest were closed; nobody had to wait for that.
    let mut oldest = silent.swap_remove(0);
    while oldest.read(&mut [0; 64]).await.is_ok_and(|read| read > 0) {}
    // Whoever lost a connection is let in again.
    if public_key(&mut first).await.is_err() {
        public_key(&mut first).await?;
    }
    let newest = asked.last_mut().context("there are some")?;
    public_key(newest).await?;
    Ok(())
}

#[tokio::test]
async fn calls_that_never_come_whole_are_cut_off_and_give_their_places_back() -> anyhow::Result<()>
{
    let (_folder, signer, _process) = started()?;
    signer.client().await?;
    let mut calls = JoinSet::new();
    for _ in 0..CROWD {
        let stream = UnixStream::connect(signer.socket()).await?;
        calls.spawn(async move {
            let handshake =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
            let Ok((mut send, connection)) = handshake.await else {
                return;
            };
            let never = futures_util::stream::pending::<
                Result<hyper::body::Frame<Bytes>, std::io::Error>,
            >();
            let request = http::Request::post("http://signer/arx.signer.v1.Signer/Sign")
                .header("content-type", "application/grpc")
                .body(StreamBody::new(never))
                .expect("its parts are valid");
            let _cut_off = tokio::join!(connection, send.send_request(request));
        });
    }
    // It waits behind them, for no longer than a call may take.
    let mut client = SignerClient::new(channel(&signer.socket()).await?);
    public_key(&mut client).await?;
    Ok(())
}

#[tokio::test]
async fn what_is_too_long_or_suits_no_key_is_refused_by_name_and_what_suits_is_signed()
-> anyhow::Result<()> {
    let (_folder, signer, process) = started()?;
    let mut client = signer.client().await?;
    let request = |length: usize| SignRequest {
        key: "root".to_owned(),
        algorithm: Algorithm::EcdsaP256Sha256.into(),
        message: vec![7; length].into(),
        digest: Bytes::new(),
    };
    let other = SignRequest {
        algorithm: Algorithm::RsaPkcs1Sha256.into(),
        ..request(1)
    };
    let unknown = SignRequest {
        key: "another".to_owned(),
        ..request(1)
    };
    for (request, code) in [
        (request(0), Code::InvalidArgument),
        (request(64 * 1024 + 1), Code::InvalidArgument),
        (request(1024 * 1024), Code::OutOfRange),
        (other, Code::InvalidArgument),
        (unknown, Code::NotFound),
    ] {
        let refused = client.sign(request).await;
        let refused = refused.err().context("it was signed")?;
        ensure!(refused.code() == code, "{refused:?}");
    }
    let key = public_key(&mut client).await?;
    let longest = request(64 * 1024);
    let signed = client.sign(longest.clone()).await?.into_inner();
    ensure!(key.verifies(&longest.message, &signed.signature));
    let mut log = process.log();
    log.until("\"signed\"", 0).await?;
    ensure!(log.count("\"signed\"") == 1, "nothing else was");
    Ok(())
}
