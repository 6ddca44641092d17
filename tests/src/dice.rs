//! Numbers that repeat with their seed, for tests that do things at any moment.

use arx_identity::crypto;

/// Throws numbers (xorshift).
#[derive(Debug)]
pub struct Dice(u64);

impl Dice {
    /// Of the seed in the environment variable of this name, or of a random one; it is
    /// printed, so that a run can be repeated.
    #[must_use]
    pub fn seeded_by(variable: &str) -> Self {
        let seed = std::env::var(variable)
            .ok()
            .and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or_else(|| u64::from_be_bytes(crypto::random())) | 1;
        eprintln!("{variable}={seed}");
        Self(seed)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// How often something is to be done: the number in the environment variable of this name,
/// or `otherwise`.
#[must_use]
pub fn times(variable: &str, otherwise: usize) -> usize {
    std::env::var(variable)
        .ok()
        .and_then(|count| count.parse().ok())
        .unwrap_or(otherwise)
}
