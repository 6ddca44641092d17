use super::*;
use arx_identity::{KeyId, Sequence, Serial, SpiffeId};
use arx_proto::node::v1::{Presence, SubscriberState};
use proptest::prelude::*;
use std::time::UNIX_EPOCH;

const DAY: Duration = Duration::from_secs(86_400);

/// A process, its streams, and a clock.
struct World {
    subscribers: Subscribers,
    holder: Holder,
    start: Instant,
    elapsed: Duration,
}

impl World {
    fn new() -> Self {
        Self {
            subscribers: Subscribers::default(),
            holder: process(7),
            start: Instant::now(),
            elapsed: Duration::ZERO,
        }
    }

    fn now(&self) -> Now {
        Now {
            wall: UNIX_EPOCH + 1000 * DAY + self.elapsed,
            monotonic: self.start + self.elapsed,
        }
    }

    fn pass(&mut self, seconds: u64) {
        self.elapsed += Duration::from_secs(seconds);
        self.subscribers.tick(self.now());
    }

    fn on(&mut self, resource: &str, stream: u64, event: Event) {
        let (holder, now) = (self.holder.clone(), self.now());
        self.subscribers
            .apply(&holder, resource, StreamId(stream), event, now);
    }

    fn sent(&mut self, resource: &str, stream: u64, content: &Arc<Content>) {
        self.on(resource, stream, Event::Sent(Arc::clone(content)));
    }

    fn acked(&mut self, resource: &str, stream: u64, content: &Arc<Content>) {
        self.on(resource, stream, Event::Acked(Arc::clone(content)));
    }

    fn nacked(&mut self, resource: &str, stream: u64, content: &Arc<Content>) {
        self.on(
            resource,
            stream,
            Event::Nacked {
                content: Arc::clone(content),
                version: "v".into(),
                detail: "no".into(),
            },
        );
    }

    fn restart(&mut self) {
        let saved = self.subscribers.save();
        self.subscribers = Subscribers::load(&saved).expect("own bytes");
    }

    fn report(&mut self, resource: &str) -> Option<SubscriberState> {
        let name = |s: &SubscriberState| {
            s.subscriber
                .as_ref()
                .is_some_and(|s| s.resource_name == resource)
        };
        self.subscribers.take_all().into_iter().find(name)
    }

    fn confirmed(&mut self, resource: &str) -> Option<u64> {
        let sequence = self.report(resource)?.acked_trust?.sequence?;
        Some(sequence.number)
    }
}

fn process(pid: u32) -> Holder {
    Holder::Process(ProcessId {
        pid,
        start_time: 1,
        boot_id: "boot".into(),
    })
}

/// Roots at a sequence; the roots themselves are told apart by one byte.
fn trust(number: u64, roots: u8) -> Arc<Content> {
    Arc::new(Content::Trust {
        sequence: Sequence { epoch: 1, number },
        sha256: [roots; 32],
    })
}

fn leaf(n: u8, days: u32) -> Arc<Content> {
    Arc::new(Content::Leaf(Leaf {
        serial: Serial::from_bytes(&[n]).expect("one byte"),
        sha256: [n; 32],
        spiffe_id: SpiffeId::parse("spiffe://example.org/a").expect("valid"),
        root: KeyId::from_slice(&[1; 20]).expect("20 bytes"),
        not_after: UNIX_EPOCH + (1000 + days) * DAY,
    }))
}

#[test]
fn absence_never_confirms() {
    let mut w = World::new();
    w.sent("ROOTCA", 1, &trust(1, 1));
    assert_eq!(w.confirmed("ROOTCA"), None);
    w.acked("ROOTCA", 1, &trust(1, 1));
    w.sent("ROOTCA", 1, &trust(2, 2));
    w.on("ROOTCA", 1, Event::Ended);
    w.pass(10 * 86_400);
    assert_eq!(w.confirmed("ROOTCA"), Some(1), "still there, still at 1");
    w.restart();
    assert_eq!(w.confirmed("ROOTCA"), Some(1));
}

