use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arx_identity::crypto::SealingKey;
use arx_identity::profile::{self, Validity};
use arx_identity::{KeyAlgorithm, PrivateKey, TrustDomain};

use super::*;
use crate::seal::Seal;
use crate::store::faults::{Fault, Faulty};
use crate::store::{Memory, Prefix, Shared, list_all};

fn trust_domain() -> TrustDomain {
    TrustDomain::parse("example.org").expect("a trust domain")
}

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_nanos(1_780_000_000_123_456_789)
}

fn at(epoch: u64, number: u64) -> Sequence {
    Sequence { epoch, number }
}

fn root() -> Certificate {
    let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).expect("it is made");
    let validity = Validity::authority(now(), Duration::from_secs(86_400));
    let unsigned =
        profile::root(key.public_key(), &trust_domain(), validity).expect("the profile has it");
    let signature = key.sign(unsigned.to_be_signed()).expect("it signs");
    unsigned.complete(&signature).expect("it keeps the profile")
}

fn memory() -> Shared {
    Arc::new(Memory::new())
}

fn ledger(highest: Sequence, accept_loss: bool) -> Evidence {
    Evidence {
        is_restored: false,
        highest: Some(highest),
        accept_loss,
    }
}

async fn state(store: &Shared) -> State {
    let seal = Seal::with(SealingKey::from_bytes(&[7; 32]));
    State::open(store.clone(), seal, &trust_domain(), "arx-ca 1.2.3")
        .await
        .expect("it opens")
}

async fn open(
    store: &Shared,
    name: &str,
    root: &Certificate,
    evidence: Evidence,
) -> Result<Trust, TrustError> {
    let state = state(store).await;
    let replica = state.replica(Some(name), now()).await?;
    Trust::examine(&state, Some(&replica), evidence).await?;
    Trust::open(state, &replica, root, evidence, now()).await
}

async fn start(store: &Shared, root: &Certificate) -> Trust {
    open(store, "ca-1", root, Evidence::default())
        .await
        .expect("it starts")
}

async fn remove(store: &Shared, sequence: Sequence) {
    let key = state(store)
        .await
        .key(&Published::KIND)
        .named(Published::name(sequence));
    let entry = store
        .get(&key)
        .await
        .expect("it reads")
        .expect("it is there");
    store
        .delete(&key, &entry.version)
        .await
        .expect("it is removed");
}

