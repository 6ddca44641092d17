//! The roots where Kubernetes and its users look for them: ConfigMaps in namespaces, a
//! ClusterTrustBundle, and the `caBundle` of webhooks and API services.
//!
//! Each is written by server-side apply under one field manager, when it differs, and no sooner
//! than the store has the bundle; it says of which sequence it is, and a lower one never takes
//! the place of a higher. What somebody else writes is told and left alone. In a rotation all of
//! them are consumers: a gate waits until each holds the bundle, and until files in pods had time
//! to follow.

mod config;
mod keep;
mod place;
mod trouble;
mod view;
mod wanted;
mod watch;
mod world;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arx_identity::{KeyId, TrustBundle};
use tokio::time::Instant;

pub use config::Options;
pub(crate) use config::{problems, signer};
use place::Place;
use trouble::Trouble;
pub(crate) use view::{Health, Outcome};
pub(crate) use wanted::DOMAIN;
use wanted::Wanted;
use world::World;

use crate::kubernetes;
use crate::token::{Cluster, SourceError};

/// An answer to anything but a watch comes within this.
const CONNECT: Duration = Duration::from_secs(5);
/// Between two lines of the log about one kind of trouble.
const TOLD: Duration = Duration::from_secs(60);

/// All clusters in which roots are published.
#[derive(Clone, Debug, Default)]
pub struct Publishers {
    all: Vec<Arc<Publisher>>,
}

/// One cluster.
struct Publisher {
    cluster: Arc<str>,
    client: kube::Client,
    options: Options,
    places: Vec<Place>,
    /// How long after it was written something in a file of a pod counts as there.
    settle: Duration,
    /// By which version ClusterTrustBundles are served.
    version: Mutex<String>,
    world: Mutex<World>,
    counted: [AtomicU64; 3],
    /// When the log last had each code.
    told: Mutex<HashMap<&'static str, Instant>>,
}

impl Publishers {
    /// What the configuration names.
    ///
    /// # Errors
    /// If a kubeconfig can't be used.
    pub async fn new(
        all: &[Options],
        clusters: &[Cluster],
        bundle: &TrustBundle,
        active: KeyId,
    ) -> Result<Self, SourceError> {
        let mut publishers = Vec::with_capacity(all.len());
        for options in all {
            let wrong = |reason| SourceError {
                cluster: options.cluster.clone(),
                reason,
            };
            let cluster = clusters.iter().find(|it| it.name == options.cluster);
            let kubeconfig = cluster.and_then(|it| it.kubeconfig.as_deref());
            let config = kubernetes::config(kubeconfig, CONNECT).await;
            let mut config = config.map_err(wrong)?;
            // A watch is silent most of the time.
            config.read_timeout = None;
            let client = kube::Client::try_from(config);
            let client = client.map_err(|error| wrong(kubernetes::in_short(&error)))?;
            let wanted = Wanted::of(bundle, active);
            publishers.push(Arc::new(Publisher::with(client, options, wanted)));
        }
        Ok(Self { all: publishers })
    }

    /// What is published in a cluster, if anything is.
    pub(crate) fn of(&self, cluster: &str) -> Option<&Options> {
        let mut all = self.all.iter().map(|it| &it.options);
        all.find(|it| it.cluster == cluster)
    }
}

impl Publisher {
    fn with(client: kube::Client, options: &Options, wanted: Wanted) -> Self {
        let places = Place::all(options);
        Self {
            cluster: options.cluster.as_str().into(),
            client,
            world: Mutex::new(World::new(places.clone(), &options.namespaces, wanted)),
            places,
            options: options.clone(),
            settle: options.settle.get(),
            version: Mutex::new("v1".to_owned()),
            counted: Default::default(),
            told: Mutex::default(),
        }
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, trouble: Option<&Trouble>) {
        let outcome = Outcome::of(trouble);
        self.counted[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Publisher in {}", self.cluster)
    }
}

#[cfg(test)]
mod tests;
