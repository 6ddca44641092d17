//! A force leaves behind whom it has shown, and nobody else.

use clap::Parser as _;
use serde_json::Value;

use super::super::example::{authority, away, later, refused, waiting};
use crate::fake::Rotations;
use crate::tests::{arx, json, text};

const FORCE: &[&str] = &[
    "rotate",
    "continue",
    "--force",
    "--reason",
    "n7 is scrapped",
];

#[tokio::test]
async fn a_force_lists_whom_it_leaves_behind() {
    let both = || waiting(vec![refused(), away()]);
    let forced = authority(Rotations::saying([both()]));
    let shown = text(forced.path(), FORCE).await;
    assert!(
        shown.starts_with("left behind in distribute: 2\nc1/n2 pid 812"),
        "{shown}"
    );
    assert!(shown.contains("left behind: 2"), "{shown}");
    assert!(shown.contains("n7 is scrapped"), "{shown}");

    let forced = authority(Rotations::saying([both()]));
    let value = json(forced.path(), FORCE).await;
    assert_eq!(value["phase"], "activate");
    assert_eq!(value["left_behind"][1]["node"], "c1/n7");
    assert_eq!(value["forced"][0]["reason"], "n7 is scrapped");
}

#[tokio::test]
async fn a_force_is_refused_when_somebody_came_who_was_not_shown() {
    let authority = authority(Rotations::saying([
        waiting(vec![away()]),
        waiting(vec![away(), refused()]),
    ]));
    let failure = arx(authority.path(), FORCE).await.expect_err("it grew");
    assert_eq!(failure.exit_code(), 1);
    let said = failure.to_string();
    assert!(
        said.contains("(c1/n2 pid 812 (ROOTCA)): nothing was forced"),
        "{said}"
    );
    let after = json(authority.path(), &["rotate", "status"]).await;
    assert_eq!(after["phase"], "distribute");
    assert_eq!(after["forced"], Value::Array(Vec::new()));
}

#[tokio::test]
async fn a_force_goes_on_when_some_have_confirmed_meanwhile() {
    let authority = authority(Rotations::saying([
        waiting(vec![away(), refused()]),
        waiting(vec![away()]),
        waiting(vec![away()]),
    ]));
    let value = json(authority.path(), FORCE).await;
    assert_eq!(value["phase"], "activate");
    let left = value["left_behind"].as_array().map(Vec::len);
    assert_eq!(left, Some(1), "{value}");
}

#[tokio::test]
async fn a_force_never_counts_for_the_next_gate() {
    let mut next = waiting(vec![away()]);
    next.phase = "retire".to_owned();
    next.bundle_number += 1;
    next.unconfirmed_digest = vec![9].into();
    let authority = authority(Rotations::saying([waiting(vec![away()]), next]));
    let failure = arx(authority.path(), FORCE)
        .await
        .expect_err("another gate");
    let said = failure.to_string();
    assert!(
        said.contains("gone on to retire by itself: nothing was forced"),
        "{said}"
    );
}

#[tokio::test]
async fn a_force_is_refused_where_there_is_nothing_to_force() {
    for (rotation, word) in [
        (waiting(Vec::new()), "nobody keeps rotation r1 waiting"),
        (later("done"), "has ended (done)"),
    ] {
        let authority = authority(Rotations::saying([rotation]));
        let failure = arx(authority.path(), FORCE).await.expect_err("nothing");
        assert!(failure.to_string().contains(word), "{failure}");
    }
    let none = authority(Rotations::default());
    let failure = arx(none.path(), FORCE).await.expect_err("nothing");
    assert!(
        failure.to_string().contains("there is no rotation"),
        "{failure}"
    );
}

#[tokio::test]
async fn a_list_that_was_named_must_be_that_list() {
    let one = waiting(vec![away()]);
    let list = crate::output::hex(&one.unconfirmed_digest).to_uppercase();
    let named = [FORCE, &["--digest", &list]].concat();
    let same = authority(Rotations::saying([one]));
    assert_eq!(json(same.path(), &named).await["phase"], "activate");
    let other = authority(Rotations::saying([waiting(vec![refused()])]));
    let failure = arx(other.path(), &named).await.expect_err("another list");
    assert!(
        failure.to_string().contains("not that one any more"),
        "{failure}"
    );
}

#[test]
fn a_force_without_a_reason_is_no_command() {
    for line in [
        &["rotate", "continue", "--force"][..],
        &["rotate", "continue", "--force", "--reason", " "],
        &["rotate", "continue", "--digest", "ab"],
        &["rotate", "root", "--dry-run", "--watch"],
        &["rotate", "root", "--window", "1x"],
    ] {
        let line = [&["arx"], line].concat();
        let error = crate::Arguments::try_parse_from(&line).expect_err("refused");
        assert_eq!(error.exit_code(), 2, "{line:?}");
    }
}
