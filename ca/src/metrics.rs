//! What the authority counts. Gauges are read when somebody asks, not kept.

mod published;
mod rotation;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

pub use self::rotation::{RootLabel, Rotating};
use crate::pods::{Health, Outcome};
use crate::publish;
use crate::state::Phase;

/// For whom a certificate is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A node, at its join.
    Join,
    /// A node, renewed.
    Node,
    /// A workload.
    Workload,
    /// The authority itself.
    Own,
    /// An authority below it.
    Nested,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Join => "join",
            Self::Node => "node",
            Self::Workload => "workload",
            Self::Own => "own",
            Self::Nested => "nested",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabel {
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

/// All counters; clones count together.
#[derive(Clone)]
pub struct Metrics {
    issued: Family<KindLabel, Counter<u64, AtomicU64>>,
    refused: Family<CodeLabel, Counter<u64, AtomicU64>>,
    issue_seconds: Histogram,
    connections: Gauge<i64, AtomicI64>,
    handshake_failures: Counter<u64, AtomicU64>,
    superseded: Counter<u64, AtomicU64>,
    reloads: Family<OutcomeLabel, Counter<u64, AtomicU64>>,
    rotations: Family<OutcomeLabel, Counter<u64, AtomicU64>>,
    forced_gates: Counter<u64, AtomicU64>,
    issued_total: Arc<AtomicU64>,
    refused_total: Arc<AtomicU64>,
}

/// Counts a connection as open until it is dropped.
#[derive(Debug)]
pub struct OpenConnection(Gauge<i64, AtomicI64>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    /// Counters, all at zero, registered in `registry`.
    pub fn new(registry: &mut Registry) -> Self {
        let seconds = [
            0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0,
        ];
        let metrics = Self {
            issued: Family::default(),
            refused: Family::default(),
            issue_seconds: Histogram::new(seconds),
            connections: Gauge::default(),
            handshake_failures: Counter::default(),
            superseded: Counter::default(),
            reloads: Family::default(),
            rotations: Family::default(),
            forced_gates: Counter::default(),
            issued_total: Arc::default(),
            refused_total: Arc::default(),
        };
        registry.register(
            "arx_ca_certificates_issued",
            "Certificates issued, by kind",
            metrics.issued.clone(),
        );
        registry.register(
            "arx_ca_refusals",
            "Requests and items refused, by reason code",
            metrics.refused.clone(),
        );
        registry.register_with_unit(
            "arx_ca_issue",
            "From a call's arrival until its records are durable",
            Unit::Seconds,
            metrics.issue_seconds.clone(),
        );
        registry.register(
            "arx_ca_connections",
            "Open connections of nodes",
            metrics.connections.clone(),
        );
        registry.register(
            "arx_ca_handshake_failures",
            "Connections that failed in the TLS handshake",
            metrics.handshake_failures.clone(),
        );
        registry.register(
            "arx_ca_nodes_superseded",
            "Connected agents that were cut off by a join with a newer token: look into each",
            metrics.superseded.clone(),
        );
        registry.register(
            "arx_ca_configuration_reloads",
            "Reloads of the configuration, by outcome",
            metrics.reloads.clone(),
        );
        registry.register(
            "arx_ca_rotations",
            "Rotations of the root that have ended, by outcome",
            metrics.rotations.clone(),
        );
        registry.register(
            "arx_ca_rotation_forced_gates",
            "Gates of rotations that were passed though somebody had not confirmed",
            metrics.forced_gates.clone(),
        );
        // There from the start, so that the first one is seen as a step from zero.
        metrics.rotations_ended(Phase::Done, 0);
        metrics.rotations_ended(Phase::Aborted, 0);
        metrics
    }

    /// Certificates were issued.
    pub fn issued(&self, kind: Kind, count: usize) {
        let count = count as u64;
        self.issued
            .get_or_create(&KindLabel { kind: kind.name() })
            .inc_by(count);
        self.issued_total
            .fetch_add(count, std::sync::atomic::Ordering::Relaxed);
    }

    /// A request or an item was refused.
    pub fn refused(&self, code: &'static str) {
        self.refused.get_or_create(&CodeLabel { code }).inc();
        self.refused_total
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }

    /// Certificates issued, and requests refused, since the start.
    #[must_use]
    pub fn totals(&self) -> (u64, u64) {
        let read = |total: &AtomicU64| total.load(std::sync::atomic::Ordering::Relaxed);
        (read(&self.issued_total), read(&self.refused_total))
    }

    /// A call took this long.
    pub fn took(&self, time: Duration) {
        self.issue_seconds.observe(time.as_secs_f64());
    }

    /// A connection was opened.
    #[must_use]
    pub fn connection(&self) -> OpenConnection {
        self.connections.inc();
        OpenConnection(self.connections.clone())
    }

    /// A connection failed in its handshake.
    pub fn handshake_failed(&self) {
        self.handshake_failures.inc();
    }

    /// A connected agent was cut off by another join.
    pub fn superseded(&self) {
        self.superseded.inc();
    }

    /// The configuration was read again.
    pub fn reloaded(&self, taken: bool) {
        let outcome = if taken { "taken" } else { "refused" };
        self.reloads.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// Rotations came to an end in this phase.
    pub fn rotations_ended(&self, phase: Phase, count: u64) {
        let outcome = phase.as_str();
        self.rotations
            .get_or_create(&OutcomeLabel { outcome })
            .inc_by(count);
    }

    /// Gates were passed though they were shut.
    pub fn gates_forced(&self, count: u64) {
        self.forced_gates.inc_by(count);
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

/// What is read when somebody asks.
#[derive(Clone, Debug, Default)]
pub struct Readings {
    /// Items that wait to be signed.
    pub queue: usize,
    /// Agents whose Follow is open.
    pub agents_connected: usize,
    /// Agents that are known.
    pub agents_known: usize,
    /// Certificates that are valid, once the index is there.
    pub live_certificates: Option<u64>,
    /// Records in the ledger.
    pub ledger_records: u64,
    /// Bytes of the ledger.
    pub ledger_bytes: u64,
    /// Whether the authority above can be heard, if there is one.
    pub upstream_reachable: Option<bool>,
    /// Whether the key that signs intermediates can be reached.
    pub root_key_reachable: bool,
    /// Records that wait to be gathered, and that were removed before they were, if any are.
    pub sink: Option<(u64, u64)>,
    /// Whether this replica leads.
    pub leads: bool,
    /// Whether it was restored from a backup and issues nothing yet.
    pub is_shut: bool,
    /// End of each authority's certificate, by role.
    pub authority_ends: Vec<(&'static str, SystemTime)>,
    /// When each is due to be renewed by itself, by role.
    pub authority_renewals: Vec<(&'static str, SystemTime)>,
    /// All roots, and their ends.
    pub roots: Vec<(RootLabel, SystemTime)>,
    /// The rotation that is under way.
    pub rotating: Rotating,
    /// Whether what lies in the operator's files is in use, if there are any.
    pub files_in_use: Option<bool>,
    /// What is known of pods, by cluster.
    pub(crate) pods: Vec<(Arc<str>, Health)>,
    /// What is written into clusters, by cluster.
    pub(crate) published: Vec<(Arc<str>, publish::Health)>,
    /// Denials that are in force.
    pub denials: usize,
    /// Number of the bundle's sequence.
    pub bundle_number: u64,
    /// Generation of the configuration.
    pub generation: u64,
}

/// Reads gauges when they are asked for, and there is something to read.
pub struct Gauges<F>(pub F);

impl<F> fmt::Debug for Gauges<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gauges")
    }
}

#[derive(Clone, Debug, EncodeLabelSet)]
struct ClusterLabel {
    cluster: String,
}

#[derive(Clone, Debug, EncodeLabelSet)]
struct WriteLabel {
    cluster: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet)]
struct RoleLabel {
    role: &'static str,
}

impl<F: Fn() -> Option<Readings> + Send + Sync + 'static> Collector for Gauges<F> {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let Some(readings) = (self.0)() else {
            return Ok(());
        };
        let gauge = |value: u64| ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
        let mut one = |name: &str, help: &str, value: u64| {
            let value = gauge(value);
            value.encode(encoder.encode_descriptor(name, help, None, value.metric_type())?)
        };
        one(
            "arx_ca_queue",
            "Items that wait to be signed",
            readings.queue as u64,
        )?;
        one(
            "arx_ca_agents_connected",
            "Agents whose Follow stream is open",
            readings.agents_connected as u64,
        )?;
        one(
            "arx_ca_agents_known",
            "Agents that are known",
            readings.agents_known as u64,
        )?;
        one(
            "arx_ca_root_key_reachable",
            "1 if the key that signs intermediates could be reached at the last look",
            u64::from(readings.root_key_reachable),
        )?;
        one(
            "arx_ca_leads",
            "1 while this replica takes the steps of rotations and writes into clusters",
            u64::from(readings.leads),
        )?;
        one(
            "arx_ca_restore_shut",
            "1 while a restored state is not open, and nothing is issued",
            u64::from(readings.is_shut),
        )?;
        if let Some((waiting, missed)) = readings.sink {
            one(
                "arx_ca_ledger_sink_waiting",
                "Records that were not yet written to where they are gathered",
                waiting,
            )?;
            one(
                "arx_ca_ledger_sink_missed",
                "Records that were removed before they were gathered, since the start",
                missed,
            )?;
        }
        if let Some(reachable) = readings.upstream_reachable {
            one(
                "arx_ca_upstream_reachable",
                "1 if the Arx above has answered when it was last asked what it trusts",
                u64::from(reachable),
            )?;
        }
        if let Some(live) = readings.live_certificates {
            one(
                "arx_ca_live_certificates",
                "Certificates that are valid",
                live,
            )?;
        }
        if let Some(in_use) = readings.files_in_use {
            one(
                "arx_ca_files_in_use",
                "Whether what lies in the operator's certificate and key file is in use",
                u64::from(in_use),
            )?;
        }
        one(
            "arx_ca_ledger_records",
            "Records in the ledger",
            readings.ledger_records,
        )?;
        one(
            "arx_ca_ledger_size_bytes",
            "Size of the ledger",
            readings.ledger_bytes,
        )?;
        one(
            "arx_ca_bundle_number",
            "Number of the trust bundle's sequence",
            readings.bundle_number,
        )?;
        one(
            "arx_ca_configuration_generation",
            "Generation of the configuration",
            readings.generation,
        )?;
        one(
            "arx_ca_denials",
            "Denials that are in force",
            readings.denials as u64,
        )?;
        times(
            &mut encoder,
            "arx_ca_authority_expiry_timestamp",
            "End of the authorities' certificates, since 1970",
            &readings.authority_ends,
        )?;
        times(
            &mut encoder,
            "arx_ca_authority_renewal_timestamp",
            "When the authorities' certificates are due to be renewed, since 1970",
            &readings.authority_renewals,
        )?;
        pods(&mut encoder, &readings.pods)?;
        published::encode(&mut encoder, &readings.published)?;
        rotation::encode_roots(&readings.roots, &mut encoder)?;
        readings.rotating.encode(&mut encoder)
    }
}

