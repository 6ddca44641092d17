//! A program as a process: its log is read while it runs, and it is ended with whoever
//! holds it.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

/// How long anything may take to happen before a test gives it up.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A running program.
pub struct Process {
    name: String,
    child: Child,
    log: Log,
}

/// What a program has said on standard error, line by line.
#[derive(Clone)]
pub struct Log {
    lines: Arc<Mutex<Vec<String>>>,
    count: watch::Receiver<usize>,
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

/// A port on loopback that nobody uses.
///
/// # Errors
/// If there is none.
pub fn free_port() -> anyhow::Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?
        .local_addr()?
        .port())
}

impl Process {
    /// Starts `program`. It is killed when this is dropped, and when the thread that
    /// started it ends.
    ///
    /// # Errors
    /// If it can't be started.
    pub fn start(name: &str, program: &Path, arguments: &[&str]) -> anyhow::Result<Self> {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        // A signal of the terminal is for the one that holds it.
        command.process_group(0);
        let mut child = command
            .spawn()
            .with_context(|| format!("can't start {}", program.display()))?;
        let stderr = child.stderr.take().context("standard error is piped")?;
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (sender, count) = watch::channel(0);
        let log = Log {
            lines: Arc::clone(&lines),
            count,
        };
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines() {
                let Ok(line) = line else { return };
                let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
                lines.push(line);
                sender.send_replace(lines.len());
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
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id()))?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .context("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").trim().parse()?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl Log {
    /// Everything up to now.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The last lines, for a message.
    #[must_use]
    pub fn tail(&self) -> String {
        let lines = self.lines();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    /// Waits for a line that contains `text`, beginning with line number `from`. Answers
    /// the number of the line after it.
    ///
    /// # Errors
    /// If it does not come.
    pub async fn until(&mut self, text: &str, from: usize) -> anyhow::Result<usize> {
        let waited = timeout(PATIENCE, async {
            let mut seen = from;
            loop {
                let lines = self.lines();
                if let Some(at) = lines.iter().skip(seen).position(|line| line.contains(text)) {
                    return Some(seen + at + 1);
                }
                seen = lines.len().max(from);
                self.count.changed().await.ok()?;
            }
        });
        match waited.await {
            Ok(Some(next)) => Ok(next),
            Ok(None) => bail!(
                "it ended without saying {text:?}; it said:\n{}",
                self.tail()
            ),
            Err(_) => bail!("it does not say {text:?}; it says:\n{}", self.tail()),
        }
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
