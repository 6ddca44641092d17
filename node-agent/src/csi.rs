//! The node's driver of volumes: each pod that wants one gets a directory with a socket in it, and
//! who connects there is that pod, whatever can be seen of its processes.
//!
//! A kubelet finds the driver by itself (no registrar beside it), and asks it to publish a volume
//! with the pod's own token. That token is what the authority is shown; the rest of what the
//! kubelet says has to agree with it.

mod listen;
mod mount;
mod nameless;
mod record;
mod refused;
mod request;
mod service;
mod sockets;
mod target;
mod volumes;

use refused::Refused;
pub(crate) use sockets::Sockets;

use crate::agent::PodEvent;
use crate::config::Config;
use crate::metrics::Metrics;
use arx_daemon::drain::{Drain, Tasks};
use arx_daemon::files::SocketError;
use arx_daemon::ops::Condition;
use service::{Driver, Parts};
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::{Mutex, mpsc};
use volumes::Volumes;

/// Why the driver can't begin.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// A directory.
    #[error("{}: {error}; the sockets of pods need it", .path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// The system's answer.
        error: io::Error,
    },
    /// What was published before.
    #[error("the sockets of pods can't be served again: {0}")]
    Restore(String),
    /// A socket of the kubelet's.
    #[error(transparent)]
    Socket(#[from] SocketError),
}

/// What the driver is started with.
#[derive(Debug)]
pub(crate) struct Start<'a> {
    pub(crate) config: &'a Config,
    pub(crate) sockets: Sockets,
    /// Where the owner of identities hears of pods.
    pub(crate) pods: mpsc::Sender<PodEvent>,
    pub(crate) metrics: Metrics,
    /// Whether the kubelet has taken the driver.
    pub(crate) condition: Condition,
    pub(crate) drain: &'a Drain,
    pub(crate) tasks: &'a Tasks,
}

/// Starts the driver, if the configuration has one: first the sockets of pods that are there, then
/// those of the kubelet.
///
/// # Errors
/// If it can't begin.
pub(crate) async fn start(start: Start<'_>) -> Result<(), DriverError> {
    let Some(options) = &start.config.pod_sockets else {
        return Ok(());
    };
    let endpoint = options.endpoint();
    let registration = options.registration();
    // The kubelet's, who makes it at its start, for all drivers.
    made(registration.parent().unwrap_or(&registration), 0o750)?;
    private(endpoint.parent().unwrap_or(&endpoint))?;
    private(&options.directory)?;
    let mut volumes = Volumes::new(
        &options.kubelet_root,
        &options.directory,
        start.sockets,
        start.pods,
        start.metrics.clone(),
    );
    let restored = volumes.restore().await;
    restored.map_err(|refused| DriverError::Restore(refused.to_string()))?;
    let driver = Driver(Arc::new(Parts {
        name: options.driver.clone(),
        node: start.config.node.clone(),
        root: options.kubelet_root.clone(),
        audience: options.audience.clone(),
        endpoint: endpoint.clone(),
        volumes: Arc::new(Mutex::new(volumes)),
        tasks: start.tasks.clone(),
        metrics: start.metrics.clone(),
        registered: Registered::new(start.condition),
    }));
    // That by which it is found comes last.
    for path in [endpoint, registration] {
        let listener = listen::bind(&path)?;
        let until = (start.drain, start.tasks);
        listen::serve(listener, &driver, until, &start.metrics);
        tracing::info!(socket = %path.display(), driver = options.driver, "listening to the kubelet");
    }
    Ok(())
}

/// Makes a directory which nobody else looks into, or makes it that.
fn private(path: &Path) -> Result<(), DriverError> {
    made(path, 0o700)?;
    fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(refused(path))
}

/// Makes a directory and those above it, where they are not there.
fn made(path: &Path, mode: u32) -> Result<(), DriverError> {
    let mut builder = DirBuilder::new();
    let made = builder.recursive(true).mode(mode).create(path);
    made.map_err(refused(path))
}

fn refused(path: &Path) -> impl FnOnce(io::Error) -> DriverError {
    let path = path.to_owned();
    move |error| DriverError::Directory { path, error }
}

/// Whether the kubelet has taken the driver.
#[derive(Debug)]
struct Registered(Condition);

impl Registered {
    fn new(condition: Condition) -> Self {
        condition.set_failing(
            "ARX-CSI-UNREGISTERED",
            "the kubelet has not registered the driver yet; pods that have their socket are served",
        );
        Self(condition)
    }

    fn told(&self, registered: bool, error: &str) {
        if registered {
            tracing::info!("the kubelet has registered the driver");
            return self.0.set_ok();
        }
        let error: String = error.chars().take(1024).collect();
        tracing::error!(
            code = "ARX-CSI-UNREGISTERED",
            error,
            "the kubelet has refused the driver"
        );
        self.0.set_failing(
            "ARX-CSI-UNREGISTERED",
            format!("the kubelet has refused the driver: {error}"),
        );
    }
}
