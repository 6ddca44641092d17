//! The watch of all Secrets that hold state: it begins again where it broke off, and where that is
//! not possible it says that anything may have changed.

use std::sync::Arc;

use serde::Deserialize;

use super::Inner;
use super::api::Failed;
use super::object::{List, OF, Object};
use crate::kubernetes::pause;

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

/// How a watch ended.
enum Ended {
    /// In good order.
    Well,
    /// What would come next is forgotten.
    Expired,
    Broken(String),
}

impl Inner {
    /// Watches, for ever.
    pub(super) async fn watch(self: Arc<Self>) {
        let (mut version, mut failures) = (None, 0);
        loop {
            match self.follow(&mut version, &mut failures).await {
                Ended::Well => {}
                Ended::Expired => {
                    tracing::warn!(
                        code = "ARX-STORE-WATCH-GAP",
                        store = self.api.place(),
                        "changes of the store were missed, since the API server has forgotten them: everything is read again"
                    );
                    version = None;
                }
                Ended::Broken(why) => {
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
        }
    }

    async fn follow(&self, version: &mut Option<String>, failures: &mut u32) -> Ended {
        let is_anew = version.is_none();
        let from = match version.clone() {
            Some(version) => version,
            None => match self.now().await {
                Ok(version) => version,
                Err(ended) => return ended,
            },
        };
        let mut lines = match self.api.watch(OF, &from).await {
            Ok(lines) => lines,
            Err(failed) => return failed.into(),
        };
        *version = Some(from);
        if is_anew {
            // Whatever was written before the watch was there.
            self.hub.notify_all();
        }
        loop {
            let line = match lines.next().await {
                Ok(Some(line)) => line,
                Ok(None) => return Ended::Well,
                Err(broken) => return Ended::Broken(broken.why),
            };
            let Ok(event) = serde_json::from_slice::<Event>(&line) else {
                *version = None;
                return Ended::Broken("it sent something that is no event".to_owned());
            };
            let Watched { object, code } = event.object;
            match &*event.kind {
                "ERROR" if code == Some(410) => return Ended::Expired,
                "ERROR" => {
                    *version = None;
                    return Ended::Broken(format!("status {}", code.unwrap_or_default()));
                }
                "BOOKMARK" => {}
                _ => match object.key() {
                    Some(key) => self.hub.notify(&key),
                    None => self.hub.notify_all(),
                },
            }
            *version = Some(object.metadata.resource_version);
            *failures = 0;
        }
    }

    /// Where the API server is now.
    async fn now(&self) -> Result<String, Ended> {
        let list = self.api.list(OF, 1, None).await?;
        let list: List = serde_json::from_slice(&list)
            .map_err(|_| Ended::Broken("its list is none".to_owned()))?;
        Ok(list.metadata.resource_version)
    }
}

impl From<Failed> for Ended {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Expired(_) => Self::Expired,
            Failed::NotDone(error) => Self::Broken(error.to_string()),
            Failed::Unknown(why) | Failed::Missing(why) => Self::Broken(why),
            Failed::Conflict => Self::Broken("409".to_owned()),
        }
    }
}
