//! From a request to a certificate: who asks is known, what they may have is decided, the
//! CSR is verified, the leaf is signed and checked, the ledger has it, and only then it
//! leaves the house.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arx_identity::crypto::sha256;
use arx_identity::profile::{Leaf, Validity};
use arx_identity::{
    Certificate, CsrError, KeyId, KeyPolicy, Sequence, Serial, SpiffeId, VerifiedCsr,
};
use arx_proto::node::v1 as wire;
use arx_proto::node::v1::issue_result::Outcome;
use bytes::Bytes;

use crate::admission::{self, Admitted, Proof};
use crate::answers::{Answer, Claim, KEY, Known, Request, Running};
use crate::authority::{Issuing, sign_numbered_leaf};
use crate::ca::{Ca, Rules};
use crate::caller::{Node, NodeName};
use crate::fleet::{Join, Line};
use crate::ledger;
use crate::metrics::Kind;
use crate::node_api;
use crate::queue::Priority;
use crate::recent::About;
use crate::refusal::{Fault, Peer, Refusal};
use crate::restore::Said;
use crate::token::{Purpose, Token};

/// Items that are signed before others get their turn: about a millisecond.
const TURN: usize = 8;

/// An item that is to be carried out.
struct Task {
    index: usize,
    item: wire::IssueItem,
    claim: Claim,
    proof: Proof,
    priority: Priority,
}

/// A certificate that nobody has seen yet.
struct Draft {
    index: usize,
    claim: Claim,
    answer: Answer,
    serial: Serial,
    not_after: SystemTime,
    kind: Kind,
    id: SpiffeId,
    proof: Proof,
}

impl Ca {
    /// Answers a batch, each item by itself and in its place.
    pub async fn issue(
        &self,
        node: &Arc<Node>,
        items: Vec<wire::IssueItem>,
    ) -> Vec<wire::IssueResult> {
        let arrived = Instant::now();
        let announced = self.ledger.announce();
        let keys: Vec<Bytes> = items
            .iter()
            .map(|item| item.idempotency_key.clone())
            .collect();
        let mut outcomes: Vec<Option<Outcome>> = keys.iter().map(|_| None).collect();
        let mut records = Vec::new();
        let rules = self.rules.get();

        let (tasks, running) = self.admit(node, &rules, items, &mut outcomes).await;
        let drafts = self
            .sign(node, &rules, tasks, &mut outcomes, &mut records)
            .await;
        let recorded = self.record(records);
        drop(announced);
        match recorded.await {
            Ok(()) => self.release_drafts(node, drafts, &mut outcomes),
            Err(refusal) => {
                for draft in drafts {
                    outcomes[draft.index] = Some(self.refuse(&refusal));
                }
            }
        }
        // Only now, when this call's own claims are resolved.
        for (index, running) in running {
            outcomes[index] = Some(match running.outcome().await {
                Some(answer) => Outcome::Issued(issued(answer)),
                None => self.refuse(&Refusal::new(
                    "ARX-REQUEST-INTERRUPTED",
                    Fault::Dependency,
                    "the same request was being carried out and failed: ask again",
                )),
            });
        }
        self.metrics.took(arrived.elapsed());
        let results = keys.into_iter().zip(outcomes);
        results
            .map(|(idempotency_key, outcome)| wire::IssueResult {
                idempotency_key,
                outcome,
            })
            .collect()
    }

    /// Finds out for each item whether it was answered before, and what its evidence
    /// proves.
    async fn admit(
        &self,
        node: &Arc<Node>,
        rules: &Rules,
        items: Vec<wire::IssueItem>,
        outcomes: &mut [Option<Outcome>],
    ) -> (Vec<Task>, Vec<(usize, Running)>) {
        let mut seen = HashSet::new();
        let mut tasks = Vec::with_capacity(items.len());
        let mut running = Vec::new();
        for (index, mut item) in items.into_iter().enumerate() {
            let claim =
                match self.claim(node.id.clone(), &item.idempotency_key, &item.csr, &mut seen) {
                    Ok(Known::New(claim)) => claim,
                    Ok(Known::Answered(answer)) => {
                        outcomes[index] = Some(Outcome::Issued(issued(answer)));
                        continue;
                    }
                    Ok(Known::Running(other)) => {
                        running.push((index, other));
                        continue;
                    }
                    Err(refusal) => {
                        outcomes[index] = Some(self.refuse(&refusal));
                        continue;
                    }
                };
            match admission::prove(rules, node, &mut item, self.clock.now()).await {
                Ok(proof) => {
                    let priority = priority(&item);
                    tasks.push(Task {
                        index,
                        item,
                        claim,
                        proof,
                        priority,
                    });
                }
                Err(admission::Unproved { refusal, about }) => {
                    self.refused_item(node, rules, &refusal, about);
                    outcomes[index] = Some(self.refuse(&refusal));
                }
            }
        }
        tasks.sort_by_key(|task| task.priority);
        (tasks, running)
    }

