//! Keeping the index as the API server has it: a list in pages, and then a watch from there.

use std::sync::PoisonError;

use super::api::Failed;
use super::object::{Event, Kind, List};
use super::{AWAY, Pods, Seen};
use crate::kubernetes::{Broken, pause};

impl Pods {
    /// Keeps the index, for ever.
    pub(crate) async fn keep(&self) {
        let (mut version, mut failures) = (None, 0);
        loop {
            let outcome = match version.take() {
                None => self.list().await,
                Some(from) => self.follow(from, &mut failures).await,
            };
            match outcome {
                Ok(from) => version = from,
                Err(Lost { why, from }) => {
                    version = from;
                    tracing::warn!(
                        code = AWAY,
                        cluster = &*self.cluster,
                        why,
                        "the pods of a cluster can't be watched: those that are known count for {} s more",
                        self.stale.as_secs()
                    );
                    self.change(|seen| seen.failure = Some(why.into()));
                    tokio::time::sleep(pause(failures)).await;
                    failures += 1;
                }
            }
        }
    }

    /// Reads all pods, and answers from which version to go on.
    async fn list(&self) -> Result<Option<String>, Lost> {
        let mut next = String::new();
        let list = self.change(|seen| {
            seen.lists += 1;
            seen.lists
        });
        loop {
            let began = self.clock.monotonic();
            let page = match self.api.page(&next).await {
                Ok(page) => page,
                // Too much has changed since the first page: anew.
                Err(Failed::Expired) => {
                    return Err(Lost::anew("its list expired between two pages"));
                }
                Err(Failed::Other(why)) => return Err(Lost::anew(&why)),
            };
            let page: List<'_> = serde_json::from_slice(&page)
                .map_err(|_| Lost::anew("its list of pods is none"))?;
            self.change(|seen| {
                for pod in &page.items {
                    seen.index.put(pod, list);
                }
            });
            next = page.metadata.next.into_owned();
            if next.is_empty() {
                self.change(|seen| {
                    seen.index.finish(list);
                    seen.fresh = Some(began);
                    seen.failure = None;
                });
                return Ok(Some(page.metadata.resource_version.into_owned()));
            }
        }
    }

    /// Follows what happens after `version`, and answers from where to go on.
    async fn follow(
        &self,
        mut version: String,
        failures: &mut u32,
    ) -> Result<Option<String>, Lost> {
        let mut lines = match self.api.watch(&version).await {
            Ok(lines) => lines,
            Err(Failed::Expired) => return Ok(None),
            Err(Failed::Other(why)) => return Err(Lost::at(&why, version)),
        };
        loop {
            let line = match lines.next().await {
                Ok(Some(line)) => line,
                Ok(None) => return Ok(Some(version)),
                // An API server whose state was set back has nothing to tell of a version that is still
                // to come, and would begin to tell in the midst of what happened since.
                Err(Broken { why, is_silent }) if is_silent => return Err(Lost::anew(&why)),
                Err(Broken { why, .. }) => return Err(Lost::at(&why, version)),
            };
            let Ok(event) = serde_json::from_slice::<Event<'_>>(&line) else {
                return Err(Lost::anew("it sent something that is no event of a pod"));
            };
            if event.kind == Kind::Error {
                return match event.object.code {
                    Some(410) => Ok(None),
                    code => Err(Lost::anew(&format!(
                        "it ended the watch with status {}",
                        code.unwrap_or(0)
                    ))),
                };
            }
            if is_before(&event.object.metadata.resource_version, &version) {
                return Err(Lost::anew("it went back to an earlier version"));
            }
            let now = self.clock.monotonic();
            self.change(|seen| {
                match event.kind {
                    Kind::Added | Kind::Modified => seen.index.put(&event.object, seen.lists),
                    Kind::Deleted => seen.index.remove(&event.object.metadata.uid),
                    Kind::Bookmark | Kind::Error => {}
                }
                seen.events += u64::from(event.kind != Kind::Bookmark);
                seen.fresh = Some(now);
                seen.failure = None;
            });
            *failures = 0;
            event
                .object
                .metadata
                .resource_version
                .as_ref()
                .clone_into(&mut version);
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut Seen) -> T) -> T {
        change(&mut self.seen.write().unwrap_or_else(PoisonError::into_inner))
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

/// The API server is not heard any more.
struct Lost {
    why: String,
    /// From where to go on; from the beginning without.
    from: Option<String>,
}

impl Lost {
    fn anew(why: &str) -> Self {
        Self {
            why: why.to_owned(),
            from: None,
        }
    }

    fn at(why: &str, from: String) -> Self {
        Self {
            why: why.to_owned(),
            from: Some(from),
        }
    }
}
