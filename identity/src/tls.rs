//! TLS between the parts of Arx, by SPIFFE id. Nobody else sees rustls.
//!
//! Each connection gets a configuration of its own, made from what is trusted at that
//! moment, and no resumption tickets are sent: swapping roots inside one long-lived
//! configuration would let tickets from before the swap go on being accepted. A
//! connection remembers the authorities by which its peer was verified
//! ([`VerifiedPeer::issuers`]), so that its owner can close it when one of them leaves
//! the accepted set.

mod client;
mod mutual;
mod server;
mod verifier;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

pub use client::{Client, ClientStream};
pub use mutual::{Mutual, MutualStream};
pub use server::{Server, ServerStream};

use crate::crypto;
use crate::svid::Svid;
use crate::verify::VerifyError;

#[cfg(doc)]
use crate::verify::VerifiedPeer;

/// How long a handshake may take.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
const ALPN_H2: &[u8] = b"h2";
const ALPN_HTTP1: &[u8] = b"http/1.1";

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The SVID or bundle cannot be used for TLS.
    #[error("TLS cannot be set up with this certificate and key: {0}")]
    Setup(String),
    /// We refused the peer's certificate.
    #[error("the peer's certificate is refused: {0}")]
    PeerRefused(#[source] VerifyError),
    /// The peer is somebody else.
    #[error("the peer is {found}, not {expected}")]
    WrongPeer {
        /// Who was expected.
        expected: String,
        /// Who answered.
        found: String,
    },
    /// The peer presented no certificate, or refused ours, or does not speak TLS.
    #[error("the TLS handshake failed: {0}")]
    Handshake(#[source] io::Error),
    /// The peer stopped in the middle of the handshake.
    #[error("the TLS handshake took longer than {} s", HANDSHAKE_DEADLINE.as_secs())]
    Deadline,
}

/// What is presented to peers.
fn certified(svid: &Svid) -> Result<Arc<SingleCertAndKey>, TlsError> {
    let chain = svid
        .chain()
        .certificates()
        .iter()
        .map(|certificate| CertificateDer::from(certificate.der().to_vec()))
        .collect();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(svid.key().pkcs8_der()));
    let key = crypto::tls_provider()
        .key_provider
        .load_private_key(key.clone_key())
        .map_err(setup)?;
    Ok(Arc::new(SingleCertAndKey::from(CertifiedKey::new(
        chain, key,
    ))))
}

fn setup(error: impl std::fmt::Display) -> TlsError {
    TlsError::Setup(error.to_string())
}

/// Implements the tokio I/O traits for a wrapper by handing every call to its field
/// `inner`, but that what is written is gathered until it is flushed or there is no more
/// room: HTTP/2 writes frame by frame, and a system call for each would cost more than
/// encrypting it.
macro_rules! delegate_io {
    ($stream:ident) => {
        impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for $stream<IO> {
            fn poll_read(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                Pin::new(&mut self.inner).poll_read(cx, buf)
            }
        }

        impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for $stream<IO> {
            fn poll_write(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &[u8],
            ) -> Poll<io::Result<usize>> {
                self.poll_write_vectored(cx, &[io::IoSlice::new(buf)])
            }

            fn poll_write_vectored(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bufs: &[io::IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                let empty = bufs.iter().all(|buf| buf.is_empty());
                loop {
                    let (_, connection) = self.inner.get_mut();
                    let written = io::Write::write_vectored(&mut connection.writer(), bufs)?;
                    if written > 0 || empty {
                        return Poll::Ready(Ok(written));
                    }
                    ready!(Pin::new(&mut self.inner).poll_flush(cx))?;
                }
            }

            fn is_write_vectored(&self) -> bool {
                true
            }

            fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                Pin::new(&mut self.inner).poll_flush(cx)
            }

            fn poll_shutdown(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
            ) -> Poll<io::Result<()>> {
                Pin::new(&mut self.inner).poll_shutdown(cx)
            }
        }
    };
}
use delegate_io;

#[cfg(test)]
mod tests;
