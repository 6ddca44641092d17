//! The agent's configuration: one TOML file, refused as a whole if anything in it can't
//! work.

mod host;
mod pods;

use crate::attest::ServiceAccountToken;
use arx_daemon::config::{ConfigError, File, Problems, Span, from_text};
use arx_daemon::files::LONGEST_SOCKET_PATH;
use arx_daemon::log;
use arx_identity::{KeyAlgorithm, Sequence, SpiffeId, TrustBundle, TrustDomain};
use serde::{Deserialize, Deserializer, de};
use std::net::{Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Shorter certificates would be renewed without a pause.
const SHORTEST_TTL: Duration = Duration::from_secs(5);
/// Names are looked up one after another.
const MOST_ADDRESSES: usize = 16;

/// Everything that an agent is told.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The trust domain of this node and its workloads, such as `example.org`.
    #[serde(deserialize_with = "from_text")]
    pub trust_domain: TrustDomain,
    /// Which cluster the node belongs to, as the authority calls it.
    pub cluster: String,
    /// The node's name in the cluster; as the agent's own token has it, if absent.
    #[serde(default)]
    pub node: String,
    /// How to reach and to trust the authority.
    pub authority: Authority,
    /// Where proxies connect.
    pub socket: Socket,
    /// Sockets for single pods, which the kubelet asks for; none if absent.
    pub pod_sockets: Option<PodSockets>,
    /// The names of the secrets.
    #[serde(default)]
    pub names: Names,
    /// Who may ask, and how that is found out.
    #[serde(default)]
    pub attestation: Attestation,
    /// What is asked of the authority.
    #[serde(default)]
    pub certificates: Certificates,
    /// What survives a restart.
    pub state: State,
    /// The operator's port.
    #[serde(default)]
    pub ops: Ops,
    /// What is logged, and how.
    #[serde(default)]
    pub log: log::Options,
}

/// `[authority]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Authority {
    /// `host:port`. The name is only looked up, anew before each connection, and may have several
    /// addresses, one for each replica: who answers is proved by its SPIFFE id.
    #[serde(default)]
    pub address: String,
    /// The same for replicas without a common name.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// PEM roots that are trusted from the start; read again at each connect.
    pub bundle_file: PathBuf,
    /// The agent's own service-account token, to join with; read again at each join.
    pub token_file: PathBuf,
    /// How long connecting may take.
    #[serde(default = "five_seconds")]
    pub connect_timeout: Span,
    /// How long the authority may take to answer a call.
    #[serde(default = "twenty_seconds")]
    pub call_timeout: Span,
    /// Upper end of the waits between attempts to connect.
    #[serde(default = "thirty_seconds")]
    pub longest_retry: Span,
    /// An agent that is not where it belongs by its node's name tries to go there at a random
    /// moment between this and twice this.
    #[serde(default = "five_minutes")]
    pub rebalance: Span,
}

impl Authority {
    /// Every name that may lead to a replica.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let one = (!self.address.is_empty()).then_some(self.address.as_str());
        one.into_iter()
            .chain(self.addresses.iter().map(String::as_str))
    }
}

/// `[socket]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Socket {
    /// Path of the Unix socket, at most 107 bytes.
    pub path: PathBuf,
    /// Its permissions, octal. Everyone may connect by default: what a peer gets is
    /// decided by who it is.
    #[serde(default)]
    pub mode: Mode,
    /// Connections at a time; further ones wait. Each may make the agent hold 256 KiB, its
    /// streams included.
    #[serde(default = "many_connections")]
    pub max_connections: usize,
}

/// `[pod_sockets]`: the driver of volumes with a pod's own socket in them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PodSockets {
    /// Name of the CSIDriver object.
    pub driver: String,
    /// Whose token is taken of those that the CSIDriver object requests; the only one if absent.
    pub audience: Option<String>,
    /// The kubelet's `--root-dir`, under the same path as the kubelet sees it.
    pub kubelet_root: PathBuf,
    /// Where the pods' sockets are kept. It has to last longer than the agent, and need not last
    /// longer than the machine runs.
    pub directory: PathBuf,
    /// Connections of one pod at a time; further ones wait.
    pub max_connections: usize,
}

