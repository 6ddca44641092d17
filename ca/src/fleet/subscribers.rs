//! The consumers of secrets on a node, as its agent tells of them. A consumer that was told
//! of once is known until it is told that it ended, or until the agent's first report of a
//! Follow, which is of everybody, leaves it out.

use std::collections::BTreeMap;
use std::time::SystemTime;

use arx_identity::TrustBundle;
use arx_proto::node::v1 as wire;

use super::holdings::is_over;
use crate::refusal::{Fault, Refusal};

/// Subscribers that one node may have.
const MOST_SUBSCRIBERS: usize = 50_000;
/// Refused contents that are kept of one holder; older ones are dropped.
const MOST_REFUSED: usize = 64;

/// Whoever holds what was sent: a process or a pod.
pub(super) type HolderId = Vec<u8>;

/// All of one node.
#[derive(Debug, Default)]
pub(super) struct Subscribers {
    known: BTreeMap<(HolderId, String), Known>,
    /// Roots that a holder has refused, by hash. What it says about them later does not
    /// count: Envoy acknowledges bytes that it has stored but not loaded.
    refused: BTreeMap<HolderId, Vec<[u8; 32]>>,
    /// Whether there was a report of everybody in this Follow.
    complete: bool,
}

/// One resource of one holder.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) state: wire::SubscriberState,
    pub(super) first_seen: SystemTime,
    /// The agent lost the cache that knew of it. It counts until then, because nobody can
    /// tell whether it is still there.
    lost_until: Option<SystemTime>,
}

/// What a resource is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Roots, or it has not been said what.
    Roots,
    Certificate,
    Other,
}

/// How a subscriber of roots stands to a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stand {
    Confirmed,
    Refused,
    Open,
}

impl Subscribers {
    /// A Follow begins. `lost` if the agent has another cache than before, and the node was
    /// not started anew; `ends` tells until when a subscriber of the lost one counts.
    pub(super) fn begin(
        &mut self,
        lost: bool,
        ends: impl Fn(&wire::SubscriberState) -> Option<SystemTime>,
    ) {
        self.complete = false;
        if !lost {
            return;
        }
        self.known.retain(|_, known| {
            known.lost_until = known.lost_until.or_else(|| ends(&known.state));
            known.lost_until.is_some()
        });
    }

