//! The keys that say who is who: a root, made at the first start or the operator's, and under
//! it this replica's own short-lived intermediate, which signs everything else.
//!
//! The intermediate's key lives in memory only, unless the key above it may be out of reach at
//! the next start; then it is kept in the state too, sealed. It signs nothing before its certificate is
//! registered in the state store under a root that is active, and nothing before the ledger
//! has it; the two steps are [`Authority::prepare`] and [`Authority::install`].

mod below;
mod check;
mod closed;
mod cross;
mod error;
mod files;
mod issuing;
mod keep;
mod operator;
mod options;
mod outside;
mod parent;
mod problem;
mod reach;
mod renewal;
mod root;
mod roots;
mod sealed;
mod upper;
mod upstream;

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use arx_daemon::clock::rfc3339;
use arx_identity::profile::{self, Leaf, Validity};
use arx_identity::{
    CertChain, Certificate, KeyAlgorithm, KeyId, PrivateKey, SpiffeId, Svid, TrustDomain,
};
use serde_json::Map;
use tokio::sync::watch;

pub use self::below::Below;
pub use self::check::{Checked, check};
pub use self::cross::Crossing;
pub use self::error::AuthorityError;
use self::files::Files;
pub use self::issuing::{
    Issuing, SignError, Term, renewal_at, renewal_due, serving_at, serving_due, sign_leaf,
    sign_numbered_leaf,
};
pub use self::keep::{Health, Made};
use self::operator::Found;
pub use self::options::{OperatorFiles, Options};
pub use self::outside::{
    Asked, Certifier, Installed, PATH_LENGTH, Urgency, awaits, by_hand, install, request,
    upper_renewal_at,
};
use self::parent::{Parent, blocking};
pub use self::problem::Problem;
pub use self::reach::Reach;
pub use self::renewal::RootRenewal;
pub(crate) use self::roots::at_step;
use self::sealed::Kept;
pub use self::upper::{Upper, first_chain};
pub(crate) use self::upstream::backoff;
pub use self::upstream::{Arx, ArxError, Command, CommandError, Credentials, Upstream};
use crate::signer::Sources;
use crate::state::{
    Authorities, Decision, Document as _, Intermediate, Loaded, Replica, RootState, State,
    StateError,
};

/// The path of the id that an authority serves under.
pub const SERVING_PATH: &str = "/arx/ca";

/// How long after its end a registration is kept: rotations wait for it, with room for clocks
/// that differ.
const GRACE: Duration = Duration::from_secs(24 * 3600);

/// The kind of key of intermediates and serving certificates: the fastest to sign by, and made
/// in microseconds.
const OWN_KEY: KeyAlgorithm = KeyAlgorithm::EcdsaP256;

/// The authority of this replica.
#[derive(Debug)]
pub struct Authority {
    state: State,
    replica: Replica,
    options: Options,
    longest_leaf: Mutex<Duration>,
    /// How keys are reached that are not in the state.
    sources: Mutex<Sources>,
    /// What lies in the operator's files, as far as it is known.
    files: Mutex<Files>,
    /// Of the root that is active, as far as this replica knows.
    parent: watch::Sender<Arc<Parent>>,
    /// What the process before has kept, until this one begins to issue.
    kept: Mutex<Option<Kept>>,
    /// Held while it is read which root that is, so that an older answer never replaces a newer.
    following: tokio::sync::Mutex<()>,
    notes: Vec<String>,
    issuing: watch::Sender<Option<Arc<Issuing>>>,
    serving: watch::Sender<Option<Svid>>,
    health: watch::Sender<Health>,
    reach: watch::Sender<Reach>,
    /// Why the upper intermediate was not renewed, if it was tried.
    upper_trouble: watch::Sender<Option<(&'static str, String)>>,
    /// Intermediates that nothing more is signed by.
    given_up: watch::Sender<Vec<KeyId>>,
    /// The only root, once it was cut off.
    closed: OnceLock<String>,
}

/// An intermediate that is registered and does not sign yet.
#[derive(Debug)]
pub struct Prepared {
    /// What was registered; the ledger must have it before [`Authority::install`].
    pub registered: Intermediate,
    issuing: Arc<Issuing>,
}

impl Authority {
    /// The authority of the stored root, which is made, or taken from the operator's files, if
    /// there is none yet.
    ///
    /// # Errors
    /// [`AuthorityError::Problems`] with everything that the operator must change, or another
    /// if state or keys cannot be had.
    pub async fn open(
        state: State,
        replica: &Replica,
        options: Options,
        now: SystemTime,
    ) -> Result<Self, AuthorityError> {
        let problems = options.problems();
        if !problems.is_empty() {
            return Err(AuthorityError::Problems(problems));
        }
        if let Some(reason) = awaits(&state, &options, now).await? {
            return Err(AuthorityError::Awaiting(reason));
        }
        let stored = state.authorities().await?;
        outside::fits(stored.as_ref().map(|stored| &stored.value), &options)
            .map_err(|problem| AuthorityError::Problems(vec![problem]))?;
        let sources = Sources::new(&options.outside);
        let found = check::operator(&options, &sources, state.trust_domain(), now).await?;
        Self::with(state, replica, options, found, now).await
    }

