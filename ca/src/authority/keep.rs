//! Renewing the intermediate and the serving certificate in time, for as long as the process
//! runs.

use std::convert::Infallible;
use std::time::{Duration, SystemTime};

use arx_daemon::Clock;
use arx_daemon::clock::rfc3339;
use arx_identity::crypto::random;
use arx_identity::{KeyId, Svid};
use futures_util::future::BoxFuture;

use super::{Authority, AuthorityError, Issuing, renewal_at, renewal_due, serving_at, serving_due};
use crate::state::Intermediate;

/// The clock is looked at this often, whatever is planned.
const LOOK: Duration = Duration::from_secs(60);

/// Not more often than this, whatever is due.
const PAUSE: Duration = Duration::from_secs(1);

/// The longest wait after a failure.
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);

/// Something of the authority's own that must be recorded before it is used.
#[derive(Clone, Debug)]
pub enum Made {
    /// An intermediate, already registered in the state store.
    Intermediate(Intermediate),
    /// A serving certificate with its key.
    Serving(Svid),
}

/// How long this replica can go on issuing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// The last instant at which anything can be signed; none before the first intermediate.
    pub until: Option<SystemTime>,
    /// Whether that is still to come. Only this is a reason not to be ready: a replica whose
    /// leaves are cut short is better than none.
    pub can_issue: bool,
    /// Code and message, if leaves are cut short or cannot be signed at all.
    pub trouble: Option<(&'static str, String)>,
}

