//! `[[cluster]]`: whose service-account tokens are accepted, and how they are verified.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use arx_daemon::config::{Problems, Span};
use http::Uri;
use serde::Deserialize;

use super::jwks::{KeySet, MAX_SET};
use super::source;

/// What an audience ends with if its tokens are for joining.
pub(super) const JOIN_SUFFIX: &str = "/join";

/// Labels that are kept of each pod.
const MOST_LABELS: usize = 8;

/// One `[[cluster]]` of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// What the cluster is called here: in SPIFFE ids of nodes, in logs, by agents.
    pub name: String,
    /// `iss` of its tokens.
    pub issuer: String,
    /// Audiences of workload tokens; those for joining have `/join` after one of these.
    pub audiences: Vec<String>,
    /// Service accounts whose tokens may join, as `<namespace>/<name>`.
    pub agents: Vec<String>,
    /// Who verifies.
    #[serde(default)]
    pub verification: Verification,
    /// Local: the issuer's public keys. Without it they come from the discovery documents.
    pub jwks_file: Option<PathBuf>,
    /// Local: where the discovery documents are, if not below the issuer.
    pub discovery_url: Option<String>,
    /// Local: roots for the TLS of discovery (PEM); the system's if absent.
    pub ca_file: Option<PathBuf>,
    /// Local: the bearer token for discovery.
    pub token_file: Option<PathBuf>,
    /// Local: how long keys are used after they could last be read.
    #[serde(default = "hour")]
    pub stale_grace: Span,
    /// Local: keys are not fetched more often than this.
    #[serde(default = "ten_seconds")]
    pub refetch_interval: Span,
    /// Whether tokens that are not bound to a pod are accepted.
    #[serde(default)]
    pub allow_unbound: bool,
    /// Whether tokens with an extended lifetime (`warnafter`) are accepted.
    #[serde(default)]
    pub allow_extended: bool,
    /// How to reach the API server, for reviews and for watching pods; the pod's own service
    /// account if absent.
    pub kubeconfig: Option<PathBuf>,
    /// Whether the cluster's pods are watched, so that a token counts while its pod is there. If
    /// absent, they are where tokens are verified with keys and a kubeconfig is given, or some are
    /// reviewed.
    pub watch_pods: Option<bool>,
    /// Labels of pods that are kept with what else is known of them.
    #[serde(default)]
    pub pod_labels: Vec<String>,
    /// Whether refusals are told as Events on the pods that they are about, where these are
    /// watched.
    #[serde(default = "yes")]
    pub pod_events: bool,
    /// How long pods that are known count after the API server was last heard.
    #[serde(default = "hour")]
    pub pod_grace: Span,
    /// The CSIDriver object of its agents' pod sockets: `arx check --kube` looks at it.
    pub csi_driver: Option<String>,
}

/// Who verifies a cluster's tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verification {
    /// The authority itself, with the issuer's public keys.
    #[default]
    Local,
    /// The API server, asked about every token (TokenReview).
    Review,
    /// The API server about tokens for joining, and the authority itself about others.
    LocalThenReview,
}

fn yes() -> bool {
    true
}

fn hour() -> Span {
    Span::from_secs(3600)
}

fn ten_seconds() -> Span {
    Span::from_secs(10)
}

impl Cluster {
    /// Whether its pods are watched.
    pub(crate) fn watches_pods(&self) -> bool {
        self.watch_pods.unwrap_or(match self.verification {
            Verification::Local => self.kubeconfig.is_some(),
            Verification::Review => false,
            Verification::LocalThenReview => true,
        })
    }

    /// Whether any of its tokens are reviewed.
    pub(crate) fn reviews(&self) -> bool {
        self.verification != Verification::Local
    }

    /// Where the discovery documents are.
    pub(super) fn discovery_base(&self) -> &str {
        self.discovery_url.as_deref().unwrap_or(&self.issuer)
    }
}

