//! The certificates that an authority makes for itself. They stand in the ledger, like all
//! others, before they are used.

use std::sync::{Mutex, PoisonError};

use arx_identity::{Svid, tls};

use super::open::StartError;
use crate::authority::Made;
use crate::ca::Ca;
use crate::issue::{issued_record, key_id};
use crate::ledger;
use crate::metrics::Kind;
use crate::state::Intermediate;

/// The intermediate and the serving certificate that a process begins with.
pub(super) async fn first_certificates(ca: &Ca) -> Result<Svid, StartError> {
    let now = ca.clock.now();
    let prepared = ca.authority.prepare(now).await?;
    let record = intermediate_record(&ca.replica, &prepared.registered);
    ca.ledger
        .append(vec![ledger::Record::new(now, record)])
        .await?;
    ca.authority.install(prepared);
    let serving = ca.authority.prepare_serving(now)?;
    record_serving(ca, &serving).await?;
    ca.authority.install_serving(serving.clone());
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

/// Takes what the authority has made for itself: into the ledger first.
pub(super) async fn took(
    ca: &Ca,
    server: &tls::Server,
    presented: &Mutex<Svid>,
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
            record_serving(ca, &svid)
                .await
                .map_err(|error| error.to_string())?;
            server
                .replace(&svid, &ca.trust.current())
                .map_err(|error| error.to_string())?;
            *presented.lock().unwrap_or_else(PoisonError::into_inner) = svid;
            Ok(())
        }
    }
}
