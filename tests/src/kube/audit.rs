//! What was asked of an API server, by its audit log (audit.k8s.io/v1).

use std::path::Path;

use anyhow::Context as _;
use serde_json::{Value, json};

/// Where it is, below the folder of the control plane.
pub(super) const LOG: &str = "audit.log";

/// A request, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// What for; empty where it is about no resource.
    pub verb: String,
    /// The resource's API group; the core one is empty.
    pub group: String,
    /// The resource, such as `pods`, or `pods/status`; the path where it is none.
    pub resource: String,
    /// The object, also where it was selected by its name alone.
    pub name: String,
    /// The status of the answer (RFC 9110, 15).
    pub code: u64,
}

/// Everything that service accounts ask, but those of the control plane itself, at its end or at the
/// beginning of an answer that goes on.
pub(super) fn policy() -> Value {
    json!({
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [
            {"level": "None", "userGroups": ["system:serviceaccounts:kube-system"]},
            {"level": "Metadata", "userGroups": ["system:serviceaccounts"]},
            {"level": "None"},
        ],
    })
}

pub(super) fn read(log: &Path, user: &str) -> anyhow::Result<Vec<Asked>> {
    let text = std::fs::read_to_string(log)?;
    // The last line may be half of one still.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let mut asked = Vec::new();
    for line in whole.lines() {
        let event: Value = serde_json::from_str(line)?;
        if event["user"]["username"] == user {
            asked.push(request(&event).with_context(|| format!("an audit event: {line}"))?);
        }
    }
    Ok(asked)
}

fn request(event: &Value) -> Option<Asked> {
    let object = &event["objectRef"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let resource = match (object["resource"].as_str(), object["subresource"].as_str()) {
        (Some(resource), Some(sub)) => format!("{resource}/{sub}"),
        (Some(resource), None) => resource.to_owned(),
        (None, _) => text(&event["requestURI"]),
    };
    Some(Asked {
        verb: text(&event["verb"]),
        group: text(&object["apiGroup"]),
        resource,
        name: text(&object["name"]),
        code: event["responseStatus"]["code"].as_u64()?,
    })
}
