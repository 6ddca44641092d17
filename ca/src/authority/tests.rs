mod crash;
mod cross;
mod files;
mod keep;
mod operator;
mod outside;
mod roots;
mod sealed;
mod steps;
mod times;

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use arx_identity::crypto::SealingKey;
use arx_identity::{Sequence, TrustBundle, VerifyError, verify};

use super::*;
use crate::seal::Seal;
use crate::state::KeyPlace;
use crate::store::{Entry, Memory, Prefix, Shared, list_all};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

fn trust_domain() -> TrustDomain {
    TrustDomain::parse("example.org").expect("a trust domain")
}

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_780_000_000)
}

fn options() -> Options {
    Options {
        root_key: KeyAlgorithm::EcdsaP256,
        root_ttl: 3650 * DAY,
        root_renewal: RootRenewal::Auto(None),
        intermediate_ttl: 7 * DAY,
        serving_ttl: DAY,
        serving_names: Vec::new(),
        operator: None,
        outside: crate::signer::options::Outside::default(),
        certifier: None,
        longest_leaf: DAY,
    }
}

fn memory() -> Shared {
    Arc::new(Memory::new())
}

async fn state(store: &Shared) -> State {
    let seal = Seal::with(SealingKey::from_bytes(&[7; 32]));
    State::open(store.clone(), seal, &trust_domain(), "arx-ca 1.2.3")
        .await
        .expect("it opens")
}

async fn open_at(
    store: &Shared,
    options: Options,
    now: SystemTime,
) -> Result<Authority, AuthorityError> {
    let state = state(store).await;
    let replica = state.replica(Some("ca-1"), now).await?;
    Authority::open(state, &replica, options, now).await
}

async fn open(store: &Shared, options: Options) -> Result<Authority, AuthorityError> {
    open_at(store, options, now()).await
}

async fn start(store: &Shared) -> Authority {
    open(store, options()).await.expect("it starts")
}

async fn dump(store: &Shared) -> Vec<Entry> {
    list_all(&**store, &Prefix::trust_domain(&trust_domain()))
        .await
        .expect("it reads")
}

async fn authorities(store: &Shared) -> Authorities {
    let authorities = state(store).await.authorities().await.expect("it reads");
    authorities.expect("a root was made").value
}

fn bundle(authority: &Authority) -> TrustBundle {
    let sequence = Sequence {
        epoch: 1,
        number: 1,
    };
    TrustBundle::new(trust_domain(), sequence, vec![authority.root()])
        .expect("a root makes a bundle")
}

fn leaf_at(issuing: &Issuing, now: SystemTime, ttl: Duration) -> Result<CertChain, SignError> {
    let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).expect("it is made");
    let id = SpiffeId::new(&trust_domain(), "/ns/a/sa/b").expect("an id");
    let leaf = sign_leaf(
        issuing,
        &Leaf {
            public_key: key.public_key(),
            id: &id,
            dns_names: &[],
            validity: Validity::leaf(issuing.issuer(), now, ttl),
            revocable: false,
        },
    )?;
    let mut chain = vec![leaf];
    chain.extend(issuing.chain().iter().cloned());
    Ok(CertChain::new(chain).expect("each signs the one before it"))
}

/// The codes of what the operator must change.
fn codes(outcome: Result<Authority, AuthorityError>) -> Vec<&'static str> {
    match outcome {
        Err(AuthorityError::Problems(problems)) => {
            problems.iter().map(|problem| problem.code).collect()
        }
        Err(error) => panic!("{error}"),
        Ok(_) => Vec::new(),
    }
}