#[test]
fn an_ack_confirms_what_was_sent() {
    let mut w = World::new();
    w.sent("ROOTCA", 1, &trust(1, 1));
    w.acked("ROOTCA", 1, &trust(1, 1));
    assert_eq!(w.confirmed("ROOTCA"), Some(1));
    w.sent("ROOTCA", 1, &trust(2, 2));
    w.sent("ROOTCA", 1, &trust(3, 3));
    w.acked("ROOTCA", 1, &trust(3, 3));
    assert_eq!(w.confirmed("ROOTCA"), Some(3));
    assert!(w.report("ROOTCA").expect("known").sent_trust.is_none());
}

#[test]
fn both_streams_of_a_process_must_confirm() {
    let mut w = World::new();
    for stream in [1, 2] {
        w.sent("ROOTCA", stream, &trust(1, 1));
    }
    w.acked("ROOTCA", 1, &trust(1, 1));
    assert_eq!(w.confirmed("ROOTCA"), None);
    w.acked("ROOTCA", 2, &trust(1, 1));
    assert_eq!(w.confirmed("ROOTCA"), Some(1));
    for stream in [1, 2] {
        w.sent("ROOTCA", stream, &trust(2, 2));
        w.sent("ROOTCA", stream, &trust(3, 3));
    }
    w.acked("ROOTCA", 1, &trust(3, 3));
    w.acked("ROOTCA", 2, &trust(2, 2));
    assert_eq!(w.confirmed("ROOTCA"), Some(2), "what all of them have");
}

#[test]
fn a_missing_second_stream_is_forgiven_after_a_minute() {
    let mut w = World::new();
    for stream in [1, 2] {
        w.sent("ROOTCA", stream, &trust(1, 1));
        w.acked("ROOTCA", stream, &trust(1, 1));
    }
    for stream in [1, 2] {
        w.on("ROOTCA", stream, Event::Ended);
    }
    w.restart();
    w.pass(600);
    w.sent("ROOTCA", 3, &trust(2, 2));
    w.acked("ROOTCA", 3, &trust(2, 2));
    w.pass(59);
    assert_eq!(w.confirmed("ROOTCA"), Some(1));
    w.pass(1);
    assert_eq!(w.confirmed("ROOTCA"), Some(2));
}

#[test]
fn a_second_stream_that_returns_in_time_must_confirm_too() {
    let mut w = World::new();
    for stream in [1, 2] {
        w.sent("ROOTCA", stream, &trust(1, 1));
        w.acked("ROOTCA", stream, &trust(1, 1));
        w.on("ROOTCA", stream, Event::Ended);
    }
    // Ended one after the other: the process still had two at once.
    let mut w = World {
        subscribers: Subscribers::default(),
        ..w
    };
    for stream in [1, 2] {
        w.sent("ROOTCA", stream, &trust(1, 1));
    }
    for stream in [1, 2] {
        w.on("ROOTCA", stream, Event::Ended);
    }
    w.sent("ROOTCA", 3, &trust(2, 2));
    w.acked("ROOTCA", 3, &trust(2, 2));
    w.pass(30);
    w.sent("ROOTCA", 4, &trust(2, 2));
    w.pass(600);
    assert_eq!(
        w.confirmed("ROOTCA"),
        None,
        "the second one has not answered"
    );
    w.acked("ROOTCA", 4, &trust(2, 2));
    assert_eq!(w.confirmed("ROOTCA"), Some(2));
}

#[test]
fn a_resource_that_a_returned_process_does_not_ask_for_again_ends_after_a_minute() {
    let mut w = World::new();
    w.sent("default", 1, &leaf(1, 1));
    w.sent("ROOTCA", 2, &trust(1, 1));
    w.on("default", 1, Event::Ended);
    w.on("ROOTCA", 2, Event::Ended);
    w.pass(120);
    assert!(w.report("ROOTCA").is_some(), "nobody has returned");
    w.sent("default", 3, &leaf(1, 1));
    w.pass(59);
    assert!(w.report("ROOTCA").is_some());
    w.pass(1);
    assert!(w.report("ROOTCA").is_none());
    assert!(w.report("default").is_some());
}

