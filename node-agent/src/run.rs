//! The process: everything is put together here, started, and ended in good order.

use crate::agent::{Agent, Conditions, Ears, Parts};
use crate::attest::Peer;
use crate::attest::local::Digests;
use crate::authority::{Authority, NodeId};
use crate::cache::{Cache, CacheError, KeyFileError, sealing_key};
use crate::config::Config;
use crate::csi::{self, DriverError};
use crate::doorway::Doorway;
use crate::metrics::Metrics;
use crate::reload;
use crate::socket::Connections;
use arx_daemon::drain::{self, Drain, Tasks};
use arx_daemon::files::SocketError;
use arx_daemon::log::Log;
use arx_daemon::ops::{self, Process, Readiness};
use arx_daemon::{Clock, exit};
use arx_identity::IdError;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::sync::{Notify, mpsc, watch};

/// How long the process has to end. Proxies keep what they hold, so that is short.
const GRACE: Duration = Duration::from_secs(10);
/// Streams that wait to be taken in.
const OPENS: usize = 1024;
const FROM_AUTHORITY: usize = 64;
/// More pods than a node has: all of them are told at the start, before anybody listens.
const PODS: usize = 4096;

/// Why the process can't begin.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The key of the cache.
    #[error(transparent)]
    Key(#[from] KeyFileError),
    /// The cache.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The socket of proxies.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The driver of pods' volumes.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// The operator's port, or signals.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Names that make no SPIFFE id; the configuration was checked for that.
    #[error("this node's SPIFFE id: {0}")]
    Id(#[from] IdError),
}

impl StartError {
    /// The exit code for it: whether starting again can help without a change.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Key(KeyFileError::Refused(_) | KeyFileError::NotAKey { .. }) | Self::Id(_) => {
                exit::CONFIG
            }
            Self::Socket(SocketError::NotASocket(_) | SocketError::TooLong { .. }) => exit::CONFIG,
            _ => exit::RUNTIME,
        }
    }
}

/// Runs the agent until it is told to end; the exit code.
///
/// # Errors
/// If it can't begin.
pub async fn run(
    config: Config,
    path: PathBuf,
    clock: Clock,
    log: Option<Log>,
) -> Result<u8, StartError> {
    let (drain, mut reloads) = drain::listen(GRACE)?;
    let (agent, config) = start(config, &clock, &drain).await?;
    while tokio::select! {
        () = drain.requested() => false,
        () = reloads.next() => true,
    } {
        reload::reload(&path, &config, log.as_ref());
    }
    agent.tasks.finish().await;
    Ok(drain.exit_code())
}

/// A running agent; it ends with the [`Drain`] that it was given.
#[derive(Debug)]
pub struct Running {
    /// All its tasks.
    pub tasks: Tasks,
    /// How it goes.
    pub readiness: Readiness,
    /// The operator's port.
    pub ops: ops::Serving,
}

/// Starts every part. The cache is served before the authority is called.
///
/// # Errors
/// If it can't begin.
pub async fn start(
    config: Config,
    clock: &Clock,
    drain: &Drain,
) -> Result<(Running, watch::Sender<Arc<Config>>), StartError> {
    let config = Arc::new(config);
    let ids = NodeId::new(&config.trust_domain, &config.cluster, &config.node)?;
    let key = Arc::new(sealing_key(&config.state.cache_key_file)?);
    let (cache, loaded) = Cache::open(&config.state.directory, &key, &ids.node, clock.now())?;
    let cache_id = cache.id();

    let tasks = Tasks::new(drain);
    let readiness = Readiness::new();
    let condition = readiness.condition("authority");
    let conditions = Conditions {
        trust: readiness.condition("trust"),
        cache: readiness.condition("cache"),
    };
    conditions.cache.set_ok();
    let metrics = Metrics::default();
    let loosened = Arc::new(Notify::new());
    let process = Process {
        name: "arx-node-agent",
        version: env!("CARGO_PKG_VERSION"),
    };
    let mut registry = ops::registry(&process, clock, &readiness, &tasks);
    metrics.register(&mut registry);

    let (current, configs) = watch::channel(Arc::clone(&config));
    let agent = Agent::new(Parts {
        config: configs.clone(),
        clock: clock.clone(),
        metrics: metrics.clone(),
        cache,
        loaded,
        conditions,
        loosened: Arc::clone(&loosened),
    });
    let (svid, trust) = agent.for_the_authority();
    let (opens, opens_ear) = mpsc::channel(OPENS);
    let (events, streams_ear) = mpsc::unbounded_channel();
    let (authority_events, authority_ear) = mpsc::channel(FROM_AUTHORITY);

    // First the socket: proxies come before the authority does.
    let listener = arx_daemon::files::bind_socket(&config.socket.path, config.socket.mode.0)?;
    let listener = UnixListener::from_std(listener)?;
    let doorway = Doorway {
        pod: None,
        config: configs,
        digests: Arc::new(Digests::default()),
        metrics: metrics.clone(),
        opens,
        events,
        quiet: Arc::default(),
    };
    let connections = Connections {
        max: config.socket.max_connections,
        peers: Peer::of,
        drain: drain.clone(),
        tasks: tasks.clone(),
        metrics: metrics.clone(),
        loosened,
    };
    let of_pods = config.pod_sockets.as_ref().map(|options| Connections {
        max: options.max_connections,
        peers: Peer::of_socket,
        ..connections.clone()
    });
    let (pods, pods_ear) = mpsc::channel(PODS);
    if let Some(connections) = of_pods {
        csi::start(csi::Start {
            config: &config,
            sockets: csi::Sockets {
                doorway: doorway.clone(),
                connections,
            },
            pods,
            metrics: metrics.clone(),
            condition: readiness.condition("kubelet"),
            drain,
            tasks: &tasks,
        })
        .await?;
    }
    connections.serve(listener, arx_sds::SdsService::new(Arc::new(doorway)));
    tracing::info!(
        socket = %config.socket.path.display(),
        node = %ids.node,
        "serving proxies"
    );
    let watching = (clock.clone(), drain.clone());
    tasks.spawn("clock", drain::OnPanic::End, async move {
        let (clock, drain) = watching;
        tokio::select! { () = clock.watch() => {} () = drain.requested() => {} }
    });
    let link = Authority {
        config: Arc::clone(&config),
        clock: clock.clone(),
        drain: drain.clone(),
        tasks: tasks.clone(),
        ids,
        svid,
        cache_id,
        trust,
        events: authority_events,
        condition,
        metrics,
    }
    .start();
    let ears = Ears {
        opens: opens_ear,
        streams: streams_ear,
        authority: authority_ear,
        pods: pods_ear,
    };
    agent.start(ears, link, drain, &tasks);
    let ops = ops::Server::bind(config.ops.address).await?;
    let ops = ops.start(readiness.clone(), registry, drain.clone());
    let running = Running {
        tasks,
        readiness,
        ops,
    };
    Ok((running, current))
}

#[cfg(test)]
mod tests;
