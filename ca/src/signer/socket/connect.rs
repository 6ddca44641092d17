//! The way to the service: a Unix socket, or TLS by the operator's own certificates.

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arx_identity::tls::{Mutual, MutualStream};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};
use tonic::transport::{Channel, Endpoint};
use tower_service::Service;

use crate::dial::Files;
use crate::signer::options::{Socket as Options, Way};

/// A connection on which nothing comes back for so long is given up.
const SILENCE: Duration = Duration::from_secs(20);

/// A channel that connects when it is first used, and again whenever it has to.
pub(super) fn channel(options: &Options) -> Result<Channel, String> {
    // Never looked at: the connector knows where to.
    let endpoint = Endpoint::from_static("http://signer")
        .http2_keep_alive_interval(SILENCE)
        .keep_alive_timeout(SILENCE);
    Ok(match options.way()? {
        Way::Unix(path) => endpoint.connect_with_connector_lazy(Unix(path.to_owned())),
        Way::Tls {
            address,
            server_name,
            certificate,
            key,
            authorities,
        } => {
            let files = Files {
                certificate: certificate.to_owned(),
                key: key.to_owned(),
                authorities: authorities.to_owned(),
            };
            let tls = Arc::new(files.read()?);
            endpoint.connect_with_connector_lazy(Tls {
                address: address.into(),
                server_name: server_name.into(),
                tls,
            })
        }
    })
}

/// Connects to a Unix socket, whatever the address says.
#[derive(Clone)]
struct Unix(PathBuf);

impl Service<Uri> for Unix {
    type Response = TokioIo<UnixStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _address: Uri) -> Self::Future {
        let path = self.0.clone();
        Box::pin(async move { Ok(TokioIo::new(UnixStream::connect(path).await?)) })
    }
}

/// Connects by TLS.
#[derive(Clone)]
struct Tls {
    address: Arc<str>,
    server_name: Arc<str>,
    tls: Arc<Mutual>,
}

impl Service<Uri> for Tls {
    type Response = TokioIo<MutualStream<TcpStream>>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Response>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _address: Uri) -> Self::Future {
        let Self {
            address,
            server_name,
            tls,
        } = self.clone();
        async move {
            let stream = TcpStream::connect(&*address).await?;
            stream.set_nodelay(true)?;
            let stream = tls.connect(&server_name, stream).await;
            Ok(TokioIo::new(stream.map_err(io::Error::other)?))
        }
        .boxed()
    }
}
