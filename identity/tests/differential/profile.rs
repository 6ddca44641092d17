//! `profile::violations` finds each defect and names the field that has it.

use arx_identity::profile::{Kind, Severity, violations};
use arx_identity::{Certificate, KeyAlgorithm, PrivateKey};

use crate::der::*;

const ID: &str = "spiffe://example.org/ns/default/sa/web";

/// What is found in a certificate, by field, errors first marked `!`.
fn found(der: &[u8], kind: Kind) -> Vec<String> {
    let certificate = Certificate::from_der(der).expect("a certificate");
    violations(&certificate, kind)
        .into_iter()
        .map(|violation| match violation.severity {
            Severity::Error => format!("!{}", violation.field),
            Severity::Warning => violation.field.to_owned(),
        })
        .collect()
}

fn names(names: &[&str]) -> Vec<u8> {
    sequence(&[&names.iter().flat_map(|name| uri(name)).collect::<Vec<_>>()])
}

#[test]
fn each_defect_of_a_leaf_is_found_in_its_field() {
    let issuer = Authority::root("root");
    let key = p256();
    let good = || Spec::leaf(&issuer, &key, ID);
    let usage = |first: u8| good().with(KEY_USAGE, true, vec![3, 2, 0, first]);
    let rsa = |spec: Spec| spec.change(|spec| spec.spki = rsa_spki(2048));
    let cases: &[(&str, Spec, &[&str])] = &[
        ("nothing", good(), &[]),
        (
            "no basicConstraints",
            good().without(BASIC),
            &["!basicConstraints"],
        ),
        (
            "basicConstraints not critical",
            good().with(BASIC, false, sequence(&[])),
            &["!basicConstraints"],
        ),
        (
            "cA FALSE encoded",
            good().with(BASIC, true, sequence(&[&[1, 1, 0]])),
            &["!basicConstraints"],
        ),
        (
            "a path length",
            good().with(BASIC, true, sequence(&[&tlv(2, &[0])])),
            &["!basicConstraints"],
        ),
        (
            "cA TRUE",
            good().with(BASIC, true, sequence(&[TRUE])),
            &["!basicConstraints"],
        ),
        ("no keyUsage", good().without(KEY_USAGE), &["!keyUsage"]),
        (
            "keyUsage not critical",
            good().with(KEY_USAGE, false, vec![3, 2, 7, 0x80]),
            &["!keyUsage"],
        ),
        ("keyCertSign", usage(0x84), &["!keyUsage"]),
        ("cRLSign", usage(0x82), &["!keyUsage"]),
        ("no digitalSignature", usage(0x00), &["!keyUsage"]),
        ("keyEncipherment on an EC key", usage(0xa0), &["!keyUsage"]),
        ("keyAgreement", usage(0x88), &["keyUsage"]),
        ("no extKeyUsage", good().without(EKU), &["!extKeyUsage"]),
        (
            "serverAuth only",
            good().with(EKU, false, purposes(&[SERVER_AUTH])),
            &["!extKeyUsage"],
        ),
        (
            "codeSigning too",
            good().with(
                EKU,
                false,
                purposes(&[SERVER_AUTH, CLIENT_AUTH, CODE_SIGNING]),
            ),
            &["extKeyUsage"],
        ),
        (
            "no key identifier",
            good().without(SKI),
            &["!subjectKeyIdentifier"],
        ),
        (
            "a key identifier by another method",
            good().with(SKI, false, tlv(4, &[7; 20])),
            &["subjectKeyIdentifier"],
        ),
        (
            "no issuer identifier",
            good().without(AKI),
            &["!authorityKeyIdentifier"],
        ),
        (
            "a subject",
            good().change(|spec| spec.subject = common_name("web")),
            &["subject"],
        ),
        ("no names", good().without(SAN), &["!subjectAltName"]),
        (
            "names not critical",
            good().with(SAN, false, names(&[ID])),
            &["!subjectAltName"],
        ),
        (
            "two URIs",
            good().with(SAN, true, names(&[ID, "spiffe://example.org/b"])),
            &["!subjectAltName"],
        ),
        (
            "no path",
            good().with(SAN, true, names(&["spiffe://example.org"])),
            &["!subjectAltName"],
        ),
        (
            "an address beside the URI",
            good().with(
                SAN,
                true,
                sequence(&[&uri(ID), &tlv(0x87, &[127, 0, 0, 1])]),
            ),
            &["subjectAltName"],
        ),
        (
            "noRevAvail for more than 7 days",
            good()
                .with(NO_REV_AVAIL, false, vec![5, 0])
                .change(|spec| spec.not_after = NOW + 8 * 24 * HOUR),
            &["noRevAvail"],
        ),
        (
            "noRevAvail critical",
            good().with(NO_REV_AVAIL, true, vec![5, 0]),
            &["!noRevAvail", "!extensions"],
        ),
        (
            "an unknown critical extension",
            good().with(0x7e, true, vec![5, 0]),
            &["!extensions"],
        ),
        (
            "a counter as the serial number",
            good().change(|spec| spec.serial = vec![7]),
            &["serialNumber"],
        ),
        (
            "ends before it begins",
            good().change(|spec| spec.not_before = spec.not_after),
            &["!validity"],
        ),
        (
            "an RSA key without keyEncipherment",
            rsa(good()),
            &["subjectKeyIdentifier"],
        ),
        (
            "an RSA key with it",
            rsa(usage(0xa0)),
            &["subjectKeyIdentifier"],
        ),
    ];
    for (name, spec, expected) in cases {
        assert_eq!(
            found(&spec.sign(&issuer.key), Kind::Leaf),
            *expected,
            "{name}"
        );
    }
}

