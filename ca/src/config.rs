//! The authority's configuration: one TOML file, refused as a whole if anything in it
//! can't work.

mod announce;
mod host;
mod upstream;

use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use arx_daemon::config::{ByteSize, ConfigError, File, Problems, Span, from_text, secret_file};
use arx_daemon::files::LONGEST_SOCKET_PATH;
use arx_daemon::log;
use arx_identity::{KeyAlgorithm, TrustDomain};
use serde::Deserialize;

pub use upstream::{Arx, Upstream};

use crate::authority;
use crate::nested;
use crate::page;
use crate::policy;
use crate::publish;
use crate::rotation;
use crate::signer::options::{Custody, Outside, Pkcs11, Socket};
use crate::sink;
use crate::state;
use crate::store;
use crate::token;

/// Everything that an authority is told.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The trust domain that it is the authority of, such as `example.org`.
    #[serde(deserialize_with = "from_text")]
    pub trust_domain: TrustDomain,
    /// What this replica is called; by default a random name that the store keeps.
    pub replica: Option<String>,
    /// What is logged, and how.
    #[serde(default)]
    pub log: log::Options,
    /// The operator's port.
    #[serde(default)]
    pub ops: Ops,
    /// The status page.
    #[serde(default)]
    pub page: page::Options,
    /// Where agents connect.
    pub node_api: NodeApi,
    /// Where `arx` connects.
    pub admin: Admin,
    /// Where state is kept.
    pub state: State,
    /// The root and what is signed under it.
    #[serde(default)]
    pub authority: Authority,
    /// How the root is replaced, where nobody says otherwise.
    #[serde(default)]
    pub rotation: Rotation,
    /// Which authorities may stand below this one.
    #[serde(default)]
    pub nested: Vec<nested::Config>,
    /// The record of all that was issued.
    #[serde(default)]
    pub ledger: Ledger,
    /// Who gets which identity.
    #[serde(default)]
    pub policy: policy::Config,
    /// The clusters whose service-account tokens count.
    #[serde(default, rename = "cluster")]
    pub clusters: Vec<token::Cluster>,
    /// Where in clusters the roots are written.
    #[serde(default)]
    pub publish: Vec<publish::Options>,
}

/// `[ops]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ops {
    /// Where `/livez`, `/readyz` and `/metrics` are served, and the status page unless it is
    /// elsewhere.
    pub address: SocketAddr,
}

/// `[node_api]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeApi {
    /// Where agents connect.
    pub address: SocketAddr,
    /// Where other replicas reach this one, host and port; `{replica}` in it is its name.
    pub announce: Option<String>,
    /// Connections at a time; further ones wait.
    #[serde(default = "many")]
    pub max_connections: usize,
    /// Items that may wait to be signed; beyond them the last in order is turned away.
    #[serde(default = "queue")]
    pub queue: usize,
    /// How long calls may go on after the end was asked for.
    #[serde(default = "ten_seconds")]
    pub drain: Span,
}

/// `[admin]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    /// Path of the Unix socket, at most 107 bytes.
    pub socket: PathBuf,
}

/// `[state]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Holds the ledger, and `state.redb` unless state is kept elsewhere.
    pub directory: PathBuf,
    /// State is kept in etcd.
    pub etcd: Option<store::EtcdOptions>,
    /// State is kept in Secrets of Kubernetes.
    pub kubernetes: Option<store::KubernetesOptions>,
    /// The key that secrets are sealed with at rest.
    pub seal_key_file: Option<PathBuf>,
    /// `none`: secrets lie in plain text in the state file.
    pub seal: Option<Unsealed>,
    /// How long the first agents of a restored authority are waited for after enough of them
    /// have come: others may know better.
    #[serde(default = "half_a_minute")]
    pub restore_settle: Span,
}

/// The only way to say that secrets are not sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unsealed {
    /// Not sealed.
    None,
}

