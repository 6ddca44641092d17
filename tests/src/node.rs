//! A node as the authority sees it: its connection, and its own certificate.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::UNIX_EPOCH;

use anyhow::{Context as _, bail};
use arx_identity::{
    CertChain, KeyAlgorithm, PrivateKey, Sequence, SpiffeId, Svid, TrustBundle, TrustDomain,
    crypto, tls,
};
use arx_proto::node::v1::issue_result::Outcome;
use arx_proto::node::v1::node_client::NodeClient;
use arx_proto::node::v1::{Hello, Issued, JoinRequest};
use bytes::Bytes;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tonic::body::Body;

use crate::mesh::TRUST_DOMAIN;
use crate::token_issuer::now;

/// Where the authority is and how it is known.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Authority {
    pub port: u16,
    pub bundle: PathBuf,
}

/// A connection of HTTP/2; it ends when this and its clones are dropped.
pub struct Http2 {
    sender: SendRequest<Body>,
    _driver: Arc<JoinSet<()>>,
}

impl Http2 {
    pub async fn over<IO>(io: IO) -> anyhow::Result<Self>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .handshake(TokioIo::new(io))
            .await?;
        let mut driver = JoinSet::new();
        driver.spawn(async move {
            let _ended = connection.await;
        });
        Ok(Self {
            sender,
            _driver: Arc::new(driver),
        })
    }
}

impl Clone for Http2 {
    fn clone(&self) -> Self {
        Self {
            sender: self.sender.clone(),
            _driver: Arc::clone(&self._driver),
        }
    }
}

impl tower_service::Service<http::Request<Body>> for Http2 {
    type Response = http::Response<hyper::body::Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.sender.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        // The scheme and the authority have to be there, and nobody looks at them.
        let path = request.uri().path_and_query().cloned();
        let path = path.map_or_else(|| "/".to_owned(), |path| path.to_string());
        if let Ok(uri) = format!("http://localhost{path}").parse() {
            *request.uri_mut() = uri;
        }
        Box::pin(self.sender.send_request(request))
    }
}

impl Authority {
    /// The roots that it is known by.
    pub fn roots(&self) -> anyhow::Result<TrustBundle> {
        let pem = std::fs::read_to_string(&self.bundle)?;
        Ok(TrustBundle::from_pem(
            TrustDomain::parse(TRUST_DOMAIN)?,
            Sequence::default(),
            &pem,
        )?)
    }

    /// What connects to it, as this node or as a stranger.
    pub fn tls(&self, node: Option<&Svid>) -> anyhow::Result<tls::Client> {
        let id = SpiffeId::new(&TrustDomain::parse(TRUST_DOMAIN)?, "/arx/ca")?;
        Ok(tls::Client::new(&[self.roots()?], node, id)?)
    }

    /// A new connection.
    pub async fn connect(&self, tls: &tls::Client) -> anyhow::Result<NodeClient<Http2>> {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        stream.set_nodelay(true)?;
        Ok(NodeClient::new(
            Http2::over(tls.connect(stream).await?).await?,
        ))
    }

    /// Joins with this token, on a connection of its own.
    pub async fn join(&self, tls: &tls::Client, token: &str, csr: Bytes) -> anyhow::Result<Issued> {
        let mut client = self.connect(tls).await?;
        let mut request = tonic::Request::new(JoinRequest {
            hello: Some(hello()),
            idempotency_key: unique(),
            csr,
        });
        request
            .metadata_mut()
            .insert("authorization", format!("Bearer {token}").parse()?);
        let answer = client.join(request).await?.into_inner();
        answer.node.context("a join is answered with a certificate")
    }

    /// Joins with this token and a new key.
    pub async fn new_node(&self, tls: &tls::Client, token: &str) -> anyhow::Result<Svid> {
        let key = Arc::new(PrivateKey::generate(KeyAlgorithm::EcdsaP256)?);
        let issued = self.join(tls, token, key.create_csr()?.into()).await?;
        let chain = CertChain::from_der_list(issued.chain.iter().map(AsRef::as_ref))?;
        Ok(Svid::new(chain, key)?)
    }
}

/// What every agent begins with.
pub fn hello() -> Hello {
    let now = now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Hello {
        min_version: 1,
        max_version: 1,
        instance_id: unique(),
        cache_id: unique(),
        software: "arx-tests".to_owned(),
        clock_unix_ms: i64::try_from(now.as_millis()).unwrap_or(i64::MAX),
        ..Hello::default()
    }
}

/// So many requests for certificates, each of a new P-256 key, DER.
pub fn requests(count: usize) -> anyhow::Result<Vec<Bytes>> {
    let request = |_| {
        Ok(PrivateKey::generate(KeyAlgorithm::EcdsaP256)?
            .create_csr()?
            .into())
    };
    (0..count).map(request).collect()
}

/// 16 random bytes.
pub fn unique() -> Bytes {
    Bytes::copy_from_slice(&crypto::random::<16>())
}

/// The certificate of an outcome.
pub fn issued(outcome: Option<Outcome>) -> anyhow::Result<Issued> {
    match outcome {
        Some(Outcome::Issued(issued)) => Ok(issued),
        Some(Outcome::Refused(refusal)) => bail!("{}: {}", refusal.code, refusal.message),
        None => bail!("an item was not answered"),
    }
}

/// Keeps a node's certificate and key in a file, for the client that acts for it.
pub fn keep(svid: &Svid, path: &Path) -> anyhow::Result<()> {
    let text = format!("{}{}", svid.chain().pem(), *svid.key().pkcs8_pem());
    arx_daemon::files::write_atomically(path, text.as_bytes(), 0o600)?;
    Ok(())
}

/// What [`keep`] kept.
pub fn kept(path: &Path) -> anyhow::Result<Svid> {
    let text = std::fs::read_to_string(path)?;
    Ok(Svid::new(
        CertChain::from_pem(&text)?,
        Arc::new(PrivateKey::from_pem(&text)?),
    )?)
}
