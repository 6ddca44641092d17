//! Subscribers as they are sealed, so that a restart of the agent forgets nobody.

use super::{Content, Holder, Leaf, Member, Refused, State, Subscribers};
use crate::attest::ProcessId;
use crate::wire::{time, unix_ms};
use arx_identity::{KeyId, Sequence, Serial, SpiffeId};
use prost::Message;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Bytes that are not saved subscribers.
#[derive(Debug, thiserror::Error)]
#[error("the saved subscribers cannot be read")]
pub struct DamagedSubscribers;

impl Subscribers {
    /// Everything that must survive the agent.
    #[must_use]
    pub fn save(&self) -> Vec<u8> {
        // A stream does not outlive the process.
        let holders = self.holders.iter().filter_map(SavedHolder::of);
        SavedSubscribers {
            holders: holders.collect(),
        }
        .encode_to_vec()
    }

    /// What [`Self::save`] wrote; everyone is away.
    ///
    /// # Errors
    /// If the bytes are not that.
    pub fn load(bytes: &[u8]) -> Result<Self, DamagedSubscribers> {
        let saved = SavedSubscribers::decode(bytes).map_err(|_| DamagedSubscribers)?;
        let holders = saved.holders.into_iter().map(SavedHolder::restore);
        let holders: Option<_> = holders.collect();
        Ok(Self {
            holders: holders.ok_or(DamagedSubscribers)?,
            ..Self::default()
        })
    }
}

#[derive(Clone, PartialEq, Message)]
struct SavedSubscribers {
    #[prost(message, repeated, tag = "1")]
    holders: Vec<SavedHolder>,
}

#[derive(Clone, PartialEq, Message)]
struct SavedHolder {
    #[prost(message, optional, tag = "1")]
    process: Option<SavedProcess>,
    #[prost(string, tag = "2")]
    pod_uid: String,
    #[prost(message, repeated, tag = "3")]
    members: Vec<SavedMember>,
    #[prost(message, repeated, tag = "4")]
    refused: Vec<SavedRefused>,
    #[prost(int64, optional, tag = "5")]
    last_leaf_end_unix_ms: Option<i64>,
}

#[derive(Clone, PartialEq, Message)]
struct SavedProcess {
    #[prost(uint32, tag = "1")]
    pid: u32,
    #[prost(uint64, tag = "2")]
    start_time: u64,
    #[prost(string, tag = "3")]
    boot_id: String,
}

#[derive(Clone, PartialEq, Message)]
struct SavedMember {
    #[prost(string, tag = "1")]
    resource: String,
    #[prost(message, optional, tag = "2")]
    confirmed: Option<SavedContent>,
    #[prost(message, repeated, tag = "3")]
    unconfirmed: Vec<SavedContent>,
    #[prost(uint64, tag = "4")]
    expected_streams: u64,
    #[prost(int64, tag = "5")]
    changed_unix_ms: i64,
}

/// Trust if the serial number is empty.
#[derive(Clone, PartialEq, Message)]
struct SavedContent {
    #[prost(bytes = "vec", tag = "1")]
    sha256: Vec<u8>,
    #[prost(uint64, tag = "2")]
    epoch: u64,
    #[prost(uint64, tag = "3")]
    number: u64,
    #[prost(bytes = "vec", tag = "4")]
    serial: Vec<u8>,
    #[prost(string, tag = "5")]
    spiffe_id: String,
    #[prost(bytes = "vec", tag = "6")]
    root: Vec<u8>,
    #[prost(int64, tag = "7")]
    not_after_unix_ms: i64,
}

#[derive(Clone, PartialEq, Message)]
struct SavedRefused {
    #[prost(bytes = "vec", tag = "1")]
    sha256: Vec<u8>,
    #[prost(string, tag = "2")]
    version: String,
    #[prost(string, tag = "3")]
    detail: String,
    #[prost(int64, tag = "4")]
    at_unix_ms: i64,
}