/// `[authority]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Authority {
    /// Kind of the root's key, if the root is made here.
    #[serde(deserialize_with = "from_text")]
    pub root_key: KeyAlgorithm,
    /// Lifetime of the root, if it is made here.
    pub root_ttl: Span,
    /// Whether a root that is made here is replaced by itself in time.
    pub root_renewal: RootRenewal,
    /// How long before its end; by default when a third of its life is left.
    pub root_renewal_lead: Option<Span>,
    /// Lifetime of the intermediate that signs leaves.
    pub intermediate_ttl: Span,
    /// Lifetime of the certificate that agents see.
    pub serving_ttl: Span,
    /// The operator's own root, or an intermediate followed by its chain.
    pub certificate_file: Option<PathBuf>,
    /// The key that belongs to it, unless that is in another place.
    pub key_file: Option<PathBuf>,
    /// Where the key of a root is to be that is made here; by default in the place that is
    /// described, or else in the state.
    pub root_custody: Option<Custody>,
    /// A token that holds keys.
    pub pkcs11: Option<Pkcs11>,
    /// A service that signs by keys of its own.
    pub signer: Option<Socket>,
    /// The set that was in use before, to start by while another follows it.
    pub previous_certificate_file: Option<PathBuf>,
    /// The key that belongs to that.
    pub previous_key_file: Option<PathBuf>,
    /// How often these files are looked at.
    pub files_interval: Span,
    /// `offline`: the root's key is with a CA outside, and an operator has certificates signed.
    pub root: Option<Elsewhere>,
    /// Another CA, which is asked for certificates.
    pub upstream: Option<Upstream>,
}

/// Where the root's key is, if it is neither here nor in files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Elsewhere {
    /// With a CA that this process does not reach.
    Offline,
}

/// Who begins the rotation to another root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RootRenewal {
    /// The authority, in time.
    Auto,
    /// The operator.
    Manual,
}

/// `[rotation]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rotation {
    /// Over which renewals are spread; by default half of `policy.ttl`.
    pub window: Option<Span>,
    /// How long each gate stays shut after its last confirmation.
    pub dwell: Span,
    /// Whether what is issued under the new root carries its cross-certificate by the old one.
    pub cross_certificate: bool,
}

/// `[ledger]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ledger {
    /// How long records are kept; those of valid certificates always are.
    pub retention: Span,
    /// Size at which a new segment begins.
    pub segment_size: ByteSize,
    /// How long a commit waits for more records while other calls are in flight.
    pub gather: Span,
    /// Where the records are written as lines of JSON, to be gathered: a file, `unix:/PATH` or
    /// `tcp:HOST:PORT`.
    #[serde(deserialize_with = "optional_target")]
    pub sink: Option<sink::Target>,
}

fn optional_target<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<sink::Target>, D::Error> {
    from_text(deserializer).map(Some)
}

impl Default for Ops {
    fn default() -> Self {
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], 9901)),
        }
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self {
            root_key: KeyAlgorithm::EcdsaP256,
            root_ttl: days(3650),
            root_renewal: RootRenewal::Auto,
            root_renewal_lead: None,
            intermediate_ttl: days(7),
            serving_ttl: days(1),
            certificate_file: None,
            key_file: None,
            root_custody: None,
            pkcs11: None,
            signer: None,
            previous_certificate_file: None,
            previous_key_file: None,
            files_interval: Span::from_secs(60),
            root: None,
            upstream: None,
        }
    }
}

impl Default for Rotation {
    fn default() -> Self {
        Self {
            window: None,
            dwell: Span::from_secs(15),
            cross_certificate: true,
        }
    }
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            retention: days(90),
            segment_size: ByteSize::from_bytes(64 * 1024 * 1024),
            gather: Span::from_millis(1),
            sink: None,
        }
    }
}

const fn days(days: u64) -> Span {
    Span::from_secs(days * 86_400)
}

fn many() -> usize {
    10_000
}

fn queue() -> usize {
    10_000
}

fn half_a_minute() -> Span {
    Span::from_secs(30)
}

fn ten_seconds() -> Span {
    Span::from_secs(10)
}

