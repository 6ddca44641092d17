//! The process at the other end of a Unix socket, held by a pidfd so that a reused pid
//! can never be taken for it, and so that its death is proved rather than assumed.

use crate::sys;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, OnceLock};
use tokio::net::UnixStream;

/// One process among all that ever ran on this machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProcessId {
    /// Its pid in the agent's own pid namespace.
    pub pid: u32,
    /// Clock ticks since boot (field 22 of `/proc/PID/stat`).
    pub start_time: u64,
    /// The boot that both of the above belong to.
    pub boot_id: Arc<str>,
}

/// Why a peer could not be identified.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// It connected and died, or its pid is not the one that connected any more.
    #[error("the peer's process has ended")]
    Gone,
    /// The kernel would not say.
    #[error("cannot identify the peer: {0}")]
    Unknown(#[from] io::Error),
}

/// The process that connected a socket, as of the moment of connecting.
#[derive(Clone, Debug)]
pub struct Peer {
    uid: u32,
    gid: u32,
    process: Option<ProcessId>,
    /// None only if the process can't be seen either.
    pidfd: Option<Arc<OwnedFd>>,
}

impl Peer {
    /// Identifies the process that connected `stream`.
    ///
    /// # Errors
    /// [`PeerError::Gone`] if the process ended before it could be looked at.
    pub fn of(stream: &UnixStream) -> Result<Self, PeerError> {
        let credentials = stream.peer_cred()?;
        let (uid, gid) = (credentials.uid(), credentials.gid());
        match sys::peer_pidfd(stream) {
            Ok(pidfd) => {
                let process = match pid_of(&pidfd)? {
                    // In a pid namespace that the agent does not see into.
                    0 => None,
                    pid => Some(ProcessId::read(pid)?),
                };
                Self::confirmed(uid, gid, process, pidfd)
            }
            Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => {
                let pid = credentials.pid().unwrap_or(0);
                Self::by_pid(u32::try_from(pid).unwrap_or(0), uid, gid)
            }
            // The kernel has no pidfd for a process that was reaped.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Err(PeerError::Gone),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Err(PeerError::Gone),
            Err(error) => Err(error.into()),
        }
    }

    /// The way of kernels before 6.5: by number, with the pid re-checked once the pidfd
    /// holds it. A pid that was reused by another user's process, or by one that started
    /// in between, is noticed.
    fn by_pid(pid: u32, uid: u32, gid: u32) -> Result<Self, PeerError> {
        if pid == 0 {
            // In a pid namespace that the agent does not see into.
            return Ok(Self::unseen(uid, gid));
        }
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let raw = raw.ok_or(PeerError::Gone)?;
        let before = ProcessId::read(pid)?;
        let pidfd = pidfd_open(raw, PidfdFlags::empty()).map_err(|_| PeerError::Gone)?;
        let after = ProcessId::read(pid)?;
        let owner = std::fs::metadata(format!("/proc/{pid}")).map_err(gone)?;
        // A process that is not dumpable shows as root's.
        if before != after || (owner.uid() != uid && owner.uid() != 0) {
            return Err(PeerError::Gone);
        }
        Self::confirmed(uid, gid, Some(after), pidfd)
    }

    fn confirmed(
        uid: u32,
        gid: u32,
        process: Option<ProcessId>,
        pidfd: OwnedFd,
    ) -> Result<Self, PeerError> {
        let peer = Self {
            uid,
            gid,
            process,
            pidfd: Some(Arc::new(pidfd)),
        };
        // Only what was read while the process certainly still had its pid counts.
        if peer.is_alive() {
            Ok(peer)
        } else {
            Err(PeerError::Gone)
        }
    }

    /// The same for a socket by which it is known who may connect: a process that can't be
    /// identified, as in a sandbox where pids mean nothing, is one that is not seen.
    ///
    /// # Errors
    /// If the kernel does not even tell the user.
    pub fn of_socket(stream: &UnixStream) -> Result<Self, PeerError> {
        if let Ok(peer) = Self::of(stream) {
            return Ok(peer);
        }
        let credentials = stream.peer_cred()?;
        Ok(Self::unseen(credentials.uid(), credentials.gid()))
    }

    /// One of whom nothing is known but the user.
    pub(crate) fn unseen(uid: u32, gid: u32) -> Self {
        Self {
            uid,
            gid,
            process: None,
            pidfd: None,
        }
    }

    /// Finds a process again that was known before the agent restarted. None: it is dead.
    #[must_use]
    pub fn find(process: &ProcessId) -> Option<ProcessWatch> {
        if *process.boot_id != **boot_id() {
            return None;
        }
        let pid = i32::try_from(process.pid).ok().and_then(Pid::from_raw)?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        let same = ProcessId::read(process.pid).is_ok_and(|now| now == *process);
        (same && is_alive(&pidfd)).then(|| ProcessWatch(Arc::new(pidfd)))
    }

    /// The user id at the time of connecting.
    #[must_use]
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// The primary group id at the time of connecting.
    #[must_use]
    pub fn gid(&self) -> u32 {
        self.gid
    }

