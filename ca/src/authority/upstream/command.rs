//! A CA that is asked by running a program: the request on its standard input, the chain on its
//! standard output, the reason of a failure on its standard error.
//!
//! The program may do anything: it gets a deadline, and what it prints has a bound. It sees
//! nothing of this process but the variables that the configuration names.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command as Process};
use tokio::time::timeout;

/// Longest output: several times the longest chain.
const LIMIT: usize = 256 * 1024;
/// What is kept of standard error: its end, where programs say why they give up.
const KEPT: usize = 4096;
/// What of that is told.
const LINES: usize = 5;
const COLUMNS: usize = 200;

/// A program that has requests certified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Its path, from `/`.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// How long it may take.
    pub deadline: Duration,
    /// Names of the variables that it gets of this process's environment.
    pub environment: Vec<String>,
}

/// A program did not give a chain.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// It could not be started.
    #[error("the upstream command {} can't be started: {error}", program.display())]
    Start {
        /// Its path.
        program: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// It, or something that it has started and that holds its output, took too long.
    #[error(
        "the upstream command did not end within {}s, and was killed{}",
        after.as_secs(), said(stderr)
    )]
    Deadline {
        /// The deadline.
        after: Duration,
        /// The end of what it said.
        stderr: String,
    },
    /// It printed more than a chain can have.
    #[error(
        "the upstream command printed more than 256 KiB, and was killed{}",
        said(stderr)
    )]
    TooMuch {
        /// The end of what it said.
        stderr: String,
    },
    /// It failed.
    #[error("the upstream command ended with {status}{}", said(stderr))]
    Failed {
        /// How it ended.
        status: ExitStatus,
        /// The end of what it said.
        stderr: String,
    },
    /// It printed something else than text.
    #[error(
        "the upstream command printed no text: it has to print the chain in PEM{}",
        said(stderr)
    )]
    NotText {
        /// The end of what it said.
        stderr: String,
    },
    /// Its output could not be read.
    #[error("the upstream command's output can't be read: {0}")]
    Pipe(#[from] io::Error),
}

impl CommandError {
    /// The stable reason code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Start { .. } => "ARX-UPSTREAM-START",
            Self::Deadline { .. } => "ARX-UPSTREAM-DEADLINE",
            Self::TooMuch { .. } | Self::NotText { .. } => "ARX-UPSTREAM-OUTPUT",
            Self::Failed { .. } | Self::Pipe(_) => "ARX-UPSTREAM-FAILED",
        }
    }
}

fn said(stderr: &str) -> String {
    match stderr {
        "" => ", and said nothing on standard error".to_owned(),
        stderr => format!("; it said: {stderr}"),
    }
}

impl Command {
    /// What the program prints for this request.
    ///
    /// # Errors
    /// [`CommandError`]; then nothing of it runs any more, unless it has left its process group.
    pub(super) async fn run(&self, request: &str) -> Result<String, CommandError> {
        let mut running = Running(self.start()?);
        let mut stderr = Vec::new();
        let talk = talk(&mut running.0, request, &mut stderr);
        let talked = match timeout(self.deadline, talk).await {
            Ok(talked) => talked,
            Err(_) => {
                running.end().await;
                return Err(CommandError::Deadline {
                    after: self.deadline,
                    stderr: told(&stderr),
                });
            }
        };
        let stderr = told(&stderr);
        match talked? {
            Talked::TooMuch => {
                running.end().await;
                Err(CommandError::TooMuch { stderr })
            }
            Talked::Ended(status, _) if !status.success() => {
                Err(CommandError::Failed { status, stderr })
            }
            Talked::Ended(_, output) => {
                String::from_utf8(output).map_err(|_| CommandError::NotText { stderr })
            }
        }
    }

    fn start(&self) -> Result<Child, CommandError> {
        let named = |name: &String| Some((name.clone(), std::env::var_os(name)?));
        let environment: Vec<(String, OsString)> =
            self.environment.iter().filter_map(named).collect();
        Process::new(&self.program)
            .args(&self.arguments)
            .env_clear()
            .envs(environment)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // So that its end is also the end of what it has started.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| CommandError::Start {
                program: self.program.clone(),
                error,
            })
    }
}

/// A process that ends, with its group, when nobody waits for it any more.
struct Running(Child);

impl Running {
    fn kill(&mut self) {
        // None once it was waited for: only then may another group have the number.
        let group = self.0.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        if let Some(group) = group {
            // It may have ended by itself.
            let _gone = kill_process_group(group, Signal::KILL);
        }
    }

    async fn end(&mut self) {
        self.kill();
        let _status = self.0.wait().await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

enum Talked {
    Ended(ExitStatus, Vec<u8>),
    TooMuch,
}

/// Gives the request, and takes everything until the end of the process.
async fn talk(child: &mut Child, request: &str, stderr: &mut Vec<u8>) -> io::Result<Talked> {
    const PIPED: &str = "its three streams were asked for, and are taken once";
    let mut stdin = child.stdin.take().expect(PIPED);
    let mut stdout = child.stdout.take().expect(PIPED);
    let mut errors = child.stderr.take().expect(PIPED);
    let give = async move {
        // One that does not read its input may still know what to print.
        let _unread = stdin.write_all(request.as_bytes()).await;
        drop(stdin);
        Ok::<_, io::Error>(())
    };
    let mut output = Vec::new();
    let take = async {
        let mut bounded = (&mut stdout).take(LIMIT as u64 + 1);
        bounded.read_to_end(&mut output).await?;
        match output.len() > LIMIT {
            true => Err(io::ErrorKind::FileTooLarge.into()),
            false => Ok(()),
        }
    };
    let taken = tokio::try_join!(give, take, keep_end(&mut errors, stderr));
    match taken {
        Ok(_) => Ok(Talked::Ended(child.wait().await?, output)),
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => Ok(Talked::TooMuch),
        Err(error) => Err(error),
    }
}

/// Reads to the end, and keeps the last of it.
async fn keep_end(from: &mut (impl AsyncRead + Unpin), kept: &mut Vec<u8>) -> io::Result<()> {
    let mut buffer = [0; 1024];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        kept.extend_from_slice(&buffer[..read]);
        let over = kept.len().saturating_sub(KEPT);
        kept.drain(..over);
    }
}

/// The last lines on one line, short and without control characters.
fn told(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let last = &lines[lines.len().saturating_sub(LINES)..];
    let shown = last.iter().map(|line| {
        let escaped = line.chars().take(COLUMNS).map(|c| match c {
            c if c.is_control() => c.escape_default().to_string(),
            // Marks that turn the direction of the text around them.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => c.escape_unicode().to_string(),
            c => c.to_string(),
        });
        let mut escaped: String = escaped.collect();
        if line.chars().count() > COLUMNS {
            escaped.push_str("...");
        }
        escaped
    });
    shown.collect::<Vec<_>>().join(" | ")
}

#[cfg(test)]
mod tests;
