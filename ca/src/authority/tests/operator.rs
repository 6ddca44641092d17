//! The operator's own authority: taken when it is right, and each defect told by name.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use arx_identity::profile::{Issuer, Unsigned};
use tempfile::TempDir;

use super::*;

/// A certificate and its key.
#[derive(Clone)]
pub(super) struct Made {
    pub(super) certificate: Certificate,
    pub(super) key: Arc<PrivateKey>,
}

pub(super) fn key(algorithm: KeyAlgorithm) -> Arc<PrivateKey> {
    Arc::new(PrivateKey::generate(algorithm).expect("it is made"))
}

pub(super) fn finish(unsigned: Unsigned, signer: &PrivateKey) -> Certificate {
    let signature = signer.sign(unsigned.to_be_signed()).expect("it signs");
    unsigned.complete(&signature).expect("it keeps the profile")
}

pub(super) fn root_of(trust_domain: &str, lifetime: Duration) -> Made {
    let key = key(KeyAlgorithm::EcdsaP384);
    let trust_domain = TrustDomain::parse(trust_domain).expect("a trust domain");
    let validity = Validity::authority(now(), lifetime);
    let unsigned =
        profile::root(key.public_key(), &trust_domain, validity).expect("the profile has it");
    Made {
        certificate: finish(unsigned, &key),
        key,
    }
}

pub(super) fn root() -> Made {
    root_of("example.org", 3650 * DAY)
}

pub(super) fn below(issuer: &Made, path_len: u8, lifetime: Duration) -> Made {
    let key = key(KeyAlgorithm::EcdsaP256);
    let unsigned = profile::intermediate(
        &Issuer::new(&issuer.certificate).expect("it issues"),
        key.public_key(),
        &trust_domain(),
        "operator",
        Validity::authority(now(), lifetime),
        path_len,
    )
    .expect("the profile has it");
    Made {
        certificate: finish(unsigned, &issuer.key),
        key,
    }
}

pub(super) fn pem(chain: &[&Made]) -> String {
    chain.iter().map(|made| made.certificate.pem()).collect()
}

/// Writes both files, and names them.
pub(super) fn files(dir: &TempDir, certificates: &str, key: &str) -> Options {
    let (certificate_file, key_file) = (dir.path().join("ca.pem"), dir.path().join("ca.key"));
    std::fs::write(&certificate_file, certificates).expect("it is written");
    std::fs::write(&key_file, key).expect("it is written");
    mode(&key_file, 0o600);
    let operator = Some(OperatorFiles {
        certificate: certificate_file,
        key: Some(key_file),
        previous: None,
        every: MINUTE,
    });
    Options {
        operator,
        ..options()
    }
}

pub(super) fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("it is ours");
}

pub(super) fn given(dir: &TempDir, chain: &[&Made]) -> Options {
    files(dir, &pem(chain), &chain[0].key.pkcs8_pem())
}

pub(super) fn dir() -> TempDir {
    TempDir::new().expect("a temporary directory")
}

/// What keeps an authority with these options from starting, in a store of its own; `check`
/// must tell the same.
async fn problems(options: Options) -> Vec<Problem> {
    problems_with(&memory(), options).await
}

async fn problems_with(store: &Shared, options: Options) -> Vec<Problem> {
    let state = state(store).await;
    let before = dump(store).await;
    let checked = check(&options, &trust_domain(), Some(&state), now()).await;
    assert_eq!(dump(store).await, before, "a check writes nothing");
    match open(store, options).await {
        Err(AuthorityError::Problems(problems)) => {
            assert_eq!(problems, checked.problems);
            problems
        }
        Err(error) => panic!("{error}"),
        Ok(_) => {
            assert_eq!(checked.problems, []);
            Vec::new()
        }
    }
}

/// The one problem that there is, as `code: message`.
async fn problem(options: Options) -> String {
    let problems = problems(options).await;
    assert_eq!(problems.len(), 1, "{problems:?}");
    format!("{}: {}", problems[0].code, problems[0])
}

