//! Other authorities below this one, in the same trust domain: who may ask for the certificate of
//! one, and what they may have. Nobody, unless the configuration names them.
//!
//! Whoever holds such a certificate can issue for everybody of the trust domain. So a caller is
//! believed only if this authority itself knows who it is: by a token that no agent was ever
//! given, or by a certificate that one of its own replicas has signed, and none below it.

mod api;
mod caller;
mod certify;
mod rate;
mod sync;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use arx_daemon::config::{Problems, Span};
use arx_identity::{SpiffeId, TrustDomain};
use serde::Deserialize;

pub use api::Api;
pub use rate::Rate;
pub use sync::Confirmed;

use crate::refusal::{Fault, Refusal};
use crate::state;

/// The shortest life of an authority's certificate: one that is renewed when a third is left must
/// outlive what it signs.
const SHORTEST: Duration = Duration::from_secs(60);
/// And the longest.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 86_400);
/// Authorities in a row below one that is certified here: its replicas' own, and more below.
const DEEPEST: u8 = 4;

/// `[[nested]]`: an authority that may stand below this one.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The SPIFFE id that it comes with.
    pub id: String,
    /// What it is called in its certificate and in the ledger.
    pub name: String,
    /// Longest life of its certificate, and the usual one.
    #[serde(default = "ninety_days")]
    pub max_ttl: Span,
    /// How many authorities may stand below it: the intermediates of its replicas are one.
    #[serde(default = "one")]
    pub path_length: u8,
}

fn ninety_days() -> Span {
    Span::from_secs(90 * 86_400)
}

fn one() -> u8 {
    1
}

/// Notes everything that is wrong with `[[nested]]`.
pub fn problems(all: &[Config], trust_domain: &TrustDomain, problems: &mut Problems<'_>) {
    for (at, one) in all.iter().enumerate() {
        let key = |field: &str| format!("nested[{at}].{field}");
        match SpiffeId::parse(&one.id) {
            Err(error) => problems.add(
                &key("id"),
                error.to_string(),
                "give the SPIFFE id of its service account, such as spiffe://example.org/ns/arx-system/sa/arx-ca",
            ),
            Ok(id) if id.trust_domain() != trust_domain => problems.add(
                &key("id"),
                format!("{id} is not of the trust domain {trust_domain}"),
                "an authority stands below one of its own trust domain only",
            ),
            Ok(id) if id.path() == "/arx" || id.path().starts_with("/arx/") => problems.add(
                &key("id"),
                format!("{id} is an id of Arx's own: nobody is granted it by policy"),
                "give the SPIFFE id of its service account",
            ),
            Ok(_) => {}
        }
        if let Err(error) = state::replica_name(&one.name) {
            problems.add(
                &key("name"),
                error.to_string(),
                "use lower-case letters, digits, dots and hyphens, at most 64",
            );
        }
        for (field, value) in [
            ("id", |it: &Config| &it.id),
            ("name", |it: &Config| &it.name),
        ] as [(&str, fn(&Config) -> &String); 2]
        {
            if all[..at].iter().any(|other| value(other) == value(one)) {
                problems.add(
                    &key(field),
                    format!("{} is there twice", value(one)),
                    "name each authority once, and each by another name",
                );
            }
        }
        if !(SHORTEST..=LONGEST).contains(&one.max_ttl.get()) {
            problems.add(
                &key("max_ttl"),
                format!("{} is not between 1m and 10 years", one.max_ttl),
                "leave it out for 90d",
            );
        }
        if !(1..=DEEPEST).contains(&one.path_length) {
            problems.add(
                &key("path_length"),
                format!("{} is not between 1 and {DEEPEST}", one.path_length),
                "leave it out for 1, which is for the intermediates of its replicas",
            );
        }
    }
}

/// What one of them is called among those who sign under a root. No replica has such a name.
fn called(name: &str) -> String {
    format!("nested:{name}")
}

/// Whether somebody who signs under a root is an authority below.
#[must_use]
pub fn is_below(replica: &str) -> bool {
    replica.starts_with("nested:")
}

/// Who may stand below. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Allowed(Arc<[Config]>);

/// What an authority below asks for.
#[derive(Clone, Debug)]
pub struct Wanted<'a> {
    /// The trust domain that it is of.
    pub trust_domain: &'a str,
    /// How many authorities may stand below it.
    pub path_length: u32,
    /// How long it may live; none for as long as it may.
    pub ttl: Option<Duration>,
}

/// What it gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    /// What it is called.
    pub name: String,
    /// How many authorities may stand below it.
    pub path_length: u8,
    /// How long it may live.
    pub ttl: Duration,
}

impl Allowed {
    /// Those whom the configuration names.
    #[must_use]
    pub fn new(all: &[Config]) -> Self {
        Self(all.into())
    }

    /// What the authority with this id is called.
    ///
    /// # Errors
    /// If it may not stand below.
    pub fn name(&self, id: &SpiffeId) -> Result<&str, Refusal> {
        self.entry(id).map(|entry| &*entry.name)
    }

    fn entry(&self, id: &SpiffeId) -> Result<&Config, Refusal> {
        let mut all = self.0.iter();
        all.find(|it| it.id == id.as_str()).ok_or_else(|| {
            Refusal::new(
                "ARX-NESTED-NOT-ALLOWED",
                Fault::Forbidden,
                format!("{id} may not stand below this authority: add it as [[nested]] to its configuration if it should"),
            )
        })
    }

    /// What `id` gets.
    ///
    /// # Errors
    /// Why it gets nothing.
    pub fn decide(
        &self,
        id: &SpiffeId,
        trust_domain: &TrustDomain,
        wanted: &Wanted<'_>,
    ) -> Result<Granted, Refusal> {
        let forbidden = |code, message| Err(Refusal::new(code, Fault::Forbidden, message));
        let allowed = self.entry(id)?;
        if wanted.trust_domain != trust_domain.as_str() {
            return forbidden(
                "ARX-NESTED-TRUST-DOMAIN",
                format!(
                    "an authority of another trust domain than {trust_domain} cannot stand below this one: whoever trusts this root would believe it about everybody here"
                ),
            );
        }
        let path_length = match u8::try_from(wanted.path_length) {
            Ok(length) if (1..=allowed.path_length).contains(&length) => length,
            _ => {
                return forbidden(
                    "ARX-NESTED-PATH-LENGTH",
                    format!(
                        "{id} may have 1 to {} authorities below it, and asks for {}: change path_length of its [[nested]] if it should",
                        allowed.path_length, wanted.path_length
                    ),
                );
            }
        };
        let most = allowed.max_ttl.get();
        match wanted.ttl {
            Some(ttl) if ttl > most => forbidden(
                "ARX-NESTED-TTL",
                format!(
                    "{id} may have a certificate of {}, and asks for one of {} s: let it ask for less, or change max_ttl of its [[nested]]",
                    allowed.max_ttl,
                    ttl.as_secs()
                ),
            ),
            Some(ttl) if ttl < SHORTEST => forbidden(
                "ARX-NESTED-TTL",
                format!(
                    "{id} asks for a certificate of {} s, and an authority's lives a minute at least",
                    ttl.as_secs()
                ),
            ),
            ttl => Ok(Granted {
                name: allowed.name.clone(),
                path_length,
                ttl: ttl.unwrap_or(most),
            }),
        }
    }
}
