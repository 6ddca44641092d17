//! An issuing certificate of one replica. Written once, before it signs anything; the
//! [registration](super::Registration) beside the roots is what counts, this is who and what.

use std::time::SystemTime;

use arx_identity::{Certificate, KeyId};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::document::{self, Document};
use super::wire;
use crate::store::Segment;

/// A registered intermediate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intermediate {
    /// The certificate.
    #[serde(with = "wire::certificate")]
    pub certificate: Certificate,
    /// The root that it stands under, by its subject key identifier.
    #[serde(with = "wire::key_id")]
    pub root: KeyId,
    /// The replica that holds the key.
    pub replica: String,
    /// When it was registered.
    #[serde(with = "wire::millis", rename = "registered_ms")]
    pub registered: SystemTime,
    /// What a newer version has added.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Document for Intermediate {
    const KIND: Segment = Segment::fixed("intermediate");

    fn encode(&self) -> Zeroizing<Vec<u8>> {
        document::encode(self)
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        document::decode(bytes)
    }
}
