//! Whatever a client says, in whatever order: what must never happen does not, and what
//! must happen does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use arx_proto::envoy::extensions::transport_sockets::tls::v3::Secret as Message;
use arx_proto::envoy::service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse};
use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::testing::Authority;
use crate::wire;

const NAMES: [&str; 3] = ["a", "b", "c"];

/// Versions that a name may have; bundles, because they cost little.
static SNAPSHOTS: LazyLock<Vec<Vec<Snapshot>>> = LazyLock::new(|| {
    let authority = Authority::new("example.org");
    let bundles: Vec<_> = (0..4).map(|number| authority.bundle(number)).collect();
    let of = |name: &&'static str| {
        let snapshots = bundles
            .iter()
            .map(|bundle| Snapshot::builder().trust([*name], bundle).build());
        snapshots.collect::<Result<_, _>>().expect("snapshots")
    };
    NAMES.iter().map(of).collect()
});

#[derive(Clone, Debug)]
enum Op {
    /// A name gets this version, or none.
    Show(usize, Option<usize>),
    /// The client wants these names from now on, and says so with its newest nonce or none.
    Want(BTreeSet<usize>, bool),
    /// The client reads the next response, and takes or refuses it.
    Answer(bool),
    /// A message with a nonce that never was.
    Stale(BTreeSet<usize>),
    /// Time passes, in milliseconds.
    Pass(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let names = || proptest::collection::btree_set(0..NAMES.len(), 0..=NAMES.len());
    prop_oneof![
        3 => (0..NAMES.len(), proptest::option::weighted(0.8, 0..4_usize)).prop_map(|(n, v)| Op::Show(n, v)),
        3 => (names(), any::<bool>()).prop_map(|(names, nonce)| Op::Want(names, nonce)),
        4 => prop::bool::weighted(0.8).prop_map(Op::Answer),
        1 => names().prop_map(Op::Stale),
        1 => (0..1_500_u64).prop_map(Op::Pass),
    ]
}

/// The client's side, and what it must not see.
struct Model {
    stream: Stream,
    shape: Shape,
    now: Instant,
    shown: BTreeMap<usize, usize>,
    wanted: BTreeSet<usize>,
    /// Names that are owed an answer.
    owed: BTreeSet<String>,
    /// Sent and not yet read by the client.
    on_the_way: Vec<(String, BTreeMap<String, String>)>,
    last_nonce: String,
    /// The version of each name that was sent last, since it is wanted.
    sent: BTreeMap<String, String>,
    refused: BTreeSet<(String, String)>,
    answered: bool,
    last_sent: Option<Instant>,
    events: Vec<String>,
}

impl Model {
    fn new(shape: Shape) -> Self {
        Self {
            stream: Stream::new(shape),
            shape,
            now: Instant::now(),
            shown: BTreeMap::new(),
            wanted: BTreeSet::new(),
            owed: BTreeSet::new(),
            on_the_way: Vec::new(),
            last_nonce: String::new(),
            sent: BTreeMap::new(),
            refused: BTreeSet::new(),
            answered: false,
            last_sent: None,
            events: Vec::new(),
        }
    }

    fn snapshot(&self) -> Snapshot {
        let shown = self.shown.iter();
        let parts = shown.map(|(name, version)| &SNAPSHOTS[*name][*version]);
        parts
            .fold(Snapshot::builder(), |builder, part| builder.with(part))
            .build()
            .expect("a snapshot")
    }

    fn say(&mut self, request: Request) {
        let events = &mut self.events;
        let mut tell = |kind: EventKind| {
            events.push(match kind {
                EventKind::Acked(secret) => format!("acked {}", secret.name()),
                EventKind::Nacked { secret, .. } => format!("nacked {}", secret.name()),
                EventKind::Unsubscribed { resource } => format!("unsubscribed {resource}"),
                other => panic!("{other:?} follows from no request"),
            });
        };
        self.stream
            .request(request, &mut tell)
            .expect("a request in order");
    }

    fn want(&mut self, names: BTreeSet<usize>, nonce: String) {
        let added: Vec<String> = names
            .difference(&self.wanted)
            .map(|name| NAMES[*name].to_owned())
            .collect();
        let removed: Vec<String> = self
            .wanted
            .difference(&names)
            .map(|name| NAMES[*name].to_owned())
            .collect();
        for name in &removed {
            self.owed.remove(name);
            self.sent.remove(name);
            self.refused.retain(|(refused, _)| refused != name);
        }
        self.owed.extend(added.iter().cloned());
        self.wanted = names;
        let request = match self.shape {
            Shape::StateOfTheWorld => Request {
                names: self.names(),
                nonce,
                ..Default::default()
            },
            Shape::Delta => Request {
                names: added,
                unsubscribe: removed,
                nonce,
                ..Default::default()
            },
        };
        self.say(request);
    }

    fn names(&self) -> Vec<String> {
        self.wanted
            .iter()
            .map(|name| NAMES[*name].to_owned())
            .collect()
    }

    /// Returns whether there was something to answer.
    fn answer(&mut self, takes: bool) -> bool {
        if self.on_the_way.is_empty() {
            return false;
        }
        let (nonce, content) = self.on_the_way.remove(0);
        self.last_nonce.clone_from(&nonce);
        self.answered = true;
        if !takes {
            let wanted = self.names();
            let current = content
                .into_iter()
                .filter(|(name, _)| wanted.contains(name));
            self.refused.extend(current);
        }
        let names = if self.shape == Shape::Delta {
            Vec::new()
        } else {
            self.names()
        };
        let rejection = (!takes).then(|| "no".to_owned());
        self.say(Request {
            names,
            nonce,
            rejection,
            ..Default::default()
        });
        true
    }

