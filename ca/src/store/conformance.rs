//! What every [`Store`] must do, as tests that any of them can be put through.
//!
//! `store_conformance!(factory)` makes a test of each function here; `factory` is called once
//! per test and answers an empty store.

use std::sync::Arc;

use arx_identity::{KeyId, TrustDomain};
use bytes::Bytes;
use futures_util::future::join_all;

use super::{CasError, Key, MAX_VALUE, Prefix, Segment, Store, StoreError, Version, list_all};

/// Makes a module `conformance` with one test for each promise of a store.
///
/// The argument is a function without parameters whose future answers an empty store.
#[macro_export]
macro_rules! store_conformance {
    ($factory:expr) => {
        $crate::store_promises! { store_conformance; $factory }
    };
    ($factory:expr; $($name:ident)+) => {
        mod conformance {
            #[allow(unused_imports, reason = "the factory may need nothing of its module")]
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    $crate::store::conformance::$name($factory().await).await;
                }
            )+
        }
    };
}

/// Holds a store to one promise after the other, for stores that are no test's own.
///
/// The argument is a function of a promise's name whose future answers an empty store.
#[macro_export]
macro_rules! store_keeps_all_promises {
    ($factory:expr) => {
        $crate::store_promises! { store_keeps_all_promises; $factory }
    };
    ($factory:expr; $($name:ident)+) => {
        $(
            println!(stringify!($name));
            $crate::store::conformance::$name($factory(stringify!($name)).await).await;
        )+
    };
}

/// Hands all promises to a macro.
#[doc(hidden)]
#[macro_export]
macro_rules! store_promises {
    ($then:ident; $factory:expr) => {
        $crate::$then! { $factory;
            a_missing_key_has_no_value
            what_was_written_is_read_back
            an_empty_value_is_a_value
            a_key_is_made_once
            a_stale_version_conflicts_and_changes_nothing
            a_version_does_not_make_a_missing_key
            a_version_is_never_used_twice
            a_write_of_the_same_bytes_is_a_write
            a_version_belongs_to_its_key
            a_value_is_removed_by_its_version_only
            what_is_removed_is_gone
            the_largest_value_fits_and_no_larger_one
            a_list_has_each_entry_once_in_pages
            a_list_keeps_to_its_prefix
            a_list_of_nothing_is_empty
            a_change_after_subscribing_is_never_missed
            of_many_who_make_a_key_one_succeeds
            of_many_who_swap_one_version_one_succeeds
            many_tasks_count_and_no_count_is_lost
            an_empty_store_can_write
        }
    };
}

const KIND: Segment = Segment::fixed("kind");
const OTHER_KIND: Segment = Segment::fixed("kind-2");

fn trust_domain(name: &str) -> TrustDomain {
    TrustDomain::parse(name).expect("a trust domain")
}

fn key(name: &str) -> Key {
    Key::new(&trust_domain("example.org"), &KIND)
        .named(Segment::parse(name).expect("a part of a key"))
}

fn issuer(n: u8) -> KeyId {
    KeyId::from_slice(&[n; 20]).expect("20 bytes")
}

async fn put(store: &impl Store, key: &Key, value: &'static str) -> Version {
    let stored = store.get(key).await.expect("it reads");
    let version = stored.as_ref().map(|entry| &entry.version);
    store
        .compare_and_swap(key, version, value.into())
        .await
        .expect("nobody else writes")
}

async fn value(store: &impl Store, key: &Key) -> Option<Bytes> {
    store
        .get(key)
        .await
        .expect("it reads")
        .map(|entry| entry.value)
}

fn is_conflict<T>(outcome: &Result<T, CasError>) -> bool {
    matches!(outcome, Err(CasError::Conflict { .. }))
}

/// A key that was never written has no value.
pub async fn a_missing_key_has_no_value(store: impl Store) {
    assert_eq!(store.get(&key("a")).await, Ok(None));
}