/// Notes everything that is wrong with the clusters, files that they name included.
pub fn problems(clusters: &[Cluster], problems: &mut Problems<'_>) {
    if clusters.is_empty() {
        problems.add(
            "cluster",
            "no cluster is configured, so nobody could prove who they are",
            "add a [[cluster]] with name, issuer, audiences and agents",
        );
    }
    let mut names = BTreeSet::new();
    for (n, cluster) in clusters.iter().enumerate() {
        let key = |name: &str| format!("cluster[{n}].{name}");
        if !names.insert(&cluster.name) {
            problems.add(
                &key("name"),
                format!("another cluster is called \"{}\" too", cluster.name),
                "give each cluster a name of its own",
            );
        }
        if let Some(other) = clusters[..n].iter().find(|it| it.issuer == cluster.issuer) {
            problems.add(
                &key("issuer"),
                format!(
                    "cluster \"{}\" has the same issuer, so which of the two a token is of could not be told",
                    other.name
                ),
                "give each API server an issuer of its own (--service-account-issuer), and name that",
            );
        }
        let mut check = Check {
            cluster,
            key: &key,
            problems,
        };
        check.names();
        check.audiences();
        check.agents();
        check.times();
        check.sources();
        check.labels();
    }
}

/// Whether `text` can be a segment of a SPIFFE id's path (SPIFFE-ID, 2.2).
pub(crate) fn is_segment(text: &str) -> bool {
    !matches!(text, "" | "." | "..")
        && text.len() <= 253
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
}

struct Check<'a, 'p, 'f> {
    cluster: &'a Cluster,
    key: &'a dyn Fn(&str) -> String,
    problems: &'p mut Problems<'f>,
}

