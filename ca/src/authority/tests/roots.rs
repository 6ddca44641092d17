//! A root beside the active one, the exchange of the two, and restarts in between.

use super::*;
use crate::state::Pkcs8;

async fn second(store: &Shared) -> Authority {
    let state = state(store).await;
    let replica = state.replica(Some("ca-2"), now()).await.expect("it reads");
    let opened = Authority::open(state, &replica, options(), now()).await;
    opened.expect("it starts")
}

fn id(root: &Certificate) -> KeyId {
    root.subject_key_id().expect("the profile has it")
}

/// Subject and state of each root, in the order in which they came.
async fn states(store: &Shared) -> Vec<(KeyId, &'static str)> {
    let stored = authorities(store).await;
    let known = |root: &crate::state::Root| match root.state {
        RootState::Prepared => "prepared",
        RootState::Active => "active",
        RootState::Retiring => "retiring",
        RootState::Distrusted => "distrusted",
        RootState::Unknown(_) => "unknown",
    };
    let roots = stored.roots.iter();
    roots
        .map(|root| (id(&root.certificate), known(root)))
        .collect()
}

async fn generation(store: &Shared) -> Option<u64> {
    let stored = state(store).await.authorities().await.expect("it reads");
    stored.map(|stored| stored.generation)
}

async fn set_state(store: &Shared, root: KeyId, to: RootState) {
    let state = state(store).await;
    let write = |found: Option<Loaded<Authorities>>| {
        let mut authorities = found.expect("a root was made").value;
        for one in &mut authorities.roots {
            if one.key_id() == Some(root) {
                one.state = to.clone();
            }
        }
        Ok::<_, StateError>(Decision::Write(authorities, ()))
    };
    let key = state.key(&Authorities::KIND);
    state.update(&key, write).await.expect("it is written");
}

fn refused<T>(outcome: Result<T, AuthorityError>) -> &'static str {
    let error = outcome.err().expect("it is refused");
    assert!(!error.passes(), "{error}");
    error.code()
}

/// What verifies under these roots.
fn verifies(chain: &CertChain, roots: &[&Certificate]) -> bool {
    let sequence = Sequence {
        epoch: 1,
        number: 2,
    };
    let roots = roots.iter().copied().cloned().collect();
    let bundle = TrustBundle::new(trust_domain(), sequence, roots).expect("a bundle");
    verify(chain, &bundle, now()).is_ok()
}

#[tokio::test]
async fn a_prepared_root_is_made_once_and_signs_nothing_yet() {
    let store = memory();
    let authority = start(&store).await;
    let a = authority.root();
    let b = authority.prepare_root(now()).await.expect("it is made");
    assert_ne!(id(&b), id(&a));
    assert_ne!(b.subject(), a.subject(), "verifiers look by subject first");
    assert_eq!(b.not_after(), now() + options().root_ttl);
    assert_eq!(b.not_before(), now() - HOUR, "for clocks that are behind");
    assert!(profile::violations(&b, profile::Kind::Root).is_empty());
    assert_eq!(
        states(&store).await,
        [(id(&a), "active"), (id(&b), "prepared")]
    );

    let before = generation(&store).await;
    for other in [&authority, &second(&store).await, &start(&store).await] {
        assert_eq!(other.root(), a);
        let again = other.prepare_root(now() + DAY).await.expect("it is there");
        assert_eq!(again, b);
    }
    let stored = authorities(&store).await;
    assert_eq!(stored.roots.len(), 2);
    assert_eq!(stored.registrations, [], "a trial registers nothing");
    assert_eq!(generation(&store).await, before, "nothing was written");
    let issuing = authority.install(authority.prepare(now()).await.expect("it is made"));
    assert_eq!(issuing.root(), id(&a));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_that_prepare_at_once_all_have_one_root() {
    let store = memory();
    start(&store).await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let store = store.clone();
        tasks.spawn(async move { second(&store).await.prepare_root(now()).await });
    }
    let roots = tasks.join_all().await;
    let first = roots[0].as_ref().expect("it is made");
    for root in &roots {
        assert_eq!(root.as_ref().expect("it is made"), first);
    }
    assert_eq!(authorities(&store).await.roots.len(), 2);
}

#[tokio::test]
async fn the_prepared_root_has_the_configured_kind_of_key_and_lifetime() {
    let store = memory();
    start(&store).await;
    let options = Options {
        root_key: KeyAlgorithm::EcdsaP384,
        root_ttl: 30 * DAY,
        ..options()
    };
    let authority = open(&store, options).await.expect("it starts");
    let b = authority.prepare_root(now()).await.expect("it is made");
    assert_eq!(b.public_key().algorithm(), KeyAlgorithm::EcdsaP384);
    assert_eq!(b.not_after(), now() + 30 * DAY);
}

