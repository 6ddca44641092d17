//! Who takes the steps that only one replica may take, for now.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::document::{self, Document};
use crate::store::Segment;

/// The lease. No clock is in it: whoever wants it watches whether it changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The replica that has it.
    pub holder: String,
    /// Grows whenever another replica takes it.
    pub term: u64,
    /// Grows whenever its holder renews it.
    pub renewed: u64,
    /// For how long it is good after each renewal, in milliseconds.
    pub lasts_ms: u64,
    /// What a newer version has added.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Document for Lease {
    const KIND: Segment = Segment::fixed("lease");

    fn encode(&self) -> Zeroizing<Vec<u8>> {
        document::encode(self)
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        document::decode(bytes)
    }
}
