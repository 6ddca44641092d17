//! One response: some secrets, a nonce, and the bytes.

use std::sync::Arc;

use arx_identity::crypto::Sha256;
use bytes::Bytes;

use crate::request::Shape;
use crate::snapshot::{self, Encoded, Secret};
use crate::wire;

/// What was sent in one message, as long as its answer matters.
#[derive(Debug)]
pub(crate) struct Response {
    nonce: Arc<str>,
    secrets: Vec<Arc<Secret>>,
}

impl Response {
    /// A response whose nonce follows from its only secret: its bytes are shared by all
    /// streams.
    pub(crate) fn shared(secret: Arc<Secret>) -> Self {
        Self {
            nonce: secret.nonce().clone(),
            secrets: vec![secret],
        }
    }

    /// A response with a nonce of its own.
    pub(crate) fn new(nonce: Arc<str>, secrets: Vec<Arc<Secret>>) -> Self {
        Self { nonce, secrets }
    }

    pub(crate) fn nonce(&self) -> &Arc<str> {
        &self.nonce
    }

    pub(crate) fn secrets(&self) -> &[Arc<Secret>] {
        &self.secrets
    }

    /// The gRPC frame of it, in one or more pieces. Secrets are not copied.
    pub(crate) fn frame(&self, shape: Shape) -> Vec<Bytes> {
        let encoded: Vec<&Encoded> = match shape {
            Shape::StateOfTheWorld => self
                .secrets
                .iter()
                .map(|secret| secret.state_of_the_world())
                .collect(),
            Shape::Delta => self.secrets.iter().map(|secret| secret.delta()).collect(),
        };
        if let ([secret], [encoded]) = (self.secrets.as_slice(), encoded.as_slice())
            && *secret.nonce() == self.nonce
        {
            return vec![encoded.frame()];
        }
        let resources: Vec<Bytes> = encoded.iter().map(|encoded| encoded.resource()).collect();
        let more = resources.iter().map(Bytes::len).sum();
        let version = self.version();
        let head = match shape {
            Shape::StateOfTheWorld => snapshot::state_of_the_world_head(&version, &self.nonce),
            Shape::Delta => snapshot::delta_head(&self.nonce),
        };
        std::iter::once(wire::frame(&head, more))
            .chain(resources)
            .collect()
    }

    /// The version of one secret, or of several together.
    fn version(&self) -> Arc<str> {
        if let [secret] = self.secrets.as_slice() {
            return secret.version().clone();
        }
        let mut hash = Sha256::new();
        for secret in &self.secrets {
            // A name may hold anything, so it is told apart by its length.
            hash.update(
                format!(
                    "{}\n{}\n{}\n",
                    secret.name().len(),
                    secret.name(),
                    secret.version()
                )
                .as_bytes(),
            );
        }
        format!(
            "{}-{}",
            self.secrets.len(),
            snapshot::short_hex(&hash.finish())
        )
        .into()
    }
}
