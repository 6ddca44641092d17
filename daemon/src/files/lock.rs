//! One process at a time: a lock file that says who holds it.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{FlockOperation, Mode, OFlags};

use crate::clock::rfc3339;

/// Longest note that is read from a lock file.
const NOTE: u64 = 256;

/// An exclusive lock on a path, held until it is dropped or the process ends, however it ends.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

/// Who holds a lock, by its own note in the lock file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its process id (in its own pid namespace).
    pub pid: u32,
    /// When it took the lock.
    pub since: SystemTime,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} since {}", self.pid, rfc3339(self.since))
    }
}

/// Why a lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Held {
    /// Another process has it.
    #[error("{} is held by {}; stop that process first, or use another directory", .path.display(), ByWhom(.holder))]
    By {
        /// The lock file.
        path: PathBuf,
        /// Absent if the holder has not written its note yet.
        holder: Option<Holder>,
    },
    /// The lock file can't be made or locked.
    #[error("{} cannot be locked: {error}", .path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// The system's answer.
        error: io::Error,
    },
}

struct ByWhom<'h>(&'h Option<Holder>);

impl fmt::Display for ByWhom<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(holder) => holder.fmt(f),
            None => f.write_str("another process"),
        }
    }
}

/// Locks `path` (created with mode 0600 if it is not there) for this process, without waiting, and notes who we are
/// and `now` in it.
///
/// The kernel's lock (flock) decides, not the note: what a killed process left in the file locks nobody out. The file
/// stays when the lock goes; removing it would let two processes hold locks on two files of one name.
pub fn lock_exclusive(path: impl AsRef<Path>, now: SystemTime) -> Result<Lock, Held> {
    let path = path.as_ref();
    take(path, now)
        .map_err(|error| Held::Io {
            path: path.to_owned(),
            error,
        })?
        .map_err(|holder| {
            let path = path.to_owned();
            Held::By { path, holder }
        })
}

fn take(path: &Path, now: SystemTime) -> io::Result<Result<Lock, Option<Holder>>> {
    loop {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(Err(read_note(File::from(file)))),
            Err(error) => return Err(error.into()),
        }
        // Somebody may have removed the file between open and lock: then the next comer would lock another file.
        let ours = rustix::fs::fstat(&file)?;
        match rustix::fs::stat(path) {
            Ok(named) if (named.st_dev, named.st_ino) == (ours.st_dev, ours.st_ino) => {}
            Ok(_) | Err(rustix::io::Errno::NOENT) => continue,
            Err(error) => return Err(error.into()),
        }
        let mut lock = Lock {
            file: File::from(file),
        };
        // A full disk must not keep a process from starting: the note is a courtesy, the lock is what counts.
        if let Err(error) = lock.write_note(now) {
            tracing::debug!(path = %path.display(), %error, "the lock is held, but its holder could not be noted in it");
        }
        return Ok(Ok(lock));
    }
}

impl Lock {
    fn write_note(&mut self, now: SystemTime) -> io::Result<()> {
        let millis = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
            .as_millis();
        let note = format!(
            "{} {millis}\nheld by pid {} since {}\n",
            std::process::id(),
            std::process::id(),
            rfc3339(now)
        );
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.file.write_all(note.as_bytes())
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // So that nobody reads our note while the next holder has not written its own yet.
        let _ = self.file.set_len(0);
    }
}

fn read_note(file: File) -> Option<Holder> {
    let mut note = String::new();
    file.take(NOTE).read_to_string(&mut note).ok()?;
    parse_note(&note)
}

fn parse_note(note: &str) -> Option<Holder> {
    let (pid, millis) = note.lines().next()?.split_once(' ')?;
    let since = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis.parse().ok()?))?;
    Some(Holder {
        pid: pid.parse().ok()?,
        since,
    })
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use proptest::prelude::*;

    use super::*;

    type Outcome = Result<(), Box<dyn Error>>;

    fn noon() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(1_780_000_000_123)
    }

    #[test]
    fn the_second_is_told_who_holds_it_and_since_when() -> Outcome {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("lock");
        let lock = lock_exclusive(&path, noon())?;
        match lock_exclusive(&path, noon() + Duration::from_secs(60)) {
            Err(
                error @ Held::By {
                    holder: Some(holder),
                    ..
                },
            ) => {
                assert_eq!(
                    holder,
                    Holder {
                        pid: std::process::id(),
                        since: noon()
                    }
                );
                assert_eq!(
                    error.to_string(),
                    format!(
                        "{} is held by process {} since 2026-05-28T20:26:40.123Z; \
                         stop that process first, or use another directory",
                        path.display(),
                        std::process::id()
                    )
                );
            }
            other => panic!("{other:?}"),
        }
        drop(lock);
        lock_exclusive(&path, noon())?;
        Ok(())
    }

    #[test]
    fn what_a_killed_process_left_in_the_file_locks_nobody_out() -> Outcome {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("lock");
        std::fs::write(&path, "1 0\nheld by pid 1, or so it says\n")?;
        let _lock = lock_exclusive(&path, noon())?;
        assert!(std::fs::read_to_string(&path)?.starts_with(&format!("{} ", std::process::id())));
        Ok(())
    }

    #[test]
    fn a_holder_that_has_left_no_note_is_still_a_holder() -> Outcome {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("lock");
        let _lock = lock_exclusive(&path, noon())?;
        std::fs::write(&path, "\u{0}garbage")?;
        let error = lock_exclusive(&path, noon()).expect_err("held");
        assert!(
            error.to_string().contains("is held by another process"),
            "{error}"
        );
        Ok(())
    }

    #[test]
    fn a_removed_lock_file_does_not_let_two_in_unseen() -> Outcome {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("lock");
        let first = lock_exclusive(&path, noon())?;
        std::fs::remove_file(&path)?;
        // The removed file is locked by `first`, the new one by `second`; a third must meet the second.
        let second = lock_exclusive(&path, noon())?;
        drop(first);
        assert!(matches!(
            lock_exclusive(&path, noon()),
            Err(Held::By { .. })
        ));
        drop(second);
        Ok(())
    }

    #[test]
    fn a_place_that_cannot_be_locked_is_named() {
        let error = lock_exclusive("/nowhere/at/all/lock", noon()).expect_err("no such directory");
        assert!(
            error
                .to_string()
                .starts_with("/nowhere/at/all/lock cannot be locked: "),
            "{error}"
        );
    }

    proptest! {
        #[test]
        fn any_note_is_understood_or_passed_over(note in "\\PC{0,40}|[0-9]{1,22} [0-9]{1,22}\n?") {
            let _ = parse_note(&note);
        }
    }
}
