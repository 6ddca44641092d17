//! What is written into clusters, as metrics.

use std::fmt;
use std::sync::Arc;

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::{ClusterLabel, WriteLabel};
use crate::publish::Health;

/// Objects that hold the roots and that do not, and writes.
pub(super) fn encode(
    encoder: &mut DescriptorEncoder<'_>,
    clusters: &[(Arc<str>, Health)],
) -> Result<(), fmt::Error> {
    if clusters.is_empty() {
        return Ok(());
    }
    type Read = fn(&Health) -> u64;
    let gauges: [(&str, &str, Read); 2] = [
        (
            "arx_ca_published_objects",
            "Objects that hold the roots which are published, by cluster",
            |health| health.current,
        ),
        (
            "arx_ca_unpublished_objects",
            "Objects that are to hold them and do not, by cluster",
            |health| health.behind,
        ),
    ];
    for (name, help, read) in gauges {
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (cluster, health) in clusters {
            let cluster = cluster.to_string();
            let value = ConstGauge::new(i64::try_from(read(health)).unwrap_or(i64::MAX));
            value.encode(metric.encode_family(&ClusterLabel { cluster })?)?;
        }
    }
    let mut writes = encoder.encode_descriptor(
        "arx_ca_publish_writes",
        "Writes of such objects, by cluster and outcome",
        None,
        MetricType::Counter,
    )?;
    for (cluster, health) in clusters {
        for (outcome, count) in health.writes {
            let label = WriteLabel {
                cluster: cluster.to_string(),
                outcome,
            };
            ConstCounter::new(count).encode(writes.encode_family(&label)?)?;
        }
    }
    Ok(())
}
