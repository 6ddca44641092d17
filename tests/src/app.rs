//! An application behind a proxy: it answers who its proxy says that the caller is.

use std::convert::Infallible;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// A running application; it ends with this.
pub struct App {
    /// Where it listens.
    pub port: u16,
    _tasks: JoinSet<()>,
}

impl App {
    /// Starts it on a free port of loopback.
    ///
    /// # Errors
    /// If there is none.
    pub async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let Ok((stream, _)) = accepted else { continue };
                        connections.spawn(async move {
                            let _ended = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer)).await;
                        });
                    }
                    Some(_) = connections.join_next() => {}
                }
            }
        });
        Ok(Self {
            port,
            _tasks: tasks,
        })
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let caller = request
        .headers()
        .get("x-forwarded-client-cert")
        .and_then(|value| value.to_str().ok());
    let text = format!("caller: {}\n", caller.unwrap_or("nobody"));
    Ok(Response::new(Full::new(text.into())))
}
