//! One agent: its workloads, its streams, what they have confirmed and what they refuse.

use super::agents::clock;
use super::frame::{Tone, document};
use super::html::{Html, put};
use super::query::decode;
use super::words::{counted, grouped};
use super::{Look, Missing};
use crate::admin::agents::agent as told;
use crate::caller::NodeName;
use crate::denial::of_node;
use crate::fleet::{Consumer, Detail, Standing};
use crate::node_api::unix_ms;

/// Rows of each list.
const MOST: usize = 500;

/// The agent of `/agents/<cluster>/<node>`.
pub(super) fn page(look: &Look<'_>, path: &str) -> Result<String, Missing> {
    let nothing = || Missing("There is nothing here: begin at the overview.".to_owned());
    let rest = path.strip_prefix("/agents/").ok_or_else(nothing)?;
    let (cluster, node) = rest.split_once('/').ok_or_else(nothing)?;
    let name = NodeName {
        cluster: decode(cluster).into(),
        node: decode(node).into(),
    };
    let bundle = look.ca.trust.current();
    let detail = look.ca.fleet.detail(&name, &bundle, MOST, |agent| {
        told(look.ca, agent, bundle.sequence())
    });
    let Some((agent, detail)) = detail else {
        return Err(Missing(format!(
            "No agent of {name} has connected since the authority was started."
        )));
    };
    Ok(document(look, &name.to_string(), "Agents", |h| {
        put!(h, "<h1>" {&name} "</h1>\n<p>");
        match agent.connected {
            true => h.chip(Tone::Good, "connected"),
            false => h.chip(Tone::Open, "away"),
        }
        if look
            .ca
            .denials
            .get()
            .of(&of_node(&name), look.page.clock.now())
            .is_some()
        {
            h.raw(" <a href=\"/denied\">");
            h.chip(Tone::Bad, "denied");
            h.raw("</a>");
        }
        h.raw(match agent.connected {
            true => " Its connection began ",
            false => " It has been away since ",
        });
        h.when(agent.since_unix_ms, look.now_ms);
        if agent.connected && !detail.complete {
            h.raw(", and it has not told everything since then");
        }
        h.raw("</p>\n<dl class=\"facts\">\n");
        h.raw("<div><dt>Identity</dt><dd>");
        h.identity(&agent.spiffe_id);
        h.raw(
            "</dd></div>
",
        );
        put!(h, "<div><dt>Bundle</dt><dd>" {agent.trust_epoch} "." {agent.trust_number} ", the newest is " {bundle.sequence()} "</dd></div>\n");
        h.raw("<div><dt>Own certificate ends</dt><dd>");
        h.when(agent.certificate_not_after_unix_ms, look.now_ms);
        h.raw("</dd></div>\n<div><dt>Clock</dt><dd>");
        clock(h, agent.clock_offset_ms);
        put!(h, "</dd></div>\n<div><dt>Version</dt><dd>" {&agent.software} "</dd></div>\n</dl>\n");
        consumers(h, &detail, look.now_ms);
        leaves(h, &detail, look.now_ms);
    }))
}

fn consumers(h: &mut Html, detail: &Detail, now_ms: i64) {
    h.raw("<section aria-labelledby=\"consumers\">\n<h2 id=\"consumers\">Proxies and what they take</h2>\n");
    if detail.consumers.is_empty() {
        h.raw("<p>Nobody takes anything.</p>\n</section>\n");
        return;
    }
    let caption = counted(
        detail.consumer_count as u64,
        "resource is taken",
        "resources are taken",
    );
    let columns = [
        "Process",
        "Takes",
        "State",
        "Confirmed",
        "Sent, not answered",
        "Its words for a refusal",
        "Known",
    ];
    h.table(&caption, &columns, |table| {
        for one in &detail.consumers {
            table.row(|row| {
                row.head(|h| {
                    put!(h, {&one.process} " <small>" {counted(one.streams.into(), "stream", "streams")});
                    if !one.connected {
                        h.raw(", away");
                    }
                    h.raw("</small>");
                });
                row.cell(|h| {
                    h.text(&one.resource);
                    if !one.identity.is_empty() {
                        h.raw("<br>");
                        h.certificates_of(&one.identity);
                    }
                });
                row.cell(|h| match one.standing {
                    Standing::Confirmed => h.chip(Tone::Good, "confirmed"),
                    Standing::Refused => h.chip(Tone::Bad, "refused"),
                    Standing::Open => h.chip(Tone::Open, "not confirmed"),
                });
                row.cell(|h| version(h, one, &one.acked));
                row.cell(|h| version(h, one, &one.sent));
                row.cell(|h| match &one.nack {
                    Some((words, at)) => {
                        put!(h, "<q class=\"words\">" {words} "</q> <small>");
                        h.when(unix_ms(*at), now_ms);
                        h.raw("</small>");
                    }
                    None => h.raw("–"),
                });
                row.cell(|h| h.when(unix_ms(one.first_seen), now_ms));
            });
        }
    });
    rest(h, detail.consumers.len(), detail.consumer_count);
    h.raw("</section>\n");
}

fn version(h: &mut Html, consumer: &Consumer, version: &str) {
    match (version, consumer.roots) {
        ("", _) => h.raw("–"),
        (sequence, true) => put!(h, "bundle " {sequence}),
        (serial, false) => h.serial(serial),
    }
}

fn leaves(h: &mut Html, detail: &Detail, now_ms: i64) {
    h.raw("<section aria-labelledby=\"leaves\">\n<h2 id=\"leaves\">Certificates of its workloads</h2>\n");
    if detail.leaves.is_empty() {
        h.raw("<p>It holds none.</p>\n</section>\n");
        return;
    }
    let caption = counted(
        detail.leaf_count as u64,
        "certificate is held",
        "certificates are held",
    );
    let columns = [
        "Identity",
        "Serial number",
        "Use",
        "#Consumers",
        "Under the root",
        "Ends",
    ];
    h.table(&caption, &columns, |table| {
        for leaf in &detail.leaves {
            table.row(|row| {
                row.head(|h| {
                    h.certificates_of(&leaf.identity);
                });
                row.cell(|h| h.serial(&crate::hex::encode(leaf.serial.as_bytes())));
                row.cell(|h| match leaf.current {
                    true => h.chip(Tone::Good, "current"),
                    false => h.chip(Tone::Quiet, "replaced"),
                });
                row.text(leaf.consumers);
                row.cell(|h| match &leaf.root {
                    Some(root) => h.id(&root.to_string()),
                    None => h.raw("–"),
                });
                row.cell(|h| h.when(leaf.ends.map_or(0, unix_ms), now_ms));
            });
        }
    });
    rest(h, detail.leaves.len(), detail.leaf_count);
    h.raw("</section>\n");
}

fn rest(h: &mut Html, shown: usize, all: usize) {
    if shown < all {
        put!(h, "<p>And " {grouped((all - shown) as u64)} " more.</p>\n");
    }
}
