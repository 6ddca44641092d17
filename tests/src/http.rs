//! The little HTTP/1.1 that tests speak: a GET, on a connection of its own or a kept one.

use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(5);

/// A connection that is kept.
pub struct Connection {
    sender: SendRequest<Empty<Bytes>>,
    _driver: tokio::task::JoinSet<()>,
}

impl Connection {
    /// Connects to a port on loopback.
    ///
    /// # Errors
    /// If nobody answers.
    pub async fn open(port: u16) -> anyhow::Result<Self> {
        let stream = timeout(PATIENCE, TcpStream::connect(("127.0.0.1", port))).await??;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        let mut driver = tokio::task::JoinSet::new();
        driver.spawn(async move {
            let _ended = connection.await;
        });
        Ok(Self {
            sender,
            _driver: driver,
        })
    }

    /// Sends a GET and reads the whole answer.
    ///
    /// # Errors
    /// If there is none within five seconds.
    pub async fn get(&mut self, path: &str) -> anyhow::Result<(StatusCode, String)> {
        let request = Request::get(path)
            .header("host", "localhost")
            .body(Empty::new())?;
        let answer = async {
            self.sender.ready().await?;
            let response = self.sender.send_request(request).await?;
            let status = response.status();
            let body = response.into_body().collect().await?.to_bytes();
            anyhow::Ok((status, String::from_utf8_lossy(&body).into_owned()))
        };
        timeout(PATIENCE, answer)
            .await
            .with_context(|| format!("no answer to GET {path}"))?
    }
}

/// A GET on a connection of its own.
///
/// # Errors
/// If there is no answer.
pub async fn get(port: u16, path: &str) -> anyhow::Result<(StatusCode, String)> {
    Connection::open(port).await?.get(path).await
}

/// The value of a metric, by its name with all labels.
///
/// # Errors
/// If nobody answers.
pub async fn metric(port: u16, name: &str) -> anyhow::Result<Option<f64>> {
    let (_, text) = get(port, "/metrics").await?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(line.and_then(|value| value.split(' ').next()?.parse().ok()))
}
