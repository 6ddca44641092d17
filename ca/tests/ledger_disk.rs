//! The ledger on disks that take no more: a small file system is mounted for it, which
//! needs root.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use arx_ca::ledger::{
    AppendError, Cause, Issued, Ledger, Options, Query, Record, Recovery, Validity,
};
use arx_identity::TrustDomain;

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// Runs a program, and says what it has said if it fails.
fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program}: {}", said.trim()))
}

/// A file system of its own, unmounted in the end.
struct Disk(PathBuf);

impl Disk {
    /// Mounts it; `None` where that is not allowed, and says so.
    fn mount(at: &Path, arguments: &[&str]) -> std::io::Result<Option<Self>> {
        std::fs::create_dir_all(at)?;
        let at_text = at.to_str().expect("temporary paths are text");
        match run("mount", &[arguments, &[at_text]].concat()) {
            Ok(()) => Ok(Some(Self(at.to_owned()))),
            Err(reason) => {
                eprintln!("skipped, a file system could not be mounted: {reason}");
                Ok(None)
            }
        }
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("temporary paths are text")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _gone = run("umount", &["-l", self.path()]);
    }
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn open(directory: &Path) -> Result<(Ledger, Recovery), arx_ca::ledger::Error> {
    let options = Options {
        directory: directory.to_owned(),
        trust_domain: TrustDomain::parse("example.org").expect("a trust domain"),
        segment_bytes: 256 * 1024,
        gather: Duration::ZERO,
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
        spiffe_id: "spiffe://example.org/web".to_owned(),
        serial: serial(number),
        validity: Validity {
            not_before: at(1000),
            not_after: at(5000),
        },
        evidence: "e".repeat(1000),
        ..Issued::default()
    };
    Record::new(at(1000), issued)
}

/// Appends one after the other until one is refused; answers how many there are.
async fn append_until_refused(ledger: &Ledger, mut recorded: u64) -> (u64, AppendError) {
    loop {
        match ledger.append(vec![issued(recorded)]).await {
            Ok(_) => recorded += 1,
            Err(error) => return (recorded, error),
        }
    }
}

fn cause(error: &AppendError) -> Option<Cause> {
    match error {
        AppendError::Paused(pause) => Some(pause.cause),
        _ => None,
    }
}

fn all_are_there(ledger: &Ledger, recorded: u64) -> Outcome {
    for number in 0..recorded {
        let found = ledger.search(&Query::Serial(serial(number)), 2, "")?;
        assert_eq!(found.records.len(), 1, "record {number}");
    }
    let report = ledger.verify()?;
    assert_eq!((report.records, report.problems), (recorded, Vec::new()));
    Ok(())
}

#[tokio::test]
async fn a_full_disk_pauses_the_ledger_and_it_goes_on_by_itself() -> Outcome {
    let directory = tempfile::tempdir()?;
    let size = ["-t", "tmpfs", "-o", "size=1m", "tmpfs"];
    let Some(disk) = Disk::mount(&directory.path().join("disk"), &size)? else {
        return Ok(());
    };
    let filling = disk.0.join("filling");
    // Enough for what is searched for, not for a segment.
    std::fs::write(&filling, vec![0; 200 * 1024])?;
    let ledger_directory = disk.0.join("ledger");
    let (ledger, _) = open(&ledger_directory)?;
    let mut paused = ledger.paused();
    let (recorded, refused) = append_until_refused(&ledger, 0).await;
    assert_eq!(cause(&refused), Some(Cause::DiskFull), "{refused}");
    assert!(recorded > 100, "{recorded} fit");
    assert_eq!(
        paused
            .wait_for(Option::is_some)
            .await?
            .as_ref()
            .map(|pause| pause.cause),
        Some(Cause::DiskFull)
    );
    all_are_there(&ledger, recorded)?;

    std::fs::remove_file(&filling)?;
    paused.wait_for(Option::is_none).await?;
    let (recorded, refused) = append_until_refused(&ledger, recorded).await;
    assert_eq!(cause(&refused), Some(Cause::DiskFull), "{refused}");
    all_are_there(&ledger, recorded)?;

    // Also where it ends while the disk is full.
    drop(ledger);
    let (ledger, recovery) = open(&ledger_directory)?;
    assert_eq!(recovery.records, recorded);
    all_are_there(&ledger, recorded)?;
    Ok(())
}

#[tokio::test]
async fn a_disk_that_becomes_read_only_pauses_the_ledger_and_nothing_is_lost() -> Outcome {
    let directory = tempfile::tempdir()?;
    let image = directory.path().join("image");
    std::fs::File::create(&image)?.set_len(8 * 1024 * 1024)?;
    let image = image.to_str().expect("temporary paths are text");
    if let Err(reason) = run("mkfs.ext4", &["-q", image]) {
        eprintln!("skipped, there is no ext4: {reason}");
        return Ok(());
    }
    let place = directory.path().join("disk");
    let Some(disk) = Disk::mount(&place, &["-o", "loop", image])? else {
        return Ok(());
    };
    let (ledger, _) = open(&disk.0.join("ledger"))?;
    for number in 0..100 {
        ledger.append(vec![issued(number)]).await?;
    }
    // What it does by itself when the device fails.
    run("mount", &["-o", "remount,abort", disk.path()])?;
    let (recorded, refused) = append_until_refused(&ledger, 100).await;
    assert_eq!(cause(&refused), Some(Cause::ReadOnly), "{refused}");
    assert_eq!(recorded, 100);
    all_are_there(&ledger, recorded)?;
    drop(ledger);
    drop(disk);

    let Some(disk) = Disk::mount(&place, &["-o", "loop", image])? else {
        return Ok(());
    };
    run("mount", &["-o", "remount,ro", disk.path()])?;
    let refused = open(&disk.0.join("ledger")).expect_err("it can't be written");
    assert!(refused.passes(), "{refused}");
    run("mount", &["-o", "remount,rw", disk.path()])?;
    let (ledger, recovery) = open(&disk.0.join("ledger"))?;
    assert_eq!(recovery.records, recorded);
    ledger.append(vec![issued(recorded)]).await?;
    all_are_there(&ledger, recorded + 1)
}

#[tokio::test]
async fn others_can_use_the_space_that_trials_would_take() -> Outcome {
    let directory = tempfile::tempdir()?;
    let size = ["-t", "tmpfs", "-o", "size=256k", "tmpfs"];
    let Some(disk) = Disk::mount(&directory.path().join("disk"), &size)? else {
        return Ok(());
    };
    let (ledger, _) = open(&disk.0.join("ledger"))?;
    let mut paused = ledger.paused();
    let mut other = std::fs::File::create(disk.0.join("other"))?;
    while other.write_all(&[0; 4096]).is_ok() {}
    let (recorded, refused) = append_until_refused(&ledger, 0).await;
    assert_eq!(cause(&refused), Some(Cause::DiskFull), "{refused}");
    // Less than a trial needs: the ledger stays paused, and leaves it to others.
    other.set_len(other.metadata()?.len() - 16 * 1024)?;
    assert!(ledger.append(vec![issued(recorded)]).await.is_err());
    std::fs::write(disk.0.join("small"), [0; 1024])?;
    drop(other);
    std::fs::remove_file(disk.0.join("other"))?;
    paused.wait_for(Option::is_none).await?;
    ledger.append(vec![issued(recorded)]).await?;
    all_are_there(&ledger, recorded + 1)
}
