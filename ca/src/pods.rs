//! Which pods there are: a watch of each cluster's pods, by which a token counts only while its
//! pod is there, runs under its service account, and is on its node.
//!
//! What is kept of a pod is who and where it is. While the API server is away, pods that are
//! known go on as they are for a time, and others wait.

mod api;
mod events;
mod index;
mod object;
mod unproved;
mod watch;

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use arx_daemon::Clock;
use tokio::sync::Semaphore;

use crate::refusal::Refusal;
use crate::token::{Cluster, Refused};
pub(crate) use api::Api;
use events::Events;
pub(crate) use events::Outcome;
pub use index::Found;
use index::{Index, Standing};
use object::Pod;
pub use unproved::Unproved;

/// Why the index is not being kept up.
pub(crate) const AWAY: &str = "ARX-PODS-AWAY";
/// Pods that are asked for one by one at the same time.
const AT_ONCE: usize = 16;

/// What a token says of its pod.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim<'a> {
    pub(crate) uid: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    pub(crate) account: &'a str,
    /// If the token names one.
    pub(crate) node: Option<&'a str>,
}

/// The pods of one cluster.
pub(crate) struct Pods {
    cluster: Arc<str>,
    api: Api,
    /// Pods are believed for so long after the API server was last heard.
    stale: Duration,
    /// Which labels of them are kept.
    labels: Vec<String>,
    /// Tells of refusals, where that is wanted.
    events: Option<Events>,
    clock: Clock,
    seen: RwLock<Seen>,
    turns: Semaphore,
}

#[derive(Default)]
struct Seen {
    index: Index,
    /// When the index was last known to be as the API server has it.
    fresh: Option<Instant>,
    /// Why it is not being kept up, if it is not.
    failure: Option<Arc<str>>,
    /// Lists that were begun.
    lists: u32,
    events: u64,
}

/// How the index stands.
#[derive(Clone, Debug)]
pub(crate) struct Health {
    pub(crate) pods: usize,
    /// How long ago it was as the API server has it; `None` before it was read.
    pub(crate) age: Option<Duration>,
    /// Why it is not being kept up, if it is not.
    pub(crate) failure: Option<Arc<str>>,
    /// Changes of pods that were seen.
    pub(crate) events: u64,
    /// Whether it is too old to be believed.
    pub(crate) is_stale: bool,
    /// What became of Events about refusals, as [`Outcome`] has it.
    pub(crate) notices: [u64; 4],
}

impl Pods {
    pub(crate) fn new(
        cluster: Arc<str>,
        api: Api,
        stale: Duration,
        labels: &[String],
        tells: bool,
        clock: Clock,
    ) -> Self {
        Self {
            cluster,
            api,
            stale,
            labels: labels.to_vec(),
            events: tells.then(Events::default),
            clock,
            seen: RwLock::new(Seen {
                index: Index::keeping(labels),
                ..Seen::default()
            }),
            turns: Semaphore::new(AT_ONCE),
        }
    }

    /// Whether `claim` is true, by what is in memory; `None` if the API server has to be asked.
    pub(crate) fn judge(&self, claim: &Claim<'_>) -> Option<Result<(), Refused>> {
        let seen = self.seen.read().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.now();
        match seen.index.standing(claim, now) {
            _ if self.is_stale(&seen) => None,
            Standing::Live => Some(Ok(())),
            Standing::Gone(why) => Some(Err(self.gone(why))),
            Standing::Unknown => None,
        }
    }

    /// The pod of this UID, if it is one that runs on this node.
    pub(crate) fn on(&self, node: &str, uid: &str) -> Result<Found, Unproved> {
        let seen = self.seen.read().unwrap_or_else(PoisonError::into_inner);
        let cluster = || self.cluster.clone();
        let why = || seen.failure.clone();
        if self.is_stale(&seen) {
            return Err(Unproved::Unknown {
                cluster: cluster(),
                why: why().unwrap_or_else(|| "they are being read".into()),
            });
        }
        let now = self.clock.now();
        match (seen.index.find(uid, now), why()) {
            (Some(Ok(found)), _) if found.node.as_deref() == Some(node) => Ok(Found {
                cluster: cluster(),
                ..found
            }),
            (Some(Ok(Found { node: Some(_), .. })), _) => {
                Err(Unproved::Elsewhere(format!("{}/{node}", self.cluster)))
            }
            (Some(Err(why)), _) => Err(Unproved::Gone {
                cluster: cluster(),
                why,
            }),
            // It may have been made, or put on its node, after what was heard.
            (_, Some(why)) => Err(Unproved::Unknown {
                cluster: cluster(),
                why,
            }),
            (_, None) => Err(Unproved::Unheard(cluster())),
        }
    }

    /// Whether it is true by the API server's own word: a pod may be newer than what was heard.
    pub(crate) async fn ask(&self, claim: &Claim<'_>) -> Result<(), Refused> {
        let asked = async {
            let turn = self.turns.acquire().await;
            let answer = self.api.pod(claim.namespace, claim.name).await;
            drop(turn);
            answer
        };
        let answer = tokio::time::timeout(api::DEADLINE, asked).await;
        let answer = answer.unwrap_or_else(|_| Err("no answer within 5 s".to_owned()));
        let pod = answer.map_err(|why| Refused::PodUnknown {
            cluster: self.cluster.clone(),
            why: why.into(),
        })?;
        let mut one = Index::default();
        if let Some(json) = pod {
            let pod: Option<Pod<'_>> = serde_json::from_slice(&json).ok();
            let pod = pod.filter(|pod| !pod.metadata.uid.is_empty());
            let pod = pod.ok_or_else(|| Refused::PodUnknown {
                cluster: self.cluster.clone(),
                why: "its answer is no pod".into(),
            })?;
            one.put(&pod, 0);
        }
        match one.standing(claim, self.clock.now()) {
            Standing::Live => Ok(()),
            Standing::Gone(why) => Err(self.gone(why)),
            Standing::Unknown => Err(self.gone("there is none of this UID")),
        }
    }

