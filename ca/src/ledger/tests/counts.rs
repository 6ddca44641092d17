//! How many certificates count as valid: gates rely on it, so never too few.

use super::*;

/// Every commit begins a segment.
fn one_each(directory: &Path) -> Options {
    Options {
        segment_bytes: 1,
        ..options(directory)
    }
}

fn released(number: u64, time: u64, end: u64) -> Record {
    let released = Released {
        serial: serial(number).as_bytes().to_vec(),
        not_after: at(end),
        reason: "gone".to_owned(),
    };
    Record::new(at(time), released)
}

#[tokio::test]
async fn a_released_certificate_stays_gone_after_a_restart_whatever_else_has_ended() -> Outcome {
    let directory = tempfile::tempdir()?;
    let (ledger, _) = Ledger::open(one_each(directory.path()), at(1000))?;
    ledger.append(vec![issued(0, 1000, 90_000)]).await?;
    // A segment in which nothing lives but the release itself.
    ledger
        .append(vec![issued(1, 1001, 1100), released(0, 1001, 90_000)])
        .await?;
    ledger.append(vec![issued(2, 1002, 90_000)]).await?;
    drop(ledger);
    let (ledger, _) = Ledger::open(one_each(directory.path()), at(50_000))?;
    ledger.live().ready().await;
    assert_eq!(ledger.live().count(at(50_000)), 1);
    assert_eq!(ledger.live().not_after(&serial(0)), None);
    Ok(())
}

#[tokio::test]
async fn a_certificate_that_was_recorded_twice_counts_once_and_is_released_once() -> Outcome {
    let directory = tempfile::tempdir()?;
    let (ledger, _) = Ledger::open(one_each(directory.path()), at(1000))?;
    ledger.append(vec![issued(0, 1000, 9000)]).await?;
    ledger.append(vec![issued(0, 1000, 9000)]).await?;
    assert_eq!(ledger.live().count(at(1000)), 1);
    ledger.append(vec![released(0, 1001, 9000)]).await?;
    ledger.append(vec![released(0, 1002, 9000)]).await?;
    assert_eq!(ledger.live().count(at(1002)), 0);
    drop(ledger);
    let (ledger, _) = Ledger::open(one_each(directory.path()), at(1002))?;
    ledger.live().ready().await;
    assert_eq!(ledger.live().count(at(1002)), 0);
    Ok(())
}

/// `issued`, under these authorities.
fn under(number: u64, issuer: &[u8], root: &[u8]) -> Record {
    let Record {
        time,
        event: Event::Issued(mut issued),
    } = issued(number, 1000, 9000)
    else {
        unreachable!("it is one")
    };
    issued.issuer_key_id = issuer.to_vec();
    issued.root_key_id = root.to_vec();
    Record::new(time, *issued)
}

fn key_id(byte: u8) -> arx_identity::KeyId {
    arx_identity::KeyId::from_slice(&[byte; 20]).expect("an id")
}

#[tokio::test]
async fn key_identifiers_of_another_length_count_under_no_other_authority() -> Outcome {
    let directory = tempfile::tempdir()?;
    let (ledger, _) = open(directory.path())?;
    ledger.append(vec![under(0, &[], &[7; 32])]).await?;
    ledger.append(vec![under(1, &[4; 20], &[5; 20])]).await?;
    ledger.append(vec![under(2, &[6; 32], &[])]).await?;
    let live = ledger.live();
    assert_eq!(live.count(at(1000)), 3);
    assert_eq!(live.count_under_root(&key_id(5), at(1000)), 1);
    assert_eq!(live.count_under_issuer(&key_id(4), at(1000)), 1);
    Ok(())
}

#[tokio::test]
async fn a_root_that_signs_itself_counts_each_certificate_once() -> Outcome {
    let directory = tempfile::tempdir()?;
    let (ledger, _) = open(directory.path())?;
    ledger.append(vec![under(0, &[5; 20], &[5; 20])]).await?;
    ledger.append(vec![under(1, &[4; 20], &[5; 20])]).await?;
    let live = ledger.live();
    let counts = |now| {
        (
            live.count_under_root(&key_id(5), at(now)),
            live.count_under_issuer(&key_id(5), at(now)),
        )
    };
    assert_eq!(counts(1000), (2, 1));
    assert_eq!(counts(9001), (0, 0));
    Ok(())
}

#[tokio::test]
async fn a_clock_that_jumps_an_hour_ahead_and_comes_back_loses_no_certificate() -> Outcome {
    let directory = tempfile::tempdir()?;
    let (ledger, _) = Ledger::open(one_each(directory.path()), at(10_000))?;
    ledger.append(vec![issued(0, 10_000, 10_060)]).await?;
    ledger.append(vec![issued(1, 13_600, 20_000)]).await?;
    let live = ledger.live();
    assert_eq!((live.count(at(13_600)), live.count(at(10_001))), (1, 2));
    drop((live, ledger));
    // Also where the process starts while the clock is ahead.
    let (ledger, _) = Ledger::open(one_each(directory.path()), at(13_600))?;
    ledger.append(vec![issued(2, 13_601, 20_000)]).await?;
    let live = ledger.live();
    live.ready().await;
    assert_eq!((live.count(at(13_601)), live.count(at(10_001))), (2, 3));
    Ok(())
}

#[tokio::test]
async fn what_has_ended_long_ago_is_forgotten() -> Outcome {
    let directory = tempfile::tempdir()?;
    let (ledger, _) = open(directory.path())?;
    for number in 0..10 {
        ledger.append(vec![issued(number, 1000, 2000)]).await?;
    }
    ledger.append(vec![issued(10, 20_000, 30_000)]).await?;
    assert_eq!(format!("{:?}", ledger.live()), "Live(1 leaves)");
    Ok(())
}
