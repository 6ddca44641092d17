use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use arx_identity::Serial;

use super::*;

mod counts;
mod damage;
mod disturbed;
mod holders;

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn options(directory: &Path) -> Options {
    Options {
        directory: directory.to_owned(),
        trust_domain: TrustDomain::parse("example.org").expect("a trust domain"),
        segment_bytes: 1024 * 1024,
        gather: Duration::from_millis(1),
    }
}

fn open(directory: &Path) -> Result<(Ledger, Recovery), Error> {
    Ledger::open(options(directory), at(1000))
}

fn issued(number: u64, time: u64, end: u64) -> Record {
    let mut serial = vec![1; 8];
    serial.extend_from_slice(&number.to_be_bytes());
    let issued = Issued {
        cluster: "c1".to_owned(),
        node: format!("n{}", number % 3),
        spiffe_id: format!("spiffe://example.org/ns/x/sa/{}", number % 10),
        serial,
        subject_key_id: vec![3; 20],
        issuer_key_id: vec![4; 20],
        root_key_id: vec![5; 20],
        validity: Validity {
            not_before: at(time),
            not_after: at(end),
        },
        evidence: "test".to_owned(),
        bundle_epoch: 1,
        bundle_number: 7,
        ..Issued::default()
    };
    Record::new(at(time), issued)
}

fn serial(number: u64) -> Serial {
    let mut serial = vec![1; 8];
    serial.extend_from_slice(&number.to_be_bytes());
    Serial::from_bytes(&serial).expect("a serial")
}

async fn fill(ledger: &Ledger, numbers: std::ops::Range<u64>) -> Result<(), AppendError> {
    for number in numbers {
        ledger
            .append(vec![issued(number, 1000 + number, 5000)])
            .await?;
    }
    Ok(())
}

/// The files of the ledger, by name.
fn files(directory: &Path, extension: &str) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(directory).expect("the directory is there");
    let mut files: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect();
    files.sort();
    files
}

#[tokio::test]
async fn what_was_acknowledged_is_there_again_after_a_restart() -> Outcome {
    let directory = tempfile::tempdir()?;
    let (ledger, recovery) = open(directory.path())?;
    assert_eq!(recovery, Recovery::default());
    fill(&ledger, 0..20).await?;
    let head = ledger.status().head;
    drop(ledger);
    let (ledger, recovery) = open(directory.path())?;
    assert_eq!((recovery.records, recovery.torn), (20, None));
    assert_eq!(ledger.status().head, head);
    assert_eq!(
        ledger.last_sequence(),
        Some(Sequence {
            epoch: 1,
            number: 7
        })
    );
    assert_eq!(ledger.append(vec![issued(20, 2000, 5000)]).await?.first, 20);
    let report = ledger.verify()?;
    assert_eq!(
        (report.records, report.segments, report.problems.len()),
        (21, 1, 0)
    );
    Ok(())
}

