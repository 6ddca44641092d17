//! A small mesh in one folder: an authority, agents, and the issuer whose tokens they know.

mod agent;

use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use anyhow::Context as _;
use arx_daemon::files::write_atomically;
use arx_identity::KeyAlgorithm;
use arx_proto::admin::v1::admin_client::AdminClient;
use arx_proto::admin::v1::{GetBundleRequest, StatusRequest, StatusResponse};
use base64::Engine as _;
use http::StatusCode;
use tonic::transport::Channel;

pub use agent::Agent;

use crate::process::{Process, binary, free_port, until};
use crate::token_issuer::{Claims, TokenIssuer};
use crate::{admin, http as web};

/// The trust domain of every mesh here.
pub const TRUST_DOMAIN: &str = "example.org";
/// Its one cluster.
pub const CLUSTER: &str = "c1";
/// Audience of workload tokens; those for joining have `/join` after it.
pub const AUDIENCE: &str = "arx";

const ISSUER: &str = "https://issuer.example.org";
const AGENTS: &str = "arx-system/arx-node-agent";

/// What differs between meshes.
#[derive(Clone, Debug)]
pub struct Options {
    /// Lifetime of workload certificates.
    pub ttl: String,
    /// Lifetime of the agents' own certificates.
    pub node_ttl: String,
    /// Lines of the authority's `[node_api]`.
    pub node_api: String,
    /// Lines of the authority's `[state]`.
    pub state: String,
    /// What the authority is called among its replicas, if anything.
    pub replica: Option<String>,
    /// Lines of the authority's `[authority]`.
    pub roots: String,
    /// Lines of its `[policy]`.
    pub policy: String,
    /// Issuer of its cluster's tokens, if they are not of the mesh's own.
    pub issuer: Option<String>,
    /// Service account of its agents, as `namespace/name`.
    pub agents: String,
    /// Audiences of workload tokens.
    pub audiences: Vec<String>,
    /// Lines of its `[[cluster]]`.
    pub cluster: String,
    /// Where the cluster's keys come from, if not from a file: a line of `[[cluster]]`.
    pub keys: Option<String>,
    /// Tables that are added to the authority's configuration.
    pub authority: String,
    /// Tables that are added to each agent's configuration.
    pub agent: String,
    /// What the authority has in its environment besides ours.
    pub environment: Vec<(String, String)>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            ttl: "1h".to_owned(),
            node_ttl: "1h".to_owned(),
            node_api: String::new(),
            state: String::new(),
            replica: None,
            roots: String::new(),
            policy: String::new(),
            issuer: None,
            agents: AGENTS.to_owned(),
            audiences: vec![AUDIENCE.to_owned()],
            cluster: String::new(),
            keys: None,
            authority: String::new(),
            agent: String::new(),
            environment: Vec::new(),
        }
    }
}

/// A mesh; its processes end with it.
pub struct Mesh {
    /// Where everything lies.
    pub directory: PathBuf,
    /// Signs the tokens.
    pub issuer: TokenIssuer,
    /// The authority, while it runs.
    pub authority: Option<Process>,
    /// Port of the node API.
    pub node_port: u16,
    /// Port of the authority's operator.
    pub ops_port: u16,
    options: Options,
    _temporary: Option<tempfile::TempDir>,
}

impl Mesh {
    /// A mesh in a temporary folder, with its authority running.
    ///
    /// # Errors
    /// If anything of it does not start.
    pub async fn start(options: Options) -> anyhow::Result<Self> {
        let mut mesh = Self::prepare(options)?;
        mesh.start_authority().await?;
        Ok(mesh)
    }

    /// The same before anything runs.
    ///
    /// # Errors
    /// If its files can't be written.
    pub fn prepare(options: Options) -> anyhow::Result<Self> {
        // Short, because the path of a socket is.
        let temporary = tempfile::Builder::new().prefix("arx-").tempdir_in("/tmp")?;
        let mut mesh = Self::at(temporary.path(), options)?;
        mesh._temporary = Some(temporary);
        Ok(mesh)
    }