impl PodSockets {
    /// Where the kubelet calls the driver.
    #[must_use]
    pub fn endpoint(&self) -> PathBuf {
        let plugins = self.kubelet_root.join("plugins");
        plugins.join(&self.driver).join("csi.sock")
    }

    /// Where the kubelet finds it.
    #[must_use]
    pub fn registration(&self) -> PathBuf {
        let registry = self.kubelet_root.join("plugins_registry");
        registry.join(format!("{}-reg.sock", self.driver))
    }
}

/// Permissions of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode(pub u32);

/// `[names]`: what the secrets are called, beside the SPIFFE id (the caller's own
/// certificate) and the trust domain's id (its roots), which are always there.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Names {
    /// The caller's own certificate and key.
    pub certificate: String,
    /// The roots of the trust domain.
    pub trust: String,
    /// The roots of every known trust domain, for the SPIFFE validator.
    pub all: String,
}

/// `[attestation]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Attestation {
    /// In order of precedence; a stream without what an attestor needs goes to the next.
    pub attestors: Vec<Attestor>,
    /// The control group below which the kubelet keeps its own, as `/proc/PID/cgroup` shows it.
    pub cgroup_root: String,
    /// Whether `local` also takes the SHA-256 of the executable.
    pub hash_executables: bool,
    /// For how long an identity is kept alive after its last stream has closed.
    pub linger: Span,
}

/// One way to find out who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Attestor {
    /// A service-account token in the stream's metadata.
    Token,
    /// The pod of the process, by its control groups.
    Process,
    /// User, group and executable of the process.
    Local,
}

/// `[certificates]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Certificates {
    /// Kind of the workloads' keys.
    #[serde(deserialize_with = "from_text")]
    pub key: KeyAlgorithm,
    /// Lifetime to ask for; the authority's default if absent.
    pub ttl: Option<Span>,
}

/// `[state]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Where the sealed cache is kept. One agent per directory.
    pub directory: PathBuf,
    /// Key of the sealed cache. On a tmpfs (the default) the cache ends with the boot; on
    /// a disk a rebooted node serves without the authority.
    #[serde(default = "cache_key")]
    pub cache_key_file: PathBuf,
}

/// `[ops]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ops {
    /// Where `/livez`, `/readyz` and `/metrics` are served.
    pub address: SocketAddr,
}

