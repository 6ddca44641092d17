//! Telling agents to renew what stands under the root that leaves.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use arx_identity::KeyId;
use arx_proto::node::v1 as node;
use bytes::Bytes;

use crate::caller::NodeName;
use crate::fleet::Fleet;
use crate::node_api::unix_ms;
use crate::state::Rotation;

/// Which agents were told to renew, and since when each had been connected then.
#[derive(Debug, Default)]
pub struct Hints {
    phase: Option<(String, SystemTime)>,
    told: HashMap<NodeName, Option<SystemTime>>,
}

impl Hints {
    /// Tells each agent to renew by then what it holds under `root`, once for each time that
    /// it has connected in this phase.
    pub fn tell(&mut self, fleet: &Fleet, rotation: &Rotation, root: KeyId, by: SystemTime) {
        let phase = Some((rotation.id.clone(), rotation.phase_began));
        if self.phase != phase {
            *self = Self {
                phase,
                ..Self::default()
            };
        }
        let hint = Arc::new(node::AuthorityMessage {
            message: Some(node::authority_message::Message::Renew(node::RenewalHint {
                issuer_key_id: Bytes::copy_from_slice(root.as_bytes()),
                serials: Vec::new(),
                renew_by_unix_ms: unix_ms(by),
                reason: format!("rotation {}", rotation.id),
            })),
        });
        let mut connected = HashMap::new();
        let (agents, _) = fleet.page(None, usize::MAX, |agent| {
            agent
                .is_connected()
                .then(|| (agent.name().clone(), agent.since()))
        });
        connected.extend(agents.into_iter().flatten());
        let told = &mut self.told;
        fleet.tell(&hint, |name| match connected.get(name) {
            Some(since) if told.get(name) != Some(since) => {
                told.insert(name.clone(), *since);
                true
            }
            _ => false,
        });
    }
}
