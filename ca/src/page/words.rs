//! Times, spans and numbers as people read them.

use std::fmt::Display;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arx_daemon::clock::rfc3339;

use super::html::{Html, Url, put};

/// `3d 4h`, `12m 5s`, `4s`.
pub(super) fn span(millis: u64) -> String {
    let seconds = millis / 1000;
    let units = [(86_400, "d"), (3600, "h"), (60, "m"), (1, "s")];
    let first = units.iter().position(|(size, _)| seconds >= *size);
    let Some(first) = first else {
        return "0s".to_owned();
    };
    let (size, unit) = units[first];
    let mut span = format!("{}{unit}", seconds / size);
    if let Some((smaller, unit)) = units.get(first + 1)
        && seconds % size / smaller > 0
    {
        span.push_str(&format!(" {}{unit}", seconds % size / smaller));
    }
    span
}

/// `in 3d 4h`, `12m ago`.
pub(super) fn distance(then_ms: i64, now_ms: i64) -> String {
    let apart = span(then_ms.abs_diff(now_ms));
    match then_ms.cmp(&now_ms) {
        _ if apart == "0s" => "now".to_owned(),
        std::cmp::Ordering::Less => format!("{apart} ago"),
        _ => format!("in {apart}"),
    }
}

pub(super) fn time(unix_ms: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(unix_ms).unwrap_or_default())
}

/// `2026-11-26 08:02:11`, in UTC.
pub(super) fn stamp(unix_ms: i64) -> String {
    let whole = rfc3339(time(unix_ms));
    whole.get(..19).unwrap_or(&whole).replace('T', " ")
}

/// `1,234,567`.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// `1 certificate`, `2 certificates`.
pub(super) fn counted(number: u64, one: &str, many: &str) -> String {
    format!(
        "{} {}",
        grouped(number),
        if number == 1 { one } else { many }
    )
}

/// The beginning of something long that is told apart by its beginning.
pub(super) fn short(hex: &str) -> String {
    match hex.get(..12) {
        Some(begin) if hex.len() > 12 => format!("{begin}…"),
        _ => hex.to_owned(),
    }
}

impl Html {
    /// How far away a moment is, and the moment itself for whoever points at it; a dash for 0.
    pub(super) fn when(&mut self, unix_ms: i64, now_ms: i64) {
        self.moment(unix_ms, distance(unix_ms, now_ms));
    }

    /// The moment itself; a dash for 0.
    pub(super) fn at(&mut self, unix_ms: i64) {
        self.moment(unix_ms, stamp(unix_ms));
    }

    fn moment(&mut self, unix_ms: i64, shown: impl Display) {
        if unix_ms == 0 {
            self.text("–");
            return;
        }
        put!(self, "<time datetime=\"" {rfc3339(time(unix_ms))} "\" title=\"" {stamp(unix_ms)} " UTC\">" {shown} "</time>");
    }

    /// A SPIFFE id, which may be broken behind each of its slashes.
    pub(super) fn identity(&mut self, id: &str) {
        self.raw("<span class=\"identity\">");
        for part in id.split_inclusive('/') {
            put!(self, {part} "<wbr>");
        }
        self.raw("</span>");
    }

    /// The same; leads to its certificates.
    pub(super) fn certificates_of(&mut self, id: &str) {
        put!(self, "<a href=\"/certificates?q=" {Url(id)} "\">");
        self.identity(id);
        self.raw("</a>");
    }

    /// A key or a serial number, shortened; all of it for whoever points at it.
    pub(super) fn id(&mut self, hex: &str) {
        put!(self, "<code title=\"" {hex} "\">" {short(hex)} "</code>");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_their_two_largest_units() {
        for (seconds, expected) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (3_661, "1h 1m"),
            (86_400 * 3 + 3_600 * 4 + 59, "3d 4h"),
            (3_600 + 5, "1h"),
        ] {
            assert_eq!(span(seconds * 1000 + 999), expected);
        }
        assert_eq!(distance(0, 65_000), "1m 5s ago");
        assert_eq!(distance(65_000, 0), "in 1m 5s");
        assert_eq!(distance(100, 0), "now");
    }

    #[test]
    fn numbers_are_grouped_by_thousands() {
        for (number, expected) in [(7, "7"), (1234, "1,234"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), expected);
        }
        assert_eq!(counted(1, "agent", "agents"), "1 agent");
        assert_eq!(counted(0, "agent", "agents"), "0 agents");
    }
}
