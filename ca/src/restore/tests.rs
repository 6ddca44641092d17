use std::time::SystemTime;

use arx_identity::crypto::SealingKey;
use arx_identity::{KeyId, TrustDomain};
use serde_json::Map;
use tokio::task::JoinSet;

use super::*;
use crate::ca::Ca;
use crate::denial::Subject;
use crate::ledger::{Ledger, Published, Record};
use crate::seal::Seal;
use crate::state::{Ahead, Heard, Initiator, LedgerMark, RootState, hash_of};
use crate::store::{Memory, Prefix, Shared, list_all};
use crate::testing::{House, Outcome, node};

fn domain() -> TrustDomain {
    TrustDomain::parse("example.org").expect("a trust domain")
}

/// A backup of this authority in a file.
async fn backup(house: &House, folder: &tempfile::TempDir) -> Result<std::path::PathBuf, Refusal> {
    let Made { backup, file, .. } = house.ca.back_up(house.clock.now()).await?;
    let path = folder.path().join(&backup.id);
    std::fs::write(&path, &file[..]).expect("there is space");
    Ok(path)
}

async fn put(file: &std::path::Path, store: &Shared, seal: &Seal) -> Result<PutBack, PutError> {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    put_back(file, store, seal, &domain(), now).await
}

fn ledger_in(folder: &tempfile::TempDir) -> Result<Ledger, crate::ledger::Error> {
    let options = crate::ledger::Options {
        directory: folder.path().to_owned(),
        trust_domain: domain(),
        segment_bytes: 1024 * 1024,
        gather: Duration::ZERO,
    };
    Ok(Ledger::open(options, SystemTime::UNIX_EPOCH)?.0)
}

/// Puts something into a ledger.
async fn note(ledger: &Ledger, what: &str) -> Outcome {
    let record = crate::ledger::Operator {
        who: "a test".to_owned(),
        action: "note".to_owned(),
        detail: what.to_owned(),
    };
    let record = Record::new(SystemTime::UNIX_EPOCH, record);
    ledger.append(vec![record]).await?;
    Ok(())
}

/// Puts certificates of nodes into a ledger.
async fn join(house: &House, nodes: std::ops::Range<u64>) -> Outcome {
    let now = house.clock.now();
    for number in nodes {
        let name = name(number);
        let issued = crate::ledger::Issued {
            cluster: name.cluster.to_string(),
            node: name.node.to_string(),
            spiffe_id: format!("spiffe://example.org/arx/node/{name}"),
            serial: [&[1; 8][..], &number.to_be_bytes()].concat(),
            subject_key_id: vec![3; 20],
            issuer_key_id: vec![4; 20],
            root_key_id: vec![5; 20],
            validity: crate::ledger::Validity {
                not_before: now,
                not_after: now + Duration::from_secs(3600),
            },
            ..crate::ledger::Issued::default()
        };
        let ledger = &house.ca.ledger;
        ledger.append(vec![Record::new(now, issued)]).await?;
    }
    Ok(())
}

/// Whether the ledger of `replica` is that of the backup, as it finds on what was put back.
async fn is_there(
    file: &std::path::Path,
    replica: &str,
    ledger: &Ledger,
) -> Result<bool, Box<dyn std::error::Error>> {
    let store: Shared = Arc::new(Memory::new());
    put(file, &store, &Seal::plain()).await?;
    let state = State::open(store, Seal::plain(), &domain(), "test").await?;
    note_history(&state, replica, ledger).await?;
    let restored = state.restored().await?.ok_or("it was put back")?;
    Ok(restored.history == Some(true))
}