/// A read answers the key, the value, and the version that the write answered.
pub async fn what_was_written_is_read_back(store: impl Store) {
    let version = put(&store, &key("a"), "one").await;
    let entry = store
        .get(&key("a"))
        .await
        .expect("it reads")
        .expect("it was written");
    assert_eq!(
        (entry.key, entry.version, &entry.value[..]),
        (key("a"), version, &b"one"[..])
    );
    let second = put(&store, &key("a"), "two").await;
    let entry = store
        .get(&key("a"))
        .await
        .expect("it reads")
        .expect("it was written");
    assert_eq!((entry.version, &entry.value[..]), (second, &b"two"[..]));
}

/// No bytes are not the same as no value.
pub async fn an_empty_value_is_a_value(store: impl Store) {
    put(&store, &key("a"), "").await;
    assert_eq!(value(&store, &key("a")).await, Some(Bytes::new()));
}

/// Making a key that is there conflicts, and its value stays.
pub async fn a_key_is_made_once(store: impl Store) {
    put(&store, &key("a"), "one").await;
    let again = store.compare_and_swap(&key("a"), None, "two".into()).await;
    assert!(is_conflict(&again), "{again:?}");
    assert_eq!(value(&store, &key("a")).await.as_deref(), Some(&b"one"[..]));
}

/// A write or removal with an older version conflicts, and the value stays.
pub async fn a_stale_version_conflicts_and_changes_nothing(store: impl Store) {
    let first = put(&store, &key("a"), "one").await;
    put(&store, &key("a"), "two").await;
    let swapped = store
        .compare_and_swap(&key("a"), Some(&first), "three".into())
        .await;
    assert!(is_conflict(&swapped), "{swapped:?}");
    let deleted = store.delete(&key("a"), &first).await;
    assert!(is_conflict(&deleted), "{deleted:?}");
    assert_eq!(value(&store, &key("a")).await.as_deref(), Some(&b"two"[..]));
}

/// Whoever expects a version of a key that is not there conflicts.
pub async fn a_version_does_not_make_a_missing_key(store: impl Store) {
    let version = put(&store, &key("a"), "one").await;
    let swapped = store
        .compare_and_swap(&key("b"), Some(&version), "two".into())
        .await;
    assert!(is_conflict(&swapped), "{swapped:?}");
    let deleted = store.delete(&key("b"), &version).await;
    assert!(is_conflict(&deleted), "{deleted:?}");
    assert_eq!(value(&store, &key("b")).await, None);
}

/// A key that is removed and made again does not meet its earlier versions.
pub async fn a_version_is_never_used_twice(store: impl Store) {
    let mut seen = Vec::new();
    for _ in 0..3 {
        for text in ["one", "two"] {
            let version = put(&store, &key("a"), text).await;
            assert!(!seen.contains(&version), "{version:?} came again");
            seen.push(version);
        }
        store
            .delete(&key("a"), &seen[seen.len() - 1])
            .await
            .expect("it is current");
        let stale = store
            .compare_and_swap(&key("a"), seen.last(), "three".into())
            .await;
        assert!(is_conflict(&stale), "{stale:?}");
    }
}

/// Of two who write what is there already over one version, one conflicts.
pub async fn a_write_of_the_same_bytes_is_a_write(store: impl Store) {
    let first = put(&store, &key("a"), "one").await;
    let second = store
        .compare_and_swap(&key("a"), Some(&first), "one".into())
        .await
        .expect("it is current");
    assert_ne!(first, second);
    let again = store
        .compare_and_swap(&key("a"), Some(&first), "one".into())
        .await;
    assert!(is_conflict(&again), "{again:?}");
}

/// Another key's current version is not a key's own.
pub async fn a_version_belongs_to_its_key(store: impl Store) {
    put(&store, &key("a"), "one").await;
    let other = put(&store, &key("b"), "one").await;
    let swapped = store
        .compare_and_swap(&key("a"), Some(&other), "two".into())
        .await;
    assert!(is_conflict(&swapped), "{swapped:?}");
}