    /// A mesh in this folder.
    ///
    /// # Errors
    /// If its files can't be written.
    pub fn at(directory: &Path, options: Options) -> anyhow::Result<Self> {
        let issuer = TokenIssuer::new(ISSUER, KeyAlgorithm::EcdsaP256)?;
        let mesh = Self {
            directory: directory.to_owned(),
            issuer,
            authority: None,
            node_port: free_port()?,
            ops_port: free_port()?,
            options,
            _temporary: None,
        };
        write_atomically(
            directory.join("jwks.json"),
            mesh.issuer.jwks().as_bytes(),
            0o644,
        )?;
        write_atomically(
            mesh.authority_config(),
            mesh.authority_text().as_bytes(),
            0o644,
        )?;
        Ok(mesh)
    }

    /// Puts this authority, another replica's, into the cluster of `first`: the same keys verify its
    /// tokens.
    ///
    /// # Errors
    /// If they can't be copied.
    pub fn joins_cluster_of(&self, first: &Self) -> anyhow::Result<()> {
        let keys = |mesh: &Self| mesh.directory.join("jwks.json");
        std::fs::copy(keys(first), keys(self))?;
        Ok(())
    }

    /// The authority's configuration.
    #[must_use]
    pub fn authority_config(&self) -> PathBuf {
        self.directory.join("arx-ca.toml")
    }

    /// The authority's admin socket.
    #[must_use]
    pub fn admin_socket(&self) -> PathBuf {
        self.directory.join("admin.sock")
    }

    /// The roots that agents begin with.
    #[must_use]
    pub fn bundle(&self) -> PathBuf {
        self.directory.join("bundle.pem")
    }

    fn authority_text(&self) -> String {
        let directory = self.directory.display();
        let Options {
            ttl,
            node_ttl,
            node_api,
            state,
            replica,
            roots,
            policy,
            issuer,
            agents,
            audiences,
            cluster,
            keys,
            authority,
            ..
        } = &self.options;
        let keys = keys
            .clone()
            .unwrap_or_else(|| format!("jwks_file = \"{directory}/jwks.json\""));
        let issuer = issuer.as_deref().unwrap_or(ISSUER);
        let replica = replica.as_ref().map(|name| format!("replica = {name:?}"));
        let replica = replica.unwrap_or_default();
        let (node_port, ops_port) = (self.node_port, self.ops_port);
        format!(
            r#"trust_domain = "{TRUST_DOMAIN}"
{replica}
[node_api]
address = "127.0.0.1:{node_port}"
drain = "5s"
{node_api}
[ops]
address = "127.0.0.1:{ops_port}"
[admin]
socket = "{directory}/admin.sock"
[state]
directory = "{directory}/authority"
seal_key_file = "{directory}/seal.key"
{state}
[authority]
{roots}
[policy]
ttl = "{ttl}"
node_ttl = "{node_ttl}"
{policy}
[[cluster]]
name = "{CLUSTER}"
issuer = "{issuer}"
audiences = {audiences:?}
agents = ["{agents}"]
{keys}
{cluster}
{authority}
"#
        )
    }

    /// Starts the authority, waits until it is ready, and writes its roots to the bundle
    /// file.
    ///
    /// # Errors
    /// If it does not become ready.
    pub async fn start_authority(&mut self) -> anyhow::Result<()> {
        self.spawn_authority()?;
        self.authority_is_ready().await?;
        self.write_bundle().await
    }

