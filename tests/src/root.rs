//! An operator's own root.

use std::path::Path;
use std::time::{Duration, SystemTime};

use arx_daemon::files::write_atomically;
use arx_identity::profile::{self, Validity};
use arx_identity::{Certificate, KeyAlgorithm, PrivateKey, TrustDomain};

/// A root with its key.
pub struct Root {
    /// Self-signed.
    pub certificate: Certificate,
    /// Its key.
    pub key: PrivateKey,
}

impl Root {
    /// A root that is valid for so long from `now` on.
    ///
    /// # Errors
    /// If the trust domain is none.
    pub fn new(trust_domain: &str, now: SystemTime, lifetime: Duration) -> anyhow::Result<Self> {
        Self::of_kind(KeyAlgorithm::EcdsaP256, trust_domain, now, lifetime)
    }

    /// The same with a key of this kind.
    ///
    /// # Errors
    /// If the trust domain is none, or such a key can't be made.
    pub fn of_kind(
        kind: KeyAlgorithm,
        trust_domain: &str,
        now: SystemTime,
        lifetime: Duration,
    ) -> anyhow::Result<Self> {
        let key = PrivateKey::generate(kind)?;
        let validity = Validity::authority(now, lifetime);
        let unsigned = profile::root(
            key.public_key(),
            &TrustDomain::parse(trust_domain)?,
            validity,
        )?;
        let signature = key.sign(unsigned.to_be_signed())?;
        Ok(Self {
            certificate: unsigned.complete(&signature)?,
            key,
        })
    }

    /// Writes it to a folder; answers the lines of `[authority]` for it.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn write(&self, folder: &Path) -> anyhow::Result<String> {
        let (certificate, key) = (folder.join("root.pem"), folder.join("root.key"));
        write_atomically(&certificate, self.certificate.pem().as_bytes(), 0o644)?;
        write_atomically(&key, self.key.pkcs8_pem().as_bytes(), 0o600)?;
        Ok(format!(
            "certificate_file = {certificate:?}\nkey_file = {key:?}"
        ))
    }
}
