//! How certificates, identifiers, times and keys stand in a document.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arx_identity::{Certificate, KeyId};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{Deserializer, Error, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use zeroize::Zeroizing;

use crate::hex::{self, Hex};

/// A certificate: its DER in Base64.
pub(super) struct Der(pub(super) Certificate);

impl Serialize for Der {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(self.0.der()))
    }
}

impl<'de> Deserialize<'de> for Der {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let der = STANDARD
            .decode(text)
            .map_err(|_| D::Error::custom("not Base64"))?;
        Certificate::from_der(&der)
            .map(Self)
            .map_err(D::Error::custom)
    }
}

pub(super) mod certificate {
    use super::*;

    pub(in super::super) fn serialize<S: Serializer>(
        certificate: &Certificate,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        Der(certificate.clone()).serialize(serializer)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Certificate, D::Error> {
        Der::deserialize(deserializer).map(|der| der.0)
    }
}

/// The same where there may be none.
pub(super) mod optional_certificate {
    use super::*;

    pub(in super::super) fn serialize<S: Serializer>(
        certificate: &Option<Certificate>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        certificate.clone().map(Der).serialize(serializer)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Certificate>, D::Error> {
        let found = Option::<Der>::deserialize(deserializer)?;
        Ok(found.map(|der| der.0))
    }
}

pub(super) mod certificates {
    use super::*;

    pub(in super::super) fn serialize<S: Serializer>(
        certificates: &[Certificate],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(certificates.iter().cloned().map(Der))
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<Certificate>, D::Error> {
        let list = Vec::<Der>::deserialize(deserializer)?;
        Ok(list.into_iter().map(|der| der.0).collect())
    }
}

pub(super) mod key_id {
    use super::*;

    pub(in super::super) fn serialize<S: Serializer>(
        id: &KeyId,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(id)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<KeyId, D::Error> {
        let text = String::deserialize(deserializer)?;
        hex::key_id(&text).ok_or_else(|| D::Error::custom("not a key identifier"))
    }
}

/// Several of them.
pub(super) mod key_ids {
    use super::*;

    #[derive(Serialize, Deserialize)]
    struct Id(#[serde(with = "key_id")] KeyId);

    pub(in super::super) fn serialize<S: Serializer>(
        ids: &[KeyId],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(ids.iter().copied().map(Id))
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<KeyId>, D::Error> {
        let list = Vec::<Id>::deserialize(deserializer)?;
        Ok(list.into_iter().map(|Id(id)| id).collect())
    }
}

pub(super) mod sha256 {
    use super::*;

    pub(in super::super) fn serialize<S: Serializer>(
        hash: &[u8; 32],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&Hex(hash))
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<[u8; 32], D::Error> {
        let text = String::deserialize(deserializer)?;
        hex::exactly(&text).ok_or_else(|| D::Error::custom("not a SHA-256"))
    }
}

/// Unix time in milliseconds.
pub(super) mod millis {
    use super::*;

    pub(in super::super) fn serialize<S: Serializer>(
        time: &SystemTime,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        serializer.serialize_u64(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<SystemTime, D::Error> {
        let millis = u64::deserialize(deserializer)?;
        UNIX_EPOCH
            .checked_add(Duration::from_millis(millis))
            .ok_or_else(|| D::Error::custom("not a time"))
    }
}

/// The same where there may be none.
pub(super) mod optional_millis {
    use super::*;

    #[derive(Serialize, Deserialize)]
    struct Millis(#[serde(with = "millis")] SystemTime);

    pub(in super::super) fn serialize<S: Serializer>(
        time: &Option<SystemTime>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        time.map(Millis).serialize(serializer)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<SystemTime>, D::Error> {
        let found = Option::<Millis>::deserialize(deserializer)?;
        Ok(found.map(|Millis(time)| time))
    }
}

/// A time that passes, in milliseconds.
pub(super) mod duration {
    use super::*;

    pub(in super::super) fn serialize<S: Serializer>(
        duration: &Duration,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        u64::try_from(duration.as_millis())
            .unwrap_or(u64::MAX)
            .serialize(serializer)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
}

/// Secret bytes in Base64, without copies that stay behind.
pub(super) mod secret {
    use super::*;

    pub(in super::super) fn serialize<S: Serializer>(
        bytes: &[u8],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&Zeroizing::new(STANDARD.encode(bytes)))
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Zeroizing<Vec<u8>>, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = Zeroizing<Vec<u8>>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("Base64")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                // Its estimate is never less than the decoder needs, so nothing grows.
                let mut bytes =
                    Zeroizing::new(Vec::with_capacity(base64::decoded_len_estimate(text.len())));
                STANDARD
                    .decode_vec(text, &mut bytes)
                    .map_err(|_| E::custom("not Base64"))?;
                Ok(bytes)
            }
        }

        deserializer.deserialize_str(Text)
    }
}
