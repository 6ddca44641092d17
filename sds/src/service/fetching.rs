//! An open fetch, which waits for a while for what is not ready.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::time::{Sleep, sleep};
use tonic::Status;

use super::body::Step;
use super::input::Input;
use super::live::Live;
use crate::fetch::Fetch;
use crate::limits;
use crate::request::{Request, Shape};
use crate::response::Response;
use crate::session::{EventKind, Session};

/// An open fetch.
pub(super) struct Fetching {
    fetch: Fetch,
    live: Live,
    wait: Pin<Box<Sleep>>,
    answered: bool,
}

impl Fetching {
    /// # Errors
    /// The status that answers it.
    pub(super) fn new(session: Session, request: Request) -> Result<Self, Status> {
        let live = Live::new(session);
        Ok(Self {
            fetch: Fetch::new(request)?,
            live,
            wait: Box::pin(sleep(limits::FETCH)),
            answered: false,
        })
    }

    pub(super) fn poll<B>(&mut self, input: &mut Input<B>, cx: &mut Context<'_>) -> Poll<Step>
    where
        B: http_body::Body<Data = Bytes> + Unpin,
    {
        if self.answered {
            return Poll::Ready(Step::End(Status::ok("")));
        }
        match input.poll(cx) {
            Poll::Ready(Ok(Some(_))) => {
                return Poll::Ready(Step::End(Status::invalid_argument(
                    "a fetch is one message, send no other",
                )));
            }
            Poll::Ready(Err(status)) => return Poll::Ready(Step::End(status)),
            Poll::Ready(Ok(None)) | Poll::Pending => {}
        }
        let snapshot = match self.live.poll_view(cx) {
            Ok(snapshot) => snapshot,
            Err(status) => return Poll::Ready(Step::End(status)),
        };
        if let Some(response) = self.fetch.whole(&snapshot) {
            return Poll::Ready(self.send(&response));
        }
        if self.wait.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        Poll::Ready(match self.fetch.late(&snapshot) {
            Ok(response) => self.send(&response),
            Err(status) => Step::End(status),
        })
    }

    fn send(&mut self, response: &Response) -> Step {
        self.answered = true;
        for secret in response.secrets() {
            self.live.teller().tell(EventKind::Fetched(secret.clone()));
        }
        Step::Send(response.frame(Shape::StateOfTheWorld))
    }
}
