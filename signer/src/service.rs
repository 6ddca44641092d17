//! The two calls.

use std::sync::Arc;

use arx_identity::crypto::sha256;
use arx_identity::{KeyAlgorithm, PrivateKey};
use arx_proto::signer::v1::signer_server::Signer;
use arx_proto::signer::v1::{
    Algorithm, PublicKeyRequest, PublicKeyResponse, SignRequest, SignResponse,
};
use tonic::{Request, Response, Status};

use crate::keys::Keys;

/// A certificate to be signed is far smaller.
const LONGEST: usize = 64 * 1024;

/// The longest of them, with its digest and the key's name.
pub(crate) const LARGEST: usize = LONGEST + 4096;

/// Signs by [`Keys`].
#[derive(Clone, Debug)]
pub(crate) struct Service(Arc<Keys>);

impl Service {
    pub(crate) fn new(keys: Keys) -> Self {
        Self(Arc::new(keys))
    }

    fn key(&self, name: &str) -> Result<Arc<PrivateKey>, Status> {
        self.0
            .get(name)
            .ok_or_else(|| Status::not_found("no key is called that here"))
    }
}

#[tonic::async_trait]
impl Signer for Service {
    async fn public_key(
        &self,
        request: Request<PublicKeyRequest>,
    ) -> Result<Response<PublicKeyResponse>, Status> {
        let key = self.key(&request.into_inner().key)?;
        let spki = key.public_key().spki_der().to_vec();
        Ok(Response::new(PublicKeyResponse { spki: spki.into() }))
    }

    async fn sign(&self, request: Request<SignRequest>) -> Result<Response<SignResponse>, Status> {
        let request = request.into_inner();
        let key = self.key(&request.key)?;
        if request.message.is_empty() || request.message.len() > LONGEST {
            return Err(Status::invalid_argument(
                "the message is empty, or longer than 64 KiB",
            ));
        }
        let suits = match request.algorithm() {
            Algorithm::EcdsaP256Sha256 => key.public_key().algorithm() == KeyAlgorithm::EcdsaP256,
            Algorithm::EcdsaP384Sha384 => key.public_key().algorithm() == KeyAlgorithm::EcdsaP384,
            Algorithm::RsaPkcs1Sha256 => {
                matches!(key.public_key().algorithm(), KeyAlgorithm::Rsa(_))
            }
            Algorithm::Unspecified => false,
        };
        if !suits {
            return Err(Status::invalid_argument(
                "this key does not sign by that algorithm",
            ));
        }
        // The message was given, so nobody has to be trusted for its digest.
        let signature = key
            .sign(&request.message)
            .map_err(|error| Status::internal(error.to_string()))?;
        let digest = sha256(&request.message);
        tracing::info!(key = request.key, sha256 = %Hex(&digest), "signed");
        Ok(Response::new(SignResponse {
            signature: signature.into(),
        }))
    }
}

/// Bytes as people read them.
struct Hex<'a>(&'a [u8]);

impl std::fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
