//! The authority under load.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use arx_daemon::files::write_atomically;
use arx_identity::KeyAlgorithm;
use arx_proto::admin::v1::RequestRenewalRequest;

use super::Effort;
use super::client::{Client, Role};
use super::cpu::Cpu;
use super::figure::{Figure, Goal, median};
use super::issue::Report;
use super::node::{self, Authority};
use super::raw::Raw;
use super::{crowd, issue, join};
use crate::mesh::{AUDIENCE, Mesh, Options};
use crate::token_issuer::{Claims, TokenIssuer};

/// The identity of whoever runs the benchmark, by its user id.
pub(crate) const LOCAL_PATH: &str = "/local/bench";
/// How long each raw limit is measured.
const RAW: Duration = Duration::from_secs(1);

/// A mesh whose tokens are signed with RS256, as those of most clusters are, and in which
/// the process that measures has an identity.
pub(crate) async fn mesh() -> anyhow::Result<Mesh> {
    let uid = rustix::process::getuid().as_raw();
    let rule =
        format!("[[policy.local]]\npath = \"{LOCAL_PATH}\"\nnodes = [\"c1/*\"]\nuid = {uid}\n");
    let mut mesh = Mesh::prepare(Options {
        authority: rule,
        node_ttl: "24h".to_owned(),
        ..Options::default()
    })?;
    mesh.issuer = TokenIssuer::new("https://issuer.example.org", KeyAlgorithm::Rsa(2048))?;
    write_atomically(
        mesh.directory.join("jwks.json"),
        mesh.issuer.jwks().as_bytes(),
        0o644,
    )?;
    mesh.start_authority().await?;
    Ok(mesh)
}

/// How clients reach the authority of `mesh`.
pub(crate) fn reach(mesh: &Mesh) -> Authority {
    Authority {
        port: mesh.node_port,
        bundle: mesh.bundle(),
    }
}

pub(crate) fn process(mesh: &Mesh) -> anyhow::Result<u32> {
    Ok(mesh.authority.as_ref().context("the authority runs")?.id())
}

/// A token to join with, for each of so many nodes, one a line.
pub(crate) fn join_tokens(mesh: &Mesh, name: &str, count: u64) -> anyhow::Result<PathBuf> {
    let mut text = String::new();
    for number in 0..count {
        let node = format!("{name}-{number}");
        let claims = Claims::new(
            &format!("{AUDIENCE}/join"),
            "arx-system",
            "arx-node-agent",
            &node,
        );
        text.push_str(&mesh.issuer.mint(&claims));
        text.push('\n');
    }
    let path = mesh.directory.join(format!("{name}.tokens"));
    write_atomically(&path, text.as_bytes(), 0o600)?;
    Ok(path)
}

/// One run of a client: certificates by CPU-second of the authority, and what the client
/// saw.
pub(crate) async fn run(client: &mut Client, process: u32) -> anyhow::Result<(f64, Report)> {
    let before = Cpu::at_rest(process).await?;
    let report: Report = client.ask("go", "done").await?;
    let used = Cpu::at_rest(process).await?.since(&before);
    let certificates = u32::try_from(report.certificates)?;
    Ok((f64::from(certificates) / used.as_secs_f64(), report))
}

/// One way to ask for certificates.
struct Shape {
    id: &'static str,
    goal: f64,
    connections: usize,
    in_flight: usize,
    batch: usize,
    calls: u64,
    /// The 99th percentile must not be above this.
    p99_ms: Option<f64>,
}

const SHAPES: [Shape; 3] = [
    Shape {
        id: "issue_batch50",
        goal: 0.75,
        connections: 4,
        in_flight: 4,
        batch: 50,
        calls: 640,
        p99_ms: None,
    },
    Shape {
        id: "issue_single",
        goal: 0.5,
        connections: 4,
        in_flight: 16,
        batch: 1,
        calls: 12_000,
        p99_ms: Some(5.0),
    },
    Shape {
        id: "issue_single_4",
        goal: 0.3,
        connections: 4,
        in_flight: 4,
        batch: 1,
        calls: 8_000,
        p99_ms: None,
    },
];

