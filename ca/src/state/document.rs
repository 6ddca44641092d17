//! Documents as bytes: JSON, so that a person with the sealing key can read a state, and fields
//! that a newer version has added are carried along.

use std::io;

use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use crate::store::Segment;

/// One kind of document.
pub trait Document: Sized + Send + Sync {
    /// What the kind is called in keys.
    const KIND: Segment;

    /// The bytes to seal. They may hold a key.
    fn encode(&self) -> Zeroizing<Vec<u8>>;

    /// The document in these bytes.
    ///
    /// # Errors
    /// Where it is not one, without quoting it.
    fn decode(bytes: &[u8]) -> Result<Self, String>;
}

/// `value` as JSON, in one piece of memory: a buffer that grows leaves copies behind.
pub(crate) fn encode(value: &impl Serialize) -> Zeroizing<Vec<u8>> {
    const INVARIANT: &str = "texts, numbers and JSON values can be written to memory";
    let mut length = Length(0);
    serde_json::to_writer(&mut length, value).expect(INVARIANT);
    let mut bytes = Zeroizing::new(Vec::with_capacity(length.0));
    serde_json::to_writer(&mut *bytes, value).expect(INVARIANT);
    bytes
}

/// The value in this JSON.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    // The error's own text quotes what it found.
    serde_json::from_slice(bytes).map_err(|error| {
        let what = match error.classify() {
            serde_json::error::Category::Data => "a field is missing or of another type",
            _ => "not JSON",
        };
        format!("{what}, at byte {}", error.column())
    })
}

struct Length(usize);

impl io::Write for Length {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
