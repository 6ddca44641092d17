//! What one agent has told of itself and of its node.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arx_identity::{KeyId, Sequence, Serial};
use arx_proto::node::v1 as wire;

use super::holdings::Holdings;
use super::lineage::Lineage;
use super::session::Open;
use super::subscribers::{Subscribers, serials};
use crate::caller::{Node, NodeName};
use crate::refusal::{Fault, Refusal};

/// Longest text that is kept of what an agent says of itself.
pub(crate) const LONGEST_TEXT: usize = 128;

/// One agent.
#[derive(Debug)]
pub struct Agent {
    pub(super) name: NodeName,
    pub(super) lineage: Lineage,
    pub(super) session: Option<Open>,
    pub(super) node_not_after: Option<SystemTime>,
    /// When its last Follow began.
    since: Option<SystemTime>,
    /// The same by its own clock, in ms since 1970.
    began_ms: i64,
    /// When anything came from it last.
    heard: Option<SystemTime>,
    /// When its last Follow was lost.
    pub(super) lost: Option<SystemTime>,
    software: Arc<str>,
    instance_id: [u8; 16],
    boot_id: Box<str>,
    clock_offset_ms: i64,
    /// How far our own clock had been moved by then, in milliseconds.
    pub(super) own_clock_moved_ms: i64,
    pub(super) trust: Option<(Sequence, [u8; 32])>,
    pub(super) holdings: Holdings,
    pub(super) subscribers: Subscribers,
}

/// An agent in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Leaves in its newest inventory.
    pub leaves: u32,
    /// Subscribers.
    pub subscribers: u32,
    /// Those that confirmed the newest bundle.
    pub confirmed: u32,
    /// Those that refused something.
    pub nacks: u32,
}

impl Agent {
    pub(super) fn new(name: &NodeName) -> Self {
        Self {
            name: name.clone(),
            lineage: Lineage::default(),
            session: None,
            node_not_after: None,
            since: None,
            began_ms: 0,
            heard: None,
            lost: None,
            software: "".into(),
            instance_id: [0; 16],
            boot_id: "".into(),
            clock_offset_ms: 0,
            own_clock_moved_ms: 0,
            trust: None,
            holdings: Holdings::default(),
            subscribers: Subscribers::default(),
        }
    }

    /// Takes what a Follow begins with.
    pub(super) fn greet(
        &mut self,
        node: &Node,
        hello: &wire::Hello,
        now: SystemTime,
    ) -> Result<(), Refusal> {
        let id = |bytes: &[u8], what: &str| {
            <[u8; 16]>::try_from(bytes).map_err(|_| {
                Refusal::new(
                    "ARX-REQUEST-MALFORMED",
                    Fault::Request,
                    format!("the Hello's {what} must have 16 bytes"),
                )
            })
        };
        self.instance_id = id(&hello.instance_id, "instance_id")?;
        let cache_id = id(&hello.cache_id, "cache_id")?;
        self.begin(cache_id, &hello.boot_id);
        self.node_not_after = Some(node.not_after);
        self.since = Some(now);
        self.began_ms = hello.clock_unix_ms;
        self.heard = Some(now);
        self.software = hello
            .software
            .chars()
            .take(LONGEST_TEXT)
            .collect::<String>()
            .into();
        let ours = i64::try_from(
            now.duration_since(UNIX_EPOCH)
                .unwrap_or_default()
                .as_millis(),
        )
        .unwrap_or(i64::MAX);
        self.clock_offset_ms = hello.clock_unix_ms.saturating_sub(ours);
        // All that it holds: what it said before may be lost.
        self.trust = None;
        for position in &hello.trust {
            self.take_position(position.clone());
        }
        Ok(())
    }

    /// Carries over what was told in an earlier Follow, as far as it may still be so.
    fn begin(&mut self, cache_id: [u8; 16], boot_id: &str) {
        let same_boot = *self.boot_id == *boot_id;
        if !same_boot && !self.boot_id.is_empty() {
            self.subscribers.clear();
        }
        let holdings = &self.holdings;
        let last = holdings.all().filter_map(|leaf| leaf.ends).max();
        self.subscribers.begin(holdings.is_lost(cache_id), |state| {
            let leaves = serials(state).filter_map(|serial| holdings.get(serial)?.ends);
            leaves.max().or(last)
        });
        self.holdings.begin(cache_id, same_boot);
        self.boot_id = boot_id
            .chars()
            .take(LONGEST_TEXT)
            .collect::<String>()
            .into();
    }