/// Removal compares before it removes.
pub async fn a_value_is_removed_by_its_version_only(store: impl Store) {
    let first = put(&store, &key("a"), "one").await;
    let second = put(&store, &key("a"), "two").await;
    assert!(is_conflict(&store.delete(&key("a"), &first).await));
    store
        .delete(&key("a"), &second)
        .await
        .expect("it is current");
    assert!(is_conflict(&store.delete(&key("a"), &second).await));
}

/// A removed key reads as one that never was, and can be made again.
pub async fn what_is_removed_is_gone(store: impl Store) {
    let version = put(&store, &key("a"), "one").await;
    store
        .delete(&key("a"), &version)
        .await
        .expect("it is current");
    assert_eq!(store.get(&key("a")).await, Ok(None));
    let all = list_all(&store, &Prefix::trust_domain(&trust_domain("example.org"))).await;
    assert_eq!(all, Ok(Vec::new()));
    store
        .compare_and_swap(&key("a"), None, "two".into())
        .await
        .expect("it is free again");
}

/// [`MAX_VALUE`] bytes are kept; one more is refused and changes nothing.
pub async fn the_largest_value_fits_and_no_larger_one(store: impl Store) {
    let largest = Bytes::from(vec![0xa5; MAX_VALUE]);
    let version = store
        .compare_and_swap(&key("a"), None, largest.clone())
        .await
        .expect("the largest value fits");
    let larger = Bytes::from(vec![0; MAX_VALUE + 1]);
    let refused = store
        .compare_and_swap(&key("a"), Some(&version), larger)
        .await;
    assert!(
        matches!(refused, Err(CasError::Store(StoreError::TooLarge { size, .. })) if size > MAX_VALUE),
        "{refused:?}"
    );
    assert_eq!(value(&store, &key("a")).await, Some(largest));
}

/// Pages of any size together have every entry once, with what a read answers.
pub async fn a_list_has_each_entry_once_in_pages(store: impl Store) {
    let names: Vec<String> = (0..7).map(|n| format!("n{n}")).collect();
    for name in &names {
        put(&store, &key(name), "value").await;
    }
    let prefix = Prefix::kind(&trust_domain("example.org"), &KIND);
    for limit in [1, 2, 3, 7, 8] {
        let (mut found, mut next) = (Vec::new(), None);
        loop {
            let page = store
                .list(&prefix, next.as_ref(), limit)
                .await
                .expect("it reads");
            assert!(page.entries.len() <= limit);
            found.extend(page.entries);
            next = page.next;
            if next.is_none() {
                break;
            }
        }
        for entry in &found {
            assert_eq!(store.get(&entry.key).await, Ok(Some(entry.clone())));
        }
        let mut keys: Vec<String> = found.iter().map(|entry| entry.key.to_string()).collect();
        keys.sort();
        let expected: Vec<String> = names.iter().map(|name| key(name).to_string()).collect();
        assert_eq!(keys, expected, "in pages of {limit}");
    }
}

/// A list never shows another trust domain, another kind, or another issuer.
pub async fn a_list_keeps_to_its_prefix(store: impl Store) {
    let td = trust_domain("example.org");
    let mut all = vec![
        Key::new(&td, &KIND),
        key("a"),
        Key::new(&td, &KIND).of_issuer(issuer(1)),
        Key::new(&td, &KIND).of_issuer(issuer(1)).named(OTHER_KIND),
        Key::new(&td, &KIND).of_issuer(issuer(2)),
        Key::new(&td, &OTHER_KIND),
    ];
    for other in [
        "example.org.evil",
        "example.or",
        "example.org-evil",
        "a.example.org",
    ] {
        all.push(Key::new(&trust_domain(other), &KIND));
    }
    for key in &all {
        put(&store, key, "value").await;
    }
    for (prefix, count) in [
        (Prefix::trust_domain(&td), 6),
        (Prefix::kind(&td, &KIND), 5),
        (Prefix::issuer(&td, &KIND, issuer(1)), 2),
        (Prefix::issuer(&td, &KIND, issuer(2)), 1),
    ] {
        let found = list_all(&store, &prefix).await.expect("it reads");
        assert!(
            found.iter().all(|entry| prefix.covers(&entry.key)),
            "{prefix:?}"
        );
        assert_eq!(found.len(), count, "{prefix:?}");
    }
}

