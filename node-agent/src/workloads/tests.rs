use super::*;
use crate::attest::LocalProcess;
use crate::authority::CallFailure;
use crate::issue::Evidence;
use crate::testing::{self, Authority, noon};
use arx_identity::{Certificate, Sequence, VerifiedPeer};
use arx_proto::node::v1::Refusal;
use std::time::SystemTime;

const HOUR: Duration = Duration::from_secs(3600);
const LINGER: Duration = Duration::from_secs(600);
const ASKER: Asker = Asker {
    uid: 7,
    connection: 1,
};

/// Workloads, an authority that says yes, and a clock.
struct World {
    workloads: Workloads,
    authority: Authority,
    start: Instant,
    wall: SystemTime,
    elapsed: Duration,
    generation: u64,
    streams: u64,
}

impl World {
    fn new() -> Self {
        Self {
            workloads: Workloads::new(LINGER, 1),
            authority: Authority::new(),
            start: Instant::now(),
            wall: noon(),
            elapsed: Duration::ZERO,
            generation: 1,
            streams: 0,
        }
    }

    fn now(&self) -> Now {
        Now {
            wall: self.wall + self.elapsed,
            monotonic: self.start + self.elapsed,
        }
    }

    fn attach(&mut self, caller: Caller, held: Option<&str>) -> (StreamId, WorkloadId) {
        self.streams += 1;
        let stream = StreamId(self.streams);
        let now = self.now();
        let has_held = |id: &SpiffeId| held == Some(id.as_str());
        let attached = self.workloads.attach(stream, caller, ASKER, has_held, now);
        (stream, attached.expect("not too many"))
    }

    fn due(&mut self) -> Due {
        let now = self.now();
        self.workloads.take_due(50, now)
    }

    fn answer(&mut self, workload: WorkloadId, outcome: Outcome) -> Applied {
        let now = self.now();
        let answer = Answer {
            workload,
            inventories: 0,
            outcome,
        };
        self.workloads.apply(answer, self.generation, 0, now)
    }

    fn issue(&mut self, workload: WorkloadId, path: &str) -> Applied {
        let outcome = Outcome::Issued(self.verified(path));
        self.answer(workload, outcome)
    }

    fn verified(&self, path: &str) -> Verified {
        let svid = self.authority.svid(path, self.now().wall, HOUR);
        let root = self
            .authority
            .root
            .subject_key_id()
            .expect("a root has one");
        Verified {
            peer: VerifiedPeer {
                id: svid.spiffe_id().clone(),
                serial: svid.serial().clone(),
                not_after: svid.not_after(),
                issuers: vec![root],
            },
            svid,
        }
    }

    fn seal(&mut self) -> Vec<WorkloadId> {
        self.generation += 1;
        self.workloads.sealed(self.generation - 1)
    }

    /// Asked, issued and sealed.
    fn serve(&mut self, caller: Caller, path: &str) -> (StreamId, WorkloadId) {
        let (stream, id) = self.attach(caller, None);
        self.due();
        self.issue(id, path);
        self.seal();
        (stream, id)
    }

    fn served(&self, id: WorkloadId) -> Option<&Leaf> {
        self.workloads.get(id)?.served.as_ref()
    }
}

fn process(uid: u32) -> Caller {
    Caller::Local(LocalProcess {
        uid,
        gid: 1,
        executable: "/usr/bin/envoy".into(),
        executable_sha256: None,
    })
}

fn token(pod: &str, expires_in: u64, signature: &str) -> Caller {
    let text = testing::token("a:b", pod, 1_800_000_000 + expires_in, signature);
    Caller::Token(Arc::new(
        ServiceAccountToken::new(&text).expect("well formed"),
    ))
}

fn refusal(retry_after_ms: u32) -> Outcome {
    Outcome::Refused(Refusal {
        code: "ARX-POLICY-NO-RULE".into(),
        message: "nobody has said who this is".into(),
        grpc_code: 7,
        retry_after_ms,
    })
}

