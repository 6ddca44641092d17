//! Kubernetes service-account tokens: whether one proves what it says, for which cluster
//! and which use. Verification with keys at hand is synchronous and touches nothing but
//! memory; the token itself is in no log and no error.
//!
//! What is checked, in this order: size, compact form, header (RFC 7515; the key decides
//! the algorithm), issuer, key, signature, times with [`SKEW`] of tolerance, audience by
//! [`Purpose`], subject, binding to a pod, lifetime.

mod claims;
mod config;
mod jwks;
mod jws;
mod keys;
mod realm;
mod refused;
mod review;
mod source;
#[cfg(test)]
mod tests;
mod watch;

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use arx_daemon::Clock;

use claims::Claims;
use keys::Keys;
use realm::{Case, Realm, Verdict, Verifier, judge, key_missing};
use review::Reviewer;
use source::Source;

use crate::pods::{Api, Claim, Found, Pods, Unproved};

pub use claims::{Bound, SKEW};
pub(crate) use config::is_segment;
pub use config::{Cluster, Verification, problems};
pub use jws::{Token, TokenId};
pub use refused::{Refused, SourceError, Where};
pub use watch::{ClusterHealth, Finding};

/// What a token is brought for. Each has audiences of its own, so that no workload's token
/// can join a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// A node agent joins: `<audience>/join`.
    Join,
    /// A workload's identity: `<audience>`.
    Workload,
}

impl Purpose {
    fn other(self) -> Self {
        match self {
            Self::Join => Self::Workload,
            Self::Workload => Self::Join,
        }
    }

    fn audience_form(self) -> &'static str {
        match self {
            Self::Join => "<audience>/join",
            Self::Workload => "<audience>, without /join",
        }
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Join => "joining",
            Self::Workload => "workloads",
        })
    }
}

/// What a token proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The cluster that issued it, by its name in the configuration.
    pub cluster: Arc<str>,
    /// Namespace of the service account.
    pub namespace: String,
    /// Name of the service account.
    pub service_account: String,
    /// Its UID.
    pub service_account_uid: String,
    /// The pod that it is bound to.
    pub pod: Option<Bound>,
    /// The node that this pod runs on.
    pub node: Option<Bound>,
    /// End of its validity.
    pub expires: SystemTime,
    /// When it was issued, the epoch if it does not say.
    pub issued: SystemTime,
    /// Its own name (`jti`).
    pub jti: Option<String>,
    /// What stands for it in logs.
    pub token_id: TokenId,
    /// The audience by which it was accepted.
    pub audience: String,
    /// What it was verified for.
    pub purpose: Purpose,
}

/// A service account of some cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
}

impl Verified {
    /// Whose token it is.
    #[must_use]
    pub fn account(&self) -> Account<'_> {
        Account {
            namespace: &self.namespace,
            name: &self.service_account,
        }
    }

    /// What it says of its pod, if it is bound to one.
    fn pod_claim(&self) -> Option<Claim<'_>> {
        let pod = self.pod.as_ref()?;
        Some(Claim {
            uid: &pod.uid,
            namespace: &self.namespace,
            name: &pod.name,
            account: &self.service_account,
            node: self.node.as_ref().map(|node| node.name.as_str()),
        })
    }
}

/// All that is needed to verify tokens. Clones are the same.
#[derive(Clone)]
pub struct Tokens {
    inner: Arc<Inner>,
}

struct Inner {
    realms: Vec<Realm>,
    clock: Clock,
}

impl Tokens {
    /// Verification for these clusters. Reads key files, fetches nothing; a file that can't
    /// be read is a matter of [`Tokens::health`].
    ///
    /// # Errors
    /// If a source can't be used as it is configured; what [`problems`] accepts can, except
    /// for a kubeconfig that doesn't parse or the absence of a cluster around the process.
    pub async fn new(clusters: &[Cluster], clock: &Clock) -> Result<Self, SourceError> {
        Self::build(clusters, clock, None).await
    }