impl SavedHolder {
    fn of((holder, state): (&Holder, &State)) -> Option<Self> {
        let (process, pod_uid) = match holder {
            Holder::Process(process) => (
                Some(SavedProcess {
                    pid: process.pid,
                    start_time: process.start_time,
                    boot_id: process.boot_id.to_string(),
                }),
                String::new(),
            ),
            Holder::Pod(uid) => (None, uid.clone()),
            Holder::Stream(_) => return None,
        };
        let refused = state.refused.iter().map(|refused| SavedRefused {
            sha256: refused.sha256.to_vec(),
            version: refused.version.clone(),
            detail: refused.detail.clone(),
            at_unix_ms: unix_ms(refused.at),
        });
        let members = state.members.iter().map(|(resource, member)| SavedMember {
            resource: resource.to_string(),
            confirmed: member.confirmed.as_deref().map(SavedContent::from),
            unconfirmed: member.unconfirmed.iter().map(|c| (&**c).into()).collect(),
            expected_streams: member.expected as u64,
            changed_unix_ms: unix_ms(member.changed),
        });
        Some(Self {
            process,
            pod_uid,
            members: members.collect(),
            refused: refused.collect(),
            last_leaf_end_unix_ms: state.last_leaf_end.map(unix_ms),
        })
    }

    fn restore(self) -> Option<(Holder, State)> {
        let holder = match self.process {
            Some(process) => Holder::Process(ProcessId {
                pid: process.pid,
                start_time: process.start_time,
                boot_id: process.boot_id.into(),
            }),
            None => Holder::Pod(self.pod_uid),
        };
        let members: Option<BTreeMap<_, _>> =
            self.members.into_iter().map(SavedMember::restore).collect();
        let refused: Option<Vec<_>> = self
            .refused
            .into_iter()
            .map(SavedRefused::restore)
            .collect();
        Some((
            holder,
            State {
                members: members?,
                refused: refused?,
                last_leaf_end: self.last_leaf_end_unix_ms.map(time),
            },
        ))
    }
}

impl SavedMember {
    fn restore(self) -> Option<(Arc<str>, Member)> {
        let confirmed = match self.confirmed {
            Some(content) => Some(Arc::new(content.restore()?)),
            None => None,
        };
        let unconfirmed = self.unconfirmed.into_iter();
        let unconfirmed: Option<Vec<_>> = unconfirmed.map(|c| c.restore().map(Arc::new)).collect();
        Some((
            self.resource.into(),
            Member {
                confirmed,
                unconfirmed: unconfirmed?,
                expected: usize::try_from(self.expected_streams).ok()?,
                ..Member::new(time(self.changed_unix_ms))
            },
        ))
    }
}

impl From<&Content> for SavedContent {
    fn from(content: &Content) -> Self {
        match content {
            Content::Trust { sequence, sha256 } => Self {
                sha256: sha256.to_vec(),
                epoch: sequence.epoch,
                number: sequence.number,
                ..Self::default()
            },
            Content::Leaf(leaf) => Self {
                sha256: leaf.sha256.to_vec(),
                serial: leaf.serial.as_bytes().to_vec(),
                spiffe_id: leaf.spiffe_id.to_string(),
                root: leaf.root.as_bytes().to_vec(),
                not_after_unix_ms: unix_ms(leaf.not_after),
                ..Self::default()
            },
        }
    }
}

impl SavedContent {
    fn restore(self) -> Option<Content> {
        let sha256 = self.sha256.try_into().ok()?;
        if self.serial.is_empty() {
            let sequence = Sequence {
                epoch: self.epoch,
                number: self.number,
            };
            return Some(Content::Trust { sequence, sha256 });
        }
        Some(Content::Leaf(Leaf {
            serial: Serial::from_bytes(&self.serial)?,
            sha256,
            spiffe_id: SpiffeId::parse(&self.spiffe_id).ok()?,
            root: KeyId::from_slice(&self.root)?,
            not_after: time(self.not_after_unix_ms),
        }))
    }
}

impl SavedRefused {
    fn restore(self) -> Option<Refused> {
        Some(Refused {
            sha256: self.sha256.try_into().ok()?,
            version: self.version,
            detail: self.detail,
            at: time(self.at_unix_ms),
        })
    }
}
