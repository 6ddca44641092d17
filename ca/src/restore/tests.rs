use std::time::SystemTime;

use arx_identity::crypto::SealingKey;
use arx_identity::{KeyId, TrustDomain};
use serde_json::Map;
use tokio::task::JoinSet;

use super::*;
use crate::ca::Ca;
use crate::seal::Seal;
use crate::state::{Ahead, Heard, Initiator, LedgerMark, RootState};
use crate::store::{Memory, Prefix, Shared, list_all};
use crate::testing::{House, Outcome, node};

fn domain() -> TrustDomain {
    TrustDomain::parse("example.org").expect("a trust domain")
}

/// A backup of this authority in a file.
async fn backup(house: &House, folder: &tempfile::TempDir) -> Result<std::path::PathBuf, Refusal> {
    let (backup, content) = house.ca.back_up(house.clock.now()).await?;
    let path = folder.path().join(&backup.id);
    std::fs::write(&path, &content[..]).expect("there is space");
    Ok(path)
}

async fn put(file: &std::path::Path, store: &Shared, seal: &Seal) -> Result<PutBack, PutError> {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    put_back(file, store, seal, &domain(), now).await
}

/// The same authority, on a state that says that it was put back.
async fn shut(house: &House, agents: u64) -> Outcome {
    let ca = &house.ca;
    let now = house.clock.now();
    let restored = Restored {
        backup: "b1".to_owned(),
        made: now,
        at: now,
        replica: "ca-1".to_owned(),
        ledger: LedgerMark {
            record: 0,
            hash: [0; 32],
        },
        agents,
        history: Some(true),
        heard: std::collections::BTreeMap::new(),
        adopts: None,
        opening: None,
        opened: None,
        extra: Map::new(),
    };
    let key = ca.state.key(&Restored::KIND);
    ca.state.create(&key, &restored).await?;
    ca.restore.refresh().await?;
    Ok(())
}

/// Compares, and ends when it is open.
fn compare(ca: &Arc<Ca>) -> JoinSet<()> {
    let ca = Arc::clone(ca);
    let mut comparing = JoinSet::new();
    comparing.spawn(async move { ca.keep_restored(Duration::ZERO).await });
    comparing
}

fn name(node: u64) -> NodeName {
    NodeName {
        cluster: "c1".into(),
        node: format!("n{node}").into(),
    }
}

/// What is published by this authority.
fn ours(house: &House) -> Said {
    let bundle = house.ca.trust.current();
    let roots = bundle.roots().iter();
    Said {
        sequence: bundle.sequence(),
        sha256: bundle.sha256(),
        roots: roots.filter_map(|root| root.subject_key_id()).collect(),
    }
}

#[tokio::test]
async fn a_backup_brings_everything_back_and_the_state_says_that_it_is_one() -> Outcome {
    let house = House::new().await?;
    let folder = tempfile::tempdir()?;
    let file = backup(&house, &folder).await?;
    let size = std::fs::metadata(&file)?.len();
    assert!(size < 1024 * 1024, "{size} bytes");

    let store: Shared = Arc::new(Memory::new());
    let back = put(&file, &store, &Seal::plain()).await?;
    assert_eq!(back.sequence, house.ca.trust.current().sequence());
    let state = State::open(store, Seal::plain(), &domain(), "test").await?;
    let restored = state.restored().await?.ok_or("it was put back")?;
    assert!(restored.is_shut() && restored.backup == back.id);
    let stored = state.authorities().await?.ok_or("there are roots")?.value;
    let active = stored.active().ok_or("one signs")?;
    assert_eq!(active.key_id(), Some(house.ca.authority.root_key_id()));
    assert_eq!(state.published().await?, house.ca.state.published().await?);
    assert!(state.denials().await?.is_none());
    Ok(())
}

#[tokio::test]
async fn a_backup_is_put_into_an_empty_store_alone_or_ended_where_it_was_cut_off() -> Outcome {
    let house = House::new().await?;
    let folder = tempfile::tempdir()?;
    let file = backup(&house, &folder).await?;
    let whole: Shared = Arc::new(Memory::new());
    put(&file, &whole, &Seal::plain()).await?;
    let all = list_all(&*whole, &Prefix::trust_domain(&domain())).await?;
    for cut in 0..=all.len() {
        let store: Shared = Arc::new(Memory::new());
        for entry in &all[..cut] {
            // The mark is written last.
            if *entry.key.kind() != crate::store::Schema::KIND {
                let value = entry.value.clone();
                store.compare_and_swap(&entry.key, None, value).await?;
            }
        }
        let opened = State::is_new(&store, &domain()).await;
        assert!(cut == 0 || opened.is_err(), "nobody starts on half of it");
        put(&file, &store, &Seal::plain()).await?;
        State::open(store, Seal::plain(), &domain(), "test").await?;
    }
    let other = House::new().await?;
    let refused = put(&file, other.ca.state.store(), &Seal::plain()).await;
    let refused = refused.expect_err("there is another state");
    assert_eq!(refused.code(), "ARX-RESTORE-NOT-EMPTY");
    Ok(())
}

