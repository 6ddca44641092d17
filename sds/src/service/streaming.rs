//! An open stream: requests, snapshots and time, brought to its state machine.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::Status;

use super::body::Step;
use super::input::Input;
use super::live::Live;
use crate::limits;
use crate::request::{Request, Shape};
use crate::session::Session;
use crate::stream::{Next, Stream};

/// An open stream.
pub(super) struct Streaming {
    /// Taken only when it ends.
    machine: Option<Stream>,
    live: Live,
    wait: Option<Pin<Box<Sleep>>>,
}

impl Streaming {
    /// # Errors
    /// The status that ends the stream.
    pub(super) fn new(shape: Shape, session: Session, first: Request) -> Result<Self, Status> {
        let mut new = Self {
            machine: None,
            live: Live::new(session),
            wait: None,
        };
        new.machine
            .insert(Stream::new(shape))
            .request(first, &mut |kind| new.live.teller().tell(kind))?;
        Ok(new)
    }

    pub(super) fn poll<B>(&mut self, input: &mut Input<B>, cx: &mut Context<'_>) -> Poll<Step>
    where
        B: http_body::Body<Data = Bytes> + Unpin,
    {
        match self.try_poll(input, cx) {
            Poll::Ready(Ok(frame)) => Poll::Ready(Step::Send(frame)),
            Poll::Ready(Err(status)) => Poll::Ready(Step::End(status)),
            Poll::Pending => Poll::Pending,
        }
    }

    fn try_poll<B>(
        &mut self,
        input: &mut Input<B>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Vec<Bytes>, Status>>
    where
        B: http_body::Body<Data = Bytes> + Unpin,
    {
        let Self {
            machine: Some(machine),
            live,
            wait,
        } = self
        else {
            return Poll::Ready(Err(Status::ok("")));
        };
        let mut steps = 0;
        let mut half_closed = false;
        while steps < limits::STEPS {
            match input.poll(cx) {
                Poll::Ready(Ok(Some(request))) => {
                    machine.request(request, &mut |kind| live.teller().tell(kind))?;
                }
                Poll::Ready(Ok(None)) => {
                    half_closed = true;
                    break;
                }
                Poll::Ready(Err(status)) => return Poll::Ready(Err(status)),
                Poll::Pending => break,
            }
            steps += 1;
        }
        let snapshot = live.poll_view(cx)?;
        loop {
            let next = machine.next(&snapshot, Instant::now(), &mut |kind| {
                live.teller().tell(kind)
            });
            match next {
                Next::Send(frame) => return Poll::Ready(Ok(frame)),
                // Whoever has said its last word hears what is ready, and no more.
                Next::Wait(_) if half_closed => return Poll::Ready(Err(Status::ok(""))),
                Next::Wait(None) => *wait = None,
                Next::Wait(Some(until)) => {
                    let sleep = wait.get_or_insert_with(|| Box::pin(sleep_until(until)));
                    if sleep.deadline() != until {
                        sleep.as_mut().reset(until);
                    }
                    if sleep.as_mut().poll(cx).is_ready() {
                        continue;
                    }
                }
            }
            if steps == limits::STEPS {
                cx.waker().wake_by_ref();
            }
            return Poll::Pending;
        }
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        if let Some(machine) = self.machine.take() {
            machine.end(&mut |kind| self.live.teller().tell(kind));
        }
    }
}
