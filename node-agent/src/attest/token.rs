//! Service-account tokens in a stream's metadata, as Citadel's node agent took them.
//!
//! The agent can't verify a token and never lets its claims decide who gets what: they
//! only help to pick the token that lives longest, and to find the process again that
//! has already proved an identity with an earlier token of the same pod.

use arx_identity::crypto;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use http::header::{AUTHORIZATION, HeaderMap, HeaderName};
use serde::Deserialize;
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use zeroize::Zeroizing;

/// What Envoy's file-based metadata credentials were told to send by Istio's node agent.
/// The `-bin` suffix makes gRPC clients encode it in base64.
pub(crate) const CITADEL_HEADER: HeaderName =
    HeaderName::from_static("istio_sds_credentials_header-bin");
/// Longer ones are refused before anything else is done with them.
const LONGEST: usize = 16 * 1024;

/// Why the metadata's token can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// More than one credential in the metadata.
    #[error("send exactly one token in the metadata")]
    Several,
    /// Not `Bearer`, not text, or not base64 where it has to be.
    #[error("send the token as `authorization: Bearer <token>`")]
    Malformed,
    /// Over 16 KiB.
    #[error("the token is longer than 16384 bytes")]
    TooLong,
    /// Three base64url parts with JSON in the middle are the least that a JWT has.
    #[error("the token is not a service-account token")]
    NotJwt,
}

/// A token as it was presented: unverified, and never shown.
pub struct ServiceAccountToken {
    text: Zeroizing<String>,
    digest: [u8; 32],
    claims: Claims,
}

/// What the token says about itself. **Unverified.**
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// Whose token it says to be.
    pub subject: Subject,
    /// When it says to end.
    pub expires: Option<SystemTime>,
    /// Name of the node that it says to be bound to (KEP-4193).
    pub node: Option<Box<str>>,
}

/// The holder that a token claims. **Unverified** until a certificate was issued for the
/// very token.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Subject {
    /// `iss`
    pub issuer: String,
    /// `sub`: `system:serviceaccount:<namespace>:<name>`
    pub account: String,
    /// UID of the pod that it is bound to, or empty.
    pub pod_uid: String,
}

impl ServiceAccountToken {
    /// Takes the token out of a stream's metadata; None if there is none.
    ///
    /// # Errors
    /// If there is something that is not one well-formed token.
    pub fn from_metadata(metadata: &HeaderMap) -> Result<Option<Self>, TokenError> {
        let bearer = one(metadata, &AUTHORIZATION)?;
        let citadel = one(metadata, &CITADEL_HEADER)?;
        match (bearer, citadel) {
            (Some(_), Some(_)) => Err(TokenError::Several),
            (Some(value), None) => {
                let (scheme, token) = value
                    .trim()
                    .split_once(|c: char| c.is_ascii_whitespace())
                    .ok_or(TokenError::Malformed)?;
                if !scheme.eq_ignore_ascii_case("bearer") {
                    return Err(TokenError::Malformed);
                }
                Self::new(token).map(Some)
            }
            (None, Some(value)) => {
                let value = value.trim();
                // A JWT has dots and base64 has none: some clients don't encode.
                if value.contains('.') {
                    return Self::new(value).map(Some);
                }
                let text = STANDARD_NO_PAD
                    .decode(value)
                    .or_else(|_| STANDARD.decode(value))
                    .map_err(|_| TokenError::Malformed)?;
                let text =
                    Zeroizing::new(String::from_utf8(text).map_err(|_| TokenError::Malformed)?);
                Self::new(&text).map(Some)
            }
            (None, None) => Ok(None),
        }
    }

    /// Reads one token.
    ///
    /// # Errors
    /// If it is too long or not a JWT.
    pub fn new(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        if text.len() > LONGEST {
            return Err(TokenError::TooLong);
        }
        let mut parts = text.split('.');
        let (Some(_), Some(payload), Some(_), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(TokenError::NotJwt);
        };
        let payload = URL_SAFE_NO_PAD
            .decode(payload)
            .map_err(|_| TokenError::NotJwt)?;
        let payload: Payload = serde_json::from_slice(&payload).map_err(|_| TokenError::NotJwt)?;
        Ok(Self {
            digest: crypto::sha256(text.as_bytes()),
            text: Zeroizing::new(text.to_owned()),
            claims: payload.into(),
        })
    }

    /// The token itself, for the authority's eyes only.
    #[must_use]
    pub fn secret(&self) -> &str {
        &self.text
    }

    /// SHA-256 of the token: equal only for the same token.
    #[must_use]
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// What the token says. **Unverified.**
    #[must_use]
    pub fn claims(&self) -> &Claims {
        &self.claims
    }

    /// Whether the token says that it has ended by `now`.
    #[must_use]
    pub fn says_expired(&self, now: SystemTime) -> bool {
        self.claims.expires.is_some_and(|expires| expires <= now)
    }
}

impl fmt::Debug for ServiceAccountToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceAccountToken")
            .finish_non_exhaustive()
    }
}

fn one<'a>(metadata: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, TokenError> {
    let mut values = metadata.get_all(name).iter();
    let Some(first) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(TokenError::Several);
    }
    // Base64 grows a token by a third.
    if first.len() > 2 * LONGEST {
        return Err(TokenError::TooLong);
    }
    first.to_str().map(Some).map_err(|_| TokenError::Malformed)
}

