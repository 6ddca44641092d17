//! Finding one certificate among very many.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use arx_ca::ledger::{Issued, Ledger, Options as LedgerOptions, Record, Validity};
use arx_identity::{TrustDomain, crypto};
use arx_proto::admin::v1::SearchLedgerRequest;
use serde::{Deserialize, Serialize};

use super::Effort;
use super::authority::mesh;
use super::client::{Boss, Client, Role};
use super::figure::{Figure, Goal};
use crate::mesh::TRUST_DOMAIN;
use crate::token_issuer::now;

/// Records of one commit.
const COMMIT: u64 = 1000;
/// Records of one identity.
const OF_ONE: u64 = 50;
const DAY: Duration = Duration::from_secs(86_400);

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Options {
    directory: PathBuf,
    records: u64,
}

/// Writes the records: certificates of last month, all of them expired.
pub(crate) async fn play(boss: &mut Boss, options: Options) -> anyhow::Result<()> {
    boss.say("ready", &())?;
    boss.order().await?.context("a ledger is asked for")?;
    let (ledger, _) = Ledger::open(
        LedgerOptions {
            directory: options.directory,
            trust_domain: TrustDomain::parse(TRUST_DOMAIN)?,
            segment_bytes: 64 << 20,
            gather: Duration::ZERO,
        },
        now(),
    )?;
    let issued = now() - 30 * DAY;
    for first in (0..options.records).step_by(usize::try_from(COMMIT)?) {
        let numbers = first..options.records.min(first + COMMIT);
        ledger
            .append(numbers.map(|number| record(number, issued)).collect())
            .await?;
    }
    tokio::task::spawn_blocking(move || ledger.close()).await?;
    boss.say("written", &())
}

fn record(number: u64, issued: std::time::SystemTime) -> Record {
    let [serial, key, request] = [1, 2, 3].map(|salt| bytes(number, salt));
    let issuer = bytes(0, 4);
    Record::new(
        issued,
        Issued {
            replica: "ca-1".to_owned(),
            cluster: "c1".to_owned(),
            node: format!("node-{}", number % 1000),
            spiffe_id: identity(number / OF_ONE),
            serial,
            subject_key_id: key,
            issuer_key_id: issuer.clone(),
            root_key_id: issuer,
            validity: Validity {
                not_before: issued,
                not_after: issued + DAY,
            },
            request_id: request,
            evidence: "token".to_owned(),
            ..Issued::default()
        },
    )
}

/// 16 bytes that look random and are the same each time.
fn bytes(number: u64, salt: u8) -> Vec<u8> {
    let mut bytes = crypto::sha256(&[&number.to_be_bytes()[..], &[salt]].concat())[..16].to_vec();
    bytes[0] = bytes[0] & 0x7f | 0x40;
    bytes
}

fn identity(number: u64) -> String {
    format!("spiffe://{TRUST_DOMAIN}/ns/bench/sa/web-{number}")
}

/// Searches for certificates and identities all over the ledger.
pub(crate) async fn search(effort: Effort) -> anyhow::Result<Vec<Figure>> {
    let mut mesh = mesh().await?;
    mesh.authority
        .take()
        .context("the authority runs")?
        .stop()
        .await?;
    let mut writer = Client::start(&Role::Ledger(Options {
        directory: mesh.directory.join("authority/ledger"),
        records: effort.records,
    }))
    .await?;
    writer.ask::<()>("write", "written").await?;
    mesh.start_authority().await?;
    let mut admin = mesh.admin().await?;
    let (mut slowest, mut serials, mut identities) = (vec![], vec![], vec![]);
    for run in 0..effort.repetitions {
        let number = effort.records * (run as u64 + 1) / (effort.repetitions as u64 + 1);
        let serial: String = bytes(number, 1)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let questions = [
            SearchLedgerRequest {
                serial_hex: serial,
                page_size: 100,
                ..SearchLedgerRequest::default()
            },
            SearchLedgerRequest {
                identity: identity(number / OF_ONE),
                page_size: 100,
                ..SearchLedgerRequest::default()
            },
        ];
        let mut times = Vec::new();
        for question in questions {
            let wanted = if question.identity.is_empty() {
                1
            } else {
                OF_ONE
            };
            let start = Instant::now();
            let mut found = admin.search_ledger(question.clone()).await?.into_inner();
            let mut records = found.records.len();
            while !found.page_token.is_empty() {
                let next = SearchLedgerRequest {
                    page_token: found.page_token,
                    ..question.clone()
                };
                found = admin.search_ledger(next).await?.into_inner();
                records += found.records.len();
            }
            times.push(start.elapsed().as_secs_f64() * 1e3);
            anyhow::ensure!(
                records as u64 == wanted,
                "{records} records found of {wanted}"
            );
        }
        serials.push(times[0]);
        identities.push(times[1]);
        slowest.push(times[0].max(times[1]));
    }
    let figure = Figure::new("ledger_search_ms", "ms", Goal::Below(100.0), slowest);
    Ok(vec![figure.note(format!(
        "of {} records; a serial takes {:.1} ms, an identity with {OF_ONE} records {:.1} ms",
        effort.records,
        super::figure::median(&serials),
        super::figure::median(&identities)
    ))])
}
