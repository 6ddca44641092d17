//! What is asked of an API server about pods. Not by kube's typed calls, which would hold whole
//! pods in memory.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http::{Request, StatusCode};
use kube::client::Body;

use crate::kubernetes::{self, Lines, body, encoded, in_short};

/// An answer that takes longer has failed.
pub(super) const DEADLINE: Duration = Duration::from_secs(5);
/// A page of a list is thousands of lines to write.
const PAGE_DEADLINE: Duration = Duration::from_secs(30);
/// Pods in a page: what is read of it is in memory at once.
const PAGE: u32 = 250;
/// Longest page, and longest pod: etcd takes no object of more than 1.5 MiB.
const MAX_PAGE: usize = 64 << 20;
const MAX_POD: usize = 4 << 20;
/// So long one watch lasts; the next goes on where it ended.
const WATCH: Duration = Duration::from_secs(300);

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
        Ok(Lines::of(answer.map_err(failed)?))
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
