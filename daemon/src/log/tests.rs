use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use serde_json::{Value, json};
use tracing::{debug, error, info, info_span, trace, warn};

use super::*;

/// What is logged while `act` runs.
fn logged(format: Format, level: Level, act: impl FnOnce(&Log)) -> String {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let sink = lines.clone();
    let clock = Clock::manual(SystemTime::UNIX_EPOCH + Duration::from_millis(1_780_000_000_123));
    let (subscriber, log) = subscriber(Options { format, level }, &clock, move |line: &[u8]| {
        sink.lock()
            .expect("no test panics while it logs")
            .extend_from_slice(line);
    });
    tracing::subscriber::with_default(subscriber, || act(&log));
    let lines = lines.lock().expect("no test panics while it logs");
    String::from_utf8(lines.clone()).expect("lines are UTF-8")
}

fn objects(lines: &str) -> Vec<Value> {
    lines
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line is an object"))
        .collect()
}

#[test]
fn a_json_line_has_time_level_target_message_and_flat_fields() {
    let lines = logged(Format::Json, Level::Info, |_| {
        warn!(target: "arx_ca::issue", code = "ARX-START", count = 3, ratio = 0.5, ok = true, id = %"spiffe://a", "refused");
    });
    assert_eq!(
        lines,
        "{\"time\":\"2026-05-28T20:26:40.123Z\",\"level\":\"warn\",\"target\":\"arx_ca::issue\",\"message\":\"refused\",\
         \"code\":\"ARX-START\",\"count\":3,\"ratio\":0.5,\"ok\":true,\"id\":\"spiffe://a\"}\n"
    );
}

#[test]
fn a_text_line_reads_well() {
    let lines = logged(Format::Text, Level::Info, |_| {
        info!(target: "arx_ca", code = "ARX-START", who = "a b", none = "", "{} of {}", 1, 2);
        error!(target: "arx_ca", n = -1, "failed");
    });
    assert_eq!(
        lines,
        "2026-05-28T20:26:40.123Z  INFO arx_ca: 1 of 2 code=ARX-START who=\"a b\" none=\"\"\n\
         2026-05-28T20:26:40.123Z ERROR arx_ca: failed n=-1\n"
    );
}

#[test]
fn a_level_is_a_word_and_can_be_changed_while_running() {
    let all = |_: &Log| {
        error!("e");
        warn!("w");
        info!("i");
        debug!("d");
        trace!("t");
    };
    for (word, lines) in [
        ("error", 1),
        ("warn", 2),
        ("info", 3),
        ("debug", 4),
        ("trace", 5),
    ] {
        let level = serde_json::from_value(json!(word)).expect("a level");
        assert_eq!(
            logged(Format::Json, level, all).lines().count(),
            lines,
            "{word}"
        );
    }
    let lines = logged(Format::Json, Level::Info, |log| {
        log.set_level(Level::Error);
        all(log);
        log.set_level(Level::Trace);
        all(log);
    });
    assert_eq!(lines.lines().count(), 6);
}

#[test]
fn talkative_libraries_are_heard_from_info_up_only() {
    let act = |_: &Log| {
        for_each_talkative();
        debug!(target: "arx_ca", "ours");
    };
    fn for_each_talkative() {
        debug!(target: "h2::codec", "frame");
        trace!(target: "hyper::proto", "poll");
        debug!(target: "rustls::client", "hello");
        info!(target: "rustls::client", "worth telling");
    }
    let lines = objects(&logged(Format::Json, Level::Trace, act));
    let messages: Vec<_> = lines.iter().map(|line| &line["message"]).collect();
    assert_eq!(messages, ["worth telling", "ours"]);
    assert_eq!(logged(Format::Json, Level::Error, act), "");
}

#[test]
fn fields_of_spans_are_in_each_line_and_the_innermost_wins() {
    let lines = logged(Format::Json, Level::Info, |_| {
        let outer = info_span!(
            "outer",
            agent = "node-1",
            phase = "a",
            late = tracing::field::Empty
        );
        let _outer = outer.enter();
        let _inner = info_span!("inner", phase = "b").entered();
        outer.record("late", 7);
        info!(request = 1, "done");
    });
    let line = &objects(&lines)[0];
    assert_eq!(line["agent"], "node-1");
    assert_eq!(line["phase"], "b");
    assert_eq!(line["late"], 7);
    assert_eq!(line["request"], 1);
}

#[test]
fn a_field_cannot_take_the_place_of_ours() {
    let lines = logged(Format::Json, Level::Info, |_| {
        info!(time = "never", level = "low", target_ = 1, "m");
    });
    let line = &objects(&lines)[0];
    assert_eq!(line["level"], "info");
    assert_eq!(line["level_"], "low");
    assert_eq!(line["time_"], "never");
    assert_eq!(line["message"], "m");
}

#[test]
fn an_error_is_told_with_its_sources() {
    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] std::io::Error);
    let lines = logged(Format::Json, Level::Info, |_| {
        let error = Outer(std::io::Error::other("inner"));
        info!(error = &error as &dyn std::error::Error, "failed");
    });
    assert_eq!(objects(&lines)[0]["error"], "outer: inner");
}

#[test]
fn a_long_value_is_cut() {
    let lines = logged(Format::Json, Level::Info, |_| {
        info!(value = "ä".repeat(100_000), "{}", "x".repeat(100_000))
    });
    assert!(lines.len() < 10_000, "{}", lines.len());
    assert_eq!(objects(&lines).len(), 1);
}

#[test]
fn options_have_defaults_and_refuse_other_words() {
    let parse = |text: &str| {
        crate::config::File::from_text("arx.toml", text).and_then(|file| file.parse::<Options>())
    };
    assert_eq!(
        parse(""),
        Ok(Options {
            format: Format::Json,
            level: Level::Info
        })
    );
    assert_eq!(
        parse("format = \"text\"\nlevel = \"debug\""),
        Ok(Options {
            format: Format::Text,
            level: Level::Debug
        })
    );
    let error = parse("level = \"debgu\"").expect_err("no such level");
    assert_eq!(
        error.to_string(),
        "arx.toml:1: level: unknown value \"debgu\"; did you mean \"debug\"?"
    );
}

proptest! {
    #[test]
    fn no_value_can_forge_a_line(message: String, value in "\\PC{0,20}|[\n\r\u{1b}\"\\\\= a]{0,20}") {
        let json = logged(Format::Json, Level::Info, |_| info!(value = value.as_str(), "{message}"));
        let objects = objects(&json);
        prop_assert_eq!(objects.len(), 1);
        prop_assert_eq!(&objects[0]["message"], &Value::from(message.as_str()));
        prop_assert_eq!(&objects[0]["value"], &Value::from(value.as_str()));
        let text = logged(Format::Text, Level::Info, |_| info!(value = value.as_str(), "{message}"));
        prop_assert!(text.ends_with('\n') && !text[..text.len() - 1].contains(|c: char| c.is_control()), "{text:?}");
    }
}

#[test]
fn what_the_other_end_does_wrong_in_http2_is_heard_by_whoever_looks_for_a_fault_alone() {
    let act = |_: &Log| warn!(target: "h2::proto::streams::recv", "remotely-reset streams");
    for level in [Level::Error, Level::Warn, Level::Info] {
        assert_eq!(logged(Format::Json, level, act), "");
    }
    assert_ne!(logged(Format::Json, Level::Debug, act), "");
}
