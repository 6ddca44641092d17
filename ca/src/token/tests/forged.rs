//! Tokens that somebody made up, or made up in part.

use arx_identity::KeyAlgorithm;
use proptest::prelude::*;
use serde_json::json;

use super::issuer::{Bench, Signer, base64url, claims, cluster, now, with};
use crate::token::jwks::KeySet;
use crate::token::{Purpose, Token, Tokens};
use arx_daemon::Clock;

#[tokio::test]
async fn every_form_that_is_not_a_signed_compact_token_is_malformed() {
    let signer = Signer::p256("k");
    let bench = Bench::new(&[&signer], "").await;
    let good = signer.sign(&claims());
    let parts: Vec<&str> = good.split('.').collect();
    let (header, payload, signature) = (parts[0], parts[1], parts[2]);
    for token in [
        String::new(),
        ".".to_owned(),
        "..".to_owned(),
        format!("{header}.{payload}"),
        format!("{header}.{payload}."),
        format!("{good}.x"),
        format!("{good}.x.y"),
        format!("{good}="),
        format!("{good}\n"),
        format!(" {good}"),
        format!("Bearer {good}"),
        format!("{header}+.{payload}.{signature}"),
        // 64 bytes end in a letter that is half empty; here the empty half is not zero.
        format!("{header}.{payload}.{}B", &signature[..85]),
        r#"{"protected":"x","payload":"y","signature":"z"}"#.to_owned(),
        "ä.ö.ü".to_owned(),
    ] {
        assert_eq!(bench.code(&token).await, "ARX-TOKEN-MALFORMED", "{token}");
    }
}

#[tokio::test]
async fn a_token_longer_than_16_kib_is_refused_unread() {
    let signer = Signer::p256("k");
    let bench = Bench::new(&[&signer], "").await;
    assert_eq!(
        bench.code(&"x".repeat(1 << 20)).await,
        "ARX-TOKEN-TOO-LARGE"
    );
    assert_eq!(
        bench.code(&"x".repeat(16 << 10)).await,
        "ARX-TOKEN-MALFORMED"
    );
}

#[tokio::test]
async fn the_key_decides_the_algorithm_and_the_header_must_agree() {
    let p256 = Signer::p256("p256");
    let p384 = Signer::new("p384", KeyAlgorithm::EcdsaP384);
    let rsa = Signer::new("rsa", KeyAlgorithm::Rsa(2048));
    let bench = Bench::new(&[&p256, &p384, &rsa], "").await;
    let claims = claims().to_string();
    for alg in [
        "none", "None", "NONE", "", "HS256", "HS384", "HS512", "RS384", "RS512", "PS256", "ES512",
        "ES256K", "es256", "RS256 ",
    ] {
        for signer in [&p256, &rsa] {
            let header = json!({"alg": alg, "kid": signer.kid}).to_string();
            assert_eq!(
                bench.code(&signer.sign_text(&header, &claims)).await,
                "ARX-TOKEN-ALGORITHM",
                "{alg}"
            );
        }
    }
    for (signer, kid) in [
        (&p256, "rsa"),
        (&p256, "p384"),
        (&p384, "p256"),
        (&rsa, "p256"),
    ] {
        let header = json!({"alg": signer.alg, "kid": kid}).to_string();
        assert_eq!(
            bench.code(&signer.sign_text(&header, &claims)).await,
            "ARX-TOKEN-ALGORITHM"
        );
    }
    let header = json!({"alg": "ES384", "kid": "p384"}).to_string();
    assert_eq!(
        bench.code(&p256.sign_text(&header, &claims)).await,
        "ARX-TOKEN-SIGNATURE"
    );
}

