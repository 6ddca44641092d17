//! One identity and how its next certificate is coming along.

use super::Report;
use crate::attest::token::Subject;
use crate::attest::{Asker, LocalProcess, Pod, PodUid, ServiceAccountToken};
use crate::issue::{Evidence, Outcome, Prepared};
use crate::renewal::{self, Facts, Hint};
use crate::seed;
use crate::subscribers::StreamId;
use arx_identity::crypto::Sha256;
use arx_identity::{KeyId, Sequence, Svid};
use arx_proto::node::v1::Refusal;
use arx_sds::Snapshot;
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// Tokens that are kept for renewals, and digests of such as were proved.
const MOST_TOKENS: usize = 4;
const MOST_PROVEN: usize = 16;
/// Pauses after a refusal that will stand until somebody changes something.
const REFUSED: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(300));

/// By what a workload is known.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    /// What the kernel says.
    Local(LocalProcess),
    /// What a token says for which the authority has issued.
    Account(Subject),
    /// The socket that was made for this pod.
    Socket(Arc<Pod>),
    /// A process of the pod with this UID.
    Process(PodUid),
    /// A token that the authority has not seen yet.
    Unproven([u8; 32]),
}

/// A certificate of a workload.
#[derive(Clone, Debug)]
pub(crate) struct Leaf {
    pub(crate) svid: Svid,
    /// Subject key id of the root above it.
    pub(crate) root: KeyId,
    /// SHA-256 of the DER chain.
    pub(crate) sha256: [u8; 32],
}

impl Leaf {
    pub(crate) fn new(svid: Svid, root: KeyId) -> Self {
        let mut hash = Sha256::new();
        for certificate in svid.chain().certificates() {
            hash.update(certificate.der());
        }
        Self {
            sha256: hash.finish(),
            svid,
            root,
        }
    }
}

/// A certificate that came before its roots.
#[derive(Debug)]
pub(super) struct Early {
    pub(super) svid: Svid,
    pub(super) needs: Sequence,
    /// How many inventories had been sent when it was asked for.
    pub(super) inventories: u64,
}

/// When the next attempt is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Schedule {
    /// Not decided.
    Never,
    At(Instant),
    /// The authority has been asked, and has not answered.
    Asked,
}

/// Whether a pod is there, as far as its kubelet has told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    /// Nobody has said anything.
    Untold,
    /// It has a socket of its own, and will ask.
    Published,
    /// Its processes have ended.
    Gone,
}

/// One identity.
#[derive(Debug)]
pub(crate) struct Workload {
    pub(crate) key: Key,
    /// On disk, and handed to whoever asks.
    pub(crate) served: Option<Leaf>,
    /// Verified, and served when the sealing of this generation is on disk.
    pub(crate) next: Option<(Leaf, u64)>,
    /// Verified when the roots have come that it needs.
    pub(super) early: Option<Early>,
    /// What its streams see, as long as neither certificate nor roots change.
    pub(crate) snapshot: Option<Arc<Snapshot>>,
    pub(crate) streams: HashSet<StreamId>,
    pub(super) proven: Vec<[u8; 32]>,
    /// Digests of the tokens by which it is found.
    digests: VecDeque<[u8; 32]>,
    pub(super) tokens: Vec<Arc<ServiceAccountToken>>,
    pub(super) asked_with: Option<Arc<ServiceAccountToken>>,
    pub(super) prepared: Option<Prepared>,
    pub(super) schedule: Schedule,
    pub(super) unused_until: Option<Instant>,
    pub(super) failures: u32,
    pub(super) retry_after: Duration,
    pub(super) hint: Option<Hint>,
    /// None of its tokens is good any more.
    pub(super) starved: bool,
    /// Who has shown the token that nobody has vouched for yet.
    pub(super) asker: Option<Asker>,
    /// The authority has said no, and not only for now.
    pub(super) was_refused: bool,
    /// Whether its pod is there, where somebody tells.
    pub(super) presence: Presence,
    seed: u64,
}

