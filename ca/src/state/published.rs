//! One published bundle of X.509 roots. Its content never changes: whoever was told a sequence
//! can be asked for it by that name alone.

use std::time::SystemTime;

use arx_identity::{Certificate, Sequence, TrustBundle, TrustDomain};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::document::{self, Document};
use super::wire;
use crate::store::Segment;

/// A published bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// Its place in the trust domain's history.
    #[serde(with = "sequence")]
    pub sequence: Sequence,
    /// The roots, in bundle order.
    #[serde(with = "wire::certificates")]
    pub roots: Vec<Certificate>,
    /// Of the concatenated DER of the roots.
    #[serde(with = "wire::sha256")]
    pub sha256: [u8; 32],
    /// When it was published.
    #[serde(with = "wire::millis", rename = "at_ms")]
    pub at: SystemTime,
    /// By whom.
    pub replica: String,
    /// What it follows; none for the very first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<Link>,
    /// What a newer version has added.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// The name of a published bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Its sequence.
    #[serde(with = "sequence")]
    pub sequence: Sequence,
    /// Its content.
    #[serde(with = "wire::sha256")]
    pub sha256: [u8; 32],
}

impl Published {
    /// The name of the entry with this sequence, so that the names have the sequences' order.
    pub(crate) fn name(sequence: Sequence) -> Segment {
        let name = format!("{:020}.{:020}", sequence.epoch, sequence.number);
        Segment::parse(&name).expect("digits and a dot")
    }

    /// The bundle.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn bundle(&self, trust_domain: &TrustDomain) -> Result<TrustBundle, String> {
        let bundle = TrustBundle::new(trust_domain.clone(), self.sequence, self.roots.clone())
            .map_err(|error| error.to_string())?;
        if bundle.sha256() != self.sha256 {
            return Err("its roots do not have the hash that it names".to_owned());
        }
        Ok(bundle)
    }

    /// Its name.
    #[must_use]
    pub fn link(&self) -> Link {
        Link {
            sequence: self.sequence,
            sha256: self.sha256,
        }
    }
}

impl Document for Published {
    const KIND: Segment = Segment::fixed("trust-x509");

    fn encode(&self) -> Zeroizing<Vec<u8>> {
        document::encode(self)
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        document::decode(bytes)
    }
}

/// `[epoch, number]`.
pub(super) mod sequence {
    use super::*;

    pub(in super::super) fn serialize<S: Serializer>(
        sequence: &Sequence,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        (sequence.epoch, sequence.number).serialize(serializer)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Sequence, D::Error> {
        let (epoch, number) = Deserialize::deserialize(deserializer)?;
        Ok(Sequence { epoch, number })
    }
}

/// The same where there may be none.
pub(super) mod optional_sequence {
    use super::*;

    #[derive(Serialize, Deserialize)]
    struct Pair(#[serde(with = "sequence")] Sequence);

    pub(in super::super) fn serialize<S: Serializer>(
        sequence: &Option<Sequence>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        sequence.map(Pair).serialize(serializer)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Sequence>, D::Error> {
        let found = Option::<Pair>::deserialize(deserializer)?;
        Ok(found.map(|Pair(sequence)| sequence))
    }
}
