mod fake;

use std::time::Duration;

use arx_daemon::config::{File, Span};
use arx_identity::TrustDomain;
use tonic::{Code, Status};

use self::fake::{Data, Member, Mood};
use super::*;
use crate::store::Segment;

/// A store with the member that it is in.
struct Site {
    store: Etcd,
    _members: Vec<Member>,
}

crate::store_conformance!(|| async {
    let member = Member::start(Data::default()).await;
    let store = store(&[&member]);
    Site {
        store,
        _members: vec![member],
    }
});

impl std::fmt::Debug for Site {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.store.fmt(f)
    }
}

impl Store for Site {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Entry>, StoreError>> {
        self.store.get(key)
    }

    fn compare_and_swap<'a>(
        &'a self,
        key: &'a Key,
        expected: Option<&'a Version>,
        value: Bytes,
    ) -> BoxFuture<'a, Result<Version, CasError>> {
        self.store.compare_and_swap(key, expected, value)
    }

    fn delete<'a>(
        &'a self,
        key: &'a Key,
        expected: &'a Version,
    ) -> BoxFuture<'a, Result<(), CasError>> {
        self.store.delete(key, expected)
    }

    fn list<'a>(
        &'a self,
        prefix: &'a Prefix,
        from: Option<&'a Cursor>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page, StoreError>> {
        self.store.list(prefix, from, limit)
    }

    fn changes(&self, prefix: &Prefix) -> Changes {
        self.store.changes(prefix)
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        self.store.probe()
    }
}

fn options(endpoints: Vec<String>) -> Options {
    Options {
        endpoints,
        ca_file: None,
        certificate_file: None,
        key_file: None,
        prefix: "arx/".to_owned(),
        deadline: Span::from_secs(1),
    }
}

fn store(members: &[&Member]) -> Etcd {
    let endpoints = members.iter().map(|it| format!("http://{}", it.address));
    Etcd::new(&options(endpoints.collect())).expect("the options are in order")
}

fn td() -> TrustDomain {
    TrustDomain::parse("example.org").expect("a trust domain")
}

fn key(name: &str) -> Key {
    let name = Segment::parse(name).expect("a part of a key");
    Key::new(&td(), &Segment::fixed("kind")).named(name)
}

async fn make(store: &Etcd, name: &str) -> Result<Version, CasError> {
    store.compare_and_swap(&key(name), None, "one".into()).await
}

async fn is_there(store: &Etcd, name: &str) -> bool {
    let found = store.get(&key(name)).await.expect("it reads");
    found.is_some()
}

fn said(text: &str) -> Mood {
    Mood::Says(Status::new(Code::Unavailable, text))
}

#[tokio::test]
async fn a_read_goes_to_the_next_member_when_one_hangs_or_is_not_there() {
    let data = Data::default();
    let (first, second) = (Member::start(data.clone()).await, Member::start(data).await);
    let store = store(&[&first, &second]);
    make(&store, "a").await.expect("it is written");
    first.next(Mood::Hangs);
    assert!(is_there(&store, "a").await);
    drop(first);
    assert!(is_there(&store, "a").await);
    make(&store, "b").await.expect("the second member writes");
}

#[tokio::test]
async fn a_write_that_was_never_sent_is_not_of_unknown_outcome() {
    let member = Member::start(Data::default()).await;
    let store = store(&[&member]);
    drop(member);
    let failed = make(&store, "a").await.expect_err("nobody is there");
    assert_eq!(failed.code(), "ARX-STORE-UNAVAILABLE", "{failed}");
    assert!(failed.to_string().contains("refused"), "{failed}");
}

#[tokio::test]
async fn a_write_whose_answer_is_lost_is_of_unknown_outcome_and_reads_on_show_it() {
    let member = Member::start(Data::default()).await;
    let store = store(&[&member]);
    member.watches(1).await;
    member.next(Mood::Resets);
    let failed = make(&store, "a").await.expect_err("its answer is lost");
    assert_eq!(failed.code(), "ARX-STORE-OUTCOME-UNKNOWN", "{failed}");
    assert!(is_there(&store, "a").await);
}

