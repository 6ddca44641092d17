//! `arx status`: one screen.

use std::fmt::Write as _;
use std::path::Path;

use arx_proto::admin::v1 as wire;
use serde_json::{Value, json};

use crate::client::{Failure, connect};
use crate::output::{Output, Style, columns, hex, instant_json, span};

pub(crate) async fn run(socket: &Path, style: Style) -> Result<Output, Failure> {
    let status = connect(socket)
        .await?
        .status(wire::StatusRequest {})
        .await?
        .into_inner();
    let well = status.health.iter().all(|health| health.ok);
    let output = if style.json {
        Output::json(&to_json(&status))
    } else {
        Output::text(&to_text(&status, style))
    };
    Ok(output.well_if(well))
}

pub(crate) fn to_json(status: &wire::StatusResponse) -> Value {
    let authorities: Vec<_> = status.authorities.iter().map(|authority| json!({
        "role": authority.role, "state": authority.state, "subject": authority.subject,
        "key_id": hex(&authority.key_id), "serial": hex(&authority.serial),
        "key_algorithm": authority.key_algorithm, "custody": authority.custody,
        "not_before": instant_json(authority.not_before_unix_ms), "not_after": instant_json(authority.not_after_unix_ms),
        "renews": instant_json(authority.renews_unix_ms), "live_certificates": authority.live_certificates,
    })).collect();
    let health: Vec<_> = status.health.iter().map(|health| json!({
        "component": health.component, "ok": health.ok, "code": health.code, "message": health.message,
    })).collect();
    json!({
        "trust_domain": status.trust_domain, "version": status.version, "replica": status.replica_id,
        "started": instant_json(status.started_unix_ms), "clock": instant_json(status.clock_unix_ms),
        "configuration_generation": status.configuration_generation,
        "bundle_sequence": format!("{}.{}", status.bundle_epoch, status.bundle_number),
        "agents_connected": status.agents_connected, "agents_known": status.agents_known,
        "index_ready": status.index_ready,
        "live_certificates": status.live_certificates,
        "soonest_expiry": instant_json(status.soonest_expiry_unix_ms),
        "soonest_expiry_identity": status.soonest_expiry_identity,
        "issued_total": status.issued_total, "refused_total": status.refused_total,
        "authorities": authorities, "health": health,
    })
}

fn to_text(status: &wire::StatusResponse, style: Style) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        let _infallible = writeln!(text, "{name:<14}{value}");
    };
    line("trust domain", status.trust_domain.clone());
    let up = span(style.now_ms.abs_diff(status.started_unix_ms));
    line(
        "authority",
        format!("{}, {}, up {up}", status.replica_id, status.version),
    );
    line(
        "configuration",
        format!("generation {}", status.configuration_generation),
    );
    line(
        "bundle",
        format!("sequence {}.{}", status.bundle_epoch, status.bundle_number),
    );
    line(
        "agents",
        format!(
            "{} connected, {} known",
            status.agents_connected, status.agents_known
        ),
    );
    if status.index_ready {
        let soonest = match status.soonest_expiry_unix_ms {
            0 => String::new(),
            end => format!(
                "; the next ends {}: {}",
                style.time(end),
                status.soonest_expiry_identity
            ),
        };
        line(
            "certificates",
            format!("{} valid{soonest}", status.live_certificates),
        );
    } else {
        line("certificates", "the index is being built".to_owned());
    }
    line(
        "since start",
        format!(
            "{} issued, {} refused",
            status.issued_total, status.refused_total
        ),
    );
    let rows: Vec<_> = status
        .authorities
        .iter()
        .map(|authority| {
            let shown = [
                authority.role.clone(),
                authority.state.clone(),
                authority.key_algorithm.clone(),
                authority.custody.clone(),
                style.time(authority.not_after_unix_ms),
                style.time(authority.renews_unix_ms),
                authority.live_certificates.to_string(),
                hex(&authority.key_id).chars().take(16).collect(),
            ];
            shown.to_vec()
        })
        .collect();
    text.push('\n');
    text.push_str(&columns(
        &[
            "AUTHORITY",
            "STATE",
            "KEY",
            "CUSTODY",
            "ENDS",
            "RENEWS",
            "LIVE",
            "KEY ID",
        ],
        &rows,
    ));
    let rows: Vec<_> = status
        .health
        .iter()
        .map(|health| {
            let state = if health.ok { "ok" } else { "failing" };
            vec![
                health.component.clone(),
                state.to_owned(),
                health.code.clone(),
                health.message.clone(),
            ]
        })
        .collect();
    text.push('\n');
    text.push_str(&columns(&["HEALTH", "", "CODE", ""], &rows));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> wire::StatusResponse {
        wire::StatusResponse {
            trust_domain: "example.org".to_owned(),
            version: "arx-ca 0.1.0".to_owned(),
            replica_id: "ca-1".to_owned(),
            started_unix_ms: 1_000_000,
            bundle_epoch: 1,
            bundle_number: 2,
            agents_connected: 3,
            agents_known: 4,
            live_certificates: 5,
            index_ready: true,
            soonest_expiry_unix_ms: 4_600_000,
            soonest_expiry_identity: "spiffe://example.org/x".to_owned(),
            authorities: vec![wire::Authority {
                role: "root".to_owned(),
                state: "active".to_owned(),
                key_algorithm: "ecdsa-p256".to_owned(),
                not_after_unix_ms: 90_400_000,
                ..Default::default()
            }],
            health: vec![wire::Health {
                component: "ledger".to_owned(),
                ok: false,
                code: "ARX-LEDGER-PAUSED".to_owned(),
                message: "the disk is full".to_owned(),
            }],
            ..Default::default()
        }
    }

    #[test]
    fn one_screen_shows_what_matters() {
        let style = Style {
            json: false,
            wide: false,
            now_ms: 4_000_000,
        };
        let text = to_text(&status(), style);
        for part in [
            "example.org",
            "3 connected, 4 known",
            "5 valid; the next ends in 10m: spiffe://example.org/x",
            "sequence 1.2",
            "in 1d",
            "ARX-LEDGER-PAUSED",
        ] {
            assert!(text.contains(part), "{part} is missing in:\n{text}");
        }
        assert!(text.lines().count() <= 24, "more than one screen:\n{text}");
    }

    #[test]
    fn json_has_stable_names() {
        let value = to_json(&status());
        assert_eq!(value["bundle_sequence"], "1.2");
        assert_eq!(value["health"][0]["code"], "ARX-LEDGER-PAUSED");
        assert_eq!(value["authorities"][0]["renews"], Value::Null);
    }
}