impl Workload {
    pub(super) fn new(key: Key, seed: u64) -> Self {
        Self {
            key,
            served: None,
            next: None,
            early: None,
            snapshot: None,
            streams: HashSet::new(),
            proven: Vec::new(),
            digests: VecDeque::new(),
            tokens: Vec::new(),
            asked_with: None,
            prepared: None,
            schedule: Schedule::Never,
            unused_until: None,
            failures: 0,
            retry_after: Duration::ZERO,
            hint: None,
            starved: false,
            asker: None,
            was_refused: false,
            presence: Presence::Untold,
            seed,
        }
    }

    /// It is found by a token of this digest from now on; answers the one by which it no longer
    /// is.
    pub(super) fn known_by(&mut self, digest: [u8; 32]) -> Option<[u8; 32]> {
        self.digests.push_back(digest);
        if self.digests.len() > MOST_PROVEN {
            return self.digests.pop_front();
        }
        None
    }

    /// Digests of the tokens by which it is found.
    pub(super) fn digests(&self) -> impl Iterator<Item = &[u8; 32]> {
        self.digests.iter()
    }

    /// The certificate that was issued last.
    pub(crate) fn newest(&self) -> Option<&Leaf> {
        self.next
            .as_ref()
            .map(|(leaf, _)| leaf)
            .or(self.served.as_ref())
    }

    /// All that it holds.
    pub(super) fn leaves_mut(&mut self) -> impl Iterator<Item = &mut Leaf> {
        let next = self.next.as_mut().map(|(leaf, _)| leaf);
        self.served.iter_mut().chain(next)
    }

    /// From `now` until the next attempt.
    pub(super) fn wait(&self, now: SystemTime) -> Duration {
        match self.newest() {
            Some(leaf) => {
                let facts = Facts {
                    not_before: leaf.svid.not_before(),
                    not_after: leaf.svid.not_after(),
                    failures: self.failures,
                    retry_after: self.retry_after,
                    hint: self.hint,
                    seed: self.seed,
                };
                renewal::wait(&facts, now)
            }
            None if self.failures == 0 => self.retry_after,
            None => renewal::first_attempt_again(self.failures, self.retry_after, self.seed),
        }
    }

    /// What the authority is shown next; none if all tokens have ended by `now`.
    pub(super) fn evidence(&mut self, now: SystemTime) -> Option<Evidence> {
        match &self.key {
            Key::Local(process) => return Some(Evidence::Local(process.clone())),
            Key::Process(uid) => return Some(Evidence::Pod(uid.clone())),
            Key::Account(_) | Key::Unproven(_) | Key::Socket(_) => {}
        }
        self.tokens.retain(|token| !token.says_expired(now));
        let token = self.tokens.last()?;
        self.asked_with = Some(Arc::clone(token));
        Some(Evidence::Token(Arc::clone(token)))
    }

    /// One more token to renew with. One that was proved is taken first, whatever others say
    /// of themselves; then the one that ends last.
    pub(super) fn offer(&mut self, token: Arc<ServiceAccountToken>) {
        if self.tokens.iter().any(|t| t.digest() == token.digest()) {
            return;
        }
        self.tokens.push(token);
        self.sort_tokens();
        if self.tokens.len() > MOST_TOKENS {
            self.tokens.remove(0);
        }
    }

    fn sort_tokens(&mut self) {
        let proven = &self.proven;
        self.tokens
            .sort_by_key(|token| (proven.contains(token.digest()), token.claims().expires));
    }

    pub(super) fn prove(&mut self, digest: [u8; 32]) {
        if self.proven.contains(&digest) {
            return;
        }
        self.proven.push(digest);
        if self.proven.len() > MOST_PROVEN {
            self.proven.remove(0);
        }
        self.sort_tokens();
    }

