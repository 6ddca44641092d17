//! One question to one other replica, on a connection of its own.

use std::collections::{BTreeMap, BTreeSet};

use arx_identity::SpiffeId;
use arx_proto::admin::v1::{ExplainRequest, ExplainedPod};
use arx_proto::peer::v1 as wire;
use bytes::Bytes;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};
use wire::peer_client::PeerClient;

use super::merge::{Piece, Record};
use super::{ANSWER, PATIENCE, Replicas};
use crate::authority::SERVING_PATH;
use crate::ca::Ca;
use crate::caller::is_our_own;
use crate::dial::authority::{NoConnection, connect};
use crate::ledger::{Place, Query};
use crate::nested;
use crate::state::StateError;

/// Largest answer that is taken: that of one record is bounded by what a record may have.
const LARGEST: usize = 2 * ANSWER;
/// Longest text of the other's that is passed on.
const SAID: usize = 400;

type Client = PeerClient<Channel>;

/// A question, as each of them is asked it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question<'q> {
    pub(super) query: &'q Query,
    pub(super) size: usize,
    pub(super) after: Option<Place>,
}

/// The other replicas, and where they are reached; or why that is not known.
pub(super) type Others = Result<BTreeMap<String, Option<String>>, String>;

impl Ca {
    /// The other replicas, and where they are reached if they have said so. Of those that have not, only the
    /// ones that may still sign: the others were there before anybody said it.
    async fn others(&self) -> Result<BTreeMap<String, Option<String>>, StateError> {
        let replicas = self.state.replicas().await?;
        if replicas.iter().all(|(name, _)| **name == *self.replica) {
            return Ok(BTreeMap::new());
        }
        let now = self.clock.now();
        let stored = self.state.authorities().await?;
        let registrations = stored.map(|stored| stored.value.registrations);
        let may_sign: BTreeSet<_> = registrations
            .unwrap_or_default()
            .into_iter()
            .filter(|it| it.not_after > now && !nested::is_below(&it.replica))
            .map(|it| it.replica)
            .collect();
        let others = replicas.into_iter().filter(|(name, document)| {
            let counts = document.announced.is_some() || may_sign.contains(name);
            counts && **name != *self.replica
        });
        Ok(others
            .map(|(name, document)| (name, document.announced))
            .collect())
    }

    /// The other replicas, if the state says in time who they are.
    pub(super) async fn others_in_time(&self) -> Others {
        if self.replicas == Replicas::One {
            return Ok(BTreeMap::new());
        }
        let others = tokio::time::timeout(PATIENCE, self.others()).await;
        let others = match others {
            Ok(others) => others.map_err(|error| error.to_string()),
            Err(_) => Err(format!(
                "the state has not answered within {} s",
                PATIENCE.as_secs()
            )),
        };
        others.inspect_err(|reason| {
            tracing::warn!(code = "ARX-PEER-UNANSWERED", %reason, "nobody else is asked: which other replicas there are is not known");
        })
    }

    /// What the ledger of `replica` has, by its own word.
    ///
    /// # Errors
    /// Why that is not known, for people.
    pub(super) async fn ask(
        &self,
        replica: &str,
        address: Option<&str>,
        question: Question<'_>,
    ) -> Result<Piece, String> {
        let address = announced(address)?;
        let request = request(replica, question);
        let answered = self.answered(address, async |mut client: Client| {
            client.search_ledger(request).await
        });
        piece(answered.await?)
            .ok_or_else(|| format!("what {address} answers makes no sense: upgrade the older one"))
    }

    /// What `replica` knows of pods.
    ///
    /// # Errors
    /// Why that is not known, for people.
    pub(super) async fn ask_of_pods(
        &self,
        replica: &str,
        address: Option<&str>,
        pods: &[ExplainRequest],
    ) -> Result<Vec<ExplainedPod>, String> {
        let address = announced(address)?;
        let request = wire::ExplainPodsRequest {
            replica: replica.to_owned(),
            pods: pods.to_vec(),
        };
        let answered = self.answered(address, async |mut client: Client| {
            client.explain_pods(request).await
        });
        Ok(answered.await?.pods)
    }

