//! The watch of all Secrets that hold state: it begins again where it broke off, and where that is
//! not possible it says that anything may have changed.

use std::sync::Arc;

use serde::Deserialize;

use super::Inner;
use super::api::Failed;
use super::object::{List, OF, Object};
use crate::kubernetes::{Place, pause};

/// Of what comes next.
const FORGOTTEN: &str = "the API server has forgotten them";

#[derive(Deserialize)]
struct Event {
    #[serde(rename = "type")]
    kind: String,
    object: Watched,
}

#[derive(Deserialize)]
struct Watched {
    #[serde(flatten)]
    object: Object,
    /// Of a Status.
    code: Option<u16>,
}

/// Why a watch ended out of order.
enum Ended {
    /// What would come next is not known any more.
    Missed(&'static str),
    Broken(String),
}

impl Inner {
    /// Watches, for ever.
    pub(super) async fn watch(self: Arc<Self>) {
        let (mut place, mut failures) = (None, 0);
        loop {
            match self.follow(&mut place, &mut failures).await {
                Ok(()) => {}
                Err(Ended::Missed(why)) => {
                    tracing::warn!(
                        code = "ARX-STORE-WATCH-GAP",
                        store = self.api.place(),
                        "changes of the store were missed, since {why}: everything is read again"
                    );
                    place = None;
                }
                Err(Ended::Broken(why)) => {
                    if failures == 0 {
                        tracing::info!(
                            store = self.api.place(),
                            why,
                            "the watch of the store broke off, and is begun again"
                        );
                    }
                    tokio::time::sleep(pause(failures)).await;
                    failures += 1;
                }
            }
            place = place.and_then(Place::unless_silent);
        }
    }

    /// Follows what happens from `at` on, and from now on if that is nowhere.
    async fn follow(&self, at: &mut Option<Place>, failures: &mut u32) -> Result<(), Ended> {
        let (place, mut lines) = match at {
            Some(place) => {
                let lines = self.api.watch(OF, place.version()).await?;
                (place, lines)
            }
            None => {
                let place = self.now().await?;
                let lines = self.api.watch(OF, place.version()).await?;
                // Whatever was written before the watch was there.
                self.hub.notify_all();
                (at.insert(place), lines)
            }
        };
        while let Some(line) = lines.next().await.map_err(Ended::Broken)? {
            let Ok(event) = serde_json::from_slice::<Event>(&line) else {
                *at = None;
                let why = "it sent something that is no event".to_owned();
                return Err(Ended::Broken(why));
            };
            let Watched { object, code } = event.object;
            match &*event.kind {
                "ERROR" if code == Some(410) => return Err(Ended::Missed(FORGOTTEN)),
                "ERROR" => {
                    *at = None;
                    let why = format!("status {}", code.unwrap_or_default());
                    return Err(Ended::Broken(why));
                }
                "BOOKMARK" => {}
                _ => match object.key() {
                    Some(key) => self.hub.notify(&key),
                    None => self.hub.notify_all(),
                },
            }
            let advanced = place.advance(object.metadata.resource_version);
            advanced.map_err(Ended::Missed)?;
            *failures = 0;
        }
        Ok(())
    }

    /// Where the API server is now.
    async fn now(&self) -> Result<Place, Ended> {
        let list = self.api.list(OF, 1, None).await?;
        let list: List = serde_json::from_slice(&list)
            .map_err(|_| Ended::Broken("its list is none".to_owned()))?;
        Ok(Place::of_list(list.metadata.resource_version))
    }
}

impl From<Failed> for Ended {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Expired(_) => Self::Missed(FORGOTTEN),
            Failed::NotDone(error) => Self::Broken(error.to_string()),
            Failed::Unknown(why) | Failed::Missing(why) => Self::Broken(why),
            Failed::Conflict => Self::Broken("409".to_owned()),
        }
    }
}
