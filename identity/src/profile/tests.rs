use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::testing::{Authority, HOUR, example, now};
use crate::{Certificate, KeyAlgorithm, PrivateKey, SpiffeId};

fn key() -> PrivateKey {
    PrivateKey::generate(KeyAlgorithm::EcdsaP256).expect("a key")
}

fn web() -> SpiffeId {
    SpiffeId::new(&example(), "/ns/default/sa/web").expect("an id")
}

fn issue(
    authority: &Authority,
    key: &PrivateKey,
    dns_names: &[String],
    validity: Validity,
) -> Result<Certificate, ProfileError> {
    let content = Leaf {
        public_key: key.public_key(),
        id: &web(),
        dns_names,
        validity,
        revocable: false,
    };
    let unsigned = leaf(&authority.issuer, &content)?;
    let signature = authority.key.sign(unsigned.to_be_signed());
    unsigned.complete(&signature.expect("a signature"))
}

#[test]
fn every_kind_of_authority_issues_for_every_kind_of_key() {
    let algorithms = [
        KeyAlgorithm::EcdsaP256,
        KeyAlgorithm::EcdsaP384,
        KeyAlgorithm::Ed25519,
        KeyAlgorithm::Rsa(2048),
    ];
    let can = |algorithm: &KeyAlgorithm| PrivateKey::generate(*algorithm).is_ok();
    for authority in algorithms.into_iter().filter(can) {
        let root = Authority::root_with(&example(), authority);
        assert!(violations(root.certificate(), Kind::Root).is_empty());
        for algorithm in algorithms.into_iter().filter(can) {
            let key = PrivateKey::generate(algorithm).expect("a key");
            let validity = Validity::leaf(&root.issuer, now(), HOUR);
            let leaf = issue(&root, &key, &[], validity).expect("a leaf");
            assert!(violations(&leaf, Kind::Leaf).is_empty());
            assert!(
                leaf.is_signed_by(root.certificate()),
                "{authority}, {algorithm}"
            );
            assert_eq!(leaf.public_key(), key.public_key());
        }
    }
}

#[test]
fn a_leaf_says_what_was_asked_for_and_nothing_else() {
    let root = Authority::root(&example());
    let issuing = root.below(&example(), 0);
    let key = key();
    let names = ["web.default.svc".to_owned(), "*.web.example".to_owned()];
    let validity = Validity::leaf(&issuing.issuer, now(), HOUR);
    let leaf = issue(&issuing, &key, &names, validity).expect("a leaf");
    assert_eq!(leaf.spiffe_id(), Some(&web()));
    assert_eq!(leaf.dns_names(), names);
    assert_eq!(leaf.uris().len(), 1);
    assert_eq!(leaf.subject(), "");
    assert!(!leaf.is_ca());
    assert_eq!(leaf.subject_key_id(), Some(key.public_key().key_id()));
    assert_eq!(leaf.authority_key_id(), Some(issuing.issuer.key_id()));
    assert_eq!(leaf.not_before(), now() - Duration::from_secs(120));
    assert_eq!(leaf.not_after(), now() + HOUR);
    assert!(leaf.extensions().no_rev_avail.is_some());
}

#[test]
fn no_revocation_is_said_only_of_short_lives_without_a_crl() {
    let root = Authority::root(&example());
    let long = Validity::leaf(&root.issuer, now(), 169 * HOUR);
    let leaf = issue(&root, &key(), &[], long).expect("a leaf");
    assert!(leaf.extensions().no_rev_avail.is_none());
    let key = key();
    let content = Leaf {
        public_key: key.public_key(),
        id: &web(),
        dns_names: &[],
        validity: Validity::leaf(&root.issuer, now(), HOUR),
        revocable: true,
    };
    let unsigned = super::leaf(&root.issuer, &content).expect("a leaf");
    let signature = root.key.sign(unsigned.to_be_signed()).expect("a signature");
    let leaf = unsigned.complete(&signature).expect("a leaf");
    assert!(leaf.extensions().no_rev_avail.is_none());
}

