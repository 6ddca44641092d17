//! From where a key is to how it signs.

use std::sync::Arc;

use arx_identity::{Certificate, KeyAlgorithm, PrivateKey, PublicKey};
use tokio::task::spawn_blocking;

use super::options::{Custody, Outside, Pkcs11, Socket};
use super::socket::Remote;
use super::{InMemory, Signer, SignerError};
use crate::state::{KeyPlace, Pkcs8, SocketKey, TokenKey};

/// How the keys are reached that are not in the state.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The operator's keys, as they were read from files: the one in use first, then those of
    /// sets before it.
    pub(crate) files: Vec<Arc<dyn Signer>>,
    pkcs11: Option<Arc<Pkcs11>>,
    socket: Option<Arc<Socket>>,
    next: Custody,
}

/// A key that can sign for a root, and where it is found again.
#[derive(Debug)]
pub struct Key {
    /// Where it is.
    pub place: KeyPlace,
    /// How it signs.
    pub signer: Arc<dyn Signer>,
}

impl Sources {
    /// As configured.
    #[must_use]
    pub fn new(outside: &Outside) -> Self {
        Self {
            files: Vec::new(),
            pkcs11: outside.pkcs11.clone().map(Arc::new),
            socket: outside.socket.clone().map(Arc::new),
            next: outside.next,
        }
    }

    /// The same with the operator's keys, as they were read from files.
    #[must_use]
    pub fn with_files(self, files: Vec<Arc<dyn Signer>>) -> Self {
        Self { files, ..self }
    }

    /// The key in `place` that belongs to `certificate`. Whether it can be reached is found out
    /// when it signs.
    ///
    /// # Errors
    /// [`SignerError`] if nothing says how to reach it, or what is at hand is another key.
    pub fn open(
        &self,
        place: &KeyPlace,
        certificate: &Certificate,
    ) -> Result<Arc<dyn Signer>, SignerError> {
        let not_configured = |remedy| SignerError::NotConfigured {
            place: place.to_string(),
            remedy,
        };
        let signer: Arc<dyn Signer> = match place {
            KeyPlace::Stored(key) => Arc::new(InMemory::new(Arc::new(key.key()?), place.as_str())),
            KeyPlace::Files => {
                let mut all = self.files.iter();
                let wanted = certificate.public_key();
                let found = all.find(|key| key.public_key() == wanted);
                let found = found.or(self.files.first()).cloned();
                found.ok_or_else(|| {
                    not_configured("name authority.certificate_file and key_file again")
                })?
            }
            KeyPlace::Pkcs11(key) => {
                let options = self.pkcs11.as_ref();
                let options = options.ok_or_else(|| not_configured("add [authority.pkcs11]"))?;
                token(options, key, certificate.public_key())?
            }
            KeyPlace::Socket(key) => {
                let options = self.socket.as_ref();
                let options = options.ok_or_else(|| not_configured("add [authority.signer]"))?;
                let (key, public_key) = (key.clone(), certificate.public_key().clone());
                Arc::new(Remote::new(options, key, public_key)?)
            }
            KeyPlace::Erased => return Err(SignerError::Erased),
            KeyPlace::Unknown(_) => {
                return Err(SignerError::Newer {
                    place: place.to_string(),
                });
            }
        };
        if signer.public_key() == certificate.public_key() {
            Ok(signer)
        } else {
            Err(SignerError::OtherKey {
                custody: signer.custody().to_owned(),
                certificate: certificate.subject().to_owned(),
            })
        }
    }

