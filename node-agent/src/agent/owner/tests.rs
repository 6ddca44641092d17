//! The owner with peers whose processes it can't see.

use super::*;
use crate::attest::{Asker, Caller, ServiceAccountToken};
use crate::doorway::Open;
use crate::issue::{Outcome, Verified};
use crate::subscribers::StreamId;
use crate::testing::{self, Authority, noon, server};
use arx_daemon::ops::Readiness;
use arx_identity::verify;
use arx_proto::node::v1::subscriber;
use arx_sds::{EventKind, Session};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

const HOUR: Duration = Duration::from_secs(3600);

struct World {
    agent: Owner,
    start: Instant,
    authority: Authority,
    _directory: tempfile::TempDir,
}

fn at(start: Instant) -> Now {
    Now {
        wall: noon(),
        monotonic: start,
    }
}

/// A stream of a process that can't be seen.
struct Unseen {
    stream: u64,
    session: Session,
}

impl World {
    /// An agent that serves the first roots.
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("agent.toml");
        let text = crate::config::tests::text(directory.path());
        std::fs::write(&path, text).expect("writable");
        let config = Arc::new(Config::load(&path).expect("a good configuration"));
        let readiness = Readiness::new();
        let start = Instant::now();
        let parts = Parts {
            config: watch::channel(config).1,
            metrics: Metrics::default(),
            cache_id: [1; 16],
            loaded: Loaded::default(),
            conditions: Conditions {
                trust: readiness.condition("trust"),
                cache: readiness.condition("cache"),
            },
            loosened: Arc::default(),
            seed: 1,
        };
        let mut world = Self {
            agent: Owner::new(parts, at(start)),
            start,
            authority: Authority::new(),
            _directory: directory,
        };
        world.publish(1);
        world
    }

    fn now(&self) -> Now {
        at(self.start)
    }

    /// Roots at this sequence are stored, and shown to everybody.
    fn publish(&mut self, number: u64) {
        let update = server::update(&self.authority.bundle(number));
        let now = self.now();
        self.agent.on_authority(FromAuthority::Trust(update), now);
        self.seal();
    }

    fn seal(&mut self) {
        self.agent.seal(Now {
            monotonic: Instant::now() + HOUR,
            ..self.now()
        });
        for effect in self.agent.effects() {
            let Effect::Write(Write { what, .. }) = effect else {
                continue;
            };
            let (result, now) = (Ok(()), self.now());
            self.agent.on_written(Written::Ended { what, result }, now);
        }
    }

    /// Somebody shows a token of pod `u-1`; the signature tells tokens apart.
    fn open(&mut self, signature: &str, connection: u64) -> Result<Unseen, tonic::Status> {
        let text = testing::token("a:web", "u-1", 4_000_000_000, signature);
        let token = ServiceAccountToken::new(&text).expect("well formed");
        let (reply, mut opened) = oneshot::channel();
        let now = self.now();
        let open = Open {
            caller: Caller::Token(Arc::new(token)),
            asker: Asker { uid: 7, connection },
            process: None,
            node: String::new(),
            events: mpsc::unbounded_channel().0,
            reply,
        };
        self.agent.open(open, now);
        let session = opened.try_recv().expect("answered at once")?.session();
        let session = session.expect("nobody else took it");
        Ok(Unseen {
            stream: session.stream,
            session,
        })
    }

    /// The stream is sent the roots that it sees, and takes them.
    fn takes_roots(&mut self, of: &Unseen) {
        let snapshot = Arc::clone(&of.session.view.borrow());
        let roots = snapshot.get("ROOTCA").expect("roots are for everybody");
        for kind in [
            EventKind::Sent(Arc::clone(roots)),
            EventKind::Acked(Arc::clone(roots)),
        ] {
            let stream = of.stream;
            let now = self.now();
            self.agent.on_stream(arx_sds::Event { stream, kind }, now);
        }
    }

    /// The authority issues for the token of this stream.
    fn prove(&mut self, of: &Unseen) {
        let now = self.now();
        let id = self.agent.streams.workload(StreamId(of.stream));
        let id = id.expect("the stream is open");
        let due = self.agent.workloads.take_due(50, now);
        assert!(due.wanted.iter().any(|wanted| wanted.workload == id));
        let svid = self.authority.svid("/sa/web", noon(), HOUR);
        let peer = verify(svid.chain(), &self.authority.bundle(1), noon()).expect("its own");
        let answer = Answer {
            workload: id,
            inventories: 0,
            outcome: Outcome::Issued(Verified { svid, peer }),
        };
        self.agent.on_answers(vec![answer], now);
    }

    /// What would be reported: holders of roots, and which they have confirmed.
    fn told(&mut self) -> Vec<(subscriber::Holder, Option<u64>)> {
        let each = |state: arx_proto::node::v1::SubscriberState| {
            let holder = state.subscriber?.holder?;
            let confirmed = state.acked_trust.and_then(|t| t.sequence);
            Some((holder, confirmed.map(|s| s.number)))
        };
        let all = self.agent.subscribers.take_all();
        all.into_iter().filter_map(each).collect()
    }
}

