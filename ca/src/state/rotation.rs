//! The rotation of the roots that is under way, and those that were.
//!
//! All in one document, because compare-and-swap holds for one: so that there is never more
//! than one rotation, and every step of it is a step of whoever saw the one before.

use std::time::{Duration, SystemTime};

use arx_identity::{KeyId, Sequence};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::document::{self, Document};
use super::{published, wire};
use crate::store::Segment;

/// The rotations of a trust domain's roots, oldest first; only the last may be under way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotations {
    /// All that are remembered.
    pub all: Vec<Rotation>,
    /// How many there ever were.
    pub count: u64,
    /// What a newer version has added.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// One rotation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotation {
    /// Its name.
    pub id: String,
    /// What for.
    #[serde(with = "kind", default, skip_serializing_if = "Kind::is_planned")]
    pub kind: Kind,
    /// Where it stands.
    #[serde(with = "phase")]
    pub phase: Phase,
    /// The root that leaves.
    #[serde(with = "wire::key_id")]
    pub from: KeyId,
    /// The root that takes its place; none before it is made.
    #[serde(with = "optional_key_id", default)]
    pub to: Option<KeyId>,
    /// The operator has turned it round: `to` is the root that it began with.
    #[serde(default)]
    pub aborting: bool,
    /// Of a distrust: no other root takes the place of the one that leaves, and nothing connects.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub without_successor: bool,
    /// How fast, and how patiently.
    pub terms: Terms,
    /// Why, as far as whoever began it has said.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Who began it.
    #[serde(default)]
    pub by: Initiator,
    /// The replica that it was begun at.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub replica: String,
    /// When it began.
    #[serde(with = "wire::millis", rename = "began_ms")]
    pub began: SystemTime,
    /// When the phase began.
    #[serde(with = "wire::millis", rename = "phase_began_ms")]
    pub phase_began: SystemTime,
    /// The bundle that has to be confirmed in this phase, once it is published.
    #[serde(with = "published::optional_sequence", default)]
    pub sequence: Option<Sequence>,
    /// Since when nothing has been in the way.
    #[serde(with = "wire::optional_millis", default)]
    pub clear_since: Option<SystemTime>,
    /// The phases that are over.
    #[serde(default)]
    pub passed: Vec<Passed>,
    /// What is known of its roots, also when they are gone.
    #[serde(default)]
    pub roots: Vec<RootName>,
    /// When the cross-certificate ends that the root which leaves has given the one that comes;
    /// nothing where it has given none.
    #[serde(
        with = "wire::optional_millis",
        rename = "cross_until_ms",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub cross_until: Option<SystemTime>,
    /// What a newer version has added.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// Who has begun a rotation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Initiator {
    /// An operator, by a command.
    #[default]
    Operator,
    /// The authority, because the root was due.
    Renewal,
    /// The operator, by other files.
    Files,
    /// A CA outside, which has certified under another root.
    Upstream,
    /// Of a newer version.
    #[serde(other)]
    Unknown,
}

/// Who or what passes a gate though it is shut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Opener {
    /// An operator, by a command.
    #[default]
    Operator,
    /// The patience that the rotation was begun with.
    WaitUnconfirmed,
    /// The root that leaves, because it is about to end.
    RootEnd,
    /// The distrust, whose gates are not waited for.
    Distrust,
    /// Of a newer version.
    #[serde(other)]
    Unknown,
}

/// What a rotation is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The root that leaves is in nobody else's hands: every gate waits for everybody.
    #[default]
    Planned,
    /// The root that leaves must not be trusted any more: no gate waits for long, nothing goes
    /// back, and what is left of the root says that it never comes again.
    Distrust,
    /// The root that leaves is the fleet's, and its key was lost with the state that had it. The
    /// one that comes signs already, and there is no way back.
    Adoption,
    /// Of a newer version: whoever meets it issues and serves, and takes no step.
    Unknown,
}

/// A root, by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootName {
    /// Its subject key identifier.
    #[serde(with = "wire::key_id")]
    pub key_id: KeyId,
    /// Its subject.
    pub subject: String,
    /// Its last instant.
    #[serde(with = "wire::millis", rename = "not_after_ms")]
    pub not_after: SystemTime,
}

/// How fast a rotation goes, and how patiently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// Over which renewals are spread.
    #[serde(with = "wire::duration", rename = "window_ms")]
    pub window: Duration,
    /// How long each gate stays shut after its last confirmation.
    #[serde(with = "wire::duration", rename = "dwell_ms")]
    pub dwell: Duration,
    /// After this, a gate is passed whoever is in the way; none = never.
    #[serde(with = "optional_duration", default)]
    pub patience: Option<Duration>,
}

/// Where a rotation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Phase {
    /// The root that comes is made; nothing has seen it yet.
    Prepare,
    /// The bundle has both roots, and everybody must confirm it.
    Distribute,
    /// The root that comes signs.
    Activate,
    /// Everybody gets certificates under it.
    Reissue,
    /// The bundle has it alone, and everybody must confirm that.
    Retire,
    /// Turned round before the root that comes had signed: it is taken out of the bundle.
    Withdraw,
    /// Turned round in Retire: the bundle has both roots again, and everybody must confirm it.
    Restore,
    /// The operator has to say how it goes on.
    Held,
    /// Over: one root is left, the new one.
    Done,
    /// Over: one root is left, the one that it began with.
    Aborted,
    /// Of a newer version: whoever meets it issues and serves, and takes no step.
    Unknown,
}

