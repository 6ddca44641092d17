//! The ledger as lines of JSON, written to wherever records of all replicas are gathered: a file,
//! or a socket that takes lines. Each record at least once, in order, as soon as it is durable.
//!
//! Issuance never waits for it: it reads what is on the disk, and goes on from where it was when
//! what it writes to is back.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use arx_daemon::files::write_atomically;
use arx_daemon::ops::Condition;
use rustix::fs::OFlags;
use rustix::io::Errno;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;

use crate::ledger::{Follow, Ledger, Piece};

/// Between looks for new records.
const LOOK: Duration = Duration::from_secs(1);
/// After a failure.
const AGAIN: Duration = Duration::from_secs(5);
/// How long whoever takes the lines may take for some of them.
const DEADLINE: Duration = Duration::from_secs(30);
/// The file beside the segments that says how far it is.
const POSITION: &str = "gathered";

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Appended to this file, which may be moved away at any time.
    File(PathBuf),
    /// A Unix socket.
    Unix(PathBuf),
    /// Host and port.
    Tcp(String),
}

/// Not a place for lines.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write an absolute path, unix:/PATH or tcp:HOST:PORT")]
pub struct NoTarget;

impl FromStr for Target {
    type Err = NoTarget;

    fn from_str(text: &str) -> Result<Self, NoTarget> {
        let path = |path: &str| Path::new(path).is_absolute().then(|| PathBuf::from(path));
        if let Some(rest) = text.strip_prefix("unix:") {
            return path(rest).map(Self::Unix).ok_or(NoTarget);
        }
        if let Some(address) = text.strip_prefix("tcp:") {
            let (host, port) = address.rsplit_once(':').ok_or(NoTarget)?;
            let is_one = !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0);
            return is_one
                .then(|| Self::Tcp(address.to_owned()))
                .ok_or(NoTarget);
        }
        path(text).map(Self::File).ok_or(NoTarget)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp:{address}"),
        }
    }
}

/// How far it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The next record that is to be written.
    pub next: u64,
    /// Records that were removed from the ledger before they were written.
    pub missed: u64,
    /// Why it does not go on, if it does not.
    pub trouble: Option<String>,
}

/// Writes the ledger to where it is gathered.
pub struct Sink {
    target: Target,
    ledger: Ledger,
    directory: PathBuf,
    progress: watch::Sender<Progress>,
}

impl Sink {
    /// Goes on from where it was.
    #[must_use]
    pub fn new(target: Target, ledger: Ledger, directory: PathBuf) -> Self {
        let next = std::fs::read_to_string(directory.join(POSITION));
        let next = next.ok().and_then(|text| text.trim().parse().ok());
        let progress = Progress {
            next: next.unwrap_or(0),
            ..Progress::default()
        };
        Self {
            target,
            ledger,
            directory,
            progress: watch::Sender::new(progress),
        }
    }

