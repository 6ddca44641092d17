//! Certificates for workloads, in batches: keys and CSRs are made, the authority is
//! called, and what it answers is verified before anybody may use it. Nothing is decided
//! here about when, and nothing is kept.

use crate::attest::{LocalProcess, PodUid, ServiceAccountToken};
use crate::authority::{CallFailure, Link};
use crate::wire;
use arx_identity::{
    CertChain, KeyAlgorithm, KeyError, PrivateKey, Sequence, Serial, Svid, TrustBundle,
    VerifiedPeer, VerifyError, crypto, verify,
};
use arx_proto::node::v1::{
    self as proto, IssueItem, IssueRequest, IssueResult, Issued, Refusal, Urgency, issue_item,
    issue_result,
};
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// Items of one call.
pub(crate) const BATCH: usize = 50;
/// For how long the authority remembers its answer to an item, less a margin.
const REMEMBERED: Duration = Duration::from_secs(540);

/// One workload of the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct WorkloadId(pub(crate) u64);

/// What the authority is shown.
#[derive(Clone, Debug)]
pub(crate) enum Evidence {
    /// A token of the workload.
    Token(Arc<ServiceAccountToken>),
    /// The pod whose process it is.
    Pod(PodUid),
    /// What the kernel says about its process.
    Local(LocalProcess),
}

/// One certificate that is wanted.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) workload: WorkloadId,
    pub(crate) evidence: Evidence,
    /// The certificate that it replaces.
    pub(crate) replaces: Option<(Serial, SystemTime)>,
    /// From an attempt whose answer got lost.
    pub(crate) prepared: Option<Prepared>,
}

/// A key with its request. Asked again, the authority gives the answer that it gave.
#[derive(Debug)]
pub(crate) struct Prepared {
    idempotency_key: [u8; 16],
    key: Arc<PrivateKey>,
    csr: Bytes,
    made: Instant,
    /// How many inventories had been sent when it was asked for first.
    inventories: u64,
}

impl Prepared {
    /// The same again while the authority knows it, and else what `make` makes: an idempotency
    /// key, a request, and the key that it is for.
    pub(crate) fn again<E>(
        before: Option<Self>,
        terms: &Terms,
        make: impl FnOnce() -> Result<([u8; 16], Bytes, Arc<PrivateKey>), E>,
    ) -> Result<Self, E> {
        if let Some(again) = before.filter(|p| p.is_good(terms.monotonic, terms.inventories)) {
            return Ok(again);
        }
        let (idempotency_key, csr, key) = make()?;
        Ok(Self {
            idempotency_key,
            key,
            csr,
            made: terms.monotonic,
            inventories: terms.inventories,
        })
    }

    pub(crate) fn idempotency_key(&self) -> [u8; 16] {
        self.idempotency_key
    }

    pub(crate) fn inventories(&self) -> u64 {
        self.inventories
    }

    /// Whether the authority still knows it. After two inventories without the leaf it
    /// would be right to believe that the leaf never arrived.
    pub(crate) fn is_good(&self, now: Instant, inventories: u64) -> bool {
        now < self.made + REMEMBERED && inventories < self.inventories + 2
    }
}

/// What came of one of them.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// A certificate that the roots vouch for.
    Issued(Verified),
    /// A certificate that needs roots which are not here yet.
    Early {
        svid: Svid,
        needs: Sequence,
        error: VerifyError,
    },
    /// The authority said no.
    Refused(Refusal),
    /// The call failed; nothing is known about the item.
    Failed(CallFailure, Option<Prepared>),
    /// The answer can't be used.
    Unusable(String),
}

/// The outcome of one item.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) workload: WorkloadId,
    /// How many inventories had been sent when it was asked for first.
    pub(crate) inventories: u64,
    pub(crate) outcome: Outcome,
}

