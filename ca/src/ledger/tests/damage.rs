//! Files that are not as the ledger has left them.

use std::os::unix::fs::PermissionsExt;

use super::*;

#[test]
fn a_segment_that_is_cut_in_its_header_is_refused_and_stays_as_it_is() -> Outcome {
    let directory = tempfile::tempdir()?;
    drop(open(directory.path())?);
    let segment = files(directory.path(), "seg").remove(0);
    let whole = std::fs::read(&segment)?;
    for length in 0..whole.len() {
        std::fs::write(&segment, &whole[..length])?;
        let error = open(directory.path()).expect_err("damaged");
        assert_eq!(error.code(), "ARX-LEDGER-DAMAGED", "cut at {length}");
        assert_eq!(std::fs::read(&segment)?, &whole[..length]);
    }
    Ok(())
}

#[tokio::test]
async fn an_older_copy_put_back_for_a_removed_segment_is_not_filled_up() -> Outcome {
    let directory = tempfile::tempdir()?;
    let (ledger, _) = open(directory.path())?;
    fill(&ledger, 0..2).await?;
    let segment = files(directory.path(), "seg").remove(0);
    let older = std::fs::read(&segment)?;
    fill(&ledger, 2..4).await?;
    let newest = std::fs::read(&segment)?;
    std::fs::remove_file(&segment)?;
    let mut paused = ledger.paused();
    fill(&ledger, 4..5).await.expect_err("it was removed");
    std::fs::write(&segment, &older)?;
    let told = |pause: &Option<Pause>| {
        let pause = pause.as_ref();
        pause.is_some_and(|pause| pause.detail.contains("put back the right one"))
    };
    paused.wait_for(told).await?;
    assert_eq!(std::fs::read(&segment)?, older);
    std::fs::write(&segment, newest)?;
    paused.wait_for(Option::is_none).await?;
    fill(&ledger, 4..5).await?;
    let report = ledger.verify()?;
    assert_eq!((report.records, report.problems), (5, Vec::new()));
    Ok(())
}

#[tokio::test]
async fn the_oldest_segments_may_be_missing_only_if_a_record_says_that_they_were_pruned() -> Outcome
{
    let directory = tempfile::tempdir()?;
    let small = Options {
        segment_bytes: 2000,
        ..options(directory.path())
    };
    let (ledger, _) = Ledger::open(small.clone(), at(1000))?;
    fill(&ledger, 0..30).await?;
    assert!(prune(&ledger, 100_000).await? > 0);
    assert_eq!(ledger.verify()?.problems, []);
    fill(&ledger, 30..60).await?;
    drop(ledger);
    let verify = || Ledger::verify_directory(directory.path(), "example.org");
    assert_eq!(verify()?.problems, []);
    // The record that pruned the first ones is still there, and names none of these.
    for removed in files(directory.path(), "seg").iter().take(2) {
        std::fs::remove_file(removed)?;
    }
    let problems = verify()?.problems;
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].what.contains("missing"), "{problems:?}");
    Ok(())
}

#[tokio::test]
async fn files_of_others_in_the_directory_are_no_segments() -> Outcome {
    let directory = tempfile::tempdir()?;
    let (ledger, _) = open(directory.path())?;
    fill(&ledger, 0..1).await?;
    drop(ledger);
    for name in ["1.seg", "+0000002.seg", "00000001.seg.bak", "copy.seg"] {
        std::fs::write(directory.path().join(name), "something")?;
    }
    let (_ledger, recovery) = open(directory.path())?;
    assert_eq!(recovery.records, 1);
    Ok(())
}

#[tokio::test]
async fn nobody_else_may_read_what_is_written() -> Outcome {
    let above = tempfile::tempdir()?;
    let directory = above.path().join("state/ledger");
    let (ledger, _) = Ledger::open(
        Options {
            segment_bytes: 2000,
            ..options(&directory)
        },
        at(1000),
    )?;
    fill(&ledger, 0..40).await?;
    // Finding something in each segment makes its index, if that is not there yet.
    ledger.search(&Query::Serial(vec![1]), 1, "")?;
    let mode =
        |path: &Path| std::fs::metadata(path).map(|found| found.permissions().mode() & 0o777);
    assert_eq!(mode(&directory)?, 0o700);
    assert_eq!(mode(&directory.join("lock"))?, 0o600);
    let segments = files(&directory, "seg");
    assert!(segments.len() > 2);
    for (number, segment) in segments.iter().enumerate() {
        assert_eq!(mode(segment)?, 0o600);
        let index = segment.with_extension("idx");
        if number + 1 < segments.len() {
            assert_eq!(mode(&index)?, 0o600, "{}", index.display());
        } else {
            assert!(!index.exists(), "the newest segment's is in memory");
        }
    }
    Ok(())
}

#[tokio::test]
async fn the_last_sequence_is_known_also_where_an_index_is_missing() -> Outcome {
    let directory = tempfile::tempdir()?;
    let one_each = Options {
        segment_bytes: 1,
        ..options(directory.path())
    };
    let (ledger, _) = Ledger::open(one_each.clone(), at(1000))?;
    fill(&ledger, 0..1).await?;
    let operator = Operator::default();
    ledger.append(vec![Record::new(at(1001), operator)]).await?;
    let known = ledger.last_sequence();
    ledger.search(&Query::Serial(vec![1]), 1, "")?;
    drop(ledger);
    for index in files(directory.path(), "idx") {
        std::fs::remove_file(index)?;
    }
    let (ledger, _) = Ledger::open(one_each, at(1000))?;
    assert!(known.is_some());
    assert_eq!(ledger.last_sequence(), known);
    Ok(())
}

#[tokio::test]
async fn valid_certificates_in_a_damaged_segment_are_not_taken_for_gone() -> Outcome {
    let directory = tempfile::tempdir()?;
    let small = Options {
        segment_bytes: 2000,
        ..options(directory.path())
    };
    let (ledger, _) = Ledger::open(small.clone(), at(1000))?;
    fill(&ledger, 0..20).await?;
    drop(ledger);
    let segment = files(directory.path(), "seg").remove(0);
    let mut bytes = std::fs::read(&segment)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&segment, bytes)?;
    let (ledger, _) = Ledger::open(small, at(1000))?;
    let live = ledger.live();
    assert!(live.failed().await.contains("is damaged"));
    assert!(!live.is_ready());
    Ok(())
}
