//! What is asked of the API server, within a deadline, and what its answers mean.

use std::time::Duration;

use http::{Method, Request, StatusCode, header};
use kube::client::Body;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout_at};

use super::super::StoreError;
use super::object::Meta;
use super::options::Options;
use crate::kubernetes::{self, Lines, body, encoded, in_short};

/// Longest answer: a page of the largest values in Base64.
const MAX_BODY: usize = 64 << 20;
/// How long one watch lasts; the next goes on where it ended.
const WATCH: u32 = 300;
/// Longest text of the API server's that is passed on, in characters.
const SAID: usize = 300;
/// What a watch sends of an object.
const METADATA_ONLY: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";

/// Secrets of one namespace.
#[derive(Clone)]
pub(super) struct Api {
    client: kube::Client,
    namespace: String,
    deadline: Duration,
    place: String,
}

/// A call did not succeed.
#[derive(Debug)]
pub(super) enum Failed {
    /// Nothing was done, and nothing will be.
    NotDone(StoreError),
    /// It was sent, and what became of it is not known.
    Unknown(String),
    /// Something else is there than what was expected.
    Conflict,
    /// Nothing is there.
    Missing(String),
    /// It knows nothing any more of the place that was named, but may name one from which to go
    /// on (410).
    Expired(Option<String>),
}

#[derive(Default, Deserialize)]
struct Status {
    #[serde(default)]
    message: String,
    #[serde(default)]
    metadata: Meta,
}

impl Api {
    /// As the options say.
    ///
    /// # Errors
    /// What of them cannot be used.
    pub(super) async fn new(options: &Options) -> Result<Self, String> {
        let deadline = options.deadline.get();
        let mut config = kubernetes::config(options.kubeconfig.as_deref(), deadline).await?;
        // A watch is silent most of the time; every other call has a deadline of its own.
        config.read_timeout = None;
        let namespace = options.namespace.clone();
        let namespace = namespace.unwrap_or_else(|| config.default_namespace.clone());
        let client = kube::Client::try_from(config).map_err(|error| in_short(&error))?;
        Ok(Self::with(client, namespace, deadline))
    }

    pub(super) fn with(client: kube::Client, namespace: String, deadline: Duration) -> Self {
        Self {
            client,
            place: format!("the API server, for Secrets of namespace {namespace},"),
            namespace,
            deadline,
        }
    }

    /// What it is called in messages.
    pub(super) fn place(&self) -> &str {
        &self.place
    }

    /// What a Secret is called in messages.
    pub(super) fn object(&self, name: &str) -> String {
        format!("Secret {}/{name}", self.namespace)
    }

    pub(super) fn namespace(&self) -> &str {
        &self.namespace
    }

    pub(super) async fn get(&self, name: &str) -> Result<Vec<u8>, Failed> {
        self.send(Method::GET, &self.path(name), None).await
    }

    pub(super) async fn create(&self, object: &Value) -> Result<Vec<u8>, Failed> {
        self.send(Method::POST, &self.path(""), Some(object)).await
    }

    /// As [`Api::create`], but that nothing is kept.
    pub(super) async fn try_create(&self, object: &Value) -> Result<Vec<u8>, Failed> {
        let path = format!("{}?dryRun=All", self.path(""));
        self.send(Method::POST, &path, Some(object)).await
    }

    pub(super) async fn replace(&self, name: &str, object: &Value) -> Result<Vec<u8>, Failed> {
        self.send(Method::PUT, &self.path(name), Some(object)).await
    }

    pub(super) async fn delete(&self, name: &str, options: &Value) -> Result<Vec<u8>, Failed> {
        self.send(Method::DELETE, &self.path(name), Some(options))
            .await
    }

    pub(super) async fn list(
        &self,
        selector: &str,
        limit: usize,
        next: Option<&str>,
    ) -> Result<Vec<u8>, Failed> {
        let selector = encoded(selector);
        let mut path = format!("{}?labelSelector={selector}&limit={limit}", self.path(""));
        if let Some(next) = next {
            path.push_str(&format!("&continue={}", encoded(next)));
        }
        self.send(Method::GET, &path, None).await
    }

    /// Asks for something that is no Secret.
    pub(super) async fn post(&self, path: &str, object: &Value) -> Result<Vec<u8>, Failed> {
        self.send(Method::POST, path, Some(object)).await
    }

