//! A restart while the root's key is out of reach, and what is kept for it.

use super::*;
use crate::authority::operator::{Found, Material};
use crate::signer::tests::{Mood, Remote};
use crate::state::SealedIntermediate;

/// A root whose key is elsewhere.
struct Elsewhere {
    root: Certificate,
    key: Arc<Remote>,
    store: Shared,
}

impl Elsewhere {
    fn new() -> Self {
        let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).expect("it is made");
        let validity = Validity::authority(now(), 3650 * DAY);
        let unsigned =
            profile::root(key.public_key(), &trust_domain(), validity).expect("the profile has it");
        let signature = key.sign(unsigned.to_be_signed()).expect("it signs");
        Self {
            root: unsigned.complete(&signature).expect("it is in order"),
            key: Arc::new(Remote::new(key)),
            store: memory(),
        }
    }

    fn found(&self) -> Found {
        Found {
            material: Some(Material {
                key: self.key.clone(),
                place: KeyPlace::Files,
                above: Vec::new(),
                root: self.root.clone(),
            }),
            ..Found::default()
        }
    }

    /// A start of the process, up to where it issues.
    async fn try_start(&self, at: SystemTime) -> Result<Authority, AuthorityError> {
        let state = state(&self.store).await;
        let replica = state.replica(Some("ca-1"), at).await?;
        let authority = Authority::with(state, &replica, options(), self.found(), at).await?;
        authority.install(authority.first(at).await?);
        Ok(authority)
    }

    async fn start(&self, at: SystemTime) -> Authority {
        self.try_start(at).await.expect("it starts")
    }

    async fn sealed(&self) -> Option<SealedIntermediate> {
        let state = state(&self.store).await;
        let replica = state.replica(Some("ca-1"), now()).await.expect("it is");
        let sealed = state.sealed_intermediate(&replica).await;
        sealed.expect("it reads")
    }
}

fn issues(authority: &Authority, at: SystemTime) -> KeyId {
    let issuing = authority.issuing().expect("it is installed");
    let chain = leaf_at(&issuing, at, HOUR).expect("it is signed");
    let peer = verify(&chain, &bundle(authority), at).expect("it verifies");
    peer.issuers[0]
}

#[tokio::test]
async fn a_restart_while_the_roots_key_is_away_goes_on_under_the_intermediate_until_it_ends() {
    let elsewhere = Elsewhere::new();
    let first = issues(&elsewhere.start(now()).await, now());
    elsewhere.key.is(Mood::Away);
    for day in 1..7 {
        let at = now() + day * DAY;
        let authority = elsewhere.start(at).await;
        assert_eq!(issues(&authority, at), first);
        let stored = authorities(&elsewhere.store).await;
        assert!(
            stored
                .registrations
                .iter()
                .any(|one| one.intermediate == first),
            "it is registered"
        );
    }
    let over = elsewhere.try_start(now() + 7 * DAY).await;
    assert_eq!(
        over.expect_err("it is over").code(),
        "ARX-SIGNER-UNREACHABLE"
    );
    assert!(elsewhere.sealed().await.is_none(), "and erased");
    elsewhere.key.is(Mood::Well);
    let back = elsewhere.start(now() + 7 * DAY).await;
    assert_ne!(issues(&back, now() + 7 * DAY), first);
}

#[tokio::test]
async fn a_restart_needs_nothing_of_a_key_that_is_elsewhere_before_a_renewal_is_due() {
    let elsewhere = Elsewhere::new();
    let first = issues(&elsewhere.start(now()).await, now());
    let again = elsewhere.start(now() + 3 * DAY).await;
    assert_eq!(issues(&again, now() + 3 * DAY), first);
    assert_eq!(again.renews_at(), Some(now() + 4 * DAY), "as before");

    let renewed = elsewhere.start(now() + 5 * DAY).await;
    let second = issues(&renewed, now() + 5 * DAY);
    assert_ne!(second, first);
    let sealed = elsewhere.sealed().await.expect("the new one");
    assert_eq!(sealed.certificate().subject_key_id(), Some(second));
}

