//! How keys outside of the state are reached, as configured.

use std::path::PathBuf;
use std::time::Duration;

use arx_daemon::config::Span;
use serde::Deserialize;

/// Everything that is said about keys outside of the state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outside {
    /// A token.
    pub pkcs11: Option<Pkcs11>,
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
