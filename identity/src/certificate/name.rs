//! Distinguished names (RFC 5280, 4.1.2.4): whether they are well formed, and their
//! text for people.

use std::fmt::Write as _;

use crate::der::{self, NotDer, Reader};

/// Attribute types with a registered short name (RFC 4514, 3; RFC 4519, 2).
const SHORT_NAMES: &[(&[u8], &str)] = &[
    (&[0x55, 0x04, 0x03], "CN"),
    (&[0x55, 0x04, 0x04], "SN"),
    (&[0x55, 0x04, 0x05], "serialNumber"),
    (&[0x55, 0x04, 0x06], "C"),
    (&[0x55, 0x04, 0x07], "L"),
    (&[0x55, 0x04, 0x08], "ST"),
    (&[0x55, 0x04, 0x09], "STREET"),
    (&[0x55, 0x04, 0x0a], "O"),
    (&[0x55, 0x04, 0x0b], "OU"),
    (&[0x55, 0x04, 0x0c], "title"),
    (
        &[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 0x01, 0x01],
        "UID",
    ),
    (
        &[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 0x01, 0x19],
        "DC",
    ),
];

const NUMERIC_STRING: u8 = 0x12;
const IA5_STRING: u8 = 0x16;
const VISIBLE_STRING: u8 = 0x1a;
const BMP_STRING: u8 = 0x1e;

/// Checks that `name` is exactly one Name.
pub(super) fn check(name: &[u8]) -> Result<(), NotDer> {
    let mut whole = Reader::new(name);
    let mut sets = Reader::new(whole.read(der::SEQUENCE)?);
    whole.end()?;
    while !sets.is_empty() {
        let mut set = Reader::new(sets.read(der::SET)?);
        attribute(&mut set)?;
        while !set.is_empty() {
            attribute(&mut set)?;
        }
    }
    Ok(())
}

/// The text of a name that [`check`] passed: RFC 4514, so the last part comes first.
/// Whatever a terminal or a log could take for something else is escaped.
pub(super) fn text(name: &[u8]) -> String {
    let parts = parts(name).unwrap_or_default();
    let mut out = String::new();
    for (at, part) in parts.iter().rev().enumerate() {
        if at > 0 {
            out.push(',');
        }
        out.push_str(part);
    }
    out
}

fn parts(name: &[u8]) -> Result<Vec<String>, NotDer> {
    let mut sets = Reader::new(Reader::new(name).read(der::SEQUENCE)?);
    let mut parts = Vec::new();
    while !sets.is_empty() {
        let mut set = Reader::new(sets.read(der::SET)?);
        let mut part = String::new();
        while !set.is_empty() {
            let (oid, tag, value) = attribute(&mut set)?;
            if !part.is_empty() {
                part.push('+');
            }
            push_type(&mut part, oid);
            part.push('=');
            match string(tag, value) {
                Some(value) => push_escaped(&mut part, &value),
                None => {
                    part.push('#');
                    push_hex(&mut part, &der::tlv(tag, &[value]), "");
                }
            }
        }
        parts.push(part);
    }
    Ok(parts)
}

/// Type, tag and content of one AttributeTypeAndValue.
fn attribute<'a>(set: &mut Reader<'a>) -> Result<(&'a [u8], u8, &'a [u8]), NotDer> {
    let mut pair = Reader::new(set.read(der::SEQUENCE)?);
    let oid = pair.read(der::OID)?;
    let (tag, value) = pair.any()?;
    pair.end()?;
    Ok((oid, tag, value))
}

fn string(tag: u8, value: &[u8]) -> Option<String> {
    match tag {
        der::UTF8_STRING | der::PRINTABLE_STRING | NUMERIC_STRING | IA5_STRING | VISIBLE_STRING => {
            std::str::from_utf8(value).ok().map(str::to_owned)
        }
        BMP_STRING if value.len().is_multiple_of(2) => {
            let units = value
                .chunks(2)
                .map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
            char::decode_utf16(units).collect::<Result<_, _>>().ok()
        }
        _ => None,
    }
}

fn push_type(out: &mut String, oid: &[u8]) {
    match SHORT_NAMES.iter().find(|(known, _)| *known == oid) {
        Some((_, name)) => out.push_str(name),
        None => out.push_str(&der::dotted(oid)),
    }
}

