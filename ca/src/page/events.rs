//! Telling a script that something has changed (WHATWG HTML, 9.2, server-sent events). It
//! then asks for the page again, so there is one way in which anything is shown.

use std::sync::Arc;
use std::time::Duration;

use arx_daemon::ops::web::{Body, Lasting};
use bytes::Bytes;
use futures_util::stream;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::access::{Entitled, Refused};
use super::{Page, refusal};
use crate::ca::Ca;
use crate::denial::Snapshot;
use crate::rotation::View;
use crate::state::{Authorities, Document as _};
use crate::store;

/// Changes that come closer together are told together.
const PAUSE: Duration = Duration::from_millis(500);
/// Also when nothing changes: times go on, and whoever hears nothing knows that it is cut off.
const TICK: Duration = Duration::from_secs(5);
/// A script comes back by itself.
const LONGEST: Duration = Duration::from_secs(3600);

/// Follows what goes on, if there is a place.
pub(super) fn follow(page: Arc<Page>, entitled: Entitled) -> Response<Body> {
    let Ok(place) = Arc::clone(&page.followers).try_acquire_owned() else {
        return refusal(&Refused {
            status: StatusCode::SERVICE_UNAVAILABLE,
            code: "ARX-PAGE-BUSY",
            message: "too many pages are followed: close some; reloading works all the same"
                .to_owned(),
        });
    };
    let following = Following {
        changes: page.ca.get().map(|ca| Changes::of(ca)),
        page,
        entitled,
        begun: false,
        _place: place,
    };
    let told = stream::unfold(following, |mut following| async move {
        let event = following.next().await?;
        Some((Ok(Frame::data(Bytes::from_static(event))), following))
    });
    let mut response = Response::new(StreamBody::new(told).boxed_unsync());
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/event-stream; charset=utf-8"),
    );
    response.extensions_mut().insert(Lasting(LONGEST));
    response
}

struct Following {
    page: Arc<Page>,
    entitled: Entitled,
    changes: Option<Changes>,
    begun: bool,
    _place: OwnedSemaphorePermit,
}

/// Whatever a page may show.
struct Changes {
    rotation: watch::Receiver<Option<Arc<View>>>,
    fleet: watch::Receiver<u64>,
    roots: store::Changes,
    denials: watch::Receiver<Snapshot>,
}

impl Changes {
    fn of(ca: &Ca) -> Self {
        Self {
            rotation: ca.rotator.watch(),
            fleet: ca.fleet.changed(),
            roots: ca.state.changes(&Authorities::KIND),
            denials: ca.denials.watch(),
        }
    }

    async fn next(&mut self) {
        tokio::select! {
            Ok(()) = self.rotation.changed() => {}
            Ok(()) = self.fleet.changed() => {}
            Ok(()) = self.roots.changed() => {}
            Ok(()) = self.denials.changed() => {}
            else => std::future::pending().await,
        }
    }
}

impl Following {
    async fn next(&mut self) -> Option<&'static [u8]> {
        if !self.begun {
            self.begun = true;
            return Some(b"retry: 2000\ndata: begun\n\n");
        }
        let drain = self.page.drain.clone();
        let changed = async {
            tokio::time::sleep(PAUSE).await;
            match &mut self.changes {
                Some(changes) => changes.next().await,
                None => std::future::pending().await,
            }
        };
        let event: &[u8] = tokio::select! {
            () = drain.requested() => return None,
            changed = tokio::time::timeout(TICK, changed) => match changed {
                Ok(()) => b"data: changed\n\n",
                Err(_) => b"data: tick\n\n",
            },
        };
        if self.changes.is_none() {
            self.changes = self.page.ca.get().map(|ca| Changes::of(ca));
        }
        self.is_entitled().await.then_some(event)
    }

    /// A certificate may run out, its root may leave the bundle, and a token may be replaced.
    async fn is_entitled(&self) -> bool {
        if let (Entitled::Client(peer), Some(ca)) = (&self.entitled, self.page.ca.get()) {
            let bundle = ca.trust.current();
            let root = peer.issuers.last();
            let trusted = root.is_some_and(|root| bundle.root(root).is_some());
            return trusted && self.page.clock.now() <= peer.not_after;
        }
        self.page.access.still(&self.entitled).await
    }
}
