//! Sizes as people write them: `512B`, `64KiB`, `10GiB`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::span::split_at_end_of;

const UNITS: [(&str, u64); 5] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];

/// A number of bytes. In TOML a string of one whole number and its unit (`B`, `KiB`, `MiB`, `GiB`, `TiB`). Bare numbers
/// are refused, and so are `KB` or `K`, which mean 1,000 to some and 1,024 to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(u64);

impl ByteSize {
    /// A size in bytes.
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The size in bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, bytes) = UNITS
            .into_iter()
            .find(|(_, bytes)| self.0 >= *bytes && self.0.is_multiple_of(*bytes))
            .unwrap_or(("B", 1));
        write!(f, "{}{unit}", self.0 / bytes)
    }
}

/// Why a text is not a [`ByteSize`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAByteSize {
    /// Nothing, a number without a unit, a sign, a fraction, a blank.
    #[error(
        "not a size; write a whole number and a unit, such as \"512B\", \"64KiB\" or \"10GiB\""
    )]
    Malformed,
    /// A unit that is not one of B, KiB, MiB, GiB, TiB.
    #[error("unknown unit \"{0}\" in a size; use B, KiB, MiB, GiB or TiB")]
    Unit(String),
    /// More than 2^64 - 1 bytes.
    #[error("larger than 16777215TiB")]
    TooLarge,
}

impl FromStr for ByteSize {
    type Err = NotAByteSize;

    fn from_str(text: &str) -> Result<Self, NotAByteSize> {
        let (number, unit) =
            split_at_end_of(text, |c| c.is_ascii_digit()).ok_or(NotAByteSize::Malformed)?;
        match split_at_end_of(unit, |c| c.is_alphabetic()) {
            Some((_, "")) => {}
            _ => return Err(NotAByteSize::Malformed),
        }
        let Some((_, bytes)) = UNITS.iter().find(|(known, _)| *known == unit) else {
            return Err(NotAByteSize::Unit(unit.chars().take(16).collect()));
        };
        let size = number
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(*bytes));
        size.map(Self).ok_or(NotAByteSize::TooLarge)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl de::Visitor<'_> for Text {
            type Value = ByteSize;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size in quotes, such as \"64KiB\" or \"10GiB\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ByteSize, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Text)
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_one_number_with_a_binary_unit() {
        for (text, bytes) in [
            ("0B", 0),
            ("512B", 512),
            ("64KiB", 65_536),
            ("10GiB", 10 << 30),
            ("1TiB", 1 << 40),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
    }

    #[test]
    fn refuses_what_means_two_things_or_nothing() {
        for text in [
            "", "64", "KiB", "-1B", "1.5MiB", "1 MiB", "1MiB1KiB", "1MiB ",
        ] {
            assert_eq!(
                text.parse::<ByteSize>(),
                Err(NotAByteSize::Malformed),
                "{text:?}"
            );
        }
        assert_eq!(
            "64KB".parse::<ByteSize>(),
            Err(NotAByteSize::Unit("KB".to_owned()))
        );
        assert_eq!(
            "16777216TiB".parse::<ByteSize>(),
            Err(NotAByteSize::TooLarge)
        );
        assert_eq!(
            "99999999999999999999B".parse::<ByteSize>(),
            Err(NotAByteSize::TooLarge)
        );
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back_as_the_same(number: u64, shift in 0u32..64) {
            let size = ByteSize(number >> shift << (shift / 2));
            prop_assert_eq!(size.to_string().parse(), Ok(size));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,24}|[0-9]{1,21}[KMGTiB]{0,4}") {
            if let Ok(size) = text.parse::<ByteSize>() {
                prop_assert_eq!(size.to_string().parse(), Ok(size));
            }
        }
    }
}
