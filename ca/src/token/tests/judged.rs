//! Sound signatures; what the claims say decides.

use std::time::Duration;

use arx_identity::KeyAlgorithm;
use serde_json::{Value, json};

use super::issuer::{Bench, NOW, Signer, claims, now, with};
use crate::token::{Bound, Purpose, Refused, SKEW, Token};

#[tokio::test]
async fn a_token_of_each_accepted_algorithm_proves_who_its_pod_is() {
    for algorithm in [
        KeyAlgorithm::EcdsaP256,
        KeyAlgorithm::EcdsaP384,
        KeyAlgorithm::Ed25519,
        KeyAlgorithm::Rsa(2048),
    ] {
        let signer = Signer::new("k", algorithm);
        let bench = Bench::new(&[&signer], "").await;
        let token = signer.sign(&claims());
        let verified = bench.workload(&token).await.expect("sound");
        assert_eq!(&*verified.cluster, "c1");
        assert_eq!(verified.namespace, "payments");
        assert_eq!(verified.service_account, "api");
        assert_eq!(verified.service_account_uid, "sa-1");
        let bound = |name: &str, uid: &str| {
            Some(Bound {
                name: name.to_owned(),
                uid: uid.to_owned(),
            })
        };
        assert_eq!(verified.pod, bound("api-0", "pod-1"));
        assert_eq!(verified.node, bound("node-1", "node-uid-1"));
        assert_eq!(verified.expires, now() + Duration::from_secs(3600));
        assert_eq!(verified.jti.as_deref(), Some("f2b6f1a4"));
        assert_eq!(
            (verified.audience.as_str(), verified.purpose),
            ("arx", Purpose::Workload)
        );
        assert_eq!(verified.token_id, Token::new(&token).id());
    }
}

#[tokio::test]
async fn with_its_key_at_hand_a_token_is_judged_without_waiting() {
    let signer = Signer::p256("k");
    let bench = Bench::new(&[&signer], "").await;
    let verify = |token: &str| {
        bench
            .tokens
            .verify_now(Token::new(token), Purpose::Workload, Some("c1"))
    };
    assert!(matches!(verify(&signer.sign(&claims())), Some(Ok(_))));
    assert!(matches!(verify("x"), Some(Err(Refused::Malformed(_)))));
    let unknown = Signer::p256("other").sign(&claims());
    assert!(
        verify(&unknown).is_none(),
        "its key would have to be fetched"
    );
}

#[tokio::test]
async fn each_claim_that_does_not_fit_has_its_own_code() {
    let signer = Signer::p256("k");
    let bench = Bench::new(&[&signer], "").await;
    for (pointer, value, code) in [
        ("/iss", json!("https://other.example"), "ARX-TOKEN-ISSUER"),
        ("/iss", json!("https://issuer.example/"), "ARX-TOKEN-ISSUER"),
        ("/aud", json!("arx"), "accepted"),
        ("/aud", json!(["other", "arx"]), "accepted"),
        ("/aud", json!("other"), "ARX-TOKEN-AUDIENCE"),
        ("/aud", json!([]), "ARX-TOKEN-AUDIENCE"),
        ("/aud", json!("ARX"), "ARX-TOKEN-AUDIENCE"),
        ("/aud", json!("arx/join"), "ARX-TOKEN-PURPOSE"),
        ("/aud", json!(["arx/join", "arx"]), "accepted"),
        ("/aud", json!(7), "ARX-TOKEN-MALFORMED"),
        ("/aud", Value::Null, "ARX-TOKEN-MALFORMED"),
        ("/exp", json!(NOW), "accepted"),
        ("/exp", json!(NOW - 29), "accepted"),
        ("/exp", json!(NOW - 30), "ARX-TOKEN-EXPIRED"),
        ("/exp", json!(0), "ARX-TOKEN-EXPIRED"),
        ("/exp", json!(-1), "ARX-TOKEN-MALFORMED"),
        ("/exp", json!(u64::MAX), "ARX-TOKEN-MALFORMED"),
        ("/exp", json!("never"), "ARX-TOKEN-MALFORMED"),
        ("/exp", Value::Null, "ARX-TOKEN-MALFORMED"),
        ("/nbf", json!(NOW + 30), "accepted"),
        ("/nbf", json!(NOW + 31), "ARX-TOKEN-NOT-YET-VALID"),
        ("/nbf", Value::Null, "accepted"),
        ("/iat", json!(NOW + 31), "ARX-TOKEN-NOT-YET-VALID"),
        (
            "/sub",
            json!("system:serviceaccount:payments:admin"),
            "ARX-TOKEN-SUBJECT",
        ),
        (
            "/sub",
            json!("system:serviceaccount:other:api"),
            "ARX-TOKEN-SUBJECT",
        ),
        ("/sub", json!("payments:api"), "ARX-TOKEN-SUBJECT"),
        (
            "/kubernetes.io/namespace",
            json!("other"),
            "ARX-TOKEN-SUBJECT",
        ),
        (
            "/kubernetes.io/serviceaccount/name",
            json!("admin"),
            "ARX-TOKEN-SUBJECT",
        ),
        ("/kubernetes.io/pod", Value::Null, "ARX-TOKEN-UNBOUND"),
        ("/kubernetes.io/pod/uid", Value::Null, "ARX-TOKEN-MALFORMED"),
        ("/kubernetes.io/node", Value::Null, "accepted"),
        (
            "/kubernetes.io/warnafter",
            json!(NOW + 3607),
            "ARX-TOKEN-EXTENDED",
        ),
        ("/kubernetes.io", Value::Null, "ARX-TOKEN-MALFORMED"),
        ("/kubernetes.io", json!("payments"), "ARX-TOKEN-MALFORMED"),
        ("/unknown", json!({"x": [1]}), "accepted"),
    ] {
        let token = signer.sign(&with(pointer, value.clone()));
        assert_eq!(bench.code(&token).await, code, "{pointer} = {value}");
    }
}

