use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arx_identity::profile::{Issuer, Kind, Leaf, Validity, intermediate, leaf, root, violations};
use arx_identity::{KeyAlgorithm, PrivateKey, Sequence, SpiffeId, TrustBundle, TrustDomain};
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::*;

const NOW: u64 = 1_800_000_000;

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW)
}

fn look(bytes: &[u8]) -> Vec<Finding> {
    explain(bytes, NOW_MS).expect("known")
}

struct Authority {
    key: PrivateKey,
    root: Certificate,
}

fn authority() -> Authority {
    let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).expect("a key");
    let trust_domain = TrustDomain::parse("example.org").expect("a name");
    let unsigned = root(
        key.public_key(),
        &trust_domain,
        Validity::authority(now(), Duration::from_secs(86_400)),
    )
    .expect("a root");
    let signature = key.sign(unsigned.to_be_signed()).expect("signed");
    Authority {
        root: unsigned.complete(&signature).expect("in order"),
        key,
    }
}

impl Authority {
    fn leaf(&self, lifetime: u64, at: SystemTime) -> Certificate {
        let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).expect("a key");
        let id = SpiffeId::parse("spiffe://example.org/ns/shop/sa/web").expect("an id");
        let issuer = Issuer::new(&self.root).expect("an issuer");
        let validity = Validity::leaf(&issuer, at, Duration::from_secs(lifetime));
        let leaf = leaf(
            &issuer,
            &Leaf {
                public_key: key.public_key(),
                id: &id,
                dns_names: &[],
                validity,
                revocable: false,
            },
        );
        let unsigned = leaf.expect("a leaf");
        let signature = self.key.sign(unsigned.to_be_signed()).expect("signed");
        unsigned.complete(&signature).expect("in order")
    }
}

const NOW_MS: i64 = NOW as i64 * 1000;

fn field(finding: &Finding, name: &str) -> String {
    let found = finding.lines.iter().find(|(other, _)| *other == name);
    found.expect("a field").1.to_text(NOW_MS)
}

#[test]
fn a_chain_in_pem_is_explained_certificate_by_certificate() {
    let authority = authority();
    let leaf = authority.leaf(3600, now());
    let findings = look(format!("{}{}", leaf.pem(), authority.root.pem()).as_bytes());
    assert_eq!(
        findings
            .iter()
            .map(|finding| finding.kind)
            .collect::<Vec<_>>(),
        ["leaf certificate", "root certificate"]
    );
    assert_eq!(
        field(&findings[0], "SPIFFE id"),
        "spiffe://example.org/ns/shop/sa/web"
    );
    assert_eq!(field(&findings[0], "signed by"), "the next certificate");
    assert!(
        findings.iter().all(|finding| finding.wrong.is_empty()),
        "{findings:?}"
    );
}

#[test]
fn a_chain_out_of_order_and_a_certificate_that_is_over_are_named() {
    let authority = authority();
    let leaf = authority.leaf(3600, now());
    let other = super::tests::authority();
    let findings = look(format!("{}{}", leaf.pem(), other.root.pem()).as_bytes());
    assert!(
        findings[0].wrong[0].contains("put the chain in order"),
        "{findings:?}"
    );
    let old = authority.leaf(60, now() - Duration::from_secs(1000));
    let findings = look(old.der());
    assert!(findings[0].wrong[0].contains("expired"), "{findings:?}");
}

#[test]
fn a_certificate_that_breaks_the_profile_is_told_which_rule() {
    // Made by OpenSSL: two URIs, keyCertSign, no basicConstraints.
    let pem = include_str!("tests/bad-leaf.pem");
    let findings = look(pem.as_bytes());
    let wrong = findings[0].wrong.join("\n");
    let certificate = Certificate::list_from_pem(pem)
        .expect("a certificate")
        .remove(0);
    let shown = to_text(&findings, NOW_MS);
    for violation in violations(&certificate, Kind::Leaf) {
        assert!(
            shown.contains(&violation.to_string()),
            "{violation} is not named in:\n{shown}"
        );
    }
    for rule in ["keyUsage", "subjectAltName", "basicConstraints"] {
        assert!(wrong.contains(rule), "{rule} is not named in:\n{wrong}");
    }
}

