//! The commands about a rotation, as they are typed.

use arx_proto::admin::v1 as wire;
use serde_json::Value;

use super::example::{REPORT, authority, away, later, rotations, waiting};
use crate::fake::Rotations;
use crate::tests::{arx, json, text};

#[tokio::test]
async fn a_rotation_is_started_with_what_was_asked_for() {
    let authority = authority(Rotations::default());
    let started = json(
        authority.path(),
        &[
            "rotate",
            "root",
            "--window",
            "0",
            "--wait-unconfirmed",
            "1h",
        ],
    )
    .await;
    assert_eq!(started["window_ms"], 0);
    assert_eq!(started["wait_unconfirmed_ms"], 3_600_000);
    let plain = json(authority.path(), &["rotate", "root"]).await;
    assert_eq!(plain["window_ms"], 1_800_000, "the authority's own");
    assert_eq!(plain["wait_unconfirmed_ms"], Value::Null);
    let told = text(authority.path(), &["rotate", "root"]).await;
    assert!(
        told.ends_with("`arx rotate status --watch` follows it\n"),
        "{told}"
    );
}

#[tokio::test]
async fn the_plan_says_how_long_why_and_what_stands_in_the_way() {
    let authority = authority(rotations());
    let line = &["rotate", "root", "--dry-run"];
    let output = arx(authority.path(), line).await.expect("a plan");
    assert_eq!(output.exit_code, 1, "it would be refused");
    let shown = String::from_utf8(output.body).expect("text");
    for part in [
        "3 agents, 117 proxies",
        "120 certificates, within 30m",
        "at least 30m15s",
        "distribute   15s      handshakes in flight",
        "would wait for 1 as things are",
        "refused: the root ends before the leaves do (ARX-ROTATION-UNDER-WAY)",
        "nothing was changed",
    ] {
        assert!(shown.contains(part), "{part} is missing in:\n{shown}");
    }
    let value = json(authority.path(), line).await;
    assert_eq!(value["at_least_ms"], 1_815_000);
    assert_eq!(value["refusals"][0]["code"], "ARX-ROTATION-UNDER-WAY");
}

#[tokio::test]
async fn a_rotation_that_waits_for_an_operator_is_not_well() {
    let held = wire::Rotation {
        held: true,
        ..later("retire")
    };
    let authority = authority(Rotations::saying([held]));
    let status = &["rotate", "status"];
    let output = arx(authority.path(), status).await.expect("an answer");
    assert_eq!(output.exit_code, 1);
    let shown = String::from_utf8(output.body).expect("text");
    assert!(shown.contains("\nheld             ["), "{shown}");
    let went_on = json(authority.path(), &["rotate", "continue"]).await;
    assert_eq!(went_on["held"], false);
    let output = arx(authority.path(), status).await.expect("an answer");
    assert_eq!(output.exit_code, 0);
}

#[tokio::test]
async fn an_abort_says_why_and_is_refused_when_nothing_runs() {
    let running = authority(Rotations::saying([waiting(vec![away()])]));
    let line = &["rotate", "abort", "--reason", "a mistake"];
    let value = json(running.path(), line).await;
    assert_eq!(value["aborting"], true);
    assert_eq!(value["abort_reason"], "a mistake");
    let over = authority(Rotations::saying([later("done")]));
    let failure = arx(over.path(), line).await.expect_err("it is over");
    assert_eq!(failure.exit_code(), 1);
}

#[tokio::test]
async fn no_rotation_at_all_is_said_and_is_no_failure() {
    let authority = authority(Rotations::default());
    let shown = text(authority.path(), &["rotate", "status"]).await;
    assert!(shown.starts_with("there has been no rotation"), "{shown}");
    let value = json(authority.path(), &["rotate", "status"]).await;
    assert_eq!(value["phase"], Value::Null);
    let shown = text(authority.path(), &["rotate", "history"]).await;
    assert!(shown.starts_with("there has been no rotation"), "{shown}");
}

#[tokio::test]
async fn the_history_is_followed_page_by_page_up_to_the_limit() {
    let earlier = (0..5)
        .map(|number| wire::Rotation {
            id: format!("r{number}"),
            ..later("done")
        })
        .collect();
    let authority = authority(Rotations {
        earlier,
        ..Rotations::default()
    });
    let socket = authority.path();
    let list = json(socket, &["rotate", "history"]).await;
    assert_eq!(list.as_array().map(Vec::len), Some(5));
    let shown = text(socket, &["rotate", "history", "--limit", "3"]).await;
    assert_eq!(shown.lines().count(), 5, "{shown}");
    assert!(shown.contains("r2 "), "{shown}");
    assert!(
        shown.contains("0101010101010101  0202020202020202"),
        "{shown}"
    );
    assert!(
        shown.ends_with("only the newest 3; --limit shows more\n"),
        "{shown}"
    );
}

#[tokio::test]
async fn the_report_is_put_together_and_read_out() {
    let authority = authority(rotations());
    let line = &["rotate", "report", "r1"];
    let whole: Value = serde_json::from_str(REPORT).expect("JSON");
    assert_eq!(json(authority.path(), line).await, whole);
    let shown = text(authority.path(), line).await;
    for part in [
        "rotation  r1 of example.org",
        "distribute: from 2026-11-26T00:00:02Z to 2026-11-26T00:00:30Z sequence 1.4 (118 confirmed)",
        "reissue: from 2026-11-26T00:00:30Z to 2026-11-26T00:50:00Z (120 issued anew)",
        "left out, because denied: 1 in reissue until 2026-11-26T00:50:00Z\n  c1/n9 agent-away\n    spiffe://example.org/lost\n    and 2 more\n",
        "forced past 1 in distribute at 2026-11-26T00:00:30Z by uid 0 because n2 is scrapped\n  c1/n2 pid 812 ROOTCA refused\n",
    ] {
        assert!(shown.contains(part), "{part} is missing in:\n{shown}");
    }
    let none = super::example::authority(Rotations::default());
    let failure = arx(none.path(), line).await.expect_err("none");
    assert_eq!(failure.exit_code(), 1);
}
