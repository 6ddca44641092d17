//! Notice that something changed, without saying what.
//!
//! Whoever is woken reads again. So many changes may become one notice, a store that lost
//! its watch need only send one more, and nobody can act on a notice that is out of date.

use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;

use super::{Key, Prefix};

/// Notices of changes below one prefix.
#[derive(Debug)]
pub struct Changes {
    notices: watch::Receiver<()>,
    /// While it says no, the watch of the store is broken, and notices wait for it: a fault of
    /// tests.
    whole: Option<watch::Receiver<bool>>,
}

/// The store is gone; there will be no more notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the state store was closed")]
pub struct Closed;

impl Changes {
    /// Waits until something below the prefix has changed since the subscription, or since
    /// the last call. Sometimes nothing has.
    ///
    /// # Errors
    /// [`Closed`] when the store is gone.
    pub async fn changed(&mut self) -> Result<(), Closed> {
        loop {
            if let Some(whole) = &mut self.whole {
                whole.wait_for(|whole| *whole).await.map_err(|_| Closed)?;
            }
            self.notices.changed().await.map_err(|_| Closed)?;
            if let Some(whole) = &self.whole
                && !*whole.borrow()
            {
                // It broke meanwhile: told when it is back.
                self.notices.mark_changed();
                continue;
            }
            return Ok(());
        }
    }

    fn new(notices: watch::Receiver<()>) -> Self {
        Self {
            notices,
            whole: None,
        }
    }

    /// The same notices, but that they wait while `whole` says no.
    #[cfg(any(test, feature = "testing"))]
    pub(super) fn gated(mut self, whole: watch::Receiver<bool>) -> Self {
        self.whole = Some(whole);
        self
    }
}

/// The store's side: who waits for which prefix.
#[derive(Debug, Default)]
pub(super) struct Hub(Mutex<Vec<(Prefix, watch::Sender<()>)>>);

impl Hub {
    pub(super) fn subscribe(&self, prefix: &Prefix) -> Changes {
        let (sender, receiver) = watch::channel(());
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Here, and not in `notify`, because only new ones let the list grow.
        waiting.retain(|(_, sender)| !sender.is_closed());
        waiting.push((prefix.clone(), sender));
        Changes::new(receiver)
    }

    /// Wakes everybody: what has changed is not known.
    pub(super) fn notify_all(&self) {
        let waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, sender) in waiting.iter() {
            sender.send_replace(());
        }
    }

    pub(super) fn notify(&self, key: &Key) {
        let waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (prefix, sender) in waiting.iter() {
            if prefix.covers(key) {
                sender.send_replace(());
            }
        }
    }
}