#[derive(Deserialize)]
struct Payload {
    #[serde(default)]
    iss: String,
    #[serde(default)]
    sub: String,
    exp: Option<u64>,
    #[serde(default, rename = "kubernetes.io")]
    kubernetes: Kubernetes,
}

#[derive(Default, Deserialize)]
struct Kubernetes {
    #[serde(default)]
    pod: Pod,
    #[serde(default)]
    node: Node,
}

#[derive(Default, Deserialize)]
struct Node {
    name: Option<Box<str>>,
}

#[derive(Default, Deserialize)]
struct Pod {
    #[serde(default)]
    uid: String,
}

impl From<Payload> for Claims {
    fn from(payload: Payload) -> Self {
        Self {
            expires: payload
                .exp
                .and_then(|exp| UNIX_EPOCH.checked_add(Duration::from_secs(exp))),
            subject: Subject {
                issuer: payload.iss,
                account: payload.sub,
                pod_uid: payload.kubernetes.pod.uid,
            },
            node: payload.kubernetes.node.name,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    fn jwt(payload: &str) -> String {
        format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(payload))
    }

    fn metadata(name: &str, value: &str) -> HeaderMap {
        let mut map = HeaderMap::new();
        let name: HeaderName = name.parse().expect("a name");
        map.insert(name, HeaderValue::from_str(value).expect("test header"));
        map
    }

    const PAYLOAD: &str = r#"{"iss":"https://k8s","sub":"system:serviceaccount:a:b","exp":1700000000,
        "aud":["arx"],"kubernetes.io":{"namespace":"a","pod":{"name":"p","uid":"u-1"}}}"#;

    #[test]
    fn the_scheme_is_taken_in_any_case_and_space_is_trimmed() -> Result<(), TokenError> {
        let token = jwt(PAYLOAD);
        for value in [
            format!("Bearer {token}"),
            format!("bearer   {token}  "),
            format!("  BEARER\t{token}"),
        ] {
            let found = ServiceAccountToken::from_metadata(&metadata("authorization", &value))?;
            assert_eq!(found.as_ref().map(|t| t.secret()), Some(token.as_str()));
        }
        Ok(())
    }

    #[test]
    fn citadels_header_is_taken_encoded_and_plain() -> Result<(), TokenError> {
        let token = jwt(PAYLOAD);
        for value in [
            token.clone(),
            STANDARD.encode(&token),
            STANDARD_NO_PAD.encode(&token),
        ] {
            let found =
                ServiceAccountToken::from_metadata(&metadata(CITADEL_HEADER.as_str(), &value))?;
            assert_eq!(found.as_ref().map(|t| t.secret()), Some(token.as_str()));
        }
        Ok(())
    }

    #[test]
    fn claims_are_read_and_may_be_missing() -> Result<(), TokenError> {
        let full = ServiceAccountToken::new(&jwt(PAYLOAD))?;
        assert_eq!(full.claims().subject.pod_uid, "u-1");
        assert!(full.says_expired(UNIX_EPOCH + Duration::from_secs(1_700_000_000)));
        let bare = ServiceAccountToken::new(&jwt("{}"))?;
        assert_eq!(bare.claims().expires, None);
        Ok(())
    }

    #[test]
    fn what_is_not_one_token_is_refused() {
        let refuse = |map: &HeaderMap| ServiceAccountToken::from_metadata(map).map(|_| ()).err();
        let token = jwt(PAYLOAD);
        assert_eq!(
            refuse(&metadata("authorization", &format!("Basic {token}"))),
            Some(TokenError::Malformed)
        );
        assert_eq!(
            refuse(&metadata("authorization", &token)),
            Some(TokenError::Malformed)
        );
        assert_eq!(
            refuse(&metadata("authorization", "Bearer a.b")),
            Some(TokenError::NotJwt)
        );
        let long = format!("Bearer {}", jwt(&"x".repeat(LONGEST)));
        assert_eq!(
            refuse(&metadata("authorization", &long)),
            Some(TokenError::TooLong)
        );
        let mut both = metadata("authorization", &format!("Bearer {token}"));
        both.insert(CITADEL_HEADER, HeaderValue::from_static("x"));
        assert_eq!(refuse(&both), Some(TokenError::Several));
        assert_eq!(refuse(&HeaderMap::new()), None);
    }

    #[test]
    fn a_token_is_never_printed() -> Result<(), TokenError> {
        let token = ServiceAccountToken::new(&jwt(PAYLOAD))?;
        assert!(!format!("{token:?}").contains("e30"));
        Ok(())
    }

    proptest! {
        #[test]
        fn no_header_makes_it_panic(value in "\\PC{0,200}") {
            if let Ok(value) = HeaderValue::from_str(&value) {
                let mut map = HeaderMap::new();
                map.insert("authorization", value.clone());
                let _ = ServiceAccountToken::from_metadata(&map);
                let mut map = HeaderMap::new();
                map.insert(CITADEL_HEADER, value);
                let _ = ServiceAccountToken::from_metadata(&map);
            }
        }
    }
}
