use std::time::SystemTime;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::UnixListener;
use tokio::task::JoinSet;

use super::*;
use crate::ledger::{Operator, Options, Record};
use crate::testing::Outcome;

fn ledger(directory: &Path) -> Ledger {
    let options = Options {
        directory: directory.join("ledger"),
        trust_domain: arx_identity::TrustDomain::parse("example.org").expect("a trust domain"),
        segment_bytes: 4096,
        gather: Duration::from_millis(1),
    };
    Ledger::open(options, now()).expect("a new ledger").0
}

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

async fn append(ledger: &Ledger, count: u64) -> Outcome {
    let records = (0..count).map(|number| {
        let operator = Operator {
            who: "a test".to_owned(),
            action: "count".to_owned(),
            detail: number.to_string(),
        };
        Record::new(now(), operator)
    });
    ledger.append(records.collect()).await?;
    Ok(())
}

/// Keeps it, until this is dropped.
fn keep(sink: &Arc<Sink>) -> JoinSet<()> {
    let sink = Arc::clone(sink);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { sink.keep().await });
    tasks
}

fn sink(target: &str, ledger: &Ledger, directory: &Path) -> Arc<Sink> {
    let target = target.parse().expect("a target");
    Arc::new(Sink::new(target, ledger.clone(), directory.join("ledger")))
}

async fn is_at(sink: &Sink, next: u64) -> Outcome {
    let mut progress = sink.progress();
    progress.wait_for(|it| it.next == next).await?;
    Ok(())
}

/// The numbers of the records in a file.
fn numbers(path: &Path) -> Vec<u64> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let number = |line: &str| serde_json::from_str::<Value>(line).ok()?["index"].as_u64();
    text.lines().filter_map(number).collect()
}

#[test]
fn a_target_is_a_file_or_a_socket() {
    for good in ["/var/log/a.jsonl", "unix:/run/a.sock", "tcp:[::1]:5170"] {
        let target: Target = good.parse().expect(good);
        assert_eq!(target.to_string(), good);
    }
    for wrong in [
        "",
        "a.jsonl",
        "unix:a",
        "tcp:5170",
        "tcp::5170",
        "tcp:host:0",
    ] {
        assert!(wrong.parse::<Target>().is_err(), "{wrong}");
    }
}

#[tokio::test]
async fn each_record_is_written_in_order_and_a_restart_goes_on_where_it_was() -> Outcome {
    let directory = tempfile::tempdir()?;
    let ledger = ledger(directory.path());
    let path = directory.path().join("gathered.jsonl");
    let target = path.to_str().ok_or("text")?;
    append(&ledger, 50).await?;
    let first = sink(target, &ledger, directory.path());
    let kept = keep(&first);
    is_at(&first, 50).await?;
    append(&ledger, 50).await?;
    is_at(&first, 100).await?;
    drop(kept);
    append(&ledger, 50).await?;
    // A program that rotates files has come by.
    std::fs::rename(&path, directory.path().join("gathered.jsonl.1"))?;
    let second = sink(target, &ledger, directory.path());
    let _kept = keep(&second);
    is_at(&second, 150).await?;
    let earlier = numbers(&directory.path().join("gathered.jsonl.1"));
    assert_eq!(earlier, (0..100).collect::<Vec<_>>());
    assert_eq!(numbers(&path), (100..150).collect::<Vec<_>>());
    Ok(())
}

#[tokio::test]
async fn a_file_that_is_moved_away_is_made_anew() -> Outcome {
    let directory = tempfile::tempdir()?;
    let ledger = ledger(directory.path());
    let path = directory.path().join("gathered.jsonl");
    let sink = sink(path.to_str().ok_or("text")?, &ledger, directory.path());
    let _kept = keep(&sink);
    append(&ledger, 3).await?;
    is_at(&sink, 3).await?;
    std::fs::rename(&path, directory.path().join("moved"))?;
    append(&ledger, 3).await?;
    is_at(&sink, 6).await?;
    assert_eq!(numbers(&path), [3, 4, 5]);
    Ok(())
}

#[tokio::test]
async fn a_line_that_was_cut_off_is_ended_and_its_record_follows_whole() -> Outcome {
    let directory = tempfile::tempdir()?;
    let ledger = ledger(directory.path());
    let path = directory.path().join("gathered.jsonl");
    std::fs::write(&path, "{\"index\":0}\n{\"index\":1,\"ev")?;
    append(&ledger, 3).await?;
    let sink = sink(path.to_str().ok_or("text")?, &ledger, directory.path());
    let _kept = keep(&sink);
    is_at(&sink, 3).await?;
    let text = std::fs::read_to_string(&path)?;
    assert_eq!(text.lines().count(), 5);
    assert_eq!(numbers(&path), [0, 0, 1, 2]);
    Ok(())
}

