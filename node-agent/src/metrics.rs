//! What an operator can see of the agent in numbers.

use crate::workloads::Report;
use arx_identity::SpiffeId;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Upper bounds of the push-to-ACK histogram, in seconds.
const ACK_SECONDS: [f64; 13] = [
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0, 30.0, 120.0,
];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Identity {
    spiffe_id: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Renewal {
    kind: &'static str,
    outcome: &'static str,
    code: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Follows {
    replica: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Nack {
    resource: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Rejected {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Csi {
    call: &'static str,
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SequencePart {
    part: &'static str,
}

/// The agent's own metrics. Clones are the same ones.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    expiry: Family<Identity, Gauge>,
    renewals: Family<Renewal, Counter>,
    acks: Histogram,
    nacks: Family<Nack, Counter>,
    rejected: Family<Rejected, Counter>,
    trust: Family<SequencePart, Gauge>,
    csi: Family<Csi, Counter>,
    pub(crate) pod_volumes: Gauge,
    pub(crate) streams: Gauge,
    pub(crate) connections: Gauge,
    pub(crate) workloads: Gauge,
    pub(crate) subscribers: Gauge,
    pub(crate) follow_connected: Gauge,
    follows: Family<Follows, Gauge>,
    pub(crate) failovers: Counter,
    pub(crate) cache_failures: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            expiry: Family::default(),
            renewals: Family::default(),
            acks: Histogram::new(ACK_SECONDS),
            nacks: Family::default(),
            rejected: Family::default(),
            trust: Family::default(),
            csi: Family::default(),
            pod_volumes: Gauge::default(),
            streams: Gauge::default(),
            connections: Gauge::default(),
            workloads: Gauge::default(),
            subscribers: Gauge::default(),
            follow_connected: Gauge::default(),
            follows: Family::default(),
            failovers: Counter::default(),
            cache_failures: Counter::default(),
        }
    }
}

impl Metrics {
    /// Makes them visible in `registry`.
    pub(crate) fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("arx_agent");
        registry.register(
            "svid_expiry_timestamp_seconds",
            "When the certificate in use ends, since 1970",
            self.expiry.clone(),
        );
        registry.register(
            "renewals",
            "Attempts to get a certificate, by kind (first, renewal), outcome and reason code",
            self.renewals.clone(),
        );
        registry.register(
            "push_ack_seconds",
            "From a secret's departure to the proxy's ACK",
            self.acks.clone(),
        );
        registry.register("nacks", "Secrets that a proxy refused", self.nacks.clone());
        registry.register(
            "rejected",
            "Connections and streams that were not served",
            self.rejected.clone(),
        );
        registry.register(
            "trust_sequence",
            "Sequence of the roots that are served",
            self.trust.clone(),
        );
        registry.register(
            "csi_calls",
            "Calls of the kubelet, by call (publish, unpublish) and reason code, or OK",
            self.csi.clone(),
        );
        registry.register(
            "pod_volumes",
            "Volumes of pods that are published, each with a socket",
            self.pod_volumes.clone(),
        );
        registry.register("streams", "Open SDS streams", self.streams.clone());
        registry.register(
            "connections",
            "Open connections of proxies",
            self.connections.clone(),
        );
        registry.register(
            "workloads",
            "Identities that are kept",
            self.workloads.clone(),
        );
        registry.register(
            "subscribers",
            "Resources that processes hold or may hold",
            self.subscribers.clone(),
        );
        registry.register(
            "follow_connected",
            "Whether the connection to the authority is up",
            self.follow_connected.clone(),
        );
        registry.register(
            "authority_preferred",
            "By the replica that was last connected to: 1 if it is the one of this node's order, 0 if that is away",
            self.follows.clone(),
        );
        registry.register(
            "authority_failovers",
            "Times that a replica of the authority was left for another because it failed",
            self.failovers.clone(),
        );
        registry.register(
            "cache_failures",
            "Writes of the sealed cache that failed",
            self.cache_failures.clone(),
        );
    }

    pub(crate) fn serves(&self, id: &SpiffeId, until: SystemTime) {
        let until = until.duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = i64::try_from(until.as_secs()).unwrap_or(i64::MAX);
        self.expiry.get_or_create(&Identity::of(id)).set(seconds);
    }

    pub(crate) fn serves_no_more(&self, id: &SpiffeId) {
        self.expiry.remove(&Identity::of(id));
    }

    pub(crate) fn attempt(&self, report: &Report) {
        let labels = Renewal {
            kind: if report.renewal { "renewal" } else { "first" },
            outcome: report.outcome,
            code: report.code.clone(),
        };
        self.renewals.get_or_create(&labels).inc();
    }

    pub(crate) fn csi(&self, call: &'static str, code: &'static str) {
        self.csi.get_or_create(&Csi { call, code }).inc();
    }

    /// Only the last one is shown.
    pub(crate) fn follows(&self, replica: &str, preferred: bool) {
        self.follows.clear();
        let replica = replica.chars().take(64).collect();
        let labels = Follows { replica };
        self.follows.get_or_create(&labels).set(preferred.into());
    }

    pub(crate) fn acked(&self, after: Duration) {
        self.acks.observe(after.as_secs_f64());
    }

    pub(crate) fn nacked(&self, resource: &'static str, detail: &str) {
        let reason = nack_reason(detail);
        self.nacks.get_or_create(&Nack { resource, reason }).inc();
    }

    pub(crate) fn rejected(&self, reason: &'static str) {
        self.rejected.get_or_create(&Rejected { reason }).inc();
    }

    pub(crate) fn trust(&self, sequence: arx_identity::Sequence) {
        for (part, value) in [("epoch", sequence.epoch), ("number", sequence.number)] {
            let value = i64::try_from(value).unwrap_or(i64::MAX);
            self.trust.get_or_create(&SequencePart { part }).set(value);
        }
    }
}

impl Identity {
    fn of(id: &SpiffeId) -> Self {
        Self {
            spiffe_id: id.to_string(),
        }
    }
}

/// A proxy's words are its own; only what they resemble becomes a label.
pub(crate) fn nack_reason(detail: &str) -> &'static str {
    let detail = detail.to_ascii_lowercase();
    let known = [
        ("trusted ca", "trusted_ca"),
        ("private key", "private_key"),
        ("certificate chain", "certificate_chain"),
        ("ocsp", "ocsp"),
        ("crl", "crl"),
        ("no san", "validator"),
        ("unable to", "unparsable"),
        ("unexpected", "unexpected"),
    ];
    known
        .iter()
        .find(|(words, _)| detail.contains(words))
        .map_or("other", |(_, reason)| reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::encoding::text::encode;

    #[test]
    fn the_names_are_those_that_operators_are_told() -> Result<(), std::fmt::Error> {
        let metrics = Metrics::default();
        let id = crate::testing::id("/a");
        metrics.serves(&id, UNIX_EPOCH + Duration::from_secs(7));
        metrics.acked(Duration::from_millis(3));
        metrics.nacked("certificate", "Failed to load private key from <inline>");
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let mut text = String::new();
        encode(&mut text, &registry)?;
        for line in [
            "arx_agent_svid_expiry_timestamp_seconds{spiffe_id=\"spiffe://example.org/a\"} 7",
            "arx_agent_push_ack_seconds_count 1",
            "arx_agent_nacks_total{resource=\"certificate\",reason=\"private_key\"} 1",
            "arx_agent_streams 0",
            "arx_agent_follow_connected 0",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        metrics.serves_no_more(&id);
        let mut text = String::new();
        encode(&mut text, &registry)?;
        assert!(!text.contains("example.org"));
        Ok(())
    }

    #[test]
    fn whatever_a_proxy_says_becomes_one_of_few_reasons() {
        assert_eq!(
            nack_reason("Failed to load trusted CA certificate"),
            "trusted_ca"
        );
        assert_eq!(nack_reason("\u{7}{}"), "other");
    }
}
