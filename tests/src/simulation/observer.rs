//! Sees everything at once, and what must hold whatever happens.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use arx_ca::state::{Kind, Phase, RootState};
use arx_identity::{KeyId, Sequence, TrustBundle};

use super::authority::{Authority, CLUSTER, DISTRUST};
use super::clock::{Millis, clocks};
use super::node::{Node, root_of};
use super::proxy::{Active, Proxy};

/// What a look, and storing what it decides, may take.
const SLACK: Duration = Duration::from_secs(3);

/// Who has been there for so long must have got what there is.
const SETTLED: Millis = 120_000;

/// What was seen so far.
#[derive(Debug, Default)]
pub struct Observer {
    /// What each sequence stands for.
    contents: BTreeMap<Sequence, [u8; 32]>,
    published: Option<Sequence>,
    /// Which rotation stood where.
    stood: Option<(String, Kind, Phase)>,
    /// What each agent has durably, and each process has been given.
    held: BTreeMap<String, Sequence>,
    /// Whom an operator has left behind: nodes, and processes on nodes.
    pub left: BTreeSet<(String, String)>,
    /// Some replica was left behind, and whatever it has signed.
    pub replica_left: bool,
    /// Roots that must not be trusted any more.
    pub buried: BTreeSet<KeyId>,
}

impl Observer {
    /// What must hold of the authority's state.
    ///
    /// # Errors
    /// What does not.
    pub fn state(&mut self, authority: &Authority) -> Result<(), String> {
        let store = &authority.store;
        let active = store.roots.iter();
        let active = active.filter(|(_, state)| *state == RootState::Active);
        if active.count() != 1 {
            return Err(format!("there is not one active root: {:?}", store.roots));
        }
        let newest = authority.bundle();
        if newest.root(&store.active()).is_none() {
            return Err("the root that signs is not in the bundle".to_owned());
        }
        for bundle in &store.published {
            let is_new = self.published < Some(bundle.sequence());
            let mut buried = self.buried.iter();
            if is_new && let Some(back) = buried.find(|root| bundle.root(root).is_some()) {
                return Err(format!(
                    "a root that must not be trusted comes back in {}: {back}",
                    bundle.sequence()
                ));
            }
        }
        if let Some(running) = store.rotations.running()
            && matches!(
                running.phase,
                Phase::Activate | Phase::Reissue | Phase::Held
            )
        {
            let mut both = [Some(running.from), running.to].into_iter().flatten();
            if let Some(lacks) = both.find(|root| newest.root(root).is_none()) {
                return Err(format!("in {:?} the bundle lacks {lacks}", running.phase));
            }
        }
        if self.published > Some(newest.sequence()) {
            return Err(format!(
                "the bundle goes back to {} from {:?}",
                newest.sequence(),
                self.published
            ));
        }
        self.published = Some(newest.sequence());
        for bundle in &store.published {
            self.content(bundle, "the store")?;
        }
        Ok(())
    }

    /// No gate of a distrust stays shut for longer than its time, once it is known who has to
    /// confirm.
    ///
    /// # Errors
    /// What does.
    pub fn gate(&self, authority: &Authority, now: Millis) -> Result<(), String> {
        let running = authority.rotation();
        let Some(running) = running.filter(|it| it.kind == Kind::Distrust) else {
            return Ok(());
        };
        let window = match running.phase {
            Phase::Reissue => running.terms.window,
            _ => Duration::ZERO,
        };
        // Where it is forced it may be less.
        let most = DISTRUST.patience.unwrap_or_default() + DISTRUST.dwell;
        let since = super::clock::wall(now).duration_since(running.phase_began);
        let since = since.unwrap_or_default().saturating_sub(window);
        let counted = authority.counting_for(now).unwrap_or_default();
        if since.min(counted) > most + SLACK {
            return Err(format!(
                "{:?} of a distrust has lasted {} s",
                running.phase,
                since.as_secs()
            ));
        }
        Ok(())
    }

