//! Where a stream comes in: who asks is found out here, what it gets is decided by the
//! owner of all identities.

use crate::attest::local::Digests;
use crate::attest::peer::ProcessWatch;
use crate::attest::{Asker, LocalProcess, Peer, ProcessId, ServiceAccountToken, token};
use crate::config::{Attestor, Config};
use crate::issue::Evidence;
use crate::metrics::Metrics;
use crate::quiet::Quiet;
use arx_sds::{EventKind, Node, Session, Source};
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio::sync::{mpsc, oneshot, watch};
use tonic::{Code, Status};

/// A stream that wants an identity.
#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) evidence: Evidence,
    pub(crate) asker: Asker,
    /// The process, with what proves its death if nothing else does; none if it can't be seen.
    pub(crate) process: Option<(ProcessId, Option<ProcessWatch>)>,
    /// What the proxy calls itself, for the log.
    pub(crate) node: String,
    /// Where its events go.
    pub(crate) events: mpsc::UnboundedSender<arx_sds::Event>,
    pub(crate) reply: oneshot::Sender<Result<Opened, Status>>,
}

/// What it gets. A client that gives up meanwhile drops it, and the stream is over then.
#[derive(Debug)]
pub(crate) struct Opened(Option<Session>);

impl Opened {
    pub(crate) fn new(session: Session) -> Self {
        Self(Some(session))
    }

    pub(crate) fn session(mut self) -> Option<Session> {
        self.0.take()
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        if let Some(Session { stream, events, .. }) = self.0.take() {
            let kind = EventKind::Closed;
            let _ = events.send(arx_sds::Event { stream, kind });
        }
    }
}

/// The agent's side of [`arx_sds::SdsService`].
#[derive(Clone, Debug)]
pub(crate) struct Doorway {
    pub(crate) config: watch::Receiver<Arc<Config>>,
    pub(crate) digests: Arc<Digests>,
    pub(crate) metrics: Metrics,
    pub(crate) opens: mpsc::Sender<Open>,
    pub(crate) events: mpsc::UnboundedSender<arx_sds::Event>,
    pub(crate) quiet: Arc<Mutex<Quiet>>,
}

impl Source for Doorway {
    async fn open(
        &self,
        parts: &http::request::Parts,
        node: Option<Node>,
    ) -> Result<Session, Status> {
        let peer = parts.extensions.get::<Arc<Peer>>();
        let peer = peer.ok_or_else(|| Status::internal("the connection has no peer"))?;
        let asker = parts.extensions.get::<Asker>().copied();
        let asker = asker.ok_or_else(|| Status::internal("the connection has no number"))?;
        let evidence = match self.evidence(&parts.headers, peer).await {
            Ok(evidence) => evidence,
            Err((reason, status)) => return Err(self.refused(reason, peer, status)),
        };
        let (reply, opened) = oneshot::channel();
        let open = Open {
            asker,
            process: peer.process().map(|p| (p.clone(), Some(peer.watch()))),
            node: node.map(|n| n.id).unwrap_or_default(),
            evidence,
            events: self.events.clone(),
            reply,
        };
        let ending = || Status::unavailable("the agent is ending");
        self.opens.send(open).await.map_err(|_| ending())?;
        match opened.await.map_err(|_| ending())? {
            Ok(opened) => opened.session().ok_or_else(ending),
            Err(status) if status.code() == Code::ResourceExhausted => {
                Err(self.refused("unproved", peer, status))
            }
            Err(status) => Err(self.refused("token_expired", peer, status)),
        }
    }
}

impl Doorway {
    fn refused(&self, reason: &'static str, peer: &Peer, status: Status) -> Status {
        self.metrics.rejected(reason);
        let mut quiet = self.quiet.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(more) = quiet.happened(Instant::now()) {
            tracing::info!(
                code = "ARX-AGENT-NO-EVIDENCE",
                uid = peer.uid(),
                pid = peer.process().map(|p| p.pid),
                reason = status.message(),
                more,
                "a stream is not served"
            );
        }
        status
    }

    async fn evidence(
        &self,
        metadata: &http::HeaderMap,
        peer: &Arc<Peer>,
    ) -> Result<Evidence, (&'static str, Status)> {
        let attestation = self.config.borrow().attestation.clone();
        for attestor in &attestation.attestors {
            match attestor {
                Attestor::Token => match ServiceAccountToken::from_metadata(metadata) {
                    Ok(Some(token)) => return Ok(Evidence::Token(Arc::new(token))),
                    Ok(None) => {}
                    Err(error) => {
                        return Err(("token", Status::unauthenticated(error.to_string())));
                    }
                },
                Attestor::Local => {
                    let digests = attestation
                        .hash_executables
                        .then(|| Arc::clone(&self.digests));
                    return local(Arc::clone(peer), digests).await;
                }
            }
        }
        Err((
            "no_token",
            Status::unauthenticated(
                "send a service-account token as `authorization: Bearer <token>`",
            ),
        ))
    }
}

async fn local(
    peer: Arc<Peer>,
    digests: Option<Arc<Digests>>,
) -> Result<Evidence, (&'static str, Status)> {
    let seen = match digests {
        None => LocalProcess::observe(&peer, None),
        Some(digests) => {
            let look = move || LocalProcess::observe(&peer, Some(&digests));
            match tokio::task::spawn_blocking(look).await {
                Ok(seen) => seen,
                Err(error) => return Err(("local", Status::internal(error.to_string()))),
            }
        }
    };
    match seen {
        Ok(process) => Ok(Evidence::Local(process)),
        Err(error) => Err(("local", Status::unauthenticated(error.to_string()))),
    }
}

/// Leaves of a request's head only what is looked at, in memory of its own: a stream that
/// never says anything holds it, and must not hold everything that came with it. Answers the
/// length of what is left, in bytes.
pub(crate) fn lighten(headers: &mut http::HeaderMap) -> usize {
    let mut kept = http::HeaderMap::new();
    let mut length = 0;
    for name in [CONTENT_TYPE, AUTHORIZATION, token::CITADEL_HEADER] {
        // More than one is as wrong as all of them.
        for value in headers.get_all(&name).iter().take(2) {
            if let Ok(mut copy) = HeaderValue::from_bytes(value.as_bytes()) {
                copy.set_sensitive(value.is_sensitive());
                length += copy.len();
                kept.append(&name, copy);
            }
        }
    }
    *headers = kept;
    length
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_requests_head_only_type_and_credentials_are_kept() {
        let mut headers = http::HeaderMap::new();
        for (name, value) in [
            ("content-type", "application/grpc"),
            ("authorization", "Bearer a"),
            ("authorization", "Bearer b"),
            ("authorization", "Bearer c"),
            ("x-anything", "long"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        let citadel = HeaderValue::from_static("d");
        headers.insert(token::CITADEL_HEADER, citadel);
        let length = lighten(&mut headers);
        let mut left: Vec<_> = headers.values().map(|value| value.as_bytes()).collect();
        left.sort_unstable();
        assert_eq!(
            left,
            [&b"Bearer a"[..], b"Bearer b", b"application/grpc", b"d"]
        );
        assert_eq!(length, 8 + 8 + 16 + 1);
    }
}
