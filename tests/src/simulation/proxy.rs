//! An Envoy, as far as secrets go: contexts that are complete when both secrets are there,
//! acknowledgements, refusals, and what it says after one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use arx_identity::{Svid, TrustBundle};
use arx_node_agent::attest::ProcessId;
use arx_sds::simulation::{Answer, Ask, Stream};
use arx_sds::{Content, Secret};

use super::clock::{Millis, wall};
use super::queue::Queue;
use crate::dice::Dice;

/// How long a handshake may go on with the context that it began with.
pub const HANDSHAKE: Millis = 10_000;

/// How long after its end a certificate counts for a gate.
const GIVEN_UP: Duration = Duration::from_secs(300);

/// A proxy.
pub struct Proxy {
    /// Its process.
    pub process: ProcessId,
    /// Whose identity it asks for.
    pub uid: u32,
    /// Listeners and clusters with a configuration source of their own.
    pub contexts: Vec<Context>,
    /// One in so many contents is refused; none if zero.
    refuses: u64,
    /// What it refuses, by content.
    refused: BTreeMap<Vec<u8>, bool>,
    /// What it has been sent, and would acknowledge whether it was loaded or not.
    stored: BTreeSet<(bool, Vec<u8>)>,
    /// It ends then.
    pub dies_at: Millis,
}

/// One TLS context.
#[derive(Default)]
pub struct Context {
    certificate: Client,
    trust: Client,
    /// What handshakes begin with.
    pub active: Option<Active>,
    /// What handshakes that are under way began with, and until when.
    pub before: Vec<(Active, Millis)>,
}

/// What a context shows, and what it accepts.
#[derive(Clone)]
pub struct Active {
    /// Shown.
    pub leaf: Svid,
    /// Accepted.
    pub trust: TrustBundle,
    /// It was given up, because its certificate had ended for everybody or it never had one;
    /// it has one now, and not the roots beside it yet.
    pub returns: bool,
}

/// One stream, from the proxy's side, with the server's side of it.
#[derive(Default)]
struct Client {
    server: Option<Stream>,
    down: Queue<Answer>,
    up: Queue<Ask>,
    /// The version that it has accepted last.
    version: String,
    held: Option<Arc<Secret>>,
    /// What it holds came on an earlier stream.
    is_stale: bool,
    connects_at: Millis,
}

impl Proxy {
    /// A process that has just started.
    #[must_use]
    pub fn new(process: ProcessId, uid: u32, refuses: u64, contexts: usize, now: Millis) -> Self {
        let context = || Context {
            certificate: Client::at(now),
            trust: Client::at(now),
            ..Context::default()
        };
        Self {
            process,
            uid,
            contexts: (0..contexts).map(|_| context()).collect(),
            refuses,
            refused: BTreeMap::new(),
            stored: BTreeSet::new(),
            dies_at: Millis::MAX,
        }
    }

    /// Whether it refuses anything that it was sent.
    #[must_use]
    pub fn refuses(&self) -> bool {
        self.refused.values().any(|refused| *refused)
    }

    /// When anything happens to it next.
    #[must_use]
    pub fn next(&self, agent_is_up: bool) -> Millis {
        let clients = self.contexts.iter().flat_map(Context::clients);
        let client = |client: &Client| match &client.server {
            Some(_) => client.down.next().min(client.up.next()),
            None if agent_is_up => client.connects_at,
            None => Millis::MAX,
        };
        clients.map(client).min().unwrap_or(Millis::MAX)
    }

    /// Its streams that have to be opened now: calls `open` for each.
    pub fn connect(
        &mut self,
        now: Millis,
        dice: &mut Dice,
        mut open: impl FnMut(&ProcessId, u32) -> Option<Stream>,
    ) {
        for context in &mut self.contexts {
            for (client, name) in context.named() {
                if client.server.is_some() || client.connects_at > now {
                    continue;
                }
                client.server = open(&self.process, self.uid);
                client.connects_at = now + 1000;
                let first = Ask {
                    names: vec![name.to_owned()],
                    version: client.version.clone(),
                    ..Ask::default()
                };
                client.up.push(now + dice.delay(), first);
            }
        }
    }

    /// Moves what is on its way; true if a context has changed.
    pub fn exchange(&mut self, instant: std::time::Instant, now: Millis, dice: &mut Dice) -> bool {
        let mut changed = false;
        for at in 0..self.contexts.len() {
            for certificate in [true, false] {
                loop {
                    let client = self.contexts[at].client(certificate);
                    client.serve(instant, now, dice);
                    let Some(answer) = client.down.take(now) else {
                        break;
                    };
                    for secret in &answer.secrets {
                        changed |= self.take(at, certificate, secret, &answer.nonce, now, dice);
                    }
                }
            }
        }
        changed
    }

