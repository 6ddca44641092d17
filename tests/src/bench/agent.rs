//! The node agent and its proxies.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use arx_daemon::files::write_atomically;
use arx_proto::admin::v1::RequestRenewalRequest;

use super::Effort;
use super::authority::{LOCAL_PATH, mesh};
use super::client::{Client, Role};
use super::cpu::Cpu;
use super::fat;
use super::figure::{Figure, Goal};
use super::proxies::Options;
use super::raw::receive;
use crate::mesh::{Agent, Mesh, TRUST_DOMAIN};

const NODE: &str = "node-1";
/// Memory is given back within this after streams have closed.
const SETTLED: Duration = Duration::from_secs(3);

fn process(agent: &Agent) -> anyhow::Result<u32> {
    Ok(agent.process.as_ref().context("the agent runs")?.id())
}

fn rss_kib(agent: &Agent) -> anyhow::Result<f64> {
    Ok(agent
        .process
        .as_ref()
        .context("the agent runs")?
        .rss_kib()? as f64)
}

/// So many connections with two streams each, all of them open and acknowledged.
async fn proxies(options: Options) -> anyhow::Result<Client> {
    let mut client = Client::start(&Role::Proxies(options)).await?;
    client.ask::<usize>("open", "open").await?;
    Ok(client)
}

pub(crate) fn same_identity(
    agent: &Agent,
    connections: u64,
    names: [&str; 2],
) -> anyhow::Result<Options> {
    Ok(Options {
        socket: agent.socket.clone(),
        connections: usize::try_from(connections)?,
        names: names.map(str::to_owned).into(),
        tokens: None,
        node_in_acks: false,
    })
}

/// Has everything renewed at once that `what` names.
async fn renew(mesh: &Mesh, what: RequestRenewalRequest) -> anyhow::Result<()> {
    let answer = mesh
        .admin()
        .await?
        .request_renewal(what)
        .await?
        .into_inner();
    anyhow::ensure!(answer.agents > 0, "no agent was told to renew");
    Ok(())
}

/// One certificate's rotation, pushed to two streams on each of 500 connections.
pub(crate) async fn pushes(effort: Effort) -> anyhow::Result<Vec<Figure>> {
    /// More than this is lasting growth.
    const GROWTH_KIB: f64 = 1024.0;
    let mesh = mesh().await?;
    let connections = effort.of(500);
    let mut figures = Vec::new();
    for (id, node_in_acks, goal) in [("push_1000", false, 20.0), ("push_1000_node", true, 60.0)] {
        let agent = mesh.agent(NODE).await?;
        let mut client = proxies(Options {
            node_in_acks,
            ..same_identity(&agent, connections, ["default"; 2])?
        })
        .await?;
        let (mut values, mut raw) = (Vec::new(), Vec::new());
        let mut memory = 0.0;
        for run in 0..=effort.repetitions {
            if node_in_acks && run > 0 {
                let messages = usize::try_from(2 * connections)?;
                raw.push(receive(messages, fat::length())?.as_secs_f64() * 1e3);
            }
            let before = Cpu::at_rest(process(&agent)?).await?;
            client.ask::<()>("all", "armed").await?;
            let identity = format!("spiffe://{TRUST_DOMAIN}{LOCAL_PATH}");
            renew(
                &mesh,
                RequestRenewalRequest {
                    identity,
                    ..RequestRenewalRequest::default()
                },
            )
            .await?;
            client.hear::<f64>("acked").await?;
            let rest = Cpu::both_at_rest(process(&agent)?, client.id()?).await?;
            let used = rest.since(&before);
            if run == 0 {
                // The first one warms up.
                tokio::time::sleep(SETTLED).await;
                memory = rss_kib(&agent)?;
            } else {
                values.push(used.as_secs_f64() * 1e3);
            }
        }
        tokio::time::sleep(SETTLED).await;
        let growth = rss_kib(&agent)? - memory;
        let figure = Figure::new(id, "ms", Goal::AtMost(goal), values).raw(raw);
        let said = format!("memory grew by {growth:.0} KiB in all");
        figures.push(if node_in_acks {
            figure.and(growth <= GROWTH_KIB, said)
        } else {
            figure.note(said)
        });
    }
    Ok(figures)
}

/// 250 identities on one node, renewed at once.
pub(crate) async fn rekey(effort: Effort) -> anyhow::Result<Vec<Figure>> {
    let mesh = mesh().await?;
    let agent = mesh.agent(NODE).await?;
    let identities = effort.of(250);
    let mut tokens = String::new();
    for number in 0..identities {
        tokens.push_str(&mesh.token("bench", &format!("web-{number}"), NODE));
        tokens.push('\n');
    }
    let path = mesh.directory.join("workloads.tokens");
    write_atomically(&path, tokens.as_bytes(), 0o600)?;
    let mut client = proxies(Options {
        tokens: Some(path),
        ..same_identity(&agent, identities, ["default", "ROOTCA"])?
    })
    .await?;
    let (mut memory, mut times) = (vec![], vec![]);
    for run in 0..=effort.repetitions {
        Cpu::at_rest(process(&agent)?).await?;
        tokio::time::sleep(SETTLED).await;
        memory.push(rss_kib(&agent)? / 1024.0);
        client.ask::<()>(&identities.to_string(), "armed").await?;
        let start = Instant::now();
        renew(
            &mesh,
            RequestRenewalRequest {
                node: NODE.to_owned(),
                ..RequestRenewalRequest::default()
            },
        )
        .await?;
        client.hear::<f64>("acked").await?;
        if run > 0 {
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    Ok(vec![
        Figure::new("rekey_250_ms", "ms", Goal::Below(500.0), times),
        Figure::new("agent_rss_mib", "MiB", Goal::AtMost(20.0), memory)
            .note(format!("{identities} workloads, two streams each")),
    ])
}

/// What idle streams hold, and what is left of it.
pub(crate) async fn streams(effort: Effort) -> anyhow::Result<Vec<Figure>> {
    let mesh = mesh().await?;
    let mut agent = mesh.agent(NODE).await?;
    let connections = effort.of(500);
    let streams = f64::from(u32::try_from(connections * 2)?);
    let (mut held, mut left) = (vec![], vec![]);
    for _ in 0..effort.repetitions {
        agent.stop().await?;
        agent.start().await?;
        // The certificate and its bookkeeping are not the streams'.
        let mut first = proxies(same_identity(&agent, 1, ["default", "ROOTCA"])?).await?;
        first.ask::<()>("close", "closed").await?;
        tokio::time::sleep(SETTLED).await;
        let before = rss_kib(&agent)?;
        let mut client =
            proxies(same_identity(&agent, connections, ["default", "ROOTCA"])?).await?;
        Cpu::at_rest(process(&agent)?).await?;
        let open = rss_kib(&agent)?;
        client.ask::<()>("close", "closed").await?;
        tokio::time::sleep(SETTLED).await;
        let after = rss_kib(&agent)?;
        held.push((open - before) / streams);
        left.push((after - before) / streams);
    }
    Ok(vec![
        Figure::new("stream_kib", "KiB", Goal::AtMost(20.0), held),
        Figure::new("stream_left_kib", "KiB", Goal::AtMost(3.0), left),
    ])
}
