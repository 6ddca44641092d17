//! Several things at once.

use super::*;

#[tokio::test]
async fn a_segment_that_can_not_be_begun_pauses_until_it_can() -> Outcome {
    let directory = tempfile::tempdir()?;
    let (ledger, _) = Ledger::open(
        Options {
            segment_bytes: 2000,
            ..options(directory.path())
        },
        at(1000),
    )?;
    fill(&ledger, 0..1).await?;
    // In the way of the next segment's beginning; a full disk does the same.
    let obstacle = directory.path().join(".new.seg");
    std::fs::create_dir(&obstacle)?;
    let mut recorded = 1;
    let refused = loop {
        match fill(&ledger, recorded..recorded + 1).await {
            Ok(()) => recorded += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(refused.code(), "ARX-LEDGER-PAUSED");
    let mut paused = ledger.paused();
    assert!(paused.borrow_and_update().is_some());
    std::fs::remove_dir(&obstacle)?;
    paused.wait_for(Option::is_none).await?;
    fill(&ledger, recorded..recorded + 10).await?;
    let report = ledger.verify()?;
    assert_eq!(
        (report.records, report.problems),
        (recorded + 10, Vec::new())
    );
    assert!(report.segments >= 2);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn searching_exporting_and_verifying_hold_while_segments_come_and_go() -> Outcome {
    let directory = tempfile::tempdir()?;
    let (ledger, _) = Ledger::open(
        Options {
            segment_bytes: 1000,
            ..options(directory.path())
        },
        at(1000),
    )?;
    let (going_on, until) = tokio::sync::watch::channel(());
    let readers = ledger.clone();
    let reading = tokio::task::spawn_blocking(move || {
        let query = Query::Identity("spiffe://example.org/ns/x/sa/0".to_owned());
        while until.has_changed().is_ok() {
            let mut token = String::new();
            let mut found = Vec::new();
            loop {
                let page = readers.search(&query, 3, &token)?;
                found.extend(page.records.into_iter().map(|entry| entry.index));
                match page.next {
                    Some(next) => token = next,
                    None => break,
                }
            }
            assert!(found.is_sorted_by(|a, b| a > b), "{found:?}");
            assert_eq!(readers.verify()?.problems, []);
            let mut export = readers.export(UNIX_EPOCH, at(1_000_000))?;
            while export.next_chunk()?.is_some() {}
        }
        Ok::<_, Error>(())
    });
    let mut pruned = 0;
    for round in 0..40 {
        for number in round * 10..round * 10 + 10 {
            let time = round * 10_000;
            let record = issued(number, time, time + 100);
            ledger.append(vec![record]).await?;
        }
        pruned += prune(&ledger, round * 10_000).await?;
    }
    drop(going_on);
    reading.await??;
    assert!(pruned > 50, "{pruned} segments");
    Ok(())
}

#[tokio::test]
async fn a_missing_index_is_made_again_by_the_search_that_misses_it() -> Outcome {
    let directory = tempfile::tempdir()?;
    let small = Options {
        segment_bytes: 2000,
        ..options(directory.path())
    };
    let (ledger, _) = Ledger::open(small, at(1000))?;
    fill(&ledger, 0..30).await?;
    let query = Query::Serial(serial(0).as_bytes().to_vec());
    ledger.search(&query, 1, "")?;
    for index in files(directory.path(), "idx") {
        std::fs::remove_file(index)?;
    }
    assert_eq!(ledger.search(&query, 2, "")?.records.len(), 1);
    let indexes = files(directory.path(), "idx").len();
    assert_eq!(indexes + 1, files(directory.path(), "seg").len());
    Ok(())
}

#[tokio::test]
async fn more_bytes_than_may_wait_are_refused_at_once() -> Outcome {
    let directory = tempfile::tempdir()?;
    let (ledger, _) = open(directory.path())?;
    let large = || {
        let operator = Operator {
            detail: "x".repeat(MAX_RECORD - 100),
            ..Operator::default()
        };
        Record::new(at(1), operator)
    };
    let refused = ledger.append((0..1100).map(|_| large()).collect()).await;
    assert_eq!(refused, Err(AppendError::Busy));
    assert_eq!(ledger.append(vec![large()]).await?.first, 0);
    Ok(())
}

#[tokio::test]
async fn an_identity_with_very_many_certificates_is_found_whole_page_by_page() -> Outcome {
    let directory = tempfile::tempdir()?;
    let small = Options {
        segment_bytes: 100_000,
        ..options(directory.path())
    };
    let (ledger, _) = Ledger::open(small, at(1000))?;
    for batch in 0..20_u64 {
        let records =
            (batch * 100..batch * 100 + 100).map(|number| issued(number * 10, 1000, 5000));
        ledger.append(records.collect()).await?;
    }
    let query = Query::Identity("spiffe://example.org/ns/x/sa/0".to_owned());
    let mut found = Vec::new();
    let mut token = String::new();
    loop {
        let page = ledger.search(&query, 150, &token)?;
        found.extend(page.records.into_iter().map(|entry| entry.index));
        match page.next {
            Some(next) => token = next,
            None => break,
        }
    }
    assert!(found.into_iter().eq((0..2000).rev()));
    assert!(ledger.status().segments > 2);
    Ok(())
}