#[tokio::test]
async fn what_is_no_file_of_its_own_is_refused_and_never_waited_for() -> Outcome {
    let directory = tempfile::tempdir()?;
    let ledger = ledger(directory.path());
    append(&ledger, 1).await?;
    let elsewhere = directory.path().join("elsewhere");
    std::fs::write(&elsewhere, "")?;
    let link = directory.path().join("link");
    std::os::unix::fs::symlink(&elsewhere, &link)?;
    let pipe = directory.path().join("pipe");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, mode)?;
    for (path, says) in [(&link, "symbolic link"), (&pipe, "no file")] {
        let sink = sink(path.to_str().ok_or("text")?, &ledger, directory.path());
        let _kept = keep(&sink);
        let mut progress = sink.progress();
        let told = progress.wait_for(|it| it.trouble.is_some()).await?;
        let trouble = told.trouble.clone().unwrap_or_default();
        assert!(trouble.contains(says), "{trouble}");
    }
    assert_eq!(std::fs::read_to_string(&elsewhere)?, "");
    Ok(())
}

#[tokio::test]
async fn a_peer_that_has_hung_up_is_noticed_before_anything_is_written_to_it() -> Outcome {
    let directory = tempfile::tempdir()?;
    let ledger = ledger(directory.path());
    let path = directory.path().join("lines.sock");
    let listener = UnixListener::bind(&path)?;
    let target = format!("unix:{}", path.display());
    let sink = sink(&target, &ledger, directory.path());
    let _kept = keep(&sink);
    append(&ledger, 1).await?;
    let (stream, _) = listener.accept().await?;
    let mut lines = BufReader::new(stream).lines();
    lines.next_line().await?.ok_or("a line")?;
    is_at(&sink, 1).await?;
    drop(lines);
    append(&ledger, 1).await?;
    let (stream, _) = listener.accept().await?;
    let line = BufReader::new(stream).lines().next_line().await?;
    let value: Value = serde_json::from_str(&line.ok_or("a line")?)?;
    assert_eq!(value["index"], 1);
    Ok(())
}

#[tokio::test]
async fn a_socket_that_is_away_is_told_of_and_gets_everything_when_it_is_there() -> Outcome {
    let directory = tempfile::tempdir()?;
    let ledger = ledger(directory.path());
    let path = directory.path().join("lines.sock");
    let target = format!("unix:{}", path.display());
    let sink = sink(&target, &ledger, directory.path());
    let _kept = keep(&sink);
    append(&ledger, 20).await?;
    let mut progress = sink.progress();
    progress.wait_for(|it| it.trouble.is_some()).await?;
    let listener = UnixListener::bind(&path)?;
    let (stream, _) = listener.accept().await?;
    let mut lines = BufReader::new(stream).lines();
    for number in 0..20 {
        let line = lines.next_line().await?.ok_or("a line")?;
        let value: Value = serde_json::from_str(&line)?;
        assert_eq!(value["index"], number);
        assert_eq!(value["event"], "operator");
    }
    progress
        .wait_for(|it| it.next == 20 && it.trouble.is_none())
        .await?;
    Ok(())
}

#[tokio::test]
async fn what_was_removed_before_it_was_gathered_is_counted() -> Outcome {
    let directory = tempfile::tempdir()?;
    let ledger = ledger(directory.path());
    append(&ledger, 200).await?;
    append(&ledger, 1).await?;
    let later = now() + Duration::from_secs(10 * 86_400);
    let pruning = ledger.clone();
    let removed =
        tokio::task::spawn_blocking(move || pruning.prune(later, Duration::from_secs(3600)));
    let removed = removed.await??;
    assert!(removed.segments > 0);
    let path = directory.path().join("gathered.jsonl");
    let sink = sink(path.to_str().ok_or("text")?, &ledger, directory.path());
    let _kept = keep(&sink);
    let all = ledger.status().records;
    is_at(&sink, all).await?;
    let left = numbers(&path);
    let missed = sink.progress().borrow().missed;
    assert_eq!(missed, left[0]);
    assert_eq!(missed + left.len() as u64, all);
    Ok(())
}
