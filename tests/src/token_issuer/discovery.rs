//! The issuer's discovery documents (OpenID Connect Discovery 1.0, 4) on loopback, as an
//! API server serves them.

use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

const CONFIGURATION: &str = "/.well-known/openid-configuration";
const KEYS: &str = "/openid/v1/jwks";

/// A running server of discovery documents; it ends with this.
pub struct Discovery {
    /// What `discovery_url` of a cluster is set to.
    pub url: String,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

struct Shared {
    configuration: String,
    keys: Mutex<Option<String>>,
    fetched: AtomicU64,
}

impl Discovery {
    /// Serves the keys of `issuer`.
    ///
    /// # Errors
    /// If no port is free.
    pub async fn start(issuer: &super::TokenIssuer) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let url = format!("http://127.0.0.1:{}", listener.local_addr()?.port());
        let configuration = json!({"issuer": issuer.issuer(), "jwks_uri": format!("{url}{KEYS}")});
        let shared = Arc::new(Shared {
            configuration: configuration.to_string(),
            keys: Mutex::new(Some(issuer.jwks())),
            fetched: AtomicU64::new(0),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(listener, Arc::clone(&shared)));
        Ok(Self {
            url,
            shared,
            _tasks: tasks,
        })
    }

    /// Serves these keys from now on; with `None`, nothing but errors.
    pub fn publish(&self, keys: Option<String>) {
        let mut current = self
            .shared
            .keys
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *current = keys;
    }

    /// How often the keys were asked for.
    #[must_use]
    pub fn fetched(&self) -> u64 {
        self.shared.fetched.load(Ordering::Relaxed)
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let shared = Arc::clone(&shared);
                connections.spawn(async move {
                    let answer = service_fn(|request| {
                        let answer = shared.answer(&request);
                        async move { Ok::<_, Infallible>(answer) }
                    });
                    let _ended = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

impl Shared {
    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let keys = self
            .keys
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let text = match request.uri().path() {
            CONFIGURATION => keys.map(|_| self.configuration.clone()),
            KEYS => {
                self.fetched.fetch_add(1, Ordering::Relaxed);
                keys
            }
            _ => None,
        };
        let mut response = Response::new(Full::default());
        match text {
            Some(text) => *response.body_mut() = Full::new(text.into()),
            None => *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE,
        }
        response
    }
}