    /// The process; None if it lives in a pid namespace that the agent does not see.
    #[must_use]
    pub fn process(&self) -> Option<&ProcessId> {
        self.process.as_ref()
    }

    /// Whether the process is not known to have ended.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.pidfd.as_deref().is_none_or(is_alive)
    }

    /// Something to wait on for the process's death; None if it can't be seen.
    #[must_use]
    pub fn watch(&self) -> Option<ProcessWatch> {
        self.pidfd.clone().map(ProcessWatch)
    }
}

/// Proves the death of one process.
#[derive(Clone, Debug)]
pub struct ProcessWatch(Arc<OwnedFd>);

impl ProcessWatch {
    /// Resolves when the process has ended, and never if that can't be observed.
    pub async fn ended(self) {
        // A duplicate, because epoll takes each descriptor only once.
        let ended = match self.0.try_clone() {
            Ok(fd) => sys::readable(fd).await,
            Err(error) => Err(error),
        };
        if ended.is_err() {
            std::future::pending().await
        }
    }
}

impl ProcessId {
    fn read(pid: u32) -> Result<Self, PeerError> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).map_err(gone)?;
        let start_time = start_time(&stat)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no start time in stat"))?;
        Ok(Self {
            pid,
            start_time,
            boot_id: Arc::clone(boot_id()),
        })
    }
}

/// The kernel's random id of this boot; empty where there is none.
pub fn boot_id() -> &'static Arc<str> {
    static BOOT_ID: OnceLock<Arc<str>> = OnceLock::new();
    BOOT_ID.get_or_init(|| {
        std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .map(|id| Arc::from(id.trim()))
            .unwrap_or_default()
    })
}

/// Field 22 of `/proc/PID/stat` (proc_pid_stat(5)). The second field is the command in
/// parentheses and may itself hold spaces and parentheses.
fn start_time(stat: &str) -> Option<u64> {
    let (_, after_command) = stat.rsplit_once(')')?;
    after_command.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// The pid that a pidfd stands for, as this namespace sees it; 0 if it does not.
fn pid_of(pidfd: &OwnedFd) -> Result<u32, PeerError> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))?;
    let pid = info
        .lines()
        .find_map(|line| line.strip_prefix("Pid:"))
        .and_then(|pid| pid.trim().parse::<i64>().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no pid in fdinfo"))?;
    u32::try_from(pid).map_err(|_| PeerError::Gone)
}

fn is_alive(pidfd: &impl AsFd) -> bool {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    matches!(poll(&mut fds, Some(&now)), Ok(0))
}

fn gone(error: io::Error) -> PeerError {
    match error.kind() {
        io::ErrorKind::NotFound => PeerError::Gone,
        _ if error.raw_os_error() == Some(libc::ESRCH) => PeerError::Gone,
        _ => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn the_start_time_is_found_behind_a_hostile_command_name() {
        let tail = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20 21";
        assert_eq!(start_time(&format!("7 (x) R 9) (y) {tail}")), Some(4242));
        assert_eq!(start_time("7 (x) S 1 2"), None);
        assert_eq!(start_time(""), None);
    }

    #[tokio::test]
    async fn a_connected_peer_is_identified() -> Result<(), PeerError> {
        let (a, _b) = UnixStream::pair()?;
        let peer = Peer::of(&a)?;
        let process = peer.process().expect("same pid namespace");
        assert_eq!(process.pid, std::process::id());
        assert_eq!(peer.uid(), rustix::process::getuid().as_raw());
        assert!(!process.boot_id.is_empty());
        assert!(Peer::find(process).is_some());
        Ok(())
    }

    #[test]
    fn the_older_way_identifies_the_same_process() -> Result<(), PeerError> {
        let peer = Peer::by_pid(
            std::process::id(),
            rustix::process::getuid().as_raw(),
            rustix::process::getgid().as_raw(),
        )?;
        assert_eq!(peer.process().map(|p| p.pid), Some(std::process::id()));
        Ok(())
    }

    #[test]
    fn the_older_way_takes_pid_0_for_a_process_that_is_not_seen() -> Result<(), PeerError> {
        let peer = Peer::by_pid(0, 7, 8)?;
        assert_eq!(peer.process(), None);
        assert_eq!((peer.uid(), peer.gid()), (7, 8));
        Ok(())
    }

    #[test]
    fn a_pid_of_another_start_time_or_boot_is_another_process() -> Result<(), PeerError> {
        let real = ProcessId::read(std::process::id())?;
        let reused = ProcessId {
            start_time: real.start_time + 1,
            ..real.clone()
        };
        assert!(Peer::find(&reused).is_none());
        let rebooted = ProcessId {
            boot_id: Arc::from("another"),
            ..real
        };
        assert!(Peer::find(&rebooted).is_none());
        Ok(())
    }

    #[tokio::test]
    async fn death_is_proved_by_the_pidfd() -> Result<(), Box<dyn std::error::Error>> {
        let mut child = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()?;
        let watch = Peer::find(&ProcessId::read(child.id())?).expect("it runs");
        child.kill()?;
        watch.ended().await;
        child.wait()?;
        Ok(())
    }
}
