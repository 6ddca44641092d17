//! `arx.peer.v1`, beside the node API.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arx_identity::VerifiedPeer;
use arx_proto::peer::v1 as wire;
use tonic::{Request, Response, Status};

use super::merge::Piece;
use crate::authority::SERVING_PATH;
use crate::ca::Ca;
use crate::caller::{Caller, is_in_time, is_our_own};
use crate::explain;
use crate::ledger::{Place, Query};
use crate::node_api::{caller, peer, tell, within};
use crate::refusal::{Fault, Refusal};

/// How long a call may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// Records of one answer.
const MOST: usize = 1000;

/// Answers other replicas.
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
impl wire::peer_server::Peer for Api {
    async fn search_ledger(
        &self,
        request: Request<wire::SearchLedgerRequest>,
    ) -> Result<Response<wire::SearchLedgerResponse>, Status> {
        let answer = async |asked| self.0.search_for_another(asked).await;
        self.answer(request, answer).await
    }

    async fn explain_pods(
        &self,
        request: Request<wire::ExplainPodsRequest>,
    ) -> Result<Response<wire::ExplainPodsResponse>, Status> {
        let answer = async |asked| self.0.explain_for_another(asked).await;
        self.answer(request, answer).await
    }
}

impl Api {
    /// Answers a replica, and nobody else.
    async fn answer<Q, A>(
        &self,
        request: Request<Q>,
        answer: impl AsyncFnOnce(Q) -> Result<A, Refusal>,
    ) -> Result<Response<A>, Status> {
        let peer = peer(&request);
        let caller = caller(&request).clone();
        let asked = request.into_inner();
        let outcome = within(DEADLINE, async {
            self.0.is_replica(&caller).await?;
            answer(asked).await
        });
        tell(&self.0, outcome.await, &peer)
    }
}

impl Ca {
    /// Whether it is a replica of this authority that calls.
    async fn is_replica(&self, caller: &Caller) -> Result<(), Refusal> {
        match caller {
            Caller::Stranger => Err(Refusal::new(
                "ARX-CALLER-UNKNOWN",
                Fault::Unauthenticated,
                "this call needs the serving certificate of a replica of this authority",
            )),
            Caller::Node(node) => Err(not_a_replica(&node.id)),
            Caller::Other(peer) => self.is_by_a_replica(peer).await,
        }
    }

    async fn is_by_a_replica(&self, peer: &VerifiedPeer) -> Result<(), Refusal> {
        let id = &peer.id;
        // Nothing is read for anybody else.
        if id.trust_domain() != &self.trust_domain || id.path() != SERVING_PATH {
            return Err(not_a_replica(id.as_str()));
        }
        is_in_time(peer, self.clock.now())?;
        match is_our_own(&self.state, &peer.issuers).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(not_a_replica(
                "an authority below, which could name itself so,",
            )),
            Err(error) => Err(Refusal::new(
                error.code(),
                Fault::Dependency,
                error.to_string(),
            )),
        }
    }

    fn is_meant(&self, replica: &str) -> Result<(), Refusal> {
        if *replica == *self.replica {
            return Ok(());
        }
        Err(Refusal::new(
            "ARX-PEER-ANOTHER",
            Fault::Request,
            format!(
                "this is {}, and not {replica:?}: correct node_api.announce of the replica that is meant",
                self.replica
            ),
        ))
    }

    async fn explain_for_another(
        self: &Arc<Self>,
        asked: wire::ExplainPodsRequest,
    ) -> Result<wire::ExplainPodsResponse, Refusal> {
        self.is_meant(&asked.replica)?;
        let mut pods = Vec::new();
        for pod in &asked.pods {
            pods.extend(explain::here(self, pod).await?);
        }
        Ok(wire::ExplainPodsResponse { pods })
    }

    async fn search_for_another(
        self: &Arc<Self>,
        asked: wire::SearchLedgerRequest,
    ) -> Result<wire::SearchLedgerResponse, Refusal> {
        let malformed =
            |message: String| Refusal::new("ARX-REQUEST-MALFORMED", Fault::Request, message);
        self.is_meant(&asked.replica)?;
        let query = match (asked.serial.is_empty(), asked.identity.is_empty()) {
            (false, true) => Query::Serial(asked.serial.to_vec()),
            (true, false) => Query::Identity(asked.identity),
            _ => {
                let message = "give either a serial number or an identity";
                return Err(malformed(message.to_owned()));
            }
        };
        let after = match &*asked.after {
            "" => None,
            place => Some(
                place
                    .parse::<Place>()
                    .map_err(|error| malformed(error.to_string()))?,
            ),
        };
        let size = usize::try_from(asked.page_size).unwrap_or(MOST).min(MOST);
        let Piece { records, more } = self.search_own(query, size, after).await?;
        let found = records.into_iter().map(|record| wire::Found {
            json: record.json,
            time_unix_ms: record.time_ms,
            place: record.place.to_string(),
        });
        Ok(wire::SearchLedgerResponse {
            found: found.collect(),
            more,
        })
    }
}

fn not_a_replica(who: &str) -> Refusal {
    Refusal::new(
        "ARX-PEER-NOT-REPLICA",
        Fault::Forbidden,
        format!("{who} is no replica of this authority: nobody else is answered here"),
    )
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Api")
    }
}
