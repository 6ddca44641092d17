//! The agent of a node as a machine: everything that it decides, and none of its sockets,
//! files, clocks and threads. For tests that run many agents, and the rest of the world,
//! under a clock of their own.

use crate::agent::Conditions;
use crate::agent::owner::{Effect, Owner, Parts, What, Write, Written};
use crate::attest::{Asker, Caller, LocalProcess, ProcessId};
use crate::authority::{CallFailure, Event};
use crate::cache::{Loaded, State};
use crate::config::Config;
use crate::doorway::Open;
use crate::issue::{self, Answer, Evidence, Outcome, Prepared, Terms, WorkloadId};
use crate::metrics::Metrics;
use crate::subscribers::{Holder, Now, Subscribers};
use arx_daemon::config::File;
use arx_daemon::ops::Readiness;
use arx_identity::{PrivateKey, Sequence, Serial, Svid, TrustBundle};
use arx_proto::node::v1::authority_message::Message;
use arx_proto::node::v1::{AgentMessage, AuthorityMessage, Refusal, Welcome};
use arx_sds::Session;
use bytes::Bytes;
use std::convert::Infallible;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::{mpsc, oneshot, watch};

/// What agents have in common.
#[derive(Debug)]
pub struct Setup {
    config: watch::Sender<Arc<Config>>,
    metrics: Metrics,
    conditions: Conditions,
    key: Arc<PrivateKey>,
}

impl Setup {
    /// Agents with a configuration of this text. `key` is that of requests which nobody reads.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn new(config: &str, key: Arc<PrivateKey>) -> Result<Self, Box<dyn std::error::Error>> {
        let config = Config::read(&File::from_text("agent.toml", config)?)?;
        let readiness = Readiness::new();
        Ok(Self {
            config: watch::Sender::new(Arc::new(config)),
            metrics: Metrics::default(),
            conditions: Conditions {
                trust: readiness.condition("trust"),
                cache: readiness.condition("cache"),
            },
            key,
        })
    }
}

/// What an agent has on its disk.
#[derive(Clone, Debug)]
pub struct Disk {
    /// Which cache it is: another one, if anything in it got lost.
    pub cache_id: [u8; 16],
    /// As [`Seal`] has written it.
    pub state: Option<Vec<u8>>,
    /// As [`Seal`] has written it.
    pub subscribers: Option<Vec<u8>>,
}

/// A running agent.
#[derive(Debug)]
pub struct Agent {
    owner: Owner,
    up: Option<mpsc::UnboundedReceiver<AgentMessage>>,
    durable: watch::Receiver<Option<TrustBundle>>,
}

/// What is to be done outside.
#[derive(Debug)]
pub enum Todo {
    /// [`Agent::sealed`] when it is done.
    Seal(Seal),
    /// [`Agent::answered`] when it is done.
    Ask(Ask),
}

/// Content for a file.
#[derive(Debug)]
pub struct Seal(Write);

/// A call for certificates.
#[derive(Debug)]
pub struct Ask {
    terms: Box<Terms>,
    items: Vec<(WorkloadId, Prepared)>,
    /// What the authority is asked for.
    pub requests: Vec<Request>,
}

/// One certificate that is asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// The same one for the same answer.
    pub idempotency_key: [u8; 16],
    /// Whose it is: the user id of the process.
    pub uid: u32,
    /// The certificate that it replaces.
    pub replaces: Option<Serial>,
}

/// What the authority answers to one [`Request`].
#[derive(Clone, Debug)]
pub enum Reply {
    /// A certificate, and the bundle that verifiers need for it.
    Issued(Svid, Sequence),
    /// No.
    Refused(Refusal),
    /// The call has failed.
    Lost,
}

impl Agent {
    /// Starts with what is on the disk. `seed` is whatever makes it differ from others.
    #[must_use]
    pub fn start(setup: &Setup, disk: &Disk, seed: u64, now: Now) -> Self {
        let state = disk.state.as_deref().and_then(State::decode);
        let subscribers = disk.subscribers.as_deref().map(Subscribers::load);
        let loaded = Loaded {
            state: state.unwrap_or_default(),
            subscribers: subscribers.and_then(Result::ok).unwrap_or_default(),
        };
        let parts = Parts {
            config: setup.config.subscribe(),
            metrics: setup.metrics.clone(),
            cache_id: disk.cache_id,
            loaded,
            conditions: setup.conditions.clone(),
            loosened: Arc::default(),
            seed,
        };
        let owner = Owner::new(parts, now);
        let (_, durable) = owner.for_the_authority();
        Self {
            owner,
            up: None,
            durable,
        }
    }

    /// The roots that connections are verified with.
    #[must_use]
    pub fn durable(&self) -> Option<TrustBundle> {
        self.durable.borrow().clone()
    }

    /// The node's own certificate, if it was on the disk or has come since.
    #[must_use]
    pub fn node(&self) -> Option<Svid> {
        self.owner.for_the_authority().0
    }

