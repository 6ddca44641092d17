//! An agent that ends and comes back, under a real Envoy that goes on.

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::ensure;
use arx_tests::http as web;
use arx_tests::mesh::{Mesh, Options};
use arx_tests::pair::Pair;
use arx_tests::process::until;
use arx_tests::sds::Connection;

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_agent_that_is_killed_comes_back_with_the_same_certificate() -> anyhow::Result<()> {
    let mut pair = Pair::start(Options::default()).await?;
    let before = pair.serials().await?;
    let load = pair.load();
    let taken = pair.web.pushes().await?;
    // Without the authority: what is served again comes from the sealed cache.
    pair.mesh.kill_authority().await?;
    pair.agents[0].kill().await?;
    pair.agents[0].spawn()?;
    until("the streams' return", || async {
        let streams = web::metric(pair.agents[0].ops_port, "arx_agent_streams").await?;
        Ok(streams == Some(2.0) && pair.web.pushes().await? > taken)
    })
    .await?;
    ensure!(pair.serials().await? == before);
    load.stop().await.without_failure()
}

/// Looks at a path without a pause, from a thread of its own.
struct Watcher {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<usize>,
}

impl Watcher {
    fn start(path: PathBuf) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut missing = 0;
            while !told.load(Ordering::Relaxed) {
                let there = path.symlink_metadata();
                if !there.is_ok_and(|there| there.file_type().is_socket()) {
                    missing += 1;
                }
            }
            missing
        });
        Self { stop, thread }
    }

    /// How often there was no socket.
    fn missing(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or(usize::MAX)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_socket_is_replaced_in_one_step_by_an_agent_that_starts_again() -> anyhow::Result<()> {
    let mesh = Mesh::start(Options::default()).await?;
    let mut agent = mesh.agent("n1").await?;
    let token = mesh.token("shop", "web", "n1");
    let before = agent.socket.metadata()?.ino();
    let watcher = Watcher::start(agent.socket.clone());
    agent.kill().await?;
    agent.start().await?;
    ensure!(watcher.missing() == 0, "for a moment there was no socket");
    ensure!(
        agent.socket.metadata()?.ino() != before,
        "it is the old one"
    );
    let connection = Connection::open(&agent.socket, Some(&token)).await?;
    connection.stream(&["default"]).await?.next().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_agent_that_is_told_to_end_ends_its_streams_with_a_status() -> anyhow::Result<()> {
    let mesh = Mesh::start(Options::default()).await?;
    let mut agent = mesh.agent("n1").await?;
    let token = mesh.token("shop", "web", "n1");
    let connection = Connection::open(&agent.socket, Some(&token)).await?;
    let mut stream = connection.stream(&["default"]).await?;
    let response = stream.next().await?;
    stream.ack(&response)?;
    let ended = agent.stop().await?;
    ensure!(ended.code() == Some(0), "{ended}");
    let status = stream.end().await?;
    let code = status.map_or(tonic::Code::Ok, |status| status.code());
    ensure!(
        matches!(code, tonic::Code::Ok | tonic::Code::Unavailable),
        "{code:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_authority_that_is_killed_under_load_is_followed_again() -> anyhow::Result<()> {
    let mut pair = Pair::start(Options::default()).await?;
    let load = pair.load();
    for _ in 0..3 {
        pair.mesh.kill_authority().await?;
        pair.mesh.spawn_authority()?;
        pair.mesh.authority_is_ready().await?;
        until("both agents' return", || async {
            Ok(pair.mesh.status().await?.agents_connected == 2)
        })
        .await?;
    }
    load.stop().await.without_failure()
}
