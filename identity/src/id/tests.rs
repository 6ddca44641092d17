//! C1 to C12 of the SPIFFE conformance checklist, and properties.

use super::*;
use proptest::prelude::*;

fn refused(text: &str) -> IdError {
    SpiffeId::parse(text).expect_err(text)
}

#[test]
fn c1_a_scheme_other_than_spiffe_is_refused() {
    for text in [
        "http://example.org/a",
        "SPIFFE://example.org/a",
        "spiffe:/example.org",
        "example.org/a",
        "",
        "spiffe",
    ] {
        assert_eq!(refused(text), IdError::Scheme, "{text}");
    }
}

#[test]
fn c2_an_empty_host_is_refused() {
    assert_eq!(refused("spiffe://"), IdError::NoTrustDomain);
    assert_eq!(refused("spiffe:///path"), IdError::NoTrustDomain);
}

#[test]
fn c3_user_part_and_port_are_refused() {
    assert_eq!(refused("spiffe://me@example.org/a"), IdError::UserInfo);
    assert_eq!(refused("spiffe://example.org:443/a"), IdError::Port);
    assert_eq!(refused("spiffe://example.org:/a"), IdError::Port);
}

#[test]
fn c4_a_trust_domain_is_lower_case_letters_digits_dot_dash_underscore() {
    for text in [
        "spiffe://Example.org/a",
        "spiffe://ex%61mple.org/a",
        "spiffe://exämple.org/a",
        "spiffe://a b/c",
        "spiffe://a\0/c",
    ] {
        assert!(
            matches!(refused(text), IdError::TrustDomainCharacter(_)),
            "{text}"
        );
    }
    assert!(SpiffeId::parse("spiffe://a-b_c.d9/x").is_ok());
}

#[test]
fn c5_query_and_fragment_are_refused() {
    for text in [
        "spiffe://example.org/a?b",
        "spiffe://example.org/a#b",
        "spiffe://example.org?b",
        "spiffe://example.org#b",
        "spiffe://example.org/?",
    ] {
        assert!(
            matches!(refused(text), IdError::QueryOrFragment(_)),
            "{text}"
        );
    }
}

#[test]
fn c6_path_characters_are_letters_digits_dot_dash_underscore() {
    for text in [
        "spiffe://a/b%20c",
        "spiffe://a/b c",
        "spiffe://a/ü",
        "spiffe://a/b:c",
        "spiffe://a/b@c",
        "spiffe://a/b+c",
        "spiffe://a/\n",
    ] {
        assert!(matches!(refused(text), IdError::PathCharacter(_)), "{text}");
    }
    assert!(SpiffeId::parse("spiffe://a/B.c-d_9").is_ok());
}

#[test]
fn c7_empty_dot_and_dot_dot_segments_are_refused() {
    for text in [
        "spiffe://a//b",
        "spiffe://a/./b",
        "spiffe://a/../b",
        "spiffe://a/b/..",
        "spiffe://a/b/.",
    ] {
        assert!(matches!(refused(text), IdError::Segment(_)), "{text}");
    }
    for text in [
        "spiffe://a/...",
        "spiffe://a/.path",
        "spiffe://a/path.",
        "spiffe://a/..b",
    ] {
        assert!(SpiffeId::parse(text).is_ok(), "{text}");
    }
}

#[test]
fn c8_a_trailing_slash_is_refused() {
    assert_eq!(refused("spiffe://a/"), IdError::TrailingSlash);
    assert_eq!(refused("spiffe://a/b/"), IdError::TrailingSlash);
}

#[test]
fn c9_2048_bytes_are_accepted_and_longer_ids_neither_parsed_nor_made() {
    let domain = TrustDomain::parse("a").expect("a trust domain");
    let fits = format!("/{}", "x".repeat(2048 - "spiffe://a/".len()));
    let id = SpiffeId::new(&domain, &fits).expect("2048 bytes");
    assert_eq!(id.as_str().len(), 2048);
    assert!(SpiffeId::parse(id.as_str()).is_ok());
    assert_eq!(
        SpiffeId::new(&domain, &format!("{fits}x")),
        Err(IdError::TooLong(2049))
    );
    assert_eq!(refused(&format!("{id}x")), IdError::TooLong(2049));
}

#[test]
fn c10_a_trust_domain_has_at_most_255_bytes() {
    assert!(TrustDomain::parse(&"a".repeat(255)).is_ok());
    assert_eq!(
        TrustDomain::parse(&"a".repeat(256)),
        Err(IdError::TrustDomainTooLong(256))
    );
}

#[test]
fn c11_names_that_look_like_addresses_get_no_special_treatment() {
    for name in [
        "1.2.3.4",
        "127.0.0.1",
        "a..b",
        "-a-",
        "example.org.",
        "_",
        "...",
    ] {
        assert_eq!(TrustDomain::parse(name).expect(name).as_str(), name);
    }
    assert!(TrustDomain::parse("[::1]").is_err());
}

#[test]
fn c12_paths_differ_by_case() {
    let (lower, upper) = (
        SpiffeId::parse("spiffe://a/b"),
        SpiffeId::parse("spiffe://a/B"),
    );
    assert_ne!(lower, upper);
}

#[test]
fn an_id_knows_its_parts() {
    let id = SpiffeId::parse("spiffe://example.org/ns/a/sa/b").expect("an id");
    assert_eq!(
        (id.trust_domain().as_str(), id.path()),
        ("example.org", "/ns/a/sa/b")
    );
    let root = SpiffeId::parse("spiffe://example.org").expect("an id");
    assert_eq!(
        (root.path(), root.trust_domain().id().as_str()),
        ("", root.as_str())
    );
}

proptest! {
    #[test]
    fn what_is_accepted_is_kept_to_the_byte(text in "(spiffe://)?[a-zA-Z0-9./_%?#@:-]{0,40}") {
        if let Ok(id) = SpiffeId::parse(&text) {
            prop_assert_eq!(id.as_str(), &text);
            prop_assert_eq!(SpiffeId::new(id.trust_domain(), id.path()), Ok(id.clone()));
        }
    }

    #[test]
    fn any_text_is_parsed_without_a_panic(text in ".{0,80}") {
        let _ = SpiffeId::parse(&text);
        let _ = SpiffeId::parse(&format!("spiffe://{text}"));
        let _ = TrustDomain::parse(&text);
    }

    #[test]
    fn ids_made_of_legal_parts_are_accepted(
        domain in "[a-z0-9._-]{1,60}",
        segments in prop::collection::vec("[a-zA-Z0-9_-][a-zA-Z0-9._-]{0,10}", 0..6),
    ) {
        let path: String = segments.iter().map(|segment| format!("/{segment}")).collect();
        let text = format!("spiffe://{domain}{path}");
        let id = SpiffeId::parse(&text).expect("legal by construction");
        prop_assert_eq!(id.path(), path);
    }
}
