//! Keeping keys fresh, and telling an operator how each cluster stands.

use std::sync::Arc;

use super::{Purpose, Tokens};
use crate::pods::{AWAY, Pods};

/// Whether tokens of a cluster can be verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterHealth {
    /// Which cluster.
    pub cluster: Arc<str>,
    /// Reason code if they can't.
    pub code: Option<&'static str>,
    /// How it stands, and what to do where it does not stand well.
    pub message: String,
}

/// What `arx-ca check` found out about a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which cluster.
    pub cluster: Arc<str>,
    /// What should be so; nothing of what is worth knowing besides.
    pub test: Option<&'static str>,
    /// Reason code of what is wrong; `None` if it only is worth knowing.
    pub code: Option<&'static str>,
    /// What was found, and what to do about it.
    pub message: String,
}

const KEYS: &str = "ARX-TOKEN-KEYS-UNAVAILABLE";
const REVIEW: &str = "ARX-TOKEN-REVIEW-UNAVAILABLE";

const HAS_KEYS: Option<&str> = Some("the keys of its tokens can be had");
const REVIEWS: Option<&str> = Some("its API server answers token reviews");
const LISTS: Option<&str> = Some("its API server lists pods");

impl Tokens {
    /// Keeps the keys of all clusters fresh and watches their pods, for ever.
    pub async fn keep(&self) {
        let each = self.local().map(|(_, keys)| async move {
            loop {
                if keys.is_due() {
                    keys.refetch().await;
                }
                tokio::time::sleep(keys.refetch_interval()).await;
            }
        });
        let pods = self.pods().map(|pods| async move {
            tokio::join!(pods.keep(), pods.keep_telling());
        });
        let pods = futures_util::future::join_all(pods);
        futures_util::future::join(futures_util::future::join_all(each), pods).await;
        // There may be no local cluster: still for ever.
        std::future::pending().await
    }

    /// The clusters whose pods are watched.
    pub(crate) fn pods(&self) -> impl Iterator<Item = &Arc<Pods>> {
        self.inner
            .realms
            .iter()
            .filter_map(|realm| realm.pods.as_ref())
    }

    /// The worst that is to be told of the pods of clusters, and whether it keeps the process from
    /// being ready: while one cluster `is_waited_for` whose pods were never read, and for as long
    /// as there is no other cluster.
    pub(crate) fn trouble(&self, is_waited_for: bool) -> Option<(&'static str, String, bool)> {
        let mut troubles: Vec<_> = self.pods().filter_map(|pods| pods.trouble()).collect();
        troubles.sort_by_key(|(_, _, is_shut)| !is_shut);
        let shut = troubles.iter().filter(|(_, _, is_shut)| *is_shut).count();
        let is_alone = shut == self.inner.realms.len();
        let (code, message, is_shut) = troubles.into_iter().next()?;
        Some((code, message, is_shut && (is_waited_for || is_alone)))
    }

    /// How each cluster stands, by what is in memory.
    #[must_use]
    pub fn health(&self) -> Vec<ClusterHealth> {
        let of = |realm: &super::Realm| {
            let cluster = realm.name.clone();
            let Some(keys) = realm.keys(Purpose::Workload) else {
                return ClusterHealth {
                    cluster,
                    code: None,
                    message: "each token is reviewed by the API server".to_owned(),
                };
            };
            let (code, message) = match (keys.current(), keys.failure()) {
                (Some(held), None) => (None, format!("{} at hand", counted(held.set.len()))),
                (Some(held), Some(why)) => (
                    None,
                    format!(
                        "{} at hand, which cannot be read anew ({why})",
                        counted(held.set.len())
                    ),
                ),
                (None, why) => (
                    Some(KEYS),
                    format!(
                        "no keys to verify tokens of cluster {cluster} with ({}): make its key source readable",
                        why.as_deref().unwrap_or("they have not been read yet")
                    ),
                ),
            };
            ClusterHealth {
                cluster,
                code,
                message,
            }
        };
        self.inner.realms.iter().map(of).collect()
    }

    /// Tries each cluster's key source or API server now.
    pub async fn check(&self) -> Vec<Finding> {
        let each = self.inner.realms.iter().map(|realm| async move {
            let finding = |test, code, message| Finding {
                cluster: realm.name.clone(),
                test,
                code,
                message,
            };
            let mut found = Vec::new();
            if let Some(keys) = realm.keys(Purpose::Workload) {
                match keys.source().fetch().await {
                    Ok(set) => {
                        let kids: Vec<_> = set.kids().collect();
                        let keys = format!("{}: {}", counted(set.len()), kids.join(", "));
                        found.push(finding(HAS_KEYS, None, keys));
                        let skipped = set.skipped.iter();
                        found.extend(skipped.map(|it| finding(None, None, it.clone())));
                    }
                    Err(why) => found.push(finding(
                        HAS_KEYS,
                        Some(KEYS),
                        format!("the keys of its tokens cannot be had: {why}"),
                    )),
                }
            }
            if let Some(reviewer) = realm.reviewer(Purpose::Join) {
                let answered = reviewer.probe(realm.audiences(Purpose::Workload)).await;
                found.push(match answered {
                    Ok(()) => {
                        let message = "the API server answers token reviews".to_owned();
                        finding(REVIEWS, None, message)
                    }
                    Err(why) => {
                        let message = format!("the API server gives no token review: {why}");
                        finding(REVIEWS, Some(REVIEW), message)
                    }
                });
            }
            if let Some(pods) = &realm.pods {
                found.push(match pods.probe().await {
                    Ok(()) => finding(LISTS, None, "the API server lists pods".to_owned()),
                    Err(why) => {
                        let message = format!("the API server lists no pods: {why}");
                        finding(LISTS, Some(AWAY), message)
                    }
                });
            }
            found
        });
        let found: Vec<Vec<_>> = futures_util::future::join_all(each).await;
        found.into_iter().flatten().collect()
    }
}

fn counted(keys: usize) -> String {
    format!("{keys} {}", if keys == 1 { "key" } else { "keys" })
}
