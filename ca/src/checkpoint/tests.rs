use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::fleet::Session;
use crate::ledger::{Operator, Options, Record};
use crate::state::{Initiator, Phase, Terms};
use crate::testing::{House, Outcome, node};

const HOUR: Duration = Duration::from_secs(3600);

/// A moment, as exact as it is stored.
fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn open(house: &House, directory: &Path) -> Result<Ledger, ledger::Error> {
    let options = Options {
        directory: directory.to_owned(),
        trust_domain: house.ca.trust_domain.clone(),
        segment_bytes: 1024 * 1024,
        gather: Duration::ZERO,
    };
    Ok(Ledger::open(options, SystemTime::UNIX_EPOCH)?.0)
}

/// Puts something into a ledger.
async fn note(ledger: &Ledger, detail: &str) -> Outcome {
    let record = Operator {
        who: "a test".to_owned(),
        action: "note".to_owned(),
        detail: detail.to_owned(),
    };
    let record = Record::new(SystemTime::UNIX_EPOCH, record);
    ledger.append(vec![record]).await?;
    Ok(())
}

/// A replica of `house` that starts again and again, with one ledger or another.
struct Starts<'a> {
    house: &'a House,
    name: &'static str,
}

impl Starts<'_> {
    async fn with(
        &self,
        ledger: &Ledger,
        longest: Duration,
        now: SystemTime,
    ) -> Result<Option<LedgerLost>, CompareError> {
        let state = &self.house.ca.state;
        let replica = state.replica(Some(self.name), now).await?;
        compare(state, &replica, ledger, longest, now).await
    }

    async fn notes(&self, ledger: &Ledger, longest: Duration, now: SystemTime) -> Outcome {
        let checkpoint = checkpoint(ledger, longest, now);
        self.house
            .ca
            .state
            .checkpoint(self.name, checkpoint)
            .await?;
        Ok(())
    }
}

#[tokio::test]
async fn a_ledger_that_is_not_the_one_that_was_noted_counts_as_lost_until_all_of_it_has_ended()
-> Outcome {
    let house = House::new().await?;
    let it = Starts {
        house: &house,
        name: "ca-2",
    };
    let now = now();
    let folders = [tempfile::tempdir()?, tempfile::tempdir()?];
    let ledger = open(&house, folders[0].path())?;
    let other = open(&house, folders[1].path())?;
    assert_eq!(it.with(&ledger, HOUR, now).await?, None, "it begins");
    for number in 0..3 {
        note(&ledger, &format!("one {number}")).await?;
    }
    it.notes(&ledger, 10 * HOUR, now).await?;
    note(&ledger, "after that").await?;
    it.notes(&ledger, 2 * HOUR, now).await?;
    note(&ledger, "noted nowhere").await?;
    assert_eq!(it.with(&ledger, HOUR, now).await?, None, "it has gone on");

    // None, at a time at which neither the policy of now nor the last one tells the end of all.
    let later = now + HOUR;
    let lost = it.with(&other, HOUR, later).await?.ok_or("it was lost")?;
    let until = now + 10 * HOUR + SKEW;
    assert_eq!(lost, LedgerLost { at: later, until });
    // Nor is that forgotten when it has another one.
    for number in 0..5 {
        note(&other, &format!("other {number}")).await?;
    }
    it.notes(&other, HOUR, later).await?;
    assert_eq!(it.with(&other, HOUR, later + HOUR).await?, Some(lost));
    assert_eq!(it.with(&other, HOUR, until).await?, None, "all has ended");

    // The first one is not the one that it has now, as long as that has gone on.
    let lost = it.with(&ledger, HOUR, until).await?.ok_or("it was lost")?;
    assert_eq!(lost.until, until + HOUR + SKEW);
    Ok(())
}

#[tokio::test]
async fn an_older_copy_of_a_ledger_counts_as_lost_by_the_longest_life_that_was_promised_last()
-> Outcome {
    let house = House::new().await?;
    let it = Starts {
        house: &house,
        name: "ca-2",
    };
    let now = now();
    let (folder, copy) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let ledger = open(&house, folder.path())?;
    assert_eq!(it.with(&ledger, HOUR, now).await?, None);
    note(&ledger, "one").await?;
    for file in std::fs::read_dir(folder.path())? {
        let file = file?;
        std::fs::copy(file.path(), copy.path().join(file.file_name()))?;
    }
    note(&ledger, "two").await?;
    it.notes(&ledger, 5 * HOUR, now).await?;
    let copy = open(&house, copy.path())?;
    assert_eq!(copy.status().records, 1);
    let later = now + 3 * HOUR;
    let lost = it.with(&copy, HOUR, later).await?.ok_or("it was lost")?;
    assert_eq!(lost.until, later + 5 * HOUR + SKEW);
    Ok(())
}

#[tokio::test]
async fn without_a_note_an_empty_ledger_counts_as_lost_where_something_was_signed() -> Outcome {
    let house = House::new().await?;
    let now = now();
    let folders = [tempfile::tempdir()?, tempfile::tempdir()?];
    // It has an intermediate.
    let signed = Starts {
        house: &house,
        name: "ca-1",
    };
    let new = Starts {
        house: &house,
        name: "ca-2",
    };
    let empty = open(&house, folders[0].path())?;
    let kept = open(&house, folders[1].path())?;
    note(&kept, "one").await?;
    assert_eq!(new.with(&empty, HOUR, now).await?, None);
    assert_eq!(new.with(&empty, HOUR, now).await?, None);
    assert_eq!(signed.with(&kept, HOUR, now).await?, None);
    let other = house.beside("ca-3").await?;
    let signed = Starts {
        house: &other,
        name: "ca-3",
    };
    let lost = signed.with(&empty, HOUR, now).await?;
    assert_eq!(lost.map(|it| it.until), Some(now + HOUR + SKEW));
    Ok(())
}

