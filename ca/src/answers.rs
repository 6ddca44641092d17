//! What was answered to whom lately, so that a request that is repeated after a lost
//! answer gets the same certificate again instead of another one.
//!
//! Kept in memory: after a restart a repetition gets a new certificate, and the ledger
//! shows both. Refusals are not kept, so that whoever was refused may try again.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::refusal::{Fault, Refusal};

/// For how long an answer is kept at most.
pub const KEPT: Duration = Duration::from_secs(600);
/// How many answers are kept at most; about 1 KiB each.
const MOST: usize = 30_000;
/// Length of an idempotency key, in bytes.
pub const KEY: usize = 16;

/// Whose request it is, and which.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Request {
    /// SPIFFE id of the node that asks.
    pub caller: Arc<str>,
    /// The idempotency key.
    pub key: [u8; KEY],
}

/// A certificate that was issued, as it goes to the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Whom it names.
    pub spiffe_id: Arc<str>,
    /// The leaf, DER.
    pub leaf: Bytes,
    /// The intermediates, DER, from the leaf's issuer upwards.
    pub issuers: Arc<[Bytes]>,
    /// The bundle sequence that verifiers need: epoch and number.
    pub sequence: (u64, u64),
}

/// All answers of the last minutes.
#[derive(Clone, Default)]
pub struct Answers(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    entries: HashMap<Request, Entry>,
    /// In order of completion.
    done: VecDeque<(Instant, Request)>,
}

struct Entry {
    /// SHA-256 of what was asked.
    content: [u8; 32],
    outcome: Progress,
}

enum Progress {
    /// Those who wait for it. Dropped if the request failed.
    Running(Vec<oneshot::Sender<Answer>>),
    Answered(Answer),
}

/// What is known of a request that comes in.
#[derive(Debug)]
pub enum Known {
    /// Nothing: it is to be carried out, and the claim to be resolved.
    New(Claim),
    /// The same request was answered with this.
    Answered(Answer),
    /// The same request is being carried out.
    Running(Running),
}

/// A request that somebody else carries out.
#[derive(Debug)]
pub struct Running(oneshot::Receiver<Answer>);

impl Running {
    /// Waits for its answer; `None` if it failed. Whoever holds a [`Claim`] resolves it
    /// before waiting here: two batches could wait for each other otherwise.
    pub async fn outcome(self) -> Option<Answer> {
        self.0.await.ok()
    }
}

/// The duty to carry out a request. Dropped without an answer, the request counts as
/// never made.
pub struct Claim {
    answers: Answers,
    request: Request,
    resolved: bool,
}

