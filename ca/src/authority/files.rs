//! The operator's files while the process runs: looked at again and again, by what they contain,
//! and taken over only as a whole set that is in order.
//!
//! What is not in order changes nothing, and nothing is ever made in its place: the set before
//! goes on, and whoever asks is told. Another root in them is only kept at hand here; that it
//! becomes the active one is a rotation's matter.

use std::sync::PoisonError;
use std::time::{Duration, SystemTime};

use arx_daemon::clock::rfc3339;
use arx_identity::{Certificate, KeyId};

use super::operator::{Content, Found, Material};
use super::root::{self, describe};
use super::{Authority, AuthorityError, Problem, blocking, operator};
use crate::signer::{Signer, Sources};
use crate::state::{Authorities, KeyPlace, RootState};

const CERTIFICATE: &str = "authority.certificate_file";

/// What is known of the operator's files.
#[derive(Debug, Default)]
pub(super) struct Files {
    /// SHA-256 of what they contained when they were last looked at.
    content: Option<[u8; 32]>,
    /// The last set that was in order.
    taken: Option<Material>,
    /// Why what lies there now is not taken: code and message.
    refused: Option<(&'static str, String)>,
}

impl Files {
    /// As they were found at the start.
    pub(super) fn found(found: &Found) -> Self {
        Self {
            content: found.content,
            taken: found.material.clone().filter(|_| found.problems.is_empty()),
            refused: refusal(&found.problems),
        }
    }
}

/// A set that is not taken, as it is told.
fn refusal(problems: &[Problem]) -> Option<(&'static str, String)> {
    let code = problems.first()?.code;
    let all: Vec<_> = problems.iter().map(|one| one.message.as_str()).collect();
    Some((
        code,
        format!(
            "what lies in authority.certificate_file and key_file is not taken, and the set before \
             stays in use: {}",
            all.join("; ")
        ),
    ))
}

/// What keeps `material` from following one of the roots that are known.
pub(super) fn succeeds(material: &Material, known: &Authorities) -> Vec<Problem> {
    let mut problems = Vec::new();
    for root in &known.roots {
        let same = root.certificate == material.root;
        let name = describe(&root.certificate);
        if same && root.state == RootState::Distrusted {
            problems.push(Problem::new(
                CERTIFICATE,
                "ARX-AUTHORITY-DISTRUSTED",
                format!(
                    "the root {name} was distrusted here and is never taken again: make another"
                ),
            ));
        } else if !same && root.certificate.public_key() == material.root.public_key() {
            problems.push(Problem::new(
                CERTIFICATE,
                "ARX-AUTHORITY-SAME-KEY",
                format!(
                    "the root has the key of {name}, so nobody could tell the two apart: make a new \
                     key for it"
                ),
            ));
        } else if !same && root.certificate.subject() == material.root.subject() {
            problems.push(Problem::new(
                CERTIFICATE,
                "ARX-AUTHORITY-SAME-SUBJECT",
                format!(
                    "the root has the same subject as {name} and another key, and a verifier that \
                     looks issuers up by name would take the wrong one: give it a subject of its own"
                ),
            ));
        }
    }
    problems
}

impl Authority {
    /// Reads the operator's files again. If they contain something else than before, and all of
    /// it is in order, it is taken: an intermediate that was renewed below the same root at once,
    /// another root so that it can be rotated to. Answers the root of the set that is in use.
    ///
    /// # Errors
    /// [`AuthorityError`] if the state cannot be read or changed; then nothing was taken, and the
    /// next look tries again. What is wrong with the files is no error; see
    /// [`Authority::files_refused`].
    pub async fn look_at_files(
        &self,
        now: SystemTime,
    ) -> Result<Option<Certificate>, AuthorityError> {
        let Some(files) = self.options.operator.clone() else {
            return Ok(None);
        };
        let content = blocking(move || Ok(Content::read(&files))).await?;
        let sum = content.sha256();
        let (same, refused) = {
            let known = self.files();
            (known.content == Some(sum), known.refused.is_some())
        };
        // What was refused may have become valid by time alone.
        if !same || refused {
            let found = self.judge(content, now).await?;
            self.take(found, sum).await?;
        }
        Ok(self.files().taken.as_ref().map(|taken| taken.root.clone()))
    }

    /// How often the operator's files are to be looked at, if there are any.
    #[must_use]
    pub fn looks_every(&self) -> Option<Duration> {
        self.options.operator.as_ref().map(|files| files.every)
    }

    /// Why what lies in the operator's files is not in use, by code and message.
    #[must_use]
    pub fn files_refused(&self) -> Option<(&'static str, String)> {
        self.files().refused.clone()
    }

