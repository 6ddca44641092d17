//! A rotation as text and as JSON.

use arx_proto::admin::v1 as wire;
use serde_json::{Value, json};

use super::unconfirmed;
use crate::output::{Style, hex, instant_json, one_line, span};

/// The phases on the way forward.
const PHASES: [&str; 5] = ["prepare", "distribute", "activate", "reissue", "retire"];

/// Width of a bar.
const BAR: u64 = 20;

pub(super) fn has_ended(rotation: &wire::Rotation) -> bool {
    matches!(rotation.phase.as_str(), "done" | "aborted")
}

/// Whether the root that leaves must not be trusted any more.
pub(super) fn is_distrust(rotation: &wire::Rotation) -> bool {
    rotation.kind == "distrust"
}

/// Where lines have to fit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    pub(super) lines: usize,
    pub(super) width: usize,
}

impl Room {
    pub(super) const UNBOUNDED: Self = Self {
        lines: usize::MAX,
        width: usize::MAX,
    };
}

/// Everything about it.
pub(super) fn to_text(rotation: &wire::Rotation, style: Style) -> String {
    let mut lines = head(rotation, style);
    lines.push(String::new());
    lines.extend(bars(rotation, style));
    lines.extend(waited_for(rotation, style, Room::UNBOUNDED));
    lines.extend(unconfirmed::left_out(
        &rotation.denied,
        rotation.denied_total,
        style,
    ));
    lines.extend(choices(rotation, style));
    join(&lines)
}

/// Lines that are lines, whatever a proxy, a node or an operator has put into them.
pub(crate) fn join(lines: &[String]) -> String {
    lines.iter().map(|line| one_line(line) + "\n").collect()
}

/// What it is, and what happens now.
pub(super) fn head(rotation: &wire::Rotation, style: Style) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = |name: &str, value: &str| lines.push(format!("{name:<10}{value}"));
    let mut what = format!("{} of {}", rotation.id, rotation.trust_domain);
    what.push_str(&format!(
        ", started {}{}",
        style.time(rotation.started_unix_ms),
        by_and_why(&rotation.started_by, &rotation.reason)
    ));
    let kind = if is_distrust(rotation) {
        "distrust"
    } else {
        "rotation"
    };
    line(kind, &what);
    line("from", &root(rotation.from.as_ref(), style));
    line("to", &root(rotation.to.as_ref(), style));
    if rotation.bundle_number != 0 {
        let sequence = format!(
            "sequence {}.{}",
            rotation.bundle_epoch, rotation.bundle_number
        );
        line("bundle", &sequence);
    }
    for forced in &rotation.forced {
        let forced = format!(
            "{} {}{}; left behind: {}",
            forced.phase,
            style.time(forced.unix_ms),
            by_and_why(&forced.by, &forced.reason),
            forced.left_behind
        );
        line("forced", &forced);
    }
    if rotation.aborting || rotation.phase == "aborted" {
        let why = match rotation.abort_reason.as_str() {
            "" => String::new(),
            why => format!(": {why}"),
        };
        line("aborted", &format!("back to the root it came from{why}"));
    }
    if rotation.ended_unix_ms != 0 {
        let took = rotation.ended_unix_ms.abs_diff(rotation.started_unix_ms);
        let ended = format!(
            "{}, took {}; `arx rotate report {}` has the evidence",
            style.time(rotation.ended_unix_ms),
            span(took),
            rotation.id
        );
        line("ended", &ended);
    }
    let now = match (rotation.message.as_str(), rotation.held) {
        ("", true) => "held",
        ("", false) => &rotation.phase,
        (message, _) => message,
    };
    line("now", now);
    lines
}

fn by_and_why(by: &str, why: &str) -> String {
    let by = match by {
        "" => String::new(),
        // Of a distrust, that is why.
        by if by == why => String::new(),
        by => format!(" by {by}"),
    };
    match why {
        "" => by,
        why => format!("{by}: {why}"),
    }
}

pub(crate) fn root(root: Option<&wire::RotationRoot>, style: Style) -> String {
    root.map_or_else(
        || "not made yet".to_owned(),
        |root| {
            format!(
                "{} {}, ends {}",
                hex(&root.key_id),
                root.subject,
                style.time(root.not_after_unix_ms)
            )
        },
    )
}

