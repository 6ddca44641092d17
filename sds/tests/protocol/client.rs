//! The two ends of a connection: the service on a real HTTP/2 server with the settings
//! that an agent uses, and a client that writes what it wants.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use arx_proto::envoy::config::core::v3 as core;
use arx_proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use arx_proto::google::rpc;
use arx_sds::{Event, EventKind, Node, SdsService, Session, Snapshot, Source};
use bytes::{Buf, Bytes, BytesMut};
use http::request::Parts;
use http_body_util::BodyExt;
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2 as client;
use hyper::server::conn::http2 as server;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use prost::Message;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tonic::{Code, Status};

pub(crate) const TYPE_URL: &str =
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
const PREFIX: &str = "/envoy.service.secret.v3.SecretDiscoveryService/";

/// What nothing that is still to come takes longer than.
const LONG: Duration = Duration::from_secs(3600);

/// One caller, whose snapshot the test changes.
pub(crate) struct Caller {
    view: Mutex<Option<watch::Sender<Arc<Snapshot>>>>,
    events: mpsc::UnboundedSender<Event>,
    streams: AtomicU64,
    pub(crate) nodes: Mutex<Vec<Option<Node>>>,
}

impl Source for Caller {
    /// Streams are numbered from 1. Those with the metadata `stranger` are refused.
    async fn open(&self, parts: &Parts, node: Option<Node>) -> Result<Session, Status> {
        self.nodes.lock().expect("no panic while held").push(node);
        if parts.headers.contains_key("stranger") {
            return Err(Status::permission_denied("nobody knows you, \u{e4}sk"));
        }
        // As an attestor would, it takes its time.
        tokio::task::yield_now().await;
        let view = self.view.lock().expect("no panic while held");
        let view = view
            .as_ref()
            .ok_or_else(|| Status::unavailable("closing"))?
            .subscribe();
        let stream = self.streams.fetch_add(1, Ordering::Relaxed) + 1;
        Ok(Session {
            stream,
            view,
            events: self.events.clone(),
        })
    }
}

/// A caller, its service, and what the service told of it.
pub(crate) struct World {
    pub(crate) caller: Arc<Caller>,
    pub(crate) events: mpsc::UnboundedReceiver<Event>,
    tasks: JoinSet<()>,
}

impl World {
    pub(crate) fn new(snapshot: Snapshot) -> Self {
        let (sender, events) = mpsc::unbounded_channel();
        let caller = Arc::new(Caller {
            view: Mutex::new(Some(watch::Sender::new(Arc::new(snapshot)))),
            events: sender,
            streams: AtomicU64::new(0),
            nodes: Mutex::default(),
        });
        Self {
            caller,
            events,
            tasks: JoinSet::new(),
        }
    }

    /// Another snapshot for the caller.
    pub(crate) fn show(&self, snapshot: Snapshot) {
        let view = self.caller.view.lock().expect("no panic while held");
        view.as_ref()
            .expect("open")
            .send_replace(Arc::new(snapshot));
    }

    /// The caller's sessions are over.
    pub(crate) fn close(&self) {
        drop(self.caller.view.lock().expect("no panic while held").take());
    }

    pub(crate) async fn connect(&mut self) -> Client {
        self.connect_with(|_| {}).await
    }

    /// A connection whose client side is set up by the test.
    pub(crate) async fn connect_with(
        &mut self,
        set_up: impl FnOnce(&mut client::Builder<TokioExecutor>),
    ) -> Client {
        // Small, as a socket's buffers are: a client that does not read blocks the server.
        let (near, mut mine) = tokio::io::duplex(16 * 1024);
        let (mut theirs, far) = tokio::io::duplex(16 * 1024);
        self.serve(far);
        let wire = self.tasks.spawn(async move {
            let _ = tokio::io::copy_bidirectional(&mut mine, &mut theirs).await;
        });
        let mut builder = client::Builder::new(TokioExecutor::new());
        builder.initial_max_send_streams(2048);
        set_up(&mut builder);
        let (sender, connection) = builder
            .handshake(TokioIo::new(near))
            .await
            .expect("a handshake");
        self.tasks.spawn(async move {
            // How it ended is seen by the streams.
            let _ = connection.await;
        });
        Client { sender, wire }
    }

