//! Real processes in real control groups: these need root, and fail without it.

use super::*;
use crate::attest::peer::PeerError;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream as Blocking;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tokio::net::UnixListener;

type Outcome = Result<(), Box<dyn std::error::Error>>;

const UID: &str = "2c48913c-b29f-11e7-9350-020968147796";
const OTHER: &str = "7f3a1d52-90be-4c11-a6f4-5d0c9c3f2b10";
/// Says to this program, run again by itself, where it has to connect.
const SOCKET: &str = "ARX_TEST_CONNECT";
/// The kernel takes the next pid after this one.
const LAST_PID: &str = "/proc/sys/kernel/ns_last_pid";

/// A control group that goes when the test does.
struct Group(Vec<PathBuf>);

impl Group {
    /// Makes `path` and what lies above it, in one hierarchy of this machine.
    fn make(path: &str) -> io::Result<Self> {
        let root = hierarchy()?;
        let mut made = Vec::new();
        let mut at = root;
        for part in path.split('/') {
            at.push(part);
            if !at.exists() {
                std::fs::create_dir(&at)?;
            }
            made.push(at.clone());
        }
        Ok(Self(made))
    }

    fn take(&self, pid: u32) -> io::Result<()> {
        let group = self.0.last().expect("at least one part");
        std::fs::write(group.join("cgroup.procs"), pid.to_string())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for group in self.0.iter().rev() {
            // One that another test uses as well stays until that is over.
            let _unused = std::fs::remove_dir(group);
        }
    }
}

/// The root of a hierarchy in which processes can be put anywhere: of version 2, or of one
/// controller of version 1.
fn hierarchy() -> io::Result<PathBuf> {
    let places = [
        "/sys/fs/cgroup/unified",
        "/sys/fs/cgroup",
        "/sys/fs/cgroup/pids",
    ];
    let found = places
        .iter()
        .map(Path::new)
        .find(|place| place.join("cgroup.procs").exists());
    found
        .map(Path::to_path_buf)
        .ok_or_else(|| io::Error::other("no control groups are mounted on this machine"))
}

/// This program again, connected to `socket` from within a group until it is dropped.
struct Guest {
    child: Child,
}

impl Guest {
    fn start(socket: &Path, group: Option<&Group>) -> io::Result<Self> {
        let name = "attest::process::tests::connects_where_it_is_told_to";
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--exact", name, "--nocapture"])
            .env(SOCKET, socket)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        if let Some(group) = group {
            group.take(child.id())?;
        }
        let go = child.stdin.as_mut().expect("piped").write_all(b"go\n");
        go?;
        let said = BufReader::new(child.stdout.as_mut().expect("piped"));
        for line in said.lines() {
            if line?.ends_with("connected") {
                return Ok(Self { child });
            }
        }
        Err(io::Error::other("it did not connect"))
    }

    fn end(mut self) -> io::Result<u32> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(self.child.id())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

#[test]
fn connects_where_it_is_told_to() -> Outcome {
    let Some(socket) = std::env::var_os(SOCKET) else {
        return Ok(());
    };
    let mut line = String::new();
    io::stdin().read_line(&mut line)?;
    let _connection = Blocking::connect(socket)?;
    println!("connected");
    // Until whoever has started it ends it.
    io::stdin().read_line(&mut line)?;
    Ok(())
}

async fn seen(group: Option<&str>) -> Result<Seen, Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("s");
    let listener = UnixListener::bind(&path)?;
    let group = group.map(Group::make).transpose()?;
    let guest = Guest::start(&path, group.as_ref())?;
    let (stream, _) = listener.accept().await?;
    let seen = observe(&Peer::of(&stream)?, "/")?;
    guest.end()?;
    Ok(seen)
}

#[tokio::test]
async fn a_process_in_a_pods_group_is_of_that_pod_and_one_outside_of_none() -> Outcome {
    let of_pod = format!("kubepods/burstable/pod{UID}/container");
    let expected = Seen::Pod(PodUid::parse(UID).expect("valid"));
    assert_eq!(seen(Some(&of_pod)).await?, expected);
    assert_eq!(seen(None).await?, Seen::NoPod);
    Ok(())
}

#[tokio::test]
async fn a_group_that_a_pod_makes_below_its_own_does_not_make_it_another_pod() -> Outcome {
    let nested = format!("kubepods/besteffort/pod{UID}/container/kubepods/pod{OTHER}/container");
    let expected = Seen::Pod(PodUid::parse(UID).expect("valid"));
    assert_eq!(seen(Some(&nested)).await?, expected);
    let own = format!("system.slice/mine.service/kubepods/pod{OTHER}/container");
    assert_eq!(seen(Some(&own)).await?, Seen::NoPod);
    Ok(())
}

#[tokio::test]
async fn a_process_that_ends_after_it_was_found_proves_nothing() -> Outcome {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("s");
    let listener = UnixListener::bind(&path)?;
    let group = Group::make(&format!("kubepods/pod{UID}/ending"))?;
    let guest = Guest::start(&path, Some(&group))?;
    let (stream, _) = listener.accept().await?;
    let peer = Peer::of(&stream)?;
    guest.end()?;
    assert!(matches!(observe(&peer, "/"), Err(ProcessError::Gone)));
    Ok(())
}

#[tokio::test]
async fn whoever_gets_the_pid_of_a_peer_that_died_is_not_taken_for_it() -> Outcome {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("s");
    let listener = UnixListener::bind(&path)?;
    // One is looked at after its pid has gone to another, and one has been looked at before.
    let first = Guest::start(&path, None)?;
    let (known, _) = listener.accept().await?;
    let known = Peer::of(&known)?;
    let pid = first.end()?;
    let group = Group::make(&format!("kubepods/pod{OTHER}/victim"))?;
    let mut victim = reuse(pid)?;
    group.take(pid)?;
    let proved = observe(&known, "/");
    let _ended = victim.kill();
    victim.wait()?;
    assert!(matches!(proved, Err(ProcessError::Gone)), "{proved:?}");

    let second = Guest::start(&path, None)?;
    let (unknown, _) = listener.accept().await?;
    let pid = second.end()?;
    let mut victim = reuse(pid)?;
    let proved = Peer::of(&unknown);
    let _ended = victim.kill();
    victim.wait()?;
    assert!(matches!(proved, Err(PeerError::Gone)), "{proved:?}");
    Ok(())
}

/// A process with a pid that is free.
fn reuse(pid: u32) -> io::Result<Child> {
    for _ in 0..1000 {
        // Another process of the machine may take it in between.
        std::fs::write(LAST_PID, (pid - 1).to_string())?;
        let mut child = Command::new("sleep").arg("60").spawn()?;
        if child.id() == pid {
            return Ok(child);
        }
        child.kill()?;
        child.wait()?;
    }
    Err(io::Error::other("the pid was never free"))
}
