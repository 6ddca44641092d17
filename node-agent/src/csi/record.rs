//! What is kept of a volume, in a directory of its own: what is needed to serve it again after the
//! agent has been started anew. Nothing in it is secret: tokens come again with the kubelet's next
//! call, and certificates are in the sealed cache.
//!
//! ```text
//! <directory>/<digest of the volume's id>/   0700
//!     volume.json                            0600
//!     socket/                                0755, which the pod sees, read-only
//!         socket                             0666
//! ```

use super::target::Target;
use crate::attest::{Pod, PodUid};
use arx_daemon::files::write_atomically;
use arx_identity::crypto;
use serde::{Deserialize, Serialize};
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// What pods find in their volume. Istio's proxies look for a socket of this name in the volume
/// that they call `workload-socket`.
pub(crate) const SOCKET: &str = "socket";
const SHOWN: &str = "socket";
const RECORD: &str = "volume.json";

/// A volume that is published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) volume: String,
    pub(crate) target: Target,
    pub(crate) pod: Pod,
}

#[derive(Serialize, Deserialize)]
struct Saved {
    volume: String,
    target: String,
    pod_uid: String,
    pod_namespace: String,
    pod_name: String,
    service_account: String,
}

/// The directory of one volume.
#[derive(Clone, Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// That of the volume with this id.
    pub(crate) fn of(directory: &Path, volume: &str) -> Self {
        let digest = crypto::sha256(volume.as_bytes());
        let hex: String = digest[..16].iter().map(|b| format!("{b:02x}")).collect();
        Self(directory.join(hex))
    }

    /// All that are there.
    pub(crate) fn all(directory: &Path) -> io::Result<Vec<Self>> {
        let entries = fs::read_dir(directory)?;
        entries.map(|entry| Ok(Self(entry?.path()))).collect()
    }

    /// What the pod sees.
    pub(crate) fn shown(&self) -> PathBuf {
        self.0.join(SHOWN)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.shown().join(SOCKET)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Makes it, with what is to be kept.
    pub(crate) fn make(&self, record: &Record) -> io::Result<()> {
        // What is there was left behind by somebody who got no further.
        self.remove()?;
        DirBuilder::new().mode(0o700).create(&self.0)?;
        let shown = self.shown();
        fs::create_dir(&shown)?;
        // Whatever the umask says.
        fs::set_permissions(&shown, Permissions::from_mode(0o755))?;
        let saved = serde_json::to_vec(&Saved::from(record))?;
        write_atomically(self.0.join(RECORD), &saved, 0o600)
    }

    /// What was kept; None if that is not whole, or of another directory.
    pub(crate) fn read(&self, root: &Path) -> Option<Record> {
        let saved = fs::read(self.0.join(RECORD)).ok()?;
        let saved: Saved = serde_json::from_slice(&saved).ok()?;
        let own = Self::of(self.0.parent()?, &saved.volume);
        if own.0 != self.0 || !self.shown().is_dir() {
            return None;
        }
        Some(Record {
            target: Target::parse(&saved.target, root).ok()?,
            pod: Pod {
                uid: PodUid::parse(&saved.pod_uid)?,
                namespace: saved.pod_namespace,
                name: saved.pod_name,
                service_account: saved.service_account,
            },
            volume: saved.volume,
        })
    }

    /// Removes it with everything in it, if it is there.
    pub(crate) fn remove(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => fs::remove_file(&self.0),
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

impl From<&Record> for Saved {
    fn from(record: &Record) -> Self {
        Self {
            volume: record.volume.clone(),
            target: record.target.as_str().to_owned(),
            pod_uid: record.pod.uid.to_string(),
            pod_namespace: record.pod.namespace.clone(),
            pod_name: record.pod.name.clone(),
            service_account: record.pod.service_account.clone(),
        }
    }
}