#[tokio::test]
async fn a_prepared_root_that_cannot_sign_is_told_before_anybody_depends_on_it() {
    let store = memory();
    let authority = start(&store).await;
    let b = authority.prepare_root(now()).await.expect("it is made");
    let ended = authority.prepare_root(now() + 3651 * DAY).await;
    assert_eq!(refused(ended), "ARX-AUTHORITY-ROOT-TRIAL");

    let state = state(&store).await;
    let other = PrivateKey::generate(KeyAlgorithm::EcdsaP256).expect("it is made");
    let write = |found: Option<Loaded<Authorities>>| {
        let mut authorities = found.expect("a root was made").value;
        for one in &mut authorities.roots {
            if one.key_id() == Some(id(&b)) {
                one.key = KeyPlace::Stored(Pkcs8::of(&other));
            }
        }
        Ok::<_, StateError>(Decision::Write(authorities, ()))
    };
    let key = state.key(&Authorities::KIND);
    state.update(&key, write).await.expect("it is written");
    let error = authority
        .prepare_root(now())
        .await
        .expect_err("another key");
    assert!(error.to_string().contains(b.subject()), "{error}");
}

#[tokio::test]
async fn the_roots_are_exchanged_at_once_and_back_again() {
    let store = memory();
    let (authority, other) = (start(&store).await, second(&store).await);
    let a = authority.root();
    let b = authority.prepare_root(now()).await.expect("it is made");
    let under_a = authority.install(authority.prepare(now()).await.expect("it is made"));

    for (from, to) in [(&a, &b), (&b, &a), (&a, &b)] {
        for _ in 0..2 {
            let done = authority.activate(id(from), id(to)).await;
            done.expect("it is done, and done already");
        }
        let mut expected = [(id(from), "retiring"), (id(to), "active")];
        expected.sort_by_key(|(root, _)| *root != id(&a));
        assert_eq!(states(&store).await, expected);

        for each in [&authority, &other] {
            assert_eq!(each.root(), *from, "nobody has told it");
            let registered = authorities(&store).await.registrations;
            let error = each.prepare(now()).await.expect_err("it is not active");
            assert_eq!(error.code(), "ARX-AUTHORITY-ROOT-NOT-ACTIVE");
            assert!(error.to_string().contains(from.subject()), "{error}");
            assert_eq!(authorities(&store).await.registrations, registered);

            assert!(each.follow_active().await.expect("it reads"));
            assert!(!each.follow_active().await.expect("it reads"));
            assert_eq!((each.root(), each.root_key_id()), (to.clone(), id(to)));
            assert_eq!(each.custody(), "state store");
            let prepared = each.prepare(now()).await.expect("it is made");
            assert_eq!(prepared.registered.root, id(to));
            let chain = leaf_at(&prepared.issuing, now(), HOUR).expect("it is signed");
            assert!(verifies(&chain, &[to]) && verifies(&chain, &[&a, &b]));
            assert!(!verifies(&chain, &[from]));
        }
        let issuing = authority.issuing().expect("it was installed");
        assert_eq!(issuing.intermediate(), under_a.intermediate());
        assert_eq!(start(&store).await.root(), *to, "what a restart takes");
    }
}

#[tokio::test]
async fn roots_that_are_not_where_an_exchange_begins_stay_as_they_are() {
    let store = memory();
    let authority = start(&store).await;
    let a = id(&authority.root());
    let b = id(&authority.prepare_root(now()).await.expect("it is made"));
    let nobody = PrivateKey::generate(KeyAlgorithm::EcdsaP256).expect("it is made");
    let nobody = nobody.public_key().key_id();
    for (from, to) in [(b, a), (a, a), (b, b), (a, nobody), (nobody, b)] {
        let outcome = authority.activate(from, to).await;
        assert_eq!(refused(outcome), "ARX-AUTHORITY-ROOT-STATE");
    }
    set_state(&store, b, RootState::Distrusted).await;
    let outcome = authority.activate(a, b).await;
    assert_eq!(refused(outcome), "ARX-AUTHORITY-ROOT-STATE");
    for outcome in [authority.drop_prepared(b).await, authority.retire(b).await] {
        assert_eq!(refused(outcome), "ARX-AUTHORITY-ROOT-STATE");
    }
    assert_eq!(states(&store).await, [(a, "active"), (b, "distrusted")]);
    assert!(!authority.follow_active().await.expect("it reads"));
}

#[tokio::test]
async fn a_root_whose_key_is_not_in_the_state_is_not_made_active() {
    let store = memory();
    let authority = start(&store).await;
    let a = id(&authority.root());
    let b = id(&authority.prepare_root(now()).await.expect("it is made"));
    let state = state(&store).await;
    let write = |found: Option<Loaded<Authorities>>| {
        let mut authorities = found.expect("a root was made").value;
        authorities.roots[1].key = KeyPlace::Erased;
        Ok::<_, StateError>(Decision::Write(authorities, ()))
    };
    let key = state.key(&Authorities::KIND);
    state.update(&key, write).await.expect("it is written");
    let error = authority.activate(a, b).await.expect_err("no key");
    assert_eq!(error.code(), "ARX-SIGNER-ERASED");
    assert_eq!(states(&store).await[0], (a, "active"));
}

