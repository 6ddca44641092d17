//! A program as a process: its log is read while it runs, and it is ended with whoever
//! holds it.

mod log;
mod port;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep};

pub use log::Log;
pub use port::free_port;

/// How long anything may take to happen before a test gives it up.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A running program. It is killed when this is dropped; a signal of the terminal (Ctrl-C)
/// reaches it as well, so nothing outlives a run that is interrupted.
pub struct Process {
    name: String,
    child: Child,
    log: Log,
}

/// A program of this workspace that is built beside the one that runs.
///
/// # Errors
/// If it is not there.
pub fn binary(name: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let mut folder = own.parent().context("a program lies in a folder")?;
    if folder.ends_with("deps") {
        folder = folder.parent().context("deps lies in a folder")?;
    }
    let path = folder.join(name);
    if !path.exists() {
        bail!("{} is not there: run `make build` first", path.display());
    }
    Ok(path)
}

/// A program that `make tools` has brought.
///
/// # Errors
/// If it is not there.
pub fn tool(name: &str) -> anyhow::Result<PathBuf> {
    let tools = std::env::var_os("ARX_TOOLS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools"),
        PathBuf::from,
    );
    let path = tools.join("bin").join(name);
    if !path.exists() {
        bail!("{} is not there: run `make tools` first", path.display());
    }
    Ok(path)
}

impl Process {
    /// Starts `program`.
    ///
    /// # Errors
    /// If it can't be started.
    pub fn start(name: &str, program: &Path, arguments: &[&str]) -> anyhow::Result<Self> {
        Self::start_in(&[], name, program, arguments)
    }

    /// The same with these variables in its environment, besides ours.
    ///
    /// # Errors
    /// If it can't be started.
    pub fn start_in(
        environment: &[(String, String)],
        name: &str,
        program: &Path,
        arguments: &[&str],
    ) -> anyhow::Result<Self> {
        let mut child = Command::new(program)
            .args(arguments)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("can't start {}", program.display()))?;
        let stderr = child.stderr.take().context("standard error is piped")?;
        let (log, writer) = Log::new();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines() {
                let Ok(line) = line else { return };
                writer.push(line);
            }
        });
        Ok(Self {
            name: name.to_owned(),
            child,
            log,
        })
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it says.
    #[must_use]
    pub fn log(&self) -> Log {
        self.log.clone()
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// If it is gone.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let id = i32::try_from(self.child.id())?;
        let id = Pid::from_raw(id).context("a process id is not 0")?;
        kill_process(id, signal).with_context(|| format!("{} is gone", self.name))
    }

    /// Whether it runs still.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Asks it to end, and waits until it has.
    ///
    /// # Errors
    /// If it does not end.
    pub async fn stop(mut self) -> anyhow::Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.ended().await
    }

    /// Ends it at once, in the middle of whatever it does.
    ///
    /// # Errors
    /// If it does not end.
    pub async fn kill(mut self) -> anyhow::Result<ExitStatus> {
        self.child.kill()?;
        self.ended().await
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// If it does not.
    pub async fn ended(&mut self) -> anyhow::Result<ExitStatus> {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait()? {
                self.log.clone().is_whole().await;
                return Ok(status);
            }
            if Instant::now() > until {
                bail!("{} does not end; it says:\n{}", self.name, self.log.tail());
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Resident memory, in KiB (proc(5), `VmRSS`).
    ///
    /// # Errors
    /// If it is gone.
    pub fn rss_kib(&self) -> anyhow::Result<u64> {
        self.memory_kib("VmRSS:")
    }

    /// The most resident memory that it has had, in KiB (proc(5), `VmHWM`).
    ///
    /// # Errors
    /// If it is gone.
    pub fn peak_kib(&self) -> anyhow::Result<u64> {
        self.memory_kib("VmHWM:")
    }

    fn memory_kib(&self, name: &str) -> anyhow::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id()))?;
        let mut lines = status.lines();
        let line = lines.find_map(|line| line.strip_prefix(name));
        let line = line.with_context(|| format!("no {name}"))?;
        Ok(line.trim().trim_end_matches(" kB").trim().parse()?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Asks again and again until `what` answers yes.
///
/// # Errors
/// If it does not within [`PATIENCE`], with its last failure.
pub async fn until<F>(what: &str, mut ask: impl FnMut() -> F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<bool>>,
{
    let end = Instant::now() + PATIENCE;
    loop {
        let answer = ask().await;
        if matches!(answer, Ok(true)) {
            return Ok(());
        }
        if Instant::now() > end {
            return match answer {
                Err(error) => Err(error.context(format!("{what} did not happen"))),
                Ok(_) => bail!("{what} did not happen"),
            };
        }
        sleep(Duration::from_millis(20)).await;
    }
}
