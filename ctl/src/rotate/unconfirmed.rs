//! Whoever keeps a gate shut: who it is, why, and what to do about it.

use arx_proto::admin::v1 as wire;
use serde_json::{Value, json};

use crate::output::{Style, instant_json};

/// Characters of a proxy's own words that are shown to people; JSON has them all.
const WORDS: usize = 300;

/// Identities that are named on a line.
const NAMED: usize = 3;

/// What tells one of them from another.
pub(super) type Key = (String, String, String);

pub(super) fn key(one: &wire::Unconfirmed) -> Key {
    (one.node.clone(), one.process.clone(), one.resource.clone())
}

/// "c1/n7 pid 812 (ROOTCA)"; an agent is named by its node alone.
pub(super) fn who(one: &wire::Unconfirmed) -> String {
    let mut who = one.node.clone();
    if !one.process.is_empty() {
        who.push_str(&format!(" {}", one.process));
    }
    if !one.resource.is_empty() {
        who.push_str(&format!(" ({})", one.resource));
    }
    who
}

/// "c1/n7: agent-away, since 5m ago"
pub(crate) fn who_and_why(one: &wire::Unconfirmed, style: Style) -> String {
    let mut line = format!("{}: {}", who(one), one.reason);
    if one.since_unix_ms != 0 {
        line.push_str(&format!(", since {}", style.time(one.since_unix_ms)));
    }
    line
}

/// Who it is and why on the first line, then what it holds, what it said, what to do:
/// that part in lines of at most `width` characters.
pub(super) fn entry(one: &wire::Unconfirmed, style: Style, width: usize) -> Vec<String> {
    let mut lines = vec![who_and_why(one, style)];
    if let Some(held) = held(one, style) {
        lines.push(format!("   holds {held}"));
    }
    if !one.detail.is_empty() {
        let words: String = one.detail.chars().take(WORDS).collect();
        let cut = if words.len() < one.detail.len() {
            "..."
        } else {
            ""
        };
        // Of nobody else they are a proxy's own words.
        let said = match one.reason.as_str() {
            "refused" => "it said: ",
            _ => "",
        };
        lines.push(format!("   {said}{words}{cut}"));
    }
    wrapped(&one.advice, width, &mut lines);
    lines
}

/// Denied holders who have not followed: nobody waits for them.
pub(crate) fn left_out(denied: &[wire::Unconfirmed], total: u64, style: Style) -> Vec<String> {
    let shown = u64::try_from(denied.len()).unwrap_or(u64::MAX);
    let total = total.max(shown);
    if total == 0 {
        return Vec::new();
    }
    let mut lines = vec![
        String::new(),
        format!("left out, because denied: {total}; `arx allow` ends that"),
    ];
    for one in denied {
        lines.push(who_and_why(one, style));
        if let Some(held) = held(one, style) {
            lines.push(format!("   holds {held}"));
        }
    }
    if shown < total {
        lines.push(format!("and {} more", total - shown));
    }
    lines
}

fn wrapped(advice: &str, width: usize, lines: &mut Vec<String>) {
    let mut line = "   ->".to_owned();
    for word in advice.split_whitespace() {
        let length = line.chars().count() + 1 + word.chars().count();
        if length > width && line.trim() != "->" && !line.trim().is_empty() {
            lines.push(std::mem::replace(&mut line, "     ".to_owned()));
        }
        line.push(' ');
        line.push_str(word);
    }
    if !advice.is_empty() {
        lines.push(line);
    }
}

fn held(one: &wire::Unconfirmed, style: Style) -> Option<String> {
    let named: Vec<_> = one
        .workloads
        .iter()
        .take(NAMED)
        .map(String::as_str)
        .collect();
    let count = usize::try_from(one.workload_count).unwrap_or(usize::MAX);
    let rest = count.max(one.workloads.len()) - named.len();
    let mut held = match (named.is_empty(), rest) {
        (true, 0) => return None,
        (true, rest) => format!("{rest} certificates"),
        (false, 0) => named.join(", "),
        (false, rest) => format!("{} and {rest} more", named.join(", ")),
    };
    if one.last_certificate_ends_unix_ms != 0 {
        held.push_str(&format!(
            "; the last ends {}",
            style.time(one.last_certificate_ends_unix_ms)
        ));
    }
    Some(held)
}

pub(crate) fn to_json(one: &wire::Unconfirmed) -> Value {
    json!({
        "node": one.node, "process": one.process, "resource": one.resource, "reason": one.reason,
        "since": instant_json(one.since_unix_ms), "workloads": one.workloads, "workload_count": one.workload_count,
        "last_certificate_ends": instant_json(one.last_certificate_ends_unix_ms), "detail": one.detail, "advice": one.advice,
    })
}
