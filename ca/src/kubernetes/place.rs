//! How far a watch has come, and when it has to begin anew: what an API server tells may be of
//! another history than before, if its own state was set back to an earlier one.

use tokio::time::Instant;

use super::QUIET;

/// Where a watch goes on.
#[derive(Debug)]
pub(crate) struct Place {
    version: String,
    heard: Instant,
}

impl Place {
    /// Where a list says that things stand now.
    pub(crate) fn of_list(version: String) -> Self {
        Self {
            version,
            heard: Instant::now(),
        }
    }

    pub(crate) fn version(&self) -> &str {
        &self.version
    }

    /// Something was heard of the version `next`.
    ///
    /// # Errors
    /// That it is an earlier one, of which nothing is to be believed.
    pub(crate) fn advance(&mut self, next: String) -> Result<(), &'static str> {
        if is_before(&next, &self.version) {
            return Err("it went back to an earlier version");
        }
        self.heard = Instant::now();
        // Whoever says nothing of the version has said that the watch is alive.
        if !next.is_empty() {
            self.version = next;
        }
        Ok(())
    }

    /// Where to go on after a watch has ended; nowhere, if it was silent for long. An API server
    /// whose state was set back has nothing to tell of a version that is still to come, and would
    /// begin to tell in the midst of what happened since.
    pub(crate) fn unless_silent(self) -> Option<Self> {
        (self.heard.elapsed() < QUIET).then_some(self)
    }
}

/// Whether a version is earlier than another one. They are numbers that grow (KEP-5504), and where they
/// are not, nothing is known of their order.
fn is_before(version: &str, other: &str) -> bool {
    match (version.parse::<u64>(), other.parse::<u64>()) {
        (Ok(version), Ok(other)) => version < other,
        _ => false,
    }
}