#[test]
fn an_ack_after_a_nack_of_the_same_content_does_not_count() {
    let mut w = World::new();
    w.sent("ROOTCA", 1, &trust(1, 1));
    w.acked("ROOTCA", 1, &trust(1, 1));
    w.sent("ROOTCA", 1, &trust(2, 2));
    w.nacked("ROOTCA", 1, &trust(2, 2));
    w.acked("ROOTCA", 1, &trust(2, 2));
    assert_eq!(w.confirmed("ROOTCA"), Some(1));
    // Nor on another stream, nor after a restart, nor at a later sequence.
    w.on("ROOTCA", 1, Event::Ended);
    w.restart();
    w.sent("ROOTCA", 2, &trust(2, 2));
    w.acked("ROOTCA", 2, &trust(2, 2));
    assert_eq!(w.confirmed("ROOTCA"), Some(1));
    w.sent("ROOTCA", 2, &trust(3, 2));
    w.acked("ROOTCA", 2, &trust(3, 2));
    assert_eq!(w.confirmed("ROOTCA"), Some(1));
    let report = w.report("ROOTCA").expect("known");
    assert_eq!(
        report.nack.expect("said so").content_sha256.as_ref(),
        [2; 32]
    );
    // Other bytes cure it.
    w.sent("ROOTCA", 2, &trust(4, 4));
    w.acked("ROOTCA", 2, &trust(4, 4));
    assert_eq!(w.confirmed("ROOTCA"), Some(4));
    assert!(w.report("ROOTCA").expect("known").nack.is_none());
}

#[test]
fn both_versions_are_in_use_after_a_nack() {
    let mut w = World::new();
    w.sent("default", 1, &leaf(1, 1));
    w.acked("default", 1, &leaf(1, 1));
    w.sent("default", 1, &leaf(2, 1));
    w.nacked("default", 1, &leaf(2, 1));
    let mut serials: Vec<_> = w.subscribers.leaves_in_use();
    serials.sort_by_key(|(leaf, _)| leaf.sha256);
    let serials: Vec<_> = serials.iter().map(|(l, n)| (l.sha256[0], *n)).collect();
    assert_eq!(serials, [(1, 1), (2, 1)]);
    w.sent("default", 1, &leaf(3, 1));
    w.acked("default", 1, &leaf(3, 1));
    assert_eq!(w.subscribers.leaves_in_use().len(), 1);
}

#[test]
fn a_nack_of_what_another_stream_has_taken_is_reported() {
    let mut w = World::new();
    w.sent("ROOTCA", 1, &trust(1, 1));
    w.acked("ROOTCA", 1, &trust(1, 1));
    w.sent("ROOTCA", 2, &trust(1, 1));
    w.nacked("ROOTCA", 2, &trust(1, 1));
    let report = w.report("ROOTCA").expect("known");
    assert!(report.nack.is_some());
    assert_eq!(w.confirmed("ROOTCA"), Some(1), "confirmed only grows");
}

#[test]
fn what_one_stream_has_refused_is_not_confirmed_by_what_another_said_before() {
    let mut w = World::new();
    let [old, refused, next] = [leaf(1, 1), leaf(2, 2), leaf(3, 3)];
    for stream in [1, 2] {
        w.sent("default", stream, &old);
        w.acked("default", stream, &old);
    }
    w.sent("default", 1, &refused);
    w.sent("default", 2, &refused);
    w.acked("default", 1, &refused);
    w.nacked("default", 2, &refused);
    w.sent("default", 1, &next);
    w.sent("default", 2, &next);
    w.acked("default", 2, &next);
    let in_use = |w: &World| w.subscribers.leaves_in_use().len();
    assert_eq!(in_use(&w), 3, "the old one is what the first stream has");
    w.acked("default", 1, &next);
    assert_eq!(in_use(&w), 1);
}