#[tokio::test]
async fn only_a_prepared_root_is_dropped() {
    let store = memory();
    let authority = start(&store).await;
    let a = id(&authority.root());
    let b = id(&authority.prepare_root(now()).await.expect("it is made"));
    let outcome = authority.drop_prepared(a).await;
    assert_eq!(refused(outcome), "ARX-AUTHORITY-ROOT-STATE");
    for _ in 0..2 {
        authority.drop_prepared(b).await.expect("it is gone");
        assert_eq!(states(&store).await, [(a, "active")]);
    }
    let c = id(&authority.prepare_root(now()).await.expect("it is made"));
    assert_ne!(c, b, "with the root its key is gone");
    authority.activate(a, c).await.expect("it is done");
    for root in [a, c] {
        let outcome = authority.drop_prepared(root).await;
        assert_eq!(refused(outcome), "ARX-AUTHORITY-ROOT-STATE");
    }
}

#[tokio::test]
async fn a_retiring_root_goes_with_its_key_when_nobody_issues_under_it() {
    let store = memory();
    let authority = start(&store).await;
    let a = id(&authority.root());
    authority.install(authority.prepare(now()).await.expect("it is made"));
    let b = id(&authority.prepare_root(now()).await.expect("it is made"));
    for root in [a, b] {
        let outcome = authority.retire(root).await;
        assert_eq!(refused(outcome), "ARX-AUTHORITY-ROOT-STATE");
    }
    authority.activate(a, b).await.expect("it is done");
    let error = authority.retire(a).await.expect_err("it still issues");
    assert!(error.to_string().contains("still issues under"), "{error}");
    let outcome = authority.prepare_root(now()).await;
    assert_eq!(refused(outcome), "ARX-AUTHORITY-ROOT-STATE");

    authority.follow_active().await.expect("it reads");
    authority.install(authority.prepare(now()).await.expect("it is made"));
    for _ in 0..2 {
        authority.retire(a).await.expect("it is gone");
        assert_eq!(states(&store).await, [(b, "active")]);
    }
    let stored = authorities(&store).await;
    assert_eq!(stored.registrations.len(), 1);
    assert_eq!(stored.registrations[0].root, b);
    assert_eq!(start(&store).await.root_key_id(), b);
    let next = authority.prepare_root(now()).await.expect("it is made");
    assert_eq!(
        states(&store).await,
        [(b, "active"), (id(&next), "prepared")]
    );
}

#[tokio::test]
async fn whoever_meets_a_root_of_a_newer_version_issues_and_changes_none() {
    let store = memory();
    let authority = start(&store).await;
    let a = id(&authority.root());
    let b = id(&authority.prepare_root(now()).await.expect("it is made"));
    set_state(&store, b, RootState::Unknown("resting".to_owned())).await;
    let error = authority.prepare_root(now()).await.expect_err("unknown");
    assert!(error.to_string().contains("resting"), "{error}");
    for outcome in [
        authority.prepare_root(now()).await.map(drop),
        authority.activate(a, b).await,
        authority.drop_prepared(b).await,
        authority.retire(b).await,
    ] {
        assert_eq!(refused(outcome), "ARX-AUTHORITY-ROOT-NEWER");
    }
    assert_eq!(states(&store).await, [(a, "active"), (b, "unknown")]);
    assert!(!authority.follow_active().await.expect("it reads"));
    authority.prepare(now()).await.expect("it goes on");
}

#[tokio::test]
async fn a_state_without_an_active_root_is_not_followed() {
    let store = memory();
    let authority = start(&store).await;
    let a = authority.root();
    set_state(&store, id(&a), RootState::Retiring).await;
    for outcome in [
        authority.follow_active().await.map(drop),
        authority.prepare_root(now()).await.map(drop),
    ] {
        assert_eq!(refused(outcome), "ARX-AUTHORITY-NO-ACTIVE-ROOT");
    }
    assert_eq!(authority.root(), a);
}

#[tokio::test]
async fn no_prepared_key_is_in_the_store_in_plain_text_or_in_debug_output() {
    let store = memory();
    let authority = start(&store).await;
    authority.prepare_root(now()).await.expect("it is made");
    let stored = authorities(&store).await;
    let KeyPlace::Stored(key) = &stored.roots[1].key else {
        panic!("{:?}", stored.roots[1].key)
    };
    let key = key.key().expect("a key");
    let scalar = &key.pkcs8_der()[36..68];
    let plain = |entry: &Entry| entry.value.windows(32).any(|window| window == scalar);
    assert!(!dump(&store).await.iter().any(plain));
    let debug = format!("{authority:?} {stored:?}");
    assert!(!debug.contains(&crate::hex::Hex(scalar).to_string()));
}