    /// The same for a new configuration. Keys at hand are kept where their source is the
    /// same; files are read again. Tasks that run [`Tokens::keep`] are to be replaced.
    ///
    /// # Errors
    /// As [`Tokens::new`].
    pub async fn reloaded(&self, clusters: &[Cluster]) -> Result<Self, SourceError> {
        Self::build(clusters, &self.inner.clock, Some(self)).await
    }

    async fn build(
        clusters: &[Cluster],
        clock: &Clock,
        before: Option<&Self>,
    ) -> Result<Self, SourceError> {
        let mut realms = Vec::with_capacity(clusters.len());
        for cluster in clusters {
            let realm = Self::realm(cluster, clock, before).await;
            let realm = realm.map_err(|reason| SourceError {
                cluster: cluster.name.clone(),
                reason,
            })?;
            if let Some(keys) = realm.keys(Purpose::Workload)
                && keys.source().is_file()
            {
                keys.refetch_at_once().await;
            }
            realms.push(realm);
        }
        Ok(Self {
            inner: Arc::new(Inner {
                realms,
                clock: clock.clone(),
            }),
        })
    }

    async fn realm(
        cluster: &Cluster,
        clock: &Clock,
        before: Option<&Self>,
    ) -> Result<Realm, String> {
        let keys = || {
            let source = Source::of(cluster)?;
            Ok::<_, String>(Self::keys(cluster, source, clock, before))
        };
        let verifier = match cluster.verification {
            Verification::Local => Verifier::Local(keys()?),
            Verification::Review => Verifier::Review(Reviewer::of(cluster).await?),
            Verification::LocalThenReview => {
                Verifier::LocalThenReview(keys()?, Reviewer::of(cluster).await?)
            }
        };
        let pods = if cluster.watches_pods() {
            Some(Self::watched(cluster, clock, before).await?)
        } else {
            None
        };
        Ok(Realm::new(cluster, verifier, pods))
    }

    /// The pods of a cluster; those at hand, where they are watched in the same way.
    async fn watched(
        cluster: &Cluster,
        clock: &Clock,
        before: Option<&Self>,
    ) -> Result<Arc<Pods>, String> {
        let api = Api::of(cluster.kubeconfig.as_deref()).await?;
        let grace = cluster.pod_grace.get();
        let old = before.iter().flat_map(|before| &before.inner.realms);
        let mut old = old.filter_map(|realm| realm.pods.as_ref());
        let kept = old.find(|pods| pods.is_same_as(cluster, &api));
        Ok(kept.map(Arc::clone).unwrap_or_else(|| {
            let name = cluster.name.as_str().into();
            let labels = cluster.pod_labels.as_slice();
            let tells = cluster.pod_events;
            Arc::new(Pods::new(name, api, grace, labels, tells, clock.clone()))
        }))
    }

    fn keys(cluster: &Cluster, source: Source, clock: &Clock, before: Option<&Self>) -> Arc<Keys> {
        let keys = Keys::new(
            cluster.name.as_str().into(),
            source,
            cluster.stale_grace.get(),
            cluster.refetch_interval.get(),
            clock.clone(),
        );
        let old = before
            .iter()
            .flat_map(|before| before.local())
            .find_map(|(_, old)| old.is_same_as(&keys).then(|| old.clone()));
        old.unwrap_or_else(|| Arc::new(keys))
    }

    /// All clusters whose tokens are verified here, with their keys.
    fn local(&self) -> impl Iterator<Item = (&Realm, &Arc<Keys>)> {
        self.inner
            .realms
            .iter()
            .filter_map(|realm| Some((realm, realm.keys(Purpose::Workload)?)))
    }

    /// Verifies a token. Where the cluster of the caller is proved already, it is `cluster`,
    /// and the token must be of it. Waits for nothing where the key is at hand.
    ///
    /// # Errors
    /// Why it is not accepted; [`Refused::is_ours`] tells whether it may be later.
    pub async fn verify(
        &self,
        token: Token<'_>,
        purpose: Purpose,
        cluster: Option<&str>,
    ) -> Result<Verified, Refused> {
        match self.verify_now(token, purpose, cluster) {
            Some(judged) => judged,
            None => Box::pin(self.verify_with_help(token, purpose, cluster)).await,
        }
    }

