//! The benchmarks: what the release binaries of this workspace cost, measured from
//! outside.
//!
//! Each figure is measured five times; its value is the median. The programs under test
//! are processes of their own, their CPU time is that which the kernel counts for them
//! alone, and those who use them are other processes: this program starts itself again as
//! a client. Raw limits are measured in the same run. Nothing leaves loopback.

mod agent;
mod api_server;
mod authority;
mod client;
mod cluster;
mod cold_start;
mod cpu;
mod crowd;
mod failover;
mod fat;
mod figure;
mod issue;
mod join;
mod ledger;
mod pod_socket;
mod proxies;
mod raw;
mod real;
mod rotation;
mod start;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};

use crate::node;
use figure::{Figure, Table};

/// Measures the release binaries that lie beside this one.
#[derive(Debug, Parser)]
#[command(name = "arx-bench", version)]
struct Arguments {
    /// Where the figures are written, as JSON.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Only these figures; all of those that are measured together with them are shown.
    #[arg(long, value_name = "ID")]
    only: Vec<String>,
    /// Two repetitions and less load: shows that everything works, not how fast it is.
    #[arg(long)]
    quick: bool,
    /// The figures of an authority in a cluster instead of the others.
    #[arg(long)]
    kube: bool,
    /// Records in the ledger that is searched.
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    records: u64,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Plays a client; this program starts itself with it.
    #[command(hide = true)]
    Client {
        /// Which one, and what it is told, as JSON.
        role: String,
    },
}

/// How much is done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    /// Repetitions of each measurement.
    pub(crate) repetitions: usize,
    /// Load is divided by this.
    pub(crate) divisor: u64,
    /// Records in the ledger that is searched.
    pub(crate) records: u64,
}

impl Effort {
    /// `full`, or less in a quick run.
    pub(crate) fn of(self, full: u64) -> u64 {
        (full / self.divisor).max(1)
    }
}

/// The program.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("can't start")
        .and_then(|runtime| runtime.block_on(run(arguments)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("arx-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    if let Some(Role::Client { role }) = &arguments.role {
        return client::play(role).await;
    }
    let groups = if arguments.kube { KUBE } else { GROUPS };
    for id in &arguments.only {
        anyhow::ensure!(
            groups.iter().any(|group| group.ids.contains(&id.as_str())),
            "there is no figure {id}; there are {}",
            all_ids(groups).join(", ")
        );
    }
    let effort = Effort {
        repetitions: if arguments.quick { 2 } else { 5 },
        divisor: if arguments.quick { 10 } else { 1 },
        records: if arguments.quick {
            arguments.records / 10
        } else {
            arguments.records
        },
    };
    let mut table = Table::default();
    for group in groups {
        let wanted =
            |id: &&str| arguments.only.is_empty() || arguments.only.iter().any(|only| only == *id);
        if !group.ids.iter().any(wanted) {
            continue;
        }
        eprintln!("measuring {} ...", group.ids.join(", "));
        match (group.measure)(effort).await {
            Ok(figures) => table.add(figures),
            Err(error) => table.fail(group.ids, &error),
        }
    }
    table.print();
    if let Some(path) = &arguments.output {
        let json = table.json();
        std::fs::write(path, json).with_context(|| format!("can't write {}", path.display()))?;
    }
    anyhow::ensure!(!table.has_failures(), "not everything could be measured");
    Ok(())
}

type Measured = std::pin::Pin<Box<dyn Future<Output = anyhow::Result<Vec<Figure>>>>>;

/// Figures that are measured together.
struct Group {
    ids: &'static [&'static str],
    measure: fn(Effort) -> Measured,
}

const GROUPS: &[Group] = &[
    Group {
        ids: &["issue_batch50", "issue_single", "issue_single_4"],
        measure: |effort| Box::pin(authority::issuance(effort)),
    },
    Group {
        ids: &["join_rs256"],
        measure: |effort| Box::pin(authority::joins(effort)),
    },
    Group {
        ids: &["push_1000", "push_1000_node"],
        measure: |effort| Box::pin(agent::pushes(effort)),
    },
    Group {
        ids: &["rekey_250_ms", "agent_rss_mib"],
        measure: |effort| Box::pin(agent::rekey(effort)),
    },
    Group {
        ids: &["stream_kib", "stream_left_kib"],
        measure: |effort| Box::pin(agent::streams(effort)),
    },
    Group {
        ids: &["agent_conn_kib", "follow_push_1000"],
        measure: |effort| Box::pin(authority::fleet(effort)),
    },
    Group {
        ids: &["ca_rss_mib", "ca_ready_ms"],
        measure: |effort| Box::pin(start::authority(effort)),
    },
    Group {
        ids: &["agent_first_secret_ms"],
        measure: |effort| Box::pin(start::agent(effort)),
    },
    Group {
        ids: &["rotate_push_1000_ms", "rotate_push_1000_cpu"],
        measure: |effort| Box::pin(rotation::proxies(effort)),
    },
    Group {
        ids: &["rotate_agents_10k", "rotate_agent_kib"],
        measure: |effort| Box::pin(rotation::agents(effort)),
    },
    Group {
        ids: &["rotate_reissue_100k"],
        measure: |effort| Box::pin(rotation::reissue(effort)),
    },
    Group {
        ids: &["rotate_step_ms"],
        measure: |effort| Box::pin(rotation::step_and_persist(effort)),
    },
    Group {
        ids: &["ledger_search_ms"],
        measure: |effort| Box::pin(ledger::search(effort)),
    },
];

/// What is measured of an authority in a cluster.
const KUBE: &[Group] = &[
    Group {
        ids: &["cold_start_10k", "cold_start_reviews"],
        measure: |effort| Box::pin(cluster::cold_start(effort)),
    },
    Group {
        ids: &["index_mib_100k", "index_events"],
        measure: |effort| Box::pin(cluster::index(effort)),
    },
    Group {
        ids: &["index_mib_1k_real", "pod_gone_ms", "namespace_roots_ms"],
        measure: |effort| Box::pin(real::api_server(effort)),
    },
    Group {
        ids: &["pod_to_identity_ms"],
        measure: |effort| Box::pin(pod_socket::first_secret(effort)),
    },
    Group {
        ids: &["failover_s"],
        measure: |effort| Box::pin(failover::leader(effort)),
    },
];

fn all_ids(groups: &[Group]) -> Vec<&'static str> {
    groups.iter().flat_map(|group| group.ids).copied().collect()
}
