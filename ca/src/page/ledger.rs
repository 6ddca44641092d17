//! The end of the ledger: what was decided last.

use std::sync::Arc;

use super::frame::{Tone, document};
use super::html::{Html, put};
use super::query::Query;
use super::words::{counted, grouped};
use super::{Look, Missing};
use crate::hex;
use crate::ledger::{self, Content, Entry, Event};
use crate::node_api::unix_ms;

/// Records that are looked at, and of these shown.
const LOOKED_AT: usize = 1000;
const SHOWN: usize = 100;

/// Kinds of records, and what they are called here.
const KINDS: [(&str, &str); 6] = [
    ("", "all"),
    ("issued", "issued"),
    ("refused", "refused"),
    ("rotation", "rotation"),
    ("operator", "operator"),
    ("released", "released"),
];

pub(super) async fn page(look: &Look<'_>, query: &Query) -> Result<String, Missing> {
    let ca = Arc::clone(look.ca);
    let read = tokio::task::spawn_blocking(move || (ca.ledger.tail(LOOKED_AT), ca.ledger.status()));
    let (tail, status) = read
        .await
        .map_err(|_| Missing("It could not be read: see the log.".to_owned()))?;
    let unread = |error: ledger::Error| Missing(format!("{error} ({})", error.code()));
    let mut tail = tail.map_err(unread)?;
    let wanted = query.get("event");
    tail.retain(|entry| wanted.is_empty() || kind(entry) == wanted);
    tail.truncate(SHOWN);
    Ok(document(look, "Ledger", "Ledger", |h| {
        put!(h, "<h1>Ledger</h1>\n<p>" {grouped(status.records)} " records in " {counted(status.segments.into(), "segment", "segments")}
            ". The head of the chain is <code class=\"whole\">" {hex::encode(&status.head)} "</code>.</p>\n");
        h.raw("<ul class=\"choice\" aria-label=\"Which records\">");
        for (event, name) in KINDS {
            put!(h, "<li><a href=\"/ledger?event=" {event} "\"");
            if event == wanted {
                h.raw(" aria-current=\"true\"");
            }
            put!(h, ">" {name} "</a></li>");
        }
        h.raw("</ul>\n");
        if tail.is_empty() {
            h.raw("<p>There is none among the last records: <code>arx ledger search</code> finds older ones.</p>\n");
        } else {
            records(h, "The last records, newest first", &tail);
        }
    }))
}

/// Records as rows.
pub(super) fn records(h: &mut Html, caption: &str, records: &[Entry]) {
    let columns = ["Time, UTC", "#Number", "Record", "About", "What"];
    h.table(caption, &columns, |table| {
        for entry in records {
            table.row(|row| {
                row.cell(|h| h.at(unix_ms(entry.time)));
                row.text(grouped(entry.index));
                row.cell(|h| h.chip(tone(entry), kind(entry)));
                match &entry.content {
                    Content::Known(event) => {
                        row.cell(|h| about(h, event));
                        row.cell(|h| what(h, event));
                    }
                    Content::Unknown { tag, version } => {
                        row.text("–");
                        row.text(format_args!(
                            "written by a newer version: tag {tag}, version {version}"
                        ));
                    }
                }
            });
        }
    });
}

fn kind(entry: &Entry) -> &'static str {
    match &entry.content {
        Content::Known(event) => match event {
            Event::Issued(_) => "issued",
            Event::Refused(_) => "refused",
            Event::IntermediateRegistered(_) => "intermediate",
            Event::Rotation(_) => "rotation",
            Event::Operator(_) => "operator",
            Event::Released(_) => "released",
            Event::Pruned(_) => "pruned",
            Event::Published(_) => "published",
        },
        Content::Unknown { .. } => "unknown",
    }
}

fn tone(entry: &Entry) -> Tone {
    match kind(entry) {
        "issued" => Tone::Good,
        "refused" => Tone::Bad,
        "rotation" | "operator" => Tone::Open,
        _ => Tone::Quiet,
    }
}

fn about(h: &mut Html, event: &Event) {
    match event {
        Event::Issued(issued) => h.identity(&issued.spiffe_id),
        Event::Refused(refused) => h.identity(&refused.who),
        Event::IntermediateRegistered(it) => put!(h, "replica " {&it.replica}),
        Event::Rotation(rotation) => put!(h, { &rotation.rotation }),
        Event::Operator(operator) => put!(h, { &operator.who }),
        Event::Released(released) => h.serial(&hex::encode(&released.serial)),
        Event::Pruned(_) => h.raw("–"),
        Event::Published(published) => put!(h, "replica " {&published.replica}),
    }
}

fn what(h: &mut Html, event: &Event) {
    match event {
        Event::Issued(issued) => {
            h.serial(&hex::encode(&issued.serial));
            if !issued.node.is_empty() {
                h.raw(" on ");
                h.node(&issued.cluster, &issued.node);
            }
            put!(h, ", until ");
            h.at(unix_ms(issued.validity.not_after));
            put!(h, " <small>" {&issued.evidence} "</small>");
        }
        Event::Refused(refused) => put!(h, {&refused.message} " <code>" {&refused.code} "</code>"),
        Event::IntermediateRegistered(it) => {
            h.raw("may sign with the key ");
            h.id(&hex::encode(&it.key_id));
            h.raw(" until ");
            h.at(unix_ms(it.validity.not_after));
        }
        Event::Rotation(rotation) => {
            put!(h, "<strong>" {&rotation.step} "</strong> <small class=\"words\">" {&rotation.detail} "</small>")
        }
        Event::Operator(operator) => {
            put!(h, "<strong>" {&operator.action} "</strong> <small class=\"words\">" {&operator.detail} "</small>")
        }
        Event::Released(released) => h.text(&released.reason),
        Event::Published(published) => {
            let (epoch, number) = (published.epoch, published.number);
            let roots = published.roots.len();
            put!(h, "bundle " {format!("{epoch}.{number}")} " of " {roots} " roots is handed out")
        }
        Event::Pruned(pruned) => {
            put!(h, "records before " {grouped(pruned.first_record)} " were removed by policy")
        }
    }
}
