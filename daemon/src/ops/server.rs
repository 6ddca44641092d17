//! The operator's port: GET and HEAD of /livez, /readyz, /metrics, and what else a process has to show there.

use std::fmt::Write;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use prometheus_client::registry::Registry;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::Readiness;
use super::readiness::{Failing, Said};
use super::web::{self, Answer, Body};
use crate::drain::Drain;

/// The paths that are the port's own.
const OWN: [&str; 3] = ["/livez", "/readyz", "/metrics"];

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
/// OpenMetrics 1.0, "Content type".
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The operator's port, bound but not answering yet.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
}

/// Answers every request for another path than the port's own, whatever its method.
pub type Site = Arc<dyn Fn(Request<Incoming>) -> Answer + Send + Sync>;

/// The operator's port at work. It answers until this is dropped, also while the process drains.
#[derive(Debug)]
pub struct Serving {
    address: SocketAddr,
    _task: JoinSet<()>,
}

struct State {
    readiness: Readiness,
    registry: Registry,
    drain: Drain,
    site: Option<Site>,
}

impl Server {
    /// Binds `address`; port 0 takes a free one. The error names the address.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        let bound = async {
            let listener = TcpListener::bind(address).await?;
            let address = listener.local_addr()?;
            Ok(Self { listener, address })
        };
        bound.await.map_err(|error: io::Error| {
            let reason =
                format!("cannot listen on {address}: {error}; free it or choose another address");
            io::Error::new(error.kind(), reason)
        })
    }

    /// The address that was bound.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Begins to answer. Once the end is asked for, /readyz says 503 so that no new work is sent here.
    pub fn start(self, readiness: Readiness, registry: Registry, drain: Drain) -> Serving {
        self.start_with(readiness, registry, drain, None)
    }

    /// The same; `site` has what else is shown.
    pub fn start_with(
        self,
        readiness: Readiness,
        registry: Registry,
        drain: Drain,
        site: Option<Site>,
    ) -> Serving {
        let state = Arc::new(State {
            readiness,
            registry,
            drain,
            site,
        });
        let mut task = JoinSet::new();
        let address = self.address;
        task.spawn(web::accept(self.listener, move |stream| {
            let state = Arc::clone(&state);
            web::serve(stream, move |request| answer(Arc::clone(&state), request))
        }));
        Serving {
            address,
            _task: task,
        }
    }
}

impl Serving {
    /// The address on which it answers.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

async fn answer(state: Arc<State>, request: Request<Incoming>) -> Response<Body> {
    if let Some(site) = &state.site
        && !OWN.contains(&request.uri().path())
    {
        return site(request).await;
    }
    own(&state, &request).map(Full::boxed_unsync)
}

fn own<B>(state: &State, request: &Request<B>) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut response = respond(
            StatusCode::METHOD_NOT_ALLOWED,
            TEXT,
            "only GET and HEAD\n".to_owned(),
        );
        response
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match request.uri().path() {
        "/livez" => respond(StatusCode::OK, TEXT, "ok\n".to_owned()),
        "/readyz" => readyz(state, wants_json(request)),
        "/metrics" => metrics(state),
        _ => respond(
            StatusCode::NOT_FOUND,
            TEXT,
            "here are /livez, /readyz and /metrics\n".to_owned(),
        ),
    }
}

fn readyz(state: &State, json: bool) -> Response<Full<Bytes>> {
    #[derive(Serialize)]
    struct Line {
        name: &'static str,
        ok: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        code: Option<&'static str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        message: Option<String>,
    }
    let mut conditions = state.readiness.all();
    if let Some(cause) = state.drain.cause() {
        let message = format!("this process is ending: {cause}");
        conditions.push(Said {
            name: "drain",
            ok: false,
            why: Some(Failing {
                name: "drain",
                code: "ARX-DRAINING",
                message,
            }),
        });
    }
    let lines: Vec<Line> = conditions
        .into_iter()
        .map(|Said { name, ok, why }| {
            let (code, message) = why.map(|why| (why.code, why.message)).unzip();
            Line {
                name,
                ok,
                code,
                message,
            }
        })
        .collect();
    let ready = lines.iter().all(|line| line.ok);
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    if json {
        let body = serde_json::json!({ "ready": ready, "conditions": lines });
        return respond(status, JSON, format!("{body}\n"));
    }
    let mut body = String::from(if ready { "ready\n" } else { "not ready\n" });
    for Line {
        name,
        ok,
        code,
        message,
    } in lines
    {
        let sign = if ok { '!' } else { '-' };
        let written = match (code, message) {
            (Some(code), Some(message)) => writeln!(body, "[{sign}] {name}: {code}: {message}"),
            _ => writeln!(body, "[+] {name}: ok"),
        };
        written.expect("a string takes every write");
    }
    respond(status, TEXT, body)
}

fn wants_json<B>(request: &Request<B>) -> bool {
    let accept = request
        .headers()
        .get(ACCEPT)
        .and_then(|value| value.to_str().ok());
    accept.is_some_and(|accept| accept.contains(JSON))
}

fn metrics(state: &State) -> Response<Full<Bytes>> {
    let mut body = String::new();
    match prometheus_client::encoding::text::encode(&mut body, &state.registry) {
        Ok(()) => respond(StatusCode::OK, OPENMETRICS, body),
        Err(error) => {
            tracing::error!(code = "ARX-OPS-METRICS", %error, "metrics could not be encoded; please report this");
            respond(
                StatusCode::INTERNAL_SERVER_ERROR,
                TEXT,
                "metrics could not be encoded\n".to_owned(),
            )
        }
    }
}

fn respond(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests;
