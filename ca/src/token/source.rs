//! Where the keys of an issuer come from: a file, or its discovery documents (OpenID
//! Connect Discovery 1.0, 4) by way of kube's client. One fetch, bounded in time and size.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::Uri;
use serde::Deserialize;

use super::config::{Cluster, base_url};
use super::jwks::{KeySet, MAX_SET};
use crate::kubernetes::{body, in_short};

/// A fetch that takes longer has failed.
const DEADLINE: Duration = Duration::from_secs(5);
/// Longest discovery document, in bytes.
const MAX_DOCUMENT: usize = 64 << 10;

/// What documents of discovery are (OpenID Connect Discovery 1.0, 4.2), and key sets (RFC 7517,
/// 8.5.2): an API server refuses whoever names only the first with 406 where keys are asked for.
const ACCEPTED: &str = "application/json, application/jwk-set+json";

/// A place to fetch keys from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    File(PathBuf),
    Discovery {
        issuer: String,
        base: Uri,
        ca_file: Option<PathBuf>,
        token_file: Option<PathBuf>,
    },
}

impl Source {
    pub(super) fn of(cluster: &Cluster) -> Result<Self, String> {
        if let Some(path) = &cluster.jwks_file {
            return Ok(Self::File(path.clone()));
        }
        let base = base_url(cluster.discovery_base()).map_err(|reason| {
            format!(
                "the URL of its discovery documents is {reason}: set discovery_url or jwks_file"
            )
        })?;
        Ok(Self::Discovery {
            issuer: cluster.issuer.clone(),
            base,
            ca_file: cluster.ca_file.clone(),
            token_file: cluster.token_file.clone(),
        })
    }

    /// Reading a file costs microseconds, so it need not be spared as a server must be.
    pub(super) fn is_file(&self) -> bool {
        matches!(self, Self::File(_))
    }

    /// Gets the keys as they are now.
    pub(super) async fn fetch(&self) -> Result<KeySet, String> {
        match self {
            Self::File(path) => read_file(path, MAX_SET)
                .and_then(|json| KeySet::parse(&json))
                .map_err(|reason| format!("{}: {reason}", path.display())),
            Self::Discovery {
                issuer,
                base,
                ca_file,
                token_file,
            } => {
                let fetch = discover(issuer, base, ca_file.as_deref(), token_file.as_deref());
                match tokio::time::timeout(DEADLINE, fetch).await {
                    Ok(result) => result,
                    Err(_) => Err(format!(
                        "{base} did not answer within {} s",
                        DEADLINE.as_secs()
                    )),
                }
            }
        }
    }
}

/// The content of a file of at most `limit` bytes.
pub(super) fn read_file(path: &Path, limit: usize) -> Result<Vec<u8>, String> {
    let mut content = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| {
            if !file.metadata()?.is_file() {
                return Err(std::io::Error::other("not a regular file"));
            }
            file.take(limit as u64 + 1).read_to_end(&mut content)
        })
        .map_err(|error| error.to_string())?;
    if content.len() > limit {
        return Err(format!("longer than {} KiB", limit >> 10));
    }
    Ok(content)
}

async fn discover(
    issuer: &str,
    base: &Uri,
    ca_file: Option<&Path>,
    token_file: Option<&Path>,
) -> Result<KeySet, String> {
    #[derive(Deserialize)]
    struct Document {
        issuer: String,
        jwks_uri: String,
    }
    // Made anew for each fetch: both files may have been replaced since the last one.
    let api = client(base, ca_file, token_file)?;
    let path = "/.well-known/openid-configuration";
    let document = get(&api, path, MAX_DOCUMENT)
        .await
        .map_err(|error| format!("{}{path}: {error}", trimmed(base)))?;
    let document: Document = serde_json::from_slice(&document)
        .map_err(|_| format!("{}{path} is not a discovery document", trimmed(base)))?;
    // Or else one issuer could speak for another (OpenID Connect Discovery 1.0, 4.3).
    if document.issuer != issuer {
        return Err(format!(
            "{}{path} is the document of another issuer; set issuer to the iss of the cluster's tokens",
            trimmed(base)
        ));
    }
    let jwks = base_url(&document.jwks_uri)
        .map_err(|reason| format!("the jwks_uri of its discovery document is {reason}"))?;
    let same_place = jwks.scheme() == base.scheme() && jwks.authority() == base.authority();
    // The API server often names itself by another address here. It gets the bearer token
    // there too if the cluster's own roots vouch for that address, never by the public's.
    let token_file = token_file.filter(|_| same_place || (https(&jwks) && ca_file.is_some()));
    let (origin, path) =
        split(&jwks).ok_or("the jwks_uri of its discovery document is not a URL")?;
    let api = client(&origin, ca_file, token_file)?;
    let json = get(&api, &path, MAX_SET)
        .await
        .map_err(|error| format!("{jwks}: {error}"))?;
    KeySet::parse(&json).map_err(|reason| format!("{jwks}: {reason}"))
}

fn https(url: &Uri) -> bool {
    url.scheme_str() == Some("https")
}

fn trimmed(base: &Uri) -> String {
    base.to_string().trim_end_matches('/').to_owned()
}

/// Scheme and authority of `url`, and its path.
fn split(url: &Uri) -> Option<(Uri, String)> {
    let origin = Uri::builder()
        .scheme(url.scheme()?.clone())
        .authority(url.authority()?.clone())
        .path_and_query("/")
        .build()
        .ok()?;
    Some((origin, url.path().to_owned()))
}

/// A client for what lies below `base`.
pub(super) fn client(
    base: &Uri,
    ca_file: Option<&Path>,
    token_file: Option<&Path>,
) -> Result<kube::Client, String> {
    let mut config = kube::Config::new(base.clone());
    config.connect_timeout = Some(DEADLINE);
    config.read_timeout = Some(DEADLINE);
    config.default_retry = false;
    config.root_cert_file = ca_file.map(Path::to_owned);
    if !https(base) {
        // Nothing to verify: don't look for the system's roots.
        config.root_cert = Some(Vec::new());
    }
    config.auth_info.token_file = token_file.map(|path| path.to_string_lossy().into_owned());
    kube::Client::try_from(config).map_err(|error| in_short(&error))
}

async fn get(api: &kube::Client, path: &str, limit: usize) -> Result<Vec<u8>, String> {
    let request = http::Request::get(path)
        .header(http::header::ACCEPT, ACCEPTED)
        .body(kube::client::Body::empty())
        .map_err(|error| error.to_string())?;
    let answer = api.send(request).await.map_err(|error| in_short(&error))?;
    match answer.status() {
        status if status.is_success() => {}
        status @ (http::StatusCode::UNAUTHORIZED | http::StatusCode::FORBIDDEN) => {
            return Err(format!(
                "{status}; bind the role system:service-account-issuer-discovery to the bearer of token_file"
            ));
        }
        status => return Err(status.to_string()),
    }
    body(answer.into_body(), limit).await
}