#[tokio::test]
async fn what_is_sealed_lies_in_the_store_in_no_other_form() {
    let elsewhere = Elsewhere::new();
    elsewhere.start(now()).await;
    let sealed = elsewhere.sealed().await.expect("it is kept");
    let key = sealed.key.key().expect("a key");
    // The private scalar stands 36 octets into the PKCS #8 form of a P-256 key (RFC 5915).
    let scalar = &key.pkcs8_der()[36..68];
    for entry in dump(&elsewhere.store).await {
        assert!(!entry.value.windows(32).any(|window| window == scalar));
    }
    let debug = format!("{sealed:?}");
    assert!(debug.contains("Pkcs8(..)"), "{debug}");
}

#[tokio::test]
async fn where_the_roots_key_is_in_the_store_the_intermediate_is_in_memory_only() {
    let store = memory();
    let authority = start(&store).await;
    authority.install(authority.first(now()).await.expect("it is made"));
    let kinds = dump(&store).await;
    let sealed = kinds
        .iter()
        .filter(|entry| entry.key.kind() == &SealedIntermediate::KIND);
    assert_eq!(sealed.count(), 0);
}

#[tokio::test]
async fn what_was_kept_under_a_root_that_is_no_longer_active_is_erased() {
    let elsewhere = Elsewhere::new();
    elsewhere.start(now()).await;
    let state = state(&elsewhere.store).await;
    let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).expect("it is made");
    let (root, _) = super::root::make(&state, &options(), &Sources::default(), now())
        .await
        .expect("it is made");
    let write = |found: Option<Loaded<Authorities>>| {
        let mut authorities = found.expect("a root is there").value;
        authorities.roots[0].state = RootState::Retiring;
        authorities.roots.push(crate::state::Root {
            certificate: root.clone(),
            state: RootState::Active,
            key: KeyPlace::Stored(crate::state::Pkcs8::of(&key)),
            above: Vec::new(),
            cross: None,
            added: now(),
            extra: Map::new(),
        });
        Ok::<_, StateError>(Decision::Write(authorities, ()))
    };
    let key = state.key(&Authorities::KIND);
    state.update(&key, write).await.expect("it is written");
    let replica = state.replica(Some("ca-1"), now()).await.expect("it is");
    let kept = Kept::find(&state, &replica, now()).await.expect("it reads");
    assert!(kept.is_none());
    assert!(elsewhere.sealed().await.is_none());
}

#[tokio::test]
async fn a_process_that_died_before_it_registered_what_it_kept_registers_it_at_the_next_start() {
    let elsewhere = Elsewhere::new();
    let first = issues(&elsewhere.start(now()).await, now());
    let state = state(&elsewhere.store).await;
    let write = |found: Option<Loaded<Authorities>>| {
        let mut authorities = found.expect("a root is there").value;
        authorities.registrations.clear();
        Ok::<_, StateError>(Decision::Write(authorities, ()))
    };
    let key = state.key(&Authorities::KIND);
    state.update(&key, write).await.expect("it is written");

    elsewhere.key.is(Mood::Away);
    let authority = elsewhere.start(now()).await;
    assert_eq!(issues(&authority, now()), first);
    let stored = authorities(&elsewhere.store).await;
    assert_eq!(stored.registrations[0].intermediate, first);
}

#[tokio::test]
async fn a_damaged_intermediate_is_no_reason_not_to_make_another() {
    let elsewhere = Elsewhere::new();
    let first = issues(&elsewhere.start(now()).await, now());
    let entries = dump(&elsewhere.store).await;
    let entry = entries
        .iter()
        .find(|entry| entry.key.kind() == &SealedIntermediate::KIND)
        .expect("it is kept");
    let damaged = elsewhere
        .store
        .compare_and_swap(&entry.key, Some(&entry.version), vec![7; 40].into())
        .await;
    damaged.expect("it is written");
    assert_ne!(issues(&elsewhere.start(now()).await, now()), first);
}

#[tokio::test]
async fn a_key_that_signs_something_else_signs_no_intermediate() {
    let elsewhere = Elsewhere::new();
    elsewhere.key.is(Mood::Lying);
    let refused = elsewhere.try_start(now()).await;
    let refused = refused.expect_err("it lies");
    assert_eq!(refused.code(), "ARX-SIGNER-WRONG-SIGNATURE");
    assert!(refused.passes());
    assert!(authorities(&elsewhere.store).await.registrations.is_empty());
}
