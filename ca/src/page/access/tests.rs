use std::os::unix::fs::PermissionsExt as _;

use arx_identity::Serial;
use http::Request;

use super::*;
use crate::testing::Outcome;

fn request(method: &str, target: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().method(method).uri(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).expect("a request").into_parts().0
}

fn get(host: &str) -> Parts {
    request("GET", "/", &[("host", host)])
}

fn with_token(token: &str) -> Parts {
    let token = format!("Bearer {token}");
    request(
        "GET",
        "/",
        &[("host", "localhost"), ("authorization", &token)],
    )
}

fn peer(id: &str) -> VerifiedPeer {
    VerifiedPeer {
        id: SpiffeId::parse(id).expect("an id"),
        serial: Serial::from_bytes(&[1]).expect("a serial"),
        not_after: std::time::SystemTime::UNIX_EPOCH,
        issuers: Vec::new(),
    }
}

async fn code(access: &Access, request: &Parts) -> &'static str {
    match access.admit(request, None).await {
        Ok(_) => "",
        Err(refused) => refused.code,
    }
}

#[tokio::test]
async fn only_names_of_loopback_and_configured_ones_are_answered() {
    let access = Access {
        hosts: vec!["ca.example.org".to_owned(), "192.0.2.7".to_owned()],
        address: "2001:db8::1".parse().ok(),
        ..Access::default()
    };
    for host in [
        "localhost",
        "LOCALHOST:9901",
        "127.0.0.1:9901",
        "127.9.9.9",
        "[::1]",
        "[::1]:9901",
        "ca.example.org",
        "CA.example.org:443",
        "192.0.2.7:9901",
        "[2001:db8::1]:9901",
    ] {
        assert_eq!(code(&access, &get(host)).await, "", "{host}");
    }
    for host in [
        "",
        "evil.example",
        "localhost.evil.example",
        "evil.example.localhost.",
        "ca.example.org.",
        "ca.example.org:443:1",
        "ca.example.org:x",
        "0.0.0.0",
        "192.0.2.8",
        "[::2]",
        "[::1",
        "[::1]x",
        "localhost@evil.example",
        "2130706433",
    ] {
        assert_eq!(code(&access, &get(host)).await, "ARX-PAGE-HOST", "{host}");
    }
    let none = request("GET", "/", &[]);
    let twice = request("GET", "/", &[("host", "localhost"), ("host", "localhost")]);
    let differs = request("GET", "http://evil.example/", &[("host", "localhost")]);
    for unclear in [none, twice, differs] {
        assert_eq!(code(&access, &unclear).await, "ARX-PAGE-HOST");
    }
}

#[tokio::test]
async fn only_get_is_answered() {
    let access = Access::default();
    for method in ["HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW"] {
        let request = request(method, "/", &[("host", "localhost")]);
        let refused = access.admit(&request, None).await.expect_err("refused");
        assert_eq!(refused.status, StatusCode::METHOD_NOT_ALLOWED, "{method}");
    }
}

#[tokio::test]
async fn a_token_in_an_address_is_refused_even_where_none_is_asked_for() {
    let access = Access::default();
    for query in [
        "token=x",
        "q=1&Access_Token=x",
        "%74oken=x",
        "authorization",
        "a=b&password=",
    ] {
        let request = request("GET", &format!("/?{query}"), &[("host", "localhost")]);
        assert_eq!(
            code(&access, &request).await,
            "ARX-PAGE-TOKEN-IN-URL",
            "{query}"
        );
    }
    let after = request(
        "GET",
        "/agents?after=c1%2Ftoken&q=token",
        &[("host", "localhost")],
    );
    assert_eq!(code(&access, &after).await, "");
}

#[tokio::test]
async fn with_a_token_nobody_is_let_in_without_it_and_one_that_was_replaced_counts_no_longer()
-> Outcome {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("token");
    let write = |token: &str| {
        std::fs::write(&file, token)?;
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600))
    };
    write("0123456789abcdef\n")?;
    let access = Access {
        token_file: Some(file.clone()),
        ..Access::default()
    };
    let entitled = access.admit(&with_token("0123456789abcdef"), None).await;
    let entitled = entitled.expect("the token is right");
    for wrong in [
        "",
        "0123456789abcde",
        "0123456789abcdef0",
        "0123456789abcdeF",
    ] {
        let refused = access.admit(&with_token(wrong), None).await;
        assert_eq!(refused.expect_err("wrong").status, StatusCode::UNAUTHORIZED);
    }
    assert_eq!(
        code(&access, &get("localhost")).await,
        "ARX-PAGE-UNAUTHENTICATED"
    );
    let twice = [
        ("host", "localhost"),
        ("authorization", "Bearer 0123456789abcdef"),
        ("authorization", "Bearer x"),
    ];
    let twice = request("GET", "/", &twice);
    assert_eq!(code(&access, &twice).await, "ARX-PAGE-UNAUTHENTICATED");
    assert!(access.still(&entitled).await);

    write("fedcba9876543210")?;
    assert!(!access.still(&entitled).await, "it was replaced");
    assert_eq!(code(&access, &with_token("fedcba9876543210")).await, "");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644))?;
    let code = code(&access, &with_token("fedcba9876543210")).await;
    assert_eq!(code, "ARX-PAGE-TOKEN-FILE", "others can read it");
    Ok(())
}

#[tokio::test]
async fn of_those_with_certificates_only_the_listed_are_let_in() {
    let access = Access {
        clients: vec![peer("spiffe://example.org/ops").id],
        ..Access::default()
    };
    let ops = peer("spiffe://example.org/ops");
    assert!(access.admit(&get("localhost"), Some(&ops)).await.is_ok());
    let other = peer("spiffe://example.org/ops/other");
    let refused = access.admit(&get("localhost"), Some(&other)).await;
    assert_eq!(refused.expect_err("not listed").code, "ARX-PAGE-FORBIDDEN");
    assert_eq!(
        code(&access, &get("localhost")).await,
        "ARX-PAGE-UNAUTHENTICATED"
    );
}

#[test]
fn a_token_is_one_long_word() {
    assert_eq!(read_token(b" 0123456789abcdef\n"), Ok("0123456789abcdef"));
    for bad in [
        &b"short"[..],
        b"0123456789 abcdef",
        b"\xff0123456789abcdef",
        b"\n",
    ] {
        let reason = read_token(bad).expect_err("no token");
        assert!(!reason.contains("abcdef"), "{reason}");
    }
}

#[test]
fn what_differs_anywhere_is_not_the_same() {
    let one = [7; 32];
    assert!(same(&one, &one));
    for place in 0..32 {
        let mut other = one;
        other[place] ^= 1;
        assert!(!same(&one, &other));
    }
}
