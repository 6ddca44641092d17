//! Denials, in the words of the admin API.

use std::sync::Arc;
use std::time::SystemTime;

use arx_daemon::clock::unix_ms;
use arx_proto::admin::v1 as wire;

use super::{rotation, time};
use crate::ca::Ca;
use crate::denial::{Held, Subject};
use crate::refusal::{Fault, Refusal};
use crate::state::Denial;

/// Carries out a denial.
pub(super) async fn deny(
    ca: &Arc<Ca>,
    request: wire::DenyRequest,
) -> Result<wire::DenyResponse, Refusal> {
    let subject = Subject::parse(&request.subject, &ca.trust_domain)?;
    let reason = rotation::reason(request.reason)?;
    if reason.trim().is_empty() {
        return Err(malformed("say why, for whoever reads the ledger later"));
    }
    let until = match request.until_unix_ms {
        0 => None,
        millis => {
            let until = time(millis).filter(|until| *until > ca.clock.now());
            Some(until.ok_or_else(|| malformed("the end lies in the past: nothing was denied"))?)
        }
    };
    let (denial, spread) = ca.deny(&subject, until, reason).await?;
    // It is in force, and does not wait for the index.
    let index_ready = ca.ledger.live().is_ready();
    let told = told(ca, vec![(subject.to_string(), denial)]).await?;
    Ok(wire::DenyResponse {
        denial: told.into_iter().next(),
        unreached: spread.unreached,
        index_ready,
    })
}

/// Ends a denial.
pub(super) async fn allow(
    ca: &Ca,
    request: wire::AllowRequest,
) -> Result<wire::AllowResponse, Refusal> {
    let subject = Subject::parse(&request.subject, &ca.trust_domain)?;
    let reason = rotation::reason(request.reason)?;
    let spread = ca.allow(&subject, &reason).await?;
    Ok(wire::AllowResponse {
        unreached: spread.unreached,
    })
}

/// A page of those in force, behind the subject `after`.
pub(crate) async fn list(
    ca: &Arc<Ca>,
    after: String,
    size: usize,
) -> Result<wire::ListDenialsResponse, Refusal> {
    let denials = ca.denials.get();
    let mut left = denials
        .holding(ca.clock.now())
        .filter(|(subject, _)| *subject > after.as_str());
    let page: Vec<_> = left
        .by_ref()
        .take(size)
        .map(|(subject, denial)| (subject.to_owned(), denial.clone()))
        .collect();
    let last = page.last().filter(|_| left.next().is_some());
    let page_token = last.map(|(subject, _)| subject.clone()).unwrap_or_default();
    Ok(wire::ListDenialsResponse {
        denials: told(ca, page).await?,
        page_token,
    })
}

/// Denials with what their subjects hold.
async fn told(ca: &Arc<Ca>, denials: Vec<(String, Denial)>) -> Result<Vec<wire::Denial>, Refusal> {
    let (ca, now) = (Arc::clone(ca), ca.clock.now());
    let reading = tokio::task::spawn_blocking(move || {
        let holders = ca.ledger.live().holders(now, None);
        let told = denials.into_iter().map(|(text, denial)| {
            // A kind of subject that a newer version has stored holds nothing that is known.
            let held = match Subject::parse(&text, &ca.trust_domain) {
                Ok(subject) => ca.held(&subject, &holders, now)?,
                Err(_) => Held::default(),
            };
            Ok(message(text, denial, held))
        });
        told.collect::<Result<_, crate::ledger::Error>>()
    });
    let read = reading.await.map_err(|_| {
        let message = "what is held could not be read: see the log";
        Refusal::new("ARX-LEDGER-INDEX", Fault::Internal, message)
    })?;
    read.map_err(|error| Refusal::new(error.code(), Fault::Internal, error.to_string()))
}

fn message(subject: String, denial: Denial, held: Held) -> wire::Denial {
    let ms = |time: Option<SystemTime>| time.map_or(0, unix_ms);
    wire::Denial {
        subject,
        reason: denial.reason,
        since_unix_ms: unix_ms(denial.since),
        until_unix_ms: ms(denial.until),
        certificates: held.certificates,
        identities: held.identities,
        identity_count: held.identity_count,
        last_certificate_ends_unix_ms: ms(held.ends),
    }
}

fn malformed(message: &str) -> Refusal {
    Refusal::new("ARX-REQUEST-MALFORMED", Fault::Request, message)
}
