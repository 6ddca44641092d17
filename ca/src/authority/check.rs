//! Whether the authority could start as it is configured, without writing anything.

use std::time::SystemTime;

use arx_daemon::clock::rfc3339;
use arx_identity::TrustDomain;

use super::AuthorityError;
use super::files::succeeds;
use super::operator::{self, Found};
use super::options::Options;
use super::outside::{self, Certifier};
use super::parent::blocking;
use super::problem::{Problem, human};
use super::root::{Choice, choose, describe, gone};
use crate::signer::{SignerError, Sources};
use crate::state::{Authorities, KeyPlace, Root, State};

const SETTING: &str = "authority";

/// What a look at the configured and the stored authority has found.
#[derive(Clone, Debug, Default)]
pub struct Checked {
    /// Each of them keeps the authority from starting.
    pub problems: Vec<Problem>,
    /// Where the key of the active root is, if it can be reached.
    pub reached: Option<String>,
    /// Why it can't be reached, which does not keep an authority from going on under the
    /// intermediate that it has.
    pub unreachable: Option<SignerError>,
    /// What the operator should know, and does not keep it from starting.
    pub notes: Vec<String>,
}

/// Validates the options, the operator's files, and the stored authority against them. `state`
/// is what [`State::inspect`] answers; none before the first start. Writes nothing.
pub async fn check(
    options: &Options,
    trust_domain: &TrustDomain,
    state: Option<&State>,
    now: SystemTime,
) -> Checked {
    let mut checked = Checked {
        problems: options.problems(),
        ..Checked::default()
    };
    if let Err(error) = look(options, trust_domain, state, now, &mut checked).await {
        checked
            .problems
            .push(Problem::new(SETTING, error.code(), error.to_string()));
    }
    checked
}

async fn look(
    options: &Options,
    trust_domain: &TrustDomain,
    state: Option<&State>,
    now: SystemTime,
    checked: &mut Checked,
) -> Result<(), AuthorityError> {
    let sources = Sources::new(&options.outside);
    let mut found = operator(options, &sources, trust_domain, now).await?;
    let keys = found.material.iter().map(|material| material.key.clone());
    let keys = keys.chain(found.previous.clone()).collect();
    let sources = sources.with_files(keys);
    checked.notes.append(&mut found.notes);
    let stored = match state {
        Some(state) => state.authorities().await?.map(|stored| stored.value),
        None => None,
    };
    at_start(&mut found, stored.as_ref(), &mut checked.notes);
    let usable = options.operator.is_none() || found.problems.is_empty();
    checked.problems.append(&mut found.problems);
    // Files that cannot be used say nothing about whether they would fit.
    if !usable {
        return Ok(());
    }
    if let Err(problem) = outside::fits(stored.as_ref(), options) {
        checked.problems.push(problem);
        return Ok(());
    }
    match choose(stored.as_ref(), found.material.as_ref()) {
        Ok(Choice::First) => match (&options.operator, found.away) {
            (Some(_), Some(away)) => checked.unreachable = Some(away),
            (Some(_), None) => {
                let note = "the first start will take the operator's root".to_owned();
                checked.notes.push(note);
            }
            (None, _) if options.certifier.is_some() => {
                checked.notes.push(match options.certifier {
                    Some(Certifier::Upstream(_)) => {
                        "the first start will ask the upstream CA for a certificate".to_owned()
                    }
                    _ => "the first start will wait for `arx authority install`".to_owned(),
                });
            }
            (None, _) => match sources.look(options.root_key).await {
                Ok(Some(key)) => {
                    checked
                        .notes
                        .push("the first start will make a root".to_owned());
                    checked.reached = Some(key);
                }
                Ok(None) => checked.notes.push(format!(
                    "the first start will make a root ({})",
                    options.root_key
                )),
                Err(error) => checked.unreachable = Some(error),
            },
        },
        Ok(Choice::Keep | Choice::Above) => {}
        Ok(Choice::Replaced) => {
            return replaced(&found, &sources, state, stored.as_ref(), now, checked).await;
        }
        Err(problem) => {
            checked.problems.push(problem);
            return Ok(());
        }
    }
    let Some(active) = stored.as_ref().and_then(|stored| stored.active()) else {
        return Ok(());
    };
    let files = matches!(active.key, KeyPlace::Files);
    let own = !files && options.certifier.is_none();
    if own && active.certificate.public_key().algorithm() != options.root_key {
        checked.notes.push(format!(
            "the root has a key of kind {}; authority.root_key = {} counts for the next one",
            active.certificate.public_key().algorithm(),
            options.root_key
        ));
    }
    let key = match found.material {
        // What is above us may be new, and then the key with it.
        Some(material) => material.key,
        None => sources.open(&active.key, active.signer())?,
    };
    match key.reach().await {
        Ok(()) => checked.reached = Some(key.custody().to_owned()),
        Err(error) => checked.unreachable = Some(error),
    }
    // What the operator has put there was looked at with its files.
    if files {
        return Ok(());
    }
    match ends(active, options, now) {
        Ends::InTime => {}
        Ends::Soon(note) => checked.notes.push(note),
        Ends::Over(problem) => checked.problems.push(problem),
    }
    Ok(())
}

