//! An Arx of one machine, in the background, for one's own proxy: an authority, an agent
//! that knows processes by their user, and a key that signs the agent's own token.
//!
//! Everything lies in one folder and is found again there by the next `up`.

use std::fs::{self, File};
use std::io::Read as _;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use arx_daemon::files::{LONGEST_SOCKET_PATH, write_atomically};
use arx_proto::admin::v1::GetBundleRequest;
use http::StatusCode;
use rustix::process::{Pid, Signal, geteuid, kill_process};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use crate::mesh::pem;
use crate::process::{binary, free_port};
use crate::token_issuer::{Claims, TokenIssuer};
use crate::{admin, http as web};

const TRUST_DOMAIN: &str = "local.arx";
const CLUSTER: &str = "local";
const NODE: &str = "this-machine";
const ISSUER: &str = "https://stack.local.arx";
const PATIENCE: Duration = Duration::from_secs(20);

/// A stack in its folder.
#[derive(Debug)]
pub struct Stack {
    directory: PathBuf,
    ttl: String,
}

/// A process that was started before, by whichever run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Started {
    id: i32,
    /// Field 22 of /proc/PID/stat: a later process with the same id has another.
    start_time: u64,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Ports {
    node_api: u16,
    authority_ops: u16,
    agent_ops: u16,
}

