//! Keys from discovery documents over real HTTP, and from files, while time passes.

use std::time::Duration;

use arx_daemon::Clock;
use serde_json::json;

use super::http::{DOCUMENT, JWKS, Server};
use super::issuer::{Bench, Signer, claims, cluster, key_set, now};
use crate::token::{Purpose, Refused, Token, Tokens};

struct Cast {
    server: Server,
    clock: Clock,
    tokens: Tokens,
}

impl Cast {
    async fn new(signers: &[&Signer]) -> Self {
        let server = Server::start().await;
        server.issue(signers);
        let clock = Clock::manual(now());
        let tokens = Tokens::new(&[server.cluster("")], &clock)
            .await
            .expect("sound");
        Self {
            server,
            clock,
            tokens,
        }
    }

    async fn code(&self, signer: &Signer) -> &'static str {
        let mut claims = self.server.claims();
        let seconds = self
            .clock
            .now()
            .duration_since(std::time::UNIX_EPOCH)
            .expect("after")
            .as_secs();
        claims["exp"] = json!(seconds + 600);
        let token = signer.sign(&claims);
        let judged = self
            .tokens
            .verify(Token::new(&token), Purpose::Workload, None)
            .await;
        judged.map_or_else(|refused| refused.code(), |_| "accepted")
    }
}

const INTERVAL: Duration = Duration::from_secs(10);
const GRACE: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn keys_come_from_the_discovery_documents_and_are_fetched_once() {
    let signer = Signer::p256("k");
    let cast = Cast::new(&[&signer]).await;
    assert_eq!(
        cast.server.asked(JWKS),
        0,
        "nothing is fetched before it is needed"
    );
    for _ in 0..5 {
        assert_eq!(cast.code(&signer).await, "accepted");
    }
    assert_eq!(
        (cast.server.asked(DOCUMENT), cast.server.asked(JWKS)),
        (1, 1)
    );
}

#[tokio::test]
async fn an_unknown_key_is_looked_for_anew_but_no_more_often_than_allowed() {
    let (old, new) = (Signer::p256("old"), Signer::p256("new"));
    let cast = Cast::new(&[&old]).await;
    assert_eq!(cast.code(&old).await, "accepted");
    cast.server.issue(&[&new]);
    for _ in 0..5 {
        assert_eq!(cast.code(&new).await, "ARX-TOKEN-UNKNOWN-KEY");
    }
    assert_eq!(cast.server.asked(JWKS), 1, "the last fetch was just now");
    cast.clock.advance(INTERVAL);
    assert_eq!(cast.code(&new).await, "accepted");
    assert_eq!(cast.code(&old).await, "ARX-TOKEN-UNKNOWN-KEY", "withdrawn");
    assert_eq!(cast.server.asked(JWKS), 2);
}

#[tokio::test]
async fn any_number_of_callers_who_miss_a_key_share_one_fetch() {
    let signer = Signer::p256("k");
    let cast = Cast::new(&[&signer]).await;
    cast.server.hold();
    let release = async {
        while cast.server.asked(DOCUMENT) == 0 {
            tokio::task::yield_now().await;
        }
        cast.server.release();
    };
    let callers = (0..50).map(|_| cast.code(&signer));
    let (codes, ()) = tokio::join!(futures_util::future::join_all(callers), release);
    assert!(codes.iter().all(|code| *code == "accepted"));
    assert_eq!(
        (cast.server.asked(DOCUMENT), cast.server.asked(JWKS)),
        (1, 1)
    );
}

#[tokio::test]
async fn a_fetch_that_its_caller_gave_up_is_finished_by_the_next() {
    let signer = Signer::p256("k");
    let cast = Cast::new(&[&signer]).await;
    cast.server.hold();
    let gone = async {
        while cast.server.asked(DOCUMENT) == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        code = cast.code(&signer) => unreachable!("nothing was answered, but {code}"),
        () = gone => {}
    }
    cast.server.release();
    assert_eq!(cast.code(&signer).await, "accepted");
    assert_eq!(cast.server.asked(DOCUMENT), 1, "the same fetch");
}

#[tokio::test]
async fn with_the_issuer_away_keys_are_used_until_their_grace_ends_and_no_longer() {
    let (known, unknown) = (Signer::p256("k"), Signer::p256("x"));
    let cast = Cast::new(&[&known]).await;
    assert_eq!(cast.code(&known).await, "accepted");
    cast.server.put(DOCUMENT, 503, "");
    cast.clock.advance(GRACE);
    assert_eq!(cast.code(&known).await, "accepted");
    assert_eq!(
        cast.code(&unknown).await,
        "ARX-TOKEN-KEYS-UNAVAILABLE",
        "it may be a new key"
    );
    assert_eq!(cast.tokens.health()[0].code, None);
    cast.clock.advance(Duration::from_secs(1));
    assert_eq!(cast.code(&known).await, "ARX-TOKEN-KEYS-UNAVAILABLE");
    let health = cast.tokens.health().remove(0);
    assert_eq!(health.code, Some("ARX-TOKEN-KEYS-UNAVAILABLE"));
    assert!(health.message.contains("503"), "{}", health.message);
    cast.server.issue(&[&known]);
    cast.clock.advance(INTERVAL);
    assert_eq!(cast.code(&known).await, "accepted");
    assert_eq!(cast.tokens.health()[0].code, None);
}