    /// A process opens a stream, whose events go to `events`.
    pub fn open(
        &mut self,
        process: ProcessId,
        uid: u32,
        events: mpsc::UnboundedSender<arx_sds::Event>,
        now: Now,
    ) -> Option<Session> {
        let (reply, mut opened) = oneshot::channel();
        let executable = LocalProcess {
            uid,
            gid: uid,
            executable: String::new(),
            executable_sha256: None,
        };
        let open = Open {
            caller: Caller::Local(executable),
            asker: Asker { uid, connection: 0 },
            // Whoever simulates it knows who is alive.
            process: Some((process, None)),
            node: String::new(),
            events,
            reply,
        };
        self.owner.open(open, now);
        opened.try_recv().ok()?.ok()?.session()
    }

    /// Takes in what has happened on a stream.
    pub fn happened(&mut self, event: arx_sds::Event, now: Now) {
        self.owner.on_stream(event, now);
    }

    /// Those who hold something.
    #[must_use]
    pub fn holders(&self) -> Vec<Holder> {
        self.owner.holders()
    }

    /// A process is proved dead.
    pub fn died(&mut self, holder: &Holder, now: Now) {
        self.owner.on_death(holder, now);
    }

    /// The node has a certificate.
    pub fn joined(&mut self, svid: Svid, now: Now) {
        self.owner.on_authority(Event::Node(svid), now);
    }

    /// A Follow begins.
    pub fn follows(&mut self, welcome: Welcome, now: Now) {
        let (up, receiver) = mpsc::unbounded_channel();
        self.up = Some(receiver);
        self.owner
            .on_authority(Event::Following { welcome, up }, now);
    }

    /// The Follow is over.
    pub fn lost(&mut self, now: Now) {
        self.up = None;
        self.owner.on_authority(Event::Lost, now);
    }

    /// The authority says something.
    pub fn hears(&mut self, message: AuthorityMessage, now: Now) {
        let event = match message.message {
            Some(Message::Trust(update)) => Event::Trust(update),
            Some(Message::Renew(hint)) => Event::Renew(hint),
            Some(Message::ReportSeen(ordinal)) => Event::ReportSeen(ordinal),
            Some(Message::Welcome(_) | Message::DrainAfterMs(_)) | None => return,
        };
        self.owner.on_authority(event, now);
    }

    /// What it has said since the last call.
    pub fn says(&mut self) -> Vec<AgentMessage> {
        let mut said = Vec::new();
        while let Some(Ok(message)) = self.up.as_mut().map(mpsc::UnboundedReceiver::try_recv) {
            said.push(message);
        }
        said
    }

    /// Does what is due; `key` makes an idempotency key.
    pub fn act(
        &mut self,
        setup: &Setup,
        reachable: bool,
        mut key: impl FnMut() -> [u8; 16],
        now: Now,
    ) -> Vec<Todo> {
        self.owner.act(reachable, now);
        let effects = self.owner.effects().into_iter();
        let todo = effects.filter_map(|effect| match effect {
            Effect::Write(write) => Some(Todo::Seal(Seal(write))),
            Effect::Ask(wanted, terms) => {
                let (mut items, mut requests) = (Vec::new(), Vec::new());
                for wanted in wanted {
                    let make = || Ok((key(), Bytes::new(), Arc::clone(&setup.key)));
                    let prepared = Prepared::again::<Infallible>(wanted.prepared, &terms, make);
                    let Ok(prepared) = prepared;
                    requests.push(Request {
                        idempotency_key: prepared.idempotency_key(),
                        uid: match wanted.evidence {
                            Evidence::Local(process) => process.uid,
                            Evidence::Token(_) | Evidence::Pod(_) => 0,
                        },
                        replaces: wanted.replaces.map(|(serial, _)| serial),
                    });
                    items.push((wanted.workload, prepared));
                }
                Some(Todo::Ask(Ask {
                    terms,
                    items,
                    requests,
                }))
            }
            // Whoever simulates it knows who is alive.
            Effect::Watch(..) => None,
        });
        todo.collect()
    }

    /// When [`Self::act`] has something to do next, whatever happens.
    #[must_use]
    pub fn next_wake(&self) -> Instant {
        self.owner.next_wake()
    }

    /// A seal is on the disk, or could not be written.
    pub fn sealed(&mut self, Seal(write): Seal, written: bool, now: Now) {
        let failed = || (PathBuf::from("disk"), io::ErrorKind::StorageFull.into());
        let result = written.then_some(()).ok_or_else(failed);
        let what = write.what;
        self.owner.on_written(Written::Ended { what, result }, now);
    }

    /// The answers to a call, each in the place of its request.
    pub fn answered(&mut self, ask: Ask, replies: Vec<Reply>, now: Now) {
        let terms = ask.terms;
        let each = |((workload, prepared), reply): ((WorkloadId, Prepared), Reply)| Answer {
            workload,
            inventories: prepared.inventories(),
            outcome: match reply {
                Reply::Issued(svid, needs) => {
                    issue::vouch(svid, Some(needs), terms.bundle.as_ref(), terms.wall)
                }
                Reply::Refused(refusal) => Outcome::Refused(refusal),
                Reply::Lost => Outcome::Failed(CallFailure::lost(), Some(prepared)),
            },
        };
        let answers = ask.items.into_iter().zip(replies).map(each).collect();
        self.owner.on_answers(answers, now);
    }
}

impl Seal {
    /// Writes it.
    pub fn write(&self, disk: &mut Disk) {
        let content = Some(self.0.content.to_vec());
        match self.0.what {
            What::State { .. } => disk.state = content,
            What::Subscribers(_) => disk.subscribers = content,
        }
    }
}
