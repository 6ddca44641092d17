//! With an API server of the test's below kube's client.

use std::time::{Duration, SystemTime};

use arx_daemon::Clock;
use arx_daemon::config::File;
use arx_identity::{Sequence, TrustBundle};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::*;
use crate::kubernetes::access::{Right, Scope};
use crate::kubernetes::fake::{Asked, api_server};
use crate::testing::{House, bundle};

mod fleet;
mod roots;

/// An API server that answers each question at once.
struct Server {
    api: Api,
    _answering: JoinSet<()>,
}

impl Server {
    fn new(answer: impl Fn(&Asked) -> (u16, Value) + Send + 'static) -> Self {
        Self::with(move |asked| {
            let (status, json) = answer(&asked);
            asked.whole(status, &json);
        })
    }

    fn with(answer: impl Fn(Asked) + Send + 'static) -> Self {
        let (client, mut asked) = api_server();
        let mut answering = JoinSet::new();
        answering.spawn(async move {
            while let Some(asked) = asked.recv().await {
                answer(asked);
            }
        });
        Self {
            api: Api::with(client),
            _answering: answering,
        }
    }
}

impl Findings {
    /// What was found to be wrong, a line each.
    fn wrong(&self) -> String {
        let wrong = self.all.iter().filter_map(|it| {
            let mark = if it.is_warning { "warn " } else { "" };
            Some(format!("{mark}{}: {}\n", it.test, it.wrong.as_ref()?))
        });
        wrong.collect()
    }

    fn tests(&self) -> Vec<&str> {
        self.all.iter().map(|it| it.test.as_str()).collect()
    }
}

fn findings() -> Findings {
    Findings::of("c1")
}

fn cluster(lines: &str) -> Cluster {
    let text = format!(
        "name = \"c1\"\nissuer = \"https://c1\"\naudiences = [\"arx\"]\nagents = [\"arx-system/agent\"]\n{lines}"
    );
    let file = File::from_text("ca.toml", text).expect("TOML");
    file.parse().expect("a cluster")
}

fn published(lines: &str) -> publish::Options {
    let file = File::from_text("ca.toml", format!("cluster = \"c1\"\n{lines}"));
    let file = file.expect("TOML");
    file.parse().expect("what is published")
}

const ALL: &str = r#"
config_map = "arx-trust"
istio = true
cluster_trust_bundle = "example.org:mesh:roots"
mutating_webhooks = ["m"]
validating_webhooks = ["v"]
api_services = ["v1.example.org"]
"#;

/// The rights that this configuration needs, in words.
fn rights_of(cluster: &Cluster, published: Option<&publish::Options>) -> Vec<String> {
    let needed = rights::needed(cluster, published);
    needed.iter().map(rights::Need::to_string).collect()
}

#[test]
fn what_is_configured_is_asked_for_and_nothing_else() {
    let nothing = rights_of(&cluster(""), None);
    assert!(nothing.is_empty(), "{nothing:?}");
    let reviewed = rights_of(&cluster("verification = \"review\""), None);
    assert_eq!(reviewed, ["create tokenreviews.authentication.k8s.io"]);
    let watched = cluster("kubeconfig = \"/k\"\npod_events = false");
    let pods = ["list", "watch", "get"].map(|verb| format!("{verb} pods in all namespaces"));
    assert_eq!(rights_of(&watched, None), pods);
    let driver = cluster("csi_driver = \"csi.arx.dev\"");
    let one = ["get csidrivers.storage.k8s.io \"csi.arx.dev\""];
    assert_eq!(rights_of(&driver, None), one);
    let chosen = published("config_map = \"arx-trust\"\nnamespaces = [\"shop\"]");
    assert_eq!(
        rights_of(&cluster(""), Some(&chosen)),
        [
            "list namespaces",
            "watch namespaces",
            "list configmaps \"arx-trust\" in all namespaces",
            "watch configmaps \"arx-trust\" in all namespaces",
            "create configmaps \"arx-trust\" in namespace shop",
            "patch configmaps \"arx-trust\" in namespace shop",
        ]
    );
}

