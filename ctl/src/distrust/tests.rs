use clap::Parser as _;
use serde_json::Value;

use super::*;
use crate::Arguments;
use crate::fake::{Answers, Authority};
use crate::rotate::example::{NOW_MS, away, later, root};
use crate::tests::{arx, json, text};

fn answering(outcome: Outcome) -> Authority {
    Authority::start(Answers {
        distrust: Some(outcome),
        ..Answers::default()
    })
}

/// What a dry run is answered with.
pub(crate) fn example() -> Outcome {
    Outcome::Plan(plan())
}

fn plan() -> wire::DistrustPlan {
    let step = |phase: &str, at_least_ms| wire::PlannedPhase {
        phase: phase.to_owned(),
        at_least_ms,
        why: String::new(),
    };
    wire::DistrustPlan {
        root: Some(root(1)),
        live_certificates: 120,
        reachable: 240,
        fails: vec![away()],
        fails_total: 1,
        steps: vec![
            step("prepare", 0),
            step("distribute", 1000),
            step("retire", 1000),
        ],
        cap_ms: 5000,
        ..Default::default()
    }
}

#[tokio::test]
async fn a_dry_run_names_every_workload_that_fails() {
    let authority = answering(Outcome::Plan(plan()));
    let line = ["distrust", "0101", "--dry-run"];
    let told = text(authority.path(), &line).await;
    for part in [
        "reissues    120 certificates, at once",
        "takes       2s to 10s: each phase waits 5s at most",
        "loses       nothing for the 240 agents and proxies within reach",
        "fails: 1, until they come back",
        "c1/n7: agent-away, since ",
        "   spiffe://example.org/web\n   and 3 more\n",
        "it would start: leave out --dry-run",
    ] {
        assert!(told.contains(part), "{part:?} is not in {told}");
    }
    let told = json(authority.path(), &line).await;
    assert_eq!(told["fails"][0]["node"], "c1/n7");
    assert_eq!(told["at_most_ms"], 10_000);
    assert_eq!(told["rotation"], Value::Null);
}

#[tokio::test]
async fn of_the_only_root_it_is_said_that_nothing_connects_and_who_that_is() {
    let authority = answering(Outcome::Plan(wire::DistrustPlan {
        without_successor: true,
        ..plan()
    }));
    let line = [
        "distrust",
        "0101",
        "--dry-run",
        "--i-understand-nothing-will-connect",
    ];
    let told = text(authority.path(), &line).await;
    for part in [
        "ends        120 certificates, at once: no other root takes its place",
        "loses       everything: nothing connects until",
        "fails: 1, all that hold something under it",
    ] {
        assert!(told.contains(part), "{part:?} is not in {told}");
    }
    assert!(!told.contains("loses       nothing"), "{told}");
    let told = json(authority.path(), &line).await;
    assert_eq!(told["without_successor"], true);
}

#[tokio::test]
async fn a_distrust_that_would_be_refused_says_why_and_is_exit_code_1() {
    let authority = answering(Outcome::Plan(wire::DistrustPlan {
        refusals: vec![wire::Refusal {
            code: "ARX-DISTRUST-ONLY-ROOT".to_owned(),
            message: "it is the only root".to_owned(),
        }],
        ..plan()
    }));
    let output = arx(authority.path(), &["distrust", "0101", "--dry-run"]).await;
    let output = output.expect("an answer");
    assert_eq!(output.exit_code, 1);
    let told = String::from_utf8(output.body).expect("text");
    assert!(
        told.contains("refused: it is the only root (ARX-DISTRUST-ONLY-ROOT)"),
        "{told}"
    );
    let unknown = Authority::start(Answers::default());
    let line = ["distrust", "ffff", "--reason", "stolen"];
    assert!(arx(unknown.path(), &line).await.is_err());
}

#[tokio::test]
async fn a_distrust_that_has_begun_is_shown_as_one_and_offers_no_way_back() {
    let rotation = wire::Rotation {
        kind: "distrust".to_owned(),
        unconfirmed_total: 1,
        unconfirmed: vec![away()],
        gate: "confirmations".to_owned(),
        cap_ms: 5000,
        ..later("retire")
    };
    let authority = answering(Outcome::Rotation(rotation));
    let line = ["distrust", "0101", "--reason", "stolen"];
    let told = text(authority.path(), &line).await;
    assert!(told.starts_with("distrust  r1 of example.org"), "{told}");
    assert!(!told.contains("abort"), "{told}");
    let told = json(authority.path(), &line).await;
    assert_eq!(told["kind"], "distrust");
    assert_eq!(told["cap_ms"], 5000);
}

#[tokio::test]
async fn of_an_intermediate_it_is_said_until_when_the_stolen_one_is_believed() {
    let authority = answering(Outcome::Intermediate(wire::IntermediateDistrust {
        subject: "CN=ca-1".to_owned(),
        key_id: vec![7; 20].into(),
        serial: vec![9].into(),
        not_after_unix_ms: NOW_MS,
        root: Some(root(1)),
        certificates: 3,
        agents: 1,
        replacement_key_id: vec![8; 20].into(),
        dry_run: false,
    }));
    let line = ["distrust", "0707", "--reason", "stolen"];
    let told = text(authority.path(), &line).await;
    for part in [
        "signs now     0808080808",
        "3 certificates under it, at once; told 1 agent",
        "whoever has its key is still believed until it ends",
        "`arx distrust 0101010101010101` distrusts the root above it",
    ] {
        assert!(told.contains(part), "{part:?} is not in {told}");
    }
    assert_eq!(json(authority.path(), &line).await["certificates"], 3);
}

#[test]
fn a_distrust_needs_an_authority_and_a_reason() {
    let parse = |arguments: &[&str]| {
        let line = [&["arx", "distrust"], arguments].concat();
        Arguments::try_parse_from(line).map(drop)
    };
    for good in [
        &["abcd", "--dry-run"][..],
        &["abcd", "--reason", "x"],
        &["abcd", "--reason", "x", "--cap", "20s", "--watch"],
    ] {
        assert!(parse(good).is_ok(), "{good:?}");
    }
    for wrong in [
        &[][..],
        &["abcd"],
        &["abcd", "--reason", " "],
        &["abcd", "--dry-run", "--watch"],
        &["--reason", "x"],
    ] {
        assert!(parse(wrong).is_err(), "{wrong:?}");
    }
}