/// A certificate and by whom it was verified.
#[derive(Clone, Debug)]
pub(crate) struct Verified {
    pub(crate) svid: Svid,
    pub(crate) peer: VerifiedPeer,
}

/// How a batch is issued.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    pub(crate) algorithm: KeyAlgorithm,
    /// The authority's default if none.
    pub(crate) ttl: Option<Duration>,
    pub(crate) timeout: Duration,
    /// The newest that is held.
    pub(crate) bundle: Option<TrustBundle>,
    pub(crate) wall: SystemTime,
    pub(crate) monotonic: Instant,
    pub(crate) inventories: u64,
}

/// Gets certificates for a batch, each with its outcome.
pub(crate) async fn issue(link: Link, batch: Vec<Wanted>, terms: Terms) -> Vec<Answer> {
    let ids: Vec<_> = batch.iter().map(|wanted| wanted.workload).collect();
    let inventories = terms.inventories;
    let all = |outcome: &dyn Fn() -> Outcome| {
        let each = |id: &WorkloadId| Answer {
            workload: *id,
            inventories,
            outcome: outcome(),
        };
        ids.iter().map(each).collect::<Vec<_>>()
    };
    let broken = || Outcome::Failed(CallFailure::lost(), None);
    let made = {
        let terms = terms.clone();
        tokio::task::spawn_blocking(move || prepare(batch, &terms))
    };
    let (prepared, items) = match made.await {
        Ok(Ok(made)) => made,
        Ok(Err(error)) => {
            return all(&|| Outcome::Unusable(format!("no key could be made: {error}")));
        }
        Err(_) => return all(&broken),
    };
    let Some(mut client) = link.client() else {
        return failed(prepared, &CallFailure::lost());
    };
    let call = client.issue(IssueRequest { items });
    let results = match tokio::time::timeout(terms.timeout, call).await {
        Ok(Ok(answer)) => {
            let results = wire::results(answer.into_inner());
            link.answered(Ok(&results));
            results
        }
        Ok(Err(status)) => {
            let failure = CallFailure::from(status);
            link.answered(Err(&failure));
            if failure.refuses_the_node() {
                link.node_was_refused();
            }
            return failed(prepared, &failure);
        }
        Err(_) => {
            let failure = CallFailure::timeout(terms.timeout);
            link.answered(Err(&failure));
            return failed(prepared, &failure);
        }
    };
    // Verifying 50 chains takes some ten milliseconds.
    let judged = tokio::task::spawn_blocking(move || judge_all(prepared, results, &terms));
    match judged.await {
        Ok(outcomes) => outcomes,
        Err(_) => all(&broken),
    }
}

fn failed(prepared: Vec<(WorkloadId, Prepared)>, failure: &CallFailure) -> Vec<Answer> {
    let each = |(workload, prepared): (WorkloadId, Prepared)| Answer {
        workload,
        inventories: prepared.inventories,
        outcome: Outcome::Failed(failure.clone(), Some(prepared)),
    };
    prepared.into_iter().map(each).collect()
}

type PreparedBatch = (Vec<(WorkloadId, Prepared)>, Vec<IssueItem>);

fn prepare(batch: Vec<Wanted>, terms: &Terms) -> Result<PreparedBatch, KeyError> {
    let mut prepared = Vec::with_capacity(batch.len());
    let mut items = Vec::with_capacity(batch.len());
    for wanted in batch {
        let this = Prepared::again(wanted.prepared, terms, || {
            let key = PrivateKey::generate(terms.algorithm)?;
            let csr = key.create_csr()?;
            Ok::<_, KeyError>((crypto::random(), csr.into(), Arc::new(key)))
        })?;
        let urgency = match wanted.replaces {
            Some(_) => Urgency::Renewal,
            None => Urgency::Start,
        };
        items.push(IssueItem {
            idempotency_key: Bytes::copy_from_slice(&this.idempotency_key),
            csr: this.csr.clone(),
            evidence: Some((&wanted.evidence).into()),
            ttl_seconds: terms
                .ttl
                .map_or(0, |ttl| u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX)),
            urgency: urgency.into(),
            current_not_after_unix_ms: wanted
                .replaces
                .as_ref()
                .map_or(0, |(_, not_after)| wire::unix_ms(*not_after)),
            replaces_serial: wanted
                .replaces
                .map(|(serial, _)| Bytes::copy_from_slice(serial.as_bytes()))
                .unwrap_or_default(),
            trace_id: Bytes::new(),
        });
        prepared.push((wanted.workload, this));
    }
    Ok((prepared, items))
}

