//! Connections: over a Unix socket for whoever may open it, over TCP for whoever shows a
//! certificate.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use arx_daemon::calls::{Calls, Running};
use arx_daemon::drain::{Drain, OnPanic, Tasks};
use arx_daemon::files;
use arx_daemon::idle::Counted;
use arx_daemon::places::Places;
use arx_identity::tls::Mutual;
use arx_proto::signer::v1::signer_server::SignerServer;
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::keys;
use crate::service::Service;

/// Connections at a time on which something is asked. An authority needs one.
const CONNECTIONS: usize = 64;

/// Connections at a time on which nothing is asked, and as many in their handshake: of both the oldest
/// goes first, so that they keep nobody out.
const IDLE: usize = 32;

/// How long a handshake may take, and how long a call, from its beginning until its answer was read.
const SOON: Duration = Duration::from_secs(10);

/// Calls at a time on a connection, each with a message of at most 64 KiB.
const CALLS: u32 = 16;

/// All headers of a call together.
const HEADERS: u32 = 16 * 1024;

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

/// Connections that are open, those that are idle, and those in their handshake.
#[derive(Clone)]
struct Bounds {
    all: Arc<Semaphore>,
    idle: Arc<Places<()>>,
    handshakes: Arc<Places<()>>,
}

impl Bounds {
    fn new() -> Self {
        Self {
            all: Arc::new(Semaphore::new(CONNECTIONS + 2 * IDLE)),
            idle: Arc::new(Places::new(IDLE)),
            handshakes: Arc::new(Places::new(IDLE)),
        }
    }
}

pub(crate) async fn listen_unix(
    listener: UnixListener,
    service: SignerServer<Service>,
    tasks: Tasks,
    drain: Drain,
) {
    let bounds = Bounds::new();
    while let Ok(place) = Arc::clone(&bounds.all).acquire_owned().await {
        let accepted = tokio::select! {
            () = drain.requested() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            sleep(AGAIN).await;
            continue;
        };
        let (idle, service, drain) = (Arc::clone(&bounds.idle), service.clone(), drain.clone());
        tasks.spawn("connection", OnPanic::Continue, async move {
            serve(stream, service, &idle, drain).await;
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
    let bounds = Bounds::new();
    while let Ok(place) = Arc::clone(&bounds.all).acquire_owned().await {
        let accepted = tokio::select! {
            () = drain.requested() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, peer)) = accepted else {
            sleep(AGAIN).await;
            continue;
        };
        let (tls, service, drain) = (Arc::clone(&tls), service.clone(), drain.clone());
        let bounds = bounds.clone();
        tasks.spawn("connection", OnPanic::Continue, async move {
            let shaking = bounds.handshakes.take(());
            let shaken = tokio::select! {
                shaken = timeout(SOON, tls.accept(stream)) => match shaken {
                    Ok(shaken) => shaken.map_err(|error| error.to_string()),
                    Err(_) => Err("its handshake has taken 10 s".to_owned()),
                },
                () = shaking.lost_to_another() => Err("too many have not ended their handshake".to_owned()),
            };
            drop(shaking);
            match shaken {
                Ok(stream) => serve(stream, service, &bounds.idle, drain).await,
                Err(why) => tracing::warn!(%peer, "a connection was refused: {why}"),
            }
            drop(place);
        });
    }
}

async fn serve<IO>(stream: IO, service: SignerServer<Service>, idle: &Places<()>, drain: Drain)
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let calls = Calls::default();
    let counted = Counted::new(calls.clone());
    let connection = http2::Builder::new(Soon(counted.clone()))
        .max_concurrent_streams(CALLS)
        .max_header_list_size(HEADERS)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    let mut connection = std::pin::pin!(connection);
    let mut running = Running::default();
    let ended = tokio::select! {
        ended = calls.clone().drive(connection.as_mut(), &mut running) => ended,
        () = counted.idle(idle) => {
            tracing::debug!("a connection was closed on which nothing was asked");
            return;
        }
        () = drain.requested() => {
            connection.as_mut().graceful_shutdown();
            calls.drive(connection.as_mut(), &mut running).await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection has ended early");
    }
}

/// Carries out the calls of a connection, none of them for longer than [`SOON`].
#[derive(Clone)]
struct Soon(Counted);

impl<F> Executor<F> for Soon
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, call: F) {
        self.0.execute(async {
            if timeout(SOON, call).await.is_err() {
                tracing::warn!(
                    "a call was cut off: it did not come whole in 10 s, or its answer was not read"
                );
            }
        });
    }
}
