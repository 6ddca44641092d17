//! The pods of a cluster in memory: some 150 bytes each.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arx_identity::crypto::sha256;

use super::Claim;
use super::object::Pod;
use crate::token::Verified;

/// A deleted pod's tokens are good for so long after the end of its grace period, as for the API
/// server itself.
const AFTER_DELETION: Duration = Duration::from_secs(60);

/// What a pod's UID is known by here.
type Key = [u8; 16];

/// All pods by UID.
#[derive(Debug, Default)]
pub(super) struct Index {
    pods: HashMap<Key, Known>,
    words: Words,
    /// Labels that are kept.
    labels: Box<[Arc<str>]>,
}

#[derive(Debug)]
struct Known {
    namespace: Arc<str>,
    name: Box<str>,
    account: Arc<str>,
    /// Once it is put on one.
    node: Option<Arc<str>>,
    /// Until when it may be there, once it is being deleted.
    deleted: Option<SystemTime>,
    has_ended: bool,
    labels: Box<[(Arc<str>, Arc<str>)]>,
    /// The list in which it was seen last.
    list: u32,
}

/// A pod that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its cluster, as the configuration calls it.
    pub cluster: Arc<str>,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Its service account.
    pub service_account: Arc<str>,
    /// Its node, once it is put on one.
    pub node: Option<Arc<str>>,
    /// Those of its labels that are kept.
    pub labels: Vec<(Arc<str>, Arc<str>)>,
}

impl Found {
    /// The pod that a token is bound to, as the token has it.
    pub(crate) fn of_token(token: &Verified) -> Option<Self> {
        let pod = token.pod.as_ref()?;
        Some(Self {
            cluster: token.cluster.clone(),
            namespace: token.namespace.as_str().into(),
            name: pod.name.clone(),
            uid: pod.uid.clone(),
            service_account: token.service_account.as_str().into(),
            node: token.node.as_ref().map(|node| node.name.as_str().into()),
            labels: Vec::new(),
        })
    }
}

/// Whether a pod is what a token says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Live,
    /// It is not, or not any more.
    Gone(&'static str),
    /// Nothing is known of it, or not yet enough.
    Unknown,
}

impl Index {
    /// An empty one, which keeps these labels of pods.
    pub(super) fn keeping(labels: &[String]) -> Self {
        Self {
            labels: labels.iter().map(|it| it.as_str().into()).collect(),
            ..Self::default()
        }
    }

    pub(super) fn len(&self) -> usize {
        self.pods.len()
    }

    pub(super) fn standing(&self, claim: &Claim<'_>, now: SystemTime) -> Standing {
        let Some(pod) = self.pods.get(&key(claim.uid)) else {
            return Standing::Unknown;
        };
        if *pod.namespace != *claim.namespace || *pod.name != *claim.name {
            return Standing::Gone("its UID is that of another pod");
        }
        if *pod.account != *claim.account {
            return Standing::Gone("it runs under another service account");
        }
        if let Some(why) = pod.is_over(now) {
            return Standing::Gone(why);
        }
        match (&pod.node, claim.node) {
            (Some(node), Some(claimed)) if **node != *claimed => {
                Standing::Gone("it is on another node")
            }
            // It was put on its node later than what was heard of it.
            (None, Some(_)) => Standing::Unknown,
            _ => Standing::Live,
        }
    }

    /// The pod of this UID, or why it is one no more; `None` if nothing is known of it.
    pub(super) fn find(&self, uid: &str, now: SystemTime) -> Option<Result<Found, &'static str>> {
        let pod = self.pods.get(&key(uid))?;
        Some(match pod.is_over(now) {
            Some(why) => Err(why),
            None => Ok(pod.found(uid)),
        })
    }

    /// The nodes on which there are pods, each with the name of one there whose namespace and
    /// account `wanted` says yes to.
    pub(super) fn nodes(
        &self,
        now: SystemTime,
        wanted: impl Fn(&str, &str) -> bool,
    ) -> BTreeMap<Arc<str>, Option<String>> {
        let mut nodes = BTreeMap::<Arc<str>, Option<String>>::new();
        for pod in self.pods.values() {
            let Some(node) = pod.node.as_ref().filter(|_| pod.is_over(now).is_none()) else {
                continue;
            };
            let found = nodes.entry(Arc::clone(node)).or_default();
            if found.is_none() && wanted(&pod.namespace, &pod.account) {
                *found = Some(format!("{}/{}", pod.namespace, pod.name));
            }
        }
        nodes
    }

    /// Takes a pod as it is now, seen in this list or after it.
    pub(super) fn put(&mut self, pod: &Pod<'_>, list: u32) {
        let known = Known {
            namespace: self.words.keep(&pod.metadata.namespace),
            name: pod.metadata.name.as_ref().into(),
            account: self.words.keep(pod.account()),
            node: pod.node().map(|node| self.words.keep(node)),
            deleted: pod.deleted(),
            has_ended: pod.has_ended(),
            labels: self.labels_of(pod),
            list,
        };
        self.pods.insert(key(&pod.metadata.uid), known);
    }

    fn labels_of(&mut self, pod: &Pod<'_>) -> Box<[(Arc<str>, Arc<str>)]> {
        let kept = self.labels.iter().filter_map(|name| {
            let value = pod.label(name)?;
            Some((Arc::clone(name), self.words.keep(value)))
        });
        kept.collect()
    }

    pub(super) fn remove(&mut self, uid: &str) {
        self.pods.remove(&key(uid));
    }

    /// Forgets what was in no list since this one began.
    pub(super) fn finish(&mut self, list: u32) {
        self.pods.retain(|_, pod| pod.list == list);
        self.words.forget();
    }
}

impl Known {
    /// Why it is no pod any more, if it is none.
    fn is_over(&self, now: SystemTime) -> Option<&'static str> {
        if self.has_ended {
            return Some("it has ended");
        }
        let over = self.deleted.is_some_and(|end| now > end + AFTER_DELETION);
        over.then_some("it is being deleted, and its time is up")
    }

    /// What is known of it, but for its cluster.
    fn found(&self, uid: &str) -> Found {
        Found {
            cluster: "".into(),
            namespace: self.namespace.clone(),
            name: self.name.to_string(),
            uid: uid.to_owned(),
            service_account: self.account.clone(),
            node: self.node.clone(),
            labels: self.labels.to_vec(),
        }
    }
}

/// Not the UID's own bytes: nothing says that each is a UUID.
fn key(uid: &str) -> Key {
    let [key @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = sha256(uid.as_bytes());
    key
}

/// Names that many pods share.
#[derive(Debug, Default)]
struct Words(HashSet<Arc<str>>);

impl Words {
    fn keep(&mut self, word: &str) -> Arc<str> {
        if let Some(known) = self.0.get(word) {
            return Arc::clone(known);
        }
        let new: Arc<str> = word.into();
        self.0.insert(Arc::clone(&new));
        new
    }

    /// Drops those that nobody has any more.
    fn forget(&mut self) {
        self.0.retain(|word| Arc::strong_count(word) > 1);
    }
}