#[tokio::test]
async fn what_is_not_whole_or_sealed_with_another_key_is_not_put_back() -> Outcome {
    let house = House::new().await?;
    let folder = tempfile::tempdir()?;
    let file = backup(&house, &folder).await?;
    let content = std::fs::read(&file)?;
    let empty = || -> Shared { Arc::new(Memory::new()) };
    let seal = Seal::with(SealingKey::generate());
    let code = |refused: Result<PutBack, PutError>| refused.expect_err("refused").code();
    assert_eq!(code(put(&file, &empty(), &seal).await), "ARX-SEAL-MISSING");
    std::fs::write(&file, &content[..content.len() / 2])?;
    assert_eq!(
        code(put(&file, &empty(), &Seal::plain()).await),
        "ARX-BACKUP-UNREADABLE"
    );
    std::fs::write(&file, "nothing of the kind")?;
    assert_eq!(
        code(put(&file, &empty(), &Seal::plain()).await),
        "ARX-SEAL-UNREADABLE"
    );
    let nowhere = folder.path().join("nowhere");
    assert_eq!(
        code(put(&nowhere, &empty(), &Seal::plain()).await),
        "ARX-BACKUP-FILE"
    );
    Ok(())
}

#[tokio::test]
async fn while_it_is_shut_nothing_is_issued_and_no_rotation_goes_on() -> Outcome {
    let house = House::new().await?;
    let ca = &house.ca;
    shut(&house, 1).await?;
    let join = arx_proto::node::v1::JoinRequest {
        csr: house
            .item(arx_proto::node::v1::issue_item::Evidence::PodUid(
                String::new(),
            ))
            .csr,
        idempotency_key: house.key(),
        ..Default::default()
    };
    let token = house.token("arx/join", "arx-system", "arx-node-agent", "n1");
    let refused = ca.join(&token, &join).await.expect_err("it is shut");
    assert_eq!(refused.code, "ARX-RESTORE-SHUT");
    assert!(refused.retry_after.is_some(), "{refused}");
    let terms = ca.terms(None, None, None);
    let refused = ca.rotate(terms, String::new(), Initiator::Operator).await;
    assert_eq!(refused.expect_err("it is shut").code, "ARX-RESTORE-SHUT");
    let refused = ca.back_up(house.clock.now()).await.expect_err("it is shut");
    assert_eq!(refused.code, "ARX-RESTORE-SHUT");
    assert!(ca.state.rotations().await?.all.is_empty());
    Ok(())
}

#[tokio::test]
async fn more_than_half_of_the_fleet_opens_it_in_an_epoch_above_all_that_anybody_holds() -> Outcome
{
    let house = House::new().await?;
    let ca = Arc::clone(&house.ca);
    shut(&house, 4).await?;
    let mut comparing = compare(&ca);
    let mut document = ca.restore.watch();
    for number in 1..=2 {
        ca.restore.note(&name(number), ours(&house));
    }
    let heard = document.wait_for(|it| it.as_ref().is_some_and(|it| it.agree() == 2));
    assert!(
        heard.await?.as_ref().is_some_and(|it| it.is_shut()),
        "two of four are not more than half"
    );
    // The same content came again there, which is no other.
    let later = Sequence {
        epoch: 3,
        number: 7,
    };
    ca.restore.note(
        &name(3),
        Said {
            sequence: later,
            ..ours(&house)
        },
    );
    comparing.join_next().await.ok_or("it compares")??;
    let open = ca.restore.get().ok_or("it was put back")?;
    assert_eq!(open.opened.as_ref().and_then(|it| it.agents), Some(3));
    let first = Sequence {
        epoch: 4,
        number: 1,
    };
    assert_eq!(ca.trust.current().sequence(), first);
    assert!(ca.restore.is_open().is_ok());
    assert!(ca.back_up(house.clock.now()).await.is_ok());
    Ok(())
}