    /// The same by what was found in the operator's files.
    async fn with(
        state: State,
        replica: &Replica,
        options: Options,
        found: Found,
        now: SystemTime,
    ) -> Result<Self, AuthorityError> {
        let mut found = found;
        let mut notes = std::mem::take(&mut found.notes);
        let stored = state.authorities().await?.map(|stored| stored.value);
        check::at_start(&mut found, stored.as_ref(), &mut notes);
        let kept = Kept::find(&state, replica, now).await?;
        let keys = found.material.iter().map(|material| material.key.clone());
        let keys = keys.chain(found.previous.clone()).collect();
        let sources = Sources::new(&options.outside).with_files(keys);
        if let (None, Some(away)) = (&stored, found.away.take()) {
            return Err(away.into());
        }
        let parent = if found.problems.is_empty() {
            let operator = found.material.as_ref();
            root::establish(&state, &options, operator, &sources, now).await
        } else {
            Err(AuthorityError::Problems(found.problems.clone()))
        };
        let parent = match (parent, &kept) {
            (Ok(parent), _) => parent,
            // Nothing else is taken, or made, in the place of what cannot be read, or is to come.
            (Err(AuthorityError::Problems(problems)), Some(kept))
                if !found.problems.is_empty() || problems[0].code == root::GONE =>
            {
                let error = AuthorityError::Problems(problems);
                notes.push(format!(
                    "going on under the intermediate of before until {}, although: {error}",
                    rfc3339(kept.not_after())
                ));
                root::absent(&state, &error).await?
            }
            (Err(error), _) => return Err(error),
        };
        let stored = state.authorities().await?.map(|stored| stored.value);
        if let Some(active) = stored.as_ref().and_then(Authorities::active) {
            match check::ends(active, &options, now) {
                check::Ends::InTime => {}
                check::Ends::Soon(note) => notes.push(note),
                check::Ends::Over(problem) => return Err(AuthorityError::Problems(vec![problem])),
            }
        }
        clear(&state, now).await;
        Ok(Self {
            state,
            replica: replica.clone(),
            longest_leaf: Mutex::new(options.longest()),
            options,
            sources: Mutex::new(sources),
            files: Mutex::new(Files::found(&found)),
            parent: watch::Sender::new(Arc::new(parent)),
            kept: Mutex::new(kept),
            following: tokio::sync::Mutex::default(),
            notes,
            issuing: watch::Sender::new(None),
            serving: watch::Sender::new(None),
            health: watch::Sender::default(),
            reach: watch::Sender::default(),
            upper_trouble: watch::Sender::default(),
            given_up: watch::Sender::default(),
            closed: OnceLock::new(),
        })
    }

    /// The root that new intermediates stand under: the active one, as far as this replica
    /// knows. What signs leaves may still stand under the one before; see [`Issuing::root`].
    #[must_use]
    pub fn root(&self) -> Certificate {
        self.parent().root.clone()
    }

    /// Its subject key identifier.
    #[must_use]
    pub fn root_key_id(&self) -> KeyId {
        self.parent().root_id
    }

