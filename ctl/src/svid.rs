//! `arx svid`: valid certificates, and asking for their early renewal.

use std::path::Path;
use std::time::Duration;

use arx_proto::admin::v1 as wire;
use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::client::{Client, Failure, connect};
use crate::output::{
    Output, Style, columns, count, hex, identity, instant, instant_json, limit, parse_span,
    relative, serial, span,
};

/// Entries that are asked for at a time.
const PAGE: u32 = 500;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List valid certificates, in the order of their identities.
    List {
        #[command(flatten)]
        which: Which,
        /// Stop after so many.
        #[arg(long, default_value_t = 1000, value_parser = limit)]
        limit: usize,
    },
    /// Show everything about one certificate.
    Show {
        /// Its serial number, in hex.
        #[arg(value_parser = serial)]
        serial: String,
    },
    /// Ask connected agents to renew early.
    Renew {
        #[command(flatten)]
        which: Which,
        /// Renew all of them; needed where nothing says which.
        #[arg(long)]
        all: bool,
        /// The renewals are spread over this long.
        #[arg(long, value_name = "SPAN", default_value = "1m", value_parser = parse_span)]
        within: Duration,
        /// For the logs.
        #[arg(long, default_value = "asked for by an operator")]
        reason: String,
    },
}

/// Which certificates.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Which {
    /// A SPIFFE id; for a list also the beginning of some, ending in `/`.
    #[arg(long, value_parser = identity)]
    identity: Option<String>,
    /// A node, as `CLUSTER/NODE`, or by its name alone where no other cluster has one of it.
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    node: Option<String>,
    /// A serial number, in hex.
    #[arg(long, value_parser = serial)]
    serial: Option<String>,
}

impl Which {
    fn is_everything(&self) -> bool {
        self.identity.is_none() && self.node.is_none() && self.serial.is_none()
    }
}

pub(crate) async fn run(socket: &Path, style: Style, command: Command) -> Result<Output, Failure> {
    match command {
        Command::List { which, limit } => {
            let (svids, more) = list(&mut connect(socket).await?, &which, limit).await?;
            if style.json {
                return Ok(Output::json(&Value::Array(
                    svids.iter().map(to_json).collect(),
                )));
            }
            let rows: Vec<_> = svids.iter().map(|svid| row(svid, style)).collect();
            let mut text = columns(&["IDENTITY", "NODE", "SERIAL", "ENDS", "ISSUED"], &rows);
            if more {
                text.push_str(&format!("only the first {limit}; --limit shows more\n"));
            }
            Ok(Output::text(&text))
        }
        Command::Show { serial } => {
            let which = Which {
                serial: Some(serial.clone()),
                ..Which::default()
            };
            let (svids, _) = list(&mut connect(socket).await?, &which, 1).await?;
            let svid = svids.first().ok_or_else(|| {
                Failure::Failed(format!("no valid certificate has serial number {serial}; `arx ledger search --serial {serial}` also finds those that have ended"))
            })?;
            Ok(if style.json {
                Output::json(&to_json(svid))
            } else {
                Output::text(&show(svid, style.now_ms))
            })
        }
        Command::Renew {
            which,
            all,
            within,
            reason,
        } => {
            if which.is_everything() != all {
                return Err(Failure::Usage(
                    "say which: --identity, --node or --serial; or --all".to_owned(),
                ));
            }
            let window_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
            let request = wire::RequestRenewalRequest {
                identity: which.identity.unwrap_or_default(),
                node: which.node.unwrap_or_default(),
                serial: which.serial.unwrap_or_default(),
                window_ms,
                reason,
                all,
            };
            let answer = connect(socket)
                .await?
                .request_renewal(request)
                .await?
                .into_inner();
            let well = answer.agents > 0;
            let output = if style.json {
                Output::json(&json!({"agents": answer.agents, "certificates": answer.certificates}))
            } else if well {
                Output::text(&format!(
                    "{} {} asked to renew {} within {}\n",
                    count(answer.agents, "agent"),
                    if answer.agents == 1 { "was" } else { "were" },
                    count(answer.certificates, "certificate"),
                    span(window_ms)
                ))
            } else {
                Output::text("no connected agent holds such a certificate\n")
            };
            Ok(output.well_if(well))
        }
    }
}

async fn list(
    client: &mut Client,
    which: &Which,
    limit: usize,
) -> Result<(Vec<wire::SvidRecord>, bool), Failure> {
    let mut svids = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = wire::ListSvidsRequest {
            page_size: PAGE,
            page_token,
            identity: which.identity.clone().unwrap_or_default(),
            node: which.node.clone().unwrap_or_default(),
            serial: which.serial.clone().unwrap_or_default(),
        };
        let page = client.list_svids(request).await?.into_inner();
        svids.extend(page.svids);
        page_token = page.page_token;
        if svids.len() > limit || (svids.len() == limit && !page_token.is_empty()) {
            svids.truncate(limit);
            return Ok((svids, true));
        }
        if page_token.is_empty() {
            return Ok((svids, false));
        }
    }
}

fn node(svid: &wire::SvidRecord) -> String {
    if svid.node.is_empty() {
        "-".to_owned()
    } else {
        format!("{}/{}", svid.cluster, svid.node)
    }
}

fn row(svid: &wire::SvidRecord, style: Style) -> Vec<String> {
    vec![
        svid.spiffe_id.clone(),
        node(svid),
        hex(&svid.serial),
        style.time(svid.not_after_unix_ms),
        style.time(svid.issued_unix_ms),
    ]
}

fn show(svid: &wire::SvidRecord, now_ms: i64) -> String {
    let lines = [
        ("identity", svid.spiffe_id.clone()),
        ("serial", hex(&svid.serial)),
        (
            "replaces",
            if svid.replaces_serial.is_empty() {
                "-".to_owned()
            } else {
                hex(&svid.replaces_serial)
            },
        ),
        ("valid from", instant(svid.not_before_unix_ms)),
        (
            "valid until",
            format!(
                "{} ({})",
                instant(svid.not_after_unix_ms),
                relative(svid.not_after_unix_ms, now_ms)
            ),
        ),
        ("issued", instant(svid.issued_unix_ms)),
        ("node", node(svid)),
        ("granted on", svid.evidence.clone()),
        ("key id", hex(&svid.key_id)),
        ("issuer key id", hex(&svid.issuer_key_id)),
        ("root key id", hex(&svid.root_key_id)),
    ];
    lines
        .iter()
        .map(|(name, value)| format!("{name:<14}{value}\n"))
        .collect()
}

fn to_json(svid: &wire::SvidRecord) -> Value {
    json!({
        "spiffe_id": svid.spiffe_id, "serial": hex(&svid.serial), "replaces": hex(&svid.replaces_serial),
        "not_before": instant_json(svid.not_before_unix_ms), "not_after": instant_json(svid.not_after_unix_ms),
        "issued": instant_json(svid.issued_unix_ms), "cluster": svid.cluster, "node": svid.node,
        "evidence": svid.evidence, "key_id": hex(&svid.key_id),
        "issuer_key_id": hex(&svid.issuer_key_id), "root_key_id": hex(&svid.root_key_id),
    })
}
