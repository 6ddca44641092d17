//! The little DER (X.690) that certificates, requests and keys are made of.
//!
//! Writing is composition of byte vectors; reading is a cursor that accepts definite,
//! minimal lengths only and never looks past its slice.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub(crate) const BOOLEAN_TRUE: &[u8] = &[0x01, 0x01, 0xff];
pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const BIT_STRING: u8 = 0x03;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const OID: u8 = 0x06;
pub(crate) const UTF8_STRING: u8 = 0x0c;
pub(crate) const PRINTABLE_STRING: u8 = 0x13;
pub(crate) const UTC_TIME: u8 = 0x17;
pub(crate) const GENERALIZED_TIME: u8 = 0x18;
pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const SET: u8 = 0x31;

/// One tag-length-value whose value is the parts, in order.
pub(crate) fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut out = Vec::with_capacity(length + 6);
    out.push(tag);
    push_length(&mut out, length);
    for part in parts {
        out.extend_from_slice(part);
    }
    out
}

pub(crate) fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    tlv(SEQUENCE, parts)
}

/// A non-negative INTEGER from big-endian bytes.
pub(crate) fn unsigned_integer(bytes: &[u8]) -> Vec<u8> {
    let first = bytes
        .iter()
        .position(|byte| *byte != 0)
        .unwrap_or(bytes.len());
    let bytes = &bytes[first..];
    match bytes.first() {
        None => tlv(INTEGER, &[&[0]]),
        Some(high) if *high >= 0x80 => tlv(INTEGER, &[&[0], bytes]),
        Some(_) => tlv(INTEGER, &[bytes]),
    }
}

/// A BIT STRING of whole octets.
pub(crate) fn bit_string(bytes: &[u8]) -> Vec<u8> {
    tlv(BIT_STRING, &[&[0], bytes])
}

/// A certificate's Time (RFC 5280, 4.1.2.5): UTCTime through 2049, GeneralizedTime
/// after. Fractions of a second are cut off.
pub(crate) fn time(at: SystemTime) -> Vec<u8> {
    let at = at
        .max(UNIX_EPOCH)
        .min(UNIX_EPOCH + Duration::from_secs(253_402_300_799));
    let at = time::OffsetDateTime::from(at);
    let (year, month, day) = (at.year(), u8::from(at.month()), at.day());
    let (hour, minute, second) = (at.hour(), at.minute(), at.second());
    let rest = format!("{month:02}{day:02}{hour:02}{minute:02}{second:02}Z");
    if year < 2050 {
        let short = year % 100;
        tlv(UTC_TIME, &[format!("{short:02}{rest}").as_bytes()])
    } else {
        tlv(GENERALIZED_TIME, &[format!("{year:04}{rest}").as_bytes()])
    }
}

fn push_length(out: &mut Vec<u8>, length: usize) {
    if length < 0x80 {
        out.push(length as u8);
        return;
    }
    let bytes = length.to_be_bytes();
    let first = bytes
        .iter()
        .position(|byte| *byte != 0)
        .unwrap_or(bytes.len() - 1);
    out.push(0x80 | (bytes.len() - first) as u8);
    out.extend_from_slice(&bytes[first..]);
}

/// What is left to read of a DER value.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a>(&'a [u8]);

/// The bytes are not the DER that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotDer;

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The next value's content, if it has this tag.
    pub(crate) fn read(&mut self, tag: u8) -> Result<&'a [u8], NotDer> {
        self.element(tag).map(|(_, content)| content)
    }

    /// The next value with its tag and length, and its content.
    pub(crate) fn element(&mut self, tag: u8) -> Result<(&'a [u8], &'a [u8]), NotDer> {
        let bytes = self.0;
        let (&found, rest) = bytes.split_first().ok_or(NotDer)?;
        let (&first, rest) = rest.split_first().ok_or(NotDer)?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81..=0x84 => {
                let count = usize::from(first & 0x7f);
                let (octets, rest) = rest.split_at_checked(count).ok_or(NotDer)?;
                let length = octets
                    .iter()
                    .fold(0, |sum, octet| (sum << 8) | usize::from(*octet));
                let minimal = octets[0] != 0 && length >= 0x80;
                (minimal.then_some(length).ok_or(NotDer)?, rest)
            }
            _ => return Err(NotDer),
        };
        let (content, rest) = rest.split_at_checked(length).ok_or(NotDer)?;
        if found != tag {
            return Err(NotDer);
        }
        self.0 = rest;
        Ok((&bytes[..bytes.len() - rest.len()], content))
    }

    /// The next value's content as a BIT STRING of whole octets.
    pub(crate) fn bit_string(&mut self) -> Result<&'a [u8], NotDer> {
        match self.read(BIT_STRING)?.split_first() {
            Some((0, bytes)) => Ok(bytes),
            _ => Err(NotDer),
        }
    }

    /// A positive INTEGER's big-endian bytes without the sign octet.
    pub(crate) fn positive_integer(&mut self) -> Result<&'a [u8], NotDer> {
        match self.read(INTEGER)? {
            [0, rest @ ..] if rest.first().is_some_and(|high| *high >= 0x80) => Ok(rest),
            bytes if bytes.first().is_some_and(|high| (1..0x80).contains(high)) => Ok(bytes),
            _ => Err(NotDer),
        }
    }

    pub(crate) fn end(self) -> Result<(), NotDer> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(NotDer)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_change_their_form_in_2050() {
        let last = UNIX_EPOCH + Duration::from_secs(2_524_607_999);
        assert_eq!(&time(last)[2..], b"491231235959Z");
        assert_eq!(
            &time(last + Duration::from_secs(1))[2..],
            b"20500101000000Z"
        );
        assert_eq!(
            &time(UNIX_EPOCH + Duration::from_secs(u32::MAX.into()))[2..],
            b"21060207062815Z"
        );
    }

    #[test]
    fn lengths_that_are_not_minimal_are_refused() {
        for bytes in [
            &[0x30, 0x81, 0x01, 0x00][..],
            &[0x30, 0x80],
            &[0x30, 0x82, 0x00, 0x80],
            &[0x30, 2, 0],
        ] {
            assert_eq!(Reader::new(bytes).read(SEQUENCE), Err(NotDer), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(content in prop::collection::vec(any::<u8>(), 0..70_000)) {
            let written = tlv(OCTET_STRING, &[&content]);
            let mut reader = Reader::new(&written);
            prop_assert_eq!(reader.read(OCTET_STRING), Ok(&content[..]));
            prop_assert_eq!(reader.end(), Ok(()));
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut reader = Reader::new(&bytes);
            while reader.read(*bytes.first().unwrap_or(&0)).is_ok() {}
            let _ = Reader::new(&bytes).bit_string();
            let _ = Reader::new(&bytes).positive_integer();
        }

        #[test]
        fn integers_keep_their_value(bytes in prop::collection::vec(any::<u8>(), 1..24)) {
            let written = unsigned_integer(&bytes);
            let value: Vec<u8> = bytes.iter().copied().skip_while(|byte| *byte == 0).collect();
            if !value.is_empty() {
                prop_assert_eq!(Reader::new(&written).positive_integer(), Ok(&value[..]));
            }
        }
    }
}
