//! `[policy]`: which identity somebody gets, for how long, with which keys.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use arx_daemon::config::{Problems, Span};
use arx_identity::{KeyAlgorithm, SpiffeId, TrustDomain};
use serde::Deserialize;

use super::template::{Place, Template};
use crate::token::{Cluster, is_segment};

/// No leaf lives longer.
pub const LONGEST_TTL: Duration = Duration::from_secs(86_400);
/// No leaf lives shorter: renewals would come faster than proxies take them.
pub const SHORTEST_TTL: Duration = Duration::from_secs(5);
/// More names than a certificate should carry.
const MAX_DNS_NAMES: usize = 32;

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

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) key: String,
    pub(super) reason: String,
    remedy: &'static str,
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
        } in self.faults(trust_domain, clusters)
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

    pub(super) fn faults(&self, trust_domain: &TrustDomain, clusters: &[Cluster]) -> Vec<Fault> {
        let mut check = Check {
            faults: Vec::new(),
            trust_domain,
        };
        check.general(self);
        check.exceptions(self);
        check.locals(self, clusters);
        check.faults
    }
}

struct Check<'a> {
    faults: Vec<Fault>,
    trust_domain: &'a TrustDomain,
}

impl Check<'_> {
    fn add(&mut self, key: impl Into<String>, reason: impl Into<String>, remedy: &'static str) {
        self.faults.push(Fault {
            key: key.into(),
            reason: reason.into(),
            remedy,
        });
    }

    fn general(&mut self, config: &Config) {
        match Template::parse(&config.template) {
            Err(reason) => self.add(
                "policy.template",
                reason,
                "write it as \"/ns/{namespace}/sa/{serviceaccount}\"",
            ),
            Ok(template) => {
                if !(template.names(Place::Namespace) && template.names(Place::ServiceAccount)) {
                    self.add(
                        "policy.template",
                        "different service accounts would get one identity",
                        "use both {namespace} and {serviceaccount} in it",
                    );
                }
            }
        }
        if config.keys.is_empty() {
            self.add(
                "policy.keys",
                "no kind of key is allowed, so nothing could be certified",
                "name at least one, such as \"ecdsa-p256\"",
            );
        }
        let mut seen = BTreeSet::new();
        for key in &config.keys {
            match key.parse::<KeyAlgorithm>() {
                Err(error) => self.add("policy.keys", error.to_string(), "correct it"),
                Ok(algorithm) if !seen.insert(algorithm) => {
                    self.add("policy.keys", format!("{algorithm} twice"), "name it once");
                }
                Ok(_) => {}
            }
        }
        self.range("policy.ttl", config.ttl);
        self.range("policy.max_ttl", config.max_ttl);
        self.range("policy.node_ttl", config.node_ttl);
        if config.ttl > config.max_ttl {
            self.add(
                "policy.ttl",
                format!("{} is longer than max_ttl ({})", config.ttl, config.max_ttl),
                "make it shorter, or max_ttl longer",
            );
        }
    }

    fn range(&mut self, key: &str, ttl: Span) {
        if ttl.get() > LONGEST_TTL {
            self.add(
                key,
                format!("{ttl} is longer than 24h, and what is issued can't be taken back"),
                "use 24h or less",
            );
        }
        if ttl.get() < SHORTEST_TTL {
            self.add(
                key,
                format!("{ttl} is too short to be renewed in time"),
                "use 5s or more",
            );
        }
    }

    fn exceptions(&mut self, config: &Config) {
        let mut seen = BTreeSet::new();
        for (n, exception) in config.exception.iter().enumerate() {
            let key = |name: &str| format!("policy.exception[{n}].{name}");
            let all = exception.service_account == "*";
            if !is_segment(&exception.namespace) {
                self.add(
                    key("namespace"),
                    "not the name of a namespace",
                    "name one namespace; * is not allowed",
                );
            }
            if !all && !is_segment(&exception.service_account) {
                self.add(
                    key("service_account"),
                    "not the name of a service account",
                    "name one, or * for all of the namespace",
                );
            }
            if !seen.insert((&exception.namespace, &exception.service_account)) {
                self.add(
                    key("service_account"),
                    format!(
                        "another exception is for {}/{} too",
                        exception.namespace, exception.service_account
                    ),
                    "put both into one",
                );
            }
            self.exception_lifetimes(config, exception, &key);
            self.dns_names(exception, &key);
            if let Some(path) = &exception.path {
                match Template::parse(path) {
                    Err(reason) => self.add(key("path"), reason, "write it as \"/payments/api\""),
                    Ok(template) if all && !template.names(Place::ServiceAccount) => self.add(
                        key("path"),
                        "all service accounts of the namespace would get one identity",
                        "use {serviceaccount} in it, or name one service account",
                    ),
                    Ok(_) => {}
                }
            }
            let grants = exception.ttl.is_some()
                || exception.max_ttl.is_some()
                || exception.path.is_some()
                || !exception.dns_names.is_empty();
            let empty = !grants && !exception.deny;
            if exception.deny && grants {
                self.add(
                    key("deny"),
                    "what is denied gets no lifetime, names or path",
                    "remove deny or the other keys",
                );
            } else if empty
                && (all
                    || !config
                        .exception
                        .iter()
                        .any(|it| it.namespace == exception.namespace && it.service_account == "*"))
            {
                self.add(
                    format!("policy.exception[{n}]"),
                    "it changes nothing",
                    "give it ttl, max_ttl, dns_names, path or deny, or remove it",
                );
            }
        }
    }

    fn exception_lifetimes(
        &mut self,
        config: &Config,
        exception: &Exception,
        key: &dyn Fn(&str) -> String,
    ) {
        if let Some(ttl) = exception.ttl {
            self.range(&key("ttl"), ttl);
        }
        if let Some(max) = exception.max_ttl {
            self.range(&key("max_ttl"), max);
        }
        let max = exception.max_ttl.unwrap_or(config.max_ttl);
        if let Some(ttl) = exception.ttl
            && ttl > max
        {
            self.add(
                key("ttl"),
                format!("{ttl} is longer than the max_ttl that is valid here ({max})"),
                "make it shorter, or max_ttl longer",
            );
        }
    }

    fn dns_names(&mut self, exception: &Exception, key: &dyn Fn(&str) -> String) {
        if exception.dns_names.len() > MAX_DNS_NAMES {
            self.add(
                key("dns_names"),
                format!("more than {MAX_DNS_NAMES} names"),
                "name fewer",
            );
        }
        let mut seen = BTreeSet::new();
        for name in &exception.dns_names {
            if !is_dns_name(name) {
                self.add(
                    key("dns_names"),
                    format!("\"{name}\" is not a DNS name"),
                    "write it in lower case, without a dot at the end and without *",
                );
            } else if !seen.insert(name) {
                self.add(
                    key("dns_names"),
                    format!("\"{name}\" twice"),
                    "name it once",
                );
            }
        }
    }

    fn locals(&mut self, config: &Config, clusters: &[Cluster]) {
        for (n, local) in config.local.iter().enumerate() {
            let key = |name: &str| format!("policy.local[{n}].{name}");
            let static_path = !local.path.contains(['{', '}']);
            match Template::parse(&local.path) {
                Err(reason) => self.add(key("path"), reason, "write it as \"/local/web\""),
                Ok(_) if !static_path => self.add(
                    key("path"),
                    "a local process has no namespace or service account",
                    "write the path without braces",
                ),
                Ok(_) => {
                    if let Err(error) = SpiffeId::new(self.trust_domain, &local.path) {
                        self.add(key("path"), error.to_string(), "write it as \"/local/web\"");
                    }
                }
            }
            self.nodes(local, clusters, &key);
            self.selectors(local, &key, n);
            let earlier = config.local[..n]
                .iter()
                .position(|earlier| covers(earlier, local));
            if let Some(earlier) = earlier {
                self.add(
                    format!("policy.local[{n}]"),
                    format!("policy.local[{earlier}] fits whatever this one fits, so this one is never reached"),
                    "put the narrower one first, or remove one",
                );
            }
        }
    }

    fn nodes(&mut self, local: &Local, clusters: &[Cluster], key: &dyn Fn(&str) -> String) {
        if local.nodes.is_empty() {
            self.add(
                key("nodes"),
                "no node, so it is never used",
                "name nodes as \"<cluster>/<node>\", or \"<cluster>/*\"",
            );
        }
        for node in &local.nodes {
            match node.split_once('/') {
                Some((cluster, name)) if name == "*" || is_segment(name) => {
                    if !clusters.iter().any(|it| it.name == cluster) {
                        self.add(
                            key("nodes"),
                            format!("\"{node}\" is of a cluster that is not configured"),
                            "use the name of a [[cluster]]",
                        );
                    }
                }
                _ => self.add(
                    key("nodes"),
                    format!("\"{node}\" is not <cluster>/<node>"),
                    "write it as \"c1/node-1\", or \"c1/*\" for all of c1",
                ),
            }
        }
    }

    fn selectors(&mut self, local: &Local, key: &dyn Fn(&str) -> String, n: usize) {
        if local.uid.is_none()
            && local.gid.is_none()
            && local.executable.is_none()
            && local.executable_sha256.is_none()
        {
            self.add(
                format!("policy.local[{n}]"),
                "it has no selector, so every process would fit",
                "give at least one of uid, gid, executable, executable_sha256",
            );
        }
        if local
            .executable
            .as_ref()
            .is_some_and(|path| !Path::new(path).is_absolute())
        {
            self.add(key("executable"), "not an absolute path", "start it with /");
        }
        if local
            .executable_sha256
            .as_ref()
            .is_some_and(|hex| digest(hex).is_none())
        {
            self.add(
                key("executable_sha256"),
                "not a SHA-256",
                "give 64 hex digits, as sha256sum prints them",
            );
        }
    }
}

