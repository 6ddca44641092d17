use proptest::prelude::*;

use super::*;

fn trust_domain() -> impl Strategy<Value = TrustDomain> {
    "[a-z0-9]{1,8}([._-][a-z0-9]{1,8}){0,3}"
        .prop_filter_map("a trust domain", |name| TrustDomain::parse(&name).ok())
}

fn segment() -> impl Strategy<Value = Segment> {
    "[a-z0-9]([a-z0-9.-]{0,20}[a-z0-9])?"
        .prop_map(|text| Segment::parse(&text).expect("the strategy makes parts of keys"))
}

fn key() -> impl Strategy<Value = Key> {
    let issuer = proptest::option::of(proptest::collection::vec(any::<u8>(), 1..=32));
    (
        trust_domain(),
        segment(),
        issuer,
        proptest::option::of(segment()),
    )
        .prop_map(|(trust_domain, kind, issuer, name)| {
            let mut key = Key::new(&trust_domain, &kind);
            if let Some(issuer) = issuer {
                key = key.of_issuer(KeyId::from_slice(&issuer).expect("1 to 32 octets"));
            }
            match name {
                Some(name) => key.named(name),
                None => key,
            }
        })
}

fn prefixes(key: &Key) -> Vec<Prefix> {
    let mut all = vec![
        Prefix::trust_domain(key.trust_domain()),
        Prefix::kind(key.trust_domain(), key.kind()),
    ];
    if let Some(issuer) = key.issuer() {
        all.push(Prefix::issuer(key.trust_domain(), key.kind(), issuer));
    }
    all
}

proptest! {
    #[test]
    fn a_key_is_what_its_text_says(key in key()) {
        prop_assert_eq!(key.to_string().parse::<Key>(), Ok(key));
    }

    #[test]
    fn different_keys_have_different_texts(one in key(), other in key()) {
        prop_assert_eq!(one == other, one.to_string() == other.to_string());
    }

    #[test]
    fn a_prefix_covers_exactly_the_keys_that_begin_with_its_text(one in key(), other in key()) {
        for prefix in prefixes(&one) {
            prop_assert!(prefix.covers(&one));
            for key in [&one, &other] {
                prop_assert_eq!(
                    prefix.covers(key),
                    key.to_string().starts_with(&prefix.to_string())
                );
            }
        }
    }

    #[test]
    fn whatever_parses_is_written_the_same_again(text in "\\PC{0,80}|[a-f0-9./=-]{0,80}") {
        if let Ok(key) = text.parse::<Key>() {
            prop_assert_eq!(key.to_string(), text);
        }
    }

    #[test]
    fn nothing_that_is_not_a_part_becomes_one(text in "\\PC{0,80}") {
        let good = (1..=Segment::MAX).contains(&text.len())
            && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.'))
            && !text.starts_with(['-', '.'])
            && !text.ends_with(['-', '.']);
        prop_assert_eq!(Segment::parse(&text).is_ok(), good);
    }
}

#[test]
fn the_text_names_trust_domain_kind_issuer_and_name() {
    const KIND: Segment = Segment::fixed("intermediates");
    let trust_domain = TrustDomain::parse("example.org").expect("a trust domain");
    let issuer = KeyId::from_slice(&[0xab; 20]).expect("20 bytes");
    let name = Segment::parse("replica-1").expect("a part");

    let key = Key::new(&trust_domain, &KIND);
    assert_eq!(key.to_string(), "example.org/intermediates/");
    let key = key.of_issuer(issuer);
    assert_eq!(
        key.to_string(),
        format!("example.org/intermediates/issuer={}/", "ab".repeat(20))
    );
    assert_eq!(
        key.named(name).to_string(),
        format!(
            "example.org/intermediates/issuer={}/replica-1",
            "ab".repeat(20)
        )
    );
}

#[test]
fn a_trust_domain_never_covers_a_longer_one() {
    let kind = Segment::fixed("trust");
    let short = TrustDomain::parse("example.org").expect("a trust domain");
    for other in [
        "example.org.evil",
        "example.org-evil",
        "example.orgs",
        "xample.org",
    ] {
        let other = TrustDomain::parse(other).expect("a trust domain");
        assert!(!Prefix::trust_domain(&short).covers(&Key::new(&other, &kind)));
    }
}

#[test]
fn every_key_identifier_can_be_a_part() {
    for length in 1..=32 {
        let id = KeyId::from_slice(&vec![0xfe; length]).expect("1 to 32 octets");
        let segment = Segment::from(id);
        assert_eq!(Segment::parse(segment.as_str()), Ok(segment));
    }
}