impl Stack {
    /// A stack in `directory`, whose certificates live for `ttl`.
    ///
    /// # Errors
    /// If the folder can't be made, or the path of the socket in it would be too long.
    pub fn new(directory: &Path, ttl: &str) -> anyhow::Result<Self> {
        fs::create_dir_all(directory)
            .with_context(|| format!("can't make {}", directory.display()))?;
        let directory = directory.canonicalize()?;
        let text = directory
            .to_str()
            .context("the folder's name is not text: choose another DIR")?;
        ensure!(
            !text.contains(['"', '\\', '\'', '\n']),
            "the folder's name has quotes or backslashes: choose another DIR"
        );
        let longest = text.len() + "/admin.sock".len();
        ensure!(
            longest <= LONGEST_SOCKET_PATH,
            "the path of a socket in {text} would have {longest} bytes, and {LONGEST_SOCKET_PATH} fit: choose a shorter DIR"
        );
        Ok(Self {
            directory,
            ttl: ttl.to_owned(),
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Starts what is not running, and tells how to use it.
    ///
    /// # Errors
    /// If it does not start; what was started is left as it is, with its log.
    pub async fn up(&self) -> anyhow::Result<()> {
        fs::set_permissions(&self.directory, fs::Permissions::from_mode(0o700))?;
        let authority = self.alive("arx-ca");
        let agent = self.alive("arx-node-agent");
        let both = authority.is_some() && agent.is_some();
        let ports = self.ports(authority.is_some() || agent.is_some())?;
        if both {
            println!("It is running already in {}.", self.directory.display());
        } else {
            self.write(&ports)?;
        }
        if authority.is_none() {
            self.start("arx-ca")?;
        }
        self.ready("arx-ca", ports.authority_ops).await?;
        if agent.is_none() {
            self.write_bundle().await?;
            self.start("arx-node-agent")?;
        }
        self.ready("arx-node-agent", ports.agent_ops).await?;
        self.tell()
    }

    /// Ends what runs.
    ///
    /// # Errors
    /// If a process does not end.
    pub async fn down(&self) -> anyhow::Result<()> {
        let mut ended = 0;
        for name in ["arx-node-agent", "arx-ca"] {
            let Some(started) = self.alive(name) else {
                continue;
            };
            let id = Pid::from_raw(started.id).context("a process id is not 0")?;
            kill_process(id, Signal::TERM)?;
            let until = Instant::now() + PATIENCE;
            while self.alive(name).is_some() {
                ensure!(
                    Instant::now() < until,
                    "{name} (process {}) does not end: see {name}.log",
                    started.id
                );
                sleep(Duration::from_millis(20)).await;
            }
            let _gone = fs::remove_file(self.path(&format!("{name}.pid")));
            ended += 1;
        }
        match ended {
            0 => println!("Nothing is running in {}.", self.directory.display()),
            _ => println!(
                "Stopped. Its state is kept in {}; `make up` goes on with it.",
                self.directory.display()
            ),
        }
        Ok(())
    }

    /// The process of this name, if it is the one that was started here and lives.
    fn alive(&self, name: &str) -> Option<Started> {
        let text = fs::read(self.path(&format!("{name}.pid"))).ok()?;
        let started: Started = serde_json::from_slice(&text).ok()?;
        (start_time(started.id)? == started.start_time).then_some(started)
    }

    /// The ports of the last time, unless somebody else has taken one meanwhile.
    fn ports(&self, running: bool) -> anyhow::Result<Ports> {
        let path = self.path("ports.json");
        let kept: Option<Ports> = fs::read(&path)
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok());
        if let Some(ports) = kept {
            let free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
            if running
                || [ports.node_api, ports.authority_ops, ports.agent_ops]
                    .into_iter()
                    .all(free)
            {
                return Ok(ports);
            }
        }
        let ports = Ports {
            node_api: free_port()?,
            authority_ops: free_port()?,
            agent_ops: free_port()?,
        };
        write_atomically(path, &serde_json::to_vec(&ports)?, 0o600)?;
        Ok(ports)
    }

    fn write(&self, ports: &Ports) -> anyhow::Result<()> {
        let issuer = TokenIssuer::kept(ISSUER, &self.path("issuer.key"))?;
        write_atomically(self.path("jwks.json"), issuer.jwks().as_bytes(), 0o644)?;
        let mut claims = Claims::new("arx/join", "arx-system", "arx-node-agent", NODE);
        claims.lifetime = 30 * 86_400;
        write_atomically(
            self.path("agent.token"),
            issuer.mint(&claims).as_bytes(),
            0o600,
        )?;
        let folder = self.directory.display();
        let Ports {
            node_api,
            authority_ops,
            agent_ops,
        } = ports;
        let (ttl, uid, path) = (&self.ttl, geteuid().as_raw(), identity_path());
        let authority = format!(
            r#"# Written by `make up`; it writes this anew each time it starts the authority.
trust_domain = "{TRUST_DOMAIN}"
replica = "this-machine"
[node_api]
address = "127.0.0.1:{node_api}"
[ops]
address = "127.0.0.1:{authority_ops}"
[admin]
socket = "{folder}/admin.sock"
[state]
directory = "{folder}/authority"
seal_key_file = "{folder}/seal.key"
[policy]
ttl = "{ttl}"
max_ttl = "{ttl}"
[[policy.local]]
path = "{path}"
nodes = ["{CLUSTER}/{NODE}"]
uid = {uid}
[[cluster]]
name = "{CLUSTER}"
issuer = "{ISSUER}"
audiences = ["arx"]
agents = ["arx-system/arx-node-agent"]
jwks_file = "{folder}/jwks.json"
"#
        );
        let agent = format!(
            r#"# Written by `make up`; it writes this anew each time it starts the agent.
trust_domain = "{TRUST_DOMAIN}"
cluster = "{CLUSTER}"
node = "{NODE}"
[authority]
address = "127.0.0.1:{node_api}"
bundle_file = "{folder}/bundle.pem"
token_file = "{folder}/agent.token"
longest_retry = "2s"
[socket]
path = "{folder}/sds.sock"
mode = "0600"
[attestation]
attestors = ["local"]
[state]
directory = "{folder}/agent"
cache_key_file = "{folder}/agent-cache.key"
[ops]
address = "127.0.0.1:{agent_ops}"
"#
        );
        write_atomically(self.path("arx-ca.toml"), authority.as_bytes(), 0o600)?;
        write_atomically(self.path("arx-node-agent.toml"), agent.as_bytes(), 0o600)?;
        Ok(())
    }

    fn start(&self, name: &str) -> anyhow::Result<()> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.path(&format!("{name}.log")))?;
        let mut command = Command::new(binary(name)?);
        command
            .arg("--config")
            .arg(self.path(&format!("{name}.toml")));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        // It stays when the terminal goes.
        command.process_group(0);
        let id = i32::try_from(
            command
                .spawn()
                .with_context(|| format!("can't start {name}"))?
                .id(),
        )?;
        let start_time =
            start_time(id).with_context(|| format!("{name} has ended at once: see {name}.log"))?;
        let started = serde_json::to_vec(&Started { id, start_time })?;
        write_atomically(self.path(&format!("{name}.pid")), &started, 0o600)?;
        Ok(())
    }