#[test]
fn an_intermediate_is_told_from_a_root() {
    let authority = authority();
    let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).expect("a key");
    let trust_domain = TrustDomain::parse("example.org").expect("a name");
    let unsigned = intermediate(
        &Issuer::new(&authority.root).expect("an issuer"),
        key.public_key(),
        &trust_domain,
        "ca-1",
        Validity::authority(now(), Duration::from_secs(3600)),
        0,
    )
    .expect("an intermediate");
    let signature = authority.key.sign(unsigned.to_be_signed()).expect("signed");
    let findings = look(unsigned.complete(&signature).expect("in order").der());
    assert_eq!(findings[0].kind, "intermediate certificate");
    assert!(findings[0].wrong.is_empty(), "{findings:?}");
}

#[test]
fn certificates_in_der_may_stand_one_after_the_other() {
    let (one, other) = (authority().root, authority().root);
    let findings = look(&[one.der(), other.der()].concat());
    assert_eq!(findings.len(), 2);
    assert_eq!(field(&findings[1], "serial"), other.serial().to_string());
    assert!(findings.iter().all(|finding| finding.wrong.is_empty()));
}

#[test]
fn json_has_stable_names_and_values_that_programs_can_compare() {
    let root = authority().root;
    let json = to_json(&look(root.der()));
    assert_eq!(json[0]["kind"], "root certificate");
    let fields = json[0]["fields"].as_object().expect("fields");
    let names: Vec<_> = fields.keys().map(String::as_str).collect();
    assert_eq!(
        names.join(" "),
        "authority_key_id dns_names issuer key serial sha256 spiffe_id subject \
         subject_key_id uri_names valid_from valid_until"
    );
    assert_eq!(fields["dns_names"], Value::Null);
    assert_eq!(fields["valid_until"], "2027-01-16T08:00:00Z");
}

#[test]
fn a_request_is_explained_and_a_broken_one_is_told_why() {
    let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).expect("a key");
    let mut csr = key.create_csr().expect("a request");
    let findings = look(&csr);
    assert_eq!(
        (findings[0].kind, field(&findings[0], "key").as_str()),
        ("certificate request", "ecdsa-p256")
    );
    *csr.last_mut().expect("not empty") ^= 1;
    assert!(!look(&csr)[0].wrong.is_empty());
}

