//! The intermediate between the root and the replicas' own: until when it lasts, and having it
//! renewed by the CA above, for as long as the process runs.

use std::convert::Infallible;
use std::time::SystemTime;

use arx_daemon::Clock;
use arx_daemon::clock::rfc3339;
use arx_identity::{Certificate, KeyId};
use futures_util::future::BoxFuture;
use tokio::sync::watch;

use super::outside::{self, Another, Certifier, How, Installed, Urgency, upper_renewal_at};
use super::upstream::{self, Upstream};
use super::{Authority, AuthorityError, Options};
use crate::state::{Replica, State};

/// The clock is looked at this often, whatever is planned.
const LOOK: std::time::Duration = std::time::Duration::from_secs(60);

/// What signs the replicas' intermediates, where that is not the root.
#[derive(Clone, Debug)]
pub struct Upper {
    /// The certificate.
    pub certificate: Certificate,
    /// When it, or something above it, ends: nothing below lives longer.
    pub ends: SystemTime,
    /// When a third of its life is left.
    pub renewal_at: SystemTime,
    /// Whether another CA is asked to renew it, and not an operator.
    pub by_itself: bool,
    /// Code and message of the last attempt to have it renewed, if it failed.
    pub trouble: Option<(&'static str, String)>,
}

impl Upper {
    /// How urgent its renewal is; none before the last third of its life.
    #[must_use]
    pub fn urgency(&self, now: SystemTime) -> Option<Urgency> {
        Urgency::of(&self.certificate, self.ends, now)
    }

    /// Code and message, if there is something to do about it.
    #[must_use]
    pub fn notice(&self, now: SystemTime) -> Option<(&'static str, String)> {
        let code = self.trouble.as_ref().map(|(code, _)| *code);
        let advice = self.advice(now)?;
        Some((code.unwrap_or("ARX-AUTHORITY-UPPER-ENDING"), advice))
    }

    fn advice(&self, now: SystemTime) -> Option<String> {
        let urgency = self.urgency(now)?;
        let ends = rfc3339(self.ends);
        let when = match urgency {
            Urgency::Over => format!("it has ended at {ends}, and nothing can be issued"),
            Urgency::Week => format!("it ends within 7 days, at {ends}"),
            Urgency::Month => format!("it ends within 30 days, at {ends}"),
            Urgency::Third => format!("it is in the last third of its life, and ends at {ends}"),
        };
        Some(match (&self.trouble, self.by_itself) {
            (Some((_, message)), _) => format!("{when}; it is not renewed: {message}"),
            (None, true) => format!("{when}; the CA above is being asked for another"),
            (None, false) => format!(
                "{when}: have the request signed that `arx authority csr` prints, and give the \
                 chain to `arx authority install`"
            ),
        })
    }
}

impl Authority {
    /// The upper intermediate, if there is one that this process keeps or a CA outside does.
    #[must_use]
    pub fn upper(&self) -> Option<Upper> {
        let outside = self.options.certifier.as_ref()?;
        let parent = self.parent();
        let certificate = parent.above.first()?.clone();
        let ends = parent.ends();
        Some(Upper {
            renewal_at: upper_renewal_at(&certificate, ends),
            certificate,
            ends,
            by_itself: matches!(outside, Certifier::Upstream(_)),
            trouble: self.upper_trouble.borrow().clone(),
        })
    }

    /// Tells when [`Authority::upper`] may be another.
    #[must_use]
    pub fn watch_upper(&self) -> watch::Receiver<Option<(&'static str, String)>> {
        self.upper_trouble.subscribe()
    }

    /// The request that waits for a chain from outside. It is made, with its key, if none does.
    ///
    /// # Errors
    /// [`AuthorityError::Problems`] if the root's key is here; another if the key cannot be made
    /// or stored.
    pub async fn ask_outside(&self, now: SystemTime) -> Result<outside::Asked, AuthorityError> {
        outside::by_hand(&self.options)?;
        outside::request(&self.state, &self.replica, now).await
    }

    /// Takes a chain for the request that waits. From then on new intermediates stand under it;
    /// [`Authority::keep`] makes one at once. Another root than the active one is prepared, and
    /// nothing else: that it becomes the active one is a rotation's matter. With `dry_run`,
    /// everything is checked and nothing is stored.
    ///
    /// # Errors
    /// [`AuthorityError::Problems`] with each defect; then nothing was changed. Another if the
    /// state cannot be had.
    pub async fn install_chain(
        &self,
        pem: &str,
        dry_run: bool,
        now: SystemTime,
    ) -> Result<Installed, AuthorityError> {
        outside::by_hand(&self.options)?;
        let how = How {
            another: Another::Follows,
            dry_run,
        };
        let (state, replica) = (&self.state, &self.replica);
        let installed = outside::take(state, replica, &self.options, pem, how, now).await?;
        if !dry_run {
            self.follow_active().await?;
            self.upper_trouble.send_replace(None);
        }
        Ok(installed)
    }