#[test]
fn a_leaf_never_outlives_its_issuer_and_an_expired_issuer_signs_nothing() {
    let root = Authority::root(&example());
    let end = root.issuer.not_after();
    let cut = Validity::leaf(&root.issuer, end - HOUR, 2 * HOUR);
    assert_eq!(cut.not_after, end);
    assert!(issue(&root, &key(), &[], cut).is_ok());
    let longer = Validity {
        not_after: end + Duration::from_secs(1),
        ..cut
    };
    let refused = issue(&root, &key(), &[], longer);
    assert_eq!(refused.err(), Some(ProfileError::Validity));
    let after = Validity::leaf(&root.issuer, end + HOUR, HOUR);
    let refused = issue(&root, &key(), &[], after);
    assert_eq!(refused.err(), Some(ProfileError::Validity));
}

#[test]
fn names_that_are_none_are_refused() {
    let root = Authority::root(&example());
    let validity = Validity::leaf(&root.issuer, now(), HOUR);
    let long = "a".repeat(64);
    for name in [
        "", ".", "a..b", "-a", "a-", "a b", "a\n", "*", "a.*", &long, "ä.org", "a.",
    ] {
        let refused = issue(&root, &key(), &[name.to_owned()], validity);
        let expected = ProfileError::DnsName(name.to_owned());
        assert_eq!(refused.err(), Some(expected), "{name:?}");
    }
    let key = key();
    let content = Leaf {
        public_key: key.public_key(),
        id: &SpiffeId::new(&example(), "").expect("an id"),
        dns_names: &[],
        validity,
        revocable: false,
    };
    assert!(matches!(
        leaf(&root.issuer, &content),
        Err(ProfileError::NoPath(_))
    ));
}

#[test]
fn what_was_signed_with_damage_is_not_released() {
    let root = Authority::root(&example());
    let key = key();
    let validity = Validity::authority(now(), HOUR);
    let unsigned = intermediate(
        &root.issuer,
        key.public_key(),
        &example(),
        "issuing",
        validity,
        0,
    )
    .expect("an intermediate");
    let by_another = key.sign(unsigned.to_be_signed()).expect("a signature");
    assert_eq!(
        unsigned.clone().complete(&by_another).err(),
        Some(ProfileError::Signature)
    );
    let another = super::root(key.public_key(), &example(), validity).expect("a root");
    let by_another = root.key.sign(another.to_be_signed()).expect("a signature");
    assert!(matches!(
        another.complete(&by_another),
        Err(ProfileError::Violation(_))
    ));
}

#[test]
fn authorities_stand_no_deeper_than_the_path_length_allows() {
    let root = Authority::root(&example());
    let two = root.below(&example(), 2);
    let one = two.below(&example(), 1);
    let none = one.below(&example(), 0);
    let key = key();
    for (issuer, path_len, fits) in [
        (&root, 255, true),
        (&two, 2, false),
        (&two, 1, true),
        (&one, 1, false),
        (&none, 0, false),
    ] {
        let made = intermediate(
            &issuer.issuer,
            key.public_key(),
            &example(),
            "issuing",
            Validity::authority(now(), HOUR),
            path_len,
        );
        match made {
            Ok(_) => assert!(fits, "{path_len}"),
            Err(error) => assert_eq!((error, fits), (ProfileError::PathLength, false)),
        }
    }
}

#[test]
fn every_authority_has_a_subject_of_its_own() {
    let (first, second) = (Authority::root(&example()), Authority::root(&example()));
    assert_ne!(
        first.certificate().subject(),
        second.certificate().subject()
    );
    let serial = first.certificate().serial().to_string();
    assert_eq!(
        first.certificate().subject(),
        format!("serialNumber={serial},CN=root,O=example.org")
    );
    let long = crate::TrustDomain::parse(&"a".repeat(255)).expect("a trust domain");
    let cut = Authority::root(&long);
    assert!(
        cut.certificate()
            .subject()
            .ends_with(&format!("O={}", "a".repeat(64)))
    );
    assert!(violations(cut.certificate(), Kind::Root).is_empty());
}

