//! The watch of everything below the prefix: it begins again where it broke off, on the next
//! member, and where that is not possible it says that anything may have changed.

use std::sync::Arc;
use std::time::Duration;

use arx_identity::crypto;
use arx_proto::etcdserverpb::watch_client::WatchClient;
use arx_proto::etcdserverpb::watch_request::RequestUnion;
use arx_proto::etcdserverpb::{WatchCreateRequest, WatchRequest, WatchResponse};
use futures_util::stream::{self, StreamExt as _};
use tonic::Streaming;

use super::members::{Failed, request};
use super::{Inner, MAX_MESSAGE, after_all};

/// Pause after the first failure; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How far the watch has come.
#[derive(Debug, Default)]
struct Place {
    /// The first revision that was not told of yet; `None` before anything was.
    next: Option<i64>,
    failures: u32,
}

/// Of what comes next.
const COMPACTED: &str = "their history was compacted";
const SET_BACK: &str = "the member is at an earlier revision than was told of";

enum Ended {
    /// What would come next is not known any more.
    Missed(&'static str),
    Broken(String),
}

impl Inner {
    /// Watches, for ever.
    pub(super) async fn watch(self: Arc<Self>) {
        let mut place = Place::default();
        loop {
            match self.follow(&mut place).await {
                Ended::Missed(why) => {
                    tracing::warn!(
                        code = "ARX-STORE-WATCH-GAP",
                        store = self.members.place(),
                        "changes of the store were missed, since {why}: everything is read again"
                    );
                    place.next = None;
                }
                Ended::Broken(why) => {
                    if place.failures == 0 {
                        tracing::info!(
                            store = self.members.place(),
                            why,
                            "the watch of the store broke off, and is begun again"
                        );
                    }
                    let limit = FIRST_PAUSE
                        .saturating_mul(1 << place.failures.min(10))
                        .min(LONGEST_PAUSE);
                    let random =
                        f64::from(u16::from_be_bytes(crypto::random())) / f64::from(u16::MAX);
                    tokio::time::sleep(limit.mul_f64(random)).await;
                    place.failures += 1;
                }
            }
        }
    }

    async fn follow(&self, place: &mut Place) -> Ended {
        let mut told = match self.begin(place.next.unwrap_or_default()).await {
            Ok(told) => told,
            Err(Failed::Compacted) => return Ended::Missed(COMPACTED),
            Err(Failed::NotDone(error)) => return Ended::Broken(error.to_string()),
            Err(Failed::Unknown(why)) => return Ended::Broken(why),
        };
        loop {
            let response = match told.message().await {
                Ok(Some(response)) => response,
                Ok(None) => return Ended::Broken("it was ended".to_owned()),
                Err(status) => return Ended::Broken(status.message().to_owned()),
            };
            if response.compact_revision > 0 {
                return Ended::Missed(COMPACTED);
            }
            if response.canceled {
                return Ended::Broken(response.cancel_reason);
            }
            if is_set_back(&response, place) {
                return Ended::Missed(SET_BACK);
            }
            self.take(&response, place);
            place.failures = 0;
        }
    }

    fn take(&self, response: &WatchResponse, place: &mut Place) {
        let revision = response.header.as_ref().map_or(0, |header| header.revision);
        if response.created && place.next.is_none() {
            // Whatever was written before the watch was there.
            self.hub.notify_all();
        }
        let events = response.events.iter().filter_map(|event| event.kv.as_ref());
        let mut last = None;
        for changed in events {
            last = last.max(Some(changed.mod_revision));
            match self.key_of(&changed.key) {
                Some(key) => self.hub.notify(&key),
                None => self.hub.notify_all(),
            }
        }
        // Only where nothing else is told does the revision in the header say how far the watch
        // has come.
        let is_progress = response.events.is_empty() && !response.created;
        let seen = match last {
            Some(last) => Some(last),
            None if is_progress || place.next.is_none() => Some(revision),
            None => None,
        };
        place.next = place.next.max(seen.map(|seen| seen + 1));
    }

    async fn begin(&self, from: i64) -> Result<Streaming<WatchResponse>, Failed> {
        let create = WatchRequest {
            request_union: Some(RequestUnion::CreateRequest(WatchCreateRequest {
                key: self.prefix.clone().into(),
                range_end: after_all(&self.prefix).into(),
                start_revision: from,
                progress_notify: true,
            })),
        };
        let opening = |channel| {
            let create = create.clone();
            let opening = async move {
                // Without an end: whoever ends its requests ends the watch.
                let requests = stream::once(async move { create }).chain(stream::pending());
                let mut client = WatchClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
                let opened = client.watch(request(requests)).await?;
                Ok(opened.into_inner())
            };
            Box::pin(opening) as futures_util::future::BoxFuture<'static, _>
        };
        self.members.ask(opening, false).await
    }
}

/// Whether members tell of a state before what they have told of: theirs was set back, and they would
/// begin to tell in the midst of what happened since. Or a member has not caught up yet, which is no
/// reason to wait for it.
fn is_set_back(response: &WatchResponse, place: &Place) -> bool {
    let now = response.header.as_ref().map(|header| header.revision);
    now.zip(place.next)
        .is_some_and(|(now, next)| now + 1 < next)
}