#[tokio::test]
async fn an_operators_root_issues_and_its_key_is_not_stored() {
    let (dir, root, store) = (dir(), root(), memory());
    let authority = open(&store, given(&dir, &[&root]))
        .await
        .expect("it starts");
    assert_eq!(authority.root(), root.certificate);
    let issuing = authority.install(authority.prepare(now()).await.expect("it is made"));
    assert_eq!(issuing.chain().len(), 1);
    assert_eq!(authority.custody(), "operator's files");
    let chain = leaf_at(&issuing, now(), HOUR).expect("it is signed");
    verify(&chain, &bundle(&authority), now()).expect("it verifies");
    assert!(matches!(
        authorities(&store).await.roots[0].key,
        KeyPlace::Files
    ));
    open(&store, given(&dir, &[&root]))
        .await
        .expect("it starts again");
}

#[tokio::test]
async fn an_operators_intermediate_stands_between_the_root_and_ours() {
    let (dir, root, store) = (dir(), root(), memory());
    let upper = below(&root, 2, 900 * DAY);
    let lower = below(&upper, 1, 300 * DAY);
    let options = given(&dir, &[&lower, &upper, &root]);
    let authority = open(&store, options).await.expect("it starts");
    assert_eq!(authority.root(), root.certificate);
    let issuing = authority.install(authority.prepare(now()).await.expect("it is made"));
    let handed: Vec<_> = issuing.chain()[1..].to_vec();
    assert_eq!(
        handed,
        [lower.certificate, upper.certificate],
        "and never the root"
    );
    let chain = leaf_at(&issuing, now(), HOUR).expect("it is signed");
    let peer = verify(&chain, &bundle(&authority), now()).expect("it verifies");
    assert_eq!(peer.issuers.len(), 4);
}

#[tokio::test]
async fn a_renewed_intermediate_of_the_operators_under_the_same_root_is_taken() {
    let (dir, root, store) = (dir(), root(), memory());
    let old = below(&root, 1, 300 * DAY);
    open(&store, given(&dir, &[&old, &root]))
        .await
        .expect("it starts");
    let new = below(&root, 1, 600 * DAY);
    let options = given(&dir, &[&new, &root]);
    assert_eq!(problems_with(&store, options.clone()).await, []);
    let authority = open(&store, options).await.expect("it starts");
    let prepared = authority.prepare(now()).await.expect("it is made");
    assert!(
        prepared
            .registered
            .certificate
            .is_signed_by(&new.certificate)
    );
    let stored = authorities(&store).await;
    assert_eq!(stored.roots.len(), 1);
    assert_eq!(stored.roots[0].above, [new.certificate]);
}

#[tokio::test]
async fn nothing_lives_longer_than_the_first_to_end_on_the_way_to_the_root() {
    let (dir, root) = (dir(), root());
    let upper = below(&root, 2, 5 * DAY);
    let lower = below(&upper, 1, 4 * DAY);
    let authority = open(&memory(), given(&dir, &[&lower, &upper, &root]))
        .await
        .expect("it starts");
    assert!(
        authority
            .notes()
            .iter()
            .any(|note| note.contains("intermediates get less"))
    );
    let prepared = authority.prepare(now()).await.expect("it is made");
    assert_eq!(prepared.registered.certificate.not_after(), now() + 4 * DAY);
}

#[tokio::test]
async fn a_key_of_another_certificate_is_named() {
    let (dir, root, other) = (dir(), root(), root());
    let options = files(&dir, &pem(&[&root]), &other.key.pkcs8_pem());
    let told = problem(options).await;
    assert!(
        told.starts_with("ARX-AUTHORITY-KEY-MISMATCH: authority.certificate_file:"),
        "{told}"
    );
    assert!(
        told.contains(root.certificate.subject()) && told.contains("ca.key"),
        "{told}"
    );
}

#[tokio::test]
async fn a_chain_without_its_root_is_named() {
    let (dir, root) = (dir(), root());
    let told = problem(given(&dir, &[&below(&root, 1, 300 * DAY)])).await;
    assert!(told.starts_with("ARX-AUTHORITY-CHAIN:"), "{told}");
    assert!(
        told.contains("append the chain up to and including the root"),
        "{told}"
    );
}

