//! With an API server of the test's below kube's client.

use std::sync::Arc;
use std::time::Duration;

use arx_daemon::config::File;
use arx_identity::{KeyId, Sequence, TrustBundle};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use kube::api::DynamicObject;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::*;
use crate::kubernetes::fake::{Asked, Watch, api_server};
use crate::testing::{House, bundle};

const SETTLE: Duration = Duration::from_secs(180);
/// In this time it is looked whether anything is to be written.
const LOOK: Duration = Duration::from_secs(1);

fn options(text: &str) -> Options {
    let text = format!("cluster = \"c1\"\n{text}");
    let file = File::from_text("test.toml", text).expect("TOML");
    file.parse().expect("it is read")
}

fn root_of(bundle: &TrustBundle) -> KeyId {
    bundle.roots()[0].subject_key_id().expect("a root has one")
}

/// Bundles {A}, {A, B} and {B}, with the names of both.
fn bundles() -> ([TrustBundle; 3], [KeyId; 2]) {
    let (a, b) = (bundle(1), bundle(1));
    let of = |number, roots: &[&TrustBundle]| {
        let roots = roots.iter().map(|it| it.roots()[0].clone());
        let sequence = Sequence { epoch: 1, number };
        let domain = a.trust_domain().clone();
        TrustBundle::new(domain, sequence, roots.collect()).expect("a bundle")
    };
    let names = [root_of(&a), root_of(&b)];
    ([of(1, &[&a]), of(2, &[&a, &b]), of(3, &[&b])], names)
}

/// What is known of a cluster, and what time it is there.
struct Bench {
    publisher: Publisher,
    now: Instant,
    _asked: mpsc::UnboundedReceiver<Asked>,
}

impl Bench {
    fn new(text: &str, bundle: &TrustBundle, active: KeyId) -> Self {
        let (client, asked) = api_server();
        Self {
            publisher: Publisher::with(client, &options(text), Wanted::of(bundle, active)),
            now: Instant::now(),
            _asked: asked,
        }
    }

    fn want(&self, bundle: &TrustBundle, active: KeyId) {
        self.publisher.world().want(Wanted::of(bundle, active));
    }

    /// All namespaces there are, none of which has anything.
    fn namespaces(&self, names: &[&str]) {
        let mut world = self.publisher.world();
        world.listed_namespaces(names.iter().map(|name| (*name).to_owned()));
        for place in 0..self.publisher.places.len() {
            world.listed(place, Vec::new(), self.now);
        }
    }

    /// What is to be written now, by name.
    fn due(&self) -> Vec<String> {
        let mut world = self.publisher.world();
        let taken: Vec<_> = std::iter::from_fn(|| world.take(self.now)).collect();
        let name = |target: &world::Target| world.place(target).describe(&target.namespace);
        let names = taken.iter().map(|(target, _)| name(target)).collect();
        // As if nobody had begun.
        for (target, _) in taken {
            let trouble = Trouble::silent(1);
            world.wrote(&target, Err((trouble, self.now)), self.now);
        }
        names
    }

    /// The API server has what would be applied.
    fn write_all(&self) {
        let mut world = self.publisher.world();
        while let Some((target, seen)) = world.take(self.now) {
            let place = world.place(&target).clone();
            let resource = place.kind.resource("v1");
            let mut applied = place.apply(&resource, seen.as_ref(), world.wanted());
            applied["metadata"]["namespace"] = json!(*target.namespace);
            world.wrote(&target, Ok(place.read(&object(applied))), self.now);
        }
    }

    fn see(&self, namespace: &str, json: Value) {
        let seen = self.publisher.places[0].read(&object(json));
        self.publisher.world().see(0, namespace, seen, self.now);
    }

    /// Who is in the way of the gate of this bundle.
    fn in_the_way(&self, bundle: &TrustBundle) -> Vec<(String, &'static str)> {
        let (_, waiting) = self.gate(bundle);
        waiting
            .into_iter()
            .map(|it| (it.process, it.reason))
            .collect()
    }

    fn gate(&self, bundle: &TrustBundle) -> (u64, Vec<crate::rotation::Obstacle>) {
        let mut waiting = Vec::new();
        let sequence = bundle.sequence();
        let confirmed = self.publisher.gate(sequence, self.now, &mut waiting);
        (confirmed, waiting)
    }

    fn code(&self) -> Option<&'static str> {
        self.publisher.health().trouble.map(|(code, _)| code)
    }
}

fn object(json: Value) -> DynamicObject {
    serde_json::from_value(json).expect("an object")
}