    fn claim(
        &self,
        caller: Arc<str>,
        key: &[u8],
        csr: &[u8],
        seen: &mut HashSet<[u8; KEY]>,
    ) -> Result<Known, Refusal> {
        let key = <[u8; KEY]>::try_from(key).map_err(|_| {
            Refusal::new(
                "ARX-REQUEST-MALFORMED",
                Fault::Request,
                format!("an idempotency key has {KEY} random bytes"),
            )
        })?;
        if !seen.insert(key) {
            return Err(Refusal::new(
                "ARX-REQUEST-KEY-REUSED",
                Fault::Request,
                "two items of one batch have the same idempotency key: make a new one for each",
            ));
        }
        self.answers
            .look_up(Request { caller, key }, sha256(csr), self.clock.monotonic())
    }

    /// Verifies the CSRs and signs, a few at a time, so that whoever is in a hurry gets in
    /// between.
    async fn sign(
        &self,
        node: &Arc<Node>,
        rules: &Rules,
        tasks: Vec<Task>,
        outcomes: &mut [Option<Outcome>],
        records: &mut Vec<ledger::Prepared>,
    ) -> Vec<Draft> {
        let mut drafts = Vec::with_capacity(tasks.len());
        let mut tasks = tasks.into_iter().peekable();
        while let Some(first) = tasks.peek() {
            let permit = self.queue.acquire(first.priority).await;
            let turn: Vec<Task> = tasks.by_ref().take(TURN).collect();
            let permit = match permit {
                Ok(permit) => permit,
                Err(refusal) => {
                    for task in turn {
                        outcomes[task.index] = Some(self.refuse(&refusal));
                    }
                    continue;
                }
            };
            let now = self.clock.now();
            let issuing = self.issuing(now);
            for task in turn {
                let index = task.index;
                let request = (
                    task.item.idempotency_key.clone(),
                    task.item.trace_id.clone(),
                );
                let about = task.proof.about(task.item.ttl_seconds, now);
                let signed = issuing.as_ref().map_err(Clone::clone);
                match signed.and_then(|issuing| self.draft(issuing, node, rules, task, now)) {
                    Ok((draft, record)) => {
                        if let Some(about) = about {
                            self.recent.note(about, &node.name, None, now);
                        }
                        drafts.push(draft);
                        records.push(record);
                    }
                    Err(refusal) => {
                        self.refused_item(node, rules, &refusal, about);
                        // What is proved and not allowed may be an attack from a node. What is not
                        // even proved could fill the ledger with noise.
                        if refusal.fault == Fault::Forbidden {
                            records.extend(
                                refused_record(node, request, &refusal, now).prepare().ok(),
                            );
                        }
                        outcomes[index] = Some(self.refuse(&refusal));
                    }
                }
            }
            drop(permit);
            if tasks.peek().is_some() {
                tokio::task::yield_now().await;
            }
        }
        drafts
    }

    /// Tells of an item that was refused: the log, whoever asks about the pod, and the pod's
    /// owner.
    fn refused_item(&self, node: &Node, rules: &Rules, refusal: &Refusal, about: Option<About>) {
        self.tell(refusal, &Peer::Node(node.name.clone()), "item refused");
        let Some(about) = about else { return };
        // What is only for want of something here is told to operators.
        let theirs = matches!(refusal.fault, Fault::Unauthenticated | Fault::Forbidden);
        if let Some(pods) = rules.tokens.pods_of(&about.pod.cluster).filter(|_| theirs) {
            pods.tell(&about.pod, refusal);
        }
        let now = self.clock.now();
        self.recent.note(about, &node.name, Some(refusal), now);
    }

