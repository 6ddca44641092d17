//! Backups and restored states, in the words of the admin API.

use std::fmt;
use std::sync::Arc;

use arx_daemon::clock::unix_ms;
use arx_proto::admin::v1 as wire;
use bytes::Bytes;
use tonic::{Request, Response, Status};

use super::rotation;
use crate::ca::Ca;
use crate::refusal::{Fault, Refusal};
use crate::restore::{Made, Word, verdict};
use crate::state::{Ahead, Restored};

/// Answers about backups.
#[derive(Clone)]
pub struct Recovery(Arc<Ca>);

impl Recovery {
    /// Answers on behalf of `ca`.
    #[must_use]
    pub fn of(ca: Arc<Ca>) -> Self {
        Self(ca)
    }

    fn told(&self, restored: Option<&Restored>) -> wire::RestoreStatusResponse {
        let sequence = self.0.trust.current().sequence();
        let published = wire::RestoreStatusResponse {
            epoch: sequence.epoch,
            number: sequence.number,
            ..wire::RestoreStatusResponse::default()
        };
        let Some(restored) = restored else {
            return published;
        };
        let opened = restored.opened.as_ref();
        wire::RestoreStatusResponse {
            backup: restored.backup.clone(),
            made_unix_ms: unix_ms(restored.made),
            at_unix_ms: unix_ms(restored.at),
            shut: restored.is_shut(),
            agents: restored.agents,
            needed: restored.needed(),
            agree: restored.agree(),
            ahead: restored.ahead().iter().map(ahead).collect(),
            doubtful: restored.doubtful().iter().map(ahead).collect(),
            counted: restored.counted(),
            opened_unix_ms: opened.map_or(0, |it| unix_ms(it.at)),
            opened_reason: opened.map(|it| it.reason.clone()).unwrap_or_default(),
            verdict: verdict(restored).in_words(restored),
            ..published
        }
    }
}

/// A reason that is one.
fn why(reason: String) -> Result<String, Refusal> {
    let reason = rotation::reason(reason)?;
    if reason.trim().is_empty() {
        let message = "say why, for whoever reads the ledger later";
        return Err(Refusal::new(
            "ARX-REQUEST-MALFORMED",
            Fault::Request,
            message,
        ));
    }
    Ok(reason)
}

fn ahead(ahead: &Ahead) -> wire::AheadBundle {
    let ids = ahead.missing.iter();
    wire::AheadBundle {
        epoch: ahead.sequence.epoch,
        number: ahead.sequence.number,
        sha256: Bytes::copy_from_slice(&ahead.sha256),
        missing_key_ids: ids
            .map(|id| Bytes::copy_from_slice(id.as_bytes()))
            .collect(),
        agents: ahead.agents,
        nodes: ahead.nodes.clone(),
        ledgers: ahead.ledgers.clone(),
    }
}

#[tonic::async_trait]
impl wire::recovery_server::Recovery for Recovery {
    async fn backup(
        &self,
        _request: Request<wire::BackupRequest>,
    ) -> Result<Response<wire::BackupResponse>, Status> {
        let Made {
            backup,
            file,
            silent,
        } = self.0.back_up(self.0.clock.now()).await?;
        let (epoch, number) = backup.sequence;
        Ok(Response::new(wire::BackupResponse {
            id: backup.id,
            made_unix_ms: i64::try_from(backup.made_ms).unwrap_or(i64::MAX),
            epoch,
            number,
            sealed: self.0.state.seal().id().is_some(),
            content: Bytes::copy_from_slice(&file),
            agents: backup.agents,
            silent_replicas: silent,
        }))
    }

    async fn restore_status(
        &self,
        _request: Request<wire::RestoreStatusRequest>,
    ) -> Result<Response<wire::RestoreStatusResponse>, Status> {
        let restored = self.0.restore.get();
        Ok(Response::new(self.told(restored.as_deref())))
    }

    async fn adopt_root(
        &self,
        request: Request<wire::AdoptRootRequest>,
    ) -> Result<Response<wire::RestoreStatusResponse>, Status> {
        let request = request.into_inner();
        let reason = why(request.reason)?;
        let restored = self.0.adopt_root(&request.roots, reason).await?;
        Ok(Response::new(self.told(Some(&restored))))
    }

    async fn open_restored(
        &self,
        request: Request<wire::OpenRestoredRequest>,
    ) -> Result<Response<wire::RestoreStatusResponse>, Status> {
        let request = request.into_inner();
        let reason = why(request.reason)?;
        let word = Word::Operator {
            reason,
            although_ahead: request.although_ahead,
        };
        let open = self.0.open_restored(word).await?;
        Ok(Response::new(self.told(Some(&open))))
    }
}

impl fmt::Debug for Recovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Recovery")
    }
}
