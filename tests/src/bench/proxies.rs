//! A client that is many proxies at one agent's socket.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use arx_proto::envoy::service::discovery::v3::DiscoveryResponse;
use futures_util::stream;
use http::uri::PathAndQuery;
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tonic_prost::ProstCodec;

use super::client::Boss;
use super::fat;
use super::node::Http2;

const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
const STREAM: &str = "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets";
/// How long a first secret may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Connections that are opened at a time.
const AT_ONCE: usize = 16;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Options {
    pub(crate) socket: PathBuf,
    pub(crate) connections: usize,
    /// What the streams of each connection ask for, one name each.
    pub(crate) names: Vec<String>,
    /// One token a line, one for each connection; without, the process is who it is.
    pub(crate) tokens: Option<PathBuf>,
    /// Whether ACKs repeat the node.
    pub(crate) node_in_acks: bool,
}

pub(crate) async fn play(boss: &mut Boss, options: Options) -> anyhow::Result<()> {
    let tokens = match &options.tokens {
        Some(path) => std::fs::read_to_string(path)?
            .lines()
            .map(str::to_owned)
            .collect(),
        None => Vec::new(),
    };
    boss.say("ready", &())?;
    while boss.order().await?.is_some() {
        let (acked, mut count) = watch::channel(0usize);
        let mut streams = JoinSet::new();
        let mut numbers = 0..options.connections;
        loop {
            let some: Vec<usize> = numbers.by_ref().take(AT_ONCE).collect();
            if some.is_empty() {
                break;
            }
            let opened = some
                .into_iter()
                .map(|number| connect(&options, number, tokens.get(number)));
            for stream in futures_util::future::try_join_all(opened)
                .await?
                .into_iter()
                .flatten()
            {
                streams.spawn(stream.run(acked.clone()));
            }
        }
        let total = options.connections * options.names.len();
        count.wait_for(|count| *count >= total).await?;
        boss.say("open", &total)?;
        while let Some(order) = boss.order().await? {
            if order == "close" {
                break;
            }
            acked.send_replace(0);
            let start = Instant::now();
            boss.say("armed", &())?;
            // Certificates are on one of the names only, or on all.
            let wanted = order.parse::<usize>().unwrap_or(total);
            tokio::select! {
                all = count.wait_for(|count| *count >= wanted) => { all?; }
                Some(ended) = streams.join_next() => {
                    ended??;
                    anyhow::bail!("a stream ended");
                }
            }
            boss.say("acked", &start.elapsed().as_secs_f64())?;
        }
        streams.shutdown().await;
        boss.say("closed", &())?;
    }
    Ok(())
}

struct Stream {
    _connection: Http2,
    requests: mpsc::UnboundedSender<fat::Request>,
    responses: tonic::Streaming<DiscoveryResponse>,
    /// What an ACK begins with.
    request: fat::Request,
}

/// Waits until somebody answers at the socket, and for the first secret there.
pub(crate) async fn first_secret(socket: &Path, name: &str) -> anyhow::Result<()> {
    let options = Options {
        socket: socket.to_owned(),
        connections: 1,
        names: vec![name.to_owned()],
        tokens: None,
        node_in_acks: false,
    };
    let end = Instant::now() + PATIENCE;
    while UnixStream::connect(socket).await.is_err() {
        anyhow::ensure!(
            Instant::now() < end,
            "nobody listens at {}",
            socket.display()
        );
        tokio::time::sleep(Duration::from_micros(500)).await;
    }
    let streams = connect(&options, 0, None).await?;
    for mut stream in streams {
        let response = tokio::time::timeout(PATIENCE, stream.responses.message()).await??;
        let response = response.context("the stream is open")?;
        anyhow::ensure!(!response.resources.is_empty(), "a response holds a secret");
    }
    Ok(())
}

/// Opens one connection with its streams.
async fn connect(
    options: &Options,
    number: usize,
    token: Option<&String>,
) -> anyhow::Result<Vec<Stream>> {
    let connection = Http2::over(UnixStream::connect(&options.socket).await?).await?;
    let mut streams = Vec::with_capacity(options.names.len());
    for name in &options.names {
        let (requests, queue) = mpsc::unbounded_channel();
        let request = fat::Request {
            node: Some(fat::node(&format!("proxy-{number}"))),
            resource_names: vec![name.clone()],
            type_url: SECRET.to_owned(),
            ..fat::Request::default()
        };
        requests.send(request.clone())?;
        let queue = stream::unfold(queue, |mut queue| async move {
            Some((queue.recv().await?, queue))
        });
        let mut call = tonic::Request::new(queue);
        if let Some(token) = token {
            call.metadata_mut()
                .insert("authorization", format!("Bearer {token}").parse()?);
        }
        let mut grpc = tonic::client::Grpc::new(connection.clone());
        grpc.ready().await?;
        let responses = grpc
            .streaming(
                call,
                PathAndQuery::from_static(STREAM),
                ProstCodec::default(),
            )
            .await?
            .into_inner();
        streams.push(Stream {
            _connection: connection.clone(),
            requests,
            responses,
            request: fat::Request {
                node: options.node_in_acks.then_some(request.node).flatten(),
                ..request
            },
        });
    }
    Ok(streams)
}

impl Stream {
    /// Acknowledges whatever comes.
    async fn run(mut self, acked: watch::Sender<usize>) -> anyhow::Result<()> {
        while let Some(response) = self.responses.message().await? {
            anyhow::ensure!(!response.resources.is_empty(), "a response holds a secret");
            let ack = fat::Request {
                version_info: response.version_info,
                response_nonce: response.nonce,
                ..self.request.clone()
            };
            self.requests.send(ack).context("the stream is open")?;
            acked.send_modify(|count| *count += 1);
        }
        anyhow::bail!("the agent ended a stream")
    }
}