#[tokio::test]
async fn an_issuer_that_is_away_from_the_start_makes_tokens_unjudged_not_wrong() {
    let signer = Signer::p256("k");
    let cast = Cast::new(&[&signer]).await;
    cast.server.put(JWKS, 500, "");
    let token = signer.sign(&cast.server.claims());
    let refused = cast
        .tokens
        .verify(Token::new(&token), Purpose::Workload, None)
        .await
        .expect_err("no keys");
    assert!(refused.is_ours());
    assert!(matches!(refused, Refused::KeysUnavailable { .. }));
    assert!(refused.to_string().contains("500"), "{refused}");
}

#[tokio::test]
async fn each_way_in_which_discovery_fails_is_told_apart() {
    let server = Server::start().await;
    let finding = async || {
        let tokens = Tokens::new(&[server.cluster("")], &Clock::manual(now()))
            .await
            .expect("sound");
        tokens.check().await.remove(0)
    };
    let url = server.url();
    for (document, jwks, says) in [
        ((404, String::new()), (200, String::new()), "404"),
        (
            (401, String::new()),
            (200, String::new()),
            "system:service-account-issuer-discovery",
        ),
        (
            (200, "<html>".to_owned()),
            (200, String::new()),
            "not a discovery document",
        ),
        (
            (200, "x".repeat(100_000)),
            (200, String::new()),
            "longer than 64 KiB",
        ),
        (
            (
                200,
                json!({"issuer": "https://other", "jwks_uri": format!("{url}{JWKS}")}).to_string(),
            ),
            (200, String::new()),
            "another issuer",
        ),
        (
            (
                200,
                json!({"issuer": url, "jwks_uri": "http://issuer.example/jwks"}).to_string(),
            ),
            (200, String::new()),
            "loopback",
        ),
        (
            (
                200,
                json!({"issuer": url, "jwks_uri": format!("{url}{JWKS}")}).to_string(),
            ),
            (302, String::new()),
            "302",
        ),
        (
            (
                200,
                json!({"issuer": url, "jwks_uri": format!("{url}{JWKS}")}).to_string(),
            ),
            (200, "[]".to_owned()),
            "not a JSON Web Key Set",
        ),
    ] {
        server.put(DOCUMENT, document.0, document.1);
        server.put(JWKS, jwks.0, jwks.1);
        let found = finding().await;
        assert_eq!(
            (&*found.cluster, found.code),
            ("c1", Some("ARX-TOKEN-KEYS-UNAVAILABLE"))
        );
        assert!(found.message.contains(says), "{says}: {}", found.message);
    }
    server.issue(&[&Signer::p256("k")]);
    let found = finding().await;
    assert_eq!((found.code, found.message.as_str()), (None, "1 key: k"));
}

#[tokio::test]
async fn the_bearer_token_goes_to_the_issuer_and_not_to_another_address_that_it_names() {
    let (server, other) = (Server::start().await, Server::start().await);
    server.issue(&[]);
    server.put(
        DOCUMENT,
        200,
        json!({"issuer": server.url(), "jwks_uri": format!("{}{JWKS}", other.url())}).to_string(),
    );
    other.put(JWKS, 200, key_set(&[&Signer::p256("k")]));
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "bearer-1").expect("written");
    let cluster = server.cluster(&format!("token_file = {:?}", file.path()));
    let tokens = Tokens::new(&[cluster], &Clock::manual(now()))
        .await
        .expect("sound");
    assert_eq!(tokens.check().await[0].code, None);
    assert_eq!(
        server.requests(),
        [(DOCUMENT.to_owned(), Some("Bearer bearer-1".to_owned()))]
    );
    assert_eq!(other.requests(), [(JWKS.to_owned(), None)]);
}

#[tokio::test]
async fn an_issuer_with_a_path_has_its_documents_below_it() {
    let server = Server::start().await;
    let signer = Signer::p256("k");
    let issuer = format!("{}/clusters/7", server.url());
    let document = json!({"issuer": issuer, "jwks_uri": format!("{issuer}/keys")});
    server.put(
        "/clusters/7/.well-known/openid-configuration",
        200,
        document.to_string(),
    );
    server.put("/clusters/7/keys", 200, key_set(&[&signer]));
    let mut cluster = server.cluster("");
    cluster.issuer = issuer;
    let tokens = Tokens::new(&[cluster], &Clock::manual(now()))
        .await
        .expect("sound");
    assert_eq!(tokens.check().await[0].code, None);
}