#[test]
fn streams_of_the_same_evidence_share_one_identity() {
    let mut w = World::new();
    let (_, a) = w.attach(process(1), None);
    let (_, b) = w.attach(process(1), None);
    let (_, other) = w.attach(process(2), None);
    assert_eq!(a, b);
    assert_ne!(a, other);
    assert_eq!(w.due().wanted.len(), 2);
    assert!(w.due().wanted.is_empty(), "asked already");
}

#[test]
fn a_certificate_is_served_only_when_it_is_sealed() {
    let mut w = World::new();
    let (_, id) = w.attach(process(1), None);
    w.due();
    let before = w.generation;
    assert!(w.issue(id, "/a").changed);
    assert!(w.served(id).is_none());
    assert!(
        w.workloads.sealed(before - 1).is_empty(),
        "an earlier write"
    );
    assert_eq!(w.workloads.sealed(before), [id]);
    assert!(w.served(id).is_some());
}

#[test]
fn the_old_certificate_is_served_until_the_new_one_is_sealed() {
    let mut w = World::new();
    let (_, id) = w.serve(process(1), "/a");
    let old = w.served(id).expect("served").svid.serial().clone();
    w.elapsed += HOUR / 2 + HOUR / 8;
    let due = w.due();
    let replaces = due.wanted[0]
        .replaces
        .as_ref()
        .map(|(serial, _)| serial.clone());
    assert_eq!(replaces.as_ref(), Some(&old));
    w.issue(id, "/a");
    assert_eq!(w.served(id).expect("served").svid.serial(), &old);
    w.seal();
    assert_ne!(w.served(id).expect("served").svid.serial(), &old);
}

#[test]
fn a_first_certificate_goes_before_renewals_and_the_earliest_end_first() {
    let mut w = World::new();
    let (_, early) = w.serve(process(1), "/early");
    w.elapsed += Duration::from_secs(60);
    let (_, late) = w.serve(process(2), "/late");
    let (_, first) = w.attach(process(3), None);
    let now = w.now();
    let all = RenewalHint {
        renew_by_unix_ms: crate::wire::unix_ms(now.wall),
        ..RenewalHint::default()
    };
    assert_eq!(w.workloads.hint(&all, now), 2);
    let order: Vec<_> = w
        .due()
        .wanted
        .iter()
        .map(|wanted| wanted.workload)
        .collect();
    assert_eq!(order, [first, early, late]);
}

#[test]
fn a_forged_token_of_a_known_account_gets_nothing() {
    let mut w = World::new();
    let (_, id) = w.serve(token("u-1", 3600, "good"), "/a");
    let (_, same) = w.attach(token("u-1", 3600, "good"), None);
    assert_eq!(same, id, "the very token that was proved");
    let (_, forged) = w.attach(token("u-1", 9999, "forged"), None);
    assert_ne!(forged, id);
    assert_eq!(w.due().wanted.len(), 1, "the authority decides");
    w.answer(forged, refusal(0));
    assert!(w.served(forged).is_none());
}

#[test]
fn a_fresh_token_of_a_known_account_joins_it_when_the_authority_has_issued_for_it() {
    let mut w = World::new();
    let (_, id) = w.serve(token("u-1", 3600, "one"), "/a");
    let (stream, candidate) = w.attach(token("u-1", 7200, "two"), None);
    w.due();
    let applied = w.issue(candidate, "/a");
    assert_eq!(applied.moved, [(stream, id)]);
    assert_eq!(w.workloads.len(), 1);
    assert_eq!(w.seal(), [id]);
    let (_, again) = w.attach(token("u-1", 7200, "two"), None);
    assert_eq!(again, id);
    assert_eq!(w.workloads.get(id).expect("there").streams.len(), 3);
}

