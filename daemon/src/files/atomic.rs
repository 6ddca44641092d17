//! Replacing a file whole: readers see the old content or the new, after a power cut too.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags};

/// Replaces the content of `path`, or creates it, with the permissions `mode` whatever the umask is. When this returns
/// `Ok` the content is on disk. On an error the file is as it was, or is the new one whose name may not survive a power
/// cut (only if syncing the directory failed).
///
/// The new content is first written to `.NAME.new` beside it. One such name per file means that a crash leaves at most
/// one of them, which the next write reuses; writers of the same file wait for each other. A symbolic link at `path` is
/// replaced, not followed.
pub fn write_atomically(path: impl AsRef<Path>, content: &[u8], mode: u32) -> io::Result<()> {
    let path = path.as_ref();
    let (directory, temporary) = beside(path)?;
    let mut draft = Draft::open(&temporary, Mode::from_raw_mode(mode))?;
    draft.file.write_all(content)?;
    draft.file.sync_all()?;
    rustix::fs::renameat(CWD, &temporary, CWD, path)?;
    draft.keep = true;
    File::open(directory)?.sync_all()
}

fn beside(path: &Path) -> io::Result<(PathBuf, PathBuf)> {
    let Some(name) = path.file_name() else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the path names no file",
        ));
    };
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(".new");
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    Ok((directory.to_owned(), directory.join(hidden)))
}

/// The file under its temporary name, empty and ours alone; removed again unless it is kept.
struct Draft<'p> {
    path: &'p Path,
    file: File,
    keep: bool,
}

impl<'p> Draft<'p> {
    fn open(path: &'p Path, mode: Mode) -> io::Result<Self> {
        loop {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let file = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?;
            rustix::fs::flock(&file, FlockOperation::LockExclusive)?;
            // Whoever held the lock may have renamed or removed this very file meanwhile: then writing to it would
            // change the published content in place.
            let ours = rustix::fs::fstat(&file)?;
            match rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(named) if (named.st_dev, named.st_ino) == (ours.st_dev, ours.st_ino) => {}
                Ok(_) | Err(rustix::io::Errno::NOENT) => continue,
                Err(error) => return Err(error.into()),
            }
            let draft = Self {
                path,
                file: File::from(file),
                keep: false,
            };
            // Before the first byte: a left-over may have had other permissions.
            rustix::fs::fchmod(&draft.file, mode)?;
            draft.file.set_len(0)?;
            return Ok(draft);
        }
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        if !self.keep {
            // Best effort; the next write takes the left-over anyway.
            let _ = std::fs::remove_file(self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use proptest::prelude::*;

    use super::*;

    type Outcome = Result<(), Box<dyn Error>>;

    fn names(dir: &tempfile::TempDir) -> io::Result<Vec<String>> {
        let mut names: Vec<_> = std::fs::read_dir(dir.path())?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<io::Result<_>>()?;
        names.sort();
        Ok(names)
    }

    #[test]
    fn content_and_mode_are_replaced_and_nothing_else_is_left() -> Outcome {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("state");
        for (content, mode) in [(&b"one"[..], 0o600), (b"", 0o644), (b"three", 0o640)] {
            write_atomically(&path, content, mode)?;
            assert_eq!(std::fs::read(&path)?, content);
            assert_eq!(
                std::fs::metadata(&path)?.permissions().mode() & 0o7777,
                mode
            );
            assert_eq!(names(&dir)?, ["state"]);
        }
        Ok(())
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_and_no_other() -> Outcome {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("state");
        std::fs::create_dir(&path)?;
        std::fs::write(path.join("inside"), "x")?;
        write_atomically(&path, b"new", 0o600).expect_err("a directory is in the way");
        assert_eq!(names(&dir)?, ["state"]);
        assert!(write_atomically(dir.path().join("absent/state"), b"new", 0o600).is_err());
        assert!(write_atomically("/", b"new", 0o600).is_err());
        Ok(())
    }

    #[test]
    fn a_left_over_of_a_crash_is_taken_over_with_the_right_mode() -> Outcome {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("state");
        let left_over = dir.path().join(".state.new");
        std::fs::write(&left_over, "a longer text from before")?;
        std::fs::set_permissions(&left_over, std::fs::Permissions::from_mode(0o666))?;
        write_atomically(&path, b"new", 0o600)?;
        assert_eq!(std::fs::read(&path)?, b"new");
        assert_eq!(
            std::fs::metadata(&path)?.permissions().mode() & 0o7777,
            0o600
        );
        assert_eq!(names(&dir)?, ["state"]);
        Ok(())
    }

    #[test]
    fn links_are_replaced_and_never_written_through() -> Outcome {
        let dir = tempfile::tempdir()?;
        let (path, target) = (dir.path().join("state"), dir.path().join("target"));
        std::fs::write(&target, "precious")?;
        symlink(&target, &path)?;
        write_atomically(&path, b"new", 0o600)?;
        symlink(&target, dir.path().join(".state.new"))?;
        assert!(write_atomically(&path, b"newer", 0o600).is_err());
        assert_eq!(std::fs::read(&target)?, b"precious");
        assert_eq!(std::fs::read(&path)?, b"new");
        Ok(())
    }

    #[test]
    fn writers_of_one_file_never_mix_and_readers_never_see_a_half() -> Outcome {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("state");
        let content = |writer: u8| vec![b'a' + writer; 100 * (usize::from(writer) + 1)];
        write_atomically(&path, &content(0), 0o600)?;
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let path = &path;
                scope.spawn(move || {
                    for _ in 0..20 {
                        write_atomically(path, &content(writer), 0o600).expect("disk takes it");
                    }
                });
            }
            for _ in 0..200 {
                let read = std::fs::read(&path).expect("there from the start");
                assert!((0..4).any(|writer| read == content(writer)), "half a file");
            }
        });
        assert_eq!(names(&dir)?, ["state"]);
        Ok(())
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(content: Vec<u8>) {
            let dir = tempfile::tempdir().expect("a temporary directory");
            let path = dir.path().join("state");
            write_atomically(&path, &content, 0o600).expect("disk takes it");
            prop_assert_eq!(std::fs::read(&path).expect("just written"), content);
        }
    }
}
