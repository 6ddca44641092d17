//! `arx status`: one screen.

use std::fmt::Write as _;
use std::path::Path;

use arx_proto::admin::v1 as wire;
use serde_json::{Value, json};

use crate::client::{Failure, connect};
use crate::output::{Output, Style, columns, hex, instant_json, one_line, span};

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
        "warning": health.warning,
    })).collect();
    let rotation = status.rotation.as_ref().map(|rotation| json!({
        "id": rotation.id, "phase": rotation.phase, "aborting": rotation.aborting, "held": rotation.held,
        "phase_started": instant_json(rotation.phase_started_unix_ms),
        "confirmed": rotation.confirmed, "unconfirmed_total": rotation.unconfirmed_total,
        "message": rotation.message,
    }));
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
        "authorities": authorities, "rotation": rotation, "health": health,
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
    if let Some(rotation) = &status.rotation {
        line("rotation", of_rotation(rotation, style));
    }
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
            let state = match (health.ok, health.warning) {
                (true, false) => "ok",
                (true, true) => "warning",
                (false, _) => "failing",
            };
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

fn of_rotation(rotation: &wire::Rotation, style: Style) -> String {
    let back = match (rotation.held, rotation.aborting) {
        (true, _) => ", held",
        (false, true) => ", back",
        (false, false) => "",
    };
    let for_so_long = span(style.now_ms.abs_diff(rotation.phase_started_unix_ms));
    format!(
        "{} in {}{back} for {for_so_long}: {}; see `arx rotate status`",
        rotation.id,
        rotation.phase,
        one_line(&rotation.message)
    )
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
                warning: false,
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
    fn a_rotation_takes_one_line_and_all_roots_are_listed() {
        let mut status = status();
        status.rotation = Some(wire::Rotation {
            id: "r3".to_owned(),
            phase: "reissue".to_owned(),
            phase_started_unix_ms: 3_700_000,
            message: "2 still hold certificates under the old root".to_owned(),
            ..Default::default()
        });
        status.authorities.push(wire::Authority {
            role: "root".to_owned(),
            state: "retiring".to_owned(),
            ..Default::default()
        });
        status.health.push(wire::Health {
            component: "root".to_owned(),
            ok: true,
            warning: true,
            code: "ARX-ROOT-ENDING".to_owned(),
            message: "it ends within 60 days".to_owned(),
        });
        let style = Style {
            json: false,
            wide: false,
            now_ms: 4_000_000,
        };
        let text = to_text(&status, style);
        let line = "rotation      r3 in reissue for 5m: 2 still hold certificates under the old root; see `arx rotate status`\n";
        assert!(text.contains(line), "{text}");
        let shown = |words: &[&str]| {
            text.lines()
                .any(|line| words.iter().all(|word| line.contains(word)))
        };
        assert!(shown(&["root", "retiring"]), "{text}");
        assert!(shown(&["root", "warning", "ARX-ROOT-ENDING"]), "{text}");
        assert_eq!(to_json(&status)["rotation"]["id"], "r3");
    }

    #[test]
    fn json_has_stable_names() {
        let value = to_json(&status());
        assert_eq!(value["bundle_sequence"], "1.2");
        assert_eq!(value["health"][0]["code"], "ARX-LEDGER-PAUSED");
        assert_eq!(value["authorities"][0]["renews"], Value::Null);
        assert_eq!(value["rotation"], Value::Null);
    }
}
