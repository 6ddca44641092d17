//! One agent in full, for whoever looks into it: what its node holds, and how each consumer
//! there stands.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arx_identity::{KeyId, Serial, TrustBundle};
use arx_proto::node::v1 as wire;

use super::Fleet;
use super::agent::Agent;
use super::gate::names::{LONGEST_DETAIL, LONGEST_NAME, process, shown};
use super::subscribers::{Kind, Stand};
use crate::caller::NodeName;
use crate::hex;

/// Everything that one agent has told of its node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Detail {
    /// Consumers, in the order of processes and resources.
    pub consumers: Vec<Consumer>,
    /// How many there are.
    pub consumer_count: usize,
    /// Leaves, in the order of their identities.
    pub leaves: Vec<HeldLeaf>,
    /// How many there are.
    pub leaf_count: usize,
    /// Whether it has told everything since it connected.
    pub complete: bool,
}

/// A resource that a process or a pod takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consumer {
    /// `pid 1234`, or the UID of a pod.
    pub process: String,
    /// The resource's name.
    pub resource: String,
    /// Whether it is roots, not a certificate.
    pub roots: bool,
    /// The identity that it is for; empty for roots.
    pub identity: String,
    /// The root above the certificate that it has acknowledged, if the agent has said so.
    pub under: Option<KeyId>,
    /// Streams on which it takes it.
    pub streams: u32,
    /// Whether any of them is open.
    pub connected: bool,
    /// How it stands to the newest bundle, or to the certificate that it was sent.
    pub standing: Standing,
    /// Sequence or serial number that it has acknowledged; empty if none.
    pub acked: String,
    /// Sequence or serial number that it was sent and has not answered; empty if none.
    pub sent: String,
    /// Its own words for a refusal, and when. Not to be trusted.
    pub nack: Option<(String, SystemTime)>,
    /// Since when it is known.
    pub first_seen: SystemTime,
}

/// How a consumer stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It has taken the newest.
    Confirmed,
    /// It has refused it.
    Refused,
    /// It has not answered.
    Open,
}

/// A leaf that the agent holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldLeaf {
    /// Whom it names.
    pub identity: Arc<str>,
    /// Its serial number.
    pub serial: Serial,
    /// The root above it, if the agent has said so.
    pub root: Option<KeyId>,
    /// Those that were sent it and have not taken a successor.
    pub consumers: u32,
    /// It is handed to whoever asks.
    pub current: bool,
    /// When it ends, if the agent has said so.
    pub ends: Option<SystemTime>,
}

impl Fleet {
    /// One agent in full, at most `most` of each list, with what `show` makes of it;
    /// `published` is the bundle that its consumers should have.
    pub fn detail<T>(
        &self,
        name: &NodeName,
        published: &TrustBundle,
        most: usize,
        show: impl FnOnce(&Agent) -> T,
    ) -> Option<(T, Detail)> {
        let state = self.lock();
        let agent = state.agents.get(name)?;
        let mut leaves = agent.held();
        let leaf_count = leaves.len();
        leaves.sort_by(|a, b| (&a.identity, a.ends).cmp(&(&b.identity, b.ends)));
        leaves.truncate(most);
        let detail = Detail {
            consumers: agent.consumers(published).take(most).collect(),
            consumer_count: agent.subscribers.len(),
            leaves,
            leaf_count,
            complete: agent.subscribers.is_complete() && agent.holdings.is_complete(),
        };
        Some((show(agent), detail))
    }
}

impl Agent {
    /// Its consumers, and how each stands to `published`.
    pub fn consumers(&self, published: &TrustBundle) -> impl Iterator<Item = Consumer> {
        self.subscribers.all().map(|(id, known)| {
            let state = &known.state;
            let stand = match (known.kind(), &state.nack) {
                (Kind::Roots, _) => self.subscribers.stand(id, state, published),
                (_, Some(_)) => Stand::Refused,
                (_, None) if state.acked_serial.is_empty() || !state.sent_serial.is_empty() => {
                    Stand::Open
                }
                (_, None) => Stand::Confirmed,
            };
            let subscriber = state.subscriber.clone().unwrap_or_default();
            Consumer {
                process: process(&subscriber).unwrap_or_default(),
                resource: shown(&subscriber.resource_name, LONGEST_NAME),
                roots: known.kind() != Kind::Certificate,
                identity: shown(&state.spiffe_id, LONGEST_NAME),
                under: self
                    .holdings
                    .get(&state.acked_serial)
                    .and_then(|leaf| leaf.root),
                streams: subscriber.streams,
                connected: state.presence() == wire::Presence::Connected,
                standing: match stand {
                    Stand::Confirmed => Standing::Confirmed,
                    Stand::Refused => Standing::Refused,
                    Stand::Open => Standing::Open,
                },
                acked: version(state.acked_trust.as_ref(), &state.acked_serial),
                sent: version(state.sent_trust.as_ref(), &state.sent_serial),
                nack: state.nack.as_ref().map(|nack| {
                    let at = u64::try_from(nack.at_unix_ms).unwrap_or_default();
                    let at = UNIX_EPOCH.checked_add(Duration::from_millis(at));
                    (
                        shown(&nack.detail, LONGEST_DETAIL),
                        at.unwrap_or(UNIX_EPOCH),
                    )
                }),
                first_seen: known.first_seen,
            }
        })
    }

    /// How many of its consumers refuse something.
    #[must_use]
    pub fn refusals(&self) -> usize {
        self.subscribers
            .states()
            .filter(|state| state.nack.is_some())
            .count()
    }

    fn held(&self) -> Vec<HeldLeaf> {
        let held = self.holdings.named().map(|(serial, leaf)| HeldLeaf {
            identity: Arc::clone(&leaf.identity),
            serial: serial.clone(),
            root: leaf.root,
            consumers: leaf.subscribers,
            current: leaf.current,
            ends: leaf.ends,
        });
        held.collect()
    }
}

fn version(position: Option<&wire::TrustPosition>, serial: &[u8]) -> String {
    match position.and_then(|position| position.sequence.as_ref()) {
        Some(at) => format!("{}.{}", at.epoch, at.number),
        None => hex::encode(serial),
    }
}