/// A ConfigMap as somebody has left it.
fn config_map(bundle: &TrustBundle, active: KeyId, domain: &str) -> Value {
    let wanted = Wanted::of(bundle, active);
    let mut annotations = json!(wanted.annotations());
    annotations["arx.dev/trust-domain"] = json!(domain);
    json!({
        "metadata": {"name": "arx-trust", "annotations": annotations},
        "data": {"bundle.pem": *wanted.pem},
    })
}

const OWN: &str = "config_map = \"arx-trust\"\nsettle = \"3m\"";

#[tokio::test(start_paused = true)]
async fn each_namespace_gets_what_it_lacks_once_and_a_new_one_at_once() {
    let ([one, ..], [a, _]) = bundles();
    let bench = Bench::new(&format!("{OWN}\nistio = true"), &one, a);
    assert_eq!(bench.due(), [""; 0], "nothing is known of the cluster");
    bench.namespaces(&["bank", "shop"]);
    let missing = [
        "config-map bank/arx-trust",
        "config-map shop/arx-trust",
        "config-map bank/istio-ca-root-cert",
        "config-map shop/istio-ca-root-cert",
    ];
    assert_eq!(bench.due(), missing);
    bench.write_all();
    assert_eq!(bench.due(), [""; 0]);
    bench.publisher.world().namespace("new");
    let new = [
        "config-map new/arx-trust",
        "config-map new/istio-ca-root-cert",
    ];
    assert_eq!(bench.due(), new);
    bench.publisher.world().namespace_gone("new");
    assert_eq!(bench.due(), [""; 0]);
    bench.publisher.world().gone(0, "shop");
    assert_eq!(bench.due(), ["config-map shop/arx-trust"], "it was deleted");
}

#[tokio::test(start_paused = true)]
async fn only_the_namespaces_that_are_named_get_anything() {
    let ([one, ..], [a, _]) = bundles();
    let bench = Bench::new(&format!("{OWN}\nnamespaces = [\"shop\"]"), &one, a);
    bench.namespaces(&["bank", "shop"]);
    bench.publisher.world().namespace("new");
    assert_eq!(bench.due(), ["config-map shop/arx-trust"]);
}

#[tokio::test(start_paused = true)]
async fn a_lower_bundle_never_takes_the_place_of_a_higher_and_nobody_elses_is_touched() {
    let ([one, both, _], [a, b]) = bundles();
    let higher = config_map(&both, a, "example.org");
    let mut same = config_map(&one, a, "example.org");
    same["metadata"]["annotations"]["arx.dev/bundle-sha256"] = json!("00");
    let cases = [
        (higher, "ARX-PUBLISH-NEWER"),
        (same, "ARX-PUBLISH-NEWER"),
        (config_map(&one, b, "other.org"), "ARX-PUBLISH-FOREIGN"),
    ];
    for (found, code) in cases {
        let bench = Bench::new(OWN, &one, a);
        bench.namespaces(&["shop"]);
        bench.see("shop", found);
        assert_eq!(bench.due(), [""; 0], "{code}");
        assert_eq!(bench.code(), Some(code));
    }
    let bench = Bench::new(OWN, &both, a);
    bench.namespaces(&["shop"]);
    bench.see("shop", config_map(&one, a, "example.org"));
    assert_eq!(bench.due(), ["config-map shop/arx-trust"]);
}

#[tokio::test(start_paused = true)]
async fn a_gate_waits_until_each_object_holds_the_bundle_and_pods_had_time_to_follow() {
    let ([one, both, last], [a, b]) = bundles();
    let mut bench = Bench::new(OWN, &one, a);
    let object = || "config-map shop/arx-trust".to_owned();
    let all = ("config-map */arx-trust".to_owned(), "not-written");
    assert_eq!(bench.in_the_way(&one), [all]);
    bench.namespaces(&["shop"]);
    bench.write_all();
    bench.want(&both, a);
    assert_eq!(bench.in_the_way(&both), [(object(), "not-written")]);
    bench.write_all();
    assert_eq!(bench.in_the_way(&both), [(object(), "delivered")]);
    bench.now += SETTLE;
    assert_eq!(bench.gate(&both), (1, Vec::new()));
    // The other one signs: it comes first, which is no reason to wait anew.
    bench.want(&both, b);
    assert_eq!(bench.due(), ["config-map shop/arx-trust"]);
    bench.write_all();
    assert_eq!(bench.due(), [""; 0]);
    assert_eq!(bench.gate(&both), (1, Vec::new()));
    // Somebody has put other roots in it.
    let mut broken = config_map(&both, b, "example.org");
    broken["data"]["bundle.pem"] = json!("");
    bench.see("shop", broken);
    assert_eq!(bench.in_the_way(&both), [(object(), "not-written")]);
    bench.want(&last, b);
    assert_eq!(bench.in_the_way(&last), [(object(), "not-written")]);
    bench.write_all();
    bench.now += SETTLE;
    assert_eq!(bench.gate(&last), (1, Vec::new()));
}

