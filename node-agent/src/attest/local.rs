//! Evidence for machines without Kubernetes: who runs the process, and what it runs.

use super::peer::Peer;
use arx_identity::crypto::Sha256;
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// How many executables' digests are remembered.
const REMEMBERED: usize = 256;

/// What the kernel says about a process, for the authority's `local` rules.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LocalProcess {
    /// User id when it connected.
    pub uid: u32,
    /// Primary group id when it connected.
    pub gid: u32,
    /// Absolute path of its executable; empty if it can't be vouched for.
    pub executable: String,
    /// SHA-256 of the executable's content, where the configuration asks for it.
    pub executable_sha256: Option<[u8; 32]>,
}

impl LocalProcess {
    /// Looks at the peer's process. May read a whole executable: not for the runtime's
    /// own thread if `digests` is given.
    ///
    /// # Errors
    /// If the process ended meanwhile, or its executable should be hashed and can't be read.
    pub fn observe(peer: &Peer, digests: Option<&Digests>) -> io::Result<Self> {
        let (mut executable, mut executable_sha256) = (String::new(), None);
        if let Some(process) = peer.process() {
            let link = format!("/proc/{}/exe", process.pid);
            executable = vouched_path(Path::new(&link)).unwrap_or_default();
            if let Some(digests) = digests {
                executable_sha256 = Some(digests.of(File::open(&link)?)?);
            }
        }
        if !peer.is_alive() {
            // What was read may belong to whoever got the pid next.
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                "the peer's process has ended",
            ));
        }
        Ok(Self {
            uid: peer.uid(),
            gid: peer.gid(),
            executable,
            executable_sha256,
        })
    }
}

/// The path of an executable, if that path leads to the same file for the agent too.
///
/// In a mount namespace of its own anybody can put anything at any path, and the kernel
/// prints it as if it were the machine's: such a path is worth nothing. An executable
/// that was replaced while it runs keeps its path if it lay in the agent's own mount.
fn vouched_path(link: &Path) -> Option<String> {
    let path = std::fs::read_link(link).ok()?.into_os_string();
    let path = path.into_string().ok()?;
    let running = std::fs::metadata(link).ok()?;
    let same = |there: Metadata| (there.dev(), there.ino()) == (running.dev(), running.ino());
    if std::fs::metadata(&path).is_ok_and(same) {
        return Some(path);
    }
    let replaced = path.strip_suffix(" (deleted)")?;
    let directory = Path::new(replaced).parent()?;
    (mount(link)? == mount(directory)?).then(|| replaced.to_owned())
}

fn mount(path: &Path) -> Option<u64> {
    let found = statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID).ok()?;
    let known = found.stx_mask & StatxFlags::MNT_ID.bits() != 0;
    known.then_some(found.stx_mnt_id)
}

/// Digests of executables, by the identity of the file's content.
#[derive(Debug, Default)]
pub struct Digests(Mutex<HashMap<FileVersion, [u8; 32]>>);

/// The change time is in it because, unlike the modification time, nobody can set it.
#[derive(Debug, PartialEq, Eq, Hash)]
struct FileVersion {
    device: u64,
    inode: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    size: u64,
}

impl Digests {
    fn of(&self, mut file: File) -> io::Result<[u8; 32]> {
        let version = FileVersion::of(&file.metadata()?);
        if let Some(known) = self.lock().get(&version) {
            return Ok(*known);
        }
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => hash.update(&buffer[..n]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let digest = hash.finish();
        let mut known = self.lock();
        // A running executable can't be written to, so this only guards against a script
        // interpreter's or a file system's surprises.
        if FileVersion::of(&file.metadata()?) == version {
            if known.len() >= REMEMBERED {
                known.clear();
            }
            known.insert(version, digest);
        }
        Ok(digest)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<FileVersion, [u8; 32]>> {
        // Whole entries only are ever inserted.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FileVersion {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            size: metadata.size(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use tokio::net::UnixStream;

    #[tokio::test]
    async fn a_process_is_described_by_user_and_executable()
    -> Result<(), Box<dyn std::error::Error>> {
        let (a, _b) = UnixStream::pair()?;
        let digests = Digests::default();
        let seen = LocalProcess::observe(&Peer::of(&a)?, Some(&digests))?;
        let own = std::env::current_exe()?;
        assert_eq!(seen.uid, rustix::process::getuid().as_raw());
        assert_eq!(Some(seen.executable.as_str()), own.to_str());
        let content = std::fs::read(own)?;
        assert_eq!(
            seen.executable_sha256,
            Some(arx_identity::crypto::sha256(&content))
        );
        assert_eq!(digests.lock().len(), 1);
        Ok(())
    }

    #[test]
    fn a_path_is_vouched_for_only_if_it_leads_to_the_same_file() -> io::Result<()> {
        let directory = tempfile::tempdir()?;
        let file = directory.path().join("program");
        std::fs::write(&file, "one")?;
        let link = directory.path().join("exe");
        symlink(&file, &link)?;
        assert_eq!(vouched_path(&link).as_deref(), file.to_str());
        // A link whose text names something that is not there is not believed.
        std::fs::remove_file(&file)?;
        assert_eq!(vouched_path(&link), None);
        Ok(())
    }

    #[test]
    fn other_content_has_another_digest_although_the_path_is_the_same() -> io::Result<()> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("program");
        let digests = Digests::default();
        std::fs::write(&path, "one")?;
        let one = digests.of(File::open(&path)?)?;
        std::fs::write(directory.path().join("new"), "two")?;
        std::fs::rename(directory.path().join("new"), &path)?;
        assert_ne!(one, digests.of(File::open(&path)?)?);
        Ok(())
    }
}
