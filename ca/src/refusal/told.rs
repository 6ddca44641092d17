//! What the log says of refusals: the first of a kind at once, and of those that follow how
//! many there were in a minute, so that nobody can fill it. The metric counts each.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::caller::{Caller, NodeName};

/// How long refusals of one kind are counted before they are told.
pub const COUNTED: Duration = Duration::from_secs(60);
/// Kinds that are told apart; the peers beyond them are counted together.
const MOST: usize = 1024;

/// Who was refused something.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Peer {
    /// A node that proved its name.
    Node(NodeName),
    /// Somebody without a node's certificate, by address: a port would make each connection
    /// another peer.
    Address(IpAddr),
    /// Somebody on this machine, by number.
    User(u32),
    /// One of many, or nobody knows who.
    Other,
}

/// Refusals that were counted instead of told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repeated {
    /// Their reason code.
    pub code: &'static str,
    /// Whose they were.
    pub peer: Peer,
    /// How many.
    pub times: u64,
}

/// The refusals of the last minute, by code and peer.
#[derive(Default)]
pub struct Told(Mutex<HashMap<(&'static str, Peer), Recent>>);

struct Recent {
    since: Instant,
    times: u64,
}

impl Peer {
    /// Who calls, over a connection from `address`.
    #[must_use]
    pub fn of(caller: &Caller, address: IpAddr) -> Self {
        match caller {
            Caller::Node(node) => Self::Node(node.name.clone()),
            Caller::Stranger | Caller::Other(_) => Self::Address(address),
        }
    }
}

impl Told {
    /// Whether this refusal is to be told now; if not, it is counted.
    pub fn now(&self, code: &'static str, peer: &Peer, now: Instant) -> bool {
        let mut recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut kind = (code, peer.clone());
        if !recent.contains_key(&kind) && recent.len() >= MOST {
            kind.1 = Peer::Other;
        }
        let mut first = false;
        let entry = recent.entry(kind).or_insert_with(|| {
            first = true;
            Recent {
                since: now,
                times: 0,
            }
        });
        entry.times += u64::from(!first);
        first
    }

    /// Tells of what was counted for a minute.
    pub fn tell_due(&self, now: Instant) {
        for Repeated { code, peer, times } in self.due(now) {
            tracing::info!(code, %peer, times, "refused again, so many times in the last minute");
        }
    }

    /// What was counted for a minute. A kind of which there was nothing more is forgotten, so
    /// that the next one is told at once.
    pub fn due(&self, now: Instant) -> Vec<Repeated> {
        let mut due = Vec::new();
        let mut recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        recent.retain(|(code, peer), entry| {
            if now.saturating_duration_since(entry.since) < COUNTED {
                return true;
            }
            if entry.times == 0 {
                return false;
            }
            due.push(Repeated {
                code,
                peer: peer.clone(),
                times: entry.times,
            });
            *entry = Recent {
                since: now,
                times: 0,
            };
            true
        });
        due
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(name) => fmt::Display::fmt(name, f),
            Self::Address(address) => fmt::Display::fmt(address, f),
            Self::User(uid) => write!(f, "uid {uid}"),
            Self::Other => f.write_str("others"),
        }
    }
}

impl fmt::Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Told")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn address(number: u32) -> Peer {
        Peer::Address(IpAddr::V4(Ipv4Addr::from(number)))
    }

    #[test]
    fn the_first_of_a_kind_is_told_at_once_and_the_others_once_a_minute() {
        let (told, begin) = (Told::default(), Instant::now());
        assert!(told.now("ARX-TOKEN-SIGNATURE", &address(1), begin));
        for _ in 0..1000 {
            assert!(!told.now("ARX-TOKEN-SIGNATURE", &address(1), begin));
        }
        // Another reason and another peer are other kinds.
        assert!(told.now("ARX-TOKEN-EXPIRED", &address(1), begin));
        assert!(told.now("ARX-TOKEN-SIGNATURE", &address(2), begin));
        assert_eq!(told.due(begin + COUNTED / 2), []);
        let repeated = Repeated {
            code: "ARX-TOKEN-SIGNATURE",
            peer: address(1),
            times: 1000,
        };
        let later = begin + COUNTED;
        assert_eq!(told.due(later), [repeated]);
        // It goes on: still not one line each. The others have ended.
        assert!(!told.now("ARX-TOKEN-SIGNATURE", &address(1), later));
        assert!(told.now("ARX-TOKEN-EXPIRED", &address(1), later));
    }

    #[test]
    fn peers_beyond_the_bound_are_counted_together() {
        let (told, begin) = (Told::default(), Instant::now());
        let most = u32::try_from(MOST).expect("small");
        let told_at_once = (0..10 * most)
            .filter(|&number| told.now("ARX-TOKEN-SIGNATURE", &address(number), begin))
            .count();
        assert_eq!(told_at_once, MOST + 1);
        let due = told.due(begin + COUNTED);
        let others = u64::from(9 * most - 1);
        assert!(
            matches!(&due[..], [Repeated { peer: Peer::Other, times, .. }] if *times == others)
        );
        assert_eq!(told.due(begin + 2 * COUNTED), [], "and then forgotten");
        assert!(told.now("ARX-TOKEN-SIGNATURE", &address(7), begin + 2 * COUNTED));
    }
}