impl Config {
    /// Reads the file and checks it.
    ///
    /// # Errors
    /// Everything that is wrong with it, with lines and remedies.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::read(&File::read(path)?)
    }

    /// What [`Config::load`] leaves to the start, which goes on without it: whether the node
    /// could join.
    ///
    /// # Errors
    /// Everything that is wrong, with lines and remedies.
    pub fn check(path: &Path) -> Result<Self, ConfigError> {
        let file = File::read(path)?;
        let config = Self::read(&file)?;
        let mut problems = file.problems();
        host::joining(&config, &mut problems);
        problems.finish()?;
        Ok(config)
    }

    pub(crate) fn read(file: &File) -> Result<Self, ConfigError> {
        let mut config: Self = file.parse()?;
        let mut problems = file.problems();
        if config.node.is_empty() {
            config.node = config.node_of_token().unwrap_or_default();
        }
        host::places(&config, &mut problems);
        config.check_names(&mut problems);
        config.check_authority(&mut problems);
        config.check_paths(&mut problems);
        config.check_values(&mut problems);
        if let Some(pods) = &config.pod_sockets {
            pods.check(&mut problems);
        }
        problems.finish()?;
        Ok(config)
    }

    /// The node that the agent's token is bound to: nothing is believed by it, for the authority
    /// verifies that token and names the node itself.
    fn node_of_token(&self) -> Option<String> {
        host::node_of(self.join_token().ok()?.secret())
    }

    fn check_names(&self, problems: &mut Problems<'_>) {
        if self.node.is_empty() {
            problems.add(
                "node",
                "not given, and the token in authority.token_file names none",
                "name the node as its cluster does, or project a token that is bound to the agent's pod",
            );
        }
        let node = Some(("node", &self.node)).filter(|(_, name)| !name.is_empty());
        for (key, name) in node.into_iter().chain([("cluster", &self.cluster)]) {
            let fits = !name.contains('/')
                && SpiffeId::new(&self.trust_domain, &format!("/arx/node/{name}")).is_ok();
            if !fits {
                problems.add(
                    key,
                    format!("{name:?} cannot be a part of a SPIFFE id"),
                    "use letters, digits, dots, dashes and underscores",
                );
            }
        }
        let names = [
            ("names.certificate", &self.names.certificate),
            ("names.trust", &self.names.trust),
            ("names.all", &self.names.all),
        ];
        for (n, (key, name)) in names.iter().enumerate() {
            if name.is_empty() || name.starts_with("spiffe://") {
                problems.add(key, "empty, or a SPIFFE id", "choose a plain name");
            } else if names[..n].iter().any(|(_, other)| other == name) {
                problems.add(key, "used for another secret", "choose a name of its own");
            }
        }
    }

    fn check_authority(&self, problems: &mut Problems<'_>) {
        let authority = &self.authority;
        let several = !authority.addresses.is_empty();
        if several && !authority.address.is_empty() {
            problems.add(
                "authority.address",
                "given, and authority.addresses too",
                "put all into authority.addresses",
            );
        }
        if authority.addresses.len() > MOST_ADDRESSES {
            problems.add(
                "authority.addresses",
                format!("more than {MOST_ADDRESSES}"),
                "give one name that has several addresses as authority.address",
            );
        }
        let key = if several {
            "authority.addresses"
        } else {
            "authority.address"
        };
        let one = (!several).then_some(authority.address.as_str());
        for name in one.into_iter().chain(authority.names().filter(|_| several)) {
            if let Err(reason) = host_and_port(name) {
                problems.add(key, reason, "write it as ca.arx.svc:8443 or [::1]:8443");
            }
        }
        if let Err(reason) = self.bootstrap_bundle() {
            problems.add(
                "authority.bundle_file",
                format!("{}: {reason}", self.authority.bundle_file.display()),
                "write the trust domain's roots in PEM into it",
            );
        }
        if let Err(reason) = self.join_token() {
            problems.add(
                "authority.token_file",
                format!("{}: {reason}", self.authority.token_file.display()),
                "project a service-account token with the authority's join audience",
            );
        }
    }

    fn check_paths(&self, problems: &mut Problems<'_>) {
        let length = self.socket.path.as_os_str().as_bytes().len();
        if length > LONGEST_SOCKET_PATH {
            problems.add(
                "socket.path",
                format!("{length} bytes long, {LONGEST_SOCKET_PATH} are possible"),
                "choose a shorter path",
            );
        }
        for (key, path) in [
            ("socket.path", &self.socket.path),
            ("state.directory", &self.state.directory),
            ("state.cache_key_file", &self.state.cache_key_file),
        ] {
            if !path.is_absolute() || path.file_name().is_none() {
                problems.add(key, "not an absolute path", "begin it with a slash");
            }
        }
    }

    fn check_values(&self, problems: &mut Problems<'_>) {
        if self.attestation.attestors.is_empty() {
            let remedy = "name at least one of \"token\", \"process\" and \"local\"";
            problems.add(
                "attestation.attestors",
                "nobody could ever be served",
                remedy,
            );
        }
        let attestors = &self.attestation.attestors;
        let reached = attestors
            .iter()
            .position(|it| *it == Attestor::Local)
            .map_or(attestors.len(), |local| local + 1);
        let twice = (1..attestors.len()).any(|n| attestors[..n].contains(&attestors[n]));
        if reached < attestors.len() || twice {
            problems.add(
                "attestation.attestors",
                "what stands after \"local\", or a second time, would never be asked",
                "name each once, \"local\" last: it has an answer for every process",
            );
        }
        if !self.attestation.cgroup_root.starts_with('/') {
            problems.add(
                "attestation.cgroup_root",
                "not an absolute path",
                "begin it with a slash, as /proc/PID/cgroup does",
            );
        }
        if self
            .certificates
            .ttl
            .is_some_and(|ttl| ttl.get() < SHORTEST_TTL)
        {
            problems.add(
                "certificates.ttl",
                "would be renewed without a pause",
                "give at least 5s, or leave it out",
            );
        }
        if self.socket.max_connections == 0 {
            problems.add(
                "socket.max_connections",
                "nobody could connect",
                "give at least 1",
            );
        }
        for (key, span) in [
            ("authority.connect_timeout", self.authority.connect_timeout),
            ("authority.call_timeout", self.authority.call_timeout),
            ("authority.longest_retry", self.authority.longest_retry),
            ("authority.rebalance", self.authority.rebalance),
        ] {
            if span.is_zero() {
                problems.add(key, "no time at all", "give at least 1s");
            }
        }
    }

    /// The roots to begin with, as the file has them now.
    ///
    /// # Errors
    /// Why they can't be had, for people.
    pub fn bootstrap_bundle(&self) -> Result<TrustBundle, String> {
        let path = &self.authority.bundle_file;
        let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
        // Older than whatever the authority publishes.
        let sequence = Sequence {
            epoch: 0,
            number: 0,
        };
        TrustBundle::from_pem(self.trust_domain.clone(), sequence, &text)
            .map_err(|error| error.to_string())
    }

    /// The agent's own token, as the file has it now.
    ///
    /// # Errors
    /// Why it can't be had, for people; the token is not in it.
    pub fn join_token(&self) -> Result<ServiceAccountToken, String> {
        let path = &self.authority.token_file;
        let text = std::fs::read(path).map(zeroize::Zeroizing::new);
        let text = text.map_err(|error| error.to_string())?;
        let text = std::str::from_utf8(&text).map_err(|_| "not text".to_owned())?;
        ServiceAccountToken::new(text).map_err(|error| error.to_string())
    }
}

