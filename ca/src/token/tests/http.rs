//! An issuer's HTTP server, on loopback, plain or by TLS.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use ::http::{Request, Response};
use arx_identity::profile::{self, Issuer, Leaf, Validity};
use arx_identity::{
    CertChain, KeyAlgorithm, PrivateKey, Sequence, SpiffeId, Svid, TrustBundle, TrustDomain, tls,
};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::issuer::{Signer, cluster, key_set, with};
use crate::token::Cluster;

pub(super) const DOCUMENT: &str = "/.well-known/openid-configuration";
pub(super) const JWKS: &str = "/openid/v1/jwks";

/// An HTTP server that answers with what the test puts there, and remembers who asked.
pub(super) struct Server {
    address: SocketAddr,
    secure: bool,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

struct Shared {
    answers: Mutex<HashMap<String, (u16, String)>>,
    /// Path, and the Authorization header.
    asked: Mutex<Vec<(String, Option<String>)>>,
    /// Answers wait for a permit.
    open: Semaphore,
}

impl Server {
    pub(super) async fn start() -> Self {
        Self::serve(None).await
    }

    /// With a certificate for `localhost`; its root comes with it, in PEM.
    pub(super) async fn start_tls() -> (Self, String) {
        let (server, _, root) = Self::start_tls_twice().await;
        (server, root)
    }

    /// Two addresses with one certificate, and its root.
    pub(super) async fn start_tls_twice() -> (Self, Self, String) {
        let (tls, root) = certified();
        let tls = Arc::new(tls);
        let one = Self::serve(Some(tls.clone())).await;
        (one, Self::serve(Some(tls)).await, root)
    }

    async fn serve(tls: Option<Arc<tls::Server>>) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            answers: Mutex::default(),
            asked: Mutex::default(),
            open: Semaphore::new(10_000),
        });
        let mut tasks = JoinSet::new();
        let (serving, secure) = (shared.clone(), tls.is_some());
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((io, _)) = listener.accept().await {
                let (shared, tls) = (serving.clone(), tls.clone());
                connections.spawn(async move {
                    match tls {
                        None => answer_all(io, shared).await,
                        Some(tls) => {
                            if let Ok(io) = tls.accept(io).await {
                                answer_all(io, shared).await;
                            }
                        }
                    }
                });
            }
        });
        Self {
            address,
            secure,
            shared,
            _tasks: tasks,
        }
    }

    /// Answers wait until [`Server::release`].
    pub(super) fn hold(&self) {
        self.shared.open.forget_permits(10_000);
    }

    pub(super) fn release(&self) {
        self.shared.open.add_permits(10_000);
    }

    /// Paths that were asked for, each with its Authorization header.
    pub(super) fn requests(&self) -> Vec<(String, Option<String>)> {
        self.shared.asked.lock().expect("whole").clone()
    }

    pub(super) fn url(&self) -> String {
        if self.secure {
            format!("https://localhost:{}", self.address.port())
        } else {
            format!("http://{}", self.address)
        }
    }

    pub(super) fn put(&self, path: &str, status: u16, text: impl Into<String>) {
        let mut answers = self.shared.answers.lock().expect("whole");
        answers.insert(path.to_owned(), (status, text.into()));
    }

    pub(super) fn issue(&self, signers: &[&Signer]) {
        let document = json!({"issuer": self.url(), "jwks_uri": format!("{}{JWKS}", self.url())});
        self.put(DOCUMENT, 200, document.to_string());
        self.put(JWKS, 200, key_set(signers));
    }

    pub(super) fn asked(&self, path: &str) -> usize {
        let asked = self.shared.asked.lock().expect("whole");
        asked.iter().filter(|(asked, _)| asked == path).count()
    }

    pub(super) fn cluster(&self, lines: &str) -> Cluster {
        let mut cluster = cluster(lines);
        cluster.issuer = self.url();
        cluster
    }

    pub(super) fn claims(&self) -> Value {
        with("/iss", json!(self.url()))
    }
}

async fn answer(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let bearer = request.headers().get("authorization");
    let bearer = bearer.map(|it| it.to_str().expect("text").to_owned());
    shared
        .asked
        .lock()
        .expect("whole")
        .push((path.clone(), bearer));
    shared.open.acquire().await.expect("never closed").forget();
    let found = shared.answers.lock().expect("whole").get(&path).cloned();
    let (status, text) = found.unwrap_or((404, String::new()));
    Ok(Response::builder()
        .status(status)
        .body(Full::from(text))
        .expect("a response"))
}

async fn answer_all<IO>(io: IO, shared: Arc<Shared>)
where
    IO: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let service = hyper::service::service_fn(|request| answer(shared.clone(), request));
    let serve = hyper::server::conn::http1::Builder::new();
    // A client that goes away is no failure of the test.
    let _ = serve.serve_connection(TokioIo::new(io), service).await;
}

/// A TLS server with a new certificate for `localhost`, and the root above it in PEM.
fn certified() -> (tls::Server, String) {
    let now = real_now();
    let hour = Duration::from_secs(3600);
    let domain = TrustDomain::parse("example.org").expect("a trust domain");
    let root_key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).expect("a key");
    let sign = |unsigned: profile::Unsigned| {
        let signature = root_key.sign(unsigned.to_be_signed()).expect("a signature");
        unsigned.complete(&signature).expect("a certificate")
    };
    let validity = Validity::authority(now, 24 * hour);
    let root = sign(profile::root(root_key.public_key(), &domain, validity).expect("a root"));
    let issuer = Issuer::new(&root).expect("an issuer");
    let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).expect("a key");
    let leaf = Leaf {
        public_key: key.public_key(),
        id: &SpiffeId::new(&domain, "/issuer").expect("an id"),
        dns_names: &["localhost".to_owned()],
        validity: Validity::leaf(&issuer, now, hour),
        revocable: false,
    };
    let leaf = sign(profile::leaf(&issuer, &leaf).expect("a leaf"));
    let chain = CertChain::new(vec![leaf]).expect("a chain");
    let svid = Svid::new(chain, Arc::new(key)).expect("an SVID");
    let bundle = TrustBundle::new(domain, Sequence::default(), vec![root.clone()]);
    let server = tls::Server::new(&svid, &bundle.expect("a bundle")).expect("a server");
    (server, root.pem())
}

#[expect(
    clippy::disallowed_methods,
    reason = "kube's TLS judges by the real clock"
)]
fn real_now() -> SystemTime {
    SystemTime::now()
}
