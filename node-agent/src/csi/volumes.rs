//! The volumes of this node's pods: which are published, and how they come and go. What a kubelet
//! says again changes nothing but the token.

use super::mount::{self, Detached, Found, Place};
use super::record::{Folder, Record};
use super::refused::Refused;
use super::request::{Publish, Unpublish};
use super::sockets::Sockets;
use super::target::Target;
use crate::agent::PodEvent;
use crate::attest::{Pod, ServiceAccountToken};
use crate::metrics::Metrics;
use crate::socket::Close;
use arx_daemon::files::bind_socket;
use std::collections::HashMap;
use std::io;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Everybody in the pod may connect.
const SOCKET_MODE: u32 = 0o666;

/// All volumes, and what it takes to serve them.
#[derive(Debug)]
pub(crate) struct Volumes {
    /// The kubelet's root.
    root: PathBuf,
    /// Where ours are.
    directory: PathBuf,
    sockets: Sockets,
    pods: mpsc::Sender<PodEvent>,
    metrics: Metrics,
    published: HashMap<String, Volume>,
}

/// One that is published.
#[derive(Debug)]
struct Volume {
    target: Target,
    pod: Arc<Pod>,
    /// Serves while it is held.
    _socket: Close,
}

impl Volumes {
    /// None yet; they will be in `directory`, which is there.
    pub(crate) fn new(
        root: &Path,
        directory: &Path,
        sockets: Sockets,
        pods: mpsc::Sender<PodEvent>,
        metrics: Metrics,
    ) -> Self {
        Self {
            root: root.to_owned(),
            directory: directory.to_owned(),
            sockets,
            pods,
            metrics,
            published: HashMap::new(),
        }
    }

    /// Serves again what was published before the agent has ended. What no pod sees any more, as
    /// after a reboot, is removed.
    ///
    /// # Errors
    /// If the directory can't be read.
    pub(crate) async fn restore(&mut self) -> Result<(), Refused> {
        let (directory, root) = (self.directory.clone(), self.root.clone());
        let found = blocking(move || {
            let what = format!("reading {}", directory.display());
            left(&directory, &root).map_err(Refused::system(what))
        });
        for (record, listener) in found.await? {
            let Record {
                volume,
                target,
                pod,
            } = record;
            let pod = Arc::new(pod);
            self.tell(PodEvent::Published {
                pod: Arc::clone(&pod),
                token: None,
            })
            .await;
            match self.sockets.serve(listener, Arc::clone(&pod)) {
                Ok(socket) => self.insert(volume, target, pod, socket),
                Err(error) => tracing::error!(
                    code = "ARX-CSI-RESTORE",
                    %pod,
                    %error,
                    "the socket of a pod could not be served again"
                ),
            }
        }
        if !self.published.is_empty() {
            let pods = self.published.len();
            tracing::info!(pods, "serving the sockets of pods again");
        }
        Ok(())
    }

    /// Publishes a volume, or takes its pod's next token.
    ///
    /// # Errors
    /// If it can't be, with nothing left behind.
    pub(crate) async fn publish(&mut self, call: Publish) -> Result<(), Refused> {
        let Publish {
            volume,
            target,
            pod,
            token,
        } = call;
        if let Some(known) = self.published.get(&volume) {
            let pod = known.same(&volume, &target, &pod)?;
            self.again(&volume, target).await?;
            self.published(pod, token).await;
            return Ok(());
        }
        if let Some(other) = self.published.values().find(|it| it.target == target) {
            return Err(Refused::Taken(format!(
                "another volume is published at {}, for pod {}",
                target.as_str(),
                other.pod
            )));
        }
        let record = Record {
            volume: volume.clone(),
            target: target.clone(),
            pod: pod.clone(),
        };
        let pod = Arc::new(pod);
        // The certificate is fetched while the rest is done.
        self.published(Arc::clone(&pod), token).await;
        match self.begin(record, &pod).await {
            Ok(socket) => {
                tracing::info!(%pod, target = target.as_str(), "the socket of a pod is published");
                self.insert(volume, target, pod, socket);
                Ok(())
            }
            Err(refused) => {
                // What can't be removed now is at the next attempt, or at the next start.
                let _tried = self.remove(&volume).await;
                self.gone(pod).await;
                Err(refused)
            }
        }
    }

    /// Takes a volume away. One that is not there is away already.
    ///
    /// # Errors
    /// If the system refuses; it can be tried again.
    pub(crate) async fn unpublish(&mut self, call: Unpublish) -> Result<(), Refused> {
        let Unpublish { volume, target } = call;
        let root = self.root.clone();
        let at = target.clone();
        let how = blocking(move || match Place::open(&at, &root)? {
            Some(place) => place.detach(),
            None => Ok(Detached::Absent),
        })
        .await?;
        if how == Detached::Lazily {
            tracing::warn!(
                code = "ARX-CSI-BUSY",
                target = target.as_str(),
                "somebody still uses the volume of a pod that has ended: it is out of sight, and goes with them"
            );
        }
        let ours = self.published.get(&volume);
        if ours.is_some_and(|known| known.target != target) {
            // Published elsewhere, where nothing was said about it.
            return Ok(());
        }
        self.remove(&volume).await?;
        // Not before nothing is left of it: a kubelet tries again what has failed.
        if let Some(known) = self.published.remove(&volume) {
            self.show();
            tracing::info!(pod = %known.pod, "the socket of a pod is gone");
            self.gone(known.pod).await;
        }
        Ok(())
    }

