//! Keeping the index as the API server has it: a list in pages, and then a watch from there.

use std::sync::PoisonError;

use super::api::Failed;
use super::object::{Event, Kind, List};
use super::{AWAY, Pods, Seen};
use crate::kubernetes::{Place, pause};

impl Pods {
    /// Keeps the index, for ever.
    pub(crate) async fn keep(&self) {
        let (mut place, mut failures) = (None, 0);
        loop {
            let outcome = match place.take() {
                None => self.list().await,
                Some(from) => self.follow(from, &mut failures).await,
            };
            match outcome {
                Ok(from) => place = from,
                Err(Lost { why, from }) => {
                    place = from;
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

    /// Reads all pods, and answers from where to go on.
    async fn list(&self) -> Result<Option<Place>, Lost> {
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
                let version = page.metadata.resource_version.into_owned();
                return Ok(Some(Place::of_list(version)));
            }
        }
    }

    /// Follows what happens from `place` on, and answers from where to go on.
    async fn follow(&self, mut place: Place, failures: &mut u32) -> Result<Option<Place>, Lost> {
        let mut lines = match self.api.watch(place.version()).await {
            Ok(lines) => lines,
            Err(Failed::Expired) => return Ok(None),
            Err(Failed::Other(why)) => return Err(Lost::at(&why, Some(place))),
        };
        loop {
            let line = match lines.next().await {
                Ok(Some(line)) => line,
                Ok(None) => return Ok(place.unless_silent()),
                Err(why) => return Err(Lost::at(&why, place.unless_silent())),
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
            let version = event.object.metadata.resource_version.as_ref();
            place.advance(version.to_owned()).map_err(Lost::anew)?;
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
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut Seen) -> T) -> T {
        change(&mut self.seen.write().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The API server is not heard any more.
struct Lost {
    why: String,
    /// From where to go on; from the beginning without.
    from: Option<Place>,
}

impl Lost {
    fn anew(why: &str) -> Self {
        Self {
            why: why.to_owned(),
            from: None,
        }
    }

    fn at(why: &str, from: Option<Place>) -> Self {
        Self {
            why: why.to_owned(),
            from,
        }
    }
}
