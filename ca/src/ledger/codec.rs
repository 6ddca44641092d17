//! Records as bytes. A body is a prefix that every version understands, and a protobuf
//! message whose meaning the tag names:
//!
//! ```text
//! tag u16 | version u16 | time u64, ms since the Unix epoch | message      (little-endian)
//! ```
//!
//! Messages only gain fields; the version counts how often that happened, so that a
//! reader can tell "empty" from "the writer did not know this field". A change that an
//! older reader would misunderstand gets a new tag.

use std::time::SystemTime;

use prost::Message;

use super::record::{
    Event, IntermediateRegistered, Issued, Operator, Pruned, Published, Record, Refused, Released,
    Rotation, to_millis,
};
use message::{
    IntermediateMessage, IssuedMessage, PrunedMessage, PublishedMessage, RefusedMessage,
    ReleasedMessage, TextMessage,
};

pub(super) use outline::{Kind, Leaf, Outline, outline};

mod message;
mod outline;

const PREFIX: usize = 12;

const ISSUED: u16 = 1;
const REFUSED: u16 = 2;
const INTERMEDIATE: u16 = 3;
const ROTATION: u16 = 4;
const OPERATOR: u16 = 5;
const RELEASED: u16 = 6;
const PRUNED: u16 = 7;
const PUBLISHED: u16 = 8;

/// All messages below are at their first version.
const VERSION: u16 = 1;

/// What stands in a body: the fact, or the tag of a kind that this version doesn't know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Understood.
    Known(Event),
    /// Written by a newer version. Chained and counted like any other.
    Unknown {
        /// Its kind.
        tag: u16,
        /// Version of its kind.
        version: u16,
    },
}

/// The body of `record`.
pub(super) fn encode(record: Record) -> Vec<u8> {
    let time = record.time;
    match record.event {
        Event::Issued(event) => body(ISSUED, time, &IssuedMessage::from(*event)),
        Event::Refused(event) => body(REFUSED, time, &RefusedMessage::from(event)),
        Event::IntermediateRegistered(event) => {
            body(INTERMEDIATE, time, &IntermediateMessage::from(event))
        }
        Event::Rotation(event) => body(ROTATION, time, &TextMessage::from(event)),
        Event::Operator(event) => body(OPERATOR, time, &TextMessage::from(event)),
        Event::Released(event) => body(RELEASED, time, &ReleasedMessage::from(event)),
        Event::Pruned(event) => body(PRUNED, time, &PrunedMessage::from(event)),
        Event::Published(event) => body(PUBLISHED, time, &PublishedMessage::from(event)),
    }
}

fn body(tag: u16, time: SystemTime, message: &impl Message) -> Vec<u8> {
    let mut body = Vec::with_capacity(PREFIX + message.encoded_len());
    body.extend_from_slice(&tag.to_le_bytes());
    body.extend_from_slice(&VERSION.to_le_bytes());
    body.extend_from_slice(&to_millis(time).to_le_bytes());
    message.encode_raw(&mut body);
    body
}

/// The prefix of a body and what follows it.
pub(super) struct Prefix<'b> {
    pub(super) tag: u16,
    pub(super) version: u16,
    pub(super) time_ms: u64,
    pub(super) message: &'b [u8],
}

/// Splits a body. One that is too short for a prefix reads as tag 0, which is no kind.
pub(super) fn prefix(body: &[u8]) -> Prefix<'_> {
    let Some((prefix, message)) = body.split_first_chunk::<PREFIX>() else {
        return Prefix {
            tag: 0,
            version: 0,
            time_ms: 0,
            message: &[],
        };
    };
    let [t0, t1, v0, v1, time @ ..] = *prefix;
    Prefix {
        tag: u16::from_le_bytes([t0, t1]),
        version: u16::from_le_bytes([v0, v1]),
        time_ms: u64::from_le_bytes(time),
        message,
    }
}

/// What a body says. Never fails: bytes that don't make sense under a known tag can only
/// come from a version that gave it another meaning, and are reported as unknown.
pub(super) fn decode(body: &[u8]) -> Content {
    let prefix = prefix(body);
    match known(prefix.tag, prefix.message) {
        Some(event) => Content::Known(event),
        None => Content::Unknown {
            tag: prefix.tag,
            version: prefix.version,
        },
    }
}

fn known(tag: u16, message: &[u8]) -> Option<Event> {
    Some(match tag {
        ISSUED => Issued::try_from(IssuedMessage::decode(message).ok()?)
            .ok()?
            .into(),
        REFUSED => Refused::from(RefusedMessage::decode(message).ok()?).into(),
        INTERMEDIATE => {
            let message = IntermediateMessage::decode(message).ok()?;
            IntermediateRegistered::try_from(message).ok()?.into()
        }
        ROTATION => Rotation::from(TextMessage::decode(message).ok()?).into(),
        OPERATOR => Operator::from(TextMessage::decode(message).ok()?).into(),
        RELEASED => Released::try_from(ReleasedMessage::decode(message).ok()?)
            .ok()?
            .into(),
        PRUNED => Pruned::try_from(PrunedMessage::decode(message).ok()?)
            .ok()?
            .into(),
        PUBLISHED => Published::try_from(PublishedMessage::decode(message).ok()?)
            .ok()?
            .into(),
        _ => return None,
    })
}

/// Whether a body says that segments were pruned, without reading it.
pub(super) fn is_pruned(body: &[u8]) -> bool {
    prefix(body).tag == PRUNED
}

#[cfg(test)]
mod tests;
