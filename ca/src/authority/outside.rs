//! A root whose key is elsewhere: a CA outside certifies a longer-lived intermediate, the
//! upper one, whose key is made here and never leaves the state store. It signs the
//! intermediates of the replicas.
//!
//! The key is made once for each request and waits, sealed, until a chain for it comes. A chain
//! is held against everything that would break the mesh later before any of it is stored; it
//! takes its place together with its key, in one compare-and-swap.

use std::time::{Duration, SystemTime};

use arx_daemon::clock::rfc3339;
use arx_identity::profile::authority_request;
use arx_identity::{Certificate, PrivateKey, csr_pem};
use serde_json::Map;

use super::files::succeeds;
use super::operator;
use super::options::Options;
use super::parent::blocking;
use super::problem::Problem;
use super::root::describe;
use super::upstream::Upstream;
use super::{AuthorityError, OWN_KEY};
use crate::state::{
    Authorities, Decision, Document as _, KeyPlace, Loaded, Pending, Phase, Pkcs8, Replica, Root,
    RootState, State,
};

/// What problems with a chain are told of.
const SETTING: &str = "chain";

/// How many authorities may stand below the upper intermediate: the replicas' own.
pub const PATH_LENGTH: u8 = 1;

/// Who certifies the upper intermediate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Certifier {
    /// An operator, by hand.
    Offline,
    /// Another CA, asked by this process.
    Upstream(Upstream),
}

/// A request that waits for its chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// PKCS #10, PEM.
    pub request: String,
    /// When it was made, with its key.
    pub made: SystemTime,
}

/// What became of a chain that was in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Installed {
    /// It is the first: issuance can begin.
    First(Certificate),
    /// It has taken the place of an earlier one, under the same root.
    Renewed(Certificate),
    /// It is the one that stands there already.
    Already(Certificate),
    /// It stands under another root, which is prepared: a rotation has to lead there.
    Follows(Certificate),
}

/// What becomes of a chain under another root than the active one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Another {
    /// It is refused.
    Refused,
    /// Its root is prepared, to follow the active one.
    Follows,
    /// The same, unless somebody has turned round from it lately.
    FollowsUnlessTurnedRound,
}

/// How a chain is taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct How {
    pub(super) another: Another,
    /// Everything is checked, and nothing stored.
    pub(super) dry_run: bool,
}

impl Installed {
    /// The upper intermediate.
    #[must_use]
    pub fn certificate(&self) -> &Certificate {
        match self {
            Self::First(certificate)
            | Self::Renewed(certificate)
            | Self::Already(certificate)
            | Self::Follows(certificate) => certificate,
        }
    }
}

/// The request that waits. It is made, with its key, if none does.
///
/// # Errors
/// [`AuthorityError`] if the key cannot be made or stored.
pub async fn request(
    state: &State,
    replica: &Replica,
    now: SystemTime,
) -> Result<Asked, AuthorityError> {
    let waiting = |authorities: &Authorities| {
        let pending = authorities.pending.as_ref()?;
        Some(Asked {
            request: pending.request.clone(),
            made: pending.made,
        })
    };
    let stored = state.authorities().await?;
    if let Some(asked) = stored.and_then(|stored| waiting(&stored.value)) {
        return Ok(asked);
    }
    let trust_domain = state.trust_domain().clone();
    let (key, request) = blocking(move || {
        let key = PrivateKey::generate(OWN_KEY)?;
        let der = authority_request(&key, &trust_domain, "authority", PATH_LENGTH)?;
        Ok((key, csr_pem(&der)))
    })
    .await?;
    let (asked, generation) = state
        .update(
            &state.key(&Authorities::KIND),
            |found: Option<Loaded<Authorities>>| {
                let (mut authorities, generation) = taken_apart(found);
                // Another process may have been faster.
                if let Some(asked) = waiting(&authorities) {
                    return Ok(Decision::Keep((asked, generation)));
                }
                authorities.pending = Some(Pending {
                    key: Pkcs8::of(&key),
                    request: request.clone(),
                    made: now,
                    extra: Map::new(),
                });
                let asked = Asked {
                    request: request.clone(),
                    made: now,
                };
                Ok::<_, AuthorityError>(Decision::Write(authorities, (asked, generation + 1)))
            },
        )
        .await?;
    replica.saw_authorities(generation).await?;
    Ok(asked)
}

