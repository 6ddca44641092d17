//! `arx ledger search`: what all replicas have recorded, and who of them has not answered.

use arx_proto::admin::v1 as wire;
use serde_json::{Value, json};

use crate::client::{Client, Failure};
use crate::output::{Output, Style, columns};
use crate::unanswered::Unanswered;

/// Nothing was found, and not everybody has said that there is nothing.
const NOT_KNOWN: u8 = 4;
/// Records that are asked for at a time.
const PAGE: usize = 500;

/// What was found, up to a limit.
#[derive(Default)]
struct Found {
    records: Vec<Value>,
    /// There are more.
    more: bool,
    /// How many replicas there are.
    replicas: u32,
    unanswered: Unanswered,
}

pub(super) async fn run(
    client: &mut Client,
    style: Style,
    request: wire::SearchLedgerRequest,
    limit: usize,
) -> Result<Output, Failure> {
    let found = find(client, request, limit).await?;
    let mut output = match style.json {
        true => Output::json(&found.json()),
        false => Output::text(&found.text(limit)),
    };
    output.exit_code = match (found.records.is_empty(), found.unanswered.is_empty()) {
        (false, _) => 0,
        (true, true) => 1,
        (true, false) => NOT_KNOWN,
    };
    Ok(output)
}

async fn find(
    client: &mut Client,
    mut request: wire::SearchLedgerRequest,
    limit: usize,
) -> Result<Found, Failure> {
    let mut found = Found::default();
    loop {
        let left = limit.saturating_sub(found.records.len()).min(PAGE);
        request.page_size = u32::try_from(left).unwrap_or(u32::MAX);
        let page = client.search_ledger(request.clone()).await?.into_inner();
        for record in &page.records {
            let record = serde_json::from_str(record).map_err(|error| {
                Failure::Failed(format!(
                    "the authority sent a record that is no JSON: {error}"
                ))
            })?;
            found.records.push(record);
        }
        found.replicas = found.replicas.max(page.replicas);
        found.unanswered.note(page.unanswered);
        found.more = !page.page_token.is_empty();
        if !found.more || found.records.len() >= limit {
            return Ok(found);
        }
        request.page_token = page.page_token;
    }
}

impl Found {
    fn json(&self) -> Value {
        json!({
            "records": self.records, "more": self.more, "replicas": self.replicas,
            "unanswered": self.unanswered.json(),
        })
    }

    fn text(&self, limit: usize) -> String {
        let mut text = match &self.records[..] {
            [] => "no record\n".to_owned(),
            records if self.replicas > 1 => {
                let rows: Vec<_> = records.iter().map(row).collect();
                columns(
                    &["TIME", "EVENT", "WHO", "SERIAL", "NODE", "LEDGER", "WHY"],
                    &rows,
                )
            }
            records => {
                let mut rows: Vec<_> = records.iter().map(row).collect();
                for row in &mut rows {
                    row.remove(LEDGER);
                }
                columns(&["TIME", "EVENT", "WHO", "SERIAL", "NODE", "WHY"], &rows)
            }
        };
        if self.more {
            text.push_str(&format!("only the newest {limit}; --limit shows more\n"));
        }
        text.push_str(&self.unanswered.gaps(self.replicas));
        text
    }
}

/// Where the ledger's replica stands in a row.
const LEDGER: usize = 5;

/// Of a record, with the replica whose ledger has it.
fn row(record: &Value) -> Vec<String> {
    let text = |keys: &[&str]| {
        let found = keys.iter().find_map(|key| record[*key].as_str());
        found.unwrap_or("-").to_owned()
    };
    vec![
        text(&["time"]),
        text(&["event"]),
        text(&["spiffe_id", "who", "replica"]),
        text(&["serial", "code"]),
        text(&["node"]),
        text(&["ledger"]),
        text(&["evidence", "message", "reason", "detail"]),
    ]
}
