//! With an API server of the test's below kube's client.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arx_daemon::Clock;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{Api, Claim, Pods};
use crate::kubernetes::fake::{Asked, Watch, api_server};
use crate::token::Refused;

const HOUR: Duration = Duration::from_secs(3600);

struct Bench {
    pods: Arc<Pods>,
    clock: Clock,
    asked: mpsc::UnboundedReceiver<Asked>,
    tasks: JoinSet<Result<(), Refused>>,
}

impl Bench {
    fn new() -> Self {
        let (client, asked) = api_server();
        let clock = Clock::manual(now());
        let api = Api::with(client, None);
        let pods = Arc::new(Pods::new(
            "c1".into(),
            api,
            HOUR,
            &["app".to_owned()],
            false,
            clock.clone(),
        ));
        let kept = Arc::clone(&pods);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            kept.keep().await;
            Ok(())
        });
        Self {
            pods,
            clock,
            asked,
            tasks,
        }
    }

    /// Watching after a list of these pods.
    async fn watching(listed: &[Value]) -> (Self, Watch) {
        let mut bench = Self::new();
        bench
            .next("/api/v1/pods?limit=250")
            .await
            .whole(200, &list(listed, "7", ""));
        let watch = bench.next("resourceVersion=7").await.open();
        (bench, watch)
    }

    /// The next request, which is for this.
    async fn next(&mut self, what: &str) -> Asked {
        let asked = self.asked.recv().await.expect("a request");
        assert!(
            asked.what.contains(what),
            "{} instead of {what}",
            asked.what
        );
        asked
    }

    /// Waits until the index has seen so many changes.
    async fn seen(&self, events: u64) {
        while self.pods.health().events < events {
            tokio::task::yield_now().await;
        }
    }

    /// What a UID proves to the agent of a node.
    fn on(&self, node: &str, uid: &str) -> &'static str {
        match self.pods.on(node, uid) {
            Ok(_) => "live",
            Err(unproved) => unproved.code(),
        }
    }

    fn judge(&self, claim: &Claim<'_>) -> &'static str {
        match self.pods.judge(claim) {
            Some(Ok(())) => "live",
            Some(Err(refused)) => refused.code(),
            None => "to be asked",
        }
    }
}

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_780_000_000)
}

/// As an API server writes it, with what is not read among the rest.
fn pod(name: &str) -> Value {
    json!({
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {
            "name": name,
            "namespace": "shop",
            "uid": format!("uid-of-{name}"),
            "resourceVersion": "7",
            "labels": {"app": "web"},
            "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:status": {}}}],
        },
        "spec": {
            "nodeName": "node-1",
            "serviceAccountName": "web",
            "containers": [{"name": "app", "env": [{"name": "phase", "value": "Failed"}]}],
        },
        "status": {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    })
}

fn with(pointer: &str, value: Value) -> Value {
    let mut pod = pod("web-1");
    *pod.pointer_mut(pointer).expect("it is there") = value;
    pod
}

fn list(pods: &[Value], version: &str, next: &str) -> Value {
    json!({
        "kind": "PodList",
        "apiVersion": "v1",
        "metadata": {"resourceVersion": version, "continue": next},
        "items": pods,
    })
}

fn claim() -> Claim<'static> {
    Claim {
        uid: "uid-of-web-1",
        namespace: "shop",
        name: "web-1",
        account: "web",
        node: Some("node-1"),
    }
}

#[tokio::test]
async fn all_pages_of_the_list_are_read_before_a_pod_counts_as_unknown() {
    let mut bench = Bench::new();
    let first = bench.next("/api/v1/pods?limit=250").await;
    let (code, _, shut) = bench.pods.trouble().expect("it is told");
    assert_eq!((code, shut), ("ARX-PODS-UNREAD", true));
    first.whole(200, &list(&[pod("web-1")], "7", "a b"));
    let second = bench.next("continue=a%20b").await;
    second.whole(200, &list(&[pod("web-2")], "7", ""));
    let _watch = bench
        .next("watch=true&allowWatchBookmarks=true")
        .await
        .open();
    let health = bench.pods.health();
    assert_eq!((health.pods, health.age), (2, Some(Duration::ZERO)));
    assert_eq!(bench.judge(&claim()), "live");
}