impl Authority {
    /// Makes and renews the intermediate and the serving certificate whenever they are due.
    /// `made` is given each before it is used: it puts it into the ledger, and a serving
    /// certificate into the listener, and answers when that is durable. What it refuses is not
    /// used, and made again later.
    ///
    /// Never ends; drop it to stop.
    pub async fn keep<F>(&self, clock: &Clock, mut made: F) -> Infallible
    where
        F: FnMut(Made) -> BoxFuture<'static, Result<(), String>> + Send,
    {
        let mut jumps = clock.jumps();
        let mut roots = self.parent.subscribe();
        let mut given_up = self.given_up.subscribe();
        let mut failures = 0;
        loop {
            let outcome = self.renew(clock, &mut made).await;
            let now = clock.now();
            self.report(now, outcome.as_ref().err());
            self.erase_ended(now).await;
            let wait = match outcome {
                Ok(()) => {
                    failures = 0;
                    self.next(now)
                }
                Err(error) => {
                    failures += 1;
                    let until = self.issuing().map(|issuing| rfc3339(issuing.not_after()));
                    tracing::error!(
                        code = error.code(),
                        until = until.as_deref().unwrap_or("now"),
                        "the authority's own certificates could not be renewed: {error}"
                    );
                    backoff(failures)
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                // A clock that is gone does not jump any more.
                Ok(()) = jumps.changed() => {}
                Ok(()) = roots.changed() => {}
                Ok(()) = given_up.changed() => {}
            }
        }
    }

    /// Renews what is due, and what stands under another root than the active one or under an
    /// intermediate that is given up.
    async fn renew<F>(&self, clock: &Clock, made: &mut F) -> Result<(), AuthorityError>
    where
        F: FnMut(Made) -> BoxFuture<'static, Result<(), String>> + Send,
    {
        self.still_trusted().await?;
        let now = clock.now();
        let longest = self.longest_leaf();
        let parent = self.parent();
        let (root, above) = (parent.root_id, parent.above.clone());
        if let Some(issuing) = self.issuing()
            && issuing.root() == root
            && issuing.cross() != parent.cross.as_ref()
        {
            let issuing = issuing.with_cross(parent.cross.clone());
            self.issuing.send_replace(Some(issuing.into()));
        }
        let given_up = self.given_up.borrow().clone();
        let due = |issuing: &Issuing| {
            let other = issuing.root() != root
                || issuing.chain()[1..] != above
                || given_up.contains(&issuing.intermediate());
            other || renewal_due(issuing.term(), now, longest)
        };
        if self.issuing().is_none_or(|issuing| due(&issuing)) {
            let prepared = match self.prepare(now).await {
                // The roots were exchanged, and nobody has told this replica yet.
                Err(AuthorityError::NotActive { .. }) => {
                    self.follow_active().await?;
                    self.prepare(now).await?
                }
                prepared => prepared?,
            };
            let record = Made::Intermediate(prepared.registered.clone());
            made(record).await.map_err(AuthorityError::NotRecorded)?;
            let issuing = self.install(prepared);
            tracing::info!(
                intermediate = %issuing.intermediate(),
                root = %issuing.root(),
                until = rfc3339(issuing.not_after()),
                "issuing by a new intermediate"
            );
        }
        let issuing = self.issuing();
        let due = |svid: &Svid| {
            issuing
                .as_ref()
                .is_some_and(|it| signer_of(svid) != it.signer() || !is_handed_out(it, svid))
                || issuer_of(svid).is_some_and(|issuer| given_up.contains(&issuer))
                || serving_due(svid.not_before(), svid.not_after(), clock.now())
        };
        if self.serving().is_none_or(|svid| due(&svid)) {
            let svid = self.prepare_serving(clock.now())?;
            made(Made::Serving(svid.clone()))
                .await
                .map_err(AuthorityError::NotRecorded)?;
            tracing::info!(
                serial = %svid.serial(),
                until = rfc3339(svid.not_after()),
                "serving with a new certificate"
            );
            self.install_serving(svid);
        }
        Ok(())
    }

    /// How long nothing will be due.
    fn next(&self, now: SystemTime) -> Duration {
        let intermediate = self
            .issuing()
            .and_then(|issuing| renewal_at(issuing.term(), self.longest_leaf()));
        let serving = self
            .serving()
            .map(|svid| serving_at(svid.not_before(), svid.not_after()));
        let planned = intermediate.into_iter().chain(serving).min();
        let wait = planned.map_or(LOOK, |at| at.duration_since(now).unwrap_or_default());
        wait.clamp(PAUSE, LOOK)
    }

    fn report(&self, now: SystemTime, error: Option<&AuthorityError>) {
        let until = self.issuing().map(|issuing| issuing.not_after());
        let left = until
            .and_then(|until| until.duration_since(now).ok())
            .unwrap_or_default();
        let trouble = (left < self.longest_leaf()).then(|| match (error, until) {
            (Some(error), _) => (error.code(), error.to_string()),
            (None, Some(until)) => (
                "ARX-AUTHORITY-ENDING",
                format!(
                    "what stands above the issuing certificate ends at {}, and nothing issued \
                     lives longer: renew it",
                    rfc3339(until)
                ),
            ),
            (None, None) => (
                "ARX-AUTHORITY-NOT-READY",
                AuthorityError::NotReady.to_string(),
            ),
        });
        let health = Health {
            until,
            can_issue: !left.is_zero(),
            trouble,
        };
        self.health.send_if_modified(|known| {
            let changed = *known != health;
            *known = health;
            changed
        });
    }
}

/// The intermediate that a serving certificate is from.
fn issuer_of(svid: &Svid) -> Option<KeyId> {
    svid.chain().leaf().authority_key_id()
}

/// The key that has signed the intermediate that a serving certificate is from.
fn signer_of(svid: &Svid) -> Option<KeyId> {
    svid.chain().certificates().get(1)?.authority_key_id()
}

/// Whether what stands above the intermediate is what is handed out now.
fn is_handed_out(issuing: &Issuing, svid: &Svid) -> bool {
    let above = svid.chain().certificates().iter().skip(2);
    issuing.handed_out(svid.not_after()).skip(1).eq(above)
}

/// Full jitter, doubling from one second on.
fn backoff(failures: u32) -> Duration {
    let most = (PAUSE * 2_u32.saturating_pow(failures.min(10))).min(LONGEST_BACKOFF);
    let dice = u32::from_be_bytes(random());
    PAUSE.max(most.mul_f64(f64::from(dice) / f64::from(u32::MAX)))
}