#[tokio::test]
async fn one_agent_that_knows_better_keeps_it_shut_and_an_operator_can_say_that_it_does_not_matter()
-> Outcome {
    let house = House::new().await?;
    let ca = Arc::clone(&house.ca);
    shut(&house, 2).await?;
    let mut comparing = compare(&ca);
    let stranger = KeyId::from_slice(&[9; 20]).ok_or("20 bytes")?;
    let better = Said {
        sequence: Sequence {
            epoch: 1,
            number: 5,
        },
        sha256: [9; 32],
        roots: vec![stranger],
    };
    ca.restore.note(&node().name, better);
    for number in 2..=3 {
        ca.restore.note(&name(number), ours(&house));
    }
    let mut document = ca.restore.watch();
    document
        .wait_for(|it| it.as_ref().is_some_and(|it| it.agree() == 2))
        .await?;
    let word = |although_ahead| Word::Operator {
        reason: "a drill".to_owned(),
        although_ahead,
    };
    let refused = ca.open_restored(word(false)).await.expect_err("refused");
    assert_eq!(refused.code, "ARX-RESTORE-AHEAD");
    let restored = ca.restore.get().ok_or("it was put back")?;
    assert!(restored.is_shut());
    let ahead: Vec<&Ahead> = restored.ahead().collect();
    assert_eq!(ahead[0].missing, [stranger]);
    assert_eq!(ca.trust.current().sequence().epoch, 1, "nothing is pushed");

    ca.open_restored(word(true)).await?;
    comparing.join_next().await.ok_or("it compares")??;
    assert_eq!(ca.trust.current().sequence().epoch, 2);
    let refused = ca.open_restored(word(true)).await.expect_err("it is open");
    assert_eq!(refused.code, "ARX-RESTORE-OPEN");
    Ok(())
}

#[tokio::test]
async fn without_its_ledger_a_rotation_waits_until_everything_of_before_has_ended() -> Outcome {
    let house = House::new().await?;
    let ca = &house.ca;
    let now = house.clock.now();
    assert!(ca.history_lost(now).is_none(), "it was never put back");
    let folder = tempfile::tempdir()?;
    let file = backup(&house, &folder).await?;
    for (replica, records, is_there) in [
        ("ca-1", 1000, true),
        ("ca-1", 0, false),
        ("ca-2", 1000, false),
    ] {
        let store: Shared = Arc::new(Memory::new());
        put(&file, &store, &Seal::plain()).await?;
        let state = State::open(store, Seal::plain(), &domain(), "test").await?;
        let status = crate::ledger::Status {
            records,
            ..crate::ledger::Status::default()
        };
        note_history(&state, replica, &status).await?;
        let restored = state.restored().await?.ok_or("it was put back")?;
        assert_eq!(
            restored.history == Some(true),
            is_there,
            "{replica}, {records}"
        );
    }
    shut(&house, 0).await?;
    let key = ca.state.key(&Restored::KIND);
    ca.state
        .update(&key, |found: Option<crate::state::Loaded<Restored>>| {
            let mut restored = found.expect("it was put back").value;
            restored.history = Some(false);
            Ok::<_, StateError>(crate::state::Decision::Write(restored, ()))
        })
        .await?;
    ca.restore.refresh().await?;
    let obstacle = ca.history_lost(now).ok_or("it is in the way")?;
    assert_eq!(obstacle.reason, "history-lost");
    let ends = obstacle.last_certificate_ends.ok_or("it ends")?;
    assert!(ends >= now + ca.authority.longest_leaf());
    assert!(ca.history_lost(ends).is_none());
    Ok(())
}

#[test]
fn what_replicas_have_heard_counts_together() {
    let heard = |agree, ahead: bool| Heard {
        agree,
        ahead: ahead
            .then(|| Ahead {
                sequence: Sequence {
                    epoch: 1,
                    number: 9,
                },
                sha256: [1; 32],
                missing: Vec::new(),
                agents: 1,
                node: "c1/n1".to_owned(),
            })
            .into_iter()
            .collect(),
        ..Heard::default()
    };
    let restored = |heard: [Heard; 2]| Restored {
        backup: String::new(),
        made: SystemTime::UNIX_EPOCH,
        at: SystemTime::UNIX_EPOCH,
        replica: String::new(),
        ledger: LedgerMark {
            record: 0,
            hash: [0; 32],
        },
        agents: 10,
        history: None,
        heard: ["ca-1", "ca-2"]
            .map(str::to_owned)
            .into_iter()
            .zip(heard)
            .collect(),
        adopts: None,
        opening: None,
        opened: None,
        extra: Map::new(),
    };
    let waits = verdict(&restored([heard(3, false), heard(2, false)]));
    assert_eq!(
        waits,
        Verdict::Waits {
            agree: 5,
            needed: 6
        }
    );
    let agrees = verdict(&restored([heard(3, false), heard(3, false)]));
    assert_eq!(agrees, Verdict::Agrees);
    let ahead = verdict(&restored([heard(3, false), heard(9, true)]));
    assert!(matches!(ahead, Verdict::Ahead { .. }));
}