#[test]
fn a_leaf_is_no_issuer() {
    let root = Authority::root(&example());
    let leaf = root.valid("spiffe://example.org/web").leaf().clone();
    assert!(matches!(
        Issuer::new(&leaf),
        Err(ProfileError::BadIssuer { .. })
    ));
}

#[test]
fn serial_numbers_are_random_and_positive() {
    let root = Authority::root(&example());
    let validity = Validity::leaf(&root.issuer, now(), HOUR);
    let mut seen = std::collections::HashSet::new();
    for _ in 0..64 {
        let leaf = issue(&root, &key(), &[], validity).expect("a leaf");
        assert!((15..=16).contains(&leaf.serial().as_bytes().len()));
        assert!(leaf.serial().as_bytes()[0] < 0x80 || leaf.serial().as_bytes().len() < 16);
        assert!(seen.insert(leaf.serial().clone()));
    }
}

proptest! {
    #[test]
    fn a_leaf_is_backdated_by_a_tenth_at_most_and_never_by_more_than_two_minutes(seconds in 1u64..1_000_000) {
        let lifetime = Duration::from_secs(seconds);
        let back = backdate(lifetime);
        prop_assert!(back <= lifetime / 10 && back <= Duration::from_secs(120));
        // Whoever renews at notBefore + lifetime / 2 does so in the future.
        let whole = lifetime + back;
        prop_assert!(whole / 2 > back);
    }

    #[test]
    fn whatever_an_issuer_signed_it_says_exactly_what_was_asked(
        segments in prop::collection::vec("[a-zA-Z0-9_-]{1,40}", 1..40),
        labels in prop::collection::vec("[a-z0-9]{1,20}(\\.[a-z0-9]{1,20}){0,3}", 0..4),
        lifetime in 1u64..2_000_000,
    ) {
        let root = Authority::root(&example());
        let path: String = segments.iter().map(|segment| format!("/{segment}")).collect();
        let id = SpiffeId::new(&example(), &path).expect("legal by construction");
        let key = key();
        let content = Leaf {
            public_key: key.public_key(),
            id: &id,
            dns_names: &labels,
            validity: Validity::leaf(&root.issuer, now(), Duration::from_secs(lifetime)),
            revocable: false,
        };
        let unsigned = leaf(&root.issuer, &content).expect("a leaf");
        let signature = root.key.sign(unsigned.to_be_signed()).expect("a signature");
        let leaf = unsigned.complete(&signature).expect("within the profile");
        prop_assert_eq!(leaf.spiffe_id(), Some(&id));
        prop_assert_eq!(leaf.dns_names(), &labels[..]);
    }
}

#[test]
fn an_authoritys_request_asks_for_what_an_intermediate_says() {
    let key = key();
    let request = authority_request(&key, &example(), "authority", 1).expect("a request");
    let verified =
        crate::VerifiedCsr::verify(&request, &crate::KeyPolicy::default()).expect("it verifies");
    assert_eq!(verified.public_key(), key.public_key());
    assert_eq!(verified.claimed_names(), ["spiffe://example.org"]);
    // basicConstraints, critical, CA:TRUE with path length 1; keyUsage of an authority.
    let constraints = [
        0x30, 0x12, 0x06, 0x03, 0x55, 0x1d, 0x13, 0x01, 0x01, 0xff, 0x04, 0x08, 0x30, 0x06, 0x01,
        0x01, 0xff, 0x02, 0x01, 0x01,
    ];
    assert!(request.windows(20).any(|window| window == constraints));
    let usage = [
        0x55, 0x1d, 0x0f, 0x01, 0x01, 0xff, 0x04, 0x04, 0x03, 0x02, 0x01, 0x06,
    ];
    assert!(request.windows(12).any(|window| window == usage));
    assert!(crate::csr_pem(&request).starts_with("-----BEGIN CERTIFICATE REQUEST-----\n"));
}
