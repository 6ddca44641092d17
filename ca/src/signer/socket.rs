//! A key behind a signer socket: a small gRPC service (`arx.signer.v1`) that stands before a
//! cloud's key management service, or whatever else holds the key.

mod connect;

use std::sync::Arc;
use std::time::Duration;

use arx_identity::{KeyAlgorithm, PublicKey};
use arx_proto::signer::v1::signer_client::SignerClient;
use arx_proto::signer::v1::{Algorithm, PublicKeyRequest, SignRequest};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::options::Socket as Options;
use super::{Signer, SignerError, until};
use crate::state::SocketKey;

/// Longest text of the service's that is passed on.
const SAID: usize = 200;

/// A key behind a socket.
#[derive(Debug)]
pub(super) struct Remote {
    service: Service,
    public_key: PublicKey,
}

/// The service, and what the key is called there.
#[derive(Debug)]
struct Service {
    client: SignerClient<Channel>,
    place: SocketKey,
    custody: String,
    deadline: Duration,
}

impl Remote {
    /// The key at `place` that belongs to `public_key`. Connects when it is first asked.
    ///
    /// # Errors
    /// [`SignerError::Setup`] if the files of the connection cannot be used.
    pub(super) fn new(
        options: &Options,
        place: SocketKey,
        public_key: PublicKey,
    ) -> Result<Self, SignerError> {
        Ok(Self {
            service: Service::new(options, place)?,
            public_key,
        })
    }

    /// The configured key, for the next root. A key of `used` signs for no other.
    pub(super) async fn next(
        options: &Arc<Options>,
        used: &[PublicKey],
    ) -> Result<Self, SignerError> {
        let service = Service::new(options, SocketKey::new(&options.key))?;
        let asked = service.public_key();
        let public_key = until(service.deadline, &service.custody, asked).await?;
        let place = service.custody.clone();
        if used.contains(&public_key) {
            let remedy = "have the signer hold another, and name that in authority.signer.key";
            return Err(SignerError::KeyUsed { place, remedy });
        }
        let signs = matches!(
            public_key.algorithm(),
            KeyAlgorithm::EcdsaP256 | KeyAlgorithm::EcdsaP384 | KeyAlgorithm::Rsa(3072 | 4096)
        );
        if !signs {
            let reason = format!(
                "no root is made with a key of kind {}",
                public_key.algorithm()
            );
            return Err(SignerError::KeyUnsuitable { place, reason });
        }
        Ok(Self {
            service,
            public_key,
        })
    }

    /// Where it is found again.
    pub(super) fn place(&self) -> &SocketKey {
        &self.service.place
    }
}

impl Service {
    fn new(options: &Options, place: SocketKey) -> Result<Self, SignerError> {
        let custody = format!("signer at {}, key {}", options.place(), place.key);
        let channel = connect::channel(options).map_err(|reason| SignerError::Setup {
            custody: custody.clone(),
            reason,
        })?;
        Ok(Self {
            client: SignerClient::new(channel),
            place,
            custody,
            deadline: options.deadline(),
        })
    }

    async fn public_key(&self) -> Result<PublicKey, SignerError> {
        let request = PublicKeyRequest {
            key: self.place.key.clone(),
        };
        let answered = self.client.clone().public_key(request).await;
        let spki = answered
            .map_err(|status| self.refused(&status))?
            .into_inner()
            .spki;
        PublicKey::from_spki_der(&spki).map_err(|error| SignerError::KeyUnsuitable {
            place: self.custody.clone(),
            reason: error.to_string(),
        })
    }

    async fn sign(&self, key: &PublicKey, message: &[u8]) -> Result<Vec<u8>, SignerError> {
        let algorithm = match key.algorithm() {
            KeyAlgorithm::EcdsaP256 => Algorithm::EcdsaP256Sha256,
            KeyAlgorithm::EcdsaP384 => Algorithm::EcdsaP384Sha384,
            KeyAlgorithm::Rsa(_) => Algorithm::RsaPkcs1Sha256,
            KeyAlgorithm::Ed25519 => Algorithm::Unspecified,
        };
        let request = SignRequest {
            key: self.place.key.clone(),
            algorithm: algorithm as i32,
            message: message.to_vec().into(),
            digest: key.algorithm().digest(message).into(),
        };
        match self.client.clone().sign(request).await {
            Ok(answered) => Ok(answered.into_inner().signature.into()),
            Err(status) => Err(self.refused(&status)),
        }
    }

    /// The text is the service's: cut, and without anything that is no text.
    fn refused(&self, status: &Status) -> SignerError {
        let text: String = status.message().escape_debug().take(SAID).collect();
        match status.code() {
            Code::NotFound => SignerError::KeyMissing {
                place: self.custody.clone(),
                remedy: "see what keys the service has, and name one of them",
            },
            code => SignerError::Unreachable {
                custody: self.custody.clone(),
                reason: format!("the service answers {code:?} ({text}): see its log"),
            },
        }
    }
}

impl Signer for Remote {
    fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    fn custody(&self) -> &str {
        &self.service.custody
    }

    fn try_sign<'a>(&'a self, message: &'a [u8]) -> BoxFuture<'a, Result<Vec<u8>, SignerError>> {
        self.service.sign(&self.public_key, message).boxed()
    }

    fn try_reach(&self) -> BoxFuture<'_, Result<(), SignerError>> {
        async {
            if self.service.public_key().await? == self.public_key {
                return Ok(());
            }
            Err(SignerError::KeyMissing {
                place: self.service.custody.clone(),
                remedy: "there is one of that name, and it is not the root's; put that back",
            })
        }
        .boxed()
    }

    fn deadline(&self) -> Duration {
        self.service.deadline
    }
}