#[test]
fn all_that_can_be_configured_has_its_rights() {
    let cluster = cluster("verification = \"local-then-review\"\ncsi_driver = \"csi.arx.dev\"");
    let rights = rights_of(&cluster, Some(&published(ALL)));
    let of = |part: &str| rights.iter().filter(|it| it.contains(part)).count();
    for (part, verbs) in [
        ("tokenreviews", 1),
        (" pods ", 3),
        ("create events.events.k8s.io", 1),
        ("namespaces", 2 + 3 + 1 + 8),
        ("configmaps \"arx-trust\"", 4),
        ("configmaps \"istio-ca-root-cert\"", 4),
        (
            "clustertrustbundles.certificates.k8s.io \"example.org:mesh:roots\"",
            4,
        ),
        ("attest signers.certificates.k8s.io \"example.org/mesh\"", 1),
        (
            "mutatingwebhookconfigurations.admissionregistration.k8s.io \"m\"",
            3,
        ),
        (
            "validatingwebhookconfigurations.admissionregistration.k8s.io \"v\"",
            3,
        ),
        ("apiservices.apiregistration.k8s.io \"v1.example.org\"", 3),
        ("csidrivers", 1),
    ] {
        assert_eq!(of(part), verbs, "{part}: {rights:#?}");
    }
    assert_eq!(rights.len(), 1 + 3 + 1 + 2 + 8 + 4 + 1 + 9 + 1);
}

#[tokio::test]
async fn a_right_that_is_missing_is_named_with_what_breaks_without_it_and_whose_it_should_be() {
    let server = Server::new(|asked| {
        let attributes = &asked.body["spec"]["resourceAttributes"];
        let is_denied =
            |resource, verb| attributes["resource"] == resource && attributes["verb"] == verb;
        match asked.what.as_str() {
            "/apis/authentication.k8s.io/v1/selfsubjectreviews" => {
                let name = "system:serviceaccount:arx-system:arx-ca";
                (201, json!({"status": {"userInfo": {"username": name}}}))
            }
            "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews" => {
                let denied = is_denied("configmaps", "patch") || is_denied("events", "create");
                (201, json!({"status": {"allowed": !denied}}))
            }
            other => panic!("{other}"),
        }
    });
    let (cluster, published) = (cluster("kubeconfig = \"/k\""), published("istio = true"));
    let mut findings = findings();
    let needed = rights::needed(&cluster, Some(&published));
    rights::look(&server.api, needed, &mut findings).await;
    let wrong = findings.wrong();
    let lines: Vec<_> = wrong.lines().collect();
    let [events, maps] = lines[..] else {
        panic!("{wrong}");
    };
    for part in [
        "warn it may create events.events.k8s.io in all namespaces: ",
        "system:serviceaccount:arx-system:arx-ca may not",
        "refusals are not told",
    ] {
        assert!(events.contains(part), "{events}");
    }
    for part in [
        "it may patch configmaps \"istio-ca-root-cert\" in all namespaces: ",
        "the roots are not written there",
    ] {
        assert!(maps.contains(part), "{maps}");
    }
    let server = Server::new(|_| (201, json!({"status": {"allowed": true}})));
    let mut findings = super::tests::findings();
    let needed = rights::needed(&cluster, Some(&published));
    rights::look(&server.api, needed, &mut findings).await;
    assert_eq!(findings.wrong(), "");
    let all = ["it may do all that it is configured for, 10 rights"];
    assert_eq!(findings.tests(), all);
}

#[tokio::test]
async fn an_api_server_that_does_not_say_what_may_be_done_is_one_finding() {
    let server = Server::new(|_| (500, json!({"message": "no etcd"})));
    let mut findings = findings();
    let needed = rights::needed(&cluster("kubeconfig = \"/k\""), None);
    rights::look(&server.api, needed, &mut findings).await;
    assert_eq!(findings.tests(), ["its rights can be asked for"]);
    assert!(findings.wrong().contains("no etcd"));
}

/// What is said of an API server's time when ours is `now`.
async fn by_clock(date: &'static str, now: SystemTime) -> String {
    let version = json!({"major": "1", "minor": "37", "gitVersion": "v1.37.0"});
    let server = Server::with(move |asked| asked.dated(date, &version));
    let mut findings = findings();
    assert!(server::answers(&server.api, &Clock::manual(now), &mut findings).await);
    findings.wrong()
}

