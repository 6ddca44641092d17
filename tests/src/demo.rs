//! The demo: two nodes, two real Envoys with an application behind each, requests both
//! ways by mTLS, while everything is renewed, killed and brought back, and while the root is
//! replaced in the end.

mod proxy;
mod rotation;
pub mod stolen;
mod table;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use arx_proto::admin::v1::VerifyLedgerRequest;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep};

use crate::app::App;
use crate::envoy::{Envoy, Options, Ports};
use crate::mesh::{self, Agent, Mesh};
use crate::process::binary;
use proxy::Proxy;
use rotation::Rotation;
use table::Table;

/// Lifetime of a certificate, in seconds; it is renewed at about half of that.
const TTL: u64 = 24;
/// Renewals of each certificate that are waited for.
const RENEWALS: usize = 3;
/// How long the authority is away: longer than many attempts to renew.
const AWAY: Duration = Duration::from_secs(10);
/// Between two looks at everything.
const PAUSE: Duration = Duration::from_millis(500);
/// When it ends at the latest.
const LONGEST: Duration = Duration::from_secs(110);
const WEB: &str = "spiffe://example.org/ns/shop/sa/web";
const API: &str = "spiffe://example.org/ns/shop/sa/api";

/// Runs the demo. With `keep`, everything is left running at its end, until SIGINT or
/// SIGTERM.
///
/// # Errors
/// If anything does not start, a request failed, a certificate was not renewed often
/// enough in time, or a signal came before the end.
pub async fn run(keep: bool) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    // The terminal was closed.
    let mut hangup = signal(SignalKind::hangup())?;
    // Dropping what runs ends it; the folder goes last.
    let temporary = tempfile::Builder::new()
        .prefix("arx-demo-")
        .tempdir_in("/tmp")?;
    tokio::select! {
        outcome = play(temporary.path(), keep) => outcome,
        _ = interrupt.recv() => ended(keep),
        _ = terminate.recv() => ended(keep),
        _ = hangup.recv() => ended(keep),
    }
}

fn ended(keep: bool) -> anyhow::Result<()> {
    ensure!(keep, "it was ended by a signal");
    println!("Ended.");
    Ok(())
}

async fn play(directory: &Path, keep: bool) -> anyhow::Result<()> {
    let mut demo = Demo::start(directory).await?;
    let outcome = match demo.story().await {
        Ok(()) => demo.sum_up().await,
        Err(error) => Err(error),
    };
    if keep {
        if let Err(error) = &outcome {
            println!("\nIt failed: {error:#}");
        }
        demo.tell_where(directory);
        std::future::pending::<()>().await;
    }
    outcome
}

/// What is running.
struct Demo {
    started: Instant,
    mesh: Mesh,
    agents: [Agent; 2],
    /// `web` and `api`, each on its node.
    proxies: [Proxy; 2],
    /// Of the root, once it has begun.
    rotation: Option<Rotation>,
    table: Table,
    _apps: [App; 2],
}

impl Demo {
    async fn start(directory: &Path) -> anyhow::Result<Self> {
        let started = Instant::now();
        println!("Starting, in {}:", directory.display());
        println!(
            "  token issuer       a small one of Kubernetes-shaped tokens: part of this demo, in the place of your API server"
        );
        let options = mesh::Options {
            ttl: format!("{TTL}s"),
            ..mesh::Options::default()
        };
        let mut mesh = Mesh::at(directory, options)?;
        mesh.start_authority().await.context("the authority")?;
        println!("  arx-ca             the authority; certificates of workloads live {TTL} s here");
        let agents = [
            mesh.agent("node-1").await.context("the agent of node-1")?,
            mesh.agent("node-2").await.context("the agent of node-2")?,
        ];
        println!("  arx-node-agent x2  joined as node-1 and node-2");
        let apps = [App::start().await?, App::start().await?];
        // Each calls the other, so both need ports before one starts.
        let ports = [Ports::free()?, Ports::free()?];
        let envoy = |account: &str, own: usize, peer: usize, who: &str| {
            let mut options = Options::new(account, &agents[own].socket, apps[own].port);
            options.token = Some(mesh.token("shop", account, &agents[own].node));
            who.clone_into(&mut options.accept);
            options.peer = Some((ports[peer].inbound, who.to_owned()));
            Envoy::start_on(ports[own], directory, options)
        };
        let envoys = [envoy("web", 0, 1, API)?, envoy("api", 1, 0, WEB)?];
        for envoy in &envoys {
            envoy.is_warm().await?;
        }
        println!("  envoy x2           {WEB} on node-1, {API} on node-2");
        println!(
            "  and an application behind each; callers send requests both ways, through mTLS\n"
        );
        let [web, api] = envoys;
        Ok(Self {
            started,
            mesh,
            proxies: [Proxy::new("web", web), Proxy::new("api", api)],
            agents,
            rotation: None,
            table: Table::new(),
            _apps: apps,
        })
    }

