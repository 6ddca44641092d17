//! Whether the key above can be reached, looked at long before it is needed: whoever may have to
//! bring a token back should not hear of it when the intermediate ends.

use std::convert::Infallible;
use std::time::{Duration, SystemTime};

use arx_daemon::Clock;
use arx_daemon::clock::rfc3339;
use tokio::sync::watch;

use super::Authority;
use crate::signer::SignerError;

/// Between looks.
const LOOK: Duration = Duration::from_secs(10);

/// How the key above was found at the last look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// Where it is, if that may be out of reach; then somebody looks.
    pub outside: Option<String>,
    /// Why it can't be reached, and since when.
    pub away: Option<(SystemTime, SignerError)>,
}

impl Reach {
    /// Code and message for an operator, if it can't be reached and `until` is when issuance
    /// ends.
    #[must_use]
    pub fn trouble(&self, until: Option<SystemTime>) -> Option<(&'static str, String)> {
        let (since, error) = self.away.as_ref()?;
        let until = until.map_or_else(
            || "nothing is issued before it can".to_owned(),
            |until| format!("issuance goes on until {}", rfc3339(until)),
        );
        let since = rfc3339(*since);
        Some((error.code(), format!("since {since}: {error}; {until}")))
    }
}

impl Authority {
    /// Whether the key above can be reached.
    #[must_use]
    pub fn reach(&self) -> watch::Receiver<Reach> {
        self.reach.subscribe()
    }

    /// Looks again and again whether the key above can be reached, where that is a question.
    ///
    /// Never ends; drop it to stop.
    pub async fn keep_reaching(&self, clock: &Clock) -> Infallible {
        let mut roots = self.parent.subscribe();
        loop {
            let parent = roots.borrow_and_update().clone();
            let mut found = Reach::default();
            if parent.outside {
                found.outside = Some(parent.custody.clone());
                if let Err(error) = parent.key.reach().await {
                    let known = self.reach.borrow().away.clone();
                    let since = known.map_or_else(|| clock.now(), |(since, _)| since);
                    found.away = Some((since, error));
                }
            }
            self.reach.send_if_modified(|known| {
                let changed = *known != found;
                *known = found;
                changed
            });
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                Ok(()) = roots.changed() => {}
            }
        }
    }
}
