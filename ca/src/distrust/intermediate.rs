//! Distrusting an intermediate. Bundles hold only roots, so whoever has its key is believed
//! until it ends; what can be done at once is that nothing of ours stands under it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arx_identity::KeyId;
use arx_proto::node::v1 as node;
use bytes::Bytes;
use serde_json::json;

use crate::ca::Ca;
use crate::ledger;
use crate::refusal::{Fault, Refusal};
use crate::state::Intermediate;

/// How long it may take to have another.
const ANOTHER: Duration = Duration::from_secs(10);

/// What became of the distrust of an intermediate.
#[derive(Clone, Debug)]
pub struct Reissued {
    /// Valid certificates under it.
    pub certificates: u64,
    /// Agents that were told to renew.
    pub agents: u32,
    /// What signs now.
    pub replacement: Option<KeyId>,
}

impl Ca {
    /// Signs nothing more by this intermediate, and has everything under it issued anew. May
    /// be asked for again: it tells what is left.
    ///
    /// # Errors
    /// [`Refusal`] if another process of the authority signs by it, or no other could be made.
    pub async fn distrust_intermediate(
        &self,
        intermediate: &Intermediate,
        reason: &str,
        now: SystemTime,
    ) -> Result<Reissued, Refusal> {
        let id = key_id(intermediate);
        let issues = |ca: &Self| ca.authority.issuing().map(|it| it.intermediate());
        if intermediate.replica != *self.replica {
            return Err(Refusal::new(
                "ARX-DISTRUST-ELSEWHERE",
                Fault::Request,
                format!(
                    "{} signs by this intermediate: ask that process, on its own admin socket",
                    intermediate.replica
                ),
            ));
        }
        let mut issuing = self.authority.watch();
        self.authority.give_up(id);
        let another = issuing.wait_for(|it| it.as_ref().is_some_and(|it| it.intermediate() != id));
        if !matches!(tokio::time::timeout(ANOTHER, another).await, Ok(Ok(_))) {
            return Err(Refusal::new(
                "ARX-DISTRUST-NO-OTHER",
                Fault::Dependency,
                "no other intermediate could be made yet: see the log; it is tried again by itself",
            ));
        }
        let hint = Arc::new(node::AuthorityMessage {
            message: Some(node::authority_message::Message::Renew(node::RenewalHint {
                issuer_key_id: Bytes::copy_from_slice(id.as_bytes()),
                serials: Vec::new(),
                renew_by_unix_ms: arx_daemon::clock::unix_ms(now),
                reason: "its intermediate is distrusted".to_owned(),
            })),
        });
        let reissued = Reissued {
            certificates: self.ledger.live().count_under_issuer(&id, now),
            agents: self.fleet.tell(&hint, |_| true),
            replacement: issues(self),
        };
        let detail = json!({
            "intermediate": id.to_string(),
            "root": intermediate.root.to_string(),
            "certificates": reissued.certificates,
            "reason": reason,
        });
        let record = ledger::Operator {
            who: "admin socket".to_owned(),
            action: "distrust intermediate".to_owned(),
            detail: detail.to_string(),
        };
        let appended = self.ledger.append(vec![ledger::Record::new(now, record)]);
        appended
            .await
            .map_err(|error| Refusal::new(error.code(), Fault::Dependency, error.to_string()))?;
        tracing::warn!(intermediate = %id, certificates = reissued.certificates, agents = reissued.agents, "an intermediate is distrusted: everything under it is issued anew");
        Ok(reissued)
    }
}

/// Its subject key identifier.
fn key_id(intermediate: &Intermediate) -> KeyId {
    let certificate = &intermediate.certificate;
    certificate
        .subject_key_id()
        .unwrap_or_else(|| certificate.public_key().key_id())
}