#[test]
fn what_is_confirmed_is_never_forgotten() {
    let mut w = World::new();
    w.sent("ROOTCA", 1, &trust(2, 2));
    w.acked("ROOTCA", 1, &trust(2, 2));
    w.on("ROOTCA", 1, Event::Ended);
    w.restart();
    w.sent("ROOTCA", 2, &trust(1, 1));
    w.acked("ROOTCA", 2, &trust(1, 1));
    assert_eq!(w.confirmed("ROOTCA"), Some(2));
}

#[test]
fn unsubscribing_ends_a_subscriber_and_is_reported_once() {
    let mut w = World::new();
    w.sent("default", 1, &leaf(1, 1));
    w.subscribers.take_all();
    w.on("default", 1, Event::Unsubscribed);
    let changes = w.subscribers.take_changes();
    assert_eq!(changes.len(), 1);
    assert_eq!(changes[0].presence(), Presence::Ended);
    assert!(!w.subscribers.has_changes());
    assert!(w.subscribers.is_empty());
}

#[test]
fn one_of_two_streams_that_unsubscribes_leaves_the_other_to_decide() {
    let mut w = World::new();
    for stream in [1, 2] {
        w.sent("ROOTCA", stream, &trust(1, 1));
    }
    w.acked("ROOTCA", 1, &trust(1, 1));
    w.on("ROOTCA", 2, Event::Unsubscribed);
    assert_eq!(w.confirmed("ROOTCA"), Some(1));
}

#[test]
fn a_proved_death_ends_every_subscriber_of_the_process() {
    let mut w = World::new();
    w.sent("default", 1, &leaf(1, 1));
    w.sent("ROOTCA", 2, &trust(1, 1));
    let (holder, now) = (w.holder.clone(), w.now());
    w.subscribers.died(&holder, now);
    assert!(w.subscribers.is_empty());
    let changes = w.subscribers.take_changes();
    assert_eq!(changes.len(), 2);
    assert!(changes.iter().all(|c| c.presence() == Presence::Ended));
}

#[test]
fn who_is_away_ends_when_its_last_leaf_has_expired() {
    let mut w = World::new();
    w.sent("default", 1, &leaf(1, 1));
    w.sent("ROOTCA", 2, &trust(1, 1));
    w.on("default", 1, Event::Ended);
    w.pass(2 * 86_400);
    assert!(!w.subscribers.is_empty(), "still connected by ROOTCA");
    w.on("ROOTCA", 2, Event::Ended);
    w.pass(1);
    assert!(w.subscribers.is_empty());
}

#[test]
fn a_pod_that_only_a_token_names_is_not_known_by_what_was_given_to_it() {
    let mut w = World::new();
    w.holder = Holder::Pod("pod-1".to_owned());
    w.sent("default", 1, &leaf(1, 1));
    assert!(!w.subscribers.has_held(&w.holder, "spiffe://example.org/a"));
}

#[test]
fn a_holder_is_known_by_the_identity_it_was_given() {
    let mut w = World::new();
    w.sent("default", 1, &leaf(1, 1));
    w.restart();
    assert!(
        w.subscribers
            .has_held(&process(7), "spiffe://example.org/a")
    );
    assert!(
        !w.subscribers
            .has_held(&process(8), "spiffe://example.org/a")
    );
    assert!(
        !w.subscribers
            .has_held(&process(7), "spiffe://example.org/b")
    );
}

#[test]
fn other_bytes_are_not_subscribers() {
    assert!(Subscribers::load(&[0xff; 9]).is_err());
    assert!(Subscribers::load(&[]).is_ok_and(|s| s.is_empty()));
}

