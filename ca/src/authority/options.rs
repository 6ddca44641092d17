//! How the authority is configured, and which lifetimes cannot work together.

use std::path::PathBuf;
use std::time::Duration;

use arx_identity::KeyAlgorithm;
use arx_identity::crypto::PROVIDER;

use super::outside::Certifier;
use super::problem::{Problem, human};
use super::renewal::RootRenewal;
use crate::signer::options::{Custody, Outside};

/// The configuration of the authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Kind of key of a root that is made here.
    pub root_key: KeyAlgorithm,
    /// Lifetime of a root that is made here.
    pub root_ttl: Duration,
    /// When a root that is made here is replaced.
    pub root_renewal: RootRenewal,
    /// Lifetime of the replica's own issuing certificate.
    pub intermediate_ttl: Duration,
    /// Lifetime of the certificate that the node API shows.
    pub serving_ttl: Duration,
    /// DNS names in it beside its SPIFFE id.
    pub serving_names: Vec<String>,
    /// The operator's own authority instead of one that is made here.
    pub operator: Option<OperatorFiles>,
    /// Where keys are that are neither in the state nor in a file.
    pub outside: Outside,
    /// Who certifies what signs here, where the root's key is with a CA outside.
    pub certifier: Option<Certifier>,
    /// The longest lifetime that policy gives to anybody.
    pub longest_leaf: Duration,
}

/// The operator's own authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperatorFiles {
    /// PEM: a root, or an intermediate followed by its chain up to and including the root.
    pub certificate: PathBuf,
    /// PEM, PKCS #8: the key of the first certificate, mode 0600; or none, where that is in
    /// another place of [`Options::outside`].
    pub key: Option<PathBuf>,
    /// The set that was in use before, where the process has to be started while another follows
    /// it.
    pub previous: Option<Box<OperatorFiles>>,
    /// How often they are looked at.
    pub every: Duration,
}

/// Lifetimes beyond this overflow somewhere, and nobody means them.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 86_400);

/// Shorter certificates would end before they are renewed, for their times are whole seconds.
const SHORTEST: Duration = Duration::from_secs(5);

/// The least time in which an intermediate must be able to be renewed.
const LEAST_SPARE: Duration = Duration::from_secs(3);

impl Options {
    /// Whether a first start makes a root.
    fn makes_root(&self) -> bool {
        self.operator.is_none() && self.certifier.is_none()
    }

    /// The longest lifetime of anything that the intermediate signs.
    #[must_use]
    pub fn longest(&self) -> Duration {
        self.longest_leaf.max(self.serving_ttl)
    }

    /// Everything here that cannot work, whatever the files say.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut ttl = |setting, message: String| {
            problems.push(Problem::new(setting, "ARX-AUTHORITY-TTL", message));
        };
        for (setting, value) in [
            ("authority.root_ttl", self.root_ttl),
            ("authority.intermediate_ttl", self.intermediate_ttl),
            ("authority.serving_ttl", self.serving_ttl),
        ] {
            if value < SHORTEST || value > LONGEST {
                ttl(
                    setting,
                    format!("{} is not between 5s and 100 years", human(value)),
                );
            }
        }
        for (what, setting, value) in [
            (
                "the longest lifetime that policy gives",
                "authority.intermediate_ttl",
                self.longest_leaf,
            ),
            (
                "the serving certificate's lifetime",
                "authority.serving_ttl",
                self.serving_ttl,
            ),
        ] {
            let least = value.saturating_add(LEAST_SPARE);
            if self.intermediate_ttl < least {
                ttl(
                    setting,
                    format!(
                        "{what} ({}) does not fit into an intermediate of {} that is renewed in \
                         time: make authority.intermediate_ttl at least {}, better several times \
                         as long, or the other shorter",
                        human(value),
                        human(self.intermediate_ttl),
                        human(least),
                    ),
                );
            }
        }
        if self.makes_root() && self.root_ttl <= self.intermediate_ttl {
            ttl(
                "authority.root_ttl",
                format!(
                    "a root of {} ends before the intermediates of {} under it: make it longer",
                    human(self.root_ttl),
                    human(self.intermediate_ttl),
                ),
            );
        }
        if self.makes_root() && self.root_ttl > self.intermediate_ttl {
            self.lead(&mut problems);
        }
        let signs = matches!(
            self.root_key,
            KeyAlgorithm::EcdsaP256 | KeyAlgorithm::EcdsaP384 | KeyAlgorithm::Rsa(3072 | 4096)
        );
        if !signs {
            problems.push(Problem::new(
                "authority.root_key",
                "ARX-AUTHORITY-KEY-ALGORITHM",
                format!(
                    "no root with a key of kind {} is made: use ecdsa-p256, ecdsa-p384, rsa-3072 \
                     or rsa-4096, which every proxy verifies",
                    self.root_key
                ),
            ));
        }
        let cannot_make = PROVIDER == "ring"
            && matches!(self.root_key, KeyAlgorithm::Rsa(_))
            && self.outside.next == Custody::State;
        if signs && cannot_make && self.makes_root() {
            problems.push(Problem::new(
                "authority.root_key",
                "ARX-AUTHORITY-KEY-ALGORITHM",
                format!(
                    "this build (with ring) makes no key of kind {}: use ecdsa-p256 or \
                     ecdsa-p384, or an RSA root of your own",
                    self.root_key
                ),
            ));
        }
        problems
    }

    /// Whether a root that renews by itself leaves time for its rotation, and lives meanwhile.
    fn lead(&self, problems: &mut Vec<Problem>) {
        let Some(lead) = self.root_renewal.lead(self.root_ttl) else {
            return;
        };
        // With a quarter of the lead left, the gates of a rotation open whoever is in the way.
        let least = (self.longest() * 4 / 3).saturating_add(LEAST_SPARE);
        let most = self.root_ttl.saturating_sub(LEAST_SPARE);
        let setting = match self.root_renewal {
            RootRenewal::Auto(Some(_)) => "authority.root_renewal_lead",
            _ => "authority.root_ttl",
        };
        let message = if lead < least {
            format!(
                "a root of {} that is replaced {} before its end leaves no time for that: \
                 whoever holds a certificate of up to {} must get another first; begin at least \
                 {} before the end, make the root live longer, or say root_renewal = \"manual\"",
                human(self.root_ttl),
                human(lead),
                human(self.longest()),
                human(least),
            )
        } else if lead > most {
            format!(
                "a root of {} would be replaced {} before its end, as soon as it is made: choose \
                 a part of its life",
                human(self.root_ttl),
                human(lead),
            )
        } else {
            return;
        };
        problems.push(Problem::new(setting, "ARX-AUTHORITY-TTL", message));
    }
}
