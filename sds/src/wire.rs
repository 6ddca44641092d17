//! Protobuf messages written in one go into a buffer of exactly their size, so that a
//! private key lies in one place, which is wiped when the last stream lets go of it.

use bytes::Bytes;
use zeroize::Zeroize;

/// Bytes of the gRPC prefix of a message.
pub(crate) const PREFIX: usize = 5;

/// A length-delimited field: the only kind that a discovery response is made of. Field
/// numbers are below 16, so that a key is one byte.
pub(crate) enum Field<'a> {
    /// A string or bytes.
    Bytes(u8, &'a [u8]),
    /// A message.
    Message(u8, Vec<Field<'a>>),
}

impl Field<'_> {
    /// Bytes of the field with its key and length.
    pub(crate) fn len(&self) -> usize {
        let content = self.content_len();
        1 + varint_len(content) + content
    }

    fn content_len(&self) -> usize {
        match self {
            Self::Bytes(_, bytes) => bytes.len(),
            Self::Message(_, fields) => fields.iter().map(Field::len).sum(),
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        let (Self::Bytes(number, _) | Self::Message(number, _)) = self;
        debug_assert!(*number < 16, "the key is one byte");
        out.push(number << 3 | 2);
        write_varint(self.content_len(), out);
        match self {
            Self::Bytes(_, bytes) => out.extend_from_slice(bytes),
            Self::Message(_, fields) => fields.iter().for_each(|field| field.write(out)),
        }
    }
}

/// The gRPC frame of a message that starts with these fields and goes on with `more`
/// bytes that are sent after it ("gRPC over HTTP2", Length-Prefixed-Message).
pub(crate) fn frame(fields: &[Field<'_>], more: usize) -> Bytes {
    let length: usize = fields.iter().map(Field::len).sum();
    let mut out = Vec::with_capacity(PREFIX + length);
    out.push(0);
    // A bundle has at most 100 roots of at most 64 KiB, a stream 100 names: below 4 GiB.
    let announced = u32::try_from(length + more).expect("a response is smaller than 4 GiB");
    out.extend_from_slice(&announced.to_be_bytes());
    fields.iter().for_each(|field| field.write(&mut out));
    debug_assert_eq!(
        out.len(),
        PREFIX + length,
        "a grown buffer leaves an unwiped copy"
    );
    Bytes::from_owner(Wiped(out))
}

struct Wiped(Vec<u8>);

impl AsRef<[u8]> for Wiped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Wiped {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

fn varint_len(value: usize) -> usize {
    let bits = usize::BITS - value.leading_zeros();
    bits.div_ceil(7).max(1) as usize
}

fn write_varint(mut value: usize, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