/// Takes the chain for the request that waits: PEM, the upper intermediate first, up to and
/// including the root. With `dry_run`, everything is checked and nothing is stored.
///
/// # Errors
/// [`AuthorityError::Problems`] with each defect; then nothing was changed. Another if the state
/// cannot be had.
pub async fn install(
    state: &State,
    replica: &Replica,
    options: &Options,
    pem: &str,
    dry_run: bool,
    now: SystemTime,
) -> Result<Installed, AuthorityError> {
    let how = How {
        another: Another::Refused,
        dry_run,
    };
    take(state, replica, options, pem, how, now).await
}

/// The same, where another root may come to follow the active one.
pub(super) async fn take(
    state: &State,
    replica: &Replica,
    options: &Options,
    pem: &str,
    how: How,
    now: SystemTime,
) -> Result<Installed, AuthorityError> {
    let certificates = read(pem)?;
    let stored = state.authorities().await?;
    let stored = stored.map(|stored| stored.value).unwrap_or_default();
    for root in &stored.roots {
        match root.state {
            RootState::Active if stands(root, &certificates) => {
                return Ok(Installed::Already(root.signer().clone()));
            }
            RootState::Prepared if stands(root, &certificates) => {
                return Ok(Installed::Follows(root.signer().clone()));
            }
            _ => {}
        }
    }
    let Some(pending) = &stored.pending else {
        return Err(refused(
            "ARX-AUTHORITY-NO-REQUEST",
            "no request waits for a chain: print one with `arx authority csr`, and have that \
             signed"
                .to_owned(),
        ));
    };
    let (asked, key) = (pending.request.clone(), pending.key.key()?);
    let (checked_by, trust_domain) = (options.clone(), state.trust_domain().clone());
    let of = trust_domain.clone();
    let found = blocking(move || {
        Ok(operator::examine(
            &certificates,
            key,
            SETTING,
            &checked_by,
            &of,
            now,
        ))
    })
    .await?;
    let found = found.tried(&trust_domain, now).await;
    let mut problems = found.problems;
    problems.extend(found.short);
    if let (Some(material), Another::Follows | Another::FollowsUnlessTurnedRound) =
        (&found.material, how.another)
    {
        problems.extend(succeeds(material, &stored));
    }
    if let (Some(material), Another::FollowsUnlessTurnedRound, Some(active)) =
        (&found.material, how.another, stored.active())
    {
        problems.extend(turned_round(state, &material.root, active, now).await?);
    }
    let Some(material) = found.material.filter(|_| problems.is_empty()) else {
        return Err(AuthorityError::Problems(problems));
    };
    let (upper, root) = match material.above.first() {
        Some(upper) => (upper.clone(), material.root),
        None => unreachable!("the key is ours alone, so no root is signed by it"),
    };
    let above = material.above;
    let (installed, generation) = state
        .update(
            &state.key(&Authorities::KIND),
            |found: Option<Loaded<Authorities>>| {
                let (mut authorities, generation) = taken_apart(found);
                let installed = put(&mut authorities, &asked, (&root, &above), how.another, now)?;
                let installed = installed(upper.clone());
                if how.dry_run {
                    return Ok::<_, AuthorityError>(Decision::Keep((installed, generation)));
                }
                Ok(Decision::Write(authorities, (installed, generation + 1)))
            },
        )
        .await?;
    replica.saw_authorities(generation).await?;
    Ok(installed)
}