    /// Lets the stream do all that it wants to.
    fn run(&mut self) {
        let snapshot = self.snapshot();
        for _ in 0..10 {
            let mut sent = BTreeMap::new();
            let mut tell = |kind: EventKind| match kind {
                EventKind::Sent(secret) => {
                    assert!(
                        sent.insert(secret.name().to_string(), secret.version().to_string())
                            .is_none()
                    );
                }
                other => panic!("{other:?} follows from no snapshot"),
            };
            let next = self.stream.next(&snapshot, self.now, &mut tell);
            let Next::Send(frame) = next else { return };
            let nonce = read(self.shape, &frame.concat(), &sent);
            self.check(&nonce, &sent);
            self.on_the_way.push((nonce, sent));
            self.last_sent = Some(self.now);
        }
        panic!("it never stops sending");
    }

    fn check(&mut self, nonce: &str, sent: &BTreeMap<String, String>) {
        let nonces = self.on_the_way.iter().map(|(nonce, _)| nonce.as_str());
        assert!(
            nonces
                .chain([self.last_nonce.as_str()])
                .all(|known| known != nonce),
            "a nonce stands for one"
        );
        let patient = self.answered
            || self
                .last_sent
                .is_none_or(|at| self.now < at + limits::PATIENCE);
        for (name, version) in sent {
            assert!(self.names().contains(name), "`{name}` is not wanted");
            if self.owed.remove(name) {
                self.sent.insert(name.clone(), version.clone());
                continue;
            }
            assert!(
                !self.refused.contains(&(name.clone(), version.clone()))
                    || self.sent.get(name) != Some(version)
            );
            let before = self.sent.insert(name.clone(), version.clone());
            assert_ne!(
                before.as_ref(),
                Some(version),
                "`{name}` was sent and nobody asked again"
            );
            let on_its_way = self
                .on_the_way
                .iter()
                .any(|(_, content)| content.contains_key(name));
            assert!(
                !(patient && on_its_way),
                "`{name}` has an older version on its way"
            );
        }
    }
}

/// Checks that the bytes say what the events say; returns the nonce.
fn read(shape: Shape, frame: &[u8], sent: &BTreeMap<String, String>) -> String {
    let message = &frame[wire::PREFIX..];
    assert_eq!(
        frame[..wire::PREFIX],
        [&[0][..], &(message.len() as u32).to_be_bytes()].concat()
    );
    let (nonce, names): (String, BTreeSet<String>) = match shape {
        Shape::StateOfTheWorld => {
            let response = DiscoveryResponse::decode(message).expect("a response");
            let secrets = response
                .resources
                .iter()
                .map(|any| Message::decode(&any.value[..]).expect("a secret").name);
            (response.nonce, secrets.collect())
        }
        Shape::Delta => {
            let response = DeltaDiscoveryResponse::decode(message).expect("a response");
            let versions = response
                .resources
                .iter()
                .map(|r| (r.name.clone(), r.version.clone()));
            assert_eq!(versions.collect::<BTreeMap<_, _>>(), *sent);
            (
                response.nonce,
                response
                    .resources
                    .into_iter()
                    .map(|resource| resource.name)
                    .collect(),
            )
        }
    };
    assert!(!nonce.is_empty());
    assert!(names.iter().eq(sent.keys()));
    nonce
}

fn play(shape: Shape, ops: Vec<Op>) {
    let mut model = Model::new(shape);
    model.want(BTreeSet::new(), String::new());
    for op in ops {
        match op {
            Op::Show(name, Some(version)) => _ = model.shown.insert(name, version),
            Op::Show(name, None) => _ = model.shown.remove(&name),
            Op::Want(names, with_nonce) => {
                let nonce = if with_nonce {
                    model.last_nonce.clone()
                } else {
                    String::new()
                };
                model.want(names, nonce);
            }
            Op::Answer(takes) => _ = model.answer(takes),
            Op::Stale(names) if shape == Shape::StateOfTheWorld => {
                let names = names.iter().map(|name| NAMES[*name].to_owned()).collect();
                model.say(Request {
                    names,
                    nonce: "never was".to_owned(),
                    ..Default::default()
                });
            }
            Op::Stale(_) => {}
            Op::Pass(ms) => model.now += std::time::Duration::from_millis(ms),
        }
        model.run();
    }
    // A client that answers has in the end what it may have, or has refused it.
    while model.answer(true) {
        model.run();
    }
    assert!(model.stream.unanswered.is_empty());
    for (name, version) in &model.shown {
        let name = NAMES[*name];
        let version = SNAPSHOTS[NAMES.iter().position(|n| *n == name).expect("known")][*version]
            .get(name)
            .expect("there")
            .version()
            .to_string();
        if model.names().iter().any(|wanted| wanted == name) {
            let refused = model.refused.contains(&(name.to_owned(), version.clone()));
            assert!(
                refused || model.sent.get(name) == Some(&version),
                "`{name}` lacks {version}"
            );
        }
    }
}

proptest! {
    #[test]
    fn a_stream_keeps_its_promises(ops in proptest::collection::vec(op(), 1..60)) {
        play(Shape::StateOfTheWorld, ops);
    }

    #[test]
    fn a_delta_stream_keeps_its_promises(ops in proptest::collection::vec(op(), 1..60)) {
        play(Shape::Delta, ops);
    }
}