    /// Where the key is that signs intermediates.
    #[must_use]
    pub fn custody(&self) -> String {
        self.parent().custody.clone()
    }

    /// The same, if the key may be out of reach while the state is not.
    #[must_use]
    pub fn outside(&self) -> Option<String> {
        let parent = self.parent();
        parent.outside.then(|| parent.custody.clone())
    }

    /// When a root is to be replaced that was made here at `made` and ends at `ends`; nothing, if
    /// that is the operator's to do.
    #[must_use]
    pub fn root_due(&self, made: SystemTime, ends: SystemTime) -> Option<SystemTime> {
        self.options.root_renewal.due(made, ends)
    }

    /// When the intermediate is renewed; never, if a new one could not live longer.
    #[must_use]
    pub fn renews_at(&self) -> Option<SystemTime> {
        renewal_at(self.issuing()?.term(), self.longest_leaf())
    }

    /// How it is configured, but for the longest leaf, which may change.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// What the operator should know about how this authority was found at its start.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// What signs now.
    #[must_use]
    pub fn issuing(&self) -> Option<Arc<Issuing>> {
        self.issuing.borrow().clone()
    }

    /// What signs, and what will.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Option<Arc<Issuing>>> {
        self.issuing.subscribe()
    }

    /// The certificate that this replica serves with.
    #[must_use]
    pub fn serving(&self) -> Option<Svid> {
        self.serving.borrow().clone()
    }

    /// Signs nothing more by this intermediate as soon as there is another: [`Authority::keep`]
    /// makes one at once, and serves under it.
    pub fn give_up(&self, intermediate: KeyId) {
        self.given_up.send_if_modified(|given_up| {
            let new = !given_up.contains(&intermediate);
            if new {
                given_up.push(intermediate);
            }
            new
        });
    }

    /// How long this replica can go on issuing.
    #[must_use]
    pub fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    /// Takes another longest lifetime from policy, when the configuration is loaded again.
    ///
    /// # Errors
    /// The relation that would not hold; the old one stays.
    pub fn set_longest_leaf(&self, longest_leaf: Duration) -> Result<(), Vec<Problem>> {
        let options = Options {
            longest_leaf,
            ..self.options.clone()
        };
        let problems = options.problems();
        if !problems.is_empty() {
            return Err(problems);
        }
        *self
            .longest_leaf
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = options.longest();
        Ok(())
    }

