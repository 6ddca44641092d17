//! A member of etcd that does as it is told, behind a real connection.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};

use arx_proto::etcdserverpb::kv_server::{Kv, KvServer};
use arx_proto::etcdserverpb::watch_request::RequestUnion;
use arx_proto::etcdserverpb::watch_server::{Watch, WatchServer};
use arx_proto::etcdserverpb::{
    RangeRequest, RangeResponse, ResponseHeader, TxnRequest, TxnResponse, WatchRequest,
    WatchResponse,
};
use arx_proto::mvccpb::event::EventType;
use arx_proto::mvccpb::{Event, KeyValue};
use bytes::Bytes;
use futures_util::stream::{BoxStream, StreamExt as _};
use futures_util::{FutureExt as _, future::BoxFuture};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tonic::{Request, Response, Status, Streaming};
use tower_service::Service as _;

use super::super::{Op, TargetUnion};

/// What members share.
#[derive(Clone, Default)]
pub(super) struct Data(Arc<Mutex<Content>>);

#[derive(Default)]
struct Content {
    revision: i64,
    entries: BTreeMap<Bytes, KeyValue>,
    history: Vec<Event>,
    /// Events up to here are forgotten.
    compacted: i64,
    /// Wakes the watches.
    told: watch::Sender<i64>,
}

/// What becomes of a call.
#[derive(Clone, Debug)]
pub(super) enum Mood {
    Hangs,
    Says(Status),
    /// Does it, and drops the connection instead of answering.
    Resets,
}

/// One member. It is gone when this is dropped.
pub(super) struct Member {
    pub(super) address: String,
    inner: Arc<Inner>,
    _serving: JoinSet<()>,
}

struct Inner {
    data: Data,
    moods: Mutex<VecDeque<Mood>>,
    /// Ends connections.
    resets: watch::Sender<u32>,
    watches: Mutex<Vec<i64>>,
    began: watch::Sender<usize>,
}

#[derive(Clone)]
struct Calls(Arc<Inner>);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no test panics while holding it")
}

impl Data {
    /// A write that no watch is told of as long as it is not begun again.
    pub(super) fn put(&self, path: &str) {
        let mut content = lock(&self.0);
        content.revision += 1;
        let stored = KeyValue {
            key: path.to_owned().into(),
            mod_revision: content.revision,
            ..KeyValue::default()
        };
        content.entries.insert(stored.key.clone(), stored.clone());
        content.history.push(Event {
            r#type: EventType::Put.into(),
            kv: Some(stored),
        });
    }

    /// Forgets what has happened so far.
    pub(super) fn compact(&self) {
        let mut content = lock(&self.0);
        content.compacted = content.revision;
        content.history.clear();
    }

    /// Is as it was at this revision.
    pub(super) fn set_back(&self, revision: i64) {
        let mut content = lock(&self.0);
        content.revision = revision;
        let is_older = |stored: &KeyValue| stored.mod_revision <= revision;
        content.entries.retain(|_, stored| is_older(stored));
        content
            .history
            .retain(|event| event.kv.as_ref().is_some_and(is_older));
    }

    fn range(&self, wanted: &RangeRequest) -> RangeResponse {
        let content = lock(&self.0);
        let found = content.entries.values().filter(|it| {
            if wanted.range_end.is_empty() {
                it.key == wanted.key
            } else {
                it.key >= wanted.key && it.key < wanted.range_end
            }
        });
        let mut kvs: Vec<KeyValue> = found.cloned().collect();
        let limit = usize::try_from(wanted.limit).unwrap_or_default();
        let more = limit > 0 && kvs.len() > limit;
        if more {
            kvs.truncate(limit);
        }
        RangeResponse {
            header: Some(content.header()),
            kvs,
            more,
        }
    }

    fn txn(&self, txn: TxnRequest) -> TxnResponse {
        let mut content = lock(&self.0);
        let holds = txn.compare.iter().all(|compare| {
            let stored = content.entries.get(&compare.key);
            let stored = stored.map_or(0, |stored| stored.mod_revision);
            compare.target_union == Some(TargetUnion::ModRevision(stored))
        });
        if holds {
            content.revision += 1;
            let revision = content.revision;
            for op in txn.success.into_iter().filter_map(|op| op.request) {
                let (kind, kv) = match op {
                    Op::RequestPut(put) => {
                        let stored = KeyValue {
                            key: put.key.clone(),
                            value: put.value,
                            mod_revision: revision,
                            ..KeyValue::default()
                        };
                        content.entries.insert(put.key, stored.clone());
                        (EventType::Put, stored)
                    }
                    Op::RequestDeleteRange(gone) => {
                        content.entries.remove(&gone.key);
                        let key = gone.key;
                        let mod_revision = revision;
                        let kv = KeyValue {
                            key,
                            mod_revision,
                            ..KeyValue::default()
                        };
                        (EventType::Delete, kv)
                    }
                };
                content.history.push(Event {
                    r#type: kind.into(),
                    kv: Some(kv),
                });
            }
            content.told.send_replace(revision);
        }
        TxnResponse {
            header: Some(content.header()),
            succeeded: holds,
        }
    }

    /// What happened from `next` on.
    fn since(&self, next: i64) -> WatchResponse {
        let content = lock(&self.0);
        let is_new = |event: &&Event| event.kv.as_ref().is_some_and(|it| it.mod_revision >= next);
        WatchResponse {
            header: Some(content.header()),
            events: content.history.iter().filter(is_new).cloned().collect(),
            ..WatchResponse::default()
        }
    }
}

