//! `arx ledger`: what was issued and refused, and whether the record of it holds.

mod search;

use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use arx_proto::admin::v1 as wire;
use clap::Subcommand;
use serde_json::json;

use crate::client::{Failure, connect};
use crate::output::{Output, Style, count, hex, limit, parse_span, serial};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Verify the hash of every record.
    Verify,
    /// Find the records of a serial number or an identity at all replicas, newest first.
    Search {
        /// A serial number, in hex.
        #[arg(
            long,
            conflicts_with = "identity",
            value_parser = serial
        )]
        serial: Option<String>,
        /// A SPIFFE id; also finds what was refused to a node's agent.
        #[arg(long)]
        identity: Option<String>,
        /// Stop after so many.
        #[arg(long, default_value_t = 50, value_parser = limit)]
        limit: usize,
        /// Only in the ledger of the replica that is asked.
        #[arg(long)]
        here: bool,
    },
    /// Print records as JSON lines, oldest first.
    Export {
        /// Only those of this last span, such as 1h or 7d.
        #[arg(long, value_name = "SPAN", value_parser = parse_span)]
        last: Option<Duration>,
    },
}

pub(crate) async fn run(socket: &Path, style: Style, command: Command) -> Result<Output, Failure> {
    if let Command::Search {
        serial: None,
        identity: None,
        ..
    } = &command
    {
        return Err(Failure::Usage(
            "say what to look for: --serial HEX, as `arx svid list` shows it, or --identity SPIFFE-ID".to_owned(),
        ));
    }
    let mut client = connect(socket).await?;
    match command {
        Command::Verify => {
            let report = client
                .verify_ledger(wire::VerifyLedgerRequest {})
                .await?
                .into_inner();
            let well = report.problems.is_empty();
            if style.json {
                let report = json!({
                    "records": report.records, "segments": report.segments,
                    "head_sha256": hex(&report.head_sha256), "problems": report.problems,
                });
                return Ok(Output::json(&report).well_if(well));
            }
            let mut text = format!(
                "{} in {}, head {}\n",
                count(report.records, "record"),
                count(report.segments, "segment"),
                hex(&report.head_sha256)
            );
            for problem in &report.problems {
                text.push_str(&format!("wrong: {problem}\n"));
            }
            text.push_str(if well {
                "the chain holds\n"
            } else {
                "the chain does NOT hold: keep the files, and compare them with a copy\n"
            });
            Ok(Output::text(&text).well_if(well))
        }
        Command::Search {
            serial,
            identity,
            limit,
            here,
        } => {
            let request = wire::SearchLedgerRequest {
                serial_hex: serial.unwrap_or_default(),
                identity: identity.unwrap_or_default(),
                here,
                ..wire::SearchLedgerRequest::default()
            };
            search::run(&mut client, style, request, limit).await
        }
        Command::Export { last } => {
            let since = last.map_or(0, |span| {
                let millis = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
                style.now_ms.saturating_sub(millis)
            });
            let request = wire::ExportLedgerRequest {
                since_unix_ms: since,
                until_unix_ms: 0,
            };
            let mut chunks = client.export_ledger(request).await?.into_inner();
            let mut out = std::io::stdout().lock();
            // Printed as it comes: a ledger may be larger than memory.
            while let Some(chunk) = chunks.message().await? {
                match out.write_all(&chunk.lines) {
                    Ok(()) => {}
                    Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => break,
                    Err(error) => return Err(Failure::Failed(error.to_string())),
                }
            }
            Ok(Output::text(""))
        }
    }
}
