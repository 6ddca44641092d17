//! What goes up on Follow: inventories, confirmations, and how far roots were taken.

use super::Owner;
use crate::subscribers::{Leaf, Now, Subscribers};
use crate::wire;
use arx_identity::TrustBundle;
use arx_proto::node::v1::{
    AgentMessage, HeldLeaf, Inventory, SubscriberReport, TrustPosition, agent_message::Message,
};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Changes of what is held are told after this long, together.
const INVENTORY_SOON: Duration = Duration::from_secs(1);
/// It takes two inventories to release a leaf: the second follows the first after this long.
const INVENTORY_AGAIN: Duration = Duration::from_secs(5);
/// And even without a change there is one after this long.
const INVENTORY_EVERY: Duration = Duration::from_secs(60);
/// From so many leaves on it is worth looking for what an inventory, and the certificates
/// before it, leave free behind.
const MANY: usize = 16;
/// Leaves of one message.
const INVENTORY_PART: usize = 1000;
/// A report that was not acknowledged by then is sent again, as a whole.
const REPORT_AGAIN: Duration = Duration::from_secs(30);

/// The stream up, and what was said on it.
#[derive(Debug)]
pub(super) struct Follow {
    cache_id: [u8; 16],
    up: Option<mpsc::UnboundedSender<AgentMessage>>,
    /// Complete inventories that were sent.
    inventories: u64,
    inventory_ordinal: u64,
    inventory_at: Option<Instant>,
    /// The next inventory is the first since a change: another follows it soon.
    inventory_is_news: bool,
    report_ordinal: u64,
    /// The report that was not acknowledged yet.
    outstanding: Option<(u64, Instant)>,
    /// The next report must be of everybody.
    everybody: bool,
    stored: Option<Stored>,
}

/// Roots that are durable, of which the authority was not told yet. It would take everybody
/// who was given others before for told.
#[derive(Debug)]
struct Stored {
    position: TrustPosition,
    /// The first report that was made since.
    after: Option<u64>,
}

