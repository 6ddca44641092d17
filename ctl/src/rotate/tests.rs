//! What an operator sees of a rotation, and what is done when the command says so.

use std::future::pending;
use std::io::Write;
use std::sync::Mutex;

use arx_proto::admin::v1 as wire;
use clap::Parser as _;
use serde_json::Value;

use super::example::{HOSTILE, NOW_MS, REPORT, STYLE, away, later, refused, rotations, waiting};
use super::lines::Teller;
use super::live::Screen;
use super::show::{Room, bars, to_json, to_text};
use super::watch::{Ended, View, follow};
use crate::fake::{Answers, Authority, Rotations};
use crate::tests::{arx, json, text};

fn authority(rotations: Rotations) -> Authority {
    Authority::start(Answers {
        rotations: rotations.into(),
        ..Answers::default()
    })
}

#[test]
fn the_status_says_how_far_it_is_who_is_missing_why_and_what_to_do() {
    let shown = to_text(&waiting(vec![refused(), away()]), STYLE);
    let expected = "\
rotation  r1 of example.org, started 2m2s ago by uid 0: the yearly rotation
from      0101010101010101010101010101010101010101 CN=root 1, ends in 300d
to        0202020202020202020202020202020202020202 CN=root 2, ends in 300d
bundle    sequence 1.4
now       waits for everybody to confirm the new root

prepare          [####################] took 2s
distribute       [###################.] 118 of 120 confirmed, for 2m
activate         [....................]
reissue          [....................]
retire           [....................]

waits for 2, most blocking first; list 63312f6e3220706964203831322028524f4f544341292c63312f6e37
";
    assert!(shown.starts_with(expected), "{shown}");
    let expected = "\
c1/n2 pid 812 (ROOTCA): refused, since 1m ago
   it said: no\\u{1b}[2J\\nunconfirmed: nobody\\u{9b}1m\\u{202e}
   -> mend what the proxy says, and restart it: its later word would not count
c1/n7: agent-away, since 5m ago
   holds spiffe://example.org/web and 3 more; the last ends in 43m
   -> start its agent, or see in its log why it can't connect; it counts until its last certificate ends

it waits; `arx rotate continue --force --reason TEXT` leaves them behind, `arx rotate abort` goes back
";
    assert!(shown.ends_with(expected), "{shown}");
}

#[test]
fn what_a_proxy_says_reaches_no_terminal_as_a_command() {
    let rotation = waiting(vec![refused()]);
    let texts = [
        to_text(&rotation, STYLE),
        Teller::default().tell(&rotation, STYLE),
        String::from_utf8(super::begun(&rotation, STYLE).body).expect("text"),
    ];
    for text in texts {
        assert!(text.contains("no\\u{1b}[2J\\nunconfirmed"), "{text}");
        assert!(
            !text.contains(|c: char| (c.is_control() && c != '\n') || c == '\u{202e}'),
            "{text:?}"
        );
    }
    // A screen has commands, but only its own.
    let drawn = Screen::default().draw(&rotation, "", STYLE, Room::UNBOUNDED);
    let own = ["\r\u{1b}[J\u{1b}[?7l", "\u{1b}[?7h"];
    let rest = own.iter().fold(drawn, |text, own| text.replace(own, ""));
    assert!(
        !rest.contains(|c: char| c.is_control() && c != '\n'),
        "{rest:?}"
    );
    assert_eq!(to_json(&rotation)["unconfirmed"][0]["detail"], HOSTILE);
}

#[test]
fn json_has_the_promised_names_at_its_top_also_when_there_is_no_rotation() {
    let value = to_json(&waiting(vec![refused(), away()]));
    assert_eq!(value["phase"], "distribute");
    assert_eq!(value["id"], "r1");
    assert_eq!(value["from"]["subject"], "CN=root 1");
    assert_eq!(value["to"]["key_id"], "02".repeat(20));
    assert_eq!(value["confirmed"], 118);
    assert_eq!(value["unconfirmed"][1]["node"], "c1/n7");
    assert_eq!(value["unconfirmed"][1]["reason"], "agent-away");
    let advice = value["unconfirmed"][1]["advice"].as_str().expect("text");
    assert!(advice.starts_with("start its agent"), "{advice}");
    let nothing = to_json(&wire::Rotation::default());
    for name in ["phase", "id", "from", "to"] {
        assert_eq!(nothing[name], Value::Null, "{name}");
    }
    assert_eq!(nothing["unconfirmed"], Value::Array(Vec::new()));
}

#[test]
fn a_bar_is_full_only_when_nobody_is_missing() {
    let bar = |confirmed, unconfirmed_total| {
        let rotation = wire::Rotation {
            confirmed,
            unconfirmed_total,
            phases: Vec::new(),
            ..waiting(Vec::new())
        };
        bars(&rotation, STYLE)[1].clone()
    };
    assert!(bar(999_999, 1).contains("[###################.] 999999 of 1000000 confirmed"));
    assert!(bar(0, 5).contains("[....................] 0 of 5"));
    assert!(bar(5, 0).contains("[####################] 5 of 5"));
    assert!(bar(0, 0).contains("[....................] for 2m"));
    assert!(bar(u64::MAX, u64::MAX).contains("of 18446744073709551615"));
}

#[test]
fn the_way_back_and_phases_of_a_newer_authority_are_shown_as_they_are() {
    let mut back = waiting(vec![away()]);
    back.aborting = true;
    back.abort_reason = "the new root is wrong".to_owned();
    back.phases.push(wire::EnteredPhase {
        phase: "reissue".to_owned(),
        aborting: true,
        ..Default::default()
    });
    back.phase = "reissue".to_owned();
    let shown = to_text(&back, STYLE);
    assert!(shown.contains("back to the root it came from: the new root is wrong"));
    assert!(
        shown.contains("reissue, back    [###################.] 118 of 119 certificates"),
        "{shown}"
    );
    assert!(!shown.contains("\nretire "), "{shown}");

    let mut unknown = waiting(Vec::new());
    unknown.phase = "verify".to_owned();
    assert!(to_text(&unknown, STYLE).contains("\nverify           ["));
}

#[test]
fn an_end_is_told_with_where_the_evidence_is() {
    let shown = to_text(&later("done"), STYLE);
    assert!(
        shown.contains("ended     now, took 2m2s; `arx rotate report r1` has the evidence"),
        "{shown}"
    );
    assert!(!shown.contains("activate "), "{shown}");
}

#[test]
fn the_live_view_fits_the_screen_and_draws_over_itself() {
    let many: Vec<_> = (0..500)
        .map(|number| wire::Unconfirmed {
            process: format!("pid {number}"),
            ..refused()
        })
        .collect();
    let rotation = waiting(many);
    let room = Room {
        lines: 24,
        width: 60,
    };
    let mut screen = Screen::default();
    let first = screen.draw(&rotation, "", STYLE, room);
    let lines = first.matches('\n').count();
    assert!(lines < room.lines, "{lines} lines:\n{first}");
    assert!(first.starts_with("\r\u{1b}[J\u{1b}[?7l"), "{first:?}");
    assert!(first.ends_with("\u{1b}[?7h"), "{first:?}");
    assert!(first.contains("c1/n2 pid 0 (ROOTCA): refused"), "{first}");
    assert!(first.contains("more; `arx rotate status -o json` lists them"));
    let advice = first.lines().filter(|line| line.starts_with("   ->"));
    assert!(
        advice.clone().count() > 0 && advice.clone().all(|line| line.chars().count() <= 60),
        "{first}"
    );
    let second = screen.draw(&later("done"), "", STYLE, room);
    assert!(second.starts_with(&format!("\u{1b}[{lines}A\r\u{1b}[J")));
    let tiny = Room { lines: 1, width: 1 };
    let small = Screen::default().draw(&rotation, "gone", STYLE, tiny);
    assert!(small.matches('\n').count() < 10, "{small}");
}

#[test]
fn lines_tell_each_thing_once() {
    let mut teller = Teller::default();
    let begun = wire::Rotation {
        phase_started_unix_ms: NOW_MS,
        ..waiting(vec![refused(), away()])
    };
    let first = teller.tell(&begun, STYLE);
    assert!(first.starts_with("rotation  r1 of example.org"), "{first}");
    let stamp = "2026-11-26T00:27:32Z distribute:";
    assert!(
        first.contains(&format!("{stamp} 118 of 120 confirmed\n")),
        "{first}"
    );
    assert!(
        first.contains(&format!(
            "{stamp} waits for c1/n2 pid 812 (ROOTCA): refused"
        )),
        "who refuses is told at once: {first}"
    );
    assert!(
        !first.contains("c1/n7"),
        "others get a moment's time: {first}"
    );
    assert_eq!(teller.tell(&begun, STYLE), "", "nothing is new");

    let after = |seconds: i64| crate::output::Style {
        now_ms: NOW_MS + seconds * 1000,
        ..STYLE
    };
    let late = teller.tell(&begun, after(6));
    assert_eq!(late.lines().count(), 1, "{late}");
    assert!(late.contains("waits for c1/n7: agent-away"), "{late}");
    assert_eq!(teller.tell(&begun, after(7)), "");

    let fewer = waiting(vec![away()]);
    let counted = teller.tell(&fewer, after(8));
    assert_eq!(
        counted,
        "2026-11-26T00:27:40Z distribute: 118 of 119 confirmed\n"
    );
    let next = teller.tell(&later("activate"), after(9));
    assert_eq!(next, "2026-11-26T00:27:41Z activate: entered\n");
    let held = wire::Rotation {
        held: true,
        ..later("activate")
    };
    let told = teller.tell(&held, after(10));
    assert!(told.contains("activate: held\n"), "{told}");
    assert!(told.contains("`arx rotate continue` goes on"), "{told}");
}

/// What a watch of these says, up to its end.
async fn watched(
    watches: &[&[wire::Rotation]],
    view: View,
) -> Result<(Ended, String), crate::client::Failure> {
    let watches = watches.iter().map(|told| told.to_vec()).collect();
    let authority = authority(Rotations {
        watches: Mutex::new(watches),
        ..Rotations::default()
    });
    let mut out = Vec::new();
    let id = String::new();
    let ended = follow(authority.path(), id, view, STYLE, &mut out, pending()).await?;
    Ok((ended, String::from_utf8(out).expect("text")))
}

#[tokio::test]
async fn a_watch_goes_on_behind_a_restart_of_the_authority_to_the_end() {
    let waits = waiting(vec![away()]);
    let watches: &[&[wire::Rotation]] = &[
        &[later("prepare"), waits.clone()],
        &[waits, later("activate"), later("done")],
    ];
    let (ended, out) = watched(watches, View::Lines(Teller::default()))
        .await
        .expect("the end");
    assert!(matches!(ended, Ended::With(rotation) if rotation.phase == "done"));
    assert_eq!(
        out.matches("the authority has gone away").count(),
        1,
        "{out}"
    );
    assert_eq!(out.matches("118 of 119 confirmed").count(), 1, "{out}");
    assert!(out.contains("activate: entered"), "{out}");
    assert!(out.trim_end().ends_with("done: entered"), "{out}");

    let (_, out) = watched(watches, View::Json).await.expect("the end");
    let phases: Vec<_> = out
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON")["phase"].clone())
        .collect();
    let expected = ["prepare", "distribute", "distribute", "activate", "done"];
    assert_eq!(phases, expected);
}

#[tokio::test]
async fn a_watch_of_another_rotation_is_not_taken_for_this_one() {
    let mut other = later("done");
    other.id = "r2".to_owned();
    let failure = watched(
        &[&[waiting(vec![away()])], &[other]],
        View::Lines(Teller::default()),
    )
    .await
    .expect_err("r1 is gone");
    assert_eq!(failure.exit_code(), 1, "{failure}");
}

/// Ctrl-C comes when the first thing has been shown.
struct Reader(Option<tokio::sync::oneshot::Sender<()>>);

impl Write for Reader {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        if let Some(shown) = self.0.take() {
            shown.send(()).expect("the watch runs");
        }
        Ok(text.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn ctrl_c_ends_the_watch_and_asks_nothing_of_the_authority() {
    let waits = waiting(vec![away()]);
    let authority = authority(Rotations {
        watches: Mutex::new([vec![waits.clone()]].into()),
        ..Rotations::saying([waits])
    });
    let (shown, interrupted) = tokio::sync::oneshot::channel();
    let mut out = Reader(Some(shown));
    let ended = follow(
        authority.path(),
        String::new(),
        View::Lines(Teller::default()),
        STYLE,
        &mut out,
        async { interrupted.await.expect("it was shown") },
    )
    .await;
    assert!(matches!(ended, Ok(Ended::Interrupted)), "{ended:?}");
    let after = json(authority.path(), &["rotate", "status"]).await;
    assert_eq!(after["phase"], "distribute");
    assert_eq!(after["aborting"], false);
}

/// A reader such as `head` that has gone.
struct Gone;

impl Write for Gone {
    fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
        Err(std::io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_watch_that_nobody_reads_ends() {
    let authority = authority(Rotations {
        watches: Mutex::new([vec![waiting(Vec::new())]].into()),
        ..Rotations::default()
    });
    let id = String::new();
    let ended = follow(
        authority.path(),
        id,
        View::Json,
        STYLE,
        &mut Gone,
        pending(),
    )
    .await;
    assert!(matches!(ended, Ok(Ended::Unread)), "{ended:?}");
}

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
        "refused: the root ends before the leaves do (ARX-EXAMPLE)",
        "nothing was changed",
    ] {
        assert!(shown.contains(part), "{part} is missing in:\n{shown}");
    }
    let value = json(authority.path(), line).await;
    assert_eq!(value["at_least_ms"], 1_815_000);
    assert_eq!(value["refusals"][0]["code"], "ARX-EXAMPLE");
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
        "distribute: from 2026-11-26T00:00:02Z to 2026-11-26T00:00:30Z sequence 1.4",
        "  2026-11-26T00:00:03Z c1/n1 pid 7 ROOTCA acked",
        "  NOT confirmed: c1/n2 pid 812 ROOTCA refused it said: no\\u{1b}[2J",
        "forced past 1 in distribute at 2026-11-26T00:00:30Z by uid 0 because n2 is scrapped",
        "ledger    record 77 sha256 cd",
    ] {
        assert!(shown.contains(part), "{part} is missing in:\n{shown}");
    }
    let none = super::tests::authority(Rotations::default());
    let failure = arx(none.path(), line).await.expect_err("none");
    assert_eq!(failure.exit_code(), 1);
}