#[tokio::test]
async fn a_crash_in_a_commit_loses_nothing_that_was_acknowledged() -> Outcome {
    let directory = tempfile::tempdir()?;
    let (ledger, _) = open(directory.path())?;
    fill(&ledger, 0..3).await?;
    let acknowledged = ledger.status().bytes;
    // One commit of two records, of which the crash leaves any part.
    ledger
        .append(vec![issued(3, 1000, 5000), issued(4, 1000, 5000)])
        .await?;
    drop(ledger);
    let segment = files(directory.path(), "seg").remove(0);
    let whole = std::fs::read(&segment)?;
    for cut in usize::try_from(acknowledged)?..whole.len() {
        std::fs::write(&segment, &whole[..cut])?;
        let (ledger, recovery) = open(directory.path())?;
        assert!(recovery.records >= 3, "cut at {cut}");
        assert_eq!(
            recovery.torn.is_some(),
            cut > usize::try_from(ledger.status().bytes)?,
            "cut at {cut}"
        );
        let report = ledger.verify()?;
        assert_eq!(
            (report.records, report.problems.len()),
            (recovery.records, 0),
            "cut at {cut}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn damage_before_the_last_commit_is_refused_and_nothing_is_changed() -> Outcome {
    let directory = tempfile::tempdir()?;
    let (ledger, _) = open(directory.path())?;
    fill(&ledger, 0..5).await?;
    drop(ledger);
    let segment = files(directory.path(), "seg").remove(0);
    let mut bytes = std::fs::read(&segment)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&segment, &bytes)?;
    assert!(matches!(open(directory.path()), Err(Error::Damaged(_))));
    assert_eq!(std::fs::read(&segment)?, bytes);
    let report = Ledger::verify_directory(directory.path(), "example.org")?;
    assert!(!report.problems.is_empty());
    Ok(())
}

#[tokio::test]
async fn any_changed_byte_of_a_sealed_segment_is_found_by_verifying() -> Outcome {
    let directory = tempfile::tempdir()?;
    let (ledger, _) = Ledger::open(
        Options {
            segment_bytes: 1000,
            ..options(directory.path())
        },
        at(1000),
    )?;
    fill(&ledger, 0..12).await?;
    let segment = files(directory.path(), "seg").remove(0);
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(&segment)?;
    let length = file.metadata()?.len();
    for offset in (0..length).step_by(7) {
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset)?;
        file.write_all_at(&[byte[0] ^ 4], offset)?;
        let found = ledger.verify().map(|report| !report.problems.is_empty());
        assert!(found.unwrap_or(true), "byte {offset}");
        file.write_all_at(&byte, offset)?;
    }
    assert!(ledger.verify()?.problems.is_empty());
    Ok(())
}

#[test]
fn a_second_process_is_refused() -> Outcome {
    let directory = tempfile::tempdir()?;
    let (_ledger, _) = open(directory.path())?;
    let error = open(directory.path()).expect_err("in use");
    assert_eq!(error.code(), "ARX-LEDGER-HELD");
    Ok(())
}

#[tokio::test]
async fn the_ledger_of_another_trust_domain_or_a_newer_version_is_refused() -> Outcome {
    let directory = tempfile::tempdir()?;
    drop(open(directory.path())?);
    let other = Options {
        trust_domain: TrustDomain::parse("other.org")?,
        ..options(directory.path())
    };
    assert_eq!(
        Ledger::open(other, at(1)).expect_err("foreign").code(),
        "ARX-LEDGER-FOREIGN"
    );
    let segment = files(directory.path(), "seg").remove(0);
    let file = std::fs::File::options().write(true).open(&segment)?;
    file.write_all_at(&9_u16.to_le_bytes(), 10)?;
    assert_eq!(
        open(directory.path()).expect_err("newer").code(),
        "ARX-LEDGER-NEWER"
    );
    Ok(())
}

#[tokio::test]
async fn many_who_append_at_once_each_get_their_own_place() -> Outcome {
    let directory = tempfile::tempdir()?;
    let (ledger, _) = Ledger::open(
        Options {
            segment_bytes: 20_000,
            ..options(directory.path())
        },
        at(1000),
    )?;
    let mut all = tokio::task::JoinSet::new();
    for appender in 0..64 {
        let ledger = ledger.clone();
        all.spawn(async move {
            let mut places = Vec::new();
            for number in 0..20 {
                let _announced = ledger.announce();
                places.push(
                    ledger
                        .append(vec![issued(appender * 100 + number, 1000, 5000)])
                        .await?
                        .first,
                );
            }
            Ok::<_, AppendError>(places)
        });
    }
    let mut places: Vec<u64> = Vec::new();
    while let Some(appended) = all.join_next().await {
        places.extend(appended??);
    }
    places.sort_unstable();
    assert!(places.into_iter().eq(0..64 * 20));
    let report = ledger.verify()?;
    assert_eq!((report.records, report.problems.len()), (64 * 20, 0));
    assert!(report.segments > 5, "{} segments", report.segments);
    Ok(())
}

