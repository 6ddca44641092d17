//! `[policy]`: which identity somebody gets, for how long, with which keys.

use std::time::Duration;

use arx_daemon::config::{Problems, Span};
use arx_identity::TrustDomain;
use serde::Deserialize;

use super::check::{Fault, faults};
use crate::token::Cluster;

/// No leaf lives longer.
pub const LONGEST_TTL: Duration = Duration::from_secs(86_400);
/// No leaf lives shorter: renewals would come faster than proxies take them.
pub const SHORTEST_TTL: Duration = Duration::from_secs(5);
/// `[policy]` of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Path of the SPIFFE id of a service account.
    pub template: String,
    /// Kinds of keys that may be certified.
    pub keys: Vec<String>,
    /// Lifetime where nobody asks for another.
    pub ttl: Span,
    /// Longest lifetime that can be asked for.
    pub max_ttl: Span,
    /// Lifetime of the nodes' own certificates.
    pub node_ttl: Span,
    /// What differs for some service accounts.
    pub exception: Vec<Exception>,
    /// Who is who on machines without Kubernetes.
    pub local: Vec<Local>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            template: "/ns/{namespace}/sa/{serviceaccount}".to_owned(),
            keys: [
                "ecdsa-p256",
                "ecdsa-p384",
                "ed25519",
                "rsa-2048",
                "rsa-3072",
                "rsa-4096",
            ]
            .map(str::to_owned)
            .into(),
            ttl: Span::from_secs(3600),
            max_ttl: Span::from_secs(86_400),
            node_ttl: Span::from_secs(3600),
            exception: Vec::new(),
            local: Vec::new(),
        }
    }
}

/// `[[policy.exception]]`: for one service account, or for all of a namespace. For each
/// account the one exception that names it counts, or else the one for its namespace.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exception {
    /// Whose namespace.
    pub namespace: String,
    /// Which service account; `*` for all that have no exception of their own.
    pub service_account: String,
    /// Instead of `policy.ttl`.
    pub ttl: Option<Span>,
    /// Instead of `policy.max_ttl`.
    pub max_ttl: Option<Span>,
    /// DNS names that the certificates carry besides the SPIFFE id.
    #[serde(default)]
    pub dns_names: Vec<String>,
    /// Instead of `policy.template`.
    pub path: Option<String>,
    /// No certificates at all.
    #[serde(default)]
    pub deny: bool,
}

/// `[[policy.local]]`: a process that shows all of these properties has this identity. The
/// first one that fits counts.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Local {
    /// Path of the SPIFFE id.
    pub path: String,
    /// Where: `<cluster>/<node>`, or `<cluster>/*`.
    pub nodes: Vec<String>,
    /// User id of the process.
    pub uid: Option<u32>,
    /// Group id of the process.
    pub gid: Option<u32>,
    /// Absolute path of its executable.
    pub executable: Option<String>,
    /// SHA-256 of its executable, in hex.
    pub executable_sha256: Option<String>,
}

impl Config {
    /// Notes everything that is wrong with the policy.
    pub fn problems(
        &self,
        trust_domain: &TrustDomain,
        clusters: &[Cluster],
        problems: &mut Problems<'_>,
    ) {
        for Fault {
            key,
            reason,
            remedy,
        } in faults(self, trust_domain, clusters)
        {
            problems.add(&key, reason, remedy);
        }
    }

    /// The longest lifetime of any leaf under this policy.
    #[must_use]
    pub fn longest_ttl(&self) -> Duration {
        let exceptions = self.exception.iter().filter_map(|it| it.max_ttl);
        exceptions
            .chain([self.max_ttl, self.node_ttl])
            .map(Span::get)
            .max()
            .unwrap_or(LONGEST_TTL)
    }
}
