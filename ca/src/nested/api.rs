//! `arx.nested.v1`, beside the node API.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arx_proto::nested::v1 as wire;
use bytes::Bytes;
use tonic::{Request, Response, Status};

use crate::ca::Ca;
use crate::caller::Caller;
use crate::node_api::{bearer, caller, peer, tell, within};
use crate::refusal::Refusal;

/// How long a call may take: the root's key may be far away.
const DEADLINE: Duration = Duration::from_secs(25);

/// Answers authorities that stand below, or want to.
#[derive(Clone)]
pub struct Api(Arc<Ca>);

impl Api {
    /// Answers on behalf of `ca`.
    #[must_use]
    pub fn new(ca: Arc<Ca>) -> Self {
        Self(ca)
    }
}

#[tonic::async_trait]
impl wire::nested_server::Nested for Api {
    async fn certify(
        &self,
        request: Request<wire::CertifyRequest>,
    ) -> Result<Response<wire::CertifyResponse>, Status> {
        let ca = &self.0;
        self.answer(request, async |caller, token, asked| {
            let chain = ca.certify(caller, token, asked).await?;
            let der = chain.iter().map(|it| Bytes::copy_from_slice(it.der()));
            Ok(wire::CertifyResponse {
                chain: der.collect(),
            })
        })
        .await
    }

    async fn sync(
        &self,
        request: Request<wire::SyncRequest>,
    ) -> Result<Response<wire::SyncResponse>, Status> {
        let ca = &self.0;
        self.answer(request, async |caller, token, said| {
            ca.sync(caller, token, said).await
        })
        .await
    }
}

impl Api {
    async fn answer<Q, A, F>(&self, request: Request<Q>, work: F) -> Result<Response<A>, Status>
    where
        F: AsyncFnOnce(&Caller, Option<&str>, &Q) -> Result<A, Refusal>,
    {
        let peer = peer(&request);
        let token = request
            .metadata()
            .contains_key("authorization")
            .then(|| bearer(&request));
        let caller = caller(&request).clone();
        let asked = request.into_inner();
        let outcome = within(DEADLINE, async {
            let token = token.transpose()?;
            let token = token.as_ref().map(|token| token.as_str());
            work(&caller, token, &asked).await
        });
        tell(&self.0, outcome.await, &peer)
    }
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Api")
    }
}