    /// What happens, while the table is shown.
    async fn story(&mut self) -> anyhow::Result<()> {
        self.renewed(1).await?;
        self.mesh.kill_authority().await?;
        self.say("the authority was killed (SIGKILL)");
        let back = Instant::now() + AWAY;
        self.watch(|_| Instant::now() > back).await?;
        self.mesh.spawn_authority()?;
        self.mesh.authority_is_ready().await?;
        self.say(&format!(
            "the authority is back, after {} s",
            AWAY.as_secs()
        ));
        self.renewed(2).await?;
        self.agents[0].kill().await?;
        self.agents[0].start().await?;
        self.say(
            "the agent of node-1 was killed and started again: its proxy keeps its certificate",
        );
        self.renewed(RENEWALS).await?;
        let rotation = Rotation::begin(&self.mesh).await?;
        self.say(&rotation.begun());
        self.rotation = Some(rotation);
        self.watch(|demo| demo.rotation.as_ref().is_some_and(Rotation::has_ended))
            .await
    }

    /// Waits until each certificate was renewed so often.
    async fn renewed(&mut self, count: usize) -> anyhow::Result<()> {
        self.watch(|demo| demo.proxies.iter().all(|proxy| proxy.renewals() >= count))
            .await
    }

    async fn watch(&mut self, is_over: impl Fn(&Self) -> bool) -> anyhow::Result<()> {
        loop {
            for (proxy, agent) in self.proxies.iter_mut().zip(&self.agents) {
                proxy.look(agent).await;
            }
            if let Some(rotation) = &mut self.rotation {
                for news in rotation.look(&self.mesh).await? {
                    self.table.say(self.started, &news);
                }
            }
            let authority = self.mesh.authority.is_some();
            let rotation = self.rotation.as_ref();
            self.table
                .show(self.started, authority, &self.proxies, rotation);
            if is_over(self) {
                return Ok(());
            }
            if self.started.elapsed() > LONGEST {
                let missing = match &self.rotation {
                    None => format!("not every certificate was renewed {RENEWALS} times"),
                    Some(rotation) => format!("the root is not rotated: {}", rotation.line()),
                };
                bail!(
                    "after {} s {missing}: is this machine very busy?",
                    LONGEST.as_secs()
                );
            }
            sleep(PAUSE).await;
        }
    }

    fn say(&mut self, what: &str) {
        self.table.say(self.started, what);
    }

    async fn sum_up(&mut self) -> anyhow::Result<()> {
        println!("\nAfter {} s:", self.started.elapsed().as_secs());
        let (mut failed, mut refused) = (0, 0);
        for proxy in &self.proxies {
            let requests = proxy.requests();
            println!(
                "  {}: {} requests sent, {} failed; its certificate was renewed {} times, {} refused",
                proxy.name,
                requests.good + requests.failed,
                requests.failed,
                proxy.renewals(),
                proxy.refused,
            );
            for reason in &requests.reasons {
                println!("      {reason}");
            }
            failed += requests.failed;
            refused += proxy.refused;
        }
        if let Some(rotation) = &self.rotation {
            rotation.sum_up(&self.mesh, &self.proxies).await?;
        }
        let mut admin = self.mesh.admin().await?;
        let ledger = admin
            .verify_ledger(VerifyLedgerRequest {})
            .await?
            .into_inner();
        println!(
            "  the authority's ledger: {} records, {} problems",
            ledger.records,
            ledger.problems.len()
        );
        ensure!(failed == 0, "{failed} requests failed");
        ensure!(refused == 0, "a proxy refused {refused} secrets");
        ensure!(
            ledger.problems.is_empty(),
            "the ledger does not verify: {:?}",
            ledger.problems
        );
        println!("Not one request failed.");
        Ok(())
    }

    fn tell_where(&self, directory: &Path) {
        let arx =
            binary("arx").map_or_else(|_| "arx".to_owned(), |path| path.display().to_string());
        let [web, api] = &self.proxies;
        println!(
            "
It is left running. From another terminal:
  export ARX_ADMIN_SOCKET={}
  {arx} status                          # the authority, agents, certificates
  {arx} svid list                       # who has which certificate until when
  {arx} rotate report r1                # the evidence of the rotation
  curl -s http://127.0.0.1:{}/          # a request from web to api, by mTLS
  curl -s http://127.0.0.1:{}/certs     # what the Envoy of web serves; that of api: port {}
  curl -s http://127.0.0.1:{}/metrics   # the authority; the agents: ports {} and {}
  http://127.0.0.1:{}/                  # the authority's status page, for a browser
  ls {}                 # configurations, state, sockets
Ctrl-C (or kill {}) ends it.",
            self.mesh.admin_socket().display(),
            web.envoy.ports.outbound,
            web.envoy.ports.admin,
            api.envoy.ports.admin,
            self.mesh.ops_port,
            self.agents[0].ops_port,
            self.agents[1].ops_port,
            self.mesh.ops_port,
            directory.display(),
            std::process::id(),
        );
    }
}
