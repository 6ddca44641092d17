//! An agent in the words of the admin API.

use arx_daemon::clock::unix_ms;
use arx_identity::Sequence;
use arx_proto::admin::v1 as wire;
use bytes::Bytes;

use crate::ca::Ca;
use crate::fleet::Agent;

/// What is told of an agent in a list; `newest` is the bundle that it should have.
pub(crate) fn agent(ca: &Ca, agent: &Agent, newest: Sequence) -> wire::Agent {
    let name = agent.name();
    let counts = agent.counts(newest);
    let trust = agent.trust().unwrap_or_default();
    let since = match agent.is_connected() {
        true => agent.since(),
        false => agent.away_since(),
    };
    wire::Agent {
        replica: ca.replica.to_string(),
        spiffe_id: ca
            .node_id(name)
            .map(|id| id.as_str().to_owned())
            .unwrap_or_default(),
        cluster: name.cluster.to_string(),
        node: name.node.to_string(),
        connected: agent.is_connected(),
        since_unix_ms: since.map_or(0, unix_ms),
        software: agent.software().to_owned(),
        instance_id: Bytes::copy_from_slice(agent.instance_id()),
        clock_offset_ms: agent.clock_offset_ms(),
        trust_epoch: trust.epoch,
        trust_number: trust.number,
        leaves: counts.leaves,
        subscribers: counts.subscribers,
        subscribers_confirmed: counts.confirmed,
        nacks: counts.nacks,
        certificate_not_after_unix_ms: agent.node_not_after().map_or(0, unix_ms),
    }
}