impl Follow {
    pub(super) fn new(cache_id: [u8; 16], inventory_ordinal: u64) -> Self {
        Self {
            cache_id,
            up: None,
            inventories: 0,
            inventory_ordinal,
            inventory_at: None,
            inventory_is_news: true,
            report_ordinal: 0,
            outstanding: None,
            everybody: true,
            stored: None,
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.up.is_some()
    }

    pub(super) fn began(&mut self, up: mpsc::UnboundedSender<AgentMessage>, now: Instant) {
        self.up = Some(up);
        self.everybody = true;
        self.outstanding = None;
        self.inventory_at = Some(now);
        self.inventory_is_news = true;
    }

    pub(super) fn lost(&mut self) {
        self.up = None;
        self.outstanding = None;
        self.everybody = true;
        self.stored = None;
    }

    pub(super) fn inventories(&self) -> u64 {
        self.inventories
    }

    pub(super) fn inventory_ordinal(&self) -> u64 {
        self.inventory_ordinal
    }

    pub(super) fn leaves_changed(&mut self, now: Instant) {
        let soon = now + INVENTORY_SOON;
        self.inventory_at = Some(self.inventory_at.map_or(soon, |at| at.min(soon)));
        self.inventory_is_news = true;
    }

    pub(super) fn seen(&mut self, ordinal: u64) {
        if self.outstanding.is_some_and(|(sent, _)| sent <= ordinal) {
            self.outstanding = None;
        }
    }

    pub(super) fn report_was_not_sent(&mut self) {
        self.everybody = true;
        self.outstanding = None;
        if let Some(stored) = &mut self.stored {
            stored.after = None;
        }
    }

    pub(super) fn next_report(&self) -> Option<Instant> {
        self.up.as_ref()?;
        let again = self.outstanding.map(|(_, sent)| sent + REPORT_AGAIN);
        [self.inventory_at, again].into_iter().flatten().min()
    }

    /// The report that is due; from here on it counts as sent.
    pub(super) fn next(
        &mut self,
        subscribers: &mut Subscribers,
        now: Instant,
    ) -> Option<SubscriberReport> {
        self.up.as_ref()?;
        match self.outstanding {
            Some((_, sent)) if now < sent + REPORT_AGAIN => return None,
            Some(_) => self.everybody = true,
            None => {}
        }
        let complete = self.everybody;
        if !complete && !subscribers.has_changes() {
            return None;
        }
        let states = if complete {
            subscribers.take_all()
        } else {
            subscribers.take_changes()
        };
        self.everybody = false;
        self.report_ordinal += 1;
        self.outstanding = Some((self.report_ordinal, now));
        if let Some(stored) = &mut self.stored {
            stored.after.get_or_insert(self.report_ordinal);
        }
        Some(SubscriberReport {
            ordinal: self.report_ordinal,
            states,
            complete,
        })
    }

    pub(super) fn send_report(&mut self, report: SubscriberReport) {
        // Of a connection before this one: the first report of this one is of everybody.
        if self
            .outstanding
            .is_some_and(|(ordinal, _)| ordinal == report.ordinal)
        {
            let ordinal = report.ordinal;
            self.send(Message::Subscribers(report));
            let is_told = |stored: &mut Stored| stored.after.is_some_and(|after| after <= ordinal);
            if let Some(stored) = self.stored.take_if(is_told) {
                self.send(Message::Stored(stored.position));
            }
        }
    }

    /// These roots are durable. That goes up behind the next report that is made: who was
    /// given others until now must be known before.
    pub(super) fn stored(&mut self, bundle: &TrustBundle) {
        if self.is_up() {
            self.stored = Some(Stored {
                position: wire::position(bundle.sequence(), &bundle.sha256()),
                after: None,
            });
        }
    }

    /// All there is to report was sent.
    fn all_is_told(&mut self) {
        if !self.everybody
            && let Some(stored) = self.stored.take()
        {
            self.send(Message::Stored(stored.position));
        }
    }

    fn send(&mut self, message: Message) {
        let message = AgentMessage {
            message: Some(message),
        };
        if self.up.as_ref().is_some_and(|up| up.send(message).is_err()) {
            self.lost();
        }
    }

    fn send_inventory(&mut self, leaves: Vec<HeldLeaf>, now: Now) {
        let clock = u64::try_from(wire::unix_ms(now.wall)).unwrap_or(0);
        // Higher than any of this cache before, also after a restart.
        self.inventory_ordinal = clock.max(self.inventory_ordinal + 1);
        self.inventories += 1;
        let until_next = if std::mem::take(&mut self.inventory_is_news) {
            INVENTORY_AGAIN
        } else {
            INVENTORY_EVERY
        };
        self.inventory_at = Some(now.monotonic + until_next);
        let mut parts = leaves.chunks(INVENTORY_PART).peekable();
        loop {
            let leaves = parts.next().unwrap_or_default().to_vec();
            let complete = parts.peek().is_none();
            self.send(Message::Inventory(Inventory {
                cache_id: Bytes::copy_from_slice(&self.cache_id),
                ordinal: self.inventory_ordinal,
                leaves,
                complete,
            }));
            if complete {
                return;
            }
        }
    }
}

impl Owner {
    /// Tells the authority what is due.
    pub(super) fn report(&mut self, now: Now) {
        if !self.follow.is_up() {
            return;
        }
        if self
            .follow
            .inventory_at
            .is_some_and(|at| at <= now.monotonic)
        {
            let leaves = self.held();
            if leaves.len() >= MANY {
                // It comes last when certificates have changed, and all of it is free now.
                self.loosened.notify_one();
            }
            self.follow.send_inventory(leaves, now);
        }
        // Never more than what is on disk: else the report goes with the write.
        if self.sealing.subscribers_are_written() {
            if let Some(report) = self.follow.next(&mut self.subscribers, now.monotonic) {
                self.follow.send_report(report);
            }
            if !self.subscribers.has_changes() {
                self.follow.all_is_told();
            }
        }
    }