/// RFC 4514, 2.4, and every character that does not print as itself.
fn push_escaped(out: &mut String, value: &str) {
    let last = value.chars().count().saturating_sub(1);
    for (at, c) in value.chars().enumerate() {
        let special = matches!(c, '"' | '+' | ',' | ';' | '<' | '>' | '\\')
            || (at == 0 && matches!(c, ' ' | '#'))
            || (at == last && c == ' ');
        let prints = matches!(c, '"' | '\\' | '\'') || c.escape_debug().count() == 1;
        if special {
            out.push('\\');
            out.push(c);
        } else if prints {
            out.push(c);
        } else {
            push_hex(out, c.encode_utf8(&mut [0; 4]).as_bytes(), "\\");
        }
    }
}

fn push_hex(out: &mut String, bytes: &[u8], before: &str) {
    for byte in bytes {
        let _ = write!(out, "{before}{byte:02x}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn attribute(oid: &[u8], tag: u8, value: &[u8]) -> Vec<u8> {
        der::sequence(&[&der::tlv(der::OID, &[oid]), &der::tlv(tag, &[value])])
    }

    fn common_name(value: &str) -> String {
        let pair = attribute(SHORT_NAMES[0].0, der::UTF8_STRING, value.as_bytes());
        let name = der::sequence(&[&der::tlv(der::SET, &[&pair])]);
        assert_eq!(check(&name), Ok(()));
        text(&name)
    }

    #[test]
    fn names_are_shown_by_rfc_4514() {
        let set = |pairs: &[&[u8]]| der::tlv(der::SET, pairs);
        let country = attribute(&[0x55, 0x04, 0x06], der::PRINTABLE_STRING, b"DE");
        let name = attribute(&[0x55, 0x04, 0x03], BMP_STRING, &[0, b'a', 0, b'b']);
        let unknown = attribute(&[0x55, 0x04, 0x63], der::OCTET_STRING, &[1, 0xff]);
        let whole = der::sequence(&[&set(&[&country]), &set(&[&name, &unknown])]);
        assert_eq!(check(&whole), Ok(()));
        assert_eq!(text(&whole), "CN=ab+2.5.4.99=#040201ff,C=DE");
        assert_eq!(text(&der::sequence(&[])), "");
    }

    #[test]
    fn what_could_deceive_a_reader_is_escaped() {
        assert_eq!(common_name("a,b=c"), "CN=a\\,b=c");
        assert_eq!(common_name("#a "), "CN=\\#a\\ ");
        assert_eq!(common_name("a\nb"), "CN=a\\0ab");
        assert_eq!(common_name("\u{1b}[31m"), "CN=\\1b[31m");
        assert_eq!(common_name("\u{202e}x"), "CN=\\e2\\80\\aex");
        assert_eq!(common_name("M\u{fc}ller"), "CN=M\u{fc}ller");
    }

    #[test]
    fn what_is_not_a_name_is_refused() {
        let pair = attribute(&[0x55, 0x04, 0x03], der::UTF8_STRING, b"a");
        let set = der::tlv(der::SET, &[&pair]);
        let good = der::sequence(&[&set]);
        for bad in [
            [&good[..], &[0]].concat(),
            der::sequence(&[&der::tlv(der::SET, &[])]),
            der::sequence(&[&pair]),
            der::sequence(&[&set, &[5, 0]]),
            der::sequence(&[&der::tlv(der::SET, &[&pair, &[5, 0]])]),
            der::tlv(der::SET, &[&set]),
        ] {
            assert_eq!(check(&bad), Err(NotDer), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn no_value_adds_a_part_or_a_line(value in ".{0,40}") {
            let shown = common_name(&value);
            prop_assert!(shown.starts_with("CN="));
            prop_assert!(!shown.chars().any(char::is_control), "{shown:?}");
            let mut escaped = false;
            for c in shown.chars() {
                prop_assert!(escaped || c != ',' && c != '+');
                escaped = c == '\\' && !escaped;
            }
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let name = der::sequence(&[&bytes]);
            let _ = check(&name);
            let _ = text(&name);
        }
    }
}
