//! Which replica of the authority a node goes to: its own order of them by rendezvous hashing,
//! without any that has failed lately as long as there is another.

use crate::{config, seed};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::lookup_host;
use tokio::time::Instant;

/// Addresses that are considered, whatever the names resolve to.
const MOST: usize = 32;
/// For how long one that has failed is gone to only if all have.
const REMEMBERED: Duration = Duration::from_secs(60);

/// One replica, as far as anybody can tell before it answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// As the configuration has it.
    pub(super) name: String,
    /// As it was looked up.
    pub(super) address: SocketAddr,
}

/// How much `node` prefers `address`. Every node has an order of its own, so that the nodes of a
/// replica that is away are spread over all others, and nobody else moves.
pub(crate) fn preference(node: &str, address: SocketAddr) -> u64 {
    let both = format!("{node}\0{address}");
    // What differs only at the end has to differ everywhere: the finalizer of SplitMix64.
    let mixed = seed::of(both.as_bytes());
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Those that `node` prefers come first; each once.
fn order(node: &str, mut targets: Vec<Target>) -> Vec<Target> {
    targets.sort_by_key(|it| (std::cmp::Reverse(preference(node, it.address)), it.address));
    targets.dedup_by_key(|it| it.address);
    targets.truncate(MOST);
    targets
}

/// Looks the names up, and puts what is found in the order of `node`. One that has no address is
/// left out if another has.
pub(super) async fn look_up(
    node: &str,
    authority: &config::Authority,
) -> Result<Vec<Target>, (String, io::Error)> {
    let mut found = Vec::new();
    let mut missing = None;
    for name in authority.names() {
        let looked_up = tokio::time::timeout(authority.connect_timeout.get(), lookup_host(name));
        let looked_up = looked_up.await.unwrap_or_else(|_| {
            Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "looking it up took too long",
            ))
        });
        match looked_up {
            Ok(addresses) => found.extend(addresses.map(|address| Target {
                name: name.to_owned(),
                address,
            })),
            Err(error) => missing = Some((name.to_owned(), error)),
        }
    }
    if found.is_empty() {
        let nothing = || (String::new(), io::Error::other("no name has an address"));
        return Err(missing.unwrap_or_else(nothing));
    }
    if let Some((name, error)) = missing {
        tracing::debug!(name, %error, "left out: it cannot be looked up");
    }
    Ok(order(node, found))
}

/// What is known of the replicas.
#[derive(Debug, Default)]
pub(super) struct Replicas {
    /// In this node's order, as last looked up.
    known: Vec<Target>,
    failed: HashMap<SocketAddr, Failure>,
}

#[derive(Clone, Copy, Debug)]
struct Failure {
    at: Instant,
    /// It has asked to be left alone until then.
    until: Instant,
    /// It answers, and can issue nothing: that it answers is no reason to go back to it.
    unable: bool,
}

impl Replicas {
    /// As they were looked up.
    pub(super) fn take(&mut self, known: Vec<Target>) {
        self.known = known;
        let known = &self.known;
        self.failed
            .retain(|address, _| known.iter().any(|it| it.address == *address));
    }

    /// The first that has not failed lately; else, of those that may be asked soonest, that whose
    /// failure is the longest ago.
    pub(super) fn choose(&self) -> Option<Target> {
        let now = Instant::now();
        let failed = |it: &&Target| {
            let failure = self.lately(it.address)?;
            Some((failure.until.max(now), failure.at))
        };
        self.known.iter().min_by_key(failed).cloned()
    }

    /// How long the one that is next wants to be left alone.
    pub(super) fn until_next(&self) -> Duration {
        self.until(self.choose().as_ref())
    }

    /// For how long the node does not go back to the one to which it belongs.
    pub(super) fn until_own(&self) -> Duration {
        let own = self.known.first();
        let failure = own.and_then(|it| self.lately(it.address));
        match failure {
            Some(it) if it.unable => REMEMBERED.saturating_sub(it.at.elapsed()),
            _ => self.until(own),
        }
    }

    fn until(&self, target: Option<&Target>) -> Duration {
        let failure = target.and_then(|it| self.lately(it.address));
        failure.map_or(Duration::ZERO, |it| {
            it.until.saturating_duration_since(Instant::now())
        })
    }

    /// Its failure, if that is not forgotten.
    fn lately(&self, address: SocketAddr) -> Option<Failure> {
        let failure = *self.failed.get(&address)?;
        let now = Instant::now();
        (now < failure.until || now < failure.at + REMEMBERED).then_some(failure)
    }

    /// It has failed, or is going away, and wants to be left alone for `retry_after`.
    pub(super) fn failed(&mut self, address: SocketAddr, retry_after: Duration) {
        self.note(address, retry_after, false);
    }

    /// It answers, and can issue nothing.
    pub(super) fn is_unable(&mut self, address: SocketAddr) {
        self.note(address, Duration::ZERO, true);
    }

    fn note(&mut self, address: SocketAddr, retry_after: Duration, unable: bool) {
        let at = Instant::now();
        let until = at + retry_after;
        self.failed.insert(address, Failure { at, until, unable });
    }

    pub(super) fn is_well(&mut self, address: SocketAddr) {
        self.failed.remove(&address);
    }

    /// Whether there is one left to go to at once.
    pub(super) fn has_another(&self) -> bool {
        self.has_another_than(None)
    }

    /// Whether there is one beside `this`.
    pub(super) fn has_another_than(&self, this: Option<SocketAddr>) -> bool {
        let mut others = self.known.iter().filter(|it| Some(it.address) != this);
        others.any(|it| self.lately(it.address).is_none())
    }

    pub(super) fn several(&self) -> bool {
        self.known.len() > 1
    }