fn check_deadline(setting: &'static str, deadline: Duration, problems: &mut Problems<'_>) {
    if !(Duration::from_secs(1)..=Duration::from_secs(300)).contains(&deadline) {
        problems.add(setting, "not between 1s and 5m", "leave it out for 10s");
    }
}

impl Authority {
    /// Where keys are that are neither in the state nor in a file.
    fn outside(&self) -> Outside {
        let described = match (&self.pkcs11, &self.signer) {
            (Some(_), _) => Custody::Pkcs11,
            (None, Some(_)) => Custody::Signer,
            (None, None) => Custody::State,
        };
        Outside {
            pkcs11: self.pkcs11.clone(),
            socket: self.signer.clone(),
            next: self.root_custody.unwrap_or(described),
        }
    }
}

impl State {
    /// Where state is kept.
    #[must_use]
    pub fn place(&self) -> store::Place {
        match (&self.etcd, &self.kubernetes) {
            (Some(options), _) => store::Place::Etcd(options.clone()),
            (None, Some(options)) => store::Place::Kubernetes(options.clone()),
            (None, None) => store::Place::File(self.directory.join("state.redb")),
        }
    }
}

impl Config {
    /// Reads the file and checks it.
    ///
    /// # Errors
    /// Everything that is wrong with it, with lines and remedies.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::read(&File::read(path)?, host::problems)
    }

    /// `host` is what is asked of the machine besides.
    fn read(file: &File, host: fn(&Self, &mut Problems<'_>)) -> Result<Self, ConfigError> {
        let config: Self = file.parse()?;
        let mut problems = file.problems();
        config.check(&mut problems);
        host(&config, &mut problems);
        problems.finish()?;
        Ok(config)
    }

    fn check(&self, problems: &mut Problems<'_>) {
        if let Some(replica) = &self.replica
            && let Err(error) = state::replica_name(replica)
        {
            problems.add(
                "replica",
                error.to_string(),
                "use lower-case letters, digits, dots and hyphens, at most 64",
            );
        }
        self.check_paths(problems);
        if let Some(etcd) = &self.state.etcd {
            etcd.problems(problems);
        }
        if let Some(kubernetes) = &self.state.kubernetes {
            kubernetes.problems(problems);
            if self.state.etcd.is_some() {
                problems.add(
                    "state.kubernetes",
                    "state is kept in etcd already",
                    "remove the one table or the other",
                );
            }
        }
        for problem in self.authority_options().problems() {
            let code = problem.code;
            problems.add(
                problem.setting,
                problem.message,
                format!("see {code} in docs/errors.md"),
            );
        }
        let limits = [
            ("node_api.max_connections", self.node_api.max_connections),
            ("node_api.queue", self.node_api.queue),
        ];
        for (key, value) in limits {
            if !(1..=1_000_000).contains(&value) {
                problems.add(
                    key,
                    format!("{value} is not between 1 and 1000000"),
                    "leave it out for 10000",
                );
            }
        }
        // With port 0 the system gives each its own.
        if self.node_api.address == self.ops.address && self.ops.address.port() != 0 {
            problems.add(
                "ops.address",
                "the same address as node_api.address",
                "give each a port of its own",
            );
        }
        let (ops, node_api) = (self.ops.address, self.node_api.address);
        self.page
            .problems(ops, node_api, &self.trust_domain, problems);
        self.check_root(problems);
        self.check_secrets(problems);
        self.check_rotation(problems);
        self.check_keys(problems);
        self.check_ledger(problems);
        announce::problems(self, problems);
        nested::problems(&self.nested, &self.trust_domain, problems);
        token::problems(&self.clusters, problems);
        publish::problems(&self.publish, &self.clusters, problems);
        self.policy
            .problems(&self.trust_domain, &self.clusters, problems);
    }

    fn check_paths(&self, problems: &mut Problems<'_>) {
        let mut paths = vec![
            ("admin.socket", &self.admin.socket),
            ("state.directory", &self.state.directory),
        ];
        paths.extend(
            self.state
                .seal_key_file
                .as_ref()
                .map(|path| ("state.seal_key_file", path)),
        );
        paths.extend(self.state.etcd.iter().flat_map(store::EtcdOptions::paths));
        let kubernetes = self.state.kubernetes.iter();
        paths.extend(kubernetes.flat_map(store::KubernetesOptions::paths));
        let files = &self.authority;
        let named = [
            ("authority.certificate_file", &files.certificate_file),
            ("authority.key_file", &files.key_file),
            (
                "authority.previous_certificate_file",
                &files.previous_certificate_file,
            ),
            ("authority.previous_key_file", &files.previous_key_file),
        ];
        paths.extend(
            named
                .into_iter()
                .filter_map(|(key, path)| Some((key, path.as_ref()?))),
        );
        if let Some(upstream) = &self.authority.upstream {
            paths.extend(upstream.paths());
        }
        if let Some(pkcs11) = &self.authority.pkcs11 {
            paths.push(("authority.pkcs11.module", &pkcs11.module));
            paths.push(("authority.pkcs11.pin_file", &pkcs11.pin_file));
        }
        if let Some(signer) = &self.authority.signer {
            let files = [
                ("authority.signer.socket", &signer.socket),
                ("authority.signer.ca_file", &signer.ca_file),
                (
                    "authority.signer.certificate_file",
                    &signer.certificate_file,
                ),
                ("authority.signer.key_file", &signer.key_file),
            ];
            for (key, path) in files {
                paths.extend(path.as_ref().map(|path| (key, path)));
            }
        }
        for (key, path) in paths {
            if !path.is_absolute() {
                problems.add(
                    key,
                    format!("{} is relative", path.display()),
                    "give the whole path, from /",
                );
            }
        }
        let length = self.admin.socket.as_os_str().as_bytes().len();
        if length > LONGEST_SOCKET_PATH {
            problems.add(
                "admin.socket",
                format!(
                    "the path has {length} bytes, and a socket's path at most {LONGEST_SOCKET_PATH}"
                ),
                "choose a shorter one, such as /run/arx-ca/admin.sock",
            );
        }
        match (&self.state.seal_key_file, self.state.seal) {
            (Some(_), Some(Unsealed::None)) => problems.add(
                "state.seal",
                "both a sealing key and seal = \"none\" are given",
                "remove one of the two",
            ),
            (None, None) => problems.add(
                "state",
                "nothing says how secrets are sealed at rest",
                "set seal_key_file to the path of a key (a file that is missing is made at the first start), or seal = \"none\" to keep them in plain text",
            ),
            _ => {}
        }
        let elsewhere = self.authority.pkcs11.is_some() || self.authority.signer.is_some();
        match (&self.authority.certificate_file, &self.authority.key_file) {
            (Some(_), None) if !elsewhere => problems.add(
                "authority.certificate_file",
                "there is no key_file beside it",
                "name the file of its key, or describe the token that holds it in [authority.pkcs11]",
            ),
            (None, Some(_)) => {
                problems.add(
                    "authority.key_file",
                    "there is no certificate_file beside it",
                    "name the file of its certificate",
                );
            }
            _ => {}
        }
        match (&files.previous_certificate_file, &files.previous_key_file) {
            (Some(_), None) | (None, Some(_)) => problems.add(
                "authority.previous_certificate_file",
                "it and previous_key_file are one set, and only one of the two is named",
                "name both, or none",
            ),
            (Some(_), Some(_)) if files.certificate_file.is_none() => problems.add(
                "authority.previous_certificate_file",
                "there is no certificate_file beside it",
                "name the set that follows it as certificate_file and key_file",
            ),
            _ => {}
        }
        let every = files.files_interval.get();
        if every < Duration::from_millis(100) || every > Duration::from_secs(86_400) {
            problems.add(
                "authority.files_interval",
                format!("{} is not between 100ms and 1d", files.files_interval),
                "leave it out for 60s",
            );
        }
    }

    /// The root is one.
    fn check_root(&self, problems: &mut Problems<'_>) {
        let authority = &self.authority;
        if let Some(upstream) = &authority.upstream {
            upstream.problems(problems);
        }
        let files = authority.certificate_file.is_some() || authority.key_file.is_some();
        match (authority.root, &authority.upstream) {
            (Some(Elsewhere::Offline), Some(_)) => problems.add(
                "authority.root",
                "there is an upstream CA, so its root is not offline",
                "remove root = \"offline\", or [authority.upstream]",
            ),
            (Some(Elsewhere::Offline), None) if files => problems.add(
                "authority.root",
                "certificate_file and key_file name a root that is here",
                "remove root = \"offline\", or the two files",
            ),
            (None, Some(_)) if files => problems.add(
                "authority.upstream",
                "certificate_file and key_file name a root that is here",
                "remove [authority.upstream], or the two files",
            ),
            _ => {}
        }
    }

    /// A key that others can read is no secret. One that is missing is made at the first start.
    /// The operator's own files are looked at by the authority: one that has stopped to be in
    /// order must not stop an authority that can go on without it.
    fn check_secrets(&self, problems: &mut Problems<'_>) {
        let seal = self
            .state
            .seal_key_file
            .as_ref()
            .filter(|path| path.exists());
        if let Some(path) = seal {
            problems.take("state.seal_key_file", secret_file(path));
        }
    }

    fn check_rotation(&self, problems: &mut Problems<'_>) {
        let longest = self.authority_options().longest();
        if let Some(window) = self.rotation.window
            && window.get() > longest
        {
            problems.add(
                "rotation.window",
                format!("{window} is more than the longest certificate lives, so all are renewed before it ends anyway"),
                "leave it out for half of policy.ttl",
            );
        }
        if self.rotation.dwell.get() > Duration::from_secs(3600) {
            problems.add(
                "rotation.dwell",
                "more than 1h: connections that are being made take seconds",
                "leave it out for 15s",
            );
        }
        if self.authority.root_renewal == RootRenewal::Manual
            && self.authority.root_renewal_lead.is_some()
        {
            problems.add(
                "authority.root_renewal_lead",
                "it counts only with root_renewal = \"auto\"",
                "remove it, or the other",
            );
        }
    }

    fn check_keys(&self, problems: &mut Problems<'_>) {
        if self.authority.root_custody == Some(Custody::Pkcs11) && self.authority.pkcs11.is_none() {
            problems.add(
                "authority.root_custody",
                "there is no [authority.pkcs11]",
                "describe the token there",
            );
        }
        if self.authority.root_custody == Some(Custody::Signer) && self.authority.signer.is_none() {
            problems.add(
                "authority.root_custody",
                "there is no [authority.signer]",
                "describe the service there",
            );
        }
        let both = self.authority.pkcs11.is_some() && self.authority.signer.is_some();
        if both && self.authority.root_custody.is_none() {
            problems.add(
                "authority.root_custody",
                "a token and a signer socket are described, and nothing says which of them has the next root's key",
                "set it to pkcs11, signer or state",
            );
        }
        if let Some(signer) = &self.authority.signer {
            if let Err(reason) = signer.way() {
                problems.add("authority.signer", reason, "see docs/custody.md");
            }
            check_deadline("authority.signer.deadline", signer.deadline(), problems);
        }
        let Some(pkcs11) = &self.authority.pkcs11 else {
            return;
        };
        if cfg!(not(feature = "pkcs11")) {
            problems.add(
                "authority.pkcs11",
                "this build reaches no token",
                "use one that is linked dynamically, with the feature pkcs11",
            );
        }
        if pkcs11.token_label.is_none() && pkcs11.slot.is_none() {
            problems.add(
                "authority.pkcs11",
                "nothing says which token",
                "set token_label, or slot",
            );
        }
        check_deadline("authority.pkcs11.deadline", pkcs11.deadline(), problems);
    }

    fn check_ledger(&self, problems: &mut Problems<'_>) {
        let size = self.ledger.segment_size.bytes();
        if !(1024 * 1024..=4 * 1024 * 1024 * 1024).contains(&size) {
            problems.add(
                "ledger.segment_size",
                "not between 1MiB and 4GiB",
                "leave it out for 64MiB",
            );
        }
        if self.ledger.gather.get() > Duration::from_millis(100) {
            problems.add(
                "ledger.gather",
                "more than 100ms: every answer would wait that long",
                "leave it out for 1ms",
            );
        }
        if self.ledger.retention.get() < Duration::from_secs(3600) {
            problems.add(
                "ledger.retention",
                "less than 1h",
                "choose how long you may have to answer for what was issued",
            );
        }
    }

    /// What this replica is called, if anything says so: where several share a state and the
    /// configuration gives no name, the machine's.
    #[must_use]
    pub fn replica_name(&self) -> Option<String> {
        let shared = self.state.place().is_shared();
        let machine = || shared.then(host::name).flatten();
        self.replica.clone().or_else(machine)
    }

    /// What the authority is to be.
    #[must_use]
    pub fn authority_options(&self) -> authority::Options {
        let files = &self.authority;
        let set = |certificate: &Option<PathBuf>, key: &Option<PathBuf>, previous| {
            Some(authority::OperatorFiles {
                certificate: certificate.clone()?,
                key: key.clone(),
                previous,
                every: files.files_interval.get(),
            })
        };
        let previous = set(
            &files.previous_certificate_file,
            &files.previous_key_file,
            None,
        );
        let operator = set(
            &files.certificate_file,
            &files.key_file,
            previous.map(Box::new),
        );
        authority::Options {
            root_key: self.authority.root_key,
            root_ttl: self.authority.root_ttl.get(),
            root_renewal: match self.authority.root_renewal {
                RootRenewal::Auto => authority::RootRenewal::Auto(
                    self.authority.root_renewal_lead.map(|lead| lead.get()),
                ),
                RootRenewal::Manual => authority::RootRenewal::Manual,
            },
            intermediate_ttl: self.authority.intermediate_ttl.get(),
            serving_ttl: self.authority.serving_ttl.get(),
            serving_names: self.page.names(),
            operator,
            outside: self.authority.outside(),
            certifier: match (self.authority.root, &self.authority.upstream) {
                (Some(Elsewhere::Offline), _) => Some(authority::Certifier::Offline),
                (None, Some(upstream)) => Some(authority::Certifier::Upstream(upstream.options())),
                (None, None) => None,
            },
            longest_leaf: self.policy.longest_ttl(),
        }
    }

    /// How a rotation goes where nobody says otherwise.
    #[must_use]
    pub fn rotation_defaults(&self) -> rotation::Defaults {
        rotation::Defaults {
            window: self.rotation.window.map(|window| window.get()),
            dwell: self.rotation.dwell.get(),
            cross_certificate: self.rotation.cross_certificate,
        }
    }

    /// The settings in which `new` differs and which can't change while the process runs,
    /// by name.
    #[must_use]
    pub fn fixed_differences(&self, new: &Self) -> Vec<&'static str> {
        let fixed = [
            ("trust_domain", self.trust_domain == new.trust_domain),
            ("replica", self.replica == new.replica),
            ("log.format", self.log.format == new.log.format),
            ("ops", self.ops == new.ops),
            ("page", self.page == new.page),
            ("node_api", self.node_api == new.node_api),
            ("admin", self.admin == new.admin),
            ("state", self.state == new.state),
            ("authority", self.authority == new.authority),
            ("publish", self.publish == new.publish),
            (
                "ledger.segment_size",
                self.ledger.segment_size == new.ledger.segment_size,
            ),
            ("ledger.gather", self.ledger.gather == new.ledger.gather),
            ("ledger.sink", self.ledger.sink == new.ledger.sink),
        ];
        fixed
            .into_iter()
            .filter(|(_, same)| !same)
            .map(|(name, _)| name)
            .collect()
    }
}

#[cfg(test)]
mod tests;