#[tokio::test(start_paused = true)]
async fn the_root_that_signs_stands_first_whatever_order_the_bundle_has() {
    let ([_, both, _], names) = bundles();
    for active in names {
        let wanted = Wanted::of(&both, active);
        let list = arx_identity::Certificate::list_from_pem(&wanted.pem).expect("PEM");
        assert_eq!(list.len(), 2);
        assert_eq!(list[0].subject_key_id(), Some(active));
    }
}

#[tokio::test(start_paused = true)]
async fn every_webhook_of_a_chosen_configuration_gets_the_roots_and_none_is_made() {
    let ([one, ..], [a, _]) = bundles();
    let text = "validating_webhooks = [\"guard\"]";
    let bench = Bench::new(text, &one, a);
    bench.publisher.world().listed(0, Vec::new(), bench.now);
    assert_eq!(bench.due(), [""; 0]);
    assert_eq!(bench.code(), Some("ARX-PUBLISH-ABSENT"));
    assert_eq!(bench.in_the_way(&one), [], "nobody calls what is not there");
    let webhook = |name: &str| json!({"name": name, "clientConfig": {"caBundle": "b2xk"}});
    let guard = json!({
        "metadata": {"name": "guard"},
        "webhooks": [webhook("a.example.org"), webhook("b.example.org")],
    });
    bench.see("", guard);
    let mut world = bench.publisher.world();
    let (target, seen) = world.take(bench.now).expect("it differs");
    let place = world.place(&target).clone();
    let resource = place.kind.resource("v1");
    let applied = place.apply(&resource, seen.as_ref(), world.wanted());
    let encoded = STANDARD.encode(one.roots()[0].pem());
    let webhook = |name: &str| json!({"name": name, "clientConfig": {"caBundle": encoded}});
    let both = json!([webhook("a.example.org"), webhook("b.example.org")]);
    assert_eq!(applied["webhooks"], both);
    world.wrote(&target, Ok(place.read(&object(applied))), bench.now);
    drop(world);
    assert_eq!(
        bench.gate(&one),
        (1, Vec::new()),
        "no kubelet stands between"
    );
}

/// A publisher that runs.
struct Running {
    asked: mpsc::UnboundedReceiver<Asked>,
    publisher: Arc<Publisher>,
    house: Arc<House>,
    _task: JoinSet<()>,
}

impl Running {
    async fn new(text: &str) -> Self {
        let house = Arc::new(House::new().await.expect("an authority"));
        let (client, asked) = api_server();
        let trust = house.ca.trust.current();
        let wanted = Wanted::of(&trust, house.ca.authority.root_key_id());
        let publisher = Arc::new(Publisher::with(client, &options(text), wanted));
        let mut task = JoinSet::new();
        let (kept, of) = (Arc::clone(&publisher), Arc::clone(&house));
        task.spawn(async move { kept.keep(&of.ca).await });
        Self {
            asked,
            publisher,
            house,
            _task: task,
        }
    }

    async fn next(&mut self) -> Asked {
        self.asked.recv().await.expect("a request")
    }

    /// Answers both lists, of namespaces and of ConfigMaps, and opens what watches them.
    async fn listed(&mut self, namespaces: &[&str]) -> [Watch; 2] {
        let mut watches = [None, None];
        while watches.iter().any(Option::is_none) {
            let asked = self.next().await;
            let of_maps = usize::from(asked.what.contains("configmaps"));
            if asked.what.contains("watch=true") {
                watches[of_maps] = Some(asked.open());
                continue;
            }
            let items: Vec<Value> = match of_maps {
                0 => namespaces.iter().map(|name| namespace(name)).collect(),
                _ => Vec::new(),
            };
            let list = json!({"metadata": {"resourceVersion": "7"}, "items": items});
            asked.whole(200, &list);
        }
        watches.map(|watch| watch.expect("it is open"))
    }

