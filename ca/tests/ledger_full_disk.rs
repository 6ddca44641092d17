//! The ledger on a disk that does not take what it should. The disk is a file system of the
//! test's own, which only root may mount: for others these tests say that they are skipped.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arx_ca::ledger::{
    AppendError, Cause, Content, Event, Issued, Ledger, Options, Query, Record, Validity,
};
use arx_identity::TrustDomain;
use tempfile::TempDir;

type Outcome = Result<(), Box<dyn std::error::Error>>;

const DOMAIN: &str = "example.org";

/// One megabyte that can be taken away, and made read-only.
struct SmallDisk {
    /// Last, so that the directory goes after the file system in it.
    directory: TempDir,
}

impl SmallDisk {
    fn mount() -> Result<Option<Self>, Box<dyn std::error::Error>> {
        let directory = tempfile::tempdir()?;
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
            .arg(directory.path())
            .output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Ok(Some(Self { directory }));
        }
        eprintln!("skipped: mounting a file system needs root");
        Ok(None)
    }

    fn remount(&self, option: &str) -> Outcome {
        let output = Command::new("mount")
            .args(["-o", &format!("remount,{option}")])
            .arg(self.directory.path())
            .output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        output.status.success().then_some(()).ok_or(said)?;
        Ok(())
    }

    /// Takes all space that is left.
    fn fill(&self) -> Result<PathBuf, std::io::Error> {
        let path = self.directory.path().join("filling");
        let mut file = File::create(&path)?;
        while file.write_all(&[0; 4096]).is_ok() {}
        while file.write_all(&[0]).is_ok() {}
        Ok(path)
    }

    fn ledger(&self) -> PathBuf {
        self.directory.path().join("ledger")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _unmounted = Command::new("umount")
            .arg("-l")
            .arg(self.directory.path())
            .output();
    }
}

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_780_000_000)
}

fn options(directory: &Path, segment_bytes: u64) -> Options {
    Options {
        directory: directory.to_owned(),
        trust_domain: TrustDomain::parse(DOMAIN).expect("it is one"),
        segment_bytes,
        gather: Duration::from_millis(1),
    }
}

fn serial(number: u64) -> Vec<u8> {
    [&[1; 8][..], &number.to_be_bytes()].concat()
}

fn issued(number: u64) -> Record {
    let issued = Issued {
        spiffe_id: format!("spiffe://{DOMAIN}/ns/x/sa/y"),
        serial: serial(number),
        issuer_key_id: vec![4; 20],
        root_key_id: vec![5; 20],
        validity: Validity {
            not_before: now(),
            not_after: now() + Duration::from_secs(3600),
        },
        evidence: "e".repeat(500),
        ..Issued::default()
    };
    Record::new(now(), issued)
}

/// Appends from eight sides at once until each is refused. Answers what was acknowledged,
/// by place in the ledger, and the refusals.
async fn append_until_refused(
    ledger: &Ledger,
    from: u64,
) -> Result<(BTreeMap<u64, u64>, Vec<AppendError>), Box<dyn std::error::Error>> {
    let mut sides = tokio::task::JoinSet::new();
    for side in 0..8 {
        let ledger = ledger.clone();
        sides.spawn(async move {
            let mut acknowledged = BTreeMap::new();
            for number in (from + side..).step_by(8) {
                match ledger.append(vec![issued(number)]).await {
                    Ok(receipt) => acknowledged.insert(receipt.first, number),
                    Err(error) => return (acknowledged, error),
                };
            }
            unreachable!("numbers do not end before a disk of one megabyte")
        });
    }
    let (mut acknowledged, mut refusals) = (BTreeMap::new(), Vec::new());
    while let Some(side) = sides.join_next().await {
        let (of_side, refusal) = side?;
        acknowledged.extend(of_side);
        refusals.push(refusal);
    }
    Ok((acknowledged, refusals))
}

