//! Numbers that only have to differ: where among others something happens. Never for
//! keys, nonces or identifiers.

use std::hash::{BuildHasher, RandomState};

/// Differs from call to call and from process to process. Cheap, unlike the first number
/// of the cryptographic generator.
pub(crate) fn random() -> u64 {
    RandomState::new().hash_one(0u8)
}

/// Another one, that follows from `seed`.
pub(crate) fn after(seed: u64) -> u64 {
    of(&seed.to_le_bytes())
}

/// The first bytes of something that differs already.
pub(crate) fn of(bytes: &[u8]) -> u64 {
    let mut seed = 0xcbf2_9ce4_8422_2325u64;
    for byte in bytes {
        // FNV-1a
        seed = (seed ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    seed
}
