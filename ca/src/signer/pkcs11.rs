//! A key in a PKCS #11 token, such as an HSM or SoftHSM2: it signs there and never leaves.
//!
//! The module is loaded once per process, and one thread makes all calls to it, because a
//! module may block for as long as it likes; callers wait until their deadline.

mod connection;
mod key;
mod module;

use std::sync::Arc;

use arx_identity::{KeyAlgorithm, PublicKey};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use self::key::Wanted;
use super::options::Pkcs11 as Options;
use super::{Signer, SignerError};
use crate::state::TokenKey;

/// A key in a token.
#[derive(Debug)]
pub(super) struct Token {
    options: Arc<Options>,
    place: TokenKey,
    public_key: PublicKey,
    custody: String,
}

impl Token {
    /// The key at `place` that belongs to `public_key`. Reaches for nothing yet.
    pub(super) fn new(options: Arc<Options>, place: TokenKey, public_key: PublicKey) -> Self {
        let custody = place.to_string();
        Self {
            options,
            place,
            public_key,
            custody,
        }
    }

    /// The key for the next root: that with the configured label, which is made, if there is
    /// none and the configuration says so. A key of `used` signs for no other root; where the
    /// labelled one is, and keys may be made, the label gets a number.
    pub(super) async fn next(
        options: &Arc<Options>,
        algorithm: KeyAlgorithm,
        used: Vec<PublicKey>,
    ) -> Result<Self, SignerError> {
        let asked = Arc::clone(options);
        let work = move |loaded: &mut connection::Loaded| {
            loaded.with_session(&asked, |session| {
                key::next(session, &asked, algorithm, &used)
            })
        };
        let found = module::call(&options.module, work);
        let (place, public_key) =
            super::until(options.deadline(), &options.custody(), found).await?;
        Ok(Self::new(Arc::clone(options), place, public_key))
    }

    /// Where it is found again.
    pub(super) fn place(&self) -> &TokenKey {
        &self.place
    }

    fn wanted(&self) -> Wanted {
        Wanted {
            label: self.place.label.clone(),
            public_key: self.public_key.clone(),
        }
    }
}

impl Signer for Token {
    fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    fn custody(&self) -> &str {
        &self.custody
    }

    fn try_sign<'a>(&'a self, message: &'a [u8]) -> BoxFuture<'a, Result<Vec<u8>, SignerError>> {
        let (options, wanted, message) = (self.options.clone(), self.wanted(), message.to_vec());
        module::call(&self.options.module, move |loaded| {
            loaded.with_session(&options, |session| {
                let found = key::find(session, &wanted)?;
                key::sign(session, found, &wanted.public_key, &message)
            })
        })
        .boxed()
    }

    fn try_reach(&self) -> BoxFuture<'_, Result<(), SignerError>> {
        let (options, wanted) = (self.options.clone(), self.wanted());
        module::call(&self.options.module, move |loaded| {
            loaded.with_session(&options, |session| key::find(session, &wanted).map(drop))
        })
        .boxed()
    }

    fn deadline(&self) -> std::time::Duration {
        self.options.deadline()
    }
}
