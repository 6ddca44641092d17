//! Messages on their way in, counted against the share of the node that sends them, from their
//! first bytes until their call is answered. HTTP/2 alone would let a node leave a large one
//! half-sent on each of its streams.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tonic::Status;

use crate::ca::Ca;
use crate::refusal::{Peer, Refusal};
use crate::share::Share;

/// Largest message of an agent: a batch of 100 items with tokens has some 300 KiB, and an
/// item that is far too large should be refused by itself.
pub(super) const LARGEST: usize = 4 * 1024 * 1024;

/// What the messages of one call have taken; given back with its last clone.
#[derive(Clone)]
pub(super) struct Taken(Arc<Mutex<Share>>);

/// The body of a request.
pub(super) struct Metered<B> {
    body: B,
    at: Position,
    taken: Messages,
    ca: Arc<Ca>,
}

/// When messages are done with. A Follow lasts, so that its own has to be small.
enum Messages {
    /// When their call is answered.
    OfCall(Taken),
    /// Each when the next is read.
    OfStream(Share),
}

/// Where in a sequence of messages a body is: each has a flag and its length in front (gRPC
/// over HTTP/2, "Length-Prefixed-Message").
#[derive(Default)]
struct Position {
    prefix: [u8; 5],
    read: u8,
    /// Length of the message that is being read, and what is still to come of it.
    length: u32,
    left: u32,
}

impl Position {
    /// Reads on; returns the lengths of the messages that begin in `bytes`, together.
    fn pass(&mut self, mut bytes: &[u8]) -> usize {
        let mut begun = 0_usize;
        while let Some((&byte, rest)) = bytes.split_first() {
            if self.left > 0 {
                let passed = bytes.len().min(self.left as usize);
                // No more than `left`, which is a u32.
                self.left -= passed as u32;
                bytes = &bytes[passed..];
                continue;
            }
            self.prefix[usize::from(self.read)] = byte;
            self.read += 1;
            if usize::from(self.read) == self.prefix.len() {
                let [_flag, length @ ..] = self.prefix;
                self.read = 0;
                self.length = u32::from_be_bytes(length);
                self.left = self.length;
                begun += counted(self.length);
            }
            bytes = rest;
        }
        begun
    }

    /// What has come of a message that is not whole yet, with what is to come.
    fn unfinished(&self) -> usize {
        if self.left > 0 {
            counted(self.length)
        } else {
            0
        }
    }
}

/// What is larger than allowed is refused by whoever decodes it, before it is read.
fn counted(length: u32) -> usize {
    (length as usize).min(LARGEST)
}

impl Taken {
    pub(super) fn new(share: Share) -> Self {
        Self(Arc::new(Mutex::new(share)))
    }
}

impl Messages {
    fn grow(&mut self, more: usize) -> Result<(), (Refusal, Peer)> {
        let grow = |share: &mut Share| {
            share
                .grow(more)
                .map_err(|refusal| (refusal, Peer::Node(share.name().clone())))
        };
        match self {
            Self::OfCall(Taken(share)) => {
                grow(&mut share.lock().unwrap_or_else(PoisonError::into_inner))
            }
            Self::OfStream(share) => grow(share),
        }
    }
}

impl<B> Metered<B> {
    /// The body of a call that is answered once.
    pub(super) fn call(body: B, taken: Taken, ca: Arc<Ca>) -> Self {
        Self {
            body,
            at: Position::default(),
            taken: Messages::OfCall(taken),
            ca,
        }
    }

    /// The body of a stream of messages.
    pub(super) fn stream(body: B, share: Share, ca: Arc<Ca>) -> Self {
        Self {
            body,
            at: Position::default(),
            taken: Messages::OfStream(share),
            ca,
        }
    }
}

impl<B> Body for Metered<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<tonic::codegen::StdError>,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        if let Messages::OfStream(share) = &mut this.taken {
            // Nobody asks for more before all whole messages have been taken.
            share.shrink_to(this.at.unfinished());
        }
        let frame = match std::task::ready!(Pin::new(&mut this.body).poll_frame(context)) {
            None => return Poll::Ready(None),
            Some(Err(error)) => {
                return Poll::Ready(Some(Err(Status::from_error(error.into()))));
            }
            Some(Ok(frame)) => frame,
        };
        if let Some(data) = frame.data_ref() {
            let begun = this.at.pass(data);
            if begun > 0
                && let Err((refusal, peer)) = this.taken.grow(begun)
            {
                this.ca.refused(&refusal, &peer, "call refused");
                return Poll::Ready(Some(Err(refusal.into())));
            }
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caller::NodeName;
    use crate::share::Shares;
    use crate::testing::{House, Outcome};
    use futures_util::{StreamExt as _, stream};
    use http_body_util::{BodyExt as _, StreamBody};
    use std::convert::Infallible;

    const SHARE: usize = 1000;

    fn name() -> NodeName {
        NodeName {
            cluster: "c".into(),
            node: "n".into(),
        }
    }

    /// A message of this length, in gRPC's framing.
    fn message(length: usize) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.extend_from_slice(&u32::try_from(length).expect("short").to_be_bytes());
        bytes.resize(5 + length, 7);
        bytes
    }

    fn body(pieces: Vec<Vec<u8>>) -> impl Body<Data = Bytes, Error = Infallible> + Unpin {
        StreamBody::new(stream::iter(pieces).map(|it| Ok(Frame::data(Bytes::from(it)))))
    }

    async fn read<B>(mut body: B) -> Result<usize, Status>
    where
        B: Body<Data = Bytes, Error = Status> + Unpin,
    {
        let mut length = 0;
        while let Some(frame) = body.frame().await {
            length += frame?.data_ref().map_or(0, Bytes::len);
        }
        Ok(length)
    }

    #[tokio::test]
    async fn half_sent_messages_take_no_more_than_the_share_of_their_node() -> Outcome {
        let house = House::new().await?;
        let shares = Shares::of_bytes(SHARE);
        let taken = || Taken::new(shares.of(&name()));
        let half = |taken: &Taken| {
            let body = body(vec![message(400)[..200].to_vec()]);
            Metered::call(body, taken.clone(), Arc::clone(&house.ca))
        };
        let (first, second) = (taken(), taken());
        for taken in [&first, &second] {
            assert_eq!(read(half(taken)).await?, 200);
        }
        let status = read(half(&taken())).await.expect_err("1200 of 1000");
        assert_eq!(status.code(), tonic::Code::ResourceExhausted);
        assert!(!status.details().is_empty(), "it says when to come back");
        drop(first);
        read(half(&taken()))
            .await
            .expect("an answered call gives back");
        Ok(())
    }

    #[tokio::test]
    async fn a_stream_may_go_on_for_ever_however_its_messages_are_cut_into_pieces() -> Outcome {
        let house = House::new().await?;
        let shares = Shares::of_bytes(SHARE);
        let sent: Vec<u8> = std::iter::repeat_with(|| message(300))
            .take(20)
            .flatten()
            .collect();
        for piece in [1, 4, 7, 305, 400, 610] {
            let body = body(sent.chunks(piece).map(<[u8]>::to_vec).collect());
            let stream = Metered::stream(body, shares.of(&name()), Arc::clone(&house.ca));
            assert_eq!(read(stream).await?, sent.len());
        }
        let body = body(sent.chunks(400).map(<[u8]>::to_vec).collect());
        let taken = Taken::new(shares.of(&name()));
        let call = Metered::call(body, taken, Arc::clone(&house.ca));
        read(call).await.expect_err("a call has one message");
        Ok(())
    }
}
