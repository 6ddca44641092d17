//! An open session, which tells of its own end.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::{mpsc, watch};
use tonic::Status;

use crate::session::{Event, EventKind, Session};
use crate::snapshot::Snapshot;

type View = watch::Receiver<Arc<Snapshot>>;

/// The part of a session that streams and fetches share.
pub(super) struct Live {
    teller: Teller,
    view: View,
    change: Pin<Box<dyn Future<Output = Option<View>> + Send>>,
}

/// Numbers events, and says when they are over.
pub(super) struct Teller {
    stream: u64,
    events: mpsc::UnboundedSender<Event>,
}

impl Live {
    pub(super) fn new(session: Session) -> Self {
        let Session {
            stream,
            view,
            events,
        } = session;
        let change = Box::pin(change(view.clone()));
        Self {
            teller: Teller { stream, events },
            view,
            change,
        }
    }

    /// Registers for the next change of the view, and gives it as it is.
    ///
    /// # Errors
    /// The status that ends the stream, when the view's owner has ended it.
    pub(super) fn poll_view(&mut self, cx: &mut Context<'_>) -> Result<Arc<Snapshot>, Status> {
        while let Poll::Ready(changed) = self.change.as_mut().poll(cx) {
            let gone = || Status::unavailable("the server has ended this stream, connect again");
            self.change = Box::pin(change(changed.ok_or_else(gone)?));
        }
        // Looked at after registering, so that no change is missed between the two.
        Ok(self.view.borrow().clone())
    }

    pub(super) fn teller(&self) -> &Teller {
        &self.teller
    }
}

async fn change(mut view: View) -> Option<View> {
    view.changed().await.ok().map(|()| view)
}

impl Teller {
    pub(super) fn tell(&self, kind: EventKind) {
        match &kind {
            EventKind::Nacked { secret, detail } => tracing::warn!(
                stream = self.stream,
                resource = %secret.name(),
                version = %secret.version(),
                // Its words are not ours: quoted, with control characters escaped.
                detail = ?detail,
                "a client refuses a secret and goes on with what it had"
            ),
            other => tracing::trace!(stream = self.stream, event = ?other),
        }
        // Whoever listened may be gone at shutdown.
        let _ = self.events.send(Event {
            stream: self.stream,
            kind,
        });
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        self.tell(EventKind::Closed);
    }
}