    /// A secret comes in on a stream.
    fn take(
        &mut self,
        at: usize,
        certificate: bool,
        secret: &Arc<Secret>,
        nonce: &str,
        now: Millis,
        dice: &mut Dice,
    ) -> bool {
        let content = content(secret);
        let refuses = self.refuses;
        let bad = *self
            .refused
            .entry(content.clone())
            .or_insert_with(|| refuses > 0 && dice.one_in(refuses));
        // It tells what it has stored from what it has not by the bytes alone.
        let known = !self.stored.insert((certificate, content));
        let context = &mut self.contexts[at];
        let client = context.client(certificate);
        let name = secret.name().to_string();
        let rejection = (bad && !known).then(|| "Failed to load".to_owned());
        if rejection.is_none() {
            client.version = secret.version().to_string();
        }
        let ask = Ask {
            names: vec![name],
            version: client.version.clone(),
            nonce: nonce.to_owned(),
            rejection,
        };
        client.up.push(now + dice.delay(), ask);
        if bad {
            return false;
        }
        client.held = Some(Arc::clone(secret));
        client.is_stale = false;
        context.load(certificate, now, dice)
    }

    /// Its streams break; `told` if the agent is there to notice. A proxy whose refusal gets
    /// lost with them is restarted.
    pub fn cut(&mut self, told: bool, now: Millis, dice: &mut Dice) {
        for context in &mut self.contexts {
            for (client, _) in context.named() {
                if client.cut(told, now + 100 + dice.below(4000)) {
                    self.dies_at = self.dies_at.min(now);
                }
            }
        }
    }

    /// One of its streams breaks, and comes back when Envoy's longest back-off is over: one
    /// that is missing for a minute is forgiven.
    pub fn cut_one(&mut self, now: Millis, dice: &mut Dice) {
        let at = dice.place(self.contexts.len());
        let client = self.contexts[at].client(dice.one_in(2));
        client.cut(true, now + 100 + dice.below(30_000));
    }
}

impl Context {
    fn clients(&self) -> [&Client; 2] {
        [&self.certificate, &self.trust]
    }

    fn named(&mut self) -> [(&mut Client, &'static str); 2] {
        [
            (&mut self.certificate, "default"),
            (&mut self.trust, "ROOTCA"),
        ]
    }

    fn client(&mut self, certificate: bool) -> &mut Client {
        if certificate {
            &mut self.certificate
        } else {
            &mut self.trust
        }
    }

    /// What it does handshakes with, if both secrets are there; true if that is news.
    /// `certified` if it is the certificate that has come.
    fn load(&mut self, certified: bool, now: Millis, dice: &mut Dice) -> bool {
        let (Some(certificate), Some(trust)) = (&self.certificate.held, &self.trust.held) else {
            return false;
        };
        let (Content::Certificate(leaf), Content::Trust(trust)) =
            (certificate.content(), trust.content())
        else {
            return false;
        };
        let given_up =
            |before: &Active| before.returns || before.leaf.not_after() + GIVEN_UP < wall(now);
        let active = Active {
            leaf: leaf.clone(),
            trust: trust.clone(),
            // Without a certificate nobody has waited for it either.
            returns: certified && self.active.as_ref().map_or(self.trust.is_stale, given_up),
        };
        if let Some(before) = self.active.replace(active) {
            self.before.retain(|(_, until)| *until > now);
            let until = now + 1 + dice.below(HANDSHAKE);
            self.before.push((before, until));
        }
        true
    }
}

impl Client {
    fn at(now: Millis) -> Self {
        Self {
            connects_at: now,
            ..Self::default()
        }
    }

    /// The server's side takes in what has arrived, and answers.
    fn serve(&mut self, instant: std::time::Instant, now: Millis, dice: &mut Dice) {
        let Some(server) = &mut self.server else {
            return;
        };
        if server.is_over() {
            self.cut(true, now + 100 + dice.below(2000));
            return;
        }
        while let Some(ask) = self.up.take(now) {
            if server.request(ask).is_err() {
                self.cut(true, now + 100 + dice.below(2000));
                return;
            }
        }
        while let Some(answer) = server.next(instant) {
            self.down.push(now + dice.delay(), answer);
        }
    }

    /// Whether a refusal got lost with the stream. Of that nobody would know: the same bytes
    /// are acknowledged when they come again.
    fn cut(&mut self, told: bool, connects_at: Millis) -> bool {
        let mut lost = false;
        if let Some(mut server) = self.server.take() {
            while let Some(ask) = self.up.take(Millis::MAX) {
                if ask.rejection.is_some() {
                    // What was written last is read before the end.
                    lost |= !told || server.request(ask).is_err();
                }
            }
            if told {
                server.end();
            }
        }
        self.up.clear();
        self.down.clear();
        self.is_stale = true;
        self.connects_at = connects_at;
        lost
    }
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let version = |client: &Client| {
            let held = client.held.as_ref().map(|held| held.version().to_string());
            (held, client.server.is_some(), client.connects_at)
        };
        let contexts = self.contexts.iter().map(|context| {
            let clients = context.clients();
            (
                version(clients[0]),
                version(clients[1]),
                context.active.is_some(),
            )
        });
        f.debug_struct("Proxy")
            .field("started", &self.process.start_time)
            .field("uid", &self.uid)
            .field("dies_at", &self.dies_at)
            .field("contexts", &contexts.collect::<Vec<_>>())
            .finish()
    }
}

/// The bytes that a proxy compares.
fn content(secret: &Secret) -> Vec<u8> {
    match secret.content() {
        Content::Certificate(svid) => svid.serial().as_bytes().to_vec(),
        Content::Trust(bundle) => bundle.sha256().to_vec(),
        Content::All(_) => Vec::new(),
    }
}
