//! What the ledger can say: one [`Record`] for each fact that somebody may have to
//! answer for later.
//!
//! Records only ever gain fields and kinds. What an older version wrote stays readable,
//! and what a newer one wrote is still chained, counted and exported by its tag.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Subject key identifier of a certificate (RFC 5280, 4.2.1.2), at most [`MAX_KEY_ID`] octets.
pub type KeyId = Vec<u8>;

/// Longest key identifier, in octets.
pub const MAX_KEY_ID: usize = 32;

/// Longest serial number, in octets (RFC 5280, 4.1.2.2).
pub const MAX_SERIAL: usize = 20;

/// One fact and when it was known. Times are kept in whole milliseconds since the Unix
/// epoch: finer parts are dropped, and what lies before the epoch becomes the epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// When, by the clock of the replica that recorded it.
    pub time: SystemTime,
    /// What.
    pub event: Event,
}

impl Record {
    /// `event`, known at `time`.
    pub fn new(time: SystemTime, event: impl Into<Event>) -> Self {
        Self {
            time,
            event: event.into(),
        }
    }
}

/// The kinds of facts.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A certificate was signed and may have left the house.
    Issued(Box<Issued>),
    /// Somebody asked for a certificate and did not get it.
    Refused(Refused),
    /// A replica's intermediate may sign from now on.
    IntermediateRegistered(IntermediateRegistered),
    /// A step of a root rotation.
    Rotation(Rotation),
    /// Something that an operator did by hand.
    Operator(Operator),
    /// Nobody holds or serves this certificate any longer, though it is still valid.
    Released(Released),
    /// Old segments were removed by policy.
    Pruned(Pruned),
    /// A bundle is handed out from now on.
    Published(Published),
}

/// A certificate that was signed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Issued {
    /// The replica that signed.
    pub replica: String,
    /// Cluster of the node that asked; empty for the authority's own certificates.
    pub cluster: String,
    /// Node that asked; empty for the authority's own certificates.
    pub node: String,
    /// Whom the certificate names.
    pub spiffe_id: String,
    /// Big-endian, no leading zeros, at most [`MAX_SERIAL`] octets.
    pub serial: Vec<u8>,
    /// Key of the certificate.
    pub subject_key_id: KeyId,
    /// Key of the intermediate that signed.
    pub issuer_key_id: KeyId,
    /// Key of the root that the intermediate chains to.
    pub root_key_id: KeyId,
    /// Its validity.
    pub validity: Validity,
    /// Idempotency key of the request.
    pub request_id: Vec<u8>,
    /// Serial number of the certificate that this one replaces; empty for a first one.
    pub replaces: Vec<u8>,
    /// Instance id of the agent that asked.
    pub agent_instance: Vec<u8>,
    /// What the identity was granted on, for a person to read. Never a secret.
    pub evidence: String,
    /// Generation of the policy that granted it.
    pub policy_generation: u64,
    /// Epoch of the bundle sequence that verifiers need.
    pub bundle_epoch: u64,
    /// Number of the bundle sequence that verifiers need.
    pub bundle_number: u64,
    /// W3C trace id of the cause; empty if none came along.
    pub trace_id: Vec<u8>,
}

/// From when until when a certificate is valid, both inclusive (RFC 5280, 4.1.2.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// First moment.
    pub not_before: SystemTime,
    /// Last moment.
    pub not_after: SystemTime,
}

impl Default for Validity {
    fn default() -> Self {
        Self {
            not_before: UNIX_EPOCH,
            not_after: UNIX_EPOCH,
        }
    }
}

/// A request that was turned down.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refused {
    /// The SPIFFE id that asked or was asked for, as far as it is known. Found again by
    /// a search for this identity.
    pub who: String,
    /// Cluster of the caller, if known.
    pub cluster: String,
    /// Node of the caller, if known.
    pub node: String,
    /// Stable reason code, `ARX-...`.
    pub code: String,
    /// The reason in words. Never a secret.
    pub message: String,
    /// Idempotency key of the request.
    pub request_id: Vec<u8>,
    /// W3C trace id of the cause; empty if none came along.
    pub trace_id: Vec<u8>,
}

/// An intermediate that was committed to the store, and signs from then on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IntermediateRegistered {
    /// The replica that signs with it.
    pub replica: String,
    /// Serial number of its certificate.
    pub serial: Vec<u8>,
    /// Its key.
    pub key_id: KeyId,
    /// Key of the root above it.
    pub root_key_id: KeyId,
    /// Validity of its certificate.
    pub validity: Validity,
}

/// A step of a root rotation, in words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rotation {
    /// Which rotation.
    pub rotation: String,
    /// What happened to it, by name: a phase, or an event.
    pub step: String,
    /// The rest, for a person or a program to read.
    pub detail: String,
}

/// Something that was done by hand, in words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Operator {
    /// Who did it, as far as it is known.
    pub who: String,
    /// What was done, by name.
    pub action: String,
    /// The rest, for a person or a program to read.
    pub detail: String,
}

/// A certificate that counts as gone before its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Released {
    /// Its serial number.
    pub serial: Vec<u8>,
    /// Its end: until then this record matters.
    pub not_after: SystemTime,
    /// How that is known.
    pub reason: String,
}

/// The oldest segments, up to and without the named one, were removed by policy. The
/// chain goes on to verify from the hash that the first remaining segment starts with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Number of the first segment that remains.
    pub first_segment: u32,
    /// Index of the first record that remains.
    pub first_record: u64,
    /// Chain hash before that segment.
    pub hash: [u8; 32],
}

/// A bundle that a replica hands out, and nothing lower from then on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// The replica.
    pub replica: String,
    /// Epoch of its sequence.
    pub epoch: u64,
    /// Number of its sequence.
    pub number: u64,
    /// SHA-256 of its roots.
    pub sha256: Vec<u8>,
    /// Keys of its roots.
    pub roots: Vec<KeyId>,
}

macro_rules! event_from {
    ($($kind:ident),*) => {$(
        impl From<$kind> for Event {
            fn from(event: $kind) -> Self {
                Self::$kind(event)
            }
        }
    )*};
}
event_from!(
    Refused,
    IntermediateRegistered,
    Rotation,
    Operator,
    Released,
    Pruned,
    Published
);

impl From<Issued> for Event {
    fn from(event: Issued) -> Self {
        Self::Issued(Box::new(event))
    }
}

impl Event {
    /// The serial numbers in it that have a bound.
    pub(super) fn serials(&self) -> [&[u8]; 2] {
        match self {
            Self::Issued(issued) => [&issued.serial, &issued.replaces],
            Self::IntermediateRegistered(registered) => [&registered.serial, &[]],
            Self::Released(released) => [&released.serial, &[]],
            Self::Refused(_)
            | Self::Rotation(_)
            | Self::Operator(_)
            | Self::Pruned(_)
            | Self::Published(_) => [&[], &[]],
        }
    }
}

/// Milliseconds since the Unix epoch.
pub(super) fn to_millis(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

/// The moment that many milliseconds after the Unix epoch.
pub(super) fn from_millis(millis: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(millis)
}