#[tokio::test]
async fn a_root_that_was_distrusted_since_is_not_published_again() -> Outcome {
    let house = House::new().await?;
    let ca = &house.ca;
    let now = house.clock.now();
    let first = ca.authority.root_key_id();
    let next = ca.authority.prepare_root(now).await?;
    let next = next.subject_key_id().ok_or("a root has one")?;
    ca.authority.activate(first, next).await?;
    shut(&house, 0).await?;
    ca.state
        .bury(&std::collections::BTreeSet::from([first]), now)
        .await?;
    let active = ca
        .state
        .authorities()
        .await?
        .ok_or("there are roots")?
        .value;
    let active = active
        .roots
        .into_iter()
        .find(|it| it.state == RootState::Active);
    let root = active.ok_or("one signs")?.certificate;
    let begun = ca.trust.begin_epoch(None, &root, None, now).await?;
    assert_eq!(
        begun.roots(),
        [root],
        "the one that was buried is not in it"
    );
    Ok(())
}

/// Changes what is stored of the restore.
async fn change(house: &House, change: impl Fn(&mut Restored) + Send + Sync) -> Outcome {
    let ca = &house.ca;
    let key = ca.state.key(&Restored::KIND);
    ca.state
        .update(&key, |found: Option<crate::state::Loaded<Restored>>| {
            let mut restored = found.expect("it was put back").value;
            change(&mut restored);
            Ok::<_, StateError>(crate::state::Decision::Write(restored, ()))
        })
        .await?;
    ca.restore.refresh().await?;
    Ok(())
}

#[tokio::test]
async fn an_opening_that_was_decided_is_ended_by_whoever_starts_next() -> Outcome {
    let house = House::new().await?;
    let ca = Arc::clone(&house.ca);
    shut(&house, 2).await?;
    let opening = crate::state::Opened {
        at: house.clock.now(),
        agents: Some(2),
        reason: String::new(),
    };
    change(&house, |it| it.opening = Some(opening.clone())).await?;
    assert!(ca.restore.is_open().is_err());
    compare(&ca).join_next().await.ok_or("it compares")??;
    assert!(ca.restore.is_open().is_ok());
    let restored = ca.restore.get().ok_or("it was put back")?;
    assert_eq!(restored.opened.as_ref().and_then(|it| it.agents), Some(2));
    assert_eq!(ca.trust.current().sequence().epoch, 2);
    Ok(())
}

#[tokio::test]
async fn until_the_fleet_has_both_roots_an_adoption_is_opened_by_a_second_word_alone() -> Outcome {
    let house = House::new().await?;
    let ca = Arc::clone(&house.ca);
    shut(&house, 0).await?;
    let adopts = crate::state::Adopts {
        root: KeyId::from_slice(&[9; 20]).ok_or("20 bytes")?,
        rotation: "r1".to_owned(),
        reason: "a test".to_owned(),
        has_begun: false,
    };
    change(&house, |it| it.adopts = Some(adopts.clone())).await?;
    // Not before the epoch has begun in which both are published.
    assert!(ca.restore.lets_rotate().is_err());
    change(&house, |it| {
        it.adopts = Some(crate::state::Adopts {
            has_begun: true,
            ..adopts.clone()
        });
    })
    .await?;
    assert!(ca.restore.lets_rotate().is_ok() && ca.restore.is_open().is_err());
    // Its rotation is not there: that proves nothing.
    let restored = ca.restore.get().ok_or("it was put back")?;
    ca.follow_adoption(&restored).await?;
    assert!(ca.restore.is_open().is_err());
    let word = |although_ahead| Word::Operator {
        reason: "a drill".to_owned(),
        although_ahead,
    };
    let refused = ca.open_restored(word(false)).await.expect_err("refused");
    assert_eq!(refused.code, "ARX-RESTORE-AHEAD");
    ca.open_restored(word(true)).await?;
    assert!(ca.restore.is_open().is_ok());
    Ok(())
}
