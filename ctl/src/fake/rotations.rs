//! The rotations of the tests' authority.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};

use arx_proto::admin::v1 as wire;
use futures_util::{Stream, StreamExt as _, stream};
use tonic::{Response, Status};

use super::{Answer, page};

pub(crate) type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Bytes of a report that come at a time.
const CHUNK: usize = 7;

#[derive(Default)]
pub(crate) struct Rotations {
    /// What it says, question by question; the last stays.
    pub(crate) states: Mutex<VecDeque<wire::Rotation>>,
    /// What each watch is told before its connection breaks; that of the last stays open.
    pub(crate) watches: Mutex<VecDeque<Vec<wire::Rotation>>>,
    pub(crate) plan: wire::RotationPlan,
    pub(crate) earlier: Vec<wire::Rotation>,
    pub(crate) report: String,
}

impl Rotations {
    pub(crate) fn saying(states: impl IntoIterator<Item = wire::Rotation>) -> Self {
        Self {
            states: Mutex::new(states.into_iter().collect()),
            ..Self::default()
        }
    }

    /// The state now; the next question is asked of the next one.
    fn next(&self) -> Option<wire::Rotation> {
        let mut states = locked(&self.states);
        if states.len() > 1 {
            states.pop_front()
        } else {
            states.front().cloned()
        }
    }

    pub(super) fn start(
        &self,
        request: &wire::RotateRootRequest,
    ) -> Answer<wire::RotateRootResponse> {
        use wire::rotate_root_response::Outcome;
        let outcome = if request.dry_run {
            Outcome::Plan(self.plan.clone())
        } else {
            Outcome::Rotation(wire::Rotation {
                id: "r1".to_owned(),
                phase: "prepare".to_owned(),
                window_ms: request.window_ms.unwrap_or(1_800_000),
                wait_unconfirmed_ms: request.wait_unconfirmed_ms,
                reason: request.reason.clone(),
                ..Default::default()
            })
        };
        Ok(Response::new(wire::RotateRootResponse {
            outcome: Some(outcome),
        }))
    }

    pub(super) fn status(&self) -> Answer<wire::RotationStatusResponse> {
        let rotation = self.next();
        Ok(Response::new(wire::RotationStatusResponse { rotation }))
    }

    pub(super) fn watch(&self, id: &str) -> Answer<Streamed<wire::WatchRotationResponse>> {
        let mut watches = locked(&self.watches);
        let told = watches.pop_front().unwrap_or_default();
        if !id.is_empty() && told.iter().any(|rotation| rotation.id != id) {
            return Err(Status::not_found("there is no such rotation"));
        }
        let told = told.into_iter().map(|rotation| {
            Ok(wire::WatchRotationResponse {
                rotation: Some(rotation),
            })
        });
        let told = stream::iter(told);
        let breaks = stream::iter([Err(Status::unavailable("it is restarted"))]);
        Ok(Response::new(if watches.is_empty() {
            Box::pin(told.chain(stream::pending()))
        } else {
            Box::pin(told.chain(breaks))
        }))
    }

    pub(super) fn abort(
        &self,
        request: &wire::AbortRotationRequest,
    ) -> Answer<wire::AbortRotationResponse> {
        let running = self.next().filter(|rotation| rotation.ended_unix_ms == 0);
        let mut rotation =
            running.ok_or_else(|| Status::failed_precondition("no rotation runs"))?;
        rotation.aborting = true;
        rotation.abort_reason.clone_from(&request.reason);
        Ok(Response::new(wire::AbortRotationResponse {
            rotation: Some(rotation),
        }))
    }

    /// A force counts for the list that it names.
    pub(super) fn go_on(
        &self,
        request: &wire::ContinueRotationRequest,
    ) -> Answer<wire::ContinueRotationResponse> {
        let mut states = locked(&self.states);
        let rotation = states
            .front_mut()
            .ok_or_else(|| Status::failed_precondition("no rotation runs"))?;
        if request.force {
            if request.digest != rotation.unconfirmed_digest {
                return Err(Status::aborted("it is another list"));
            }
            let left_behind = std::mem::take(&mut rotation.unconfirmed_total);
            rotation.unconfirmed.clear();
            rotation.phase = "activate".to_owned();
            rotation.forced.push(wire::ForcedGate {
                phase: "distribute".to_owned(),
                reason: request.reason.clone(),
                left_behind,
                ..Default::default()
            });
        }
        rotation.held = false;
        Ok(Response::new(wire::ContinueRotationResponse {
            rotation: Some(rotation.clone()),
        }))
    }

    pub(super) fn list(&self, page_token: &str) -> Answer<wire::ListRotationsResponse> {
        let (rotations, page_token) = page(&self.earlier, page_token)?;
        Ok(Response::new(wire::ListRotationsResponse {
            rotations,
            page_token,
        }))
    }

    pub(super) fn report(&self) -> Answer<Streamed<wire::RotationReportResponse>> {
        if self.report.is_empty() {
            return Err(Status::not_found("there is no such rotation"));
        }
        let chunks: Vec<_> = self
            .report
            .as_bytes()
            .chunks(CHUNK)
            .map(|chunk| {
                Ok(wire::RotationReportResponse {
                    json: chunk.to_vec().into(),
                })
            })
            .collect();
        Ok(Response::new(Box::pin(stream::iter(chunks))))
    }
}

fn locked<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}