    /// Every leaf on this node: in the cache, on its way there, or with a subscriber.
    fn held(&self) -> Vec<HeldLeaf> {
        let mut held: BTreeMap<[u8; 32], HeldLeaf> = BTreeMap::new();
        for (leaf, subscribers) in self.subscribers.leaves_in_use() {
            held.insert(leaf.sha256, held_leaf(leaf, false, subscribers));
        }
        let mut add = |leaf: &Leaf, current: bool| {
            let held = held
                .entry(leaf.sha256)
                .or_insert_with(|| held_leaf(leaf, false, 0));
            held.current |= current;
            // It may have been handed out before it could be told from one that cross-certifies it.
            held.root_key_id = Bytes::copy_from_slice(leaf.root.as_bytes());
        };
        for (_, workload) in self.workloads.iter() {
            if let Some(leaf) = &workload.served {
                add(&leaf.into(), workload.next.is_none());
            }
            if let Some((leaf, _)) = &workload.next {
                add(&leaf.into(), true);
            }
        }
        if let Some((svid, root)) = &self.node {
            let leaf = crate::workloads::Leaf::new(svid.clone(), *root);
            add(&(&leaf).into(), true);
        }
        held.into_values().collect()
    }
}

impl From<&crate::workloads::Leaf> for Leaf {
    fn from(leaf: &crate::workloads::Leaf) -> Self {
        Self {
            serial: leaf.svid.serial().clone(),
            sha256: leaf.sha256,
            spiffe_id: leaf.svid.spiffe_id().clone(),
            root: leaf.root,
            not_after: leaf.svid.not_after(),
        }
    }
}

fn held_leaf(leaf: &Leaf, current: bool, subscribers: u32) -> HeldLeaf {
    HeldLeaf {
        serial: Bytes::copy_from_slice(leaf.serial.as_bytes()),
        spiffe_id: leaf.spiffe_id.to_string(),
        root_key_id: Bytes::copy_from_slice(leaf.root.as_bytes()),
        not_after_unix_ms: wire::unix_ms(leaf.not_after),
        current,
        subscribers,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subscribers::{Content, Event, Holder, StreamId};
    use crate::testing::Authority;
    use std::sync::Arc;
    use std::time::UNIX_EPOCH;

    /// When inventories go up within `seconds`, as seconds after `start`.
    fn inventories(follow: &mut Follow, start: Instant, seconds: u64) -> Vec<u64> {
        let until = start + Duration::from_secs(seconds);
        let mut sent = Vec::new();
        while let Some(at) = follow.inventory_at.filter(|at| *at <= until) {
            let now = Now {
                wall: UNIX_EPOCH,
                monotonic: at,
            };
            follow.send_inventory(Vec::new(), now);
            sent.push(at.duration_since(start).as_secs());
        }
        sent
    }

    fn follow(start: Instant) -> (Follow, mpsc::UnboundedReceiver<AgentMessage>) {
        let (up, receiver) = mpsc::unbounded_channel();
        let mut follow = Follow::new([1; 16], 0);
        follow.began(up, start);
        (follow, receiver)
    }

    #[test]
    fn after_a_change_a_second_inventory_follows_the_first_soon() {
        let start = Instant::now();
        let (mut follow, _up) = follow(start);
        assert_eq!(inventories(&mut follow, start, 130), [0, 5, 65, 125]);
        let change = start + Duration::from_secs(130);
        follow.leaves_changed(change);
        assert_eq!(inventories(&mut follow, change, 70), [1, 6, 66]);
    }

    #[test]
    fn a_change_between_the_two_begins_anew() {
        let start = Instant::now();
        let (mut follow, _up) = follow(start);
        assert_eq!(inventories(&mut follow, start, 1), [0]);
        let change = start + Duration::from_secs(2);
        follow.leaves_changed(change);
        assert_eq!(inventories(&mut follow, change, 60), [1, 6]);
        assert_eq!(follow.inventories(), 3);
    }

    /// What went up, in short.
    fn sent(up: &mut mpsc::UnboundedReceiver<AgentMessage>) -> Vec<&'static str> {
        let each = std::iter::from_fn(|| up.try_recv().ok()?.message);
        let name = |message| match message {
            Message::Subscribers(_) => "report",
            Message::Stored(_) => "stored",
            _ => "other",
        };
        each.map(name).collect()
    }

    /// A proxy was sent roots on one more stream.
    fn one_more(subscribers: &mut Subscribers, stream: u64) {
        let content = Content::Trust {
            sequence: arx_identity::Sequence {
                epoch: 1,
                number: 1,
            },
            sha256: [1; 32],
        };
        let now = Now {
            wall: UNIX_EPOCH,
            monotonic: Instant::now(),
        };
        let (holder, sent) = (Holder::Pod("p".into()), Event::Sent(Arc::new(content)));
        subscribers.apply(&holder, "ROOTCA", StreamId(stream), sent, now);
    }

    #[test]
    fn that_roots_are_stored_goes_up_behind_a_report_that_was_made_afterwards() {
        let start = Instant::now();
        let (mut follow, mut up) = follow(start);
        let mut subscribers = Subscribers::default();
        let first = follow.next(&mut subscribers, start).expect("of everybody");
        one_more(&mut subscribers, 1);
        follow.stored(&Authority::new().bundle(2));
        // Made before, and it says nothing of the last one.
        follow.send_report(first);
        assert_eq!(sent(&mut up), ["report"]);
        follow.seen(1);
        let second = follow.next(&mut subscribers, start).expect("of the news");
        follow.send_report(second);
        assert_eq!(sent(&mut up), ["report", "stored"]);
    }

    #[test]
    fn a_report_that_was_not_written_down_tells_of_no_stored_roots() {
        let start = Instant::now();
        let (mut follow, mut up) = follow(start);
        let mut subscribers = Subscribers::default();
        follow.stored(&Authority::new().bundle(2));
        follow.next(&mut subscribers, start).expect("of everybody");
        follow.report_was_not_sent();
        follow.all_is_told();
        assert!(sent(&mut up).is_empty());
        let again = follow.next(&mut subscribers, start).expect("once more");
        follow.send_report(again);
        assert_eq!(sent(&mut up), ["report", "stored"]);
    }

    #[test]
    fn where_there_is_nothing_to_report_stored_roots_are_told_at_once() {
        let start = Instant::now();
        let (mut follow, mut up) = follow(start);
        let first = follow.next(&mut Subscribers::default(), start);
        follow.send_report(first.expect("of everybody"));
        follow.stored(&Authority::new().bundle(2));
        follow.all_is_told();
        assert_eq!(sent(&mut up), ["report", "stored"]);
    }
}
