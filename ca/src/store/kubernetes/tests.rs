//! With an API server of the test's below kube's client. Every promise is held by a real one, in
//! `make test-kube`.

use std::time::Duration;

use arx_identity::{KeyId, TrustDomain};
use serde_json::Value;
use tokio::sync::mpsc;

use super::*;
use crate::kubernetes::fake::{Asked, api_server};
use crate::store::Segment;

struct Bench {
    store: Arc<Kubernetes>,
    asked: mpsc::UnboundedReceiver<Asked>,
    calls: JoinSet<Outcome>,
}

/// What came of a call.
#[derive(Debug)]
enum Outcome {
    Read(Result<Option<Entry>, StoreError>),
    Wrote(Result<Version, CasError>),
    Deleted(Result<(), CasError>),
    Listed(Result<Page, StoreError>),
    Probed(Result<(), StoreError>),
}

fn td() -> TrustDomain {
    TrustDomain::parse("example.org").expect("a trust domain")
}

fn key() -> Key {
    Key::new(&td(), &Segment::fixed("kind"))
}

fn version() -> Version {
    Version::new("7@uid-1")
}

/// The Secret that a write of `key` makes, as the API server answers it.
fn stored(key: &Key, value: &[u8]) -> Value {
    object::secret(key, value, Some(("7", "uid-1")))
}

fn status(code: u16, message: &str) -> Value {
    json!({"kind": "Status", "code": code, "message": message})
}

impl Bench {
    /// Its watch is open before anything else is asked.
    async fn new() -> (Self, crate::kubernetes::fake::Watch) {
        let (client, asked) = api_server();
        let api = Api::with(client, "arx-system".to_owned(), Duration::from_secs(5));
        let mut bench = Self {
            store: Arc::new(Kubernetes::over(api)),
            asked,
            calls: JoinSet::new(),
        };
        let watch = bench.watch("3").await;
        (bench, watch)
    }

    /// Answers the list from which a watch begins, and the watch.
    async fn watch(&mut self, version: &str) -> crate::kubernetes::fake::Watch {
        let list = json!({"metadata": {"resourceVersion": version}, "items": []});
        self.next("GET", "limit=1").await.whole(200, &list);
        let place = format!("resourceVersion={version}");
        self.next("GET", &place).await.open()
    }

    async fn next(&mut self, method: &str, what: &str) -> Asked {
        let asked = self.asked.recv().await.expect("a request");
        assert!(
            asked.method == method && asked.what.contains(what),
            "{} {}",
            asked.method,
            asked.what
        );
        asked
    }

    fn get(&mut self) {
        let store = Arc::clone(&self.store);
        self.calls
            .spawn(async move { Outcome::Read(store.get(&key()).await) });
    }

    fn swap(&mut self, expected: Option<Version>) {
        let store = Arc::clone(&self.store);
        self.calls.spawn(async move {
            let key = key();
            let written = store.compare_and_swap(&key, expected.as_ref(), "one".into());
            Outcome::Wrote(written.await)
        });
    }

    fn delete(&mut self) {
        let store = Arc::clone(&self.store);
        self.calls
            .spawn(async move { Outcome::Deleted(store.delete(&key(), &version()).await) });
    }

    fn list(&mut self, from: Option<&str>) {
        let (store, from) = (Arc::clone(&self.store), from.map(Cursor::new));
        self.calls.spawn(async move {
            let prefix = Prefix::trust_domain(&td());
            Outcome::Listed(store.list(&prefix, from.as_ref(), 10).await)
        });
    }

    fn probe(&mut self) {
        let store = Arc::clone(&self.store);
        self.calls
            .spawn(async move { Outcome::Probed(store.probe().await) });
    }

    async fn outcome(&mut self) -> Outcome {
        let done = self.calls.join_next().await.expect("a call");
        done.expect("it does not panic")
    }