/// Whether `earlier` fits wherever `later` does.
fn covers(earlier: &Local, later: &Local) -> bool {
    fn wider<T: PartialEq>(earlier: &Option<T>, later: &Option<T>) -> bool {
        earlier.is_none() || earlier == later
    }
    let all_nodes = later.nodes.iter().all(|node| {
        earlier.nodes.iter().any(|other| {
            other == node
                || other
                    .strip_suffix('*')
                    .is_some_and(|cluster| cluster.ends_with('/') && node.starts_with(cluster))
        })
    });
    let hash = |local: &Local| local.executable_sha256.as_deref().map(digest);
    all_nodes
        && !later.nodes.is_empty()
        && wider(&earlier.uid, &later.uid)
        && wider(&earlier.gid, &later.gid)
        && wider(&earlier.executable, &later.executable)
        && wider(&hash(earlier), &hash(later))
}

/// The bytes of 64 hex digits.
pub(super) fn digest(hex: &str) -> Option<[u8; 32]> {
    if hex.len() != 64 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; 32];
    for (n, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[2 * n..2 * n + 2], 16).ok()?;
    }
    Some(bytes)
}

/// RFC 1123, 2.1, in lower case.
fn is_dns_name(name: &str) -> bool {
    name.len() <= 253
        && name.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        })
}
