//! `arx agents`: the node agents, and how far each of them is.

use std::path::Path;

use arx_proto::admin::v1 as wire;
use serde_json::{Value, json};

use crate::client::{Client, Failure, connect};
use crate::output::{Output, Style, columns, hex, instant_json};

/// Entries that are asked for at a time.
const PAGE: u32 = 500;

pub(crate) async fn run(
    socket: &Path,
    style: Style,
    away: bool,
    limit: usize,
) -> Result<Output, Failure> {
    let mut agents = all(&mut connect(socket).await?).await?;
    if away {
        agents.retain(|agent| !agent.connected);
    }
    let found = agents.len();
    agents.truncate(limit);
    if style.json {
        let agents = agents.iter().map(to_json).collect();
        return Ok(Output::json(&Value::Array(agents)));
    }
    let rows: Vec<_> = agents.iter().map(|agent| row(agent, style)).collect();
    let heading = [
        "NODE",
        "STATE",
        "SINCE",
        "TRUST",
        "LEAVES",
        "CONFIRMED",
        "NACKS",
        "CERT ENDS",
        "CLOCK",
        "SOFTWARE",
    ];
    let mut text = columns(&heading, &rows);
    if found > limit {
        text.push_str(&format!(
            "only the first {limit} of {found}; --limit shows more\n"
        ));
    }
    Ok(Output::text(&text))
}

/// All agents, page by page.
pub(crate) async fn all(client: &mut Client) -> Result<Vec<wire::Agent>, Failure> {
    let mut agents = Vec::new();
    let mut page_token = String::new();
    loop {
        let page = client
            .list_agents(wire::ListAgentsRequest {
                page_size: PAGE,
                page_token,
            })
            .await?
            .into_inner();
        agents.extend(page.agents);
        page_token = page.page_token;
        if page_token.is_empty() {
            return Ok(agents);
        }
    }
}

fn row(agent: &wire::Agent, style: Style) -> Vec<String> {
    let state = if agent.connected { "connected" } else { "away" };
    vec![
        format!("{}/{}", agent.cluster, agent.node),
        state.to_owned(),
        style.time(agent.since_unix_ms),
        format!("{}.{}", agent.trust_epoch, agent.trust_number),
        agent.leaves.to_string(),
        format!("{}/{}", agent.subscribers_confirmed, agent.subscribers),
        agent.nacks.to_string(),
        style.time(agent.certificate_not_after_unix_ms),
        format!("{}ms", agent.clock_offset_ms),
        agent.software.clone(),
    ]
}

fn to_json(agent: &wire::Agent) -> Value {
    json!({
        "spiffe_id": agent.spiffe_id, "cluster": agent.cluster, "node": agent.node, "connected": agent.connected,
        "since": instant_json(agent.since_unix_ms), "software": agent.software, "instance_id": hex(&agent.instance_id),
        "clock_offset_ms": agent.clock_offset_ms, "trust_sequence": format!("{}.{}", agent.trust_epoch, agent.trust_number),
        "leaves": agent.leaves, "subscribers": agent.subscribers, "subscribers_confirmed": agent.subscribers_confirmed,
        "nacks": agent.nacks, "certificate_not_after": instant_json(agent.certificate_not_after_unix_ms),
    })
}