    /// What the replica at `address` answers to a call, if it does so in time.
    async fn answered<T>(
        &self,
        address: &str,
        call: impl AsyncFnOnce(Client) -> Result<Response<T>, Status>,
    ) -> Result<T, String> {
        let answered = async {
            let answered = call(self.client(address).await?).await;
            let answered = answered.map_err(|status| refused(address, &status))?;
            Ok(answered.into_inner())
        };
        let answered = tokio::time::timeout(PATIENCE, answered).await;
        answered.unwrap_or_else(|_| {
            let seconds = PATIENCE.as_secs();
            Err(format!("{address} has not answered within {seconds} s"))
        })
    }

    /// A connection to the replica at `address`.
    async fn client(&self, address: &str) -> Result<Client, String> {
        let Some(svid) = self.authority.serving() else {
            return Err("this replica has no certificate to ask with yet".to_owned());
        };
        let expected = SpiffeId::new(&self.trust_domain, SERVING_PATH);
        let expected = expected.map_err(|error| error.to_string())?;
        let bundle = self.trust.current();
        let connected = connect(
            address,
            std::slice::from_ref(&*bundle),
            Some(&svid),
            expected,
        );
        let (channel, peer) = connected.await.map_err(|why| match why {
            NoConnection::Unreachable(error) => format!("{address} cannot be reached: {error}"),
            NoConnection::Tls(error) => format!("no connection to {address}: {error}"),
        })?;
        match is_our_own(&self.state, &peer.issuers).await {
            Ok(true) => Ok(PeerClient::new(channel).max_decoding_message_size(LARGEST)),
            Ok(false) => Err(format!(
                "at {address} is an authority below this one, and none of its replicas"
            )),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// Where a replica is reached, if it has said so.
fn announced(address: Option<&str>) -> Result<&str, String> {
    address.ok_or_else(|| {
        "it has not said where it is reached: upgrade it, or set its node_api.announce".to_owned()
    })
}

fn request(replica: &str, question: Question<'_>) -> wire::SearchLedgerRequest {
    let (serial, identity) = match question.query {
        Query::Serial(serial) => (Bytes::copy_from_slice(serial), String::new()),
        Query::Identity(identity) => (Bytes::new(), identity.clone()),
    };
    wire::SearchLedgerRequest {
        replica: replica.to_owned(),
        serial,
        identity,
        page_size: u32::try_from(question.size).unwrap_or(u32::MAX),
        after: question
            .after
            .map(|place| place.to_string())
            .unwrap_or_default(),
    }
}

fn piece(answered: wire::SearchLedgerResponse) -> Option<Piece> {
    let records = answered.found.into_iter().map(|found| {
        Some(Record {
            json: found.json,
            time_ms: found.time_unix_ms,
            place: found.place.parse().ok()?,
        })
    });
    let piece = Piece {
        records: records.collect::<Option<_>>()?,
        more: answered.more,
    };
    // A search that never gets on would never end.
    (!piece.more || !piece.records.is_empty()).then_some(piece)
}

/// The text is the other's: cut, and without anything that is no text.
fn refused(address: &str, status: &Status) -> String {
    let text = |text: &str| text.escape_debug().take(SAID).collect::<String>();
    let code = status.metadata().get("arx-code");
    match code.and_then(|code| code.to_str().ok()) {
        Some(code) => format!(
            "{address} answers {}: {}",
            text(code),
            text(status.message())
        ),
        None if status.code() == Code::Unimplemented => {
            format!("{address} is of a version that cannot be asked: upgrade it")
        }
        None => format!(
            "{address} answers {:?}: {}",
            status.code(),
            text(status.message())
        ),
    }
}
