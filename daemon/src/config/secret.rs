//! Files that hold a secret: read only if nobody else could have read them. Their content is in no message.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, Stat};
use zeroize::Zeroizing;

use super::ConfigError;

/// Longer secrets are refused: 64 KiB, several times the longest chain with an RSA-4096 key.
const LIMIT: usize = 64 << 10;

/// Reads a file that holds a key or a token.
///
/// Refused: a file that group or others may read, write or execute; one that belongs neither to this process's user nor
/// to root; one that is missing, empty, longer than 64 KiB, or not a regular file. Symbolic links are followed (secrets
/// in Kubernetes are mounted through them); what counts is the file at their end.
///
/// Not refused: a file of root's that a group may read, and no more, of which this process is and which is not root's.
/// A process that is not root gets secrets in Kubernetes no other way (`fsGroup`).
pub fn secret_file(path: impl AsRef<Path>) -> Result<Zeroizing<Vec<u8>>, ConfigError> {
    let path = path.as_ref();
    read(path)
        .map_err(|Refused { reason, remedy }| ConfigError::in_file(path, None, reason, remedy))
}

struct Refused {
    reason: String,
    remedy: String,
}

impl Refused {
    fn new(reason: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            remedy: remedy.into(),
        }
    }

    fn unreadable(error: io::Error) -> Self {
        Self::new(
            format!("cannot be read: {error}"),
            "give this process's user the right to read it",
        )
    }
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, Refused> {
    // NONBLOCK: the open of a pipe would otherwise wait for a writer. Everything is asked of the open file, not of the
    // path, which may have come to mean another file in between.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| match error {
        rustix::io::Errno::NOENT => Refused::new("no such file", "create it, or correct the path"),
        error => Refused::unreadable(error.into()),
    })?;
    let stat = rustix::fs::fstat(&file).map_err(|error| Refused::unreadable(error.into()))?;
    refuse_exposed(&stat, &Reader::this_process(), path)?;

    // Room for everything at once: a vector that grows leaves copies of the secret behind.
    let mut secret = Zeroizing::new(vec![0; LIMIT + 1]);
    let mut length = 0;
    let mut file = File::from(file);
    while length < secret.len() {
        match file.read(&mut secret[length..]) {
            Ok(0) => break,
            Ok(n) => length += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Refused::unreadable(error)),
        }
    }
    match length {
        0 => Err(Refused::new("empty", "write the secret into it")),
        n if n > LIMIT => Err(Refused::new(
            "longer than 64 KiB",
            "name the file that holds the secret",
        )),
        n => {
            secret.truncate(n);
            Ok(secret)
        }
    }
}

/// Who reads.
struct Reader {
    user: u32,
    groups: Vec<u32>,
}

impl Reader {
    fn this_process() -> Self {
        // Without its other groups it has none of them, and less is believed.
        let others = rustix::process::getgroups().unwrap_or_default();
        let own = rustix::process::getegid();
        Self {
            user: rustix::process::geteuid().as_raw(),
            groups: others
                .into_iter()
                .chain([own])
                .map(|group| group.as_raw())
                .collect(),
        }
    }

    /// Whether root has given the file to a group of this reader's, to be read.
    fn is_given(&self, stat: &Stat, mode: Mode) -> bool {
        stat.st_uid == 0
            && stat.st_gid != 0
            && self.groups.contains(&stat.st_gid)
            && !mode.intersects(Mode::WGRP | Mode::XGRP | Mode::RWXO)
    }
}

