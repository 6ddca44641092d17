//! The demo: two nodes, two real Envoys with an application behind each, requests from
//! one to the other by mTLS, while everything is renewed, killed and brought back.

mod table;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::time::{Instant, sleep};

use crate::app::App;
use crate::envoy::{Envoy, Options as Proxy};
use crate::load::{Load, Outcome};
use crate::mesh::{Agent, Mesh, Options};
use table::{Row, Table};

/// Lifetime of a certificate; it is renewed at half of that.
const TTL: u64 = 20;
/// Renewals of each certificate that are waited for.
const RENEWALS: u64 = 3;
/// How long the authority is away.
const AWAY: Duration = Duration::from_secs(12);
/// When it ends at the latest.
const LONGEST: Duration = Duration::from_secs(110);
const WEB: &str = "spiffe://example.org/ns/shop/sa/web";
const API: &str = "spiffe://example.org/ns/shop/sa/api";

/// What is running.
struct Demo {
    mesh: Mesh,
    agents: [Agent; 2],
    web: Envoy,
    api: Envoy,
    _apps: [App; 2],
}

/// What the table shows beside the proxies.
struct Show<'a> {
    table: Table,
    started: Instant,
    load: &'a Load,
    back: &'a Load,
}

/// What is waited for.
#[derive(Clone, Copy)]
enum Until {
    /// Each certificate was renewed so often.
    Renewals(u64),
    /// This moment.
    Time(Instant),
}

/// Runs the demo. With `keep`, everything is left running until the process is
/// interrupted.
///
/// # Errors
/// If anything does not start, a request failed, or a certificate was not renewed often
/// enough in time.
pub async fn run(keep: bool) -> anyhow::Result<()> {
    let started = Instant::now();
    let temporary = tempfile::Builder::new()
        .prefix("arx-demo-")
        .tempdir_in("/tmp")?;
    let demo = Demo::start(temporary.path()).await?;
    let (load, back) = (
        Load::start(demo.web.outbound, 4, Duration::from_millis(10)),
        Load::start(demo.api.outbound, 4, Duration::from_millis(10)),
    );
    let mut demo = demo;
    let outcome = demo.story(started, &load, &back).await;
    if keep && outcome.is_ok() {
        demo.tell_where(temporary.path());
        tokio::signal::ctrl_c().await?;
        println!("Ending.");
    }
    let (load, back) = (load.stop().await, back.stop().await);
    outcome?;
    demo.sum_up(started, &[("web -> api", &load), ("api -> web", &back)])
        .await
}

impl Demo {
    async fn start(directory: &Path) -> anyhow::Result<Self> {
        println!("Starting, in {}:", directory.display());
        println!(
            "  a small issuer of Kubernetes-shaped tokens: part of this demo, in the place of your API server"
        );
        let options = Options {
            ttl: format!("{TTL}s"),
            ..Options::default()
        };
        let mut mesh = Mesh::at(directory, options)?;
        mesh.start_authority().await.context("the authority")?;
        println!(
            "  arx-ca             the authority; its certificates for workloads live {TTL} s here"
        );
        let agents = [
            mesh.agent("node-1").await.context("the agent of node-1")?,
            mesh.agent("node-2").await.context("the agent of node-2")?,
        ];
        println!("  arx-node-agent x2  joined as node-1 and node-2");
        let apps = [App::start().await?, App::start().await?];
        // Each calls the other, so each is told the other's port before it starts.
        let proxy = |id: &str, account: &str, node: usize, who: &str| {
            let mut proxy = Proxy::new(id, &agents[node].socket, apps[node].port);
            proxy.token = Some(mesh.token("shop", account, &agents[node].node));
            proxy.accept = who.to_owned();
            proxy
        };
        let api = Envoy::start(directory, proxy("api", "api", 1, WEB))?;
        let mut web = proxy("web", "web", 0, API);
        web.peer = Some((api.inbound, API.to_owned()));
        let web = Envoy::warm(directory, web).await?;
        let inbound = web.inbound;
        let api = api
            .restart(|options| options.peer = Some((inbound, WEB.to_owned())))
            .await?;
        api.is_warm().await?;
        println!("  envoy x2           {WEB} on node-1, {API} on node-2");
        println!(
            "  an application behind each, and callers that send requests both ways through mTLS\n"
        );
        Ok(Self {
            mesh,
            agents,
            web,
            api,
            _apps: apps,
        })
    }

