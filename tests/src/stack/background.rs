//! Processes that stay when the one that started them has ended: found again by their id
//! and the moment they began, so that nobody else's process is ever ended.

use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use arx_daemon::files::write_atomically;
use http::StatusCode;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use super::Stack;
use crate::http as web;
use crate::process::binary;

/// How long a process may take to become ready, and to end.
const PATIENCE: Duration = Duration::from_secs(20);
/// Lines of a log that are shown.
const SHOWN: usize = 5;

/// A process that was started before, by whichever run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Started {
    id: i32,
    /// Field 22 of /proc/PID/stat: a later process with the same id has another.
    start_time: u64,
}

impl Stack {
    /// The process of this name, if it is the one that was started here and lives.
    pub(super) fn alive(&self, name: &str) -> Option<Started> {
        let text = fs::read(self.path(&format!("{name}.pid"))).ok()?;
        let started: Started = serde_json::from_slice(&text).ok()?;
        (start_time(started.id)? == started.start_time).then_some(started)
    }

    /// Starts a program with its configuration, and waits until it is ready.
    pub(super) async fn start(&self, name: &str, ops_port: u16) -> anyhow::Result<()> {
        let log = self.path(&format!("{name}.log"));
        let file = File::options()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&log)?;
        let logged_before = file.metadata()?.len();
        let child = Command::new(binary(name)?)
            .arg("--config")
            .arg(self.path(&format!("{name}.toml")))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            // It stays when the terminal goes.
            .process_group(0)
            .spawn();
        let id = child.with_context(|| format!("can't start {name}"))?.id();
        let id = i32::try_from(id)?;
        if let Some(start_time) = start_time(id) {
            let started = serde_json::to_vec(&Started { id, start_time })?;
            write_atomically(self.path(&format!("{name}.pid")), &started, 0o600)?;
        }
        let until = Instant::now() + PATIENCE;
        loop {
            if matches!(web::get(ops_port, "/readyz").await, Ok((StatusCode::OK, _))) {
                return Ok(());
            }
            let is_alive = self.alive(name).is_some();
            if !is_alive || Instant::now() > until {
                let what = if is_alive {
                    "is not ready yet; it goes on trying"
                } else {
                    "has ended"
                };
                let text = fs::read(&log).unwrap_or_default();
                let said = text.get(usize::try_from(logged_before)?..);
                let said = String::from_utf8_lossy(said.unwrap_or_default());
                let lines: Vec<_> = said.lines().collect();
                bail!(
                    "{name} {what}. The end of {}:\n{}",
                    log.display(),
                    lines[lines.len().saturating_sub(SHOWN)..].join("\n")
                );
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Ends a process, if it runs; whether it did.
    pub(super) async fn end(&self, name: &str) -> anyhow::Result<bool> {
        let Some(started) = self.alive(name) else {
            return Ok(false);
        };
        let id = Pid::from_raw(started.id).context("a process id is not 0")?;
        kill_process(id, Signal::TERM).with_context(|| format!("can't end {name}"))?;
        let until = Instant::now() + PATIENCE;
        while self.alive(name).is_some() {
            ensure!(
                Instant::now() < until,
                "{name} (process {}) does not end: see {}",
                started.id,
                self.path(&format!("{name}.log")).display()
            );
            sleep(Duration::from_millis(20)).await;
        }
        fs::remove_file(self.path(&format!("{name}.pid")))?;
        Ok(true)
    }
}

fn start_time(id: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The name before the last parenthesis may hold anything (proc(5)).
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    // A process that has ended and was not waited for counts as gone.
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::start_time;

    #[test]
    fn a_process_is_known_by_its_start_and_one_that_is_not_there_has_none() {
        let own = i32::try_from(std::process::id()).expect("a process id");
        let started = start_time(own);
        assert!(started.is_some_and(|ticks| ticks > 0));
        assert_eq!(started, start_time(own));
        assert_eq!(start_time(i32::MAX), None);
    }
}