    async fn code_is(&self, code: Option<&'static str>) {
        while self.publisher.health().trouble.map(|(code, _)| code) != code {
            tokio::task::yield_now().await;
        }
    }
}

fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "resourceVersion": "8"}})
}

/// Somebody else's fields are in the way.
fn conflict() -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 409, "reason": "Conflict",
        "message": "Apply failed with 1 conflict: conflict with \"istiod\": .data.bundle.pem",
        "details": {"causes": [{"reason": "FieldManagerConflict", "field": ".data.bundle.pem"}]},
    })
}

#[tokio::test(start_paused = true)]
async fn what_is_applied_has_one_manager_and_is_never_forced() {
    let mut running = Running::new(OWN).await;
    let [namespaces, maps] = running.listed(&[]).await;
    namespaces.say("ADDED", &namespace("shop"));
    let asked = running.next().await;
    assert_eq!(asked.method, Method::PATCH);
    let path = "/api/v1/namespaces/shop/configmaps/arx-trust?";
    assert!(asked.what.starts_with(path), "{}", asked.what);
    assert!(asked.what.contains("fieldManager=arx-ca"), "{}", asked.what);
    assert!(!asked.what.contains("force"), "{}", asked.what);
    let root = running.house.ca.authority.root().pem();
    assert_eq!(asked.body["data"]["bundle.pem"], json!(root));
    asked.whole(409, &conflict());
    running.code_is(Some("ARX-PUBLISH-FOREIGN")).await;
    let (_, message) = running.publisher.health().trouble.expect("it is told");
    assert!(
        message.contains("config-map shop/arx-trust not written"),
        "{message}"
    );
    assert!(message.contains("istiod"), "{message}");
    // They let go of it, and it is ours.
    let theirs = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "data": {"bundle.pem": "theirs"},
        "metadata": {"name": "arx-trust", "namespace": "shop", "resourceVersion": "9"},
    });
    maps.say("ADDED", &theirs);
    running.next().await.whole(409, &conflict());
    running.code_is(Some("ARX-PUBLISH-FOREIGN")).await;
    maps.say("DELETED", &theirs);
    assert_eq!(running.next().await.method, Method::PATCH);
}

#[tokio::test(start_paused = true)]
async fn what_is_heard_of_an_object_before_the_conflict_of_its_write_has_it_tried_again_at_once() {
    let mut running = Running::new(OWN).await;
    let [_namespaces, maps] = running.listed(&["shop"]).await;
    let asked = running.next().await;
    assert_eq!(asked.method, Method::PATCH);
    let mut theirs = config_map(
        &running.house.ca.trust.current(),
        running.house.ca.authority.root_key_id(),
        "other.org",
    );
    theirs["apiVersion"] = json!("v1");
    theirs["kind"] = json!("ConfigMap");
    theirs["metadata"]["namespace"] = json!("shop");
    theirs["metadata"]["resourceVersion"] = json!("9");
    maps.say("ADDED", &theirs);
    running.code_is(Some("ARX-PUBLISH-FOREIGN")).await;
    theirs["metadata"]["resourceVersion"] = json!("10");
    maps.say("DELETED", &theirs);
    running.code_is(None).await;
    // Only now comes the answer, which tells of what was there.
    let answered = Instant::now();
    asked.whole(409, &conflict());
    let again = running.next().await;
    assert_eq!(again.method, Method::PATCH);
    assert!(answered.elapsed() <= LOOK, "{:?}", answered.elapsed());
    // Nothing was heard since: now it waits.
    again.whole(409, &conflict());
    running.code_is(Some("ARX-PUBLISH-FOREIGN")).await;
    let answered = Instant::now();
    assert_eq!(running.next().await.method, Method::PATCH);
    assert!(answered.elapsed() > LOOK, "{:?}", answered.elapsed());
}

#[tokio::test(start_paused = true)]
async fn rights_that_are_missing_are_told_by_the_object_and_the_verb() {
    let mut running = Running::new(OWN).await;
    let [namespaces, maps] = running.listed(&["shop"]).await;
    let forbidden = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 403, "reason": "Forbidden",
        "message": "configmaps \"arx-trust\" is forbidden: User \"arx\" cannot patch resource",
    });
    running.next().await.whole(403, &forbidden);
    running.code_is(Some("ARX-PUBLISH-FORBIDDEN")).await;
    let (_, message) = running.publisher.health().trouble.expect("it is told");
    assert!(message.contains("cannot patch"), "{message}");
    // Meanwhile the right is given, and it is tried again.
    let again = running.next().await;
    let mut applied = again.body.clone();
    applied["metadata"]["namespace"] = json!("shop");
    applied["metadata"]["resourceVersion"] = json!("9");
    again.whole(200, &applied);
    running.code_is(None).await;
    drop((namespaces, maps));
}

