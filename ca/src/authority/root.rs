//! Which root signs: the stored one, the operator's, or one that is made at the first start.
//!
//! The root, its key and its state are written in one step, so a crash leaves either nothing or
//! all of it; of several processes that start for the first time at once, one makes the root
//! and the others take it.

use std::sync::Arc;
use std::time::SystemTime;

use arx_daemon::clock::rfc3339;
use arx_identity::profile::{self, Validity};
use arx_identity::{Certificate, PublicKey};
use serde_json::Map;

use super::AuthorityError;
use super::operator::Material;
use super::options::Options;
use super::parent::{Parent, complete};
use super::problem::Problem;
use crate::signer::{Absent, Signer, Sources};
use crate::state::{
    Authorities, Decision, Document as _, KeyPlace, Loaded, Root, RootState, State, StateError,
};

const SETTING: &str = "authority.certificate_file";

/// The code of [`gone`].
pub(super) const GONE: &str = "ARX-AUTHORITY-ROOT-CHANGED";

/// What to do about the root at this start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// There is none: a first start.
    First,
    /// The active one is as the configuration says.
    Keep,
    /// The active one is, and what the operator has put between it and us is new, or its key is
    /// in another place.
    Above,
    /// The active one is not the one in the operator's files: that is to follow it.
    Replaced,
}

/// Holds the configured authority against the stored one.
pub(super) fn choose(
    stored: Option<&Authorities>,
    operator: Option<&Material>,
) -> Result<Choice, Problem> {
    if let (Some(stored), Some(material)) = (stored, operator)
        && let Some(root) = stored.tombstone(&material.root)
    {
        return Err(Problem::new(
            SETTING,
            "ARX-AUTHORITY-DISTRUSTED",
            format!(
                "the root is {}, which was distrusted here for good: take another one, with \
                 another key",
                describe(&root.certificate)
            ),
        ));
    }
    let Some(active) = stored.map_or(Ok(None), active_of)? else {
        return Ok(Choice::First);
    };
    let stored_root = describe(&active.certificate);
    match (operator, &active.key) {
        (_, KeyPlace::Erased) => Err(Problem::new(
            SETTING,
            "ARX-AUTHORITY-NO-ACTIVE-ROOT",
            format!("the key of the active root {stored_root} is erased: restore a backup"),
        )),
        // Whether what is configured reaches it is found out when it is opened.
        (None, KeyPlace::Stored(_) | KeyPlace::Pkcs11(_) | KeyPlace::Socket(_))
        | (_, KeyPlace::Unknown(_)) => Ok(Choice::Keep),
        (None, KeyPlace::Files) => Err(Problem::new(
            SETTING,
            "ARX-AUTHORITY-FILES-GONE",
            format!(
                "this trust domain's root is the operator's {stored_root}, and no \
                 authority.certificate_file and key_file are configured: name them again; no \
                 other root is made in its place, because nobody would trust it"
            ),
        )),
        (Some(material), _) if material.root != active.certificate => Ok(Choice::Replaced),
        (Some(_), place @ KeyPlace::Stored(_)) => Err(Problem::new(
            SETTING,
            "ARX-AUTHORITY-KEY-ELSEWHERE",
            format!(
                "the key of the root {stored_root} is in the {place}: leave \
                     authority.certificate_file and key_file out"
            ),
        )),
        (Some(material), place)
            if material.above != active.above
                || material.place.to_string() != place.to_string() =>
        {
            Ok(Choice::Above)
        }
        (Some(_), _) => Ok(Choice::Keep),
    }
}

/// The root that is active; none before the first start.
fn active_of(stored: &Authorities) -> Result<Option<&Root>, Problem> {
    match (stored.active(), stored.roots.first()) {
        (Some(active), _) => Ok(Some(active)),
        (None, None) => Ok(None),
        (None, Some(_)) if stored.is_to_begin_anew() => Ok(None),
        (None, Some(root)) => Err(Problem::new(
            SETTING,
            "ARX-AUTHORITY-NO-ACTIVE-ROOT",
            format!(
                "no root in the state is active ({} is {}): restore a backup",
                root.certificate.subject(),
                root.state.as_str()
            ),
        )),
    }
}

pub(super) fn describe(root: &Certificate) -> String {
    format!(
        "{} (valid until {})",
        root.subject(),
        rfc3339(root.not_after())
    )
}

/// The signer of the active root, which is made or taken over if there is none.
pub(super) async fn establish(
    state: &State,
    options: &Options,
    operator: Option<&Material>,
    sources: &Sources,
    now: SystemTime,
) -> Result<Parent, AuthorityError> {
    let stored = state.authorities().await?;
    let choice = choose(stored.as_ref().map(|stored| &stored.value), operator)
        .map_err(|problem| AuthorityError::Problems(vec![problem]))?;
    match (choice, operator) {
        (Choice::Keep | Choice::Replaced, _) => {}
        (Choice::First, None) => {
            let (certificate, place) = make(state, options, sources, now).await?;
            commit(state, None, || {
                active(certificate.clone(), place.clone(), Vec::new(), now)
            })
            .await?;
        }
        (Choice::First | Choice::Above, Some(material)) => {
            commit(state, Some(material), || {
                let (place, above) = (material.place.clone(), material.above.clone());
                active(material.root.clone(), place, above, now)
            })
            .await?;
        }
        (Choice::Above, None) => unreachable!("only the operator puts something above"),
    }
    // What counts is what the next start will find.
    let stored = state.authorities().await?;
    let choice = choose(stored.as_ref().map(|stored| &stored.value), operator)
        .map_err(|problem| AuthorityError::Problems(vec![problem]))?;
    let stored = stored.as_ref().and_then(|stored| stored.value.active());
    if let (Choice::Replaced, Some(active), Some(material)) = (choice, stored, operator)
        && key_of(active, sources).is_err()
    {
        return Err(AuthorityError::Problems(vec![gone(active, material)]));
    }
    load(state, sources).await
}