#[tokio::test]
async fn every_replica_names_the_one_whose_ledger_was_lost_until_all_of_that_has_ended() -> Outcome
{
    let house = House::new().await?;
    let other = house.beside("ca-2").await?;
    let now = now();
    let folder = tempfile::tempdir()?;
    let empty = open(&house, folder.path())?;
    let it = Starts {
        house: &other,
        name: "ca-2",
    };
    it.notes(&other.ca.ledger, HOUR, now).await?;
    assert_eq!(it.with(&other.ca.ledger, HOUR, now).await?, None);
    note(&other.ca.ledger, "one").await?;
    it.notes(&other.ca.ledger, HOUR, now).await?;
    let lost = it.with(&empty, HOUR, now).await?.ok_or("it was lost")?;
    for ca in [&house.ca, &other.ca] {
        let replicas = ca.state.replicas().await?;
        let named = ca.history_lost(&replicas, now);
        let named: Vec<_> = named
            .iter()
            .map(|it| (it.node.as_str(), it.reason, it.last_certificate_ends))
            .collect();
        assert_eq!(named, [("ca-2", "history-lost", Some(lost.until))]);
        assert_eq!(ca.history_lost(&replicas, lost.until), []);
    }
    Ok(())
}

/// A rotation of `house` that waits in Distribute for an agent.
async fn rotating(house: &House) -> Result<Session, Box<dyn std::error::Error>> {
    let agent = house.follow(&node(), 1);
    let terms = house
        .ca
        .terms(Some(Duration::ZERO), Some(Duration::ZERO), None);
    let terms = Terms {
        dwell: Duration::ZERO,
        ..terms
    };
    let who = "a test".to_owned();
    house.ca.rotate(terms, who, Initiator::Operator).await?;
    for _ in 0..8 {
        house.ca.trust.refresh().await?;
        house.ca.look_again().await?;
    }
    let mut stored = house.ca.state.rotations().await?.all;
    let phase = stored.pop().map(|it| it.phase);
    assert_eq!(phase, Some(Phase::Distribute));
    Ok(agent)
}

/// What is noted of the ledger of `house`.
async fn noted(house: &House) -> Result<Option<u64>, StateError> {
    let replicas = house.ca.state.replicas().await?;
    let mut own = replicas
        .iter()
        .filter(|(name, _)| **name == *house.ca.replica);
    let noted = own.next().and_then(|(_, document)| document.ledger);
    Ok(noted.map(|it| it.mark.record))
}

#[tokio::test]
async fn a_gate_is_not_looked_at_before_it_is_noted_how_far_the_ledger_is() -> Outcome {
    let house = House::new().await?;
    note(&house.ca.ledger, "before").await?;
    assert_eq!(noted(&house).await?, None);
    let _agent = rotating(&house).await?;
    // With what the rotation itself has recorded before.
    assert!(noted(&house).await? > Some(1));
    // At each look would be at each second.
    let at = house.ca.ledger.status().records;
    note(&house.ca.ledger, "after").await?;
    house.ca.look_again().await?;
    assert!(noted(&house).await? <= Some(at));
    Ok(())
}

#[tokio::test]
async fn a_replica_that_tells_others_of_a_gate_notes_with_it_how_far_its_ledger_is() -> Outcome {
    let house = House::new().await?;
    let other = house.beside("ca-2").await?;
    let _agent = rotating(&house).await?;
    note(&other.ca.ledger, "one").await?;
    assert_eq!(noted(&other).await?, None);
    other.ca.trust.refresh().await?;
    other.ca.look_again().await?;
    assert_eq!(noted(&other).await?, Some(1));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn how_far_the_ledger_is_is_noted_every_minute_in_which_something_was_issued() -> Outcome {
    let house = House::new().await?;
    let ca = Arc::clone(&house.ca);
    note(&ca.ledger, "one").await?;
    let mut tasks = tokio::task::JoinSet::new();
    let keeping = Arc::clone(&ca);
    tasks.spawn(async move { keeping.keep_checkpoints().await });
    let mut changes = ca
        .state
        .changes(&<ReplicaDocument as crate::state::Document>::KIND);
    for records in [1, 2] {
        while noted(&house).await? != Some(records) {
            changes.changed().await?;
        }
        note(&ca.ledger, "another").await?;
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn the_first_record_of_a_ledger_is_noted_soon_as_all_empty_ones_look_the_same() -> Outcome {
    let house = House::new().await?;
    let ca = Arc::clone(&house.ca);
    let mut tasks = tokio::task::JoinSet::new();
    let keeping = Arc::clone(&ca);
    tasks.spawn(async move { keeping.keep_checkpoints().await });
    let kind = <ReplicaDocument as crate::state::Document>::KIND;
    let mut changes = ca.state.changes(&kind);
    note(&ca.ledger, "one").await?;
    let recorded = tokio::time::Instant::now();
    while noted(&house).await? != Some(1) {
        changes.changed().await?;
    }
    assert!(recorded.elapsed() < super::EVERY);
    Ok(())
}