impl Check<'_, '_, '_> {
    fn add(&mut self, name: &str, reason: impl Into<String>, remedy: impl Into<String>) {
        self.problems.add(&(self.key)(name), reason, remedy);
    }

    fn names(&mut self) {
        if !is_segment(&self.cluster.name) {
            self.add(
                "name",
                "not a name that can stand in a SPIFFE id",
                "use letters, digits, . - _ and at most 253 of them",
            );
        }
        if let Some(driver) = &self.cluster.csi_driver
            && !is_segment(driver)
        {
            self.add(
                "csi_driver",
                format!("\"{driver}\" can't be the name of an object"),
                "name the CSIDriver object, such as csi.arx.dev",
            );
        }
        if self.cluster.issuer.is_empty() {
            self.add("issuer", "empty", "give the iss of the cluster's tokens");
        }
    }

    fn audiences(&mut self) {
        if self.cluster.audiences.is_empty() {
            self.add(
                "audiences",
                "no audience, so no token could be accepted",
                "name the audience that workloads project their tokens with, such as \"arx\"",
            );
        }
        let mut seen = BTreeSet::new();
        for audience in &self.cluster.audiences {
            if audience.is_empty() {
                self.add("audiences", "an audience is empty", "remove it");
            } else if audience.ends_with(JOIN_SUFFIX) {
                self.add(
                    "audiences",
                    format!("\"{audience}\" ends with {JOIN_SUFFIX}, which is added to mean tokens for joining"),
                    "name the audience without it",
                );
            } else if !seen.insert(audience) {
                self.add("audiences", format!("\"{audience}\" twice"), "name it once");
            }
        }
    }

    fn agents(&mut self) {
        if self.cluster.agents.is_empty() {
            self.add(
                "agents",
                "nobody may join, so the cluster could have no node",
                "name the node agents' service account, such as \"arx-system/arx-node-agent\"",
            );
        }
        let mut seen = BTreeSet::new();
        for agent in &self.cluster.agents {
            let sound = agent
                .split_once('/')
                .is_some_and(|(namespace, name)| is_segment(namespace) && is_segment(name));
            if !sound {
                self.add(
                    "agents",
                    format!("\"{agent}\" is not <namespace>/<service account>"),
                    "write it as \"arx-system/arx-node-agent\"; each one is named, * is not allowed",
                );
            } else if !seen.insert(agent) {
                self.add("agents", format!("\"{agent}\" twice"), "name it once");
            }
        }
    }

    fn times(&mut self) {
        let (grace, interval) = (self.cluster.stale_grace, self.cluster.refetch_interval);
        if interval.get() < Duration::from_secs(1) {
            self.add(
                "refetch_interval",
                format!(
                    "{interval} would let strangers make the authority fetch keys all the time"
                ),
                "use 1s or more",
            );
        }
        if grace.get() < 2 * interval.get() {
            self.add(
                "stale_grace",
                format!("{grace} is less than two refetch intervals ({interval}): keys would run out between two fetches"),
                "make it longer, such as \"1h\"",
            );
        }
        if self.cluster.pod_grace.get() > Duration::from_secs(7 * 86_400) {
            self.add(
                "pod_grace",
                format!(
                    "{}: a pod that was deleted would count as long",
                    self.cluster.pod_grace
                ),
                "use 7d or less",
            );
        }
        if grace.get() > Duration::from_secs(7 * 86_400) {
            self.add(
                "stale_grace",
                format!("{grace}: a key that the cluster has withdrawn would be trusted as long"),
                "use 7d or less",
            );
        }
    }

    fn labels(&mut self) {
        let labels = &self.cluster.pod_labels;
        if !labels.is_empty() && !self.cluster.watches_pods() {
            self.add(
                "pod_labels",
                "the pods of this cluster are not watched",
                "remove it, or set watch_pods = true",
            );
        }
        if labels.len() > MOST_LABELS {
            self.add(
                "pod_labels",
                format!("{} labels would be kept of every pod", labels.len()),
                format!("name at most {MOST_LABELS}"),
            );
        }
        let mut seen = BTreeSet::new();
        for label in labels {
            if label.is_empty() {
                self.add("pod_labels", "a label is empty", "remove it");
            } else if !seen.insert(label) {
                self.add("pod_labels", format!("\"{label}\" twice"), "name it once");
            }
        }
    }

    fn sources(&mut self) {
        let cluster = self.cluster;
        let local = cluster.verification != Verification::Review;
        let asked = cluster.reviews() || cluster.watches_pods() || cluster.csi_driver.is_some();
        let discovery = local && cluster.jwks_file.is_none();
        let given = [
            ("jwks_file", cluster.jwks_file.is_some(), local),
            ("discovery_url", cluster.discovery_url.is_some(), discovery),
            ("ca_file", cluster.ca_file.is_some(), discovery),
            ("token_file", cluster.token_file.is_some(), discovery),
            ("kubeconfig", cluster.kubeconfig.is_some(), asked),
        ];
        for (name, given, used) in given {
            if given && !used {
                let by = match (local, cluster.jwks_file.is_some()) {
                    (false, _) => "verification = \"review\"",
                    (true, true) if name != "kubeconfig" => "a jwks_file",
                    (true, _) => "verification = \"local\" and watch_pods = false",
                };
                self.add(name, format!("not used with {by}"), "remove one of the two");
            }
        }
        if discovery {
            let name = if cluster.discovery_url.is_some() {
                "discovery_url"
            } else {
                "issuer"
            };
            if let Err(reason) = base_url(cluster.discovery_base()) {
                self.add(
                    name,
                    reason,
                    "give an https URL, or the keys by jwks_file (plain http is allowed on loopback only)",
                );
            }
        }
        for (name, path) in [
            ("ca_file", &cluster.ca_file),
            ("token_file", &cluster.token_file),
            ("kubeconfig", &cluster.kubeconfig),
        ] {
            if let Some(Err(error)) = path.as_ref().map(|path| readable(path)) {
                self.add(
                    name,
                    error,
                    "correct the path, or give this process the right to read it",
                );
            }
        }
        if let Some(path) = &cluster.jwks_file {
            let set = source::read_file(path, MAX_SET).and_then(|json| KeySet::parse(&json));
            if let Err(error) = set {
                self.add(
                    "jwks_file",
                    format!("{}: {error}", path.display()),
                    "save the answer of the cluster's /openid/v1/jwks in it",
                );
            }
        }
    }
}

fn readable(path: &Path) -> Result<(), String> {
    match std::fs::metadata(path) {
        Ok(found) if !found.is_file() => Err(format!("{}: not a regular file", path.display())),
        Ok(_) => std::fs::File::open(path)
            .map(drop)
            .map_err(|error| format!("{}: {error}", path.display())),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

/// `text` as a URL below which documents may be fetched: https, or http to this machine.
pub(super) fn base_url(text: &str) -> Result<Uri, &'static str> {
    let url: Uri = text.parse().map_err(|_| "not a URL")?;
    let host = url.host().ok_or("not a URL with scheme and host")?;
    if url.query().is_some() {
        return Err("a URL with a query");
    }
    if url.authority().is_some_and(|it| it.as_str().contains('@')) {
        return Err("a URL with a user name");
    }
    let loopback = || {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        bare.parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
    };
    match url.scheme_str() {
        Some("https") => Ok(url),
        Some("http") if loopback() => Ok(url),
        _ => Err("neither https nor http to a loopback address"),
    }
}
