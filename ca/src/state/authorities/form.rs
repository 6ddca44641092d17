//! The document. The public types have no form outside of it.

use std::time::SystemTime;

use arx_identity::Certificate;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::place::{Form as Place, FormOf as PlaceOf, pkcs8};
use super::{Authorities, Pending, Pkcs8, Registration, Root, RootState};
use crate::state::document::{self, Document};
use crate::state::wire;
use crate::store::Segment;

#[derive(Serialize)]
struct FormOf<'a> {
    roots: Vec<RootFormOf<'a>>,
    registrations: &'a [Registration],
    #[serde(skip_serializing_if = "Option::is_none")]
    pending: Option<PendingFormOf<'a>>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    anew: bool,
    #[serde(skip_serializing_if = "is_zero")]
    step: u64,
    #[serde(flatten)]
    extra: &'a Map<String, Value>,
}

#[derive(Serialize)]
struct RootFormOf<'a> {
    #[serde(with = "wire::certificate")]
    certificate: &'a Certificate,
    state: &'a str,
    key: PlaceOf<'a>,
    #[serde(with = "wire::certificates")]
    above: &'a [Certificate],
    #[serde(
        serialize_with = "wire::optional_certificate::serialize",
        skip_serializing_if = "is_none"
    )]
    cross: &'a Option<Certificate>,
    #[serde(with = "wire::millis", rename = "added_ms")]
    added: SystemTime,
    #[serde(flatten)]
    extra: &'a Map<String, Value>,
}

#[derive(Serialize)]
struct PendingFormOf<'a> {
    #[serde(serialize_with = "by_reference")]
    key: &'a Pkcs8,
    request: &'a str,
    #[serde(with = "wire::millis", rename = "made_ms")]
    made: SystemTime,
    #[serde(flatten)]
    extra: &'a Map<String, Value>,
}

fn by_reference<S: Serializer>(key: &&Pkcs8, serializer: S) -> Result<S::Ok, S::Error> {
    pkcs8::serialize(key, serializer)
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands out references"
)]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn is_none<T>(value: &&Option<T>) -> bool {
    value.is_none()
}

#[derive(Deserialize)]
struct Form {
    roots: Vec<RootForm>,
    registrations: Vec<Registration>,
    pending: Option<PendingForm>,
    #[serde(default)]
    anew: bool,
    #[serde(default)]
    step: u64,
    #[serde(flatten)]
    extra: Map<String, Value>,
}

#[derive(Deserialize)]
struct RootForm {
    #[serde(with = "wire::certificate")]
    certificate: Certificate,
    state: String,
    key: Place,
    #[serde(with = "wire::certificates", default)]
    above: Vec<Certificate>,
    #[serde(deserialize_with = "wire::optional_certificate::deserialize", default)]
    cross: Option<Certificate>,
    #[serde(with = "wire::millis", rename = "added_ms")]
    added: SystemTime,
    #[serde(flatten)]
    extra: Map<String, Value>,
}

#[derive(Deserialize)]
struct PendingForm {
    #[serde(with = "pkcs8")]
    key: Pkcs8,
    request: String,
    #[serde(with = "wire::millis", rename = "made_ms")]
    made: SystemTime,
    #[serde(flatten)]
    extra: Map<String, Value>,
}

impl Document for Authorities {
    const KIND: Segment = Segment::fixed("authorities");

    fn encode(&self) -> Zeroizing<Vec<u8>> {
        let roots = self.roots.iter().map(|root| RootFormOf {
            certificate: &root.certificate,
            state: root.state.as_str(),
            key: PlaceOf(&root.key),
            above: &root.above,
            cross: &root.cross,
            added: root.added,
            extra: &root.extra,
        });
        document::encode(&FormOf {
            roots: roots.collect(),
            registrations: &self.registrations,
            pending: self.pending.as_ref().map(|pending| PendingFormOf {
                key: &pending.key,
                request: &pending.request,
                made: pending.made,
                extra: &pending.extra,
            }),
            anew: self.anew,
            step: self.step,
            extra: &self.extra,
        })
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let form: Form = document::decode(bytes)?;
        let roots = form.roots.into_iter().map(|root| Root {
            certificate: root.certificate,
            state: RootState::named(root.state),
            key: root.key.0,
            above: root.above,
            cross: root.cross,
            added: root.added,
            extra: root.extra,
        });
        let authorities = Self {
            roots: roots.collect(),
            registrations: form.registrations,
            pending: form.pending.map(|pending| Pending {
                key: pending.key,
                request: pending.request,
                made: pending.made,
                extra: pending.extra,
            }),
            anew: form.anew,
            step: form.step,
            extra: form.extra,
        };
        match authorities.contradiction() {
            Some(contradiction) => Err(contradiction),
            None => Ok(authorities),
        }
    }
}