    fn draft(
        &self,
        issuing: &Issuing,
        node: &Arc<Node>,
        rules: &Rules,
        task: Task,
        now: SystemTime,
    ) -> Result<(Draft, ledger::Prepared), Refusal> {
        let Task {
            index,
            item,
            claim,
            proof,
            ..
        } = task;
        let csr = VerifiedCsr::verify(&item.csr, &KeyPolicy::default())
            .map_err(|error| refused_csr(&error))?;
        let key = csr.public_key().algorithm();
        let admitted = admission::decide(rules, &node.name, &proof, key, item.ttl_seconds)?;
        self.not_denied(&admitted.id, &node.name, proof.account(), now)?;
        let sequence = self.trust.current().sequence();
        let line = Line::of(&node.serial).filter(|_| admitted.kind == Kind::Node);
        let certificate = certify(issuing, &csr, &admitted, line, now)?;
        let kind = admitted.kind;
        let record = ledger::Issued {
            replica: self.replica.to_string(),
            cluster: node.name.cluster.to_string(),
            node: node.name.node.to_string(),
            request_id: item.idempotency_key.to_vec(),
            replaces: if item.replaces_serial.len() <= ledger::MAX_SERIAL {
                item.replaces_serial.to_vec()
            } else {
                Vec::new()
            },
            trace_id: trace(&item.trace_id),
            agent_instance: self
                .fleet
                .instance(&node.name)
                .map(|id| id.to_vec())
                .unwrap_or_default(),
            evidence: admitted.evidence,
            policy_generation: rules.generation,
            ..issued_record(issuing, &certificate, sequence)
        };
        let draft = Draft {
            index,
            claim,
            answer: answer(issuing, &certificate, sequence),
            serial: certificate.serial().clone(),
            not_after: certificate.not_after(),
            kind,
            id: admitted.id,
            proof,
        };
        // Here already, because a batch of records in pieces is spread all over memory.
        let record = ledger::Record::new(now, record)
            .prepare()
            .map_err(|error| unrecorded(&error))?;
        Ok((draft, record))
    }

    /// The intermediate that signs now.
    fn issuing(&self, now: SystemTime) -> Result<Arc<Issuing>, Refusal> {
        let issuing = self
            .authority
            .issuing()
            .filter(|issuing| now < issuing.not_after());
        issuing.ok_or_else(|| {
            Refusal::new(
                "ARX-AUTHORITY-NOT-READY",
                Fault::Dependency,
                "the authority has no valid intermediate now: see its readiness",
            )
        })
    }

    /// Queues the records; they are durable when the future has returned.
    fn record(
        &self,
        records: Vec<ledger::Prepared>,
    ) -> impl Future<Output = Result<(), Refusal>> + Send + use<> {
        let append = (!records.is_empty()).then(|| self.ledger.append_prepared(records));
        async move {
            let Some(append) = append else { return Ok(()) };
            let recorded = append.await.map(|_receipt| ());
            recorded.map_err(|error| unrecorded(&error))
        }
    }

    fn release_drafts(
        &self,
        node: &Arc<Node>,
        drafts: Vec<Draft>,
        outcomes: &mut [Option<Outcome>],
    ) {
        let (now, wall) = (self.clock.monotonic(), self.clock.now());
        let mut workloads = 0;
        for draft in drafts {
            // It may be denied since it was signed. The ledger has it, and nobody else gets it.
            let account = draft.proof.account();
            if let Err(refusal) = self.not_denied(&draft.id, &node.name, account, wall) {
                self.tell(&refusal, &Peer::Node(node.name.clone()), "item refused");
                outcomes[draft.index] = Some(self.refuse(&refusal));
                continue;
            }
            match draft.kind {
                Kind::Node => {
                    self.fleet.renewed(node, draft.serial, draft.not_after);
                    self.metrics.issued(Kind::Node, 1);
                }
                _ => workloads += 1,
            }
            draft.claim.resolve(draft.answer.clone(), now);
            outcomes[draft.index] = Some(Outcome::Issued(issued(draft.answer)));
        }
        if workloads > 0 {
            self.metrics.issued(Kind::Workload, workloads);
        }
    }

    fn refuse(&self, refusal: &Refusal) -> Outcome {
        self.metrics.refused(refusal.code);
        Outcome::Refused(refusal.to_wire())
    }

