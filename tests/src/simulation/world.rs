//! A world from its seed to the end of its rotation.

use std::time::Duration;

use arx_identity::KeyId;

use arx_ca::state::{Kind, Phase, Terms};

use super::authority::{Authority, DISTRUST, Looked, TTL, Wish};
use super::clock::Millis;
use super::fault::Fault;
use super::node::{Around, Node};
use super::observer::Observer;
use super::pool::Pool;
use super::proxy::HANDSHAKE;
use super::tally::Tally;
use crate::dice::Dice;
use arx_node_agent::simulation::Setup;

/// The operator does no more than this.
const WISHES: u32 = 3;
/// Nothing takes longer than this.
const LAST: Millis = 8 * 3_600_000;
/// Who is left behind by others is given up by its operator after this.
const STUCK: Millis = 45 * 60_000;

/// How a world ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its last rotation.
    pub phase: Phase,
    /// Gates that were passed by force.
    pub forced: usize,
    /// How long it took.
    pub after: Millis,
    /// How often anything was done.
    pub steps: u64,
    /// What has happened.
    pub drawn: Tally,
}

/// What broke a promise.
#[derive(Clone, Debug)]
pub struct Broken {
    /// Which, and who did.
    pub what: String,
    /// When.
    pub at: Millis,
    /// What had happened, if that was asked for.
    pub trace: Vec<String>,
}

/// A world.
pub struct World<'a> {
    pool: &'a mut Pool,
    setup: &'a Setup,
    dice: Dice,
    authority: Authority,
    nodes: Vec<Node>,
    observer: Observer,
    now: Millis,
    trouble_at: Millis,
    /// When the authority died last, and until when it must not.
    died_at: Millis,
    lives_until: Millis,
    /// From here on nothing disturbs anybody.
    calm_from: Millis,
    is_calm: bool,
    wishes: u32,
    wish_at: Millis,
    /// Rotations that follow the first.
    more: u32,
    /// The root that signed when the last one began.
    began_with: KeyId,
    /// A newer version drives the rotation until then, from this phase on.
    newer: Option<(Millis, Phase)>,
    tally: Tally,
    /// One in so many contents is refused by a proxy; none if zero.
    refuses: u64,
    fault: Option<Fault>,
    trace: Option<Vec<String>>,
    last_said: String,
}

