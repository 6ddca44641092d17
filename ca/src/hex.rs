//! Bytes as hexadecimal digits.

use std::fmt;

use arx_identity::KeyId;

/// Writes lower-case digits.
pub(crate) struct Hex<'b>(pub(crate) &'b [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The lower-case digits as a text.
pub(crate) fn encode(bytes: &[u8]) -> String {
    Hex(bytes).to_string()
}

/// Reads digits of either case into `out`; false if they are not exactly as many bytes.
pub(crate) fn decode(text: &[u8], out: &mut [u8]) -> bool {
    let (pairs, rest) = text.as_chunks::<2>();
    if !rest.is_empty() || pairs.len() != out.len() {
        return false;
    }
    pairs
        .iter()
        .zip(out)
        .all(|([high, low], out)| match (digit(*high), digit(*low)) {
            (Some(high), Some(low)) => {
                *out = high << 4 | low;
                true
            }
            _ => false,
        })
}

/// [`decode`] for a known number of bytes, lower-case digits only: what [`Hex`] writes.
pub(crate) fn exactly<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut out = [0; N];
    (is_lower(text) && decode(text.as_bytes(), &mut out)).then_some(out)
}

/// A key identifier from the digits that its `Display` writes.
pub(crate) fn key_id(text: &str) -> Option<KeyId> {
    let mut out = [0; 32];
    let out = out.get_mut(..text.len() / 2)?;
    if !is_lower(text) || !decode(text.as_bytes(), out) {
        return None;
    }
    KeyId::from_slice(out)
}

fn is_lower(text: &str) -> bool {
    !text.bytes().any(|byte| byte.is_ascii_uppercase())
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte)
        .to_digit(16)
        .and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read_back(bytes in any::<[u8; 20]>()) {
            let text = Hex(&bytes).to_string();
            prop_assert_eq!(exactly::<20>(&text), Some(bytes));
            prop_assert_eq!(exactly::<19>(&text), None);
            let mut out = [0; 20];
            prop_assert!(decode(text.to_uppercase().as_bytes(), &mut out));
            prop_assert_eq!(out, bytes);
        }

        #[test]
        fn a_key_identifier_is_read_back(octets in prop::collection::vec(any::<u8>(), 1..=32)) {
            let id = KeyId::from_slice(&octets).expect("1 to 32 octets");
            prop_assert_eq!(key_id(&id.to_string()), Some(id));
            prop_assert_eq!(key_id(&format!("{id}0")), None);
        }

        #[test]
        fn anything_else_is_refused(text in "\\PC{0,40}") {
            let digits = text.len() == 4 && text.bytes().all(|b| b.is_ascii_hexdigit());
            prop_assert_eq!(decode(text.as_bytes(), &mut [0; 2]), digits);
        }
    }
}
