//! Somebody who has stolen the key of a root: with a copy of the state file and of its sealing
//! key, which is all it takes. What he makes with it is as good as what the authority makes.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, ensure};
use arx_ca::seal::Source;
use arx_ca::state::{KeyPlace, State};
use arx_ca::store::Redb;
use arx_identity::profile::{self, Issuer, Leaf, Validity};
use arx_identity::tls::Client;
use arx_identity::{
    CertChain, Certificate, KeyAlgorithm, KeyId, PrivateKey, SpiffeId, Svid, TrustBundle,
    TrustDomain,
};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::mesh::{Mesh, TRUST_DOMAIN};
use crate::root::Root;

/// How long what he forges is valid.
const LIFETIME: Duration = Duration::from_secs(3600);
/// How long a proxy may take to answer him.
const PATIENCE: Duration = Duration::from_secs(5);

/// A thief, with what he has stolen.
pub struct Thief {
    /// The root whose key he has.
    pub root: Certificate,
    key: PrivateKey,
}

impl Thief {
    /// Copies the files of a mesh whose authority does not run, and opens the copies.
    ///
    /// # Errors
    /// If they are not there, or no root's key is in them.
    pub async fn of(mesh: &Mesh, now: SystemTime) -> anyhow::Result<Self> {
        ensure!(mesh.authority.is_none(), "the state file is in use");
        let loot = tempfile::tempdir()?;
        let copy = loot.path().join("state.redb");
        std::fs::copy(mesh.directory.join("authority/state.redb"), &copy)?;
        let seal = Source::File {
            path: mesh.directory.join("seal.key"),
            create: false,
        };
        let store = Arc::new(Redb::open(&copy, now)?);
        let trust_domain = TrustDomain::parse(TRUST_DOMAIN)?;
        let state = State::open(store, seal.seal(false)?, &trust_domain, "thief").await?;
        let stored = state.authorities().await?.context("there is no root yet")?;
        let root = stored.value.active().context("no root is active")?;
        let KeyPlace::Stored(key) = &root.key else {
            anyhow::bail!("its key is elsewhere");
        };
        Ok(Self {
            root: root.certificate.clone(),
            key: key.key()?,
        })
    }

    /// Somebody who has this root of an operator's.
    #[must_use]
    pub fn with(root: Root) -> Self {
        Self {
            root: root.certificate,
            key: root.key,
        }
    }

    /// The key identifier of the root, as operators write it.
    ///
    /// # Errors
    /// If it has none.
    pub fn root_id(&self) -> anyhow::Result<KeyId> {
        self.root.subject_key_id().context("a root has one")
    }

    /// A certificate for whoever he wants to be.
    ///
    /// # Errors
    /// If there can be none.
    pub fn forge(&self, id: &str, now: SystemTime) -> anyhow::Result<Svid> {
        let trust_domain = TrustDomain::parse(TRUST_DOMAIN)?;
        let own = PrivateKey::generate(KeyAlgorithm::EcdsaP256)?;
        let unsigned = profile::intermediate(
            &Issuer::new(&self.root)?,
            own.public_key(),
            &trust_domain,
            "not-the-authority",
            Validity::authority(now, LIFETIME),
            0,
        )?;
        let signature = self.key.sign(unsigned.to_be_signed())?;
        let intermediate = unsigned.complete(&signature)?;
        let issuer = Issuer::new(&intermediate)?;
        let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256)?;
        let unsigned = profile::leaf(
            &issuer,
            &Leaf {
                public_key: key.public_key(),
                id: &SpiffeId::parse(id)?,
                dns_names: &[],
                validity: Validity::leaf(&issuer, now, LIFETIME),
                revocable: false,
            },
        )?;
        let signature = own.sign(unsigned.to_be_signed())?;
        let chain = vec![unsigned.complete(&signature)?, intermediate];
        Ok(Svid::new(CertChain::new(chain)?, Arc::new(key))?)
    }
}

/// A connection to a proxy; it ends with this.
pub struct Line {
    sender: SendRequest<Empty<bytes::Bytes>>,
    _driver: JoinSet<Result<(), hyper::Error>>,
}

impl Line {
    /// Connects to the proxy at `port`, which is `peer`, with this certificate.
    ///
    /// # Errors
    /// If this side refuses the proxy. A proxy that refuses us shows it at the first request.
    pub async fn open(
        svid: &Svid,
        roots: &TrustBundle,
        port: u16,
        peer: &str,
    ) -> anyhow::Result<Self> {
        let peer = SpiffeId::parse(peer)?;
        let client = Client::new(std::slice::from_ref(roots), Some(svid), peer)?;
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        let stream = client.connect(stream).await.context("this side refuses")?;
        let handshake = http2::Builder::new(TokioExecutor::new()).handshake(TokioIo::new(stream));
        let (sender, connection) = timeout(PATIENCE, handshake).await.context("no answer")??;
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        Ok(Self {
            sender,
            _driver: driver,
        })
    }

    /// Sends a request. Answers what the application behind the proxy says.
    ///
    /// # Errors
    /// If the proxy refuses us, or does not answer.
    pub async fn call(&mut self) -> anyhow::Result<String> {
        let request = http::Request::get("https://localhost/").body(Empty::new())?;
        let call = async {
            let response = self.sender.send_request(request).await?;
            ensure!(response.status() == 200, "{}", response.status());
            let body = response.into_body().collect().await?.to_bytes();
            anyhow::Ok(String::from_utf8_lossy(&body).into_owned())
        };
        timeout(PATIENCE, call).await.context("no answer")?
    }
}

/// One request on a connection of its own.
///
/// # Errors
/// If the proxy, or this side, refuses the other.
pub async fn call(
    svid: &Svid,
    roots: &TrustBundle,
    port: u16,
    peer: &str,
) -> anyhow::Result<String> {
    Line::open(svid, roots, port, peer).await?.call().await
}
