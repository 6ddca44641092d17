//! From evidence to a decision: what an item of a batch brings is proved here, and held
//! against the policy once its key is known.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arx_identity::{KeyAlgorithm, SpiffeId};
use arx_proto::node::v1 as wire;
use arx_proto::node::v1::issue_item::Evidence as Brought;

use crate::ca::Rules;
use crate::caller::{Node, NodeName};
use crate::metrics::Kind;
use crate::pods::Found;
use crate::policy::{Agent, Denied, Evidence, Grant, Process, Request};
use crate::recent::About;
use crate::refusal::{Fault, Refusal};
use crate::token::{Account, Purpose, Refused, Token, Verified};

/// What an item's evidence proves, whatever the policy thinks of it.
#[derive(Debug)]
pub enum Proof {
    /// A service-account token of a workload.
    Token(Box<Verified>),
    /// A pod that runs on the agent's node, by its UID.
    Pod(Box<Found>),
    /// The agent's word on a process of its own node.
    Process(wire::LocalProcess),
    /// The node's own certificate.
    Renewal,
}

/// What may be had.
#[derive(Debug)]
pub struct Admitted {
    /// For whom.
    pub kind: Kind,
    /// The identity.
    pub id: SpiffeId,
    /// Names that go into the certificate beside it.
    pub dns_names: Arc<[String]>,
    /// Lifetime.
    pub ttl: Duration,
    /// For the ledger: what it was granted on, and by which rule.
    pub evidence: String,
}

/// Evidence that proves nothing, and whom it is about as far as it does prove that.
#[derive(Debug)]
pub struct Unproved {
    /// Why.
    pub refusal: Refusal,
    pub(crate) about: Option<About>,
}

impl<R: Into<Refusal>> From<R> for Unproved {
    fn from(refusal: R) -> Self {
        Self {
            refusal: refusal.into(),
            about: None,
        }
    }
}

/// Proves what `item` brings, at `now`.
///
/// # Errors
/// If it proves nothing.
pub async fn prove(
    rules: &Rules,
    node: &Node,
    item: &mut wire::IssueItem,
    now: SystemTime,
) -> Result<Proof, Unproved> {
    match item.evidence.take() {
        Some(Brought::ServiceAccountToken(token)) => {
            let token = zeroize::Zeroizing::new(token);
            let cluster = Some(&*node.name.cluster);
            let verified =
                match rules
                    .tokens
                    .verify_now(Token::new(&token), Purpose::Workload, cluster)
                {
                    Some(known) => known,
                    None => {
                        rules
                            .tokens
                            .verify(Token::new(&token), Purpose::Workload, cluster)
                            .await
                    }
                };
            match verified {
                Ok(verified) => Ok(Proof::Token(Box::new(verified))),
                Err(refused) => {
                    // A forged one is about nobody.
                    let signed = refused.is_of_genuine().then_some(cluster).flatten();
                    let signed =
                        signed.and_then(|name| rules.tokens.signed(Token::new(&token), name));
                    Err(Unproved {
                        about: signed.and_then(|verified| About::token(&verified, now)),
                        refusal: refused.into(),
                    })
                }
            }
        }
        Some(Brought::Local(process)) => Ok(Proof::Process(process)),
        Some(Brought::Node(wire::NodeRenewal {})) => Ok(Proof::Renewal),
        Some(Brought::PodUid(uid)) => {
            let NodeName { cluster, node } = &node.name;
            let found = rules.tokens.pod_on(cluster, node, &uid)?;
            Ok(Proof::Pod(Box::new(found)))
        }
        None => Err(Refusal::new(
            "ARX-EVIDENCE-MISSING",
            Fault::Request,
            "the item brings no evidence that this authority knows",
        )
        .into()),
    }
}

/// Holds a proof against the policy.
///
/// # Errors
/// If it grants nothing.
pub fn decide(
    rules: &Rules,
    node: &NodeName,
    proof: &Proof,
    key: KeyAlgorithm,
    ttl_seconds: u32,
) -> Result<Admitted, Refusal> {
    let (kind, evidence) = match proof {
        Proof::Token(verified) => (Kind::Workload, Evidence::Token(verified)),
        Proof::Pod(found) => (Kind::Workload, Evidence::Pod(found)),
        Proof::Process(process) => (Kind::Workload, Evidence::Process(seen(process)?)),
        Proof::Renewal => (Kind::Node, Evidence::Renewal),
    };
    let agent = Agent {
        cluster: &node.cluster,
        node: &node.node,
    };
    let ttl = (ttl_seconds > 0).then(|| Duration::from_secs(ttl_seconds.into()));
    let grant = rules.policy.decide(&Request {
        agent,
        evidence,
        key,
        ttl,
    })?;
    Ok(Admitted::new(kind, grant, &proof.describe()))
}

