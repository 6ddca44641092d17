//! The accepting side.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll, ready};

use rustls::ServerConfig;
use rustls::server::NoServerSessionStorage;
use rustls::sign::SingleCertAndKey;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsAcceptor;

use super::verifier::PeerVerifier;
use super::{ALPN_H2, ALPN_HTTP1, HANDSHAKE_DEADLINE, TlsError, certified, delegate_io, setup};
use crate::bundle::TrustBundle;
use crate::crypto;
use crate::svid::Svid;
use crate::verify::VerifiedPeer;

/// Accepts connections under one SVID; asks peers for a certificate without requiring
/// one. TLS 1.3 and 1.2, ALPN `h2` unless it is [for browsers](Server::for_browsers).
pub struct Server {
    current: RwLock<Arc<Current>>,
    protocol: &'static [u8],
}

struct Current {
    presented: Arc<SingleCertAndKey>,
    bundles: Arc<[TrustBundle]>,
}

impl Server {
    /// A server that presents `svid` and verifies peers against `bundle`.
    ///
    /// # Errors
    /// [`TlsError::Setup`] if the SVID's key cannot be used for TLS.
    pub fn new(svid: &Svid, bundle: &TrustBundle) -> Result<Self, TlsError> {
        Self::speaking(ALPN_H2, svid, bundle)
    }

    /// The same with ALPN `http/1.1`.
    ///
    /// # Errors
    /// As [`Server::new`].
    pub fn for_browsers(svid: &Svid, bundle: &TrustBundle) -> Result<Self, TlsError> {
        Self::speaking(ALPN_HTTP1, svid, bundle)
    }

    fn speaking(
        protocol: &'static [u8],
        svid: &Svid,
        bundle: &TrustBundle,
    ) -> Result<Self, TlsError> {
        Ok(Self {
            current: RwLock::new(Arc::new(Current::new(svid, bundle)?)),
            protocol,
        })
    }

    /// Takes over another SVID and bundle, for connections accepted from here on. Open
    /// connections stay as they are; see [`ServerStream::peer`].
    ///
    /// # Errors
    /// As [`Server::new`]; the old ones stay in force then.
    pub fn replace(&self, svid: &Svid, bundle: &TrustBundle) -> Result<(), TlsError> {
        let next = Arc::new(Current::new(svid, bundle)?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = next;
        Ok(())
    }

    /// Does the handshake on `io`, within ten seconds.
    ///
    /// # Errors
    /// Why there is no connection.
    pub async fn accept<IO>(&self, io: IO) -> Result<ServerStream<IO>, TlsError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let current = Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner));
        let verifier = PeerVerifier::new(Arc::clone(&current.bundles));
        let config = current.config(verifier.clone(), self.protocol)?;
        drop(current);
        let handshake = TlsAcceptor::from(Arc::new(config)).accept(io);
        let outcome = tokio::time::timeout(HANDSHAKE_DEADLINE, handshake).await;
        match (outcome, verifier.outcome()) {
            (Err(_), _) => Err(TlsError::Deadline),
            (Ok(Err(_)), Some(Err(refused))) => Err(TlsError::PeerRefused(refused.clone())),
            (Ok(Err(error)), _) => Err(TlsError::Handshake(error)),
            (Ok(Ok(inner)), peer) => Ok(ServerStream {
                inner,
                peer: peer.and_then(|peer| peer.as_ref().ok()).cloned(),
            }),
        }
    }
}

impl Current {
    fn new(svid: &Svid, bundle: &TrustBundle) -> Result<Self, TlsError> {
        Ok(Self {
            presented: certified(svid)?,
            bundles: Arc::new([bundle.clone()]),
        })
    }

    /// The configuration of one connection.
    fn config(
        &self,
        verifier: PeerVerifier,
        protocol: &'static [u8],
    ) -> Result<ServerConfig, TlsError> {
        let mut config = ServerConfig::builder_with_provider(crypto::tls_provider())
            .with_safe_default_protocol_versions()
            .map_err(setup)?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(self.presented.clone());
        config.alpn_protocols = vec![protocol.to_vec()];
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(config)
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Server")
    }
}

/// An accepted connection.
///
/// What is written goes out when it is flushed, or when 64 KiB wait.
pub struct ServerStream<IO> {
    inner: tokio_rustls::server::TlsStream<IO>,
    peer: Option<VerifiedPeer>,
}

impl<IO> ServerStream<IO> {
    /// Who the peer was shown to be; nothing if it presented no certificate.
    #[must_use]
    pub fn peer(&self) -> Option<&VerifiedPeer> {
        self.peer.as_ref()
    }

    /// The connection below.
    #[must_use]
    pub fn get_ref(&self) -> &IO {
        self.inner.get_ref().0
    }
}

delegate_io!(ServerStream);

impl<IO> fmt::Debug for ServerStream<IO> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerStream")
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}
