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
use jws::{Compact, Header};
use keys::{Keys, Snapshot};
use review::{Failed, Reviewed, Reviewer};
use source::Source;

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
    /// Its own name (`jti`).
    pub jti: Option<String>,
    /// What stands for it in logs.
    pub token_id: TokenId,
    /// The audience by which it was accepted.
    pub audience: String,
    /// What it was verified for.
    pub purpose: Purpose,
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

/// One cluster.
struct Realm {
    name: Arc<str>,
    issuer: String,
    workload: Vec<String>,
    join: Vec<String>,
    allow_unbound: bool,
    allow_extended: bool,
    verifier: Verifier,
}

enum Verifier {
    Local(Arc<Keys>),
    Review(Reviewer),
}

/// How far a token gets without waiting for anything.
enum Outcome {
    Done(Verified),
    /// No key with this name is at hand.
    KeyMissing,
    /// The API server is to be asked.
    Review,
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
            let verifier = match cluster.verification {
                Verification::Local => Source::of(cluster)
                    .map(|source| Verifier::Local(Self::keys(cluster, source, clock, before))),
                Verification::Review => Reviewer::of(cluster).await.map(Verifier::Review),
            };
            let verifier = verifier.map_err(|reason| SourceError {
                cluster: cluster.name.clone(),
                reason,
            })?;
            if let Verifier::Local(keys) = &verifier
                && keys.source().is_file()
            {
                keys.refetch_at_once().await;
            }
            realms.push(Realm::new(cluster, verifier));
        }
        Ok(Self {
            inner: Arc::new(Inner {
                realms,
                clock: clock.clone(),
            }),
        })
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
            .filter_map(|realm| match &realm.verifier {
                Verifier::Local(keys) => Some((realm, keys)),
                Verifier::Review(_) => None,
            })
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
            let (header, claims) = (compact.header()?, compact.claims()?);
            let realms = self.candidates(&claims, cluster)?;
            judge(&realms, &compact, &header, &claims, purpose, token, now)
        });
        match judged {
            Ok(Outcome::Done(verified)) => Some(Ok(verified)),
            Ok(Outcome::KeyMissing | Outcome::Review) => None,
            Err(refused) => Some(Err(refused)),
        }
    }

    async fn verify_with_help(
        &self,
        token: Token<'_>,
        purpose: Purpose,
        cluster: Option<&str>,
    ) -> Result<Verified, Refused> {
        let now = self.inner.clock.now();
        let compact = token.open()?;
        let (header, claims) = (compact.header()?, compact.claims()?);
        let realms = self.candidates(&claims, cluster)?;
        if let [realm] = realms.as_slice()
            && let Verifier::Review(reviewer) = &realm.verifier
        {
            return realm.review(reviewer, token, &claims, purpose, now).await;
        }
        let fetches = realms
            .iter()
            .filter_map(|realm| realm.keys())
            .map(|keys| keys.refetch());
        futures_util::future::join_all(fetches).await;
        match judge(&realms, &compact, &header, &claims, purpose, token, now)? {
            Outcome::Done(verified) => Ok(verified),
            Outcome::KeyMissing | Outcome::Review => Err(key_missing(&realms)),
        }
    }

    /// The clusters that a token may be of, by its issuer, which nothing has proved yet.
    fn candidates(
        &self,
        claims: &Claims<'_>,
        cluster: Option<&str>,
    ) -> Result<Vec<&Realm>, Refused> {
        let realms = &self.inner.realms;
        let Some(name) = cluster else {
            let found: Vec<_> = realms.iter().filter(|it| it.issuer == claims.iss).collect();
            return if found.is_empty() {
                Err(Refused::Issuer(Where::Anywhere))
            } else {
                Ok(found)
            };
        };
        let realm = realms
            .iter()
            .find(|realm| *realm.name == *name)
            .ok_or(Refused::Cluster)?;
        if realm.issuer == claims.iss {
            Ok(vec![realm])
        } else {
            Err(Refused::Issuer(Where::Cluster(realm.name.clone())))
        }
    }
}

/// Verifies with what is in memory.
fn judge(
    realms: &[&Realm],
    compact: &Compact<'_>,
    header: &Header,
    claims: &Claims<'_>,
    purpose: Purpose,
    token: Token<'_>,
    now: SystemTime,
) -> Result<Outcome, Refused> {
    let mut holder: Option<(&Realm, Arc<Snapshot>)> = None;
    for realm in realms {
        let Some(keys) = realm.keys() else {
            return realm.accept(claims, purpose, now).map(|_| Outcome::Review);
        };
        if let Some(snapshot) = keys.current()
            && snapshot.set.named(&header.kid).next().is_some()
        {
            // Clusters are told apart by their keys alone where they share an issuer.
            if holder.replace((realm, snapshot)).is_some() {
                return Err(Refused::Cluster);
            }
        }
    }
    let Some((realm, snapshot)) = holder else {
        return Ok(Outcome::KeyMissing);
    };
    let mut fitting = snapshot
        .set
        .named(&header.kid)
        .filter(|key| key.algorithm() == header.algorithm)
        .peekable();
    if fitting.peek().is_none() {
        return Err(Refused::Algorithm);
    }
    if !fitting.any(|key| key.verify(compact.signed, &compact.signature)) {
        return Err(Refused::Signature(realm.name.clone()));
    }
    let audience = realm.accept(claims, purpose, now)?;
    let (pod, node) = (
        claims.kubernetes.pod.clone(),
        claims.kubernetes.node.clone(),
    );
    realm.check_bound(pod.as_ref())?;
    Ok(Outcome::Done(realm.verified(
        claims,
        token,
        audience.clone(),
        purpose,
        pod,
        node,
    )))
}