    /// A distrust goes its way in order, whatever its operator wishes meanwhile.
    ///
    /// # Errors
    /// From where it went to where.
    pub fn order(&mut self, authority: &Authority) -> Result<(), String> {
        let Some(last) = authority.store.rotations.all.last() else {
            return Ok(());
        };
        let stands = (last.id.clone(), last.kind, last.phase);
        let Some((id, kind, before)) = self.stood.replace(stands) else {
            return Ok(());
        };
        if id != last.id || kind != Kind::Distrust || before == last.phase {
            return Ok(());
        }
        let next = match before {
            Phase::Prepare => Phase::Distribute,
            Phase::Distribute => Phase::Activate,
            Phase::Activate => Phase::Reissue,
            Phase::Reissue => Phase::Retire,
            _ => Phase::Done,
        };
        if last.kind == Kind::Distrust && last.phase == next {
            Ok(())
        } else {
            Err(format!(
                "a distrust goes from {before:?} to {:?}",
                last.phase
            ))
        }
    }

    /// Whoever was left behind is back, and counts again, but for proxies that refuse what they
    /// are given.
    fn forgive(
        &mut self,
        authority: &Authority,
        nodes: &[Node],
        now: Millis,
    ) -> Result<(), String> {
        let mut refuse = BTreeSet::new();
        for (number, node) in nodes.iter().enumerate() {
            for proxy in node.proxies.iter().filter(|proxy| proxy.refuses()) {
                if self.is_left(number, Some(proxy)) {
                    refuse.insert((place(number, None), format!("pid {}", proxy.process.pid)));
                }
            }
        }
        self.left = refuse;
        self.replica_left = false;
        let back = self.nodes(authority, nodes, now);
        back.map_err(|what| format!("somebody who was left behind is not back: {what}"))
    }

    /// What must hold of nodes, for whoever follows the protocol.
    ///
    /// # Errors
    /// What does not.
    pub fn nodes(
        &mut self,
        authority: &Authority,
        nodes: &[Node],
        now: Millis,
    ) -> Result<(), String> {
        let newest = authority.bundle();
        for (number, node) in nodes.iter().enumerate() {
            let Some(agent) = &node.agent else {
                self.held.remove(&place(number, None));
                continue;
            };
            if let Some(durable) = agent.durable() {
                self.content(&durable, &place(number, None))?;
                self.grows(place(number, None), durable.sequence())?;
                if durable.sequence() > newest.sequence() {
                    return Err(format!(
                        "{} has {}, which the store has not",
                        place(number, None),
                        durable.sequence()
                    ));
                }
            }
            if let Some(svid) = node.own()
                && svid.not_after() > clocks(now, 0).wall
                && !self.is_left(number, None)
                && !authority.denied.contains(&number)
                && root_of(svid).is_some_and(|root| newest.root(&root).is_none())
            {
                return Err(format!(
                    "the authority does not accept the certificate of {}",
                    place(number, None)
                ));
            }
        }
        for (number, node) in nodes.iter().enumerate() {
            for proxy in &node.proxies {
                for context in &proxy.contexts {
                    if let Some(active) = &context.active {
                        self.content(&active.trust, &place(number, Some(proxy)))?;
                    }
                }
            }
        }
        self.pairs(authority, nodes, now)
    }

    /// No live leaf is presented to a follower of the protocol who lacks its root.
    fn pairs(&self, authority: &Authority, nodes: &[Node], now: Millis) -> Result<(), String> {
        if self.replica_left {
            return Ok(());
        }
        let all: Vec<_> = nodes
            .iter()
            .enumerate()
            .filter(|(number, _)| !authority.denied.contains(number))
            .flat_map(|(number, node)| {
                let proxies = node.proxies.iter();
                let followers = proxies.filter(move |proxy| !self.is_left(number, Some(proxy)));
                followers.map(move |proxy| (number, node, proxy))
            })
            .flat_map(|(number, node, proxy)| {
                contexts(proxy, now).map(move |active| (number, node, proxy, active))
            })
            .collect();
        for (from, _, shower, shown) in &all {
            let Some(root) = root_of(&shown.leaf) else {
                continue;
            };
            for (to, verifier, judge, accepts) in &all {
                let clock = clocks(now, verifier.ahead).wall;
                let live = shown.leaf.not_after() >= clock && accepts.leaf.not_after() >= clock;
                if live && !accepts.returns && accepts.trust.root(&root).is_none() {
                    return Err(format!(
                        "{} shows a live certificate ({}) that {} does not accept (its bundle is {})",
                        place(*from, Some(shower)),
                        shown.leaf.serial(),
                        place(*to, Some(judge)),
                        accepts.trust.sequence(),
                    ));
                }
            }
        }
        Ok(())
    }

