//! One connection to the authority: TCP, TLS by SPIFFE id, HTTP/2.

use arx_identity::tls::{Client, TlsError};
use arx_identity::{SpiffeId, Svid, TrustBundle, VerifiedPeer};
use arx_proto::node::v1::node_client::NodeClient;
use http::Uri;
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;
use tonic::body::Body;
use tower_service::Service;

/// A dead peer is noticed after an interval and a timeout without an answer.
const PING_INTERVAL: Duration = Duration::from_secs(5);
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// Answers are a few KiB for each certificate, 50 of them at a time.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Largest message that is taken from the authority.
const LARGEST_MESSAGE: usize = 4 * 1024 * 1024;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("{address} cannot be reached: {error}; check the address and the network")]
    Unreachable { address: String, error: io::Error },
    #[error("{address} did not accept a connection within {timeout:?}")]
    Timeout { address: String, timeout: Duration },
    #[error("{address}: {error}")]
    Tls { address: String, error: TlsError },
    #[error("{address} does not speak HTTP/2: {error}")]
    Http {
        address: String,
        error: hyper::Error,
    },
}

/// How to reach the authority, and what it must show.
pub(crate) struct Dial<'a> {
    /// `host:port` as it is configured, for the request and for people.
    pub(crate) name: &'a str,
    /// Where that is.
    pub(crate) address: SocketAddr,
    /// Whoever one of these vouches for is believed.
    pub(crate) anchors: &'a [TrustBundle],
    /// What is shown to it; nothing when joining.
    pub(crate) svid: Option<&'a Svid>,
    /// Who must answer.
    pub(crate) expected: &'a SpiffeId,
    pub(crate) timeout: Duration,
}

/// An open connection; it is at work as long as `driver` is polled.
pub(crate) struct Connection {
    pub(crate) client: NodeClient<Channel>,
    pub(crate) peer: VerifiedPeer,
    pub(crate) driver: Pin<Box<dyn Future<Output = Result<(), hyper::Error>> + Send>>,
}

impl Dial<'_> {
    /// Connects, with TLS and HTTP/2 on top.
    pub(crate) async fn connect(&self) -> Result<Connection, ConnectError> {
        let address = || self.shown();
        match tokio::time::timeout(self.timeout, self.attempt()).await {
            Ok(outcome) => outcome,
            Err(_) => Err(ConnectError::Timeout {
                address: address(),
                timeout: self.timeout,
            }),
        }
    }

    async fn attempt(&self) -> Result<Connection, ConnectError> {
        let address = || self.shown();
        let tls = |error| ConnectError::Tls {
            address: address(),
            error,
        };
        let http = |error| ConnectError::Http {
            address: address(),
            error,
        };
        let client = Client::new(self.anchors, self.svid, self.expected.clone()).map_err(tls)?;
        let stream = TcpStream::connect(self.address).await;
        let stream = stream.map_err(|error| ConnectError::Unreachable {
            address: address(),
            error,
        })?;
        // A call is one small packet that somebody waits for.
        let _ = stream.set_nodelay(true);
        let stream = client.connect(stream).await.map_err(tls)?;
        let peer = stream.peer().clone();
        let (send, connection) = Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(http)?;
        let client = NodeClient::with_origin(Channel::from(send), self.origin());
        Ok(Connection {
            client: client
                .max_decoding_message_size(LARGEST_MESSAGE)
                .max_encoding_message_size(LARGEST_MESSAGE),
            peer,
            driver: Box::pin(connection),
        })
    }

    /// Name and address, once if they are the same.
    fn shown(&self) -> String {
        let address = self.address.to_string();
        if address == self.name {
            return address;
        }
        format!("{} ({address})", self.name)
    }

    /// The address as an HTTP authority. It was checked to be `host:port`; what HTTP would
    /// not take of it is looked up all the same and goes by another name.
    fn origin(&self) -> Uri {
        let named = Uri::builder()
            .scheme("https")
            .authority(self.name)
            .path_and_query("/")
            .build();
        named.unwrap_or_else(|_| Uri::from_static("https://authority"))
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

/// The sending side of a connection, as the generated client wants it. Clones share the
/// connection.
#[derive(Clone)]
pub(crate) struct Channel(SendRequest<Body>);

impl From<SendRequest<Body>> for Channel {
    fn from(send: SendRequest<Body>) -> Self {
        Self(send)
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel").finish_non_exhaustive()
    }
}

impl Service<http::Request<Body>> for Channel {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}