/// Which versions of ClusterTrustBundle there are is asked for; the first of both that there is.
async fn versions(running: &mut Running, served: &str) {
    for version in ["v1", "v1beta1"] {
        let asked = running.next().await;
        assert_eq!(asked.what, format!("/apis/certificates.k8s.io/{version}"));
        if version == served {
            let resource = json!({
                "name": "clustertrustbundles", "singularName": "", "namespaced": false,
                "kind": "ClusterTrustBundle", "verbs": ["patch"],
            });
            let group = format!("certificates.k8s.io/{version}");
            asked.whole(
                200,
                &json!({"groupVersion": group, "resources": [resource]}),
            );
            return;
        }
        let status = json!({"kind": "Status", "status": "Failure", "code": 404});
        asked.whole(404, &status);
    }
}

#[tokio::test(start_paused = true)]
async fn a_cluster_trust_bundle_is_written_by_the_version_that_the_api_server_has() {
    let bundle = "cluster_trust_bundle = \"example.org:mesh:roots\"";
    let mut running = Running::new(bundle).await;
    versions(&mut running, "none").await;
    running.code_is(Some("ARX-PUBLISH-UNSERVED")).await;
    versions(&mut running, "v1beta1").await;
    let path = "/apis/certificates.k8s.io/v1beta1/clustertrustbundles";
    let list = running.next().await;
    assert!(list.what.starts_with(path), "{}", list.what);
    let name = "fieldSelector=metadata.name%3Dexample.org%3Amesh%3Aroots";
    assert!(list.what.contains(name), "{}", list.what);
    list.whole(
        200,
        &json!({"metadata": {"resourceVersion": "7"}, "items": []}),
    );
    let mut watch = None;
    let patch = loop {
        let asked = running.next().await;
        match asked.method {
            Method::PATCH => break asked,
            _ => watch = Some(asked.open()),
        }
    };
    assert_eq!(patch.body["apiVersion"], "certificates.k8s.io/v1beta1");
    assert_eq!(patch.body["spec"]["signerName"], "example.org/mesh");
    let root = running.house.ca.authority.root().pem();
    assert_eq!(patch.body["spec"]["trustBundle"], json!(root));
    drop(watch);
}

#[tokio::test(start_paused = true)]
async fn a_gate_waits_for_every_cluster() {
    let ([one, ..], [a, _]) = bundles();
    let each = ["c1", "c2"].map(|cluster| {
        let options = Options {
            cluster: cluster.to_owned(),
            ..options(OWN)
        };
        let (client, _asked) = api_server();
        Arc::new(Publisher::with(client, &options, Wanted::of(&one, a)))
    });
    let publishers = Publishers { all: each.into() };
    let (_, waiting) = publishers.gate(one.sequence(), Instant::now());
    let nodes: Vec<_> = waiting.iter().map(|it| it.node.as_str()).collect();
    assert_eq!(nodes, ["c1", "c2"]);
}

#[tokio::test(start_paused = true)]
async fn what_was_written_since_it_was_last_seen_is_not_undone() {
    let mut running = Running::new(OWN).await;
    let [namespaces, maps] = running.listed(&["shop"]).await;
    // As of a bundle before the one that is published.
    let domain = "example.org";
    let trust = running.house.ca.trust.current();
    let mut before = config_map(&trust, running.house.ca.authority.root_key_id(), domain);
    before["apiVersion"] = json!("v1");
    before["kind"] = json!("ConfigMap");
    before["metadata"]["namespace"] = json!("shop");
    before["metadata"]["resourceVersion"] = json!("9");
    before["metadata"]["annotations"]["arx.dev/bundle-sequence"] = json!("0.9");
    running.next().await.whole(201, &before);
    let asked = running.next().await;
    assert_eq!(asked.body["metadata"]["resourceVersion"], "9");
    // Meanwhile another replica has published more.
    let modified = json!({
        "kind": "Status", "status": "Failure", "code": 409, "reason": "Conflict",
        "message": "the object has been modified; please apply your changes to the latest version",
    });
    asked.whole(409, &modified);
    running.code_is(Some("ARX-PUBLISH-AWAY")).await;
    let mut after = before.clone();
    after["metadata"]["resourceVersion"] = json!("10");
    after["metadata"]["annotations"]["arx.dev/bundle-sequence"] = json!("1.100");
    maps.say("MODIFIED", &after);
    running.code_is(Some("ARX-PUBLISH-NEWER")).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    while let Ok(asked) = running.asked.try_recv() {
        assert_ne!(asked.method, Method::PATCH, "{}", asked.what);
    }
    drop(namespaces);
}

