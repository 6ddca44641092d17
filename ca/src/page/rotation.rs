//! The rotation that is under way, or was last: where it is, who is waited for, and why.

use arx_proto::admin::v1 as wire;

use super::bar::Life;
use super::frame::{Tone, document};
use super::html::{Html, Url, put};
use super::nodes;
use super::query::Query;
use super::rail::has_ended;
use super::words::{counted, distance, grouped, span};
use super::{Look, Missing};
use crate::admin::rotation;
use crate::hex;
use crate::node_api::unix_ms;
use crate::state::Rotation;

/// Of those who are waited for, as many as are shown.
const SHOWN: u32 = 200;
/// Identities that are named of one of them.
const NAMED: usize = 3;

pub(super) async fn page(look: &Look<'_>, query: &Query) -> Result<String, Missing> {
    let id = query.get("id");
    let view = rotation::named(look.ca, id).await;
    let view = view.map_err(|refusal| Missing(refusal.to_string()))?;
    let history = rotation::all(look.ca).await.unwrap_or_default();
    let Some(view) = view else {
        return Ok(document(look, "Rotation", "Rotation", |h| {
            h.raw("<h1>Rotation</h1>\n<p id=\"phase\" role=\"status\">There has been none.</p>\n<p><code>arx rotate root --dry-run</code> shows what one would do, <code>arx rotate root</code> begins it.</p>\n");
        }));
    };
    let shown = rotation::rotation(look.ca, &view, SHOWN);
    let kind = match shown.kind.as_str() {
        "distrust" => "Distrust",
        _ => "Rotation",
    };
    let title = format!("{kind} {}: {}", shown.id, shown.phase);
    Ok(document(look, &title, "Rotation", |h| {
        head(h, &shown, look);
        if !has_ended(&shown) {
            gate(h, &shown, look.now_ms);
            waited_for(h, &shown, look.now_ms);
            left_out(h, &shown, look.now_ms);
            nodes::section(h, look, &view);
        }
        roots(h, &shown, look);
        forced(h, &shown, look.now_ms);
        passed_without(h, &view.rotation, look.now_ms);
        let history: Vec<_> = history
            .iter()
            .map(|one| rotation::stored(look.ca, one))
            .collect();
        past(h, &history, &shown.id);
    }))
}

fn head(h: &mut Html, rotation: &wire::Rotation, look: &Look<'_>) {
    put!(h, "<h1>Rotation " {&rotation.id} "</h1>\n");
    // Nothing in here changes with time alone: it is read aloud when it does.
    put!(h, "<p id=\"phase\" role=\"status\" aria-live=\"polite\"><strong>" {phase(rotation)} "</strong>: " {&rotation.message} "</p>\n");
    h.rail(rotation, look.now_ms);
    h.raw("<dl class=\"facts\">\n");
    put!(h, "<div><dt>Started</dt><dd>");
    h.when(rotation.started_unix_ms, look.now_ms);
    put!(h, " by " {&rotation.started_by});
    if !rotation.reason.is_empty() {
        put!(h, ": " {&rotation.reason});
    }
    h.raw("</dd></div>\n");
    if rotation.ended_unix_ms != 0 {
        h.raw("<div><dt>Ended</dt><dd>");
        h.when(rotation.ended_unix_ms, look.now_ms);
        let took = span(rotation.ended_unix_ms.abs_diff(rotation.started_unix_ms));
        put!(h, ", after " {took} "; <code>arx rotate report " {&rotation.id} "</code> has the evidence</dd></div>\n");
    }
    if !rotation.abort_reason.is_empty() {
        put!(h, "<div><dt>Turned round</dt><dd>" {&rotation.abort_reason} "</dd></div>\n");
    }
    if rotation.bundle_number != 0 {
        put!(h, "<div><dt>Bundle</dt><dd>" {rotation.bundle_epoch} "." {rotation.bundle_number} "</dd></div>\n");
    }
    put!(h, "<div><dt>Renewals spread over</dt><dd>" {span(rotation.window_ms)} "</dd></div>\n");
    h.raw("<div><dt>Whoever is away</dt><dd>");
    match rotation.wait_unconfirmed_ms {
        None => h.raw("is waited for without end"),
        Some(wait) => put!(h, "is left behind after " {span(wait)}),
    }
    h.raw("</dd></div>\n</dl>\n");
}

