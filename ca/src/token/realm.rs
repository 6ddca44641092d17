//! One cluster's view of a token: with the keys at hand, or with its API server's answer.

use std::sync::Arc;
use std::time::SystemTime;

use super::claims::{Bound, Claims};
use super::config::{Cluster, JOIN_SUFFIX};
use super::jwks::KeySet;
use super::jws::{Compact, Header, Token};
use super::keys::Keys;
use super::review::{Failed, Reviewed, Reviewer};
use super::{Purpose, Refused, Verified};
use crate::pods::Pods;

/// A token taken apart, and what it is brought for.
pub(super) struct Case<'a> {
    token: Token<'a>,
    compact: &'a Compact<'a>,
    header: Header,
    pub(super) claims: Claims<'a>,
    purpose: Purpose,
    now: SystemTime,
}

impl<'a> Case<'a> {
    pub(super) fn open(
        token: Token<'a>,
        compact: &'a Compact<'a>,
        purpose: Purpose,
        now: SystemTime,
    ) -> Result<Self, Refused> {
        Ok(Self {
            token,
            header: compact.header()?,
            claims: compact.claims()?,
            compact,
            purpose,
            now,
        })
    }
}

/// One cluster.
pub(super) struct Realm {
    pub(super) name: Arc<str>,
    pub(super) issuer: String,
    workload: Vec<String>,
    join: Vec<String>,
    pub(super) options: Cluster,
    pub(super) verifier: Verifier,
    /// Which pods there are, where they are watched.
    pub(super) pods: Option<Arc<Pods>>,
}

pub(super) enum Verifier {
    Local(Arc<Keys>),
    Review(Reviewer),
    /// Tokens for joining are reviewed, and others verified with keys.
    LocalThenReview(Arc<Keys>, Reviewer),
}

/// How far a token can be judged with what is in memory.
pub(super) enum Verdict<'r> {
    Proved(Verified),
    /// So it is if its pod is there, which is not known yet.
    OfPod(&'r Realm, Verified),
    /// A key has to be fetched or a review made.
    Unknown,
}

/// Verifies with what is in memory.
pub(super) fn judge<'r>(realm: &'r Realm, case: &Case<'_>) -> Result<Verdict<'r>, Refused> {
    let Some(keys) = realm.keys(case.purpose) else {
        // What can be told without the API server need not be asked of it.
        return realm.accept(case).map(|_| Verdict::Unknown);
    };
    let Some(snapshot) = keys.current() else {
        return Ok(Verdict::Unknown);
    };
    match verify(&snapshot.set, case) {
        None => return Ok(Verdict::Unknown),
        Some(Ok(())) => {}
        Some(Err(NotSigned::Algorithm)) => return Err(Refused::Algorithm),
        Some(Err(NotSigned::Signature)) => return Err(Refused::Signature(realm.name.clone())),
    }
    let audience = realm.accept(case)?.clone();
    let kubernetes = &case.claims.kubernetes;
    let (pod, node) = (kubernetes.pod.clone(), kubernetes.node.clone());
    let verified = realm.verified(case, audience, pod, node)?;
    match realm.pod_is_there(&verified) {
        Some(Ok(())) => Ok(Verdict::Proved(verified)),
        Some(Err(refused)) => Err(refused),
        None => Ok(Verdict::OfPod(realm, verified)),
    }
}

enum NotSigned {
    /// The key is not for the algorithm that the header names.
    Algorithm,
    /// The signature is not the key's.
    Signature,
}

/// Whether one of the keys that the token names has signed it; `None` if there is no such
/// key.
fn verify(set: &KeySet, case: &Case<'_>) -> Option<Result<(), NotSigned>> {
    let mut result = None;
    for key in set.named(&case.header.kid) {
        if key.algorithm() != case.header.algorithm {
            result.get_or_insert(NotSigned::Algorithm);
        } else if key.verify(case.compact.signed, &case.compact.signature) {
            return Some(Ok(()));
        } else {
            result = Some(NotSigned::Signature);
        }
    }
    result.map(Err)
}

/// Why a key is missing that was just looked for.
pub(super) fn key_missing(realm: &Realm, purpose: Purpose) -> Refused {
    let cluster = realm.name.clone();
    let keys = realm.keys(purpose);
    // With a failed fetch the key may well be there: nothing is known against the token.
    match keys.map(|keys| (keys.failure(), keys.current())) {
        Some((Some(why), _)) => Refused::KeysUnavailable { cluster, why },
        Some((None, None)) => Refused::KeysUnavailable {
            cluster,
            why: "they have not been read yet".into(),
        },
        Some((None, Some(_))) | None => Refused::UnknownKey(cluster),
    }
}

impl Realm {
    pub(super) fn new(cluster: &Cluster, verifier: Verifier, pods: Option<Arc<Pods>>) -> Self {
        Self {
            name: cluster.name.as_str().into(),
            issuer: cluster.issuer.clone(),
            workload: cluster.audiences.clone(),
            join: cluster
                .audiences
                .iter()
                .map(|audience| format!("{audience}{}", JOIN_SUFFIX))
                .collect(),
            options: cluster.clone(),
            verifier,
            pods,
        }
    }