/// What is known of the pods of each cluster where they are watched.
fn pods(
    encoder: &mut DescriptorEncoder<'_>,
    clusters: &[(Arc<str>, Health)],
) -> Result<(), fmt::Error> {
    type Read = fn(&Health) -> Option<f64>;
    let metrics: [(&str, &str, Option<&Unit>, Read); 3] = [
        (
            "arx_ca_pods",
            "Pods that are known, by cluster",
            None,
            |health| Some(health.pods as f64),
        ),
        (
            "arx_ca_pods_age",
            "Since the API server was last heard that tells of pods, by cluster",
            Some(&Unit::Seconds),
            |health| health.age.map(|age| age.as_secs_f64()),
        ),
        (
            "arx_ca_pods_stale",
            "1 while the pods of a cluster are not known, or not any more, and its tokens are refused",
            None,
            |health| Some(f64::from(u8::from(health.is_stale))),
        ),
    ];
    for (name, help, unit, read) in metrics {
        let mut metric = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        for (cluster, health) in clusters {
            let cluster = cluster.to_string();
            if let Some(value) = read(health) {
                ConstGauge::new(value).encode(metric.encode_family(&ClusterLabel { cluster })?)?;
            }
        }
    }
    let mut notices = encoder.encode_descriptor(
        "arx_ca_refusal_events",
        "Events about refusals of pods, by cluster and outcome",
        None,
        MetricType::Counter,
    )?;
    for (cluster, health) in clusters {
        for (outcome, count) in Outcome::NAMES.into_iter().zip(health.notices) {
            let label = WriteLabel {
                cluster: cluster.to_string(),
                outcome,
            };
            ConstCounter::new(count).encode(notices.encode_family(&label)?)?;
        }
    }
    let mut events = encoder.encode_descriptor(
        "arx_ca_pod_events",
        "Changes of pods that were seen, by cluster",
        None,
        MetricType::Counter,
    )?;
    for (cluster, health) in clusters {
        let cluster = cluster.to_string();
        let label = ClusterLabel { cluster };
        ConstCounter::new(health.events).encode(events.encode_family(&label)?)?;
    }
    Ok(())
}