#[test]
fn each_defect_of_an_authority_is_found_in_its_field() {
    let root = Authority::root("root");
    let key = p256();
    let good = || Spec::authority(&root.subject, &root.key, "issuing", &key);
    let cases: &[(&str, Spec, &[&str])] = &[
        ("nothing", good(), &[]),
        (
            "its trust domain's id",
            good().with(SAN, false, names(&["spiffe://example.org"])),
            &[],
        ),
        (
            "an id with a path",
            good().with(SAN, false, names(&[ID])),
            &["!subjectAltName"],
        ),
        (
            "two URIs",
            good().with(
                SAN,
                false,
                names(&["spiffe://example.org", "spiffe://b.example"]),
            ),
            &["!subjectAltName"],
        ),
        (
            "cA not said",
            good().with(BASIC, true, sequence(&[])),
            &["!basicConstraints"],
        ),
        ("no keyUsage", good().without(KEY_USAGE), &["!keyUsage"]),
        (
            "no keyCertSign",
            good().with(KEY_USAGE, true, vec![3, 2, 1, 0x02]),
            &["!keyUsage"],
        ),
        (
            "no cRLSign",
            good().with(KEY_USAGE, true, vec![3, 2, 2, 0x04]),
            &["keyUsage"],
        ),
        (
            "digitalSignature",
            good().with(KEY_USAGE, true, vec![3, 2, 1, 0x86]),
            &["keyUsage"],
        ),
        (
            "no key identifier",
            good().without(SKI),
            &["!subjectKeyIdentifier"],
        ),
        (
            "no issuer identifier",
            good().without(AKI),
            &["!authorityKeyIdentifier"],
        ),
        (
            "no subject",
            good().change(|spec| spec.subject = sequence(&[])),
            &["!subject"],
        ),
        (
            "name constraints",
            good().with(
                NAME_CONSTRAINTS,
                true,
                sequence(&[&tlv(0xa0, &sequence(&[&tlv(0x86, b"example.org")]))]),
            ),
            &["nameConstraints"],
        ),
    ];
    for (name, spec, expected) in cases {
        let der = spec.sign(&root.key);
        assert_eq!(found(&der, Kind::Intermediate), *expected, "{name}");
    }
}

#[test]
fn a_root_signs_itself_and_names_itself() {
    let root = Authority::root("root");
    assert!(found(&root.der, Kind::Root).is_empty());
    let other = p256();
    let not_its_own = Spec::authority(&root.subject, &root.key, "root", &root.key).sign(&other);
    assert_eq!(found(&not_its_own, Kind::Root), ["!signature"]);
    let another_id = Spec::authority(&root.subject, &other, "root", &root.key).sign(&root.key);
    assert_eq!(found(&another_id, Kind::Root), ["!authorityKeyIdentifier"]);
    let bare = Spec::authority(&root.subject, &root.key, "root", &root.key)
        .without(AKI)
        .sign(&root.key);
    assert_eq!(found(&bare, Kind::Root), ["authorityKeyIdentifier"]);
}

#[test]
fn a_certificate_with_any_one_byte_changed_is_refused_or_breaks_its_signature() {
    let root = Authority::root("root");
    let issuer = Certificate::from_der(&root.der).expect("a certificate");
    let key = PrivateKey::generate(KeyAlgorithm::Ed25519).expect("a key");
    let leaf = Spec::leaf(&root, &key, ID).sign(&root.key);
    assert!(
        Certificate::from_der(&leaf)
            .expect("good")
            .is_signed_by(&issuer)
    );
    for at in 0..leaf.len() {
        for flip in [0x01, 0x20, 0x80] {
            let mut changed = leaf.clone();
            changed[at] ^= flip;
            if let Ok(certificate) = Certificate::from_der(&changed) {
                assert!(!certificate.is_signed_by(&issuer), "byte {at} ^ {flip:#x}");
            }
        }
    }
    for end in 0..leaf.len() {
        assert!(Certificate::from_der(&leaf[..end]).is_err(), "cut at {end}");
    }
}
