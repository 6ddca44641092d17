//! The messages that stand in records, field by field, and how the ledger's types become
//! them and come back. A field number is never given to another meaning.

use prost::Message;

use crate::ledger::record::{
    IntermediateRegistered, Issued, KeyId, MAX_KEY_ID, MAX_SERIAL, Operator, Pruned, Published,
    Refused, Released, Rotation, Validity, from_millis, to_millis,
};

#[derive(Clone, PartialEq, Message)]
pub(super) struct IssuedMessage {
    #[prost(string, tag = "1")]
    pub(super) replica: String,
    #[prost(string, tag = "2")]
    pub(super) cluster: String,
    #[prost(string, tag = "3")]
    pub(super) node: String,
    #[prost(string, tag = "4")]
    pub(super) spiffe_id: String,
    #[prost(bytes = "vec", tag = "5")]
    pub(super) serial: Vec<u8>,
    #[prost(bytes = "vec", tag = "6")]
    pub(super) subject_key_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "7")]
    pub(super) issuer_key_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "8")]
    pub(super) root_key_id: Vec<u8>,
    #[prost(uint64, tag = "9")]
    pub(super) not_before_ms: u64,
    #[prost(uint64, tag = "10")]
    pub(super) not_after_ms: u64,
    #[prost(bytes = "vec", tag = "11")]
    pub(super) request_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "12")]
    pub(super) replaces: Vec<u8>,
    #[prost(bytes = "vec", tag = "13")]
    pub(super) agent_instance: Vec<u8>,
    #[prost(string, tag = "14")]
    pub(super) evidence: String,
    #[prost(uint64, tag = "15")]
    pub(super) policy_generation: u64,
    #[prost(uint64, tag = "16")]
    pub(super) bundle_epoch: u64,
    #[prost(uint64, tag = "17")]
    pub(super) bundle_number: u64,
    #[prost(bytes = "vec", tag = "18")]
    pub(super) trace_id: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct RefusedMessage {
    #[prost(string, tag = "1")]
    pub(super) who: String,
    #[prost(string, tag = "2")]
    pub(super) cluster: String,
    #[prost(string, tag = "3")]
    pub(super) node: String,
    #[prost(string, tag = "4")]
    pub(super) code: String,
    #[prost(string, tag = "5")]
    pub(super) message: String,
    #[prost(bytes = "vec", tag = "6")]
    pub(super) request_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "7")]
    pub(super) trace_id: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct IntermediateMessage {
    #[prost(string, tag = "1")]
    pub(super) replica: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) serial: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    pub(super) key_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    pub(super) root_key_id: Vec<u8>,
    #[prost(uint64, tag = "5")]
    pub(super) not_before_ms: u64,
    #[prost(uint64, tag = "6")]
    pub(super) not_after_ms: u64,
}