/// Puts the chain and the key that waited for it where they belong.
fn put(
    authorities: &mut Authorities,
    asked: &str,
    (root, above): (&Certificate, &[Certificate]),
    another: Another,
    now: SystemTime,
) -> Result<fn(Certificate) -> Installed, AuthorityError> {
    let Some(pending) = authorities.pending.take_if(|it| it.request == asked) else {
        return Err(refused(
            "ARX-AUTHORITY-NO-REQUEST",
            "the request that it was for does not wait any more: look at what is installed, \
             with `arx status`"
                .to_owned(),
        ));
    };
    let active = authorities
        .roots
        .iter_mut()
        .find(|root| root.state == RootState::Active);
    let Some(active) = active else {
        if let Some(distrusted) = authorities.tombstone(root) {
            return Err(refused(
                "ARX-AUTHORITY-DISTRUSTED",
                format!(
                    "the chain ends at {}, which was distrusted here for good: have the request \
                     signed under another root, with another key",
                    describe(&distrusted.certificate)
                ),
            ));
        }
        let anew = authorities.is_to_begin_anew();
        if let Some(other) = authorities.roots.first().filter(|_| !anew) {
            return Err(refused(
                "ARX-AUTHORITY-NO-ACTIVE-ROOT",
                format!(
                    "no root in the state is active ({} is {}): restore a backup",
                    other.certificate.subject(),
                    other.state.as_str()
                ),
            ));
        }
        authorities.anew = false;
        authorities
            .roots
            .push(new(root, above, pending.key, RootState::Active, now));
        return Ok(Installed::First);
    };
    if active.certificate != *root && another != Another::Refused && is_outside(active) {
        let mut roots = authorities.roots.iter();
        let under_way =
            roots.find(|it| matches!(it.state, RootState::Prepared | RootState::Retiring));
        if let Some(other) = under_way {
            return Err(AuthorityError::RootState {
                root: other.certificate.subject().to_owned(),
                state: other.state.as_str().to_owned(),
                wanted: "followed by yet another one",
            });
        }
        authorities
            .roots
            .push(new(root, above, pending.key, RootState::Prepared, now));
        return Ok(Installed::Follows);
    }
    if active.certificate != *root {
        return Err(refused(
            "ARX-AUTHORITY-ROOT-CHANGED",
            format!(
                "the chain ends at {}, but this trust domain's root is {}: to put another in its \
                 place at once would cut off everybody who trusts the old one; have the request \
                 signed under the present root",
                describe(root),
                describe(&active.certificate)
            ),
        ));
    }
    if !is_outside(active) {
        return Err(refused(
            "ARX-AUTHORITY-KEY-ELSEWHERE",
            format!(
                "the root {} signs by a key that is there ({}), so no intermediate is put \
                 between",
                describe(root),
                active.key.as_str()
            ),
        ));
    }
    active.above = above.to_vec();
    active.key = KeyPlace::Stored(pending.key);
    Ok(Installed::Renewed)
}

fn new(
    root: &Certificate,
    above: &[Certificate],
    key: Pkcs8,
    state: RootState,
    now: SystemTime,
) -> Root {
    Root {
        certificate: root.clone(),
        state,
        key: KeyPlace::Stored(key),
        above: above.to_vec(),
        cross: None,
        added: now,
        extra: Map::new(),
    }
}

/// Whether somebody has turned a rotation to this root round, and a quarter of what was then
/// left to the present chain has not passed: so they have time, and it never ends unseen.
async fn turned_round(
    state: &State,
    root: &Certificate,
    active: &Root,
    now: SystemTime,
) -> Result<Option<Problem>, AuthorityError> {
    let rotations = state.rotations().await?;
    let last = rotations.all.last();
    let last = last.filter(|last| {
        let mut known = last.roots.iter();
        let id = root.subject_key_id();
        last.phase == Phase::Aborted
            && active.certificate != *root
            && known.any(|known| Some(known.key_id) == id)
    });
    Ok(last.and_then(|last| {
        let left = active.ends().duration_since(last.phase_began);
        let again = last.phase_began + left.unwrap_or_default() / 4;
        (now < again).then(|| {
            Problem::new(
                SETTING,
                "ARX-AUTHORITY-ROOT-CHANGED",
                format!(
                    "the chain ends at {}, and rotation {} to that was turned round: it begins \
                     again at {}, unless the CA outside certifies under the present root before",
                    describe(root),
                    last.id,
                    rfc3339(again)
                ),
            )
        })
    }))
}

/// Whether the key of this root is with a CA outside.
fn is_outside(root: &Root) -> bool {
    matches!(root.key, KeyPlace::Stored(_)) && !root.above.is_empty()
}

fn stands(active: &Root, certificates: &[Certificate]) -> bool {
    certificates.split_last().is_some_and(|(root, above)| {
        is_outside(active) && active.certificate == *root && active.above == above
    })
}

fn taken_apart(found: Option<Loaded<Authorities>>) -> (Authorities, u64) {
    found.map_or_else(Default::default, |found| (found.value, found.generation))
}

fn read(pem: &str) -> Result<Vec<Certificate>, AuthorityError> {
    let unusable = |what: String| {
        refused(
            "ARX-AUTHORITY-CERTIFICATE-FILE",
            format!(
                "it {what}: give the signed certificate in PEM, followed by its chain up to and \
                 including the root"
            ),
        )
    };
    if pem.len() as u64 > operator::LIMIT {
        return Err(unusable("is longer than 256 KiB".to_owned()));
    }
    Certificate::list_from_pem(pem).map_err(|error| unusable(format!("is not accepted ({error})")))
}

