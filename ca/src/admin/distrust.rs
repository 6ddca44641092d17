//! Distrust, in the words of the admin API.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arx_daemon::clock::{rfc3339, unix_ms};
use arx_identity::{Certificate, KeyId};
use arx_proto::admin::v1 as wire;
use bytes::Bytes;
use wire::distrust_response::Outcome;

use super::rotation::{self, millis, unconfirmed};
use crate::ca::Ca;
use crate::distrust::{Fails, Named, Pace};
use crate::refusal::{Fault, Refusal};
use crate::state::{Intermediate, Phase};

const RETIRE: &str = "a bundle without the old root is published; whoever does not take it goes on trusting a root whose key is stolen";

/// Entries of those who fail in one message.
const MOST: usize = 1000;

/// Distrusts what the request names, or tells what that would do.
pub(super) async fn distrust(
    ca: &Arc<Ca>,
    request: wire::DistrustRequest,
) -> Result<Outcome, Refusal> {
    let reason = rotation::reason(request.reason)?;
    if !request.dry_run && reason.trim().is_empty() {
        return Err(Refusal::new(
            "ARX-REQUEST-MALFORMED",
            Fault::Request,
            "say why, for whoever reads the ledger later",
        ));
    }
    let pace = Pace {
        cap: request.cap_ms.map(Duration::from_millis),
        dwell: request.dwell_ms.map(Duration::from_millis),
    };
    let understood = request.nothing_will_connect;
    match (
        ca.authority_named(&request.authority).await?,
        request.dry_run,
    ) {
        (Named::Root(id, certificate), true) => Ok(Outcome::Plan(
            plan(ca, id, &certificate, pace, understood).await?,
        )),
        (Named::Root(id, _), false) => {
            let view = ca.distrust_root(id, pace, reason, understood).await?;
            Ok(Outcome::Rotation(rotation::rotation(ca, &view, 0)))
        }
        (Named::Intermediate(intermediate), dry_run) => {
            let told = of_intermediate(ca, &intermediate, dry_run, &reason).await?;
            Ok(Outcome::Intermediate(told))
        }
    }
}

async fn plan(
    ca: &Ca,
    id: KeyId,
    certificate: &Certificate,
    pace: Pace,
    understood: bool,
) -> Result<wire::DistrustPlan, Refusal> {
    let now = ca.clock.now();
    let refusal = ca.cannot_distrust(id).await?;
    let alone = understood && refusal.is_some();
    let shut = ca.restore.is_open().err();
    let refusals = shut.or(refusal.filter(|_| !alone)).into_iter();
    let blast = if alone {
        ca.whole_blast(id, now).await?
    } else {
        ca.blast(id, now).await?
    };
    let terms = ca.distrust_terms(id, pace, now);
    let cap = terms.patience.unwrap_or_default();
    let running = rotation::running(ca);
    let retire = match vouched_for(ca, id, now).await? {
        None => RETIRE.to_owned(),
        Some((by, until)) => format!(
            "{RETIRE}. {by} has cross-certified it, so until {until} whoever has its key is believed by everybody who trusts {by}: distrust that root next",
        ),
    };
    let gate = |phase: Phase, at_least: Duration, why: &str| wire::PlannedPhase {
        phase: phase.as_str().to_owned(),
        at_least_ms: millis(at_least),
        why: why.to_owned(),
    };
    let named = |fails: &Fails, told: wire::Unconfirmed| wire::Unconfirmed {
        workloads: fails.identities.clone(),
        ..told
    };
    let fails = blast.fails.iter().take(MOST);
    let fails = fails.map(|fails| named(fails, unconfirmed(&fails.who)));
    let denied = blast.denied.iter().take(MOST);
    let denied = denied.map(|fails| named(fails, rotation::left_out(&fails.who)));
    Ok(wire::DistrustPlan {
        root: Some(root(id, certificate)),
        live_certificates: blast.certificates,
        reachable: blast.reachable,
        fails: fails.collect(),
        fails_total: blast.fails.len() as u64,
        denied: denied.collect(),
        denied_total: blast.denied.len() as u64,
        without_successor: alone,
        steps: if alone {
            vec![
                gate(
                    Phase::Prepare,
                    Duration::ZERO,
                    "the root is distrusted for good, its key is erased, and nothing is issued any more",
                ),
                gate(
                    Phase::Retire,
                    terms.dwell,
                    "a bundle is published that nothing can be verified by: nothing connects until the authority is started with another root",
                ),
            ]
        } else {
            vec![
                gate(
                    Phase::Prepare,
                    Duration::ZERO,
                    "a new root is made, and signs for trial",
                ),
                gate(
                    Phase::Distribute,
                    terms.dwell,
                    "a bundle with both roots is published; whoever does not take it in time does not trust the new one",
                ),
                gate(
                    Phase::Activate,
                    terms.dwell,
                    "the authority signs and serves under the new root",
                ),
                gate(
                    Phase::Reissue,
                    terms.dwell,
                    "everything is issued anew; whoever does not renew in time is refused by all others",
                ),
                gate(Phase::Retire, terms.dwell, &retire),
            ]
        },
        refusals: refusals
            .map(|refusal| wire::Refusal {
                code: refusal.code.to_owned(),
                message: refusal.message,
            })
            .collect(),
        window_ms: millis(terms.window),
        cap_ms: millis(cap),
        rotation: running.map(|running| running.id).unwrap_or_default(),
    })
}

