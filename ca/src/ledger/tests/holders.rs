//! Who holds what is valid, and which line a node's certificate belongs to.

use super::*;
use crate::ledger::{Holder, Live, NodeLine};

fn key_id(byte: u8) -> arx_identity::KeyId {
    arx_identity::KeyId::from_slice(&[byte; 20]).expect("an id")
}

/// `issued`, changed.
fn with(number: u64, end: u64, change: impl FnOnce(&mut Issued)) -> Record {
    let Record {
        time,
        event: Event::Issued(mut issued),
    } = issued(number, 1000, end)
    else {
        unreachable!("it is one")
    };
    change(&mut issued);
    Record::new(time, *issued)
}

/// The certificate of the node n itself; the first of its line unless it replaces one.
fn of_node(number: u64, replaces: Option<u64>) -> Record {
    with(number, 9000, |issued| {
        "n".clone_into(&mut issued.node);
        "spiffe://example.org/arx/node/c1/n".clone_into(&mut issued.spiffe_id);
        if let Some(replaced) = replaces {
            issued.replaces = serial(replaced).as_bytes().to_vec();
        }
    })
}

fn released(number: u64) -> Record {
    let released = Released {
        serial: serial(number).as_bytes().to_vec(),
        not_after: at(9000),
        reason: "gone".to_owned(),
    };
    Record::new(at(1001), released)
}

fn names(holders: &[Holder]) -> Vec<(&str, &str)> {
    let names = holders.iter();
    names.map(|one| (&*one.cluster, &*one.node)).collect()
}

#[tokio::test]
async fn holders_are_told_with_their_identities_and_the_last_end() -> Outcome {
    let directory = tempfile::tempdir()?;
    let (ledger, _) = open(directory.path())?;
    let one = |number, end| {
        with(number, end, |issued| {
            "n".clone_into(&mut issued.node);
            issued.spiffe_id = format!("spiffe://example.org/w{:02}", number % 30);
        })
    };
    // Some have two certificates.
    let records = (0..40).map(|number| one(number, 2000 + number));
    ledger.append(records.collect()).await?;
    let holders = ledger.live().holders(at(1000), None);
    let [holder] = &holders[..] else {
        panic!("one holds all: {holders:?}")
    };
    assert_eq!((holder.count, holder.ends), (30, at(2039)));
    assert_eq!(holder.identities.len(), 20);
    assert_eq!(&*holder.identities[19], "spiffe://example.org/w19");
    Ok(())
}

#[tokio::test]
async fn who_holds_nothing_valid_is_no_holder_once_slow_clocks_agree() -> Outcome {
    let directory = tempfile::tempdir()?;
    let (ledger, _) = open(directory.path())?;
    ledger.append(vec![issued(0, 1000, 2000)]).await?;
    ledger.append(vec![issued(1, 1000, 3000)]).await?;
    let live = ledger.live();
    let holders = |now| live.holders(at(now), None).len();
    assert_eq!((holders(2300), holders(2301)), (2, 1));
    ledger
        .append(vec![Record::new(
            at(1001),
            Released {
                serial: serial(1).as_bytes().to_vec(),
                not_after: at(3000),
                reason: "gone".to_owned(),
            },
        )])
        .await?;
    assert_eq!(holders(1001), 1);
    Ok(())
}

#[tokio::test]
async fn only_those_under_a_root_are_told_when_it_is_about_one() -> Outcome {
    let directory = tempfile::tempdir()?;
    let (ledger, _) = open(directory.path())?;
    let under = |number, node: &str, root: u8| {
        with(number, 9000, |issued| {
            node.clone_into(&mut issued.node);
            issued.root_key_id = vec![root; 20];
        })
    };
    let records = vec![
        under(0, "a", 5),
        under(1, "b", 6),
        under(2, "c", 5),
        under(3, "c", 6),
    ];
    ledger.append(records).await?;
    let live = ledger.live();
    let under = |root| live.holders(at(1000), Some(&key_id(root)));
    assert_eq!(names(&under(5)), [("c1", "a"), ("c1", "c")]);
    assert_eq!(names(&under(6)), [("c1", "b"), ("c1", "c")]);
    assert_eq!(under(7), []);
    assert_eq!(live.holders(at(1000), None).len(), 3);
    Ok(())
}

