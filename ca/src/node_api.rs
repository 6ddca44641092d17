//! The node API, `arx.node.v1`: what a message says is checked here, what is done about
//! it is decided in `issue` and kept in [`fleet`](crate::fleet).

mod follow;

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use arx_daemon::clock::unix_ms;
use arx_identity::{Sequence, TrustBundle};
use arx_proto::node::v1 as wire;
use bytes::Bytes;
use futures_util::Stream;
use tonic::{Request, Response, Status};
use zeroize::Zeroizing;

use crate::ca::Ca;
use crate::caller::{Caller, Node};
use crate::refusal::{Fault, Peer, Refusal};

/// The version of the protocol that this authority speaks.
const VERSION: u32 = 1;
/// Items of one Issue at most.
pub const MOST_ITEMS: usize = 100;
/// How long a call may take before its caller is told to come back.
const DEADLINE: Duration = Duration::from_secs(20);
/// What an authority can do beyond the version.
const FEATURES: &[&str] = &[];

/// Answers the calls of nodes.
#[derive(Clone)]
pub struct Api(Arc<Ca>);

impl Api {
    /// Answers on behalf of `ca`.
    #[must_use]
    pub fn new(ca: Arc<Ca>) -> Self {
        Self(ca)
    }
}

#[tonic::async_trait]
impl wire::node_server::Node for Api {
    async fn join(
        &self,
        request: Request<wire::JoinRequest>,
    ) -> Result<Response<wire::JoinResponse>, Status> {
        let (peer, token) = (peer(&request), bearer(&request));
        let join = request.into_inner();
        let outcome = within(DEADLINE, async {
            let hello = join
                .hello
                .as_ref()
                .ok_or_else(|| malformed("a join begins with a Hello"))?;
            let welcome = welcome(&self.0, hello)?;
            let issued = self.0.join(&token?, &join).await?;
            let trust = trust_update(&self.0.trust.current());
            Ok(wire::JoinResponse {
                welcome: Some(welcome),
                node: Some(issued),
                trust: Some(trust),
            })
        });
        tell(&self.0, outcome.await, &peer)
    }

    async fn issue(
        &self,
        request: Request<wire::IssueRequest>,
    ) -> Result<Response<wire::IssueResponse>, Status> {
        let (peer, node) = (peer(&request), node(&self.0, &request));
        let items = request.into_inner().items;
        let outcome = within(DEADLINE, async {
            let node = node?;
            self.0.restore.is_open()?;
            if items.is_empty() || items.len() > MOST_ITEMS {
                return Err(Refusal::new(
                    "ARX-REQUEST-ITEMS",
                    Fault::Request,
                    format!(
                        "a batch has 1 to {MOST_ITEMS} items, this one has {}",
                        items.len()
                    ),
                ));
            }
            let _share = self.0.shares.take(&node.name, items.len())?;
            let mut results = self.0.issue(&node, items).await;
            Ok(wire::IssueResponse {
                issuers: share_issuers(&mut results),
                results,
            })
        });
        tell(&self.0, outcome.await, &peer)
    }

    type FollowStream = Pin<Box<dyn Stream<Item = Result<wire::AuthorityMessage, Status>> + Send>>;

    async fn follow(
        &self,
        request: Request<tonic::Streaming<wire::AgentMessage>>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        let peer = peer(&request);
        let outcome = async {
            let node = node(&self.0, &request)?;
            follow::open(Arc::clone(&self.0), &node, request.into_inner()).await
        };
        let opened = tell(&self.0, outcome.await, &peer)?;
        opened.into_inner().map(Response::new)
    }
}

/// Takes the intermediates of the first chain out of all chains that end in them.
fn share_issuers(results: &mut [wire::IssueResult]) -> Vec<Bytes> {
    let mut issuers: Vec<Bytes> = Vec::new();
    for result in results {
        if let Some(wire::issue_result::Outcome::Issued(issued)) = &mut result.outcome {
            if issuers.is_empty() {
                issuers.extend_from_slice(issued.chain.get(1..).unwrap_or_default());
            }
            if issued.chain.get(1..) == Some(&issuers) {
                issued.chain.truncate(1);
            }
        }
    }
    issuers
}

/// The node that calls, if its line of certificates is still the one that counts.
fn node<T>(ca: &Ca, request: &Request<T>) -> Result<Arc<Node>, Refusal> {
    let node = caller(request).node(ca.clock.now())?;
    ca.admit_node(node)?;
    Ok(Arc::clone(node))
}