/// The same authority, on a state that says that it was put back.
pub(crate) async fn shut(house: &House, agents: u64) -> Outcome {
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
        "ARX-BACKUP-FOREIGN"
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
    let refused = ca.back_up(house.clock.now()).await.err();
    let refused = refused.ok_or("it is shut")?;
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
    assert_eq!(restored.ahead()[0].missing, [stranger]);
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
    assert_eq!(ca.history_lost(&[], now), [], "it was never put back");
    note(&ca.ledger, "one").await?;
    let folder = tempfile::tempdir()?;
    let file = backup(&house, &folder).await?;
    let elsewhere = tempfile::tempdir()?;
    let nothing = ledger_in(&elsewhere)?;
    // The one that it was, gone on since; none; and another one that is as long.
    note(&ca.ledger, "one").await?;
    assert!(is_there(&file, "ca-1", &ca.ledger).await?);
    assert!(!is_there(&file, "ca-1", &nothing).await?);
    assert!(!is_there(&file, "ca-2", &ca.ledger).await?);
    for _ in 0..10 {
        note(&nothing, "another").await?;
    }
    assert!(!is_there(&file, "ca-1", &nothing).await?);
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
    let obstacle = ca.history_lost(&[], now).pop().ok_or("it is in the way")?;
    assert_eq!(
        (obstacle.reason, obstacle.node.as_str()),
        ("history-lost", "ca-1")
    );
    let ends = obstacle.last_certificate_ends.ok_or("it ends")?;
    assert!(ends >= now + ca.authority.longest_leaf());
    assert_eq!(ca.history_lost(&[], ends), []);
    Ok(())
}

pub(super) fn put_back_with(agents: u64) -> Restored {
    Restored {
        backup: String::new(),
        made: SystemTime::UNIX_EPOCH,
        at: SystemTime::UNIX_EPOCH,
        replica: String::new(),
        ledger: LedgerMark {
            record: 0,
            hash: [0; 32],
        },
        agents,
        history: None,
        heard: std::collections::BTreeMap::new(),
        adopts: None,
        opening: None,
        opened: None,
        extra: Map::new(),
    }
}

/// What agents that agree have told a replica.
fn agreeing(restored: &Restored, nodes: std::ops::Range<u64>) -> Heard {
    let hashes = nodes.map(|node| hash_of(&name(node).to_string()));
    Heard {
        agree: hashes.filter(|hash| restored.counts(*hash)).collect(),
        ..Heard::default()
    }
}

#[test]
fn what_replicas_have_heard_counts_together_and_each_agent_once() {
    let mut restored = put_back_with(10);
    let mut hears = |replica: &str, nodes, ahead: bool| {
        let group = Ahead {
            sequence: Sequence {
                epoch: 1,
                number: 9,
            },
            sha256: [1; 32],
            missing: Vec::new(),
            agents: 1,
            nodes: vec!["c1/n1".to_owned()],
            ledgers: Vec::new(),
        };
        let heard = Heard {
            ahead: ahead.then_some(group).into_iter().collect(),
            ..agreeing(&restored, nodes)
        };
        restored.heard.insert(replica.to_owned(), heard);
        (verdict(&restored), restored.ahead())
    };
    hears("ca-1", 0..4, false);
    let (waits, _) = hears("ca-2", 2..5, false);
    let (agree, needed) = (5, 6);
    assert_eq!(waits, Verdict::Waits { agree, needed });
    let (agrees, _) = hears("ca-2", 3..6, false);
    assert_eq!(agrees, Verdict::Agrees);
    hears("ca-1", 0..4, true);
    let (ahead, told) = hears("ca-2", 3..9, true);
    assert!(matches!(ahead, Verdict::Ahead { .. }));
    assert_eq!((told.len(), told[0].agents), (1, 1), "{told:?}");
}

