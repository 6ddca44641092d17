//! The connecting side.

use std::fmt;
use std::io;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::sign::SingleCertAndKey;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsConnector;

use super::verifier::PeerVerifier;
use super::{ALPN_H2, HANDSHAKE_DEADLINE, TlsError, certified, delegate_io, setup};
use crate::bundle::TrustBundle;
use crate::crypto;
use crate::id::SpiffeId;
use crate::svid::Svid;
use crate::verify::VerifiedPeer;

/// Connects to one server, known by its SPIFFE id. TLS 1.3, ALPN `h2`.
pub struct Client {
    presented: Option<Arc<SingleCertAndKey>>,
    bundles: Arc<[TrustBundle]>,
    expected: SpiffeId,
}

impl Client {
    /// A client that believes a server which is `expected` and for which one of
    /// `bundles` vouches, and presents `svid` if the server asks.
    ///
    /// # Errors
    /// [`TlsError::Setup`] if the SVID's key cannot be used for TLS.
    pub fn new(
        bundles: &[TrustBundle],
        svid: Option<&Svid>,
        expected: SpiffeId,
    ) -> Result<Self, TlsError> {
        Ok(Self {
            presented: svid.map(certified).transpose()?,
            bundles: bundles.into(),
            expected,
        })
    }

    /// Does the handshake on `io`, within ten seconds.
    ///
    /// # Errors
    /// Why there is no connection. A server that refuses our certificate shows itself
    /// only at the first read (TLS 1.3).
    pub async fn connect<IO>(&self, io: IO) -> Result<ClientStream<IO>, TlsError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let verifier = PeerVerifier::new(Arc::clone(&self.bundles));
        let config = self.config(verifier.clone())?;
        // Servers are known by SPIFFE id, not by host name; an address is never sent as
        // a server name.
        let name = ServerName::from(std::net::IpAddr::from(Ipv4Addr::UNSPECIFIED));
        let handshake = TlsConnector::from(Arc::new(config)).connect(name, io);
        let outcome = tokio::time::timeout(HANDSHAKE_DEADLINE, handshake).await;
        match (outcome, verifier.outcome()) {
            (Err(_), _) => Err(TlsError::Deadline),
            (Ok(Err(_)), Some(Err(refused))) => Err(TlsError::PeerRefused(refused.clone())),
            (Ok(Err(error)), _) => Err(TlsError::Handshake(error)),
            (Ok(Ok(inner)), Some(Ok(peer))) if peer.id == self.expected => Ok(ClientStream {
                inner,
                peer: peer.clone(),
            }),
            (Ok(Ok(_)), Some(Ok(peer))) => Err(TlsError::WrongPeer {
                expected: self.expected.to_string(),
                found: peer.id.to_string(),
            }),
            (Ok(Ok(_)), _) => Err(TlsError::Handshake(io::Error::other(
                "the server was not verified",
            ))),
        }
    }

    fn config(&self, verifier: PeerVerifier) -> Result<ClientConfig, TlsError> {
        let builder = ClientConfig::builder_with_provider(crypto::tls_provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(setup)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match &self.presented {
            Some(presented) => builder.with_client_cert_resolver(presented.clone()),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![ALPN_H2.to_vec()];
        config.resumption = Resumption::disabled();
        Ok(config)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("bundles", &self.bundles)
            .field("expected", &self.expected)
            .finish_non_exhaustive()
    }
}

/// An established connection.
///
/// What is written goes out when it is flushed, or when 64 KiB wait.
pub struct ClientStream<IO> {
    inner: tokio_rustls::client::TlsStream<IO>,
    peer: VerifiedPeer,
}

impl<IO> ClientStream<IO> {
    /// Who the server was shown to be.
    #[must_use]
    pub fn peer(&self) -> &VerifiedPeer {
        &self.peer
    }

    /// The connection below.
    #[must_use]
    pub fn get_ref(&self) -> &IO {
        self.inner.get_ref().0
    }
}

delegate_io!(ClientStream);

impl<IO> fmt::Debug for ClientStream<IO> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientStream")
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}