    pub(super) fn succeeded(&mut self, leaf: Leaf, generation: u64) {
        self.seed = seed::after(self.seed);
        self.next = Some((leaf, generation));
        self.early = None;
        self.was_refused = false;
        self.failures = 0;
        self.retry_after = Duration::ZERO;
        self.hint = None;
    }

    pub(super) fn failed(&mut self, retry_after: Duration) {
        self.failures = self.failures.saturating_add(1);
        self.retry_after = retry_after;
        self.seed = seed::after(self.seed);
    }

    /// The answer came too late to be used.
    pub(super) fn retry_now(&mut self) {
        self.retry_after = Duration::ZERO;
        if self.newest().is_some() {
            self.failures = self.failures.saturating_add(1);
        }
    }

    pub(super) fn refused(&mut self, refusal: &Refusal) {
        let mut pause = Duration::from_millis(refusal.retry_after_ms.into());
        if pause.is_zero() {
            self.was_refused = true;
            // This token may be bad where another one is good.
            if let Some(token) = self.asked_with.take()
                && self.tokens.len() > 1
            {
                self.tokens.retain(|t| t.digest() != token.digest());
            } else {
                let doublings = self.failures.min(8);
                pause = REFUSED.0.saturating_mul(1 << doublings).min(REFUSED.1);
            }
        }
        self.failed(pause);
    }

    /// Whether there is something new to be pushed, now that `generation` is on disk.
    pub(super) fn sealed(&mut self, generation: u64) -> bool {
        match self.next.take_if(|(_, of)| *of <= generation) {
            Some((leaf, _)) => {
                self.served = Some(leaf);
                self.snapshot = None;
                true
            }
            None => false,
        }
    }

    pub(super) fn report(&self, outcome: &Outcome) -> Report {
        let (outcome, code, message) = match outcome {
            Outcome::Issued(_) => ("issued", String::new(), String::new()),
            Outcome::Early { error, .. } => (
                "early",
                "ARX-AGENT-TRUST-BEHIND".to_owned(),
                error.to_string(),
            ),
            Outcome::Refused(refusal) => ("refused", code(&refusal.code), refusal.message.clone()),
            Outcome::Failed(failure, _) => {
                ("failed", failure.reason().to_owned(), failure.to_string())
            }
            Outcome::Unusable(reason) => (
                "unusable",
                "ARX-AGENT-ANSWER-UNUSABLE".to_owned(),
                reason.clone(),
            ),
        };
        Report {
            renewal: self.newest().is_some(),
            outcome,
            code,
            message,
            failures: self.failures,
            unproved: matches!(self.key, Key::Unproven(_)),
            spiffe_id: self.newest().map(|leaf| leaf.svid.spiffe_id().clone()),
            evidence: self.evidence_in_words(),
        }
    }

    /// For logs: who asks, without any token.
    pub(crate) fn evidence_in_words(&self) -> String {
        match &self.key {
            Key::Local(process) => format!(
                "local uid={} gid={} executable={:?}",
                process.uid, process.gid, process.executable
            ),
            Key::Account(subject) => {
                format!("token of {} in pod {}", subject.account, subject.pod_uid)
            }
            Key::Socket(pod) => format!("socket of pod {pod}"),
            Key::Process(uid) => format!("process of pod {uid}"),
            Key::Unproven(_) => {
                let subject = self.tokens.last().map(|t| &t.claims().subject);
                let claimed = subject.map(|s| s.account.chars().take(256).collect::<String>());
                format!("token that claims to be of {}", claimed.unwrap_or_default())
            }
        }
    }
}

/// A reason code as a label: nothing else can become one.
fn code(code: &str) -> String {
    let good = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'-';
    if code.starts_with("ARX-") && code.len() <= 64 && code.bytes().all(good) {
        code.to_owned()
    } else {
        "ARX-AGENT-REFUSED".to_owned()
    }
}
