//! Another Arx that certifies what signs here: asked over TLS beside its node API, by a client
//! certificate of the trust domain or by a service-account token.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arx_daemon::clock::unix_ms;
use arx_daemon::config::secret_file;
use arx_identity::tls::TlsError;
use arx_identity::{
    CertChain, Certificate, KeyId, PrivateKey, Sequence, SpiffeId, Svid, TrustBundle,
};
use arx_proto::nested::v1::nested_client::NestedClient;
use arx_proto::nested::v1::{CertifyRequest, CertifyResponse, Held, Position, SyncRequest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};
use zeroize::Zeroizing;

use super::super::outside::PATH_LENGTH;
use super::super::{AuthorityError, SERVING_PATH};
use crate::dial::authority::{NoConnection, connect};
use crate::rotation::Heard;
use crate::state::{Authorities, State};

/// Longest text of the other authority's that is passed on.
const SAID: usize = 400;
/// Largest answer that is taken.
const LARGEST: usize = 256 * 1024;
/// Longest chain that is taken.
const LONGEST: usize = 16;

/// Another Arx.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arx {
    /// Host and port of its node API.
    pub address: String,
    /// The roots that it is believed by, PEM; beside them those that are trusted here.
    pub bundle: PathBuf,
    /// How this authority shows who it is.
    pub identity: Credentials,
    /// How long the certificate is to live; none for as long as it may.
    pub ttl: Option<Duration>,
    /// How long it may all take.
    pub deadline: Duration,
}

/// How an authority shows another who it is. Files are read at each call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// A service-account token for joining.
    Token(PathBuf),
    /// An X509-SVID that the other has issued.
    Svid {
        /// The certificate and its intermediates, PEM.
        certificate: PathBuf,
        /// Its key, PKCS #8 in PEM. Mode 0600.
        key: PathBuf,
    },
}

/// The other authority gave no certificate.
#[derive(Debug, thiserror::Error)]
pub enum ArxError {
    /// One of the files cannot be used.
    #[error("{} cannot be used to ask the upstream Arx: {reason}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// It was not reached.
    #[error(
        "the upstream Arx at {address} cannot be reached: {error}; check the address and the network"
    )]
    Unreachable {
        /// Where.
        address: String,
        /// Why.
        error: io::Error,
    },
    /// No connection to it that could be trusted.
    #[error("no connection to the upstream Arx at {address}: {error}")]
    Tls {
        /// Where.
        address: String,
        /// Why.
        error: TlsError,
    },
    /// It took too long.
    #[error("the upstream Arx at {address} did not answer within {} s", after.as_secs())]
    Deadline {
        /// Where.
        address: String,
        /// The deadline.
        after: Duration,
    },
    /// It said no.
    #[error("the upstream Arx at {address} answers {code}: {message}")]
    Refused {
        /// Where.
        address: String,
        /// Its reason code, or that of gRPC.
        code: String,
        /// In its words.
        message: String,
    },
    /// What it gave is no chain.
    #[error("what the upstream Arx at {address} gives is no chain: {reason}")]
    Answer {
        /// Where.
        address: String,
        /// Why.
        reason: String,
    },
}

impl ArxError {
    /// The stable reason code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::File { .. } => "ARX-UPSTREAM-FILE",
            Self::Unreachable { .. } => "ARX-UPSTREAM-UNREACHABLE",
            Self::Tls { .. } => "ARX-UPSTREAM-TLS",
            Self::Deadline { .. } => "ARX-UPSTREAM-DEADLINE",
            Self::Refused { .. } => "ARX-UPSTREAM-REFUSED",
            Self::Answer { .. } => "ARX-UPSTREAM-OUTPUT",
        }
    }
}

