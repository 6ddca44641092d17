//! Asking an API server, within bounds of time and size.

use std::path::Path;
use std::time::{Duration, SystemTime};

use http::{Method, Request, StatusCode, header};
use k8s_openapi::jiff::fmt::rfc2822;
use kube::client::Body;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::timeout;

use crate::kubernetes::{self, body, in_short};

/// An answer that takes longer has failed.
const DEADLINE: Duration = Duration::from_secs(10);
/// Longest answer, in bytes: a page of [`PAGE`] objects, none of which is over 1 MiB by much.
const MAX_ANSWER: usize = 64 << 20;
/// Objects in a page.
const PAGE: usize = 50;
/// Pages of a list that are read: 100,000 objects are more than a cluster has of what is asked for.
const MOST_PAGES: usize = 2000;
/// Longest text of the API server's that is passed on, in characters.
const SAID: usize = 300;

/// An API server.
pub(super) struct Api {
    client: kube::Client,
}

/// What it says, whatever that is.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// What time it was there (RFC 9110, 6.6.1), in whole seconds.
    pub(super) date: Option<SystemTime>,
    pub(super) body: Vec<u8>,
}

impl Api {
    /// That of the kubeconfig, or of the cluster around this process.
    pub(super) async fn of(kubeconfig: Option<&Path>) -> Result<Self, String> {
        let config = kubernetes::config(kubeconfig, DEADLINE).await?;
        let client = kube::Client::try_from(config).map_err(|error| in_short(&error))?;
        Ok(Self::with(client))
    }

    pub(super) fn with(client: kube::Client) -> Self {
        Self { client }
    }

    pub(super) async fn get(&self, path: &str) -> Result<Answer, String> {
        self.send(Method::GET, path, Body::empty()).await
    }

    pub(super) async fn post(&self, path: &str, object: &Value) -> Result<Answer, String> {
        let body = Body::from(object.to_string().into_bytes());
        self.send(Method::POST, path, body).await
    }

    /// Every page of a list, each read by itself and let go.
    pub(super) async fn pages<T: DeserializeOwned>(
        &self,
        path: &str,
        mut take: impl FnMut(T),
    ) -> Result<(), String> {
        #[derive(serde::Deserialize)]
        struct List<T> {
            #[serde(default)]
            metadata: Meta,
            #[serde(default = "Vec::new")]
            items: Vec<T>,
        }
        #[derive(Default, serde::Deserialize)]
        struct Meta {
            #[serde(default, rename = "continue")]
            next: String,
        }
        let mut next = String::new();
        for _ in 0..MOST_PAGES {
            let mark = if path.contains('?') { '&' } else { '?' };
            let mut page = format!("{path}{mark}limit={PAGE}");
            if !next.is_empty() {
                page.push_str(&format!("&continue={}", kubernetes::encoded(&next)));
            }
            let list: List<T> = self.get(&page).await?.json()?;
            list.items.into_iter().for_each(&mut take);
            if list.metadata.next.is_empty() {
                return Ok(());
            }
            next = list.metadata.next;
        }
        Err(format!("its list has more than {MOST_PAGES} pages"))
    }

    async fn send(&self, method: Method, path: &str, content: Body) -> Result<Answer, String> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::ACCEPT, "application/json")
            .header(header::CONTENT_TYPE, "application/json")
            .body(content)
            .map_err(|error| error.to_string())?;
        let asked = async {
            let answer = self.client.send(request).await;
            let answer = answer.map_err(|error| in_short(&error))?;
            Ok(Answer {
                status: answer.status(),
                date: date(answer.headers()),
                body: body(answer.into_body(), MAX_ANSWER).await?,
            })
        };
        let answer = timeout(DEADLINE, asked).await;
        answer.unwrap_or_else(|_| Err(format!("no answer within {} s", DEADLINE.as_secs())))
    }
}

impl Answer {
    /// What it holds, unless it is a refusal.
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, String> {
        if !self.status.is_success() {
            return Err(self.refusal());
        }
        serde_json::from_slice(&self.body).map_err(|_| "its answer can't be read".to_owned())
    }

    /// What it says of itself where it is a refusal (`meta/v1.Status`).
    pub(super) fn refusal(&self) -> String {
        #[derive(serde::Deserialize)]
        struct Status {
            message: String,
        }
        let said: Option<Status> = serde_json::from_slice(&self.body).ok();
        let said = said.map(|it| it.message).unwrap_or_default();
        let said: String = said.escape_debug().take(SAID).collect();
        match said.as_str() {
            "" => self.status.to_string(),
            said => format!("{}: {said}", self.status),
        }
    }
}

/// The time in a header, if there is one.
fn date(headers: &http::HeaderMap) -> Option<SystemTime> {
    let text = headers.get(header::DATE)?.to_str().ok()?;
    Some(rfc2822::parse(text).ok()?.timestamp().into())
}
