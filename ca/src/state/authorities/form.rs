//! The document. The public types have no form outside of it.

use std::time::SystemTime;

use arx_identity::Certificate;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::place::{Form as Place, FormOf as PlaceOf};
use super::{Authorities, Registration, Root, RootState};
use crate::state::document::{self, Document};
use crate::state::wire;
use crate::store::Segment;

#[derive(Serialize)]
struct FormOf<'a> {
    roots: Vec<RootFormOf<'a>>,
    registrations: &'a [Registration],
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
    #[serde(with = "wire::millis", rename = "added_ms")]
    added: SystemTime,
    #[serde(flatten)]
    extra: &'a Map<String, Value>,
}

#[derive(Deserialize)]
struct Form {
    roots: Vec<RootForm>,
    registrations: Vec<Registration>,
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
    #[serde(with = "wire::millis", rename = "added_ms")]
    added: SystemTime,
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
            added: root.added,
            extra: &root.extra,
        });
        document::encode(&FormOf {
            roots: roots.collect(),
            registrations: &self.registrations,
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
            added: root.added,
            extra: root.extra,
        });
        let authorities = Self {
            roots: roots.collect(),
            registrations: form.registrations,
            extra: form.extra,
        };
        match authorities.contradiction() {
            Some(contradiction) => Err(contradiction),
            None => Ok(authorities),
        }
    }
}
