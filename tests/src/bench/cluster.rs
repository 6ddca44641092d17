//! The authority in a cluster: pods that start, and pods that are watched.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use arx_daemon::files::write_atomically;

use super::Effort;
use super::api_server::{self, Place};
use super::authority::{mesh, process, reach};
use super::client::{Client, Role};
use super::cold_start;
use super::cpu::Cpu;
use super::figure::{Figure, Goal, median};
use super::issue::Report;
use crate::http as web;
use crate::mesh::{AUDIENCE, Mesh};
use crate::token_issuer::Claims;

/// How long anything here may take.
const PATIENCE: Duration = Duration::from_secs(170);

/// An API server with so many pods, and an authority that watches them.
struct Watched {
    mesh: Mesh,
    api: Client,
}

impl Watched {
    async fn start(pods: usize, nodes: usize) -> anyhow::Result<Self> {
        let mut api = Client::start(&Role::ApiServer(api_server::Options { pods, nodes })).await?;
        let port: u16 = api.ask("port", "listens").await?;
        let mut mesh = mesh().await?;
        let kubeconfig = mesh.directory.join("kubeconfig");
        write_atomically(&kubeconfig, api_server::kubeconfig(port)?.as_bytes(), 0o600)?;
        let line = format!(
            "verification = \"local-then-review\"\nkubeconfig = \"{}\"",
            kubeconfig.display()
        );
        mesh.reconfigure(|options| options.cluster = line)?;
        mesh.stop_authority().await?;
        mesh.start_authority().await?;
        let mut this = Self { mesh, api };
        this.knows(pods + nodes).await?;
        Ok(this)
    }

    /// Another process in the authority's place.
    async fn again(&mut self, pods: usize) -> anyhow::Result<()> {
        self.mesh.stop_authority().await?;
        self.mesh.start_authority().await?;
        self.knows(pods).await
    }

    async fn knows(&mut self, pods: usize) -> anyhow::Result<()> {
        self.counts("arx_ca_pods{cluster=\"c1\"}", pods).await?;
        Cpu::at_rest(process(&self.mesh)?).await.map(drop)
    }

    /// Waits until a metric has reached this.
    async fn counts(&self, name: &str, least: usize) -> anyhow::Result<()> {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            let value = web::metric(self.mesh.ops_port, name).await?;
            if value.is_some_and(|value| value >= least as f64) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        anyhow::bail!("{name} does not become {least}")
    }

    fn memory_mib(&self) -> anyhow::Result<(f64, f64)> {
        let authority = self.mesh.authority.as_ref().context("the authority runs")?;
        let mib = |kib: u64| kib as f64 / 1024.0;
        Ok((mib(authority.rss_kib()?), mib(authority.peak_kib()?)))
    }
}

/// 10,000 pods on 100 nodes start at once.
pub(crate) async fn cold_start(effort: Effort) -> anyhow::Result<Vec<Figure>> {
    let nodes = usize::try_from(effort.of(100))?;
    let pods = nodes * 100;
    let mut watched = Watched::start(pods, nodes).await?;
    let mut agents = Client::start(&Role::ColdStart(cold_start::Options {
        authority: reach(&watched.mesh),
        nodes,
        pods: pods / nodes,
    }))
    .await?;
    let (mut used, mut reviews, mut wall) = (vec![], vec![], vec![]);
    let mut reviewed: u64 = watched.api.ask("reviews", "reviewed").await?;
    for _ in 0..effort.repetitions {
        let order = serde_json::to_string(&tokens(&watched.mesh, pods, nodes)?)?;
        let process = process(&watched.mesh)?;
        let before = Cpu::at_rest(process).await?;
        let report: Report = agents.ask(&order, "done").await?;
        anyhow::ensure!(report.certificates == pods, "everybody has a certificate");
        let after = Cpu::at_rest(process).await?;
        used.push(after.since(&before).as_secs_f64());
        wall.push(report.wall_s);
        let now: u64 = watched.api.ask("reviews", "reviewed").await?;
        reviews.push((now - reviewed) as f64);
        reviewed = now;
    }
    let note = format!(
        "{pods} pods on {nodes} nodes, each proved by a token; {:.1} s of wall time with their clients on this machine",
        median(&wall)
    );
    let most = nodes as f64;
    Ok(vec![
        Figure::new("cold_start_10k", "CPU-s", Goal::Below(3.0), used).note(note),
        Figure::new("cold_start_reviews", "calls", Goal::AtMost(most), reviews)
            .note("one for each agent that joins".to_owned()),
    ])
}

