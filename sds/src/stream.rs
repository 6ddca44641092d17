//! One stream of secret discovery as a pure state machine: requests and snapshots go in,
//! responses and events come out. It reads no clock and awaits nothing.
//!
//! - A name is owed an answer when it is newly asked for, also if it was sent before.
//!   Otherwise a secret is sent once per version, and never again after a NACK of it.
//! - A new version waits until the one before it is answered, so that a client that
//!   stops reading finds the newest one behind the one on its way, and nothing between.
//!   Only a client that has never answered anything is not waited for beyond a while: it
//!   may be one that does not answer at all, and needs renewals too.
//! - Claims to hold a version already (`version_info`, `initial_resource_versions`) are
//!   passed over: the answer to a response on this stream is the proof that counts.
//!
//! The client's messages are in order, so a nonce that is known shows which response the
//! client had seen last when it wrote them, and its names are what it wants from there.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;
use tonic::Status;

use crate::limits;
use crate::request::{Request, RequestError, Shape};
use crate::response::Response;
use crate::session::EventKind;
use crate::snapshot::{Secret, Snapshot, TYPE_URL};

/// The state of one stream.
#[derive(Debug)]
pub(crate) struct Stream {
    shape: Shape,
    started: bool,
    names: Vec<Subscription>,
    /// Responses on their way to an answer, oldest first.
    unanswered: Vec<Response>,
    /// The response that the client answered last.
    answered: Option<Response>,
    refused: bool,
    /// When the newest response was sent.
    sent_at: Option<Instant>,
    /// Responses that needed a nonce of their own.
    nonces: u32,
}

/// A name that the client wants.
#[derive(Debug)]
struct Subscription {
    name: Arc<str>,
    /// The client asked, and is owed an answer whatever it was sent before.
    asked: bool,
    /// The version that was sent last.
    sent: Option<Arc<str>>,
    /// The version that was refused last.
    refused: Option<Arc<str>>,
}

/// What is to be done next.
#[derive(Debug)]
pub(crate) enum Next {
    /// These pieces of a gRPC frame leave now.
    Send(Vec<Bytes>),
    /// Nothing before another request or snapshot, or this moment.
    Wait(Option<Instant>),
}

impl Stream {
    pub(crate) fn new(shape: Shape) -> Self {
        Self {
            shape,
            started: false,
            names: Vec::new(),
            unanswered: Vec::new(),
            answered: None,
            refused: false,
            sent_at: None,
            nonces: 0,
        }
    }

    /// Takes in what the client says.
    ///
    /// # Errors
    /// The status that ends the stream.
    pub(crate) fn request(
        &mut self,
        request: Request,
        tell: &mut impl FnMut(EventKind),
    ) -> Result<(), Status> {
        check_type(&request.type_url)?;
        let first = !std::mem::replace(&mut self.started, true);
        // A nonce in the first message is one of an earlier stream.
        let current = first || request.nonce.is_empty() || self.answer(&request, tell);
        match self.shape {
            // The list is of a moment that is not known.
            Shape::StateOfTheWorld if !current => {}
            Shape::StateOfTheWorld => self.want_exactly(request.names, tell),
            Shape::Delta => {
                for name in request.unsubscribe {
                    self.unsubscribe(|subscription| *subscription.name == *name, tell);
                }
                request
                    .names
                    .into_iter()
                    .for_each(|name| self.subscribe(name));
            }
        }
        if self.names.len() > limits::NAMES {
            let allowed = limits::NAMES;
            return Err(Status::resource_exhausted(format!(
                "more than {allowed} resource names, spread them over several streams"
            )));
        }
        let length: usize = self.names.iter().map(|wanted| wanted.name.len()).sum();
        if length > limits::NAMES_LENGTH {
            return Err(RequestError::NamesTooLong.into());
        }
        Ok(())
    }

    /// What to do, given what the caller may have at `now`.
    pub(crate) fn next(
        &mut self,
        snapshot: &Snapshot,
        now: Instant,
        tell: &mut impl FnMut(EventKind),
    ) -> Next {
        match self.due(snapshot, now) {
            Ok(response) => {
                let frame = response.frame(self.shape);
                self.sent(response, now, tell);
                Next::Send(frame)
            }
            Err(until) => Next::Wait(until),
        }
    }

    /// The response that is due; if none is, until when there is something to wait for.
    pub(crate) fn due(
        &mut self,
        snapshot: &Snapshot,
        now: Instant,
    ) -> Result<Response, Option<Instant>> {
        let mut due: Vec<Arc<Secret>> = Vec::new();
        let mut held = false;
        let patience = self.patience();
        let over = patience.is_some_and(|until| until <= now);
        for subscription in &self.names {
            let Some(secret) = snapshot.get(&subscription.name) else {
                continue;
            };
            if !subscription.asked && !subscription.lacks(secret.version()) {
                continue;
            }
            if subscription.asked || over || !self.is_awaited(&subscription.name) {
                due.push(secret.clone());
            } else {
                held = true;
            }
        }
        if due.is_empty() {
            return Err(if held { patience } else { None });
        }
        if self.unanswered.len() >= limits::UNANSWERED {
            if !over {
                return Err(patience);
            }
            self.unanswered.remove(0);
        }
        Ok(self.response(due))
    }

