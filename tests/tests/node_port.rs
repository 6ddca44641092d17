//! The authority's port for nodes, among those who take more than is theirs.

use std::pin::Pin;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use arx_identity::Svid;
use arx_proto::node::v1::issue_item::Evidence;
use arx_proto::node::v1::{IssueItem, IssueRequest};
use arx_tests::http as web;
use arx_tests::mesh::{AUDIENCE, Mesh, Options};
use arx_tests::node::{Authority, Http2, issued, requests, unique};
use arx_tests::token_issuer::{Claims, TokenIssuer};
use bytes::Bytes;
use futures_util::future::{Either, select, select_all};
use futures_util::stream;
use http_body_util::StreamBody;
use hyper::body::Frame;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tonic::body::Body;
use tower_service::Service as _;

/// Longer than anything here takes; an event that does not come fails the test.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection as far as TLS. The authority's first word on it, of HTTP/2, comes when it has
/// a place; its end comes when it has none.
type Stream = arx_identity::tls::ClientStream<TcpStream>;

struct Port {
    mesh: Mesh,
    authority: Authority,
    node: Svid,
}

impl Port {
    async fn open(options: Options) -> anyhow::Result<Self> {
        let mesh = Mesh::start(options).await?;
        let authority = Authority {
            port: mesh.node_port,
            bundle: mesh.bundle(),
        };
        let token = mesh.issuer.mint(&joining());
        let node = authority.new_node(&authority.tls(None)?, &token).await?;
        Ok(Self {
            mesh,
            authority,
            node,
        })
    }

    async fn tcp(&self) -> anyhow::Result<TcpStream> {
        Ok(TcpStream::connect(("127.0.0.1", self.mesh.node_port)).await?)
    }

    async fn connect(&self, node: Option<&Svid>) -> anyhow::Result<Stream> {
        let tls = self.authority.tls(node)?;
        Ok(tls.connect(self.tcp().await?).await?)
    }

    /// What a node needs.
    async fn node_is_served(&self) -> anyhow::Result<()> {
        let tls = self.authority.tls(Some(&self.node))?;
        let mut client = self.authority.connect(&tls).await?;
        let token = self.mesh.token("shop", "web", "n1");
        let items = vec![IssueItem {
            idempotency_key: unique(),
            csr: requests(1)?.remove(0),
            evidence: Some(Evidence::ServiceAccountToken(token)),
            ..IssueItem::default()
        }];
        let answer = client.issue(IssueRequest { items }).await?.into_inner();
        let first = answer.results.into_iter().next().context("a result")?;
        issued(first.outcome)?;
        Ok(())
    }

    async fn refusals(&self, code: &str) -> anyhow::Result<Option<f64>> {
        let name = format!("arx_ca_refusals_total{{code=\"{code}\"}}");
        web::metric(self.mesh.ops_port, &name).await
    }
}

fn joining() -> Claims {
    let audience = format!("{AUDIENCE}/join");
    Claims::new(&audience, "arx-system", "arx-node-agent", "n1")
}

/// Whether the authority says anything, before it closes the connection.
async fn is_welcome(stream: &mut Stream) -> anyhow::Result<bool> {
    let mut byte = [0];
    let read = tokio::time::timeout(PATIENCE, stream.read(&mut byte)).await;
    Ok(matches!(read.context("neither is told")?, Ok(1)))
}

