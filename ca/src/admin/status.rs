//! How the authority stands, in the words of the admin API: for the command line and for the
//! status page.

use std::sync::PoisonError;
use std::time::{Duration, SystemTime};

use arx_daemon::clock::{rfc3339, unix_ms};
use arx_daemon::ops::Said;
use arx_identity::Certificate;
use arx_proto::admin::v1 as wire;
use bytes::Bytes;

use super::{count, rotation};
use crate::authority::{renewal_at, serving_at};
use crate::ca::Ca;
use crate::overview::Remaining;

/// How long a root may be due before somebody should look.
const OVERDUE: Duration = Duration::from_secs(600);

/// Everything on one screen.
pub(crate) fn status(ca: &Ca) -> wire::StatusResponse {
    let now = ca.clock.now();
    let (agents_connected, agents_known) = ca.fleet.size();
    let live = ca.ledger.live();
    let soonest = live.is_ready().then(|| live.soonest(now)).flatten();
    let sequence = ca.trust.current().sequence();
    let (issued_total, refused_total) = ca.metrics.totals();
    wire::StatusResponse {
        trust_domain: ca.trust_domain.as_str().to_owned(),
        version: ca.software.to_owned(),
        replica_id: ca.replica.to_string(),
        started_unix_ms: unix_ms(ca.started),
        clock_unix_ms: unix_ms(now),
        configuration_generation: ca.rules.get().generation,
        authorities: authorities(ca, now),
        bundle_epoch: sequence.epoch,
        bundle_number: sequence.number,
        agents_connected: count(agents_connected),
        agents_known: count(agents_known),
        live_certificates: if live.is_ready() { live.count(now) } else { 0 },
        soonest_expiry_unix_ms: soonest.as_ref().map_or(0, |(end, _)| unix_ms(*end)),
        soonest_expiry_identity: soonest
            .map(|(_, identity)| identity.to_string())
            .unwrap_or_default(),
        index_ready: live.is_ready(),
        issued_total,
        refused_total,
        health: health(ca, now),
        rotation: rotation::running(ca),
    }
}

fn authorities(ca: &Ca, now: SystemTime) -> Vec<wire::Authority> {
    let live = ca.ledger.live();
    let ready = live.is_ready();
    let root = &ca.authority.root();
    let under_root = if ready {
        live.count_under_root(&ca.authority.root_key_id(), now)
    } else {
        0
    };
    let outside = ca.authority.outside();
    let upper = ca.authority.upper();
    let custody = match (&outside, &upper) {
        (Some(custody), _) => custody,
        (None, Some(_)) => "with a CA outside",
        (None, None) => &ca.custody,
    };
    let mut all = vec![authority("root", "active", root, custody, under_root, None)];
    let active = ca.authority.root_key_id();
    let roots = ca.overview.roots();
    all.extend(
        roots
            .iter()
            .filter(|root| root.key_id != active)
            .map(|root| {
                let under_it = if ready {
                    live.count_under_root(&root.key_id, now)
                } else {
                    0
                };
                authority(
                    "root",
                    &root.state,
                    &root.certificate,
                    &root.custody,
                    under_it,
                    None,
                )
            }),
    );
    if let Some(upper) = upper {
        all.push(authority(
            "upper",
            "active",
            &upper.certificate,
            "state store",
            under_root,
            Some(upper.renewal_at),
        ));
    }
    if let Some(issuing) = ca.authority.issuing() {
        let own = issuing.issuer().certificate();
        let renews = renewal_at(issuing.term(), ca.authority.longest_leaf());
        let count = if ready {
            live.count_under_issuer(&issuing.intermediate(), now)
        } else {
            0
        };
        all.push(authority(
            "intermediate",
            "active",
            own,
            match outside {
                Some(_) => "memory, and sealed in the state",
                None => "memory",
            },
            count,
            renews,
        ));
    }
    if let Some(svid) = ca.authority.serving() {
        let own = svid.chain().leaf();
        let renews = serving_at(own.not_before(), own.not_after());
        all.push(authority(
            "serving",
            "active",
            own,
            "memory",
            0,
            Some(renews),
        ));
    }
    all
}

fn authority(
    role: &str,
    state: &str,
    certificate: &Certificate,
    custody: &str,
    live_certificates: u64,
    renews: Option<SystemTime>,
) -> wire::Authority {
    let key_id = certificate
        .subject_key_id()
        .unwrap_or_else(|| certificate.public_key().key_id());
    wire::Authority {
        role: role.to_owned(),
        state: state.to_owned(),
        subject: certificate.subject().to_owned(),
        // As certificates, bundles and records have it; a CA outside may count it otherwise.
        key_id: Bytes::copy_from_slice(key_id.as_bytes()),
        serial: Bytes::copy_from_slice(certificate.serial().as_bytes()),
        key_algorithm: certificate.public_key().algorithm().to_string(),
        custody: custody.to_owned(),
        not_before_unix_ms: unix_ms(certificate.not_before()),
        not_after_unix_ms: unix_ms(certificate.not_after()),
        renews_unix_ms: renews.map_or(0, unix_ms),
        live_certificates,
        certificate: Bytes::copy_from_slice(certificate.der()),
    }
}