/// New tokens for all agents and all pods.
fn tokens(mesh: &Mesh, pods: usize, nodes: usize) -> anyhow::Result<cold_start::Order> {
    let write = |name: &str, tokens: Vec<String>| {
        let path = mesh.directory.join(name);
        write_atomically(&path, tokens.join("\n").as_bytes(), 0o600)?;
        anyhow::Ok(path)
    };
    let joins = (0..nodes).map(|node| {
        mesh.issuer.mint(&Claims {
            pod: Some(format!("arx-node-agent-{node}")),
            ..Claims::new(
                &format!("{AUDIENCE}/join"),
                "arx-system",
                "arx-node-agent",
                &format!("node-{node}"),
            )
        })
    });
    let of_node = |node: usize| (node..pods).step_by(nodes);
    let mine = (0..nodes).flat_map(of_node).map(|number| {
        let Place {
            namespace,
            name,
            node,
        } = Place::of(number, nodes);
        mesh.issuer.mint(&Claims {
            pod: Some(name),
            ..Claims::new(AUDIENCE, &namespace, "web", &node)
        })
    });
    Ok(cold_start::Order {
        joins: write("joins.tokens", joins.collect())?,
        pods: write("pods.tokens", mine.collect())?,
    })
}

/// The index of 100,000 pods: what it takes in memory, and what changes of it cost.
pub(crate) async fn index(effort: Effort) -> anyhow::Result<Vec<Figure>> {
    let pods = usize::try_from(effort.of(100_000))?;
    let events = usize::try_from(effort.of(100_000))?;
    let mut none = Watched::start(0, 0).await?;
    let mut empty = vec![none.memory_mib()?.0];
    for _ in 1..effort.repetitions {
        none.again(0).await?;
        empty.push(none.memory_mib()?.0);
    }
    drop(none);
    let empty = median(&empty);
    let mut watched = Watched::start(pods, 0).await?;
    let (mut resident, mut peak, mut rate) = (vec![], vec![], vec![]);
    for repetition in 0..effort.repetitions {
        if repetition > 0 {
            watched.again(pods).await?;
        }
        let (now, most) = watched.memory_mib()?;
        resident.push(now - empty);
        peak.push(most - empty);
        let process = process(&watched.mesh)?;
        let before = Cpu::at_rest(process).await?;
        let order = format!("happens {events}");
        watched.api.ask::<()>(&order, "happened").await?;
        let name = "arx_ca_pod_events_total{cluster=\"c1\"}";
        watched.counts(name, events).await?;
        let used = Cpu::at_rest(process).await?.since(&before);
        rate.push(events as f64 / used.as_secs_f64());
    }
    let note = format!(
        "{pods} pods of 6 KB each, read in pages; {:.1} MiB at the peak, both beyond the {empty:.1} MiB of an authority without pods",
        median(&peak)
    );
    Ok(vec![
        Figure::new("index_mib_100k", "MiB", Goal::AtMost(40.0), resident)
            .and(
                median(&peak) <= 40.0,
                format!("peak {:.1} MiB, must be <= 40", median(&peak)),
            )
            .note(note),
        Figure::new("index_events", "1/CPU-s", Goal::AtLeast(20_000.0), rate)
            .note(format!("{events} changes of pods, one after the other")),
    ])
}
