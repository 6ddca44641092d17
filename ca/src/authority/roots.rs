//! Several roots at once: the one that comes next is made beside the active one, takes its
//! place, and the old one goes, or the other way round.
//!
//! Each step is one compare-and-swap that may be asked for again at any time, because whoever
//! steers a rotation does so after every restart. When a step is due is not decided here. A
//! step is refused, and changes nothing, if the roots are not where it begins.

use std::time::SystemTime;

use arx_identity::{Certificate, KeyId};
use serde_json::Map;

use super::files::succeeds;
use super::operator::{Material, TrialError, try_out};
use super::root::{self, describe};
use super::{Authority, AuthorityError, Crossing, Problem};
use crate::state::{
    Authorities, Decision, Document as _, KeyPlace, Loaded, Root, RootState, StateError,
};

const SETTING: &str = "authority";

tokio::task_local! {
    /// The step of a rotation on whose behalf roots are changed.
    static STEP: u64;
}

/// Does `work` on behalf of a step of a rotation, by the generation of the document in which that
/// was decided: roots that a later step has changed already stay as they are.
pub(crate) async fn at_step<T>(step: u64, work: impl Future<Output = T>) -> T {
    STEP.scope(step, work).await
}

impl Authority {
    /// The root that comes next, unless one is prepared already: the one that lies in the
    /// operator's files, if that is another than the active one; otherwise it is made, of the
    /// configured kind of key and lifetime. It has signed for trial when this answers, and signs
    /// nothing else before [`Authority::activate`].
    ///
    /// # Errors
    /// [`AuthorityError::Problems`] if there is no other in the files, none can be made where the
    /// active root's key is, or what the new one signs does not verify; [`AuthorityError::RootState`] while an earlier root is
    /// still retiring; another if state or keys cannot be had.
    pub async fn prepare_root(&self, now: SystemTime) -> Result<Certificate, AuthorityError> {
        self.prepare_next(now, None).await
    }

    /// The same, and the active root cross-certifies it, if it can: whoever has that alone then
    /// believes what is issued under the other. The second answer says whether it has, or why
    /// not; that is no reason not to prepare a root.
    ///
    /// # Errors
    /// As [`Authority::prepare_root`].
    pub async fn prepare_crossed_root(
        &self,
        now: SystemTime,
    ) -> Result<(Certificate, Crossing), AuthorityError> {
        let mut crossing = Crossing::Earlier;
        let root = self.prepare_next(now, Some(&mut crossing)).await?;
        Ok((root, crossing))
    }

    async fn prepare_next(
        &self,
        now: SystemTime,
        crossing: Option<&mut Crossing>,
    ) -> Result<Certificate, AuthorityError> {
        let stored = self.stored().await?;
        if prepared(&stored)?.is_none() {
            let next = self.next_root(now).await?;
            let mut cross = None;
            if let Some(crossing) = crossing {
                *crossing = match self.cross(active(&stored)?, &next.root(now), now).await {
                    Ok(made) => Crossing::Made(cross.insert(made).clone()),
                    Err(reason) => Crossing::Impossible(reason),
                };
            }
            self.change(|authorities| {
                if prepared(authorities)?.is_some() {
                    return Ok(false);
                }
                authorities.roots.push(Root {
                    cross: cross.clone(),
                    ..next.root(now)
                });
                Ok(true)
            })
            .await?;
        }
        // What is stored counts, not what was made: another process may have been faster.
        let stored = self.stored().await?;
        let Some(root) = prepared(&stored)? else {
            return Err(StateError::Contradiction {
                key: self.state.key(&Authorities::KIND).to_string(),
                detail: "the prepared root is gone again".to_owned(),
            }
            .into());
        };
        self.try_root(root, now).await?;
        Ok(root.certificate.clone())
    }

    async fn next_root(&self, now: SystemTime) -> Result<Next, AuthorityError> {
        let stored = self.stored().await?;
        let active = active(&stored)?;
        let taken = self.taken();
        if let Some(other) = taken.filter(|taken| taken.root != active.certificate) {
            let problems = succeeds(&other, &stored);
            return if problems.is_empty() {
                Ok(Next::Given(other))
            } else {
                Err(AuthorityError::Problems(problems))
            };
        }
        if !self.is_followed_by_own(active) {
            return Err(outside(active));
        }
        let sources = self.sources();
        let made = root::make(&self.state, &self.options, &sources, now).await?;
        Ok(Next::Made(made.0, made.1))
    }

    /// Whether the root that follows this one is made here.
    fn is_followed_by_own(&self, active: &Root) -> bool {
        let place = matches!(
            active.key,
            KeyPlace::Stored(_) | KeyPlace::Pkcs11(_) | KeyPlace::Socket(_)
        );
        place && active.above.is_empty() && self.options.operator.is_none()
    }