#[test]
fn a_process_that_held_the_identity_gets_it_again_with_a_fresh_token() {
    let mut w = World::new();
    let held = "spiffe://example.org/a";
    let (_, id) = w.serve(token("u-1", 3600, "one"), "/a");
    let (_, again) = w.attach(token("u-1", 7200, "two"), Some(held));
    assert_eq!(again, id);
    // That is no proof for another process that shows the same token.
    let (_, other) = w.attach(token("u-1", 7200, "two"), None);
    assert_ne!(other, id);
    // Nor is having held something else.
    let (_, other) = w.attach(token("u-1", 7200, "three"), Some("spiffe://example.org/b"));
    assert_ne!(other, id);
}

#[test]
fn the_restart_of_the_agent_keeps_what_was_proved() {
    let mut w = World::new();
    let (_, local) = w.serve(process(1), "/a");
    let (_, by_token) = w.serve(token("u-1", 3600, "one"), "/b");
    let serials = |w: &World, ids: [WorkloadId; 2]| {
        ids.map(|id| w.served(id).expect("served").svid.serial().clone())
    };
    let before = serials(&w, [local, by_token]);
    let saved = w.workloads.save();
    w.workloads = Workloads::new(LINGER, 1);
    let now = w.now();
    w.workloads.restore(saved, now);
    let (_, local) = w.attach(process(1), None);
    let (_, by_token) = w.attach(token("u-1", 3600, "one"), None);
    assert_eq!(serials(&w, [local, by_token]), before);
    let (_, forged) = w.attach(token("u-1", 3600, "forged"), None);
    assert!(w.served(forged).is_none());
    assert!(
        w.due()
            .wanted
            .iter()
            .all(|wanted| wanted.workload == forged)
    );
}

#[test]
fn a_workload_whose_tokens_have_all_ended_is_starved_until_a_fresh_one_comes() {
    let mut w = World::new();
    let (_, id) = w.serve(token("u-1", 600, "one"), "/a");
    w.elapsed += HOUR / 2 + HOUR / 8;
    let due = w.due();
    assert_eq!(due.starved, [id]);
    assert!(due.wanted.is_empty());
    w.attach(token("u-1", 7200, "two"), Some("spiffe://example.org/a"));
    w.elapsed += HOUR / 8;
    assert_eq!(w.due().wanted.len(), 1);
}

#[test]
fn a_refusal_is_asked_again_slowly_and_a_busy_authority_when_it_says() {
    let mut w = World::new();
    let (_, id) = w.attach(process(1), None);
    let mut last = Duration::ZERO;
    for _ in 0..6 {
        w.due();
        w.answer(id, refusal(0));
        let next = w.workloads.next_due().expect("tried again");
        last = next - w.now().monotonic;
        assert!(last >= Duration::from_secs(15), "{last:?}");
        w.elapsed += last;
    }
    assert!(last >= Duration::from_secs(300) && last <= Duration::from_secs(450));
    w.due();
    w.answer(id, refusal(20));
    let next = w.workloads.next_due().expect("tried again") - w.now().monotonic;
    assert!(next <= Duration::from_secs(15), "{next:?}");
}

/// The end of the token that the authority is shown.
fn shown(due: &Due) -> Option<SystemTime> {
    match &due.wanted[0].evidence {
        Evidence::Token(token) => token.claims().expires,
        Evidence::Local(_) | Evidence::Pod(_) => None,
    }
}

#[test]
fn tokens_that_say_to_end_late_do_not_push_out_the_one_that_was_proved() {
    let mut w = World::new();
    let held = Some("spiffe://example.org/a");
    let (_, id) = w.serve(token("u-1", 7200, "good"), "/a");
    for n in 0..20 {
        w.attach(token("u-1", 99_999 + n, "forged"), held);
    }
    w.elapsed += HOUR / 2 + HOUR / 8;
    let due = w.due();
    assert_eq!(due.wanted[0].workload, id);
    assert_eq!(shown(&due), Some(noon() + 2 * HOUR));
}