#[tokio::test(start_paused = true)]
async fn a_right_that_is_missing_is_named_until_it_is_given() {
    let mut bench = Bench::new();
    let first = bench.next("/api/v1/pods?limit=250").await;
    first.whole(403, &json!({}));
    let again = bench.next("/api/v1/pods?limit=250").await;
    let (code, message, shut) = bench.pods.trouble().expect("it is told");
    assert_eq!((code, shut), ("ARX-PODS-UNREAD", true));
    assert!(message.contains("get, list and watch pods"), "{message}");
    again.whole(200, &list(&[], "7", ""));
    let _watch = bench.next("resourceVersion=7").await.open();
    assert!(bench.pods.trouble().is_none());
}

#[tokio::test]
async fn a_token_counts_while_its_pod_is_there_and_as_it_says() {
    let (bench, watch) = Bench::watching(&[pod("web-1")]).await;
    assert_eq!(bench.judge(&claim()), "live");
    let without_node = Claim {
        node: None,
        ..claim()
    };
    assert_eq!(bench.judge(&without_node), "live");
    let others = [
        Claim {
            node: Some("node-2"),
            ..claim()
        },
        Claim {
            account: "root",
            ..claim()
        },
        Claim {
            name: "web-2",
            ..claim()
        },
        Claim {
            namespace: "bank",
            ..claim()
        },
    ];
    for other in others {
        assert_eq!(bench.judge(&other), "ARX-TOKEN-POD-GONE", "{other:?}");
    }
    watch.say("DELETED", &pod("web-1"));
    bench.seen(1).await;
    assert_eq!(bench.judge(&claim()), "to be asked");
}

#[tokio::test]
async fn a_pod_that_has_ended_or_whose_time_is_up_is_gone() {
    let (bench, watch) = Bench::watching(&[]).await;
    watch.say("ADDED", &with("/status/phase", json!("Succeeded")));
    bench.seen(1).await;
    assert_eq!(bench.judge(&claim()), "ARX-TOKEN-POD-GONE");
    let mut deleted = pod("web-1");
    // Now, and half a minute of grace.
    deleted["metadata"]["deletionTimestamp"] = json!("2026-05-28T20:27:10Z");
    watch.say("MODIFIED", &deleted);
    bench.seen(2).await;
    assert_eq!(bench.judge(&claim()), "live");
    bench.clock.advance(Duration::from_secs(89));
    assert_eq!(bench.judge(&claim()), "live");
    bench.clock.advance(Duration::from_secs(2));
    assert_eq!(bench.judge(&claim()), "ARX-TOKEN-POD-GONE");
}

#[tokio::test]
async fn a_uid_proves_a_live_pod_to_the_agent_of_its_own_node_and_to_no_other() {
    let (bench, watch) = Bench::watching(&[pod("web-1")]).await;
    let found = bench.pods.on("node-1", "uid-of-web-1").expect("it runs");
    assert_eq!(
        (&*found.cluster, &*found.namespace, &*found.service_account),
        ("c1", "shop", "web")
    );
    assert_eq!((&*found.name, &*found.uid), ("web-1", "uid-of-web-1"));
    let label = ("app".into(), "web".into());
    assert_eq!(found.labels, [label], "the chosen ones are kept");
    assert_eq!(bench.on("node-2", "uid-of-web-1"), "ARX-EVIDENCE-NODE");
    assert_eq!(bench.on("node-1", "uid-of-web-2"), "ARX-POD-GONE");
    watch.say("MODIFIED", &with("/status/phase", json!("Failed")));
    bench.seen(1).await;
    assert_eq!(bench.on("node-1", "uid-of-web-1"), "ARX-POD-GONE");
    // Another one of its name.
    watch.say("DELETED", &pod("web-1"));
    watch.say("ADDED", &with("/metadata/uid", json!("uid-of-the-next")));
    bench.seen(3).await;
    assert_eq!(bench.on("node-1", "uid-of-web-1"), "ARX-POD-GONE");
    assert_eq!(bench.on("node-1", "uid-of-the-next"), "live");
}

