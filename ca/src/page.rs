//! The status page: what an operator looks at while something goes wrong. It shows, and it
//! does nothing; it needs no script, no network and no build.
//!
//! Who may see it is decided in `access` before anything is looked up. What is shown is
//! computed where the admin API gets it from, and written by `html`, which escapes whatever
//! is not this program's own.

mod access;
mod agent;
mod agents;
mod bar;
mod certificates;
mod config;
mod denials;
mod events;
mod frame;
mod html;
mod ledger;
mod listen;
mod nodes;
mod overview;
mod query;
mod rail;
mod rate;
mod rotation;
mod words;

use std::fmt;
use std::sync::{Arc, OnceLock};

use arx_daemon::Clock;
use arx_daemon::drain::Drain;
use arx_daemon::ops::web::Body;
use arx_daemon::ops::{Readiness, Site};
use arx_identity::VerifiedPeer;
use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use tokio::sync::Semaphore;

pub use config::{Options, Place};

use crate::ca::Ca;
use access::{Access, Entitled, Refused};
use query::Query;
use rate::Rate;

/// Nothing comes from elsewhere, nothing is kept, nobody frames it.
const HEADERS: [(&str, &str); 7] = [
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cache-control", "no-store"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cross-origin-opener-policy", "same-origin"),
    ("x-frame-options", "DENY"),
];

const TEXT: &str = "text/plain; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";
const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");
const ICON: &str = include_str!("page/icon.svg");

/// Those who may follow what goes on, at a time.
const FOLLOWERS: usize = 16;

/// The page, before and after there is anything to show.
pub struct Page {
    access: Access,
    ca: Arc<OnceLock<Arc<Ca>>>,
    readiness: Readiness,
    clock: Clock,
    drain: Drain,
    followers: Arc<Semaphore>,
    rate: Rate,
}

/// What a page is made from: one moment of the authority.
struct Look<'p> {
    page: &'p Page,
    ca: &'p Arc<Ca>,
    now_ms: i64,
}

impl Page {
    /// A page of the authority that `ca` will have.
    #[must_use]
    pub fn new(
        options: &Options,
        ca: Arc<OnceLock<Arc<Ca>>>,
        readiness: Readiness,
        clock: Clock,
        drain: Drain,
    ) -> Arc<Self> {
        Arc::new(Self {
            access: options.access(),
            ca,
            readiness,
            clock,
            drain,
            followers: Arc::new(Semaphore::new(FOLLOWERS)),
            rate: Rate::default(),
        })
    }

    /// As a part of the operator's port.
    #[must_use]
    pub fn site(self: &Arc<Self>) -> Site {
        let page = Arc::clone(self);
        Arc::new(move |request| {
            let page = Arc::clone(&page);
            Box::pin(async move { page.answer(&request.into_parts().0, None).await })
        })
    }

    /// Counts what is issued, for as long as it is polled.
    pub async fn keep(&self) {
        self.rate.keep(&self.ca).await;
    }

    /// Answers one request.
    async fn answer(
        self: &Arc<Self>,
        request: &Parts,
        peer: Option<&VerifiedPeer>,
    ) -> Response<Body> {
        let mut response = match self.access.admit(request, peer).await {
            Ok(entitled) => self.show(request, entitled).await,
            Err(refused) => refusal(&refused),
        };
        for (name, value) in HEADERS {
            let value = HeaderValue::from_static(value);
            response
                .headers_mut()
                .insert(HeaderName::from_static(name), value);
        }
        response
    }

    async fn show(self: &Arc<Self>, request: &Parts, entitled: Entitled) -> Response<Body> {
        match request.uri.path() {
            "/page.css" => return respond(StatusCode::OK, "text/css; charset=utf-8", STYLE),
            "/page.js" => return respond(StatusCode::OK, "text/javascript; charset=utf-8", SCRIPT),
            "/icon.svg" => return respond(StatusCode::OK, "image/svg+xml", ICON),
            "/events" => return events::follow(Arc::clone(self), entitled),
            _ => {}
        }
        let Some(ca) = self.ca.get() else {
            let starting = frame::starting(&self.readiness);
            return respond(StatusCode::SERVICE_UNAVAILABLE, HTML, starting);
        };
        let look = Look {
            page: self,
            ca,
            now_ms: crate::node_api::unix_ms(self.clock.now()),
        };
        let query = Query::of(&request.uri);
        let shown = match request.uri.path() {
            "/" => overview::page(&look),
            "/rotation" => rotation::page(&look, &query).await,
            "/agents" => agents::page(&look, &query),
            "/certificates" => certificates::page(&look, &query).await,
            "/denied" => denials::page(&look, &query).await,
            "/ledger" => ledger::page(&look, &query).await,
            path => agent::page(&look, path),
        };
        match shown {
            Ok(html) => respond(StatusCode::OK, HTML, html),
            Err(Missing(message)) => {
                let html = frame::missing(&look, &message);
                respond(StatusCode::NOT_FOUND, HTML, html)
            }
        }
    }
}

/// There is no such page, and why.
#[derive(Debug)]
struct Missing(String);

fn refusal(refused: &Refused) -> Response<Body> {
    let mut response = respond(refused.status, TEXT, refused.to_string());
    let header = match refused.status {
        StatusCode::METHOD_NOT_ALLOWED => Some((ALLOW, "GET")),
        StatusCode::UNAUTHORIZED => Some((WWW_AUTHENTICATE, "Bearer realm=\"arx-ca\"")),
        StatusCode::SERVICE_UNAVAILABLE => Some((RETRY_AFTER, "10")),
        _ => None,
    };
    if let Some((name, value)) = header {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}

fn respond(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Body> {
    let mut response = Response::new(Full::new(body.into()).boxed_unsync());
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

impl fmt::Debug for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Page")
    }
}

#[cfg(test)]
mod tests;
