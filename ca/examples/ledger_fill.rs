//! Fills a ledger with certificates that were never issued, as many as a large mesh would
//! have, and tells how long it takes to start with it and to find something in it.

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use arx_ca::ledger::{Issued, Ledger, Options, Query, Record, Validity};
use arx_daemon::Clock;
use arx_identity::TrustDomain;
use arx_identity::crypto::sha256;
use clap::Parser;

/// Records of one commit.
const BATCH: u64 = 5000;
/// Searches of each kind.
const SEARCHES: u64 = 100;

#[derive(Parser)]
struct Arguments {
    /// Where the ledger lies; it goes on if there is one.
    #[arg(long)]
    directory: PathBuf,
    /// How many records.
    #[arg(long)]
    records: u64,
    /// Whose ledger it is.
    #[arg(long)]
    trust_domain: String,
    /// How many identities share them.
    #[arg(long, default_value_t = 1000)]
    identities: u64,
    /// Seconds that each certificate is valid, from now on.
    #[arg(long, default_value_t = 3600)]
    ttl: u64,
}

impl Arguments {
    fn options(&self) -> anyhow::Result<Options> {
        Ok(Options {
            directory: self.directory.clone(),
            trust_domain: self.trust_domain.parse::<TrustDomain>()?,
            segment_bytes: 64 * 1024 * 1024,
            gather: Duration::ZERO,
        })
    }

    fn identity(&self, number: u64) -> String {
        let of = number % self.identities.max(1);
        let domain = &self.trust_domain;
        format!("spiffe://{domain}/ns/namespace-{}/sa/service-{of}", of % 50)
    }

    fn record(&self, number: u64, start: u64, now: SystemTime) -> Record {
        let of = number % self.identities.max(1);
        let key =
            |of: &str, number: u64| sha256(format!("{of} {number}").as_bytes())[..20].to_vec();
        let issued = Issued {
            replica: "ca-1".to_owned(),
            cluster: "c1".to_owned(),
            node: format!("node-{}", of % 200),
            spiffe_id: self.identity(number),
            serial: serial(start, number),
            subject_key_id: key("subject", number),
            issuer_key_id: key("issuer", 1),
            root_key_id: key("root", 1),
            validity: Validity {
                not_before: now - Duration::from_secs(60),
                not_after: now + Duration::from_secs(self.ttl),
            },
            request_id: key("request", number)[..16].to_vec(),
            replaces: number
                .checked_sub(self.identities)
                .map(|before| serial(start, before))
                .unwrap_or_default(),
            agent_instance: key("agent", of % 200)[..16].to_vec(),
            evidence: format!(
                "token of system:serviceaccount:namespace-{}:service-{of} for pod service-{of}-0",
                of % 50
            ),
            policy_generation: 1,
            bundle_epoch: 1,
            bundle_number: 1,
            trace_id: Vec::new(),
        };
        Record::new(now, issued)
    }
}

/// 16 octets that no other record has, the first never zero.
fn serial(start: u64, number: u64) -> Vec<u8> {
    let mut serial = sha256(format!("{start} {number}").as_bytes())[..16].to_vec();
    serial[0] |= 0x40;
    serial
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let now = Clock::system().now();
    let (ledger, recovery) = Ledger::open(arguments.options()?, now)?;
    let start = recovery.records;
    let began = Instant::now();
    let mut waiting = None;
    for first in (0..arguments.records).step_by(usize::try_from(BATCH)?) {
        let last = arguments.records.min(first + BATCH);
        let records = (first..last).map(|number| arguments.record(number, start, now));
        let append = ledger.append(records.collect());
        // The next batch is made while this one is written.
        if let Some(before) = waiting.replace(append) {
            before.await?;
        }
    }
    if let Some(last) = waiting {
        last.await?;
    }
    let took = began.elapsed();
    let status = ledger.status();
    println!(
        "{} records in {took:.1?}: {} bytes in {} segments",
        arguments.records, status.bytes, status.segments
    );
    tokio::task::spawn_blocking(move || drop(ledger)).await?;
    measure(arguments, start, now).await
}

async fn measure(arguments: Arguments, start: u64, now: SystemTime) -> anyhow::Result<()> {
    let began = Instant::now();
    let (ledger, _) = Ledger::open(arguments.options()?, now)?;
    let open = began.elapsed();
    let live = ledger.live();
    live.ready().await;
    let ready = began.elapsed();
    println!(
        "open after {open:.1?}, {} live certificates known after {ready:.1?}",
        live.count(now)
    );
    tokio::task::spawn_blocking(move || {
        let search = |what: &str, query: &dyn Fn(u64) -> Query| {
            let mut slowest = Duration::ZERO;
            for step in 0..SEARCHES {
                let number = (arguments.records / SEARCHES * step).min(arguments.records - 1);
                let began = Instant::now();
                let found = ledger.search(&query(number), 100, "")?;
                slowest = slowest.max(began.elapsed());
                anyhow::ensure!(!found.records.is_empty(), "{number} was not found");
            }
            println!("{what} found in {slowest:.1?}, the slowest of {SEARCHES}");
            Ok(())
        };
        if arguments.records == 0 {
            return Ok(());
        }
        search("a serial", &|number| Query::Serial(serial(start, number)))?;
        search("an identity", &|number| {
            Query::Identity(arguments.identity(number))
        })
    })
    .await
    .context("the search was interrupted")?
}