    /// What an operator has to know of it, and whether nothing can be issued by its tokens.
    pub(crate) fn trouble(&self) -> Option<(&'static str, String, bool)> {
        let cluster = &self.cluster;
        let health = self.health();
        let why = health.failure.as_deref().unwrap_or("it is being read");
        match health.age {
            None => Some((
                "ARX-PODS-UNREAD",
                format!("the pods of cluster {cluster} have not been read yet ({why})"),
                true,
            )),
            Some(age) if health.is_stale => Some((
                "ARX-PODS-STALE",
                format!(
                    "the API server of cluster {cluster} was last heard {} s ago ({why}), which is longer than pod_grace: its tokens are refused",
                    age.as_secs()
                ),
                false,
            )),
            Some(age) if health.failure.is_some() => Some((
                AWAY,
                format!(
                    "the pods of cluster {cluster} can't be watched ({why}): those that are known count for {} s more, others are refused",
                    self.stale.saturating_sub(age).as_secs()
                ),
                false,
            )),
            Some(_) => None,
        }
    }

    pub(crate) fn health(&self) -> Health {
        let seen = self.seen.read().unwrap_or_else(PoisonError::into_inner);
        Health {
            pods: seen.index.len(),
            age: seen.fresh.map(|fresh| self.since(fresh)),
            failure: seen.failure.clone(),
            events: seen.events,
            is_stale: self.is_stale(&seen),
            notices: self.events.as_ref().map_or([0; 4], Events::counts),
        }
    }

    /// Has a refusal told to whoever owns the pod. Waits for nothing.
    pub(crate) fn tell(&self, pod: &Found, refusal: &Refusal) {
        if let Some(events) = &self.events {
            events.tell(pod, refusal, self.clock.now(), self.clock.monotonic());
        }
    }

    /// Writes what is to be told, for ever.
    pub(crate) async fn keep_telling(&self) {
        match &self.events {
            Some(events) => events.keep(self.api.client()).await,
            None => std::future::pending().await,
        }
    }

    /// The pod of this UID, whatever node it is on; or why it counts for nothing, or nothing if
    /// it is not known.
    pub(crate) fn find(&self, uid: &str) -> Option<Result<Found, &'static str>> {
        let seen = self.seen.read().unwrap_or_else(PoisonError::into_inner);
        let found = seen.index.find(uid, self.clock.now())?;
        Some(found.map(|found| Found {
            cluster: self.cluster.clone(),
            ..found
        }))
    }

    /// The nodes on which there are pods, each with the name of one there whose namespace and
    /// account `wanted` says yes to.
    ///
    /// # Errors
    /// Why that is not known.
    pub(crate) fn nodes(
        &self,
        wanted: impl Fn(&str, &str) -> bool,
    ) -> Result<BTreeMap<Arc<str>, Option<String>>, String> {
        let seen = self.seen.read().unwrap_or_else(PoisonError::into_inner);
        if self.is_stale(&seen) {
            let why = seen.failure.as_deref().unwrap_or("they are being read");
            return Err(format!("its pods are not known ({why})"));
        }
        Ok(seen.index.nodes(self.clock.now(), wanted))
    }

    /// The UID of the pod that has this name now, by the API server's word.
    pub(crate) async fn uid_of(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<String>, String> {
        let answer = tokio::time::timeout(api::DEADLINE, self.api.pod(namespace, name)).await;
        let answer = answer.unwrap_or_else(|_| Err("no answer within 5 s".to_owned()))?;
        let Some(json) = answer else { return Ok(None) };
        let pod: Pod<'_> = serde_json::from_slice(&json).map_err(|_| "its answer is no pod")?;
        Ok(Some(pod.metadata.uid.into_owned()))
    }

    /// Whether pods can be listed now, as `arx-ca check` wants to know.
    pub(crate) async fn probe(&self) -> Result<(), String> {
        match self.api.page("").await {
            Ok(_) => Ok(()),
            Err(api::Failed::Expired) => Err("its list has expired".to_owned()),
            Err(api::Failed::Other(why)) => Err(why),
        }
    }

    pub(crate) fn cluster(&self) -> &Arc<str> {
        &self.cluster
    }

    /// Whether it watches the same pods in the same way as `other` would.
    pub(crate) fn is_same_as(&self, cluster: &Cluster, api: &Api) -> bool {
        *self.cluster == *cluster.name
            && self.api.is_same_as(api)
            && self.stale == cluster.pod_grace.get()
            && self.labels == cluster.pod_labels
            && self.events.is_some() == cluster.pod_events
    }

    fn gone(&self, why: &'static str) -> Refused {
        Refused::PodGone {
            cluster: self.cluster.clone(),
            why,
        }
    }

    fn is_stale(&self, seen: &Seen) -> bool {
        seen.fresh
            .is_none_or(|fresh| self.since(fresh) > self.stale)
    }

    fn since(&self, then: Instant) -> Duration {
        self.clock.monotonic().saturating_duration_since(then)
    }
}

#[cfg(test)]
mod tests;