#[tokio::test]
async fn a_chain_in_the_wrong_order_or_with_a_stranger_is_named() {
    let (dir, root, stranger) = (dir(), root(), root());
    let upper = below(&root, 2, 900 * DAY);
    let lower = below(&upper, 1, 300 * DAY);
    let told = problem(given(&dir, &[&lower, &stranger])).await;
    assert!(told.starts_with("ARX-AUTHORITY-CHAIN:"), "{told}");
    assert!(
        told.contains("certificate 1") && told.contains("is not signed by"),
        "{told}"
    );
    let told = problem(given(&dir, &[&lower, &upper, &root, &stranger])).await;
    assert!(
        told.contains("certificate 4") && told.contains("stands after the root"),
        "{told}"
    );
    let told = problems(given(&dir, &[&upper, &lower, &root])).await;
    assert!(
        told.iter().all(|one| one.message.contains("order them")),
        "{told:?}"
    );
    assert_eq!(told.len(), 2, "each wrong link: {told:?}");
}

#[tokio::test]
async fn an_intermediate_that_allows_none_below_it_is_named() {
    let (dir, root) = (dir(), root());
    let told = problem(given(&dir, &[&below(&root, 0, 300 * DAY), &root])).await;
    assert!(told.starts_with("ARX-AUTHORITY-PATH-LENGTH:"), "{told}");
    assert!(told.contains("a path length of at least 1"), "{told}");
}

#[tokio::test]
async fn a_path_length_further_up_that_is_too_short_is_found_by_trial() {
    let (dir, root) = (dir(), root());
    let upper = below(&root, 1, 900 * DAY);
    // The profile would not make it: 1 above leaves room for one, not for one of 1.
    let key = key(KeyAlgorithm::EcdsaP256);
    let wider = Issuer::new(&below(&root, 2, 900 * DAY).certificate).expect("it issues");
    let unsigned = profile::intermediate(
        &wider,
        key.public_key(),
        &trust_domain(),
        "operator",
        Validity::authority(now(), 300 * DAY),
        1,
    )
    .expect("the profile has it");
    // With the issuer's name and key identifier replaced by those of the narrow one.
    let mut tbs = unsigned.to_be_signed().to_vec();
    let wide = wider.certificate();
    let (from, to) = (
        wide.serial().to_string(),
        upper.certificate.serial().to_string(),
    );
    replace(&mut tbs, from.as_bytes(), to.as_bytes());
    let (from, to) = (
        wider.key_id(),
        upper.certificate.subject_key_id().expect("it has one"),
    );
    replace(&mut tbs, from.as_bytes(), to.as_bytes());
    let certificate = assemble(&tbs, &upper.key);
    let lower = Made { certificate, key };
    assert!(lower.certificate.is_signed_by(&upper.certificate));
    let told = problem(given(&dir, &[&lower, &upper, &root])).await;
    assert!(told.starts_with("ARX-AUTHORITY-TRIAL:"), "{told}");
}

#[tokio::test]
async fn expired_and_future_certificates_are_named_with_their_time() {
    let (dir, root) = (dir(), root());
    let options = given(&dir, &[&below(&root, 1, DAY), &root]);
    let state = state(&memory()).await;
    for (at, code, text) in [
        (
            now() + 2 * DAY,
            "ARX-AUTHORITY-EXPIRED",
            "has expired at 2026-05-29T20:26:40",
        ),
        (
            now() - 2 * HOUR,
            "ARX-AUTHORITY-NOT-YET-VALID",
            "is valid from 2026-05-28T19:26:40",
        ),
    ] {
        let checked = check(&options, &trust_domain(), Some(&state), at).await;
        let told = checked
            .problems
            .iter()
            .find(|one| one.code == code)
            .expect("it is told");
        assert!(told.message.contains(text), "{told}");
    }
}

#[tokio::test]
async fn an_authority_that_ends_before_a_leaf_is_not_begun_with_but_gone_on_with() {
    let (dir, root) = (dir(), root());
    let options = given(&dir, &[&below(&root, 1, 2 * DAY), &root]);
    let told = problem(given(&dir, &[&below(&root, 1, HOUR), &root])).await;
    assert!(told.starts_with("ARX-AUTHORITY-LIFETIME:"), "{told}");
    assert!(told.contains("before a leaf of 1d"), "{told}");

    let options = Options {
        operator: given(&dir, &[&below(&root, 1, 2 * DAY), &root]).operator,
        ..options
    };
    let store = memory();
    open(&store, options.clone()).await.expect("it starts");
    let later = now() + DAY + HOUR;
    let authority = open_at(&store, options, later).await.expect("it goes on");
    assert!(
        authority
            .notes()
            .iter()
            .any(|note| note.contains("renew it")),
        "{:?}",
        authority.notes()
    );
}