/// Turns the outcome of a call into what its caller is told.
pub(crate) fn tell<T>(
    ca: &Ca,
    outcome: Result<T, Refusal>,
    peer: &Peer,
) -> Result<Response<T>, Status> {
    outcome.map(Response::new).map_err(|refusal| {
        ca.refused(&refusal, peer, "call refused");
        refusal.into()
    })
}

/// Who calls, as far as the connection says.
pub(crate) fn caller<T>(request: &Request<T>) -> &Caller {
    let caller = request.extensions().get::<Caller>();
    caller.unwrap_or(&Caller::Stranger)
}

/// Whose call it is, for the log.
pub(crate) fn peer<T>(request: &Request<T>) -> Peer {
    let peer = request.extensions().get::<Peer>();
    peer.cloned().unwrap_or(Peer::Other)
}

/// The token of `authorization: Bearer` (RFC 6750, 2.1).
pub(crate) fn bearer<T>(request: &Request<T>) -> Result<Zeroizing<String>, Refusal> {
    let missing = || {
        Refusal::new(
            "ARX-TOKEN-MISSING",
            Fault::Unauthenticated,
            "this call needs the caller's service-account token as `authorization: Bearer ...`",
        )
    };
    let value = request
        .metadata()
        .get("authorization")
        .ok_or_else(missing)?;
    let text = value.to_str().map_err(|_| missing())?;
    match text.split_at_checked(7) {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer ") => {
            Ok(Zeroizing::new(token.trim().to_owned()))
        }
        _ => Err(missing()),
    }
}

pub(crate) async fn within<T>(
    deadline: Duration,
    work: impl Future<Output = Result<T, Refusal>>,
) -> Result<T, Refusal> {
    tokio::time::timeout(deadline, work)
        .await
        .unwrap_or_else(|_| {
            Err(Refusal::new(
                "ARX-DEADLINE",
                Fault::Overload,
                "the call took too long and was given up: come back later",
            ))
        })
}

/// Agrees on a version and on features.
fn welcome(ca: &Ca, hello: &wire::Hello) -> Result<wire::Welcome, Refusal> {
    if !(hello.min_version..=hello.max_version).contains(&VERSION) {
        return Err(Refusal::new(
            "ARX-PROTOCOL-VERSION",
            Fault::Request,
            format!(
                "the agent speaks versions {} to {} of arx.node, and this authority version {VERSION}: upgrade the older of the two",
                hello.min_version, hello.max_version
            ),
        ));
    }
    let both = FEATURES
        .iter()
        .filter(|feature| hello.features.iter().any(|theirs| theirs == *feature));
    Ok(wire::Welcome {
        version: VERSION,
        features: both.map(|feature| (*feature).to_owned()).collect(),
        clock_unix_ms: unix_ms(ca.clock.now()),
        trust_domain: ca.trust_domain.as_str().to_owned(),
        replica_id: ca.replica.to_string(),
        trust: vec![position(&ca.trust.current())],
    })
}

fn trust_update(bundle: &TrustBundle) -> wire::TrustUpdate {
    wire::TrustUpdate {
        position: Some(position(bundle)),
        trust_domain: bundle.trust_domain().as_str().to_owned(),
        roots: bundle
            .roots()
            .iter()
            .map(|root| Bytes::copy_from_slice(root.der()))
            .collect(),
    }
}

fn position(bundle: &TrustBundle) -> wire::TrustPosition {
    wire::TrustPosition {
        kind: wire::TrustKind::X509Roots as i32,
        sequence: Some(sequence(bundle.sequence())),
        sha256: Bytes::copy_from_slice(&bundle.sha256()),
    }
}

pub(crate) fn sequence(sequence: Sequence) -> wire::Sequence {
    wire::Sequence {
        epoch: sequence.epoch,
        number: sequence.number,
    }
}

fn malformed(what: &str) -> Refusal {
    Refusal::new("ARX-REQUEST-MALFORMED", Fault::Request, what)
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Api")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_most_chains_end_in_is_sent_once() {
        let issued = |names: &[&'static str]| wire::IssueResult {
            outcome: Some(wire::issue_result::Outcome::Issued(wire::Issued {
                chain: names.iter().map(|&name| name.into()).collect(),
                ..wire::Issued::default()
            })),
            ..wire::IssueResult::default()
        };
        let nothing = wire::IssueResult::default();
        let mut results = [
            nothing.clone(),
            issued(&["a", "now"]),
            issued(&["b", "before"]),
            issued(&["c", "now"]),
        ];
        assert_eq!(share_issuers(&mut results), [Bytes::from("now")]);
        let sent = [
            nothing,
            issued(&["a"]),
            issued(&["b", "before"]),
            issued(&["c"]),
        ];
        assert_eq!(results, sent);
    }
}
