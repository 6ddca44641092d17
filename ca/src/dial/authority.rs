//! One connection to an authority of Arx, another one or a replica of this: TCP, TLS by its SPIFFE
//! id, HTTP/2.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use arx_identity::tls::{Client, ClientStream, TlsError};
use arx_identity::{SpiffeId, Svid, TrustBundle, VerifiedPeer};
use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint};
use tower_service::Service;

/// Why there is no connection.
#[derive(Debug)]
pub(crate) enum NoConnection {
    /// Nobody was reached.
    Unreachable(io::Error),
    /// None that could be trusted.
    Tls(TlsError),
}

/// Connects to `expected`, whom one of `anchors` has to vouch for, and shows it `svid`. Who answered
/// comes along.
pub(crate) async fn connect(
    address: &str,
    anchors: &[TrustBundle],
    svid: Option<&Svid>,
    expected: SpiffeId,
) -> Result<(Channel, VerifiedPeer), NoConnection> {
    let client = Client::new(anchors, svid, expected).map_err(NoConnection::Tls)?;
    let stream = TcpStream::connect(address)
        .await
        .map_err(NoConnection::Unreachable)?;
    stream
        .set_nodelay(true)
        .map_err(NoConnection::Unreachable)?;
    let stream = client.connect(stream).await.map_err(NoConnection::Tls)?;
    let peer = stream.peer().clone();
    let once = Once(Arc::new(Mutex::new(Some(TokioIo::new(stream)))));
    // Never looked at: the connection is there.
    let channel = Endpoint::from_static("http://authority")
        .connect_with_connector(once)
        .await
        .map_err(|error| NoConnection::Unreachable(io::Error::other(error)))?;
    Ok((channel, peer))
}

type Stream = TokioIo<ClientStream<TcpStream>>;

/// Gives the connection that was made, once.
#[derive(Clone)]
struct Once(Arc<Mutex<Option<Stream>>>);

impl Service<Uri> for Once {
    type Response = Stream;
    type Error = io::Error;
    type Future = std::future::Ready<io::Result<Stream>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _address: Uri) -> Self::Future {
        let stream = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        std::future::ready(stream.ok_or_else(|| io::ErrorKind::NotConnected.into()))
    }
}