    pub(crate) fn serve<IO>(&mut self, io: IO)
    where
        IO: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let mut builder = server::Builder::new(TokioExecutor::new());
        builder
            .initial_stream_window_size(16 * 1024)
            // h2 allows unread small DATA frames in proportion to it: with 64 KiB some 200
            // ACKs at once end the connection with ENHANCE_YOUR_CALM.
            .initial_connection_window_size(1024 * 1024)
            .max_send_buf_size(8 * 1024)
            .max_concurrent_streams(2048);
        let service = TowerToHyperService::new(SdsService::new(self.caller.clone()));
        let connection = builder.serve_connection(TokioIo::new(io), service);
        self.tasks.spawn(async move {
            let _ = connection.await;
        });
    }

    /// The next event, as text: kind, stream, resource.
    pub(crate) async fn event(&mut self) -> String {
        let event = tokio::time::timeout(LONG, self.events.recv())
            .await
            .expect("an event");
        describe(&event.expect("the caller holds a sender"))
    }

    pub(crate) async fn expect_events(&mut self, expected: &[&str]) {
        for expected in expected {
            assert_eq!(self.event().await, *expected);
        }
    }
}

fn describe(event: &Event) -> String {
    let stream = event.stream;
    match &event.kind {
        EventKind::Sent(secret) => format!("{stream} sent {}", secret.name()),
        EventKind::Fetched(secret) => format!("{stream} fetched {}", secret.name()),
        EventKind::Acked(secret) => format!("{stream} acked {}", secret.name()),
        EventKind::Nacked { secret, detail } => {
            format!("{stream} nacked {}: {detail}", secret.name())
        }
        EventKind::Unsubscribed { resource } => format!("{stream} unsubscribed {resource}"),
        EventKind::Ended { resource } => format!("{stream} ended {resource}"),
        EventKind::Closed => format!("{stream} closed"),
    }
}

/// One connection.
pub(crate) struct Client {
    sender: client::SendRequest<Outgoing>,
    wire: tokio::task::AbortHandle,
}

impl Client {
    /// Gone without a word.
    pub(crate) fn cut(self) {
        self.wire.abort();
    }

    pub(crate) async fn state_of_the_world(&mut self) -> Stream<DiscoveryResponse> {
        self.open("StreamSecrets").await
    }

    pub(crate) async fn delta(&mut self) -> Stream<DeltaDiscoveryResponse> {
        self.open("DeltaSecrets").await
    }

    pub(crate) async fn fetch(&mut self) -> Stream<DiscoveryResponse> {
        self.open("FetchSecrets").await
    }

    async fn open<R>(&mut self, method: &str) -> Stream<R> {
        self.call(self.request(&format!("{PREFIX}{method}"))).await
    }

    pub(crate) fn request(&self, path: &str) -> http::request::Builder {
        http::Request::post(format!("http://arx{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
    }

    pub(crate) async fn call<R>(&mut self, request: http::request::Builder) -> Stream<R> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let request = request.body(Outgoing(receiver)).expect("a request");
        self.sender.ready().await.expect("the connection stands");
        let response = self.sender.send_request(request).await.expect("a response");
        let (head, body) = response.into_parts();
        let status = Status::from_header_map(&head.headers);
        Stream {
            head,
            requests: Some(sender),
            body,
            received: BytesMut::new(),
            ready: VecDeque::new(),
            status,
        }
    }
}

/// A request body that the test writes.
pub(crate) struct Outgoing(mpsc::UnboundedReceiver<Bytes>);

impl http_body::Body for Outgoing {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0
            .poll_recv(cx)
            .map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// One stream.
pub(crate) struct Stream<R> {
    pub(crate) head: http::response::Parts,
    requests: Option<mpsc::UnboundedSender<Bytes>>,
    body: Incoming,
    received: BytesMut,
    ready: VecDeque<R>,
    status: Option<Status>,
}

impl<R: Message + Default> Stream<R> {
    pub(crate) fn send(&self, message: &impl Message) {
        self.send_bytes(framed(&message.encode_to_vec()));
    }

    pub(crate) fn send_bytes(&self, bytes: Vec<u8>) {
        // The server may have ended the stream already.
        let _ = self
            .requests
            .as_ref()
            .expect("not half-closed")
            .send(bytes.into());
    }

