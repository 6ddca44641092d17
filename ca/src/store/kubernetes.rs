//! The state in Secrets of one namespace: one for each key, changed only over the
//! resourceVersion that was read.
//!
//! Reads are answered by the API server's own store, so none is stale. Whoever edits a Secret
//! by hand is noticed: what it is called has to be of its key, and the state above opens no value
//! that it did not seal.

mod api;
mod object;
mod options;
mod watch;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use serde::Deserialize;
use serde_json::json;
use tokio::task::JoinSet;

use self::api::{Api, Failed};
use self::object::{List, Object};
pub use self::options::Options;
use super::changes::Hub;
use super::{
    CasError, Changes, Cursor, Entry, Key, MAX_VALUE, Page, Prefix, Store, StoreError, Version,
};
use crate::kubernetes::access::{self, Right, Scope};

/// Entries in a page at most.
const PAGE: usize = 50;
/// What has to be permitted on Secrets of the namespace.
const VERBS: [&str; 6] = ["get", "list", "watch", "create", "update", "delete"];

/// A store in Secrets.
#[derive(Debug)]
pub struct Kubernetes {
    inner: Arc<Inner>,
    /// Ends with the store.
    _watch: JoinSet<()>,
}

struct Inner {
    api: Api,
    hub: Hub,
}

impl Kubernetes {
    /// A store that connects when it is first asked. Needs a runtime, in which it watches.
    ///
    /// # Errors
    /// What of the options cannot be used.
    pub async fn new(options: &Options) -> Result<Self, StoreError> {
        let api = Api::new(options).await.map_err(unusable)?;
        Ok(Self::over(api))
    }

    fn over(api: Api) -> Self {
        let inner = Arc::new(Inner {
            api,
            hub: Hub::default(),
        });
        let mut watch = JoinSet::new();
        watch.spawn(Arc::clone(&inner).watch());
        Self {
            inner,
            _watch: watch,
        }
    }

    /// Which rights on Secrets this process would need and does not have.
    ///
    /// # Errors
    /// [`StoreError`] if the API server does not say.
    pub(crate) async fn missing_rights(options: &Options) -> Result<Vec<Right>, StoreError> {
        let api = Api::new(options).await.map_err(unusable)?;
        let inner = Inner {
            api,
            hub: Hub::default(),
        };
        let mut missing = Vec::new();
        for verb in VERBS {
            let right = Right {
                verb,
                group: "",
                resource: "secrets",
                name: String::new(),
                scope: Scope::Namespace(inner.api.namespace().to_owned()),
            };
            let answer = inner.api.post(access::PATH, &right.review()).await;
            let answer = answer.map_err(|failed| inner.unavailable(failed))?;
            let allowed = access::is_allowed(&answer);
            if !allowed.ok_or_else(|| inner.no_answer())? {
                missing.push(right);
            }
        }
        Ok(missing)
    }
}

fn unusable(detail: String) -> StoreError {
    StoreError::Refused {
        place: "Kubernetes".to_owned(),
        detail,
    }
}

impl Inner {
    fn parse<'a, T: Deserialize<'a>>(&self, json: &'a [u8]) -> Result<T, StoreError> {
        serde_json::from_slice(json).map_err(|_| self.no_answer())
    }

    fn no_answer(&self) -> StoreError {
        StoreError::Unavailable {
            place: self.api.place().to_owned(),
            detail: "its answer is none".to_owned(),
        }
    }

    fn entry(&self, object: Object) -> Result<Entry, StoreError> {
        object.entry().map_err(|(name, what)| StoreError::Damaged {
            place: self.api.object(&name),
            detail: what.to_owned(),
        })
    }

    fn unavailable(&self, failed: Failed) -> StoreError {
        let detail = match failed {
            Failed::NotDone(error) => return error,
            Failed::Unknown(detail) | Failed::Missing(detail) => detail,
            Failed::Conflict => "409".to_owned(),
            Failed::Expired(_) => "410: the list expired between two pages".to_owned(),
        };
        StoreError::Unavailable {
            place: self.api.place().to_owned(),
            detail,
        }
    }

