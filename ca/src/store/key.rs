//! The names under which values are kept.
//!
//! A key always names its trust domain, and the issuer where the value is one issuer's
//! affair, so that nothing of one trust domain or root can be taken for another's.
//! As text: `<trust domain>/<kind>/[issuer=<subject key id>/][<name>]`. The parts cannot
//! contain a slash or an equals sign, so different keys have different texts, and a
//! [`Prefix`] is exactly a prefix of the text.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use arx_identity::{KeyId, TrustDomain};

use crate::hex;

const ISSUER: &str = "issuer=";

/// Where one value is kept.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Key {
    prefix: Prefix,
    name: Option<Segment>,
}

/// All keys of a trust domain, of one kind in it, or of one issuer in that kind.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Prefix {
    trust_domain: TrustDomain,
    // An issuer without a kind cannot be built.
    kind: Option<(Segment, Option<KeyId>)>,
}

/// One part of a key: 1 to 64 lower-case letters, digits, dots and hyphens, with a letter or
/// digit at both ends. A file name and the name of a Kubernetes object can hold it too.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Segment(Cow<'static, str>);

/// A text is not a key, or not a part of one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a {what}")]
pub struct KeyError {
    text: String,
    what: &'static str,
}

impl Key {
    /// The key of the only value of this kind in the trust domain.
    #[must_use]
    pub fn new(trust_domain: &TrustDomain, kind: &Segment) -> Self {
        Self {
            prefix: Prefix::kind(trust_domain, kind),
            name: None,
        }
    }

    /// The same key, of one issuer.
    #[must_use]
    pub fn of_issuer(mut self, issuer: KeyId) -> Self {
        self.prefix = self.prefix.of_issuer(issuer);
        self
    }

    /// The same key, with a name among its kind (and issuer).
    #[must_use]
    pub fn named(mut self, name: Segment) -> Self {
        self.name = Some(name);
        self
    }

    /// The trust domain that the value belongs to.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.prefix.trust_domain
    }

    /// What kind of value it is.
    #[must_use]
    pub fn kind(&self) -> &Segment {
        let (kind, _) = self
            .prefix
            .kind
            .as_ref()
            .expect("a key is built from a kind");
        kind
    }

    /// The issuer whose value it is, by its subject key identifier.
    #[must_use]
    pub fn issuer(&self) -> Option<KeyId> {
        self.prefix.kind.as_ref().and_then(|(_, issuer)| *issuer)
    }

    /// Its name among its kind and issuer.
    #[must_use]
    pub fn name(&self) -> Option<&Segment> {
        self.name.as_ref()
    }
}

impl Prefix {
    /// All keys of a trust domain.
    #[must_use]
    pub fn trust_domain(trust_domain: &TrustDomain) -> Self {
        Self {
            trust_domain: trust_domain.clone(),
            kind: None,
        }
    }

    /// All keys of one kind in a trust domain.
    #[must_use]
    pub fn kind(trust_domain: &TrustDomain, kind: &Segment) -> Self {
        Self {
            trust_domain: trust_domain.clone(),
            kind: Some((kind.clone(), None)),
        }
    }

    /// All keys of one kind and one issuer in a trust domain.
    #[must_use]
    pub fn issuer(trust_domain: &TrustDomain, kind: &Segment, issuer: KeyId) -> Self {
        Self::kind(trust_domain, kind).of_issuer(issuer)
    }

    /// What it is made of.
    pub(super) fn parts(&self) -> (&TrustDomain, Option<(&Segment, Option<KeyId>)>) {
        let kind = self.kind.as_ref();
        (
            &self.trust_domain,
            kind.map(|(kind, issuer)| (kind, *issuer)),
        )
    }

    fn of_issuer(mut self, issuer: KeyId) -> Self {
        if let Some((_, of)) = &mut self.kind {
            *of = Some(issuer);
        }
        self
    }

    /// Whether a key stands below this prefix: the same as `key.to_string()` beginning with
    /// `self.to_string()`.
    #[must_use]
    pub fn covers(&self, key: &Key) -> bool {
        self.trust_domain == key.prefix.trust_domain
            && match &self.kind {
                None => true,
                Some((kind, None)) => kind == key.kind(),
                Some(_) => self.kind == key.prefix.kind,
            }
    }
}

impl Segment {
    /// The most bytes that a part may have: the longest key identifier in hexadecimal.
    pub const MAX: usize = 64;

    /// A part known when the program is written.
    ///
    /// # Panics
    /// If `text` is not a part of a key; in a `const`, which is how it is meant to be used,
    /// that fails the build.
    #[must_use]
    pub const fn fixed(text: &'static str) -> Self {
        assert!(is_segment(text.as_bytes()), "not a part of a key");
        Self(Cow::Borrowed(text))
    }

    /// Parses a part.
    ///
    /// # Errors
    /// [`KeyError`] unless `text` has the form that the type describes.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        if is_segment(text.as_bytes()) {
            Ok(Self(Cow::Owned(text.to_owned())))
        } else {
            Err(KeyError::new(
                text,
                "part of a key: it takes 1 to 64 lower-case letters, digits, dots and hyphens, \
                 a letter or digit first and last",
            ))
        }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<KeyId> for Segment {
    fn from(id: KeyId) -> Self {
        Self(Cow::Owned(id.to_string()))
    }
}

impl KeyError {
    fn new(text: &str, what: &'static str) -> Self {
        // Enough to recognise it; the text may be anything.
        Self {
            text: text.escape_debug().take(80).collect(),
            what,
        }
    }
}

const fn is_segment(text: &[u8]) -> bool {
    const fn alphanumeric(byte: u8) -> bool {
        byte.is_ascii_lowercase() || byte.is_ascii_digit()
    }
    if text.is_empty() || text.len() > Segment::MAX {
        return false;
    }
    if !alphanumeric(text[0]) || !alphanumeric(text[text.len() - 1]) {
        return false;
    }
    let mut at = 0;
    while at < text.len() {
        if !alphanumeric(text[at]) && text[at] != b'-' && text[at] != b'.' {
            return false;
        }
        at += 1;
    }
    true
}

impl FromStr for Key {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        parse(text).ok_or_else(|| KeyError::new(text, "key of the state store"))
    }
}

fn parse(text: &str) -> Option<Key> {
    let mut parts = text.split('/');
    let trust_domain = TrustDomain::parse(parts.next()?).ok()?;
    let kind = Segment::parse(parts.next()?).ok()?;
    let mut key = Key::new(&trust_domain, &kind);
    let mut last = parts.next()?;
    if let Some(issuer) = last.strip_prefix(ISSUER) {
        key = key.of_issuer(hex::key_id(issuer)?);
        last = parts.next()?;
    }
    if !last.is_empty() {
        key = key.named(Segment::parse(last).ok()?);
    }
    parts.next().is_none().then_some(key)
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}{}",
            self.prefix,
            self.name.as_ref().map_or("", Segment::as_str)
        )
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/", self.trust_domain)?;
        if let Some((kind, issuer)) = &self.kind {
            write!(f, "{kind}/")?;
            if let Some(issuer) = issuer {
                write!(f, "{ISSUER}{issuer}/")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({self})")
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Prefix({self})")
    }
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Segment({})", self.0)
    }
}

#[cfg(test)]
mod tests;
