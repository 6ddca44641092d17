//! What is around every page: head, navigation, how fresh it is.

use arx_daemon::ops::Readiness;

use super::Look;
use super::denials::in_force;
use super::html::{Html, put};
use super::words::{distance, grouped, stamp};
use crate::admin::rotation;
use crate::node_api::unix_ms;

/// The parts of the page, and where they are.
const SECTIONS: [(&str, &str); 6] = [
    ("Overview", "/"),
    ("Rotation", "/rotation"),
    ("Agents", "/agents"),
    ("Certificates", "/certificates"),
    ("Denied", "/denied"),
    ("Ledger", "/ledger"),
];

/// A whole document; `here` is the section that it belongs to.
pub(super) fn document(
    look: &Look<'_>,
    title: &str,
    here: &str,
    body: impl FnOnce(&mut Html),
) -> String {
    let ca = look.ca;
    let mut html = Html::default();
    let h = &mut html;
    head(h, &format!("{title} · {} · Arx", ca.trust_domain));
    put!(h, "<header>\n<p class=\"brand\"><strong>Arx</strong> <span>" {&ca.trust_domain} "</span></p>\n");
    put!(h, "<nav aria-label=\"Pages\" data-live><ul>");
    for (name, path) in SECTIONS {
        put!(h, "<li><a href=\"" {path} "\"");
        if name == here {
            h.raw(" aria-current=\"page\"");
        }
        put!(h, ">" {name});
        if name == "Rotation"
            && let Some(running) = rotation::running(ca)
        {
            put!(h, " <span class=\"tag\">" {running.phase} "</span>");
        }
        if name == "Denied" {
            match in_force(look) {
                0 => {}
                denied => put!(h, " <span class=\"tag\">" {grouped(denied)} "</span>"),
            }
        }
        h.raw("</a></li>");
    }
    h.raw("</ul></nav>\n<p class=\"asof\"><span id=\"live\" role=\"status\"></span> <span data-live>as of <time>");
    let now = stamp(look.now_ms);
    put!(h, {now.get(11..).unwrap_or(&now)} "</time> UTC</span></p>\n</header>\n");
    h.raw("<main id=\"main\" data-live>\n");
    body(h);
    put!(h, "</main>\n<footer data-live><p>" {ca.software} ", replica " {&ca.replica}
        ", started " {distance(unix_ms(ca.started), look.now_ms)}
        ", configuration " {ca.rules.get().generation} "</p></footer>\n</body>\n</html>\n");
    html.finish()
}

fn head(h: &mut Html, title: &str) {
    h.raw("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
    h.raw("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n");
    h.raw("<meta name=\"color-scheme\" content=\"light dark\">\n");
    put!(h, "<title>" {title} "</title>\n");
    h.raw("<link rel=\"icon\" href=\"/icon.svg\">\n<link rel=\"stylesheet\" href=\"/page.css\">\n");
    h.raw("<script src=\"/page.js\" defer></script>\n</head>\n<body>\n");
    h.raw("<a class=\"skip\" href=\"#main\">Skip to the content</a>\n");
}

/// There is no such page.
pub(super) fn missing(look: &Look<'_>, message: &str) -> String {
    document(look, "Not found", "", |h| {
        put!(h, "<h1>Not found</h1>\n<p>" {message} "</p>\n");
    })
}

/// There is no authority yet: why it can't start is what matters.
pub(super) fn starting(readiness: &Readiness) -> String {
    let mut html = Html::default();
    let h = &mut html;
    head(h, "Starting · Arx");
    h.raw("<header><p class=\"brand\"><strong>Arx</strong></p><p class=\"asof\"><span id=\"live\" role=\"status\"></span></p></header>\n");
    h.raw("<main id=\"main\" data-live>\n<h1>The authority is starting</h1>\n<ul class=\"attention\">\n");
    for failing in readiness.failing() {
        put!(h, "<li class=\"warn\"><strong>" {failing.name} "</strong> " {failing.message} " <code>" {failing.code} "</code></li>\n");
    }
    h.raw("</ul>\n</main>\n</body>\n</html>\n");
    html.finish()
}

/// What a word means at a glance; never by colour alone, for it has a sign and the word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Good,
    Open,
    Bad,
    Quiet,
}

impl Html {
    pub(super) fn chip(&mut self, tone: Tone, word: &str) {
        self.raw(match tone {
            Tone::Good => "<span class=\"chip good\"><span aria-hidden=\"true\">✓</span> ",
            Tone::Open => "<span class=\"chip warn\"><span aria-hidden=\"true\">◔</span> ",
            Tone::Bad => "<span class=\"chip bad\"><span aria-hidden=\"true\">✕</span> ",
            Tone::Quiet => "<span class=\"chip\"><span aria-hidden=\"true\">·</span> ",
        });
        put!(self, {word} "</span>");
    }

    /// A table that screen readers know as one also where a narrow screen shows it as blocks.
    /// A column whose name begins with `#` has numbers.
    pub(super) fn table(
        &mut self,
        caption: &str,
        columns: &[&'static str],
        fill: impl FnOnce(&mut Table<'_>),
    ) {
        put!(self, "<table role=\"table\"><caption>" {caption} "</caption>\n<thead role=\"rowgroup\"><tr role=\"row\">");
        for column in columns {
            match column.strip_prefix('#') {
                Some(name) => {
                    put!(self, "<th role=\"columnheader\" scope=\"col\" class=\"num\">" {name} "</th>")
                }
                None => put!(self, "<th role=\"columnheader\" scope=\"col\">" {column} "</th>"),
            }
        }
        self.raw("</tr></thead>\n<tbody role=\"rowgroup\">\n");
        fill(&mut Table {
            html: self,
            columns,
        });
        self.raw("</tbody></table>\n");
    }
}

/// The rows of a table.
pub(super) struct Table<'h> {
    html: &'h mut Html,
    columns: &'h [&'static str],
}

/// The cells of a row, from the first column on.
pub(super) struct Row<'h> {
    html: &'h mut Html,
    columns: std::slice::Iter<'h, &'static str>,
}

impl Table<'_> {
    pub(super) fn row(&mut self, fill: impl FnOnce(&mut Row<'_>)) {
        self.html.raw("<tr role=\"row\">");
        fill(&mut Row {
            html: self.html,
            columns: self.columns.iter(),
        });
        self.html.raw("</tr>\n");
    }
}

impl Row<'_> {
    /// What the row is about.
    pub(super) fn head(&mut self, fill: impl FnOnce(&mut Html)) {
        self.columns.next();
        self.html.raw("<th role=\"rowheader\" scope=\"row\">");
        fill(self.html);
        self.html.raw("</th>");
    }

    pub(super) fn cell(&mut self, fill: impl FnOnce(&mut Html)) {
        let (h, column) = (
            &mut *self.html,
            self.columns.next().copied().unwrap_or_default(),
        );
        match column.strip_prefix('#') {
            Some(name) => {
                put!(h, "<td role=\"cell\" class=\"num\" data-label=\"" {name} "\"><div>")
            }
            None => put!(h, "<td role=\"cell\" data-label=\"" {column} "\"><div>"),
        }
        fill(h);
        h.raw("</div></td>");
    }

    pub(super) fn text(&mut self, text: impl std::fmt::Display) {
        self.cell(|h| h.text(text));
    }
}