/// The phase in one word, and on which way.
pub(super) fn phase(rotation: &wire::Rotation) -> String {
    match (rotation.phase.as_str(), rotation.held, rotation.aborting) {
        ("done", ..) => "Done".to_owned(),
        ("aborted", ..) => "Aborted".to_owned(),
        (_, true, _) => "Held".to_owned(),
        (phase, _, back) => {
            let mut letters = phase.chars();
            let first = letters.next().map(|first| first.to_ascii_uppercase());
            let back = if back { ", on the way back" } else { "" };
            format!("{}{}{back}", first.unwrap_or_default(), letters.as_str())
        }
    }
}

/// What the phase waits for, and how much of it is there.
fn gate(h: &mut Html, rotation: &wire::Rotation, now_ms: i64) {
    let (done, open) = (rotation.confirmed, rotation.unconfirmed_total);
    let all = done.saturating_add(open);
    h.raw("<section aria-labelledby=\"gate\">\n<h2 id=\"gate\">What it waits for</h2>\n");
    if all > 0 {
        // A bar is full only when nobody is missing.
        let thousand =
            (u128::from(done) * 1000 / u128::from(all)).min(if open > 0 { 999 } else { 1000 });
        let tale = match rotation.phase.as_str() {
            "reissue" => format!(
                "{} under the new root, {} waited for",
                counted(done, "certificate", "certificates"),
                grouped(open)
            ),
            _ => format!("{} of {} confirmed", grouped(done), grouped(all)),
        };
        put!(h, "<p class=\"gate\"><label for=\"progress\">" {&tale} "</label> <progress id=\"progress\" max=\"1000\" value=\"" {thousand} "\">" {tale} "</progress></p>\n");
    }
    match rotation.gate.as_str() {
        "dwell" => {
            put!(h, "<p>Nobody is missing. The gate opens " {distance(rotation.gate_opens_unix_ms, now_ms)}
                ", if nothing comes between: handshakes that are under way keep what they began with.</p>\n");
        }
        _ if rotation.held => {
            h.raw("<p><code>arx rotate continue</code> goes on, <code>arx rotate abort</code> goes back.</p>\n");
        }
        "confirmations" | "leaves" if rotation.kind == "distrust" => {
            put!(h, "<p>It goes on by itself when the time of this phase is up, and leaves the rest behind: " {span(rotation.cap_ms)} ", and as long as all renewals take.</p>\n");
        }
        "confirmations" => {
            h.raw("<p>It goes on by itself when everybody has confirmed. <code>arx rotate continue --force --reason TEXT</code> leaves the rest behind, <code>arx rotate abort</code> goes back.</p>\n");
        }
        "leaves" => {
            put!(h, "<p>Renewals are spread over " {span(rotation.window_ms)} "; it goes on by itself when the last certificate under the old root is gone.</p>\n");
        }
        _ => h.raw("<p>It goes on by itself.</p>\n"),
    }
    h.raw("</section>\n");
}

