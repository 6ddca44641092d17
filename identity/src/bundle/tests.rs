use proptest::prelude::*;

use super::*;
use crate::testing::{Authority, example};

const AT: Sequence = Sequence {
    epoch: 2,
    number: 7,
};

fn roots(count: usize) -> Vec<Certificate> {
    (0..count)
        .map(|_| Authority::root(&example()).certificate().clone())
        .collect()
}

fn bundle() -> TrustBundle {
    let mut roots = roots(2);
    for algorithm in [KeyAlgorithm::EcdsaP384, KeyAlgorithm::Ed25519] {
        let root = Authority::root_with(&example(), algorithm);
        roots.push(root.certificate().clone());
    }
    TrustBundle::new(example(), AT, roots).expect("a bundle")
}

#[test]
fn a_bundle_survives_each_of_its_forms() {
    let bundle = bundle();
    let by_pem = TrustBundle::from_pem(example(), AT, &bundle.pem());
    let by_der = TrustBundle::from_der(example(), AT, &bundle.der());
    let json = bundle.spiffe_json(3, Some(300));
    let by_json = TrustBundle::from_spiffe_json(example(), AT, &json);
    for read in [by_pem, by_der, by_json] {
        assert_eq!(read.as_ref(), Ok(&bundle));
        assert_eq!(read.map(|read| read.sha256()), Ok(bundle.sha256()));
    }
    assert_eq!(bundle.sha256(), crate::crypto::sha256(&bundle.der()));
}

/// C32 to C34, C81, C84, C85.
#[test]
fn a_spiffe_document_says_what_the_standard_asks_for() {
    let bundle = bundle();
    let document: Value =
        serde_json::from_str(&bundle.spiffe_json(u64::MAX, Some(300))).expect("JSON");
    assert_eq!(document["spiffe_sequence"], u64::MAX);
    assert_eq!(document["spiffe_refresh_hint"], 300);
    let keys = document["keys"].as_array().expect("keys");
    assert_eq!(keys.len(), 4);
    for (key, root) in keys.iter().zip(bundle.roots()) {
        assert_eq!(key["use"], "x509-svid");
        assert!(key.get("kid").is_none());
        let x5c = key["x5c"].as_array().expect("x5c");
        assert_eq!(x5c.len(), 1);
        assert_eq!(x5c[0], STANDARD.encode(root.der()));
        let text = |name: &str| key[name].as_str().map(|text| URL_SAFE_NO_PAD.decode(text));
        let (kty, curve, size) = match root.public_key().algorithm() {
            KeyAlgorithm::EcdsaP256 => ("EC", "P-256", 32),
            KeyAlgorithm::EcdsaP384 => ("EC", "P-384", 48),
            _ => ("OKP", "Ed25519", 32),
        };
        assert_eq!((&key["kty"], &key["crv"]), (&kty.into(), &curve.into()));
        let x = text("x").expect("x").expect("base64url");
        assert_eq!(x.len(), size);
        let bytes = root.public_key().key_bytes();
        assert!(bytes.windows(size).any(|window| window == x));
    }
    let without = bundle.spiffe_json(1, None);
    assert!(!without.contains("spiffe_refresh_hint"));
}

/// C35, C36, C82, C83, C86.
#[test]
fn entries_that_are_not_for_x509_are_passed_over() {
    let [first, second] = <[Certificate; 2]>::try_from(roots(2)).expect("two roots");
    let x5c = |root: &Certificate| STANDARD.encode(root.der());
    let document = json!({
        "keys": [
            { "kty": "EC", "use": "jwt-svid", "kid": "a", "x5c": [x5c(&second)] },
            { "kty": "EC", "use": "x509-svid" },
            { "kty": "EC", "use": "x509-svid", "x5c": [] },
            { "kty": "EC", "use": "something", "x5c": ["!"] },
            { "kty": "EC", "x5c": [x5c(&second)] },
            "not an object",
            { "kty": "EC", "use": "x509-svid", "x5c": [x5c(&first), x5c(&second)] },
        ],
        "of another standard": true,
    });
    let read = TrustBundle::from_spiffe_json(example(), AT, &document.to_string());
    assert_eq!(read.expect("a bundle").roots(), [first]);
}

