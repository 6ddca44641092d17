//! A disk that is full, read-only or failing.

use std::io;
use std::sync::atomic::{AtomicI64, Ordering};

use redb::StorageBackend;
use redb::backends::FileBackend;

use super::*;

/// How many more operations the disk does before it fails, and how it fails then.
#[derive(Debug, Clone)]
struct Weather {
    left: Arc<AtomicI64>,
    kind: io::ErrorKind,
    /// Whether a write that fails has written its first half.
    torn: bool,
}

#[derive(Debug)]
struct Failing {
    file: FileBackend,
    weather: Weather,
}

const WELL: i64 = i64::MAX;

impl Weather {
    fn new(kind: io::ErrorKind) -> Self {
        Self {
            left: Arc::new(AtomicI64::new(WELL)),
            kind,
            torn: false,
        }
    }

    fn fail_after(&self, operations: i64) {
        self.left.store(operations, Ordering::SeqCst);
    }

    fn clear_up(&self) {
        self.fail_after(WELL);
    }

    fn media(&self) -> Media {
        let weather = self.clone();
        Media::new(move |file| {
            Box::new(Failing {
                file,
                weather: weather.clone(),
            })
        })
    }

    fn check(&self) -> io::Result<()> {
        if self.left.fetch_sub(1, Ordering::SeqCst) <= 0 {
            Err(self.kind.into())
        } else {
            Ok(())
        }
    }

    fn open(&self, dir: &TempDir) -> Result<Redb, OpenError> {
        Redb::start(&path(dir), now(), true, self.media())
    }
}

impl StorageBackend for Failing {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.weather.check()?;
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.weather.check()?;
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.weather.check().inspect_err(|_| {
            if self.weather.torn {
                self.file
                    .write(offset, &data[..data.len() / 2])
                    .expect("the real disk writes");
            }
        })?;
        self.file.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }
}

fn is_full(error: &CasError) -> bool {
    matches!(error, CasError::Store(StoreError::Full { .. }))
}

#[tokio::test]
async fn a_full_disk_keeps_the_state_answers_reads_and_recovers_by_itself() {
    let dir = TempDir::new().expect("a temporary directory");
    let weather = Weather::new(io::ErrorKind::StorageFull);
    let store = weather.open(&dir).expect("it opens");
    let version = put(&store, "a", "one").await;

    weather.fail_after(0);
    for _ in 0..3 {
        let refused = store
            .compare_and_swap(&key("a"), Some(&version), "two".into())
            .await
            .expect_err("the disk is full");
        assert!(is_full(&refused), "{refused}");
        assert!(
            refused.to_string().contains("has no space left: free some"),
            "{refused}"
        );
        assert_eq!(value(&store, "a").await, Some("one".into()));
        let reason = store.probe().await.expect_err("the disk is full");
        assert_eq!(reason.code(), "ARX-STORE-FULL");
    }

    weather.clear_up();
    assert_eq!(store.probe().await, Ok(()));
    store
        .compare_and_swap(&key("a"), Some(&version), "two".into())
        .await
        .expect("space is back");
    drop(store);
    assert_eq!(value(&open_or_create(&dir), "a").await, Some("two".into()));
    assert_eq!(files(&dir), ["state.redb", "state.redb.lock"]);
}

#[tokio::test]
async fn with_a_full_disk_at_the_start_reads_are_answered_until_space_returns() {
    let dir = TempDir::new().expect("a temporary directory");
    let before = filled(&dir).await;
    let weather = Weather::new(io::ErrorKind::StorageFull);
    weather.fail_after(0);
    let store = weather.open(&dir).expect("it opens to be read");
    assert_eq!(table(&store), before);
    assert_eq!(value(&store, "n1").await.map(|value| value.len()), Some(97));
    let refused = store
        .compare_and_swap(&key("new"), None, "one".into())
        .await;
    assert!(is_full(&refused.expect_err("the disk is full")));

    weather.clear_up();
    put(&store, "new", "one").await;
}

