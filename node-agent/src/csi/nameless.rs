//! Requests whose `:authority` says nothing.
//!
//! Clients of a Unix socket have no name to put there, and some put the socket's path, which is no
//! authority (RFC 3986, 3.2): kubelets do where they register a driver, percent-encoded, and
//! whoever reads HTTP/2 refuses such a request. Nobody here asks what it says, so it is replaced
//! by one letter in every request.
//!
//! That leaves the compression of heads (RFC 7541) right without taking part in it. The field is
//! found by its place in the static table, so nothing has to be decompressed. The reader's
//! dynamic table gets an entry that is never larger than the one that the client has put into
//! its own: whatever the client still refers to by number is in both, in the same place.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Length of the client's preface, which comes before the first frame.
const PREFACE: usize = 24;
const HEAD: usize = 9;
/// Largest payload that the reader has allowed (RFC 9113, 4.2). What is larger goes through, to
/// be refused.
const LARGEST: usize = 16 * 1024;
/// Largest head of a request that is kept to be changed.
const LARGEST_BLOCK: usize = 64 * 1024;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// `:authority` in the static table (RFC 7541, appendix A).
const AUTHORITY: usize = 1;
/// A string of one letter, not compressed (RFC 7541, 5.2).
const NOBODY: [u8; 2] = [1, b'x'];
const READ: usize = 4 * 1024;

/// A connection whose requests name nobody.
#[derive(Debug)]
pub(super) struct Nameless<IO> {
    inner: IO,
    rewriter: Rewriter,
    /// Ready to be handed out, from this place on.
    ready: Vec<u8>,
    from: usize,
}

impl<IO> Nameless<IO> {
    /// The connection `inner`, of which nothing has been read yet.
    pub(super) fn new(inner: IO) -> Self {
        Self {
            inner,
            rewriter: Rewriter::default(),
            ready: Vec::new(),
            from: 0,
        }
    }
}

#[derive(Debug)]
struct Rewriter {
    /// Read, and not looked at yet.
    held: Vec<u8>,
    /// So many bytes go through before anything is looked at.
    through: usize,
    /// The head of a request of which parts are still to come.
    block: Option<Block>,
    /// Something was not as the standard has it: all the rest goes through for the reader to
    /// refuse.
    lost: bool,
}

/// The head of a request.
#[derive(Debug)]
struct Block {
    flags: u8,
    stream: [u8; 4],
    priority: Vec<u8>,
    fragment: Vec<u8>,
    /// As it came.
    raw: Vec<u8>,
}

impl Default for Rewriter {
    fn default() -> Self {
        Self {
            held: Vec::new(),
            through: PREFACE,
            block: None,
            lost: false,
        }
    }
}

impl Rewriter {
    fn take(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        self.held.extend_from_slice(bytes);
        loop {
            let through = match self.lost {
                true => self.held.len(),
                false => self.through.min(self.held.len()),
            };
            out.extend(self.held.drain(..through));
            self.through = self.through.saturating_sub(through);
            if self.held.len() < HEAD {
                return;
            }
            let length = usize::from(self.held[0]) << 16
                | usize::from(self.held[1]) << 8
                | usize::from(self.held[2]);
            let kind = self.held[3];
            let expected = match self.block {
                Some(_) => kind == CONTINUATION,
                None => kind != CONTINUATION,
            };
            let is_head = matches!(kind, HEADERS | CONTINUATION);
            if !expected || (is_head && length > LARGEST) {
                self.give_up(out);
            } else if !is_head {
                self.through = HEAD + length;
            } else if self.held.len() < HEAD + length {
                return;
            } else {
                let frame: Vec<u8> = self.held.drain(..HEAD + length).collect();
                self.frame(frame, out);
            }
        }
    }

    /// Takes a whole frame of a head.
    fn frame(&mut self, frame: Vec<u8>, out: &mut Vec<u8>) {
        let flags = frame[4];
        let block = match self.block.take() {
            Some(mut block) => {
                block.fragment.extend_from_slice(&frame[HEAD..]);
                block.raw.extend_from_slice(&frame);
                Some(block)
            }
            None => Block::begin(&frame),
        };
        match block {
            None => {
                out.extend_from_slice(&frame);
                self.lost = true;
            }
            Some(block) if flags & END_HEADERS != 0 => match nobody(&block.fragment) {
                Some(fragment) => block.write(&fragment, out),
                None => {
                    out.extend_from_slice(&block.raw);
                    self.lost = true;
                }
            },
            Some(block) => {
                let too_large = block.raw.len() > LARGEST_BLOCK;
                self.block = Some(block);
                if too_large {
                    self.give_up(out);
                }
            }
        }
    }