    pub(crate) fn half_close(&mut self) {
        self.requests = None;
    }

    /// The next response.
    pub(crate) async fn next(&mut self) -> R {
        match tokio::time::timeout(LONG, self.read())
            .await
            .expect("a response, and not silence")
        {
            Some(response) => response,
            None => panic!("the stream is over: {:?}", self.status),
        }
    }

    /// How the stream ended, when nothing more was sent on it.
    pub(crate) async fn end(&mut self) -> (Code, String) {
        assert_eq!(
            self.read().await.map(|response| response.encode_to_vec()),
            None,
            "nothing more"
        );
        let status = self.status.as_ref().expect("a status");
        (status.code(), status.message().to_owned())
    }

    /// Nothing comes, however long one waits (the clock of these tests runs while all
    /// tasks are idle).
    pub(crate) async fn is_silent(&mut self) {
        let heard = tokio::time::timeout(LONG, self.read()).await;
        assert!(
            heard.is_err(),
            "heard {:?}, {:?}",
            heard.map(|r| r.map(|r| r.encode_to_vec().len())),
            self.status
        );
    }

    async fn read(&mut self) -> Option<R> {
        loop {
            if let Some(response) = self.ready.pop_front() {
                return Some(response);
            }
            match self.body.frame().await? {
                Ok(frame) => match frame.into_data() {
                    Ok(data) => self.received.extend_from_slice(&data),
                    Err(frame) => {
                        self.status = frame.trailers_ref().and_then(Status::from_header_map);
                    }
                },
                Err(error) => panic!("the stream broke: {error:?}"),
            }
            while let Some(message) = take_frame(&mut self.received) {
                self.ready
                    .push_back(R::decode(message).expect("a response"));
            }
        }
    }
}

fn take_frame(received: &mut BytesMut) -> Option<Bytes> {
    let length = u32::from_be_bytes(received.get(1..5)?.try_into().ok()?) as usize;
    assert_eq!(received[0], 0, "not compressed");
    if received.len() < 5 + length {
        return None;
    }
    received.advance(5);
    Some(received.split_to(length).freeze())
}

pub(crate) fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("a short message");
    [&[0], &length.to_be_bytes()[..], message].concat()
}

pub(crate) fn ask(names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest {
        resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
        type_url: TYPE_URL.to_owned(),
        ..Default::default()
    }
}

/// The first message of a stream as Envoy sends it, with a `node` of 61 KB.
pub(crate) fn first(names: &[&str]) -> Vec<u8> {
    let node = core::Node {
        id: "sidecar-1".to_owned(),
        cluster: "web".to_owned(),
    };
    let mut node = node.encode_to_vec();
    while node.len() < 61_000 {
        // field 9, `extensions`
        node.extend_from_slice(b"\x4a\x23\x0a\x21envoy.filters.http.some.extension");
    }
    let mut message = vec![2 << 3 | 2];
    prost::encoding::encode_varint(node.len() as u64, &mut message);
    message.extend_from_slice(&node);
    message.extend_from_slice(&ask(names).encode_to_vec());
    framed(&message)
}

pub(crate) fn ack(names: &[&str], response: &DiscoveryResponse) -> DiscoveryRequest {
    DiscoveryRequest {
        version_info: response.version_info.clone(),
        response_nonce: response.nonce.clone(),
        ..ask(names)
    }
}

pub(crate) fn nack(
    names: &[&str],
    accepted: &str,
    response: &DiscoveryResponse,
) -> DiscoveryRequest {
    let error = rpc::Status {
        code: 13,
        message: "bad".to_owned(),
        ..Default::default()
    };
    DiscoveryRequest {
        version_info: accepted.to_owned(),
        response_nonce: response.nonce.clone(),
        error_detail: Some(error),
        ..ask(names)
    }
}

pub(crate) fn subscribe(names: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        resource_names_subscribe: names.iter().map(|name| (*name).to_owned()).collect(),
        type_url: TYPE_URL.to_owned(),
        ..Default::default()
    }
}

pub(crate) fn delta_ack(response: &DeltaDiscoveryResponse) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        response_nonce: response.nonce.clone(),
        ..subscribe(&[])
    }
}