pub(crate) async fn issuance(effort: Effort) -> anyhow::Result<Vec<Figure>> {
    let mesh = mesh().await?;
    let authority = reach(&mesh);
    let tokens = std::fs::read_to_string(join_tokens(&mesh, "node", 1)?)?;
    let svid = authority
        .new_node(&authority.tls(None)?, tokens.trim())
        .await?;
    let kept = mesh.directory.join("node.pem");
    node::keep(&svid, &kept)?;
    let raw = Raw::new()?;
    let mut figures = Vec::new();
    for shape in SHAPES {
        let mut client = Client::start(&Role::Issue(issue::Options {
            authority: authority.clone(),
            node: kept.clone(),
            connections: shape.connections,
            in_flight: shape.in_flight,
            batch: shape.batch,
            calls: usize::try_from(effort.of(shape.calls))?,
            tokens: None,
        }))
        .await?;
        run(&mut client, process(&mesh)?).await?;
        let (mut values, mut limits, mut p50, mut p99, mut wall) =
            (vec![], vec![], vec![], vec![], vec![]);
        for _ in 0..effort.repetitions {
            limits.push(raw.measure(RAW).await?);
            let (value, report) = run(&mut client, process(&mesh)?).await?;
            values.push(value);
            p50.push(report.p50_ms);
            p99.push(report.p99_ms);
            wall.push(f64::from(u32::try_from(report.certificates)?) / report.wall_s);
        }
        let figure = Figure::new(shape.id, "1/CPU-s", Goal::OfRaw(shape.goal), values)
            .raw(limits)
            .note(format!(
                "{:.0} a second of wall time, a call takes {:.2} ms (p50), {:.2} ms (p99)",
                median(&wall),
                median(&p50),
                median(&p99)
            ));
        figures.push(match shape.p99_ms {
            Some(most) => figure.and(
                median(&p99) <= most,
                format!("p99 {:.2} ms, must be <= {most}", median(&p99)),
            ),
            None => figure,
        });
    }
    Ok(figures)
}

pub(crate) async fn joins(effort: Effort) -> anyhow::Result<Vec<Figure>> {
    let mesh = mesh().await?;
    let joins = effort.of(800);
    let runs = u64::try_from(effort.repetitions)? + 1;
    let mut client = Client::start(&Role::Join(join::Options {
        authority: reach(&mesh),
        tokens: join_tokens(&mesh, "node", joins * runs)?,
        in_flight: 8,
        joins: usize::try_from(joins)?,
    }))
    .await?;
    run(&mut client, process(&mesh)?).await?;
    let (mut values, mut p99) = (vec![], vec![]);
    for _ in 0..effort.repetitions {
        let (value, report) = run(&mut client, process(&mesh)?).await?;
        values.push(value);
        p99.push(report.p99_ms);
    }
    let figure = Figure::new("join_rs256", "1/CPU-s", Goal::AtLeast(1300.0), values);
    Ok(vec![figure.note(format!(
        "a join takes {:.1} ms (p99)",
        median(&p99)
    ))])
}

/// Many agents that follow.
pub(crate) async fn fleet(effort: Effort) -> anyhow::Result<Vec<Figure>> {
    /// Together with what stands around it, a push has about 1 KB.
    const REASON: usize = 960;
    let mut mesh = mesh().await?;
    let agents = effort.of(1000);
    let mut crowd = Client::start(&Role::Crowd(crowd::Options {
        authority: reach(&mesh),
        tokens: join_tokens(&mesh, "node", agents)?,
    }))
    .await?;
    let (mut each, mut pushes) = (vec![], vec![]);
    for _ in 0..effort.repetitions {
        // A new process each time, so that nothing which joins have left is used again.
        mesh.authority
            .take()
            .context("the authority runs")?
            .stop()
            .await?;
        mesh.start_authority().await?;
        let process = process(&mesh)?;
        let memory = |mesh: &Mesh| {
            mesh.authority
                .as_ref()
                .context("the authority runs")?
                .rss_kib()
        };
        Cpu::at_rest(process).await?;
        let before = memory(&mesh)?;
        let count: u32 = crowd.ask("follow", "following").await?;
        Cpu::at_rest(process).await?;
        each.push((memory(&mesh)? as f64 - before as f64) / f64::from(count));

        let mut admin = mesh.admin().await?;
        let before = Cpu::at_rest(process).await?;
        crowd.ask::<()>("push", "armed").await?;
        let request = RequestRenewalRequest {
            window_ms: 3_600_000,
            reason: "x".repeat(REASON),
            all: true,
            ..RequestRenewalRequest::default()
        };
        let told = admin.request_renewal(request).await?.into_inner().agents;
        anyhow::ensure!(told == count, "{told} of {count} agents were told");
        crowd.hear::<u32>("heard").await?;
        let used = Cpu::at_rest(process).await?.since(&before);
        pushes.push(used.as_secs_f64() * 1e3);
        crowd.ask::<()>("leave", "gone").await?;
    }
    Ok(vec![
        Figure::new("agent_conn_kib", "KiB", Goal::AtMost(40.0), each)
            .note(format!("{agents} agents")),
        Figure::new("follow_push_1000", "ms", Goal::AtMost(35.0), pushes)
            .note("a hint to renew within the hour, of 1 KB".to_owned()),
    ])
}
