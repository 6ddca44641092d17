//! The cache's two files, written away from the runtime's thread.

use super::owner::{What, Write, Written};
use crate::cache::Cache;
use arx_daemon::files::SealedFile;
use tokio::task::JoinSet;
use zeroize::Zeroizing;

/// Where the owner's writes go.
#[derive(Debug)]
pub(super) struct Disk {
    state: SealedFile,
    subscribers: SealedFile,
    writes: JoinSet<Written>,
    /// Nobody else may use the directory meanwhile.
    _cache: Cache,
}

impl Disk {
    pub(super) fn new(cache: Cache) -> Self {
        Self {
            state: cache.state_file(),
            subscribers: cache.subscribers_file(),
            writes: JoinSet::new(),
            _cache: cache,
        }
    }

    /// Begins a write.
    pub(super) fn write(&mut self, Write { what, content }: Write) {
        let file = match what {
            What::State { .. } => self.state.clone(),
            What::Subscribers(_) => self.subscribers.clone(),
        };
        self.writes.spawn_blocking(move || Written::Ended {
            result: file
                .write(&content)
                .map_err(|error| (file.path().to_owned(), error)),
            what,
        });
    }

    /// Waits for a write to end; `None` when none is under way.
    pub(super) async fn written(&mut self) -> Option<Written> {
        let written = self.writes.join_next().await?;
        Some(written.unwrap_or_else(|error| {
            tracing::error!(code = "ARX-AGENT-CACHE-WRITE", %error, "sealing panicked");
            Written::Unknown
        }))
    }

    /// Writes the last changes down, at the end of the process.
    pub(super) async fn flush(
        &self,
        state: Option<Zeroizing<Vec<u8>>>,
        subscribers: Zeroizing<Vec<u8>>,
    ) {
        let (state_file, subscribers_file) = (self.state.clone(), self.subscribers.clone());
        let last = tokio::task::spawn_blocking(move || {
            if let Some(state) = state {
                state_file.write(&state)?;
            }
            subscribers_file.write(&subscribers)
        });
        if let Ok(Err(error)) = last.await {
            tracing::warn!(code = "ARX-AGENT-CACHE-WRITE", %error, "the last changes are not written down");
        }
    }
}