fn health(ca: &Ca, now: SystemTime) -> Vec<wire::Health> {
    let failing = ca.readiness.failing();
    let mut health: Vec<_> = ["authority", "ledger", "store"]
        .into_iter()
        .map(|component| {
            let found = failing.iter().find(|failing| failing.name == component);
            wire::Health {
                component: component.to_owned(),
                ok: found.is_none(),
                code: found
                    .map(|failing| failing.code.to_owned())
                    .unwrap_or_default(),
                message: found
                    .map(|failing| failing.message.clone())
                    .unwrap_or_default(),
                warning: false,
            }
        })
        .collect();
    let ahead = ca
        .fleet_ahead
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    health.push(wire::Health {
        component: "fleet".to_owned(),
        ok: ahead.is_none(),
        code: ahead
            .as_ref()
            .map(|_| "ARX-FLEET-AHEAD".to_owned())
            .unwrap_or_default(),
        message: ahead.unwrap_or_default(),
        warning: false,
    });
    health.push(root_health(ca, now));
    health.extend(key_health(ca));
    health.extend(restored_health(ca));
    health.extend(sink_health(ca));
    if ca.authority.looks_every().is_some() {
        let told = ca.overview.files().borrow().clone();
        let (code, message) = told.clone().unwrap_or_default();
        health.push(wire::Health {
            component: "files".to_owned(),
            ok: true,
            code: code.to_owned(),
            message,
            warning: told.is_some(),
        });
    }
    health.extend(upper_health(ca, now));
    health.extend(
        ca.rules
            .get()
            .tokens
            .health()
            .into_iter()
            .map(|cluster| wire::Health {
                component: format!("cluster {}", cluster.cluster),
                ok: cluster.code.is_none(),
                code: cluster.code.unwrap_or_default().to_owned(),
                message: cluster.message,
                warning: false,
            }),
    );
    // Whatever else readiness tells, and what fails first.
    let mut said = ca.readiness.all();
    said.sort_by_key(|said| said.ok);
    for Said { ok, why, .. } in said {
        let Some(why) = why else { continue };
        if !health.iter().any(|known| known.code == why.code) {
            health.push(wire::Health {
                component: why.name.to_owned(),
                ok,
                code: why.code.to_owned(),
                message: why.message,
                warning: ok,
            });
        }
    }
    health
}

/// Whether the root's key can be reached, where that is a question.
fn key_health(ca: &Ca) -> Option<wire::Health> {
    let reach = ca.authority.reach().borrow().clone();
    let custody = reach.outside.as_ref()?;
    let until = ca.authority.issuing().map(|issuing| issuing.not_after());
    let trouble = reach.trouble(until);
    let warning = trouble.is_some();
    let (code, message) = trouble.unwrap_or_else(|| ("", format!("{custody} can be reached")));
    Some(wire::Health {
        component: "root key".to_owned(),
        ok: true,
        code: code.to_owned(),
        message,
        warning,
    })
}

/// Whether a state that was put back is open.
fn restored_health(ca: &Ca) -> Option<wire::Health> {
    ca.restore.get()?;
    let shut = ca.restore.is_open().err();
    Some(wire::Health {
        component: "restored".to_owned(),
        ok: shut.is_none(),
        code: shut
            .as_ref()
            .map_or_else(String::new, |it| it.code.to_owned()),
        message: shut.map(|it| it.message).unwrap_or_default(),
        warning: false,
    })
}

/// Whether the ledger comes to where it is gathered, if it is.
fn sink_health(ca: &Ca) -> Option<wire::Health> {
    let progress = ca.sink.as_ref()?.progress().borrow().clone();
    let waiting = ca.ledger.status().records.saturating_sub(progress.next);
    let code = match (&progress.trouble, progress.missed) {
        (Some(_), _) => "ARX-LEDGER-SINK",
        (None, 1..) => "ARX-LEDGER-SINK-MISSED",
        (None, 0) => "",
    };
    let missed = match progress.missed {
        0 => String::new(),
        missed => format!("; {missed} were removed before they were written"),
    };
    let why = progress.trouble.map(|why| format!("{why}; "));
    let why = why.unwrap_or_default();
    Some(wire::Health {
        component: "ledger sink".to_owned(),
        ok: true,
        code: code.to_owned(),
        message: format!("{why}{waiting} records wait to be written{missed}"),
        warning: !code.is_empty(),
    })
}

/// Whether the active root lives long enough for its rotation to be planned at leisure.
fn root_health(ca: &Ca, now: SystemTime) -> wire::Health {
    let root = ca.authority.root();
    let renews = ca.overview.renewal();
    let advice = match renews {
        // Nobody has to do anything.
        Some(at) if now <= at + OVERDUE => None,
        _ => Remaining::of(root.not_after(), now).advice(ca.authority.looks_every().is_some()),
    };
    let view = ca.rotator.watch().borrow().clone();
    let leaving = view.filter(|view| !view.rotation.phase.is_over());
    let message = match (advice, leaving, renews) {
        (Some(_), Some(view), _) => format!(
            "a root ends at {}, and rotation {} is under way: see `arx rotate status`",
            rfc3339(root.not_after()),
            view.rotation.id
        ),
        (Some(_), None, Some(at)) => format!(
            "it ends at {}, and its rotation, which was due at {}, has not begun: see the log",
            rfc3339(root.not_after()),
            rfc3339(at)
        ),
        (Some(advice), None, None) => advice.to_owned(),
        (None, ..) => String::new(),
    };
    wire::Health {
        component: "root".to_owned(),
        ok: true,
        code: advice
            .map(|_| "ARX-ROOT-ENDING")
            .unwrap_or_default()
            .to_owned(),
        message,
        warning: advice.is_some(),
    }
}

/// Whether what stands between the root and the replicas is to be renewed; none where nothing
/// does.
fn upper_health(ca: &Ca, now: SystemTime) -> Option<wire::Health> {
    let upper = ca.authority.upper()?;
    let notice = upper.notice(now);
    let warning = notice.is_some();
    let (code, message) = notice.unwrap_or_default();
    Some(wire::Health {
        component: "upper".to_owned(),
        ok: true,
        code: code.to_owned(),
        message,
        warning,
    })
}
