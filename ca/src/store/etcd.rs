//! The state in etcd, by its v3 API: every write is a transaction that compares the revision
//! of the key's last write.
//!
//! Reads go through a quorum, so none is stale. Whatever a member answers, a write counts as not
//! done only where it cannot be done any more.

mod members;
mod options;
mod watch;

use std::sync::Arc;

use arx_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use arx_proto::etcdserverpb::kv_client::KvClient;
use arx_proto::etcdserverpb::request_op::Request as Op;
use arx_proto::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RangeResponse, RequestOp, TxnRequest,
    TxnResponse,
};
use arx_proto::mvccpb::KeyValue;
use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::task::JoinSet;

use self::members::{Failed, Members, request};
pub use self::options::Options;
use super::changes::Hub;
use super::{
    CasError, Changes, Cursor, Entry, Key, MAX_VALUE, Page, Prefix, Store, StoreError, Version,
};

/// Entries in a page at most.
const PAGE: usize = 100;
/// Longest answer: a page of the largest values.
const MAX_MESSAGE: usize = PAGE * (MAX_VALUE + 4096);
/// What the probe would write below the prefix, if it did. No key of a trust domain's.
const PROBE: &str = "!probe";

/// A store in etcd.
#[derive(Debug)]
pub struct Etcd {
    inner: Arc<Inner>,
    /// Ends with the store.
    _watch: JoinSet<()>,
}

#[derive(Debug)]
struct Inner {
    members: Members,
    prefix: String,
    hub: Hub,
}

impl Etcd {
    /// A store that connects when it is first asked. Needs a runtime, in which it watches.
    ///
    /// # Errors
    /// Which of the options cannot be used, and why.
    pub fn new(options: &Options) -> Result<Self, StoreError> {
        let members = Members::new(options).map_err(|detail| StoreError::Refused {
            place: "etcd".to_owned(),
            detail,
        })?;
        let inner = Arc::new(Inner {
            members,
            prefix: options.prefix.clone(),
            hub: Hub::default(),
        });
        let mut watch = JoinSet::new();
        watch.spawn(Arc::clone(&inner).watch());
        Ok(Self {
            inner,
            _watch: watch,
        })
    }
}

impl Inner {
    fn path(&self, key: &impl ToString) -> String {
        format!("{}{}", self.prefix, key.to_string())
    }

    /// The key in the store of a key in etcd.
    fn key_of(&self, path: &[u8]) -> Option<Key> {
        let text = std::str::from_utf8(path).ok()?;
        text.strip_prefix(&self.prefix)?.parse().ok()
    }

    fn entry(&self, stored: KeyValue) -> Result<Entry, StoreError> {
        let key = self.key_of(&stored.key);
        let key = key.ok_or_else(|| StoreError::Damaged {
            place: self.members.place().to_owned(),
            detail: format!(
                "there is {}, which Arx does not write",
                String::from_utf8_lossy(&stored.key).escape_debug()
            ),
        })?;
        Ok(Entry {
            key,
            version: Version::new(&stored.mod_revision.to_string()),
            value: stored.value,
        })
    }

    async fn range(&self, wanted: RangeRequest) -> Result<RangeResponse, StoreError> {
        let asked = self.members.ask(
            |channel| {
                let wanted = request(wanted.clone());
                async move {
                    let mut client = KvClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
                    Ok(client.range(wanted).await?.into_inner())
                }
                .boxed()
            },
            false,
        );
        asked.await.map_err(|failed| self.unavailable(failed))
    }

    fn unavailable(&self, failed: Failed) -> StoreError {
        let detail = match failed {
            Failed::NotDone(error) => return error,
            Failed::Unknown(detail) => detail,
            Failed::Compacted => "it has forgotten what was asked for".to_owned(),
        };
        StoreError::Unavailable {
            place: self.members.place().to_owned(),
            detail,
        }
    }

    /// Does `op` if the last write to `path` has the revision `expected`, which is 0 where there
    /// is nothing. The answer says whether it had.
    async fn txn(&self, path: String, expected: i64, op: Op) -> Result<TxnResponse, Failed> {
        let txn = TxnRequest {
            compare: vec![Compare {
                result: CompareResult::Equal.into(),
                target: CompareTarget::Mod.into(),
                key: path.into(),
                target_union: Some(TargetUnion::ModRevision(expected)),
            }],
            success: vec![RequestOp { request: Some(op) }],
        };
        let asked = self.members.ask(
            |channel| {
                let txn = request(txn.clone());
                async move { Ok(KvClient::new(channel).txn(txn).await?.into_inner()) }.boxed()
            },
            true,
        );
        asked.await
    }