    /// What must hold when a rotation is over and everybody is back.
    ///
    /// # Errors
    /// What does not.
    pub fn end(
        &mut self,
        authority: &Authority,
        nodes: &[Node],
        (began_with, now): (KeyId, Millis),
    ) -> Result<(), String> {
        let store = &authority.store;
        let Some(last) = store.rotations.all.last() else {
            return Err("there was no rotation".to_owned());
        };
        let roots = store.roots.iter();
        let trusted: Vec<_> = roots
            .filter(|(_, state)| *state != RootState::Distrusted)
            .collect();
        let [(root, _)] = trusted[..] else {
            return Err(format!("not one root is left: {:?}", store.roots));
        };
        let bundle = authority.bundle();
        if bundle.roots().len() != 1 || bundle.root(root).is_none() {
            return Err("the bundle is not the root that is left".to_owned());
        }
        let restored = *root == began_with;
        let right = match last.kind {
            Kind::Distrust => last.phase == Phase::Done && *root != last.from,
            _ => restored == (last.phase == Phase::Aborted),
        };
        if !right {
            return Err(format!("{:?} is left with root {root}", last.phase));
        }
        for (number, node) in nodes.iter().enumerate() {
            let Some(agent) = node.agent.as_ref().filter(|_| node.is_connected()) else {
                continue;
            };
            let durable = agent.durable().map(|bundle| bundle.sequence());
            if durable != Some(bundle.sequence()) {
                return Err(format!(
                    "{} is connected, and has {durable:?} instead of {}",
                    place(number, None),
                    bundle.sequence()
                ));
            }
            if authority.denied.contains(&number) {
                continue;
            }
            let mut believed = node.believed_by().iter();
            if believed.all(|root| bundle.root(root).is_none()) {
                return Err(format!(
                    "{} is connected by a root that is gone",
                    place(number, None)
                ));
            }
            let settled =
                |proxy: &&Proxy| !proxy.refuses() && proxy.process.start_time + SETTLED < now;
            for proxy in node.proxies.iter().filter(settled) {
                let mut lives = contexts(proxy, now);
                let clock = clocks(now, node.ahead).wall;
                let is_good = |active: &Active| {
                    let root = root_of(&active.leaf);
                    let known = root.is_some_and(|root| bundle.root(&root).is_some());
                    known && active.leaf.not_after() >= clock
                };
                if !lives.any(is_good) {
                    return Err(format!(
                        "{} has no live certificate: {proxy:?}",
                        place(number, Some(proxy))
                    ));
                }
            }
        }
        self.forgive(authority, nodes, now)
    }

    /// Two contents of one sequence would make confirmations worthless.
    fn content(&mut self, bundle: &TrustBundle, of: &str) -> Result<(), String> {
        let known = self
            .contents
            .entry(bundle.sequence())
            .or_insert_with(|| bundle.sha256());
        if *known == bundle.sha256() {
            Ok(())
        } else {
            Err(format!(
                "{of} has another content for {}",
                bundle.sequence()
            ))
        }
    }

    fn grows(&mut self, of: String, sequence: Sequence) -> Result<(), String> {
        match self.held.insert(of.clone(), sequence) {
            Some(before) if before > sequence => {
                Err(format!("{of} goes back from {before} to {sequence}"))
            }
            _ => Ok(()),
        }
    }

    fn is_left(&self, node: usize, proxy: Option<&Proxy>) -> bool {
        let node = format!("{CLUSTER}/n{node}");
        let process = proxy.map(|proxy| format!("pid {}", proxy.process.pid));
        self.left
            .iter()
            .any(|(left, who)| *left == node && (who.is_empty() || process.as_ref() == Some(who)))
    }
}

/// All that handshakes may be done with.
fn contexts(proxy: &Proxy, now: Millis) -> impl Iterator<Item = &Active> {
    proxy.contexts.iter().flat_map(move |context| {
        let before = context.before.iter().filter(move |(_, until)| *until > now);
        context
            .active
            .iter()
            .chain(before.map(|(active, _)| active))
    })
}

fn place(node: usize, proxy: Option<&Proxy>) -> String {
    match proxy {
        Some(proxy) => format!("{CLUSTER}/n{node} pid {}", proxy.process.pid),
        None => format!("{CLUSTER}/n{node}"),
    }
}