#[test]
fn a_bad_token_does_not_stand_in_the_way_of_a_good_one() {
    let mut w = World::new();
    let held = Some("spiffe://example.org/a");
    let (_, id) = w.serve(token("u-1", 1000, "good"), "/a");
    w.attach(token("u-1", 9999, "forged"), held);
    w.attach(token("u-1", 7200, "fresh"), held);
    // The one that was proved has ended.
    w.elapsed += HOUR / 2 + HOUR / 8;
    let first = w.due();
    w.answer(id, refusal(0));
    w.elapsed += Duration::from_secs(30);
    let second = w.due();
    assert!(shown(&first) > shown(&second), "the forged one was dropped");
}

#[test]
fn one_asker_has_only_so_many_tokens_that_nobody_vouches_for() {
    let mut w = World::new();
    let mut open = Vec::new();
    let now = w.now();
    let error = loop {
        let stream = StreamId(open.len() as u64);
        let one = token("u-1", 3600, &format!("forged-{}", open.len()));
        match w.workloads.attach(stream, one, ASKER, |_| false, now) {
            Ok(id) => open.push((stream, id)),
            Err(error) => break error,
        }
    };
    assert_eq!(error, TooManyUnproved);
    // Others may, and so may it with one that is proved.
    let other = Asker {
        uid: 8,
        connection: 2,
    };
    let attach = |w: &mut World, asker| {
        let one = token("u-2", 3600, "good");
        w.workloads
            .attach(StreamId(1000), one, asker, |_| false, now)
    };
    assert!(attach(&mut w, ASKER).is_err());
    let id = attach(&mut w, other).expect("it has none yet");
    while w.workloads.get(id).expect("there").newest().is_none() {
        for wanted in w.due().wanted {
            match wanted.workload == id {
                true => w.issue(id, "/a"),
                false => w.answer(wanted.workload, refusal(0)),
            };
        }
    }
    assert!(attach(&mut w, ASKER).is_ok());
    // What was refused is remembered for a while, and counts as long.
    for (stream, id) in open.drain(..) {
        w.workloads.detach(stream, id, now);
    }
    assert!(w.workloads.forget_unused(now).is_empty());
    w.elapsed += REFUSED_LINGER;
    let now = w.now();
    assert!(!w.workloads.forget_unused(now).is_empty());
    assert!(w.workloads.unproved.is_empty());
}

#[test]
fn a_lost_answer_is_asked_for_again_at_once_when_the_connection_is_back() {
    let mut w = World::new();
    let (_, id) = w.attach(process(1), None);
    for _ in 0..5 {
        w.due();
        w.answer(id, Outcome::Failed(CallFailure::lost(), None));
        w.elapsed += Duration::from_secs(60);
    }
    w.due();
    w.answer(id, Outcome::Failed(CallFailure::lost(), None));
    let now = w.now();
    w.workloads.connected(now);
    assert_eq!(w.due().wanted.len(), 1);
}

#[test]
fn a_leaf_that_two_inventories_have_missed_is_not_used() {
    let mut w = World::new();
    let (_, id) = w.attach(process(1), None);
    w.due();
    let answer = Answer {
        workload: id,
        inventories: 3,
        outcome: Outcome::Issued(w.verified("/a")),
    };
    let now = w.now();
    let applied = w.workloads.apply(answer, w.generation, 5, now);
    assert!(!applied.changed);
    assert_eq!(w.due().wanted.len(), 1, "another one is asked for");
}

#[test]
fn a_leaf_that_was_believed_by_the_old_root_counts_under_the_new_one_as_soon_as_that_is_known() {
    let mut w = World::new();
    let old = w.authority.root.clone();
    w.authority = w.authority.followed();
    let new = w.authority.root.clone();
    let key_id = |root: &Certificate| root.subject_key_id().expect("a root has one");
    let (_, id) = w.attach(process(1), None);
    w.due();
    let Verified { svid, .. } = w.verified("/a");
    let alone = testing::bundle(1, &[&old]);
    let peer = arx_identity::verify(svid.chain(), &alone, w.now().wall).expect("it is vouched for");
    w.answer(id, Outcome::Issued(Verified { svid, peer }));
    w.seal();
    let counted = |w: &World| w.served(id).map(|leaf| leaf.root);
    assert_eq!(counted(&w), Some(key_id(&old)));

    assert!(!w.workloads.count_anew(&alone));
    assert!(w.workloads.count_anew(&testing::bundle(2, &[&old, &new])));
    assert_eq!(counted(&w), Some(key_id(&new)));
    // Whoever has certified that root only is never its root again.
    assert!(!w.workloads.count_anew(&testing::bundle(3, &[&old])));
    assert_eq!(counted(&w), Some(key_id(&new)));
}