impl<'a> World<'a> {
    /// The world of a seed.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn new(
        seed: u64,
        fault: Option<Fault>,
        traced: bool,
        pool: &'a mut Pool,
        setup: &'a Setup,
    ) -> anyhow::Result<Self> {
        let mut dice = Dice::new(seed);
        let replicas = if fault == Some(Fault::SignsUnregistered) || dice.one_in(5) {
            2
        } else {
            1
        };
        let authority = Authority::new(pool, replicas, fault)?;
        let count = 1 + dice.place(3);
        let mut nodes = Vec::with_capacity(count);
        for number in 0..count {
            // Certificates are backdated by a minute: whoever is behind by more has none.
            let ahead = if dice.one_in(3) {
                i64::try_from(dice.below(195_000)).unwrap_or(0) - 55_000
            } else {
                0
            };
            nodes.push(Node::new(number, ahead, fault, &mut dice));
        }
        if dice.one_in(30) {
            nodes[0].is_old = true;
        }
        if fault == Some(Fault::SilenceConfirms) {
            nodes.iter_mut().for_each(|node| node.is_old = true);
        }
        let is_calm = dice.one_in(8);
        let mut world = Self {
            died_at: 0,
            lives_until: 0,
            trouble_at: 5_000 + dice.below(60_000),
            calm_from: dice.below(18 * 60_000),
            is_calm,
            wishes: if dice.one_in(2) { 0 } else { WISHES },
            wish_at: 60_000 + dice.below(15 * 60_000),
            more: u32::from(fault == Some(Fault::TombstoneForgotten)) + u32::from(dice.one_in(10)),
            began_with: authority.store.active(),
            newer: None,
            tally: Tally::default(),
            refuses: if matches!(
                fault,
                Some(Fault::RefusalForgotten | Fault::SilenceConfirms)
            ) {
                3
            } else if dice.one_in(3) {
                2 + dice.below(10)
            } else {
                0
            },
            pool,
            setup,
            authority,
            nodes,
            observer: Observer::default(),
            now: 0,
            fault,
            trace: traced.then(Vec::new),
            last_said: String::new(),
            dice,
        };
        for node in 0..world.nodes.len() {
            for _ in 0..=world.dice.place(2) {
                world.proxy(node);
            }
        }
        Ok(world)
    }

    /// Goes on until its rotation is over and everybody has settled.
    ///
    /// # Errors
    /// What broke a promise.
    pub fn run(mut self) -> Result<Ended, Broken> {
        match self.go_on() {
            Ok(ended) => Ok(ended),
            Err(what) => Err(Broken {
                what,
                at: self.now,
                trace: self.trace.unwrap_or_default(),
            }),
        }
    }

    fn go_on(&mut self) -> Result<Ended, String> {
        let begin = 20_000 + self.dice.below(4 * 60_000);
        let mut settled: Option<Millis> = None;
        let mut steps = 0;
        loop {
            steps += 1;
            let rotates = self.authority.rotation().is_some();
            if self.now >= begin && !rotates && settled.is_none() {
                if self.authority.store.rotations.all.is_empty() {
                    self.begin();
                } else {
                    self.calm();
                    let after = if self.dice.one_in(6) { TTL } else { 90_000 };
                    settled = Some(self.now + after);
                    self.say(|| "the rotation is over".to_owned());
                }
            }
            if settled.is_some_and(|at| self.now >= at) {
                let ended = self.end(steps)?;
                if self.more == 0 {
                    return Ok(ended);
                }
                self.more -= 1;
                settled = None;
                if !self.is_calm {
                    self.calm_from = self.now + self.dice.below(18 * 60_000);
                    self.wish_at = self.now + self.dice.below(15 * 60_000);
                    self.wishes = WISHES;
                }
                self.begin();
            }
            if self.now > LAST {
                return Err(format!("the rotation never ends: {}", self.last_said));
            }
            self.step(begin, settled)?;
        }
    }

    /// A rotation begins: one in six because the root is stolen.
    fn begin(&mut self) {
        self.began_with = self.authority.store.active();
        let shows = self.fault == Some(Fault::ConnectionsStay);
        if shows || self.dice.one_in(6) {
            self.say(|| "a distrust begins".to_owned());
            self.tally.add("distrusts begun");
            self.authority.begin_distrust(DISTRUST, self.now);
        } else {
            let terms = self.terms();
            self.say(|| format!("a rotation begins: {terms:?}"));
            self.tally.add("rotations begun");
            self.authority.begin(terms, self.now);
        }
        self.authority.look_at = self.now;
    }

    /// The next thing that happens.
    fn step(&mut self, begin: Millis, settled: Option<Millis>) -> Result<(), String> {
        let look_at = if !self.authority.is_up() {
            self.authority.starts_at
        } else if self.authority.rotation().is_some() {
            self.authority.look_at
        } else {
            Millis::MAX
        };
        let mut next = look_at.min(self.authority.other_at()).min(self.trouble_at);
        for node in &self.nodes {
            next = next.min(node.next());
        }
        if self.now < begin {
            next = next.min(begin);
        }
        if let Some(settled) = settled {
            next = next.min(settled);
        }
        self.now = next.max(self.now + 1);
        self.trouble();
        self.authority();
        let look = self.authority.is_up() && self.authority.look_at <= self.now;
        let mut changed = false;
        if look {
            changed = self.look()?;
        }
        let first = self.dice.place(self.nodes.len());
        for at in 0..self.nodes.len() {
            let at = (first + at) % self.nodes.len();
            let mut around = Around {
                authority: &mut self.authority,
                pool: self.pool,
                setup: self.setup,
                dice: &mut self.dice,
                now: self.now,
            };
            changed |= self.nodes[at].act(&mut around);
        }
        if changed {
            self.observer
                .nodes(&self.authority, &self.nodes, self.now)?;
        }
        Ok(())
    }

    fn authority(&mut self) {
        if !self.authority.is_up() && self.authority.starts_at <= self.now {
            self.authority.start(self.pool, self.now);
            self.say(|| "the authority starts".to_owned());
        }
        if self.authority.other_at() <= self.now {
            self.authority.other_acts(&mut self.dice, self.now);
        }
    }

    /// The authority looks; whether anything follows.
    fn look(&mut self) -> Result<bool, String> {
        let now = self.now;
        let back = self
            .newer
            .take_if(|(until, _)| *until <= now || self.calm_from <= now);
        if let (Some((_, phase)), Some(last)) = (back, self.authority.last()) {
            last.phase = phase;
        }
        let stands = self.newer.map(|_| self.authority.store.clone());
        let wish = self.wish();
        let crashes = !self.is_calm && self.now < self.calm_from && self.now >= self.lives_until;
        let looked = self
            .authority
            .look(self.pool, &wish, &mut self.dice, crashes, self.now)?;
        let hurried = self.is_distrust() && looked.moved;
        if hurried || wish == Wish::Force && looked.again {
            // Whoever does not wait for handshakes that are under way loses them.
            let proxies = self.nodes.iter_mut().flat_map(|node| &mut node.proxies);
            proxies
                .flat_map(|proxy| &mut proxy.contexts)
                .for_each(|context| context.before.clear());
        }
        self.count(&wish, &looked);
        for (node, process) in looked.forced {
            if node.contains('/') {
                self.observer.left.insert((node, process));
            } else {
                self.observer.replica_left = true;
            }
        }
        if let Some(said) = looked.said
            && said != self.last_said
        {
            self.last_said.clone_from(&said);
            self.say(|| said);
        }
        if looked.crashed {
            self.say(|| "the authority crashes in the middle".to_owned());
            let starts_at = self.now + 500 + self.dice.below(20_000);
            self.crash(starts_at);
        }
        if stands.is_some_and(|stands| !stands.is_like(&self.authority.store)) {
            return Err("a step is taken in a phase of a newer version".to_owned());
        }
        if let Some(root) = looked.buried {
            self.observer.buried.insert(root);
        }
        self.authority.look_at = if looked.again {
            self.now + 1
        } else if self.is_distrust() {
            self.now + 1000
        } else {
            self.now + 2000 + self.dice.below(10_000)
        };
        self.observer.state(&self.authority)?;
        self.observer.gate(&self.authority, self.now)?;
        self.observer.order(&self.authority)?;
        Ok(looked.again)
    }

    fn count(&mut self, wish: &Wish, looked: &Looked) {
        if looked.crashed {
            self.tally.add("authorities killed between two acts");
        }
        let wish = match wish {
            Wish::None => return,
            _ if looked.refused => "wishes refused",
            Wish::Abort => "aborts",
            Wish::Continue => "continues",
            Wish::Force => "forces",
            Wish::Distrust => "distrusts of the root that leaves",
            Wish::DistrustNext => "distrusts of the root that comes",
        };
        self.tally.add(wish);
    }

    fn is_distrust(&self) -> bool {
        let last = self.authority.store.rotations.all.last();
        last.is_some_and(|last| last.kind == Kind::Distrust)
    }

    fn crash(&mut self, starts_at: Millis) {
        self.died_at = starts_at;
        self.authority.crash(starts_at);
        if self.fault == Some(Fault::StoreGoesBack) {
            self.authority.store.go_back();
        }
        for node in &mut self.nodes {
            node.lose(self.now, &mut self.dice);
        }
    }

    /// What the operator wants at this look.
    fn wish(&mut self) -> Wish {
        let Some(rotation) = self.authority.rotation() else {
            return Wish::None;
        };
        let held = rotation.phase == Phase::Held;
        if held && self.dice.one_in(40) {
            return Wish::Continue;
        }
        // Somebody is in the way who never goes.
        let began = rotation.phase_began;
        let since = super::clock::wall(self.now).duration_since(began);
        // In Retire whoever forces it says so once, and the next look goes on.
        let goes_on = rotation.terms.patience == Some(Duration::ZERO);
        if !goes_on && since.is_ok_and(|since| since > Duration::from_millis(STUCK)) {
            return Wish::Force;
        }
        if self.wishes == 0 || self.now < self.wish_at {
            return Wish::None;
        }
        self.wishes -= 1;
        self.wish_at = self.now + self.dice.below(10 * 60_000);
        match self.dice.below(14) {
            0 => Wish::Continue,
            1 | 2 => Wish::Force,
            3 | 4 => Wish::Distrust,
            5 | 6 => Wish::DistrustNext,
            _ => Wish::Abort,
        }
    }

    fn terms(&mut self) -> Terms {
        let dwell = if self.fault == Some(Fault::NoDwell) {
            0
        } else {
            HANDSHAKE + self.dice.below(20_000)
        };
        Terms {
            window: Duration::from_millis(self.dice.below(300_000)),
            dwell: Duration::from_millis(dwell),
            patience: None,
        }
    }

    fn proxy(&mut self, node: usize) {
        let uid = u32::try_from(self.dice.below(2)).unwrap_or(0);
        let contexts = 1 + self.dice.place(2);
        self.tally.add("proxies started");
        self.nodes[node].run(uid, self.refuses, contexts, self.now);
    }

    /// Something goes wrong somewhere.
    fn trouble(&mut self) {
        if self.now < self.trouble_at {
            return;
        }
        if self.now >= self.calm_from {
            self.calm();
            self.trouble_at = self.now + 60_000;
            return;
        }
        self.trouble_at = self.now + 2_000 + self.dice.below(180_000);
        let now = self.now;
        let at = self.dice.place(self.nodes.len());
        let kind = self.dice.below(if self.is_calm { 3 } else { 15 });
        self.say(|| format!("trouble {kind} at n{at}"));
        let happens = match kind {
            1 => Some("proxies ended"),
            3 | 4 => Some("agents killed"),
            5 => Some("agents gone for long"),
            7..=9 => Some("connections lost"),
            10 | 11 => Some("streams cut"),
            _ => None,
        };
        let (dice, tally) = (&mut self.dice, &mut self.tally);
        let node = &mut self.nodes[at];
        if let Some(happens) = happens {
            tally.add(happens);
        }
        let short = now + 500 + dice.below(60_000);
        match kind {
            // Proxies come and go in every world.
            0 => {
                if node.proxies.len() < 4 {
                    self.proxy(at);
                }
            }
            1 => {
                if let Some(proxy) = node.proxies.first_mut() {
                    proxy.dies_at = now + dice.below(5000);
                }
            }
            2 => {
                // Hot restart: another process, and the one before it goes later.
                if let Some(proxy) = node.proxies.first_mut().filter(|it| it.dies_at > now) {
                    proxy.dies_at = proxy.dies_at.min(now + 20_000 + dice.below(60_000));
                    let uid = proxy.uid;
                    let contexts = proxy.contexts.len();
                    tally.add("proxies restarted hot");
                    node.run(uid, self.refuses, contexts, now);
                }
            }
            3 | 4 => node.crash(short, dice, now),
            5 => {
                // For longer than a certificate lives, or for good.
                let back = now + dice.below(2 * TTL);
                node.crash(back, dice, now);
            }
            6 if now >= self.lives_until => {
                let starts_at = short;
                tally.add("authorities killed");
                self.crash(starts_at);
            }
            7 | 8 => node.lose(now, dice),
            9 => {
                node.lose(now, dice);
                node.connects_at = now + dice.below(25 * 60_000);
            }
            10 => {
                if let Some(proxy) = node.proxies.first_mut() {
                    proxy.cut(true, now, dice);
                }
            }
            11 => {
                if let Some(proxy) = node.proxies.last_mut() {
                    proxy.cut_one(now, dice);
                }
            }
            12 => {
                let starts_at = short;
                if dice.one_in(2) {
                    tally.add("machines booted");
                    node.boot(starts_at, dice, now);
                } else {
                    let known = self.authority.is_up()
                        && node.is_connected()
                        && self.died_at + 90_000 < now;
                    node.crash(starts_at, dice, now);
                    tally.add("caches lost");
                    node.lose_cache(known, dice, now);
                    if known {
                        self.lives_until = now + TTL + 400_000;
                    }
                }
            }
            13 => {
                if dice.one_in(3) && self.authority.denied.is_empty() {
                    tally.add("nodes denied");
                    self.authority.denied.push(at);
                }
            }
            _ => {
                let until = now + 10_000 + dice.below(180_000);
                if self.newer.is_none()
                    && let Some(last) = self.authority.last()
                    && last.kind == Kind::Planned
                    && !last.phase.is_over()
                {
                    tally.add("phases of a newer version");
                    self.newer = Some((until, last.phase));
                    last.phase = Phase::Unknown;
                }
            }
        }
    }

    /// Everybody comes back, and nobody refuses for ever.
    fn calm(&mut self) {
        let now = self.now;
        self.calm_from = self.calm_from.min(now);
        for node in &mut self.nodes {
            node.starts_at = node.starts_at.min(now + 5000);
            node.connects_at = node.connects_at.min(now + 5000);
            for proxy in &mut node.proxies {
                if proxy.refuses() {
                    proxy.dies_at = proxy.dies_at.min(now + 10_000);
                }
            }
        }
        self.refuses = 0;
    }

    fn end(&mut self, steps: u64) -> Result<Ended, String> {
        let ends = (self.began_with, self.now);
        self.observer.state(&self.authority)?;
        self.observer.end(&self.authority, &self.nodes, ends)?;
        let last = self.authority.store.rotations.all.last();
        let last = last.ok_or("there was no rotation")?;
        let forced = last.passed.iter().filter(|it| it.forced.is_some());
        let mut drawn = self.tally.clone();
        for node in &self.nodes {
            drawn.extend(&node.tally);
            if node.ahead != 0 {
                drawn.add("agents ahead or behind");
            }
            if node.is_old {
                drawn.add("agents of an older version");
            }
        }
        if self.authority.repeated > 0 {
            drawn.join("requests repeated", self.authority.repeated);
        }
        Ok(Ended {
            drawn,
            phase: last.phase,
            forced: forced.count(),
            after: self.now,
            steps,
        })
    }

    fn say(&mut self, what: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            let what = what();
            let second = self.now as f64 / 1000.0;
            trace.push(format!("{second:9.3} {what}"));
        }
    }
}