    /// A node's first certificate, for its own service-account token.
    ///
    /// # Errors
    /// Whatever keeps it from joining.
    pub async fn join(
        &self,
        token: &str,
        request: &wire::JoinRequest,
    ) -> Result<wire::Issued, Refusal> {
        let arrived = Instant::now();
        let rules = self.rules.get();
        let verified = rules
            .tokens
            .verify(Token::new(token), Purpose::Join, None)
            .await?;
        let csr = VerifiedCsr::verify(&request.csr, &KeyPolicy::default())
            .map_err(|error| refused_csr(&error))?;
        let (name, admitted) = admission::join(&rules, &verified, csr.public_key().algorithm())?;
        // Its own certificate may be of what this state does not know, so it comes as a stranger.
        let now = self.clock.now();
        let said = request.hello.as_ref().and_then(Said::of);
        let denied = self.not_denied(&admitted.id, &name, Some(verified.account()), now);
        if let Some(said) = said.filter(|_| denied.is_ok()) {
            self.restore.note(&name, said);
        }
        self.restore.is_open()?;
        if let Err(refusal) = denied {
            self.alert(&name, &refusal, request, now).await;
            return Err(refusal);
        }
        let caller: Arc<str> = format!("join:{name}").into();
        let claim = loop {
            match self.claim(
                Arc::clone(&caller),
                &request.idempotency_key,
                &request.csr,
                &mut HashSet::new(),
            )? {
                Known::New(claim) => break claim,
                Known::Answered(answer) => return Ok(issued(answer)),
                Known::Running(running) => {
                    if let Some(answer) = running.outcome().await {
                        return Ok(issued(answer));
                    }
                }
            }
        };
        let permit = self.queue.acquire(Priority::START).await?;
        let announced = self.ledger.announce();
        let now = self.clock.now();
        let issuing = self.issuing(now)?;
        let sequence = self.trust.current().sequence();
        let join = Join {
            token_id: match &verified.jti {
                Some(jti) => sha256(jti.as_bytes()),
                None => sha256(verified.token_id.as_bytes()),
            },
            issued_at: verified.issued,
            key_id: csr.public_key().key_id(),
        };
        let line = self.fleet.line_for(&name, &join, now);
        let certificate = certify(&issuing, &csr, &admitted, Some(line), now)?;
        drop(permit);
        if let Err(refusal) = self.fleet.may_join(&name, &join) {
            self.alert(&name, &refusal, request, now).await;
            return Err(refusal);
        }
        let instance = request
            .hello
            .as_ref()
            .map(|hello| hello.instance_id.to_vec())
            .unwrap_or_default();
        let record = ledger::Issued {
            replica: self.replica.to_string(),
            cluster: name.cluster.to_string(),
            node: name.node.to_string(),
            request_id: request.idempotency_key.to_vec(),
            agent_instance: if instance.len() == 16 {
                instance
            } else {
                Vec::new()
            },
            evidence: admitted.evidence,
            policy_generation: rules.generation,
            ..issued_record(&issuing, &certificate, sequence)
        };
        let record = ledger::Record::new(now, record).prepare();
        let recorded = self.record(vec![record.map_err(|error| unrecorded(&error))?]);
        drop(announced);
        recorded.await?;
        // It may be denied since it came. The ledger has it, and nobody else gets it.
        self.not_denied(
            &admitted.id,
            &name,
            Some(verified.account()),
            self.clock.now(),
        )?;
        self.joined(&name, join, &certificate);
        let answer = answer(&issuing, &certificate, sequence);
        claim.resolve(answer.clone(), self.clock.monotonic());
        self.metrics.issued(Kind::Join, 1);
        self.metrics.took(arrived.elapsed());
        Ok(issued(answer))
    }

    fn joined(&self, name: &NodeName, join: Join, certificate: &Certificate) {
        let serial = certificate.serial();
        let not_after = certificate.not_after();
        if let Some(superseded) = self.fleet.joined(name, join, serial.clone(), not_after) {
            self.superseded(superseded, name, serial);
        }
        tracing::info!(node = %name, serial = %certificate.serial(), "node joined");
    }

    /// A join that was refused although its token is good has to be seen.
    async fn alert(
        &self,
        name: &NodeName,
        refusal: &Refusal,
        request: &wire::JoinRequest,
        now: SystemTime,
    ) {
        tracing::warn!(code = refusal.code, node = %name, reason = %refusal.message, "a join was refused");
        let record = ledger::Refused {
            who: self
                .node_id(name)
                .map(|id| id.as_str().to_owned())
                .unwrap_or_default(),
            cluster: name.cluster.to_string(),
            node: name.node.to_string(),
            code: refusal.code.to_owned(),
            message: refusal.message.clone(),
            request_id: request.idempotency_key.to_vec(),
            trace_id: Vec::new(),
        };
        // The refusal stands, whether or not it can be recorded.
        let record = ledger::Record::new(now, record).prepare();
        let _unrecorded = self.record(record.into_iter().collect()).await;
    }
}

fn unrecorded(error: &ledger::AppendError) -> Refusal {
    Refusal::new(
        error.code(),
        Fault::Dependency,
        format!("nothing is issued that can't be recorded: {error}"),
    )
}