/// Rotation steps and operators' actions: whom it is about, what happened, the rest.
#[derive(Clone, PartialEq, Message)]
pub(super) struct TextMessage {
    #[prost(string, tag = "1")]
    pub(super) subject: String,
    #[prost(string, tag = "2")]
    pub(super) name: String,
    #[prost(string, tag = "3")]
    pub(super) text: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ReleasedMessage {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) serial: Vec<u8>,
    #[prost(uint64, tag = "2")]
    pub(super) not_after_ms: u64,
    #[prost(string, tag = "3")]
    pub(super) reason: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct PrunedMessage {
    #[prost(uint32, tag = "1")]
    pub(super) first_segment: u32,
    #[prost(uint64, tag = "2")]
    pub(super) first_record: u64,
    #[prost(bytes = "vec", tag = "3")]
    pub(super) hash: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct PublishedMessage {
    #[prost(string, tag = "1")]
    pub(super) replica: String,
    #[prost(uint64, tag = "2")]
    pub(super) epoch: u64,
    #[prost(uint64, tag = "3")]
    pub(super) number: u64,
    #[prost(bytes = "vec", tag = "4")]
    pub(super) sha256: Vec<u8>,
    #[prost(bytes = "vec", repeated, tag = "5")]
    pub(super) roots: Vec<Vec<u8>>,
}

/// A field whose bytes can't be what the kind says.
#[derive(Debug)]
pub(super) struct Nonsense;

fn key_id(bytes: Vec<u8>) -> Result<KeyId, Nonsense> {
    if bytes.len() > MAX_KEY_ID {
        return Err(Nonsense);
    }
    Ok(bytes)
}

fn serial(bytes: Vec<u8>) -> Result<Vec<u8>, Nonsense> {
    if bytes.len() > MAX_SERIAL {
        return Err(Nonsense);
    }
    Ok(bytes)
}

fn validity(not_before_ms: u64, not_after_ms: u64) -> Validity {
    Validity {
        not_before: from_millis(not_before_ms),
        not_after: from_millis(not_after_ms),
    }
}

impl From<Issued> for IssuedMessage {
    fn from(event: Issued) -> Self {
        Self {
            replica: event.replica,
            cluster: event.cluster,
            node: event.node,
            spiffe_id: event.spiffe_id,
            serial: event.serial,
            subject_key_id: event.subject_key_id,
            issuer_key_id: event.issuer_key_id,
            root_key_id: event.root_key_id,
            not_before_ms: to_millis(event.validity.not_before),
            not_after_ms: to_millis(event.validity.not_after),
            request_id: event.request_id,
            replaces: event.replaces,
            agent_instance: event.agent_instance,
            evidence: event.evidence,
            policy_generation: event.policy_generation,
            bundle_epoch: event.bundle_epoch,
            bundle_number: event.bundle_number,
            trace_id: event.trace_id,
        }
    }
}

impl TryFrom<IssuedMessage> for Issued {
    type Error = Nonsense;

    fn try_from(message: IssuedMessage) -> Result<Self, Nonsense> {
        Ok(Self {
            replica: message.replica,
            cluster: message.cluster,
            node: message.node,
            spiffe_id: message.spiffe_id,
            serial: serial(message.serial)?,
            subject_key_id: key_id(message.subject_key_id)?,
            issuer_key_id: key_id(message.issuer_key_id)?,
            root_key_id: key_id(message.root_key_id)?,
            validity: validity(message.not_before_ms, message.not_after_ms),
            request_id: message.request_id,
            replaces: serial(message.replaces)?,
            agent_instance: message.agent_instance,
            evidence: message.evidence,
            policy_generation: message.policy_generation,
            bundle_epoch: message.bundle_epoch,
            bundle_number: message.bundle_number,
            trace_id: message.trace_id,
        })
    }
}

impl From<Published> for PublishedMessage {
    fn from(event: Published) -> Self {
        Self {
            replica: event.replica,
            epoch: event.epoch,
            number: event.number,
            sha256: event.sha256,
            roots: event.roots,
        }
    }
}

impl TryFrom<PublishedMessage> for Published {
    type Error = Nonsense;

    fn try_from(message: PublishedMessage) -> Result<Self, Nonsense> {
        let roots = message.roots.into_iter().map(key_id);
        Ok(Self {
            replica: message.replica,
            epoch: message.epoch,
            number: message.number,
            sha256: message.sha256,
            roots: roots.collect::<Result<_, _>>()?,
        })
    }
}

impl From<Refused> for RefusedMessage {
    fn from(event: Refused) -> Self {
        Self {
            who: event.who,
            cluster: event.cluster,
            node: event.node,
            code: event.code,
            message: event.message,
            request_id: event.request_id,
            trace_id: event.trace_id,
        }
    }
}

impl From<RefusedMessage> for Refused {
    fn from(message: RefusedMessage) -> Self {
        Self {
            who: message.who,
            cluster: message.cluster,
            node: message.node,
            code: message.code,
            message: message.message,
            request_id: message.request_id,
            trace_id: message.trace_id,
        }
    }
}

impl From<IntermediateRegistered> for IntermediateMessage {
    fn from(event: IntermediateRegistered) -> Self {
        Self {
            replica: event.replica,
            serial: event.serial,
            key_id: event.key_id,
            root_key_id: event.root_key_id,
            not_before_ms: to_millis(event.validity.not_before),
            not_after_ms: to_millis(event.validity.not_after),
        }
    }
}

impl TryFrom<IntermediateMessage> for IntermediateRegistered {
    type Error = Nonsense;

    fn try_from(message: IntermediateMessage) -> Result<Self, Nonsense> {
        Ok(Self {
            replica: message.replica,
            serial: serial(message.serial)?,
            key_id: key_id(message.key_id)?,
            root_key_id: key_id(message.root_key_id)?,
            validity: validity(message.not_before_ms, message.not_after_ms),
        })
    }
}

impl From<Rotation> for TextMessage {
    fn from(event: Rotation) -> Self {
        Self {
            subject: event.rotation,
            name: event.step,
            text: event.detail,
        }
    }
}

impl From<TextMessage> for Rotation {
    fn from(message: TextMessage) -> Self {
        Self {
            rotation: message.subject,
            step: message.name,
            detail: message.text,
        }
    }
}

impl From<Operator> for TextMessage {
    fn from(event: Operator) -> Self {
        Self {
            subject: event.who,
            name: event.action,
            text: event.detail,
        }
    }
}

impl From<TextMessage> for Operator {
    fn from(message: TextMessage) -> Self {
        Self {
            who: message.subject,
            action: message.name,
            detail: message.text,
        }
    }
}

impl From<Released> for ReleasedMessage {
    fn from(event: Released) -> Self {
        Self {
            serial: event.serial,
            not_after_ms: to_millis(event.not_after),
            reason: event.reason,
        }
    }
}

impl TryFrom<ReleasedMessage> for Released {
    type Error = Nonsense;

    fn try_from(message: ReleasedMessage) -> Result<Self, Nonsense> {
        Ok(Self {
            serial: serial(message.serial)?,
            not_after: from_millis(message.not_after_ms),
            reason: message.reason,
        })
    }
}

impl From<Pruned> for PrunedMessage {
    fn from(event: Pruned) -> Self {
        Self {
            first_segment: event.first_segment,
            first_record: event.first_record,
            hash: event.hash.into(),
        }
    }
}

impl TryFrom<PrunedMessage> for Pruned {
    type Error = Nonsense;

    fn try_from(message: PrunedMessage) -> Result<Self, Nonsense> {
        Ok(Self {
            first_segment: message.first_segment,
            first_record: message.first_record,
            hash: message.hash.try_into().map_err(|_| Nonsense)?,
        })
    }
}