#[test]
fn a_leaf_that_came_before_its_roots_is_used_when_they_come() {
    let mut w = World::new();
    let (_, id) = w.attach(process(1), None);
    w.due();
    let Verified { svid, .. } = w.verified("/a");
    let needs = Sequence {
        epoch: 1,
        number: 2,
    };
    let error = arx_identity::VerifyError::NoBundle(svid.spiffe_id().clone());
    w.answer(id, Outcome::Early { svid, needs, error });
    let (one, two) = (w.authority.bundle(1), w.authority.bundle(2));
    let now = w.now();
    assert!(w.workloads.trust_arrived(&one, 1, 0, now).is_empty());
    assert_eq!(w.workloads.trust_arrived(&two, 1, 0, now).len(), 1);
    assert_eq!(w.seal(), [id]);
}

#[test]
fn an_identity_ends_some_time_after_its_last_stream() {
    let mut w = World::new();
    let (stream, id) = w.serve(process(1), "/a");
    let now = w.now();
    w.workloads.detach(stream, id, now);
    w.elapsed += LINGER / 2;
    let (stream, _) = w.attach(process(1), None);
    w.elapsed += LINGER;
    let now = w.now();
    assert!(w.workloads.forget_unused(now).is_empty(), "in use again");
    w.workloads.detach(stream, id, now);
    w.elapsed += LINGER;
    let now = w.now();
    assert_eq!(w.workloads.forget_unused(now).len(), 1);
    assert_eq!(w.workloads.len(), 0);
    assert!(w.workloads.next_due().is_none() && w.workloads.next_unused().is_none());
}

#[test]
fn who_has_nothing_and_nobody_is_forgotten_at_once() {
    let mut w = World::new();
    let (stream, id) = w.attach(token("u-1", 3600, "x"), None);
    let now = w.now();
    w.workloads.detach(stream, id, now);
    assert_eq!(w.workloads.forget_unused(now).len(), 1);
    assert!(w.workloads.by_token.is_empty() && w.workloads.by_key.is_empty());
}

#[test]
fn a_clock_that_jumps_makes_no_storm() {
    let mut w = World::new();
    for uid in 0..200 {
        w.serve(process(uid), "/a");
    }
    // Within the last half of all lifetimes: everybody is overdue.
    w.wall += HOUR * 3 / 4;
    let now = w.now();
    w.workloads.reschedule(now);
    assert!(w.due().wanted.len() < 20);
    w.elapsed += Duration::from_secs(120);
    let mut asked = 0;
    loop {
        let due = w.due().wanted.len();
        if due == 0 {
            break;
        }
        asked += due;
    }
    assert!(asked >= 180, "{asked}");
}

#[test]
fn processes_of_a_pod_share_an_identity_that_is_shown_by_the_pods_uid() {
    let mut world = World::new();
    let of = |uid: &str| Caller::Process(testing::uid(uid));
    let (_, one) = world.attach(of("u-1"), None);
    let (_, same) = world.attach(of("u-1"), None);
    let (_, other) = world.attach(of("u-2"), None);
    assert_eq!(one, same);
    assert_ne!(one, other);
    let shown: Vec<_> = world
        .due()
        .wanted
        .into_iter()
        .map(|wanted| match wanted.evidence {
            Evidence::Pod(uid) => (wanted.workload, uid.to_string()),
            _ => (wanted.workload, String::new()),
        })
        .collect();
    assert_eq!(shown, [(one, "u-1".to_owned()), (other, "u-2".to_owned())]);
}
