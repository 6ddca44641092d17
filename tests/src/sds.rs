//! A client of secret discovery that does what it is told, right or wrong, where a real
//! Envoy would only do what is right.

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use arx_identity::{CertChain, Certificate, PrivateKey, Svid};
use arx_proto::envoy::config::core::v3::{DataSource, Node, data_source::Specifier};
use arx_proto::envoy::extensions::transport_sockets::tls::v3::{Secret, secret};
use arx_proto::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use arx_proto::envoy::service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient;
use arx_proto::google::rpc::Status;
use futures_util::Stream as _;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::admin::channel;
use crate::process::PATIENCE;

/// Type of everything here.
pub const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

/// A process's connection to an agent's socket. Streams of it share it.
#[derive(Clone)]
pub struct Connection {
    channel: Channel,
    token: Option<String>,
}

/// A stream, state of the world.
pub struct Stream {
    requests: mpsc::UnboundedSender<DiscoveryRequest>,
    responses: Streaming<DiscoveryResponse>,
}

impl Connection {
    /// Connects to the socket of an agent; `token` is sent with each stream.
    ///
    /// # Errors
    /// If nobody listens there.
    pub async fn open(socket: &Path, token: Option<&str>) -> anyhow::Result<Self> {
        Ok(Self {
            channel: channel(socket).await?,
            token: token.map(str::to_owned),
        })
    }

    /// Opens a stream whose first request asks for `names`.
    ///
    /// # Errors
    /// If the agent refuses it.
    pub async fn stream(&self, names: &[&str]) -> anyhow::Result<Stream> {
        let mut first = request(names);
        first.node = Some(Node {
            id: "test".to_owned(),
            cluster: "test".to_owned(),
        });
        self.stream_with(first).await
    }

    /// Opens a stream with this first request.
    ///
    /// # Errors
    /// If the agent refuses it.
    pub async fn stream_with(&self, first: DiscoveryRequest) -> anyhow::Result<Stream> {
        let (requests, queue) = mpsc::unbounded_channel();
        requests.send(first)?;
        let queue = futures_util::stream::unfold(queue, |mut queue| async move {
            Some((queue.recv().await?, queue))
        });
        let mut call = tonic::Request::new(queue);
        if let Some(token) = &self.token {
            let value = format!("Bearer {token}").parse()?;
            call.metadata_mut().insert("authorization", value);
        }
        let mut client = SecretDiscoveryServiceClient::new(self.channel.clone());
        let responses = client.stream_secrets(call).await?.into_inner();
        Ok(Stream {
            requests,
            responses,
        })
    }
}

/// A request for `names`, without anything else.
#[must_use]
pub fn request(names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest {
        resource_names: names.iter().map(|&name| name.to_owned()).collect(),
        type_url: SECRET.to_owned(),
        ..DiscoveryRequest::default()
    }
}

impl Stream {
    /// Sends any request.
    ///
    /// # Errors
    /// If the stream is over.
    pub fn send(&self, request: DiscoveryRequest) -> anyhow::Result<()> {
        self.requests.send(request).context("the stream is over")
    }

    /// Takes a response: says that it is used.
    ///
    /// # Errors
    /// If the stream is over.
    pub fn ack(&self, response: &DiscoveryResponse) -> anyhow::Result<()> {
        let names = names(response)?;
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        self.send(DiscoveryRequest {
            version_info: response.version_info.clone(),
            response_nonce: response.nonce.clone(),
            ..request(&names)
        })
    }

    /// Refuses a response.
    ///
    /// # Errors
    /// If the stream is over.
    pub fn nack(&self, response: &DiscoveryResponse, why: &str) -> anyhow::Result<()> {
        let names = names(response)?;
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        self.send(DiscoveryRequest {
            response_nonce: response.nonce.clone(),
            error_detail: Some(Status {
                code: 13,
                message: why.to_owned(),
                ..Status::default()
            }),
            ..request(&names)
        })
    }

    /// Waits for the next response.
    ///
    /// # Errors
    /// If none comes, or the stream ends.
    pub async fn next(&mut self) -> anyhow::Result<DiscoveryResponse> {
        match timeout(PATIENCE, self.responses.message()).await {
            Ok(Ok(Some(response))) => Ok(response),
            Ok(Ok(None)) => bail!("the stream is over"),
            Ok(Err(status)) => bail!("the stream ends with {status:?}"),
            Err(_) => bail!("no response comes"),
        }
    }

    /// Waits for the end of the stream, and answers its status (`None` for OK).
    ///
    /// # Errors
    /// If it does not end.
    pub async fn end(mut self) -> anyhow::Result<Option<tonic::Status>> {
        let end = async {
            loop {
                match self.responses.message().await {
                    Ok(Some(_)) => {}
                    Ok(None) => return None,
                    Err(status) => return Some(status),
                }
            }
        };
        timeout(PATIENCE, end)
            .await
            .context("the stream does not end")
    }

    /// Whether a response is there already. It proves silence only after something else
    /// has shown that the agent has come so far.
    pub async fn is_silent(&mut self) -> bool {
        std::future::poll_fn(|context| {
            std::task::Poll::Ready(
                Pin::new(&mut self.responses)
                    .poll_next(context)
                    .is_pending(),
            )
        })
        .await
    }
}

/// The secrets of a response.
///
/// # Errors
/// If it holds anything else.
pub fn secrets(response: &DiscoveryResponse) -> anyhow::Result<Vec<Secret>> {
    let resources = response.resources.iter();
    resources
        .map(|resource| Ok(Secret::decode(resource.value.as_ref())?))
        .collect()
}

/// Their names.
///
/// # Errors
/// If the response holds anything else.
pub fn names(response: &DiscoveryResponse) -> anyhow::Result<Vec<String>> {
    Ok(secrets(response)?
        .into_iter()
        .map(|secret| secret.name)
        .collect())
}

/// The certificate chain of a secret.
///
/// # Errors
/// If it holds none.
pub fn chain(secret: &Secret) -> anyhow::Result<CertChain> {
    let Some(secret::Type::TlsCertificate(certificate)) = &secret.r#type else {
        bail!("{} is not a certificate", secret.name);
    };
    Ok(CertChain::from_pem(inline(
        certificate.certificate_chain.as_ref(),
    )?)?)
}

/// Chain and key of a secret.
///
/// # Errors
/// If it holds none.
pub fn svid(secret: &Secret) -> anyhow::Result<Svid> {
    let Some(secret::Type::TlsCertificate(certificate)) = &secret.r#type else {
        bail!("{} is not a certificate", secret.name);
    };
    let key = PrivateKey::from_pem(inline(certificate.private_key.as_ref())?)?;
    Ok(Svid::new(chain(secret)?, Arc::new(key))?)
}

/// The roots of a secret.
///
/// # Errors
/// If it holds none.
pub fn trusted(secret: &Secret) -> anyhow::Result<Vec<Certificate>> {
    let Some(secret::Type::ValidationContext(context)) = &secret.r#type else {
        bail!("{} is not of roots", secret.name);
    };
    let pem = inline(context.trusted_ca.as_ref())?;
    Ok(Certificate::list_from_pem(pem)?)
}

fn inline(source: Option<&DataSource>) -> anyhow::Result<&str> {
    match source.and_then(|source| source.specifier.as_ref()) {
        Some(Specifier::InlineBytes(pem)) => Ok(std::str::from_utf8(pem)?),
        _ => bail!("a part of the secret is not inline"),
    }
}
