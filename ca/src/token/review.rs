//! Verification by the API server (TokenReview v1), for clusters where a deleted pod's
//! token must be refused at once. Bounded in time and in how many run at once.

use std::time::Duration;

use http::StatusCode;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use tokio::sync::Semaphore;

use super::claims::Bound;
use super::config::Cluster;
use super::jws::Token;
use crate::kubernetes::{self, body, in_short};

/// A review that takes longer, waiting for its turn included, has failed.
const DEADLINE: Duration = Duration::from_secs(5);
/// Reviews that run at once, for each cluster.
const AT_ONCE: usize = 32;
/// Longest answer, in bytes: it repeats the token.
const MAX_ANSWER: usize = 128 << 10;

pub(super) struct Reviewer {
    api: kube::Client,
    turns: Semaphore,
}

/// What the API server says of a token that it accepts.
pub(super) struct Reviewed {
    pub(super) username: String,
    pub(super) uid: Option<String>,
    pub(super) audience: String,
    pub(super) pod: Option<Bound>,
    pub(super) node: Option<Bound>,
}

pub(super) enum Failed {
    /// The API server does not accept the token.
    Refused(&'static str),
    /// It gave no answer that counts.
    Unavailable(String),
}

impl Reviewer {
    pub(super) async fn of(cluster: &Cluster) -> Result<Self, String> {
        let config = kubernetes::config(cluster.kubeconfig.as_deref(), DEADLINE).await?;
        let api = kube::Client::try_from(config).map_err(|error| in_short(&error))?;
        Ok(Self::with(api))
    }

    pub(super) fn with(api: kube::Client) -> Self {
        Self {
            api,
            turns: Semaphore::new(AT_ONCE),
        }
    }

    /// Asks the API server whether `token` is good for one of `audiences`.
    pub(super) async fn review(
        &self,
        token: Token<'_>,
        audiences: &[String],
    ) -> Result<Reviewed, Failed> {
        let asked = tokio::time::timeout(DEADLINE, async {
            let _turn = self.turns.acquire().await;
            self.ask(token, audiences).await
        });
        asked.await.unwrap_or_else(|_| {
            Err(Failed::Unavailable(format!(
                "no answer within {} s",
                DEADLINE.as_secs()
            )))
        })
    }

    async fn ask(&self, token: Token<'_>, audiences: &[String]) -> Result<Reviewed, Failed> {
        let answer = self
            .send(token, audiences)
            .await
            .map_err(Failed::Unavailable)?;
        let status = answer
            .status
            .ok_or_else(|| Failed::Unavailable("the answer has no status".to_owned()))?;
        if status.authenticated != Some(true) {
            return Err(Failed::Refused("it is not authenticated"));
        }
        // Without audiences, an API server that knows none of ours has accepted the token
        // as meant for itself.
        let audience = audiences
            .iter()
            .find(|wanted| status.audiences.iter().flatten().any(|it| it == *wanted))
            .ok_or(Failed::Refused(
                "it is not for the audience that was asked for",
            ))?
            .clone();
        let user = status
            .user
            .ok_or(Failed::Refused("the answer names no user"))?;
        Ok(Reviewed {
            audience,
            pod: bound(&user, "pod")?,
            node: bound(&user, "node")?,
            username: user
                .username
                .ok_or(Failed::Refused("the answer names no user"))?,
            uid: user.uid,
        })
    }

    /// Not by kube's typed calls: on an answer that they can't read they log it whole, and
    /// it repeats the token.
    async fn send(&self, token: Token<'_>, audiences: &[String]) -> Result<TokenReview, String> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                audiences: Some(audiences.to_vec()),
                token: token.text().to_owned(),
            },
            ..TokenReview::default()
        };
        let json = serde_json::to_vec(&review).map_err(|_| "the request cannot be written")?;
        let request = http::Request::post("/apis/authentication.k8s.io/v1/tokenreviews")
            .header(http::header::CONTENT_TYPE, "application/json")
            .header(http::header::ACCEPT, "application/json")
            .body(kube::client::Body::from(json))
            .map_err(|_| "the request cannot be written")?;
        let answer = self
            .api
            .send(request)
            .await
            .map_err(|error| in_short(&error))?;
        match answer.status() {
            status if status.is_success() => {}
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                return Err(format!(
                    "{status}: it must be allowed to create tokenreviews (authentication.k8s.io)"
                ));
            }
            status => return Err(status.to_string()),
        }
        let json = body(answer.into_body(), MAX_ANSWER).await?;
        serde_json::from_slice(&json).map_err(|_| "the answer is not a TokenReview".to_owned())
    }

    /// Whether the API server answers reviews at all.
    pub(super) async fn probe(&self, audiences: &[String]) -> Result<(), String> {
        match self.review(Token::new("not-a-token"), audiences).await {
            Err(Failed::Unavailable(why)) => Err(why),
            Ok(_) => Err("it accepts a text that is no token".to_owned()),
            Err(Failed::Refused(_)) => Ok(()),
        }
    }
}

/// The object of this kind that the token is bound to, by the user's extra values.
fn bound(user: &UserInfo, kind: &str) -> Result<Option<Bound>, Failed> {
    let one = |what: &str| {
        let values = user
            .extra
            .as_ref()
            .and_then(|extra| extra.get(&format!("authentication.kubernetes.io/{kind}-{what}")));
        match values.map(Vec::as_slice) {
            None | Some([]) => Ok(None),
            Some([one]) => Ok(Some(one.clone())),
            Some(_) => Err(Failed::Refused(
                "the answer binds it to two objects of a kind",
            )),
        }
    };
    match (one("name")?, one("uid")?) {
        (Some(name), Some(uid)) => Ok(Some(Bound { name, uid })),
        _ => Ok(None),
    }
}