    /// What happens after this version, without the values.
    pub(super) async fn watch(&self, selector: &str, version: &str) -> Result<Lines, Failed> {
        let path = format!(
            "{}?watch=true&allowWatchBookmarks=true&timeoutSeconds={WATCH}&labelSelector={}&resourceVersion={}",
            self.path(""),
            encoded(selector),
            encoded(version)
        );
        let request = request(Method::GET, &path, None, METADATA_ONLY)?;
        let end = Instant::now() + self.deadline;
        match timeout_at(end, self.client.send(request)).await {
            Err(_) => Err(Failed::Unknown(self.no_answer())),
            Ok(Err(error)) => Err(Failed::Unknown(in_short(&error))),
            Ok(Ok(answer)) if answer.status().is_success() => Ok(Lines::of(answer.into_body())),
            Ok(Ok(answer)) => {
                let status = answer.status();
                let said = timeout_at(end, body(answer.into_body(), MAX_BODY)).await;
                let said = said.ok().and_then(Result::ok).unwrap_or_default();
                Err(self.meaning(status, &said, false))
            }
        }
    }

    fn path(&self, name: &str) -> String {
        let namespace = &self.namespace;
        match name {
            "" => format!("/api/v1/namespaces/{namespace}/secrets"),
            name => format!("/api/v1/namespaces/{namespace}/secrets/{name}"),
        }
    }

    /// The answer, within the deadline; waits where the API server asks for that.
    async fn send(
        &self,
        method: Method,
        path: &str,
        object: Option<&Value>,
    ) -> Result<Vec<u8>, Failed> {
        let end = Instant::now() + self.deadline;
        let is_write = method != Method::GET;
        loop {
            let request = request(method.clone(), path, object, "application/json")?;
            let answer = match timeout_at(end, self.client.send(request)).await {
                Err(_) => return Err(self.lost(self.no_answer(), is_write)),
                Ok(Err(error)) if was_never_sent(&error) => {
                    return Err(self.lost(in_short(&error), false));
                }
                Ok(Err(error)) => return Err(self.lost(in_short(&error), is_write)),
                Ok(Ok(answer)) => answer,
            };
            let status = answer.status();
            if status == StatusCode::TOO_MANY_REQUESTS {
                let after = answer.headers().get(header::RETRY_AFTER);
                let after = after.and_then(|it| it.to_str().ok()?.parse().ok());
                let pause = Duration::from_secs(after.unwrap_or(1).max(1));
                if Instant::now() + pause >= end {
                    let why = format!(
                        "{status}: it wants to be left alone for {} s",
                        pause.as_secs()
                    );
                    return Err(self.lost(why, false));
                }
                sleep(pause).await;
                continue;
            }
            let read = timeout_at(end, body(answer.into_body(), MAX_BODY)).await;
            let read = read.unwrap_or_else(|_| Err(self.no_answer()));
            return match read {
                Ok(read) if status.is_success() => Ok(read),
                Ok(said) => Err(self.meaning(status, &said, is_write)),
                Err(why) => Err(self.lost(why, is_write)),
            };
        }
    }

    fn no_answer(&self) -> String {
        format!("no answer within {} ms", self.deadline.as_millis())
    }

    fn lost(&self, why: String, is_write: bool) -> Failed {
        if is_write {
            return Failed::Unknown(why);
        }
        Failed::NotDone(StoreError::Unavailable {
            place: self.place.clone(),
            detail: why,
        })
    }

    fn meaning(&self, status: StatusCode, said: &[u8], is_write: bool) -> Failed {
        let told: Status = serde_json::from_slice(said).unwrap_or_default();
        let text: String = told.message.escape_debug().take(SAID).collect();
        let text = format!("{status}: {text}");
        match status {
            StatusCode::CONFLICT => Failed::Conflict,
            StatusCode::NOT_FOUND => Failed::Missing(text),
            StatusCode::GONE => Failed::Expired(told.metadata.next.filter(|next| !next.is_empty())),
            StatusCode::UNAUTHORIZED
            | StatusCode::FORBIDDEN
            | StatusCode::BAD_REQUEST
            | StatusCode::PAYLOAD_TOO_LARGE
            | StatusCode::UNPROCESSABLE_ENTITY => self.refused(text),
            _ => self.lost(text, is_write),
        }
    }

    pub(super) fn refused(&self, detail: String) -> Failed {
        Failed::NotDone(StoreError::Refused {
            place: self.place.clone(),
            detail,
        })
    }
}

fn request(
    method: Method,
    path: &str,
    object: Option<&Value>,
    accept: &str,
) -> Result<Request<Body>, Failed> {
    let body = object.map_or_else(Body::empty, |object| {
        Body::from(object.to_string().into_bytes())
    });
    Request::builder()
        .method(method)
        .uri(path)
        .header(header::ACCEPT, accept)
        .header(header::CONTENT_TYPE, "application/json")
        .body(body)
        .map_err(|error| Failed::Unknown(error.to_string()))
}

/// Whether there was no connection to send it on.
fn was_never_sent(error: &kube::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        let error_of_client = error.downcast_ref::<hyper_util::client::legacy::Error>();
        if error_of_client.is_some_and(hyper_util::client::legacy::Error::is_connect) {
            return true;
        }
        cause = error.source();
    }
    false
}