#[test]
fn the_consumers_own_words_are_cut_to_a_kibibyte() {
    assert_eq!(shortened("é".repeat(1000)).len(), 1024);
    assert_eq!(shortened(format!("x{}", "é".repeat(1000))).len(), 1023);
}

#[derive(Clone, Debug)]
enum Step {
    Push(u64),
    Ack(u64),
    Nack(u64),
    End(u64),
    Unsubscribe(u64),
    Restart,
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let stream = 1u64..4;
    prop_oneof![
        3 => stream.clone().prop_map(Step::Push),
        4 => stream.clone().prop_map(Step::Ack),
        1 => stream.clone().prop_map(Step::Nack),
        1 => stream.clone().prop_map(Step::End),
        1 => stream.prop_map(Step::Unsubscribe),
        1 => Just(Step::Restart),
        1 => (0u64..90).prop_map(Step::Pass),
    ]
}

proptest! {
    /// Against everything that was ever acknowledged and refused: confirmed only grows,
    /// is only ever something that was acknowledged by a stream, and never something that
    /// was refused before it was confirmed.
    #[test]
    fn it_never_says_more_than_was_proved(steps in prop::collection::vec(step(), 0..120)) {
        let mut w = World::new();
        let mut number = 0;
        let mut last_sent = BTreeMap::new();
        let (mut acked, mut refused) = (BTreeSet::new(), BTreeSet::new());
        let mut before = None;
        let mut generation = 0;
        for step in steps {
            match step {
                Step::Push(s) => {
                    number += 1;
                    // A few contents only, so that they come back.
                    let content = trust(number, (number % 5) as u8);
                    w.sent("ROOTCA", s + generation, &content);
                    last_sent.insert(s, content);
                }
                Step::Ack(s) => if let Some(content) = last_sent.get(&s) {
                    let Content::Trust { sequence, sha256 } = &**content else { continue };
                    if !refused.contains(sha256) {
                        acked.insert(sequence.number);
                    }
                    w.acked("ROOTCA", s + generation, content);
                },
                Step::Nack(s) => if let Some(content) = last_sent.get(&s) {
                    if w.report("ROOTCA").is_some() {
                        refused.insert(*content.sha256());
                    }
                    w.nacked("ROOTCA", s + generation, content);
                },
                Step::End(s) => w.on("ROOTCA", s + generation, Event::Ended),
                Step::Unsubscribe(s) => w.on("ROOTCA", s + generation, Event::Unsubscribed),
                Step::Restart => {
                    w.restart();
                    last_sent.clear();
                    generation += 10;
                }
                Step::Pass(seconds) => w.pass(seconds),
            }
            if w.report("ROOTCA").is_none() {
                // Ended: the next one of this name is another subscriber.
                before = None;
                continue;
            }
            let confirmed = w.confirmed("ROOTCA");
            prop_assert!(confirmed >= before, "{before:?} -> {confirmed:?}");
            if let Some(n) = confirmed.filter(|_| confirmed != before) {
                prop_assert!(acked.contains(&n), "{n} was never acknowledged");
            }
            before = confirmed;
        }
    }

    #[test]
    fn saving_and_loading_keeps_everything(steps in prop::collection::vec(step(), 0..60)) {
        let mut w = World::new();
        for (n, step) in steps.into_iter().enumerate() {
            match step {
                Step::Push(s) => w.sent("ROOTCA", s, &trust(n as u64, n as u8)),
                Step::Nack(s) => w.nacked("ROOTCA", s, &trust(n as u64, n as u8)),
                Step::Ack(s) => w.sent("default", s, &leaf(n as u8 + 1, 5)),
                _ => w.on("ROOTCA", 1, Event::Ended),
            }
        }
        for stream in 1..4 {
            w.on("ROOTCA", stream, Event::Ended);
            w.on("default", stream, Event::Ended);
        }
        let before = w.subscribers.take_all();
        w.restart();
        let sorted = |mut states: Vec<SubscriberState>| {
            states.sort_by_key(|s| format!("{s:?}"));
            states
        };
        prop_assert_eq!(sorted(before), sorted(w.subscribers.take_all()));
    }

    #[test]
    fn no_saved_bytes_make_it_panic(bytes: Vec<u8>) {
        let _ = Subscribers::load(&bytes);
    }
}

