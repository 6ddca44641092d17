//! Large DATA frames, cut into pieces as they arrive (RFC 9113, 6.1).
//!
//! Whoever reads HTTP/2 keeps a buffer for each connection that is as large as the
//! largest frame that ever came, and nobody may be told to send frames of less than
//! 16 KiB. A proxy sends its whole node, some 61 KB, once; cut into pieces, the buffer
//! never grows for it, and idle streams hold less.
//!
//! What the frames say is not looked at, and nothing but their length and END_STREAM is
//! changed. Whatever is not as the standard has it goes through for the reader to refuse.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Largest payload of a DATA frame that comes out of here: with their heads, two fill the
/// buffer of 8 KiB that the reader begins with.
const PIECE: usize = 4 * 1024 - HEAD;
/// Largest payload that the reader has allowed (RFC 9113, 4.2). A larger frame goes through
/// whole, for the reader to refuse.
const LARGEST: usize = 16 * 1024;
/// So much is read at once, since reading pieces one by one costs more than copying them;
/// and in one turn, since whoever reads HTTP/2 has for the frames that wait to be taken a
/// table that never shrinks.
const AHEAD: usize = 32 * 1024;
/// Length of the client's preface, which comes before the first frame.
const PREFACE: usize = 24;
const HEAD: usize = 9;
const DATA: u8 = 0;
const END_STREAM: u8 = 0x1;
const PADDED: u8 = 0x8;

thread_local! {
    /// The buffer for the next read. A connection has one only while something is in it.
    static SPARE: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
}

/// What was read of a connection and not handed out yet.
#[derive(Debug)]
struct Ahead {
    buffer: Box<[u8]>,
    from: usize,
    to: usize,
}

/// A connection on which no DATA frame that is read is large.
#[derive(Debug)]
pub(crate) struct Pieces<IO> {
    inner: IO,
    cutter: Cutter,
    ahead: Option<Ahead>,
    /// So much was read in this turn.
    turn: usize,
}

impl<IO> Pieces<IO> {
    /// The connection `inner`, of which nothing has been read yet.
    pub(crate) fn new(inner: IO) -> Self {
        Self {
            inner,
            cutter: Cutter {
                at: At::Through(PREFACE),
                head: [0; HEAD],
                have: 0,
                owed: 0,
            },
            ahead: None,
            turn: 0,
        }
    }

    /// Hands out what is there, and the buffer back when nothing is left in it.
    fn hand_out(&mut self, buf: &mut ReadBuf<'_>) {
        let Some(ahead) = &mut self.ahead else {
            return self.cutter.cut(&mut &[][..], buf);
        };
        let mut bytes = &ahead.buffer[ahead.from..ahead.to];
        self.cutter.cut(&mut bytes, buf);
        ahead.from = ahead.to - bytes.len();
        if bytes.is_empty() {
            SPARE.set(self.ahead.take().map(|ahead| ahead.buffer));
        }
    }
}

#[derive(Debug)]
struct Cutter {
    at: At,
    /// The head of the frame or piece that is being read.
    head: [u8; HEAD],
    /// So many bytes of it have come.
    have: usize,
    /// So many bytes of it are still to be handed out.
    owed: usize,
}

/// What the next byte that is read belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// Something that goes through as it is, with so many bytes left.
    Through(usize),
    /// A head, of which the first bytes may have been held back.
    Head,
    /// A piece with so many bytes left, of a frame with so many bytes after it, which
    /// may end its stream.
    Piece {
        left: usize,
        rest: usize,
        ends: bool,
    },
}