    /// The key for a root that is made here: of this kind where it is made too, and in any case
    /// none of `used`, each of which was a root's already.
    ///
    /// # Errors
    /// [`SignerError`] if it cannot be had.
    pub async fn next(
        &self,
        algorithm: KeyAlgorithm,
        used: Vec<PublicKey>,
    ) -> Result<Key, SignerError> {
        match (self.next, &self.pkcs11, &self.socket) {
            (Custody::State, ..) => {
                let made = spawn_blocking(move || PrivateKey::generate(algorithm)).await;
                let key = Arc::new(made.map_err(|gone| SignerError::CutOff(gone.to_string()))??);
                let place = KeyPlace::Stored(Pkcs8::of(&key));
                let signer = Arc::new(InMemory::new(key, place.as_str()));
                Ok(Key { place, signer })
            }
            (Custody::Pkcs11, Some(options), _) => next_token(options, algorithm, used).await,
            (Custody::Signer, _, Some(options)) => {
                let key = Remote::next(options, &used).await?;
                let place = KeyPlace::Socket(key.place().clone());
                let signer = Arc::new(key);
                Ok(Key { place, signer })
            }
            (Custody::Signer, _, None) => Err(SignerError::NotConfigured {
                place: "signer socket".to_owned(),
                remedy: "add [authority.signer]",
            }),
            (Custody::Pkcs11, None, _) => Err(SignerError::NotConfigured {
                place: "PKCS#11 token".to_owned(),
                remedy: "add [authority.pkcs11]",
            }),
        }
    }

    /// The key that [`Sources::next`] would take, in words; nothing, if it would make one.
    ///
    /// # Errors
    /// [`SignerError`] if there would be none.
    pub async fn look(&self, algorithm: KeyAlgorithm) -> Result<Option<String>, SignerError> {
        let options = match (self.next, &self.pkcs11) {
            (Custody::State, _) => return Ok(None),
            (Custody::Pkcs11, Some(options)) => options,
            _ => {
                let key = self.next(algorithm, Vec::new()).await?;
                return Ok(Some(key.signer.custody().to_owned()));
            }
        };
        let asked = Arc::new(Pkcs11 {
            make: false,
            ..(**options).clone()
        });
        match next_token(&asked, algorithm, Vec::new()).await {
            Ok(key) => Ok(Some(key.signer.custody().to_owned())),
            Err(SignerError::KeyMissing { .. }) if options.make => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The key that is to sign for a certificate of the operator's beside which no key file is
    /// named.
    ///
    /// # Errors
    /// [`SignerError`] if nothing says how to reach it.
    pub fn of_operator(&self, certificate: &Certificate) -> Result<Key, SignerError> {
        if let (Some(options), Custody::Signer | Custody::State) = (&self.socket, self.next) {
            let (key, public_key) = (SocketKey::new(&options.key), certificate.public_key());
            let signer = Remote::new(options, key.clone(), public_key.clone())?;
            return Ok(Key {
                place: KeyPlace::Socket(key),
                signer: Arc::new(signer),
            });
        }
        let options = self.pkcs11.as_ref().ok_or(SignerError::NotConfigured {
            place: "no file".to_owned(),
            remedy: "name authority.key_file, or add [authority.pkcs11] or [authority.signer]",
        })?;
        let key = TokenKey::new(&options.token(), &options.key_label);
        let signer = token(options, &key, certificate.public_key())?;
        let place = KeyPlace::Pkcs11(key);
        Ok(Key { place, signer })
    }
}

#[cfg(feature = "pkcs11")]
fn token(
    options: &Arc<Pkcs11>,
    key: &TokenKey,
    public_key: &PublicKey,
) -> Result<Arc<dyn Signer>, SignerError> {
    let (options, key, public_key) = (Arc::clone(options), key.clone(), public_key.clone());
    Ok(Arc::new(super::pkcs11::Token::new(
        options, key, public_key,
    )))
}

#[cfg(feature = "pkcs11")]
async fn next_token(
    options: &Arc<Pkcs11>,
    algorithm: KeyAlgorithm,
    used: Vec<PublicKey>,
) -> Result<Key, SignerError> {
    let token = super::pkcs11::Token::next(options, algorithm, used).await?;
    let place = KeyPlace::Pkcs11(token.place().clone());
    let signer = Arc::new(token);
    Ok(Key { place, signer })
}

#[cfg(not(feature = "pkcs11"))]
fn token(
    _options: &Arc<Pkcs11>,
    _key: &TokenKey,
    _public_key: &PublicKey,
) -> Result<Arc<dyn Signer>, SignerError> {
    Err(SignerError::NotBuilt)
}

#[cfg(not(feature = "pkcs11"))]
async fn next_token(
    _options: &Arc<Pkcs11>,
    _algorithm: KeyAlgorithm,
    _used: Vec<PublicKey>,
) -> Result<Key, SignerError> {
    Err(SignerError::NotBuilt)
}
