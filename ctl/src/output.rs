//! What commands print: text for people, JSON for programs; times, spans and columns.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// What a command has to say.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Output {
    pub(crate) body: Vec<u8>,
    /// For people, on standard error: beside a body that is for a file.
    pub(crate) note: String,
    pub(crate) exit_code: u8,
}

impl Output {
    /// For people. A node or a token may have called itself anything: see [`escaped`].
    pub(crate) fn text(text: &str) -> Self {
        Self::raw(escaped(text, true))
    }

    /// For programs, as it is.
    pub(crate) fn raw(body: impl Into<Vec<u8>>) -> Self {
        Self {
            body: body.into(),
            note: String::new(),
            exit_code: 0,
        }
    }

    pub(crate) fn json(value: &Value) -> Self {
        Self::raw(safe_json(&format!("{value:#}\n")))
    }

    pub(crate) fn well_if(mut self, well: bool) -> Self {
        self.exit_code = u8::from(!well);
        self
    }
}

/// How an answer is to be told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    /// One JSON value instead of text.
    pub(crate) json: bool,
    /// Times also by the clock.
    pub(crate) wide: bool,
    /// Relative times count from here.
    pub(crate) now_ms: i64,
}

impl Style {
    /// A time for people: "in 43m", or "in 43m, 2026-11-26T01:10:32Z".
    pub(crate) fn time(&self, unix_ms: i64) -> String {
        let relative = relative(unix_ms, self.now_ms);
        match instant(unix_ms) {
            absolute if self.wide && !absolute.is_empty() => format!("{relative}, {absolute}"),
            _ => relative,
        }
    }
}

/// One line of text, whatever others have put into it: see [`escaped`].
pub(crate) fn one_line(text: &str) -> String {
    escaped(text, false)
}

/// Text from outside as it may be shown: what would move a cursor, begin another line or turn
/// the direction of reading round stands there as an escape.
pub(crate) fn escaped(text: &str, lines: bool) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' if lines => shown.push(c),
            c if misleads(c) && c.is_ascii() => shown.extend(c.escape_default()),
            c if misleads(c) => shown.extend(c.escape_unicode()),
            c => shown.push(c),
        }
    }
    shown
}

/// The same JSON without such characters, of which it allows most in a text.
pub(crate) fn safe_json(json: &str) -> String {
    let mut safe = String::with_capacity(json.len());
    for c in json.chars() {
        if misleads(c) && c != '\n' {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _infallible = write!(safe, "\\u{unit:04x}");
            }
        } else {
            safe.push(c);
        }
    }
    safe
}

/// Whether a terminal obeys `c`, or shows with it something else than what is there: control
/// characters, marks of direction (Unicode UAX #9), what has no width, and tags.
fn misleads(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}'
            | '\u{61c}'
            | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}')
}

/// "1 agent", "2 agents".
pub(crate) fn count(number: impl Into<u64>, what: &str) -> String {
    match number.into() {
        1 => format!("1 {what}"),
        number => format!("{number} {what}s"),
    }
}

/// The one clock of this program.
#[expect(
    clippy::disallowed_methods,
    reason = "a command line that is over in a moment needs no clock to hand around"
)]
pub(crate) fn now() -> SystemTime {
    SystemTime::now()
}

/// RFC 3339 in UTC; empty for 0, which the protocol means as "none".
pub(crate) fn instant(unix_ms: i64) -> String {
    if unix_ms == 0 {
        return String::new();
    }
    let seconds = OffsetDateTime::from_unix_timestamp(unix_ms.div_euclid(1000));
    seconds
        .ok()
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_default()
}

/// The same as JSON: a text, or null.
pub(crate) fn instant_json(unix_ms: i64) -> Value {
    match instant(unix_ms) {
        text if text.is_empty() => Value::Null,
        text => text.into(),
    }
}

pub(crate) fn unix_ms(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_millis()).unwrap_or(i64::MAX),
        Err(before) => {
            i64::try_from(before.duration().as_millis()).map_or(i64::MIN, |millis| -millis)
        }
    }
}

/// "in 43m", "2h ago", "now"; "-" for 0.
pub(crate) fn relative(unix_ms: i64, now_ms: i64) -> String {
    match unix_ms {
        0 => "-".to_owned(),
        _ if unix_ms >= now_ms + 1000 => format!("in {}", span(unix_ms.abs_diff(now_ms))),
        _ if unix_ms <= now_ms - 1000 => format!("{} ago", span(unix_ms.abs_diff(now_ms))),
        _ => "now".to_owned(),
    }
}

/// Milliseconds in the largest two units that say something.
pub(crate) fn span(millis: u64) -> String {
    let seconds = millis / 1000;
    let units = [(86_400, "d"), (3600, "h"), (60, "m"), (1, "s")];
    let mut left = seconds;
    let mut parts = Vec::new();
    for (length, unit) in units {
        let count = left / length;
        left %= length;
        if count > 0 {
            parts.push(format!("{count}{unit}"));
        } else if !parts.is_empty() {
            break;
        }
        // Hours beside 400 days say nothing.
        if parts.len() == 2 || (parts.len() == 1 && count >= 100) {
            break;
        }
    }
    if parts.is_empty() {
        format!("{millis}ms")
    } else {
        parts.join("")
    }
}

/// 100 years, which is what the authority takes for a duration at most.
const LONGEST_SPAN_MS: u64 = 36_500 * 86_400_000;