#[tokio::test]
async fn a_clock_that_makes_good_tokens_bad_is_told_with_how_far_it_is_off() {
    const DATE: &str = "Fri, 27 Nov 2026 03:00:00 GMT";
    let there = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_748_400);
    for (offset, says) in [
        (0, ""),
        // Some moment of the second that it says.
        (30, ""),
        (31, ""),
        (92, "it is 91 s behind the authority's"),
    ] {
        let said = by_clock(DATE, there + Duration::from_secs(offset)).await;
        assert_eq!(said.is_empty(), says.is_empty(), "{offset}: {said}");
        assert!(said.contains(says), "{offset}: {said}");
    }
    let said = by_clock(DATE, there - Duration::from_secs(60)).await;
    assert!(
        said.contains("it is 60 s ahead of the authority's"),
        "{said}"
    );
    let said = by_clock("today", there).await;
    assert!(
        said.starts_with("warn") && said.contains("no Date"),
        "{said}"
    );
}

#[tokio::test]
async fn an_api_server_whose_tokens_name_no_node_is_too_old() {
    for (minor, is_old) in [("29", true), ("28+", true), ("30", false), ("37", false)] {
        let version = json!({"major": "1", "minor": minor, "gitVersion": "v1"});
        let server = Server::new(move |_| (200, version.clone()));
        let mut findings = findings();
        let clock = Clock::manual(SystemTime::UNIX_EPOCH);
        server::answers(&server.api, &clock, &mut findings).await;
        let said = findings.wrong();
        assert_eq!(
            said.contains("upgrade it to 1.30"),
            is_old,
            "{minor}: {said}"
        );
    }
}

/// What is said of an API server that issues tokens as `issuer`.
async fn by_issuer(issuer: &'static str, cluster: &Cluster) -> String {
    let server = Server::new(move |asked| {
        assert_eq!(asked.what, "/.well-known/openid-configuration");
        (200, json!({"issuer": issuer}))
    });
    let mut findings = findings();
    server::tokens(&server.api, cluster, &mut findings).await;
    findings.wrong()
}

#[tokio::test]
async fn an_issuer_or_an_audience_by_which_no_token_or_every_token_counts_is_told() {
    assert_eq!(by_issuer("https://c1", &cluster("")).await, "");
    let said = by_issuer("https://c2", &cluster("")).await;
    assert!(
        said.contains("\"https://c2\", and cluster.issuer is \"https://c1\""),
        "{said}"
    );
    let mut own = cluster("");
    own.audiences.push("https://c1".to_owned());
    let said = by_issuer("https://c1", &own).await;
    assert!(said.contains("for which every pod has a token"), "{said}");
    let server = Server::new(|_| (403, json!({"message": "no"})));
    let mut findings = findings();
    server::tokens(&server.api, &cluster(""), &mut findings).await;
    let said = findings.wrong();
    assert!(
        said.starts_with("warn") && said.contains("issuer-discovery"),
        "{said}"
    );
}

/// What is said of an API server that serves these things, by path.
async fn by_apis(served: &'static [(&str, &str)], published: Option<&publish::Options>) -> String {
    let server = Server::new(|asked| {
        let resources: Vec<_> = served
            .iter()
            .filter(|(path, _)| *path == asked.what)
            .map(|(_, name)| json!({"name": name}))
            .collect();
        match resources.len() {
            0 => (404, json!({})),
            _ => (200, json!({"resources": resources})),
        }
    });
    let mut findings = findings();
    server::versions(&server.api, published, &mut findings).await;
    findings.wrong()
}

#[tokio::test]
async fn an_api_that_is_not_served_is_told_with_what_that_means() {
    const POLICIES: (&str, &str) = (
        "/apis/admissionregistration.k8s.io/v1",
        "mutatingadmissionpolicies",
    );
    let bundles = published("cluster_trust_bundle = \"example.org:mesh:roots\"");
    let old = &[
        POLICIES,
        ("/apis/certificates.k8s.io/v1", "certificatesigningrequests"),
        ("/apis/certificates.k8s.io/v1beta1", "clustertrustbundles"),
    ];
    assert_eq!(by_apis(old, Some(&bundles)).await, "");
    let said = by_apis(&[POLICIES], Some(&bundles)).await;
    assert!(said.contains("neither as v1 nor as v1beta1"), "{said}");
    assert_eq!(by_apis(&[POLICIES], None).await, "", "nobody wants one");
    let said = by_apis(&[], None).await;
    assert!(
        said.starts_with("warn") && said.contains("injection.enabled"),
        "{said}"
    );
}