/// Signs a leaf for the key of a CSR, a node's own for its `line`.
fn certify(
    issuing: &Issuing,
    csr: &VerifiedCsr,
    admitted: &Admitted,
    line: Option<Line>,
    now: SystemTime,
) -> Result<Certificate, Refusal> {
    let leaf = Leaf {
        public_key: csr.public_key(),
        id: &admitted.id,
        dns_names: &admitted.dns_names,
        validity: Validity::leaf(issuing.issuer(), now, admitted.ttl),
        revocable: false,
    };
    let serial = line.map_or_else(Serial::random, Line::serial);
    sign_numbered_leaf(issuing, &leaf, serial).map_err(|error| {
        tracing::error!(code = error.code(), id = %admitted.id, %error, "a certificate was not released");
        Refusal::new(error.code(), Fault::Internal, error.to_string())
    })
}

/// A key identifier as it stands in the ledger.
pub(crate) fn key_id(id: KeyId) -> ledger::KeyId {
    id.as_bytes().to_vec()
}

/// The part of a ledger record that every certificate has.
pub(crate) fn issued_record(
    issuing: &Issuing,
    certificate: &Certificate,
    sequence: Sequence,
) -> ledger::Issued {
    ledger::Issued {
        spiffe_id: certificate
            .spiffe_id()
            .map(|id| id.as_str().to_owned())
            .unwrap_or_default(),
        serial: certificate.serial().as_bytes().to_vec(),
        subject_key_id: key_id(certificate.public_key().key_id()),
        issuer_key_id: key_id(issuing.intermediate()),
        root_key_id: key_id(issuing.root()),
        validity: ledger::Validity {
            not_before: certificate.not_before(),
            not_after: certificate.not_after(),
        },
        bundle_epoch: sequence.epoch,
        bundle_number: sequence.number,
        ..ledger::Issued::default()
    }
}

fn refused_record(
    node: &Node,
    (request_id, trace_id): (Bytes, Bytes),
    refusal: &Refusal,
    now: SystemTime,
) -> ledger::Record {
    let refused = ledger::Refused {
        who: node.id.to_string(),
        cluster: node.name.cluster.to_string(),
        node: node.name.node.to_string(),
        code: refusal.code.to_owned(),
        message: refusal.message.clone(),
        request_id: request_id.to_vec(),
        trace_id: trace(&trace_id),
    };
    ledger::Record::new(now, refused)
}

/// A W3C trace id, or nothing.
fn trace(id: &[u8]) -> Vec<u8> {
    if id.len() == 16 {
        id.to_vec()
    } else {
        Vec::new()
    }
}

fn priority(item: &wire::IssueItem) -> Priority {
    if item.urgency == wire::Urgency::Renewal as i32 {
        let millis = u64::try_from(item.current_not_after_unix_ms).unwrap_or(0);
        Priority::renewal(UNIX_EPOCH + Duration::from_millis(millis))
    } else {
        Priority::START
    }
}

fn answer(issuing: &Issuing, certificate: &Certificate, sequence: Sequence) -> Answer {
    Answer {
        spiffe_id: certificate.spiffe_id().map_or("", |id| id.as_str()).into(),
        leaf: Bytes::copy_from_slice(certificate.der()),
        issuers: Arc::clone(issuing.encoded(certificate.not_after())),
        sequence: (sequence.epoch, sequence.number),
    }
}

fn issued(answer: Answer) -> wire::Issued {
    let (epoch, number) = answer.sequence;
    wire::Issued {
        spiffe_id: answer.spiffe_id.to_string(),
        chain: std::iter::once(answer.leaf)
            .chain(answer.issuers.iter().cloned())
            .collect(),
        bundle_sequence: Some(node_api::sequence(Sequence { epoch, number })),
    }
}

pub(crate) fn refused_csr(error: &CsrError) -> Refusal {
    let code = match error {
        CsrError::TooLong(_) => "ARX-CSR-TOO-LARGE",
        CsrError::NotDer => "ARX-CSR-MALFORMED",
        CsrError::TrailingBytes => "ARX-CSR-TRAILING",
        CsrError::Key(_) => "ARX-CSR-KEY",
        CsrError::KeyNotAllowed(_) => "ARX-CSR-KEY-NOT-ALLOWED",
        CsrError::Signature => "ARX-CSR-SIGNATURE",
    };
    Refusal::new(code, Fault::Request, error.to_string())
}

#[cfg(test)]
mod tests;