    async fn code(&mut self) -> &'static str {
        match self.outcome().await {
            Outcome::Read(Err(error))
            | Outcome::Listed(Err(error))
            | Outcome::Probed(Err(error)) => error.code(),
            Outcome::Wrote(Err(error)) | Outcome::Deleted(Err(error)) => error.code(),
            done => panic!("{done:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_asked_too_often_is_left_alone_for_as_long_as_it_says_within_the_deadline() {
    let (mut bench, _watch) = Bench::new().await;
    bench.swap(None);
    bench.next("POST", "/secrets").await.too_many(2);
    let again = bench.next("POST", "/secrets").await;
    again.whole(201, &stored(&key(), b"one"));
    let outcome = bench.outcome().await;
    assert!(
        matches!(&outcome, Outcome::Wrote(Ok(written)) if *written == version()),
        "{outcome:?}"
    );
    bench.swap(None);
    bench.next("POST", "/secrets").await.too_many(60);
    // It was not done, and is not tried again.
    assert_eq!(bench.code().await, "ARX-STORE-UNAVAILABLE");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_hangs_ends_with_the_deadline_and_a_write_is_then_of_unknown_outcome() {
    let (mut bench, _watch) = Bench::new().await;
    bench.get();
    let _hangs = bench.next("GET", "/secrets/arx-kind-").await;
    assert_eq!(bench.code().await, "ARX-STORE-UNAVAILABLE");
    bench.swap(Some(version()));
    let _hangs = bench.next("PUT", "/secrets/arx-kind-").await;
    assert_eq!(bench.code().await, "ARX-STORE-OUTCOME-UNKNOWN");
}

#[tokio::test]
async fn a_write_that_is_reset_or_fails_within_is_of_unknown_outcome() {
    let (mut bench, _watch) = Bench::new().await;
    bench.swap(None);
    drop(bench.next("POST", "/secrets").await);
    assert_eq!(bench.code().await, "ARX-STORE-OUTCOME-UNKNOWN");
    for failed in [500, 503, 504] {
        bench.delete();
        let asked = bench.next("DELETE", "/secrets/arx-kind-").await;
        asked.whole(failed, &status(failed, "etcdserver: request timed out"));
        assert_eq!(bench.code().await, "ARX-STORE-OUTCOME-UNKNOWN");
    }
    bench.get();
    drop(bench.next("GET", "/secrets").await);
    assert_eq!(bench.code().await, "ARX-STORE-UNAVAILABLE");
}

#[tokio::test]
async fn another_version_or_object_than_the_expected_one_conflicts() {
    let (mut bench, _watch) = Bench::new().await;
    bench.swap(Some(version()));
    let asked = bench.next("PUT", "/secrets/arx-kind-").await;
    let metadata = &asked.body["metadata"];
    assert_eq!(
        (&metadata["resourceVersion"], &metadata["uid"]),
        (&json!("7"), &json!("uid-1"))
    );
    asked.whole(409, &status(409, "the object has been modified"));
    assert_eq!(bench.code().await, "ARX-STORE-CONFLICT");

    bench.delete();
    let asked = bench.next("DELETE", "/secrets/arx-kind-").await;
    let expected = json!({"uid": "uid-1", "resourceVersion": "7"});
    assert_eq!(asked.body["preconditions"], expected);
    asked.whole(404, &status(404, "not found"));
    assert_eq!(bench.code().await, "ARX-STORE-CONFLICT");

    bench.swap(None);
    let asked = bench.next("POST", "/secrets").await;
    asked.whole(409, &status(409, "already exists"));
    assert_eq!(bench.code().await, "ARX-STORE-CONFLICT");

    bench.swap(Some(Version::new("no version of ours")));
    assert_eq!(bench.code().await, "ARX-STORE-CONFLICT");
}

#[tokio::test]
async fn no_two_writes_are_the_same_to_the_api_server() {
    let (mut bench, _watch) = Bench::new().await;
    let mut seen = Vec::new();
    for _ in 0..2 {
        bench.swap(Some(version()));
        let asked = bench.next("PUT", "/secrets/arx-kind-").await;
        seen.push(asked.body.clone());
        asked.whole(200, &stored(&key(), b"one"));
        bench.outcome().await;
    }
    assert_ne!(seen[0], seen[1]);
    assert_eq!(seen[0]["data"], seen[1]["data"]);
}

#[tokio::test]
async fn what_is_not_permitted_is_told_in_the_api_server_s_words() {
    let (mut bench, _watch) = Bench::new().await;
    let words = "secrets is forbidden: User \"x\" cannot create resource \"secrets\"";
    bench.probe();
    let asked = bench.next("POST", "dryRun=All").await;
    asked.whole(403, &status(403, words));
    let outcome = bench.outcome().await;
    let Outcome::Probed(Err(error)) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(error.code(), "ARX-STORE-REFUSED");
    assert!(error.to_string().contains("cannot create"), "{error}");
    // There is no such namespace.
    bench.swap(None);
    let asked = bench.next("POST", "/secrets").await;
    asked.whole(404, &status(404, "namespaces \"arx-system\" not found"));
    assert_eq!(bench.code().await, "ARX-STORE-REFUSED");
}

#[tokio::test]
async fn a_list_that_expires_between_two_pages_goes_on_where_the_api_server_says() {
    let (mut bench, _watch) = Bench::new().await;
    let mut gone = status(410, "the provided continue parameter is too old");
    gone["metadata"] = json!({"continue": "later"});
    bench.list(Some("sooner"));
    let asked = bench.next("GET", "continue=sooner").await;
    assert!(asked.what.contains("labelSelector=arx.dev%2Fstate-of%3D"));
    asked.whole(410, &gone);
    let page = json!({"metadata": {"continue": "last"}, "items": [stored(&key(), b"one")]});
    bench.next("GET", "continue=later").await.whole(200, &page);
    let outcome = bench.outcome().await;
    let Outcome::Listed(Ok(page)) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(page.entries.len(), 1);
    assert_eq!(page.next, Some(Cursor::new("last")));
    bench.list(Some("last"));
    let asked = bench.next("GET", "continue=last").await;
    asked.whole(410, &status(410, "too old"));
    assert_eq!(bench.code().await, "ARX-STORE-UNAVAILABLE");
}

#[tokio::test]
async fn a_secret_that_was_edited_by_hand_into_something_else_is_refused() {
    let (mut bench, _watch) = Bench::new().await;
    let whole = stored(&key(), b"one");
    let mut other_key = whole.clone();
    other_key["metadata"]["annotations"]["arx.dev/state-key"] = "example.org/other/".into();
    let mut no_value = whole.clone();
    no_value["data"] = json!({"other": "b25l"});
    let mut no_base64 = whole.clone();
    no_base64["data"] = json!({"value": "?"});
    for edited in [other_key, no_value, no_base64] {
        bench.get();
        bench
            .next("GET", "/secrets/arx-kind-")
            .await
            .whole(200, &edited);
        assert_eq!(bench.code().await, "ARX-STORE-DAMAGED", "{edited}");
    }
    bench.get();
    bench
        .next("GET", "/secrets/arx-kind-")
        .await
        .whole(200, &whole);
    let outcome = bench.outcome().await;
    let Outcome::Read(Ok(Some(entry))) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(
        (entry.key, entry.version, &entry.value[..]),
        (key(), version(), &b"one"[..])
    );
}

#[tokio::test(start_paused = true)]
async fn a_watch_goes_on_where_it_broke_off_and_wakes_everybody_where_that_is_forgotten() {
    let (mut bench, watch) = Bench::new().await;
    let mut changes = bench.store.changes(&Prefix::trust_domain(&td()));
    let mut others = bench
        .store
        .changes(&Prefix::kind(&td(), &Segment::fixed("other")));
    for changes in [&mut changes, &mut others] {
        changes.changed().await.expect("the watch is there");
    }
    let mut object = stored(&key(), b"");
    object["metadata"]["resourceVersion"] = "8".into();
    watch.say("MODIFIED", &object);
    changes.changed().await.expect("the store is open");
    watch.say("BOOKMARK", &json!({"metadata": {"resourceVersion": "9"}}));
    drop(watch);
    let watch = bench.next("GET", "resourceVersion=9").await.open();
    object["metadata"]["resourceVersion"] = "10".into();
    watch.say("DELETED", &object);
    changes.changed().await.expect("the store is open");
    assert!(others.changed().now_or_never().is_none());
    watch.say("ERROR", &status(410, "too old resource version"));
    let _watch = bench.watch("20").await;
    others.changed().await.expect("the gap is told");
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_goes_back_to_an_earlier_version_wakes_everybody_and_begins_anew() {
    let (mut bench, watch) = Bench::new().await;
    let mut others = bench
        .store
        .changes(&Prefix::kind(&td(), &Segment::fixed("other")));
    others.changed().await.expect("the watch is there");
    watch.say("BOOKMARK", &json!({"metadata": {"resourceVersion": "9"}}));
    let mut object = stored(&key(), b"");
    object["metadata"]["resourceVersion"] = "8".into();
    watch.say("MODIFIED", &object);
    let _watch = bench.watch("4").await;
    others.changed().await.expect("the gap is told");
}

#[tokio::test(start_paused = true)]
async fn a_watch_begins_anew_after_long_without_a_word_however_often_it_was_begun_meanwhile() {
    let (mut bench, mut watch) = Bench::new().await;
    let mut changes = bench.store.changes(&Prefix::trust_domain(&td()));
    changes.changed().await.expect("the watch is there");
    watch.say("BOOKMARK", &json!({"metadata": {"resourceVersion": "9"}}));
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_secs(40)).await;
        drop(watch);
        watch = bench.next("GET", "resourceVersion=9").await.open();
    }
    assert!(changes.changed().now_or_never().is_none());
    tokio::time::sleep(Duration::from_secs(40)).await;
    drop(watch);
    let silent = bench.watch("4").await;
    changes.changed().await.expect("the gap is told");
    let _watch = bench.watch("3").await;
    changes.changed().await.expect("and this one");
    drop(silent);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_refused_is_tried_again() {
    let (client, asked) = api_server();
    let api = Api::with(client, "arx-system".to_owned(), Duration::from_secs(5));
    let mut bench = Bench {
        store: Arc::new(Kubernetes::over(api)),
        asked,
        calls: JoinSet::new(),
    };
    let asked = bench.next("GET", "limit=1").await;
    asked.whole(403, &status(403, "secrets is forbidden"));
    let mut changes = bench.store.changes(&Prefix::trust_domain(&td()));
    let _watch = bench.watch("3").await;
    changes.changed().await.expect("the watch is there");
}

#[test]
fn whatever_a_key_is_like_its_name_and_labels_are_such_as_kubernetes_takes() {
    let long = "k".repeat(64);
    let td = TrustDomain::parse(&"t_-.".repeat(60)).expect("a trust domain");
    let issuer = KeyId::from_slice(&[7; 20]).expect("20 bytes");
    let kind = Segment::parse(&long).expect("a part of a key");
    let dotted = Segment::parse("a..b").expect("a part of a key");
    let keys = [
        Key::new(&td, &kind).of_issuer(issuer).named(dotted.clone()),
        Key::new(&td, &dotted),
        key(),
    ];
    for key in keys {
        let secret = object::secret(&key, b"", None);
        let name = secret["metadata"]["name"].as_str().expect("a name");
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        assert!(name.len() <= 253 && name.bytes().all(fits), "{name}");
        let labels = secret["metadata"]["labels"].as_object().expect("labels");
        for value in labels.values() {
            let value = value.as_str().expect("a text");
            assert!(!value.is_empty() && value.len() <= 63, "{value}");
        }
    }
}

/// What is said of these lines in `[state.kubernetes]`.
fn problems(lines: &str) -> String {
    let file = arx_daemon::config::File::from_text("arx-ca.toml", lines.to_owned());
    let file = file.expect("it is TOML");
    let options: Options = file.parse().expect("it has the form");
    let mut problems = file.problems();
    options.problems(&mut problems);
    problems
        .finish()
        .map_or_else(|error| error.to_string(), |()| String::new())
}

#[test]
fn options_that_cannot_work_are_refused_with_what_helps() {
    assert_eq!(problems("namespace = \"arx-system\""), "");
    assert_eq!(problems(""), "");
    for (lines, part) in [
        ("namespace = \"Arx\"", "is no name of a namespace"),
        ("namespace = \"a/b\"", "leave it out for the one"),
        ("deadline = \"2h\"", "between 1s and 1m"),
    ] {
        let text = problems(lines);
        assert!(text.contains(part), "{lines}: {text}");
    }
}
