//! Records as people and other programs read them.

use std::time::SystemTime;

use arx_daemon::clock::rfc3339;
use serde_json::{Map, Value, json};

use super::codec::{self, Content};
use super::record::{Event, Validity, from_millis};
use crate::hex::encode as hex;

/// A record, and its place among all that the ledger ever had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Number of the record, from 0.
    pub index: u64,
    /// When it was recorded.
    pub time: SystemTime,
    /// What it says.
    pub content: Content,
}

impl Entry {
    pub(super) fn decode(index: u64, body: &[u8]) -> Self {
        let time = from_millis(codec::prefix(body).time_ms);
        Self {
            index,
            time,
            content: codec::decode(body),
        }
    }

    /// One JSON object without a line break: `index`, `time` (RFC 3339), `event`, and the
    /// event's own fields. Serial numbers, keys and ids are in lower-case hex; a field that
    /// is empty is left out.
    #[must_use]
    pub fn to_json(&self) -> String {
        Value::Object(self.object()).to_string()
    }

    /// The same, with `ledger`: the replica whose ledger has it.
    #[must_use]
    pub fn to_json_of(&self, replica: &str) -> String {
        let mut object = self.object();
        object.insert("ledger".to_owned(), replica.into());
        Value::Object(object).to_string()
    }

    fn object(&self) -> Map<String, Value> {
        let mut object = Map::new();
        object.insert("index".to_owned(), self.index.into());
        object.insert("time".to_owned(), rfc3339(self.time).into());
        let (event, fields) = match &self.content {
            Content::Known(event) => known(event),
            Content::Unknown { tag, version } => {
                ("unknown", json!({"tag": tag, "version": version}))
            }
        };
        object.insert("event".to_owned(), event.into());
        if let Value::Object(fields) = fields {
            let filled = fields
                .into_iter()
                .filter(|(_, value)| value.as_str() != Some(""));
            object.extend(filled);
        }
        object
    }
}

fn known(event: &Event) -> (&'static str, Value) {
    match event {
        Event::Issued(issued) => (
            "issued",
            with_validity(
                &issued.validity,
                json!({
                    "spiffe_id": issued.spiffe_id, "serial": hex(&issued.serial), "replaces": hex(&issued.replaces),
                    "cluster": issued.cluster, "node": issued.node, "evidence": issued.evidence,
                    "subject_key_id": hex(&issued.subject_key_id), "issuer_key_id": hex(&issued.issuer_key_id),
                    "root_key_id": hex(&issued.root_key_id), "replica": issued.replica,
                    "request_id": hex(&issued.request_id), "agent_instance": hex(&issued.agent_instance),
                    "policy_generation": issued.policy_generation,
                    "bundle_sequence": format!("{}.{}", issued.bundle_epoch, issued.bundle_number),
                    "trace_id": hex(&issued.trace_id),
                }),
            ),
        ),
        Event::Refused(refused) => (
            "refused",
            json!({
                "who": refused.who, "cluster": refused.cluster, "node": refused.node, "code": refused.code,
                "message": refused.message, "request_id": hex(&refused.request_id), "trace_id": hex(&refused.trace_id),
            }),
        ),
        Event::IntermediateRegistered(registered) => (
            "intermediate",
            with_validity(
                &registered.validity,
                json!({
                    "replica": registered.replica, "serial": hex(&registered.serial),
                    "key_id": hex(&registered.key_id), "root_key_id": hex(&registered.root_key_id),
                }),
            ),
        ),
        Event::Rotation(rotation) => (
            "rotation",
            json!({"rotation": rotation.rotation, "step": rotation.step, "detail": rotation.detail}),
        ),
        Event::Operator(operator) => (
            "operator",
            json!({"who": operator.who, "action": operator.action, "detail": operator.detail}),
        ),
        Event::Released(released) => (
            "released",
            json!({
                "serial": hex(&released.serial), "not_after": rfc3339(released.not_after), "reason": released.reason,
            }),
        ),
        Event::Published(published) => (
            "published",
            json!({
                "replica": published.replica, "sha256": hex(&published.sha256),
                "bundle_sequence": format!("{}.{}", published.epoch, published.number),
                "roots": published.roots.iter().map(|id| hex(id)).collect::<Vec<_>>(),
            }),
        ),
        Event::Pruned(pruned) => (
            "pruned",
            json!({
                "first_segment": pruned.first_segment, "first_record": pruned.first_record, "hash": hex(&pruned.hash),
            }),
        ),
    }
}

fn with_validity(validity: &Validity, mut fields: Value) -> Value {
    fields["not_before"] = rfc3339(validity.not_before).into();
    fields["not_after"] = rfc3339(validity.not_after).into();
    fields
}