    /// Whether another root can follow this one, which is active: one that is made here, or lies
    /// in the operator's files.
    #[must_use]
    pub fn can_be_followed(&self, active: &Root) -> bool {
        let taken = self.taken();
        let given = taken.is_some_and(|taken| taken.root != active.certificate);
        given || self.is_followed_by_own(active)
    }

    /// Forgets a root that was prepared, and its key. Nothing happens if it is not there.
    ///
    /// # Errors
    /// [`AuthorityError::RootState`] if it is more than prepared; another if the state cannot
    /// be changed.
    pub async fn drop_prepared(&self, root: KeyId) -> Result<(), AuthorityError> {
        self.change(|authorities| remove(authorities, root, &RootState::Prepared, "dropped"))
            .await
    }

    /// Makes `to` the active root, and `from`, which is, a retiring one that keeps its key: so
    /// the same again with the two exchanged goes back. Nothing happens if it is so already.
    /// This replica goes on under `from` until [`Authority::follow_active`]; a new intermediate
    /// gets nobody under it from now on.
    ///
    /// # Errors
    /// [`AuthorityError::RootState`] if `from` is not active, or `to` is neither prepared nor
    /// retiring with its key; [`AuthorityError::Signer`] if that is not at hand; another if the
    /// state cannot be changed.
    pub async fn activate(&self, from: KeyId, to: KeyId) -> Result<(), AuthorityError> {
        // Whoever cannot sign by it must not make everybody wait for it.
        self.can_sign(to).await?;
        self.change(|authorities| exchange(authorities, from, to))
            .await
    }

    /// Takes a retiring root, its key and what was registered under it out of the state.
    /// Nothing happens if it is not there. Whether anybody still needs it is for the caller to
    /// know.
    ///
    /// # Errors
    /// [`AuthorityError::RootState`] if it is not retiring, or this replica itself still issues
    /// under it; another if the state cannot be changed.
    pub async fn retire(&self, root: KeyId) -> Result<(), AuthorityError> {
        const WANTED: &str = "retired";
        if let Some(issuing) = self.issuing()
            && issuing.root() == root
        {
            let stored = self.stored().await?;
            return match stored.root(root) {
                Some(_) => Err(refused(
                    &stored,
                    root,
                    "what this replica still issues under",
                    WANTED,
                )),
                None => Ok(()),
            };
        }
        let stored = self.stored().await?;
        self.change(|authorities| remove(authorities, root, &RootState::Retiring, WANTED))
            .await?;
        if let Some(gone) = stored.root(root) {
            self.forget(gone.signer());
        }
        Ok(())
    }

    /// Erases the key of a root that signs nothing any more, forgets what was registered under
    /// it, and notes that it must never be trusted again. Nothing happens if that is noted.
    ///
    /// # Errors
    /// [`AuthorityError::RootState`] if it is active or not there, or this replica itself still
    /// issues under it; another if the state cannot be changed.
    pub async fn distrust(&self, root: KeyId) -> Result<(), AuthorityError> {
        const WANTED: &str = "distrusted";
        if let Some(issuing) = self.issuing()
            && issuing.root() == root
        {
            let stored = self.stored().await?;
            let state = "what this replica still issues under";
            return Err(refused(&stored, root, state, WANTED));
        }
        let stored = self.stored().await?;
        self.change(|authorities| {
            known(authorities)?;
            let found = authorities.roots.iter_mut();
            let mut found = found.filter(|it| it.key_id() == Some(root));
            match found.next() {
                Some(it) if it.state == RootState::Distrusted => return Ok(false),
                Some(it) if matches!(it.state, RootState::Prepared | RootState::Retiring) => {
                    it.state = RootState::Distrusted;
                    it.key = KeyPlace::Erased;
                }
                it => {
                    let state = name(it.map(|it| &it.state));
                    return Err(refused(authorities, root, &state, WANTED));
                }
            }
            authorities.registrations.retain(|one| one.root != root);
            authorities.forget_crosses_by(root);
            Ok(true)
        })
        .await?;
        if let Some(gone) = stored.root(root) {
            self.forget(gone.signer());
        }
        Ok(())
    }