impl Cutter {
    /// Takes from `bytes` what has room in `out`, cut.
    fn cut(&mut self, bytes: &mut &[u8], out: &mut ReadBuf<'_>) {
        while out.remaining() > 0 {
            match self.at {
                _ if self.owed > 0 => {
                    let head = &self.head[HEAD - self.owed..];
                    let count = head.len().min(out.remaining());
                    out.put_slice(&head[..count]);
                    self.owed -= count;
                }
                At::Piece { left: 0, .. } => self.next_piece(),
                _ if bytes.is_empty() => return,
                At::Through(left) | At::Piece { left, .. } => {
                    let count = left.min(bytes.len()).min(out.remaining());
                    let (now, after) = bytes.split_at(count);
                    out.put_slice(now);
                    self.went(count);
                    *bytes = after;
                }
                At::Head => {
                    let count = (HEAD - self.have).min(bytes.len());
                    let (now, after) = bytes.split_at(count);
                    self.head[self.have..self.have + count].copy_from_slice(now);
                    self.have += count;
                    *bytes = after;
                    if self.have == HEAD {
                        self.begin();
                    }
                }
            }
        }
    }

    /// So many bytes of what is being read went through.
    fn went(&mut self, count: usize) {
        self.at = match self.at {
            At::Through(left) | At::Piece { left, rest: 0, .. } if left == count => At::Head,
            At::Through(left) => At::Through(left - count),
            At::Piece { left, rest, ends } => At::Piece {
                left: left - count,
                rest,
                ends,
            },
            At::Head => At::Head,
        };
    }

    /// Decides about the frame whose head is there, and changes the head if it is cut.
    fn begin(&mut self) {
        self.have = 0;
        self.owed = HEAD;
        let [high, middle, low, kind, flags, ..] = self.head;
        let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        if kind == DATA && flags & PADDED == 0 && length > PIECE && length <= LARGEST {
            self.at = At::Piece {
                left: 0,
                rest: length,
                ends: flags & END_STREAM != 0,
            };
            self.next_piece();
        } else if length > 0 {
            self.at = At::Through(length);
        }
    }

    /// Makes the head of the next piece of a frame.
    fn next_piece(&mut self) {
        if let At::Piece { rest, ends, .. } = self.at {
            let left = rest.min(PIECE);
            let rest = rest - left;
            self.at = At::Piece { left, rest, ends };
            self.head[..3].copy_from_slice(&[0, (left >> 8) as u8, left as u8]);
            self.head[4] &= !END_STREAM;
            if ends && rest == 0 {
                self.head[4] |= END_STREAM;
            }
            self.owed = HEAD;
        }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Pieces<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        loop {
            this.hand_out(buf);
            let came = buf.filled().len() - before;
            if came > 0 || buf.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            if this.turn >= AHEAD {
                this.turn = 0;
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            let mut buffer = SPARE.take().unwrap_or_else(|| vec![0; AHEAD].into());
            let mut read = ReadBuf::new(&mut buffer);
            let outcome = Pin::new(&mut this.inner).poll_read(context, &mut read);
            let to = read.filled().len();
            if to == 0 {
                this.turn = 0;
                SPARE.set(Some(buffer));
                return outcome;
            }
            this.turn += to;
            this.ahead = Some(Ahead {
                buffer,
                from: 0,
                to,
            });
        }
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Pieces<IO> {
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
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(context, bytes)
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
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[derive(Clone, Debug, PartialEq, Eq)]
    struct Frame {
        kind: u8,
        flags: u8,
        stream: u8,
        payload: Vec<u8>,
    }

    fn frame() -> impl Strategy<Value = Frame> {
        let length = prop_oneof![0usize..64, 4000usize..4200, 8000usize..20_000];
        let kind = prop_oneof![3 => Just(DATA), 1 => 1u8..12];
        let flags = prop_oneof![3 => 0u8..2, 1 => any::<u8>()];
        (kind, flags, 1u8..4, length, any::<u8>()).prop_map(
            |(kind, flags, stream, length, seed)| {
                let payload = (0..length).map(|at| (at as u8).wrapping_mul(31).wrapping_add(seed));
                Frame {
                    kind,
                    flags,
                    stream,
                    payload: payload.collect(),
                }
            },
        )
    }

    fn write(frames: &[Frame]) -> Vec<u8> {
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        for frame in frames {
            let length = frame.payload.len();
            bytes.extend([(length >> 16) as u8, (length >> 8) as u8, length as u8]);
            bytes.extend([frame.kind, frame.flags, 0, 0, 0, frame.stream]);
            bytes.extend_from_slice(&frame.payload);
        }
        bytes
    }

    fn read(bytes: &[u8]) -> Vec<Frame> {
        let mut rest = &bytes[PREFACE..];
        let mut frames = Vec::new();
        while let Some((head, after)) = rest.split_first_chunk::<HEAD>() {
            let length =
                usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            let (payload, after) = after.split_at(length);
            frames.push(Frame {
                kind: head[3],
                flags: head[4],
                stream: head[8],
                payload: payload.to_vec(),
            });
            rest = after;
        }
        assert!(rest.is_empty());
        frames
    }

    /// Puts pieces together again: what follows a piece without END_STREAM on its stream.
    fn cut_by_hand(frames: &[Frame]) -> Vec<Frame> {
        let mut all = Vec::new();
        for frame in frames {
            let length = frame.payload.len();
            let goes_through = length <= PIECE || length > LARGEST;
            if frame.kind != DATA || frame.flags & PADDED != 0 || goes_through {
                all.push(frame.clone());
                continue;
            }
            let pieces: Vec<&[u8]> = frame.payload.chunks(PIECE).collect();
            for (number, piece) in pieces.iter().enumerate() {
                let last = number + 1 == pieces.len();
                all.push(Frame {
                    flags: if last {
                        frame.flags
                    } else {
                        frame.flags & !END_STREAM
                    },
                    payload: piece.to_vec(),
                    ..*frame
                });
            }
        }
        all
    }

    /// Reads `bytes`, which arrive in parts of these lengths, with a buffer of this size.
    fn through(bytes: &[u8], parts: &[usize], size: usize) -> Vec<u8> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let (mut near, far) = tokio::io::duplex(64 * 1024);
            let mut pieces = Pieces::new(far);
            let send = async {
                let mut rest = bytes;
                for part in parts.iter().cycle() {
                    let (now, after) = rest.split_at((*part).min(rest.len()));
                    near.write_all(now).await.expect("written");
                    tokio::task::yield_now().await;
                    rest = after;
                    if rest.is_empty() {
                        break;
                    }
                }
                drop(near);
            };
            let receive = async {
                let mut out = Vec::new();
                let mut buffer = vec![0; size];
                loop {
                    match pieces.read(&mut buffer).await.expect("read") {
                        0 => return out,
                        count => out.extend_from_slice(&buffer[..count]),
                    }
                }
            };
            let ((), out) = tokio::join!(send, receive);
            out
        })
    }