#[tokio::test]
async fn searching_finds_each_record_in_every_segment_newest_first() -> Outcome {
    let directory = tempfile::tempdir()?;
    let small = Options {
        segment_bytes: 2000,
        ..options(directory.path())
    };
    let (ledger, _) = Ledger::open(small.clone(), at(1000))?;
    fill(&ledger, 0..60).await?;
    drop(ledger);
    // One index is missing, and one is damaged: both are made again.
    let indexes = files(directory.path(), "idx");
    std::fs::remove_file(&indexes[0])?;
    let mut bytes = std::fs::read(&indexes[1])?;
    bytes.truncate(100);
    std::fs::write(&indexes[1], bytes)?;
    let (ledger, _) = Ledger::open(small, at(1000))?;
    for number in 0..60 {
        let query = Query::Serial(serial(number).as_bytes().to_vec());
        let page = ledger.search(&query, 10, "")?;
        assert_eq!(
            page.records
                .iter()
                .map(|entry| entry.index)
                .collect::<Vec<_>>(),
            [number]
        );
    }
    let query = Query::Identity("spiffe://example.org/ns/x/sa/3".to_owned());
    let mut found = Vec::new();
    let mut token = String::new();
    loop {
        let page = ledger.search(&query, 4, &token)?;
        assert!(page.records.len() <= 4);
        found.extend(page.records.into_iter().map(|entry| entry.index));
        match page.next {
            Some(next) => token = next,
            None => break,
        }
    }
    assert_eq!(found, [53, 43, 33, 23, 13, 3]);
    assert!(matches!(
        ledger.search(&query, 4, "nonsense"),
        Err(Error::Token)
    ));
    Ok(())
}

#[tokio::test]
async fn the_index_of_valid_certificates_is_the_same_after_a_restart() -> Outcome {
    let directory = tempfile::tempdir()?;
    let small = Options {
        segment_bytes: 2000,
        ..options(directory.path())
    };
    let (ledger, _) = Ledger::open(small.clone(), at(1000))?;
    for number in 0..30 {
        ledger
            .append(vec![issued(number, 1000, 2000 + number * 10)])
            .await?;
    }
    let released = Released {
        serial: serial(29).as_bytes().to_vec(),
        not_after: at(2290),
        reason: "gone".to_owned(),
    };
    ledger.append(vec![Record::new(at(1001), released)]).await?;
    let told = |live: &Live| {
        let now = at(2095);
        let page = live
            .page(&LiveFilter::default(), "", 100, now)
            .expect("readable");
        let root = arx_identity::KeyId::from_slice(&[5; 20]).expect("an id");
        (
            live.count(now),
            live.count_under_root(&root, now),
            page.leaves.len(),
            live.soonest(now).map(|(end, _)| end),
        )
    };
    let before = told(&ledger.live());
    assert_eq!(before, (19, 19, 19, Some(at(2100))));
    drop(ledger);
    let (ledger, _) = Ledger::open(small, at(2095))?;
    ledger.live().ready().await;
    assert_eq!(told(&ledger.live()), before);
    assert_eq!(ledger.live().not_after(&serial(29)), None);
    Ok(())
}

#[tokio::test]
async fn the_list_of_valid_certificates_is_paged_and_filtered() -> Outcome {
    let directory = tempfile::tempdir()?;
    let (ledger, _) = open(directory.path())?;
    fill(&ledger, 0..30).await?;
    let live = ledger.live();
    let mut listed = Vec::new();
    let mut token = String::new();
    loop {
        let page = live.page(&LiveFilter::default(), &token, 7, at(1000))?;
        listed.extend(
            page.leaves
                .into_iter()
                .map(|leaf| (leaf.spiffe_id, leaf.serial.as_bytes().to_vec())),
        );
        match page.next {
            Some(next) => token = next,
            None => break,
        }
    }
    assert_eq!(listed.len(), 30);
    assert!(listed.is_sorted());
    let count = |filter: LiveFilter| {
        live.page(&filter, "", 100, at(1000))
            .map(|page| page.leaves.len())
    };
    let identity = |text: &str| LiveFilter {
        identity: Some(text.to_owned()),
        ..LiveFilter::default()
    };
    assert_eq!(count(identity("spiffe://example.org/ns/x/sa/3"))?, 3);
    assert_eq!(count(identity("spiffe://example.org/ns/x/"))?, 30);
    assert_eq!(count(identity("spiffe://example.org/ns/x/sa"))?, 0);
    for (called, fit) in [("n1", 10), ("c1/n1", 10), ("c2/n1", 0), ("c1/n", 0)] {
        let node = LiveFilter {
            node: Some(called.to_owned()),
            ..LiveFilter::default()
        };
        assert_eq!(count(node)?, fit, "{called}");
    }
    assert_eq!(
        count(LiveFilter {
            serial: Some(serial(4)),
            ..LiveFilter::default()
        })?,
        1
    );
    assert_eq!(live.on_node("c1", "n1", at(1000)).len(), 10);
    assert!(live.nodes(at(1000)).is_empty());
    Ok(())
}

