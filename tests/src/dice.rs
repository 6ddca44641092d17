//! Numbers that repeat with their seed, for tests that do things at any moment.

use arx_identity::crypto;

/// Throws numbers (SplitMix64).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Of the seed in the environment variable of this name, or of a random one; it is
    /// printed, so that a run can be repeated.
    #[must_use]
    pub fn seeded_by(variable: &str) -> Self {
        let seed = std::env::var(variable)
            .ok()
            .and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or_else(|| u64::from_be_bytes(crypto::random()));
        eprintln!("{variable}={seed}");
        Self(seed)
    }

    /// The same seed, the same throws.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x2545_F491_4F6C_DD1D).wrapping_add(1))
    }

    /// Any number.
    pub fn any(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.any() % end.max(1)
    }

    /// A place in a list of this length.
    pub fn place(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).unwrap_or(0)
    }

    /// Once in so many throws.
    pub fn one_in(&mut self, sides: u64) -> bool {
        self.below(sides) == 0
    }

    /// How long a message takes, in milliseconds: mostly little, sometimes seconds.
    pub fn delay(&mut self) -> u64 {
        match self.below(16) {
            0 => 1 + self.below(8_000),
            1 | 2 => 1 + self.below(800),
            _ => 1 + self.below(30),
        }
    }

    /// Sixteen bytes that nobody else has thrown.
    pub fn bytes(&mut self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.any().to_be_bytes());
        bytes[8..].copy_from_slice(&self.any().to_be_bytes());
        bytes
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
