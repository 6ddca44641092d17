//! The node's own identity, and its renewal over the open connection.

use super::join::key_and_csr;
use super::{CallFailure, Channel, Event, Running, SessionError};
use crate::renewal::{self, Facts};
use crate::{seed, wire};
use arx_identity::{
    CertChain, IdError, PrivateKey, SpiffeId, Svid, TrustBundle, TrustDomain, crypto, verify,
};
use arx_proto::node::v1::node_client::NodeClient;
use arx_proto::node::v1::{
    IssueItem, IssueRequest, Issued, NodeRenewal, Urgency, issue_item::Evidence,
    issue_result::Outcome,
};
use bytes::Bytes;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// The path of the authority's own id.
const AUTHORITY: &str = "/arx/ca";
/// Pause before an attempt that will fail again unless somebody changes something.
const AFTER_REFUSAL: Duration = Duration::from_secs(30);

/// Both ends of a connection to the authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodeId {
    pub(crate) node: SpiffeId,
    pub(crate) authority: SpiffeId,
}

impl NodeId {
    /// The ids of `node` of `cluster` and of its authority.
    pub(crate) fn new(
        trust_domain: &TrustDomain,
        cluster: &str,
        node: &str,
    ) -> Result<Self, IdError> {
        Ok(Self {
            node: SpiffeId::new(trust_domain, &format!("/arx/node/{cluster}/{node}"))?,
            authority: SpiffeId::new(trust_domain, AUTHORITY)?,
        })
    }
}

/// How the renewal of the current certificate is going.
#[derive(Debug, Default)]
pub(super) struct Renewal {
    failures: u32,
    retry_after: Duration,
    hint: Option<renewal::Hint>,
}

impl Renewal {
    pub(super) fn hint(&mut self, hint: renewal::Hint) {
        self.hint = Some(hint);
    }
}

impl Running {
    /// How long until the node's certificate is renewed; it is the first thing that ends
    /// if nothing is done.
    pub(super) fn until_renewal(&self) -> Duration {
        let Some(svid) = &self.setup.svid else {
            return Duration::ZERO;
        };
        let facts = Facts {
            not_before: svid.not_before(),
            not_after: svid.not_after(),
            failures: self.renewal.failures,
            retry_after: self.renewal.retry_after,
            hint: self.renewal.hint,
            seed: seed::of(svid.serial().as_bytes()),
        };
        renewal::wait(&facts, self.setup.clock.now())
    }

    /// Asks for the next certificate of the node. Whether it worked shows in
    /// [`Self::until_renewal`].
    pub(super) async fn renew(&mut self, client: &mut NodeClient<Channel>) -> Renewed {
        match self.attempt(client).await {
            Ok(svid) => {
                tracing::info!(serial = %svid.serial(), "the node's certificate is renewed");
                self.renewal = Renewal::default();
                self.setup.svid = Some(svid.clone());
                self.tell(Event::Node(svid)).await;
                Renewed::Yes
            }
            Err(error) => {
                self.renewal.failures = self.renewal.failures.saturating_add(1);
                self.renewal.retry_after = error.retry_after();
                tracing::warn!(
                    code = "ARX-AGENT-NODE-RENEWAL",
                    failures = self.renewal.failures,
                    %error,
                    "the node's certificate could not be renewed; it is tried again"
                );
                match error {
                    SessionError::Call(failure) if failure.refuses_the_node() => Renewed::Refused,
                    _ => Renewed::NotYet,
                }
            }
        }
    }

    async fn attempt(&mut self, client: &mut NodeClient<Channel>) -> Result<Svid, SessionError> {
        let (key, csr) = key_and_csr().await?;
        let current = self.setup.svid.as_ref();
        let item = IssueItem {
            idempotency_key: Bytes::copy_from_slice(&crypto::random::<16>()),
            csr,
            evidence: Some(Evidence::Node(NodeRenewal {})),
            ttl_seconds: 0,
            urgency: Urgency::Renewal.into(),
            current_not_after_unix_ms: current.map_or(0, |s| wire::unix_ms(s.not_after())),
            replaces_serial: current
                .map(|s| Bytes::copy_from_slice(s.serial().as_bytes()))
                .unwrap_or_default(),
            trace_id: Bytes::new(),
        };
        let timeout = self.setup.config.authority.call_timeout.get();
        let call = client.issue(IssueRequest { items: vec![item] });
        let answer = tokio::time::timeout(timeout, call).await;
        let answer = answer.map_err(|_| CallFailure::timeout(timeout))?;
        let answer = answer.map_err(CallFailure::from)?.into_inner();
        match wire::results(answer)
            .into_iter()
            .next()
            .and_then(|r| r.outcome)
        {
            Some(Outcome::Issued(issued)) => {
                let now = self.setup.clock.now();
                verified(&issued, key, &self.setup.ids.node, &self.anchors()?, now)
            }
            Some(Outcome::Refused(refusal)) => {
                let retry_after = match refusal.retry_after_ms {
                    0 => AFTER_REFUSAL,
                    ms => Duration::from_millis(ms.into()),
                };
                Err(SessionError::Call(CallFailure {
                    code: i32::try_from(refusal.grpc_code).unwrap_or(2).into(),
                    message: format!("{}: {}", refusal.code, refusal.message),
                    retry_after,
                }))
            }
            None => Err(SessionError::Answer("it holds no result".to_owned())),
        }
    }
}

/// What came of an attempt to renew.
pub(super) enum Renewed {
    Yes,
    NotYet,
    /// The authority does not believe the certificate that is shown to it.
    Refused,
}

/// A certificate for `key` and `id` that one of `anchors` vouches for.
pub(super) fn verified(
    issued: &Issued,
    key: Arc<PrivateKey>,
    id: &SpiffeId,
    anchors: &[TrustBundle],
    now: SystemTime,
) -> Result<Svid, SessionError> {
    let refuse = |reason: &dyn std::fmt::Display| {
        SessionError::Answer(format!("the node's new certificate is refused: {reason}"))
    };
    let chain = issued.chain.iter().map(|der| der.as_ref());
    let chain = CertChain::from_der_list(chain).map_err(|error| refuse(&error))?;
    if chain.spiffe_id() != id {
        return Err(SessionError::OtherNode {
            got: chain.spiffe_id().clone(),
            own: id.clone(),
        });
    }
    let mut reason = None;
    for bundle in anchors {
        match verify(&chain, bundle, now) {
            Ok(_) => return Svid::new(chain, key).map_err(|error| refuse(&error)),
            Err(error) => reason = Some(error),
        }
    }
    Err(match reason {
        Some(error) => refuse(&error),
        None => refuse(&"there are no roots to verify it with"),
    })
}