    /// How far it is, and what will be.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Writes, for ever.
    pub async fn keep(&self) {
        let mut open = None;
        let mut follow = self.ledger.follow(self.progress.borrow().next);
        loop {
            match self.write(&mut open, &mut follow).await {
                Ok(true) => {}
                Ok(false) => tokio::time::sleep(LOOK).await,
                Err(error) => {
                    open = None;
                    // What was not written whole is written again.
                    follow = self.ledger.follow(self.progress.borrow().next);
                    let trouble = format!("{}: {error}", self.target);
                    let is_new = self.progress.send_if_modified(|progress| {
                        let is_new = progress.trouble.as_ref() != Some(&trouble);
                        progress.trouble = Some(trouble.clone());
                        is_new
                    });
                    if is_new {
                        tracing::warn!(code = "ARX-LEDGER-SINK", %error, target_of_lines = %self.target, "the ledger is not gathered");
                    }
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }

    /// Writes what is there next; whether there was something.
    async fn write(&self, open: &mut Option<Open>, follow: &mut Follow) -> io::Result<bool> {
        let (piece, back) = {
            let mut reader = std::mem::replace(follow, self.ledger.follow(0));
            let read = tokio::task::spawn_blocking(move || (reader.next_piece(), reader)).await;
            read.map_err(io::Error::other)?
        };
        *follow = back;
        let Some(Piece {
            lines,
            next,
            missed,
        }) = piece.map_err(io::Error::other)?
        else {
            // Whoever is not there is noticed also while nothing happens.
            if open.as_ref().is_none_or(|it| !it.is_open()) {
                *open = Some(self.open().await?);
            }
            self.is_well();
            return Ok(false);
        };
        if open.as_ref().is_none_or(|it| !it.is_there(&self.target)) {
            *open = Some(self.open().await?);
        }
        let Some(out) = open else { return Ok(true) };
        let written = tokio::time::timeout(DEADLINE, out.write(lines)).await;
        written.map_err(|_| io::Error::other("it took no line for 30 s"))??;
        if !out.is_open() {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let position = self.directory.join(POSITION);
        write_atomically(position, next.to_string().as_bytes(), 0o600).map_err(io::Error::other)?;
        if missed > 0 {
            tracing::warn!(
                code = "ARX-LEDGER-SINK-MISSED",
                missed,
                "records were removed from the ledger before they were gathered"
            );
        }
        self.progress.send_modify(|progress| {
            progress.next = next;
            progress.missed += missed;
            progress.trouble = None;
        });
        Ok(true)
    }

    fn is_well(&self) {
        self.progress
            .send_if_modified(|progress| progress.trouble.take().is_some());
    }

    async fn open(&self) -> io::Result<Open> {
        let opened = async {
            Ok(match &self.target {
                Target::File(path) => {
                    let path = path.clone();
                    let file = tokio::task::spawn_blocking(move || open_file(&path)).await;
                    Open::File(Arc::new(file.map_err(io::Error::other)??))
                }
                Target::Unix(path) => Open::Unix(UnixStream::connect(path).await?),
                Target::Tcp(address) => Open::Tcp(TcpStream::connect(address).await?),
            })
        };
        let opened = tokio::time::timeout(DEADLINE, opened).await;
        opened.map_err(|_| io::Error::other("no answer within 30 s"))?
    }
}

/// Opens a file at its end, which is that of a line: one that was cut off, by a full disk or a
/// kill, is ended, and its record follows whole.
fn open_file(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let mut options = File::options();
    options.create(true).append(true).read(true).mode(0o600);
    options.custom_flags(flags.bits().cast_signed());
    let mut file = options
        .open(path)
        .map_err(|error| match Errno::from_io_error(&error) {
            Some(Errno::LOOP) => io::Error::other(
                "it is a symbolic link, and none is followed: name the file that it leads to",
            ),
            _ => error,
        })?;
    let about = file.metadata()?;
    if !about.is_file() {
        return Err(io::Error::other(
            "it is no file: for a program that reads lines, say unix:/PATH or tcp:HOST:PORT",
        ));
    }
    if about.len() > 0 {
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
        }
    }
    Ok(file)
}

/// What is written to.
enum Open {
    File(Arc<File>),
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Open {
    /// Whether somebody is there who takes lines. What a peer says is not heeded.
    fn is_open(&self) -> bool {
        let mut said = [0; 256];
        loop {
            let read = match self {
                Self::File(_) => return true,
                Self::Unix(stream) => stream.try_read(&mut said),
                Self::Tcp(stream) => stream.try_read(&mut said),
            };
            match read {
                Ok(0) => return false,
                Ok(_) => {}
                Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
            }
        }
    }

    /// Whether what is open is still what is called so.
    fn is_there(&self, target: &Target) -> bool {
        let (Self::File(file), Target::File(path)) = (self, target) else {
            return self.is_open();
        };
        let named = std::fs::metadata(path).map(|it| (it.dev(), it.ino()));
        let open = file.metadata().map(|it| (it.dev(), it.ino()));
        matches!((named, open), (Ok(named), Ok(open)) if named == open)
    }

    async fn write(&mut self, lines: Vec<u8>) -> io::Result<()> {
        match self {
            Self::File(file) => {
                let file = Arc::clone(file);
                // On the disk before it is noted how far this is.
                let written = tokio::task::spawn_blocking(move || {
                    (&*file).write_all(&lines)?;
                    file.sync_data()
                });
                written.await.map_err(io::Error::other)?
            }
            Self::Unix(stream) => stream.write_all(&lines).await,
            Self::Tcp(stream) => stream.write_all(&lines).await,
        }
    }
}

/// That the ledger is not gathered is told, and stops nothing.
pub(crate) async fn watch(sink: Arc<Sink>, condition: Condition) {
    let mut progress = sink.progress();
    loop {
        match &progress.borrow_and_update().trouble {
            Some(trouble) => condition.set_warning("ARX-LEDGER-SINK", trouble.clone()),
            None => condition.set_ok(),
        }
        if progress.changed().await.is_err() {
            return;
        }
    }
}

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sink({})", self.target)
    }
}

#[cfg(test)]
mod tests;
