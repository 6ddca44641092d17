//! Where state is kept, as configured.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use super::{Etcd, EtcdOptions, OpenError, Redb, Shared};

/// Where state is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a file, by one process.
    File(PathBuf),
    /// In etcd.
    Etcd(EtcdOptions),
}

impl Place {
    /// Whether several replicas may work with it at a time.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        match self {
            Self::File(_) => false,
            Self::Etcd(_) => true,
        }
    }

    /// What it is, in two words at most.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::File(_) => "state file",
            Self::Etcd(_) => "etcd",
        }
    }

    /// The store there. A file is made if there is none; services are asked when they are needed
    /// first. Needs a runtime. Blocks on the file system.
    ///
    /// # Errors
    /// [`OpenError`]; what is there is as it was.
    pub fn open(&self, now: SystemTime) -> Result<Shared, OpenError> {
        Ok(match self {
            Self::File(path) => Arc::new(Redb::open_or_create(path, now)?),
            Self::Etcd(options) => Arc::new(Etcd::new(options)?),
        })
    }

    /// The store there, or a copy of it, to look at: a process that works with it does not notice.
    /// `None` if there is no file yet.
    ///
    /// # Errors
    /// [`OpenError`] if it cannot be read.
    pub fn look(&self) -> Result<Option<Shared>, OpenError> {
        Ok(match self {
            Self::File(path) if !path.exists() => None,
            Self::File(path) => Some(Arc::new(Redb::peek(path)?)),
            Self::Etcd(options) => Some(Arc::new(Etcd::new(options)?)),
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Etcd(options) => write!(f, "etcd at {}", options.endpoints.join(", ")),
        }
    }
}