#[tokio::test]
async fn a_disk_that_is_full_at_the_very_first_start_is_refused() {
    let dir = TempDir::new().expect("a temporary directory");
    let weather = Weather::new(io::ErrorKind::StorageFull);
    weather.fail_after(0);
    let refused = weather.open(&dir).expect_err("there is nothing to read");
    assert_eq!(refused.code(), "ARX-STORE-FULL");
    assert_eq!(files(&dir), ["state.redb.lock"]);
}

#[tokio::test]
async fn a_read_only_file_system_is_a_typed_error_and_keeps_the_state() {
    let dir = TempDir::new().expect("a temporary directory");
    filled(&dir).await;
    let before = fs::read(path(&dir)).expect("it reads");
    let weather = Weather::new(io::ErrorKind::ReadOnlyFilesystem);
    weather.fail_after(0);
    let refused = weather.open(&dir).expect_err("it is read-only");
    assert_eq!(refused.code(), "ARX-STORE-READ-ONLY");
    assert!(
        fs::read(path(&dir)).expect("it reads") == before,
        "it was changed"
    );

    weather.clear_up();
    let store = weather.open(&dir).expect("it is writable");
    weather.fail_after(0);
    let refused = store
        .compare_and_swap(&key("new"), None, "one".into())
        .await;
    assert_eq!(
        refused.expect_err("it is read-only now").code(),
        "ARX-STORE-READ-ONLY"
    );
    weather.clear_up();
    put(&store, "new", "one").await;
}

/// At whichever operation the disk fails, and however: what was acknowledged stays, what was
/// refused never appears, and an unknown outcome is known after the next read that succeeds.
#[tokio::test]
async fn whenever_the_disk_fails_what_was_acknowledged_stays() {
    for kind in [io::ErrorKind::StorageFull, io::ErrorKind::Other] {
        for torn in [false, true] {
            for after in 0..40 {
                let weather = Weather {
                    torn,
                    ..Weather::new(kind)
                };
                let failed = fails_after(&weather, after).await;
                if !failed {
                    assert!(after > 2, "the write took {after} operations");
                    break;
                }
            }
        }
    }
}

async fn fails_after(weather: &Weather, operations: i64) -> bool {
    let dir = TempDir::new().expect("a temporary directory");
    let store = weather.open(&dir).expect("it opens");
    let version = put(&store, "a", "one").await;
    // Larger than what is there, so that the file must grow.
    let large = Bytes::from(vec![b'x'; 300_000]);

    weather.fail_after(operations);
    let outcome = store
        .compare_and_swap(&key("a"), Some(&version), large.clone())
        .await;
    let settled = if store.get(&key("a")).await.is_ok() {
        outcome.is_ok()
    } else {
        false
    };
    weather.clear_up();

    let expected = match &outcome {
        Ok(_) => large,
        Err(CasError::Store(_)) => "one".into(),
        Err(CasError::Unknown { .. }) => value(&store, "a").await.expect("it was written"),
        Err(CasError::Conflict { .. }) => panic!("nobody else writes"),
    };
    assert_eq!(
        value(&store, "a").await,
        Some(expected.clone()),
        "after {operations}"
    );
    put(&store, "b", "later").await;
    drop(store);

    let store = Redb::open(&path(&dir), now()).expect("it opens again");
    assert_eq!(
        value(&store, "a").await,
        Some(expected),
        "after {operations}, restarted"
    );
    assert_eq!(value(&store, "b").await, Some("later".into()));
    !settled || outcome.is_err()
}

