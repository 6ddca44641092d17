//! TLS by host names and the operator's own certificates, both sides showing one: for services
//! that are no part of a trust domain, such as what stands before a key management service.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use super::{ALPN_H2, HANDSHAKE_DEADLINE, TlsError, setup};
use crate::crypto;
use crate::key::PrivateKey;

/// Both sides of connections on which each shows a certificate and believes those of certain
/// authorities. TLS 1.3 unless said otherwise, ALPN `h2`.
pub struct Mutual {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl Mutual {
    /// Shows the first certificate of `chain`, PEM, whose key is `key`; believes peers whose
    /// certificates are of one of `authorities`, PEM.
    ///
    /// # Errors
    /// [`TlsError::Setup`] if any of them cannot be used.
    pub fn new(chain: &str, key: &PrivateKey, authorities: &str) -> Result<Self, TlsError> {
        Self::speaking(&[&TLS13], chain, key, authorities)
    }

    /// The same, but that TLS 1.2 is spoken too (with forward secrecy and authenticated
    /// encryption only): etcd speaks no newer one before its version 3.5.9.
    ///
    /// # Errors
    /// [`TlsError::Setup`] if any of them cannot be used.
    pub fn also_tls12(chain: &str, key: &PrivateKey, authorities: &str) -> Result<Self, TlsError> {
        Self::speaking(&[&TLS13, &TLS12], chain, key, authorities)
    }

    fn speaking(
        versions: &[&'static SupportedProtocolVersion],
        chain: &str,
        key: &PrivateKey,
        authorities: &str,
    ) -> Result<Self, TlsError> {
        let chain = list(chain)?;
        let mut roots = RootCertStore::empty();
        for authority in list(authorities)? {
            roots.add(authority).map_err(setup)?;
        }
        let roots = Arc::new(roots);
        let provider = crypto::tls_provider;
        let key = || PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.pkcs8_der())).clone_key();

        let servers = WebPkiServerVerifier::builder_with_provider(roots.clone(), provider());
        let mut client = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .map_err(setup)?
            .with_webpki_verifier(servers.build().map_err(setup)?)
            .with_client_auth_cert(chain.clone(), key())
            .map_err(setup)?;
        client.alpn_protocols = vec![ALPN_H2.to_vec()];
        client.resumption = Resumption::disabled();

        let clients = WebPkiClientVerifier::builder_with_provider(roots, provider());
        let mut server = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .map_err(setup)?
            .with_client_cert_verifier(clients.build().map_err(setup)?)
            .with_single_cert(chain, key())
            .map_err(setup)?;
        server.alpn_protocols = vec![ALPN_H2.to_vec()];
        server.send_tls13_tickets = 0;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Self {
            client: Arc::new(client),
            server: Arc::new(server),
        })
    }

    /// Does the handshake with a server that has to be called `name`, within ten seconds.
    ///
    /// # Errors
    /// Why there is no connection. A server that refuses our certificate shows itself only at
    /// the first read (TLS 1.3).
    pub async fn connect<IO>(&self, name: &str, io: IO) -> Result<MutualStream<IO>, TlsError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let name = ServerName::try_from(name.to_owned()).map_err(setup)?;
        let connector = TlsConnector::from(self.client.clone());
        within(connector.connect(name, io)).await
    }

    /// Does the handshake with a client, which has to show a certificate, within ten seconds.
    ///
    /// # Errors
    /// Why there is no connection.
    pub async fn accept<IO>(&self, io: IO) -> Result<MutualStream<IO>, TlsError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let acceptor = TlsAcceptor::from(self.server.clone());
        within(acceptor.accept(io)).await
    }
}

async fn within<IO, S: Into<TlsStream<IO>>>(
    handshake: impl Future<Output = io::Result<S>>,
) -> Result<MutualStream<IO>, TlsError> {
    match tokio::time::timeout(HANDSHAKE_DEADLINE, handshake).await {
        Err(_) => Err(TlsError::Deadline),
        Ok(Err(error)) => Err(TlsError::Handshake(error)),
        Ok(Ok(inner)) => Ok(MutualStream {
            inner: inner.into(),
        }),
    }
}

fn list(pem: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let list: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let list = list.map_err(setup)?;
    if list.is_empty() {
        return Err(setup("there is no certificate in the PEM text"));
    }
    Ok(list)
}

impl fmt::Debug for Mutual {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mutual")
    }
}

/// An established connection.
pub struct MutualStream<IO> {
    inner: TlsStream<IO>,
}

impl<IO> fmt::Debug for MutualStream<IO> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MutualStream")
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for MutualStream<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for MutualStream<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
