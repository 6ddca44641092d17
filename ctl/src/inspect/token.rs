//! A service-account token, explained. It is read, not verified: only an authority that
//! knows the issuer's keys can do that.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use super::{Fact, Finding};

/// Algorithms that an authority takes.
const TAKEN: [&str; 4] = ["RS256", "ES256", "ES384", "EdDSA"];

/// Explains `text` if it is a JWT.
pub(super) fn explain(text: &str, now_ms: i64) -> Option<Finding> {
    let parts: Vec<_> = text.split('.').collect();
    let [header, claims, signature] = parts[..] else {
        return None;
    };
    let header = json(header)?;
    let claims = json(claims)?;
    let kubernetes = &claims["kubernetes.io"];
    let account = kubernetes["serviceaccount"]["name"]
        .as_str()
        .map_or(Fact::None, |name| {
            let namespace = kubernetes["namespace"].as_str().unwrap_or("-");
            Fact::Text(clean(&format!("{namespace}/{name}")))
        });
    let mut lines = vec![
        ("algorithm", string(&header["alg"])),
        ("key", string(&header["kid"])),
        ("issuer", string(&claims["iss"])),
        ("audience", audience(&claims["aud"])),
        ("subject", string(&claims["sub"])),
        ("service account", account),
        ("pod", named(&kubernetes["pod"])),
        ("node", named(&kubernetes["node"])),
    ];
    for (name, key) in [("issued", "iat"), ("not before", "nbf"), ("expires", "exp")] {
        lines.push((name, time(&claims[key])));
    }
    lines.push(("signature", Fact::text("not shown, and not verified here")));
    let mut wrong = Vec::new();
    let algorithm = header["alg"].as_str().unwrap_or_default();
    if !TAKEN.contains(&algorithm) {
        wrong.push(format!("algorithm {algorithm:?} is never accepted"));
    }
    if signature.is_empty() {
        wrong.push("it has no signature".to_owned());
    }
    match seconds(&claims["exp"]) {
        None => wrong.push("it never expires: such tokens are not accepted".to_owned()),
        Some(end) if end.saturating_mul(1000) < now_ms => wrong.push("it has expired".to_owned()),
        Some(_) => {}
    }
    if seconds(&claims["nbf"]).is_some_and(|begin| begin.saturating_mul(1000) > now_ms + 30_000) {
        wrong.push("it is not valid yet: check the clocks".to_owned());
    }
    let mut notes = Vec::new();
    if kubernetes.is_null() {
        notes.push("it has no `kubernetes.io` claims: it is no service-account token".to_owned());
    } else {
        if kubernetes["pod"].is_null() {
            notes.push(
                "it is not bound to a pod: refused unless the cluster has allow_unbound".to_owned(),
            );
        }
        if kubernetes["node"].is_null() {
            notes.push("it names no node: an agent can't join with it".to_owned());
        }
        if !kubernetes["warnafter"].is_null() {
            notes.push(
                "its life was extended (warnafter): refused unless the cluster has allow_extended"
                    .to_owned(),
            );
        }
    }
    Some(Finding {
        kind: "token",
        lines,
        wrong,
        notes,
    })
}

fn json(part: &str) -> Option<Value> {
    let value: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()?;
    value.is_object().then_some(value)
}

/// Control characters of a stranger's token must not reach a terminal.
fn clean(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

fn string(value: &Value) -> Fact {
    value
        .as_str()
        .map_or(Fact::None, |text| Fact::text(clean(text)))
}

fn audience(value: &Value) -> Fact {
    let one = value.as_str().into_iter();
    let many = value.as_array().into_iter().flatten();
    let all: Vec<_> = one
        .chain(many.filter_map(Value::as_str))
        .map(clean)
        .collect();
    Fact::list(&all)
}

fn named(value: &Value) -> Fact {
    match (value["name"].as_str(), value["uid"].as_str()) {
        (Some(name), Some(uid)) => Fact::Text(clean(&format!("{name} ({uid})"))),
        (Some(name), None) => Fact::text(clean(name)),
        (None, _) => Fact::None,
    }
}

/// A claim's time is in seconds, and may have a fraction (RFC 7519, 2).
fn seconds(value: &Value) -> Option<i64> {
    value
        .as_i64()
        .or_else(|| value.as_f64().map(|seconds| seconds as i64))
}

fn time(value: &Value) -> Fact {
    seconds(value).map_or(Fact::None, |seconds| {
        Fact::Time(seconds.saturating_mul(1000))
    })
}