impl Content {
    fn header(&self) -> ResponseHeader {
        ResponseHeader {
            revision: self.revision,
            ..ResponseHeader::default()
        }
    }
}

impl Member {
    pub(super) async fn start(data: Data) -> Self {
        let inner = Arc::new(Inner {
            data,
            moods: Mutex::default(),
            resets: watch::Sender::default(),
            watches: Mutex::default(),
            began: watch::Sender::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let mut serving = JoinSet::new();
        serving.spawn(serve(Arc::clone(&inner), listener));
        Self {
            address,
            inner,
            _serving: serving,
        }
    }

    /// The next call gets `mood`, after those asked for earlier.
    pub(super) fn next(&self, mood: Mood) {
        lock(&self.inner.moods).push_back(mood);
    }

    /// Drops all connections.
    pub(super) fn reset(&self) {
        self.inner.resets.send_modify(|count| *count += 1);
    }

    /// Where its watches began, once there are so many.
    pub(super) async fn watches(&self, count: usize) -> Vec<i64> {
        let mut began = self.inner.began.subscribe();
        let reached = began.wait_for(|began| *began >= count).await;
        drop(reached.expect("it is there"));
        lock(&self.inner.watches).clone()
    }
}

async fn serve(inner: Arc<Inner>, listener: TcpListener) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let calls = Calls(Arc::clone(&inner));
        let mut resets = inner.resets.subscribe();
        let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
            let calls = calls.clone();
            let answering: BoxFuture<'static, Result<http::Response<_>, Infallible>> =
                if request.uri().path().contains("Watch") {
                    async move { WatchServer::new(calls).call(request).await }.boxed()
                } else {
                    let mut server = KvServer::new(calls).max_decoding_message_size(4 << 20);
                    async move { server.call(request).await }.boxed()
                };
            answering
        });
        connections.spawn(async move {
            let serving = http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                _ended = serving => {}
                _reset = resets.changed() => {}
            }
        });
    }
}

impl Calls {
    /// What becomes of a call whose work is `act`.
    async fn mood<T>(&self, act: impl FnOnce() -> T) -> Result<Response<T>, Status> {
        let mood = lock(&self.0.moods).pop_front();
        match mood {
            None => Ok(Response::new(act())),
            Some(Mood::Says(status)) => Err(status),
            Some(Mood::Hangs) => std::future::pending().await,
            Some(Mood::Resets) => {
                let _done = act();
                self.0.resets.send_modify(|count| *count += 1);
                std::future::pending().await
            }
        }
    }
}

#[tonic::async_trait]
impl Kv for Calls {
    async fn range(
        &self,
        request: Request<RangeRequest>,
    ) -> Result<Response<RangeResponse>, Status> {
        let request = request.into_inner();
        self.mood(|| self.0.data.range(&request)).await
    }

    async fn txn(&self, request: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        let request = request.into_inner();
        self.mood(|| self.0.data.txn(request)).await
    }
}

#[tonic::async_trait]
impl Watch for Calls {
    type WatchStream = Pin<Box<BoxStream<'static, Result<WatchResponse, Status>>>>;

    async fn watch(
        &self,
        request: Request<Streaming<WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let mut requests = request.into_inner();
        let asked = requests.message().await?.and_then(|it| it.request_union);
        let Some(RequestUnion::CreateRequest(create)) = asked else {
            return Err(Status::invalid_argument("no watch"));
        };
        let data = self.0.data.clone();
        let (mut told, compacted, revision) = {
            let content = lock(&data.0);
            (
                content.told.subscribe(),
                content.compacted,
                content.revision,
            )
        };
        let mut next = match create.start_revision {
            0 => revision + 1,
            from => from,
        };
        lock(&self.0.watches).push(create.start_revision);
        self.0.began.send_modify(|began| *began += 1);
        let (sender, receiver) = mpsc::unbounded_channel();
        let created = WatchResponse {
            header: Some(lock(&data.0).header()),
            created: true,
            ..WatchResponse::default()
        };
        let _sent = sender.send(Ok(created));
        if next <= compacted {
            let refused = WatchResponse {
                compact_revision: compacted,
                canceled: true,
                ..WatchResponse::default()
            };
            let _sent = sender.send(Ok(refused));
        } else {
            told.mark_changed();
            let mut watching = JoinSet::new();
            watching.spawn(async move {
                while told.changed().await.is_ok() {
                    let response = data.since(next);
                    let last = response.events.last().and_then(|event| event.kv.as_ref());
                    if let Some(last) = last {
                        next = last.mod_revision + 1;
                        if sender.send(Ok(response)).is_err() {
                            return;
                        }
                    }
                }
            });
            let stream = tokio_stream(receiver, watching);
            return Ok(Response::new(Box::pin(stream)));
        }
        let stream = tokio_stream(receiver, JoinSet::new());
        Ok(Response::new(Box::pin(stream)))
    }
}

/// What comes by `receiver`, for as long as somebody reads it.
fn tokio_stream(
    receiver: mpsc::UnboundedReceiver<Result<WatchResponse, Status>>,
    work: JoinSet<()>,
) -> BoxStream<'static, Result<WatchResponse, Status>> {
    futures_util::stream::unfold((receiver, work), |(mut receiver, work)| async move {
        Some((receiver.recv().await?, (receiver, work)))
    })
    .boxed()
}
