//! An agent of a node.

use std::path::PathBuf;
use std::process::ExitStatus;

use anyhow::Context as _;
use arx_daemon::files::write_atomically;

use super::{CLUSTER, Mesh, TRUST_DOMAIN, ready, tail};
use crate::process::{Process, binary, free_port};

/// An agent.
pub struct Agent {
    /// Its node.
    pub node: String,
    /// The process, while it runs.
    pub process: Option<Process>,
    /// Port of its operator.
    pub ops_port: u16,
    /// Where proxies connect.
    pub socket: PathBuf,
    /// Its configuration.
    pub config: PathBuf,
    /// Its state.
    pub state: PathBuf,
}

impl Agent {
    pub(super) fn new(mesh: &Mesh, node: &str) -> anyhow::Result<Self> {
        let directory = mesh.directory.join(node);
        std::fs::create_dir_all(&directory)?;
        let agent = Self {
            node: node.to_owned(),
            process: None,
            ops_port: free_port()?,
            socket: directory.join("sds.sock"),
            config: directory.join("arx-node-agent.toml"),
            state: directory.join("state"),
        };
        let (ops_port, node_port) = (agent.ops_port, mesh.node_port);
        let (folder, bundle) = (directory.display(), mesh.bundle());
        let (bundle, more) = (bundle.display(), &mesh.options.agent);
        let text = format!(
            r#"trust_domain = "{TRUST_DOMAIN}"
cluster = "{CLUSTER}"
node = "{node}"
[authority]
address = "127.0.0.1:{node_port}"
bundle_file = "{bundle}"
token_file = "{folder}/token"
longest_retry = "1s"
[socket]
path = "{folder}/sds.sock"
[state]
directory = "{folder}/state"
cache_key_file = "{folder}/cache.key"
[ops]
address = "127.0.0.1:{ops_port}"
{more}
"#
        );
        write_atomically(&agent.config, text.as_bytes(), 0o644)?;
        Ok(agent)
    }

    /// The file of its own token.
    #[must_use]
    pub fn token(&self) -> PathBuf {
        self.config.with_file_name("token")
    }

    /// Waits until it is ready.
    ///
    /// # Errors
    /// If it does not become ready.
    pub async fn is_ready(&self) -> anyhow::Result<()> {
        let ready = ready(self.ops_port).await;
        ready.with_context(|| format!("the agent says:\n{}", tail(self.process.as_ref())))
    }

    /// Starts it, and waits until it is ready.
    ///
    /// # Errors
    /// If it does not become ready.
    pub async fn start(&mut self) -> anyhow::Result<()> {
        self.spawn()?;
        self.is_ready().await
    }

    /// Starts its process.
    ///
    /// # Errors
    /// If there is none to start.
    pub fn spawn(&mut self) -> anyhow::Result<()> {
        let config = self.config.to_str().context("the folder's name is text")?;
        self.process = Some(Process::start(
            "arx-node-agent",
            &binary("arx-node-agent")?,
            &["--config", config],
        )?);
        Ok(())
    }

    /// Ends it in the middle of whatever it does.
    ///
    /// # Errors
    /// If it does not run.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.process
            .take()
            .context("the agent does not run")?
            .kill()
            .await?;
        Ok(())
    }

    /// Asks it to end.
    ///
    /// # Errors
    /// If it does not.
    pub async fn stop(&mut self) -> anyhow::Result<ExitStatus> {
        self.process
            .take()
            .context("the agent does not run")?
            .stop()
            .await
    }
}
