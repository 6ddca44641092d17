//! How a record lies in a segment:
//!
//! ```text
//! mark [4] | body length u32 | back u32 | index u64 | body | chain [32]     (little-endian)
//! ```
//!
//! `chain` is the SHA-256 of the 32 bytes before the frame, which are the chain value of
//! the record before (or of the segment's header), and of the frame up to here. One hash
//! so does three things: it tells a torn record from a whole one, it lets a record be
//! checked where it lies without reading what stands before, and it chains all records.
//!
//! `back` is the distance to the first frame that was written with the same commit. A
//! commit is written only after the one before is durable, so whatever lies before the
//! commit of a whole record was acknowledged once: if it is broken now, it was damaged,
//! not torn.

use arx_identity::crypto::sha256;

/// A value of the chain.
pub(super) type Chain = [u8; CHAIN];

/// Length of a chain value.
pub(super) const CHAIN: usize = 32;

/// Largest body of a record.
pub(super) const MAX_BODY: usize = 64 * 1024;

/// Length of what stands before the body.
const HEAD: usize = 20;

/// Length of a frame's mark.
pub(super) const MARK: usize = 4;

/// Begins a frame. Its first octet occurs in no text (it is not UTF-8), so a search for
/// the next frame in a damaged segment is rarely led astray.
const MARK_BYTES: [u8; MARK] = [0xF5, b'A', b'R', b'X'];

/// Length of a whole frame around a body.
pub(super) const fn length(body: usize) -> usize {
    HEAD + body + CHAIN
}

/// Appends a frame to `commit`, which begins with the chain value before it.
pub(super) fn push(commit: &mut Vec<u8>, index: u64, body: &[u8]) {
    let start = commit.len();
    let before = start - CHAIN;
    let word = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes();
    commit.extend_from_slice(&MARK_BYTES);
    commit.extend_from_slice(&word(body.len()));
    commit.extend_from_slice(&word(before));
    commit.extend_from_slice(&index.to_le_bytes());
    commit.extend_from_slice(body);
    let chain = sha256(&commit[before..]);
    commit.extend_from_slice(&chain);
}

/// A frame that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) index: u64,
    pub(super) back: u32,
    body: usize,
}

impl Frame {
    /// Length of the whole frame.
    pub(super) fn length(&self) -> usize {
        length(self.body)
    }

    /// The body, in the bytes that the frame was read from.
    pub(super) fn body<'b>(&self, bytes: &'b [u8]) -> &'b [u8] {
        &bytes[CHAIN + HEAD..CHAIN + HEAD + self.body]
    }
}

/// What reading came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Read {
    Whole(Frame),
    /// So many bytes are needed to tell, counted like the argument of [`read`].
    Short(usize),
    Broken(&'static str),
}

/// Reads the frame that follows the first 32 of `bytes`, the chain value before it.
pub(super) fn read(bytes: &[u8]) -> Read {
    let Some(head) = bytes.get(CHAIN..).and_then(<[u8]>::first_chunk::<HEAD>) else {
        return Read::Short(CHAIN + HEAD);
    };
    let [m0, m1, m2, m3, l0, l1, l2, l3, b0, b1, b2, b3, index @ ..] = *head;
    if [m0, m1, m2, m3] != MARK_BYTES {
        return Read::Broken("no record begins here");
    }
    let body = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    if body > MAX_BODY {
        return Read::Broken("the record says that it is larger than any can be");
    }
    let end = CHAIN + HEAD + body;
    let Some(chain) = bytes.get(end..).and_then(<[u8]>::first_chunk::<CHAIN>) else {
        return Read::Short(end + CHAIN);
    };
    if sha256(&bytes[..end]) != *chain {
        return Read::Broken("the record does not match its hash");
    }
    Read::Whole(Frame {
        index: u64::from_le_bytes(index),
        back: u32::from_le_bytes([b0, b1, b2, b3]),
        body,
    })
}

/// Position of the next mark in `bytes`.
pub(super) fn find_mark(bytes: &[u8]) -> Option<usize> {
    bytes.windows(MARK).position(|window| window == MARK_BYTES)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn commit(bodies: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = vec![7; CHAIN];
        for (index, body) in bodies.iter().enumerate() {
            push(&mut bytes, index as u64, body);
        }
        bytes
    }

    proptest! {
        #[test]
        fn what_is_pushed_is_read_again(
            bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..5)
        ) {
            let bytes = commit(&bodies);
            let mut at = 0;
            for (index, body) in bodies.iter().enumerate() {
                let Read::Whole(frame) = read(&bytes[at..]) else {
                    return Err(TestCaseError::fail("not whole"));
                };
                prop_assert_eq!(frame.index, index as u64);
                prop_assert_eq!(frame.back as usize, at);
                prop_assert_eq!(frame.body(&bytes[at..]), &body[..]);
                at += frame.length();
            }
            prop_assert_eq!(at + CHAIN, bytes.len());
        }

        #[test]
        fn any_changed_bit_of_a_frame_or_of_the_value_before_it_shows(
            body in prop::collection::vec(any::<u8>(), 0..50), at in any::<prop::sample::Index>(), bit in 0u32..8
        ) {
            let mut bytes = commit(&[body]);
            let at = at.index(bytes.len());
            bytes[at] ^= 1_u8 << bit;
            prop_assert!(!matches!(read(&bytes), Read::Whole(_)));
        }

        #[test]
        fn a_frame_that_is_cut_anywhere_asks_for_more(
            body in prop::collection::vec(any::<u8>(), 0..50), at in any::<prop::sample::Index>()
        ) {
            let bytes = commit(&[body]);
            let short = &bytes[..at.index(bytes.len())];
            let Read::Short(needed) = read(short) else {
                return Err(TestCaseError::fail("did not ask for more"));
            };
            prop_assert!(needed > short.len() && needed <= bytes.len());
        }

        #[test]
        fn arbitrary_bytes_are_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..500)) {
            prop_assert!(!matches!(read(&bytes), Read::Whole(_)));
        }
    }
}