#[tokio::test]
async fn a_certificate_of_another_trust_domain_is_named() {
    let dir = dir();
    let told = problem(given(&dir, &[&root_of("example.com", 3650 * DAY)])).await;
    assert!(told.starts_with("ARX-AUTHORITY-TRUST-DOMAIN:"), "{told}");
    assert!(told.contains("of the trust domain example.com"), "{told}");
}

/// A root whose to-be-signed bytes were changed before they were signed.
fn defective(from: &[u8], to: &[u8]) -> Made {
    let key = key(KeyAlgorithm::EcdsaP384);
    let validity = Validity::authority(now(), 3650 * DAY);
    let unsigned =
        profile::root(key.public_key(), &trust_domain(), validity).expect("the profile has it");
    let mut tbs = unsigned.to_be_signed().to_vec();
    replace(&mut tbs, from, to);
    Made {
        certificate: assemble(&tbs, &key),
        key,
    }
}

fn replace(bytes: &mut [u8], from: &[u8], to: &[u8]) {
    assert_eq!(from.len(), to.len(), "so that no length changes");
    let places: Vec<usize> = bytes
        .windows(from.len())
        .enumerate()
        .filter(|(_, one)| *one == from)
        .map(|(at, _)| at)
        .collect();
    assert!(!places.is_empty(), "it is there");
    for at in places {
        bytes[at..at + to.len()].copy_from_slice(to);
    }
}

/// A certificate of these bytes, signed as they are (RFC 5280, 4.1).
fn assemble(tbs: &[u8], key: &PrivateKey) -> Certificate {
    let algorithm: &[u8] = match key.public_key().algorithm() {
        KeyAlgorithm::EcdsaP384 => b"\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x03",
        _ => b"\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02",
    };
    let signature = key.sign(tbs).expect("it signs");
    let mut bits = vec![0];
    bits.extend(signature);
    let content = [tbs, algorithm, &tlv(0x03, &bits)].concat();
    Certificate::from_der(&tlv(0x30, &content)).expect("it parses")
}

fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len())
        .expect("it is short")
        .to_be_bytes();
    let head: &[u8] = match length {
        [0, low] if low < 0x80 => &[tag, low],
        [0, low] => &[tag, 0x81, low],
        [high, low] => &[tag, 0x82, high, low],
    };
    [head, content].concat()
}

