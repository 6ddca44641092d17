//! An agent's socket among clients that are wrong, slow, or very many.

use anyhow::{Context as _, ensure};
use arx_tests::app::App;
use arx_tests::envoy::{Envoy, Options as Proxy};
use arx_tests::http as web;
use arx_tests::mesh::{Agent, Mesh, Options};
use arx_tests::process::until;
use arx_tests::sds::{Connection, request, secrets};
use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustix::process::Signal;
use std::path::Path;
use tokio::net::UnixStream;
use tokio::task::JoinSet;

fn short_lived() -> Options {
    Options {
        ttl: "6s".to_owned(),
        ..Options::default()
    }
}

fn rss_kib(agent: &Agent) -> anyhow::Result<u64> {
    agent.process.as_ref().context("it runs")?.rss_kib()
}

async fn streams(agent: &Agent) -> anyhow::Result<Option<f64>> {
    web::metric(agent.ops_port, "arx_agent_streams").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn wrong_requests_are_met_with_silence_and_other_streams_go_on() -> anyhow::Result<()> {
    let mesh = Mesh::start(short_lived()).await?;
    let agent = mesh.agent("n1").await?;
    let token = mesh.token("shop", "web", "n1");
    let connection = Connection::open(&agent.socket, Some(&token)).await?;
    let mut good = connection.stream(&["default"]).await?;
    let first = good.next().await?;
    good.ack(&first)?;
    // On streams of the same connection:
    let mut unknown = connection.stream(&["nothing-of-this-name"]).await?;
    let mut nothing = connection.stream(&[]).await?;
    let mut stale = connection.stream(&["ROOTCA"]).await?;
    let roots = stale.next().await?;
    stale.ack(&roots)?;
    let mut old = request(&["default", "ROOTCA"]);
    "of-another-time".clone_into(&mut old.response_nonce);
    stale.send(old)?;
    let mut wrong = request(&["default"]);
    "type.googleapis.com/envoy.config.cluster.v3.Cluster".clone_into(&mut wrong.type_url);
    if let Ok(stream) = connection.stream_with(wrong).await {
        let status = stream.end().await?.context("an error")?;
        ensure!(status.code() == tonic::Code::InvalidArgument, "{status:?}");
    }
    // The good one is renewed meanwhile, once, and nobody else has got anything.
    let second = good.next().await?;
    ensure!(second.version_info != first.version_info);
    ensure!(unknown.is_silent().await, "an unknown name is answered");
    ensure!(nothing.is_silent().await, "an empty list is answered");
    ensure!(stale.is_silent().await, "a stale nonce is answered");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn ten_thousand_streams_are_served_and_leave_the_others_alone() -> anyhow::Result<()> {
    const CONNECTIONS: usize = 100;
    // One user has half of all memory, but root.
    let is_root = rustix::process::getuid().is_root();
    let streams_each = if is_root { 100 } else { 50 };
    let mesh = Mesh::start(Options::default()).await?;
    let agent = mesh.agent("n1").await?;
    let before = rss_kib(&agent)?;
    let token = mesh.token("shop", "web", "n1");
    let mut crowd = Vec::new();
    for _ in 0..CONNECTIONS {
        let connection = Connection::open(&agent.socket, Some(&token)).await?;
        for _ in 0..streams_each {
            let mut stream = connection.stream(&["default"]).await?;
            let response = stream.next().await?;
            stream.ack(&response)?;
            crowd.push(stream);
        }
    }
    until("the count", || async {
        Ok(streams(&agent).await? == Some((CONNECTIONS * streams_each) as f64))
    })
    .await?;
    let each = rss_kib(&agent)?.saturating_sub(before) / crowd.len() as u64;
    ensure!(each <= 16, "{each} KiB for each stream");
    // Somebody else comes, and is served.
    let other = mesh.token("shop", "api", "n1");
    let connection = Connection::open(&agent.socket, Some(&other)).await?;
    let response = connection.stream(&["default"]).await?.next().await?;
    ensure!(secrets(&response)?.len() == 1);
    drop(crowd);
    until("the end of the crowd", || async {
        Ok(streams(&agent).await? <= Some(1.0))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_proxy_that_does_not_read_costs_nothing_and_wakes_to_the_newest() -> anyhow::Result<()> {
    let mesh = Mesh::start(short_lived()).await?;
    let agent = mesh.agent("n1").await?;
    let app = App::start().await?;
    let proxy = |account: &str| {
        let mut options = Proxy::new(account, &agent.socket, app.port);
        options.token = Some(mesh.token("shop", account, "n1"));
        options
    };
    let sleeper = Envoy::warm(&mesh.directory, proxy("web")).await?;
    let awake = Envoy::warm(&mesh.directory, proxy("api")).await?;
    let old = sleeper.certificate().await?.serial;
    sleeper.process.signal(Signal::STOP)?;
    let before = rss_kib(&agent)?;
    for _ in 0..3 {
        let serial = awake.certificate().await?.serial;
        until("renewal of the other", || async {
            Ok(awake.certificate().await?.serial != serial)
        })
        .await?;
    }
    let grown = rss_kib(&agent)?.saturating_sub(before);
    ensure!(grown < 4096, "the agent has grown by {grown} KiB");
    sleeper.process.signal(Signal::CONT)?;
    until("the newest certificate", || async {
        Ok(sleeper.certificate().await?.serial != old)
    })
    .await
}

/// A client that sends as much as it can and has no room for any answer. Everything is over
/// when it is dropped.
struct Deaf {
    _tasks: JoinSet<()>,
    answered: usize,
}

impl Deaf {
    /// Opens so many streams, each with a first message of some 61 KB, and waits until all
    /// of them are there.
    async fn connect(socket: &Path, streams: usize) -> anyhow::Result<Self> {
        const PATH: &str =
            "http://sds/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets";
        let stream = UnixStream::connect(socket).await?;
        let (mut requests, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(0)
            .handshake(TokioIo::new(stream))
            .await?;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { drop(connection.await) });
        // Field 2, the node, with 61,000 bytes of a field that is not looked at.
        let node = [
            &[0x12, 0xcc, 0xdc, 0x03, 0x1a, 0xc8, 0xdc, 0x03][..],
            &[b'n'; 61_000],
        ]
        .concat();
        let message = [&[0][..], &u32::try_from(node.len())?.to_be_bytes(), &node].concat();
        let message = Bytes::from(message);
        let mut answers = JoinSet::new();
        for _ in 0..streams {
            requests.ready().await?;
            let request = http::Request::post(PATH)
                .header("content-type", "application/grpc")
                .body(Full::new(message.clone()))?;
            answers.spawn(requests.send_request(request));
        }
        let mut answered = 0;
        while let Some(answer) = answers.join_next().await {
            let answer = answer??;
            if answer.headers().get("grpc-status").is_none() {
                answered += 1;
                tasks.spawn(async move {
                    let _unread = answer;
                    std::future::pending::<()>().await;
                });
            }
        }
        Ok(Self {
            _tasks: tasks,
            answered,
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn clients_that_never_read_hold_no_more_than_their_windows() -> anyhow::Result<()> {
    const CONNECTIONS: usize = 60;
    const STREAMS: usize = 100;
    let mesh = Mesh::start(Options::default()).await?;
    let agent = mesh.agent("n1").await?;
    let before = rss_kib(&agent)?;
    let mut crowd = Vec::new();
    for _ in 0..CONNECTIONS {
        crowd.push(Deaf::connect(&agent.socket, STREAMS).await?);
    }
    let streams: usize = crowd.iter().map(|client| client.answered).sum();
    let grown = rss_kib(&agent)?.saturating_sub(before) as usize;
    // What was sent and not read, and 4 KiB for each stream; the 61 KB of each are nowhere.
    let most = CONNECTIONS * 96 + streams * 4;
    ensure!(
        streams == CONNECTIONS * STREAMS,
        "{streams} streams are open"
    );
    ensure!(grown < most, "{grown} KiB more, and {most} are expected");
    // Somebody else comes, and is served.
    let token = mesh.token("shop", "web", "n1");
    let connection = Connection::open(&agent.socket, Some(&token)).await?;
    let response = connection.stream(&["default"]).await?.next().await?;
    ensure!(secrets(&response)?.len() == 1);
    Ok(())
}