fn refused(code: &'static str, message: String) -> AuthorityError {
    AuthorityError::Problems(vec![Problem::new(SETTING, code, message)])
}

/// Whether an operator has chains signed by hand.
///
/// # Errors
/// [`AuthorityError::Problems`] with who does it instead.
pub fn by_hand(options: &Options) -> Result<(), AuthorityError> {
    let what = match &options.certifier {
        Some(Certifier::Offline) => return Ok(()),
        Some(Certifier::Upstream(_)) => {
            "the upstream CA is asked by the authority itself: see the log for what keeps it from \
             that"
        }
        None => {
            "the root of this trust domain signs by itself, and no chain from outside belongs \
             here: an offline root is configured before the first start, by root = \"offline\""
        }
    };
    Err(refused("ARX-AUTHORITY-NOT-OFFLINE", what.to_owned()))
}

/// Whether the stored root is of the configured kind.
pub(super) fn fits(stored: Option<&Authorities>, options: &Options) -> Result<(), Problem> {
    let Some(active) = stored.and_then(Authorities::active) else {
        return Ok(());
    };
    let root = describe(&active.certificate);
    match (&options.certifier, is_outside(active)) {
        (Some(_), false) => Err(Problem::new(
            "authority.root",
            "ARX-AUTHORITY-KEY-ELSEWHERE",
            format!(
                "this trust domain's root is {root}, which signs by a key that is there ({}), \
                 and not by a CA outside: leave authority.root and [authority.upstream] out",
                active.key.as_str()
            ),
        )),
        (None, true) => Err(Problem::new(
            "authority.root",
            "ARX-AUTHORITY-OUTSIDE-GONE",
            format!(
                "the key of this trust domain's root {root} is with a CA outside, and nothing \
                 says so: set root = \"offline\", or configure [authority.upstream] again"
            ),
        )),
        _ => Ok(()),
    }
}

/// Why nothing can be issued before a chain from outside is there; none if it can.
///
/// # Errors
/// [`AuthorityError`] if the state cannot be read.
pub async fn awaits(
    state: &State,
    options: &Options,
    now: SystemTime,
) -> Result<Option<String>, AuthorityError> {
    if options.certifier.is_none() {
        return Ok(None);
    }
    let stored = state.authorities().await?.map(|stored| stored.value);
    fits(stored.as_ref(), options).map_err(|problem| AuthorityError::Problems(vec![problem]))?;
    Ok(match stored.as_ref().and_then(Authorities::active) {
        None if stored.as_ref().is_some_and(Authorities::is_to_begin_anew) => {
            Some("the root before is distrusted, and no chain to another was installed".to_owned())
        }
        None if stored.as_ref().is_some_and(|it| !it.roots.is_empty()) => None,
        None => Some("no chain was installed yet".to_owned()),
        Some(root) if root.certificate.not_after() < now => None,
        Some(root) => root
            .above
            .iter()
            .find(|certificate| certificate.not_after() < now)
            .map(|certificate| {
                format!(
                    "{} has expired at {}",
                    certificate.subject(),
                    rfc3339(certificate.not_after())
                )
            }),
    })
}

/// When the upper intermediate should be renewed: when a third of its life is left.
#[must_use]
pub fn upper_renewal_at(upper: &Certificate, ends: SystemTime) -> SystemTime {
    let life = ends.duration_since(upper.not_before()).unwrap_or_default();
    ends - life / 3
}

/// How urgent the renewal of the upper intermediate is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// It is in the last third of its life.
    Third,
    /// And ends within 30 days.
    Month,
    /// And ends within 7 days.
    Week,
    /// It has ended.
    Over,
}

impl Urgency {
    /// Of an upper intermediate under which everything ends at `ends`; none before the last
    /// third of its life.
    #[must_use]
    pub fn of(upper: &Certificate, ends: SystemTime, now: SystemTime) -> Option<Self> {
        const DAY: Duration = Duration::from_secs(24 * 3600);
        if now < upper_renewal_at(upper, ends) {
            return None;
        }
        Some(match ends.duration_since(now) {
            Err(_) => Self::Over,
            Ok(left) if left < 7 * DAY => Self::Week,
            Ok(left) if left < 30 * DAY => Self::Month,
            Ok(_) => Self::Third,
        })
    }
}
