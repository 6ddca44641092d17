//! One connection to another authority: TCP, TLS by its SPIFFE id, HTTP/2.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use arx_identity::tls::{Client, ClientStream};
use arx_identity::{SpiffeId, Svid, TrustBundle};
use arx_proto::nested::v1::nested_client::NestedClient;
use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint};
use tower_service::Service;

use super::ArxError;

/// Largest answer that is taken.
const LARGEST: usize = 256 * 1024;

/// Connects to `expected`, whom one of `anchors` has to vouch for, and shows it `svid`.
pub(super) async fn connect(
    address: &str,
    anchors: &[TrustBundle],
    svid: Option<&Svid>,
    expected: SpiffeId,
) -> Result<NestedClient<Channel>, ArxError> {
    let unreachable = |error| ArxError::Unreachable {
        address: address.to_owned(),
        error,
    };
    let tls = |error| ArxError::Tls {
        address: address.to_owned(),
        error,
    };
    let client = Client::new(anchors, svid, expected).map_err(tls)?;
    let stream = TcpStream::connect(address).await.map_err(unreachable)?;
    stream.set_nodelay(true).map_err(unreachable)?;
    let stream = client.connect(stream).await.map_err(tls)?;
    let once = Once(Arc::new(Mutex::new(Some(TokioIo::new(stream)))));
    // Never looked at: the connection is there.
    let channel = Endpoint::from_static("http://upstream")
        .connect_with_connector(once)
        .await
        .map_err(|error| unreachable(io::Error::other(error)))?;
    Ok(NestedClient::new(channel).max_decoding_message_size(LARGEST))
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