fn refuse_exposed(stat: &Stat, reader: &Reader, path: &Path) -> Result<(), Refused> {
    let user = reader.user;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Refused::new(
            "not a regular file",
            "name the file that holds the secret",
        ));
    }
    let mode = Mode::from_raw_mode(stat.st_mode);
    if mode.intersects(Mode::RWXG | Mode::RWXO) && !reader.is_given(stat, mode) {
        let reason = format!("open to group or others (mode {:04o})", mode.as_raw_mode());
        return Err(Refused::new(
            reason,
            format!("run chmod 600 {}", path.display()),
        ));
    }
    if stat.st_uid != user && stat.st_uid != 0 {
        let reason = format!("belongs to uid {}, who could change it", stat.st_uid);
        return Err(Refused::new(
            reason,
            format!("run chown {user} {}", path.display()),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::error::Error;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::PathBuf;

    use super::*;

    type Outcome = Result<(), Box<dyn Error>>;

    fn file(dir: &tempfile::TempDir, content: &[u8], mode: u32) -> io::Result<PathBuf> {
        let path = dir.path().join("secret.key");
        std::fs::write(&path, content)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))?;
        Ok(path)
    }

    fn refusal(path: &Path) -> String {
        secret_file(path).expect_err("must be refused").to_string()
    }

    #[test]
    fn a_private_file_is_read_also_through_a_symbolic_link() -> Outcome {
        let dir = tempfile::tempdir()?;
        let path = file(&dir, b"hush", 0o600)?;
        assert_eq!(*secret_file(&path)?, b"hush");
        let link = dir.path().join("link");
        symlink(&path, &link)?;
        assert_eq!(*secret_file(&link)?, b"hush");
        Ok(())
    }

    #[test]
    fn a_file_open_to_group_or_others_is_refused_with_the_command_that_closes_it() -> Outcome {
        for mode in [0o640, 0o604, 0o644, 0o620, 0o660, 0o601] {
            let dir = tempfile::tempdir()?;
            let path = file(&dir, b"hush", mode)?;
            let path_text = path.display();
            assert_eq!(
                refusal(&path),
                format!(
                    "{path_text}: open to group or others (mode {mode:04o}); run chmod 600 {path_text}"
                )
            );
        }
        Ok(())
    }

    #[test]
    fn a_file_of_another_user_is_refused_and_one_of_root_is_not() -> Outcome {
        let dir = tempfile::tempdir()?;
        let path = file(&dir, b"hush", 0o600)?;
        let mut stat = rustix::fs::stat(&path)?;
        let reader = Reader {
            user: 1000,
            groups: vec![1000],
        };
        for (owner, allowed) in [(0, true), (1000, true), (1001, false)] {
            stat.st_uid = owner;
            let outcome = refuse_exposed(&stat, &reader, &path);
            assert_eq!(outcome.is_ok(), allowed, "uid {owner}");
            if let Err(refused) = outcome {
                assert_eq!(refused.remedy, format!("run chown 1000 {}", path.display()));
            }
        }
        Ok(())
    }

    #[test]
    fn a_file_that_root_lets_a_group_of_ours_read_is_read_and_no_other_that_groups_may_read()
    -> Outcome {
        let dir = tempfile::tempdir()?;
        let path = file(&dir, b"hush", 0o600)?;
        let kind = rustix::fs::stat(&path)?.st_mode & !0o777;
        let reader = Reader {
            user: 1000,
            groups: vec![0, 1000, 2000],
        };
        for (mode, owner, group, allowed) in [
            (0o440, 0, 2000, true),
            (0o640, 0, 1000, true),
            (0o660, 0, 2000, false),
            (0o444, 0, 2000, false),
            (0o440, 0, 3000, false),
            (0o440, 0, 0, false),
            (0o440, 1000, 2000, false),
        ] {
            let mut stat = rustix::fs::stat(&path)?;
            (stat.st_mode, stat.st_uid, stat.st_gid) = (kind | mode, owner, group);
            let outcome = refuse_exposed(&stat, &reader, &path);
            assert_eq!(outcome.is_ok(), allowed, "{mode:o} {owner} {group}");
        }
        Ok(())
    }

    #[test]
    fn missing_empty_and_oversized_files_are_refused() -> Outcome {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("absent");
        assert_eq!(
            refusal(&path),
            format!(
                "{}: no such file; create it, or correct the path",
                path.display()
            )
        );
        let path = file(&dir, b"", 0o600)?;
        assert!(refusal(&path).ends_with(": empty; write the secret into it"));
        let path = file(&dir, &vec![b'x'; LIMIT + 1], 0o600)?;
        assert!(refusal(&path).contains("longer than 64 KiB"));
        let path = file(&dir, &vec![b'x'; LIMIT], 0o600)?;
        assert_eq!(secret_file(&path)?.len(), LIMIT);
        Ok(())
    }

    #[test]
    fn a_directory_and_a_pipe_are_refused_without_waiting() -> Outcome {
        let dir = tempfile::tempdir()?;
        assert!(refusal(dir.path()).contains("not a regular file"));
        let pipe = dir.path().join("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &pipe,
            FileType::Fifo,
            Mode::RUSR | Mode::WUSR,
            0,
        )?;
        assert!(refusal(&pipe).contains("not a regular file"));
        Ok(())
    }

    #[test]
    fn no_message_repeats_the_content() -> Outcome {
        let dir = tempfile::tempdir()?;
        let path = file(&dir, b"hush-hush", 0o644)?;
        let error = secret_file(&path).expect_err("must be refused");
        assert!(!format!("{error} {error:?}").contains("hush-hush"));
        Ok(())
    }
}
