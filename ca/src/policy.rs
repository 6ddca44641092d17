//! Who gets which identity, for how long. A pure function of configuration and evidence:
//! no clock, no I/O. It never grants an id under `/arx/` but a node's own, and never a
//! longer life than configured.

mod check;
mod config;
mod denied;
mod template;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arx_identity::{KeyAlgorithm, SpiffeId, TrustDomain};

use crate::pods::Found;
use crate::token::{Cluster, Purpose, Verified, is_segment};
use template::{Names, Template, is_reserved};

pub(crate) use check::is_dns_name;
pub use config::{Config, Exception, LONGEST_TTL, Local, SHORTEST_TTL};
pub use denied::Denied;

/// The node agent that asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agent<'a> {
    /// Its cluster, as the configuration calls it.
    pub cluster: &'a str,
    /// Its node.
    pub node: &'a str,
}

impl<'a> Agent<'a> {
    /// The agent that joins with this token.
    ///
    /// # Errors
    /// If the token names no node.
    pub fn of_token(token: &'a Verified) -> Result<Self, Denied> {
        let node = token.node.as_ref().ok_or(Denied::NoNode)?;
        Ok(Self {
            cluster: &token.cluster,
            node: &node.name,
        })
    }
}

impl fmt::Display for Agent<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.cluster, self.node)
    }
}

/// What proves who the certificate is for.
#[derive(Clone, Copy, Debug)]
pub enum Evidence<'a> {
    /// A workload's service-account token.
    Token(&'a Verified),
    /// A pod of the agent's cluster that runs on its node.
    Pod(&'a Found),
    /// A process on the agent's node, as the agent sees it.
    Process(Process<'a>),
    /// The agent's own token: a node joins.
    Join(&'a Verified),
    /// The agent's connection, by its node's certificate.
    Renewal,
}

/// A process as its node agent found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process<'a> {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Absolute path of its executable, if it could be read.
    pub executable: Option<&'a str>,
    /// SHA-256 of its executable, if it was computed.
    pub sha256: Option<[u8; 32]>,
}

/// Somebody wants a certificate.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Who brings the request.
    pub agent: Agent<'a>,
    /// Who it is for.
    pub evidence: Evidence<'a>,
    /// Kind of the key to be certified.
    pub key: KeyAlgorithm,
    /// The lifetime asked for; none or zero for the usual one.
    pub ttl: Option<Duration>,
}

/// What may be certified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The identity.
    pub id: SpiffeId,
    /// Further names.
    pub dns_names: Arc<[String]>,
    /// Lifetime.
    pub ttl: Duration,
    /// What granted it.
    pub rule: Rule,
}

/// The part of the configuration that decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    /// `policy.template`.
    Template,
    /// `policy.exception[n]`.
    Exception(usize),
    /// `policy.local[n]`.
    Local(usize),
    /// The fixed form of nodes' ids.
    Node,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Template => f.write_str("policy.template"),
            Self::Exception(n) => write!(f, "policy.exception[{n}]"),
            Self::Local(n) => write!(f, "policy.local[{n}]"),
            Self::Node => f.write_str("node"),
        }
    }
}

/// The configuration would not be accepted; [`Config::problems`] says all of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {reason}")]
pub struct Invalid {
    /// The first key that is at fault.
    pub key: String,
    /// What is wrong with it.
    pub reason: String,
}

/// A policy that was checked. Clones are the same.
#[derive(Clone, Debug)]
pub struct Policy {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    trust_domain: TrustDomain,
    keys: Vec<KeyAlgorithm>,
    node_ttl: Duration,
    usual: Terms,
    exceptions: Vec<Exceptional>,
    /// By namespace.
    accounts: HashMap<String, Accounts>,
    locals: Vec<LocalRule>,
    /// Service accounts that may join, by cluster.
    agents: HashMap<String, BTreeSet<String>>,
    no_names: Arc<[String]>,
}

/// What somebody gets.
#[derive(Clone, Debug)]
struct Terms {
    path: Template,
    dns_names: Arc<[String]>,
    ttl: Duration,
    max_ttl: Duration,
}

#[derive(Debug)]
enum Exceptional {
    Deny,
    Grant(Terms),
}

/// Exceptions of one namespace, by index.
#[derive(Debug, Default)]
struct Accounts {
    named: HashMap<String, usize>,
    others: Option<usize>,
}