/// The chart's.
fn driver() -> Value {
    json!({
        "attachRequired": false, "podInfoOnMount": true, "requiresRepublish": true,
        "fsGroupPolicy": "None", "volumeLifecycleModes": ["Ephemeral"],
        "tokenRequests": [{"audience": "arx", "expirationSeconds": 3600}],
    })
}

async fn by_driver(status: u16, spec: Value) -> String {
    let object = json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "CSIDriver",
        "metadata": {"name": "csi.arx.dev"}, "spec": spec,
    });
    let server = Server::new(move |asked| {
        assert_eq!(asked.what, "/apis/storage.k8s.io/v1/csidrivers/csi.arx.dev");
        (status, object.clone())
    });
    let mut findings = findings();
    driver::look(
        &server.api,
        "csi.arx.dev",
        &["arx".to_owned()],
        &mut findings,
    )
    .await;
    findings.wrong()
}

#[tokio::test]
async fn each_field_of_the_driver_that_agents_can_not_do_with_is_named() {
    assert_eq!(by_driver(200, driver()).await, "");
    for (field, value) in [
        ("attachRequired", json!(true)),
        ("podInfoOnMount", json!(false)),
        ("requiresRepublish", json!(false)),
        ("fsGroupPolicy", json!("File")),
        ("volumeLifecycleModes", json!(["Persistent"])),
        ("tokenRequests", json!([])),
        ("tokenRequests", json!([{"audience": "vault"}])),
    ] {
        let mut spec = driver();
        spec[field] = value;
        let said = by_driver(200, spec).await;
        assert!(said.contains(field), "{field}: {said}");
        assert_eq!(said.matches("; ").count(), 1, "nothing else: {said}");
    }
    // What is not said is as Kubernetes has it by default.
    let said = by_driver(200, json!({})).await;
    assert_eq!(said.matches("; ").count(), 5, "{said}");
    let said = by_driver(404, json!({})).await;
    assert!(said.contains("there is none"), "{said}");
    let said = by_driver(403, json!({})).await;
    assert!(said.starts_with("warn"), "{said}");
}

#[tokio::test]
async fn a_cluster_whose_api_server_is_away_is_one_finding() {
    let (client, asked) = api_server();
    drop(asked);
    let mut findings = findings();
    let clock = Clock::manual(SystemTime::UNIX_EPOCH);
    assert!(!server::answers(&Api::with(client), &clock, &mut findings).await);
    assert_eq!(findings.tests(), [server::ANSWERS]);
}

#[test]
fn what_is_many_is_named_in_part_and_counted() {
    let named = ["a".to_owned(), "b".to_owned()];
    assert_eq!(some_of(&[], 0), None);
    assert_eq!(some_of(&named, 2).as_deref(), Some("a; b"));
    assert_eq!(some_of(&named, 9).as_deref(), Some("a; b; and 7 more"));
}

#[test]
fn a_right_on_the_states_secrets_that_is_missing_is_named_with_their_namespace() {
    let right = Right {
        verb: "update",
        group: "",
        resource: "secrets",
        name: String::new(),
        scope: Scope::Namespace("arx-state".to_owned()),
    };
    let mut findings = Findings::of("");
    rights::tell_of_state(&[right], &mut findings);
    let said = findings.wrong();
    assert!(
        said.contains("it may update secrets in namespace arx-state: "),
        "{said}"
    );
    let mut findings = Findings::of("");
    rights::tell_of_state(&[], &mut findings);
    assert_eq!(findings.tests(), [rights::OF_STATE]);
}

#[tokio::test]
async fn of_a_cluster_whose_api_server_is_not_used_the_keys_alone_are_tried() {
    let house = House::new().await.expect("an authority");
    let found = house.ca.examine().await;
    let [found] = &found[..] else {
        panic!("{found:?}");
    };
    assert_eq!(&*found.cluster, "c1");
    assert_eq!(found.test, "the keys of its tokens can be had");
    assert_eq!(found.wrong, None);
}