    /// Makes what a new volume needs; the listener serves already when the pod sees it.
    async fn begin(&self, record: Record, pod: &Arc<Pod>) -> Result<Close, Refused> {
        let folder = Folder::of(&self.directory, &record.volume);
        let (root, shown, target) = (self.root.clone(), folder.shown(), record.target.clone());
        let listener = blocking(move || make(&folder, &record)).await?;
        let served = self.sockets.serve(listener, Arc::clone(pod));
        let socket = served.map_err(Refused::system("serving the socket"))?;
        blocking(move || place(&target, &root)?.attach(&shown)).await?;
        Ok(socket)
    }

    async fn remove(&self, volume: &str) -> Result<(), Refused> {
        let folder = Folder::of(&self.directory, volume);
        blocking(move || {
            let what = format!("removing {}", folder.path().display());
            folder.remove().map_err(Refused::system(what))
        })
        .await
    }

    async fn again(&self, volume: &str, target: Target) -> Result<(), Refused> {
        let (root, shown) = (
            self.root.clone(),
            Folder::of(&self.directory, volume).shown(),
        );
        let attached = blocking(move || {
            let place = place(&target, &root)?;
            match place.look()? {
                Found::Mount(mount) if mount::shows(&mount, &shown) => Ok(false),
                Found::Mount(_) => Err(place.taken()),
                Found::Nothing | Found::Directory(_) => place.attach(&shown).map(|()| true),
            }
        })
        .await?;
        if attached {
            tracing::warn!(
                code = "ARX-CSI-REMOUNTED",
                volume,
                "a published volume was not mounted any more, and is again; containers that run do not see it"
            );
        }
        Ok(())
    }

    fn insert(&mut self, volume: String, target: Target, pod: Arc<Pod>, socket: Close) {
        let entry = Volume {
            target,
            pod,
            _socket: socket,
        };
        self.published.insert(volume, entry);
        self.show();
    }

    fn show(&self) {
        let volumes = i64::try_from(self.published.len()).unwrap_or(i64::MAX);
        self.metrics.pod_volumes.set(volumes);
    }

    async fn published(&self, pod: Arc<Pod>, token: Arc<ServiceAccountToken>) {
        let token = Some(token);
        self.tell(PodEvent::Published { pod, token }).await;
    }

    /// The processes of a pod have ended, unless it has another volume.
    async fn gone(&self, pod: Arc<Pod>) {
        if self.published.values().all(|volume| volume.pod != pod) {
            self.tell(PodEvent::Gone { pod }).await;
        }
    }

    async fn tell(&self, event: PodEvent) {
        // Fails only when the process is ending.
        let _ending = self.pods.send(event).await;
    }
}

impl Volume {
    /// The pod, if a call is about this very volume.
    fn same(&self, volume: &str, target: &Target, pod: &Pod) -> Result<Arc<Pod>, Refused> {
        if self.target != *target {
            return Err(Refused::Taken(format!(
                "volume {volume:?} is published at {} already, and can be in one place only",
                self.target.as_str()
            )));
        }
        if *self.pod != *pod {
            return Err(Refused::Taken(format!(
                "volume {volume:?} is published for pod {} already, and not for pod {pod}",
                self.pod
            )));
        }
        Ok(Arc::clone(&self.pod))
    }
}

fn make(folder: &Folder, record: &Record) -> Result<UnixListener, Refused> {
    let what = format!("making {}", folder.path().display());
    folder.make(record).map_err(Refused::system(what))?;
    bind_socket(folder.socket(), SOCKET_MODE).map_err(|error| Refused::System {
        what: "the pod's socket".to_owned(),
        error: io::Error::other(error),
    })
}

fn place<'t>(target: &'t Target, root: &Path) -> Result<Place<'t>, Refused> {
    Place::open(target, root)?
        .ok_or_else(|| target.refused("the directory above it is not there, and kubelets make it"))
}

/// What pods still see, listened to again; the rest is removed.
fn left(directory: &Path, root: &Path) -> io::Result<Vec<(Record, UnixListener)>> {
    let mut found = Vec::new();
    for folder in Folder::all(directory)? {
        let record = match folder.read(root) {
            Some(record) => match is_seen(&folder, &record.target, root) {
                Ok(true) => record,
                Ok(false) => {
                    folder.remove()?;
                    continue;
                }
                Err(error) => {
                    not_restored(&folder, &error);
                    continue;
                }
            },
            None => {
                folder.remove()?;
                continue;
            }
        };
        match bind_socket(folder.socket(), SOCKET_MODE) {
            Ok(listener) => found.push((record, listener)),
            Err(error) => not_restored(&folder, &error),
        }
    }
    Ok(found)
}

fn is_seen(folder: &Folder, target: &Target, root: &Path) -> Result<bool, Refused> {
    let Some(place) = Place::open(target, root)? else {
        return Ok(false);
    };
    Ok(match place.look()? {
        Found::Mount(mount) => mount::shows(&mount, &folder.shown()),
        Found::Nothing | Found::Directory(_) => false,
    })
}

fn not_restored(folder: &Folder, error: &dyn std::fmt::Display) {
    tracing::error!(
        code = "ARX-CSI-RESTORE",
        folder = %folder.path().display(),
        %error,
        "the socket of a pod could not be served again"
    );
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refused> + Send + 'static,
) -> Result<T, Refused> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(io::Error::other)
        .map_err(Refused::system("the work of a call"))?
}
