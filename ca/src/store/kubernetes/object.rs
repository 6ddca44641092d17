//! Values as Secrets: one for each key, found by its name, listed by its labels.

use std::collections::HashMap;

use arx_identity::crypto;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::{Entry, Key, Prefix, Version};
use crate::hex::Hex;

/// Type of all these Secrets.
const TYPE: &str = "arx.dev/state";
/// Labels: a trust domain and a long kind by their hashes, since they would not fit.
pub(super) const OF: &str = "arx.dev/state-of";
const KIND: &str = "arx.dev/state-kind";
const ISSUER: &str = "arx.dev/state-issuer";
/// Annotations: the whole key, and what makes each write another one, which an API server would
/// pass over if it changed nothing.
const KEY: &str = "arx.dev/state-key";
const WRITE: &str = "arx.dev/state-write";
/// The one item of its data.
const VALUE: &str = "value";

#[derive(Deserialize)]
pub(super) struct Object {
    #[serde(default)]
    pub(super) metadata: Meta,
    #[serde(default)]
    data: Option<HashMap<String, String>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Meta {
    name: String,
    uid: String,
    pub(super) resource_version: String,
    annotations: Option<HashMap<String, String>>,
    #[serde(rename = "continue")]
    pub(super) next: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct List {
    #[serde(default)]
    pub(super) metadata: Meta,
    #[serde(default)]
    pub(super) items: Vec<Object>,
}

/// The name of a key's Secret.
pub(super) fn name(key: &Key) -> String {
    let kind = key.kind().as_str().replace('.', "-");
    format!("arx-{kind}-{}", hash(&key.to_string()))
}

/// 128 bits, for those who make names themselves cannot choose keys.
fn hash(text: &str) -> String {
    let digest = crypto::sha256(text.as_bytes());
    Hex(&digest[..16]).to_string()
}

/// What selects everything below a prefix.
pub(super) fn selector(prefix: &Prefix) -> String {
    let (trust_domain, kind) = prefix.parts();
    let mut text = format!("{OF}={}", hash(trust_domain.as_str()));
    if let Some((kind, issuer)) = kind {
        text.push_str(&format!(",{KIND}={}", kind_label(kind.as_str())));
        if let Some(issuer) = issuer {
            text.push_str(&format!(",{ISSUER}={issuer}"));
        }
    }
    text
}

/// Labels have 63 characters at most.
fn kind_label(kind: &str) -> String {
    if kind.len() <= 63 {
        kind.to_owned()
    } else {
        hash(kind)
    }
}

/// The Secret that holds `value`; `over` the version that it replaces.
pub(super) fn secret(key: &Key, value: &[u8], over: Option<(&str, &str)>) -> Value {
    let mut labels = json!({
        "app.kubernetes.io/managed-by": "arx-ca",
        OF: hash(key.trust_domain().as_str()),
        KIND: kind_label(key.kind().as_str()),
    });
    if let Some(issuer) = key.issuer() {
        labels[ISSUER] = issuer.to_string().into();
    }
    let write = crypto::random::<8>();
    let mut metadata = json!({
        "name": name(key),
        "labels": labels,
        "annotations": {KEY: key.to_string(), WRITE: Hex(&write).to_string()},
    });
    if let Some((resource_version, uid)) = over {
        metadata["resourceVersion"] = resource_version.into();
        metadata["uid"] = uid.into();
    }
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata,
        "type": TYPE,
        "data": {VALUE: STANDARD.encode(value)},
    })
}

/// One that is made for trial only.
pub(super) fn trial() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "arx-state-probe"},
        "type": TYPE,
    })
}

/// The two parts of a version.
pub(super) fn parts(version: &Version) -> Option<(&str, &str)> {
    let (resource_version, uid) = version.as_str().split_once('@')?;
    (!resource_version.is_empty() && !uid.is_empty()).then_some((resource_version, uid))
}

impl Object {
    /// The version that a write has made.
    pub(super) fn version(&self) -> Option<Version> {
        let Meta {
            resource_version,
            uid,
            ..
        } = &self.metadata;
        let version = Version::new(&format!("{resource_version}@{uid}"));
        parts(&version).is_some().then_some(version)
    }

    /// The key, if it is the one that the Secret's name is of.
    pub(super) fn key(&self) -> Option<Key> {
        let annotations = self.metadata.annotations.as_ref()?;
        let key: Key = annotations.get(KEY)?.parse().ok()?;
        (name(&key) == self.metadata.name).then_some(key)
    }

    /// What it holds.
    ///
    /// # Errors
    /// In what it differs from what Arx writes, and what it is called.
    pub(super) fn entry(self) -> Result<Entry, (String, &'static str)> {
        let name = self.metadata.name.clone();
        let but = |what| (name.clone(), what);
        let key = self
            .key()
            .ok_or_else(|| but("its annotation names no key, or another one than its name does"))?;
        let version = self
            .version()
            .ok_or_else(|| but("it has no resourceVersion or no uid"))?;
        let data = self.data.unwrap_or_default();
        let value = data.get(VALUE).ok_or_else(|| but("it has no value"))?;
        let value = STANDARD
            .decode(value)
            .map_err(|_| but("its value is not Base64"))?;
        Ok(Entry {
            key,
            version,
            value: value.into(),
        })
    }
}