fn pod(confirmed: u64) -> Vec<(subscriber::Holder, Option<u64>)> {
    vec![(subscriber::Holder::PodUid("u-1".into()), Some(confirmed))]
}

#[test]
fn whoever_names_the_pod_of_another_confirms_nothing_for_it() {
    let mut w = World::new();
    let real = w.open("good", 1).expect("served");
    w.takes_roots(&real);
    assert!(w.told().is_empty(), "nobody has vouched for it yet");
    w.prove(&real);
    assert_eq!(w.told(), pod(1));
    // The real one does not take the next roots, and somebody else says that it has.
    w.publish(2);
    let forger = w.open("forged", 2).expect("served");
    w.takes_roots(&forger);
    assert_eq!(w.told(), pod(1));
    w.takes_roots(&real);
    assert_eq!(w.told(), pod(2));
}

#[test]
fn what_a_proxy_took_before_its_token_was_proved_counts_afterwards() {
    let mut w = World::new();
    let (real, same) = (
        w.open("good", 1).expect("served"),
        w.open("good", 1).expect("served"),
    );
    w.takes_roots(&real);
    w.publish(2);
    w.takes_roots(&real);
    w.takes_roots(&same);
    w.prove(&real);
    assert_eq!(w.told(), pod(2), "both have the second");
}

#[test]
fn too_many_tokens_that_nobody_vouches_for_end_their_streams_alone() {
    let mut w = World::new();
    let real = w.open("good", 1).expect("served");
    let mut forged = Vec::new();
    let refused = loop {
        match w.open(&format!("forged-{}", forged.len()), 2) {
            Ok(stream) => forged.push(stream),
            Err(status) => break status,
        }
    };
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
    assert!(
        w.open("good", 2).is_ok(),
        "it is shown to the authority already"
    );
    w.prove(&real);
    w.seal();
    let snapshot = Arc::clone(&real.session.view.borrow());
    assert!(snapshot.get("default").is_some());
    assert!(forged.iter().all(|stream| {
        let snapshot = Arc::clone(&stream.session.view.borrow());
        snapshot.get("default").is_none()
    }));
}

#[test]
fn a_certificate_that_the_roots_do_not_vouch_for_any_more_is_renewed_at_once() {
    let mut w = World::new();
    let stream = w.open("good", 1).expect("served");
    w.prove(&stream);
    w.seal();
    let now = w.now();
    assert!(w.agent.workloads.next_due() > Some(now.monotonic));
    w.authority = Authority::new();
    w.publish(2);
    let snapshot = Arc::clone(&stream.session.view.borrow());
    assert!(snapshot.get("default").is_none());
    assert!(w.agent.workloads.next_due() <= Some(now.monotonic));
}
