//! What an operator sees of a rotation: in text, in lines, on a screen, and in JSON.

use arx_proto::admin::v1 as wire;
use serde_json::Value;

use super::super::begun;
use super::super::example::{HOSTILE, NOW_MS, STYLE, away, later, refused, waiting};
use super::super::lines::Teller;
use super::super::live::Screen;
use super::{Room, bars, to_json, to_text};

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
   -> start its agent, or see in its log why it can't connect; it counts until the last certificate ends

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
        String::from_utf8(begun(&rotation, STYLE).body).expect("text"),
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
fn what_may_be_done_is_told_when_renewals_are_overdue_and_not_before() {
    let mut reissue = waiting(vec![away()]);
    reissue.phase = "reissue".to_owned();
    reissue.gate = "leaves".to_owned();
    assert!(!to_text(&reissue, STYLE).contains("--force"));
    reissue.window_ms = 60_000;
    assert!(to_text(&reissue, STYLE).contains("--force"));
}

#[test]
fn a_denied_holder_is_listed_as_left_out_and_not_as_waited_for() {
    let mut rotation = later("distribute");
    rotation.denied = vec![away()];
    rotation.denied_total = 2;
    rotation.phases[0].denied = 2;
    let shown = to_text(&rotation, STYLE);
    let expected = "
left out, because denied: 2; `arx allow` ends that
c1/n7: agent-away, since 5m ago
   holds spiffe://example.org/web and 3 more; the last ends in 43m
and 1 more
";
    assert!(shown.ends_with(expected), "{shown}");
    assert!(shown.contains("took 2s, left out 2 denied\n"), "{shown}");
    assert!(!shown.contains("waits for 1"), "{shown}");
    let value = to_json(&rotation);
    assert_eq!(value["denied"][0]["node"], "c1/n7");
    assert_eq!(value["denied_total"], 2);
    assert_eq!(value["phases"][0]["denied"], 2);
    assert_eq!(value["unconfirmed_total"], 0);
}

#[test]
fn on_a_small_screen_whoever_is_waited_for_is_named_before_the_list_is() {
    let rotation = waiting(vec![refused(), away()]);
    for lines in 16..30 {
        let room = Room { lines, width: 80 };
        let drawn = Screen::default().draw(&rotation, "Ctrl-C stops", STYLE, room);
        assert!(
            drawn.contains("c1/n2 pid 812 (ROOTCA): refused"),
            "{lines}: {drawn}"
        );
        assert!(drawn.matches('\n').count() < lines, "{lines}: {drawn}");
    }
}

#[test]
fn only_a_refusal_is_told_as_the_words_of_a_proxy() {
    let mut waits = away();
    waits.detail = "it has not connected since the authority was started".to_owned();
    let shown = to_text(&waiting(vec![waits]), STYLE);
    assert!(shown.contains("\n   it has not connected since"), "{shown}");
    assert!(!shown.contains("it said"), "{shown}");
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
        shown.contains("reissue, back    [###################.] 118 certificates under the new root, 1 waited for"),
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