    /// Has the CA above renew the upper intermediate in time; does nothing where that is an
    /// operator's work. Issuance goes on under the present one, whatever the CA above does.
    ///
    /// `installed` is given each new one, after it is in force: it puts it into the ledger.
    ///
    /// Never ends; drop it to stop.
    pub async fn keep_upper<F>(&self, clock: &Clock, mut installed: F) -> Infallible
    where
        F: FnMut(Certificate) -> BoxFuture<'static, ()> + Send,
    {
        let Some(Certifier::Upstream(upstream)) = &self.options.certifier else {
            return std::future::pending().await;
        };
        let mut jumps = clock.jumps();
        let mut failures = 0;
        loop {
            let due = self
                .upper()
                .is_none_or(|upper| clock.now() >= upper.renewal_at);
            let wait = if due {
                match self.renew_upper(upstream, clock).await {
                    Ok(renewed) => {
                        failures = 0;
                        self.upper_trouble.send_replace(None);
                        if let Some(renewed) = renewed {
                            installed(renewed).await;
                        }
                        // Whatever it certifies, it is not run over.
                        LOOK
                    }
                    Err(error) => {
                        failures += 1;
                        let until = self.upper().map(|upper| rfc3339(upper.ends));
                        tracing::error!(
                            code = error.code(),
                            until = until.as_deref().unwrap_or("now"),
                            "the CA above did not renew what signs here: {error}"
                        );
                        let trouble = (error.code(), error.to_string());
                        self.upper_trouble.send_replace(Some(trouble));
                        upstream::backoff(failures)
                    }
                }
            } else {
                LOOK
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                // A clock that is gone does not jump any more.
                Ok(()) = jumps.changed() => {}
            }
        }
    }

    /// Has another root of the Arx above, by its subject key identifier, prepared here with a
    /// certificate under it.
    ///
    /// # Errors
    /// [`AuthorityError`] if that gives none, or it is not in order; then nothing was changed.
    pub(crate) async fn certified_under(
        &self,
        root: KeyId,
        now: impl Fn() -> SystemTime,
    ) -> Result<(), AuthorityError> {
        let Some(Certifier::Upstream(upstream)) = &self.options.certifier else {
            return Ok(());
        };
        let (state, replica) = (&self.state, &self.replica);
        // Whoever turned round from it was told to by the same.
        let wanted = (Some(root), Another::Follows);
        upstream::renew(upstream, state, replica, &self.options, wanted, now).await?;
        Ok(())
    }

    /// What is new; nothing, if another process has had it renewed.
    async fn renew_upper(
        &self,
        upstream: &Upstream,
        clock: &Clock,
    ) -> Result<Option<Certificate>, AuthorityError> {
        if self.follow_active().await? || self.successor().await?.is_some() {
            return Ok(None);
        }
        let (state, replica) = (&self.state, &self.replica);
        let another = Another::FollowsUnlessTurnedRound;
        let now = || clock.now();
        let installed = upstream::renew(
            upstream,
            state,
            replica,
            &self.options,
            (None, another),
            now,
        )
        .await?;
        self.follow_active().await?;
        tracing::info!(
            signer = installed.certificate().subject(),
            until = rfc3339(installed.certificate().not_after()),
            "the CA above has renewed what signs here"
        );
        Ok(Some(installed.certificate().clone()))
    }
}

/// Has the CA above certify the first upper intermediate, however often it has to be asked.
/// `told` hears of each failure. Never answers where that is an operator's work.
pub async fn first_chain(
    state: &State,
    replica: &Replica,
    options: &Options,
    clock: &Clock,
    mut told: impl FnMut(&AuthorityError) + Send,
) -> Installed {
    let Some(Certifier::Upstream(upstream)) = &options.certifier else {
        return std::future::pending().await;
    };
    let mut failures = 0;
    loop {
        let another = Another::Refused;
        match upstream::renew(upstream, state, replica, options, (None, another), || {
            clock.now()
        })
        .await
        {
            Ok(installed) => return installed,
            Err(error) => {
                failures += 1;
                told(&error);
                tokio::time::sleep(upstream::backoff(failures)).await;
            }
        }
    }
}
