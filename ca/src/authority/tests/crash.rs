//! A process that dies, or loses the store, between any two steps of a start.

use super::*;
use crate::store::faults::{Fault, Faulty};
use crate::trust::{Evidence, Trust};

/// All of a start that writes, in its order.
pub(super) async fn whole_start(store: &Shared, name: &str) -> Result<(Authority, Trust), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let seal = Seal::with(SealingKey::from_bytes(&[7; 32]));
    let state = State::open(store.clone(), seal, &trust_domain(), "arx-ca 1.2.3")
        .await
        .map_err(|error| text(&error))?;
    let replica = state
        .replica(Some(name), now())
        .await
        .map_err(|error| text(&error))?;
    let authority = Authority::open(state.clone(), &replica, options(), now())
        .await
        .map_err(|error| text(&error))?;
    let evidence = Evidence::default();
    let trust = Trust::open(state, &replica, &authority.root(), evidence, now())
        .await
        .map_err(|error| text(&error))?;
    let prepared = authority
        .prepare(now())
        .await
        .map_err(|error| text(&error))?;
    authority.install(prepared);
    Ok((authority, trust))
}

/// What holds after every start that succeeded.
async fn is_consistent(store: &Shared, authority: &Authority, trust: &Trust) {
    let stored = authorities(store).await;
    assert_eq!(stored.roots.len(), 1, "one root was made, and stays");
    assert_eq!(
        stored.active().map(|root| &root.certificate),
        Some(&authority.root())
    );
    assert_eq!(trust.current().roots(), [authority.root()]);
    assert_eq!(
        trust.current().sequence(),
        Sequence {
            epoch: 1,
            number: 1
        }
    );

    let issuing = authority.issuing().expect("it was installed");
    // The newest of a replica that has started again; what counts is until when it may sign.
    let covers = |ends| move |one: &crate::state::Registration| one.not_after >= ends;
    assert!(stored.registrations.iter().any(covers(issuing.not_after())));
    let listed = state(store).await.intermediates().await.expect("it reads");
    assert!(
        listed
            .iter()
            .any(|one| one.certificate == issuing.chain()[0])
    );
    let chain = leaf_at(&issuing, now(), HOUR).expect("it is signed");
    verify(&chain, &trust.current(), now()).expect("it verifies");
}

#[tokio::test]
async fn a_start_that_dies_at_any_write_leaves_nothing_that_the_next_one_stumbles_over() {
    let faults = [
        Fault::Unavailable,
        Fault::Conflict,
        Fault::LostRequest,
        Fault::LostAnswer,
        Fault::Late,
    ];
    for fault in faults {
        let mut writes = 0;
        loop {
            let inner = memory();
            let faulty = Arc::new(Faulty::new(inner.clone()));
            faulty.cut_after(writes, fault);
            let outcome = whole_start(&(faulty.clone() as Shared), "ca-1").await;
            if !faulty.is_spent() {
                // There are no more writes to die at.
                outcome.expect("nothing went wrong");
                break;
            }
            assert!(outcome.is_err(), "{fault:?} at write {writes}");
            let root_then = state(&inner).await.authorities().await.expect("it reads");
            let root_then = root_then.map(|found| found.value.roots[0].certificate.clone());

            // The write that is late arrives only when the next process is at work.
            let next = Arc::new(inner.clone());
            let (healed, started) = tokio::join!(faulty.heal(), whole_start(&next, "ca-1"));
            let () = healed;
            let (authority, trust) = started.expect("the next start succeeds");
            is_consistent(&inner, &authority, &trust).await;
            if let Some(root) = root_then {
                assert_eq!(authority.root(), root, "{fault:?} at write {writes}");
            }
            writes += 1;
        }
        assert!(writes >= 7, "a start writes more than that: {writes}");
    }
}

#[tokio::test]
async fn whatever_the_store_does_starts_succeed_in_the_end_and_agree() {
    for seed in 0..150 {
        let inner = memory();
        let faulty: Shared = Arc::new(Faulty::seeded(inner.clone(), seed, 15));
        let mut started = Vec::new();
        for round in 0..200 {
            let name = format!("ca-{}", round % 3);
            if let Ok(start) = whole_start(&faulty, &name).await {
                started.push(start);
            }
            if started.len() == 3 {
                break;
            }
        }
        assert_eq!(started.len(), 3, "seed {seed}");
        for (authority, trust) in &started {
            is_consistent(&inner, authority, trust).await;
        }
    }
}

#[tokio::test]
async fn an_intermediate_whose_registration_is_not_known_to_stand_never_signs() {
    for fault in [
        Fault::Unavailable,
        Fault::LostRequest,
        Fault::LostAnswer,
        Fault::Late,
    ] {
        for writes in 0..3 {
            let inner = memory();
            let faulty = Arc::new(Faulty::new(inner.clone()));
            let authority = start(&(faulty.clone() as Shared)).await;
            faulty.cut_after(writes, fault);
            let error = authority.prepare(now()).await.expect_err("it is not known");
            assert!(error.passes(), "{error}");
            assert!(authority.issuing().is_none());

            faulty.heal().await;
            let issuing = authority.install(authority.prepare(now()).await.expect("it is well"));
            let stored = authorities(&inner).await;
            assert_eq!(stored.registrations.len(), 1);
            assert_eq!(stored.registrations[0].intermediate, issuing.intermediate());
        }
    }
}

#[tokio::test]
async fn two_processes_with_one_store_have_one_root_and_an_intermediate_each() {
    let store = memory();
    let one = whole_start(&store, "ca-1").await.expect("it starts");
    let two = whole_start(&store, "ca-2").await.expect("it starts");
    assert_eq!(one.0.root(), two.0.root());
    for (authority, trust) in [&one, &two] {
        is_consistent(&store, authority, trust).await;
    }
    let stored = authorities(&store).await;
    let replicas: Vec<_> = stored
        .registrations
        .iter()
        .map(|one| one.replica.as_str())
        .collect();
    assert_eq!(replicas, ["ca-1", "ca-2"]);
}
