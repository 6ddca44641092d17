//! The authority's admin API, over its Unix socket.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use anyhow::Context as _;
use arx_proto::admin::v1::admin_client::AdminClient;
use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

/// Connects to the socket at `path`.
///
/// # Errors
/// If nobody listens there.
pub async fn connect(path: &Path) -> anyhow::Result<AdminClient<Channel>> {
    Ok(AdminClient::new(channel(path).await?))
}

/// A gRPC channel to the Unix socket at `path`.
///
/// # Errors
/// If nobody listens there.
pub async fn channel(path: &Path) -> anyhow::Result<Channel> {
    let endpoint = Endpoint::from_static("http://localhost");
    let channel = endpoint
        .connect_with_connector(Socket(path.to_owned()))
        .await;
    channel.with_context(|| format!("nobody answers at {}", path.display()))
}

/// Connects to a Unix socket, whatever the address says.
#[derive(Clone)]
struct Socket(PathBuf);

impl tower_service::Service<Uri> for Socket {
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