#[tokio::test(start_paused = true)]
async fn keys_are_fetched_anew_before_anybody_misses_one() {
    let (old, new) = (Signer::p256("old"), Signer::p256("new"));
    let server = Server::start().await;
    server.issue(&[&old]);
    let clock = Clock::following_tokio(now());
    let tokens = Tokens::new(&[server.cluster("")], &clock)
        .await
        .expect("sound");
    let token = new.sign(&server.claims());
    let held = || async {
        while tokens
            .verify_now(Token::new(&token), Purpose::Workload, None)
            .is_none()
        {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let rotate = async {
        while tokens.health()[0].code.is_some() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        server.issue(&[&old, &new]);
        held().await;
    };
    tokio::select! {
        () = tokens.keep() => unreachable!("for ever"),
        () = rotate => {}
    }
}

#[tokio::test]
async fn a_changed_key_file_is_read_again_and_a_broken_one_leaves_the_keys_as_they_are() {
    let (old, new) = (Signer::p256("old"), Signer::p256("new"));
    let bench = Bench::new(&[&old], "").await;
    std::fs::write(bench.file.path(), "{").expect("written");
    bench.clock.advance(INTERVAL);
    assert_eq!(
        bench.code(&new.sign(&claims())).await,
        "ARX-TOKEN-KEYS-UNAVAILABLE"
    );
    assert_eq!(bench.code(&old.sign(&claims())).await, "accepted");
    std::fs::write(bench.file.path(), key_set(&[&new])).expect("written");
    bench.clock.advance(INTERVAL);
    assert_eq!(bench.code(&new.sign(&claims())).await, "accepted");
    assert_eq!(
        bench.code(&old.sign(&claims())).await,
        "ARX-TOKEN-UNKNOWN-KEY"
    );
}

#[tokio::test]
async fn a_reload_reads_files_at_once_and_keeps_fetched_keys() {
    let (old, new) = (Signer::p256("old"), Signer::p256("new"));
    let cast = Cast::new(&[&old]).await;
    assert_eq!(cast.code(&old).await, "accepted");
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), key_set(&[&old])).expect("written");
    let mut second = cluster(&format!("jwks_file = {:?}", file.path()));
    second.name = "c2".to_owned();
    let clusters = [cast.server.cluster(""), second];
    let both = cast.tokens.reloaded(&clusters).await.expect("sound");
    let at_once = |tokens: &Tokens, token: &str| {
        tokens
            .verify_now(Token::new(token), Purpose::Workload, None)
            .map(|it| it.is_ok())
    };
    assert_eq!(at_once(&both, &old.sign(&cast.server.claims())), Some(true));
    assert_eq!(at_once(&both, &new.sign(&claims())), None);
    std::fs::write(file.path(), key_set(&[&new])).expect("written");
    let again = both.reloaded(&clusters).await.expect("sound");
    assert_eq!(at_once(&again, &new.sign(&claims())), Some(true));
    assert_eq!(cast.server.asked(JWKS), 1);
}

#[tokio::test]
async fn over_tls_an_issuer_is_believed_only_if_the_configured_roots_vouch_for_it() {
    let (server, roots) = Server::start_tls().await;
    let (_, other_roots) = Server::start_tls().await;
    server.issue(&[&Signer::p256("k")]);
    let folder = tempfile::tempdir().expect("a folder");
    let finding = async |roots: &str| {
        let file = folder.path().join("roots.pem");
        std::fs::write(&file, roots).expect("written");
        let cluster = server.cluster(&format!("ca_file = {file:?}"));
        let tokens = Tokens::new(&[cluster], &Clock::manual(now())).await;
        tokens.expect("sound").check().await.remove(0)
    };
    let found = finding(&roots).await;
    assert_eq!((found.code, found.message.as_str()), (None, "1 key: k"));
    let found = finding(&other_roots).await;
    assert_eq!(found.code, Some("ARX-TOKEN-KEYS-UNAVAILABLE"));
    assert!(found.message.contains("certificate"), "{}", found.message);
}

#[tokio::test]
async fn the_bearer_token_goes_to_another_address_only_if_the_same_configured_roots_vouch_for_it() {
    let (server, other, roots) = Server::start_tls_twice().await;
    let document = json!({"issuer": server.url(), "jwks_uri": format!("{}{JWKS}", other.url())});
    server.put(DOCUMENT, 200, document.to_string());
    other.put(JWKS, 200, key_set(&[&Signer::p256("k")]));
    let folder = tempfile::tempdir().expect("a folder");
    let (ca, token) = (folder.path().join("roots.pem"), folder.path().join("token"));
    std::fs::write(&ca, roots).expect("written");
    std::fs::write(&token, "bearer-1").expect("written");
    let cluster = server.cluster(&format!("ca_file = {ca:?}\ntoken_file = {token:?}"));
    let tokens = Tokens::new(&[cluster], &Clock::manual(now()))
        .await
        .expect("sound");
    let found = tokens.check().await.remove(0);
    assert_eq!(found.code, None, "{}", found.message);
    for server in [server, other] {
        let bearers: Vec<_> = server
            .requests()
            .into_iter()
            .map(|(_, bearer)| bearer)
            .collect();
        assert_eq!(bearers, [Some("Bearer bearer-1".to_owned())]);
    }
}