impl From<&Evidence> for issue_item::Evidence {
    fn from(evidence: &Evidence) -> Self {
        match evidence {
            Evidence::Token(token) => Self::ServiceAccountToken(token.secret().to_owned()),
            Evidence::Pod(uid) => Self::PodUid(uid.as_str().to_owned()),
            Evidence::Local(process) => Self::Local(proto::LocalProcess {
                uid: process.uid,
                gid: process.gid,
                executable: process.executable.clone(),
                executable_sha256: process
                    .executable_sha256
                    .map(|hash| Bytes::copy_from_slice(&hash))
                    .unwrap_or_default(),
            }),
        }
    }
}

fn judge_all(
    prepared: Vec<(WorkloadId, Prepared)>,
    results: Vec<IssueResult>,
    terms: &Terms,
) -> Vec<Answer> {
    let mut by_key: HashMap<Bytes, issue_result::Outcome> = results
        .into_iter()
        .filter_map(|result| Some((result.idempotency_key, result.outcome?)))
        .collect();
    let mut before = None;
    let each = |(workload, prepared): (WorkloadId, Prepared)| {
        let inventories = prepared.inventories;
        let outcome = match by_key.remove(prepared.idempotency_key.as_slice()) {
            Some(issue_result::Outcome::Issued(issued)) => {
                let bundle = terms.bundle.as_ref();
                judge(&issued, prepared.key, &mut before, bundle, terms.wall)
            }
            Some(issue_result::Outcome::Refused(refusal)) => Outcome::Refused(refusal),
            None => Outcome::Unusable("the authority's answer does not mention it".to_owned()),
        };
        Answer {
            workload,
            inventories,
            outcome,
        }
    };
    prepared.into_iter().map(each).collect()
}

/// Whether a new certificate may replace the old one. It shares its issuers with the one
/// that was judged before it.
fn judge(
    issued: &Issued,
    key: Arc<PrivateKey>,
    before: &mut Option<CertChain>,
    bundle: Option<&TrustBundle>,
    now: SystemTime,
) -> Outcome {
    let chain = issued.chain.iter().map(|der| der.as_ref());
    let svid = match CertChain::from_der_list_like(chain, before.as_ref()) {
        Ok(chain) => match Svid::new(before.insert(chain).clone(), key) {
            Ok(svid) => svid,
            Err(error) => return Outcome::Unusable(error.to_string()),
        },
        Err(error) => return Outcome::Unusable(error.to_string()),
    };
    if svid.spiffe_id().as_str() != issued.spiffe_id {
        return Outcome::Unusable("it is for another id than the answer says".to_owned());
    }
    if svid.spiffe_id().path().starts_with("/arx/") {
        return Outcome::Unusable("its id is reserved for Arx itself".to_owned());
    }
    let needs = issued.bundle_sequence.map(|sequence| Sequence {
        epoch: sequence.epoch,
        number: sequence.number,
    });
    vouch(svid, needs, bundle, now)
}