#[derive(Debug)]
struct LocalRule {
    id: SpiffeId,
    nodes: Vec<String>,
    uid: Option<u32>,
    gid: Option<u32>,
    executable: Option<String>,
    sha256: Option<[u8; 32]>,
}

impl LocalRule {
    fn fits(&self, agent: Agent<'_>, process: &Process<'_>) -> bool {
        let here = self.nodes.iter().any(|node| {
            node.split_once('/').is_some_and(|(cluster, node)| {
                cluster == agent.cluster && (node == "*" || node == agent.node)
            })
        });
        here && self.uid.is_none_or(|uid| uid == process.uid)
            && self.gid.is_none_or(|gid| gid == process.gid)
            && self
                .executable
                .as_deref()
                .is_none_or(|path| process.executable == Some(path))
            && self.sha256.is_none_or(|hash| process.sha256 == Some(hash))
    }
}

impl Policy {
    /// The lifetime of a leaf where nobody asks for another and no exception says so.
    #[must_use]
    pub fn usual_ttl(&self) -> Duration {
        self.inner.usual.ttl
    }

    /// The policy of this configuration; `clusters` say who may join.
    ///
    /// # Errors
    /// If [`Config::problems`] has something to say.
    pub fn new(
        trust_domain: &TrustDomain,
        config: &Config,
        clusters: &[Cluster],
    ) -> Result<Self, Invalid> {
        if let Some(fault) = check::faults(config, trust_domain, clusters)
            .into_iter()
            .next()
        {
            return Err(Invalid {
                key: fault.key,
                reason: fault.reason,
            });
        }
        let invalid = |key: &str, reason: String| Invalid {
            key: key.to_owned(),
            reason,
        };
        let no_names: Arc<[String]> = Arc::new([]);
        let usual = Terms {
            path: Template::parse(&config.template)
                .map_err(|reason| invalid("policy.template", reason))?,
            dns_names: no_names.clone(),
            ttl: config.ttl.get(),
            max_ttl: config.max_ttl.get(),
        };
        let keys = config.keys.iter().map(|key| {
            key.parse::<KeyAlgorithm>()
                .map_err(|error| invalid("policy.keys", error.to_string()))
        });
        let mut accounts: HashMap<String, Accounts> = HashMap::new();
        let mut exceptions = Vec::with_capacity(config.exception.len());
        for (n, exception) in config.exception.iter().enumerate() {
            let namespace = accounts.entry(exception.namespace.clone()).or_default();
            if exception.service_account == "*" {
                namespace.others = Some(n);
            } else {
                namespace.named.insert(exception.service_account.clone(), n);
            }
            let grant = exceptional(exception, &usual);
            exceptions.push(
                grant.map_err(|reason| invalid(&format!("policy.exception[{n}].path"), reason))?,
            );
        }
        let locals = config.local.iter().map(|local| {
            Ok(LocalRule {
                id: SpiffeId::new(trust_domain, &local.path)
                    .map_err(|error| invalid("policy.local", error.to_string()))?,
                nodes: local.nodes.clone(),
                uid: local.uid,
                gid: local.gid,
                executable: local.executable.clone(),
                sha256: local.executable_sha256.as_deref().and_then(check::digest),
            })
        });
        let agents = clusters.iter().map(|cluster| {
            (
                cluster.name.clone(),
                cluster.agents.iter().cloned().collect(),
            )
        });
        Ok(Self {
            inner: Arc::new(Inner {
                trust_domain: trust_domain.clone(),
                keys: keys.collect::<Result<_, _>>()?,
                node_ttl: config.node_ttl.get(),
                usual,
                exceptions,
                accounts,
                locals: locals.collect::<Result<_, Invalid>>()?,
                agents: agents.collect(),
                no_names,
            }),
        })
    }

