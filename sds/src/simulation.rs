//! One stream without a connection below it and without encoded bytes: for tests that run
//! many of them, and the rest of the world, under a clock of their own.

use std::sync::Arc;

use tokio::time::Instant;
use tonic::Status;

use crate::request::{Request, Shape};
use crate::session::{Event, EventKind, Session};
use crate::snapshot::Secret;
use crate::stream;

/// What a client says.
#[derive(Clone, Debug, Default)]
pub struct Ask {
    /// The secrets that it wants.
    pub names: Vec<String>,
    /// The version that it accepted last.
    pub version: String,
    /// The response that it answers, if it answers one.
    pub nonce: String,
    /// Why it rejects that response, if it does.
    pub rejection: Option<String>,
}

/// What a client gets.
#[derive(Clone, Debug)]
pub struct Answer {
    /// To be named by whoever answers it.
    pub nonce: Arc<str>,
    /// The secrets.
    pub secrets: Vec<Arc<Secret>>,
}

/// A stream in which each message has all that is wanted.
#[derive(Debug)]
pub struct Stream {
    machine: stream::Stream,
    session: Session,
}

impl Stream {
    /// A stream whose session is there.
    #[must_use]
    pub fn new(session: Session) -> Self {
        Self {
            machine: stream::Stream::new(Shape::StateOfTheWorld),
            session,
        }
    }

    /// Takes in what the client says.
    ///
    /// # Errors
    /// The status that ends the stream.
    pub fn request(&mut self, ask: Ask) -> Result<(), Status> {
        let request = Request {
            names: ask.names,
            version: ask.version,
            nonce: ask.nonce,
            rejection: ask.rejection,
            ..Request::default()
        };
        let session = &self.session;
        self.machine
            .request(request, &mut |kind| tell(session, kind))
    }

    /// Whether the server has ended it.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.session.view.has_changed().is_err()
    }

    /// What goes to the client now, if anything does.
    pub fn next(&mut self, now: std::time::Instant) -> Option<Answer> {
        let now = Instant::from_std(now);
        let snapshot = Arc::clone(&self.session.view.borrow_and_update());
        let response = self.machine.due(&snapshot, now).ok()?;
        let answer = Answer {
            nonce: Arc::clone(response.nonce()),
            secrets: response.secrets().to_vec(),
        };
        let session = &self.session;
        self.machine
            .sent(response, now, &mut |kind| tell(session, kind));
        Some(answer)
    }

    /// The stream is over.
    pub fn end(self) {
        let session = self.session;
        self.machine.end(&mut |kind| tell(&session, kind));
        tell(&session, EventKind::Closed);
    }
}

fn tell(session: &Session, kind: EventKind) {
    let stream = session.stream;
    // Whoever listened may be gone.
    let _ = session.events.send(Event { stream, kind });
}
