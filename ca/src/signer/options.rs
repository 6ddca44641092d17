//! How keys outside of the state are reached, as configured.

use std::path::{Path, PathBuf};
use std::time::Duration;

use arx_daemon::config::Span;
use serde::Deserialize;

/// Everything that is said about keys outside of the state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outside {
    /// A token.
    pub pkcs11: Option<Pkcs11>,
    /// A signer socket.
    pub socket: Option<Socket>,
    /// Where the key of a root is to be that is made here.
    pub next: Custody,
}

/// Where the key of a root is to be that is made here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Custody {
    /// In the state, sealed.
    #[default]
    State,
    /// In a PKCS #11 token.
    Pkcs11,
    /// Behind a signer socket.
    Signer,
}

/// `[authority.pkcs11]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pkcs11 {
    /// The module of the token's maker, a shared library.
    pub module: PathBuf,
    /// The token, by its label.
    pub token_label: Option<String>,
    /// The token, by the number of its slot.
    pub slot: Option<u64>,
    /// The key that is to be a root's, by its label.
    pub key_label: String,
    /// The PIN of the token's user. Mode 0600.
    pub pin_file: PathBuf,
    /// Whether a key that is not there is made.
    #[serde(default)]
    pub make: bool,
    /// How long a call may take.
    #[serde(default = "ten_seconds")]
    pub deadline: Span,
}

fn ten_seconds() -> Span {
    Span::from_secs(10)
}

impl Pkcs11 {
    /// The token, in words.
    #[must_use]
    pub fn custody(&self) -> String {
        format!("PKCS#11 token {}", self.token())
    }

    /// What the token is called, as far as it is known before it is reached.
    #[must_use]
    pub fn token(&self) -> String {
        match (&self.token_label, self.slot) {
            (Some(label), _) => label.clone(),
            (None, slot) => format!("in slot {}", slot.unwrap_or_default()),
        }
    }

    /// How long a call may take.
    #[must_use]
    pub fn deadline(&self) -> Duration {
        self.deadline.get()
    }
}

/// `[authority.signer]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Socket {
    /// The Unix socket that the service listens on; or else:
    pub socket: Option<PathBuf>,
    /// Its host and port, for mutual TLS.
    pub address: Option<String>,
    /// What its certificate has to be for, if that is not the host.
    pub server_name: Option<String>,
    /// The authorities of its certificate, PEM.
    pub ca_file: Option<PathBuf>,
    /// The certificate that it is shown, followed by its chain, PEM.
    pub certificate_file: Option<PathBuf>,
    /// The key of that, PKCS #8 in PEM. Mode 0600.
    pub key_file: Option<PathBuf>,
    /// The key that is to be a root's, as the service calls it.
    pub key: String,
    /// How long a call may take.
    #[serde(default = "ten_seconds")]
    pub deadline: Span,
}

/// How a service is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way<'a> {
    /// By a Unix socket.
    Unix(&'a Path),
    /// By mutual TLS.
    Tls {
        /// Host and port.
        address: &'a str,
        /// What its certificate has to be for.
        server_name: &'a str,
        /// The certificate that it is shown.
        certificate: &'a Path,
        /// Its key.
        key: &'a Path,
        /// The authorities of the service's certificate.
        authorities: &'a Path,
    },
}

impl Socket {
    /// How it is reached.
    ///
    /// # Errors
    /// What does not fit together, in words.
    pub fn way(&self) -> Result<Way<'_>, String> {
        let tls = [&self.ca_file, &self.certificate_file, &self.key_file];
        match (&self.socket, &self.address) {
            (Some(path), None) if tls.iter().all(|file| file.is_none()) => Ok(Way::Unix(path)),
            (Some(_), None) => {
                Err("a Unix socket takes no certificates: leave them out".to_owned())
            }
            (None, Some(address)) => {
                let [Some(authorities), Some(certificate), Some(key)] = tls else {
                    let what = "an address takes ca_file, certificate_file and key_file, because \
                                both sides have to show who they are";
                    return Err(what.to_owned());
                };
                let (host, _port) = address
                    .rsplit_once(':')
                    .ok_or_else(|| format!("{address} has no port, such as :8600"))?;
                Ok(Way::Tls {
                    address,
                    server_name: self.server_name.as_deref().unwrap_or(host),
                    certificate,
                    key,
                    authorities,
                })
            }
            _ => Err("set either socket or address".to_owned()),
        }
    }

    /// Where it is, in words.
    #[must_use]
    pub fn place(&self) -> String {
        match (&self.socket, &self.address) {
            (Some(path), _) => path.display().to_string(),
            (None, address) => address.clone().unwrap_or_default(),
        }
    }

    /// How long a call may take.
    #[must_use]
    pub fn deadline(&self) -> Duration {
        self.deadline.get()
    }
}