/// What is told of everybody: holder, and the number of the roots that it has confirmed.
fn told(w: &mut World) -> Vec<(String, Option<u64>)> {
    let each = |state: SubscriberState| {
        let holder = state.subscriber.and_then(|s| s.holder);
        let confirmed = state.acked_trust.and_then(|t| t.sequence);
        (format!("{holder:?}"), confirmed.map(|s| s.number))
    };
    w.subscribers.take_all().into_iter().map(each).collect()
}

#[test]
fn a_stream_that_nobody_has_vouched_for_is_told_to_nobody_and_not_kept() {
    let mut w = World::new();
    w.holder = Holder::Stream(StreamId(1));
    w.sent("ROOTCA", 1, &trust(1, 1));
    w.acked("ROOTCA", 1, &trust(1, 1));
    w.sent("ROOTCA", 1, &trust(2, 2));
    w.nacked("ROOTCA", 1, &trust(2, 2));
    assert!(!w.subscribers.has_changes());
    assert!(told(&mut w).is_empty());
    let kept = Subscribers::load(&w.subscribers.save()).expect("own bytes");
    assert!(kept.is_empty());
    let (holder, now) = (w.holder.clone(), w.now());
    w.subscribers.died(&holder, now);
    assert!(w.subscribers.take_changes().is_empty() && w.subscribers.is_empty());
}

#[test]
fn what_a_stream_took_and_refused_counts_for_its_pod_once_that_is_proved() {
    let mut w = World::new();
    let pod = Holder::Pod("u-1".to_owned());
    w.holder = Holder::Stream(StreamId(1));
    w.sent("ROOTCA", 1, &trust(1, 1));
    w.acked("ROOTCA", 1, &trust(1, 1));
    w.sent("ROOTCA", 1, &trust(2, 2));
    w.nacked("ROOTCA", 1, &trust(2, 2));
    let now = w.now();
    w.subscribers.proved(StreamId(1), &pod, now);
    w.holder = pod;
    assert!(w.subscribers.has_changes());
    assert_eq!(w.confirmed("ROOTCA"), Some(1));
    assert!(w.report("ROOTCA").expect("told").nack.is_some());
    // The refusal sticks to the pod.
    w.acked("ROOTCA", 1, &trust(2, 2));
    assert_eq!(w.confirmed("ROOTCA"), Some(1));
}

#[test]
fn a_stream_that_is_behind_holds_its_pod_back_when_it_joins_it() {
    let mut w = World::new();
    let pod = Holder::Pod("u-1".to_owned());
    w.holder = Holder::Stream(StreamId(1));
    w.sent("ROOTCA", 1, &trust(1, 1));
    w.acked("ROOTCA", 1, &trust(1, 1));
    w.sent("ROOTCA", 1, &trust(2, 2));
    w.holder = pod.clone();
    w.sent("ROOTCA", 2, &trust(2, 2));
    w.acked("ROOTCA", 2, &trust(2, 2));
    let now = w.now();
    w.subscribers.proved(StreamId(1), &pod, now);
    w.sent("ROOTCA", 2, &trust(3, 3));
    w.acked("ROOTCA", 2, &trust(3, 3));
    assert_eq!(w.confirmed("ROOTCA"), Some(2), "not all have the third");
    w.acked("ROOTCA", 1, &trust(2, 2));
    w.sent("ROOTCA", 1, &trust(3, 3));
    assert_eq!(w.confirmed("ROOTCA"), Some(2));
    w.acked("ROOTCA", 1, &trust(3, 3));
    assert_eq!(w.confirmed("ROOTCA"), Some(3));
}
