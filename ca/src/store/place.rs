//! Where state is kept, as configured.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use super::{
    Etcd, EtcdOptions, Kubernetes, KubernetesOptions, OpenError, Redb, Shared, StoreError,
};

/// Where state is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a file, by one process.
    File(PathBuf),
    /// In etcd.
    Etcd(EtcdOptions),
    /// In Secrets of Kubernetes.
    Kubernetes(KubernetesOptions),
}

impl Place {
    /// Whether several replicas may work with it at a time.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        match self {
            Self::File(_) => false,
            Self::Etcd(_) | Self::Kubernetes(_) => true,
        }
    }

    /// What it is, in few words.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::File(_) => "state file",
            Self::Etcd(_) => "etcd",
            Self::Kubernetes(_) => "Secrets of Kubernetes",
        }
    }

    /// The store there. A file is made if there is none; services are asked when they are needed
    /// first. Needs a runtime. Blocks on the file system.
    ///
    /// # Errors
    /// [`OpenError`]; what is there is as it was.
    pub async fn open(&self, now: SystemTime) -> Result<Shared, OpenError> {
        Ok(match self {
            Self::File(path) => Arc::new(Redb::open_or_create(path, now)?),
            Self::Etcd(options) => Arc::new(Etcd::new(options)?),
            Self::Kubernetes(options) => Arc::new(Kubernetes::new(options).await?),
        })
    }

    /// What else keeps this process from working with the store there.
    ///
    /// # Errors
    /// It, in words, or that nobody says.
    pub(crate) async fn try_rights(&self) -> Result<(), String> {
        match self {
            Self::File(_) => Ok(()),
            Self::Etcd(options) => options.try_files(),
            Self::Kubernetes(options) => {
                let missing = Kubernetes::missing_rights(options).await;
                let missing =
                    missing.map_err(|error: StoreError| format!("{error} ({})", error.code()))?;
                if missing.is_empty() {
                    return Ok(());
                }
                let missing: Vec<_> = missing.iter().map(|right| right.verb).collect();
                Err(format!(
                    "its service account may not {} Secrets of that namespace: grant it with a Role (ARX-STORE-REFUSED)",
                    missing.join(", ")
                ))
            }
        }
    }

    /// The store there, or a copy of it, to look at: a process that works with it does not notice.
    /// `None` if there is no file yet.
    ///
    /// # Errors
    /// [`OpenError`] if it cannot be read.
    pub async fn look(&self) -> Result<Option<Shared>, OpenError> {
        Ok(match self {
            Self::File(path) if !path.exists() => None,
            Self::File(path) => Some(Arc::new(Redb::peek(path)?)),
            Self::Etcd(options) => Some(Arc::new(Etcd::new(options)?)),
            Self::Kubernetes(options) => Some(Arc::new(Kubernetes::new(options).await?)),
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Etcd(options) => write!(f, "etcd at {}", options.endpoints.join(", ")),
            Self::Kubernetes(options) => match &options.namespace {
                Some(namespace) => write!(f, "Secrets of namespace {namespace}"),
                None => f.write_str("Secrets of Kubernetes"),
            },
        }
    }
}
