//! The only root is distrusted, and no other has taken its place: nothing is issued until the
//! authority is started with another one.

use std::time::SystemTime;

use arx_identity::profile::{self, Validity};
use arx_identity::{Certificate, KeyId, PrivateKey};
use serde_json::Map;

use super::parent::blocking;
use super::root::describe;
use super::{Authority, AuthorityError, OWN_KEY};
use crate::state::{Authorities, KeyPlace, Root, RootState};

impl Authority {
    /// Takes the only root out of use for good, and lets another begin anew after it. Answers the
    /// placeholder that is to be in the bundle instead: a root whose key is gone, so that nothing
    /// can be signed by it. Nothing happens if that is done already.
    ///
    /// # Errors
    /// [`AuthorityError::RootState`] if it is not the active one, or another root is there that
    /// could take its place; another if the state cannot be changed.
    pub async fn cut_off(
        &self,
        root: KeyId,
        now: SystemTime,
    ) -> Result<Certificate, AuthorityError> {
        let placeholder = self.placeholder(now).await?;
        let stored = self.stored().await?;
        self.change(|authorities| close(authorities, root, &placeholder, now))
            .await?;
        self.stop_signing();
        if let Some(gone) = stored.root(root) {
            self.forget(gone.signer());
        }
        let stored = self.stored().await?;
        // What was stored counts, and it came last.
        let placeholder = stored.roots.last().map(|it| it.certificate.clone());
        placeholder.ok_or_else(|| self.gone())
    }

    async fn placeholder(&self, now: SystemTime) -> Result<Certificate, AuthorityError> {
        let trust_domain = self.state.trust_domain().clone();
        let validity = Validity::authority(now, self.options.root_ttl);
        blocking(move || {
            let key = PrivateKey::generate(OWN_KEY)?;
            let unsigned = profile::root(key.public_key(), &trust_domain, validity)?;
            let signature = key.sign(unsigned.to_be_signed())?;
            Ok(unsigned.complete(&signature)?)
        })
        .await
    }

    /// Signs nothing more: [`Authority::keep`] finds another root, or says that there is none.
    pub fn stop_signing(&self) {
        if let Some(issuing) = self.issuing() {
            self.issuing.send_replace(None);
            self.give_up(issuing.intermediate());
        }
    }

    /// # Errors
    /// [`AuthorityError::NothingTrusted`] if the only root was cut off since this process began;
    /// then nothing is signed any more.
    pub(super) async fn still_trusted(&self) -> Result<(), AuthorityError> {
        // Where the state cannot be read, nothing is known to be otherwise.
        let nothing = match self.stored().await {
            Ok(stored) => self.nothing_trusted(&stored),
            Err(_) => self.closed(),
        };
        match nothing {
            Some(nothing) => {
                self.stop_signing();
                Err(nothing)
            }
            None => Ok(()),
        }
    }

    /// Says so if no root is left that is trusted. It is said until the next start, also when
    /// there is another one by then: the bundle begins anew at a start only.
    #[must_use]
    pub fn nothing_trusted(&self, stored: &Authorities) -> Option<AuthorityError> {
        if let Some(gone) = stored.roots.first().filter(|_| stored.is_to_begin_anew()) {
            self.closed.get_or_init(|| describe(&gone.certificate));
        }
        self.closed()
    }

    fn closed(&self) -> Option<AuthorityError> {
        let root = self.closed.get()?.clone();
        Some(AuthorityError::NothingTrusted { root })
    }
}

fn close(
    authorities: &mut Authorities,
    root: KeyId,
    placeholder: &Certificate,
    now: SystemTime,
) -> Result<bool, AuthorityError> {
    let refused = |root: &Root| AuthorityError::RootState {
        root: root.certificate.subject().to_owned(),
        state: root.state.as_str().to_owned(),
        wanted: "left behind by the distrust of the only root",
    };
    for it in &mut authorities.roots {
        match (it.key_id() == Some(root), &it.state) {
            (true, RootState::Distrusted) => return Ok(false),
            (true, RootState::Active) => {
                (it.state, it.key) = (RootState::Distrusted, KeyPlace::Erased);
            }
            (false, RootState::Distrusted) => {}
            _ => return Err(refused(it)),
        }
    }
    authorities.roots.push(Root {
        certificate: placeholder.clone(),
        state: RootState::Distrusted,
        key: KeyPlace::Erased,
        above: Vec::new(),
        added: now,
        cross: None,
        extra: Map::new(),
    });
    authorities.registrations.retain(|one| one.root != root);
    authorities.anew = true;
    Ok(true)
}
