//! One named secret, and the bytes of it that all streams share.

use std::fmt;
use std::sync::{Arc, OnceLock};

use arx_identity::crypto::{Sha256, sha256};
use arx_identity::{Svid, TrustBundle};
use bytes::Bytes;

use crate::wire::{self, Field};

/// The type that this service has, and no other.
pub(crate) const TYPE_URL: &str =
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

const VALIDATOR: &str = "envoy.tls.cert_validator.spiffe";
const VALIDATOR_TYPE_URL: &str =
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig";

/// What a secret holds.
#[derive(Clone, Debug)]
pub enum Content {
    /// A certificate chain and its key: `tls_certificate`.
    Certificate(Svid),
    /// The roots of one trust domain: `validation_context` with `trusted_ca`.
    Trust(TrustBundle),
    /// The roots of several trust domains, in the order of their names:
    /// `validation_context` with the SPIFFE validator.
    All(Arc<[TrustBundle]>),
}

impl Content {
    /// A version that follows from the content alone, so that it means the same after a
    /// restart: `<serial>-<hash>` of a certificate, `<epoch>.<number>-<hash>` of one
    /// bundle, `all-<hash>` of several. Hashes are 16 hex digits.
    pub(crate) fn version(&self) -> Arc<str> {
        match self {
            Self::Certificate(svid) => {
                let mut hash = Sha256::new();
                let chain = svid.chain().certificates();
                chain
                    .iter()
                    .for_each(|certificate| hash.update(certificate.der()));
                format!("{}-{}", svid.serial(), short_hex(&hash.finish())).into()
            }
            Self::Trust(bundle) => trust_version(bundle).into(),
            Self::All(bundles) => {
                let mut hash = Sha256::new();
                for bundle in bundles.iter() {
                    // Neither part can hold a line feed.
                    let line = format!("{}\n{}\n", bundle.trust_domain(), trust_version(bundle));
                    hash.update(line.as_bytes());
                }
                format!("all-{}", short_hex(&hash.finish())).into()
            }
        }
    }
}

fn trust_version(bundle: &TrustBundle) -> String {
    format!("{}-{}", bundle.sequence(), short_hex(&bundle.sha256()))
}

