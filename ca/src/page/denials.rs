//! Who gets nothing new by the word of an operator, and what each still holds.

use arx_proto::admin::v1 as wire;

use super::frame::document;
use super::html::{Html, Url, put};
use super::query::Query;
use super::words::{counted, grouped};
use super::{Look, Missing};
use crate::admin::denial;

/// Denials of one page.
const PAGE: usize = 100;
/// Identities that are shown of each.
const SHOWN: usize = 5;

pub(super) async fn page(look: &Look<'_>, query: &Query) -> Result<String, Missing> {
    let after = query.get("after").to_owned();
    let listed = denial::list(look.ca, after, PAGE).await;
    let listed = listed.map_err(|refusal| Missing(refusal.to_string()))?;
    let all = in_force(look);
    let counts = look.ca.ledger.live().is_ready();
    Ok(document(look, "Denied", "Denied", |h| {
        h.raw("<h1>Denied</h1>\n");
        if all == 0 {
            h.raw("<p>Nobody is denied.</p>\n");
            return;
        }
        h.raw("<p>Nothing new is issued to them. What they hold is valid until it ends, and they still get the roots to trust.</p>\n");
        if !counts {
            h.raw("<p>The index of valid certificates is being built: what they hold is not known yet.</p>\n");
        }
        let caption = counted(all, "is denied", "are denied");
        let columns = [
            "Denied",
            "Since",
            "Until",
            "#Certificates",
            "The last ends",
            "Of",
            "Why",
        ];
        h.table(&caption, &columns, |table| {
            for one in &listed.denials {
                table.row(|row| {
                    row.head(|h| subject(h, &one.subject));
                    row.cell(|h| h.when(one.since_unix_ms, look.now_ms));
                    row.cell(|h| match one.until_unix_ms {
                        0 => h.raw("allowed again"),
                        until => h.when(until, look.now_ms),
                    });
                    row.cell(|h| match counts {
                        true => h.text(grouped(one.certificates)),
                        false => h.raw("…"),
                    });
                    row.cell(|h| h.when(one.last_certificate_ends_unix_ms, look.now_ms));
                    row.cell(|h| identities(h, one));
                    row.text(&one.reason);
                });
            }
        });
        if !listed.page_token.is_empty() {
            put!(h, "<p><a rel=\"next\" href=\"/denied?after=" {Url(&listed.page_token)} "\">Further denials</a></p>\n");
        }
    }))
}

/// How many are in force, as far as this process knows.
pub(super) fn in_force(look: &Look<'_>) -> u64 {
    let now = look.page.clock.now();
    look.ca.denials.get().holding(now).count() as u64
}

/// Leads to what there is about it.
fn subject(h: &mut Html, subject: &str) {
    let node = subject.strip_prefix("node/");
    match node.and_then(|node| node.split_once('/')) {
        Some((cluster, node)) => {
            h.raw("node ");
            h.node(cluster, node);
        }
        None if subject.starts_with("spiffe://") => h.certificates_of(subject),
        None => h.identity(subject),
    }
}

/// Of what identities its certificates are, as many as there is room for.
fn identities(h: &mut Html, denial: &wire::Denial) {
    if denial.identities.is_empty() {
        h.raw("–");
        return;
    }
    for (place, identity) in denial.identities.iter().take(SHOWN).enumerate() {
        if place > 0 {
            h.raw("<br>");
        }
        h.certificates_of(identity);
    }
    let left = denial.identity_count.saturating_sub(SHOWN as u64);
    if left > 0 {
        put!(h, "<br>and " {grouped(left)} " more");
    }
}
