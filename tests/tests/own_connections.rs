//! Our own connections end when the root that they were verified by is distrusted, on both sides,
//! and the agents come back by themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use arx_identity::KeyId;
use arx_tests::http as web;
use arx_tests::mesh::{AUDIENCE, Agent, Mesh, Options};
use arx_tests::node::Authority;
use arx_tests::process::{PATIENCE, until};
use arx_tests::rotating::{distrust, reaches, roots};
use arx_tests::token_issuer::Claims;
use bytes::Bytes;
use http_body_util::Empty;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// The local ports of the connections that `process` has open to `port`.
fn connections(process: u32, port: u16) -> anyhow::Result<BTreeSet<String>> {
    let table = std::fs::read_to_string(format!("/proc/{process}/net/tcp"))?;
    let to = format!("0100007F:{port:04X}");
    // Local address, remote address, state (1 is established) and inode.
    let lines = table.lines().filter_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let wanted = fields.get(2) == Some(&to.as_str()) && fields.get(3) == Some(&"01");
        wanted.then(|| {
            let field = |at: usize| fields.get(at).map(ToString::to_string);
            Some((format!("socket:[{}]", field(9)?), field(1)?))
        })?
    });
    let open: BTreeMap<String, String> = lines.collect();
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(format!("/proc/{process}/fd"))? {
        // It may be closed by now.
        let Ok(target) = std::fs::read_link(entry?.path()) else {
            continue;
        };
        found.extend(open.get(&*target.to_string_lossy()).cloned());
    }
    Ok(found)
}

fn process(agent: &Agent) -> anyhow::Result<u32> {
    Ok(agent.process.as_ref().context("it runs")?.id())
}

async fn follows(agent: &Agent) -> anyhow::Result<bool> {
    let connected = web::metric(agent.ops_port, "arx_agent_follow_connected").await?;
    Ok(connected == Some(1.0))
}

async fn root(mesh: &Mesh) -> anyhow::Result<KeyId> {
    let roots = roots(mesh).await?;
    let root = arx_identity::Certificate::from_der(&roots[0])?;
    root.subject_key_id().context("a root has one")
}

fn text(path: &Path) -> anyhow::Result<String> {
    Ok(std::fs::read_to_string(path)?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn agents_leave_what_the_distrusted_root_has_vouched_for_and_come_back_by_themselves()
-> anyhow::Result<()> {
    let mesh = Mesh::start(Options::default()).await?;
    let agents = [mesh.agent("n1").await?, mesh.agent("n2").await?];
    let mut before = Vec::new();
    for agent in &agents {
        until("it follows", || follows(agent)).await?;
        before.push((
            process(agent)?,
            connections(process(agent)?, mesh.node_port)?,
        ));
    }
    ensure!(
        before.iter().all(|(_, open)| !open.is_empty()),
        "{before:?}"
    );
    let file = text(&mesh.bundle())?;

    let old = root(&mesh).await?;
    distrust(&mesh, &old.to_string(), Duration::from_secs(30)).await?;
    let done = reaches(&mesh, "done", |it| it.phase == "done").await?;
    ensure!(done.forced.is_empty(), "nobody was left behind: {done:?}");
    for (agent, (id, before)) in agents.iter().zip(&before) {
        until("all of before have ended, and it is there", || async {
            let now = connections(*id, mesh.node_port)?;
            Ok(now.is_disjoint(before) && !now.is_empty() && follows(agent).await?)
        })
        .await?;
        ensure!(process(agent)? == *id, "nobody has started it again");
    }
    ensure!(text(&mesh.bundle())? == file, "or given it another file");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_authority_closes_the_connection_of_a_node_that_stays_with_the_distrusted_root()
-> anyhow::Result<()> {
    let mesh = Mesh::start(Options::default()).await?;
    let authority = Authority {
        port: mesh.node_port,
        bundle: mesh.bundle(),
    };
    let audience = format!("{AUDIENCE}/join");
    let claims = Claims::new(&audience, "arx-system", "arx-node-agent", "n1");
    let token = mesh.issuer.mint(&claims);
    let svid = authority.new_node(&authority.tls(None)?, &token).await?;
    let stream = TcpStream::connect(("127.0.0.1", mesh.node_port)).await?;
    let stream = authority.tls(Some(&svid))?.connect(stream).await?;
    let handshake = http2::Builder::new(TokioExecutor::new()).handshake(TokioIo::new(stream));
    let (held, connection) = handshake.await?;
    let held: http2::SendRequest<Empty<Bytes>> = held;
    let mut ended = JoinSet::new();
    ended.spawn(connection);

    // It answers no bundle and renews nothing, so it is left behind.
    let old = root(&mesh).await?;
    distrust(&mesh, &old.to_string(), Duration::from_secs(2)).await?;
    reaches(&mesh, "published", |it| it.bundle_number > 1).await?;
    ensure!(
        ended.try_join_next().is_none(),
        "it stays while the root is trusted"
    );
    let done = reaches(&mesh, "done", |it| it.phase == "done").await?;
    ensure!(done.forced.iter().all(|it| it.left_behind == 1), "{done:?}");
    let closed = tokio::time::timeout(PATIENCE, ended.join_next()).await;
    ensure!(closed.is_ok(), "the connection is still open");
    ensure!(held.is_closed());
    // It does not come in again by what it has.
    let stream = TcpStream::connect(("127.0.0.1", mesh.node_port)).await?;
    let again = authority.tls(Some(&svid))?.connect(stream).await;
    ensure!(again.is_err(), "the server is not believed by the old file");
    Ok(())
}