    pub(super) fn take_position(&mut self, position: wire::TrustPosition) {
        let kind = wire::TrustKind::try_from(position.kind);
        if let (Ok(wire::TrustKind::X509Roots), Some(sequence), Ok(hash)) = (
            kind,
            position.sequence,
            <[u8; 32]>::try_from(&position.sha256[..]),
        ) {
            self.trust = Some((
                Sequence {
                    epoch: sequence.epoch,
                    number: sequence.number,
                },
                hash,
            ));
        }
    }

    pub(super) fn take_inventory(
        &mut self,
        part: wire::Inventory,
        now: SystemTime,
    ) -> Result<bool, Refusal> {
        self.heard = Some(now);
        self.holdings.take(part, now)
    }

    /// Which of `live` were missing from the last two inventories. The newest of the node's
    /// own certificates, issued here or shown by it, never counts as missing: the agent may be about to
    /// use it.
    pub(super) fn missing_twice(&mut self, live: Vec<(Serial, SystemTime)>) -> Vec<Serial> {
        let newest = self.lineage.newest();
        self.holdings
            .missing_twice(live, |serial| newest == Some(serial))
    }

    pub(super) fn take_report(
        &mut self,
        report: wire::SubscriberReport,
        now: SystemTime,
    ) -> Result<(), Refusal> {
        self.heard = Some(now);
        self.subscribers.take(report, now)
    }

    /// The node.
    #[must_use]
    pub fn name(&self) -> &NodeName {
        &self.name
    }

    /// Whether its Follow stream is open.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.session.is_some()
    }

    /// When its last Follow began.
    #[must_use]
    pub fn since(&self) -> Option<SystemTime> {
        self.since
    }

    /// The same by its own clock, in ms since 1970: that tells which of two replicas it has followed
    /// later.
    #[must_use]
    pub fn began_ms(&self) -> i64 {
        self.began_ms
    }

    /// When it last told something.
    #[must_use]
    pub fn heard(&self) -> Option<SystemTime> {
        self.heard
    }

    /// Of an agent that is not connected: since when. As far as that is known, when its
    /// connection was lost; otherwise when it last told something.
    #[must_use]
    pub fn away_since(&self) -> Option<SystemTime> {
        self.lost.max(self.heard)
    }

    /// What it calls itself.
    #[must_use]
    pub fn software(&self) -> &str {
        &self.software
    }

    /// Id of its process.
    #[must_use]
    pub fn instance_id(&self) -> &[u8; 16] {
        &self.instance_id
    }

    /// How far its clock was ahead of ours when its Follow began, in milliseconds.
    #[must_use]
    pub fn clock_offset_ms(&self) -> i64 {
        self.clock_offset_ms
    }

    /// The newest bundle that it holds durably.
    #[must_use]
    pub fn trust(&self) -> Option<Sequence> {
        self.trust.map(|(sequence, _)| sequence)
    }

    /// End of the node's own certificate.
    #[must_use]
    pub fn node_not_after(&self) -> Option<SystemTime> {
        self.node_not_after
    }

    /// Leaves under `root` that it holds or that a subscriber still uses.
    #[must_use]
    pub fn leaves_under(&self, root: &KeyId) -> usize {
        self.holdings
            .all()
            .filter(|leaf| leaf.root.as_ref() == Some(root))
            .count()
    }

    /// Itself in numbers; `newest` is the bundle that a subscriber should have confirmed.
    #[must_use]
    pub fn counts(&self, newest: Sequence) -> Counts {
        let mut counts = Counts {
            leaves: count(self.holdings.len()),
            subscribers: count(self.subscribers.len()),
            ..Counts::default()
        };
        for state in self.subscribers.states() {
            let acked = state
                .acked_trust
                .as_ref()
                .and_then(|position| position.sequence.as_ref());
            if state.nack.is_some() {
                counts.nacks += 1;
            } else if acked
                .is_some_and(|acked| (acked.epoch, acked.number) == (newest.epoch, newest.number))
            {
                counts.confirmed += 1;
            } else if !state.acked_serial.is_empty() && state.sent_serial.is_empty() {
                // A certificate's subscriber confirms certificates, not bundles.
                counts.confirmed += 1;
            }
        }
        counts
    }
}

fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}