    fn give_up(&mut self, out: &mut Vec<u8>) {
        if let Some(block) = self.block.take() {
            out.extend_from_slice(&block.raw);
        }
        self.lost = true;
    }
}

impl Block {
    /// Of a HEADERS frame (RFC 9113, 6.2); None if it can't be one.
    fn begin(frame: &[u8]) -> Option<Self> {
        let (flags, mut payload) = (frame[4], &frame[HEAD..]);
        if flags & PADDED != 0 {
            let (padding, rest) = payload.split_first()?;
            payload = rest.get(..rest.len().checked_sub(usize::from(*padding))?)?;
        }
        let priority = match flags & PRIORITY {
            0 => &[][..],
            _ => {
                let (priority, rest) = payload.split_at_checked(5)?;
                payload = rest;
                priority
            }
        };
        Some(Self {
            flags: flags & !(PADDED | END_HEADERS),
            stream: [frame[5], frame[6], frame[7], frame[8]],
            priority: priority.to_vec(),
            fragment: payload.to_vec(),
            raw: frame.to_vec(),
        })
    }

    fn write(&self, fragment: &[u8], out: &mut Vec<u8>) {
        let payload = [&self.priority, fragment].concat();
        let mut pieces = payload.chunks(LARGEST).peekable();
        let (mut kind, mut flags) = (HEADERS, self.flags);
        if pieces.peek().is_none() {
            self.piece(kind, flags | END_HEADERS, &[], out);
        }
        while let Some(piece) = pieces.next() {
            let ends = if pieces.peek().is_none() {
                END_HEADERS
            } else {
                0
            };
            self.piece(kind, flags | ends, piece, out);
            (kind, flags) = (CONTINUATION, 0);
        }
    }

    fn piece(&self, kind: u8, flags: u8, payload: &[u8], out: &mut Vec<u8>) {
        let length = u32::try_from(payload.len())
            .unwrap_or_default()
            .to_be_bytes();
        out.extend_from_slice(&length[1..]);
        out.extend_from_slice(&[kind, flags]);
        out.extend_from_slice(&self.stream);
        out.extend_from_slice(payload);
    }
}

/// A header block with `:authority` replaced (RFC 7541, 6); None if it is not one.
fn nobody(block: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(block.len());
    let mut at = 0;
    while let Some(first) = block.get(at) {
        let begin = at;
        // Indexed, the size of the table, or a literal that is indexed from now on or is not.
        let (prefix, literal) = match first {
            0x80.. => (7, false),
            0x20..=0x3f => (5, false),
            0x40..=0x7f => (6, true),
            _ => (4, true),
        };
        let index = integer(block, &mut at, prefix)?;
        if literal {
            if index == 0 {
                string(block, &mut at)?;
            }
            let value = at;
            let empty = string(block, &mut at)?;
            if index == AUTHORITY && !empty {
                out.extend_from_slice(&block[begin..value]);
                out.extend_from_slice(&NOBODY);
                continue;
            }
        }
        out.extend_from_slice(&block[begin..at]);
    }
    Some(out)
}

/// RFC 7541, 5.1.
fn integer(block: &[u8], at: &mut usize, prefix: u32) -> Option<usize> {
    let most = (1 << prefix) - 1;
    let mut value = usize::from(*block.get(*at)?) & most;
    *at += 1;
    if value < most {
        return Some(value);
    }
    // Anything that fits into a block fits into three more bytes.
    for shift in [0, 7, 14, 21] {
        let byte = usize::from(*block.get(*at)?);
        *at += 1;
        value += (byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// Goes past a string (RFC 7541, 5.2); whether it is empty.
fn string(block: &[u8], at: &mut usize) -> Option<bool> {
    let length = integer(block, at, 7)?;
    *at = at.checked_add(length).filter(|end| *end <= block.len())?;
    Some(length == 0)
}

impl<IO: AsyncRead + Unpin> AsyncRead for Nameless<IO> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.from < this.ready.len() {
                let ready = &this.ready[this.from..];
                let some = ready.len().min(buf.remaining());
                buf.put_slice(&ready[..some]);
                this.from += some;
                return Poll::Ready(Ok(()));
            }
            this.ready.clear();
            this.from = 0;
            let mut bytes = [0; READ];
            let mut read = ReadBuf::new(&mut bytes);
            std::task::ready!(Pin::new(&mut this.inner).poll_read(context, &mut read))?;
            if read.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.rewriter.take(read.filled(), &mut this.ready);
        }
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Nameless<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests;