#[tokio::test]
async fn a_node_s_name_finds_the_nodes_of_all_clusters_and_with_its_cluster_one() -> Outcome {
    let directory = tempfile::tempdir()?;
    let (ledger, _) = open(directory.path())?;
    let mut records = vec![issued(1, 1000, 5000)];
    let Event::Issued(elsewhere) = issued(4, 1000, 5000).event else {
        unreachable!("made above");
    };
    let elsewhere = Issued {
        cluster: "c2".to_owned(),
        ..*elsewhere
    };
    records.push(Record::new(at(1000), elsewhere));
    ledger.append(records).await?;
    let live = ledger.live();
    assert_eq!(live.nodes_called("n1"), ["c1/n1", "c2/n1"]);
    assert_eq!(live.nodes_called("c2/n1"), ["c2/n1"]);
    assert_eq!(live.nodes_called("n"), [""; 0]);
    let refused = crate::admin::one_node(&live, "n1".to_owned()).expect_err("two");
    assert!(
        refused.message().contains("say which, c1/n1 or c2/n1"),
        "{refused:?}"
    );
    for one in ["c1/n1", "n7"] {
        let found = crate::admin::one_node(&live, one.to_owned());
        assert_eq!(
            found.map_err(|status| status.to_string())?.as_deref(),
            Some(one)
        );
    }
    Ok(())
}

/// How many segments go when records of the last hour are kept.
async fn prune(ledger: &Ledger, now: u64) -> Result<u32, Box<dyn std::error::Error>> {
    let ledger = ledger.clone();
    let removed =
        tokio::task::spawn_blocking(move || ledger.prune(at(now), Duration::from_secs(3600)))
            .await??;
    Ok(removed.segments)
}

#[tokio::test]
async fn old_segments_are_removed_but_never_one_with_a_valid_certificate() -> Outcome {
    let directory = tempfile::tempdir()?;
    let (ledger, _) = Ledger::open(
        Options {
            segment_bytes: 2000,
            ..options(directory.path())
        },
        at(1000),
    )?;
    for number in 0..40 {
        // One in the middle lives long.
        let end = if number == 20 { 1_000_000 } else { 2000 };
        ledger.append(vec![issued(number, 1000, end)]).await?;
    }
    assert_eq!(prune(&ledger, 1500).await?, 0, "too young");
    assert!(prune(&ledger, 100_000).await? > 0);
    let query = Query::Serial(serial(20).as_bytes().to_vec());
    assert_eq!(
        ledger.search(&query, 1, "")?.records.len(),
        1,
        "the valid one is still there"
    );
    let gone = Query::Serial(serial(0).as_bytes().to_vec());
    assert_eq!(ledger.search(&gone, 1, "")?.records.len(), 0);
    let report = ledger.verify()?;
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    assert!(
        prune(&ledger, 2_000_000).await? > 0,
        "when it has ended, it may go"
    );
    drop(ledger);
    let (ledger, _) = open(directory.path())?;
    assert!(ledger.verify()?.problems.is_empty());
    Ok(())
}