/// Judges a join: which node the token names, and whether its service account may be an
/// agent.
///
/// # Errors
/// If it may not.
pub fn join(
    rules: &Rules,
    verified: &Verified,
    key: KeyAlgorithm,
) -> Result<(NodeName, Admitted), Refusal> {
    let agent = Agent::of_token(verified)?;
    let name = NodeName {
        cluster: agent.cluster.into(),
        node: agent.node.into(),
    };
    let grant = rules.policy.decide(&Request {
        agent,
        evidence: Evidence::Join(verified),
        key,
        ttl: None,
    })?;
    Ok((
        name,
        Admitted::new(
            Kind::Join,
            grant,
            &format!("join: {}", token_words(verified)),
        ),
    ))
}

impl Admitted {
    fn new(kind: Kind, grant: Grant, proof: &str) -> Self {
        let evidence = format!("{proof}; by {}", grant.rule);
        Self {
            kind,
            id: grant.id,
            dns_names: grant.dns_names,
            ttl: grant.ttl,
            evidence,
        }
    }
}

impl Proof {
    /// The service account that it is of, if it is of one.
    #[must_use]
    pub fn account(&self) -> Option<Account<'_>> {
        match self {
            Self::Token(verified) => Some(verified.account()),
            Self::Pod(found) => Some(Account {
                namespace: &found.namespace,
                name: &found.service_account,
            }),
            Self::Process(_) | Self::Renewal => None,
        }
    }

    /// The pod that it is of, if it is of one, as it is known at `now`.
    pub(crate) fn about(&self, ttl_seconds: u32, now: SystemTime) -> Option<About> {
        let about = match self {
            Self::Token(verified) => About::token(verified, now)?,
            Self::Pod(found) => About::pod((**found).clone()),
            Self::Process(_) | Self::Renewal => return None,
        };
        let ttl = (ttl_seconds > 0).then(|| Duration::from_secs(ttl_seconds.into()));
        Some(About { ttl, ..about })
    }

    /// For a person to read. Never the token.
    fn describe(&self) -> String {
        match self {
            Self::Token(verified) => format!("token: {}", token_words(verified)),
            Self::Pod(found) => format!(
                "pod: {}/{}, pod {} ({})",
                found.namespace, found.service_account, found.name, found.uid
            ),
            Self::Process(process) => {
                format!(
                    "local: uid {}, gid {}, {:?}",
                    process.uid,
                    process.gid,
                    clipped(&process.executable)
                )
            }
            Self::Renewal => "renewal of the node's own certificate".to_owned(),
        }
    }
}

fn token_words(verified: &Verified) -> String {
    let mut words = format!("{}/{}", verified.namespace, verified.service_account);
    if let Some(pod) = &verified.pod {
        words.push_str(&format!(", pod {} ({})", pod.name, pod.uid));
    }
    words.push_str(&format!(", token {}", verified.token_id));
    words
}

fn clipped(text: &str) -> String {
    text.chars().take(256).collect()
}

fn seen(process: &wire::LocalProcess) -> Result<Process<'_>, Refusal> {
    let sha256 = match process.executable_sha256.len() {
        0 => None,
        _ => Some(
            <[u8; 32]>::try_from(&process.executable_sha256[..]).map_err(|_| {
                Refusal::new(
                    "ARX-REQUEST-MALFORMED",
                    Fault::Request,
                    "executable_sha256 has 32 bytes, or none",
                )
            })?,
        ),
    };
    let executable = (!process.executable.is_empty()).then_some(process.executable.as_str());
    Ok(Process {
        uid: process.uid,
        gid: process.gid,
        executable,
        sha256,
    })
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        let fault = if refused.is_ours() {
            Fault::Dependency
        } else {
            Fault::Unauthenticated
        };
        Self::new(refused.code(), fault, refused.to_string())
    }
}

impl From<Denied> for Refusal {
    fn from(denied: Denied) -> Self {
        let fault = if denied.is_request() {
            Fault::Request
        } else {
            Fault::Forbidden
        };
        Self::new(denied.code(), fault, denied.to_string())
    }
}