/// The first 16 digits.
pub(crate) fn short_hex(hash: &[u8; 32]) -> String {
    hash[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A secret under one resource name. What Envoy gets of it is encoded when the first
/// stream asks, and shared by all that follow.
pub struct Secret {
    name: Arc<str>,
    version: Arc<str>,
    nonce: Arc<str>,
    content: Content,
    state_of_the_world: OnceLock<Encoded>,
    delta: OnceLock<Encoded>,
}

/// A gRPC frame with a whole response that has one resource, which is its last field.
pub(crate) struct Encoded {
    frame: Bytes,
    resource: usize,
}

impl Encoded {
    /// The response, whose nonce is [`Secret::nonce`].
    pub(crate) fn frame(&self) -> Bytes {
        self.frame.clone()
    }

    /// The field `resources` of it, to stand in a response with others.
    pub(crate) fn resource(&self) -> Bytes {
        self.frame.slice(self.resource..)
    }
}

impl Secret {
    pub(crate) fn new(name: Arc<str>, version: Arc<str>, content: Content) -> Self {
        let hash = sha256(format!("{version}\n{name}").as_bytes());
        Self {
            name,
            version,
            nonce: short_hex(&hash).into(),
            content,
            state_of_the_world: OnceLock::new(),
            delta: OnceLock::new(),
        }
    }

    /// The resource name.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The version, which follows from the content: `<serial>-<hash>` of a certificate,
    /// `<epoch>.<number>-<hash>` of a bundle, `all-<hash>` of several.
    #[must_use]
    pub fn version(&self) -> &Arc<str> {
        &self.version
    }

    /// What it holds.
    #[must_use]
    pub fn content(&self) -> &Content {
        &self.content
    }

    /// The nonce of the shared frames: it follows from name and version.
    pub(crate) fn nonce(&self) -> &Arc<str> {
        &self.nonce
    }

    /// As a `DiscoveryResponse`.
    pub(crate) fn state_of_the_world(&self) -> &Encoded {
        self.state_of_the_world.get_or_init(|| {
            self.with_message(|secret| {
                let resource = any(2, TYPE_URL, secret);
                let head = state_of_the_world_head(&self.version, &self.nonce);
                encode(head, resource)
            })
        })
    }

    /// As a `DeltaDiscoveryResponse`.
    pub(crate) fn delta(&self) -> &Encoded {
        self.delta.get_or_init(|| {
            self.with_message(|secret| {
                let resource = Field::Message(
                    2,
                    vec![
                        Field::Bytes(1, self.version.as_bytes()),
                        Field::Bytes(3, self.name.as_bytes()),
                        any(2, TYPE_URL, secret),
                    ],
                );
                encode(delta_head(&self.nonce), resource)
            })
        })
    }

    /// Calls `encode` with the fields of the `Secret` message.
    fn with_message<T>(&self, encode: impl FnOnce(Vec<Field<'_>>) -> T) -> T {
        let name = Field::Bytes(1, self.name.as_bytes());
        match &self.content {
            Content::Certificate(svid) => {
                let chain = svid.chain().pem();
                let key = svid.key().pkcs8_pem();
                let certificate = vec![inline(1, chain.as_bytes()), inline(2, key.as_bytes())];
                encode(vec![name, Field::Message(2, certificate)])
            }
            Content::Trust(bundle) => {
                let roots = bundle.pem();
                let context = vec![inline(1, roots.as_bytes())];
                encode(vec![name, Field::Message(4, context)])
            }
            Content::All(bundles) => {
                let roots: Vec<(&str, String)> = bundles
                    .iter()
                    .map(|bundle| (bundle.trust_domain().as_str(), bundle.pem()))
                    .collect();
                let domains = roots.iter().map(|(domain, roots)| {
                    let bundle = inline(2, roots.as_bytes());
                    Field::Message(1, vec![Field::Bytes(1, domain.as_bytes()), bundle])
                });
                // No `trusted_ca` beside it: Envoy passes over it (contract, validators).
                let validator = vec![
                    Field::Bytes(1, VALIDATOR.as_bytes()),
                    any(2, VALIDATOR_TYPE_URL, domains.collect()),
                ];
                let context = vec![Field::Message(12, validator)];
                encode(vec![name, Field::Message(4, context)])
            }
        }
    }
}

/// Never the content, which may be a private key.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({} at {})", self.name, self.version)
    }
}

/// The fields of a `DiscoveryResponse` other than `resources`.
pub(crate) fn state_of_the_world_head<'a>(version: &'a str, nonce: &'a str) -> Vec<Field<'a>> {
    vec![
        Field::Bytes(1, version.as_bytes()),
        Field::Bytes(4, TYPE_URL.as_bytes()),
        Field::Bytes(5, nonce.as_bytes()),
    ]
}

/// The fields of a `DeltaDiscoveryResponse` other than `resources`. The version stands
/// with each resource.
pub(crate) fn delta_head(nonce: &str) -> Vec<Field<'_>> {
    vec![
        Field::Bytes(4, TYPE_URL.as_bytes()),
        Field::Bytes(5, nonce.as_bytes()),
    ]
}

fn encode<'a>(mut head: Vec<Field<'a>>, resource: Field<'a>) -> Encoded {
    let length = resource.len();
    head.push(resource);
    let frame = wire::frame(&head, 0);
    Encoded {
        resource: frame.len() - length,
        frame,
    }
}

/// A `google.protobuf.Any` around a message with these fields.
fn any<'a>(number: u8, type_url: &'a str, message: Vec<Field<'a>>) -> Field<'a> {
    Field::Message(
        number,
        vec![
            Field::Bytes(1, type_url.as_bytes()),
            Field::Message(2, message),
        ],
    )
}

/// A `DataSource` with `inline_bytes`.
fn inline(number: u8, bytes: &[u8]) -> Field<'_> {
    Field::Message(number, vec![Field::Bytes(2, bytes)])
}