#[tokio::test]
async fn a_write_to_a_member_that_hangs_ends_with_the_deadline_and_the_next_one_goes_elsewhere() {
    let data = Data::default();
    let (first, second) = (Member::start(data.clone()).await, Member::start(data).await);
    let store = store(&[&first, &second]);
    first.watches(1).await;
    first.next(Mood::Hangs);
    let failed = make(&store, "a").await.expect_err("it hangs");
    assert_eq!(failed.code(), "ARX-STORE-OUTCOME-UNKNOWN", "{failed}");
    first.next(Mood::Hangs);
    make(&store, "b").await.expect("the second member writes");
}

#[tokio::test]
async fn members_without_a_leader_are_told_as_no_quorum_and_did_nothing() {
    let data = Data::default();
    let (first, second) = (Member::start(data.clone()).await, Member::start(data).await);
    let store = store(&[&first, &second]);
    first.watches(1).await;
    first.next(said("etcdserver: no leader"));
    second.next(said("etcdserver: no leader"));
    let failed = make(&store, "a").await.expect_err("there is no leader");
    assert_eq!(failed.code(), "ARX-STORE-NO-QUORUM", "{failed}");
    assert!(failed.to_string().contains(&second.address), "{failed}");
    assert!(!is_there(&store, "a").await);
}

#[tokio::test]
async fn a_write_that_timed_out_within_etcd_is_of_unknown_outcome() {
    let member = Member::start(Data::default()).await;
    let store = store(&[&member]);
    member.watches(1).await;
    member.next(said("etcdserver: request timed out"));
    let failed = make(&store, "a").await.expect_err("it timed out");
    assert_eq!(failed.code(), "ARX-STORE-OUTCOME-UNKNOWN", "{failed}");
}

#[tokio::test]
async fn what_is_full_or_not_permitted_is_told_by_code_and_passes() {
    let member = Member::start(Data::default()).await;
    let store = store(&[&member]);
    member.watches(1).await;
    let full = "etcdserver: mvcc: database space exceeded";
    member.next(Mood::Says(Status::new(Code::ResourceExhausted, full)));
    let failed = store.probe().await.expect_err("it is full");
    assert_eq!(failed.code(), "ARX-STORE-FULL", "{failed}");
    let denied = "etcdserver: permission denied";
    member.next(Mood::Says(Status::new(Code::PermissionDenied, denied)));
    let failed = make(&store, "a").await.expect_err("it is not permitted");
    assert_eq!(failed.code(), "ARX-STORE-REFUSED", "{failed}");
    make(&store, "a").await.expect("now it is");
}

#[tokio::test]
async fn a_probe_changes_nothing() {
    let member = Member::start(Data::default()).await;
    let store = store(&[&member]);
    let before = make(&store, "a").await.expect("it is written");
    store.probe().await.expect("it could write");
    let after = make(&store, "b").await.expect("it is written");
    let revision = |version: &Version| version.as_str().parse::<u64>().expect("a number");
    assert_eq!(revision(&after), revision(&before) + 1);
    let all = crate::store::list_all(&store, &Prefix::trust_domain(&td())).await;
    assert_eq!(all.expect("it reads").len(), 2);
}

#[tokio::test]
async fn a_watch_goes_on_where_it_broke_off() {
    let data = Data::default();
    let member = Member::start(data.clone()).await;
    let store = store(&[&member]);
    let mut changes = store.changes(&Prefix::trust_domain(&td()));
    changes.changed().await.expect("the watch is there");
    data.put(&store.inner.path(&key("a")));
    member.reset();
    changes
        .changed()
        .await
        .expect("what came meanwhile is told");
    assert_eq!(member.watches(2).await, [0, 1]);
}

#[tokio::test]
async fn a_watch_that_has_missed_something_for_good_wakes_everybody_and_begins_anew() {
    let data = Data::default();
    let member = Member::start(data.clone()).await;
    let store = store(&[&member]);
    let mut changes = store.changes(&Prefix::kind(&td(), &Segment::fixed("elsewhere")));
    changes.changed().await.expect("the watch is there");
    data.put(&store.inner.path(&key("a")));
    data.compact();
    member.reset();
    changes.changed().await.expect("the gap is told");
    assert_eq!(member.watches(3).await, [0, 1, 0]);
}