    /// What a write has come to.
    fn written(
        &self,
        key: &Key,
        outcome: Result<Vec<u8>, Failed>,
        is_new: bool,
    ) -> Result<Vec<u8>, CasError> {
        let failed = match outcome {
            Ok(answer) => {
                // The watch will tell of it too, a little later.
                self.hub.notify(key);
                return Ok(answer);
            }
            Err(failed) => failed,
        };
        Err(match failed {
            Failed::Conflict => CasError::conflict(key),
            // The namespace is.
            Failed::Missing(detail) if is_new => self.unavailable(self.api.refused(detail)).into(),
            Failed::Missing(_) => CasError::conflict(key),
            Failed::Unknown(detail) => {
                CasError::unknown(key, format!("{} {detail}", self.api.place()))
            }
            failed => self.unavailable(failed).into(),
        })
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Inner").field(&self.api.place()).finish()
    }
}

impl Store for Kubernetes {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Entry>, StoreError>> {
        async move {
            let inner = &self.inner;
            let found = match inner.api.get(&object::name(key)).await {
                Ok(found) => found,
                Err(Failed::Missing(_)) => return Ok(None),
                Err(failed) => return Err(inner.unavailable(failed)),
            };
            inner.entry(inner.parse(&found)?).map(Some)
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
            let inner = &self.inner;
            if value.len() > MAX_VALUE {
                return Err(StoreError::too_large(key, value.len()).into());
            }
            let outcome = match expected {
                None => inner.api.create(&object::secret(key, &value, None)).await,
                Some(version) => {
                    let over = object::parts(version);
                    let over = over.ok_or_else(|| CasError::conflict(key))?;
                    let secret = object::secret(key, &value, Some(over));
                    inner.api.replace(&object::name(key), &secret).await
                }
            };
            let answer = inner.written(key, outcome, expected.is_none())?;
            let version = inner.parse::<Object>(&answer).ok();
            let version = version.and_then(|object| object.version());
            version.ok_or_else(|| CasError::unknown(key, "the answer has no version"))
        }
        .boxed()
    }

    fn delete<'a>(
        &'a self,
        key: &'a Key,
        expected: &'a Version,
    ) -> BoxFuture<'a, Result<(), CasError>> {
        async move {
            let over = object::parts(expected);
            let (version, uid) = over.ok_or_else(|| CasError::conflict(key))?;
            let options = json!({
                "apiVersion": "v1",
                "kind": "DeleteOptions",
                "preconditions": {"uid": uid, "resourceVersion": version},
            });
            let outcome = self.inner.api.delete(&object::name(key), &options).await;
            self.inner.written(key, outcome, false).map(drop)
        }
        .boxed()
    }

    fn list<'a>(
        &'a self,
        prefix: &'a Prefix,
        from: Option<&'a Cursor>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page, StoreError>> {
        async move {
            let inner = &self.inner;
            let (selector, limit) = (object::selector(prefix), limit.clamp(1, PAGE));
            let from = from.map(Cursor::as_str);
            let found = match inner.api.list(&selector, limit, from).await {
                // Too much has changed since the first page. From there it goes on with what is
                // there now, which is as good.
                Err(Failed::Expired(Some(next))) => {
                    inner.api.list(&selector, limit, Some(&next)).await
                }
                found => found,
            };
            let found = found.map_err(|failed| inner.unavailable(failed))?;
            let list: List = inner.parse(&found)?;
            let entries = list.items.into_iter().map(|it| inner.entry(it));
            let next = list.metadata.next.filter(|next| !next.is_empty());
            Ok(Page {
                entries: entries.collect::<Result<_, _>>()?,
                next: next.map(Cursor::new),
            })
        }
        .boxed()
    }

    fn changes(&self, prefix: &Prefix) -> Changes {
        self.inner.hub.subscribe(prefix)
    }

    /// By a Secret that is made for trial only.
    fn probe(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        async move {
            match self.inner.api.try_create(&object::trial()).await {
                Ok(_) | Err(Failed::Conflict) => Ok(()),
                Err(Failed::Missing(detail)) => {
                    Err(self.inner.unavailable(self.inner.api.refused(detail)))
                }
                Err(failed) => Err(self.inner.unavailable(failed)),
            }
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests;
