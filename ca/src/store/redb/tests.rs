mod disk;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use arx_identity::TrustDomain;
use tempfile::TempDir;

use super::*;
use crate::store::Segment;

crate::store_conformance!(|| async {
    let dir = TempDir::new().expect("a temporary directory");
    let store = open_or_create(&dir);
    keep(dir);
    store
});

/// Keeps a directory for as long as the test runs.
#[expect(
    clippy::disallowed_methods,
    reason = "it does nothing, and goes with the test's runtime"
)]
fn keep(dir: TempDir) {
    tokio::spawn(async move {
        let _kept = dir;
        std::future::pending::<()>().await;
    });
}

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_780_000_000)
}

fn path(dir: &TempDir) -> PathBuf {
    dir.path().join("state.redb")
}

fn open_or_create(dir: &TempDir) -> Redb {
    Redb::open_or_create(&path(dir), now()).expect("the store opens")
}

fn key(name: &str) -> Key {
    let td = TrustDomain::parse("example.org").expect("a trust domain");
    Key::new(&td, &Segment::fixed("kind")).named(Segment::parse(name).expect("a part of a key"))
}

async fn put(store: &Redb, name: &str, value: impl Into<Bytes>) -> Version {
    let stored = store.get(&key(name)).await.expect("it reads");
    let version = stored.as_ref().map(|entry| &entry.version);
    store
        .compare_and_swap(&key(name), version, value.into())
        .await
        .expect("it is written")
}

async fn value(store: &Redb, name: &str) -> Option<Bytes> {
    store
        .get(&key(name))
        .await
        .expect("it reads")
        .map(|entry| entry.value)
}

fn table(store: &Redb) -> Table {
    store.0.view().table.clone()
}

/// A store with entries of all sizes, closed, and what it held.
async fn filled(dir: &TempDir) -> Table {
    let store = open_or_create(dir);
    for n in 0..12_usize {
        put(&store, &format!("n{n}"), vec![b'a'; n * n * 97]).await;
    }
    let version = put(&store, "gone", "soon").await;
    store
        .delete(&key("gone"), &version)
        .await
        .expect("it is current");
    table(&store)
}

fn files(dir: &TempDir) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir.path())
        .expect("the directory reads")
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn everything_is_there_after_a_restart_and_versions_go_on() {
    let dir = TempDir::new().expect("a temporary directory");
    let before = filled(&dir).await;
    let store = Redb::open(&path(&dir), now()).expect("it opens again");
    assert_eq!(table(&store), before);
    let version = put(&store, "n1", "new").await;
    assert_eq!(version, Version::from(before.revision + 1));
    assert_eq!(files(&dir), ["state.redb", "state.redb.lock"]);
}