#[tokio::test]
async fn a_workload_token_never_joins_and_a_join_token_is_no_workload() {
    let signer = Signer::p256("k");
    let bench = Bench::new(&[&signer], "").await;
    let join = signer.sign(&with("/aud", json!("arx/join")));
    let workload = signer.sign(&claims());
    let verify = |token, purpose| bench.tokens.verify_now(Token::new(token), purpose, None);
    let joined = verify(&join, Purpose::Join)
        .expect("at once")
        .expect("its use");
    assert_eq!(joined.audience, "arx/join");
    for (token, wanted) in [(&join, Purpose::Workload), (&workload, Purpose::Join)] {
        assert_eq!(
            verify(token, wanted),
            Some(Err(Refused::Purpose { wanted }))
        );
    }
}

#[tokio::test]
async fn unbound_and_extended_tokens_pass_only_where_the_cluster_allows_them() {
    let signer = Signer::p256("k");
    let bench = Bench::new(&[&signer], "allow_unbound = true\nallow_extended = true").await;
    for (pointer, value) in [
        ("/kubernetes.io/pod", Value::Null),
        ("/kubernetes.io/warnafter", json!(NOW)),
    ] {
        assert_eq!(
            bench.code(&signer.sign(&with(pointer, value))).await,
            "accepted"
        );
    }
}

#[tokio::test]
async fn a_token_ends_with_its_time_and_begins_again_if_the_clock_goes_back() {
    let signer = Signer::p256("k");
    let bench = Bench::new(&[&signer], "").await;
    let token = signer.sign(&claims());
    bench.clock.set(now() + Duration::from_secs(3600) + SKEW);
    assert_eq!(bench.code(&token).await, "ARX-TOKEN-EXPIRED");
    bench.clock.set(now());
    assert_eq!(bench.code(&token).await, "accepted");
    bench.clock.set(now() - SKEW - Duration::from_secs(1));
    assert_eq!(bench.code(&token).await, "ARX-TOKEN-NOT-YET-VALID");
}

#[tokio::test]
async fn neither_refusals_nor_debug_show_anything_of_a_token() {
    let signer = Signer::p256("k");
    let bench = Bench::new(&[&signer], "").await;
    let mut tokens = vec![
        "secret-secret".to_owned(),
        "secret.secret.secret".to_owned(),
    ];
    tokens.push(signer.sign_text(r#"{"alg":"secret","kid":"secret"}"#, r#"{"iss":"secret"}"#));
    for value in ["/iss", "/sub", "/aud", "/exp", "/kubernetes.io/namespace"] {
        tokens.push(signer.sign(&with(value, json!("secret"))));
    }
    tokens.push(signer.sign_text(&signer.header().to_string(), r#"{"iss":"x","secret":}"#));
    for token in &tokens {
        let refused = bench.workload(token).await.expect_err("wrong");
        for shown in [
            refused.to_string(),
            format!("{refused:?}"),
            format!("{:?}", Token::new(token)),
        ] {
            assert!(!shown.contains("secret"), "{shown}");
        }
    }
}
