//! What the indexes need of a record, read where it stands: each commit does this for each
//! of its records, and starting up for each record of a segment.

use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use super::{
    INTERMEDIATE, ISSUED, OPERATOR, PRUNED, PUBLISHED, REFUSED, RELEASED, ROTATION,
    prefix as prefix_of,
};
use crate::ledger::record::{MAX_KEY_ID, MAX_SERIAL};

/// The part of a record that the indexes need.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::ledger) struct Outline<'b> {
    pub(in crate::ledger) time_ms: u64,
    pub(in crate::ledger) kind: Kind<'b>,
}

#[derive(Debug, PartialEq, Eq)]
pub(in crate::ledger) enum Kind<'b> {
    Issued(Leaf<'b>),
    Refused {
        who: &'b str,
    },
    Intermediate {
        serial: &'b [u8],
    },
    Released {
        serial: &'b [u8],
        not_after_ms: u64,
    },
    /// Epoch and number of a bundle.
    Published {
        bundle: (u64, u64),
    },
    Other,
    Unknown,
}

/// What has to be known of a certificate while it lives.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::ledger) struct Leaf<'b> {
    /// The replica that signed.
    pub(in crate::ledger) replica: &'b str,
    pub(in crate::ledger) cluster: &'b str,
    pub(in crate::ledger) node: &'b str,
    pub(in crate::ledger) spiffe_id: &'b str,
    pub(in crate::ledger) serial: &'b [u8],
    pub(in crate::ledger) issuer_key_id: &'b [u8],
    pub(in crate::ledger) root_key_id: &'b [u8],
    pub(in crate::ledger) not_after_ms: u64,
    /// The one that it replaces; empty for the first of its line.
    pub(in crate::ledger) replaces: &'b [u8],
    /// Epoch and number of the bundle sequence that verifiers need.
    pub(in crate::ledger) bundle: (u64, u64),
}

/// Reads a body no further than the indexes need. A certificate whose other fields make no
/// sense still counts as one.
pub(in crate::ledger) fn outline(body: &[u8]) -> Outline<'_> {
    let prefix = prefix_of(body);
    Outline {
        time_ms: prefix.time_ms,
        kind: kind(prefix.tag, prefix.message).unwrap_or(Kind::Unknown),
    }
}

// Field numbers are those of the messages in `message`.
fn kind(tag: u16, message: &[u8]) -> Option<Kind<'_>> {
    Some(match tag {
        ISSUED => {
            let mut leaf = Leaf::default();
            fields(message, |field, value| {
                match field {
                    1 => leaf.replica = value.text()?,
                    2 => leaf.cluster = value.text()?,
                    3 => leaf.node = value.text()?,
                    4 => leaf.spiffe_id = value.text()?,
                    5 => leaf.serial = value.bytes(MAX_SERIAL)?,
                    7 => leaf.issuer_key_id = value.bytes(MAX_KEY_ID)?,
                    8 => leaf.root_key_id = value.bytes(MAX_KEY_ID)?,
                    10 => leaf.not_after_ms = value.number()?,
                    12 => leaf.replaces = value.bytes(usize::MAX)?,
                    16 => leaf.bundle.0 = value.number()?,
                    17 => leaf.bundle.1 = value.number()?,
                    _ => {}
                }
                Some(())
            })?;
            Kind::Issued(leaf)
        }
        REFUSED => {
            let mut who = "";
            fields(message, |field, value| {
                if field == 1 {
                    who = value.text()?;
                }
                Some(())
            })?;
            Kind::Refused { who }
        }
        INTERMEDIATE => {
            let mut serial: &[u8] = &[];
            fields(message, |field, value| {
                if field == 2 {
                    serial = value.bytes(MAX_SERIAL)?;
                }
                Some(())
            })?;
            Kind::Intermediate { serial }
        }
        RELEASED => {
            let (mut serial, mut not_after_ms): (&[u8], _) = (&[], 0);
            fields(message, |field, value| {
                match field {
                    1 => serial = value.bytes(MAX_SERIAL)?,
                    2 => not_after_ms = value.number()?,
                    _ => {}
                }
                Some(())
            })?;
            Kind::Released {
                serial,
                not_after_ms,
            }
        }
        PUBLISHED => {
            let mut bundle = (0, 0);
            fields(message, |field, value| {
                match field {
                    2 => bundle.0 = value.number()?,
                    3 => bundle.1 = value.number()?,
                    _ => {}
                }
                Some(())
            })?;
            Kind::Published { bundle }
        }
        ROTATION | OPERATOR | PRUNED => Kind::Other,
        _ => return None,
    })
}

/// The value of a field.
enum Value<'b> {
    Number(u64),
    Bytes(&'b [u8]),
}

impl<'b> Value<'b> {
    fn number(&self) -> Option<u64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Bytes(_) => None,
        }
    }

    fn bytes(&self, most: usize) -> Option<&'b [u8]> {
        match self {
            Self::Bytes(bytes) if bytes.len() <= most => Some(bytes),
            _ => None,
        }
    }

    fn text(&self) -> Option<&'b str> {
        std::str::from_utf8(self.bytes(usize::MAX)?).ok()
    }
}

/// Gives `take` each field of a protobuf message, but for kinds that no message here has.
/// None if it is no message, or `take` finds no sense in it.
fn fields<'b>(
    mut message: &'b [u8],
    mut take: impl FnMut(u32, Value<'b>) -> Option<()>,
) -> Option<()> {
    while !message.is_empty() {
        let (field, kind) = decode_key(&mut message).ok()?;
        match kind {
            WireType::Varint => take(field, Value::Number(decode_varint(&mut message).ok()?))?,
            WireType::LengthDelimited => {
                let length = usize::try_from(decode_varint(&mut message).ok()?).ok()?;
                let (bytes, rest) = message.split_at_checked(length)?;
                take(field, Value::Bytes(bytes))?;
                message = rest;
            }
            _ => skip_field(kind, field, &mut message, DecodeContext::default()).ok()?,
        }
    }
    Some(())
}