#[tokio::test]
async fn only_its_owner_can_read_the_file() {
    let dir = TempDir::new().expect("a temporary directory");
    let _store = open_or_create(&dir);
    let mode = fs::metadata(path(&dir))
        .expect("it is there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_file_that_is_missing_is_made_only_when_asked() {
    let dir = TempDir::new().expect("a temporary directory");
    let missing = Redb::open(&path(&dir), now()).expect_err("there is none");
    assert!(matches!(missing, OpenError::Missing { .. }), "{missing}");
    open_or_create(&dir);

    let nowhere = dir.path().join("not-mounted").join("state.redb");
    let missing = Redb::open_or_create(&nowhere, now()).expect_err("no directory");
    assert!(
        matches!(missing, OpenError::NoDirectory { .. }),
        "{missing}"
    );
    assert!(missing.to_string().contains("mount its volume"));
}

#[test]
fn a_lock_file_that_was_left_behind_is_in_nobodys_way() {
    let dir = TempDir::new().expect("a temporary directory");
    open_or_create(&dir);
    fs::remove_file(path(&dir)).expect("it is there");
    assert_eq!(files(&dir), ["state.redb.lock"]);
    let missing = Redb::open(&path(&dir), now()).expect_err("there is none");
    assert!(matches!(missing, OpenError::Missing { .. }), "{missing}");
    open_or_create(&dir);
}

#[tokio::test]
async fn a_look_shows_everything_and_touches_nothing() {
    let dir = TempDir::new().expect("a temporary directory");
    let missing = Redb::peek(&path(&dir)).expect_err("there is none");
    assert_eq!(missing.code(), "ARX-STORE-MISSING");
    assert_eq!(files(&dir), Vec::<String>::new());

    filled(&dir).await;
    fs::remove_file(dir.path().join("state.redb.lock")).expect("it is there");
    let before = fs::read(path(&dir)).expect("it reads");
    let copy = Redb::peek(&path(&dir)).expect("it reads");
    let prefix = Prefix::trust_domain(key("a").trust_domain());
    assert_eq!(
        crate::store::list_all(&copy, &prefix)
            .await
            .map(|all| all.len()),
        Ok(12)
    );
    assert!(
        fs::read(path(&dir)).expect("it reads") == before,
        "it was changed"
    );
    assert_eq!(files(&dir), ["state.redb"]);

    // Also while a process has it.
    let store = Redb::open(&path(&dir), now()).expect("it opens");
    put(&store, "n1", "new").await;
    let copy = Redb::peek(&path(&dir)).expect("it reads");
    let seen = copy
        .get(&key("n1"))
        .await
        .expect("it reads")
        .map(|entry| entry.value);
    assert_eq!(seen, Some("new".into()));

    drop(store);
    fs::write(path(&dir), &before[..before.len() / 2]).expect("it is written");
    let damaged = Redb::peek(&path(&dir)).expect_err("it is not whole");
    assert_eq!(damaged.code(), "ARX-STORE-DAMAGED");
}

#[test]
fn the_second_in_one_process_is_told_too() {
    let dir = TempDir::new().expect("a temporary directory");
    let _first = open_or_create(&dir);
    let second = Redb::open(&path(&dir), now()).expect_err("it is held");
    assert!(
        second
            .to_string()
            .contains(&format!("process {}", std::process::id())),
        "{second}"
    );
    // By another name it is the same file.
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(path(&dir), &link).expect("a link");
    let second = Redb::open(&link, now()).expect_err("it is held");
    assert!(matches!(second, OpenError::Held { .. }), "{second}");
}

#[test]
fn a_deleted_lock_file_does_not_let_a_second_one_in() {
    let dir = TempDir::new().expect("a temporary directory");
    let _first = open_or_create(&dir);
    fs::remove_file(dir.path().join("state.redb.lock")).expect("it is there");
    let second = Redb::open(&path(&dir), now()).expect_err("redb holds it too");
    assert!(matches!(second, OpenError::Held { .. }), "{second}");
}

#[tokio::test]
async fn a_truncated_file_is_refused_and_left_as_it_is() {
    let dir = TempDir::new().expect("a temporary directory");
    filled(&dir).await;
    let whole = fs::read(path(&dir)).expect("it reads");
    let mut length = 0;
    while length < whole.len() {
        refused_and_untouched(&dir, &whole[..length]);
        length += 1777;
    }
}

#[test]
fn what_is_not_a_state_file_is_refused_and_left_as_it_is() {
    let dir = TempDir::new().expect("a temporary directory");
    for content in [
        vec![],
        b"hello\n".to_vec(),
        vec![0; 100_000],
        vec![0xff; 100_000],
    ] {
        refused_and_untouched(&dir, &content);
    }
}

fn refused_and_untouched(dir: &TempDir, content: &[u8]) {
    fs::write(path(dir), content).expect("it is written");
    let refused = Redb::open_or_create(&path(dir), now()).expect_err("it is damaged");
    assert!(matches!(refused, OpenError::Damaged { .. }), "{refused}");
    assert!(
        refused
            .to_string()
            .contains("it was left as it is; restore a backup"),
        "{refused}"
    );
    assert!(
        fs::read(path(dir)).expect("it reads") == content,
        "it was changed"
    );
    assert_eq!(files(dir), ["state.redb", "state.redb.lock"]);
}

#[tokio::test]
async fn a_changed_byte_is_found_or_does_not_matter() {
    let dir = TempDir::new().expect("a temporary directory");
    let before = filled(&dir).await;
    let whole = fs::read(path(&dir)).expect("it reads");
    let mut found = 0;
    let every_byte_of_the_header = 0..320;
    for at in every_byte_of_the_header.chain((320..whole.len()).step_by(251)) {
        let mut changed = whole.clone();
        changed[at] ^= 0x41;
        fs::write(path(&dir), &changed).expect("it is written");
        match Redb::open(&path(&dir), now()) {
            Ok(store) => assert!(table(&store) == before, "byte {at} changed a value"),
            Err(OpenError::Damaged { .. }) => {
                found += 1;
                assert!(
                    fs::read(path(&dir)).expect("it reads") == changed,
                    "byte {at}"
                );
            }
            Err(other) => panic!("byte {at}: {other}"),
        }
    }
    assert!(found > 100, "only {found} were found");
}

#[test]
fn a_file_of_a_newer_layout_is_refused_with_what_to_do() {
    let dir = TempDir::new().expect("a temporary directory");
    drop(open_or_create(&dir));
    file::mark_layout(&path(&dir), file::LAYOUT + 1);
    let before = fs::read(path(&dir)).expect("it reads");
    let refused = Redb::open_or_create(&path(&dir), now()).expect_err("it is newer");
    assert_eq!(refused.code(), "ARX-STORE-NEWER");
    assert!(
        refused
            .to_string()
            .contains("written by a newer version of Arx (layout 2")
    );
    assert!(
        fs::read(path(&dir)).expect("it reads") == before,
        "it was changed"
    );
}

#[tokio::test]
async fn a_failed_draft_of_an_earlier_process_is_in_nobodys_way() {
    let dir = TempDir::new().expect("a temporary directory");
    fs::write(dir.path().join("state.redb.new"), "half a file").expect("it is written");
    let store = open_or_create(&dir);
    put(&store, "a", "value").await;
    assert_eq!(files(&dir), ["state.redb", "state.redb.lock"]);
}