    async fn ready(&self, name: &str, port: u16) -> anyhow::Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            if matches!(web::get(port, "/readyz").await, Ok((StatusCode::OK, _))) {
                return Ok(());
            }
            let log = self.path(&format!("{name}.log"));
            if self.alive(name).is_none() || Instant::now() > until {
                let mut text = String::new();
                let _shown = File::open(&log).and_then(|mut file| file.read_to_string(&mut text));
                let lines: Vec<_> = text.lines().rev().take(5).collect();
                let last: Vec<_> = lines.into_iter().rev().collect();
                bail!(
                    "{name} does not become ready; the end of {}:\n{}",
                    log.display(),
                    last.join("\n")
                );
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn write_bundle(&self) -> anyhow::Result<()> {
        let mut client = admin::connect(&self.path("admin.sock")).await?;
        let bundle = client.get_bundle(GetBundleRequest {}).await?.into_inner();
        let pem: String = bundle
            .roots
            .iter()
            .map(|root| pem("CERTIFICATE", root))
            .collect();
        write_atomically(self.path("bundle.pem"), pem.as_bytes(), 0o644)?;
        Ok(())
    }

    fn tell(&self) -> anyhow::Result<()> {
        let folder = self.directory.display();
        let facts = format!(
            "ARX_SDS_SOCKET='{folder}/sds.sock'\nARX_ADMIN_SOCKET='{folder}/admin.sock'\nARX_TRUST_DOMAIN='{TRUST_DOMAIN}'\nARX_BUNDLE_FILE='{folder}/bundle.pem'\n"
        );
        write_atomically(self.path("env"), facts.as_bytes(), 0o644)?;
        let snippet = snippet(&self.path("sds.sock"));
        write_atomically(self.path("envoy-snippet.yaml"), snippet.as_bytes(), 0o644)?;
        let identity = format!("spiffe://{TRUST_DOMAIN}{}", identity_path());
        let arx =
            binary("arx").map_or_else(|_| "arx".to_owned(), |path| path.display().to_string());
        println!(
            "Arx is running.\n
  socket for proxies   {folder}/sds.sock
  secrets              default (certificate and key), ROOTCA (roots), {identity}, spiffe://{TRUST_DOMAIN}
  every process of this user is {identity}
  certificates live    {}
  logs                 {folder}/arx-ca.log, {folder}/arx-node-agent.log
  facts for scripts    . {folder}/env

Look at it:
  ARX_ADMIN_SOCKET='{folder}/admin.sock' {arx} status

For your Envoy (also in {folder}/envoy-snippet.yaml):

{snippet}
A whole configuration: {arx} envoy bootstrap --help
Stop it with: make down DIR='{folder}'",
            self.ttl
        );
        Ok(())
    }
}

/// What stands in an Envoy's configuration, to be copied.
fn snippet(socket: &Path) -> String {
    format!(
        r#"# a cluster, beside your own
clusters:
- name: arx
  type: STATIC
  typed_extension_protocol_options:
    envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
      "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
      explicit_http_config: {{ http2_protocol_options: {{ connection_keepalive: {{ interval: 1s, timeout: 1s }} }} }}
  load_assignment:
    cluster_name: arx
    endpoints: [ {{ lb_endpoints: [ {{ endpoint: {{ address: {{ pipe: {{ path: "{0}" }} }} }} }} ] }} ]

# the TLS context of a listener (or, without require_client_certificate, UpstreamTlsContext of a cluster)
transport_socket:
  name: envoy.transport_sockets.tls
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
    require_client_certificate: true
    common_tls_context:
      tls_params: {{ tls_maximum_protocol_version: TLSv1_3 }}
      tls_certificate_sds_secret_configs:
      - name: default
        sds_config: &arx
          resource_api_version: V3
          initial_fetch_timeout: 0s
          api_config_source:
            api_type: GRPC
            transport_api_version: V3
            set_node_on_first_message_only: true
            grpc_services:
            - envoy_grpc:
                cluster_name: arx
                retry_policy: {{ retry_back_off: {{ base_interval: 0.1s, max_interval: 1s }} }}
      combined_validation_context:
        default_validation_context:
          match_typed_subject_alt_names:
          - {{ san_type: URI, matcher: {{ prefix: "spiffe://{TRUST_DOMAIN}/" }} }}
        validation_context_sds_secret_config: {{ name: ROOTCA, sds_config: *arx }}
"#,
        socket.display()
    )
}

/// The identity of this user's processes.
fn identity_path() -> String {
    let user = std::env::var("USER").unwrap_or_default();
    let fits = !user.is_empty()
        && user
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    if fits {
        format!("/user/{user}")
    } else {
        format!("/user/{}", geteuid().as_raw())
    }
}

fn start_time(id: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The name before the last parenthesis may hold anything.
    let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    // A process that has ended and was not waited for counts as gone.
    if *fields.first()? == "Z" {
        return None;
    }
    fields.get(19)?.parse().ok()
}
