//! Reviews, with an API server of the test's below kube's client.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use arx_daemon::Clock;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use kube::client::Body;
use serde_json::{Value, json};

use super::issuer::{Signer, claims, cluster, key_set, now, with};
use crate::kubernetes::fake::api_server;
use crate::pods::{Api, Pods};
use crate::token::review::Reviewer;
use crate::token::{Inner, Purpose, Realm, Refused, Source, Token, Tokens, Verified, Verifier};

/// What a request is answered with; `None` for never.
type Answers = Arc<dyn Fn(&Value) -> Option<(u16, Value)> + Send + Sync>;

#[derive(Clone)]
struct ApiServer {
    answers: Answers,
    asked: Arc<Mutex<Vec<(String, Value)>>>,
}

impl tower_service::Service<Request<Body>> for ApiServer {
    type Response = Response<Full<bytes::Bytes>>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let this = self.clone();
        async move {
            let call = format!("{} {}", request.method(), request.uri());
            let body = request
                .into_body()
                .collect()
                .await
                .expect("whole")
                .to_bytes();
            let body: Value = serde_json::from_slice(&body).expect("JSON");
            this.asked.lock().expect("whole").push((call, body.clone()));
            let Some((status, answer)) = (this.answers)(&body) else {
                return std::future::pending().await;
            };
            let response = Response::builder().status(status);
            Ok(response
                .body(Full::from(answer.to_string()))
                .expect("a response"))
        }
        .boxed()
    }
}

struct Cast {
    api: ApiServer,
    tokens: Tokens,
}

impl Cast {
    fn new(
        lines: &str,
        answers: impl Fn(&Value) -> Option<(u16, Value)> + Send + Sync + 'static,
    ) -> Self {
        let api = ApiServer {
            answers: Arc::new(answers),
            asked: Arc::default(),
        };
        let cluster = cluster(&format!("verification = \"review\"\n{lines}"));
        let reviewer = Reviewer::with(kube::Client::new(api.clone(), "default"));
        let inner = Inner {
            realms: vec![Realm::new(&cluster, Verifier::Review(reviewer), None)],
            clock: Clock::manual(now()),
        };
        Self {
            api,
            tokens: Tokens {
                inner: Arc::new(inner),
            },
        }
    }

    fn asked(&self) -> usize {
        self.api.asked.lock().expect("whole").len()
    }

    async fn verify(&self, claims: &Value) -> Result<Verified, Refused> {
        // The authority has no key here: whose it is, the API server knows.
        let token = Signer::p256("k").sign(claims);
        self.tokens
            .verify(Token::new(&token), Purpose::Workload, None)
            .await
    }
}

/// The answer about the token of `claims()`.
fn accepted() -> Value {
    json!({
        "authenticated": true,
        "audiences": ["arx"],
        "user": {
            "username": "system:serviceaccount:payments:api",
            "uid": "sa-1",
            "groups": ["system:serviceaccounts"],
            "extra": {
                "authentication.kubernetes.io/pod-name": ["api-0"],
                "authentication.kubernetes.io/pod-uid": ["pod-1"],
                "authentication.kubernetes.io/node-name": ["node-1"],
                "authentication.kubernetes.io/node-uid": ["node-uid-1"],
                "authentication.kubernetes.io/credential-id": ["JTI=f2b6f1a4"],
            },
        },
    })
}

/// As the API server does it: the request with a status.
fn reviewed(request: &Value, status: Value) -> Value {
    let mut answer = request.clone();
    answer["status"] = status;
    answer
}

#[tokio::test]
async fn the_api_server_is_asked_about_the_token_and_our_audience_and_believed() {
    let cast = Cast::new("", |request| Some((201, reviewed(request, accepted()))));
    let verified = cast.verify(&claims()).await.expect("accepted");
    assert_eq!(
        (
            verified.namespace.as_str(),
            verified.service_account.as_str()
        ),
        ("payments", "api")
    );
    assert_eq!(verified.pod.map(|pod| pod.uid).as_deref(), Some("pod-1"));
    assert_eq!(
        verified.node.map(|node| node.name).as_deref(),
        Some("node-1")
    );
    let asked = cast.api.asked.lock().expect("whole").clone();
    assert_eq!(
        asked[0].0,
        "POST /apis/authentication.k8s.io/v1/tokenreviews"
    );
    assert_eq!(asked[0].1["kind"], "TokenReview");
    assert_eq!(asked[0].1["spec"]["audiences"], json!(["arx"]));
}