/// A phase that is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passed {
    /// Which.
    #[serde(with = "phase")]
    pub phase: Phase,
    /// When it began.
    #[serde(with = "wire::millis", rename = "began_ms")]
    pub began: SystemTime,
    /// When it ended.
    #[serde(with = "wire::millis", rename = "ended_ms")]
    pub ended: SystemTime,
    /// The bundle that was confirmed in it.
    #[serde(with = "published::optional_sequence", default)]
    pub sequence: Option<Sequence>,
    /// How many had confirmed.
    pub confirmed: u64,
    /// If its gate was not open: why it was passed all the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forced: Option<Forced>,
    /// If it was left because the operator turned round: why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aborted: Option<String>,
    /// Denied holders that had not followed: no gate waits for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub denied: Option<LeftOut>,
}

/// Denied holders that a gate was passed without.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// Who, with what they hold.
    pub holders: Vec<LeftBehind>,
    /// How many, also where not all are named.
    pub count: u64,
}

/// A gate that was passed though it was shut.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forced {
    /// Who or what has passed it.
    #[serde(default)]
    pub by: Opener,
    /// Why.
    pub reason: String,
    /// Who was left behind, in words.
    pub left_behind: Vec<String>,
    /// How many, also where not all are named.
    pub count: u64,
    /// What they hold, where that is cut off.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holders: Vec<LeftBehind>,
}

/// Somebody who was left behind, with what it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftBehind {
    /// Cluster and node, or a replica.
    pub node: String,
    /// Of a proxy, if it is one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub process: String,
    /// Why it was in the way, by name.
    pub reason: String,
    /// Some of the identities that it holds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub workloads: Vec<String>,
    /// How many it holds.
    pub count: u32,
}

impl Kind {
    const NAMES: [(Self, &'static str); 3] = [
        (Self::Planned, "rotation"),
        (Self::Distrust, "distrust"),
        (Self::Adoption, "adoption"),
    ];

    /// The name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        let named = Self::NAMES.iter().find(|(kind, _)| *kind == self);
        named.map_or("unknown", |(_, name)| name)
    }

    fn named(name: &str) -> Self {
        let named = Self::NAMES.iter().find(|(_, known)| *known == name);
        named.map_or(Self::Unknown, |(kind, _)| *kind)
    }

    #[expect(
        clippy::trivially_copy_pass_by_ref,
        reason = "serde hands out references"
    )]
    fn is_planned(&self) -> bool {
        *self == Self::Planned
    }
}

impl Phase {
    const NAMES: [(Self, &'static str); 10] = [
        (Self::Prepare, "prepare"),
        (Self::Distribute, "distribute"),
        (Self::Activate, "activate"),
        (Self::Reissue, "reissue"),
        (Self::Retire, "retire"),
        (Self::Withdraw, "withdraw"),
        (Self::Restore, "restore"),
        (Self::Held, "held"),
        (Self::Done, "done"),
        (Self::Aborted, "aborted"),
    ];

    /// The name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        let named = Self::NAMES.iter().find(|(phase, _)| *phase == self);
        named.map_or("unknown", |(_, name)| name)
    }

    /// Whether nothing follows.
    #[must_use]
    pub fn is_over(self) -> bool {
        matches!(self, Self::Done | Self::Aborted)
    }

    fn named(name: &str) -> Self {
        let named = Self::NAMES.iter().find(|(_, known)| *known == name);
        named.map_or(Self::Unknown, |(phase, _)| *phase)
    }
}

impl Opener {
    /// What records and `arx rotate` call it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::WaitUnconfirmed => "wait-unconfirmed",
            Self::RootEnd => "root-end",
            Self::Distrust => "distrust",
            Self::Unknown => "a newer version",
        }
    }
}

impl Initiator {
    /// What records and `arx rotate` call it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Renewal => "the authority",
            Self::Files => "the operator's files",
            Self::Upstream => "the upstream CA",
            Self::Unknown => "a newer version",
        }
    }
}

impl Rotations {
    /// The one that is under way.
    #[must_use]
    pub fn running(&self) -> Option<&Rotation> {
        self.all.last().filter(|last| !last.phase.is_over())
    }
}

impl Document for Rotations {
    const KIND: Segment = Segment::fixed("rotations");

    fn encode(&self) -> Zeroizing<Vec<u8>> {
        document::encode(self)
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        document::decode(bytes)
    }
}

pub(super) mod phase {
    use super::*;

    pub(in super::super) fn serialize<S: Serializer>(
        phase: &Phase,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(phase.as_str())
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Phase, D::Error> {
        String::deserialize(deserializer).map(|name| Phase::named(&name))
    }
}

mod kind {
    use super::*;

    pub(super) fn serialize<S: Serializer>(kind: &Kind, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(kind.as_str())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Kind, D::Error> {
        String::deserialize(deserializer).map(|name| Kind::named(&name))
    }
}

/// Makes the module that handles what may be missing out of the one that handles what is there.
macro_rules! optional {
    ($name:ident, $type:ty, $with:literal) => {
        mod $name {
            use super::*;

            #[derive(Serialize, Deserialize)]
            struct Wrapped(#[serde(with = $with)] $type);

            pub(super) fn serialize<S: Serializer>(
                value: &Option<$type>,
                serializer: S,
            ) -> Result<S::Ok, S::Error> {
                value.map(Wrapped).serialize(serializer)
            }

            pub(super) fn deserialize<'de, D: Deserializer<'de>>(
                deserializer: D,
            ) -> Result<Option<$type>, D::Error> {
                let found = Option::<Wrapped>::deserialize(deserializer)?;
                Ok(found.map(|Wrapped(value)| value))
            }
        }
    };
}
optional!(optional_key_id, KeyId, "wire::key_id");
optional!(optional_duration, Duration, "wire::duration");
