//! A node: its agent, what is on the agent's disk, its connection to the authority, and the
//! proxies that run there.

use std::collections::VecDeque;

use arx_ca::caller::Node as Caller;
use arx_identity::{KeyId, Svid};
use arx_node_agent::attest::ProcessId;
use arx_node_agent::simulation::{Agent, Ask, Disk, Reply, Seal, Setup, Todo};
use arx_node_agent::subscribers::Holder;
use arx_proto::node::v1 as wire;
use arx_sds::EventKind;
use arx_sds::simulation::Stream;
use tokio::sync::mpsc;

use super::authority::{Authority, CLUSTER, Following, TTL, name, position, trust_update};
use super::clock::{Millis, clocks, millis};
use super::fault::Fault;
use super::pool::Pool;
use super::proxy::Proxy;
use super::queue::Queue;
use super::tally::Tally;
use crate::dice::Dice;

/// A node.
pub struct Node {
    number: usize,
    /// How far its clock is ahead, in milliseconds.
    pub ahead: i64,
    /// Its agent, while it runs.
    pub agent: Option<Agent>,
    /// The agent starts then.
    pub starts_at: Millis,
    disk: Disk,
    boot: u64,
    seals: Queue<Seal>,
    /// What is said to be on the disk, and when it will be.
    unwritten: Option<(Disk, Millis)>,
    calls: VecDeque<Call>,
    link: Option<Link>,
    /// It tries to reach the authority then.
    pub connects_at: Millis,
    own: Option<(Svid, Millis)>,
    /// Those that live there.
    pub proxies: Vec<Proxy>,
    /// Processes that have ended, and when the agent can know.
    dead: Vec<(ProcessId, Millis)>,
    pids: u32,
    events: (
        mpsc::UnboundedSender<arx_sds::Event>,
        mpsc::UnboundedReceiver<arx_sds::Event>,
    ),
    fault: Option<Fault>,
    /// Its agent is of an older version, which does not tell what proxies acknowledge.
    pub is_old: bool,
    /// What has happened to it.
    pub tally: Tally,
}

/// A call for certificates that is under way.
struct Call {
    ask: Ask,
    /// When it reaches the authority, or the answer the agent.
    at: Millis,
    replies: Option<Vec<Reply>>,
    lost: bool,
}

/// A Follow stream.
struct Link {
    following: Following,
    up: Queue<wire::AgentMessage>,
    down: Queue<wire::AuthorityMessage>,
    welcome: Option<(Millis, wire::Welcome)>,
    welcomed: bool,
    /// The agent has lost it, and the authority has not noticed yet.
    half_open_until: Option<Millis>,
}

/// What a node needs of the rest of the world.
pub struct Around<'a> {
    /// The authority.
    pub authority: &'a mut Authority,
    /// Certificates.
    pub pool: &'a mut Pool,
    /// What agents have in common.
    pub setup: &'a Setup,
    /// Chance.
    pub dice: &'a mut Dice,
    /// The time.
    pub now: Millis,
}

impl Node {
    /// A node whose agent starts at once.
    #[must_use]
    pub fn new(number: usize, ahead: i64, fault: Option<Fault>, dice: &mut Dice) -> Self {
        Self {
            number,
            ahead,
            agent: None,
            starts_at: 0,
            disk: Disk {
                cache_id: dice.bytes(),
                state: None,
                subscribers: None,
            },
            boot: 1,
            seals: Queue::default(),
            unwritten: None,
            calls: VecDeque::new(),
            link: None,
            connects_at: 0,
            own: None,
            proxies: Vec::new(),
            dead: Vec::new(),
            pids: 100,
            events: mpsc::unbounded_channel(),
            fault,
            is_old: false,
            tally: Tally::default(),
        }
    }

