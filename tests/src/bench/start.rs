//! From nothing to serving.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use http::StatusCode;

use super::Effort;
use super::authority::{join_tokens, mesh, process, reach};
use super::client::{Client, Role};
use super::cpu::Cpu;
use super::figure::{Figure, Goal};
use super::{issue, node, proxies};
use crate::http as web;

/// Between two looks at whether somebody is ready.
const LOOK: Duration = Duration::from_millis(1);
const PATIENCE: Duration = Duration::from_secs(30);

/// An authority with state and a ledger starts, and then idles.
pub(crate) async fn authority(effort: Effort) -> anyhow::Result<Vec<Figure>> {
    let mut mesh = mesh().await?;
    let tokens = std::fs::read_to_string(join_tokens(&mesh, "node", 1)?)?;
    let reached = reach(&mesh);
    let svid = reached.new_node(&reached.tls(None)?, tokens.trim()).await?;
    let kept = mesh.directory.join("node.pem");
    node::keep(&svid, &kept)?;
    let mut client = Client::start(&Role::Issue(issue::Options {
        authority: reached,
        node: kept,
        connections: 1,
        in_flight: 4,
        batch: 50,
        calls: usize::try_from(effort.of(200))?,
        tokens: None,
    }))
    .await?;
    let report: issue::Report = client.ask("go", "done").await?;
    drop(client);
    let (mut memory, mut times) = (vec![], vec![]);
    for _ in 0..effort.repetitions {
        mesh.authority
            .take()
            .context("the authority runs")?
            .stop()
            .await?;
        let start = Instant::now();
        mesh.spawn_authority()?;
        ready(mesh.ops_port, start).await?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
        Cpu::at_rest(process(&mesh)?).await?;
        let authority = mesh.authority.as_ref().context("the authority runs")?;
        memory.push(authority.rss_kib()? as f64 / 1024.0);
    }
    let note = format!(
        "{} live certificates in the ledger",
        report.certificates + 1
    );
    Ok(vec![
        Figure::new("ca_rss_mib", "MiB", Goal::AtMost(25.0), memory).note(note.clone()),
        Figure::new("ca_ready_ms", "ms", Goal::Below(100.0), times).note(note),
    ])
}

async fn ready(port: u16, since: Instant) -> anyhow::Result<()> {
    while since.elapsed() < PATIENCE {
        if matches!(web::get(port, "/readyz").await, Ok((StatusCode::OK, _))) {
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
    anyhow::bail!("it does not become ready")
}

/// An agent starts while its authority is away, and serves from its sealed cache.
pub(crate) async fn agent(effort: Effort) -> anyhow::Result<Vec<Figure>> {
    let mut mesh = mesh().await?;
    let mut agent = mesh.agent("node-1").await?;
    proxies::first_secret(&agent.socket, "default").await?;
    mesh.kill_authority().await?;
    let mut times = Vec::new();
    for _ in 0..effort.repetitions {
        agent.stop().await?;
        let start = Instant::now();
        agent.spawn()?;
        proxies::first_secret(&agent.socket, "default").await?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    Ok(vec![Figure::new(
        "agent_first_secret_ms",
        "ms",
        Goal::Below(50.0),
        times,
    )])
}