    /// Takes over whichever root is active in the state, and what signs for it, and answers
    /// whether that is another than before. [`Authority::keep`] then makes an intermediate and a serving certificate
    /// under it at once; [`Authority::issuing`] stays as it is until it has.
    ///
    /// # Errors
    /// [`AuthorityError`] if none is active, its key is not in the state, or the state cannot
    /// be read; the root before stays.
    pub async fn follow_active(&self) -> Result<bool, AuthorityError> {
        let _one_at_a_time = self.following.lock().await;
        let stored = self.stored().await?;
        let parent = self.parent();
        let same = |active: &Root| {
            active.key_id() == Some(parent.root_id)
                && active.signer() == parent.issuer.certificate()
        };
        if stored.active().is_some_and(same) {
            return Ok(false);
        }
        let parent = root::load(&self.state, &self.sources()).await?;
        tracing::info!(
            root = %parent.root_id,
            subject = parent.root.subject(),
            signer = parent.issuer.certificate().subject(),
            "something else signs intermediates"
        );
        self.parent.send_replace(parent.into());
        Ok(true)
    }

    /// Hands out the cross-certificate that is in the state for the active root, and none that
    /// is not; `distrusted` vouches for nobody any more.
    ///
    /// # Errors
    /// [`AuthorityError`] if the state cannot be read or changed.
    pub async fn follow_cross(&self, distrusted: Option<KeyId>) -> Result<(), AuthorityError> {
        let _one_at_a_time = self.following.lock().await;
        if let Some(root) = distrusted {
            self.change(|authorities| Ok(authorities.forget_crosses_by(root)))
                .await?;
        }
        let stored = self.stored().await?;
        let parent = self.parent();
        let same = stored.active().and_then(Root::key_id) == Some(parent.root_id);
        if same && stored.cross() != parent.cross.as_ref() {
            self.parent
                .send_replace(parent.with_cross(stored.cross()).into());
        }
        Ok(())
    }

    pub(super) async fn stored(&self) -> Result<Authorities, AuthorityError> {
        match self.state.authorities().await? {
            Some(stored) => Ok(stored.value),
            None => Err(self.gone()),
        }
    }

    pub(super) fn gone(&self) -> AuthorityError {
        let key = self.state.key(&Authorities::KIND).to_string();
        StateError::Gone { key }.into()
    }

    /// Changes the roots if `decide` says that it has. It may be asked more than once.
    pub(super) async fn change(
        &self,
        decide: impl Fn(&mut Authorities) -> Result<bool, AuthorityError> + Send,
    ) -> Result<(), AuthorityError> {
        let generation = self
            .state
            .update(
                &self.state.key(&Authorities::KIND),
                |found: Option<Loaded<Authorities>>| {
                    let Some(mut found) = found else {
                        return Err(self.gone());
                    };
                    let step = STEP.try_with(|step| *step).ok();
                    if step.is_some_and(|step| step < found.value.step) {
                        return Err(AuthorityError::Fenced);
                    }
                    Ok(if decide(&mut found.value)? {
                        found.value.step = step.unwrap_or(found.value.step);
                        Decision::Write(found.value, found.generation + 1)
                    } else {
                        Decision::Keep(found.generation)
                    })
                },
            )
            .await?;
        self.replica.saw_authorities(generation).await?;
        Ok(())
    }

    /// Issues under `root` by its stored key, and verifies that as a peer would.
    async fn try_root(&self, root: &Root, now: SystemTime) -> Result<(), AuthorityError> {
        let material = Material {
            key: root::key_of(root, &self.sources())?,
            place: root.key.clone(),
            above: root.above.clone(),
            root: root.certificate.clone(),
        };
        match try_out(&material, self.trust_domain(), now).await {
            Ok(()) => Ok(()),
            Err(TrialError::Signer(error)) if error.passes() => Err(error.into()),
            Err(reason) => Err(problem(
                "ARX-AUTHORITY-ROOT-TRIAL",
                format!(
                    "a certificate issued for trial under the prepared root {} does not verify, \
                     so it must not become the active one: abort the rotation, and begin \
                     another: {reason}",
                    describe(&material.root)
                ),
            )),
        }
    }
}

/// A root that is to be prepared.
enum Next {
    Made(Certificate, KeyPlace),
    Given(Material),
}

impl Next {
    fn root(&self, now: SystemTime) -> Root {
        let (certificate, key, above) = match self {
            Self::Made(certificate, place) => (certificate.clone(), place.clone(), Vec::new()),
            Self::Given(given) => (given.root.clone(), given.place.clone(), given.above.clone()),
        };
        Root {
            certificate,
            state: RootState::Prepared,
            key,
            above,
            cross: None,
            added: now,
            extra: Map::new(),
        }
    }
}

