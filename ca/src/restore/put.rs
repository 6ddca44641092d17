//! `arx-ca restore FILE`: puts a backup into a store that is empty, and leaves it shut.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use arx_identity::{Sequence, TrustDomain};
use bytes::Bytes;
use serde_json::Map;
use zeroize::Zeroizing;

use super::backup::{Backup, BackupError};
use crate::seal::{Seal, SourceError};
use crate::state::{Document as _, Restored, encode};
use crate::store::{CasError, Key, Prefix, Schema, Shared, StoreError, list_all};

/// Longest file that is read. State does not grow with the fleet.
const LIMIT: u64 = 16 * 1024 * 1024;

/// What was put back.
#[derive(Debug)]
pub struct PutBack {
    /// The backup's id.
    pub id: String,
    /// When it was made.
    pub made: SystemTime,
    /// What was published last then.
    pub sequence: Sequence,
    /// How many agents there were.
    pub agents: u64,
}

/// A backup was not put back.
#[derive(Debug, thiserror::Error)]
pub enum PutError {
    /// The file can't be read.
    #[error("{}: {error}", path.display())]
    File {
        /// Its path.
        path: PathBuf,
        /// The system's answer.
        error: std::io::Error,
    },
    /// It is no backup for here.
    #[error("{}: {error}", path.display())]
    Backup {
        /// Its path.
        path: PathBuf,
        /// Why not.
        error: String,
        /// The reason code of that.
        code: &'static str,
    },
    /// The sealing key is not there, or can't be used.
    #[error(transparent)]
    Seal(#[from] SourceError),
    /// There is something already.
    #[error(
        "the store holds {key} already, which is not of this backup: put it back into an empty one, and keep what is there until you are sure"
    )]
    NotEmpty {
        /// What is there.
        key: String,
    },
    /// The store can't be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store does not take it.
    #[error("{0}; what was written so far does no harm: run this again")]
    Write(#[from] CasError),
}

impl PutError {
    /// The stable reason code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::File { .. } => "ARX-BACKUP-FILE",
            Self::Backup { code, .. } => code,
            Self::Seal(error) => error.code(),
            Self::NotEmpty { .. } => "ARX-RESTORE-NOT-EMPTY",
            Self::Store(error) => error.code(),
            Self::Write(error) => error.code(),
        }
    }
}

/// Puts the backup in `file` into `store`, which is empty or has part of it from an attempt that
/// was cut off. Whoever starts on it finds it shut.
///
/// # Errors
/// [`PutError`]; then nobody can start on what is there.
pub async fn put_back(
    file: &Path,
    store: &Shared,
    seal: &Seal,
    trust_domain: &TrustDomain,
    now: SystemTime,
) -> Result<PutBack, PutError> {
    let bytes = read(file)?;
    let wrong = |error: BackupError| PutError::Backup {
        path: file.to_owned(),
        code: error.code(),
        error: error.to_string(),
    };
    let backup = Backup::open(&bytes, seal, trust_domain).map_err(wrong)?;
    let values = backup.values(trust_domain).map_err(wrong)?;
    let mut there: BTreeMap<String, Bytes> = BTreeMap::new();
    for entry in list_all(&**store, &Prefix::trust_domain(trust_domain)).await? {
        there.insert(entry.key.to_string(), entry.value);
    }
    let shut = Key::new(trust_domain, &Restored::KIND);
    // Written after everything else, so of a backup that is whole it says the same.
    there.remove(&shut.to_string());
    let of_backup = |key: &str, value: &Bytes| {
        let mut values = values.iter();
        values.any(|(its, content)| its.to_string() == *key && content == value)
    };
    if let Some((key, _)) = there.iter().find(|(key, value)| !of_backup(key, value)) {
        return Err(PutError::NotEmpty { key: key.clone() });
    }
    let made = SystemTime::UNIX_EPOCH + Duration::from_millis(backup.made_ms);
    let restored = Restored {
        backup: backup.id.clone(),
        made,
        at: now,
        replica: backup.replica.clone(),
        ledger: backup.ledger,
        agents: backup.agents,
        history: None,
        heard: BTreeMap::new(),
        adopts: None,
        opening: None,
        opened: None,
        extra: Map::new(),
    };
    // The mark by which it counts as a state comes last.
    let (mark, content): (Vec<_>, Vec<_>) = values
        .iter()
        .partition(|(key, _)| *key.kind() == Schema::KIND);
    for (key, value) in content {
        put(store, key, value, &there).await?;
    }
    let sealed = Bytes::from(seal.seal(&shut, 1, &encode(&restored)));
    if let Some(earlier) = store.get(&shut).await? {
        store
            .compare_and_swap(&shut, Some(&earlier.version), sealed)
            .await?;
    } else {
        store.compare_and_swap(&shut, None, sealed).await?;
    }
    for (key, value) in mark {
        put(store, key, value, &there).await?;
    }
    Ok(PutBack {
        id: backup.id.clone(),
        made,
        sequence: backup.head(),
        agents: backup.agents,
    })
}

async fn put(
    store: &Shared,
    key: &Key,
    value: &Bytes,
    there: &BTreeMap<String, Bytes>,
) -> Result<(), PutError> {
    if !there.contains_key(&key.to_string()) {
        store.compare_and_swap(key, None, value.clone()).await?;
    }
    Ok(())
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, PutError> {
    let wrong = |error| PutError::File {
        path: path.to_owned(),
        error,
    };
    let mut bytes = Zeroizing::new(Vec::new());
    let opened = std::fs::File::open(path).map_err(wrong)?;
    opened
        .take(LIMIT + 1)
        .read_to_end(&mut bytes)
        .map_err(wrong)?;
    if bytes.len() as u64 > LIMIT {
        return Err(wrong(std::io::Error::other(
            "longer than 16 MiB, and no backup is",
        )));
    }
    Ok(bytes)
}
