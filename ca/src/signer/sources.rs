//! From where a key is to how it signs.

use std::sync::Arc;

use arx_identity::Certificate;

use super::{InMemory, Signer, SignerError};
use crate::state::KeyPlace;

/// How the keys are reached that are not in the state.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The operator's key, as it was read from its file.
    pub files: Option<Arc<dyn Signer>>,
}

impl Sources {
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
            KeyPlace::Files => self.files.clone().ok_or_else(|| {
                not_configured("name authority.certificate_file and key_file again")
            })?,
            KeyPlace::Pkcs11(_) => return Err(not_configured("add [authority.pkcs11]")),
            KeyPlace::Socket(_) => return Err(not_configured("add [authority.signer]")),
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
}
