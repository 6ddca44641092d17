//! Where the authority keeps what must outlive it: small values under typed keys, written
//! only by compare-and-swap.
//!
//! Nothing here knows what the values mean; [`state`](crate::state) does. A store never
//! guesses: a file that is not whole, or that a newer version wrote, is refused and left as
//! it is.

mod changes;
#[cfg(any(test, feature = "testing"))]
pub mod conformance;
mod error;
mod etcd;
#[cfg(any(test, feature = "testing"))]
pub mod faults;
mod key;
mod kubernetes;
mod memory;
mod place;
mod redb;
mod schema;
mod table;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;

pub use changes::{Changes, Closed};
pub use error::{CasError, StoreError};
pub use etcd::{Etcd, Options as EtcdOptions};
pub use key::{Key, KeyError, Prefix, Segment};
pub use kubernetes::{Kubernetes, Options as KubernetesOptions};
pub use memory::Memory;
pub use place::Place;
pub use redb::{OpenError, Redb};
pub use schema::{FORMAT, Format, Schema, SchemaError, Step};

/// The most bytes a value may have. A Kubernetes object holds 1 MiB with its values in Base64,
/// and etcd takes requests of 1.5 MiB.
pub const MAX_VALUE: usize = 512 * 1024;

/// A place that keeps values and can compare before it swaps.
///
/// # What every implementation promises
/// - A write that was acknowledged survives whatever happens to the process, or to the
///   machine.
/// - Of all writes with the same expected version at most one succeeds.
/// - A version is never used twice for a key, even if the key was deleted in between.
/// - A write that answers anything but [`CasError::Unknown`] has happened, or never will.
///
/// # What none promises
/// A read may be stale where the store is a service with replicas. Whoever decides by what
/// they read writes with the version they read, and a stale decision conflicts.
///
/// A call that is dropped goes on or not; its outcome is unknown.
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// The value of `key`, or `None` if there is none.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot say.
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Entry>, StoreError>>;

    /// Writes `value` if the stored version is still `expected`; `None` means that there must
    /// be no value yet. Answers the new version.
    ///
    /// # Errors
    /// [`CasError`]: a conflict, an unknown outcome, or a store that could not write.
    fn compare_and_swap<'a>(
        &'a self,
        key: &'a Key,
        expected: Option<&'a Version>,
        value: Bytes,
    ) -> BoxFuture<'a, Result<Version, CasError>>;

    /// Removes the value if the stored version is still `expected`.
    ///
    /// # Errors
    /// [`CasError`]: a conflict (also if there is no value), an unknown outcome, or a store
    /// that could not write.
    fn delete<'a>(
        &'a self,
        key: &'a Key,
        expected: &'a Version,
    ) -> BoxFuture<'a, Result<(), CasError>>;

    /// At most `limit` entries below `prefix`, each once, going on from `from`, which an
    /// earlier page of the same prefix ended with. What is written between two pages may or
    /// may not appear.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot say.
    fn list<'a>(
        &'a self,
        prefix: &'a Prefix,
        from: Option<&'a Cursor>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page, StoreError>>;

    /// Notice of changes below `prefix`, by whatever process, from this moment on. Subscribe
    /// first, then read, then wait: so nothing is missed.
    fn changes(&self, prefix: &Prefix) -> Changes;

    /// Whether the store can write now. After a failure this is what makes it try again, so a
    /// readiness check may call it every few seconds.
    ///
    /// # Errors
    /// [`StoreError`] with the reason why it cannot.
    fn probe(&self) -> BoxFuture<'_, Result<(), StoreError>>;
}

/// A store that many share.
pub type Shared = Arc<dyn Store>;

/// A value as it is stored.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where it is.
    pub key: Key,
    /// Changes with every write.
    pub version: Version,
    /// At most [`MAX_VALUE`] bytes.
    pub value: Bytes,
}

/// One part of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// In the order of their keys' texts, as far as the store keeps an order.
    pub entries: Vec<Entry>,
    /// Where the next page begins; `None` if this is the last.
    pub next: Option<Cursor>,
}

/// The place in a list where a page ended. Only the store that made it can read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor(String);

/// The version of a stored value: equal or not, nothing else (Kubernetes' resourceVersion,
/// etcd's mod_revision).
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Version(Box<str>);

impl Version {
    /// The version that a store calls by this text.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<u64> for Version {
    fn from(revision: u64) -> Self {
        Self(revision.to_string().into())
    }
}

impl Cursor {
    /// The cursor that a store calls by this text.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Version({})", self.0)
    }
}

// A value may be a secret, where sealing is off.
impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("key", &self.key)
            .field("version", &self.version)
            .field("bytes", &self.value.len())
            .finish()
    }
}

/// All entries below `prefix`, page by page.
///
/// # Errors
/// [`StoreError`] if the store cannot say.
pub async fn list_all(store: &dyn Store, prefix: &Prefix) -> Result<Vec<Entry>, StoreError> {
    const PAGE: usize = 100;
    let mut entries = Vec::new();
    let mut next = None;
    loop {
        let page = store.list(prefix, next.as_ref(), PAGE).await?;
        entries.extend(page.entries);
        next = page.next;
        if next.is_none() {
            return Ok(entries);
        }
    }
}
