//! Connections to services of the operator's, such as a signer or a store: over TCP, and by mutual
//! TLS with certificates in files. Those to another authority, or to another replica, are in
//! [`authority`].

pub(crate) mod authority;

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arx_daemon::config::secret_file;
use arx_identity::PrivateKey;
use arx_identity::tls::{Mutual, MutualStream, TlsError};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tower_service::Service;

/// The files that mutual TLS takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Files {
    /// What is shown, followed by its chain, PEM.
    pub(crate) certificate: PathBuf,
    /// The key of that, PKCS #8 in PEM. Mode 0600.
    pub(crate) key: PathBuf,
    /// Those whose certificates are believed, PEM.
    pub(crate) authorities: PathBuf,
}

impl Files {
    /// What they hold now.
    ///
    /// # Errors
    /// Which of them cannot be used, and why.
    pub(crate) fn read(&self) -> Result<Mutual, String> {
        self.read_for(Mutual::new)
    }

    /// The same for a service that may speak TLS 1.2 only.
    ///
    /// # Errors
    /// Which of them cannot be used, and why.
    pub(crate) fn read_for_older(&self) -> Result<Mutual, String> {
        self.read_for(Mutual::also_tls12)
    }

    fn read_for(
        &self,
        make: fn(&str, &PrivateKey, &str) -> Result<Mutual, TlsError>,
    ) -> Result<Mutual, String> {
        let read = |path: &Path| {
            std::fs::read_to_string(path)
                .map_err(|error| format!("{} cannot be read: {error}", path.display()))
        };
        let key = &self.key;
        let secret = secret_file(key).map_err(|error| error.to_string())?;
        let secret = std::str::from_utf8(&secret)
            .map_err(|_| format!("{} is not PEM", key.display()))
            .and_then(|text| {
                PrivateKey::from_pem(text).map_err(|error| format!("{}: {error}", key.display()))
            })?;
        make(
            &read(&self.certificate)?,
            &secret,
            &read(&self.authorities)?,
        )
        .map_err(|error| error.to_string())
    }
}

/// Connects to one address. The files are read for each connection: whoever renews certificates
/// need not tell.
#[derive(Clone, Debug)]
pub(crate) struct Dial {
    /// Host and port.
    pub(crate) address: Arc<str>,
    /// What the other side's certificate has to be for, and by which files; plain without.
    pub(crate) tls: Option<(Arc<str>, Arc<Files>)>,
    /// How long it may take.
    pub(crate) deadline: Duration,
}

impl Service<Uri> for Dial {
    type Response = TokioIo<Connection>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Response>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _address: Uri) -> Self::Future {
        let Self {
            address,
            tls,
            deadline,
        } = self.clone();
        let connecting = async move {
            let stream = TcpStream::connect(&*address).await?;
            stream.set_nodelay(true)?;
            Ok(TokioIo::new(match tls {
                None => Connection::Plain(stream),
                Some((name, files)) => {
                    let tls = files.read_for_older().map_err(io::Error::other)?;
                    let stream = tls.connect(&name, stream).await;
                    Connection::Tls(Box::new(stream.map_err(io::Error::other)?))
                }
            }))
        };
        async move {
            let connected = tokio::time::timeout(deadline, connecting).await;
            connected.unwrap_or_else(|_| {
                let text = format!("no connection within {} ms", deadline.as_millis());
                Err(io::Error::new(io::ErrorKind::TimedOut, text))
            })
        }
        .boxed()
    }
}

/// An established connection.
#[derive(Debug)]
pub(crate) enum Connection {
    Plain(TcpStream),
    Tls(Box<MutualStream<TcpStream>>),
}

macro_rules! either {
    ($self:ident, $method:ident($($argument:expr),*)) => {
        match $self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).$method($($argument),*),
            Self::Tls(stream) => Pin::new(stream).$method($($argument),*),
        }
    };
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(self, poll_read(cx, buf))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        either!(self, poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, poll_shutdown(cx))
    }
}