#[tokio::test]
async fn more_holders_than_are_looked_at_at_a_time_are_all_told() -> Outcome {
    let directory = tempfile::tempdir()?;
    let (ledger, _) = open(directory.path())?;
    let records =
        (0..600).map(|number| with(number, 9000, |issued| issued.node = format!("n{number}")));
    ledger.append(records.collect()).await?;
    assert_eq!(ledger.live().holders(at(1000), None).len(), 600);
    assert_eq!(ledger.live().holders(at(1000), Some(&key_id(5))).len(), 600);
    Ok(())
}

#[tokio::test]
async fn the_authoritys_own_certificates_are_held_by_its_replica() -> Outcome {
    let directory = tempfile::tempdir()?;
    let (ledger, _) = open(directory.path())?;
    let own = |number, replica: &str| {
        with(number, 9000, |issued| {
            issued.cluster.clear();
            issued.node.clear();
            replica.clone_into(&mut issued.replica);
            "spiffe://example.org/arx/ca".clone_into(&mut issued.spiffe_id);
        })
    };
    ledger.append(vec![own(0, "r1"), own(1, "r2")]).await?;
    let holders = ledger.live().holders(at(1000), None);
    assert_eq!(names(&holders), [("", "r1"), ("", "r2")]);
    ledger.append(vec![released(0)]).await?;
    let holders = ledger.live().holders(at(1000), None);
    assert_eq!(names(&holders), [("", "r2")]);
    Ok(())
}

fn line(live: &Live) -> Vec<Serial> {
    let lines: Vec<NodeLine> = live.nodes(at(1002));
    let certificates = lines.into_iter().flat_map(|line| line.certificates);
    certificates.map(|(serial, _)| serial).collect()
}

#[tokio::test]
async fn a_line_is_whole_though_some_of_it_was_released_also_after_a_restart() -> Outcome {
    let directory = tempfile::tempdir()?;
    let options = || Options {
        segment_bytes: 1,
        ..options(directory.path())
    };
    let (ledger, _) = Ledger::open(options(), at(1000))?;
    ledger.append(vec![of_node(0, None)]).await?;
    ledger.append(vec![of_node(1, Some(0))]).await?;
    ledger.append(vec![released(0)]).await?;
    let whole = [serial(0), serial(1)];
    assert_eq!(line(&ledger.live()), whole);
    assert_eq!(ledger.live().count(at(1002)), 1);
    assert_eq!(ledger.live().on_node("c1", "n", at(1002)).len(), 1);
    drop(ledger);
    let (ledger, _) = Ledger::open(options(), at(1002))?;
    ledger.live().ready().await;
    assert_eq!(line(&ledger.live()), whole);
    assert_eq!(ledger.live().count(at(1002)), 1);
    assert_eq!(ledger.live().nodes(at(9001)), []);
    Ok(())
}

#[tokio::test]
async fn what_was_released_is_forgotten_some_time_after_its_end() -> Outcome {
    let directory = tempfile::tempdir()?;
    let (ledger, _) = open(directory.path())?;
    ledger.append(vec![of_node(0, None), released(0)]).await?;
    ledger.append(vec![issued(1, 30_000, 40_000)]).await?;
    let lines = ledger.live().nodes(at(1002));
    assert_eq!(lines, []);
    Ok(())
}

#[tokio::test]
async fn whatever_makes_a_node_a_holder_can_be_released_though_it_has_ended() -> Outcome {
    let directory = tempfile::tempdir()?;
    let (ledger, _) = open(directory.path())?;
    let one = with(0, 9000, |issued| "n".clone_into(&mut issued.node));
    ledger.append(vec![one]).await?;
    let live = ledger.live();
    for (now, holds) in [(9000, true), (9299, true), (9302, false)] {
        assert_eq!(!live.holders(at(now), None).is_empty(), holds, "{now}");
        assert_eq!(!live.held_on("c1", "n", at(now)).is_empty(), holds, "{now}");
    }
    assert!(live.on_node("c1", "n", at(9299)).is_empty(), "it has ended");
    ledger.append(vec![released(0)]).await?;
    assert_eq!(live.holders(at(9299), None), []);
    Ok(())
}
