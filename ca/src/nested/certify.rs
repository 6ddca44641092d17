//! From a request to the certificate of an authority below: who asks, whether they may, signed by
//! the root's key or what stands for it, in the ledger before it leaves.

use std::time::{Duration, SystemTime};

use arx_daemon::clock::rfc3339;
use arx_identity::{Certificate, KeyAlgorithm, KeyId, KeyPolicy, VerifiedCsr};
use arx_proto::nested::v1 as wire;

use super::caller::Known;
use super::{Granted, Wanted, called};
use crate::authority::{AuthorityError, Below};
use crate::ca::Ca;
use crate::caller::Caller;
use crate::issue::{key_id, refused_csr};
use crate::ledger;
use crate::metrics::Kind;
use crate::refusal::{Fault, Refusal};
use crate::state::RootState;
use crate::token::Verified;

impl Ca {
    /// Certifies an authority below this one: the certificate, and its chain up to the root.
    ///
    /// # Errors
    /// [`Refusal`] if whoever asks is not allowed to, asks for more than they may have, or
    /// nothing could be signed or recorded.
    pub(super) async fn certify(
        &self,
        caller: &Caller,
        token: Option<&str>,
        request: &wire::CertifyRequest,
    ) -> Result<Vec<Certificate>, Refusal> {
        let now = self.clock.now();
        let known = Known::find(self, caller, token, now).await?;
        let outcome = self.certify_known(&known, request, now).await;
        if let Err(refusal) = &outcome {
            tracing::warn!(code = refusal.code, id = %known.id, reason = %refusal.message, "an authority below was refused");
            let refused = ledger::Refused {
                who: known.id.as_str().to_owned(),
                cluster: known.node.cluster.to_string(),
                node: known.node.node.to_string(),
                code: refusal.code.to_owned(),
                message: refusal.message.clone(),
                ..ledger::Refused::default()
            };
            // The refusal stands, whether or not it can be recorded.
            let _unrecorded = self
                .ledger
                .append(vec![ledger::Record::new(now, refused)])
                .await;
        }
        outcome
    }

    async fn certify_known(
        &self,
        known: &Known,
        request: &wire::CertifyRequest,
        now: SystemTime,
    ) -> Result<Vec<Certificate>, Refusal> {
        let Granted {
            name,
            path_length,
            ttl,
        } = self.rules.get().nested.decide(
            &known.id,
            &self.trust_domain,
            &Wanted {
                trust_domain: &request.trust_domain,
                path_length: request.path_length,
                ttl: (request.ttl_seconds > 0)
                    .then(|| Duration::from_secs(request.ttl_seconds.into())),
            },
        )?;
        // An adoption waits for those below, who have to follow it.
        self.restore.lets_rotate()?;
        let account = known.account.as_ref().map(Verified::account);
        self.not_denied(&known.id, &known.node, account, now)?;
        self.nested.count(&known.id, self.clock.monotonic())?;
        let called = called(&name);
        self.may_begin(&called).await?;
        let keys = KeyPolicy::allow([
            KeyAlgorithm::EcdsaP256,
            KeyAlgorithm::EcdsaP384,
            KeyAlgorithm::Rsa(3072),
        ]);
        let csr = VerifiedCsr::verify(&request.csr, &keys).map_err(|error| refused_csr(&error))?;
        let root = match &request.root[..] {
            [] => None,
            bytes => Some(KeyId::from_slice(bytes).ok_or_else(|| {
                let what = "the root is named by its subject key identifier";
                Refusal::new("ARX-REQUEST-MALFORMED", Fault::Request, what)
            })?),
        };
        let below = Below {
            key: csr.public_key(),
            name: &called,
            ttl,
            path_length,
            root,
        };
        let chain = self.authority.certify_below(&below, now).await;
        let chain = chain.map_err(|error| refused(&error))?;
        let (certificate, root) = match &chain[..] {
            [certificate, .., root] => (certificate, root),
            _ => unreachable!("a certificate and its root are two"),
        };
        let registered = ledger::IntermediateRegistered {
            replica: called.clone(),
            serial: certificate.serial().as_bytes().to_vec(),
            key_id: key_id(certificate.public_key().key_id()),
            root_key_id: key_id(
                root.subject_key_id()
                    .unwrap_or_else(|| root.public_key().key_id()),
            ),
            validity: ledger::Validity {
                not_before: certificate.not_before(),
                not_after: certificate.not_after(),
            },
        };
        let on = ledger::Operator {
            who: known.id.as_str().to_owned(),
            action: "certify authority".to_owned(),
            detail: format!(
                "{called}, serial {}, until {}, path length {path_length}, on a {}",
                certificate.serial(),
                rfc3339(certificate.not_after()),
                known.evidence
            ),
        };
        let records = vec![
            ledger::Record::new(now, registered),
            ledger::Record::new(now, on),
        ];
        self.ledger.append(records).await.map_err(|error| {
            Refusal::new(
                error.code(),
                Fault::Dependency,
                format!("nothing is certified that can't be recorded: {error}"),
            )
        })?;
        // It may be denied since it asked. The ledger has it, and nobody else gets it.
        self.not_denied(&known.id, &known.node, account, self.clock.now())?;
        self.metrics.issued(Kind::Nested, 1);
        tracing::warn!(
            id = %known.id,
            name = called,
            serial = %certificate.serial(),
            until = rfc3339(certificate.not_after()),
            "an authority below was certified"
        );
        Ok(chain)
    }
}

impl Ca {
    /// Whoever was never here learns of the roots by the one that it stands under, and would not
    /// believe what still stands under one that leaves.
    async fn may_begin(&self, called: &str) -> Result<(), Refusal> {
        let stored = self.state.authorities().await.map_err(Refusal::from)?;
        let stored = stored.map(|stored| stored.value).unwrap_or_default();
        let is_known = stored.registrations.iter().any(|it| it.replica == called);
        let mut roots = stored.roots.iter();
        let leaves = roots.find(|root| root.state == RootState::Retiring);
        match leaves.filter(|_| !is_known) {
            Some(root) => Err(Refusal::new(
                "ARX-NESTED-ROTATION",
                Fault::Dependency,
                format!(
                    "{called} is new, and a rotation is under way: it can begin when {} is gone, and asks again by itself",
                    root.certificate.subject()
                ),
            )),
            None => Ok(()),
        }
    }
}

fn refused(error: &AuthorityError) -> Refusal {
    let fault = match error {
        AuthorityError::Profile(arx_identity::profile::ProfileError::PathLength) => {
            return Refusal::new(
                "ARX-NESTED-ROOM",
                Fault::Forbidden,
                "what signs here allows no authority with others below it: its own certificate needs a longer path length, or none",
            );
        }
        error if error.passes() => Fault::Dependency,
        _ => Fault::Internal,
    };
    Refusal::new(error.code(), fault, error.to_string())
}
