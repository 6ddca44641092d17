//! A service-account token, explained. It is read, not verified: only an authority that
//! knows the issuer's keys can do that.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use super::Finding;
use crate::output::{instant, relative};

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
    let mut lines = vec![
        ("algorithm", string(&header["alg"])),
        ("key", string(&header["kid"])),
        ("issuer", string(&claims["iss"])),
        ("audience", audience(&claims["aud"])),
        ("subject", string(&claims["sub"])),
        (
            "service account",
            format!(
                "{}/{}",
                string(&kubernetes["namespace"]),
                string(&kubernetes["serviceaccount"]["name"])
            ),
        ),
        ("pod", named(&kubernetes["pod"])),
        ("node", named(&kubernetes["node"])),
    ];
    for (name, key) in [("issued", "iat"), ("not before", "nbf"), ("expires", "exp")] {
        lines.push((name, time(&claims[key], now_ms)));
    }
    lines.push(("signature", "not shown, and not verified here".to_owned()));
    let mut wrong = Vec::new();
    let algorithm = header["alg"].as_str().unwrap_or_default();
    if !TAKEN.contains(&algorithm) {
        wrong.push(format!("algorithm {algorithm:?} is never accepted"));
    }
    if signature.is_empty() {
        wrong.push("it has no signature".to_owned());
    }
    match claims["exp"].as_i64() {
        None => wrong.push("it never expires: such tokens are not accepted".to_owned()),
        Some(end) if end.saturating_mul(1000) < now_ms => wrong.push("it has expired".to_owned()),
        Some(_) => {}
    }
    if claims["nbf"]
        .as_i64()
        .is_some_and(|begin| begin.saturating_mul(1000) > now_ms + 30_000)
    {
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
fn string(value: &Value) -> String {
    match value.as_str() {
        Some(text) => text
            .chars()
            .map(|c| if c.is_control() { '\u{fffd}' } else { c })
            .collect(),
        None => "-".to_owned(),
    }
}

fn audience(value: &Value) -> String {
    match value.as_array() {
        Some(many) => many.iter().map(string).collect::<Vec<_>>().join(", "),
        None => string(value),
    }
}

fn named(value: &Value) -> String {
    if value.is_null() {
        "-".to_owned()
    } else {
        format!("{} ({})", string(&value["name"]), string(&value["uid"]))
    }
}

fn time(value: &Value, now_ms: i64) -> String {
    match value.as_i64() {
        Some(seconds) => {
            let millis = seconds.saturating_mul(1000);
            format!("{} ({})", instant(millis), relative(millis, now_ms))
        }
        None => "-".to_owned(),
    }
}