/// The root that is prepared, or none where one may be made.
fn prepared(authorities: &Authorities) -> Result<Option<&Root>, AuthorityError> {
    known(authorities)?;
    active(authorities)?;
    let in_state = |state| authorities.roots.iter().find(|root| root.state == state);
    match (in_state(RootState::Prepared), in_state(RootState::Retiring)) {
        (Some(prepared), _) => Ok(Some(prepared)),
        (None, Some(retiring)) => Err(AuthorityError::RootState {
            root: retiring.certificate.subject().to_owned(),
            state: retiring.state.as_str().to_owned(),
            wanted: "followed by yet another one",
        }),
        (None, None) => Ok(None),
    }
}

fn active(authorities: &Authorities) -> Result<&Root, AuthorityError> {
    authorities.active().ok_or_else(|| {
        problem(
            "ARX-AUTHORITY-NO-ACTIVE-ROOT",
            "no root in the state is active, so none can follow it: restore a backup".to_owned(),
        )
    })
}

/// Nothing is made beside a root whose key is not here.
fn outside(active: &Root) -> AuthorityError {
    let name = describe(&active.certificate);
    let message = match active.key {
        KeyPlace::Files => format!(
            "the active root {name} is the operator's, and so is the one that follows it: put that, \
             with its chain and its key, in place of authority.certificate_file and key_file; a \
             rotation to it then begins by itself"
        ),
        _ => format!(
            "the active root {name} (key: {}) comes from outside, and so does the one that follows \
             it: put that in place of authority.certificate_file",
            active.key
        ),
    };
    problem("ARX-AUTHORITY-ROOT-OUTSIDE", message)
}

/// Exchanges the active root; whether anything had to change.
fn exchange(authorities: &mut Authorities, from: KeyId, to: KeyId) -> Result<bool, AuthorityError> {
    known(authorities)?;
    let found = |id| authorities.root(id).map(|root| (&root.state, &root.key));
    match (found(from), found(to)) {
        (Some((RootState::Retiring, _)), Some((RootState::Active, _))) => return Ok(false),
        (Some((RootState::Active, _)), Some((RootState::Prepared | RootState::Retiring, key)))
            if !matches!(key, KeyPlace::Erased) => {}
        (Some((RootState::Active, _)), Some((RootState::Prepared | RootState::Retiring, _))) => {
            let state = "without a key";
            return Err(refused(authorities, to, state, "made the active one"));
        }
        (Some((RootState::Active, _)), other) => {
            let state = name(other.map(|(state, _)| state));
            return Err(refused(authorities, to, &state, "made the active one"));
        }
        (other, _) => {
            let state = name(other.map(|(state, _)| state));
            return Err(refused(
                authorities,
                from,
                &state,
                "replaced as the active one",
            ));
        }
    }
    for root in &mut authorities.roots {
        if root.key_id() == Some(from) {
            root.state = RootState::Retiring;
        } else if root.key_id() == Some(to) {
            root.state = RootState::Active;
        }
    }
    Ok(true)
}

/// Takes out a root that is in `state`, with what was registered under it; whether it was there.
fn remove(
    authorities: &mut Authorities,
    id: KeyId,
    state: &RootState,
    wanted: &'static str,
) -> Result<bool, AuthorityError> {
    known(authorities)?;
    match authorities.root(id) {
        None => return Ok(false),
        Some(root) if root.state == *state => {}
        Some(root) => {
            return Err(refused(authorities, id, root.state.as_str(), wanted));
        }
    }
    authorities.roots.retain(|root| root.key_id() != Some(id));
    authorities.forget_crosses_by(id);
    authorities.registrations.retain(|one| one.root != id);
    Ok(true)
}

/// Whoever meets a root in a state of a newer version changes none.
fn known(authorities: &Authorities) -> Result<(), AuthorityError> {
    let mut roots = authorities.roots.iter();
    let newer = |root: &&Root| {
        matches!(root.state, RootState::Unknown(_)) || matches!(root.key, KeyPlace::Unknown(_))
    };
    match roots.find(newer) {
        None => Ok(()),
        Some(root) => Err(AuthorityError::RootNewer {
            root: root.certificate.subject().to_owned(),
            state: match root.key {
                KeyPlace::Unknown(_) => format!("with its key in a {}", root.key),
                _ => root.state.as_str().to_owned(),
            },
        }),
    }
}

fn refused(
    authorities: &Authorities,
    id: KeyId,
    state: &str,
    wanted: &'static str,
) -> AuthorityError {
    let root = authorities.root(id);
    AuthorityError::RootState {
        root: root.map_or_else(
            || id.to_string(),
            |root| root.certificate.subject().to_owned(),
        ),
        state: state.to_owned(),
        wanted,
    }
}

fn name(state: Option<&RootState>) -> String {
    state.map_or("not there", RootState::as_str).to_owned()
}

fn problem(code: &'static str, message: String) -> AuthorityError {
    AuthorityError::Problems(vec![Problem::new(SETTING, code, message)])
}
