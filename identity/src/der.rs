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
pub(crate) const EXPLICIT_0: u8 = 0xa0;
pub(crate) const EXPLICIT_3: u8 = 0xa3;

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

/// The content of an OBJECT IDENTIFIER in dots, for people. Arcs that do not fit into
/// 128 bits are shown as `?`.
pub(crate) fn dotted(oid: &[u8]) -> String {
    let mut arcs = oid.split_inclusive(|octet| octet & 0x80 == 0).map(|arc| {
        arc.iter().try_fold(0u128, |sum, octet| {
            (sum >> 120 == 0).then_some((sum << 7) | u128::from(octet & 0x7f))
        })
    });
    let mut out = match arcs.next().flatten() {
        Some(first) => format!(
            "{}.{}",
            (first / 40).min(2),
            first - 40 * (first / 40).min(2)
        ),
        None => "?".to_owned(),
    };
    for arc in arcs {
        out.push('.');
        match arc {
            Some(arc) => out.push_str(&arc.to_string()),
            None => out.push('?'),
        }
    }
    out
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
        if self.peek() != Some(tag) {
            return Err(NotDer);
        }
        let before = self.0;
        let (_, content) = self.any()?;
        Ok((&before[..before.len() - self.0.len()], content))
    }

    /// The next value's tag and content. Tags of more than one octet occur in nothing
    /// that is read here.
    pub(crate) fn any(&mut self) -> Result<(u8, &'a [u8]), NotDer> {
        let (&tag, rest) = self.0.split_first().ok_or(NotDer)?;
        if tag & 0x1f == 0x1f {
            return Err(NotDer);
        }
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
        self.0 = rest;
        Ok((tag, content))
    }

    /// The next value's tag.
    pub(crate) fn peek(&self) -> Option<u8> {
        self.0.first().copied()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes that are left.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.0
    }

    /// The next value as a Time (RFC 5280, 4.1.2.5), in seconds since 1970.
    pub(crate) fn time(&mut self) -> Result<i64, NotDer> {
        let (tag, text) = self.any()?;
        let digits = text.strip_suffix(b"Z").ok_or(NotDer)?;
        let year_digits = match (tag, digits.len()) {
            (UTC_TIME, 12) => 2,
            (GENERALIZED_TIME, 14) => 4,
            _ => return Err(NotDer),
        };
        if !digits.iter().all(u8::is_ascii_digit) {
            return Err(NotDer);
        }
        let number = |digits: &[u8]| {
            digits
                .iter()
                .fold(0u16, |sum, digit| sum * 10 + u16::from(digit - b'0'))
        };
        let (year, rest) = digits.split_at(year_digits);
        let year = match (year_digits, number(year)) {
            (2, year @ 0..50) => 2000 + year,
            (2, year) => 1900 + year,
            (_, year) => year,
        };
        // Two digits each, so that no value is above 99.
        let part = |at: usize| number(&rest[at..at + 2]) as u8;
        let month = time::Month::try_from(part(0)).map_err(|_| NotDer)?;
        let at = time::Date::from_calendar_date(i32::from(year), month, part(2))
            .and_then(|date| date.with_hms(part(4), part(6), part(8)))
            .map_err(|_| NotDer)?;
        Ok(at.assume_utc().unix_timestamp())
    }

    /// The next value's content as a BIT STRING of whole octets.
    pub(crate) fn bit_string(&mut self) -> Result<&'a [u8], NotDer> {
        match self.read(BIT_STRING)?.split_first() {
            Some((0, bytes)) => Ok(bytes),
            _ => Err(NotDer),
        }
    }

    /// The next value as a BIT STRING of named bits (X.690, 11.2.2), of which at most 16
    /// are known anywhere; the first bit is the highest.
    pub(crate) fn flags(&mut self) -> Result<u16, NotDer> {
        let (unused, flags, last) = match *self.read(BIT_STRING)? {
            [0] => return Ok(0),
            [unused @ 0..=7, high] => (unused, u16::from(high) << 8, high),
            [unused @ 0..=7, high, low] => (unused, u16::from_be_bytes([high, low]), low),
            _ => return Err(NotDer),
        };
        if last & ((1 << unused) - 1) == 0 {
            Ok(flags)
        } else {
            Err(NotDer)
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

    #[test]
    fn times_are_read_as_they_are_written_and_nothing_else_is_a_time() {
        let written = |tag, text: &[u8]| Reader::new(&tlv(tag, &[text])).time();
        assert_eq!(written(UTC_TIME, b"700101000000Z"), Ok(0));
        assert_eq!(written(UTC_TIME, b"491231235959Z"), Ok(2_524_607_999));
        assert_eq!(written(UTC_TIME, b"500101000000Z"), Ok(-631_152_000));
        assert_eq!(
            written(GENERALIZED_TIME, b"99991231235959Z"),
            Ok(253_402_300_799)
        );
        for (tag, text) in [
            (UTC_TIME, &b"7001010000Z"[..]),
            (UTC_TIME, b"700101000000+0000"),
            (UTC_TIME, b"19700101000000Z"),
            (UTC_TIME, b"700230000000Z"),
            (UTC_TIME, b"7001010000:0Z"),
            (UTC_TIME, b"701301000000Z"),
            (UTC_TIME, b"700101240000Z"),
            (GENERALIZED_TIME, b"19700101000000.5Z"),
            (GENERALIZED_TIME, b"700101000000Z"),
            (INTEGER, b"700101000000Z"),
        ] {
            assert_eq!(written(tag, text), Err(NotDer), "{}", text.escape_ascii());
        }
    }

    #[test]
    fn named_bits_are_read_from_the_highest_and_unused_ones_are_zero() {
        let read = |content: &[u8]| Reader::new(&tlv(BIT_STRING, &[content])).flags();
        assert_eq!(read(&[7, 0x80]), Ok(0x8000));
        assert_eq!(read(&[1, 0x06]), Ok(0x0600));
        assert_eq!(read(&[7, 0x00, 0x80]), Ok(0x0080));
        assert_eq!(read(&[0]), Ok(0));
        for content in [&[][..], &[1], &[8, 0], &[1, 0x07], &[0, 1, 2, 3]] {
            assert_eq!(read(content), Err(NotDer), "{content:?}");
        }
    }

    #[test]
    fn object_identifiers_are_shown_in_dots() {
        assert_eq!(dotted(&[0x55, 0x1d, 0x11]), "2.5.29.17");
        assert_eq!(dotted(&[0x2a, 0x86, 0x48, 0xce, 0x3d]), "1.2.840.10045");
        assert_eq!(dotted(&[0x88, 0x37, 0x03]), "2.999.3");
        assert_eq!(dotted(&[]), "?");
        assert_eq!(dotted(&[0x2a; 2]), "1.2.42");
        assert_eq!(
            dotted(&[&[0x2a][..], &[0xff; 40], &[0x7f]].concat()),
            "1.2.?"
        );
    }

    proptest! {
        #[test]
        fn every_second_through_9999_survives(seconds in 0u64..253_402_300_800) {
            let written = time(UNIX_EPOCH + Duration::from_secs(seconds));
            let mut reader = Reader::new(&written);
            prop_assert_eq!(reader.time(), Ok(seconds as i64));
            prop_assert!(reader.is_empty());
        }

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
            let _ = Reader::new(&bytes).flags();
            let _ = Reader::new(&bytes).time();
            let _ = dotted(&bytes);
            let mut reader = Reader::new(&bytes);
            while reader.any().is_ok() {}
            prop_assert!(reader.rest().len() <= bytes.len());
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
