//! What is asked of an API server about pods. Not by kube's typed calls, which would hold whole
//! pods in memory.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use kube::client::Body;

use crate::kubernetes::{self, body, in_short};

/// An answer that takes longer has failed.
pub(super) const DEADLINE: Duration = Duration::from_secs(5);
/// A page of a list is thousands of lines to write.
const PAGE_DEADLINE: Duration = Duration::from_secs(30);
/// Pods in a page: what is read of it is in memory at once.
const PAGE: u32 = 250;
/// Longest page and longest line of a watch, in bytes: etcd takes no object of more than 1.5 MiB.
const MAX_PAGE: usize = 64 << 20;
const MAX_POD: usize = 4 << 20;
/// So long one watch lasts; the next goes on where it ended.
const WATCH: Duration = Duration::from_secs(300);
/// An API server says about once a minute how far a watch has come. After so long without a word
/// the connection is not there any more.
const QUIET: Duration = Duration::from_secs(90);

/// An API server.
pub(crate) struct Api {
    client: kube::Client,
    kubeconfig: Option<PathBuf>,
}

#[derive(Debug)]
pub(super) enum Failed {
    /// It knows nothing any more of the place that was named (410).
    Expired,
    Other(String),
}

impl Api {
    /// The one that the kubeconfig names, or that of the cluster around this process.
    pub(crate) async fn of(kubeconfig: Option<&Path>) -> Result<Self, String> {
        let mut config = kubernetes::config(kubeconfig, DEADLINE).await?;
        // A watch is silent most of the time.
        config.read_timeout = None;
        let client = kube::Client::try_from(config).map_err(|error| in_short(&error))?;
        Ok(Self::with(client, kubeconfig))
    }

    pub(crate) fn with(client: kube::Client, kubeconfig: Option<&Path>) -> Self {
        Self {
            client,
            kubeconfig: kubeconfig.map(Path::to_owned),
        }
    }

    pub(super) fn client(&self) -> &kube::Client {
        &self.client
    }

    pub(super) fn is_same_as(&self, other: &Self) -> bool {
        self.kubeconfig == other.kubeconfig
    }

    /// One pod as JSON; `None` if there is none of this name.
    pub(super) async fn pod(&self, namespace: &str, name: &str) -> Result<Option<Vec<u8>>, String> {
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
        match self.get(&path).await {
            Ok(answer) => body(answer, MAX_POD).await.map(Some),
            Err((StatusCode::NOT_FOUND, _)) => Ok(None),
            Err((_, why)) => Err(why),
        }
    }

    /// A page of the list of all pods, as JSON; `next` is empty for the first.
    pub(super) async fn page(&self, next: &str) -> Result<Vec<u8>, Failed> {
        let path = match next {
            "" => format!("/api/v1/pods?limit={PAGE}"),
            next => format!("/api/v1/pods?limit={PAGE}&continue={}", encoded(next)),
        };
        let page = tokio::time::timeout(PAGE_DEADLINE, async {
            let answer = self.get(&path).await.map_err(failed)?;
            body(answer, MAX_PAGE).await.map_err(Failed::Other)
        });
        page.await.unwrap_or_else(|_| {
            let seconds = PAGE_DEADLINE.as_secs();
            Err(Failed::Other(format!("no whole answer within {seconds} s")))
        })
    }

    /// What happens to pods after this version.
    pub(super) async fn watch(&self, version: &str) -> Result<Lines, Failed> {
        let path = format!(
            "/api/v1/pods?watch=true&allowWatchBookmarks=true&timeoutSeconds={}&resourceVersion={}",
            WATCH.as_secs(),
            encoded(version)
        );
        let answer = tokio::time::timeout(PAGE_DEADLINE, self.get(&path)).await;
        let answer = answer.unwrap_or_else(|_| {
            let seconds = PAGE_DEADLINE.as_secs();
            let why = format!("no answer within {seconds} s");
            Err((StatusCode::GATEWAY_TIMEOUT, why))
        });
        Ok(Lines {
            body: answer.map_err(failed)?,
            read: BytesMut::new(),
            searched: 0,
        })
    }

    async fn get(&self, path: &str) -> Result<Body, (StatusCode, String)> {
        let request = Request::get(path)
            .header(http::header::ACCEPT, "application/json")
            .body(Body::empty())
            .map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))?;
        let answer = self.client.send(request).await;
        let answer = answer.map_err(|error| (StatusCode::SERVICE_UNAVAILABLE, in_short(&error)))?;
        match answer.status() {
            status if status.is_success() => Ok(answer.into_body()),
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => Err((
                status,
                format!(
                    "{status}: it must be allowed to get, list and watch pods in all namespaces"
                ),
            )),
            status => Err((status, status.to_string())),
        }
    }
}

fn failed((status, why): (StatusCode, String)) -> Failed {
    match status {
        StatusCode::GONE => Failed::Expired,
        _ => Failed::Other(why),
    }
}

/// A value in a query (RFC 3986, 3.4).
fn encoded(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for byte in value.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                text.push(char::from(byte));
            }
            other => text.push_str(&format!("%{other:02X}")),
        }
    }
    text
}

/// The lines of a watch.
pub(super) struct Lines {
    body: Body,
    read: BytesMut,
    /// So many bytes of it hold no end of a line.
    searched: usize,
}

impl Lines {
    /// The next one; `None` when the watch has ended.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, String> {
        loop {
            let end = self.read[self.searched..]
                .iter()
                .position(|it| *it == b'\n');
            if let Some(end) = end {
                let line = self.read.split_to(self.searched + end).freeze();
                self.read.advance(1);
                self.searched = 0;
                return Ok(Some(line));
            }
            self.searched = self.read.len();
            if self.searched > MAX_POD {
                return Err(format!("a line of more than {} MiB", MAX_POD >> 20));
            }
            let frame = tokio::time::timeout(QUIET, self.body.frame()).await;
            match frame.map_err(|_| format!("nothing was heard for {} s", QUIET.as_secs()))? {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.read.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => return Err(in_short(&error)),
                None => return Ok(None),
            }
        }
    }
}