/// A publisher of one webhook that is not there, so that nothing is asked but what watches it.
async fn watching() -> (Running, Watch) {
    let mut running = Running::new("validating_webhooks = [\"guard\"]").await;
    let watch = running.list_anew("7").await;
    (running, watch)
}

impl Running {
    /// Answers a list, and opens the watch from there.
    async fn list_anew(&mut self, version: &str) -> Watch {
        let list = json!({"metadata": {"resourceVersion": version}, "items": []});
        let asked = self.next().await;
        assert!(!asked.what.contains("watch=true"), "{}", asked.what);
        asked.whole(200, &list);
        self.watch(version).await
    }

    /// Opens the watch, which begins where it is to.
    async fn watch(&mut self, version: &str) -> Watch {
        let asked = self.next().await;
        let place = format!("resourceVersion={version}");
        assert!(asked.what.contains(&place), "{}", asked.what);
        asked.open()
    }
}

fn bookmark(version: &str) -> Value {
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"resourceVersion": version},
    })
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_goes_back_to_an_earlier_version_is_not_believed_and_all_is_listed_anew() {
    let (mut running, watch) = watching().await;
    watch.say("BOOKMARK", &bookmark("9"));
    let began = Instant::now();
    watch.say("BOOKMARK", &bookmark("8"));
    let _watch = running.list_anew("4").await;
    let waited = began.elapsed();
    assert!(
        waited < Duration::from_secs(10),
        "it is not called silent: {waited:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn all_is_listed_anew_after_long_without_a_word_however_often_the_watch_was_begun_meanwhile()
{
    let (mut running, mut watch) = watching().await;
    tokio::time::sleep(Duration::from_secs(50)).await;
    watch.say("BOOKMARK", &bookmark("9"));
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_secs(40)).await;
        drop(watch);
        watch = running.watch("9").await;
    }
    tokio::time::sleep(Duration::from_secs(40)).await;
    drop(watch);
    let silent = running.list_anew("4").await;
    let _watch = running.list_anew("3").await;
    drop(silent);
}

#[tokio::test(start_paused = true)]
async fn few_objects_are_written_at_a_time_and_each_some_time_after_the_one_before() {
    let mut running = Running::new(OWN).await;
    let _watches = running.listed(&["a", "b", "c", "d", "e", "f"]).await;
    let mut under_way = vec![running.next().await];
    let began = Instant::now();
    for _ in 1..4 {
        under_way.push(running.next().await);
    }
    assert!(began.elapsed() >= Duration::from_millis(150), "{began:?}");
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(running.asked.try_recv().is_err(), "four at a time");
    let written = under_way.remove(0);
    let mut applied = written.body.clone();
    applied["metadata"]["namespace"] = json!("a");
    written.whole(200, &applied);
    assert_eq!(running.next().await.method, Method::PATCH);
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_has_too_much_to_do_is_asked_again_later() {
    let mut running = Running::new(OWN).await;
    let _watches = running.listed(&["shop"]).await;
    let busy = json!({"kind": "Status", "status": "Failure", "code": 429, "message": "too many"});
    for _ in 0..3 {
        let asked = running.next().await;
        assert_eq!(asked.method, Method::PATCH);
        asked.whole(429, &busy);
        running.code_is(Some("ARX-PUBLISH-AWAY")).await;
    }
    let asked = running.next().await;
    let mut applied = asked.body.clone();
    applied["metadata"]["namespace"] = json!("shop");
    asked.whole(200, &applied);
    running.code_is(None).await;
}

#[tokio::test(start_paused = true)]
async fn what_a_connection_that_was_reset_leaves_open_is_written_again() {
    let mut running = Running::new(OWN).await;
    let _watches = running.listed(&["shop"]).await;
    let asked = running.next().await;
    assert_eq!(asked.method, Method::PATCH);
    let mut applied = asked.body.clone();
    applied["metadata"]["namespace"] = json!("shop");
    asked.cut_short(&applied);
    running.code_is(Some("ARX-PUBLISH-AWAY")).await;
    let asked = running.next().await;
    assert_eq!(asked.method, Method::PATCH);
    asked.whole(200, &applied);
    running.code_is(None).await;
}
