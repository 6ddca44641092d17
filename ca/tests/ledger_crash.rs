//! A process that appends and is killed at any moment. The other process is this test
//! binary again, told by its environment to play its part.
//!
//! Twenty kills by default; `ARX_CHAOS=N` for more, `ARX_CHAOS_SEED=S` to repeat a run.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use arx_ca::ledger::{Issued, Ledger, Options, Query, Record, Recovery, Validity};
use arx_identity::{TrustDomain, crypto};

type Outcome = Result<(), Box<dyn std::error::Error>>;

const DIRECTORY: &str = "ARX_TEST_LEDGER";
const ROUND: &str = "ARX_TEST_ROUND";

fn number_from(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Numbers that repeat with their seed (xorshift).
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn open(directory: &Path) -> Result<(Ledger, Recovery), arx_ca::ledger::Error> {
    let options = Options {
        directory: directory.to_owned(),
        trust_domain: TrustDomain::parse("example.org").expect("a trust domain"),
        // Small, so that kills meet segments that are just begun.
        segment_bytes: 8 * 1024,
        gather: Duration::from_millis(1),
    };
    Ledger::open(options, at(1000))
}

fn serial(number: u64) -> Vec<u8> {
    let mut serial = vec![1];
    serial.extend_from_slice(&number.to_be_bytes());
    serial
}

fn issued(number: u64) -> Record {
    let issued = Issued {
        spiffe_id: format!("spiffe://example.org/{}", number % 7),
        serial: serial(number),
        validity: Validity {
            not_before: at(1000),
            not_after: at(5000),
        },
        evidence: "e".repeat(usize::try_from(number % 500).unwrap_or(0)),
        ..Issued::default()
    };
    Record::new(at(1000), issued)
}

#[tokio::test]
#[ignore = "a part that another test has played"]
async fn append_until_killed() {
    let Some(directory) = std::env::var_os(DIRECTORY) else {
        return;
    };
    let round = number_from(ROUND).expect("the other side counts");
    let (ledger, _) = open(Path::new(&directory)).expect("it opens");
    let mut all = tokio::task::JoinSet::new();
    for appender in 0..6 {
        let ledger = ledger.clone();
        all.spawn(async move {
            for batch in 0.. {
                let first = (((round * 6) + appender) << 32) + batch * 3;
                let announced = ledger.announce();
                let append = ledger.append((first..first + 3).map(issued).collect());
                drop(announced);
                append.await.expect("the disk takes it");
                let mut out = std::io::stdout().lock();
                writeln!(out, "recorded {first}").expect("the other side reads");
                out.flush().expect("the other side reads");
            }
        });
    }
    while all.join_next().await.is_some() {}
}

/// Lets the other process append, kills it after some time, and answers what it was told
/// is recorded.
fn append_and_kill(directory: &Path, round: u64, dice: &mut Dice) -> std::io::Result<Vec<u64>> {
    let mut child = Command::new(std::env::current_exe()?)
        .args([
            "--ignored",
            "--exact",
            "--nocapture",
            "--test-threads=1",
            "append_until_killed",
        ])
        .env(DIRECTORY, directory)
        .env(ROUND, round.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let out = child.stdout.take().expect("it is piped");
    let mut lines = BufReader::new(out).lines();
    let mut recorded = Vec::new();
    let mut left = dice.below(60);
    // The last line is whole: what is written at once is read at once, up to 4 KiB.
    let take = |line: std::io::Result<String>, recorded: &mut Vec<u64>| {
        let number = line?.strip_prefix("recorded ").map(str::parse::<u64>);
        recorded.extend(number.and_then(Result::ok));
        Ok::<_, std::io::Error>(())
    };
    while left > 0 {
        let Some(line) = lines.next() else { break };
        take(line, &mut recorded)?;
        left -= 1;
    }
    // Somewhere between two answers.
    for _ in 0..dice.below(2000) {
        std::thread::yield_now();
    }
    child.kill()?;
    child.wait()?;
    for line in lines {
        take(line, &mut recorded)?;
    }
    Ok(recorded)
}

#[tokio::test]
async fn whatever_was_acknowledged_before_a_kill_is_there_and_verifies() -> Outcome {
    let directory = tempfile::tempdir()?;
    let seed = number_from("ARX_CHAOS_SEED");
    let seed = seed.unwrap_or_else(|| u64::from_be_bytes(crypto::random())) | 1;
    eprintln!("ARX_CHAOS_SEED={seed}");
    let mut dice = Dice(seed);
    let mut recorded = Vec::new();
    for round in 0..number_from("ARX_CHAOS").unwrap_or(20) {
        let new = append_and_kill(directory.path(), round, &mut dice)?;
        let (ledger, recovery) = open(directory.path())?;
        let report = ledger.verify()?;
        assert_eq!(report.problems, [], "round {round}");
        assert_eq!(report.records, recovery.records, "round {round}");
        for number in new.iter().flat_map(|first| *first..*first + 3) {
            let found = ledger.search(&Query::Serial(serial(number)), 2, "")?;
            assert_eq!(found.records.len(), 1, "round {round}, number {number}");
        }
        ledger.live().ready().await;
        assert_eq!(ledger.live().count(at(1000)), recovery.records);
        recorded.extend(new);
    }
    let (ledger, _) = open(directory.path())?;
    for first in &recorded {
        let found = ledger.search(&Query::Serial(serial(*first)), 2, "")?;
        assert_eq!(found.records.len(), 1, "number {first}");
    }
    let segments = ledger.status().segments;
    eprintln!("{} appends, {segments} segments", recorded.len());
    assert!(!recorded.is_empty());
    Ok(())
}
