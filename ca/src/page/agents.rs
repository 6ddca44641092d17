//! All agents, a page at a time.

use super::frame::{Tone, document};
use super::html::{Html, Url, put};
use super::query::Query;
use super::words::{counted, grouped, span};
use super::{Look, Missing};
use crate::admin::agents::agent as told;
use crate::caller::NodeName;

/// Agents of one page.
const PAGE: usize = 100;
/// Agents that are looked at in one go.
const STEP: usize = 1000;
/// A clock that is further off is worth a word, in milliseconds.
const OFF: u64 = 5000;

/// Which are shown.
const SHOWS: [(&str, &str); 4] = [
    ("", "all"),
    ("away", "away"),
    ("behind", "behind the newest bundle"),
    ("refused", "with refusals"),
];

pub(super) fn page(look: &Look<'_>, query: &Query) -> Result<String, Missing> {
    let newest = look.ca.trust.current().sequence();
    let show = query.get("show");
    let mut from = query
        .get("after")
        .split_once('/')
        .map(|(cluster, node)| NodeName {
            cluster: cluster.into(),
            node: node.into(),
        });
    let mut agents = Vec::new();
    loop {
        let wanted = PAGE.saturating_sub(agents.len());
        let step = if show.is_empty() { wanted } else { STEP };
        let (found, next) = look.ca.fleet.page(from.as_ref(), step, |agent| {
            let fits = match show {
                "away" => !agent.is_connected(),
                "behind" => agent.trust() != Some(newest),
                "refused" => agent.refusals() > 0,
                _ => true,
            };
            fits.then(|| told(look.ca, agent, newest))
        });
        let mut found: Vec<_> = found.into_iter().flatten().collect();
        let cut = found.len() > wanted;
        found.truncate(wanted);
        from = match found.last().filter(|_| cut) {
            Some(last) => Some(NodeName {
                cluster: last.cluster.as_str().into(),
                node: last.node.as_str().into(),
            }),
            None => next,
        };
        agents.extend(found);
        if from.is_none() || agents.len() >= PAGE {
            break;
        }
    }
    let (connected, known) = look.ca.fleet.size();
    Ok(document(look, "Agents", "Agents", |h| {
        put!(h, "<h1>Agents</h1>\n<p>" {grouped(connected as u64)} " of " {counted(known as u64, "agent", "agents")}
            " connected. The newest bundle is " {newest} ".</p>\n");
        choice(h, show);
        if agents.is_empty() {
            h.raw("<p>There is none.</p>\n");
            return;
        }
        let columns = [
            "Node",
            "State",
            "Since",
            "Bundle",
            "#Certificates",
            "#Confirmed",
            "#Refusals",
            "Own certificate ends",
            "Clock",
            "Version",
        ];
        h.table("In the order of their names", &columns, |table| {
            for agent in &agents {
                table.row(|row| {
                    row.head(|h| h.node(&agent.cluster, &agent.node));
                    row.cell(|h| match agent.connected {
                        true => h.chip(Tone::Good, "connected"),
                        false => h.chip(Tone::Open, "away"),
                    });
                    row.cell(|h| h.when(agent.since_unix_ms, look.now_ms));
                    row.cell(|h| {
                        let behind = (agent.trust_epoch, agent.trust_number)
                            != (newest.epoch, newest.number);
                        put!(h, {agent.trust_epoch} "." {agent.trust_number});
                        if behind {
                            h.raw(" ");
                            h.chip(Tone::Open, "behind");
                        }
                    });
                    row.text(grouped(agent.leaves.into()));
                    row.text(format_args!(
                        "{} of {}",
                        agent.subscribers_confirmed, agent.subscribers
                    ));
                    row.cell(|h| match agent.nacks {
                        0 => h.raw("0"),
                        nacks => h.chip(Tone::Bad, &nacks.to_string()),
                    });
                    row.cell(|h| h.when(agent.certificate_not_after_unix_ms, look.now_ms));
                    row.cell(|h| clock(h, agent.clock_offset_ms));
                    row.text(&agent.software);
                });
            }
        });
        if let Some(last) = &from {
            let after = last.to_string();
            put!(h, "<p><a rel=\"next\" href=\"/agents?show=" {Url(show)} "&amp;after=" {Url(&after)} "\">Further agents</a></p>\n");
        }
    }))
}

fn choice(h: &mut Html, chosen: &str) {
    h.raw("<ul class=\"choice\" aria-label=\"Which agents\">");
    for (show, name) in SHOWS {
        put!(h, "<li><a href=\"/agents?show=" {show} "\"");
        if show == chosen {
            h.raw(" aria-current=\"true\"");
        }
        put!(h, ">" {name} "</a></li>");
    }
    h.raw("</ul>\n");
}

/// How far its clock was off when it connected.
pub(super) fn clock(h: &mut Html, offset_ms: i64) {
    let off = offset_ms.unsigned_abs();
    if off < OFF {
        h.raw("in step");
        return;
    }
    let way = if offset_ms > 0 { "ahead" } else { "behind" };
    h.chip(Tone::Open, &format!("{} {way}", span(off)));
}