#[tokio::test]
async fn an_export_holds_the_records_of_its_span_as_json_lines() -> Outcome {
    let directory = tempfile::tempdir()?;
    let (ledger, _) = Ledger::open(
        Options {
            segment_bytes: 2000,
            ..options(directory.path())
        },
        at(1000),
    )?;
    fill(&ledger, 0..50).await?;
    let mut export = ledger.export(at(1010), at(1020))?;
    let mut text = Vec::new();
    while let Some(chunk) = export.next_chunk()? {
        text.extend(chunk);
    }
    let lines: Vec<serde_json::Value> = String::from_utf8(text)?
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    let indexes: Vec<_> = lines
        .iter()
        .filter_map(|line| line["index"].as_u64())
        .collect();
    assert!(indexes.into_iter().eq(10..20));
    assert_eq!(lines[0]["spiffe_id"], "spiffe://example.org/ns/x/sa/0");
    assert_eq!(lines[0]["bundle_sequence"], "1.7");
    assert!(
        lines[0].get("replaces").is_none(),
        "what is empty is left out"
    );
    Ok(())
}

#[tokio::test]
async fn a_segment_that_is_removed_under_the_process_pauses_it_until_it_is_back() -> Outcome {
    let directory = tempfile::tempdir()?;
    let (ledger, _) = open(directory.path())?;
    fill(&ledger, 0..3).await?;
    let mut paused = ledger.paused();
    let segment = files(directory.path(), "seg").remove(0);
    let copy = std::fs::read(&segment)?;
    std::fs::remove_file(&segment)?;
    let refused = ledger
        .append(vec![issued(3, 1000, 5000)])
        .await
        .expect_err("not recorded");
    assert_eq!(refused.code(), "ARX-LEDGER-PAUSED");
    paused.wait_for(Option::is_some).await?;
    std::fs::write(&segment, copy)?;
    paused.wait_for(Option::is_none).await?;
    assert_eq!(ledger.append(vec![issued(3, 1000, 5000)]).await?.first, 3);
    assert!(ledger.verify()?.problems.is_empty());
    Ok(())
}

#[tokio::test]
async fn what_is_too_large_is_refused_and_hurts_nobody_else() -> Outcome {
    let directory = tempfile::tempdir()?;
    let (ledger, _) = open(directory.path())?;
    let operator = Operator {
        detail: "x".repeat(MAX_RECORD),
        ..Operator::default()
    };
    let refused = ledger
        .append(vec![Record::new(at(1), operator)])
        .await
        .expect_err("too large");
    assert!(matches!(refused, AppendError::TooLarge { .. }));
    fill(&ledger, 0..1).await?;
    Ok(())
}

#[tokio::test]
async fn a_closed_ledger_has_committed_what_was_queued_and_takes_no_more() -> Outcome {
    let directory = tempfile::tempdir()?;
    let (ledger, _) = open(directory.path())?;
    let queued = ledger.append(vec![issued(0, 1000, 5000)]);
    let closing = ledger.clone();
    tokio::task::spawn_blocking(move || closing.close()).await?;
    assert_eq!(queued.await?.first, 0);
    assert_eq!(
        ledger.append(vec![issued(1, 1000, 5000)]).await,
        Err(AppendError::Closed)
    );
    Ok(())
}

#[tokio::test]
async fn the_newest_records_are_read_from_the_end_over_the_border_of_a_segment() -> Outcome {
    let directory = tempfile::tempdir()?;
    let (ledger, _) = open(directory.path())?;
    assert!(ledger.tail(10)?.is_empty());
    // A segment takes some 5,000 of them, and 256 KiB a thousand.
    let records = |numbers: std::ops::Range<u64>| numbers.map(|number| issued(number, 1000, 5000));
    for begin in (0..6000).step_by(100) {
        ledger.append(records(begin..begin + 100).collect()).await?;
        if (200..4000).contains(&begin) {
            continue;
        }
        let indexes: Vec<_> = ledger.tail(150)?.iter().map(|entry| entry.index).collect();
        let last = begin + 99;
        let expected: Vec<_> = (0..150).map_while(|back| last.checked_sub(back)).collect();
        assert_eq!(indexes, expected);
    }
    assert!(
        files(directory.path(), "seg").len() > 1,
        "a border was crossed"
    );
    Ok(())
}