#[tokio::test]
async fn with_local_then_review_the_api_server_is_asked_about_joins_alone() {
    let signer = Signer::p256("k");
    let mut cast = Cast::new("", |request| {
        let mut answer = reviewed(request, accepted());
        answer["status"]["audiences"] = request["spec"]["audiences"].clone();
        Some((201, answer))
    });
    let keys = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(keys.path(), key_set(&[&signer])).expect("written");
    let lines = format!(
        "verification = \"local-then-review\"\njwks_file = {:?}",
        keys.path()
    );
    let cluster = cluster(&lines);
    assert!(cluster.watches_pods());
    let clock = Clock::manual(now());
    let source = Source::of(&cluster).expect("a source");
    let keys = Tokens::keys(&cluster, source, &clock, None);
    keys.refetch_at_once().await;
    let reviewer = Reviewer::with(kube::Client::new(cast.api.clone(), "default"));
    let verifier = Verifier::LocalThenReview(keys, reviewer);
    let realms = vec![Realm::new(&cluster, verifier, None)];
    cast.tokens.inner = Arc::new(Inner { realms, clock });
    let verify = async |claims: &Value, purpose| {
        let token = signer.sign(claims);
        let verified = cast.tokens.verify(Token::new(&token), purpose, None).await;
        verified.map(|verified| verified.service_account)
    };
    let workload = verify(&claims(), Purpose::Workload).await;
    assert_eq!((workload.as_deref(), cast.asked()), (Ok("api"), 0));
    let join = verify(&with("/aud", json!(["arx/join"])), Purpose::Join).await;
    assert_eq!((join.as_deref(), cast.asked()), (Ok("api"), 1));
}

#[tokio::test]
async fn pod_and_node_may_come_from_the_answer_alone() {
    let cast = Cast::new("", |request| Some((201, reviewed(request, accepted()))));
    let mut claims = claims();
    let kubernetes = claims["kubernetes.io"].as_object_mut().expect("an object");
    kubernetes.remove("pod");
    kubernetes.remove("node");
    let verified = cast.verify(&claims).await.expect("accepted");
    assert_eq!(verified.pod.map(|pod| pod.name).as_deref(), Some("api-0"));
    assert_eq!(
        verified.node.map(|node| node.uid).as_deref(),
        Some("node-uid-1")
    );
}

#[tokio::test]
async fn an_answer_that_does_not_vouch_for_exactly_this_is_a_refusal() {
    for (pointer, value) in [
        ("/authenticated", json!(false)),
        ("/authenticated", Value::Null),
        ("/audiences", json!([])),
        ("/audiences", Value::Null),
        ("/audiences", json!(["https://kubernetes.default.svc"])),
        ("/user", Value::Null),
        (
            "/user/username",
            json!("system:serviceaccount:payments:admin"),
        ),
        ("/user/username", json!("admin")),
        ("/user/uid", json!("sa-2")),
        (
            "/user/extra/authentication.kubernetes.io~1pod-uid",
            json!(["pod-2"]),
        ),
        (
            "/user/extra/authentication.kubernetes.io~1node-name",
            json!(["node-2"]),
        ),
        (
            "/user/extra/authentication.kubernetes.io~1node-name",
            json!(["node-1", "node-2"]),
        ),
    ] {
        let mut status = accepted();
        *status.pointer_mut(pointer).expect("is there") = value.clone();
        let cast = Cast::new("", move |request| {
            Some((201, reviewed(request, status.clone())))
        });
        let refused = cast.verify(&claims()).await.expect_err(pointer);
        assert_eq!(
            refused.code(),
            "ARX-TOKEN-REVIEW-REFUSED",
            "{pointer} = {value}"
        );
        assert!(!refused.is_ours());
    }
}