/// One line for each phase that was entered, and for each to come.
pub(super) fn bars(rotation: &wire::Rotation, style: Style) -> Vec<String> {
    let mut lines = Vec::new();
    let mut bar = |name: &str, filled: u64, tale: &str| {
        let (full, rest) = (filled.min(BAR), BAR - filled.min(BAR));
        let repeat = |what: &str, times| what.repeat(usize::try_from(times).unwrap_or(0));
        let line = format!(
            "{name:<16} [{}{}] {tale}",
            repeat("#", full),
            repeat(".", rest)
        );
        lines.push(line.trim_end().to_owned());
    };
    let ended = has_ended(rotation);
    let here = PHASES.iter().position(|phase| *phase == rotation.phase);
    let left = rotation.phases.iter().filter(|entered| {
        let known = entered.phase == "held" || PHASES.contains(&entered.phase.as_str());
        known && (ended || entered.ended_unix_ms != 0)
    });
    for entered in left {
        let took = entered.ended_unix_ms.abs_diff(entered.started_unix_ms);
        let mut tale = if entered.ended_unix_ms == 0 {
            "left".to_owned()
        } else {
            format!("took {}", span(took))
        };
        if entered.denied > 0 {
            tale.push_str(&format!(", left out {} denied", entered.denied));
        }
        bar(&named(&entered.phase, entered.aborting), BAR, &tale);
    }
    if rotation.phases.is_empty() && !rotation.aborting {
        // Of an authority that does not tell the times.
        for phase in PHASES.iter().take(here.unwrap_or(0)) {
            bar(phase, BAR, "");
        }
    }
    if ended {
        return lines;
    }
    if rotation.held {
        // What comes is for the operator to say.
        bar("held", 0, &progress(rotation, style));
        return lines;
    }
    let name = named(&rotation.phase, rotation.aborting);
    bar(&name, filled(rotation), &progress(rotation, style));
    if let Some(here) = here.filter(|_| !rotation.aborting) {
        for phase in PHASES.iter().skip(here + 1) {
            bar(phase, 0, "");
        }
    }
    lines
}

fn named(phase: &str, aborting: bool) -> String {
    let back = if aborting { ", back" } else { "" };
    format!("{phase}{back}")
}

/// A bar is full only when nobody is missing.
fn filled(rotation: &wire::Rotation) -> u64 {
    let all = rotation
        .confirmed
        .saturating_add(rotation.unconfirmed_total);
    match rotation.confirmed.saturating_mul(BAR).checked_div(all) {
        Some(filled) if rotation.unconfirmed_total > 0 => filled.min(BAR - 1),
        Some(filled) => filled,
        None => 0,
    }
}

/// "118 of 120 confirmed, for 2m".
pub(super) fn progress(rotation: &wire::Rotation, style: Style) -> String {
    let counted = counted(rotation);
    let mut parts = Vec::from_iter(counted);
    if rotation.phase_started_unix_ms != 0 {
        let running = style.now_ms.abs_diff(rotation.phase_started_unix_ms);
        parts.push(format!("for {}", whole_seconds(running)));
    }
    let mut progress = parts.join(", ");
    if rotation.gate_opens_unix_ms != 0 {
        let opens = style.time(rotation.gate_opens_unix_ms);
        progress.push_str(&format!("; goes on {opens} if nothing comes between"));
    }
    progress
}

/// A span without fractions: "0s", not "14ms".
fn whole_seconds(millis: u64) -> String {
    match millis / 1000 {
        0 => "0s".to_owned(),
        seconds => span(seconds * 1000),
    }
}

/// "1 certificate", "2 certificates".
pub(crate) fn certificates(count: u64) -> String {
    format!("{count} certificate{}", if count == 1 { "" } else { "s" })
}

/// "118 of 120 confirmed", where there is something to count.
pub(super) fn counted(rotation: &wire::Rotation) -> Option<String> {
    let (done, open) = (rotation.confirmed, rotation.unconfirmed_total);
    let all = done.saturating_add(open);
    (all > 0).then(|| match rotation.phase.as_str() {
        // What is done are certificates, and what is open are those who hold one.
        "reissue" => format!(
            "{} under the new root, {open} waited for",
            certificates(done)
        ),
        _ => format!("{done} of {all} confirmed"),
    })
}

/// Whoever is waited for, as many as there is room for.
pub(super) fn waited_for(rotation: &wire::Rotation, style: Style, room: Room) -> Vec<String> {
    let total = rotation.unconfirmed_total;
    if total == 0 || room.lines == 0 {
        return Vec::new();
    }
    let first = rotation.unconfirmed.first();
    let first = first.map(|first| unconfirmed::entry(first, style, room.width));
    // The line of the list, the one before it and the one after the entry.
    if let Some(first) = first
        && first.len().saturating_add(3) > room.lines
    {
        return most_blocking(first, total, room);
    }
    let list = hex(&rotation.unconfirmed_digest);
    let mut lines = vec![
        String::new(),
        format!("waits for {total}, most blocking first; list {list}"),
    ];
    let mut shown: u64 = 0;
    for one in &rotation.unconfirmed {
        let entry = unconfirmed::entry(one, style, room.width);
        // The last line belongs to those for whom there is no room.
        if lines.len() + entry.len() >= room.lines {
            break;
        }
        lines.extend(entry);
        shown += 1;
    }
    if shown < total {
        lines.push(format!(
            "and {} more; `arx rotate status -o json` lists them",
            total - shown
        ));
    }
    lines
}