#[tokio::test(start_paused = true)]
async fn while_the_api_server_is_away_a_uid_that_was_not_heard_of_is_not_called_gone() {
    let (mut bench, watch) = Bench::watching(&[pod("web-1")]).await;
    drop(watch);
    bench.next("watch=true").await.whole(429, &json!({}));
    let _again = bench.next("watch=true").await;
    assert_eq!(bench.on("node-1", "uid-of-web-1"), "live");
    assert_eq!(bench.on("node-1", "uid-of-web-2"), "ARX-POD-UNKNOWN");
    bench.clock.advance(HOUR + Duration::from_secs(1));
    assert_eq!(bench.on("node-1", "uid-of-web-1"), "ARX-POD-UNKNOWN");
}

#[tokio::test]
async fn of_a_pod_that_was_not_heard_of_yet_the_api_server_is_asked() {
    let (mut bench, _watch) = Bench::watching(&[with("/spec/nodeName", Value::Null)]).await;
    // It was put on its node a moment ago.
    assert_eq!(bench.judge(&claim()), "to be asked");
    let pods = Arc::clone(&bench.pods);
    let outcomes = [
        (200, pod("web-1"), None),
        (
            404,
            json!({"status": "Failure"}),
            Some("ARX-TOKEN-POD-GONE"),
        ),
        // A later one of the same name.
        (
            200,
            with("/metadata/uid", json!("another")),
            Some("ARX-TOKEN-POD-GONE"),
        ),
        (500, json!({}), Some("ARX-TOKEN-POD-UNKNOWN")),
        (200, json!([]), Some("ARX-TOKEN-POD-UNKNOWN")),
    ];
    for (status, answer, code) in outcomes {
        let pods = Arc::clone(&pods);
        bench.tasks.spawn(async move { pods.ask(&claim()).await });
        let asked = bench.next("/api/v1/namespaces/shop/pods/web-1").await;
        asked.whole(status, &answer);
        let outcome = bench.tasks.join_next().await.expect("it runs");
        let outcome = outcome.expect("no panic");
        assert_eq!(
            outcome.as_ref().err().map(Refused::code),
            code,
            "{outcome:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_breaks_off_goes_on_where_it_was_and_meanwhile_what_is_known_counts() {
    let (mut bench, watch) = Bench::watching(&[pod("web-1")]).await;
    let bookmark = json!({"kind": "Pod", "metadata": {"resourceVersion": "12"}});
    watch.say("BOOKMARK", &bookmark);
    drop(watch);
    // It had ended in order: at once.
    bench
        .next("resourceVersion=12")
        .await
        .whole(503, &json!({}));
    let again = bench.next("resourceVersion=12").await;
    let health = bench.pods.health();
    let failure = health.failure.expect("it is told");
    assert!(failure.contains("503"), "{failure}");
    let (code, _, shut) = bench.pods.trouble().expect("it is told");
    assert_eq!((code, shut), ("ARX-PODS-AWAY", false));
    assert_eq!(bench.judge(&claim()), "live");
    bench.clock.advance(HOUR + Duration::from_secs(1));
    assert_eq!(bench.judge(&claim()), "to be asked", "its word is too old");
    let (code, ..) = bench.pods.trouble().expect("it is told");
    assert_eq!(code, "ARX-PODS-STALE");
    let watch = again.open();
    let later = with("/metadata/resourceVersion", json!("13"));
    watch.say("MODIFIED", &later);
    bench.seen(1).await;
    assert_eq!(bench.judge(&claim()), "live");
    assert!(bench.pods.trouble().is_none());
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_resets_connections_is_asked_again_and_meanwhile_what_is_known_counts() {
    // In the list, of which nothing counts before it is whole.
    let mut bench = Bench::new();
    let asked = bench.next("/api/v1/pods?limit=250").await;
    asked.cut_short(&list(&[pod("web-1")], "7", ""));
    let asked = bench.next("/api/v1/pods?limit=250").await;
    let (code, ..) = bench.pods.trouble().expect("it is told");
    assert_eq!((code, bench.pods.health().pods), ("ARX-PODS-UNREAD", 0));
    asked.whole(200, &list(&[pod("web-1")], "7", ""));
    // In the middle of a line of the watch, and of the next one.
    for _ in 0..2 {
        let watch = bench.next("resourceVersion=7").await.open();
        watch.reset();
    }
    let again = bench.next("resourceVersion=7").await;
    let (code, _, shut) = bench.pods.trouble().expect("it is told");
    assert_eq!((code, shut), ("ARX-PODS-AWAY", false));
    assert_eq!(bench.judge(&claim()), "live");
    let watch = again.open();
    let later = with("/metadata/resourceVersion", json!("13"));
    watch.say("MODIFIED", &later);
    bench.seen(1).await;
    assert!(bench.pods.trouble().is_none());
}

#[tokio::test]
async fn when_its_place_is_not_known_any_more_all_is_listed_anew_and_the_lost_forgotten() {
    for by_event in [true, false] {
        let (mut bench, watch) = Bench::watching(&[pod("web-1"), pod("web-2")]).await;
        if by_event {
            let gone = json!({"kind": "Status", "status": "Failure", "code": 410});
            watch.say("ERROR", &gone);
        } else {
            drop(watch);
            bench.next("watch=true").await.whole(410, &json!({}));
        }
        let anew = bench.next("/api/v1/pods?limit=250").await;
        assert_eq!(bench.judge(&claim()), "live", "nothing is forgotten before");
        anew.whole(200, &list(&[pod("web-2")], "40", ""));
        let _watch = bench.next("resourceVersion=40").await.open();
        assert_eq!(bench.judge(&claim()), "to be asked");
        assert_eq!(bench.pods.health().pods, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_goes_back_to_an_earlier_version_is_not_believed_and_all_is_listed_anew() {
    let (mut bench, watch) = Bench::watching(&[pod("web-1"), pod("web-2")]).await;
    let mut earlier = with("/status/phase", json!("Failed"));
    earlier["metadata"]["resourceVersion"] = json!("6");
    watch.say("MODIFIED", &earlier);
    let anew = bench.next("/api/v1/pods?limit=250").await;
    assert_eq!(bench.judge(&claim()), "live", "what is known counts");
    let (code, message, _) = bench.pods.trouble().expect("it is told");
    assert_eq!(code, "ARX-PODS-AWAY");
    assert!(message.contains("an earlier version"), "{message}");
    // As the API server has it now, of which its state was set back.
    anew.whole(200, &list(&[pod("web-2")], "4", ""));
    let watch = bench.next("resourceVersion=4").await.open();
    assert_eq!(bench.judge(&claim()), "to be asked");
    let mark = json!({"kind": "Pod", "metadata": {"resourceVersion": "10"}});
    watch.say("BOOKMARK", &mark);
    drop(watch);
    let _on = bench.next("resourceVersion=10").await;
    assert!(bench.pods.trouble().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_watch_on_which_nothing_is_heard_for_long_is_given_up_and_all_is_listed_anew() {
    let (mut bench, _silent) = Bench::watching(&[pod("web-1")]).await;
    let began = tokio::time::Instant::now();
    let anew = bench.next("/api/v1/pods?limit=250").await;
    let waited = began.elapsed();
    assert!((90..130).contains(&waited.as_secs()), "{waited:?}");
    anew.whole(200, &list(&[], "3", ""));
    let _watch = bench.next("resourceVersion=3").await.open();
    assert_eq!(bench.judge(&claim()), "to be asked");
}

#[tokio::test(start_paused = true)]
async fn all_is_listed_anew_after_long_without_a_word_however_often_the_watch_was_begun_meanwhile()
{
    let (mut bench, mut watch) = Bench::watching(&[pod("web-1")]).await;
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_secs(40)).await;
        drop(watch);
        watch = bench.next("resourceVersion=7").await.open();
    }
    tokio::time::sleep(Duration::from_secs(40)).await;
    drop(watch);
    let anew = bench.next("/api/v1/pods?limit=250").await;
    anew.whole(200, &list(&[], "3", ""));
    let _watch = bench.next("resourceVersion=3").await.open();
    assert_eq!(bench.judge(&claim()), "to be asked");
}