fn waited_for(h: &mut Html, rotation: &wire::Rotation, now_ms: i64) {
    let total = rotation.unconfirmed_total;
    h.raw("<section aria-labelledby=\"unconfirmed\">\n<h2 id=\"unconfirmed\">Unconfirmed</h2>\n");
    if total == 0 {
        h.raw("<p class=\"calm\"><span aria-hidden=\"true\">✓</span> Nobody is waited for.</p>\n</section>\n");
        return;
    }
    let caption = format!(
        "{} waited for, most blocking first",
        counted(total, "is", "are")
    );
    let columns = ["Who", "Why", "Since", "Holds", "What to do"];
    h.table(&caption, &columns, |table| {
        for one in &rotation.unconfirmed {
            table.row(|row| {
                row.head(|h| who(h, one));
                row.cell(|h| {
                    let tone = if one.reason == "refused" {
                        Tone::Bad
                    } else {
                        Tone::Open
                    };
                    h.chip(tone, &one.reason);
                    if !one.detail.is_empty() {
                        h.raw(if one.reason == "refused" {
                            " <q class=\"words\">"
                        } else {
                            " <span class=\"words\">"
                        });
                        h.text(&one.detail);
                        h.raw(if one.reason == "refused" {
                            "</q>"
                        } else {
                            "</span>"
                        });
                    }
                });
                row.cell(|h| h.when(one.since_unix_ms, now_ms));
                row.cell(|h| held(h, one, now_ms));
                row.text(&one.advice);
            });
        }
    });
    let shown = rotation.unconfirmed.len() as u64;
    if shown < total {
        put!(h, "<p>And " {grouped(total - shown)} " more: <code>arx rotate status -o json</code> lists them.</p>\n");
    }
    h.raw("</section>\n");
}

fn who(h: &mut Html, one: &wire::Unconfirmed) {
    match one.node.split_once('/') {
        Some((cluster, node)) => h.node(cluster, node),
        None => h.text(&one.node),
    }
    put!(h, " <small>" {&one.process});
    if !one.resource.is_empty() {
        put!(h, " takes " {&one.resource});
    }
    h.raw("</small>");
}

fn held(h: &mut Html, one: &wire::Unconfirmed, now_ms: i64) {
    for (place, workload) in one.workloads.iter().take(NAMED).enumerate() {
        if place > 0 {
            h.raw("<br>");
        }
        h.certificates_of(workload);
    }
    let named = one.workloads.len().min(NAMED);
    let rest = usize::try_from(one.workload_count)
        .unwrap_or(usize::MAX)
        .saturating_sub(named);
    match (named, rest) {
        (0, 0) => h.raw("–"),
        (_, 0) => {}
        (0, rest) => put!(h, { counted(rest as u64, "identity", "identities") }),
        (_, rest) => put!(h, " and " {grouped(rest as u64)} " more"),
    }
    if one.last_certificate_ends_unix_ms != 0 {
        h.raw(" <small>the last ends ");
        h.when(one.last_certificate_ends_unix_ms, now_ms);
        h.raw("</small>");
    }
}

fn roots(h: &mut Html, rotation: &wire::Rotation, look: &Look<'_>) {
    let known = look.ca.overview.roots();
    h.raw("<section aria-labelledby=\"roots\">\n<h2 id=\"roots\">Roots</h2>\n");
    let columns = ["Root", "Key", "Name", "Life", "Ends"];
    h.table("From which root to which", &columns, |table| {
        for (what, root) in [("from", &rotation.from), ("to", &rotation.to)] {
            table.row(|row| {
                row.head(|h| h.text(what));
                let Some(root) = root else {
                    row.text("not made yet");
                    return;
                };
                row.cell(
                    |h| put!(h, "<code class=\"whole\">" {hex::encode(&root.key_id)} "</code>"),
                );
                row.cell(|h| put!(h, "<span class=\"words\">" {&root.subject} "</span>"));
                let seen = known
                    .iter()
                    .find(|seen| seen.key_id.as_bytes() == &root.key_id[..]);
                row.cell(|h| match seen {
                    Some(seen) => {
                        let life = Life {
                            begins_ms: crate::node_api::unix_ms(seen.certificate.not_before()),
                            ends_ms: root.not_after_unix_ms,
                            renews_ms: 0,
                        };
                        h.life(life, look.now_ms);
                    }
                    None => h.raw("gone, with its key"),
                });
                row.cell(|h| h.when(root.not_after_unix_ms, look.now_ms));
            });
        }
    });
    h.raw("</section>\n");
}