    /// Writes the authority's roots to the bundle file.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn write_bundle(&self) -> anyhow::Result<()> {
        let bundle = self
            .admin()
            .await?
            .get_bundle(GetBundleRequest {})
            .await?
            .into_inner();
        let pem: String = bundle
            .roots
            .iter()
            .map(|root| pem("CERTIFICATE", root))
            .collect();
        write_atomically(self.bundle(), pem.as_bytes(), 0o644)?;
        Ok(())
    }

    /// Starts the authority's process.
    ///
    /// # Errors
    /// If there is none to start.
    pub fn spawn_authority(&mut self) -> anyhow::Result<()> {
        self.spawn_authority_with(&[])
    }

    /// The same with further arguments, such as `check`.
    ///
    /// # Errors
    /// If there is none to start.
    pub fn spawn_authority_with(&mut self, arguments: &[&str]) -> anyhow::Result<()> {
        let config = self.authority_config();
        let config = config.to_str().context("the folder's name is text")?;
        let arguments = [&["--config", config], arguments].concat();
        self.authority = Some(Process::start_in(
            &self.options.environment,
            "arx-ca",
            &binary("arx-ca")?,
            &arguments,
        )?);
        Ok(())
    }

    /// Waits until the authority is ready.
    ///
    /// # Errors
    /// If it does not become ready.
    pub async fn authority_is_ready(&mut self) -> anyhow::Result<()> {
        let ready = ready(self.ops_port).await;
        ready.with_context(|| format!("the authority says:\n{}", tail(self.authority.as_ref())))
    }

    /// Ends the authority in the middle of whatever it does.
    ///
    /// # Errors
    /// If it does not run.
    pub async fn kill_authority(&mut self) -> anyhow::Result<()> {
        self.authority
            .take()
            .context("the authority does not run")?
            .kill()
            .await?;
        Ok(())
    }

    /// Asks the authority to end, and waits until it has.
    ///
    /// # Errors
    /// If it does not.
    pub async fn stop_authority(&mut self) -> anyhow::Result<ExitStatus> {
        self.authority
            .take()
            .context("the authority does not run")?
            .stop()
            .await
    }

    /// Writes the authority's configuration anew after a change of the options.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn reconfigure(&mut self, change: impl FnOnce(&mut Options)) -> anyhow::Result<()> {
        change(&mut self.options);
        write_atomically(
            self.authority_config(),
            self.authority_text().as_bytes(),
            0o644,
        )?;
        Ok(())
    }

    /// A connection to the admin API.
    ///
    /// # Errors
    /// If the authority does not run.
    pub async fn admin(&self) -> anyhow::Result<AdminClient<Channel>> {
        admin::connect(&self.admin_socket()).await
    }

    /// What the authority says of itself.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn status(&self) -> anyhow::Result<StatusResponse> {
        Ok(self
            .admin()
            .await?
            .status(StatusRequest {})
            .await?
            .into_inner())
    }

    /// An agent of this node, running and joined.
    ///
    /// # Errors
    /// If it does not become ready.
    pub async fn agent(&self, node: &str) -> anyhow::Result<Agent> {
        let mut agent = self.prepare_agent(node)?;
        agent.start().await?;
        Ok(agent)
    }

    /// The same before it runs; it has a token and a configuration.
    ///
    /// # Errors
    /// If its files can't be written.
    pub fn prepare_agent(&self, node: &str) -> anyhow::Result<Agent> {
        let agent = Agent::new(self, node)?;
        self.write_join_token(&agent)?;
        Ok(agent)
    }

    /// Writes a fresh token for joining beside the agent, as kubelet does from time to time.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn write_join_token(&self, agent: &Agent) -> anyhow::Result<()> {
        let audience = format!("{AUDIENCE}/join");
        let claims = Claims::new(&audience, "arx-system", "arx-node-agent", &agent.node);
        write_atomically(agent.token(), self.issuer.mint(&claims).as_bytes(), 0o600)?;
        Ok(())
    }

    /// A token of a workload on a node.
    #[must_use]
    pub fn token(&self, namespace: &str, account: &str, node: &str) -> String {
        self.issuer
            .mint(&Claims::new(AUDIENCE, namespace, account, node))
    }
}

async fn ready(port: u16) -> anyhow::Result<()> {
    until("readiness", || async move {
        Ok(web::get(port, "/readyz").await?.0 == StatusCode::OK)
    })
    .await
}

fn tail(process: Option<&Process>) -> String {
    process
        .map(|process| process.log().tail())
        .unwrap_or_default()
}

/// DER as PEM (RFC 7468).
#[must_use]
pub fn pem(label: &str, der: &[u8]) -> String {
    let encoded = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<_> = encoded
        .as_bytes()
        .chunks(64)
        .map(String::from_utf8_lossy)
        .collect();
    format!(
        "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
        lines.join("\n")
    )
}