impl Answers {
    /// Looks `request` up, and claims it if it is new.
    ///
    /// # Errors
    /// `ARX-REQUEST-KEY-REUSED` if the key was used for another content.
    pub fn look_up(
        &self,
        request: Request,
        content: [u8; 32],
        now: Instant,
    ) -> Result<Known, Refusal> {
        let mut state = self.lock();
        state.forget(now);
        let Some(entry) = state.entries.get_mut(&request) else {
            let outcome = Progress::Running(Vec::new());
            state
                .entries
                .insert(request.clone(), Entry { content, outcome });
            drop(state);
            return Ok(Known::New(Claim {
                answers: self.clone(),
                request,
                resolved: false,
            }));
        };
        if entry.content != content {
            return Err(Refusal::new(
                "ARX-REQUEST-KEY-REUSED",
                Fault::Request,
                "this idempotency key was used for another request: make a new one for each",
            ));
        }
        Ok(match &mut entry.outcome {
            Progress::Answered(answer) => Known::Answered(answer.clone()),
            Progress::Running(waiting) => {
                let (sender, receiver) = oneshot::channel();
                waiting.push(sender);
                Known::Running(Running(receiver))
            }
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn forget(&mut self, now: Instant) {
        while let Some((at, _)) = self.done.front() {
            if self.done.len() <= MOST && now.saturating_duration_since(*at) < KEPT {
                return;
            }
            if let Some((_, request)) = self.done.pop_front() {
                self.entries.remove(&request);
            }
        }
    }
}

impl Claim {
    /// The request was answered with `answer`.
    pub fn resolve(mut self, answer: Answer, now: Instant) {
        self.resolved = true;
        let mut state = self.answers.lock();
        let before = state
            .entries
            .get_mut(&self.request)
            .map(|entry| std::mem::replace(&mut entry.outcome, Progress::Answered(answer.clone())));
        state.done.push_back((now, self.request.clone()));
        drop(state);
        if let Some(Progress::Running(waiting)) = before {
            for sender in waiting {
                // Whoever asked may be gone.
                let _gone = sender.send(answer.clone());
            }
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.resolved {
            self.answers.lock().entries.remove(&self.request);
        }
    }
}

impl fmt::Debug for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Answers({})", self.lock().entries.len())
    }
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Claim({:?})", self.request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(key: u8) -> Request {
        Request {
            caller: "spiffe://example.org/arx/node/c/n".into(),
            key: [key; KEY],
        }
    }

    fn answer(leaf: &'static [u8]) -> Answer {
        Answer {
            spiffe_id: "spiffe://example.org/x".into(),
            leaf: Bytes::from_static(leaf),
            issuers: [].into(),
            sequence: (1, 1),
        }
    }

    fn claim(answers: &Answers, key: u8, now: Instant) -> Claim {
        match answers.look_up(request(key), [0; 32], now) {
            Ok(Known::New(claim)) => claim,
            other => panic!("expected a new request, got {other:?}"),
        }
    }

    fn running(answers: &Answers, key: u8, now: Instant) -> Running {
        match answers.look_up(request(key), [0; 32], now) {
            Ok(Known::Running(running)) => running,
            other => panic!("expected a running request, got {other:?}"),
        }
    }

    #[test]
    fn a_repetition_gets_the_first_answer_again_for_ten_minutes() {
        let answers = Answers::default();
        let now = Instant::now();
        claim(&answers, 1, now).resolve(answer(b"one"), now);
        let later = now + KEPT - Duration::from_secs(1);
        match answers.look_up(request(1), [0; 32], later) {
            Ok(Known::Answered(again)) => assert_eq!(again, answer(b"one")),
            other => panic!("{other:?}"),
        }
        drop(claim(&answers, 1, now + KEPT));
    }

    #[tokio::test]
    async fn a_repetition_waits_for_the_outcome_of_the_first() {
        let answers = Answers::default();
        let now = Instant::now();
        let first = claim(&answers, 1, now);
        let second = running(&answers, 1, now);
        let (second, ()) = tokio::join!(second.outcome(), async {
            first.resolve(answer(b"one"), now)
        });
        assert_eq!(second, Some(answer(b"one")));
    }

    #[tokio::test]
    async fn after_a_failure_the_repetition_knows_and_may_be_made_again() {
        let answers = Answers::default();
        let now = Instant::now();
        let first = claim(&answers, 1, now);
        let second = running(&answers, 1, now);
        let (second, ()) = tokio::join!(second.outcome(), async { drop(first) });
        assert_eq!(second, None);
        drop(claim(&answers, 1, now));
    }

    #[test]
    fn a_key_that_is_used_for_another_request_is_refused() {
        let answers = Answers::default();
        let now = Instant::now();
        claim(&answers, 1, now).resolve(answer(b"one"), now);
        let refused = answers
            .look_up(request(1), [9; 32], now)
            .expect_err("another content");
        assert_eq!(refused.code, "ARX-REQUEST-KEY-REUSED");
    }

    #[test]
    fn no_more_answers_are_kept_than_there_is_room_for() {
        let answers = Answers::default();
        let now = Instant::now();
        for number in 0..MOST + 50 {
            let mut request = request(0);
            request.key[..8].copy_from_slice(&number.to_be_bytes());
            if let Ok(Known::New(claim)) = answers.look_up(request, [0; 32], now) {
                claim.resolve(answer(b"x"), now);
            }
        }
        assert!(answers.lock().entries.len() <= MOST + 1);
    }
}
