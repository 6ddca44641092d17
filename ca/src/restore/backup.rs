//! A copy of the state, whole and sealed: everything that must outlive the authority and nothing
//! of the fleet, so it is small however large that is.

use std::time::SystemTime;

use arx_identity::crypto::random;
use arx_identity::{Sequence, TrustDomain};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::frame::{self, Wrong};
use crate::ca::Ca;
use crate::checkpoint;
use crate::hex::Hex;
use crate::ledger;
use crate::refusal::{Fault, Refusal};
use crate::seal::{Seal, SealError};
use crate::state::{Document, LedgerMark, State, StateError, decode, encode};
use crate::store::{Entry, Key, Prefix, Segment, list_all};

/// The form of what [`Backup::seal`] makes.
const VERSION: u32 = 1;
/// How often the state is read before it counts as one that never rests.
const READS: u32 = 10;

/// What is in a backup.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Backup {
    version: u32,
    /// Random, to tell one from another.
    pub(crate) id: String,
    pub(crate) made_ms: u64,
    pub(crate) software: String,
    /// Who made it, and how far its ledger was.
    pub(crate) replica: String,
    pub(crate) ledger: LedgerMark,
    /// How many nodes had valid certificates, and were not denied.
    pub(crate) agents: u64,
    /// What was published last: epoch and number.
    pub(crate) sequence: (u64, u64),
    /// Sealed as they were in the store; for a person without the sealing key this tells
    /// nothing.
    values: Vec<Stored>,
    /// What a newer version has added.
    #[serde(flatten)]
    extra: Map<String, Value>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    key: String,
    /// Base64.
    value: String,
}

/// What was made.
pub(crate) struct Made {
    pub(crate) backup: Backup,
    pub(crate) file: Zeroizing<Vec<u8>>,
    /// Replicas that may have issued to more nodes than were counted.
    pub(crate) silent: Vec<String>,
}

/// A file is no backup that can be used here.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BackupError {
    /// It is something else, or of another trust domain.
    #[error("{0}")]
    Foreign(String),
    /// It is not whole.
    #[error("{0}")]
    Broken(String),
    /// It does not open.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// It opens, and what is in it makes no sense.
    #[error("the backup can't be read ({0}): take another one")]
    Content(String),
    /// A newer version made it.
    #[error(
        "the backup has form {0}, and this version reads {VERSION}: restore it with the version that made it, or a newer one"
    )]
    Newer(u32),
}

impl BackupError {
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Seal(error) => error.code(),
            Self::Foreign(_) => "ARX-BACKUP-FOREIGN",
            Self::Broken(_) | Self::Content(_) => "ARX-BACKUP-UNREADABLE",
            Self::Newer(_) => "ARX-BACKUP-NEWER",
        }
    }
}

const KIND: Segment = Segment::fixed("backup");

fn key(trust_domain: &TrustDomain) -> Key {
    Key::new(trust_domain, &KIND)
}

impl Backup {
    /// The file: sealed as values of the store are.
    fn seal(&self, seal: &Seal, trust_domain: &TrustDomain) -> Zeroizing<Vec<u8>> {
        // Without a sealing key there are keys in it.
        let sealed = seal.seal(&key(trust_domain), u64::from(VERSION), &encode(self));
        let sealed = Zeroizing::new(sealed);
        Zeroizing::new(frame::around(trust_domain, &sealed))
    }

    /// What is in a file.
    pub(crate) fn open(
        bytes: &[u8],
        seal: &Seal,
        trust_domain: &TrustDomain,
    ) -> Result<Self, BackupError> {
        #[derive(Deserialize)]
        struct Form {
            version: u32,
        }
        let sealed = frame::within(trust_domain, bytes).map_err(|wrong| match wrong {
            Wrong::Foreign(message) => BackupError::Foreign(message),
            Wrong::Broken(message) => BackupError::Broken(message),
        })?;
        let opened = seal.open(&key(trust_domain), sealed)?;
        let Form { version } = decode(&opened.value).map_err(BackupError::Content)?;
        if version > VERSION {
            return Err(BackupError::Newer(version));
        }
        decode(&opened.value).map_err(BackupError::Content)
    }

    /// The values, as they are to be stored.
    pub(crate) fn values(
        &self,
        trust_domain: &TrustDomain,
    ) -> Result<Vec<(Key, Bytes)>, BackupError> {
        let all = self.values.iter().map(|stored| {
            let wrong = |what: &str| BackupError::Content(format!("{what}: {:.80}", stored.key));
            let key: Key = (stored.key.parse()).map_err(|_| wrong("not a key of the state"))?;
            if key.trust_domain() != trust_domain {
                return Err(wrong("a key of another trust domain"));
            }
            let value = STANDARD.decode(&stored.value);
            Ok((key, Bytes::from(value.map_err(|_| wrong("not Base64"))?)))
        });
        all.collect()
    }

    pub(crate) fn head(&self) -> Sequence {
        let (epoch, number) = self.sequence;
        Sequence { epoch, number }
    }
}

/// All values of the state at one moment. The store has no such read, so it is read until
/// nothing has changed meanwhile.
async fn at_rest(state: &State) -> Result<Vec<Entry>, Refusal> {
    let prefix = Prefix::trust_domain(state.trust_domain());
    let read = async || {
        let read = list_all(&**state.store(), &prefix).await;
        read.map_err(|error| Refusal::from(StateError::from(error)))
    };
    let mut last = read().await?;
    for _ in 0..READS {
        let again = read().await?;
        if again == last {
            return Ok(last);
        }
        last = again;
    }
    Err(Refusal::new(
        "ARX-BACKUP-BUSY",
        Fault::Dependency,
        "the state changes all the time: ask again in a moment",
    ))
}

impl Ca {
    /// Makes a backup.
    ///
    /// # Errors
    /// [`Refusal`] if the state cannot be read, or it is not known yet how many agents there are.
    pub(crate) async fn back_up(&self, now: SystemTime) -> Result<Made, Refusal> {
        // A copy of what was never opened would say that nothing was ever put back.
        self.restore.is_open()?;
        let (agents, silent) = self.count_nodes(now).await?;
        let entries = at_rest(&self.state).await?;
        let sequence = self.trust.current().sequence();
        let restored = crate::state::Restored::KIND;
        let since = now.duration_since(SystemTime::UNIX_EPOCH);
        let backup = Backup {
            version: VERSION,
            id: Hex(&random::<8>()).to_string(),
            made_ms: u64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(u64::MAX),
            software: self.software.to_owned(),
            replica: self.replica.to_string(),
            ledger: checkpoint::mark(&self.ledger),
            agents,
            sequence: (sequence.epoch, sequence.number),
            values: entries
                .iter()
                .filter(|entry| *entry.key.kind() != restored)
                .map(|entry| Stored {
                    key: entry.key.to_string(),
                    value: STANDARD.encode(&entry.value),
                })
                .collect(),
            extra: Map::new(),
        };
        let file = backup.seal(self.state.seal(), &self.trust_domain);
        let detail = format!(
            "backup {} of bundle {sequence}, {agents} agents, {} bytes",
            backup.id,
            file.len()
        );
        let record = ledger::Operator {
            who: "admin socket".to_owned(),
            action: "backup".to_owned(),
            detail,
        };
        // It is what it is, whether or not that can be recorded.
        let recorded = self.ledger.append(vec![ledger::Record::new(now, record)]);
        if let Err(error) = recorded.await {
            tracing::warn!(code = error.code(), %error, "a backup was made and not recorded");
        }
        Ok(Made {
            backup,
            file,
            silent,
        })
    }
}