fn forced(h: &mut Html, rotation: &wire::Rotation, now_ms: i64) {
    if rotation.forced.is_empty() {
        return;
    }
    h.raw("<section aria-labelledby=\"forced\">\n<h2 id=\"forced\">Forced gates</h2>\n");
    let columns = ["Phase", "When", "By", "Reason", "#Left behind"];
    h.table(
        "Gates that were passed though somebody had not confirmed",
        &columns,
        |table| {
            for forced in &rotation.forced {
                table.row(|row| {
                    row.head(|h| h.text(&forced.phase));
                    row.cell(|h| h.when(forced.unix_ms, now_ms));
                    row.text(&forced.by);
                    row.text(&forced.reason);
                    row.text(grouped(forced.left_behind));
                });
            }
        },
    );
    h.raw("</section>\n");
}

/// Denied holders who have not followed.
fn left_out(h: &mut Html, rotation: &wire::Rotation, now_ms: i64) {
    if rotation.denied.is_empty() {
        return;
    }
    h.raw(
        "<section aria-labelledby=\"denied\">\n<h2 id=\"denied\">Left out, because denied</h2>\n",
    );
    let caption = format!(
        "{} not waited for; arx allow ends that",
        counted(rotation.denied_total, "is", "are")
    );
    h.table(&caption, &["Who", "Why", "Since", "Holds"], |table| {
        for one in &rotation.denied {
            table.row(|row| {
                row.head(|h| who(h, one));
                row.cell(|h| h.chip(Tone::Quiet, &one.reason));
                row.cell(|h| h.when(one.since_unix_ms, now_ms));
                row.cell(|h| held(h, one, now_ms));
            });
        }
    });
    h.raw("</section>\n");
}

/// Denied holders that a phase was left without.
fn passed_without(h: &mut Html, rotation: &Rotation, now_ms: i64) {
    let all: Vec<_> = rotation::left_without(rotation).collect();
    if all.is_empty() {
        return;
    }
    h.raw("<section aria-labelledby=\"without\">\n<h2 id=\"without\">Passed without denied holders</h2>\n");
    let columns = ["Phase", "When", "Who", "#Left out"];
    h.table("Phases that were left before they had followed", &columns, |table| {
        for (phase, at, denied) in all {
            table.row(|row| {
                row.head(|h| h.text(phase));
                row.cell(|h| h.when(unix_ms(at), now_ms));
                row.cell(|h| {
                    for (place, one) in denied.holders.iter().take(NAMED).enumerate() {
                        let comma = if place > 0 { ", " } else { "" };
                        put!(h, {comma} {&one.node} " " {&one.process} " <small>" {&one.reason} "</small>");
                    }
                    let rest = denied.count.saturating_sub(NAMED as u64);
                    if rest > 0 {
                        put!(h, " and " {grouped(rest)} " more");
                    }
                });
                row.text(grouped(denied.count));
            });
        }
    });
    h.raw("</section>\n");
}

fn past(h: &mut Html, all: &[wire::Rotation], here: &str) {
    h.raw("<section aria-labelledby=\"past\">\n<h2 id=\"past\">All rotations</h2>\n");
    let columns = [
        "Rotation",
        "Came to",
        "Started",
        "Took",
        "#Forced gates",
        "Reason",
    ];
    h.table("Newest first", &columns, |table| {
        for one in all {
            table.row(|row| {
                row.head(|h| {
                    put!(h, "<a href=\"/rotation?id=" {Url(&one.id)} "\"");
                    if one.id == here {
                        h.raw(" aria-current=\"true\"");
                    }
                    put!(h, ">" {&one.id} "</a>");
                });
                row.cell(|h| match one.phase.as_str() {
                    "done" => h.chip(Tone::Good, "done"),
                    "aborted" => h.chip(Tone::Quiet, "aborted"),
                    phase => h.chip(Tone::Open, phase),
                });
                row.cell(|h| h.at(one.started_unix_ms));
                row.cell(|h| match one.ended_unix_ms {
                    0 => h.raw("–"),
                    ended => h.text(span(ended.abs_diff(one.started_unix_ms))),
                });
                row.text(one.forced.len());
                row.text(&one.reason);
            });
        }
    });
    h.raw("</section>\n");
}
