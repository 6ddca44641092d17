//! Hearing of the objects of one kind and name, or of namespaces: a list, and a watch from there.

use std::time::Duration;

use futures_util::StreamExt as _;
use kube::Api;
use kube::api::{DynamicObject, ListParams, WatchEvent, WatchParams};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::trouble::Trouble;
use crate::kubernetes::{Place, QUIET, pause};

/// An answer that takes longer has failed.
const DEADLINE: Duration = Duration::from_secs(10);
/// Objects in a page.
const PAGE: u32 = 500;

/// What is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Namespaces,
    Place(usize),
}

/// What was heard of it.
#[derive(Debug)]
pub(super) enum Heard {
    All(Vec<DynamicObject>),
    There(Box<DynamicObject>),
    Gone(Box<DynamicObject>),
    Away(Trouble),
}

/// What of a kind is watched.
#[derive(Clone, Debug, Default)]
pub(super) struct Selection {
    pub(super) fields: Option<String>,
    pub(super) labels: Option<String>,
}

/// Tells of what is selected for as long as somebody listens.
pub(super) async fn watch(
    api: Api<DynamicObject>,
    selection: Selection,
    source: Source,
    tell: mpsc::Sender<(Source, Heard)>,
) {
    let mut place = None;
    let mut failures = 0;
    loop {
        let outcome = match place.take() {
            None => list(&api, &selection, source, &tell).await,
            Some(from) => follow(&api, &selection, source, &tell, from, &mut failures).await,
        };
        match outcome {
            Ok(from) => place = from,
            Err(Ended::Nobody) => return,
            Err(Ended::Lost(trouble)) => {
                if tell.send((source, Heard::Away(trouble))).await.is_err() {
                    return;
                }
                tokio::time::sleep(pause(failures)).await;
                failures += 1;
            }
        }
    }
}

enum Ended {
    /// Nobody listens any more.
    Nobody,
    Lost(Trouble),
}

impl From<kube::Error> for Ended {
    fn from(error: kube::Error) -> Self {
        Self::Lost(Trouble::of(&error))
    }
}

/// Lists all, and answers from where to go on.
async fn list(
    api: &Api<DynamicObject>,
    selection: &Selection,
    source: Source,
    tell: &mpsc::Sender<(Source, Heard)>,
) -> Result<Option<Place>, Ended> {
    let mut all = Vec::new();
    let mut parameters = ListParams {
        label_selector: selection.labels.clone(),
        field_selector: selection.fields.clone(),
        ..ListParams::default()
    }
    .limit(PAGE);
    loop {
        let page = timeout(DEADLINE, api.list(&parameters)).await;
        let page = page.map_err(|_| Ended::Lost(Trouble::silent(DEADLINE.as_secs())))??;
        all.extend(page.items);
        match page.metadata.continue_.filter(|next| !next.is_empty()) {
            Some(next) => parameters = parameters.continue_token(&next),
            None => {
                let heard = (source, Heard::All(all));
                tell.send(heard).await.map_err(|_| Ended::Nobody)?;
                return Ok(page.metadata.resource_version.map(Place::of_list));
            }
        }
    }
}

/// Follows what happens from a place on, and answers from where to go on; anew, if nowhere.
async fn follow(
    api: &Api<DynamicObject>,
    selection: &Selection,
    source: Source,
    tell: &mpsc::Sender<(Source, Heard)>,
    mut place: Place,
    failures: &mut u32,
) -> Result<Option<Place>, Ended> {
    let parameters = WatchParams {
        label_selector: selection.labels.clone(),
        field_selector: selection.fields.clone(),
        ..WatchParams::default()
    };
    let opened = timeout(DEADLINE, api.watch(&parameters, place.version())).await;
    let opened = opened.map_err(|_| Ended::Lost(Trouble::silent(DEADLINE.as_secs())))??;
    let mut events = std::pin::pin!(opened);
    loop {
        let event = timeout(QUIET, events.next()).await;
        let event = match event.map_err(|_| Ended::Lost(Trouble::silent(QUIET.as_secs())))? {
            None => return Ok(place.unless_silent()),
            Some(event) => event?,
        };
        *failures = 0;
        let (version, heard) = match event {
            WatchEvent::Bookmark(mark) => (Some(mark.metadata.resource_version), None),
            WatchEvent::Error(status) if status.code == 410 => return Ok(None),
            WatchEvent::Error(status) => return Err(kube::Error::Api(status).into()),
            WatchEvent::Added(object) | WatchEvent::Modified(object) => (
                object.metadata.resource_version.clone(),
                Some(Heard::There(Box::new(object))),
            ),
            WatchEvent::Deleted(object) => (
                object.metadata.resource_version.clone(),
                Some(Heard::Gone(Box::new(object))),
            ),
        };
        let advanced = place.advance(version.unwrap_or_default());
        advanced.map_err(|why| Ended::Lost(Trouble::set_back(why)))?;
        if let Some(heard) = heard {
            let told = tell.send((source, heard)).await;
            told.map_err(|_| Ended::Nobody)?;
        }
    }
}