    /// Whether its agent is connected.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        let link = self.link.as_ref();
        link.is_some_and(|link| link.welcomed && link.half_open_until.is_none())
    }

    /// The roots that the authority has believed its connection by.
    #[must_use]
    pub fn believed_by(&self) -> &[KeyId] {
        let link = self.link.as_ref();
        link.map_or(&[], |link| &link.following.issuers)
    }

    /// The node's own certificate.
    #[must_use]
    pub fn own(&self) -> Option<&Svid> {
        self.own.as_ref().map(|(svid, _)| svid)
    }

    /// When anything happens here next.
    #[must_use]
    pub fn next(&self) -> Millis {
        let mut next = self.dead.iter().map(|(_, at)| *at).min();
        let mut at = |time: Millis| next = Some(next.map_or(time, |next| next.min(time)));
        let Some(agent) = &self.agent else {
            at(self.starts_at);
            for proxy in &self.proxies {
                at(proxy.dies_at);
            }
            return next.unwrap_or(Millis::MAX);
        };
        at(millis(agent.next_wake()));
        at(self.seals.next());
        if let Some((_, written)) = &self.unwritten {
            at(*written);
        }
        for call in &self.calls {
            at(call.at);
        }
        for proxy in &self.proxies {
            at(proxy.next(true).min(proxy.dies_at));
        }
        match &self.link {
            None => at(self.connects_at),
            Some(link) => {
                at(link.up.next().min(link.down.next()));
                if let Some((arrives, _)) = &link.welcome {
                    at(*arrives);
                }
                if let Some(until) = link.half_open_until {
                    at(until);
                }
                if let Some((_, renews)) = &self.own {
                    at(*renews);
                }
            }
        }
        next.unwrap_or(Millis::MAX)
    }

    /// Everything that is due; true if a context of a proxy has changed.
    pub fn act(&mut self, world: &mut Around<'_>) -> bool {
        let now = world.now;
        self.bury(now);
        if self.agent.is_none() {
            if self.starts_at > now {
                return false;
            }
            self.start(world);
        }
        self.write(world);
        self.link(world);
        self.call(world);
        let mut changed = self.exchange(world);
        self.decide(world);
        changed |= self.exchange(world);
        changed
    }

    fn start(&mut self, world: &mut Around<'_>) {
        let clocks = clocks(world.now, self.ahead);
        let mut agent = Agent::start(world.setup, &self.disk, world.dice.any(), clocks);
        for holder in agent.holders() {
            let lives = self.proxies.iter().any(|proxy| is(&holder, &proxy.process));
            if !lives {
                agent.died(&holder, clocks);
            }
        }
        self.events = mpsc::unbounded_channel();
        self.own = agent.node().map(|svid| (svid, world.now));
        self.agent = Some(agent);
        self.connects_at = world.now;
        self.decide(world);
    }

    /// The agent dies.
    pub fn crash(&mut self, starts_at: Millis, dice: &mut Dice, now: Millis) {
        if self.agent.take().is_none() {
            return;
        }
        self.starts_at = starts_at;
        self.seals.clear();
        self.unwritten = None;
        self.calls.clear();
        self.dead.clear();
        for proxy in &mut self.proxies {
            proxy.cut(false, now, dice);
        }
        self.lose(now, dice);
    }

    /// The machine is booted: the agent's cache is gone, and so is every process.
    pub fn boot(&mut self, starts_at: Millis, dice: &mut Dice, now: Millis) {
        self.crash(starts_at, dice, now);
        self.proxies.clear();
        self.boot += 1;
        self.forget(dice);
    }

    /// What is on the disk gets lost. What the cache knew of proxies is known to the authority
    /// alone then, until it dies itself: `known` if it will not soon. Else whoever loses the
    /// cache has to restart the proxies. And only the cache knows for certain what a proxy
    /// has refused.
    pub fn lose_cache(&mut self, known: bool, dice: &mut Dice, now: Millis) {
        self.forget(dice);
        for proxy in &mut self.proxies {
            if !known || proxy.refuses() {
                proxy.dies_at = now;
            }
        }
    }

    fn forget(&mut self, dice: &mut Dice) {
        self.disk = Disk {
            cache_id: dice.bytes(),
            state: None,
            subscribers: None,
        };
    }

    /// A proxy starts.
    pub fn run(&mut self, uid: u32, refuses: u64, contexts: usize, now: Millis) {
        self.pids += 1;
        let process = ProcessId {
            pid: self.pids,
            start_time: now,
            boot_id: format!("boot-{}", self.boot).into(),
        };
        self.proxies
            .push(Proxy::new(process, uid, refuses, contexts, now));
    }

    /// The connection breaks; the authority may notice later.
    pub fn lose(&mut self, now: Millis, dice: &mut Dice) {
        self.connects_at = now + 200 + dice.below(3000);
        let Some(mut link) = self.link.take() else {
            return;
        };
        if let Some(agent) = &mut self.agent {
            agent.lost(clocks(now, self.ahead));
        }
        for call in &mut self.calls {
            call.lost = true;
        }
        if dice.one_in(2) {
            link.up.clear();
            link.down.clear();
            link.half_open_until = Some(now + 1 + dice.below(30_000));
            self.link = Some(link);
            self.tally.add("connections half open");
        }
    }

    /// The processes whose time has come.
    fn bury(&mut self, now: Millis) {
        let clocks = clocks(now, self.ahead);
        let mut at = 0;
        while at < self.proxies.len() {
            if self.proxies[at].dies_at <= now {
                let mut proxy = self.proxies.remove(at);
                proxy.cut(self.agent.is_some(), now, &mut Dice::new(now));
                if self.agent.is_some() {
                    self.dead.push((proxy.process, now + 5));
                }
            } else {
                at += 1;
            }
        }
        let Some(agent) = &mut self.agent else {
            return;
        };
        self.dead.retain(|(process, at)| {
            if *at <= now {
                agent.died(&Holder::Process(process.clone()), clocks);
            }
            *at > now
        });
    }

    fn write(&mut self, world: &mut Around<'_>) {
        let (now, clocks) = (world.now, clocks(world.now, self.ahead));
        while let Some(seal) = self.seals.take(now) {
            let written = !world.dice.one_in(200);
            if !written {
                self.tally.add("writes failed");
            }
            if self.fault == Some(Fault::ReportedBeforeStored) {
                // What the agent is told below is not true yet.
                let disk = &self.disk;
                let at = now + 60_000 + world.dice.below(240_000);
                let (later, _) = self.unwritten.get_or_insert_with(|| (disk.clone(), at));
                seal.write(later);
            } else if written {
                seal.write(&mut self.disk);
            }
            if let Some(agent) = &mut self.agent {
                agent.sealed(seal, written, clocks);
            }
        }
        if let Some((disk, _)) = self.unwritten.take_if(|(_, at)| *at <= now) {
            self.disk = disk;
        }
    }

    /// What the connection to the authority brings.
    fn link(&mut self, world: &mut Around<'_>) {
        let (now, clocks) = (world.now, clocks(world.now, self.ahead));
        if self.link.as_ref().is_some_and(|link| {
            let half_open = link.half_open_until;
            half_open.is_some_and(|until| until <= now || self.connects_at <= now)
        }) {
            self.link = None;
        }
        if self.link.is_none() {
            self.connect(world);
        }
        let Some(link) = &mut self.link else {
            return;
        };
        if link.half_open_until.is_some() {
            return;
        }
        while let Some(message) = link.up.take(now) {
            if let Some(answer) = world.authority.takes(&link.following, message, now) {
                link.down.push(now + world.dice.delay(), answer);
            }
        }
        match world.authority.says(&mut link.following) {
            Some(messages) => {
                for message in messages {
                    link.down.push(now + world.dice.delay(), message);
                }
            }
            None => return self.lose(now, world.dice),
        }
        let Some(agent) = &mut self.agent else {
            return;
        };
        if let Some((_, welcome)) = link.welcome.take_if(|(at, _)| *at <= now) {
            agent.follows(welcome, clocks);
            link.welcomed = true;
        }
        while link.welcomed
            && let Some(message) = link.down.take(now)
        {
            use wire::authority_message::Message::Renew;
            if let (Some(Renew(hint)), Some((svid, renews))) = (&message.message, &mut self.own)
                && let Some(root) = svid.chain().authorities().last()
                && arx_node_agent::renewal::is_meant(hint, svid, root)
            {
                let by = hint.renew_by_unix_ms - unix_ms(now);
                let within = u64::try_from(by).unwrap_or(0);
                *renews = (*renews).min(now + world.dice.below(within + 1));
            }
            if world.dice.one_in(40) {
                self.tally.add("messages repeated");
                agent.hears(message.clone(), clocks);
            }
            agent.hears(message, clocks);
        }
        if self.own.as_ref().is_some_and(|(_, at)| *at <= now) && link.welcomed {
            self.renew(world);
        }
    }

    /// Joins if it must, and follows.
    fn connect(&mut self, world: &mut Around<'_>) {
        let (now, clocks) = (world.now, clocks(world.now, self.ahead));
        if self.connects_at > now || !world.authority.is_up() {
            self.connects_at = self.connects_at.max(now + 500 + world.dice.below(2000));
            return;
        }
        let Some(agent) = &mut self.agent else {
            return;
        };
        self.connects_at = now + 500 + world.dice.below(2000);
        let server = world.authority.serves().and_then(root_of);
        let trusted = agent.durable();
        let knows = trusted
            .as_ref()
            .zip(server)
            .is_some_and(|(bundle, root)| bundle.root(&root).is_some());
        let newest = world.authority.bundle().clone();
        let is_known = self.own.as_ref().is_some_and(|(svid, _)| {
            let ends = svid.not_after() > clocks.wall;
            ends && root_of(svid).is_some_and(|root| newest.root(&root).is_some())
        });
        if !knows || !is_known {
            // By its token, and by the bundle that it was installed with.
            let Some(svid) = world.authority.issue_node(world.pool, self.number, now) else {
                return;
            };
            let update = wire::authority_message::Message::Trust(trust_update(&newest));
            agent.hears(
                wire::AuthorityMessage {
                    message: Some(update),
                },
                clocks,
            );
            agent.joined(svid.clone(), clocks);
            self.own = Some((svid, now + TTL / 2));
        }
        let Some((svid, _)) = &self.own else {
            return;
        };
        let caller = Caller {
            name: name(self.number),
            id: format!("spiffe://example.org/arx/node/{CLUSTER}/n{}", self.number).into(),
            serial: svid.serial().clone(),
            not_after: svid.not_after(),
            issuers: root_of(svid).into_iter().collect(),
        };
        let hello = wire::Hello {
            min_version: 1,
            max_version: 1,
            instance_id: world.dice.bytes().to_vec().into(),
            cache_id: self.disk.cache_id.to_vec().into(),
            boot_id: format!("boot-{}", self.boot),
            clock_unix_ms: unix_ms(now) + self.ahead,
            trust: agent.durable().iter().map(position).collect(),
            ..wire::Hello::default()
        };
        if let Some(mut following) = world.authority.follow(&caller, &hello, now) {
            let welcome = following.welcome.take();
            self.link = Some(Link {
                following,
                up: Queue::default(),
                down: Queue::default(),
                welcome: welcome.map(|welcome| (now + world.dice.delay(), welcome)),
                welcomed: false,
                half_open_until: None,
            });
        }
    }

    fn renew(&mut self, world: &mut Around<'_>) {
        let (now, clocks) = (world.now, clocks(world.now, self.ahead));
        let issued = world.authority.issue_node(world.pool, self.number, now);
        if let (Some(svid), Some(agent)) = (&issued, &mut self.agent) {
            agent.joined(svid.clone(), clocks);
        }
        match (issued, &mut self.own) {
            (Some(svid), own) => {
                *own = Some((svid, now + TTL / 2));
                // The next connection shows it.
                self.link = None;
                self.connects_at = now + world.dice.delay();
                if let Some(agent) = &mut self.agent {
                    agent.lost(clocks);
                }
            }
            (None, Some((_, renews))) => *renews = now + 5000,
            (None, None) => {}
        }
    }

    /// Calls for certificates, on their way there and back.
    fn call(&mut self, world: &mut Around<'_>) {
        let (now, clocks) = (world.now, clocks(world.now, self.ahead));
        let mut waiting = VecDeque::new();
        while let Some(mut call) = self.calls.pop_front() {
            if call.at > now {
                waiting.push_back(call);
                continue;
            }
            if call.replies.is_none() && !call.lost && world.authority.is_up() {
                let requests = call.ask.requests.clone();
                let each = requests.iter().map(|request| {
                    let request = (self.number, request);
                    let reply = world.authority.issue(world.pool, request, world.dice, now);
                    reply.unwrap_or(Reply::Lost)
                });
                call.replies = Some(each.collect());
                call.lost = world.dice.one_in(25);
                if call.lost {
                    self.tally.add("answers lost");
                }
                call.at = now + world.dice.delay();
                let slow = self.fault == Some(Fault::OneInventoryReleases);
                if slow || world.dice.one_in(20) {
                    self.tally.add("answers late");
                    call.at += world.dice.below(if slow { 60_000 } else { 25_000 });
                }
                waiting.push_back(call);
                continue;
            }
            let lost = || vec![Reply::Lost; call.ask.requests.len()];
            let replies = call.replies.filter(|_| !call.lost);
            let replies = replies.unwrap_or_else(lost);
            if let Some(agent) = &mut self.agent {
                agent.answered(call.ask, replies, clocks);
            }
        }
        self.calls = waiting;
    }

    /// What proxies and the agent say to each other.
    fn exchange(&mut self, world: &mut Around<'_>) -> bool {
        let (now, clocks) = (world.now, clocks(world.now, self.ahead));
        let Some(agent) = &mut self.agent else {
            return false;
        };
        let mut changed = false;
        for proxy in &mut self.proxies {
            let events = &self.events.0;
            proxy.connect(now, world.dice, |process, uid| {
                let session = agent.open(process.clone(), uid, events.clone(), clocks);
                session.map(Stream::new)
            });
            changed |= proxy.exchange(clocks.monotonic, now, world.dice);
        }
        changed
    }

    /// The agent takes in what has happened, and does what is due.
    fn decide(&mut self, world: &mut Around<'_>) {
        let (now, clocks) = (world.now, clocks(world.now, self.ahead));
        let connected = self.is_connected();
        let Some(agent) = &mut self.agent else {
            return;
        };
        while let Ok(event) = self.events.1.try_recv() {
            let refusal = matches!(event.kind, EventKind::Nacked { .. });
            if refusal {
                self.tally.add("refusals");
            }
            if !(refusal && self.fault == Some(Fault::RefusalForgotten)) {
                agent.happened(event, clocks);
            }
        }
        let dice = &mut *world.dice;
        // Calls go through the same connection: what was said before them arrives before.
        let said = self.link.as_ref().map_or(0, |link| link.up.last());
        for todo in agent.act(world.setup, connected, || dice.bytes(), clocks) {
            match todo {
                Todo::Seal(seal) => self.seals.push(now + 1 + dice.below(40), seal),
                Todo::Ask(ask) => {
                    let lost = dice.one_in(40);
                    if lost {
                        self.tally.add("requests lost");
                    }
                    self.calls.push_back(Call {
                        ask,
                        at: said.max(now) + dice.delay(),
                        replies: None,
                        lost,
                    });
                }
            }
        }
        let said = agent.says();
        if let Some(link) = &mut self.link
            && link.half_open_until.is_none()
        {
            for message in said {
                let message = told(self.fault, self.is_old, message);
                link.up.push(now + dice.delay(), message);
            }
        }
    }
}

/// What goes up, in spite of a fault or by an older version.
fn told(fault: Option<Fault>, is_old: bool, mut message: wire::AgentMessage) -> wire::AgentMessage {
    use wire::agent_message::Message::{Inventory, Subscribers};
    match &mut message.message {
        Some(Inventory(inventory)) if fault == Some(Fault::OwnCertificatesForgotten) => {
            let own = |leaf: &wire::HeldLeaf| leaf.spiffe_id.contains("/arx/node/");
            inventory.leaves.retain(|leaf| !own(leaf));
        }
        Some(Subscribers(report)) if is_old => {
            for state in &mut report.states {
                (state.acked_trust, state.nack) = (None, None);
                if let Some(subscriber) = &mut state.subscriber {
                    subscriber.set_grade(wire::Grade::Waited);
                }
            }
        }
        _ => {}
    }
    message
}

fn is(holder: &Holder, process: &ProcessId) -> bool {
    matches!(holder, Holder::Process(held) if held == process)
}

/// The root above a certificate.
#[must_use]
pub fn root_of(svid: &Svid) -> Option<KeyId> {
    svid.chain().certificates().last()?.authority_key_id()
}

fn unix_ms(now: Millis) -> i64 {
    let since = super::clock::wall(now).duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(0))
}
