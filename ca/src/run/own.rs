//! The certificates that an authority makes for itself. They stand in the ledger, like all
//! others, before they are used.

use std::convert::Infallible;
use std::time::{Duration, SystemTime};

use arx_daemon::clock::rfc3339;
use arx_identity::{
    Certificate, Svid,
    tls::{self, TlsError},
};
use tokio::sync::{Mutex, watch};

use super::open::StartError;
use crate::authority::Made;
use crate::ca::Ca;
use crate::issue::{issued_record, key_id};
use crate::ledger;
use crate::metrics::Kind;
use crate::state::Intermediate;

/// How long to wait for a ledger that took no record.
const AGAIN: Duration = Duration::from_secs(5);

/// The serving certificate that connections are shown.
#[derive(Debug)]
pub(super) struct Presented {
    shown: watch::Sender<Svid>,
    /// Held from the record of the next one until that is shown. Meanwhile, whoever looks for
    /// others in the ledger would find one that is about to be used, and whoever has another
    /// bundle would put the one before back into the listener.
    changing: Mutex<()>,
}

impl Presented {
    pub(super) fn new(svid: Svid) -> Self {
        Self {
            shown: watch::Sender::new(svid),
            changing: Mutex::default(),
        }
    }

    /// Judges peers by the newest bundle.
    pub(super) async fn trust(&self, ca: &Ca, server: &tls::Server) -> Result<(), TlsError> {
        let _changing = self.changing.lock().await;
        server.replace(&self.svid(), &ca.trust.current())
    }

    fn svid(&self) -> Svid {
        self.shown.borrow().clone()
    }
}

/// The intermediate and the serving certificate that a process begins with.
pub(super) async fn first_certificates(ca: &Ca) -> Result<Svid, StartError> {
    let now = ca.clock.now();
    let prepared = ca.authority.first(now).await?;
    let record = intermediate_record(&ca.replica, &prepared.registered);
    ca.ledger
        .append(vec![ledger::Record::new(now, record)])
        .await?;
    ca.authority.install(prepared);
    let serving = ca.authority.prepare_serving(now)?;
    record_serving(ca, &serving).await?;
    ca.authority.install_serving(serving.clone());
    // Before anything is issued that would be missed.
    ca.note_checkpoint().await?;
    Ok(serving)
}

async fn record_serving(ca: &Ca, serving: &Svid) -> Result<(), ledger::AppendError> {
    let Some(issuing) = ca.authority.issuing() else {
        return Ok(());
    };
    let record = ledger::Issued {
        replica: ca.replica.to_string(),
        evidence: "the authority's own serving certificate".to_owned(),
        policy_generation: ca.rules.get().generation,
        ..issued_record(
            &issuing,
            serving.chain().leaf(),
            ca.trust.current().sequence(),
        )
    };
    ca.ledger
        .append(vec![ledger::Record::new(ca.clock.now(), record)])
        .await?;
    ca.metrics.issued(Kind::Own, 1);
    Ok(())
}

fn intermediate_record(
    replica: &str,
    intermediate: &Intermediate,
) -> ledger::IntermediateRegistered {
    let certificate = &intermediate.certificate;
    ledger::IntermediateRegistered {
        replica: replica.to_owned(),
        serial: certificate.serial().as_bytes().to_vec(),
        key_id: key_id(certificate.public_key().key_id()),
        root_key_id: key_id(intermediate.root),
        validity: ledger::Validity {
            not_before: certificate.not_before(),
            not_after: certificate.not_after(),
        },
    }
}

/// Records what the CA above has certified.
pub(super) async fn renewed(ca: &Ca, certificate: &Certificate) {
    let now = ca.clock.now();
    let record = installed_record("upstream CA", certificate);
    let recorded = ca.ledger.append(vec![ledger::Record::new(now, record)]);
    if let Err(error) = recorded.await {
        tracing::warn!(code = error.code(), %error, "a certificate by the CA above was not recorded");
    }
}

/// A certificate from outside signs here from now on.
pub(crate) fn installed_record(who: &str, certificate: &Certificate) -> ledger::Operator {
    ledger::Operator {
        who: who.to_owned(),
        action: "install authority".to_owned(),
        detail: format!(
            "{}, serial {}, until {}",
            certificate.subject(),
            certificate.serial(),
            rfc3339(certificate.not_after())
        ),
    }
}

/// Takes what the authority has made for itself: into the ledger first.
pub(super) async fn took(
    ca: &Ca,
    server: &tls::Server,
    presented: &Presented,
    made: Made,
) -> Result<(), String> {
    match made {
        Made::Intermediate(intermediate) => {
            let record = intermediate_record(&ca.replica, &intermediate);
            let appended = ca
                .ledger
                .append(vec![ledger::Record::new(ca.clock.now(), record)])
                .await;
            appended
                .map(|_receipt| ())
                .map_err(|error| error.to_string())
        }
        Made::Serving(svid) => {
            let _changing = presented.changing.lock().await;
            record_serving(ca, &svid)
                .await
                .map_err(|error| error.to_string())?;
            server
                .replace(&svid, &ca.trust.current())
                .map_err(|error| error.to_string())?;
            presented.shown.send_replace(svid);
            Ok(())
        }
    }
}

/// Releases each serving certificate that another has replaced, at once, so that no rotation
/// waits for the end of one that nobody shows any more. Never ends; drop it to stop.
pub(super) async fn keep_released(ca: &Ca, presented: &Presented) -> Infallible {
    let mut shown = presented.shown.subscribe();
    ca.ledger.live().ready().await;
    loop {
        shown.borrow_and_update();
        if let Err(error) = release_replaced(ca, presented).await {
            tracing::warn!(
                code = error.code(),
                "replaced serving certificates were not released in the ledger, and will be: {error}"
            );
            tokio::time::sleep(AGAIN).await;
        } else if shown.changed().await.is_err() {
            unreachable!("the sender is borrowed");
        }
    }
}

async fn release_replaced(ca: &Ca, presented: &Presented) -> Result<(), ledger::AppendError> {
    let now = ca.clock.now();
    let released = replaced(ca, presented, now).await.into_iter();
    let records: Vec<_> = released
        .map(|released| ledger::Record::new(now, released))
        .collect();
    if !records.is_empty() {
        ca.ledger.append(records).await?;
    }
    Ok(())
}

/// The serving certificates in the ledger that are not shown. Those of processes before this
/// one, too: their keys were in memory only.
async fn replaced(ca: &Ca, presented: &Presented, now: SystemTime) -> Vec<ledger::Released> {
    let _changing = presented.changing.lock().await;
    let shown = presented.svid();
    let live = ca.ledger.live();
    let own = ledger::LiveFilter {
        identity: Some(shown.spiffe_id().as_str().to_owned()),
        node: Some(String::new()),
        ..ledger::LiveFilter::default()
    };
    let serials = live.serials_by_node(&own, now).into_values().flatten();
    serials
        .filter(|serial| serial != shown.serial())
        .filter_map(|serial| {
            Some(ledger::Released {
                serial: serial.as_bytes().to_vec(),
                not_after: live.not_after(&serial)?,
                reason: "replaced".to_owned(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests;