/// Which other root vouches for this one, and until when.
async fn vouched_for(
    ca: &Ca,
    id: KeyId,
    now: SystemTime,
) -> Result<Option<(String, String)>, Refusal> {
    let stored = ca.state.authorities().await?.map(|stored| stored.value);
    let stored = stored.unwrap_or_default();
    let cross = stored.root(id).and_then(|root| root.cross.as_ref());
    let cross = cross.filter(|cross| cross.not_after() > now);
    let by = cross.and_then(|cross| stored.root(cross.authority_key_id()?));
    Ok(by.zip(cross).map(|(by, cross)| {
        let name = by.certificate.subject().to_owned();
        (name, rfc3339(cross.not_after()))
    }))
}

async fn of_intermediate(
    ca: &Arc<Ca>,
    intermediate: &Intermediate,
    dry_run: bool,
    reason: &str,
) -> Result<wire::IntermediateDistrust, Refusal> {
    let now = ca.clock.now();
    let certificate = &intermediate.certificate;
    let id = certificate
        .subject_key_id()
        .unwrap_or_else(|| certificate.public_key().key_id());
    let stored = ca.state.authorities().await?;
    let above = stored
        .as_ref()
        .and_then(|stored| stored.value.root(intermediate.root));
    let (certificates, agents, replacement) = if dry_run {
        let signs = ca.authority.issuing().map(|it| it.intermediate());
        (ca.ledger.live().count_under_issuer(&id, now), 0, signs)
    } else {
        let reissued = ca.distrust_intermediate(intermediate, reason, now).await?;
        (reissued.certificates, reissued.agents, reissued.replacement)
    };
    Ok(wire::IntermediateDistrust {
        subject: certificate.subject().to_owned(),
        key_id: Bytes::copy_from_slice(id.as_bytes()),
        serial: Bytes::copy_from_slice(certificate.serial().as_bytes()),
        not_after_unix_ms: unix_ms(certificate.not_after()),
        root: above.map(|above| root(intermediate.root, &above.certificate)),
        certificates,
        agents,
        replacement_key_id: replacement
            .map(|id| Bytes::copy_from_slice(id.as_bytes()))
            .unwrap_or_default(),
        dry_run,
    })
}

fn root(id: KeyId, certificate: &Certificate) -> wire::RotationRoot {
    wire::RotationRoot {
        subject: certificate.subject().to_owned(),
        key_id: Bytes::copy_from_slice(id.as_bytes()),
        not_after_unix_ms: unix_ms(certificate.not_after()),
    }
}
