//! The first page: what needs somebody, then how everything stands.

use arx_proto::admin::v1 as wire;

use super::bar::Life;
use super::frame::{Tone, document};
use super::html::{Html, Url, put};
use super::rail::has_ended;
use super::rotation::phase;
use super::words::{counted, distance, grouped, short};
use super::{Look, Missing};
use crate::admin::{rotation, status};
use crate::fleet::Fleet;
use crate::hex;
use crate::node_api::unix_ms;

/// Certificates that end first, as many as are shown.
const SOONEST: usize = 8;
/// Ten minutes of ten seconds.
const STEPS: usize = 60;

pub(super) fn page(look: &Look<'_>) -> Result<String, Missing> {
    let status = status::status(look.ca);
    Ok(document(look, "Overview", "Overview", |h| {
        put!(h, "<h1>" {&status.trust_domain} "</h1>\n");
        attention(h, look, &status);
        if let Some(running) = rotation::running(look.ca) {
            put!(h, "<section aria-labelledby=\"rotating\">\n<h2 id=\"rotating\"><a href=\"/rotation\">Rotation " {&running.id} "</a></h2>\n");
            h.rail(&running, look.now_ms);
            put!(h, "<p><strong>" {phase(&running)} "</strong>: " {&running.message} "</p>
</section>
");
        }
        figures(h, look, &status);
        authorities(h, &status.authorities, look.now_ms);
        soonest(h, look, &status);
        health(h, &status.health);
    }))
}

/// What somebody should look into, the worst first.
fn attention(h: &mut Html, look: &Look<'_>, status: &wire::StatusResponse) {
    let mut found: Vec<(Tone, String, String, &'static str)> = Vec::new();
    for health in status.health.iter().filter(|health| !health.ok) {
        let what = format!("{} ({})", health.message, health.code);
        found.push((Tone::Bad, health.component.clone(), what, ""));
    }
    let refusals = refusals(&look.ca.fleet);
    if refusals > 0 {
        let what = counted(refusals, "consumer has", "consumers have");
        let what = format!("{what} refused what was sent: see their own words");
        found.push((
            Tone::Bad,
            "refused".to_owned(),
            what,
            "/agents?show=refused",
        ));
    }
    let away = status.agents_known.saturating_sub(status.agents_connected);
    if away > 0 {
        let what = counted(away.into(), "agent is", "agents are");
        let what = format!("{what} not connected");
        found.push((Tone::Open, "agents".to_owned(), what, "/agents?show=away"));
    }
    if let Some(running) = &status.rotation
        && !has_ended(running)
        && running.unconfirmed_total > 0
    {
        let what = format!(
            "{} is in {} and waits for {}",
            running.id,
            running.phase,
            grouped(running.unconfirmed_total)
        );
        found.push((Tone::Open, "rotation".to_owned(), what, "/rotation"));
    }
    for health in status
        .health
        .iter()
        .filter(|health| health.ok && health.warning)
    {
        let what = format!("{} ({})", health.message, health.code);
        found.push((Tone::Open, health.component.clone(), what, ""));
    }
    h.raw("<section aria-labelledby=\"attention\">\n<h2 id=\"attention\">Needs attention</h2>\n");
    if found.is_empty() {
        h.raw("<p class=\"calm\"><span aria-hidden=\"true\">✓</span> Nothing. The authority is ready, every agent that is known is connected, and nobody has refused anything.</p>\n");
    } else {
        h.raw("<ul class=\"attention\">\n");
        for (tone, component, what, link) in found {
            h.raw(if tone == Tone::Bad {
                "<li class=\"bad\">"
            } else {
                "<li class=\"warn\">"
            });
            h.raw(if tone == Tone::Bad {
                "<span aria-hidden=\"true\">✕</span> "
            } else {
                "<span aria-hidden=\"true\">◔</span> "
            });
            put!(h, "<strong>" {component} "</strong> ");
            if link.is_empty() {
                h.text(what);
            } else {
                put!(h, "<a href=\"" {link} "\">" {what} "</a>");
            }
            h.raw("</li>\n");
        }
        h.raw("</ul>\n");
    }
    h.raw("</section>\n");
}

/// Consumers that have refused something.
fn refusals(fleet: &Fleet) -> u64 {
    let (refusals, _) = fleet.page(None, usize::MAX, |agent| agent.refusals() as u64);
    refusals.into_iter().sum()
}

fn figures(h: &mut Html, look: &Look<'_>, status: &wire::StatusResponse) {
    let rate = look.page.rate.counted();
    h.raw("<section aria-labelledby=\"figures\">\n<h2 id=\"figures\">In numbers</h2>\n<dl class=\"figures\">\n");
    h.raw("<div><dt>Live certificates</dt><dd class=\"figure\">");
    if status.index_ready {
        h.text(grouped(status.live_certificates));
    } else {
        h.raw("…");
    }
    h.raw("</dd><dd>");
    match (status.index_ready, status.soonest_expiry_unix_ms) {
        (false, _) => h.raw("being counted"),
        (true, 0) => h.raw("none is held by a node"),
        (true, soonest) => put!(h, "the first ends " {distance(soonest, look.now_ms)}),
    }
    put!(h, "</dd></div>\n<div><dt>Agents connected</dt><dd class=\"figure\">" {grouped(status.agents_connected.into())}
        "</dd><dd>of " {grouped(status.agents_known.into())} " known</dd></div>\n");
    put!(h, "<div><dt>Issued per second</dt><dd class=\"figure\">" {format_args!("{:.1}", rate.per_second)} "</dd><dd>");
    let most = rate.issued.iter().max().copied().unwrap_or(0);
    h.columns(
        &rate.issued,
        STEPS,
        &format!(
            "issued in each ten seconds of the last ten minutes, {} at most",
            grouped(most)
        ),
    );
    put!(h, "</dd></div>\n<div><dt>Issued since the start</dt><dd class=\"figure\">" {grouped(status.issued_total)}
        "</dd><dd>" {grouped(status.refused_total)} " refused, " {grouped(rate.refused)} " of them in the last 10 min</dd></div>\n");
    put!(h, "<div><dt>Trust bundle</dt><dd class=\"figure\">" {status.bundle_epoch} "." {status.bundle_number}
        "</dd><dd>" {counted(look.ca.trust.current().roots().len() as u64, "root", "roots")} " in it</dd></div>\n");
    put!(h, "<div><dt>Waiting to be signed</dt><dd class=\"figure\">" {grouped(look.ca.queue.waiting() as u64)}
        "</dd><dd>in the queue</dd></div>\n</dl>\n</section>\n");
}

fn authorities(h: &mut Html, authorities: &[wire::Authority], now_ms: i64) {
    let columns = [
        "Authority",
        "State",
        "Key",
        "Life",
        "Ends",
        "Renews",
        "#Certificates",
        "Key is in",
    ];
    h.raw("<section aria-labelledby=\"authorities\">\n<h2 id=\"authorities\">Authorities</h2>\n");
    h.table("What signs, from the root down", &columns, |table| {
        for authority in authorities {
            table.row(|row| {
                row.head(|h| h.text(&authority.role));
                row.cell(|h| h.chip(tone(&authority.state), &authority.state));
                row.cell(|h| {
                    h.id(&hex::encode(&authority.key_id));
                    put!(h, " <small>" {&authority.key_algorithm} "</small>");
                });
                let life = Life {
                    begins_ms: authority.not_before_unix_ms,
                    ends_ms: authority.not_after_unix_ms,
                    renews_ms: authority.renews_unix_ms,
                };
                row.cell(|h| h.life(life, now_ms));
                row.cell(|h| h.when(authority.not_after_unix_ms, now_ms));
                row.cell(
                    |h| match (authority.renews_unix_ms, authority.role.as_str()) {
                        (0, "root") => h.raw("by <a href=\"/rotation\">rotation</a>"),
                        (0, _) => h.raw("–"),
                        (renews, _) => h.when(renews, now_ms),
                    },
                );
                row.cell(|h| match authority.role.as_str() {
                    "serving" => h.raw("–"),
                    _ => h.text(grouped(authority.live_certificates)),
                });
                row.text(&authority.custody);
            });
        }
    });
    h.raw("<p class=\"legend\">A bar is a life from its first to its last moment; the dark part has passed, the thick mark is now, the thin one is when it is renewed.</p>\n</section>\n");
}

fn tone(state: &str) -> Tone {
    match state {
        "active" => Tone::Good,
        "prepared" | "retiring" => Tone::Open,
        "distrusted" => Tone::Bad,
        _ => Tone::Quiet,
    }
}

fn soonest(h: &mut Html, look: &Look<'_>, status: &wire::StatusResponse) {
    h.raw("<section aria-labelledby=\"soonest\">\n<h2 id=\"soonest\">Soonest to end</h2>\n");
    let ending = look.ca.ledger.live().ending(look.page.clock.now(), SOONEST);
    if !status.index_ready || ending.is_empty() {
        h.raw(if status.index_ready {
            "<p>No workload and no node holds a certificate.</p>\n"
        } else {
            "<p>The index of valid certificates is being built.</p>\n"
        });
        h.raw("</section>\n");
        return;
    }
    h.table(
        "Certificates that end first; each should have been renewed at half of its life",
        &["Identity", "Node", "Life", "Ends", "Serial number"],
        |table| {
            for one in &ending {
                table.row(|row| {
                    row.head(|h| {
                        h.certificates_of(&one.identity);
                    });
                    row.cell(|h| h.node(&one.cluster, &one.node));
                    let life = Life {
                        begins_ms: unix_ms(one.issued),
                        ends_ms: unix_ms(one.ends),
                        renews_ms: 0,
                    };
                    row.cell(|h| h.life(life, look.now_ms));
                    row.cell(|h| h.when(unix_ms(one.ends), look.now_ms));
                    row.cell(|h| h.serial(&hex::encode(&one.serial)));
                });
            }
        },
    );
    h.raw("</section>\n");
}

fn health(h: &mut Html, health: &[wire::Health]) {
    h.raw("<section aria-labelledby=\"health\">\n<h2 id=\"health\">What the authority stands on</h2>\n<ul class=\"parts\">\n");
    for part in health {
        h.raw("<li>");
        match (part.ok, part.warning) {
            (false, _) => h.chip(Tone::Bad, "failing"),
            (true, true) => h.chip(Tone::Open, "soon"),
            (true, false) => h.chip(Tone::Good, "well"),
        }
        put!(h, "<span>" {&part.component} " <small>" {&part.message});
        if !part.code.is_empty() {
            put!(h, " <code>" {&part.code} "</code>");
        }
        h.raw("</small></span></li>\n");
    }
    h.raw("</ul>\n</section>\n");
}

impl Html {
    /// A node, which leads to its agent.
    pub(super) fn node(&mut self, cluster: &str, node: &str) {
        if node.is_empty() {
            self.raw("the authority");
            return;
        }
        put!(self, "<a class=\"node\" href=\"/agents/" {Url(cluster)} "/" {Url(node)} "\">" {cluster} "/" {node} "</a>");
    }

    /// A serial number, which leads to its certificate.
    pub(super) fn serial(&mut self, hex: &str) {
        put!(self, "<a href=\"/certificates?q=" {Url(hex)} "\"><code title=\"" {hex} "\">" {short(hex)} "</code></a>");
    }
}