#[test]
fn a_spiffe_bundle_is_explained_with_its_roots() {
    let authority = authority();
    let trust_domain = TrustDomain::parse("example.org").expect("a name");
    let bundle = TrustBundle::new(
        trust_domain,
        Sequence {
            epoch: 1,
            number: 7,
        },
        vec![authority.root],
    )
    .expect("a bundle");
    let findings = look(bundle.spiffe_json(7, Some(300)).as_bytes());
    assert_eq!(findings[0].kind, "SPIFFE bundle");
    assert_eq!(field(&findings[0], "sequence"), "7");
    assert_eq!(findings[1].kind, "root certificate");
    assert!(look(br#"{"keys":[]}"#)[0].wrong[0].contains("nobody is trusted"));
}

fn token(claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let header = json!({"alg": "RS256", "kid": "k1"});
    format!(
        "{}.{}.{}",
        part(&header),
        part(claims),
        URL_SAFE_NO_PAD.encode("the signature")
    )
}

#[test]
fn a_token_is_explained_and_its_signature_never_shown() {
    let claims = json!({
        "iss": "https://issuer", "aud": ["arx"], "sub": "system:serviceaccount:shop:web", "exp": NOW + 600, "iat": NOW,
        "kubernetes.io": {"namespace": "shop", "serviceaccount": {"name": "web", "uid": "u"}, "pod": {"name": "p", "uid": "v"}},
    });
    let text = token(&claims);
    let findings = look(text.as_bytes());
    assert_eq!(field(&findings[0], "service account"), "shop/web");
    assert!(findings[0].wrong.is_empty(), "{findings:?}");
    assert!(
        findings[0]
            .notes
            .iter()
            .any(|note| note.contains("names no node"))
    );
    let shown = to_text(&findings, NOW_MS) + &to_json(&findings).to_string();
    let signature = text.rsplit('.').next().expect("three parts");
    assert!(!shown.contains(signature), "{shown}");
}

#[test]
fn what_is_wrong_with_a_token_is_named() {
    let findings = look(token(&json!({"exp": NOW - 10})).as_bytes());
    assert!(findings[0].wrong.contains(&"it has expired".to_owned()));
    let forged = token(&json!({"iss": "a\u{1b}[31mb"}));
    assert!(!field(&look(forged.as_bytes())[0], "issuer").contains('\u{1b}'));
}

#[test]
fn a_private_key_is_recognised_and_nothing_of_it_is_shown() {
    let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).expect("a key");
    let pem = key.pkcs8_pem();
    let findings = look(pem.as_bytes());
    assert_eq!(findings[0].kind, "private key");
    let body = pem.lines().nth(1).expect("a line");
    assert!(!to_text(&findings, NOW_MS).contains(body));
}

#[test]
fn what_is_none_of_these_is_said() {
    assert!(
        explain(b"hello", 0)
            .expect_err("unknown")
            .contains("no certificate")
    );
    assert!(
        explain(b"{\"a\":1}", 0)
            .expect_err("unknown")
            .contains("no SPIFFE bundle")
    );
}

#[test]
fn what_arx_does_not_know_in_a_pem_file_is_wrong() {
    let findings = look(b"-----BEGIN X509 CRL-----\nMAA=\n-----END X509 CRL-----\n");
    assert_eq!(findings[0].kind, "unknown");
    assert!(
        findings[0].wrong[0].contains("does not know"),
        "{findings:?}"
    );
}

#[test]
fn bytes_behind_a_certificate_or_a_request_are_told_and_it_is_still_explained() {
    let leaf = authority().leaf(3600, now());
    let findings = look(&[leaf.der(), &[0]].concat());
    assert_eq!(findings[0].kind, "leaf certificate");
    let told = "1 byte follows it that belongs to nothing";
    assert!(findings[0].wrong[0].starts_with(told), "{findings:?}");
    let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).expect("a key");
    let csr = key.create_csr().expect("a request");
    let findings = look(&[&csr[..], &[0, 0]].concat());
    assert_eq!(findings[0].kind, "certificate request");
    let told = "2 bytes follow it that belong to nothing";
    assert!(findings[0].wrong[0].starts_with(told), "{findings:?}");
    assert!(
        explain(&[0x30, 3, 2, 1, 1], NOW_MS).is_err(),
        "DER of something else"
    );
}

#[test]
fn a_certificate_with_a_key_that_can_be_broken_is_explained() {
    // Made by OpenSSL: `req -x509 -newkey rsa:1024`.
    let pem = include_str!("tests/rsa-1024.pem");
    let findings = look(pem.as_bytes());
    assert_eq!(field(&findings[0], "key"), "RSA, 1024 bits");
    let wrong = findings[0].wrong.join("; ");
    assert!(wrong.contains("can be broken"), "{wrong}");
    assert!(!to_text(&findings, NOW_MS).contains("certificate request"));
}

#[test]
fn what_is_empty_or_cut_off_is_told_so() {
    let told = |bytes: &[u8]| explain(bytes, NOW_MS).expect_err("nothing to explain");
    assert_eq!(told(b" \n"), "there is nothing in it");
    let cut = told(b"-----BEGIN CERTIFICATE-----\nMAA=\n");
    assert!(
        cut.contains("has no line -----END CERTIFICATE-----"),
        "{cut}"
    );
    let damaged = told(b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n");
    assert!(damaged.contains("no Base64"), "{damaged}");
}
