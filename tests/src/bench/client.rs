//! Clients as processes: this program started again, told what to do by lines on its
//! standard input, answering by lines on its standard output.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines, Stdin};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::{api_server, cold_start, crowd, issue, join, ledger, proxies};

/// How long any answer may take.
const PATIENCE: Duration = Duration::from_secs(180);

/// What a client does.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "role", rename_all = "lowercase")]
pub(crate) enum Role {
    /// Keeps a core busy with what clients do.
    Load,
    /// Asks for certificates.
    Issue(issue::Options),
    /// Joins nodes.
    Join(join::Options),
    /// Is many agents that follow.
    Crowd(crowd::Options),
    /// Is many proxies at one agent.
    Proxies(proxies::Options),
    /// Writes a ledger.
    Ledger(ledger::Options),
    /// Is an API server with pods.
    #[serde(rename = "api-server")]
    ApiServer(api_server::Options),
    /// Is all agents of a cluster that starts.
    #[serde(rename = "cold-start")]
    ColdStart(cold_start::Options),
}

/// A client that runs. It is killed when this is dropped.
pub(crate) struct Client {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Client {
    /// Starts it, and waits until it says that it is ready.
    pub(crate) async fn start(role: &Role) -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("client")
            .arg(serde_json::to_string(role)?)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("can't start a client")?;
        let input = child.stdin.take().context("standard input is piped")?;
        let output = child.stdout.take().context("standard output is piped")?;
        let mut client = Self {
            child,
            input,
            output: BufReader::new(output).lines(),
        };
        client.hear::<()>("ready").await?;
        Ok(client)
    }

    /// Tells it to do something.
    pub(crate) async fn tell(&mut self, what: &str) -> anyhow::Result<()> {
        self.input.write_all(format!("{what}\n").as_bytes()).await?;
        self.input.flush().await?;
        Ok(())
    }

    /// Waits until it says `what`, with a value.
    pub(crate) async fn hear<T: DeserializeOwned>(&mut self, what: &str) -> anyhow::Result<T> {
        let line = tokio::time::timeout(PATIENCE, self.output.next_line())
            .await
            .with_context(|| format!("a client does not say {what:?}"))??;
        let Some(line) = line else {
            bail!("a client ended before it said {what:?}");
        };
        match line.split_once(' ') {
            Some((said, value)) if said == what => Ok(serde_json::from_str(value)?),
            Some(("failed", reason)) => bail!("a client failed: {reason}"),
            _ => bail!("a client said {line:?} instead of {what:?}"),
        }
    }

    /// Its process.
    pub(crate) fn id(&self) -> anyhow::Result<u32> {
        self.child.id().context("a client has ended")
    }

    /// Tells and hears.
    pub(crate) async fn ask<T: DeserializeOwned>(
        &mut self,
        order: &str,
        answer: &str,
    ) -> anyhow::Result<T> {
        self.tell(order).await?;
        self.hear(answer).await
    }
}

/// The client's side: what it is told, and what it says.
pub(crate) struct Boss(Lines<BufReader<Stdin>>);

impl Boss {
    /// The next order; nothing when it is over.
    pub(crate) async fn order(&mut self) -> anyhow::Result<Option<String>> {
        Ok(self.0.next_line().await?.filter(|line| line != "stop"))
    }

    /// Says something.
    #[expect(clippy::unused_self, reason = "only who has a boss says something")]
    pub(crate) fn say<T: Serialize>(&self, what: &str, value: &T) -> anyhow::Result<()> {
        println!("{what} {}", serde_json::to_string(value)?);
        Ok(())
    }
}

/// Plays the client that `role` describes.
pub(crate) async fn play(role: &str) -> anyhow::Result<()> {
    let role: Role = serde_json::from_str(role).context("this is started by arx-bench only")?;
    let mut boss = Boss(BufReader::new(tokio::io::stdin()).lines());
    let played = match role {
        Role::Load => load(&mut boss).await,
        Role::Issue(options) => issue::play(&mut boss, options).await,
        Role::Join(options) => join::play(&mut boss, options).await,
        Role::Crowd(options) => crowd::play(&mut boss, options).await,
        Role::Proxies(options) => proxies::play(&mut boss, options).await,
        Role::Ledger(options) => ledger::play(&mut boss, options).await,
        Role::ApiServer(options) => api_server::play(&mut boss, options).await,
        Role::ColdStart(options) => cold_start::play(&mut boss, options).await,
    };
    if let Err(error) = played {
        println!("failed {error:#}");
        return Err(error);
    }
    Ok(())
}

/// Seals and opens batches of 20 KiB, as TLS does, on a thread of its own until it is told
/// to stop.
async fn load(boss: &mut Boss) -> anyhow::Result<()> {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    let over = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&over);
    let busy = std::thread::spawn(move || {
        let key = arx_identity::crypto::SealingKey::generate();
        let batch = vec![7; 20 * 1024];
        while !seen.load(Ordering::Relaxed) {
            let sealed = key.seal(b"batch", &batch);
            assert!(key.open(b"batch", &sealed).is_ok(), "what was sealed opens");
        }
    });
    boss.say("ready", &())?;
    let _stop = boss.order().await?;
    over.store(true, Ordering::Relaxed);
    busy.join()
        .map_err(|_| anyhow::anyhow!("the load panicked"))
}