#[tokio::test]
async fn the_first_start_publishes_the_root_and_the_next_one_finds_it() {
    let (store, a) = (memory(), root());
    let first = start(&store, &a).await.current();
    assert_eq!(first.sequence(), at(1, 1));
    assert_eq!(first.roots(), std::slice::from_ref(&a));
    let trust = start(&store, &a).await;
    assert_eq!(trust.current().sequence(), at(1, 1));
    assert_eq!(trust.current().sha256(), first.sha256());
    assert_eq!(trust.history().await.expect("it reads").len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_first_starts_at_once_all_hand_out_the_same() {
    let (store, a) = (memory(), root());
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..8 {
        let (store, a) = (store.clone(), a.clone());
        tasks.spawn(async move {
            open(&store, &format!("ca-{n}"), &a, Evidence::default())
                .await
                .map(|t| t.current())
        });
    }
    for bundle in tasks.join_all().await {
        assert_eq!(bundle.expect("it starts").sequence(), at(1, 1));
    }
    assert_eq!(
        start(&store, &a)
            .await
            .history()
            .await
            .expect("it reads")
            .len(),
        1
    );
}

#[tokio::test]
async fn what_is_published_is_stored_and_promised_before_it_is_handed_out() {
    let (inner, a, b) = (memory(), root(), root());
    start(&inner, &a).await;
    for fault in [
        Fault::Unavailable,
        Fault::LostRequest,
        Fault::LostAnswer,
        Fault::Conflict,
    ] {
        for writes in 0..2 {
            let faulty = Arc::new(Faulty::new(inner.clone()));
            let trust = start(&(faulty.clone() as Shared), &a).await;
            let before = trust.current();
            faulty.cut_after(writes, fault);
            let published = trust
                .publish(before.sequence(), vec![a.clone(), b.clone()], now())
                .await;
            assert!(published.is_err(), "{fault:?} after {writes}");
            assert_eq!(
                trust.current().sequence(),
                before.sequence(),
                "{fault:?} after {writes}"
            );
            // The next process finds either, whole.
            let next = start(&inner, &a).await.current();
            assert!(next.sequence() >= before.sequence());
            assert!(next.roots().contains(&a));
        }
    }
}

#[tokio::test]
async fn a_new_sequence_reaches_whoever_watches_and_other_processes() {
    let (store, a, b) = (memory(), root(), root());
    let (one, other) = (start(&store, &a).await, start(&store, &a).await);
    let mut watching = one.watch();
    let published = one
        .publish(at(1, 1), vec![a.clone(), b.clone()], now())
        .await
        .expect("it is published");
    assert_eq!(published.sequence(), at(1, 2));
    watching.changed().await.expect("it is open");
    assert_eq!(watching.borrow().roots(), [a, b]);

    let (mut following, other) = (other.watch(), Arc::new(other));
    let mut tasks = tokio::task::JoinSet::new();
    let follower = other.clone();
    tasks.spawn(async move { follower.follow().await });
    following.changed().await.expect("it is open");
    assert_eq!(other.current().sha256(), published.sha256());
    assert_eq!(other.current().sequence(), at(1, 2));
}

#[tokio::test(start_paused = true)]
async fn a_follower_comes_back_to_a_store_that_was_away() {
    let (inner, a, b) = (memory(), root(), root());
    let faulty = Arc::new(Faulty::new(inner.clone()));
    let follower = start(&(faulty.clone() as Shared), &a).await;
    start(&inner, &a)
        .await
        .publish(at(1, 1), vec![a, b], now())
        .await
        .expect("it is published");
    faulty.next(Fault::Unavailable);
    let mut following = follower.watch();
    tokio::select! {
        never = follower.follow() => match never {},
        changed = following.changed() => changed.expect("it is open"),
    }
    assert_eq!(follower.current().sequence(), at(1, 2));
    assert!(faulty.is_spent());
}

#[tokio::test]
async fn whoever_decided_on_what_is_no_longer_the_head_publishes_nothing() {
    let (store, a, b) = (memory(), root(), root());
    let (awake, woken) = (start(&store, &a).await, start(&store, &a).await);
    awake
        .publish(at(1, 1), vec![a.clone(), b.clone()], now())
        .await
        .expect("it is published");
    awake
        .publish(at(1, 2), vec![b.clone()], now())
        .await
        .expect("it is published");

    let error = woken
        .publish(at(1, 1), vec![a.clone()], now())
        .await
        .expect_err("it is late");
    assert!(
        matches!(error, TrustError::Moved { head, .. } if head == at(1, 3)),
        "{error}"
    );
    assert_eq!(
        woken.refresh().await.expect("it reads").sequence(),
        at(1, 3)
    );
    assert_eq!(awake.history().await.expect("it reads").len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_who_follow_one_sequence_one_succeeds() {
    let (store, a) = (memory(), root());
    start(&store, &a).await;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..8 {
        let (store, a) = (store.clone(), a.clone());
        tasks.spawn(async move {
            let trust = open(&store, &format!("ca-{n}"), &a, Evidence::default()).await?;
            trust.publish(at(1, 1), vec![a, root()], now()).await
        });
    }
    let (mut published, mut moved) = (0, 0);
    for outcome in tasks.join_all().await {
        match outcome {
            Ok(_) => published += 1,
            Err(TrustError::Moved { .. }) => moved += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!((published, moved), (1, 7));
}

#[tokio::test]
async fn a_bundle_is_never_empty_or_of_another_trust_domain() {
    let (store, a) = (memory(), root());
    let trust = start(&store, &a).await;
    let error = trust
        .publish(at(1, 1), Vec::new(), now())
        .await
        .expect_err("it is empty");
    assert_eq!(error.code(), "ARX-TRUST-BUNDLE");
    assert_eq!(trust.current().sequence(), at(1, 1));
    assert_eq!(trust.history().await.expect("it reads").len(), 1);
}

#[tokio::test]
async fn a_removed_head_is_noticed_at_the_next_start() {
    let (store, a, b) = (memory(), root(), root());
    let trust = start(&store, &a).await;
    trust
        .publish(at(1, 1), vec![a.clone(), b], now())
        .await
        .expect("it is published");
    remove(&store, at(1, 2)).await;
    let error = open(&store, "ca-1", &a, Evidence::default())
        .await
        .expect_err("it has seen more");
    assert_eq!(error.code(), "ARX-TRUST-BEHIND");
    let message = error.to_string();
    assert!(
        message.contains("ends at trust 1.1, and 1.2 was published"),
        "{message}"
    );
    assert!(message.contains("--accept-loss"), "{message}");
}

#[tokio::test]
async fn a_removed_link_is_noticed() {
    let (store, a, b) = (memory(), root(), root());
    let trust = start(&store, &a).await;
    trust
        .publish(at(1, 1), vec![a.clone(), b], now())
        .await
        .expect("it is published");
    trust
        .publish(at(1, 2), vec![a.clone()], now())
        .await
        .expect("it is published");
    remove(&store, at(1, 2)).await;
    let error = open(&store, "ca-1", &a, Evidence::default())
        .await
        .expect_err("a gap");
    assert_eq!(error.code(), "ARX-STATE-CONTRADICTION");
}

#[tokio::test]
async fn a_restored_backup_is_refused_until_the_loss_is_accepted_and_then_begins_an_epoch() {
    let (store, a) = (memory(), root());
    start(&store, &a).await;
    let before = list_all(&*store, &Prefix::trust_domain(&trust_domain())).await;
    let error = open(&store, "ca-1", &a, ledger(at(1, 5), false))
        .await
        .expect_err("the ledger is ahead");
    assert!(
        matches!(error, TrustError::Behind { stored, known } if (stored, known) == (at(1, 1), at(1, 5))),
        "{error}"
    );
    let after = list_all(&*store, &Prefix::trust_domain(&trust_domain())).await;
    assert_eq!(before.map(|list| list.len()), after.map(|list| list.len()));

    let trust = open(&store, "ca-1", &a, ledger(at(1, 5), true))
        .await
        .expect("it is accepted");
    assert_eq!(trust.current().sequence(), at(2, 1));
    assert_eq!(trust.current().roots(), std::slice::from_ref(&a));
    // Once is enough, and asking again does not begin yet another.
    let trust = open(&store, "ca-1", &a, ledger(at(1, 5), true))
        .await
        .expect("it goes on");
    assert_eq!(trust.current().sequence(), at(2, 1));
}

#[tokio::test]
async fn a_deleted_store_beside_a_ledger_is_refused_until_the_loss_is_accepted() {
    let (store, b) = (memory(), root());
    let error = open(&store, "ca-1", &b, ledger(at(3, 2), false))
        .await
        .expect_err("the ledger knows");
    assert_eq!(error.code(), "ARX-TRUST-LOST");
    assert!(error.to_string().contains("up to 3.2"), "{error}");
    assert_eq!(state(&store).await.published().await, Ok(Vec::new()));

    let trust = open(&store, "ca-1", &b, ledger(at(3, 2), true))
        .await
        .expect("it is accepted");
    assert_eq!(trust.current().sequence(), at(4, 1));
}

#[tokio::test]
async fn a_ledger_that_is_not_ahead_changes_nothing() {
    let (store, a) = (memory(), root());
    start(&store, &a).await;
    for accept_loss in [false, true] {
        let trust = open(&store, "ca-1", &a, ledger(at(1, 1), accept_loss)).await;
        assert_eq!(trust.expect("it goes on").current().sequence(), at(1, 1));
    }
}

#[tokio::test]
async fn what_an_earlier_epoch_publishes_late_is_in_nobodys_way() {
    let (store, a, b) = (memory(), root(), root());
    let late = start(&store, &a).await;
    let head = late
        .history()
        .await
        .expect("it reads")
        .pop()
        .expect("it is published");
    open(&store, "ca-2", &a, ledger(at(1, 5), true))
        .await
        .expect("it is accepted");
    // It had looked at the head before the epoch began, and writes after.
    let next = entry(
        &late.state,
        &late.replica,
        at(1, 2),
        vec![b],
        Some(&head),
        now(),
    )
    .expect("roots");
    commit(&late.state, &next)
        .await
        .expect("nothing is in its place");

    let trust = start(&store, &a).await;
    assert_eq!(trust.current().sequence(), at(2, 1));
    let history: Vec<_> = trust
        .history()
        .await
        .expect("it holds")
        .iter()
        .map(|one| one.sequence)
        .collect();
    assert_eq!(history, [at(1, 1), at(2, 1)]);
}

#[tokio::test]
async fn a_root_that_signs_and_is_not_published_is_refused() {
    let (store, a, b) = (memory(), root(), root());
    start(&store, &a).await;
    let error = open(&store, "ca-1", &b, Evidence::default())
        .await
        .expect_err("it is not there");
    assert_eq!(error.code(), "ARX-TRUST-ROOT-MISSING");
    assert!(error.to_string().contains(b.subject()), "{error}");
    // Neither when an epoch begins.
    let error = open(&store, "ca-1", &b, ledger(at(9, 9), true))
        .await
        .expect_err("nor there");
    assert_eq!(error.code(), "ARX-TRUST-ROOT-MISSING");
    assert_eq!(start(&store, &a).await.current().sequence(), at(1, 1));
}

#[tokio::test]
async fn a_higher_sequence_is_found_by_a_process_that_was_away() {
    let (store, a, b) = (memory(), root(), root());
    let trust = start(&store, &a).await;
    trust
        .publish(at(1, 1), vec![a.clone(), b], now())
        .await
        .expect("it is published");
    let back = open(&store, "ca-2", &a, Evidence::default())
        .await
        .expect("it starts");
    assert_eq!(back.current().sequence(), at(1, 2));
    let seen = back
        .replica
        .document()
        .await
        .expect("it reads")
        .seen
        .sequence;
    assert_eq!(seen, Some(at(1, 2)));
}

#[test]
fn an_agents_position_is_compared_by_sequence_and_content() {
    let bundle = |sequence| {
        TrustBundle::new(trust_domain(), sequence, vec![root()]).expect("a root makes a bundle")
    };
    let published = bundle(at(2, 3));
    let hash = published.sha256();
    for (held, hash, expected) in [
        (at(2, 3), hash, Standing::Same),
        (at(2, 3), [0; 32], Standing::Different),
        (at(2, 2), hash, Standing::Behind),
        (at(1, 9), [0; 32], Standing::Behind),
        (at(2, 4), hash, Standing::Ahead),
        (at(3, 1), [0; 32], Standing::Ahead),
    ] {
        assert_eq!(standing(&published, held, &hash), expected, "{held}");
    }
}

#[tokio::test]
async fn nothing_follows_the_last_sequence_that_there_can_be() {
    let (store, a) = (memory(), root());
    let trust = start(&store, &a).await;
    let last = ledger(at(u64::MAX, 1), true);
    let error = open(&store, "ca-1", &a, last).await;
    let error = error.expect_err("no epoch is higher");
    assert_eq!(error.code(), "ARX-TRUST-LAST");
    drop(trust);
}