    /// The node was started anew: nobody from before is there.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(super) fn take(
        &mut self,
        report: wire::SubscriberReport,
        now: SystemTime,
    ) -> Result<(), Refusal> {
        let mut before = BTreeMap::new();
        if report.complete {
            before = std::mem::take(&mut self.known);
        }
        for state in report.states {
            let Some(subscriber) = &state.subscriber else {
                continue;
            };
            let name = (holder(subscriber), subscriber.resource_name.clone());
            let known = self.known.remove(&name).or_else(|| before.remove(&name));
            if state.presence == wire::Presence::Ended as i32 {
                continue;
            }
            if self.known.len() >= MOST_SUBSCRIBERS {
                return Err(Refusal::new(
                    "ARX-REPORT-TOO-LARGE",
                    Fault::Request,
                    format!("a node may have {MOST_SUBSCRIBERS} subscribers at most"),
                ));
            }
            self.refuses(&name.0, &state);
            let known = Known {
                state,
                first_seen: known.map_or(now, |known| known.first_seen),
                lost_until: None,
            };
            self.known.insert(name, known);
        }
        let lost = before.into_iter().filter(|(_, known)| known.counts(now));
        let lost = lost.filter(|(_, known)| known.lost_until.is_some());
        self.known.extend(lost);
        self.complete |= report.complete;
        let known = &self.known;
        self.refused.retain(|holder, _| {
            let first = known.range((holder.clone(), String::new())..).next();
            first.is_some_and(|((other, _), _)| other == holder)
        });
        Ok(())
    }

    fn refuses(&mut self, holder: &HolderId, state: &wire::SubscriberState) {
        let nack = state.nack.as_ref();
        let content = nack.and_then(|nack| <[u8; 32]>::try_from(&nack.content_sha256[..]).ok());
        if let (Some(content), Kind::Roots) = (content, kind(state)) {
            let refused = self.refused.entry(holder.clone()).or_default();
            refused.retain(|other| *other != content);
            refused.push(content);
            if refused.len() > MOST_REFUSED {
                refused.remove(0);
            }
        }
    }

    /// Whether there was a report of everybody in this Follow.
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    /// What was told of each.
    pub(super) fn states(&self) -> impl Iterator<Item = &wire::SubscriberState> {
        self.known.values().map(|known| &known.state)
    }

    /// All, with their holders.
    pub(super) fn all(&self) -> impl Iterator<Item = (&HolderId, &Known)> {
        self.known
            .iter()
            .map(|((holder, _), known)| (holder, known))
    }

    /// Those that count, by holder.
    pub(super) fn by_holder(&self, now: SystemTime) -> BTreeMap<&HolderId, Vec<&Known>> {
        let mut holders: BTreeMap<_, Vec<_>> = BTreeMap::new();
        let known = self.known.iter().filter(|(_, known)| known.counts(now));
        for ((holder, _), known) in known {
            holders.entry(holder).or_default().push(known);
        }
        holders
    }

    /// How a holder's subscriber of roots stands to `published`.
    pub(super) fn stand(
        &self,
        holder: &HolderId,
        state: &wire::SubscriberState,
        published: &TrustBundle,
    ) -> Stand {
        let content = published.sha256();
        let refused = self.refused.get(holder);
        if state.nack.is_some() || refused.is_some_and(|refused| refused.contains(&content)) {
            return Stand::Refused;
        }
        let acked = state.acked_trust.as_ref();
        if acked.is_some_and(|acked| is_at(acked, published)) {
            Stand::Confirmed
        } else {
            Stand::Open
        }
    }
}

impl Known {
    fn counts(&self, now: SystemTime) -> bool {
        self.lost_until.is_none_or(|until| !is_over(until, now))
    }

    pub(super) fn kind(&self) -> Kind {
        kind(&self.state)
    }

    /// Serial numbers of the certificates that it may use.
    pub(super) fn serials(&self) -> impl Iterator<Item = &[u8]> {
        serials(&self.state)
    }
}

/// Serial numbers of the certificates that a subscriber may use.
pub(super) fn serials(state: &wire::SubscriberState) -> impl Iterator<Item = &[u8]> {
    let serials = [&state.acked_serial, &state.sent_serial];
    serials
        .into_iter()
        .filter(|serial| !serial.is_empty())
        .map(|serial| &serial[..])
}

fn kind(state: &wire::SubscriberState) -> Kind {
    let positions = [&state.acked_trust, &state.sent_trust];
    let mut positions = positions.into_iter().flatten().peekable();
    if positions.peek().is_some() {
        if positions.all(|position| position.kind() == wire::TrustKind::JwtKeys) {
            Kind::Other
        } else {
            Kind::Roots
        }
    } else if serials(state).next().is_some() {
        Kind::Certificate
    } else {
        Kind::Roots
    }
}

/// Whether a position is exactly that of `published`: a hash alone may stand at several.
fn is_at(position: &wire::TrustPosition, published: &TrustBundle) -> bool {
    let sequence = published.sequence();
    position.kind() == wire::TrustKind::X509Roots
        && position
            .sequence
            .as_ref()
            .is_some_and(|at| (at.epoch, at.number) == (sequence.epoch, sequence.number))
        && position.sha256[..] == published.sha256()
}

fn holder(subscriber: &wire::Subscriber) -> HolderId {
    match &subscriber.holder {
        Some(wire::subscriber::Holder::Process(process)) => {
            let mut name = process.boot_id.as_bytes().to_vec();
            name.push(0);
            name.extend_from_slice(&process.start_time.to_be_bytes());
            name.extend_from_slice(&process.pid.to_be_bytes());
            name
        }
        Some(wire::subscriber::Holder::PodUid(uid)) => uid.as_bytes().to_vec(),
        None => Vec::new(),
    }
}