impl Arx {
    /// The chain for this request, PEM. Nothing is checked but that it is one of certificates.
    pub(super) async fn chain(
        &self,
        state: &State,
        request: &str,
        root: Option<KeyId>,
    ) -> Result<String, AuthorityError> {
        let csr = der(request).ok_or_else(|| self.answer("the request itself is not PEM"))?;
        let asked = CertifyRequest {
            csr,
            trust_domain: state.trust_domain().as_str().to_owned(),
            path_length: PATH_LENGTH.into(),
            ttl_seconds: self
                .ttl
                .map_or(0, |ttl| u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX)),
            root: root.map_or_else(Bytes::new, |root| Bytes::copy_from_slice(root.as_bytes())),
        };
        let answered = self
            .ask(state, asked, async |mut client, request| {
                client.certify(request).await
            })
            .await?;
        Ok(self.pem(&answered)?)
    }

    /// Says what was confirmed and is still held here, and hears what is trusted there.
    ///
    /// # Errors
    /// [`AuthorityError`] if it is not reached, or what it says makes no sense.
    pub(crate) async fn sync(
        &self,
        state: &State,
        confirmed: Option<Sequence>,
        held: &[(KeyId, SystemTime)],
    ) -> Result<Heard, AuthorityError> {
        let held = held.iter().map(|(root, until)| Held {
            root: Bytes::copy_from_slice(root.as_bytes()),
            not_after_unix_ms: unix_ms(*until),
        });
        let said = SyncRequest {
            confirmed: confirmed.map(|it| Position {
                epoch: it.epoch,
                number: it.number,
            }),
            held: held.collect(),
        };
        let answered = self
            .ask(state, said, async |mut client, request| {
                client.sync(request).await
            })
            .await?;
        let nonsense = || self.answer("a bundle without a position, roots or an active root");
        let position = answered.published.as_ref().ok_or_else(nonsense)?;
        if answered.roots.is_empty() || answered.roots.len() > LONGEST {
            return Err(nonsense().into());
        }
        let roots = answered.roots.iter().map(|der| Certificate::from_der(der));
        let roots: Result<Vec<_>, _> = roots.collect();
        Ok(Heard {
            sequence: Sequence {
                epoch: position.epoch,
                number: position.number,
            },
            roots: roots.map_err(|error| self.answer(error.to_string()))?,
            active: KeyId::from_slice(&answered.active).ok_or_else(nonsense)?,
            next: match &answered.next[..] {
                [] => None,
                next => Some(KeyId::from_slice(next).ok_or_else(nonsense)?),
            },
            distrusted: {
                let ids = answered.distrusted.iter();
                let ids: Option<_> = ids.map(|id| KeyId::from_slice(id)).collect();
                ids.ok_or_else(nonsense)?
            },
        })
    }

    /// One call on a connection of its own, within the deadline.
    async fn ask<Q, A, F>(&self, state: &State, asked: Q, call: F) -> Result<A, AuthorityError>
    where
        F: AsyncFnOnce(NestedClient<Channel>, Request<Q>) -> Result<Response<A>, Status>,
    {
        let anchors = self.anchors(state).await?;
        let expected =
            SpiffeId::new(state.trust_domain(), SERVING_PATH).expect("it is a path of a SPIFFE id");
        let whole = async {
            let (svid, bearer) = self.credentials()?;
            let connected = connect(&self.address, &anchors, svid.as_ref(), expected).await;
            let (channel, _) = connected.map_err(|why| self.not_connected(why))?;
            let client = NestedClient::new(channel).max_decoding_message_size(LARGEST);
            let mut request = Request::new(asked);
            if let Some(bearer) = bearer {
                request.metadata_mut().insert("authorization", bearer);
            }
            let answered = call(client, request).await;
            Ok(answered
                .map_err(|status| self.refused(&status))?
                .into_inner())
        };
        let answered = tokio::time::timeout(self.deadline, whole).await;
        Ok(answered.unwrap_or_else(|_| {
            Err(ArxError::Deadline {
                address: self.address.clone(),
                after: self.deadline,
            })
        })?)
    }

    /// By whom the other may be vouched for: the roots in the file, and those that are trusted
    /// here, which a rotation may have put in their place; none that is distrusted.
    async fn anchors(&self, state: &State) -> Result<Vec<TrustBundle>, AuthorityError> {
        let text = self.read(&self.bundle)?;
        let mut roots = Certificate::list_from_pem(&text)
            .map_err(|error| self.file(&self.bundle, error.to_string()))?;
        if let Some(newest) = state.published().await?.pop() {
            roots.extend(newest.roots);
        }
        let stored = state.authorities().await?.map(|stored| stored.value);
        let stored: Authorities = stored.unwrap_or_default();
        roots.retain(|root| stored.tombstone(root).is_none());
        roots.sort_by(|a, b| a.der().cmp(b.der()));
        roots.dedup();
        let sequence = Sequence {
            epoch: 1,
            number: 1,
        };
        let bundle = TrustBundle::new(state.trust_domain().clone(), sequence, roots)
            .map_err(|error| self.file(&self.bundle, error.to_string()))?;
        Ok(vec![bundle])
    }

    fn credentials(&self) -> Result<(Option<Svid>, Option<MetadataValue<Ascii>>), ArxError> {
        match &self.identity {
            Credentials::Token(path) => {
                let secret = secret_file(path);
                let secret = secret.map_err(|error| self.file(path, error.to_string()))?;
                let text = std::str::from_utf8(&secret)
                    .map_err(|_| self.file(path, "it is not text".to_owned()))?;
                let text = Zeroizing::new(format!("Bearer {}", text.trim()));
                let mut value: MetadataValue<Ascii> = text
                    .parse()
                    .map_err(|_| self.file(path, "it is not printable text".to_owned()))?;
                value.set_sensitive(true);
                Ok((None, Some(value)))
            }
            Credentials::Svid { certificate, key } => {
                let chain = CertChain::from_pem(&self.read(certificate)?)
                    .map_err(|error| self.file(certificate, error.to_string()))?;
                let secret = secret_file(key);
                let secret = secret.map_err(|error| self.file(key, error.to_string()))?;
                let text = std::str::from_utf8(&secret)
                    .map_err(|_| self.file(key, "it is not PEM".to_owned()))?;
                let secret = PrivateKey::from_pem(text)
                    .map_err(|error| self.file(key, error.to_string()))?;
                let svid = Svid::new(chain, Arc::new(secret))
                    .map_err(|error| self.file(certificate, error.to_string()))?;
                Ok((Some(svid), None))
            }
        }
    }

    fn read(&self, path: &std::path::Path) -> Result<String, ArxError> {
        std::fs::read_to_string(path).map_err(|error| self.file(path, error.to_string()))
    }

    fn file(&self, path: &std::path::Path, reason: String) -> ArxError {
        ArxError::File {
            path: path.to_owned(),
            reason,
        }
    }

    fn not_connected(&self, why: NoConnection) -> ArxError {
        let address = self.address.clone();
        match why {
            NoConnection::Unreachable(error) => ArxError::Unreachable { address, error },
            NoConnection::Tls(error) => ArxError::Tls { address, error },
        }
    }

    fn answer(&self, reason: impl Into<String>) -> ArxError {
        ArxError::Answer {
            address: self.address.clone(),
            reason: reason.into(),
        }
    }

    /// The text is the other's: cut, and without anything that is no text.
    fn refused(&self, status: &Status) -> ArxError {
        let text = |text: &str| text.escape_debug().take(SAID).collect::<String>();
        let code = status.metadata().get("arx-code");
        let code = code.and_then(|code| code.to_str().ok());
        ArxError::Refused {
            address: self.address.clone(),
            code: code.map_or_else(|| format!("{:?}", status.code()), text),
            message: text(status.message()),
        }
    }

    fn pem(&self, answered: &CertifyResponse) -> Result<String, ArxError> {
        if answered.chain.len() > LONGEST {
            return Err(self.answer(format!("it has {} certificates", answered.chain.len())));
        }
        let parsed = answered.chain.iter().map(|der| Certificate::from_der(der));
        let parsed: Result<Vec<_>, _> = parsed.collect();
        let parsed = parsed.map_err(|error| self.answer(error.to_string()))?;
        Ok(parsed.iter().map(Certificate::pem).collect())
    }
}

/// The bytes of the one block of a PEM text that was made here.
fn der(pem: &str) -> Option<Bytes> {
    let lines = pem.lines().filter(|line| !line.starts_with("-----"));
    let text: String = lines.map(str::trim).collect();
    STANDARD.decode(text).ok().map(Bytes::from)
}

/// Whether what it is asked with can be used now, without asking. For a check before a start.
impl Arx {
    /// # Errors
    /// What is wrong with a file.
    pub fn look(&self, now: SystemTime) -> Result<(), ArxError> {
        let text = self.read(&self.bundle)?;
        Certificate::list_from_pem(&text)
            .map_err(|error| self.file(&self.bundle, error.to_string()))?;
        match (self.credentials()?.0, &self.identity) {
            (Some(svid), Credentials::Svid { certificate, .. }) if svid.not_after() < now => {
                Err(self.file(certificate, "it has expired".to_owned()))
            }
            _ => Ok(()),
        }
    }
}