    /// Whether this is where the node belongs.
    pub(super) fn prefers(&self, address: SocketAddr) -> bool {
        self.known.first().is_none_or(|it| it.address == address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets(count: u8) -> Vec<Target> {
        let target = |n| Target {
            name: "ca:8443".to_owned(),
            address: SocketAddr::from(([10, 0, 0, n], 8443)),
        };
        (1..=count).map(target).collect()
    }

    fn first(node: usize, among: &[Target]) -> SocketAddr {
        order(&format!("node-{node}"), among.to_vec())[0].address
    }

    fn counts(nodes: impl Iterator<Item = usize>, among: &[Target]) -> HashMap<SocketAddr, usize> {
        let mut counts = HashMap::new();
        for node in nodes {
            *counts.entry(first(node, among)).or_default() += 1;
        }
        counts
    }

    #[test]
    fn a_thousand_nodes_are_spread_evenly_over_three_replicas() {
        let counts = counts(0..1000, &targets(3));
        assert_eq!(counts.len(), 3);
        assert!(
            counts.values().all(|it| (283..=383).contains(it)),
            "{counts:?}"
        );
    }

    #[test]
    fn when_a_replica_goes_only_its_nodes_move_and_evenly_to_all_others() {
        let (before, after) = (targets(3), targets(2));
        let gone = before[2].address;
        let moved = (0..1000).filter(|node| first(*node, &before) != first(*node, &after));
        let moved: Vec<_> = moved.collect();
        assert!(moved.iter().all(|node| first(*node, &before) == gone));
        let half = moved.len() / 2;
        let counts = counts(moved.into_iter(), &after);
        let even = counts.values().all(|it| it.abs_diff(half) < half / 4);
        assert!(counts.len() == 2 && even, "{counts:?}");
    }

    #[test]
    fn when_a_replica_is_added_a_quarter_of_the_nodes_move_and_all_to_it() {
        let (before, after) = (targets(3), targets(4));
        let moved = (0..1000).filter(|node| first(*node, &before) != first(*node, &after));
        let moved: Vec<_> = moved.collect();
        assert!((200..=300).contains(&moved.len()), "{}", moved.len());
        assert!(
            moved
                .iter()
                .all(|node| first(*node, &after) == after[3].address)
        );
    }

    #[test]
    fn however_many_addresses_a_name_has_a_bounded_number_of_each_once_is_considered() {
        let twice = [targets(100), targets(100)].concat();
        let order = order("node-1", twice);
        let distinct: std::collections::HashSet<_> = order.iter().map(|it| it.address).collect();
        assert_eq!((order.len(), distinct.len()), (MOST, MOST));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_has_failed_is_chosen_last_until_that_is_forgotten() {
        let mut replicas = Replicas::default();
        replicas.take(order("node-1", targets(3)));
        let mut chosen = Vec::new();
        for _ in 0..3 {
            assert!(replicas.has_another());
            let next = replicas.choose().expect("three").address;
            assert!(!chosen.contains(&next));
            chosen.push(next);
            replicas.failed(next, Duration::ZERO);
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert!(!replicas.has_another());
        assert_eq!(
            replicas.choose().map(|it| it.address),
            chosen.first().copied()
        );
        replicas.failed(chosen[0], Duration::ZERO);
        assert_eq!(replicas.choose().map(|it| it.address), Some(chosen[1]));
        tokio::time::advance(REMEMBERED).await;
        assert_eq!(replicas.choose().map(|it| it.address), Some(chosen[0]));
        assert!(replicas.prefers(chosen[0]) && !replicas.prefers(chosen[1]));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_asks_to_be_left_alone_is_and_nobody_waits_for_it_while_there_is_another() {
        let mut replicas = Replicas::default();
        replicas.take(order("node-1", targets(2)));
        let busy = replicas.choose().expect("two").address;
        replicas.failed(busy, Duration::from_secs(300));
        let other = replicas.choose().expect("two").address;
        assert_ne!(other, busy);
        assert_eq!(replicas.until_next(), Duration::ZERO);
        // The other fails later, and may be asked sooner.
        tokio::time::advance(Duration::from_secs(1)).await;
        replicas.failed(other, Duration::from_secs(2));
        assert!(!replicas.has_another());
        assert_eq!(replicas.choose().map(|it| it.address), Some(other));
        assert_eq!(replicas.until_next(), Duration::from_secs(2));
        tokio::time::advance(REMEMBERED * 2).await;
        assert_eq!(replicas.choose().map(|it| it.address), Some(other));
        replicas.failed(other, Duration::from_secs(600));
        assert_eq!(replicas.choose().map(|it| it.address), Some(busy));
        assert_eq!(replicas.until_next(), Duration::from_secs(179));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_can_issue_nothing_is_not_gone_back_to_before_that_is_forgotten() {
        let mut replicas = Replicas::default();
        replicas.take(order("node-1", targets(2)));
        let own = replicas.choose().expect("two").address;
        replicas.is_unable(own);
        assert_ne!(replicas.choose().map(|it| it.address), Some(own));
        assert_eq!(replicas.until_own(), REMEMBERED);
        // Nobody waits for it who has nowhere else to go.
        let other = replicas.choose().expect("two").address;
        replicas.failed(other, Duration::from_secs(5));
        assert_eq!(replicas.choose().map(|it| it.address), Some(own));
        assert_eq!(replicas.until_next(), Duration::ZERO);
        tokio::time::advance(REMEMBERED / 2).await;
        assert_eq!(replicas.until_own(), REMEMBERED / 2);
        tokio::time::advance(REMEMBERED / 2).await;
        assert_eq!(replicas.until_own(), Duration::ZERO);
    }
}