#[tokio::test]
async fn a_watch_of_members_that_were_set_back_wakes_everybody_and_begins_anew() {
    let data = Data::default();
    let member = Member::start(data.clone()).await;
    let store = store(&[&member]);
    let mut changes = store.changes(&Prefix::trust_domain(&td()));
    changes.changed().await.expect("the watch is there");
    for name in ["a", "b"] {
        data.put(&store.inner.path(&key(name)));
    }
    member.reset();
    changes.changed().await.expect("both are told");
    let mut others = store.changes(&Prefix::kind(&td(), &Segment::fixed("elsewhere")));
    data.set_back(1);
    member.reset();
    others.changed().await.expect("the gap is told");
    assert_eq!(member.watches(4).await, [0, 1, 3, 0]);
}

#[tokio::test]
async fn a_key_that_arx_did_not_write_is_told() {
    let member = Member::start(Data::default()).await;
    let store = store(&[&member]);
    let op = Op::RequestPut(PutRequest {
        key: "arx/example.org/UPPER/".into(),
        value: Bytes::new(),
    });
    let foreign = store.inner.txn("arx/example.org/UPPER/".to_owned(), 0, op);
    foreign.await.expect("it is written");
    let failed = store.list(&Prefix::trust_domain(&td()), None, 10).await;
    assert_eq!(
        failed.expect_err("it is none of ours").code(),
        "ARX-STORE-DAMAGED"
    );
}

/// What is said of these lines in `[state.etcd]`.
fn problems(lines: &str) -> String {
    let file = File::from_text("arx-ca.toml", lines.to_owned()).expect("it is TOML");
    let options: Options = file.parse().expect("it has the form");
    let mut problems = file.problems();
    options.problems(&mut problems);
    problems
        .finish()
        .map_or_else(|error| error.to_string(), |()| String::new())
}

#[test]
fn options_that_cannot_work_are_refused_with_what_helps() {
    let well = "endpoints = [\"https://etcd-0:2379\", \"https://[::1]:2379\"]\nca_file = \"/a\"\ncertificate_file = \"/b\"\nkey_file = \"/c\"\n";
    assert_eq!(problems(well), "");
    assert_eq!(problems("endpoints = [\"http://127.0.0.1:2379\"]"), "");
    for (lines, part) in [
        ("endpoints = []", "name each member"),
        (
            "endpoints = [\"http://etcd-0:2379\"]",
            "only a member on loopback",
        ),
        (
            "endpoints = [\"etcd-0:2379\"]",
            "neither https:// nor http://",
        ),
        ("endpoints = [\"https://etcd-0\"]", "no host and port"),
        ("endpoints = [\"https://etcd-0:2379/v3\"]", "after the port"),
        (
            "endpoints = [\"https://root@etcd-0:2379\"]",
            "there is a user",
        ),
        ("endpoints = [\"https://etcd-0:2379\"]", "name ca_file"),
        (
            "endpoints = [\"http://127.0.0.1:2379\"]\nca_file = \"/a\"",
            "leave the files out",
        ),
        (
            "endpoints = [\"http://127.0.0.1:2379\"]\nprefix = \"\"",
            "leave it out for",
        ),
        (
            "endpoints = [\"http://127.0.0.1:2379\"]\ndeadline = \"10ms\"",
            "between 1s and 1m",
        ),
    ] {
        let text = problems(lines);
        assert!(text.contains(part), "{lines}: {text}");
    }
}

#[tokio::test]
async fn certificates_that_cannot_be_used_are_named() {
    let mut options = options(vec!["https://127.0.0.1:1".to_owned()]);
    options.ca_file = Some("/nowhere/ca.pem".into());
    options.certificate_file = Some("/nowhere/cert.pem".into());
    options.key_file = Some("/nowhere/key.pem".into());
    options.deadline = Span::from_secs(5);
    assert!(options.try_files().is_err());
    let store = Etcd::new(&options).expect("they may come later");
    let failed = store.get(&key("a")).await.expect_err("there is no key");
    assert!(matches!(failed, StoreError::Unavailable { .. }), "{failed}");
    assert_eq!(Duration::from_secs(5), options.deadline.get());
}