/// What counts at a start only: a set that is not in use yet has to be good for a while, and to
/// be told from the roots that are known.
pub(super) fn at_start(found: &mut Found, stored: Option<&Authorities>, notes: &mut Vec<String>) {
    let root = found.material.as_ref().map(|material| &material.root);
    let in_use = stored
        .and_then(Authorities::active)
        .map(|active| &active.certificate);
    match found.short.take() {
        Some(short) if in_use.is_some() && in_use == root => notes.push(short.message),
        Some(short) => found.problems.push(short),
        None => {}
    }
    if let (Some(material), Some(stored)) = (&found.material, stored) {
        found.problems.extend(succeeds(material, stored));
    }
}

/// Whether a start goes on although the files hold another root than the active one.
async fn replaced(
    found: &Found,
    sources: &Sources,
    state: Option<&State>,
    stored: Option<&Authorities>,
    now: SystemTime,
    checked: &mut Checked,
) -> Result<(), AuthorityError> {
    let (Some(material), Some(active), Some(state)) =
        (&found.material, stored.and_then(Authorities::active), state)
    else {
        return Ok(());
    };
    let at_hand = sources.open(&active.key, active.signer()).is_ok()
        || state.is_sealed_under(active.key_id(), now).await?;
    if at_hand {
        checked.notes.push(format!(
            "the files hold another root than the active one: a rotation to {} begins at the start",
            describe(&material.root)
        ));
    } else {
        checked.problems.push(gone(active, material));
    }
    Ok(())
}

/// The operator's authority, if one is configured.
pub(super) async fn operator(
    options: &Options,
    sources: &Sources,
    trust_domain: &TrustDomain,
    now: SystemTime,
) -> Result<Found, AuthorityError> {
    let Some(files) = options.operator.clone() else {
        return Ok(Found::default());
    };
    let (options, domain) = (options.clone(), trust_domain.clone());
    let sources = sources.clone();
    let load = move || Ok(operator::load(&files, &options, &sources, &domain, now));
    let found = blocking(load).await?;
    Ok(found.tried(trust_domain, now).await)
}

/// How the end of what signs intermediates lies to now.
#[derive(Debug)]
pub(super) enum Ends {
    InTime,
    Soon(String),
    Over(Problem),
}

pub(super) fn ends(active: &Root, options: &Options, now: SystemTime) -> Ends {
    let root = active.certificate.subject();
    let at = rfc3339(active.ends());
    if let Some(upper) = active.above.iter().find(|one| one.not_after() < now) {
        return Ends::Over(Problem::new(
            SETTING,
            "ARX-AUTHORITY-EXPIRED",
            format!(
                "{}, which stands between the root and the replicas, has expired at {}: check \
                 this machine's clock; if it is right, have another certified under the same root",
                upper.subject(),
                rfc3339(upper.not_after())
            ),
        ));
    }
    match active.ends().duration_since(now) {
        Err(_) => Ends::Over(Problem::new(
            SETTING,
            "ARX-AUTHORITY-EXPIRED",
            format!(
                "the root {root} has expired at {at}, so nobody would accept what is issued \
                 under it: check this machine's clock; if it is right, begin anew with another \
                 root and state directory"
            ),
        )),
        Ok(_) if active.begins() > now => Ends::Over(Problem::new(
            SETTING,
            "ARX-AUTHORITY-NOT-YET-VALID",
            format!(
                "the root {root} is valid from {} on only: check this machine's clock",
                rfc3339(active.begins())
            ),
        )),
        Ok(left) if left < options.intermediate_ttl => Ends::Soon(format!(
            "the root {root} ends at {at}, so intermediates get less than their {}",
            human(options.intermediate_ttl)
        )),
        Ok(_) => Ends::InTime,
    }
}
