//! Where a stream comes in: who asks is found out here, what it gets is decided by the
//! owner of all identities.

use crate::attest::local::Digests;
use crate::attest::peer::ProcessWatch;
use crate::attest::process::{self, Seen};
use crate::attest::{
    Asker, Caller, LocalProcess, Peer, Pod, PodUid, ProcessId, ServiceAccountToken, token,
};
use crate::config::{Attestor, Config};
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
    pub(crate) caller: Caller,
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
    /// Whose socket it is, if it was made for one pod.
    pub(crate) pod: Option<Arc<Pod>>,
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
        let caller = match self.caller(&parts.headers, peer).await {
            Ok(caller) => caller,
            Err(refused) => return Err(self.refused(refused, peer)),
        };
        let (reply, opened) = oneshot::channel();
        let open = Open {
            asker,
            process: peer.process().map(|p| (p.clone(), peer.watch())),
            node: node.map(|n| n.id).unwrap_or_default(),
            caller,
            events: self.events.clone(),
            reply,
        };
        let ending = || Status::unavailable("the agent is ending");
        self.opens.send(open).await.map_err(|_| ending())?;
        match opened.await.map_err(|_| ending())? {
            Ok(opened) => opened.session().ok_or_else(ending),
            Err(status) if status.code() == Code::ResourceExhausted => {
                Err(self.refused(Refused::new("unproved", status), peer))
            }
            Err(status) => Err(self.refused(Refused::new("token_expired", status), peer)),
        }
    }
}

/// Why a stream is not served.
#[derive(Debug)]
struct Refused {
    /// For the metric.
    reason: &'static str,
    code: &'static str,
    status: Status,
}

impl Refused {
    fn new(reason: &'static str, status: Status) -> Self {
        Self {
            reason,
            code: "ARX-AGENT-NO-EVIDENCE",
            status,
        }
    }

    /// One that tells its code to the caller as well.
    fn coded(reason: &'static str, code: &'static str, message: &str) -> Self {
        Self {
            reason,
            code,
            status: Status::unauthenticated(format!("{code}: {message}")),
        }
    }
}

impl Doorway {
    fn refused(&self, refused: Refused, peer: &Peer) -> Status {
        let Refused {
            reason,
            code,
            status,
        } = refused;
        self.metrics.rejected(reason);
        let mut quiet = self.quiet.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(more) = quiet.happened(Instant::now()) {
            let pod = self.pod.as_ref().map(ToString::to_string);
            tracing::info!(
                code,
                uid = peer.uid(),
                pid = peer.process().map(|p| p.pid),
                pod,
                reason = status.message(),
                more,
                "a stream is not served"
            );
        }
        status
    }

    async fn caller(
        &self,
        metadata: &http::HeaderMap,
        peer: &Arc<Peer>,
    ) -> Result<Caller, Refused> {
        let attestation = self.config.borrow().attestation.clone();
        let asks = |attestor| attestation.attestors.contains(&attestor);
        if let Some(pod) = &self.pod {
            agree(token_in(metadata)?.as_ref(), &pod.uid)?;
            return Ok(Caller::Socket(Arc::clone(pod)));
        }
        let token = match asks(Attestor::Token) || asks(Attestor::Process) {
            true => token_in(metadata)?,
            false => None,
        };
        let seen = match asks(Attestor::Process) {
            true => Some(seen(peer, &attestation.cgroup_root)?),
            false => None,
        };
        if let Some(Seen::Pod(uid)) = &seen {
            agree(token.as_ref(), uid)?;
        }
        for (n, attestor) in attestation.attestors.iter().enumerate() {
            match attestor {
                Attestor::Token => {
                    if let Some(token) = token {
                        return Ok(Caller::Token(Arc::new(token)));
                    }
                }
                Attestor::Process => match &seen {
                    Some(Seen::Pod(uid)) => return Ok(Caller::Process(uid.clone())),
                    Some(Seen::NoPod) | None => {}
                    Some(Seen::Hidden) => {
                        let later = attestation.attestors[n..].contains(&Attestor::Token);
                        if token.is_none() || !later {
                            return Err(hidden());
                        }
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
        let status = if asks(Attestor::Token) {
            "send a service-account token as `authorization: Bearer <token>`"
        } else {
            "the process is of no pod"
        };
        Err(Refused::new("no_token", Status::unauthenticated(status)))
    }
}

fn token_in(metadata: &http::HeaderMap) -> Result<Option<ServiceAccountToken>, Refused> {
    let token = ServiceAccountToken::from_metadata(metadata);
    token.map_err(|error| Refused::new("token", Status::unauthenticated(error.to_string())))
}

/// Whoever is known to be of a pod and shows a token as well has to show that pod's.
fn agree(token: Option<&ServiceAccountToken>, pod: &PodUid) -> Result<(), Refused> {
    match token {
        Some(token) if token.claims().subject.pod_uid != pod.as_str() => Err(Refused::coded(
            "disagreement",
            "ARX-AGENT-POD-DISAGREES",
            &format!(
                "the token is not of pod {pod}, from which it comes: send that pod's, or none"
            ),
        )),
        _ => Ok(()),
    }
}

fn seen(peer: &Peer, cgroup_root: &str) -> Result<Seen, Refused> {
    process::observe(peer, cgroup_root)
        .map_err(|error| Refused::coded("process", "ARX-AGENT-PROCESS-UNKNOWN", &error.to_string()))
}

fn hidden() -> Refused {
    Refused::coded(
        "hidden",
        "ARX-AGENT-PROCESS-HIDDEN",
        "the agent does not see the process: let it run in the machine's pid namespace (hostPID), or mount the socket of the pod's own volume",
    )
}

async fn local(peer: Arc<Peer>, digests: Option<Arc<Digests>>) -> Result<Caller, Refused> {
    let seen = match digests {
        None => LocalProcess::observe(&peer, None),
        Some(digests) => {
            let look = move || LocalProcess::observe(&peer, Some(&digests));
            match tokio::task::spawn_blocking(look).await {
                Ok(seen) => seen,
                Err(error) => {
                    return Err(Refused::new("local", Status::internal(error.to_string())));
                }
            }
        }
    };
    match seen {
        Ok(process) => Ok(Caller::Local(process)),
        Err(error) => {
            let status = Status::unauthenticated(error.to_string());
            Err(Refused::new("local", status))
        }
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
mod tests;