    /// The response leaves.
    pub(crate) fn sent(
        &mut self,
        response: Response,
        now: Instant,
        tell: &mut impl FnMut(EventKind),
    ) {
        for secret in response.secrets() {
            if let Some(subscription) = self.names.iter_mut().find(|s| s.name == *secret.name()) {
                subscription.asked = false;
                subscription.sent = Some(secret.version().clone());
            }
            tell(EventKind::Sent(secret.clone()));
        }
        self.unanswered.push(response);
        self.sent_at = Some(now);
    }

    /// The stream is over.
    pub(crate) fn end(self, tell: &mut impl FnMut(EventKind)) {
        for subscription in self.names {
            if subscription.sent.is_some() {
                tell(EventKind::Ended {
                    resource: subscription.name,
                });
            }
        }
    }

    /// Whether the request's nonce is that of a response which the client may still
    /// speak of.
    fn answer(&mut self, request: &Request, tell: &mut impl FnMut(EventKind)) -> bool {
        let Some(at) = self
            .unanswered
            .iter()
            .position(|response| **response.nonce() == *request.nonce)
        else {
            return self.speak_again(request, tell);
        };
        // What was sent before it and not answered is neither accepted nor refused.
        let response = self.unanswered.drain(..=at).next_back();
        self.refused = false;
        self.answered = response;
        match &request.rejection {
            Some(detail) => self.refuse(detail, tell),
            None => self.accept(tell),
        }
        true
    }

    /// A message with the nonce of what was answered last: it changes the names, or takes
    /// an ACK back.
    fn speak_again(&mut self, request: &Request, tell: &mut impl FnMut(EventKind)) -> bool {
        let known = self
            .answered
            .as_ref()
            .is_some_and(|response| **response.nonce() == *request.nonce);
        if known && let Some(detail) = &request.rejection {
            self.refuse(detail, tell);
        }
        known
    }

    fn accept(&mut self, tell: &mut impl FnMut(EventKind)) {
        for secret in self.answered.iter().flat_map(Response::secrets) {
            // A client takes nothing under a name that it has given up.
            if self
                .names
                .iter()
                .any(|subscription| subscription.name == *secret.name())
            {
                tell(EventKind::Acked(secret.clone()));
            }
        }
    }

    fn refuse(&mut self, detail: &str, tell: &mut impl FnMut(EventKind)) {
        if std::mem::replace(&mut self.refused, true) {
            return;
        }
        for secret in self.answered.iter().flat_map(Response::secrets) {
            if let Some(subscription) = self.names.iter_mut().find(|s| s.name == *secret.name()) {
                subscription.refused = Some(secret.version().clone());
            }
            tell(EventKind::Nacked {
                secret: secret.clone(),
                detail: detail.to_owned(),
            });
        }
    }

    /// An empty list means none, never all.
    fn want_exactly(&mut self, names: Vec<String>, tell: &mut impl FnMut(EventKind)) {
        self.unsubscribe(
            |subscription| !names.iter().any(|name| **name == *subscription.name),
            tell,
        );
        for name in names {
            if !self
                .names
                .iter()
                .any(|subscription| *subscription.name == *name)
            {
                self.subscribe(name);
            }
        }
        self.names.shrink_to_fit();
    }

    fn subscribe(&mut self, name: String) {
        match self
            .names
            .iter_mut()
            .find(|subscription| *subscription.name == *name)
        {
            Some(subscription) => subscription.asked = true,
            None => {
                let name = name.into();
                self.names.push(Subscription {
                    name,
                    asked: true,
                    sent: None,
                    refused: None,
                });
            }
        }
    }

    fn unsubscribe(
        &mut self,
        which: impl Fn(&Subscription) -> bool,
        tell: &mut impl FnMut(EventKind),
    ) {
        self.names.retain(|subscription| {
            let leaves = which(subscription);
            if leaves && subscription.sent.is_some() {
                tell(EventKind::Unsubscribed {
                    resource: subscription.name.clone(),
                });
            }
            !leaves
        });
    }

    /// Whether a secret of this name is on its way to an answer.
    fn is_awaited(&self, name: &str) -> bool {
        let mut secrets = self.unanswered.iter().flat_map(Response::secrets);
        secrets.any(|secret| **secret.name() == *name)
    }

    /// Until when answers are waited for: without end, once there was one.
    fn patience(&self) -> Option<Instant> {
        if self.answered.is_some() {
            None
        } else {
            self.sent_at.map(|at| at + limits::PATIENCE)
        }
    }

    fn response(&mut self, secrets: Vec<Arc<Secret>>) -> Response {
        if let [secret] = secrets.as_slice() {
            // The same nonce again would make the answer to the first response, which may
            // be on its way, one to the second.
            let known = self.unanswered.iter().chain(&self.answered);
            if known
                .map(Response::nonce)
                .all(|nonce| nonce != secret.nonce())
            {
                return Response::shared(secret.clone());
            }
        }
        self.nonces += 1;
        Response::new(self.nonces.to_string().into(), secrets)
    }
}

impl Subscription {
    fn lacks(&self, version: &Arc<str>) -> bool {
        self.sent.as_ref() != Some(version) && self.refused.as_ref() != Some(version)
    }
}

/// The type may be left out, as the service has only one.
pub(crate) fn check_type(type_url: &str) -> Result<(), Status> {
    if type_url.is_empty() || type_url == TYPE_URL {
        return Ok(());
    }
    // What the client wrote goes back to it alone, and is not long.
    let asked: String = type_url.chars().take(200).collect();
    Err(Status::invalid_argument(format!(
        "`{asked}` is not served here, ask for `{TYPE_URL}`"
    )))
}

#[cfg(test)]
mod tests;