#[tokio::test]
async fn a_token_without_a_signature_is_refused_whatever_its_algorithm_says() {
    let bench = Bench::new(&[&Signer::p256("k")], "").await;
    let header = base64url(br#"{"alg":"none","kid":"k"}"#);
    let claims = base64url(claims().to_string().as_bytes());
    assert_eq!(
        bench.code(&format!("{header}.{claims}.")).await,
        "ARX-TOKEN-MALFORMED"
    );
    assert_eq!(
        bench.code(&format!("{header}.{claims}.AA")).await,
        "ARX-TOKEN-ALGORITHM"
    );
}

#[tokio::test]
async fn keys_that_a_token_brings_or_names_itself_are_not_used() {
    let ours = Signer::p256("k");
    let theirs = Signer::p256("k");
    let bench = Bench::new(&[&ours], "").await;
    let claims = claims().to_string();
    let extras = json!({"jwk": theirs.jwk(), "x5u": "http://127.0.0.1:1/", "jku": "http://127.0.0.1:1/", "x5c": ["x"]});
    let mut header = ours.header();
    for (name, value) in extras.as_object().expect("an object") {
        header[name] = value.clone();
    }
    let header = header.to_string();
    assert_eq!(
        bench.code(&theirs.sign_text(&header, &claims)).await,
        "ARX-TOKEN-SIGNATURE"
    );
    assert_eq!(
        bench.code(&ours.sign_text(&header, &claims)).await,
        "accepted"
    );
}

#[tokio::test]
async fn critical_extensions_twice_given_names_and_missing_ones_are_refused() {
    let signer = Signer::p256("k");
    let bench = Bench::new(&[&signer], "").await;
    let good = claims().to_string();
    for header in [
        r#"{"alg":"ES256","kid":"k","crit":["b64"],"b64":false}"#,
        r#"{"alg":"ES256","kid":"k","crit":[]}"#,
        r#"{"alg":"ES256","kid":"k","crit":null}"#,
        r#"{"alg":"ES256","alg":"ES256","kid":"k"}"#,
        r#"{"alg":"ES256","kid":"x","kid":"k"}"#,
        r#"{"alg":"ES256"}"#,
        r#"{"kid":"k"}"#,
        r#"{"alg":["ES256"],"kid":"k"}"#,
        r#"["ES256","k"]"#,
        r#"{"alg":"ES256","kid":"k"}x"#,
        "",
    ] {
        assert_eq!(
            bench.code(&signer.sign_text(header, &good)).await,
            "ARX-TOKEN-MALFORMED",
            "{header}"
        );
    }
    let header = signer.header().to_string();
    let twice = |name: &str, value: &str| good.replacen('{', &format!("{{\"{name}\":{value},"), 1);
    for claims in [
        twice("iss", "\"x\""),
        twice("aud", "\"arx\""),
        twice("exp", "99999999999"),
        twice("sub", "\"x\""),
        twice("kubernetes.io", "{}"),
        good.replacen("\"namespace\"", "\"namespace\":\"x\",\"namespace\"", 1),
        format!("{good} {{}}"),
        "[]".to_owned(),
        r#"["https://issuer.example","x",["arx"],1,1,1,"x",{}]"#.to_owned(),
        "null".to_owned(),
        "{".repeat(5000),
    ] {
        assert_eq!(
            bench.code(&signer.sign_text(&header, &claims)).await,
            "ARX-TOKEN-MALFORMED",
            "{claims}"
        );
    }
}

#[tokio::test]
async fn a_changed_byte_anywhere_ends_a_token() {
    let signer = Signer::p256("k");
    let bench = Bench::new(&[&signer], "").await;
    let good = signer.sign(&claims());
    for at in 0..good.len() {
        let mut changed = good.clone().into_bytes();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).expect("ascii");
        let judged = bench
            .tokens
            .verify_now(Token::new(&changed), Purpose::Workload, None);
        assert!(!matches!(judged, Some(Ok(_))), "byte {at}");
    }
}

