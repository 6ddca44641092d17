//! What a program says while it runs.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::bail;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::timeout;

use super::PATIENCE;

/// How long the rest of what a program has said may be on its way.
const REST: Duration = Duration::from_secs(1);

/// What a program has said on standard error, line by line.
#[derive(Clone)]
pub struct Log {
    lines: Arc<Mutex<Vec<String>>>,
    count: watch::Receiver<usize>,
}

/// The writing end.
pub(super) struct Writer {
    lines: Arc<Mutex<Vec<String>>>,
    count: watch::Sender<usize>,
}

impl Writer {
    pub(super) fn push(&self, line: String) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.push(line);
        self.count.send_replace(lines.len());
    }
}

impl Log {
    pub(super) fn new() -> (Self, Writer) {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (sender, count) = watch::channel(0);
        let writer = Writer {
            lines: Arc::clone(&lines),
            count: sender,
        };
        (Self { lines, count }, writer)
    }

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

    /// How often it has said something with `text` in it.
    #[must_use]
    pub fn count(&self, text: &str) -> usize {
        self.lines()
            .iter()
            .filter(|line| line.contains(text))
            .count()
    }

    /// Waits until all is read that it has said, unless another process goes on in its place.
    pub(super) async fn is_whole(&mut self) {
        let whole = async { while self.count.changed().await.is_ok() {} };
        let _whole = timeout(REST, whole).await;
    }

    /// Waits for a line that contains `text`, beginning with line number `from`. Answers
    /// the number of the line after it.
    ///
    /// # Errors
    /// If it does not come.
    pub async fn until(&mut self, text: &str, from: usize) -> anyhow::Result<usize> {
        let (next, _) = self
            .wait(&format!("{text:?}"), from, |line| {
                line.contains(text).then_some(())
            })
            .await?;
        Ok(next)
    }

    /// Waits for a record (a line of JSON) that `fits`.
    ///
    /// # Errors
    /// If it does not come.
    pub async fn record(
        &mut self,
        what: &str,
        fits: impl Fn(&Value) -> bool,
    ) -> anyhow::Result<Value> {
        let (_, record) = self
            .wait(what, 0, |line| {
                serde_json::from_str(line).ok().filter(|value| fits(value))
            })
            .await?;
        Ok(record)
    }

    async fn wait<T>(
        &mut self,
        what: &str,
        from: usize,
        look: impl Fn(&str) -> Option<T>,
    ) -> anyhow::Result<(usize, T)> {
        let waited = timeout(PATIENCE, async {
            let mut seen = from;
            loop {
                let lines = self.lines();
                let found = lines
                    .iter()
                    .enumerate()
                    .skip(seen)
                    .find_map(|(at, line)| Some((at + 1, look(line)?)));
                if found.is_some() {
                    return found;
                }
                seen = lines.len().max(from);
                self.count.changed().await.ok()?;
            }
        });
        match waited.await {
            Ok(Some(found)) => Ok(found),
            Ok(None) => bail!("it ended without saying {what}; it said:\n{}", self.tail()),
            Err(_) => bail!("it does not say {what}; it says:\n{}", self.tail()),
        }
    }
}