#[tokio::test]
async fn what_breaks_the_profile_is_named_by_its_field() {
    for (from, to, expected) in [
        // keyUsage: keyCertSign and cRLSign -> cRLSign alone, and -> digitalSignature with them.
        (
            &b"\x03\x02\x01\x06"[..],
            &b"\x03\x02\x01\x02"[..],
            &["keyUsage: lacks keyCertSign"][..],
        ),
        // subjectKeyIdentifier becomes an extension that nobody knows.
        (
            b"\x06\x03\x55\x1d\x0e",
            b"\x06\x03\x55\x1d\x7e",
            &["subjectKeyIdentifier: is missing"],
        ),
        // basicConstraints: cA TRUE is made an unknown critical extension.
        (
            b"\x06\x03\x55\x1d\x13",
            b"\x06\x03\x55\x1d\x7e",
            &["basicConstraints: is missing", "critical and unknown"],
        ),
    ] {
        let dir = dir();
        let told = problems(given(&dir, &[&defective(from, to)])).await;
        for expected in expected {
            assert!(
                told.iter().any(|one| one.code == "ARX-AUTHORITY-PROFILE"
                    && one.message.contains(expected)
                    && one.message.contains("certificate 1")),
                "{expected} in {told:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_leaf_is_no_authority() {
    let (dir, store) = (dir(), memory());
    let authority = start(&store).await;
    let issuing = authority.install(authority.prepare(now()).await.expect("it is made"));
    let svid = authority.prepare_serving(now()).expect("it is signed");
    let root = authority.root();
    let chain = [svid.chain().leaf(), &issuing.chain()[0], &root];
    let text: String = chain.iter().map(|one| one.pem()).collect();
    let told = problems(files(&dir, &text, &svid.key().pkcs8_pem())).await;
    assert!(
        told.iter().any(|one| one
            .message
            .contains("basicConstraints: does not say CA:TRUE")),
        "{told:?}"
    );
}

#[tokio::test]
async fn files_that_cannot_be_used_are_named_with_what_they_should_be() {
    let (dir, root) = (dir(), root());
    let good_key = root.key.pkcs8_pem();
    let sec1 = "-----BEGIN EC PRIVATE KEY-----\nMDE=\n-----END EC PRIVATE KEY-----\n";
    for (certificates, key, code) in [
        ("", good_key.as_str(), "ARX-AUTHORITY-CERTIFICATE-FILE"),
        ("no PEM", &good_key, "ARX-AUTHORITY-CERTIFICATE-FILE"),
        ("\u{0}\u{1}", &good_key, "ARX-AUTHORITY-CERTIFICATE-FILE"),
        (&root.certificate.pem(), "", "ARX-AUTHORITY-KEY-FILE"),
        (&root.certificate.pem(), "no PEM", "ARX-AUTHORITY-KEY-FILE"),
        (&root.certificate.pem(), sec1, "ARX-AUTHORITY-KEY-FILE"),
        (
            &root.certificate.pem(),
            &root.certificate.pem(),
            "ARX-AUTHORITY-KEY-FILE",
        ),
    ] {
        let told = problem(files(&dir, certificates, key)).await;
        assert!(told.starts_with(code), "{told}");
        assert!(!told.contains(&good_key[30..60]), "{told}");
    }
    let mut options = given(&dir, &[&root]);
    mode(&dir.path().join("ca.key"), 0o640);
    let told = problem(options.clone()).await;
    assert!(
        told.starts_with("ARX-AUTHORITY-KEY-FILE") && told.contains("ca.key"),
        "{told}"
    );

    options.operator = Some(OperatorFiles {
        certificate: dir.path().join("absent.pem"),
        key: Some(dir.path().join("absent.key")),
        previous: None,
        every: MINUTE,
    });
    let told = problems(options).await;
    assert_eq!(told.len(), 2, "both at once: {told:?}");
    assert!(
        told.iter().all(|one| one.message.contains("absent.")),
        "{told:?}"
    );
}

#[tokio::test]
async fn another_root_after_the_first_start_is_refused_by_name_and_nothing_changes() {
    let (dir, a, b, store) = (dir(), root(), root(), memory());
    open(&store, given(&dir, &[&a])).await.expect("it starts");
    let told = problems_with(&store, given(&dir, &[&b])).await;
    assert_eq!(told[0].code, "ARX-AUTHORITY-ROOT-CHANGED");
    for text in [a.certificate.subject(), b.certificate.subject(), "rotation"] {
        assert!(told[0].message.contains(text), "{text} in {told:?}");
    }
    let stored = authorities(&store).await;
    assert_eq!(stored.roots.len(), 1);
    assert_eq!(stored.roots[0].certificate, a.certificate);
    // With another intermediate, too, what counts is its root.
    let told = problems_with(&store, given(&dir, &[&below(&b, 1, 300 * DAY), &b])).await;
    assert_eq!(told[0].code, "ARX-AUTHORITY-ROOT-CHANGED");
}

#[tokio::test]
async fn files_that_are_no_longer_configured_are_missed_and_no_root_is_made_instead() {
    let (dir, a, store) = (dir(), root(), memory());
    open(&store, given(&dir, &[&a])).await.expect("it starts");
    let told = problems_with(&store, options()).await;
    assert_eq!(told[0].code, "ARX-AUTHORITY-FILES-GONE");
    assert!(
        told[0].message.contains(a.certificate.subject()),
        "{told:?}"
    );
    assert_eq!(authorities(&store).await.roots.len(), 1);
}

#[tokio::test]
async fn an_operators_root_beside_one_made_here_waits_for_its_rotation() {
    let (dir, b, store) = (dir(), root(), memory());
    let a = start(&store).await.root();
    assert_eq!(problems_with(&store, given(&dir, &[&b])).await, []);
    let authority = open(&store, given(&dir, &[&b])).await.expect("it starts");
    assert_eq!(authority.root(), a, "nobody trusts the other one yet");
    let next = authority.successor().await.expect("it reads");
    assert_eq!(next.as_ref(), Some(&b.certificate));
    let prepared = authority.prepare_root(now()).await.expect("it has signed");
    assert_eq!(prepared, b.certificate);
}

#[tokio::test]
async fn every_defect_is_told_at_once() {
    let (dir, other) = (dir(), root());
    let foreign = root_of("example.com", HOUR);
    let options = files(
        &dir,
        &pem(&[&below(&other, 0, 300 * DAY), &foreign]),
        &other.key.pkcs8_pem(),
    );
    let mut told: Vec<_> = problems(options).await.iter().map(|one| one.code).collect();
    told.sort_unstable();
    assert_eq!(
        told,
        [
            "ARX-AUTHORITY-CHAIN",
            "ARX-AUTHORITY-KEY-MISMATCH",
            "ARX-AUTHORITY-LIFETIME",
            "ARX-AUTHORITY-PATH-LENGTH",
            "ARX-AUTHORITY-TRUST-DOMAIN",
        ]
    );
}

#[tokio::test]
async fn no_root_is_prepared_beside_the_operators() {
    let dir = dir();
    let root = root();
    let intermediate = below(&root, 1, 300 * DAY);
    for chain in [&[&root][..], &[&intermediate, &root][..]] {
        let store = memory();
        let authority = open(&store, given(&dir, chain)).await.expect("it starts");
        assert!(!authority.follow_active().await.expect("it reads"));
        let before = dump(&store).await;
        match authority.prepare_root(now()).await {
            Err(AuthorityError::Problems(problems)) => {
                assert_eq!(problems[0].code, "ARX-AUTHORITY-ROOT-OUTSIDE");
                let message = &problems[0].message;
                assert!(message.contains(root.certificate.subject()), "{message}");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(dump(&store).await, before);
    }
}

#[tokio::test]
async fn a_start_beside_broken_files_goes_on_under_what_was_kept_and_says_why() {
    let (dir, root, store) = (dir(), root(), memory());
    let options = given(&dir, &[&root]);
    let authority = open(&store, options.clone()).await.expect("it starts");
    let before = authority.install(authority.first(now()).await.expect("it is made"));
    for broken in ["", "-----BEGIN PRIVATE KEY-----\nMIGH"] {
        std::fs::write(dir.path().join("ca.key"), broken).expect("it is written");
        let authority = open(&store, options.clone()).await.expect("it goes on");
        assert_eq!(authority.root(), root.certificate);
        let after = authority.install(authority.first(now()).await.expect("it is kept"));
        assert_eq!(after.intermediate(), before.intermediate());
        let note = &authority.notes()[0];
        assert!(
            note.contains("going on under") && note.contains("ca.key"),
            "{note}"
        );
        let error = authority.prepare(now()).await.expect_err("the key is away");
        assert_eq!(error.code(), "ARX-SIGNER-UNREACHABLE");
        assert!(error.to_string().contains("ca.key"), "{error}");
    }
    let late = open_at(&store, options, now() + 8 * DAY).await;
    assert_eq!(
        codes(late),
        ["ARX-AUTHORITY-KEY-FILE"],
        "nothing is left to go on under"
    );
}

#[tokio::test]
async fn a_root_with_its_key_in_a_place_of_a_newer_version_is_refused_as_that() {
    let store = memory();
    start(&store).await;
    let state = state(&store).await;
    let stored = String::from_utf8(authorities(&store).await.encode().to_vec()).expect("JSON");
    let (before, rest) = stored.split_once("\"key\":{").expect("there is a key");
    let (_, after) = rest.split_once('}').expect("it ends");
    for (place, code) in [
        ("{\"vault\":\"x\"}", "ARX-SIGNER-NEWER"),
        (
            "{\"pkcs11\":{\"token\":\"arx\",\"label\":\"root\"}}",
            "ARX-SIGNER-NOT-CONFIGURED",
        ),
    ] {
        let text = format!("{before}\"key\":{place}{after}");
        let write = |_: Option<Loaded<Authorities>>| {
            let authorities = Authorities::decode(text.as_bytes()).expect("no damage");
            Ok::<_, StateError>(Decision::Write(authorities, ()))
        };
        let key = state.key(&Authorities::KIND);
        state.update(&key, write).await.expect("it is written");
        let error = open(&store, options()).await.expect_err("it is refused");
        assert_eq!(error.code(), code);
        let checked = check(&options(), &trust_domain(), Some(&state), now()).await;
        assert_eq!(checked.problems[0].code, code);
    }
}