/// A moment for each role.
fn times(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    of_roles: &[(&'static str, SystemTime)],
) -> Result<(), fmt::Error> {
    let mut metric =
        encoder.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Gauge)?;
    for (role, time) in of_roles {
        ConstGauge::new(seconds(*time)).encode(metric.encode_family(&RoleLabel { role })?)?;
    }
    Ok(())
}

fn seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is read of it.
    fn told(readings: Readings) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Gauges(move || Some(readings.clone()))));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("a text");
        text
    }

    #[test]
    fn pods_that_are_not_known_and_not_known_any_more_are_told_as_stale() {
        let health = |age, is_stale| Health {
            pods: 1,
            age,
            failure: None,
            events: 0,
            is_stale,
            notices: [0; 4],
        };
        let hours = |hours: u64| Some(Duration::from_secs(hours * 3600));
        let text = told(Readings {
            pods: vec![
                ("new".into(), health(None, true)),
                ("well".into(), health(hours(0), false)),
                ("lost".into(), health(hours(2), true)),
            ],
            ..Readings::default()
        });
        for line in [
            "arx_ca_pods_stale{cluster=\"new\"} 1.0",
            "arx_ca_pods_stale{cluster=\"well\"} 0.0",
            "arx_ca_pods_stale{cluster=\"lost\"} 1.0",
            "arx_ca_pods_age_seconds{cluster=\"lost\"} 7200.0",
        ] {
            assert!(text.lines().any(|it| it == line), "{line} in:\n{text}");
        }
    }

    #[test]
    fn whether_this_replica_leads_is_told() {
        for leads in [false, true] {
            let text = told(Readings {
                leads,
                ..Readings::default()
            });
            let line = format!("arx_ca_leads {}", u8::from(leads));
            assert!(text.lines().any(|it| it == line), "{line} in:\n{text}");
        }
    }
}
