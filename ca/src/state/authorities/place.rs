//! Where a private key is, and how that stands in the document.

use std::fmt;

use arx_identity::{KeyError, PrivateKey};
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use crate::state::wire;

/// Where the private key is that signs intermediates, with what is needed to find it again.
#[derive(Clone, Debug)]
pub enum KeyPlace {
    /// Here, sealed with the rest of the document.
    Stored(Pkcs8),
    /// In the operator's file.
    Files,
    /// In a PKCS #11 token.
    Pkcs11(TokenKey),
    /// Behind a signer socket.
    Socket(SocketKey),
    /// Nowhere any more.
    Erased,
    /// In a place of a newer version: nothing is signed by it here.
    Unknown(Newer),
}

/// A private key as it is stored. Zeroized when dropped, never printed.
#[derive(Clone)]
pub struct Pkcs8(Zeroizing<Vec<u8>>);

/// A place that only a newer version knows, as it stands in the document. Never printed: there
/// may be a key in it.
#[derive(Clone)]
pub struct Newer(Value);

/// A key in a PKCS #11 token. How the token is reached is a matter of each replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenKey {
    /// The token's label (CK_TOKEN_INFO).
    pub token: String,
    /// The key's label (CKA_LABEL).
    pub label: String,
    /// What a newer version has added.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// A key behind a signer socket. How that is reached is a matter of each replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketKey {
    /// What the key is called there.
    pub key: String,
    /// What a newer version has added.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl TokenKey {
    /// The key with this label in this token.
    #[must_use]
    pub fn new(token: &str, label: &str) -> Self {
        Self {
            token: token.to_owned(),
            label: label.to_owned(),
            extra: Map::new(),
        }
    }
}

impl SocketKey {
    /// The key of this name.
    #[must_use]
    pub fn new(key: &str) -> Self {
        Self {
            key: key.to_owned(),
            extra: Map::new(),
        }
    }
}

impl fmt::Display for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PKCS#11 token {}, key {}", self.token, self.label)
    }
}

impl KeyPlace {
    /// What kind of place it is.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Stored(_) => "state store",
            Self::Files => "operator's files",
            Self::Pkcs11(_) => "PKCS#11 token",
            Self::Socket(_) => "signer socket",
            Self::Erased => "erased",
            Self::Unknown(_) => "place of a newer version",
        }
    }

    /// Whether it may be out of reach while the state is not: what stands below such a key is
    /// kept, so that a restart needs nothing of it.
    #[must_use]
    pub fn is_outside(&self) -> bool {
        matches!(
            self,
            Self::Files | Self::Pkcs11(_) | Self::Socket(_) | Self::Unknown(_)
        )
    }
}

/// What `arx status` calls it.
impl fmt::Display for KeyPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pkcs11(key) => key.fmt(f),
            Self::Socket(key) => write!(f, "{}, key {}", self.as_str(), key.key),
            _ => f.write_str(self.as_str()),
        }
    }
}

impl Pkcs8 {
    /// This key, to be stored.
    #[must_use]
    pub fn of(key: &PrivateKey) -> Self {
        Self(Zeroizing::new(key.pkcs8_der().to_vec()))
    }

    /// The key.
    ///
    /// # Errors
    /// If it is not one.
    pub fn key(&self) -> Result<PrivateKey, KeyError> {
        PrivateKey::from_pkcs8_der(&self.0)
    }
}

impl fmt::Debug for Newer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Newer(..)")
    }
}

impl fmt::Debug for Pkcs8 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pkcs8(..)")
    }
}

/// A private key in a document, without copies that stay behind.
pub(in crate::state) mod pkcs8 {
    use super::*;

    pub(in crate::state) fn serialize<S: Serializer>(
        key: &Pkcs8,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        wire::secret::serialize(&key.0, serializer)
    }

    pub(in crate::state) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Pkcs8, D::Error> {
        wire::secret::deserialize(deserializer).map(Pkcs8)
    }
}

/// The place as it stands in the document: a word, or a map from a word to what belongs to it.
/// The place itself has no form outside of it, so that a key cannot be written anywhere else.
pub(super) struct Form(pub(super) KeyPlace);

/// The same to be written.
pub(super) struct FormOf<'a>(pub(super) &'a KeyPlace);

const STORED: &str = "stored";
const FILES: &str = "files";
const PKCS11: &str = "pkcs11";
const SOCKET: &str = "socket";
const ERASED: &str = "erased";

impl Serialize for FormOf<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        struct Secret<'a>(&'a Pkcs8);

        impl Serialize for Secret<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                pkcs8::serialize(self.0, serializer)
            }
        }

        match self.0 {
            KeyPlace::Stored(key) => serializer.collect_map([(STORED, Secret(key))]),
            KeyPlace::Pkcs11(key) => serializer.collect_map([(PKCS11, key)]),
            KeyPlace::Socket(key) => serializer.collect_map([(SOCKET, key)]),
            KeyPlace::Files => serializer.serialize_str(FILES),
            KeyPlace::Erased => serializer.serialize_str(ERASED),
            KeyPlace::Unknown(Newer(value)) => value.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Form {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Place).map(Self)
    }
}

/// Tells a place of a newer version from a damaged one.
struct Place;

impl<'de> Visitor<'de> for Place {
    type Value = KeyPlace;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("where a key is")
    }

    fn visit_str<E: Error>(self, word: &str) -> Result<KeyPlace, E> {
        Ok(match word {
            FILES => KeyPlace::Files,
            ERASED => KeyPlace::Erased,
            STORED | PKCS11 | SOCKET => return Err(E::custom("a place without what is there")),
            _ => KeyPlace::Unknown(Newer(Value::String(word.to_owned()))),
        })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<KeyPlace, A::Error> {
        struct Secret(Pkcs8);

        impl<'de> Deserialize<'de> for Secret {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                pkcs8::deserialize(deserializer).map(Self)
            }
        }

        let word: String = map
            .next_key()?
            .ok_or_else(|| A::Error::custom("no place of a key"))?;
        let place = match word.as_str() {
            STORED => KeyPlace::Stored(map.next_value::<Secret>()?.0),
            PKCS11 => KeyPlace::Pkcs11(map.next_value()?),
            SOCKET => KeyPlace::Socket(map.next_value()?),
            FILES | ERASED => return Err(A::Error::custom("a place with what is not there")),
            _ => {
                let mut all = Map::new();
                all.insert(word, map.next_value()?);
                while let Some((word, value)) = map.next_entry()? {
                    all.insert(word, value);
                }
                return Ok(KeyPlace::Unknown(Newer(Value::Object(all))));
            }
        };
        match map.next_key::<String>()? {
            None => Ok(place),
            Some(_) => Err(A::Error::custom("two places of one key")),
        }
    }
}

#[cfg(test)]
mod tests;
