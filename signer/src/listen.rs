//! Connections: over a Unix socket for whoever may open it, over TCP for whoever shows a
//! certificate.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use arx_daemon::drain::{Drain, OnPanic, Tasks};
use arx_daemon::files;
use arx_identity::tls::Mutual;
use arx_proto::signer::v1::signer_server::SignerServer;
use hyper::server::conn::http2;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Notify, Semaphore};
use tokio::time::timeout;

use crate::keys;
use crate::service::Service;

/// Connections at a time. An authority needs one.
const CONNECTIONS: usize = 64;

/// How long a connection may take until something is asked: its handshake, and then its first request.
const FIRST: Duration = Duration::from_secs(10);

/// After a connection could not be accepted.
const AGAIN: Duration = Duration::from_millis(100);

/// Certificates for the connections.
pub(crate) struct Tls(Arc<Mutual>);

impl Tls {
    pub(crate) fn read(certificate: &Path, key: &Path, clients: &Path) -> anyhow::Result<Self> {
        let text = |path: &Path| {
            std::fs::read_to_string(path)
                .with_context(|| format!("{} cannot be read", path.display()))
        };
        let key = keys::read(key)?;
        let mutual = Mutual::new(&text(certificate)?, &key, &text(clients)?)?;
        Ok(Self(Arc::new(mutual)))
    }
}

pub(crate) fn bind_unix(path: &Path, mode: u32) -> anyhow::Result<UnixListener> {
    Ok(UnixListener::from_std(files::bind_socket(path, mode)?)?)
}

pub(crate) async fn listen_unix(
    listener: UnixListener,
    service: SignerServer<Service>,
    tasks: Tasks,
    drain: Drain,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        let accepted = tokio::select! {
            () = drain.requested() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(AGAIN).await;
            continue;
        };
        let connection = serve(stream, service.clone(), drain.clone());
        tasks.spawn("connection", OnPanic::Continue, async move {
            connection.await;
            drop(place);
        });
    }
}

pub(crate) async fn listen_tls(
    listener: TcpListener,
    Tls(tls): Tls,
    service: SignerServer<Service>,
    tasks: Tasks,
    drain: Drain,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        let accepted = tokio::select! {
            () = drain.requested() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, peer)) = accepted else {
            tokio::time::sleep(AGAIN).await;
            continue;
        };
        let (tls, service, drain) = (Arc::clone(&tls), service.clone(), drain.clone());
        tasks.spawn("connection", OnPanic::Continue, async move {
            match timeout(FIRST, tls.accept(stream)).await {
                Ok(Ok(stream)) => serve(stream, service, drain).await,
                Err(_) => {
                    tracing::warn!(%peer, "a connection was closed: its handshake has taken 10 s")
                }
                Ok(Err(error)) => tracing::warn!(%peer, "a connection was refused: {error}"),
            }
            drop(place);
        });
    }
}

async fn serve<IO>(stream: IO, service: SignerServer<Service>, drain: Drain)
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let asked = Arc::new(Notify::new());
    let first = Arc::clone(&asked);
    let service = TowerToHyperService::new(service);
    let service = service_fn(move |request| {
        asked.notify_one();
        service.call(request)
    });
    let silent = async {
        if timeout(FIRST, first.notified()).await.is_ok() {
            std::future::pending::<()>().await;
        }
    };
    let connection =
        http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = silent => {
            tracing::debug!("a connection was closed: nothing was asked in 10 s");
            return;
        }
        () = drain.requested() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection has ended early");
    }
}