#[tokio::test]
async fn an_answer_that_says_nothing_leaves_the_token_unjudged() {
    for (status, answer, says) in [
        (500, json!({}), "500"),
        (403, json!({"message": "forbidden"}), "create tokenreviews"),
        (201, json!("x"), "not a TokenReview"),
        (
            201,
            json!({"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "metadata": {}, "spec": {}}),
            "no status",
        ),
        (201, json!("x".repeat(200_000)), "longer"),
    ] {
        let cast = Cast::new("", move |_| Some((status, answer.clone())));
        let refused = cast.verify(&claims()).await.expect_err(says);
        assert_eq!(refused.code(), "ARX-TOKEN-REVIEW-UNAVAILABLE");
        assert!(refused.is_ours());
        assert!(refused.to_string().contains(says), "{refused}");
    }
}

#[tokio::test]
async fn an_answer_whose_connection_is_reset_leaves_the_token_unjudged() {
    let mut cast = Cast::new("", |_| None);
    let (client, mut asked) = api_server();
    let cluster = cluster("verification = \"review\"");
    let verifier = Verifier::Review(Reviewer::with(client));
    cast.tokens = Tokens {
        inner: Arc::new(Inner {
            realms: vec![Realm::new(&cluster, verifier, None)],
            clock: Clock::manual(now()),
        }),
    };
    let answers = async {
        let asked = asked.recv().await.expect("a review");
        let answer = reviewed(&asked.body, accepted());
        asked.cut_short(&answer);
    };
    let claims = claims();
    let (refused, ()) = tokio::join!(cast.verify(&claims), answers);
    let refused = refused.expect_err("half an answer vouches for nobody");
    assert_eq!(refused.code(), "ARX-TOKEN-REVIEW-UNAVAILABLE");
    assert!(refused.is_ours());
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_never_answers_holds_nobody_for_long() {
    let cast = Cast::new("", |_| None);
    let begun = tokio::time::Instant::now();
    // More than run at once: those that wait for their turn are bounded too.
    let claims = claims();
    let all = (0..100).map(|_| cast.verify(&claims));
    for judged in futures_util::future::join_all(all).await {
        assert_eq!(
            judged.expect_err("unjudged").code(),
            "ARX-TOKEN-REVIEW-UNAVAILABLE"
        );
    }
    assert_eq!(begun.elapsed().as_secs(), 5);
    assert_eq!(cast.asked(), 32);
}

#[tokio::test]
async fn what_the_claims_alone_rule_out_is_not_asked() {
    let cast = Cast::new("", |request| Some((201, reviewed(request, accepted()))));
    for (pointer, value, code) in [
        ("/exp", json!(1), "ARX-TOKEN-EXPIRED"),
        ("/aud", json!("other"), "ARX-TOKEN-AUDIENCE"),
        ("/aud", json!("arx/join"), "ARX-TOKEN-PURPOSE"),
        ("/iss", json!("other"), "ARX-TOKEN-ISSUER"),
        ("/kubernetes.io/warnafter", json!(1), "ARX-TOKEN-EXTENDED"),
    ] {
        let refused = cast.verify(&with(pointer, value)).await.expect_err(code);
        assert_eq!(refused.code(), code);
    }
    assert_eq!(cast.asked(), 0);
}

#[tokio::test]
async fn check_tells_whether_reviews_are_answered() {
    let refuse = |request: &Value| Some((201, reviewed(request, json!({"authenticated": false}))));
    let cast = Cast::new("", refuse);
    assert_eq!(cast.tokens.check().await[0].code, None);
    let cast = Cast::new("", |_| Some((403, json!({}))));
    let found = cast.tokens.check().await.remove(0);
    assert_eq!(found.code, Some("ARX-TOKEN-REVIEW-UNAVAILABLE"));
    assert!(
        found.message.contains("create tokenreviews"),
        "{}",
        found.message
    );
}

#[tokio::test]
async fn where_pods_are_watched_a_review_that_speaks_against_what_is_known_of_one_is_not_believed()
{
    let mut cast = Cast::new("watch_pods = true", |_| {
        Some((201, json!({"status": accepted()})))
    });
    let (client, mut asked) = api_server();
    let hour = std::time::Duration::from_secs(3600);
    let clock = Clock::manual(now());
    let pods = Pods::new(
        "c1".into(),
        Api::with(client, None),
        hour,
        &[],
        false,
        clock.clone(),
    );
    let pods = Arc::new(pods);
    let cluster = cluster("verification = \"review\"\nwatch_pods = true");
    let reviewer = Reviewer::with(kube::Client::new(cast.api.clone(), "default"));
    let verifier = Verifier::Review(reviewer);
    let realms = vec![Realm::new(&cluster, verifier, Some(Arc::clone(&pods)))];
    cast.tokens = Tokens {
        inner: Arc::new(Inner { realms, clock }),
    };
    let test = async {
        // Of a pod that was not heard of the API server's word is enough.
        assert!(cast.verify(&claims()).await.is_ok());
        let pod = json!({
            "metadata": {"name": "api-0", "namespace": "payments", "uid": "pod-1"},
            "spec": {"serviceAccountName": "api", "nodeName": "another"},
        });
        let list = asked.recv().await.expect("a list");
        list.whole(
            200,
            &json!({"metadata": {"resourceVersion": "7"}, "items": [pod]}),
        );
        let _watch = asked.recv().await.expect("a watch").open();
        let refused = cast.verify(&claims()).await.expect_err("it is elsewhere");
        assert_eq!(refused.code(), "ARX-TOKEN-POD-GONE");
    };
    tokio::select! {
        () = pods.keep() => panic!("it is kept for ever"),
        () = test => {}
    }
}

#[tokio::test]
async fn a_cluster_whose_pods_cannot_be_read_keeps_the_agents_of_others_waiting_for_a_while_alone()
{
    let clock = Clock::manual(now());
    let ours = cluster("verification = \"review\"\nwatch_pods = true");
    let pods = |name: &str| {
        let (client, asked) = api_server();
        let api = Api::with(client, None);
        let hour = std::time::Duration::from_secs(3600);
        let pods = Pods::new(name.into(), api, hour, &[], false, clock.clone());
        (Arc::new(pods), asked)
    };
    let api = Cast::new("", |_| None).api;
    let realm = |pods: Option<&Arc<Pods>>| {
        let reviewer = Reviewer::with(kube::Client::new(api.clone(), "default"));
        Realm::new(&ours, Verifier::Review(reviewer), pods.cloned())
    };
    let tokens = |realms: Vec<Realm>| Tokens {
        inner: Arc::new(Inner {
            realms,
            clock: clock.clone(),
        }),
    };
    let (home, mut asked) = pods("home");
    let (away, _unanswered) = pods("away");
    let both = tokens(vec![realm(Some(&home)), realm(Some(&away))]);
    let stands = |tokens: &Tokens, is_waited_for| {
        let (code, message, is_failing) = tokens.trouble(is_waited_for).expect("it is told");
        assert_eq!(code, "ARX-PODS-UNREAD");
        (message, is_failing)
    };
    assert!(stands(&both, false).1, "there is no other");
    let test = async {
        let list = asked.recv().await.expect("a list");
        let version = json!({"metadata": {"resourceVersion": "7"}, "items": []});
        list.whole(200, &version);
        let _watch = asked.recv().await.expect("a watch").open();
        let (message, is_failing) = stands(&both, false);
        assert!(message.contains("away") && !is_failing, "{message}");
        assert!(stands(&both, true).1, "it may be there at once");
        assert!(stands(&tokens(vec![realm(Some(&away))]), false).1);
        let (_, is_failing) = stands(&tokens(vec![realm(None), realm(Some(&away))]), false);
        assert!(!is_failing, "the other's tokens need no pods");
    };
    tokio::select! {
        () = home.keep() => panic!("it is kept for ever"),
        () = test => {}
    }
}
