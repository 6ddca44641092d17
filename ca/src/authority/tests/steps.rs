//! A rotation's steps on a store that fails: each is asked for again until it is done, by the
//! same process or by the next one.

use super::crash::whole_start;
use super::*;
use crate::store::faults::{Fault, Faulty};

const STEPS: usize = 7;

fn id(root: &Certificate) -> KeyId {
    root.subject_key_id().expect("the profile has it")
}

/// The step with this number: one way, back, one way again, and the old one out.
async fn step(
    authority: &Authority,
    number: usize,
    roots: &mut Vec<KeyId>,
) -> Result<(), AuthorityError> {
    match number {
        0 => {
            let b = id(&authority.prepare_root(now()).await?);
            if !roots.contains(&b) {
                roots.push(b);
            }
            Ok(())
        }
        1 | 3 => authority.activate(roots[0], roots[1]).await,
        2 => authority.activate(roots[1], roots[0]).await,
        4 => authority.follow_active().await.map(drop),
        5 => {
            authority.install(authority.prepare(now()).await?);
            Ok(())
        }
        _ => authority.retire(roots[0]).await,
    }
}

/// A start on a store that may not even open.
async fn try_start(store: &Shared) -> Option<Authority> {
    let seal = Seal::with(SealingKey::from_bytes(&[7; 32]));
    let opened = State::open(store.clone(), seal, &trust_domain(), "arx-ca 1.2.3").await;
    let state = opened.ok()?;
    let replica = state.replica(Some("ca-1"), now()).await.ok()?;
    Authority::open(state, &replica, options(), now())
        .await
        .ok()
}

/// What holds at every moment.
async fn is_sound(inner: &Shared, roots: &[KeyId], done: usize) {
    let stored = authorities(inner).await;
    let active = stored.active().expect("one root is always active");
    assert!(matches!(active.key, KeyPlace::Stored(_)));
    assert!(stored.roots.len() <= 2, "no root is made twice");
    if done == STEPS {
        assert_eq!(active.key_id(), Some(roots[1]));
        assert_eq!(stored.roots.len(), 1, "the old one is out");
    }
}

#[tokio::test]
async fn a_step_that_dies_at_any_write_is_done_by_the_next_process() {
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
            let mut authority = start(&(faulty.clone() as Shared)).await;
            let mut roots = vec![authority.root_key_id()];
            faulty.cut_after(writes, fault);
            let mut died = false;
            let mut done = 0;
            while done < STEPS {
                let outcome = step(&authority, done, &mut roots).await;
                is_sound(&inner, &roots, done).await;
                match outcome {
                    Ok(()) => done += 1,
                    Err(error) => {
                        assert!(error.passes(), "{fault:?} at write {writes}: {error}");
                        assert!(!died, "{fault:?} at write {writes}: {error}");
                        died = true;
                        faulty.heal().await;
                        authority = start(&inner).await;
                    }
                }
            }
            is_sound(&inner, &roots, done).await;
            if !died && !faulty.is_spent() {
                // There are no more writes to die at.
                break;
            }
            writes += 1;
        }
        assert!(writes >= 6, "the steps write more than that: {writes}");
    }
}

#[tokio::test]
async fn whatever_the_store_does_all_steps_succeed_in_the_end() {
    for seed in 0..100 {
        let inner = memory();
        start(&inner).await;
        let faulty: Shared = Arc::new(Faulty::seeded(inner.clone(), seed, 15));
        let mut roots = Vec::new();
        let (mut done, mut authority) = (0, None);
        for round in 0..1000 {
            // Now and then the process is another.
            if round % 7 == 6 {
                authority = None;
            }
            let Some(current) = &authority else {
                authority = try_start(&faulty).await;
                if let (Some(first), true) = (&authority, roots.is_empty()) {
                    roots.push(first.root_key_id());
                }
                continue;
            };
            if step(current, done, &mut roots).await.is_ok() {
                done += 1;
            }
            is_sound(&inner, &roots, done).await;
            if done == STEPS {
                break;
            }
        }
        assert_eq!(done, STEPS, "seed {seed}");
    }
}

#[tokio::test]
async fn a_process_starts_in_every_phase_and_issues_under_the_active_root() {
    /// What is issued now verifies by what is handed out now.
    async fn restarts(store: &Shared, root: KeyId) -> (Authority, crate::trust::Trust) {
        let (authority, trust) = whole_start(store, "ca-1").await.expect("it starts");
        assert_eq!(authority.root_key_id(), root);
        let issuing = authority.issuing().expect("it was installed");
        let chain = leaf_at(&issuing, now(), HOUR).expect("it is signed");
        let peer = verify(&chain, &trust.current(), now()).expect("it verifies");
        assert_eq!(peer.issuers[1], root);
        let checked = check(
            &options(),
            &trust_domain(),
            Some(&state(store).await),
            now(),
        )
        .await;
        assert_eq!(checked.problems, []);
        (authority, trust)
    }
    let store = memory();
    let (authority, trust) = whole_start(&store, "ca-1").await.expect("it starts");
    let a = authority.root();
    let b = authority.prepare_root(now()).await.expect("it is made");
    restarts(&store, id(&a)).await;
    let after = trust.current().sequence();
    let both = vec![a.clone(), b.clone()];
    let published = trust.publish(after, both, now()).await;
    let after = published.expect("it is published").sequence();
    restarts(&store, id(&a)).await;

    for (from, to) in [(&a, &b), (&b, &a), (&a, &b)] {
        let outcome = authority.activate(id(from), id(to)).await;
        outcome.expect("it is done");
        restarts(&store, id(to)).await;
    }
    let published = trust.publish(after, vec![b.clone()], now()).await;
    published.expect("it is published");
    let (authority, _) = restarts(&store, id(&b)).await;
    authority.retire(id(&a)).await.expect("it is gone");
    restarts(&store, id(&b)).await;
}
