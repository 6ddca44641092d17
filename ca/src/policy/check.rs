//! What can be wrong with a policy, found before anything stands on it.

use std::collections::BTreeSet;
use std::path::Path;

use arx_daemon::config::Span;
use arx_identity::{KeyAlgorithm, SpiffeId, TrustDomain};

use super::config::{Config, Exception, LONGEST_TTL, Local, SHORTEST_TTL};
use super::template::{Place, Template};
use crate::token::{Cluster, is_segment};

/// More names than a certificate should carry.
const MAX_DNS_NAMES: usize = 32;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) key: String,
    pub(super) reason: String,
    pub(super) remedy: &'static str,
}

/// Everything that is wrong.
pub(super) fn faults(
    config: &Config,
    trust_domain: &TrustDomain,
    clusters: &[Cluster],
) -> Vec<Fault> {
    let mut check = Check {
        faults: Vec::new(),
        trust_domain,
    };
    check.general(config);
    check.exceptions(config);
    check.locals(config, clusters);
    check.faults
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
                "give uid or gid, and perhaps executable and executable_sha256 beside it",
            );
        } else if local.uid.is_none() && local.gid.is_none() {
            // Whoever may run the program can make it do something else: by LD_PRELOAD, by
            // ptrace, or, if it is an interpreter, by asking.
            self.add(
                format!("policy.local[{n}]"),
                "it goes by the executable alone, which any user of the node may run, and make do as they like",
                "give uid or gid beside it",
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
pub(crate) fn is_dns_name(name: &str) -> bool {
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