/// Why a key is missing that was just looked for.
fn key_missing(realms: &[&Realm]) -> Refused {
    for realm in realms {
        let Some(keys) = realm.keys() else { continue };
        // With a failed fetch the key may well be there: nothing is known against the token.
        let why = match (keys.failure(), keys.current()) {
            (Some(why), _) => why,
            (None, None) => "they have not been read yet".into(),
            (None, Some(_)) => continue,
        };
        return Refused::KeysUnavailable {
            cluster: realm.name.clone(),
            why,
        };
    }
    let names: Vec<&str> = realms.iter().map(|realm| &*realm.name).collect();
    Refused::UnknownKey(names.join(" or ").into())
}

impl Realm {
    fn new(cluster: &Cluster, verifier: Verifier) -> Self {
        Self {
            name: cluster.name.as_str().into(),
            issuer: cluster.issuer.clone(),
            workload: cluster.audiences.clone(),
            join: cluster
                .audiences
                .iter()
                .map(|audience| format!("{audience}{}", config::JOIN_SUFFIX))
                .collect(),
            allow_unbound: cluster.allow_unbound,
            allow_extended: cluster.allow_extended,
            verifier,
        }
    }

    fn keys(&self) -> Option<&Arc<Keys>> {
        match &self.verifier {
            Verifier::Local(keys) => Some(keys),
            Verifier::Review(_) => None,
        }
    }

    fn audiences(&self, purpose: Purpose) -> &[String] {
        match purpose {
            Purpose::Join => &self.join,
            Purpose::Workload => &self.workload,
        }
    }

    /// Judges the claims, whose signature is another matter; the audience that fits.
    fn accept(
        &self,
        claims: &Claims<'_>,
        purpose: Purpose,
        now: SystemTime,
    ) -> Result<&String, Refused> {
        claims.check_time(now)?;
        let audience = claims
            .aud
            .first_of(self.audiences(purpose))
            .ok_or_else(|| {
                if claims
                    .aud
                    .first_of(self.audiences(purpose.other()))
                    .is_some()
                {
                    Refused::Purpose { wanted: purpose }
                } else {
                    Refused::Audience(self.name.clone())
                }
            })?;
        claims.check_subject()?;
        if claims.kubernetes.warnafter.is_some() && !self.allow_extended {
            return Err(Refused::Extended(self.name.clone()));
        }
        Ok(audience)
    }

    fn check_bound(&self, pod: Option<&Bound>) -> Result<(), Refused> {
        if pod.is_none() && !self.allow_unbound {
            return Err(Refused::Unbound(self.name.clone()));
        }
        Ok(())
    }

    async fn review(
        &self,
        reviewer: &Reviewer,
        token: Token<'_>,
        claims: &Claims<'_>,
        purpose: Purpose,
        now: SystemTime,
    ) -> Result<Verified, Refused> {
        // What can be told without the API server need not be asked of it.
        self.accept(claims, purpose, now)?;
        let refused = |why| Refused::ReviewRefused {
            cluster: self.name.clone(),
            why,
        };
        let Reviewed {
            username,
            uid,
            audience,
            pod,
            node,
        } = reviewer
            .review(token, self.audiences(purpose))
            .await
            .map_err(|failed| match failed {
                Failed::Refused(why) => refused(why),
                Failed::Unavailable(why) => Refused::ReviewUnavailable {
                    cluster: self.name.clone(),
                    why: why.into(),
                },
            })?;
        if username != claims.sub
            || uid.is_some_and(|uid| uid != claims.kubernetes.serviceaccount.uid)
        {
            return Err(refused("the answer is about another service account"));
        }
        // Claims and answer are by the same API server; where both speak they must agree.
        let agreed = |answer: Option<Bound>, claim: &Option<Bound>| match (answer, claim) {
            (Some(answer), Some(claim)) if answer != *claim => Err(refused(
                "the answer binds it to another pod or node than its claims",
            )),
            (answer, claim) => Ok(answer.or_else(|| claim.clone())),
        };
        let pod = agreed(pod, &claims.kubernetes.pod)?;
        let node = agreed(node, &claims.kubernetes.node)?;
        self.check_bound(pod.as_ref())?;
        Ok(self.verified(claims, token, audience, purpose, pod, node))
    }

    fn verified(
        &self,
        claims: &Claims<'_>,
        token: Token<'_>,
        audience: String,
        purpose: Purpose,
        pod: Option<Bound>,
        node: Option<Bound>,
    ) -> Verified {
        Verified {
            cluster: self.name.clone(),
            namespace: claims.kubernetes.namespace.clone().into_owned(),
            service_account: claims.kubernetes.serviceaccount.name.clone(),
            service_account_uid: claims.kubernetes.serviceaccount.uid.clone(),
            pod,
            node,
            expires: claims.expires(),
            jti: claims.jti.clone(),
            token_id: token.id(),
            audience,
            purpose,
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