#[tokio::test]
async fn the_first_start_makes_a_root_of_each_kind_that_later_ones_find() {
    for root_key in [
        KeyAlgorithm::EcdsaP256,
        KeyAlgorithm::EcdsaP384,
        #[cfg(feature = "aws-lc-rs")]
        KeyAlgorithm::Rsa(3072),
        #[cfg(feature = "aws-lc-rs")]
        KeyAlgorithm::Rsa(4096),
    ] {
        let store = memory();
        let options = Options {
            root_key,
            ..options()
        };
        let first = open(&store, options.clone()).await.expect("it starts");
        let root = &first.root();
        assert_eq!(root.public_key().algorithm(), root_key);
        assert_eq!(root.not_after(), now() + options.root_ttl);
        assert!(profile::violations(root, profile::Kind::Root).is_empty());

        let second = open(&store, options).await.expect("it starts");
        assert_eq!(&second.root(), root);
        assert_eq!(second.root_key_id(), first.root_key_id());
        let issuing = second.install(second.prepare(now()).await.expect("it is made"));
        let chain = leaf_at(&issuing, now(), HOUR).expect("it is signed");
        let peer = verify(&chain, &bundle(&first), now()).expect("it verifies");
        assert_eq!(peer.issuers, [issuing.intermediate(), first.root_key_id()]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_first_starts_at_once_all_have_one_root() {
    let store = memory();
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..8 {
        let store = store.clone();
        tasks.spawn(async move {
            let state = state(&store).await;
            let replica = state.replica(Some(&format!("ca-{n}")), now()).await?;
            let authority = Authority::open(state, &replica, options(), now()).await?;
            authority.prepare(now()).await?;
            Ok::<_, AuthorityError>(authority.root())
        });
    }
    let roots = tasks.join_all().await;
    let first = roots[0].as_ref().expect("it starts");
    for root in &roots {
        assert_eq!(root.as_ref().expect("it starts"), first);
    }
    let stored = authorities(&store).await;
    assert_eq!(stored.roots.len(), 1);
    assert_eq!(stored.registrations.len(), 8);
}

#[tokio::test]
async fn an_intermediate_is_registered_before_it_signs() {
    let store = memory();
    let authority = start(&store).await;
    let mut watching = authority.watch();
    let prepared = authority.prepare(now()).await.expect("it is made");
    assert!(authority.issuing().is_none(), "it is not installed yet");

    let stored = authorities(&store).await;
    let registration = &stored.registrations[0];
    let certificate = &prepared.registered.certificate;
    assert_eq!(registration.replica, "ca-1");
    assert_eq!(registration.root, authority.root_key_id());
    assert_eq!(
        Some(registration.intermediate),
        certificate.subject_key_id()
    );
    assert_eq!(registration.not_after, certificate.not_after());
    let listed = state(&store).await.intermediates().await.expect("it reads");
    assert_eq!(listed, std::slice::from_ref(&prepared.registered));

    let issuing = authority.install(prepared);
    watching.changed().await.expect("it is open");
    let seen = authority.issuing().expect("it is installed");
    assert_eq!(seen.intermediate(), issuing.intermediate());
    assert_eq!(seen.not_after(), now() + 7 * DAY);
    assert_eq!(seen.root(), authority.root_key_id());
    assert_eq!(authority.renews_at(), Some(now() + 4 * DAY));
    assert_eq!(authority.custody(), "state store");
}

#[tokio::test]
async fn an_intermediate_keeps_the_profile_and_has_no_authority_below_it() {
    let authority = start(&memory()).await;
    let prepared = authority.prepare(now()).await.expect("it is made");
    let certificate = &prepared.registered.certificate;
    assert!(profile::violations(certificate, profile::Kind::Intermediate).is_empty());
    assert!(certificate.is_signed_by(&authority.root()));
    assert_eq!(
        certificate.not_before(),
        now() - HOUR,
        "for clocks that are behind"
    );
    assert!(
        certificate.subject().contains("ca-1"),
        "{}",
        certificate.subject()
    );
    let below = profile::intermediate(
        prepared.issuing.issuer(),
        certificate.public_key(),
        &trust_domain(),
        "below",
        Validity::authority(now(), HOUR),
        0,
    );
    assert_eq!(below.err(), Some(profile::ProfileError::PathLength));
}

#[tokio::test]
async fn nothing_is_registered_under_a_root_that_is_not_active() {
    for other in [
        RootState::Prepared,
        RootState::Retiring,
        RootState::Distrusted,
    ] {
        let store = memory();
        let authority = start(&store).await;
        let state = state(&store).await;
        let write = |found: Option<Loaded<Authorities>>| {
            let mut authorities = found.expect("a root was made").value;
            authorities.roots[0].state = other.clone();
            Ok::<_, StateError>(Decision::Write(authorities, ()))
        };
        state
            .update(&state.key(&Authorities::KIND), write)
            .await
            .expect("it is written");

        let error = authority
            .prepare(now())
            .await
            .expect_err("it is not active");
        assert_eq!(error.code(), "ARX-AUTHORITY-ROOT-NOT-ACTIVE");
        assert!(error.to_string().contains(other.as_str()), "{error}");
        assert_eq!(authorities(&store).await.registrations, []);
        assert!(authority.issuing().is_none());
        assert_eq!(
            codes(open(&store, options()).await),
            ["ARX-AUTHORITY-NO-ACTIVE-ROOT"]
        );
        assert_eq!(
            authorities(&store).await.roots.len(),
            1,
            "none was made in its place"
        );
    }
}

#[tokio::test]
async fn many_restarts_leave_one_registration_and_nothing_that_ended_long_ago() {
    let store = memory();
    for n in 0..20 {
        let at = now() + n * DAY;
        let authority = open_at(&store, options(), at).await.expect("it starts");
        authority.prepare(at).await.expect("it is made");
    }
    let stored = authorities(&store).await;
    assert_eq!(stored.registrations.len(), 1);
    assert_eq!(stored.registrations[0].not_after, now() + 26 * DAY);
    // Those that have not ended, and those that have within the last day.
    let listed = state(&store).await.intermediates().await.expect("it reads");
    assert_eq!(listed.len(), 9);
}

#[tokio::test]
async fn a_snapshot_goes_on_signing_while_a_newer_one_has_taken_its_place() {
    let authority = start(&memory()).await;
    let old = authority.install(authority.prepare(now()).await.expect("it is made"));
    let new = authority.install(authority.prepare(now()).await.expect("it is made"));
    assert_ne!(old.intermediate(), new.intermediate());
    for issuing in [&old, &new] {
        let chain = leaf_at(issuing, now(), HOUR).expect("it is signed");
        let peer = verify(&chain, &bundle(&authority), now()).expect("it verifies");
        assert_eq!(peer.issuers[0], issuing.intermediate());
    }
}

#[tokio::test]
async fn no_leaf_outlives_its_issuer_and_an_ended_one_signs_nothing() {
    let authority = start(&memory()).await;
    let issuing = authority.install(authority.prepare(now()).await.expect("it is made"));
    let chain = leaf_at(&issuing, now() + 7 * DAY - HOUR, DAY).expect("it is signed");
    assert_eq!(chain.leaf().not_after(), issuing.not_after());
    let late = leaf_at(&issuing, now() + 8 * DAY, DAY).expect_err("it has ended");
    assert_eq!(late.code(), "ARX-SIGN-VALIDITY");
}

#[tokio::test]
async fn what_policy_should_have_refused_is_refused_with_its_own_code() {
    let authority = start(&memory()).await;
    let issuing = authority.install(authority.prepare(now()).await.expect("it is made"));
    let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).expect("it is made");
    let no_path = SpiffeId::new(&trust_domain(), "").expect("an id");
    let id = SpiffeId::new(&trust_domain(), "/a").expect("an id");
    let dns = ["not a name".to_owned()];
    for (id, dns_names, code) in [
        (&no_path, &[][..], "ARX-SIGN-NO-PATH"),
        (&id, &dns[..], "ARX-SIGN-DNS-NAME"),
    ] {
        let validity = Validity::leaf(issuing.issuer(), now(), HOUR);
        let leaf = Leaf {
            public_key: key.public_key(),
            id,
            dns_names,
            validity,
            revocable: false,
        };
        assert_eq!(
            sign_leaf(&issuing, &leaf)
                .expect_err("it is refused")
                .code(),
            code
        );
    }
}

#[tokio::test]
async fn the_serving_certificate_is_of_the_authority_and_from_its_own_intermediate() {
    let authority = start(&memory()).await;
    let error = authority
        .prepare_serving(now())
        .expect_err("nothing signs yet");
    assert_eq!(error.code(), "ARX-AUTHORITY-NOT-READY");

    let issuing = authority.install(authority.prepare(now()).await.expect("it is made"));
    let svid = authority.prepare_serving(now()).expect("it is signed");
    assert_eq!(svid.spiffe_id().as_str(), "spiffe://example.org/arx/ca");
    assert_eq!(svid.not_after(), now() + DAY);
    let peer = verify(svid.chain(), &bundle(&authority), now()).expect("it verifies");
    assert_eq!(
        peer.issuers,
        [issuing.intermediate(), authority.root_key_id()]
    );
    assert!(authority.serving().is_none(), "it is not installed yet");
    authority.install_serving(svid.clone());
    assert_eq!(
        authority.serving().map(|svid| svid.serial().clone()),
        Some(svid.serial().clone())
    );
    let another = authority.prepare_serving(now()).expect("it is signed");
    assert_ne!(
        another.key().public_key(),
        svid.key().public_key(),
        "a new key each time"
    );
}

#[tokio::test]
async fn another_trust_domain_does_not_believe_it() {
    let (ours, theirs) = (start(&memory()).await, start(&memory()).await);
    let issuing = ours.install(ours.prepare(now()).await.expect("it is made"));
    let chain = leaf_at(&issuing, now(), HOUR).expect("it is signed");
    let refused = verify(&chain, &bundle(&theirs), now()).expect_err("another root");
    assert!(
        matches!(refused, VerifyError::UnknownIssuer { .. }),
        "{refused}"
    );
}

#[tokio::test]
async fn the_roots_key_is_sealed_in_the_store_and_in_no_debug_output() {
    let store = memory();
    let authority = start(&store).await;
    authority.install(authority.prepare(now()).await.expect("it is made"));
    let stored = authorities(&store).await;
    let KeyPlace::Stored(key) = &stored.roots[0].key else {
        panic!("{:?}", stored.roots[0].key)
    };
    let key = key.key().expect("a key");
    // The private scalar stands 36 octets into the PKCS #8 form of a P-256 key (RFC 5915).
    let scalar = &key.pkcs8_der()[36..68];
    for entry in dump(&store).await {
        assert!(
            !entry.value.windows(32).any(|window| window == scalar),
            "{}",
            entry.key
        );
    }
    let debug = format!("{authority:?} {stored:?}");
    assert!(!debug.contains(&crate::hex::Hex(scalar).to_string()));
    assert!(!debug.contains(&format!("{:?}", &scalar[..8]).replace(['[', ']'], "")));
}

#[tokio::test]
async fn an_expired_root_and_one_of_the_future_are_refused_by_name() {
    let store = memory();
    let root = start(&store).await.root().subject().to_owned();
    for (at, code) in [
        (now() + 3651 * DAY, "ARX-AUTHORITY-EXPIRED"),
        (now() - 2 * HOUR, "ARX-AUTHORITY-NOT-YET-VALID"),
    ] {
        match open_at(&store, options(), at).await {
            Err(AuthorityError::Problems(problems)) => {
                assert_eq!(problems[0].code, code);
                let message = &problems[0].message;
                assert!(
                    message.contains(&root) && message.contains("clock"),
                    "{message}"
                );
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn near_the_roots_end_intermediates_are_cut_short_and_the_operator_is_told() {
    let store = memory();
    start(&store).await;
    let at = now() + 3648 * DAY;
    let authority = open_at(&store, options(), at).await.expect("it goes on");
    assert!(authority.notes()[0].contains("intermediates get less than their 7d"));
    let issuing = authority.install(authority.prepare(at).await.expect("it is made"));
    assert_eq!(issuing.not_after(), authority.root().not_after());
    assert!(
        !renewal_due(issuing.term(), at + DAY, DAY),
        "a new one would not live longer"
    );
}

#[tokio::test]
async fn a_check_tells_what_a_start_would_and_writes_nothing() {
    let store = memory();
    let first = check(&options(), &trust_domain(), None, now()).await;
    assert_eq!(first.problems, []);
    assert!(
        first.notes[0].contains("will make a root (ecdsa-p256)"),
        "{:?}",
        first.notes
    );

    start(&store).await;
    let before = dump(&store).await;
    let state = state(&store).await;
    let ok = check(&options(), &trust_domain(), Some(&state), now()).await;
    assert_eq!((ok.problems, ok.notes), (Vec::new(), Vec::new()));

    let changed = Options {
        root_key: KeyAlgorithm::EcdsaP384,
        ..options()
    };
    let noted = check(&changed, &trust_domain(), Some(&state), now()).await;
    assert_eq!(noted.problems, []);
    assert!(
        noted.notes[0].contains("counts for the next one"),
        "{:?}",
        noted.notes
    );

    let late = check(
        &options(),
        &trust_domain(),
        Some(&state),
        now() + 3651 * DAY,
    )
    .await;
    assert_eq!(late.problems[0].code, "ARX-AUTHORITY-EXPIRED");
    assert_eq!(dump(&store).await, before);
}