/// The process dies while the disk fails: what the disk shows then is the old value, or the
/// new one only where the outcome was unknown.
#[tokio::test]
async fn a_restart_on_a_failed_disk_shows_what_was_acknowledged() {
    for kind in [io::ErrorKind::StorageFull, io::ErrorKind::Other] {
        for after in 0..20 {
            let dir = TempDir::new().expect("a temporary directory");
            let weather = Weather {
                torn: after % 2 == 0,
                ..Weather::new(kind)
            };
            let store = weather.open(&dir).expect("it opens");
            let version = put(&store, "a", "one").await;
            weather.fail_after(after);
            let outcome = store
                .compare_and_swap(&key("a"), Some(&version), "two".into())
                .await;
            drop(store);
            let store = Redb::open(&path(&dir), now()).expect("it opens again");
            let found = value(&store, "a").await.expect("it was written");
            match outcome {
                Ok(_) => assert_eq!(found, "two", "after {after}"),
                Err(CasError::Unknown { .. }) => assert!(found == "one" || found == "two"),
                Err(_) => assert_eq!(found, "one", "after {after}"),
            }
        }
    }
}

#[tokio::test]
async fn a_file_that_was_replaced_while_in_use_is_not_overwritten() {
    let dir = TempDir::new().expect("a temporary directory");
    let weather = Weather::new(io::ErrorKind::Other);
    let store = weather.open(&dir).expect("it opens");
    let version = put(&store, "a", "one").await;

    weather.fail_after(0);
    store
        .compare_and_swap(&key("a"), Some(&version), "two".into())
        .await
        .expect_err("the disk fails");
    fs::write(dir.path().join("other"), "somebody's").expect("it is written");
    fs::rename(dir.path().join("other"), path(&dir)).expect("it is renamed");
    weather.clear_up();

    let refused = store
        .compare_and_swap(&key("a"), Some(&version), "two".into())
        .await;
    let refused = refused.expect_err("the file is another");
    assert_eq!(refused.code(), "ARX-STORE-DAMAGED");
    assert!(
        refused.to_string().contains("replaced while it was in use"),
        "{refused}"
    );
    assert_eq!(fs::read(path(&dir)).expect("it reads"), b"somebody's");
}

#[tokio::test]
async fn a_file_that_was_removed_is_written_anew_after_a_failure() {
    let dir = TempDir::new().expect("a temporary directory");
    let weather = Weather::new(io::ErrorKind::Other);
    let store = weather.open(&dir).expect("it opens");
    put(&store, "a", "one").await;
    weather.fail_after(0);
    store
        .compare_and_swap(&key("b"), None, "two".into())
        .await
        .expect_err("the disk fails");
    fs::remove_file(path(&dir)).expect("it is there");
    weather.clear_up();
    put(&store, "b", "two").await;
    drop(store);
    let store = Redb::open(&path(&dir), now()).expect("it is there again");
    assert_eq!(value(&store, "a").await, Some("one".into()));
    assert_eq!(value(&store, "b").await, Some("two".into()));
}

#[tokio::test]
async fn a_file_that_is_not_where_it_was_takes_no_write_until_it_is_back() {
    let dir = TempDir::new().expect("a temporary directory");
    let store = open_or_create(&dir);
    let version = put(&store, "a", "one").await;
    let refuses = async |what: &str| {
        let refused = store
            .compare_and_swap(&key("a"), Some(&version), "two".into())
            .await;
        let refused = refused.expect_err("it would be lost");
        assert_eq!(refused.code(), "ARX-STORE-MOVED");
        assert!(refused.to_string().contains(what), "{refused}");
        let probed = store
            .probe()
            .await
            .expect_err("it is noticed without a write");
        assert_eq!((probed.code(), probed.passes()), ("ARX-STORE-MOVED", true));
        assert_eq!(value(&store, "a").await, Some("one".into()));
    };
    let away = dir.path().join("away");
    fs::rename(path(&dir), &away).expect("it is moved");
    refuses("was moved away or deleted").await;
    fs::copy(&away, path(&dir)).expect("it is copied");
    refuses("was replaced by another file").await;
    fs::rename(&away, path(&dir)).expect("it is moved back");
    assert_eq!(store.probe().await, Ok(()));
    put(&store, "a", "two").await;
    drop(store);
    let again = open_or_create(&dir);
    assert_eq!(value(&again, "a").await, Some("two".into()));
}