    /// What tokens for this purpose are verified with, if not by review.
    pub(super) fn keys(&self, purpose: Purpose) -> Option<&Arc<Keys>> {
        match (&self.verifier, purpose) {
            (Verifier::Review(_), _) | (Verifier::LocalThenReview(..), Purpose::Join) => None,
            (Verifier::Local(keys) | Verifier::LocalThenReview(keys, _), _) => Some(keys),
        }
    }

    /// Who reviews tokens for this purpose, if they are reviewed.
    pub(super) fn reviewer(&self, purpose: Purpose) -> Option<&Reviewer> {
        match (&self.verifier, purpose) {
            (Verifier::Review(reviewer), _)
            | (Verifier::LocalThenReview(_, reviewer), Purpose::Join) => Some(reviewer),
            (Verifier::Local(_) | Verifier::LocalThenReview(..), _) => None,
        }
    }

    /// Whether the pod of a token is there, by what is in memory; `None` if that is not known.
    fn pod_is_there(&self, verified: &Verified) -> Option<Result<(), Refused>> {
        match (&self.pods, verified.pod_claim()) {
            (Some(pods), Some(claim)) => pods.judge(&claim),
            _ => Some(Ok(())),
        }
    }

    /// The same by the API server's word.
    pub(super) async fn ask_for_pod(&self, verified: Verified) -> Result<Verified, Refused> {
        if let (Some(pods), Some(claim)) = (&self.pods, verified.pod_claim()) {
            pods.ask(&claim).await?;
        }
        Ok(verified)
    }

    pub(super) fn audiences(&self, purpose: Purpose) -> &[String] {
        match purpose {
            Purpose::Join => &self.join,
            Purpose::Workload => &self.workload,
        }
    }

    /// Judges the claims, whose signature is another matter; the audience that fits.
    fn accept(&self, case: &Case<'_>) -> Result<&String, Refused> {
        let (claims, purpose) = (&case.claims, case.purpose);
        claims.check_time(case.now)?;
        let first_for = |purpose| claims.aud.first_of(self.audiences(purpose));
        let audience = first_for(purpose).ok_or_else(|| {
            if first_for(purpose.other()).is_some() {
                Refused::Purpose { wanted: purpose }
            } else {
                Refused::Audience(self.name.clone())
            }
        })?;
        claims.check_subject()?;
        if claims.kubernetes.warnafter.is_some() && !self.options.allow_extended {
            return Err(Refused::Extended(self.name.clone()));
        }
        Ok(audience)
    }

    /// What a token says, if one of the keys at hand has signed it.
    pub(super) fn signed(&self, case: &Case<'_>) -> Option<Verified> {
        let snapshot = self.keys(case.purpose)?.current()?;
        let signed = verify(&snapshot.set, case).is_some_and(|it| it.is_ok());
        let bound = &case.claims.kubernetes;
        signed
            .then(|| self.verified(case, String::new(), bound.pod.clone(), bound.node.clone()))?
            .ok()
    }

    /// Has the API server judge the token.
    pub(super) async fn review(
        &self,
        reviewer: &Reviewer,
        case: &Case<'_>,
    ) -> Result<Verified, Refused> {
        self.accept(case)?;
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
            .review(case.token, self.audiences(case.purpose))
            .await
            .map_err(|failed| match failed {
                Failed::Refused(why) => refused(why),
                Failed::Unavailable(why) => Refused::ReviewUnavailable {
                    cluster: self.name.clone(),
                    why: why.into(),
                },
            })?;
        let kubernetes = &case.claims.kubernetes;
        if username != case.claims.sub
            || uid.is_some_and(|uid| uid != kubernetes.serviceaccount.uid)
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
        let pod = agreed(pod, &kubernetes.pod)?;
        let node = agreed(node, &kubernetes.node)?;
        let verified = self.verified(case, audience, pod, node)?;
        // Of a pod that was not heard of yet the API server has just said that it is there.
        self.pod_is_there(&verified)
            .unwrap_or(Ok(()))
            .map(|()| verified)
    }

    /// What is proved, unless the token is bound to too little.
    fn verified(
        &self,
        case: &Case<'_>,
        audience: String,
        pod: Option<Bound>,
        node: Option<Bound>,
    ) -> Result<Verified, Refused> {
        if pod.is_none() && !self.options.allow_unbound {
            return Err(Refused::Unbound(self.name.clone()));
        }
        let claims = &case.claims;
        Ok(Verified {
            cluster: self.name.clone(),
            namespace: claims.kubernetes.namespace.clone().into_owned(),
            service_account: claims.kubernetes.serviceaccount.name.clone(),
            service_account_uid: claims.kubernetes.serviceaccount.uid.clone(),
            pod,
            node,
            expires: claims.expires(),
            issued: claims.issued(),
            jti: claims.jti.clone(),
            token_id: case.token.id(),
            audience,
            purpose: case.purpose,
        })
    }
}