/// Whether roots vouch for a certificate that needs those of a sequence.
pub(crate) fn vouch(
    svid: Svid,
    needs: Option<Sequence>,
    bundle: Option<&TrustBundle>,
    now: SystemTime,
) -> Outcome {
    let Some(bundle) = bundle else {
        return Outcome::Unusable("there are no roots to verify it with".to_owned());
    };
    match (verify(svid.chain(), bundle, now), needs) {
        (Ok(peer), _) => Outcome::Issued(Verified { svid, peer }),
        (Err(error), Some(needs)) if needs > bundle.sequence() => {
            Outcome::Early { svid, needs, error }
        }
        (Err(error), _) => Outcome::Unusable(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Authority, id, noon};
    use arx_identity::SpiffeId;

    const HOUR: Duration = Duration::from_secs(3600);

    fn key() -> Arc<PrivateKey> {
        Arc::new(PrivateKey::generate(KeyAlgorithm::EcdsaP256).expect("a key"))
    }

    fn issued(authority: &Authority, key: &PrivateKey, id: &SpiffeId) -> Issued {
        let chain = authority.issue(key.public_key(), id, noon(), HOUR);
        let der = |c: &arx_identity::Certificate| Bytes::copy_from_slice(c.der());
        Issued {
            spiffe_id: id.to_string(),
            chain: chain.certificates().iter().map(der).collect(),
            bundle_sequence: Some(proto::Sequence {
                epoch: 1,
                number: 2,
            }),
        }
    }

    #[test]
    fn a_certificate_replaces_another_only_if_everything_about_it_is_right() {
        let (authority, other) = (Authority::new(), Authority::new());
        let key = key();
        let good = issued(&authority, &key, &id("/a"));
        let bundle = authority.bundle(2);
        let judge = |issued: &Issued, key: &Arc<PrivateKey>, bundle: Option<&TrustBundle>, now| {
            judge(issued, Arc::clone(key), &mut None, bundle, now)
        };
        assert!(matches!(
            judge(&good, &key, Some(&bundle), noon()),
            Outcome::Issued(_)
        ));

        let unusable = |outcome: Outcome| matches!(outcome, Outcome::Unusable(_));
        assert!(
            unusable(judge(&good, &self::key(), Some(&bundle), noon())),
            "another key"
        );
        assert!(unusable(judge(&good, &key, None, noon())), "no roots");
        assert!(
            unusable(judge(&good, &key, Some(&bundle), noon() + 2 * HOUR)),
            "expired"
        );
        assert!(
            unusable(judge(&good, &key, Some(&other.bundle(2)), noon())),
            "other roots"
        );
        let reserved = issued(&authority, &key, &id("/arx/ca"));
        assert!(
            unusable(judge(&reserved, &key, Some(&bundle), noon())),
            "reserved"
        );
        let renamed = Issued {
            spiffe_id: id("/b").to_string(),
            ..good.clone()
        };
        assert!(
            unusable(judge(&renamed, &key, Some(&bundle), noon())),
            "another id"
        );
        let cut = Issued {
            chain: good.chain[..1].to_vec(),
            ..good.clone()
        };
        assert!(
            unusable(judge(&cut, &key, Some(&bundle), noon())),
            "no intermediate"
        );
    }

    #[test]
    fn a_certificate_that_is_ahead_of_the_roots_is_kept_for_later() {
        let (old, new) = (Authority::new(), Authority::new());
        let key = key();
        let early = issued(&new, &key, &id("/a"));
        let outcome = judge(&early, key, &mut None, Some(&old.bundle(1)), noon());
        assert!(matches!(outcome, Outcome::Early { needs, .. } if needs.number == 2));
    }

    #[test]
    fn a_request_is_repeated_only_while_the_answer_is_certainly_known() {
        let start = Instant::now();
        let key = key();
        let prepared = Prepared {
            idempotency_key: [1; 16],
            csr: Bytes::new(),
            key,
            made: start,
            inventories: 5,
        };
        assert!(prepared.is_good(start, 6));
        assert!(
            !prepared.is_good(start, 7),
            "two inventories without the leaf"
        );
        assert!(!prepared.is_good(start + REMEMBERED, 5));
    }
}