#[test]
fn of_a_large_fleet_a_sample_counts_which_is_the_same_at_each_replica_and_takes_little_room() {
    let mut restored = put_back_with(100_000);
    assert_eq!((restored.counted(), restored.needed()), (2048, 1025));
    let sampled = (0..100_000).map(|node| hash_of(&name(node).to_string()));
    let sampled = sampled.filter(|hash| restored.counts(*hash)).count();
    assert!((1900..2200).contains(&sampled), "{sampled}");
    // Those who came to both are nowhere near a half.
    for (replica, nodes) in [("ca-1", 0..40_000), ("ca-2", 20_000..44_000)] {
        let heard = agreeing(&restored, nodes);
        restored.heard.insert(replica.to_owned(), heard);
    }
    assert!(matches!(verdict(&restored), Verdict::Waits { .. }));
    let heard = agreeing(&restored, 40_000..60_000);
    restored.heard.insert("ca-3".to_owned(), heard);
    assert_eq!(verdict(&restored), Verdict::Agrees);
    let size = crate::state::encode(&restored).len();
    assert!(size < 64 * 1024, "{size} bytes");
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
pub(crate) async fn change(house: &House, change: impl Fn(&mut Restored) + Send + Sync) -> Outcome {
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

/// What somebody holds that is not known here.
fn better(epoch: u64) -> Said {
    Said {
        sequence: Sequence { epoch, number: 5 },
        sha256: [9; 32],
        roots: vec![KeyId::from_slice(&[9; 20]).expect("20 bytes")],
    }
}

fn word(although_ahead: bool) -> Word {
    Word::Operator {
        reason: "a drill".to_owned(),
        although_ahead,
    }
}

#[tokio::test]
async fn what_no_history_leads_to_counts_neither_way_and_the_operator_sees_who_says_it() -> Outcome
{
    let house = House::new().await?;
    let ca = Arc::clone(&house.ca);
    shut(&house, 4).await?;
    let mut comparing = compare(&ca);
    let last = |epoch, number| Sequence { epoch, number };
    // One would agree, by what it has, and one would be ahead.
    let leap = Said {
        sequence: last(u64::MAX, u64::MAX),
        ..ours(&house)
    };
    ca.restore.note(&name(1), leap);
    ca.restore.note(&name(2), better(5000));
    for number in 3..=4 {
        ca.restore.note(&name(number), ours(&house));
    }
    let mut document = ca.restore.watch();
    let heard = document.wait_for(|it| it.as_ref().is_some_and(|it| it.agree() == 2));
    let restored = heard.await?.clone().ok_or("it was put back")?;
    let waits = Verdict::Waits {
        agree: 2,
        needed: 3,
    };
    assert_eq!(verdict(&restored), waits);
    let doubtful = restored.doubtful();
    let who: Vec<_> = doubtful.iter().flat_map(|it| &it.nodes).collect();
    assert_eq!((doubtful.len(), who.len()), (2, 2), "{doubtful:?}");
    ca.restore.note(&name(5), ours(&house));
    comparing.join_next().await.ok_or("it compares")??;
    assert_eq!(ca.trust.current().sequence(), last(2, 1));
    Ok(())
}

#[tokio::test]
async fn what_a_denied_node_says_counts_neither_way() -> Outcome {
    let house = House::new().await?;
    let ca = Arc::clone(&house.ca);
    shut(&house, 4).await?;
    let mut comparing = compare(&ca);
    ca.restore.note(&name(1), better(1));
    for number in 2..=4 {
        ca.restore.note(&name(number), ours(&house));
    }
    let mut document = ca.restore.watch();
    let ahead = |it: &Restored| it.agree() == 3 && !it.ahead().is_empty();
    let heard = document.wait_for(|it| it.as_ref().is_some_and(|it| ahead(it)));
    assert!(heard.await?.as_ref().is_some_and(|it| it.is_shut()));
    for number in [1, 2] {
        let subject = Subject::Node(name(number));
        ca.deny(&subject, None, "a test".to_owned()).await?;
    }
    let waits = Verdict::Waits {
        agree: 2,
        needed: 3,
    };
    let left = document.wait_for(|it| it.as_ref().is_some_and(|it| verdict(it) == waits));
    assert!(left.await?.as_ref().is_some_and(|it| it.ahead().is_empty()));
    ca.restore.note(&name(5), ours(&house));
    comparing.join_next().await.ok_or("it compares")??;
    Ok(())
}

#[tokio::test]
async fn who_was_ahead_is_remembered_by_the_next_process_until_it_says_otherwise() -> Outcome {
    let house = House::new().await?;
    shut(&house, 2).await?;
    let before = compare(&house.ca);
    house.ca.restore.note(&name(1), better(1));
    let mut document = house.ca.restore.watch();
    let heard = document.wait_for(|it| it.as_ref().is_some_and(|it| !it.ahead().is_empty()));
    heard.await?;
    drop(before);

    let store = Arc::clone(house.ca.state.store());
    let next = House::over(store, "", house.clock.clone()).await?;
    let ca = Arc::clone(&next.ca);
    let mut comparing = compare(&ca);
    for number in 2..=3 {
        ca.restore.note(&name(number), ours(&next));
    }
    let mut document = ca.restore.watch();
    let heard = document.wait_for(|it| it.as_ref().is_some_and(|it| it.agree() == 2));
    let restored = heard.await?.clone().ok_or("it was put back")?;
    assert_eq!(restored.ahead()[0].nodes, ["c1/n1"]);
    assert!(matches!(verdict(&restored), Verdict::Ahead { .. }));
    ca.restore.note(&name(1), ours(&next));
    comparing.join_next().await.ok_or("it compares")??;
    Ok(())
}

#[tokio::test]
async fn the_ledger_beside_it_is_a_witness_against_which_an_operator_needs_a_second_word() -> Outcome
{
    let house = House::new().await?;
    let ca = &house.ca;
    shut(&house, 0).await?;
    assert!(ledgers_word(&ca.state, &ca.ledger).await?.is_none());
    let lost = better(1);
    let published = Published {
        replica: "ca-1".to_owned(),
        epoch: 1,
        number: 5,
        sha256: lost.sha256.to_vec(),
        roots: vec![lost.roots[0].as_bytes().to_vec()],
    };
    let now = house.clock.now();
    let record = Record::new(now, published);
    ca.ledger.append(vec![record]).await?;
    let said = ledgers_word(&ca.state, &ca.ledger).await?;
    assert_eq!(said.as_ref(), Some(&lost));
    ca.restore.note_ledger(said.ok_or("it says something")?);

    let refused = ca.open_restored(word(false)).await.expect_err("refused");
    assert_eq!(refused.code, "ARX-RESTORE-AHEAD");
    let says = "the ledger of ca-1 tells of bundle 1.5";
    assert!(refused.message.contains(says), "{refused}");
    let restored = ca.restore.get().ok_or("it was put back")?;
    assert_eq!(restored.ahead()[0].missing, lost.roots);
    ca.open_restored(word(true)).await?;
    assert_eq!(ca.trust.current().sequence().epoch, 2);
    Ok(())
}

#[tokio::test]
async fn a_ledger_that_tells_of_nothing_but_what_is_here_is_no_witness_against_it() -> Outcome {
    let house = House::new().await?;
    let ca = &house.ca;
    shut(&house, 0).await?;
    // The same came again there.
    let again = Said {
        sequence: Sequence {
            epoch: 1,
            number: 3,
        },
        ..ours(&house)
    };
    ca.restore.note_ledger(again);
    ca.open_restored(word(false)).await?;
    Ok(())
}

#[tokio::test]
async fn a_backup_counts_the_nodes_of_all_replicas_once_and_names_those_that_have_not_said()
-> Outcome {
    let house = House::new().await?;
    let ca = &house.ca;
    let other = house.beside("ca-2").await?;
    join(&house, 1..4).await?;
    join(&other, 3..7).await?;
    let now = house.clock.now();
    let made = ca.back_up(now).await?;
    assert_eq!((made.backup.agents, made.silent), (3, vec!["ca-2".into()]));
    other.ca.store_counted().await?;
    let made = ca.back_up(now).await?;
    assert_eq!((made.backup.agents, made.silent), (6, Vec::new()));
    // Nobody waits for who is denied.
    let subject = Subject::Node(name(1));
    ca.deny(&subject, None, "a test".to_owned()).await?;
    assert_eq!(ca.back_up(now).await?.backup.agents, 5);
    // What was said is over when their certificates are.
    let later = now + Duration::from_secs(3 * 3600);
    assert_eq!(ca.back_up(later).await?.backup.agents, 0);
    Ok(())
}

#[tokio::test]
async fn a_backup_is_small_whatever_the_fleet() -> Outcome {
    let house = House::new().await?;
    let ca = &house.ca;
    let now = house.clock.now();
    let all = (0..100_000).map(|node| hash_of(&name(node).to_string()));
    let counted = crate::state::Counted {
        nodes: all.collect(),
        until: now + Duration::from_secs(3600),
    };
    for replica in 2..12 {
        let replica = format!("ca-{replica}");
        ca.state.counted(&replica, counted.clone()).await?;
    }
    let made = ca.back_up(now).await?;
    let (agents, size) = (made.backup.agents, made.file.len());
    assert!((95_000..105_000).contains(&agents), "{agents}");
    assert!(size < 1024 * 1024, "{size} bytes");
    Ok(())
}

#[tokio::test]
async fn no_backup_counts_agents_before_the_ledger_was_read() -> Outcome {
    let house = House::new().await?;
    let ca = &house.ca;
    ca.ledger.live().set_building();
    let refused = ca.back_up(house.clock.now()).await.err();
    let refused = refused.ok_or("it is not known yet")?;
    assert_eq!(refused.code, "ARX-BACKUP-BUSY");
    ca.ledger.live().set_failed("damaged".to_owned());
    assert!(ca.back_up(house.clock.now()).await.is_ok());
    Ok(())
}

#[tokio::test]
async fn of_a_backup_without_agents_no_half_is_told() -> Outcome {
    let house = House::new().await?;
    shut(&house, 0).await?;
    let refused = house.ca.restore.is_open().expect_err("it is shut");
    assert!(refused.message.contains("knows of no agents"), "{refused}");
    Ok(())
}

#[tokio::test]
async fn dry_runs_say_what_stands_in_the_way_after_a_restore_and_nobody_is_asked_to_renew()
-> Outcome {
    use arx_proto::admin::v1 as wire;
    use tonic::Request;
    use wire::admin_server::Admin as _;

    let house = House::new().await?;
    let ca = &house.ca;
    shut(&house, 1).await?;
    change(&house, |it| it.history = Some(false)).await?;
    let api = crate::admin::Api::new(Arc::clone(ca));
    let asked = wire::RotateRootRequest {
        dry_run: true,
        ..wire::RotateRootRequest::default()
    };
    let plan = api.rotate_root(Request::new(asked)).await?.into_inner();
    let Some(wire::rotate_root_response::Outcome::Plan(plan)) = plan.outcome else {
        return Err("it is a plan".into());
    };
    assert_eq!(plan.refusals[0].code, "ARX-RESTORE-SHUT");
    assert_eq!(plan.blockers[0].reason, "history-lost");
    let asked = wire::DistrustRequest {
        authority: ca.authority.root_key_id().to_string(),
        dry_run: true,
        ..wire::DistrustRequest::default()
    };
    let plan = api.distrust(Request::new(asked)).await?.into_inner();
    let Some(wire::distrust_response::Outcome::Plan(plan)) = plan.outcome else {
        return Err("it is a plan".into());
    };
    assert_eq!(plan.refusals[0].code, "ARX-RESTORE-SHUT");
    assert_eq!(plan.fails[0].reason, "history-lost");
    let asked = wire::RequestRenewalRequest {
        all: true,
        ..wire::RequestRenewalRequest::default()
    };
    let refused = api.request_renewal(Request::new(asked)).await;
    let refused = refused.expect_err("nobody could renew");
    assert!(refused.message().contains("restored"), "{refused:?}");
    Ok(())
}