/// Another root is to follow the active one, which can't sign until it has.
pub(super) fn gone(active: &Root, material: &Material) -> Problem {
    Problem::new(
        SETTING,
        GONE,
        format!(
            "the root is {}, but this trust domain's root is {}, which everybody trusts until a \
             rotation has led to the other: its key is not at hand, and nothing is left that was \
             signed by it. Put its files back as authority.certificate_file and key_file and \
             replace them while the process runs, or name them as previous_certificate_file and \
             previous_key_file",
            describe(&material.root),
            describe(&active.certificate)
        ),
    )
}

/// The root that is active, with a key that is out of reach because of `reason`.
pub(super) async fn absent(
    state: &State,
    reason: &AuthorityError,
) -> Result<Parent, AuthorityError> {
    let stored = state.authorities().await?.map(|stored| stored.value);
    let active = stored
        .as_ref()
        .and_then(Authorities::active)
        .ok_or_else(|| contradiction(state, "no root is active".to_owned()))?;
    let key = Absent::new(
        active.signer().public_key().clone(),
        active.key.to_string(),
        reason.to_string(),
    );
    let cross = stored.as_ref().and_then(Authorities::cross);
    Ok(Parent::new(active, Arc::new(key), cross)?)
}

/// What issues under the root that is active.
pub(super) async fn load(state: &State, sources: &Sources) -> Result<Parent, AuthorityError> {
    let stored = state.authorities().await?;
    let stored = stored
        .ok_or_else(|| contradiction(state, "it is gone again".to_owned()))?
        .value;
    let active = active_of(&stored)
        .map_err(|problem| AuthorityError::Problems(vec![problem]))?
        .ok_or_else(|| contradiction(state, "there is no root".to_owned()))?;
    Ok(Parent::new(
        active,
        key_of(active, sources)?,
        stored.cross(),
    )?)
}

/// The key that signs for `root`.
pub(super) fn key_of(root: &Root, sources: &Sources) -> Result<Arc<dyn Signer>, AuthorityError> {
    Ok(sources.open(&root.key, root.signer())?)
}

fn contradiction(state: &State, detail: String) -> AuthorityError {
    let key = state.key(&Authorities::KIND).to_string();
    AuthorityError::State(StateError::Contradiction { key, detail })
}

/// A new root and where its key is, in nobody's hands yet.
pub(super) async fn make(
    state: &State,
    options: &Options,
    sources: &Sources,
    now: SystemTime,
) -> Result<(Certificate, KeyPlace), AuthorityError> {
    let key = sources.next(options.root_key, used(state).await?).await?;
    let validity = Validity::authority(now, options.root_ttl);
    let unsigned = profile::root(key.signer.public_key(), state.trust_domain(), validity)?;
    let certificate = complete(&*key.signer, unsigned).await?;
    Ok((certificate, key.place))
}

/// The keys of all roots that are, or were ever trusted: no other root gets one of them.
async fn used(state: &State) -> Result<Vec<PublicKey>, StateError> {
    let stored = state.authorities().await?.map(|stored| stored.value);
    let roots = stored.into_iter().flat_map(|stored| stored.roots);
    let mut used: Vec<_> = roots
        .map(|root| root.certificate.public_key().clone())
        .collect();
    for published in state.published().await? {
        let roots = published.roots.iter();
        used.extend(roots.map(|root| root.public_key().clone()));
    }
    Ok(used)
}

fn active(
    certificate: Certificate,
    key: KeyPlace,
    above: Vec<Certificate>,
    now: SystemTime,
) -> Root {
    Root {
        certificate,
        state: RootState::Active,
        key,
        above,
        cross: None,
        added: now,
        extra: Map::new(),
    }
}

/// Writes `root` as the first, or what stands above us under the root that is there; nothing,
/// if another process has been faster.
async fn commit(
    state: &State,
    operator: Option<&Material>,
    root: impl Fn() -> Root,
) -> Result<(), AuthorityError> {
    let key = state.key(&Authorities::KIND);
    state
        .update(&key, |found: Option<Loaded<Authorities>>| {
            let mut authorities = found.map(|found| found.value).unwrap_or_default();
            let choice = choose(Some(&authorities), operator)
                // Another process has made a root meanwhile: whether it suits is told next.
                .unwrap_or(Choice::Keep);
            match choice {
                Choice::Keep | Choice::Replaced => return Ok(Decision::Keep(())),
                Choice::First => {
                    authorities.roots.push(root());
                    authorities.anew = false;
                }
                Choice::Above => {
                    let active = authorities
                        .roots
                        .iter_mut()
                        .find(|root| root.state == RootState::Active);
                    if let Some(active) = active {
                        let Root { above, key, .. } = root();
                        (active.above, active.key) = (above, key);
                    }
                }
            }
            Ok::<_, StateError>(Decision::Write(authorities, ()))
        })
        .await?;
    Ok(())
}