    /// The longest lifetime of anything that the intermediate signs.
    #[must_use]
    pub fn longest_leaf(&self) -> Duration {
        *self
            .longest_leaf
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn parent(&self) -> Arc<Parent> {
        self.parent.borrow().clone()
    }

    fn trust_domain(&self) -> &TrustDomain {
        self.state.trust_domain()
    }

    /// Makes an intermediate and registers it. It signs only after [`Authority::install`].
    ///
    /// # Errors
    /// [`AuthorityError`] if it could not be made, or its registration is not known to stand;
    /// then its key is gone, and whatever was registered has nobody who could sign by it.
    pub async fn prepare(&self, now: SystemTime) -> Result<Prepared, AuthorityError> {
        let parent = self.parent();
        let key = Arc::new(blocking(|| Ok(PrivateKey::generate(OWN_KEY)?)).await?);
        let whole = Validity::authority(now, self.options.intermediate_ttl);
        let validity = Validity {
            not_before: whole.not_before.max(parent.begins()),
            not_after: whole.not_after.min(parent.ends()),
        };
        let unsigned = profile::intermediate(
            &parent.issuer,
            key.public_key(),
            self.trust_domain(),
            self.replica.name(),
            validity,
            0,
        )?;
        let certificate = parent.sign(unsigned).await?;
        let mut chain = vec![certificate.clone()];
        chain.extend(parent.above.iter().cloned());
        self.keep_sealed(&parent, &chain, &key, now).await?;
        let issuing = sealed::issuing(chain, key, parent.root_id, now, parent.ends())?;
        let issuing = issuing.with_cross(parent.cross.clone());
        let registered = Intermediate {
            certificate,
            root: parent.root_id,
            replica: self.replica.name().to_owned(),
            registered: now,
            extra: Map::new(),
        };
        self.register(&registered, issuing.intermediate()).await?;
        Ok(Prepared {
            registered,
            issuing: Arc::new(issuing),
        })
    }

    async fn register(
        &self,
        intermediate: &Intermediate,
        key_id: KeyId,
    ) -> Result<(), AuthorityError> {
        let root = intermediate.root;
        let key = self
            .state
            .key_under(&Intermediate::KIND, root)
            .named(key_id.into());
        self.state.create(&key, intermediate).await?;
        let generation = self
            .state
            .update(
                &self.state.key(&Authorities::KIND),
                |found: Option<Loaded<Authorities>>| {
                    let (mut authorities, generation) = found
                        .map(|found| (found.value, found.generation))
                        .unwrap_or_default();
                    match authorities.root(root).map(|root| &root.state) {
                        Some(RootState::Active) => {}
                        other => {
                            return Err(AuthorityError::NotActive {
                                root: authorities.root(root).map_or_else(
                                    || root.to_string(),
                                    |root| root.certificate.subject().to_owned(),
                                ),
                                state: other.map_or("not there", RootState::as_str).to_owned(),
                            });
                        }
                    }
                    let ends = intermediate.certificate.not_after();
                    authorities.forget_ended(intermediate.registered, GRACE);
                    authorities.register(&intermediate.replica, root, key_id, ends);
                    Ok(Decision::Write(authorities, generation + 1))
                },
            )
            .await?;
        self.replica.saw_authorities(generation).await?;
        Ok(())
    }

    /// Lets a prepared intermediate sign from now on. Whoever still holds the one before may
    /// go on with it.
    pub fn install(&self, prepared: Prepared) -> Arc<Issuing> {
        self.issuing.send_replace(Some(prepared.issuing.clone()));
        prepared.issuing
    }

    /// Makes a serving certificate, with a new key. It must be in the ledger before
    /// [`Authority::install_serving`].
    ///
    /// # Errors
    /// [`AuthorityError`] if there is nothing to sign with, or it does not sign.
    pub fn prepare_serving(&self, now: SystemTime) -> Result<Svid, AuthorityError> {
        let issuing = self.issuing().ok_or(AuthorityError::NotReady)?;
        let key = Arc::new(PrivateKey::generate(OWN_KEY)?);
        let id = SpiffeId::new(self.trust_domain(), SERVING_PATH)
            .expect("a fixed path that the standard allows");
        let leaf = Leaf {
            public_key: key.public_key(),
            id: &id,
            dns_names: &self.options.serving_names,
            validity: Validity::leaf(issuing.issuer(), now, self.options.serving_ttl),
            revocable: false,
        };
        let certificate = sign_leaf(&issuing, &leaf)?;
        let above = issuing.handed_out(certificate.not_after()).cloned();
        let chain = std::iter::once(certificate.clone()).chain(above).collect();
        let chain =
            CertChain::new(chain).map_err(|error| AuthorityError::Serving(error.to_string()))?;
        Svid::new(chain, key).map_err(|error| AuthorityError::Serving(error.to_string()))
    }

    /// Lets [`Authority::serving`] answer this from now on.
    pub fn install_serving(&self, svid: Svid) {
        self.serving.send_replace(Some(svid));
    }
}

/// Removes intermediates that ended long ago, so that state does not grow with every restart;
/// what rotations count has its own place. Not being able to is no reason not to start.
async fn clear(state: &State, now: SystemTime) {
    /// Each costs a write; the next start goes on.
    const AT_ONCE: usize = 50;
    let cleared: Result<(), StateError> = async {
        let all = state.intermediates().await?;
        let ended = all
            .iter()
            .filter(|one| one.certificate.not_after() + GRACE < now);
        for intermediate in ended.take(AT_ONCE) {
            if let Some(key_id) = intermediate.certificate.subject_key_id() {
                let key = state.key_under(&Intermediate::KIND, intermediate.root);
                state.remove(&key.named(key_id.into())).await?;
            }
        }
        state.erase_ended(now).await
    }
    .await;
    if let Err(error) = cleared {
        tracing::warn!(
            code = error.code(),
            "ended intermediates stay in the state: {error}"
        );
    }
}

#[cfg(test)]
mod tests;