    async fn write(
        &self,
        key: &Key,
        expected: Option<&Version>,
        value: Option<Bytes>,
    ) -> Result<Version, CasError> {
        let expected = match expected {
            None => 0,
            // No revision of etcd's is a text that is no number, or 0.
            Some(version) => match version.as_str().parse() {
                Ok(revision) if revision > 0 => revision,
                _ => return Err(CasError::conflict(key)),
            },
        };
        let path = self.path(key);
        let op = match value {
            Some(value) => Op::RequestPut(PutRequest {
                key: path.clone().into(),
                value,
            }),
            None => Op::RequestDeleteRange(DeleteRangeRequest {
                key: path.clone().into(),
            }),
        };
        let answer = self.txn(path, expected, op).await;
        let answer = answer.map_err(|failed| match failed {
            Failed::Unknown(detail) => {
                CasError::unknown(key, format!("{}: {detail}", self.members.place()))
            }
            failed => self.unavailable(failed).into(),
        })?;
        if !answer.succeeded {
            return Err(CasError::conflict(key));
        }
        let revision = answer.header.map_or(0, |header| header.revision);
        if revision <= 0 {
            return Err(CasError::unknown(key, "the answer has no revision"));
        }
        // The watch will tell of it too, a little later.
        self.hub.notify(key);
        Ok(Version::new(&revision.to_string()))
    }
}

/// The end of the range of all keys that begin with `prefix`, which is never empty.
fn after_all(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    // No byte of UTF-8 is 0xff.
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

impl Store for Etcd {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Entry>, StoreError>> {
        async move {
            let wanted = RangeRequest {
                key: self.inner.path(key).into(),
                ..RangeRequest::default()
            };
            let found = self.inner.range(wanted).await?.kvs.pop();
            found.map(|stored| self.inner.entry(stored)).transpose()
        }
        .boxed()
    }

    fn compare_and_swap<'a>(
        &'a self,
        key: &'a Key,
        expected: Option<&'a Version>,
        value: Bytes,
    ) -> BoxFuture<'a, Result<Version, CasError>> {
        async move {
            if value.len() > MAX_VALUE {
                return Err(StoreError::too_large(key, value.len()).into());
            }
            self.inner.write(key, expected, Some(value)).await
        }
        .boxed()
    }

    fn delete<'a>(
        &'a self,
        key: &'a Key,
        expected: &'a Version,
    ) -> BoxFuture<'a, Result<(), CasError>> {
        let written = self.inner.write(key, Some(expected), None);
        written.map(|outcome| outcome.map(drop)).boxed()
    }

    fn list<'a>(
        &'a self,
        prefix: &'a Prefix,
        from: Option<&'a Cursor>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page, StoreError>> {
        async move {
            let path = self.inner.path(prefix);
            let key = match from {
                // The first key after it.
                Some(last) => format!("{}\0", self.inner.path(&last.as_str())),
                None => path.clone(),
            };
            let wanted = RangeRequest {
                key: key.into(),
                range_end: after_all(&path).into(),
                limit: i64::try_from(limit.clamp(1, PAGE)).unwrap_or(1),
                keys_only: false,
            };
            let answer = self.inner.range(wanted).await?;
            let entries = answer.kvs.into_iter().map(|it| self.inner.entry(it));
            let entries: Vec<Entry> = entries.collect::<Result<_, _>>()?;
            let last = entries.last().filter(|_| answer.more);
            let next = last.map(|last| Cursor::new(last.key.to_string()));
            Ok(Page { entries, next })
        }
        .boxed()
    }

    fn changes(&self, prefix: &Prefix) -> Changes {
        self.inner.hub.subscribe(prefix)
    }

    /// By a write that compares what is never so: it needs a quorum, the permission and the space
    /// to write, and changes nothing.
    fn probe(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        async move {
            let path = self.inner.path(&PROBE);
            let op = Op::RequestPut(PutRequest {
                key: path.clone().into(),
                value: Bytes::new(),
            });
            let answer = self.inner.txn(path, -1, op).await;
            answer
                .map(drop)
                .map_err(|failed| self.inner.unavailable(failed))
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests;