/// Reads to the end of the connection.
async fn ends(stream: &mut Stream) -> anyhow::Result<()> {
    let mut rest = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
    // Cut off is also an end.
    let _how = read.context("the connection stays")?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn strangers_and_those_who_end_no_handshake_leave_room_for_nodes() -> anyhow::Result<()> {
    const SHARE: usize = 4;
    let port = Port::open(Options {
        node_api: format!("max_connections = {}", 4 * SHARE),
        ..Options::default()
    })
    .await?;
    // Of connections that say nothing, a quarter of all places; the oldest makes room.
    let mut silent = Vec::new();
    for _ in 0..=SHARE {
        silent.push(port.tcp().await?);
    }
    let oldest = silent.remove(0);
    let mut byte = [0];
    let mut oldest = oldest;
    let read = tokio::time::timeout(PATIENCE, oldest.read(&mut byte)).await?;
    ensure!(matches!(read, Ok(0) | Err(_)), "it got an answer");
    drop(silent);
    // Of strangers, a quarter that is served.
    let mut served = Vec::new();
    for _ in 0..SHARE {
        let mut stream = port.connect(None).await?;
        ensure!(is_welcome(&mut stream).await?);
        served.push(stream);
    }
    // And a quarter that waits; who comes after that goes at once.
    let mut waiting = Vec::new();
    for _ in 0..=SHARE {
        waiting.push(Box::pin(port.connect(None).await?));
    }
    let asked = waiting
        .iter_mut()
        .map(|stream| Box::pin(is_welcome(stream)));
    let (first, turned_away, rest) = select_all(asked).await;
    ensure!(!first?, "more strangers are served than may be");
    drop(rest);
    drop(waiting.remove(turned_away));
    // None of them keeps a node out.
    port.node_is_served().await?;
    // A place that is free again goes to one who waits.
    drop(served.pop());
    let asked = waiting
        .iter_mut()
        .map(|stream| Box::pin(is_welcome(stream)));
    let (first, ..) = select_all(asked).await;
    ensure!(first?, "a free place is given to nobody");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_oldest_connection_of_a_node_is_closed_when_it_opens_too_many() -> anyhow::Result<()> {
    const PLACES: usize = 8;
    let port = Port::open(Options::default()).await?;
    let mut own = Vec::new();
    for _ in 0..PLACES {
        let mut stream = port.connect(Some(&port.node)).await?;
        ensure!(is_welcome(&mut stream).await?);
        own.push(stream);
    }
    ensure!(port.refusals("ARX-NODE-CONNECTIONS").await?.is_none());
    port.node_is_served().await?;
    ends(&mut own[0]).await?;
    ensure!(port.refusals("ARX-NODE-CONNECTIONS").await? == Some(1.0));
    // The others are still there: a read of them waits.
    let others = own[1..].iter_mut().map(|stream| Box::pin(ends(stream)));
    let served = Box::pin(port.node_is_served());
    match select(served, select_all(others)).await {
        Either::Left((served, _)) => served,
        Either::Right(_) => anyhow::bail!("a connection within the bound was closed"),
    }
}

/// The head of an Issue of this length and the first piece of its message, after which nothing
/// comes.
fn half_sent(length: u32) -> http::Request<Body> {
    let mut begin = vec![0];
    begin.extend_from_slice(&length.to_be_bytes());
    begin.extend_from_slice(&[0; 16]);
    let begin = stream::iter([Ok::<_, tonic::Status>(Frame::data(Bytes::from(begin)))]);
    let pieces = futures_util::StreamExt::chain(begin, stream::pending());
    let mut request = http::Request::new(Body::new(StreamBody::new(pieces)));
    *request.method_mut() = http::Method::POST;
    *request.uri_mut() = http::Uri::from_static("/arx.node.v1.Node/Issue");
    let headers = request.headers_mut();
    headers.insert(
        "content-type",
        http::HeaderValue::from_static("application/grpc"),
    );
    headers.insert("te", http::HeaderValue::from_static("trailers"));
    request
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_node_leaves_no_more_half_sent_than_its_share() -> anyhow::Result<()> {
    let port = Port::open(Options::default()).await?;
    let mut calls: Vec<Pin<Box<_>>> = Vec::new();
    // However many connections it uses.
    for _ in 0..3 {
        let stream = port.connect(Some(&port.node)).await?;
        let mut connection = Http2::over(stream).await?;
        let call = connection.call(half_sent(3 * 1024 * 1024));
        calls.push(Box::pin(async move {
            let answer = call.await;
            drop(connection);
            answer
        }));
    }
    let (answer, _which, others) = tokio::time::timeout(PATIENCE, select_all(calls)).await?;
    let answer = answer?;
    let header = |name: &str| answer.headers().get(name).and_then(|it| it.to_str().ok());
    ensure!(header("grpc-status") == Some("8"), "{:?}", answer.headers());
    ensure!(header("arx-code") == Some("ARX-NODE-BUSY"));
    ensure!(port.refusals("ARX-NODE-BUSY").await? == Some(1.0));
    // What is small still passes, and the others wait for what they have begun.
    port.node_is_served().await?;
    drop(others);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn many_forged_tokens_are_one_line_in_the_log_and_each_in_the_metric() -> anyhow::Result<()> {
    const FORGED: u8 = 20;
    let port = Port::open(Options::default()).await?;
    let forger = TokenIssuer::new(
        "https://issuer.example.org",
        arx_identity::KeyAlgorithm::EcdsaP256,
    )?;
    let tls = port.authority.tls(None)?;
    for _ in 0..FORGED {
        let csr = requests(1)?.remove(0);
        let token = forger.mint(&joining());
        let joined = port.authority.join(&tls, &token, csr).await;
        ensure!(joined.is_err(), "a forged token was taken");
    }
    let process = port.mesh.authority.as_ref().context("it runs")?;
    let lines = process.log().lines();
    let told: Vec<_> = lines
        .iter()
        .filter(|line| line.contains("call refused"))
        .collect();
    ensure!(told.len() == 1, "{told:?}");
    let line: serde_json::Value = serde_json::from_str(told[0])?;
    let code = line["code"].as_str().context("a code")?;
    ensure!(line["peer"] == "127.0.0.1", "{line}");
    ensure!(port.refusals(code).await? == Some(f64::from(FORGED)));
    // Whoever has a good one is not kept out.
    port.node_is_served().await
}
