//! What was last asked for pods, and what was answered: for whoever wants to know why one has no
//! identity. Bounded, in memory, and no evidence of anything: that is the ledger.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use crate::caller::NodeName;
use crate::pods::Found;
use crate::refusal::Refusal;
use crate::token::Verified;

/// Pods that are remembered; twice as many, until the older half is forgotten.
const PODS: usize = 4096;

/// What a token says, but for the token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TokenSeen {
    pub(crate) audience: String,
    pub(crate) id: String,
    pub(crate) issued: SystemTime,
    pub(crate) expires: SystemTime,
    pub(crate) seen: SystemTime,
}

/// A request that was turned down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LastRefusal {
    pub(crate) code: &'static str,
    pub(crate) message: String,
    pub(crate) at: SystemTime,
    /// Whose agent has asked.
    pub(crate) node: NodeName,
}

/// What was last asked for a pod.
#[derive(Clone, Debug)]
pub(crate) struct Last {
    /// As its token says, or as it is known by its UID.
    pub(crate) pod: Found,
    pub(crate) token: Option<TokenSeen>,
    /// The lifetime that was asked for.
    pub(crate) ttl: Option<Duration>,
    pub(crate) refusal: Option<LastRefusal>,
}

/// Whom an item of a batch is about.
#[derive(Clone, Debug)]
pub(crate) struct About {
    pub(crate) pod: Found,
    pub(crate) token: Option<TokenSeen>,
    pub(crate) ttl: Option<Duration>,
}

/// The pods that were asked for last, by UID.
#[derive(Default)]
pub struct Recent(Mutex<Generations>);

#[derive(Default)]
struct Generations {
    young: HashMap<String, Last>,
    old: HashMap<String, Last>,
}

impl About {
    /// A pod of which a token says this; nothing, if it is bound to none.
    pub(crate) fn token(verified: &Verified, now: SystemTime) -> Option<Self> {
        Some(Self {
            pod: Found::of_token(verified)?,
            token: Some(TokenSeen {
                audience: verified.audience.clone(),
                id: verified.token_id.to_string(),
                issued: verified.issued,
                expires: verified.expires,
                seen: now,
            }),
            ttl: None,
        })
    }

    /// A pod that is known by its UID.
    pub(crate) fn pod(pod: Found) -> Self {
        Self {
            pod,
            token: None,
            ttl: None,
        }
    }
}

impl Recent {
    /// The agent of `node` has asked for a pod, and this was the answer.
    pub(crate) fn note(
        &self,
        about: About,
        node: &NodeName,
        refusal: Option<&Refusal>,
        now: SystemTime,
    ) {
        let refused = refusal.map(|refusal| LastRefusal {
            code: refusal.code,
            message: refusal.message.clone(),
            at: now,
            node: node.clone(),
        });
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = all.remove(&about.pod.uid);
        let (token, refusal) = before.map_or((None, None), |it| (it.token, it.refusal));
        let last = Last {
            token: about.token.or(token),
            refusal: refused.or(refusal),
            pod: about.pod,
            ttl: about.ttl,
        };
        all.put(last);
    }

    /// What was last asked for the pod of this UID.
    pub(crate) fn of(&self, uid: &str) -> Option<Last> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.young.get(uid).or_else(|| all.old.get(uid)).cloned()
    }

    /// The same of pods of this name; a later one has another UID.
    pub(crate) fn named(&self, namespace: &str, name: &str) -> Vec<Last> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let each = all.young.values().chain(all.old.values());
        let named = each.filter(|it| *it.pod.namespace == *namespace && it.pod.name == name);
        named.cloned().collect()
    }
}

impl Generations {
    fn remove(&mut self, uid: &str) -> Option<Last> {
        self.young.remove(uid).or_else(|| self.old.remove(uid))
    }

    fn put(&mut self, last: Last) {
        if self.young.len() >= PODS {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(last.pod.uid.clone(), last);
    }
}

impl fmt::Debug for Recent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Recent")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::refusal::Fault;
    use crate::testing::node;

    fn about(uid: &str) -> About {
        About::pod(Found {
            cluster: "c1".into(),
            namespace: "shop".into(),
            name: "web".to_owned(),
            uid: uid.to_owned(),
            service_account: "web".into(),
            node: Some("n1".into()),
            labels: Vec::new(),
        })
    }

    #[test]
    fn a_refusal_is_remembered_also_after_what_was_granted_since() {
        let (recent, node, now) = (Recent::default(), node(), SystemTime::UNIX_EPOCH);
        let refusal = Refusal::new("ARX-DENIED", Fault::Forbidden, "no");
        recent.note(about("1"), &node.name, Some(&refusal), now);
        recent.note(about("1"), &node.name, None, now + Duration::from_secs(5));
        let last = recent.of("1").expect("it is known");
        let refused = last.refusal.expect("it is known");
        assert_eq!((refused.code, refused.at), ("ARX-DENIED", now));
        assert_eq!(recent.named("shop", "web").len(), 1);
    }

    #[test]
    fn whoever_was_asked_for_last_is_known_however_many_there_were() {
        let (recent, node, now) = (Recent::default(), node(), SystemTime::UNIX_EPOCH);
        let most = 5 * PODS;
        for uid in 0..most {
            recent.note(about(&uid.to_string()), &node.name, None, now);
        }
        let known = (0..most).filter(|uid| recent.of(&uid.to_string()).is_some());
        let known: Vec<_> = known.collect();
        assert!((PODS..=2 * PODS).contains(&known.len()), "{}", known.len());
        assert_eq!(known.last(), Some(&(most - 1)));
    }
}