#[test]
fn documents_that_are_no_bundle_are_refused() {
    let read = |text: &str| TrustBundle::from_spiffe_json(example(), AT, text);
    for text in ["", "[]", "{}", "{\"keys\": {}}", "{\"keys\": 1}"] {
        assert!(matches!(read(text), Err(BundleError::Json(_))), "{text}");
    }
    assert_eq!(read("{\"keys\": []}"), Err(BundleError::Empty(example())));
    for x5c in ["\"!\"", "7"] {
        let text = format!("{{\"keys\": [{{\"use\": \"x509-svid\", \"x5c\": [{x5c}]}}]}}");
        assert!(matches!(read(&text), Err(BundleError::Json(_))), "{text}");
    }
    let damaged = "{\"keys\": [{\"use\": \"x509-svid\", \"x5c\": [\"AAAA\"]}]}";
    assert!(matches!(
        read(damaged),
        Err(BundleError::Certificate { position: 0, .. })
    ));
}

#[test]
fn only_self_signed_authorities_of_the_domain_make_a_bundle() {
    let new = |roots: Vec<Certificate>| TrustBundle::new(example(), AT, roots);
    assert_eq!(new(Vec::new()), Err(BundleError::Empty(example())));
    let root = Authority::root(&example());
    let intermediate = root.below(&example(), 0);
    assert!(matches!(
        new(vec![intermediate.certificate().clone()]),
        Err(BundleError::NotSelfSigned(_))
    ));
    let leaf = root.valid("spiffe://example.org/web").leaf().clone();
    assert!(matches!(new(vec![leaf]), Err(BundleError::NotCa(_))));
    let twice = vec![root.certificate().clone(); 2];
    assert!(matches!(new(twice), Err(BundleError::Duplicate(_))));
    let other = TrustDomain::parse("other.example").expect("a trust domain");
    let foreign = Authority::root(&other).certificate().clone();
    assert_eq!(
        new(vec![foreign]),
        Err(BundleError::ForeignRoot {
            expected: example(),
            found: other
        })
    );
    assert_eq!(
        new(vec![root.certificate().clone(); 101]),
        Err(BundleError::TooMany(101))
    );
}

#[test]
fn a_root_is_found_by_its_key_identifier() {
    let bundle = bundle();
    for root in bundle.roots() {
        let id = root.subject_key_id().expect("a key identifier");
        assert_eq!(bundle.root(&id), Some(root));
    }
    assert_eq!(bundle.root(&KeyId::from_slice(&[1]).expect("an id")), None);
}

#[test]
fn a_restored_store_counts_on_in_a_new_epoch() {
    let later = Sequence {
        epoch: 3,
        number: 0,
    };
    assert!(later > AT);
    assert_eq!(
        (AT.to_string(), later.to_string()),
        ("2.7".into(), "3.0".into())
    );
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let text = String::from_utf8_lossy(&bytes);
        prop_assert!(TrustBundle::from_der(example(), AT, &bytes).is_err());
        prop_assert!(TrustBundle::from_pem(example(), AT, &text).is_err());
        prop_assert!(TrustBundle::from_spiffe_json(example(), AT, &text).is_err());
    }

    #[test]
    fn changed_der_is_refused(at in any::<prop::sample::Index>(), flip in 1u8..) {
        let mut der = TrustBundle::new(example(), AT, roots(2)).expect("a bundle").der();
        let at = at.index(der.len());
        der[at] ^= flip;
        prop_assert!(TrustBundle::from_der(example(), AT, &der).is_err());
    }

    #[test]
    fn cut_der_is_refused_unless_it_ends_with_a_root(at in any::<prop::sample::Index>()) {
        let roots = roots(2);
        let der: Vec<u8> = roots.iter().flat_map(Certificate::der).copied().collect();
        let end = at.index(der.len());
        let read = TrustBundle::from_der(example(), AT, &der[..end]);
        prop_assert_eq!(read.is_ok(), end == roots[0].der().len());
    }

    #[test]
    fn changed_json_is_refused_or_is_the_same_roots(
        at in any::<prop::sample::Index>(),
        to in "[ -~]",
    ) {
        let bundle = TrustBundle::new(example(), AT, roots(1)).expect("a bundle");
        let mut json = bundle.spiffe_json(1, None);
        let at = at.index(json.len());
        json.replace_range(at..=at, &to);
        if let Ok(read) = TrustBundle::from_spiffe_json(example(), AT, &json) {
            prop_assert_eq!(read.roots(), bundle.roots());
        }
    }

    #[test]
    fn changed_pem_is_refused_or_is_the_same_roots(
        at in any::<prop::sample::Index>(),
        to in "[ -~]",
    ) {
        let bundle = TrustBundle::new(example(), AT, roots(1)).expect("a bundle");
        let mut pem = bundle.pem();
        let at = at.index(pem.len());
        pem.replace_range(at..=at, &to);
        if let Ok(read) = TrustBundle::from_pem(example(), AT, &pem) {
            prop_assert_eq!(read.roots(), bundle.roots());
        }
    }
}