    /// What is granted.
    ///
    /// # Errors
    /// Why nothing is.
    pub fn decide(&self, request: &Request<'_>) -> Result<Grant, Denied> {
        let agent = request.agent;
        let allowed = self.inner.agents.get(agent.cluster);
        let allowed = allowed.ok_or_else(|| Denied::Cluster(agent.cluster.to_owned()))?;
        if !self.inner.keys.contains(&request.key) {
            return Err(Denied::Key(request.key));
        }
        match &request.evidence {
            Evidence::Token(token) => {
                check_token(agent, token, Purpose::Workload)?;
                self.workload(names(token)?, request.ttl)
            }
            Evidence::Pod(pod) => {
                check_pod(agent, pod)?;
                self.workload(names_of(pod)?, request.ttl)
            }
            Evidence::Process(process) => self.local(agent, process, request.ttl),
            Evidence::Renewal => self.node(agent, request.ttl),
            Evidence::Join(token) => {
                check_token(agent, token, Purpose::Join)?;
                let account = format!("{}/{}", token.namespace, token.service_account);
                if !allowed.contains(&account) {
                    return Err(Denied::Agent {
                        cluster: token.cluster.clone(),
                        account,
                    });
                }
                self.node(agent, request.ttl)
            }
        }
    }

    fn workload(&self, names: Names<'_>, ttl: Option<Duration>) -> Result<Grant, Denied> {
        let (rule, terms) = self.terms(names)?;
        self.grant(&terms.path.fill(names), terms, ttl, rule)
    }

    /// The identity of the service account that asks for more than a workload may have, by a
    /// token that no agent was ever given.
    ///
    /// # Errors
    /// Why it has none.
    pub fn account(&self, token: &Verified) -> Result<SpiffeId, Denied> {
        if token.purpose != Purpose::Join {
            return Err(Denied::Purpose(token.purpose));
        }
        let names = names(token)?;
        let (rule, terms) = self.terms(names)?;
        let grant = self.grant(&terms.path.fill(names), terms, None, rule)?;
        Ok(grant.id)
    }

    /// What makes the lifetime of a service account's certificates what it is, if so much is
    /// asked for.
    #[must_use]
    pub fn lifetime_by(&self, pod: &Found, asked: Option<Duration>) -> String {
        let Ok((rule, terms)) = names_of(pod).and_then(|names| self.terms(names)) else {
            return String::new();
        };
        let by = |name: &str| match rule {
            Rule::Exception(_) => format!("{rule}, or policy.{name}"),
            _ => format!("policy.{name}"),
        };
        match asked.filter(|asked| !asked.is_zero()) {
            None => by("ttl"),
            Some(asked) if asked > terms.max_ttl => {
                format!("{}; {} s were asked for", by("max_ttl"), asked.as_secs())
            }
            Some(asked) if asked < SHORTEST_TTL => "the shortest there is".to_owned(),
            Some(_) => "as was asked for".to_owned(),
        }
    }

    /// The identities of a service account, in whatever cluster.
    #[must_use]
    pub fn identities(&self, namespace: &str, service_account: &str) -> BTreeSet<SpiffeId> {
        let clusters = self.inner.agents.keys();
        let granted = clusters.filter_map(|cluster| {
            let names = Names {
                cluster,
                namespace,
                service_account,
            };
            let (rule, terms) = self.terms(names).ok()?;
            let grant = self.grant(&terms.path.fill(names), terms, None, rule);
            grant.ok().map(|grant| grant.id)
        });
        granted.collect()
    }

    /// What a service account gets.
    fn terms(&self, names: Names<'_>) -> Result<(Rule, &Terms), Denied> {
        let exception = self
            .inner
            .accounts
            .get(names.namespace)
            .and_then(|namespace| {
                let named = namespace.named.get(names.service_account).copied();
                named.or(namespace.others)
            });
        match exception.map(|n| (Rule::Exception(n), &self.inner.exceptions[n])) {
            None => Ok((Rule::Template, &self.inner.usual)),
            Some((rule, Exceptional::Grant(terms))) => Ok((rule, terms)),
            Some((rule, Exceptional::Deny)) => Err(Denied::Account {
                rule,
                account: format!("{}/{}", names.namespace, names.service_account),
            }),
        }
    }

    fn local(
        &self,
        agent: Agent<'_>,
        process: &Process<'_>,
        ttl: Option<Duration>,
    ) -> Result<Grant, Denied> {
        let (n, rule) = self
            .inner
            .locals
            .iter()
            .enumerate()
            .find(|(_, rule)| rule.fits(agent, process))
            .ok_or_else(|| Denied::NoRule(agent.to_string()))?;
        self.grant(rule.id.path(), &self.inner.usual, ttl, Rule::Local(n))
    }