    proptest! {
        #[test]
        fn frames_come_out_as_they_were_but_large_data_in_pieces(
            frames in prop::collection::vec(frame(), 1..12),
            parts in prop::collection::vec(1usize..9000, 1..6),
            size in 1usize..9000,
        ) {
            let out = through(&write(&frames), &parts, size);
            prop_assert_eq!(read(&out), cut_by_hand(&frames));
        }

        #[test]
        fn any_bytes_go_through_without_a_panic(
            bytes in prop::collection::vec(any::<u8>(), 1..3000),
            parts in prop::collection::vec(1usize..400, 1..6),
        ) {
            let out = through(&bytes, &parts, 700);
            prop_assert!(out.len() + HEAD > bytes.len().min(PREFACE));
        }
    }

    #[test]
    fn a_frame_that_is_larger_than_allowed_is_not_made_small() {
        for (length, count) in [(LARGEST, 5), (LARGEST + 1, 1)] {
            let frame = Frame {
                kind: DATA,
                flags: END_STREAM,
                stream: 1,
                payload: vec![7; length],
            };
            let out = through(&write(&[frame]), &[length], 4096);
            assert_eq!(read(&out).len(), count, "{length}");
        }
    }

    #[test]
    fn what_was_cut_leaves_no_memory_behind() {
        let large = Frame {
            kind: DATA,
            flags: 0,
            stream: 1,
            payload: vec![7; 16 * 1024],
        };
        let bytes = write(&[large]);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let mut pieces = Pieces::new(&bytes[..]);
            let mut out = Vec::new();
            pieces.read_to_end(&mut out).await.expect("read");
            assert!(pieces.ahead.is_none());
            assert_eq!(pieces.cutter.at, At::Head);
        });
    }
}