    /// The root that a CA outside has certified under, or that lies in the operator's files in
    /// order, if it is another than the active one.
    ///
    /// # Errors
    /// [`AuthorityError`] if the state cannot be read.
    pub async fn successor(&self) -> Result<Option<Certificate>, AuthorityError> {
        let stored = self.stored().await?;
        if self.options.certifier.is_some() {
            let mut roots = stored.roots.into_iter();
            let prepared = roots.find(|root| root.state == RootState::Prepared);
            return Ok(prepared.map(|root| root.certificate));
        }
        let active = stored.active().map(|active| active.certificate.clone());
        let taken = self.files().taken.as_ref().map(|taken| taken.root.clone());
        Ok(taken.filter(|taken| active.as_ref() != Some(taken)))
    }

    /// Whether intermediates can be signed here under a root that is in the state.
    ///
    /// # Errors
    /// [`AuthorityError::Signer`] if its key is not at hand.
    pub async fn can_sign(&self, root: KeyId) -> Result<(), AuthorityError> {
        let stored = self.stored().await?;
        if let Some(root) = stored.root(root) {
            root::key_of(root, &self.sources())?.reach().await?;
        }
        Ok(())
    }

    pub(super) fn files(&self) -> std::sync::MutexGuard<'_, Files> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn sources(&self) -> Sources {
        let sources = self.sources.lock();
        sources.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The set that is in use, if it is that of this root.
    pub(super) fn taken(&self) -> Option<Material> {
        self.files().taken.clone()
    }

    async fn judge(&self, content: Content, now: SystemTime) -> Result<Found, AuthorityError> {
        let Some(files) = self.options.operator.clone() else {
            return Ok(Found::default());
        };
        let (options, domain) = (self.options.clone(), self.trust_domain().clone());
        let sources = self.sources();
        let judged = blocking(move || {
            Ok(operator::judge(
                content, &files, &options, &sources, &domain, now,
            ))
        });
        let mut found = judged.await?.tried(self.trust_domain(), now).await;
        // It is not in use yet, so it has to be good for a while.
        found.problems.extend(found.short.take());
        if let Some(away) = found.away.take() {
            let message = away.to_string();
            let problem = Problem::new(CERTIFICATE, away.code(), message);
            found.problems.push(problem);
        }
        if let Some(material) = &found.material {
            found
                .problems
                .extend(succeeds(material, &self.stored().await?));
        }
        Ok(found)
    }

    async fn take(&self, found: Found, sum: [u8; 32]) -> Result<(), AuthorityError> {
        let refused = refusal(&found.problems);
        let material = found.material.filter(|_| refused.is_none());
        let Some(material) = material else {
            let mut known = self.files();
            if known.refused != refused
                && let Some((code, message)) = &refused
            {
                tracing::error!(code, "{message}");
            }
            known.content = Some(sum);
            known.refused = refused;
            return Ok(());
        };
        self.keep_at_hand(material.key.clone());
        self.follow_above(&material).await?;
        tracing::info!(
            root = material.root.subject(),
            until = rfc3339(material.root.not_after()),
            "what lies in the operator's files is in order, and taken"
        );
        *self.files() = Files {
            content: Some(sum),
            taken: Some(material),
            refused: None,
        };
        Ok(())
    }

    /// Beside the keys of other sets: a rotation signs by the one before until its end.
    fn keep_at_hand(&self, key: std::sync::Arc<dyn Signer>) {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let files = &mut sources.files;
        files.retain(|known| known.public_key() != key.public_key());
        files.insert(0, key);
    }

    /// Forgets the key of a set that was kept at hand.
    pub(crate) fn forget(&self, certificate: &Certificate) {
        let in_use = self
            .taken()
            .is_some_and(|it| it.key.public_key() == certificate.public_key());
        if !in_use {
            let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
            let files = &mut sources.files;
            files.retain(|known| known.public_key() != certificate.public_key());
        }
    }

    /// Goes on by what stands above this replica now, if the root is the active one.
    async fn follow_above(&self, material: &Material) -> Result<(), AuthorityError> {
        let _one_at_a_time = self.following.lock().await;
        let is_it = |authorities: &Authorities| {
            authorities.active().is_some_and(|active| {
                let elsewhere = !matches!(active.key, KeyPlace::Stored(_));
                active.certificate == material.root && elsewhere
            })
        };
        if !is_it(&self.stored().await?) {
            return Ok(());
        }
        self.change(|authorities| {
            if !is_it(authorities) {
                return Ok(false);
            }
            let mut roots = authorities.roots.iter_mut();
            let active = roots.find(|root| root.state == RootState::Active);
            let active = active.expect("it was just looked at");
            let moved = active.key.to_string() != material.place.to_string();
            let differs = active.above != material.above || moved;
            (active.above, active.key) = (material.above.clone(), material.place.clone());
            Ok(differs)
        })
        .await?;
        let parent = root::load(&self.state, &self.sources()).await?;
        self.parent.send_replace(parent.into());
        Ok(())
    }
}