impl Default for Names {
    fn default() -> Self {
        Self {
            certificate: "default".into(),
            trust: "ROOTCA".into(),
            all: "ALL".into(),
        }
    }
}

impl Default for Attestation {
    fn default() -> Self {
        Self {
            attestors: vec![Attestor::Token, Attestor::Local],
            cgroup_root: "/".to_owned(),
            hash_executables: false,
            linger: Span::from_secs(600),
        }
    }
}

impl Default for PodSockets {
    fn default() -> Self {
        Self {
            driver: "csi.arx.dev".to_owned(),
            audience: None,
            kubelet_root: "/var/lib/kubelet".into(),
            directory: "/run/arx-node-agent/pods".into(),
            max_connections: 32,
        }
    }
}

impl Default for Certificates {
    fn default() -> Self {
        Self {
            key: KeyAlgorithm::EcdsaP256,
            ttl: None,
        }
    }
}

impl Default for Ops {
    fn default() -> Self {
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], 9_902)),
        }
    }
}

impl Default for Mode {
    fn default() -> Self {
        Self(0o666)
    }
}

impl<'de> Deserialize<'de> for Mode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match u32::from_str_radix(&text, 8) {
            Ok(mode) if mode <= 0o777 && mode & 0o200 != 0 => Ok(Self(mode)),
            _ => Err(de::Error::custom(
                "not permissions that let anybody connect; write them in octal, such as \"0660\"",
            )),
        }
    }
}

/// Whether `address` is one that can be looked up and connected to.
fn host_and_port(address: &str) -> Result<(), &'static str> {
    if address.contains("://") {
        return Err("a URL, and only host:port is wanted: the connection is always TLS");
    }
    let (host, port) = address.rsplit_once(':').ok_or("not host:port")?;
    let bare = host.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
    let sound = match bare {
        Some(bare) => bare.parse::<Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty() && !host.contains(|c: char| "/:[]@".contains(c) || c.is_whitespace())
        }
    };
    match port.parse::<u16>() {
        Ok(0) => Err("nobody listens on port 0"),
        Ok(_) if sound => Ok(()),
        _ => Err("not host:port"),
    }
}

fn five_seconds() -> Span {
    Span::from_secs(5)
}

fn twenty_seconds() -> Span {
    Span::from_secs(20)
}

fn thirty_seconds() -> Span {
    Span::from_secs(30)
}

fn five_minutes() -> Span {
    Span::from_secs(300)
}

fn many_connections() -> usize {
    1024
}

fn cache_key() -> PathBuf {
    "/run/arx-node-agent/cache.key".into()
}

#[cfg(test)]
pub(crate) mod tests;