/// Exactly what was acknowledged is in the ledger, each at the place that was told.
fn holds(ledger: &Ledger, acknowledged: &BTreeMap<u64, u64>) -> Outcome {
    let report = ledger.verify()?;
    assert_eq!(report.problems, []);
    assert_eq!(report.torn, None);
    assert_eq!(report.records, acknowledged.len() as u64);
    for (place, number) in acknowledged {
        let page = ledger.search(&Query::Serial(serial(*number)), 10, "")?;
        let [entry] = &page.records[..] else {
            return Err(format!("{} records of number {number}", page.records.len()).into());
        };
        assert_eq!(entry.index, *place);
        assert!(matches!(&entry.content, Content::Known(Event::Issued(_))));
    }
    Ok(())
}

/// Fills the disk under a ledger with segments of this size, frees it, and looks.
async fn full_and_free_again(segment_bytes: u64) -> Outcome {
    let Some(disk) = SmallDisk::mount()? else {
        return Ok(());
    };
    let (ledger, _) = Ledger::open(options(&disk.ledger(), segment_bytes), now())?;
    let mut paused = ledger.paused();
    let (mut acknowledged, refusals) = append_until_refused(&ledger, 0).await?;
    assert!(!acknowledged.is_empty());
    for refusal in refusals {
        let AppendError::Paused(pause) = refusal else {
            return Err(refusal.into());
        };
        assert_eq!(pause.cause, Cause::DiskFull);
    }
    // The rest that a trial would need may have been left: nothing of it stays.
    let filling = disk.fill()?;
    paused.wait_for(Option::is_some).await?;
    holds(&ledger, &acknowledged)?;

    std::fs::remove_file(filling)?;
    disk.remount("size=4m")?;
    paused.wait_for(Option::is_none).await?;
    let receipt = ledger.append(vec![issued(u64::MAX)]).await?;
    assert_eq!(receipt.first, acknowledged.len() as u64);
    acknowledged.insert(receipt.first, u64::MAX);
    holds(&ledger, &acknowledged)?;

    ledger.close();
    drop(ledger);
    let (ledger, recovery) = Ledger::open(options(&disk.ledger(), segment_bytes), now())?;
    assert_eq!(recovery.torn, None);
    assert_eq!(recovery.records, acknowledged.len() as u64);
    holds(&ledger, &acknowledged)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_fills_within_a_segment_loses_nothing_and_is_used_again_when_it_has_space()
-> Outcome {
    full_and_free_again(64 * 1024 * 1024).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_fills_over_many_segments_loses_nothing_and_is_used_again_when_it_has_space()
-> Outcome {
    full_and_free_again(16 * 1024).await
}

#[tokio::test]
async fn a_read_only_disk_can_be_verified_and_opening_on_it_is_an_error_that_passes() -> Outcome {
    let Some(disk) = SmallDisk::mount()? else {
        return Ok(());
    };
    let (ledger, _) = Ledger::open(options(&disk.ledger(), 16 * 1024), now())?;
    let mut acknowledged = BTreeMap::new();
    for number in 0..100 {
        let receipt = ledger.append(vec![issued(number)]).await?;
        acknowledged.insert(receipt.first, number);
    }
    let head = ledger.status().head;
    ledger.close();
    drop(ledger);

    // A thread that still writes an index keeps the file system busy for a moment.
    tokio::time::timeout(Duration::from_secs(30), async {
        while disk.remount("ro").is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await?;
    let Err(error) = Ledger::open(options(&disk.ledger(), 16 * 1024), now()) else {
        return Err("it was opened on a read-only disk".into());
    };
    assert!(error.passes(), "{error}");
    let report = Ledger::verify_directory(&disk.ledger(), DOMAIN)?;
    assert_eq!((report.records, report.head), (100, head));
    assert_eq!(report.problems, []);

    disk.remount("rw")?;
    let (ledger, recovery) = Ledger::open(options(&disk.ledger(), 16 * 1024), now())?;
    assert_eq!(recovery.torn, None);
    holds(&ledger, &acknowledged)
}
