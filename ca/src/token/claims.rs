//! The claims of a service-account token (RFC 7519, 4.1, and Kubernetes' own under
//! `kubernetes.io`), as typed values. A claim that is read and stands twice is refused;
//! claims that nobody here reads are skipped.

use std::borrow::Cow;
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::Refused;
use super::jws::object;

/// How far the clocks of API server and authority may be apart.
pub const SKEW: Duration = Duration::from_secs(30);

/// End of the year 9999: later instants are not dates.
const LAST_SECOND: u64 = 253_402_300_799;

#[derive(Deserialize)]
pub(super) struct Claims<'a> {
    #[serde(borrow)]
    pub(super) iss: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) sub: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) aud: Audience<'a>,
    exp: Seconds,
    nbf: Option<Seconds>,
    iat: Option<Seconds>,
    pub(super) jti: Option<String>,
    #[serde(rename = "kubernetes.io", borrow)]
    pub(super) kubernetes: Kubernetes<'a>,
}

#[derive(Deserialize)]
pub(super) struct Kubernetes<'a> {
    #[serde(borrow)]
    pub(super) namespace: Cow<'a, str>,
    pub(super) serviceaccount: Bound,
    pub(super) pod: Option<Bound>,
    pub(super) node: Option<Bound>,
    pub(super) warnafter: Option<Seconds>,
}

/// An object that a token is bound to. The object that had this name at the time is known
/// by its UID; a later one of the same name has another.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Bound {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

impl<'a> Claims<'a> {
    pub(super) fn parse(json: &'a [u8]) -> Result<Self, Refused> {
        let json = object(json).ok_or(Refused::Malformed("its claims are not a JSON object"))?;
        // serde's own words would repeat what stands in the token.
        serde_json::from_slice(json).map_err(|error| {
            Refused::Malformed(if error.is_data() {
                "a claim that service-account tokens have is missing, twice there, or of another type"
            } else {
                "its claims are not JSON"
            })
        })
    }

    /// End of the token's validity.
    pub(super) fn expires(&self) -> SystemTime {
        self.exp.instant()
    }

    /// When it was issued, the epoch if it does not say.
    pub(super) fn issued(&self) -> SystemTime {
        self.iat.map_or(UNIX_EPOCH, |seconds| seconds.instant())
    }

    /// Refuses a token that is not valid at `now`, give or take [`SKEW`].
    pub(super) fn check_time(&self, now: SystemTime) -> Result<(), Refused> {
        if now >= self.expires() + SKEW {
            return Err(Refused::Expired);
        }
        let begins = [&self.nbf, &self.iat].into_iter().flatten();
        if begins.map(Seconds::instant).any(|from| from > now + SKEW) {
            return Err(Refused::NotYetValid);
        }
        Ok(())
    }

    /// Refuses a token whose subject is not the service account of its other claims.
    pub(super) fn check_subject(&self) -> Result<(), Refused> {
        let agree = self
            .sub
            .strip_prefix("system:serviceaccount:")
            .and_then(|rest| rest.split_once(':'))
            .is_some_and(|(namespace, name)| {
                namespace == self.kubernetes.namespace
                    && name == self.kubernetes.serviceaccount.name
            });
        if agree { Ok(()) } else { Err(Refused::Subject) }
    }
}

/// `aud`: one text or a list of them.
pub(super) struct Audience<'a>(Vec<Cow<'a, str>>);

impl Audience<'_> {
    /// The first of `wanted` that the token is for.
    pub(super) fn first_of<'w>(&self, wanted: &'w [String]) -> Option<&'w String> {
        wanted
            .iter()
            .find(|wanted| self.0.iter().any(|audience| audience == wanted.as_str()))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Audience<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMany;
        impl<'de> Visitor<'de> for OneOrMany {
            type Value = Audience<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an audience or a list of audiences")
            }

            fn visit_borrowed_str<E: Error>(self, one: &'de str) -> Result<Audience<'de>, E> {
                Ok(Audience(vec![Cow::Borrowed(one)]))
            }

            fn visit_str<E: Error>(self, one: &str) -> Result<Audience<'de>, E> {
                Ok(Audience(vec![Cow::Owned(one.to_owned())]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut many: A) -> Result<Audience<'de>, A::Error> {
                #[derive(Deserialize)]
                struct Item<'a>(#[serde(borrow)] Cow<'a, str>);
                let mut audiences = Vec::with_capacity(2);
                while let Some(Item(audience)) = many.next_element()? {
                    audiences.push(audience);
                }
                Ok(Audience(audiences))
            }
        }
        deserializer.deserialize_any(OneOrMany)
    }
}

/// A NumericDate in whole seconds, as Kubernetes writes it; fractions are refused.
#[derive(Clone, Copy)]
pub(super) struct Seconds(u64);

impl Seconds {
    fn instant(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.0)
    }
}

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u64::deserialize(deserializer)? {
            seconds if seconds <= LAST_SECOND => Ok(Self(seconds)),
            _ => Err(D::Error::custom("not a date")),
        }
    }
}