    /// What happens, while the table is shown.
    async fn story(&mut self, started: Instant, load: &Load, back: &Load) -> anyhow::Result<()> {
        let mut show = Show {
            table: Table::new(),
            started,
            load,
            back,
        };
        self.watch(&mut show, Until::Renewals(1)).await?;
        self.mesh.kill_authority().await?;
        say(started, "the authority was killed (SIGKILL)");
        self.watch(&mut show, Until::Time(Instant::now() + AWAY))
            .await?;
        self.mesh.spawn_authority()?;
        self.mesh.authority_is_ready().await?;
        say(
            started,
            &format!("the authority is back after {} s", AWAY.as_secs()),
        );
        self.watch(&mut show, Until::Renewals(2)).await?;
        self.agents[0].kill().await?;
        self.agents[0].start().await?;
        say(
            started,
            "the agent of node-1 was killed and started again: its proxy keeps its certificate",
        );
        self.watch(&mut show, Until::Renewals(RENEWALS)).await
    }

    async fn watch(&self, show: &mut Show<'_>, until: Until) -> anyhow::Result<()> {
        loop {
            let rows = self.rows().await;
            show.table.show(
                show.started,
                &rows,
                &show.load.so_far(),
                &show.back.so_far(),
                self.mesh.authority.is_some(),
            );
            let reached = match until {
                // The first push was the first certificate.
                Until::Renewals(count) => {
                    self.web.pushes().await? > count && self.api.pushes().await? > count
                }
                Until::Time(time) => Instant::now() > time,
            };
            if reached || show.started.elapsed() > LONGEST {
                return Ok(());
            }
            sleep(Duration::from_millis(500)).await;
        }
    }

    async fn rows(&self) -> [Row; 2] {
        [
            Row::read("web", &self.web, &self.agents[0]).await,
            Row::read("api", &self.api, &self.agents[1]).await,
        ]
    }

    async fn sum_up(&self, started: Instant, loads: &[(&str, &Outcome)]) -> anyhow::Result<()> {
        println!("\nAfter {} s:", started.elapsed().as_secs());
        let mut failed = 0;
        for (what, outcome) in loads {
            println!(
                "  {what}: {} requests, {} failed",
                outcome.good + outcome.failed,
                outcome.failed
            );
            failed += outcome.failed;
            for reason in &outcome.reasons {
                println!("    {reason}");
            }
        }
        let mut renewals = Vec::new();
        for (name, envoy) in [("web", &self.web), ("api", &self.api)] {
            // The first push was the first certificate.
            let count = envoy.pushes().await?.saturating_sub(1);
            let refused = envoy.stat("sds.default.update_rejected").await?;
            println!("  {name}: its certificate was renewed {count} times, {refused} refused");
            ensure!(refused == 0, "{name} has refused a certificate");
            renewals.push(count);
        }
        let status = self.mesh.status().await?;
        println!(
            "  the authority has {} valid certificates, and its ledger a record of each",
            status.live_certificates
        );
        ensure!(failed == 0, "{failed} requests failed");
        ensure!(
            renewals.iter().all(|count| *count >= RENEWALS),
            "a certificate was renewed less than {RENEWALS} times: is this machine very busy?"
        );
        println!("Not one request failed.");
        Ok(())
    }

    fn tell_where(&self, directory: &Path) {
        let arx = crate::process::binary("arx")
            .map_or_else(|_| "arx".to_owned(), |path| path.display().to_string());
        println!("\nIt is left running. Look at it from another terminal:");
        println!(
            "  ARX_ADMIN_SOCKET={} {arx} status",
            self.mesh.admin_socket().display()
        );
        println!(
            "  ARX_ADMIN_SOCKET={} {arx} svid list",
            self.mesh.admin_socket().display()
        );
        println!(
            "  curl http://127.0.0.1:{}/certs       # what the Envoy of web serves; {} is that of api",
            self.web.admin, self.api.admin
        );
        println!(
            "  curl http://127.0.0.1:{}/            # a request from web to api",
            self.web.outbound
        );
        println!(
            "  curl http://127.0.0.1:{}/metrics     # the authority; the agents: {} and {}",
            self.mesh.ops_port, self.agents[0].ops_port, self.agents[1].ops_port
        );
        println!("  ls {}", directory.display());
        println!("Ctrl-C ends it.");
    }
}

fn say(started: Instant, what: &str) {
    println!("\n[{:>3} s] {what}\n", started.elapsed().as_secs());
}