    /// Every identity that is not a node's comes from here.
    fn grant(
        &self,
        path: &str,
        terms: &Terms,
        ttl: Option<Duration>,
        rule: Rule,
    ) -> Result<Grant, Denied> {
        // Names decide the path too, so the configuration alone cannot rule this out.
        if is_reserved(path) {
            return Err(Denied::Reserved);
        }
        let id = SpiffeId::new(&self.inner.trust_domain, path)
            .map_err(|error| Denied::Id(error.to_string()))?;
        Ok(Grant {
            id,
            dns_names: terms.dns_names.clone(),
            ttl: lifetime(ttl, terms.ttl, terms.max_ttl),
            rule,
        })
    }

    fn node(&self, agent: Agent<'_>, ttl: Option<Duration>) -> Result<Grant, Denied> {
        if !is_segment(agent.cluster) {
            return Err(Denied::Name("cluster"));
        }
        if !is_segment(agent.node) {
            return Err(Denied::Name("node"));
        }
        let path = format!("/arx/node/{}/{}", agent.cluster, agent.node);
        let id = SpiffeId::new(&self.inner.trust_domain, &path)
            .map_err(|error| Denied::Id(error.to_string()))?;
        Ok(Grant {
            id,
            dns_names: self.inner.no_names.clone(),
            ttl: lifetime(ttl, self.inner.node_ttl, self.inner.node_ttl),
            rule: Rule::Node,
        })
    }
}

fn exceptional(exception: &Exception, usual: &Terms) -> Result<Exceptional, String> {
    if exception.deny {
        return Ok(Exceptional::Deny);
    }
    let max_ttl = exception.max_ttl.map_or(usual.max_ttl, |it| it.get());
    Ok(Exceptional::Grant(Terms {
        path: match &exception.path {
            Some(path) => Template::parse(path)?,
            None => usual.path.clone(),
        },
        dns_names: exception.dns_names.as_slice().into(),
        ttl: exception.ttl.map_or(usual.ttl, |it| it.get()).min(max_ttl),
        max_ttl,
    }))
}

fn names(token: &Verified) -> Result<Names<'_>, Denied> {
    sound(Names {
        cluster: &token.cluster,
        namespace: &token.namespace,
        service_account: &token.service_account,
    })
}

fn names_of(pod: &Found) -> Result<Names<'_>, Denied> {
    sound(Names {
        cluster: &pod.cluster,
        namespace: &pod.namespace,
        service_account: &pod.service_account,
    })
}

/// Names that can stand in a SPIFFE id.
fn sound(names: Names<'_>) -> Result<Names<'_>, Denied> {
    for (what, name) in [
        ("namespace", names.namespace),
        ("service account", names.service_account),
        ("cluster", names.cluster),
    ] {
        if !is_segment(name) {
            return Err(Denied::Name(what));
        }
    }
    Ok(names)
}

/// A pod proves something to the agent of its own node only.
fn check_pod(agent: Agent<'_>, pod: &Found) -> Result<(), Denied> {
    if *pod.cluster != *agent.cluster {
        return Err(Denied::Cluster(agent.cluster.to_owned()));
    }
    match pod.node.as_deref() {
        Some(node) if node == agent.node => Ok(()),
        _ => Err(Denied::Node(agent.to_string())),
    }
}

/// A token proves something to the agent of its own node only.
fn check_token(agent: Agent<'_>, token: &Verified, purpose: Purpose) -> Result<(), Denied> {
    if token.purpose != purpose {
        return Err(Denied::Purpose(token.purpose));
    }
    if *token.cluster != *agent.cluster {
        return Err(Denied::Cluster(agent.cluster.to_owned()));
    }
    match (&token.node, &token.pod) {
        (Some(node), _) if node.name == agent.node => Ok(()),
        (Some(_), _) => Err(Denied::Node(agent.to_string())),
        // Its cluster allows tokens that are bound to nothing; those can't name a node.
        (None, None) if purpose == Purpose::Workload => Ok(()),
        (None, _) => Err(Denied::NoNode),
    }
}

/// What was asked for, within what is allowed.
fn lifetime(asked: Option<Duration>, usual: Duration, max: Duration) -> Duration {
    match asked {
        Some(asked) if !asked.is_zero() => asked.max(SHORTEST_TTL).min(max),
        _ => usual,
    }
}