/// A prefix without entries has one empty page.
pub async fn a_list_of_nothing_is_empty(store: impl Store) {
    put(&store, &key("a"), "value").await;
    let page = store
        .list(
            &Prefix::kind(&trust_domain("example.org"), &OTHER_KIND),
            None,
            10,
        )
        .await
        .expect("it reads");
    assert_eq!((page.entries.len(), page.next), (0, None));
}

/// Subscribe, read, wait: each write and removal below the prefix wakes.
pub async fn a_change_after_subscribing_is_never_missed(store: impl Store) {
    let prefix = Prefix::kind(&trust_domain("example.org"), &KIND);
    let mut changes = store.changes(&prefix);
    let version = put(&store, &key("a"), "one").await;
    changes.changed().await.expect("the store is open");
    assert_eq!(value(&store, &key("a")).await.as_deref(), Some(&b"one"[..]));

    store
        .delete(&key("a"), &version)
        .await
        .expect("it is current");
    changes.changed().await.expect("the store is open");

    let mut late = store.changes(&prefix);
    let other = key("b");
    let (woken, _) = tokio::join!(late.changed(), put(&store, &other, "two"));
    woken.expect("the store is open");
}

/// Of tasks that all make one key exactly one succeeds, and its value stands.
pub async fn of_many_who_make_a_key_one_succeeds(store: impl Store) {
    let store = Arc::new(store);
    race(&store, None).await;
}

/// Of tasks that all expect one version exactly one succeeds, and its value stands.
pub async fn of_many_who_swap_one_version_one_succeeds(store: impl Store) {
    let store = Arc::new(store);
    let version = put(&*store, &key("a"), "first").await;
    race(&store, Some(version)).await;
}

async fn race(store: &Arc<impl Store>, expected: Option<Version>) {
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..16 {
        let (store, expected) = (store.clone(), expected.clone());
        tasks.spawn(async move {
            let value = Bytes::from(format!("by {n}"));
            match store
                .compare_and_swap(&key("a"), expected.as_ref(), value.clone())
                .await
            {
                Ok(_) => Some(value),
                Err(CasError::Conflict { .. }) => None,
                Err(error) => panic!("{error}"),
            }
        });
    }
    let winners: Vec<Bytes> = tasks.join_all().await.into_iter().flatten().collect();
    assert_eq!(winners.len(), 1);
    assert_eq!(value(&**store, &key("a")).await.as_ref(), winners.first());
}

/// Tasks that read, add one and swap, again after each conflict, lose no count.
pub async fn many_tasks_count_and_no_count_is_lost(store: impl Store) {
    const TASKS: u64 = 8;
    const EACH: u64 = 10;
    let store = Arc::new(store);
    let counting = (0..TASKS).map(|_| {
        let store = store.clone();
        async move {
            for _ in 0..EACH {
                count(&*store).await;
            }
        }
    });
    join_all(counting.map(|task| {
        let mut set = tokio::task::JoinSet::new();
        set.spawn(task);
        set.join_all()
    }))
    .await;
    let total = value(&*store, &key("counter"))
        .await
        .expect("it was counted");
    assert_eq!(total, (TASKS * EACH).to_string());
}

async fn count(store: &impl Store) {
    let key = key("counter");
    loop {
        let stored = store.get(&key).await.expect("it reads");
        let (version, so_far) = match &stored {
            Some(entry) => (Some(&entry.version), &entry.value[..]),
            None => (None, &b"0"[..]),
        };
        let so_far: u64 = std::str::from_utf8(so_far)
            .ok()
            .and_then(|text| text.parse().ok())
            .expect("it was written here");
        let next = Bytes::from((so_far + 1).to_string());
        match store.compare_and_swap(&key, version, next).await {
            Ok(_) => return,
            Err(CasError::Conflict { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// A probe finds nothing wrong.
pub async fn an_empty_store_can_write(store: impl Store) {
    assert_eq!(store.probe().await, Ok(()));
}
