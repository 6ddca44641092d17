//! The compact form of a signed token (RFC 7515, 3.1), taken apart strictly. What a
//! header could ask for beyond algorithm and key name (embedded keys, key addresses,
//! critical extensions) is refused or not even read.

use std::borrow::Cow;
use std::fmt;

use arx_identity::crypto::TokenAlgorithm;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};

use super::Refused;
use super::claims::Claims;

/// Longest token that is looked at, in bytes. Those of Kubernetes have 1 to 2 KB.
pub(super) const MAX_TOKEN: usize = 16 << 10;

/// A token as its bearer sent it. It shows itself to nobody.
#[derive(Clone, Copy)]
pub struct Token<'a>(&'a str);

impl<'a> Token<'a> {
    /// The token in this text, without `Bearer`.
    #[must_use]
    pub fn new(text: &'a str) -> Self {
        Self(text)
    }

    /// What stands for the token in logs and in the ledger.
    #[must_use]
    pub fn id(&self) -> TokenId {
        let hash = arx_identity::crypto::sha256(self.0.as_bytes());
        let mut id = [0; 16];
        id.copy_from_slice(&hash[..16]);
        TokenId(id)
    }

    pub(super) fn text(&self) -> &'a str {
        self.0
    }

    /// Takes the token apart.
    pub(super) fn open(&self) -> Result<Compact<'a>, Refused> {
        let text = self.0;
        if text.len() > MAX_TOKEN {
            return Err(Refused::TooLarge);
        }
        let parts = || {
            let (signed, signature) = text.rsplit_once('.')?;
            let (header, claims) = signed.split_once('.')?;
            let whole = !claims.contains('.') && !header.is_empty() && !claims.is_empty();
            (whole && !signature.is_empty()).then_some((signed, header, claims, signature))
        };
        let (signed, header, claims, signature) =
            parts().ok_or(Refused::Malformed("it has not three parts between dots"))?;
        let decode = |part: &str| {
            URL_SAFE_NO_PAD
                .decode(part)
                .map_err(|_| Refused::Malformed("a part is not base64url without padding"))
        };
        Ok(Compact {
            signed: signed.as_bytes(),
            header: decode(header)?,
            claims: decode(claims)?,
            signature: decode(signature)?,
        })
    }
}

impl fmt::Debug for Token<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// The first half of a token's SHA-256: it names the token and gives nothing of it away.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TokenId([u8; 16]);

impl TokenId {
    /// The bytes of the hash.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenId({self})")
    }
}

/// The parts of a token, decoded and not yet understood.
pub(super) struct Compact<'a> {
    /// What the signature is over: header, dot, claims, as they were sent.
    pub(super) signed: &'a [u8],
    pub(super) signature: Vec<u8>,
    header: Vec<u8>,
    claims: Vec<u8>,
}

/// What is read of the header.
pub(super) struct Header {
    pub(super) algorithm: TokenAlgorithm,
    pub(super) kid: String,
}

impl Compact<'_> {
    pub(super) fn header(&self) -> Result<Header, Refused> {
        #[derive(Deserialize)]
        struct Raw<'a> {
            #[serde(borrow)]
            alg: Cow<'a, str>,
            kid: Option<String>,
            #[serde(default, deserialize_with = "whatever")]
            crit: bool,
        }
        let raw: Raw<'_> = object(&self.header)
            .and_then(|json| serde_json::from_slice(json).ok())
            .ok_or(Refused::Malformed(
                "its header is not a JSON object with alg",
            ))?;
        // Understanding none of them, we must refuse all of them (RFC 7515, 4.1.11).
        if raw.crit {
            return Err(Refused::Malformed("its header has critical extensions"));
        }
        Ok(Header {
            algorithm: TokenAlgorithm::from_name(&raw.alg).ok_or(Refused::Algorithm)?,
            kid: raw
                .kid
                .ok_or(Refused::Malformed("its header names no key (kid)"))?,
        })
    }

    pub(super) fn claims(&self) -> Result<Claims<'_>, Refused> {
        Claims::parse(&self.claims)
    }
}

/// `json` if it begins as an object does: serde would take the fields from an array, too.
pub(super) fn object(json: &[u8]) -> Option<&[u8]> {
    json.trim_ascii_start().starts_with(b"{").then_some(json)
}

/// True, whatever the value is: a key that is there.
fn whatever<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(deserializer).map(|_| true)
}