    /// The same, if it can be told without waiting for keys or for an API server.
    #[must_use]
    pub fn verify_now(
        &self,
        token: Token<'_>,
        purpose: Purpose,
        cluster: Option<&str>,
    ) -> Option<Result<Verified, Refused>> {
        let now = self.inner.clock.now();
        let judged = token.open().and_then(|compact| {
            let case = Case::open(token, &compact, purpose, now)?;
            match judge(self.realm_of(&case.claims, cluster)?, &case)? {
                Verdict::Proved(verified) => Ok(Some(verified)),
                Verdict::OfPod(..) | Verdict::Unknown => Ok(None),
            }
        });
        judged.transpose()
    }

    async fn verify_with_help(
        &self,
        token: Token<'_>,
        purpose: Purpose,
        cluster: Option<&str>,
    ) -> Result<Verified, Refused> {
        let compact = token.open()?;
        let case = Case::open(token, &compact, purpose, self.inner.clock.now())?;
        let realm = self.realm_of(&case.claims, cluster)?;
        if let Some(reviewer) = realm.reviewer(purpose) {
            return realm.review(reviewer, &case).await;
        }
        let mut verdict = judge(realm, &case)?;
        if matches!(verdict, Verdict::Unknown) {
            if let Some(keys) = realm.keys(purpose) {
                keys.refetch().await;
            }
            verdict = judge(realm, &case)?;
        }
        match verdict {
            Verdict::Proved(verified) => Ok(verified),
            Verdict::OfPod(realm, verified) => realm.ask_for_pod(verified).await,
            Verdict::Unknown => Err(key_missing(realm, purpose)),
        }
    }

    /// The pod of this UID, if it is one that runs on this node of the cluster.
    ///
    /// # Errors
    /// Why it proves nothing.
    pub(crate) fn pod_on(&self, cluster: &str, node: &str, uid: &str) -> Result<Found, Unproved> {
        let realm = self.named(cluster);
        let pods = realm.and_then(|realm| realm.pods.as_ref());
        let pods = pods.ok_or_else(|| Unproved::Unwatched(cluster.into()))?;
        pods.on(node, uid)
    }

    /// What a token says of its pod, if a key that is at hand has signed it, whatever else is
    /// wrong with it.
    pub(crate) fn signed(&self, token: Token<'_>, cluster: &str) -> Option<Verified> {
        let compact = token.open().ok()?;
        let case = Case::open(token, &compact, Purpose::Workload, self.inner.clock.now()).ok()?;
        self.realm_of(&case.claims, Some(cluster))
            .ok()?
            .signed(&case)
    }

    /// All clusters, by name.
    pub(crate) fn clusters(&self) -> impl Iterator<Item = &Arc<str>> {
        self.inner.realms.iter().map(|realm| &realm.name)
    }

    /// All clusters as they are configured.
    pub(crate) fn configured(&self) -> impl Iterator<Item = &Cluster> {
        self.inner.realms.iter().map(|realm| &realm.options)
    }

    /// The watched pods of a cluster.
    pub(crate) fn pods_of(&self, cluster: &str) -> Option<&Arc<Pods>> {
        self.named(cluster)?.pods.as_ref()
    }

    fn named(&self, cluster: &str) -> Option<&Realm> {
        let mut realms = self.inner.realms.iter();
        realms.find(|realm| *realm.name == *cluster)
    }

    /// The cluster that a token is of by its issuer, which nothing has proved yet.
    fn realm_of(&self, claims: &Claims<'_>, cluster: Option<&str>) -> Result<&Realm, Refused> {
        let Some(name) = cluster else {
            let mut realms = self.inner.realms.iter();
            return realms
                .find(|realm| realm.issuer == claims.iss)
                .ok_or(Refused::Issuer(Where::Anywhere));
        };
        let realm = self.named(name).ok_or(Refused::Cluster)?;
        if realm.issuer == claims.iss {
            Ok(realm)
        } else {
            Err(Refused::Issuer(Where::Cluster(realm.name.clone())))
        }
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.inner.realms.iter().map(|realm| &*realm.name);
        f.write_str("Tokens")?;
        f.debug_list().entries(names).finish()
    }
}
