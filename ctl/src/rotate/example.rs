//! A rotation that two keep waiting, as the tests see it.

use arx_proto::admin::v1 as wire;

use crate::fake::{Answers, Authority, Rotations};
use crate::output::Style;

/// The time now.
pub(crate) const NOW_MS: i64 = 1_795_652_852_000;

pub(crate) const STYLE: Style = Style {
    json: false,
    wide: false,
    now_ms: NOW_MS,
};

/// What a proxy that wants to command a terminal would say.
pub(crate) const HOSTILE: &str = "no\u{1b}[2J\nunconfirmed: nobody\u{9b}1m\u{202e}";

pub(crate) fn root(number: u8) -> wire::RotationRoot {
    wire::RotationRoot {
        subject: format!("CN=root {number}"),
        key_id: vec![number; 20].into(),
        not_after_unix_ms: NOW_MS + 86_400_000 * 300,
    }
}

/// Its agent does not run.
pub(crate) fn away() -> wire::Unconfirmed {
    wire::Unconfirmed {
        node: "c1/n7".to_owned(),
        reason: "agent-away".to_owned(),
        since_unix_ms: NOW_MS - 300_000,
        workloads: vec!["spiffe://example.org/web".to_owned()],
        workload_count: 4,
        last_certificate_ends_unix_ms: NOW_MS + 2_580_000,
        advice: "start its agent, or see in its log why it can't connect; it counts until the last certificate ends".to_owned(),
        ..Default::default()
    }
}

/// It said no.
pub(crate) fn refused() -> wire::Unconfirmed {
    wire::Unconfirmed {
        node: "c1/n2".to_owned(),
        process: "pid 812".to_owned(),
        resource: "ROOTCA".to_owned(),
        reason: "refused".to_owned(),
        since_unix_ms: NOW_MS - 60_000,
        detail: HOSTILE.to_owned(),
        advice: "mend what the proxy says, and restart it: its later word would not count"
            .to_owned(),
        ..Default::default()
    }
}

/// A list of those who have not confirmed, with a digest of its own.
pub(crate) fn waiting(unconfirmed: Vec<wire::Unconfirmed>) -> wire::Rotation {
    let names: Vec<_> = unconfirmed.iter().map(super::unconfirmed::who).collect();
    let entered = |phase: &str, started, ended| wire::EnteredPhase {
        phase: phase.to_owned(),
        started_unix_ms: started,
        ended_unix_ms: ended,
        ..Default::default()
    };
    wire::Rotation {
        id: "r1".to_owned(),
        phase: "distribute".to_owned(),
        trust_domain: "example.org".to_owned(),
        from: Some(root(1)),
        to: Some(root(2)),
        bundle_epoch: 1,
        bundle_number: 4,
        started_unix_ms: NOW_MS - 122_000,
        phase_started_unix_ms: NOW_MS - 120_000,
        confirmed: 118,
        unconfirmed_total: u64::try_from(unconfirmed.len()).expect("a few"),
        unconfirmed,
        unconfirmed_digest: names.join(",").into_bytes().into(),
        gate: "confirmations".to_owned(),
        window_ms: 1_800_000,
        message: "waits for everybody to confirm the new root".to_owned(),
        phases: vec![
            entered("prepare", NOW_MS - 122_000, NOW_MS - 120_000),
            entered("distribute", NOW_MS - 120_000, 0),
        ],
        started_by: "uid 0".to_owned(),
        reason: "the yearly rotation".to_owned(),
        ..Default::default()
    }
}

/// In another phase, with nobody missing.
pub(crate) fn later(phase: &str) -> wire::Rotation {
    let ends = matches!(phase, "done" | "aborted");
    wire::Rotation {
        phase: phase.to_owned(),
        message: String::new(),
        gate: String::new(),
        confirmed: 0,
        ended_unix_ms: if ends { NOW_MS } else { 0 },
        ..waiting(Vec::new())
    }
}

pub(crate) fn plan() -> wire::RotationPlan {
    let step = |phase: &str, at_least_ms, why: &str| wire::PlannedPhase {
        phase: phase.to_owned(),
        at_least_ms,
        why: why.to_owned(),
    };
    wire::RotationPlan {
        from: Some(root(1)),
        steps: vec![
            step("distribute", 15_000, "handshakes in flight"),
            step("reissue", 1_800_000, "the window"),
        ],
        must_confirm_agents: 3,
        must_confirm_subscribers: 117,
        live_certificates: 120,
        blockers: vec![away()],
        blockers_total: 1,
        refusals: vec![wire::Refusal {
            code: "ARX-ROTATION-UNDER-WAY".to_owned(),
            message: "the root ends before the leaves do".to_owned(),
        }],
        window_ms: 1_800_000,
        denied: Vec::new(),
        denied_total: 0,
    }
}

pub(crate) const REPORT: &str = r#"{
    "id": "r1", "outcome": "done", "trust_domain": "example.org",
    "from": {"subject": "CN=root 1", "key_id": "01", "not_after": "2026-12-01T00:00:00Z"},
    "to": {"subject": "CN=root 2", "key_id": "02", "not_after": "2036-12-01T00:00:00Z"},
    "started": "2026-11-26T00:00:00Z", "ended": "2026-11-26T01:00:00Z", "started_by": "uid 0", "reason": "yearly",
    "phases": [{
        "phase": "distribute", "aborting": false, "started": "2026-11-26T00:00:02Z", "ended": "2026-11-26T00:00:30Z", "sequence": "1.4", "confirmed_count": 118
    }, {
        "phase": "reissue", "aborting": false, "started": "2026-11-26T00:00:30Z", "ended": "2026-11-26T00:50:00Z", "sequence": null, "confirmed_count": 120
    }],
    "forced": [{"phase": "distribute", "at": "2026-11-26T00:00:30Z", "by": "uid 0", "reason": "n2 is scrapped", "left_behind": 1, "names": ["c1/n2 pid 812 ROOTCA refused"]}],
    "denied": [{"phase": "reissue", "aborting": false, "at": "2026-11-26T00:50:00Z", "left_out": 1, "holders": [
        {"node": "c1/n9", "process": "", "reason": "agent-away", "workloads": ["spiffe://example.org/lost"], "workload_count": 3}
    ]}]
}"#;

/// An authority where all of that is to be seen.
pub(crate) fn rotations() -> Rotations {
    Rotations {
        plan: plan(),
        earlier: vec![later("done")],
        report: REPORT.to_owned(),
        ..Rotations::saying([waiting(vec![refused(), away()])])
    }
}

/// An authority with these.
pub(crate) fn authority(rotations: Rotations) -> Authority {
    Authority::start(Answers {
        rotations: rotations.into(),
        ..Answers::default()
    })
}