#[tokio::test]
async fn a_token_is_of_the_cluster_whose_issuer_and_key_it_has_and_of_no_other() {
    let (a, b) = (Signer::p256("same name"), Signer::p256("same name"));
    let folder = tempfile::tempdir().expect("a folder");
    let issuers = ["https://issuer.example", "https://other.example"];
    let mut clusters = Vec::new();
    for (name, issuer, signer) in [("c1", issuers[0], &a), ("c2", issuers[1], &b)] {
        let file = folder.path().join(name);
        std::fs::write(&file, super::issuer::key_set(&[signer])).expect("written");
        let mut cluster = cluster(&format!("jwks_file = {file:?}"));
        cluster.name = name.to_owned();
        cluster.issuer = issuer.to_owned();
        clusters.push(cluster);
    }
    let tokens = Tokens::new(&clusters, &Clock::manual(now()))
        .await
        .expect("sound");
    let of = |signer: &Signer, issuer: &str, cluster| {
        let token = signer.sign(&with("/iss", json!(issuer)));
        let judged = tokens.verify_now(Token::new(&token), Purpose::Workload, cluster);
        let judged = judged.expect("its key is at hand");
        judged.map_or_else(
            |refused| refused.code().to_owned(),
            |it| it.cluster.to_string(),
        )
    };
    assert_eq!(of(&a, issuers[0], None), "c1");
    assert_eq!(of(&b, issuers[1], None), "c2");
    assert_eq!(of(&b, issuers[1], Some("c2")), "c2");
    assert_eq!(of(&b, issuers[1], Some("c1")), "ARX-TOKEN-ISSUER");
    assert_eq!(of(&b, issuers[0], None), "ARX-TOKEN-SIGNATURE");
    assert_eq!(of(&a, issuers[0], Some("c3")), "ARX-TOKEN-CLUSTER");
}

#[test]
fn keys_for_other_uses_or_of_other_kinds_are_left_out_with_the_reason() {
    let good = Signer::p256("k");
    let changed = |name: &str, value: serde_json::Value| {
        let mut jwk = good.jwk();
        jwk[name] = value;
        jwk
    };
    let bad = [
        (changed("use", json!("enc")), "use"),
        (changed("key_ops", json!(["encrypt"])), "key_ops"),
        (changed("alg", json!("ES384")), "alg"),
        (changed("alg", json!("HS256")), "alg"),
        (changed("crv", json!("P-521")), "not an RSA"),
        (changed("crv", json!("P-384")), "length"),
        (changed("kty", json!("oct")), "not an RSA"),
        (changed("kid", json!(null)), "kid"),
        (changed("x", json!("AAAA=")), "base64url"),
        (changed("y", json!(null)), "missing"),
        (changed("d", json!("AAAA")), "private"),
        (changed("kty", json!(5)), "not a JSON Web Key"),
        (
            json!({"kty": "oct", "k": "AAAA", "kid": "h", "alg": "HS256"}),
            "not an RSA",
        ),
        (
            json!({"kty": "RSA", "n": base64url(&[0xff; 128]), "e": "AQAB", "kid": "weak"}),
            "length",
        ),
        (json!("x"), "not a JSON Web Key"),
    ];
    for (jwk, reason) in bad {
        let set = json!({"keys": [jwk, good.jwk()]}).to_string();
        let set = KeySet::parse(set.as_bytes()).expect("one is good");
        assert_eq!(set.len(), 1);
        assert!(
            set.skipped[0].contains(reason),
            "{reason}: {:?}",
            set.skipped
        );
        let alone = json!({"keys": [jwk]}).to_string();
        let refused = KeySet::parse(alone.as_bytes()).expect_err("none is left");
        assert!(refused.contains(reason), "{refused}");
    }
    for text in ["", "x", "[]", "{}", r#"{"keys":{}}"#, r#"{"keys":[]}"#] {
        assert!(KeySet::parse(text.as_bytes()).is_err(), "{text}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_verification_panic_or_pass(text in "\\PC{0,200}", parts in proptest::collection::vec(any::<Vec<u8>>(), 0..5)) {
        let parts: Vec<_> = parts.iter().map(|part| base64url(part)).collect();
        for token in [text, parts.join(".")] {
            if let Ok(compact) = Token::new(&token).open() {
                prop_assert!(compact.header().is_err() || compact.claims().is_err());
            }
        }
    }

    #[test]
    fn no_bytes_make_the_key_set_reader_panic(bytes in any::<Vec<u8>>(), text in "\\{\"keys\":\\[\\{(\"(kty|kid|n|e|x|y|crv)\":\"[A-Za-z0-9_-]{0,8}\",?){0,5}\\}\\]\\}") {
        let _ = KeySet::parse(&bytes);
        let _ = KeySet::parse(text.as_bytes());
    }
}
