//! Valid certificates, and what the ledger has on one identity or serial number.

use std::sync::Arc;

use arx_identity::Serial;

use super::bar::Life;
use super::frame::document;
use super::html::{Html, Url, put};
use super::ledger::records;
use super::query::Query;
use super::words::grouped;
use super::{Look, Missing};
use crate::hex;
use crate::ledger::{self, LiveFilter, LivePage};
use crate::node_api::unix_ms;

/// Certificates of one page, and records below them.
const PAGE: usize = 50;
const RECORDS: usize = 50;

/// What is looked for.
enum Wanted {
    All,
    Identity(String),
    Serial(Serial),
}

impl Wanted {
    /// A serial number is hex digits, with or without colons; all else is an identity.
    fn of(text: &str) -> Self {
        let digits = text.replace(':', "");
        let hex = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        match (text, digits.parse()) {
            ("", _) => Self::All,
            (_, Ok(serial)) if hex => Self::Serial(serial),
            _ => Self::Identity(text.to_owned()),
        }
    }

    fn filter(&self) -> LiveFilter {
        match self {
            Self::All => LiveFilter::default(),
            Self::Identity(identity) => LiveFilter {
                identity: Some(identity.clone()),
                ..LiveFilter::default()
            },
            Self::Serial(serial) => LiveFilter {
                serial: Some(serial.clone()),
                ..LiveFilter::default()
            },
        }
    }

    /// Of a prefix the ledger has no index.
    fn query(&self) -> Option<ledger::Query> {
        match self {
            Self::Identity(identity) if !identity.ends_with('/') => {
                Some(ledger::Query::Identity(identity.clone()))
            }
            Self::Serial(serial) => Some(ledger::Query::Serial(serial.as_bytes().to_vec())),
            _ => None,
        }
    }
}

pub(super) async fn page(look: &Look<'_>, query: &Query) -> Result<String, Missing> {
    let text = query.get("q").to_owned();
    let wanted = Wanted::of(&text);
    let (filter, search) = (wanted.filter(), wanted.query());
    let (ca, after) = (Arc::clone(look.ca), query.get("after").to_owned());
    let now = look.page.clock.now();
    let read = tokio::task::spawn_blocking(move || {
        let live = ca.ledger.live();
        let valid = live
            .is_ready()
            .then(|| live.page(&filter, &after, PAGE, now));
        let past = search.map(|search| ca.ledger.search(&search, RECORDS, ""));
        (valid.transpose(), past.transpose())
    });
    let (valid, past) = read
        .await
        .map_err(|_| Missing("It could not be read: see the log.".to_owned()))?;
    let unread = |error: ledger::Error| Missing(format!("{error} ({})", error.code()));
    let (valid, past) = (valid.map_err(unread)?, past.map_err(unread)?);
    Ok(document(look, "Certificates", "Certificates", |h| {
        h.raw("<h1>Certificates</h1>\n");
        form(h, &text);
        match &valid {
            Some(valid) => list(h, look, valid, &text),
            None => h.raw(
                "<p>The index of valid certificates is being built: reload in a moment.</p>\n",
            ),
        }
        if let Some(past) = &past {
            h.raw("<section aria-labelledby=\"past\">\n<h2 id=\"past\">In the ledger</h2>\n");
            if past.records.is_empty() {
                h.raw("<p>There is no record of it.</p>\n");
            } else {
                records(h, "What was recorded of it, newest first", &past.records);
            }
            if past.next.is_some() {
                h.raw("<p>There is more: <code>arx ledger search</code> has all of it.</p>\n");
            }
            h.raw("</section>\n");
        }
    }))
}

fn form(h: &mut Html, text: &str) {
    put!(h, "<form role=\"search\" action=\"/certificates\" method=\"get\"><label for=\"q\">SPIFFE id, the beginning of one that ends in <code>/</code>, or serial number</label> <input id=\"q\" name=\"q\" type=\"search\" spellcheck=\"false\" autocomplete=\"off\" maxlength=\"2048\" value=\"" {text} "\"> <button>Search</button></form>\n");
}

fn list(h: &mut Html, look: &Look<'_>, valid: &LivePage, text: &str) {
    h.raw("<section aria-labelledby=\"valid\">\n<h2 id=\"valid\">Valid</h2>\n");
    if valid.leaves.is_empty() {
        h.raw("<p>None is valid.</p>\n</section>\n");
        return;
    }
    let columns = [
        "Identity",
        "Node",
        "Life",
        "Ends",
        "Serial number",
        "Under the root",
        "Granted on",
    ];
    let all = look.ca.ledger.live().count(look.page.clock.now());
    let caption = match text {
        "" => format!("{} are valid, in the order of their names", grouped(all)),
        _ => "Valid certificates that fit".to_owned(),
    };
    h.table(&caption, &columns, |table| {
        for leaf in &valid.leaves {
            table.row(|row| {
                row.head(|h| {
                    h.certificates_of(&leaf.spiffe_id);
                });
                row.cell(|h| h.node(&leaf.cluster, &leaf.node));
                let life = Life {
                    begins_ms: unix_ms(leaf.not_before),
                    ends_ms: unix_ms(leaf.not_after),
                    renews_ms: 0,
                };
                row.cell(|h| h.life(life, look.now_ms));
                row.cell(|h| h.when(life.ends_ms, look.now_ms));
                row.cell(|h| h.serial(&hex::encode(leaf.serial.as_bytes())));
                row.cell(|h| h.id(&hex::encode(&leaf.root_key_id)));
                row.text(&leaf.evidence);
            });
        }
    });
    if let Some(next) = &valid.next {
        put!(h, "<p><a rel=\"next\" href=\"/certificates?q=" {Url(text)} "&amp;after=" {Url(next)} "\">Further certificates</a></p>\n");
    }
    h.raw("</section>\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_a_serial_number_and_all_else_is_an_identity() {
        assert!(matches!(Wanted::of(""), Wanted::All));
        assert!(matches!(Wanted::of("0A:ff:01"), Wanted::Serial(_)));
        for text in ["spiffe://example.org/web", "zz", ":", &"ab".repeat(40)] {
            assert!(matches!(Wanted::of(text), Wanted::Identity(_)), "{text}");
        }
        let prefix = Wanted::of("spiffe://example.org/ns/");
        assert!(prefix.query().is_none(), "of a prefix there is no index");
    }
}