/// `1h30m`, `90s`, `500ms`, `2d`.
pub(crate) fn parse_span(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no duration: write it like 90s, 15m, 1h30m or 7d");
    let mut rest = text;
    let mut millis: u64 = 0;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit())
            .filter(|at| *at > 0)
            .ok_or_else(wrong)?;
        let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = &rest[digits..];
        let unit = rest
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(rest.len());
        let length = match &rest[..unit] {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(wrong()),
        };
        millis = number
            .checked_mul(length)
            .and_then(|part| millis.checked_add(part))
            .ok_or_else(wrong)?;
        rest = &rest[unit..];
    }
    if text.is_empty() {
        Err(wrong())
    } else if millis > LONGEST_SPAN_MS {
        Err(format!("{text:?} is longer than a duration may be, 36500d"))
    } else {
        Ok(Duration::from_millis(millis))
    }
}

/// The argument of `--limit`.
pub(crate) fn limit(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err("say how many, at least 1".to_owned()),
    }
}

/// A serial number as it is given: hex, as certificates are shown with it.
pub(crate) fn serial(text: &str) -> Result<String, String> {
    let digits = text.replace(':', "");
    let hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    if !hex || digits.len() > 40 || digits.trim_start_matches('0').is_empty() {
        return Err(
            "a serial number is written in hex, is not 0 and has at most 20 bytes: take it from `arx svid list` or `arx inspect`"
                .to_owned(),
        );
    }
    Ok(digits)
}

/// A SPIFFE id, or, where several are asked for, the beginning of some, ending in `/`.
pub(crate) fn identity(text: &str) -> Result<String, String> {
    arx_identity::SpiffeId::parse(text.strip_suffix('/').unwrap_or(text))
        .map(|_| text.to_owned())
        .map_err(|error| {
            format!("it is no SPIFFE id: {error}; write it as spiffe://example.org/ns/shop/sa/web, or end it with / to mean all that begin so")
        })
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            let _infallible = write!(text, "{byte:02x}");
            text
        })
}

/// Lines with aligned columns, the first of them a heading.
pub(crate) fn columns(heading: &[&str], rows: &[Vec<String>]) -> String {
    // A cell must not look like a line of its own, and is as wide as it is shown.
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|row| row.iter().map(|cell| one_line(cell)).collect())
        .collect();
    let widths: Vec<usize> = (0..heading.len())
        .map(|column| {
            let cells = rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count());
            cells.chain([heading[column].len()]).max().unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    let heading: Vec<String> = heading.iter().map(|cell| (*cell).to_owned()).collect();
    for row in std::iter::once(&heading).chain(&rows) {
        let cells: Vec<_> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_in_the_units_that_say_something() {
        let told = [
            (400, "400ms"),
            (59_000, "59s"),
            (2_580_000, "43m"),
            (5_400_000, "1h30m"),
            (90_000_000, "1d1h"),
            (315_360_000_000, "3650d"),
        ];
        for (millis, text) in told {
            assert_eq!(span(millis), text);
        }
        assert_eq!(relative(10_000, 70_000), "1m ago");
        assert_eq!(relative(70_000, 10_000), "in 1m");
        assert_eq!(relative(0, 10_000), "-");
        assert_eq!(instant(1_795_652_852_063), "2026-11-26T00:27:32Z");
    }

    #[test]
    fn durations_are_read_as_they_are_written_in_configurations() {
        assert_eq!(parse_span("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(parse_span("500ms"), Ok(Duration::from_millis(500)));
        assert!(parse_span("36500d").is_ok());
        for wrong in [
            "36500d1ms",
            "99999d",
            "",
            "h",
            "10",
            "10x",
            "1h30",
            "99999999999999999999d",
        ] {
            assert!(parse_span(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn times_are_also_told_by_the_clock_where_that_is_asked_for() {
        let style = |wide| Style {
            json: false,
            wide,
            now_ms: 1_795_652_852_063,
        };
        let end = 1_795_652_852_063 + 2_580_000;
        assert_eq!(style(false).time(end), "in 43m");
        assert_eq!(style(true).time(end), "in 43m, 2026-11-26T01:10:32Z");
        assert_eq!(style(true).time(0), "-");
    }

    #[test]
    fn what_others_called_themselves_does_not_reach_the_terminal_as_commands() {
        let rows = vec![vec!["x\u{1b}[2J\nok     all is well".to_owned()]];
        let output = Output::text(&columns(&["SOFTWARE"], &rows));
        assert_eq!(
            String::from_utf8_lossy(&output.body),
            "SOFTWARE\nx\\u{1b}[2J\\nok     all is well\n"
        );
    }

    #[test]
    fn a_line_stays_one_line_and_reads_in_one_direction() {
        assert_eq!(
            one_line("a\u{1b}[2J\nb\u{9b}c\u{202e}d é"),
            "a\\u{1b}[2J\\nb\\u{9b}c\\u{202e}d é"
        );
        let output = Output::text("one\n\u{202e}owt\u{200b}\n");
        assert_eq!(output.body, b"one\n\\u{202e}owt\\u{200b}\n");
    }

    #[test]
    fn json_says_the_same_without_what_a_terminal_obeys() {
        let value = serde_json::json!({ "detail": "\u{1b}[2J\n\u{9b}2J\u{7f}é\u{202e}\u{e0041}" });
        let output = Output::json(&value);
        let text = String::from_utf8(output.body).expect("text");
        assert!(!text.chars().any(|c| misleads(c) && c != '\n'), "{text:?}");
        let read: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(read, value);
    }

    #[test]
    fn one_of_a_kind_is_told_without_an_s() {
        assert_eq!(count(1_u64, "agent"), "1 agent");
        assert_eq!(count(0_u32, "segment"), "0 segments");
        assert_eq!(count(12_u64, "certificate"), "12 certificates");
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = vec![
            vec!["a".to_owned(), "long cell".to_owned()],
            vec!["bcd".to_owned(), "x".to_owned()],
        ];
        assert_eq!(
            columns(&["n", "what"], &rows),
            "n    what\na    long cell\nbcd  x\n"
        );
    }
}
