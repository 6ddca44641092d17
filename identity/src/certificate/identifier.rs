//! The two numbers by which certificates and authorities are told apart: serial numbers
//! and key identifiers.

use std::fmt;
use std::str::FromStr;

use super::CertificateError;
use crate::crypto;

/// Octets of a serial at most.
const LONGEST: usize = 20;
/// The first octet of a serial that tells something.
const TELLS: u8 = 1;

/// A serial number: 1 to 20 octets, positive, kept without leading zeros (RFC 5280,
/// 4.1.2.2). Displayed and parsed as lower-case hex.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial(Box<[u8]>);

impl Serial {
    /// Octets that a serial can tell.
    pub const SAID: usize = 11;

    /// A new serial of 127 random bits, positive in 16 octets.
    #[must_use]
    pub fn random() -> Self {
        loop {
            let mut bytes = crypto::random::<16>();
            bytes[0] &= 0x7f;
            if bytes[0] != 0 {
                return Self(bytes.into());
            }
        }
    }

    /// A new serial of 20 octets that tells `said`: 1, what is said, and 64 random bits.
    #[must_use]
    pub fn telling(said: &[u8; Self::SAID]) -> Self {
        Self([&[TELLS][..], said, &crypto::random::<8>()].concat().into())
    }

    /// What a serial tells that was made by [`Serial::telling`].
    #[must_use]
    pub fn said(&self) -> Option<&[u8; Self::SAID]> {
        let rest = self.0.strip_prefix(&[TELLS])?;
        rest.first_chunk().filter(|_| self.0.len() == LONGEST)
    }

    /// The serial with this value, big-endian; leading zeros are dropped.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let first = bytes.iter().position(|byte| *byte != 0)?;
        let bytes = &bytes[first..];
        let octets = bytes.len() + usize::from(bytes[0] >= 0x80);
        (octets <= LONGEST).then(|| Self(bytes.into()))
    }

    /// The value, big-endian, without leading zeros.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(f, &self.0)
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Serial({self})")
    }
}

impl FromStr for Serial {
    type Err = CertificateError;

    /// Hex in either case; colons between octets and leading zeros are allowed, as
    /// other tools print them.
    fn from_str(text: &str) -> Result<Self, CertificateError> {
        let digits: String = text.chars().filter(|c| *c != ':').collect();
        let digits = if digits.len() % 2 == 1 {
            format!("0{digits}")
        } else {
            digits
        };
        if digits.is_empty() || digits.len() > 80 || !digits.bytes().all(|c| c.is_ascii_hexdigit())
        {
            return Err(CertificateError::Serial);
        }
        let bytes: Option<Vec<u8>> = (0..digits.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).ok())
            .collect();
        bytes
            .and_then(|bytes| Self::from_bytes(&bytes))
            .ok_or(CertificateError::Serial)
    }
}

/// A subject or authority key identifier: 1 to 32 octets (RFC 5280, 4.2.1.1 and
/// 4.2.1.2). Ours have 20. Displayed as lower-case hex.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId {
    bytes: [u8; 32],
    length: u8,
}

impl KeyId {
    /// The identifier with these octets, if there are 1 to 32 of them.
    #[must_use]
    pub fn from_slice(octets: &[u8]) -> Option<Self> {
        if octets.is_empty() || octets.len() > 32 {
            return None;
        }
        let mut bytes = [0; 32];
        bytes[..octets.len()].copy_from_slice(octets);
        Some(Self {
            bytes,
            length: octets.len() as u8,
        })
    }

    /// The octets.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(f, self.as_bytes())
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

fn hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}
