use arx_identity::TrustDomain;

use super::*;
use crate::store::{Memory, Segment};

crate::store_conformance!(|| async { Faulty::new(Arc::new(Memory::new())) });

fn key() -> Key {
    let td = TrustDomain::parse("example.org").expect("a trust domain");
    Key::new(&td, &Segment::fixed("kind"))
}

fn store() -> Faulty {
    Faulty::new(Arc::new(Memory::new()))
}

async fn value(store: &Faulty) -> Option<Bytes> {
    store
        .get(&key())
        .await
        .expect("it reads")
        .map(|entry| entry.value)
}

#[tokio::test]
async fn a_conflict_and_an_unavailable_store_change_nothing() {
    let store = store();
    store.next(Fault::Conflict);
    let outcome = store.compare_and_swap(&key(), None, "one".into()).await;
    assert!(
        matches!(outcome, Err(CasError::Conflict { .. })),
        "{outcome:?}"
    );
    store.next(Fault::Unavailable);
    let outcome = store.compare_and_swap(&key(), None, "one".into()).await;
    assert!(matches!(outcome, Err(CasError::Store(_))), "{outcome:?}");
    assert_eq!(value(&store).await, None);
    assert!(store.is_spent());
}

#[tokio::test]
async fn a_lost_answer_is_a_write_and_a_lost_request_is_none() {
    let store = store();
    store.next(Fault::LostRequest);
    let outcome = store.compare_and_swap(&key(), None, "one".into()).await;
    assert!(
        matches!(outcome, Err(CasError::Unknown { .. })),
        "{outcome:?}"
    );
    assert_eq!(value(&store).await, None);
    store.next(Fault::LostAnswer);
    let outcome = store.compare_and_swap(&key(), None, "two".into()).await;
    assert!(
        matches!(outcome, Err(CasError::Unknown { .. })),
        "{outcome:?}"
    );
    assert_eq!(value(&store).await, Some("two".into()));
}

#[tokio::test]
async fn a_late_write_is_done_before_the_next_call() {
    let store = store();
    store.next(Fault::Late);
    let outcome = store.compare_and_swap(&key(), None, "one".into()).await;
    assert!(
        matches!(outcome, Err(CasError::Unknown { .. })),
        "{outcome:?}"
    );
    let outcome = store.compare_and_swap(&key(), None, "two".into()).await;
    assert!(
        matches!(outcome, Err(CasError::Conflict { .. })),
        "{outcome:?}"
    );
    assert_eq!(value(&store).await, Some("one".into()));
}

#[tokio::test]
async fn a_stale_read_answers_what_was_before() {
    let store = store();
    let first = store
        .compare_and_swap(&key(), None, "one".into())
        .await
        .expect("it is new");
    store
        .compare_and_swap(&key(), Some(&first), "two".into())
        .await
        .expect("it is current");
    store.next(Fault::StaleRead);
    let stale = store
        .get(&key())
        .await
        .expect("it reads")
        .expect("it was there before");
    assert_eq!((stale.version, &stale.value[..]), (first, &b"one"[..]));
    assert_eq!(value(&store).await, Some("two".into()));
}

#[tokio::test]
async fn the_same_seed_throws_the_same_faults() {
    async fn outcomes(seed: u64) -> Vec<String> {
        let store = Faulty::seeded(Arc::new(Memory::new()), seed, 50);
        let mut outcomes = Vec::new();
        for _ in 0..40 {
            outcomes.push(format!(
                "{:?}",
                store.compare_and_swap(&key(), None, "a".into()).await
            ));
            outcomes.push(format!("{:?}", store.get(&key()).await));
        }
        outcomes
    }
    assert_eq!(outcomes(7).await, outcomes(7).await);
    assert_ne!(outcomes(7).await, outcomes(8).await);
}

#[tokio::test]
async fn after_a_cut_nothing_is_done_until_it_is_healed() {
    let store = store();
    store.cut_after(1, Fault::LostAnswer);
    let first = store
        .compare_and_swap(&key(), None, "one".into())
        .await
        .expect("one is left");
    assert!(!store.is_spent());
    let lost = store
        .compare_and_swap(&key(), Some(&first), "two".into())
        .await;
    assert!(matches!(lost, Err(CasError::Unknown { .. })), "{lost:?}");
    assert!(store.is_spent());
    assert!(store.get(&key()).await.is_err());
    assert!(
        store
            .compare_and_swap(&key(), None, "three".into())
            .await
            .is_err()
    );
    store.heal().await;
    assert_eq!(value(&store).await, Some("two".into()));
}

#[tokio::test]
async fn what_happens_in_a_gap_of_the_watch_is_told_once_when_it_is_over() {
    let store = store();
    let mut changes = store.changes(&Prefix::trust_domain(key().trust_domain()));
    store.break_watch();
    let first = store.compare_and_swap(&key(), None, "one".into()).await;
    let first = first.expect("it is new");
    store
        .compare_and_swap(&key(), Some(&first), "two".into())
        .await
        .expect("it is current");
    assert!(changes.changed().now_or_never().is_none());
    store.heal().await;
    assert_eq!(changes.changed().now_or_never(), Some(Ok(())));
    assert!(changes.changed().now_or_never().is_none());
}