/// Where there is room for no more than the first of them, that one, and of it who it is first.
fn most_blocking(mut first: Vec<String>, total: u64, room: Room) -> Vec<String> {
    if total > 1
        && let Some(who) = first.first_mut()
    {
        who.push_str(&format!("; and {} more", total - 1));
    }
    first.truncate(room.lines);
    first
}

/// What the operator may do now.
pub(super) fn choices(rotation: &wire::Rotation, style: Style) -> Vec<String> {
    let text = if has_ended(rotation) {
        return Vec::new();
    } else if rotation.held {
        "`arx rotate continue` goes on, `arx rotate abort` goes back"
    } else if is_distrust(rotation) {
        // It goes on by itself, and never back.
        return Vec::new();
    } else if rotation.unconfirmed_total > 0 && is_overdue(rotation, style) {
        "it waits; `arx rotate continue --force --reason TEXT` leaves them behind, `arx rotate abort` goes back"
    } else {
        return Vec::new();
    };
    vec![String::new(), text.to_owned()]
}

/// Whether nothing but those who are waited for keeps it.
fn is_overdue(rotation: &wire::Rotation, style: Style) -> bool {
    let window = i64::try_from(rotation.window_ms).unwrap_or(i64::MAX);
    let renewed_by = rotation.phase_started_unix_ms.saturating_add(window);
    match rotation.gate.as_str() {
        "confirmations" => true,
        // Before that they are simply not due.
        "leaves" => style.now_ms > renewed_by,
        _ => false,
    }
}

pub(super) fn to_json(rotation: &wire::Rotation) -> Value {
    // No rotation at all has the same names with nothing in them.
    let text_or_null = |text: &str| match text {
        "" => Value::Null,
        text => text.into(),
    };
    let phases: Vec<_> = rotation
        .phases
        .iter()
        .map(|entered| {
            json!({
                "phase": entered.phase, "aborting": entered.aborting,
                "started": instant_json(entered.started_unix_ms), "ended": instant_json(entered.ended_unix_ms),
                "denied": entered.denied,
            })
        })
        .collect();
    let forced: Vec<_> = rotation
        .forced
        .iter()
        .map(|forced| {
            json!({
                "phase": forced.phase, "at": instant_json(forced.unix_ms), "reason": forced.reason, "by": forced.by,
                "left_behind": forced.left_behind, "digest": hex(&forced.digest),
            })
        })
        .collect();
    let unconfirmed: Vec<_> = rotation
        .unconfirmed
        .iter()
        .map(unconfirmed::to_json)
        .collect();
    let denied: Vec<_> = rotation.denied.iter().map(unconfirmed::to_json).collect();
    json!({
        "id": text_or_null(&rotation.id), "kind": text_or_null(&rotation.kind), "phase": text_or_null(&rotation.phase),
        "aborting": rotation.aborting, "held": rotation.held, "trust_domain": text_or_null(&rotation.trust_domain),
        "from": root_json(rotation.from.as_ref()), "to": root_json(rotation.to.as_ref()),
        "bundle_sequence": format!("{}.{}", rotation.bundle_epoch, rotation.bundle_number),
        "started": instant_json(rotation.started_unix_ms), "phase_started": instant_json(rotation.phase_started_unix_ms),
        "ended": instant_json(rotation.ended_unix_ms),
        "confirmed": rotation.confirmed, "unconfirmed_total": rotation.unconfirmed_total,
        "unconfirmed": unconfirmed, "unconfirmed_digest": hex(&rotation.unconfirmed_digest),
        "denied": denied, "denied_total": rotation.denied_total,
        "gate": text_or_null(&rotation.gate), "gate_opens": instant_json(rotation.gate_opens_unix_ms),
        "forced": forced, "phases": phases,
        "window_ms": rotation.window_ms, "wait_unconfirmed_ms": rotation.wait_unconfirmed_ms,
        "without_successor": rotation.without_successor,
        "cap_ms": (rotation.cap_ms != 0).then_some(rotation.cap_ms),
        "message": rotation.message, "started_by": rotation.started_by, "reason": rotation.reason,
        "abort_reason": rotation.abort_reason,
    })
}

pub(crate) fn root_json(root: Option<&wire::RotationRoot>) -> Value {
    root.map_or(Value::Null, |root| {
        json!({
            "subject": root.subject, "key_id": hex(&root.key_id),
            "not_after": instant_json(root.not_after_unix_ms),
        })
    })
}

#[cfg(test)]
mod tests;
