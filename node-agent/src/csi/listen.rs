//! The sockets that a kubelet connects to. It is root, and nobody else has any business here: the
//! directory is closed to others, and who connects is asked for by the kernel's word as well.

use super::nameless::Nameless;
use super::service::Driver;
use crate::metrics::Metrics;
use arx_daemon::calls::{Calls, Running};
use arx_daemon::drain::{Drain, OnPanic, Tasks};
use arx_daemon::files::{self, SocketError};
use arx_proto::csi::v1::identity_server::IdentityServer;
use arx_proto::csi::v1::node_server::NodeServer;
use arx_proto::pluginregistration::registration_server::RegistrationServer;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::io;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, Semaphore};
use tokio::time::timeout;
use tower_service::Service as _;

/// A kubelet connects anew for each call, and makes several at a time.
const CONNECTIONS: usize = 64;
/// A connection on which nothing is asked for so long is closed.
const FIRST: Duration = Duration::from_secs(10);
/// When nothing was heard of a peer for so long, it is asked whether it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// After a connection could not be accepted.
const AGAIN: Duration = Duration::from_millis(100);
/// How long connections may take to end when the process does.
const LINGER: Duration = Duration::from_secs(2);

/// Binds a socket for root alone.
///
/// # Errors
/// If somebody else listens there, or the system refuses.
pub(super) fn bind(path: &Path) -> Result<UnixListener, SocketError> {
    let listener = files::bind_socket(path, 0o600)?;
    UnixListener::from_std(listener).map_err(|source| SocketError::Io {
        path: path.to_owned(),
        source,
    })
}

/// Answers whoever connects, until the process ends.
pub(super) fn serve(
    listener: UnixListener,
    driver: &Driver,
    (drain, tasks): (&Drain, &Tasks),
    metrics: &Metrics,
) {
    let services = Services {
        identity: IdentityServer::new(driver.clone()),
        node: NodeServer::new(driver.clone()),
        registration: RegistrationServer::new(driver.clone()),
    };
    let (drain, inner, metrics) = (drain.clone(), tasks.clone(), metrics.clone());
    tasks.spawn("kubelet socket", OnPanic::End, async move {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let accepted = tokio::select! {
                place = Arc::clone(&places).acquire_owned() => match place {
                    Ok(place) => tokio::select! {
                        accepted = listener.accept() => accepted.map(|(stream, _)| (stream, place)),
                        () = drain.requested() => return,
                    },
                    Err(_) => return,
                },
                () = drain.requested() => return,
            };
            let (stream, place) = match accepted.and_then(admitted) {
                Ok(Some(accepted)) => accepted,
                Ok(None) => {
                    metrics.rejected("kubelet");
                    continue;
                }
                Err(error) => {
                    tracing::warn!(
                        code = "ARX-AGENT-ACCEPT",
                        %error,
                        "a connection was not accepted; raise the limit of open files if this goes on"
                    );
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
            };
            let (services, drain) = (services.clone(), drain.clone());
            inner.spawn("kubelet", OnPanic::Continue, async move {
                services.connection(stream, drain).await;
                drop(place);
            });
        }
    });
}

/// Lets root in, and nobody else.
fn admitted<P>((stream, place): (UnixStream, P)) -> io::Result<Option<(UnixStream, P)>> {
    let uid = stream.peer_cred()?.uid();
    if uid == 0 {
        return Ok(Some((stream, place)));
    }
    tracing::warn!(
        code = "ARX-CSI-PEER",
        uid,
        "a connection to a kubelet's socket was closed: it is not root's"
    );
    Ok(None)
}

#[derive(Clone, Debug)]
struct Services {
    identity: IdentityServer<Driver>,
    node: NodeServer<Driver>,
    registration: RegistrationServer<Driver>,
}

impl Services {
    async fn connection(self, stream: UnixStream, drain: Drain) {
        let asked = Arc::new(Notify::new());
        let first = Arc::clone(&asked);
        let answer = service_fn(move |request: http::Request<Incoming>| {
            asked.notify_one();
            let mut services = self.clone();
            async move {
                // Whatever none of them knows, each answers as unimplemented.
                let service = request.uri().path().split('/').nth(1).unwrap_or_default();
                match service {
                    "csi.v1.Node" => services.node.call(request).await,
                    "pluginregistration.Registration" => services.registration.call(request).await,
                    _ => services.identity.call(request).await,
                }
            }
        });
        let silent = async {
            if timeout(FIRST, first.notified()).await.is_ok() {
                std::future::pending::<()>().await;
            }
        };
        let (calls, mut running) = (Calls::default(), Running::default());
        let connection = http2::Builder::new(calls.clone())
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEP_ALIVE)
            .serve_connection(TokioIo::new(Nameless::new(stream)), answer);
        let mut connection = pin!(connection);
        let ended = tokio::select! {
            ended = calls.clone().drive(connection.as_mut(), &mut running) => ended,
            () = silent => Ok(()),
            () = drain.requested() => {
                connection.as_mut().graceful_shutdown();
                let ending = calls.drive(connection.as_mut(), &mut running);
                timeout(LINGER, ending).await.unwrap_or(Ok(()))
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "connection of a kubelet ended");
        }
    }
}
