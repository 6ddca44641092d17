//! A proxy, as far as secret discovery is concerned.

use crate::authority::Channel;
use arx_identity::{CertChain, Certificate};
use arx_proto::envoy::config::core::v3::DataSource;
use arx_proto::envoy::config::core::v3::data_source::Specifier;
use arx_proto::envoy::extensions::transport_sockets::tls::v3::{Secret, secret};
use arx_proto::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use arx_proto::envoy::service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient;
use arx_proto::google::rpc;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use std::path::Path;
use std::sync::Arc;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::metadata::MetadataValue;
use tonic::{Request, Status, Streaming};

const TYPE_URL: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

/// One connection.
#[derive(Debug)]
pub(crate) struct Proxy {
    client: SecretDiscoveryServiceClient<Channel>,
    connection: Arc<JoinSet<()>>,
}

/// One stream of it.
#[derive(Debug)]
pub(crate) struct Stream {
    name: String,
    up: mpsc::UnboundedSender<DiscoveryRequest>,
    answer: Answer,
    /// It ends with its last stream.
    _connection: Arc<JoinSet<()>>,
}

/// The headers of an answer come with the first secret.
enum Answer {
    Awaited(JoinSet<Result<Streaming<DiscoveryResponse>, Status>>),
    Begun(Box<Streaming<DiscoveryResponse>>),
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Answer")
    }
}

/// What came on it.
#[derive(Debug)]
pub(crate) struct Got {
    pub(crate) version: String,
    pub(crate) nonce: String,
    pub(crate) secret: Secret,
}

impl Proxy {
    pub(crate) async fn connect(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket)
            .await
            .expect("the agent listens");
        Self::over(stream).await
    }

    /// On a connection that somebody has made.
    pub(crate) async fn over(stream: UnixStream) -> Self {
        let (send, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .expect("it speaks HTTP/2");
        let mut driver = JoinSet::new();
        driver.spawn(async move { drop(connection.await) });
        let origin = http::Uri::from_static("http://sds");
        Self {
            client: SecretDiscoveryServiceClient::with_origin(Channel::from(send), origin),
            connection: Arc::new(driver),
        }
    }

    /// Opens a stream and asks for one name.
    pub(crate) fn ask(&self, name: &str, token: Option<&str>) -> Stream {
        let (up, mut requests) = mpsc::unbounded_channel();
        let _ = up.send(DiscoveryRequest {
            resource_names: vec![name.to_owned()],
            type_url: TYPE_URL.to_owned(),
            ..DiscoveryRequest::default()
        });
        let requests = futures_util::stream::poll_fn(move |cx| requests.poll_recv(cx));
        let mut request = Request::new(requests);
        if let Some(token) = token {
            let bearer = MetadataValue::try_from(format!("Bearer {token}")).expect("printable");
            request.metadata_mut().insert("authorization", bearer);
        }
        let mut client = self.client.clone();
        let mut awaited = JoinSet::new();
        awaited.spawn(async move {
            let answer = client.stream_secrets(request).await?;
            Ok(answer.into_inner())
        });
        Stream {
            name: name.to_owned(),
            up,
            answer: Answer::Awaited(awaited),
            _connection: Arc::clone(&self.connection),
        }
    }
}

impl Stream {
    /// Waits for the next secret.
    pub(crate) async fn next(&mut self) -> Result<Got, Status> {
        let response = loop {
            match &mut self.answer {
                Answer::Awaited(awaited) => {
                    let begun = awaited.join_next().await.expect("asked once");
                    self.answer = Answer::Begun(Box::new(begun.expect("no panic")?));
                }
                Answer::Begun(down) => break down.message().await?,
            }
        };
        let response = response.ok_or_else(|| Status::cancelled("ended without a status"))?;
        let [resource] = response.resources.as_slice() else {
            panic!("one name was asked for: {response:?}");
        };
        let secret = Secret::decode(resource.value.as_ref()).expect("a secret");
        assert_eq!(secret.name, self.name);
        Ok(Got {
            version: response.version_info,
            nonce: response.nonce,
            secret,
        })
    }

    /// Waits for the next secret and takes it.
    pub(crate) async fn take(&mut self) -> Result<Got, Status> {
        let got = self.next().await?;
        self.answer(&got, None);
        Ok(got)
    }

    pub(crate) fn refuse(&self, got: &Got, words: &str) {
        self.answer(got, Some(words));
    }

    fn answer(&self, got: &Got, refusal: Option<&str>) {
        let accepted = refusal.map_or(got.version.clone(), |_| String::new());
        let _ = self.up.send(DiscoveryRequest {
            version_info: accepted,
            resource_names: vec![self.name.clone()],
            type_url: TYPE_URL.to_owned(),
            response_nonce: got.nonce.clone(),
            error_detail: refusal.map(|words| rpc::Status {
                code: 13,
                message: words.to_owned(),
                details: Vec::new(),
            }),
            ..DiscoveryRequest::default()
        });
    }
}

impl Got {
    /// The chain, if it is a certificate.
    pub(crate) fn chain(&self) -> CertChain {
        let Some(secret::Type::TlsCertificate(certificate)) = &self.secret.r#type else {
            panic!("not a certificate: {}", self.secret.name);
        };
        CertChain::from_pem(&text(certificate.certificate_chain.as_ref())).expect("a chain")
    }

    /// The roots, if it is trust.
    pub(crate) fn roots(&self) -> Vec<Certificate> {
        let Some(secret::Type::ValidationContext(context)) = &self.secret.r#type else {
            panic!("not a validation context: {}", self.secret.name);
        };
        Certificate::list_from_pem(&text(context.trusted_ca.as_ref())).expect("certificates")
    }
}

fn text(source: Option<&DataSource>) -> String {
    match source.and_then(|source| source.specifier.as_ref()) {
        Some(Specifier::InlineBytes(bytes)) => String::from_utf8(bytes.to_vec()).expect("PEM"),
        other => panic!("not inline bytes: {other:?}"),
    }
}
