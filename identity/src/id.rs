//! SPIFFE ids and trust domains, by the SPIFFE-ID standard.
//!
//! Nothing here normalises: a name that is not exactly as the standard writes it is
//! refused, never mended.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Longest SPIFFE id in bytes (SPIFFE-ID, 2.3).
const MAX_ID: usize = 2048;
/// Longest trust domain name in bytes (SPIFFE-ID, 2.1).
const MAX_TRUST_DOMAIN: usize = 255;
const SCHEME: &str = "spiffe://";

/// Name of a trust domain, such as `example.org`: 1 to 255 of `[a-z0-9._-]`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// The trust domain with this name, without the scheme.
    ///
    /// # Errors
    /// What the standard does not allow, and where.
    pub fn parse(name: &str) -> Result<Self, IdError> {
        if name.is_empty() {
            return Err(IdError::NoTrustDomain);
        }
        if name.len() > MAX_TRUST_DOMAIN {
            return Err(IdError::TrustDomainTooLong(name.len()));
        }
        match name
            .chars()
            .find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '.' | '-' | '_'))
        {
            None => Ok(Self(name.into())),
            Some('@') => Err(IdError::UserInfo),
            Some(':') => Err(IdError::Port),
            Some(c) => Err(IdError::TrustDomainCharacter(c)),
        }
    }

    /// The name without scheme, as in `example.org`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The trust domain's own SPIFFE id, as in `spiffe://example.org`.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{SCHEME}{self}")
    }
}

/// A SPIFFE id, such as `spiffe://example.org/ns/default/sa/web`: at most 2,048 bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    whole: Arc<str>,
    trust_domain: TrustDomain,
}

impl SpiffeId {
    /// The id with this text.
    ///
    /// # Errors
    /// What the standard does not allow, and where.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        let rest = text.strip_prefix(SCHEME).ok_or(IdError::Scheme)?;
        if text.len() > MAX_ID {
            return Err(IdError::TooLong(text.len()));
        }
        if let Some(c) = rest.chars().find(|c| matches!(c, '?' | '#')) {
            return Err(IdError::QueryOrFragment(c));
        }
        let end = rest.find('/').unwrap_or(rest.len());
        let trust_domain = TrustDomain::parse(&rest[..end])?;
        check_path(&rest[end..])?;
        Ok(Self {
            whole: text.into(),
            trust_domain,
        })
    }

    /// The id of `path` (empty, or starting with `/`) in `trust_domain`.
    ///
    /// # Errors
    /// What the standard does not allow, and where.
    pub fn new(trust_domain: &TrustDomain, path: &str) -> Result<Self, IdError> {
        check_path(path)?;
        let whole = format!("{SCHEME}{trust_domain}{path}");
        if whole.len() > MAX_ID {
            return Err(IdError::TooLong(whole.len()));
        }
        Ok(Self {
            whole: whole.into(),
            trust_domain: trust_domain.clone(),
        })
    }

    /// The trust domain that the id belongs to.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The path with its leading `/`; empty for the trust domain's own id.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.whole[SCHEME.len() + self.trust_domain.as_str().len()..]
    }

    /// The whole id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.whole
    }
}

fn check_path(path: &str) -> Result<(), IdError> {
    if path.is_empty() {
        return Ok(());
    }
    let Some(path) = path.strip_prefix('/') else {
        return Err(IdError::PathStart);
    };
    if let Some(c) = path
        .chars()
        .find(|c| !matches!(c, 'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '-' | '_' | '/'))
    {
        return match c {
            '?' | '#' => Err(IdError::QueryOrFragment(c)),
            c => Err(IdError::PathCharacter(c)),
        };
    }
    if path.is_empty() || path.ends_with('/') {
        return Err(IdError::TrailingSlash);
    }
    for segment in path.split('/') {
        if matches!(segment, "" | "." | "..") {
            return Err(IdError::Segment(segment.to_owned()));
        }
    }
    Ok(())
}

/// Why a text is not a SPIFFE id or trust domain (SPIFFE-ID, 2).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Not `spiffe://`, in lower case.
    #[error("a SPIFFE id starts with spiffe://")]
    Scheme,
    /// Nothing between the scheme and the path.
    #[error("the trust domain is empty")]
    NoTrustDomain,
    /// More than 255 bytes.
    #[error("the trust domain has {0} bytes, 255 are allowed")]
    TrustDomainTooLong(usize),
    /// Outside `[a-z0-9._-]`.
    #[error("the trust domain contains {0:?}, only a-z 0-9 . - _ are allowed")]
    TrustDomainCharacter(char),
    /// `user@` before the trust domain.
    #[error("a SPIFFE id has no user part before the trust domain")]
    UserInfo,
    /// `:port` after the trust domain.
    #[error("a SPIFFE id has no port after the trust domain")]
    Port,
    /// `?` or `#`.
    #[error("a SPIFFE id has no query and no fragment, {0:?} is not allowed")]
    QueryOrFragment(char),
    /// A path that does not start with `/`.
    #[error("the path of a SPIFFE id starts with /")]
    PathStart,
    /// Outside `[a-zA-Z0-9._-]`.
    #[error("the path contains {0:?}, only a-z A-Z 0-9 . - _ are allowed")]
    PathCharacter(char),
    /// Empty, `.` or `..`.
    #[error("the path has the segment {0:?}; empty, . and .. are not allowed")]
    Segment(String),
    /// The path ends in `/`.
    #[error("the path ends with /")]
    TrailingSlash,
    /// More than 2,048 bytes.
    #[error("the SPIFFE id has {0} bytes, 2048 are allowed")]
    TooLong(usize),
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TrustDomain({self})")
    }
}

impl FromStr for TrustDomain {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        Self::parse(text)
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.whole)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SpiffeId({self})")
    }
}

impl FromStr for SpiffeId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests;
