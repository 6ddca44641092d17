//! First contact, and the way back after the node's certificate has expired or is not
//! believed any more: a connection without a client certificate, and the agent's token.

use super::node::verified;
use super::{CallFailure, Event, Running, SessionError, is_welcome};
use crate::trust::{Update, judge};
use arx_identity::{KeyAlgorithm, PrivateKey, TrustBundle, crypto};
use arx_proto::node::v1::JoinRequest;
use bytes::Bytes;
use std::sync::Arc;
use tonic::Request;
use tonic::metadata::{Ascii, MetadataValue};

impl Running {
    pub(super) async fn join(&mut self) -> Result<(), SessionError> {
        let bearer = self.bearer()?;
        let connection = self.connect(None).await?;
        let (mut client, _) = self.drive(connection);
        let (key, csr) = key_and_csr().await?;
        let mut request = Request::new(JoinRequest {
            hello: Some(self.hello()),
            idempotency_key: Bytes::copy_from_slice(&crypto::random::<16>()),
            csr,
        });
        request.metadata_mut().insert("authorization", bearer);
        let timeout = self.setup.config.authority.call_timeout.get();
        let answer = tokio::time::timeout(timeout, client.join(request)).await;
        let answer = answer.map_err(|_| SessionError::Join(CallFailure::timeout(timeout)))?;
        let answer = answer.map_err(|status| SessionError::Join(status.into()))?;
        let answer = answer.into_inner();

        let missing = |what: &str| SessionError::Answer(format!("the join has no {what}"));
        let welcome = answer.welcome.ok_or_else(|| missing("welcome"))?;
        is_welcome(&welcome, &self.setup.ids.node)?;
        let issued = answer.node.ok_or_else(|| missing("certificate"))?;
        // The certificate may already stand under a root that came along with it.
        let mut anchors = self.anchors()?;
        if let Some(update) = answer.trust {
            anchors.extend(self.offered(&update));
            self.tell(Event::Trust(update)).await;
        }
        let now = self.setup.clock.now();
        let svid = verified(&issued, key, &self.setup.ids.node, &anchors, now)?;
        tracing::info!(
            spiffe_id = %svid.spiffe_id(),
            serial = %svid.serial(),
            replica = welcome.replica_id,
            "the node has joined"
        );
        self.setup.svid = Some(svid.clone());
        self.tell(Event::Node(svid)).await;
        Ok(())
    }

    fn offered(&self, update: &arx_proto::node::v1::TrustUpdate) -> Option<TrustBundle> {
        let held = self.setup.trust.borrow().clone();
        let trust_domain = self.setup.ids.node.trust_domain();
        match judge(update, trust_domain, held.as_ref()) {
            Ok(Update::New(bundle)) => Some(bundle),
            _ => None,
        }
    }

    fn bearer(&self) -> Result<MetadataValue<Ascii>, SessionError> {
        let token = self.setup.config.join_token();
        let token = token.map_err(SessionError::NoToken)?;
        let text = zeroize::Zeroizing::new(format!("Bearer {}", token.secret()));
        let mut value: MetadataValue<Ascii> = text
            .parse()
            .map_err(|_| SessionError::NoToken("it is not printable text".to_owned()))?;
        value.set_sensitive(true);
        Ok(value)
    }
}

/// A fresh key for the node itself, with its CSR.
pub(super) async fn key_and_csr() -> Result<(Arc<PrivateKey>, Bytes), SessionError> {
    let made = tokio::task::spawn_blocking(|| {
        let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256)?;
        let csr = key.create_csr()?;
        Ok::<_, arx_identity::KeyError>((Arc::new(key), Bytes::from(csr)))
    });
    match made.await {
        Ok(Ok(made)) => Ok(made),
        Ok(Err(error)) => Err(SessionError::Lost(format!("no key could be made: {error}"))),
        Err(error) => Err(SessionError::Lost(format!("no key could be made: {error}"))),
    }
}
