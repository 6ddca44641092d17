//! JSON values written as YAML that people like to read: blocks, the name of a thing
//! first, quotes only where they are needed, and a comment above what is not obvious.

use std::fmt::Write as _;

use serde_json::{Map, Value};

/// Why a key is there.
const WHY: &[(&str, &str)] = &[
    (
        "connection_keepalive",
        "without it an agent that hangs is never noticed",
    ),
    (
        "initial_fetch_timeout",
        "wait for ever rather than open without a certificate",
    ),
    (
        "match_typed_subject_alt_names",
        "who is accepted; without it everybody whom the roots vouch for",
    ),
    (
        "max_connection_duration",
        "a connection keeps the certificate that it was made with",
    ),
    (
        "require_client_certificate",
        "without it a client may come without a certificate",
    ),
    (
        "retry_back_off",
        "come back at once when the agent was restarted",
    ),
    (
        "set_node_on_first_message_only",
        "the node is large, and said once",
    ),
    (
        "tls_maximum_protocol_version",
        "clusters offer 1.2 unless told",
    ),
    (
        "use_downstream_protocol_config",
        "HTTP/1.1 or HTTP/2, as it came",
    ),
];

pub(super) fn document(value: &Value) -> String {
    let mut text = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => write_map(&mut text, map, 0),
        other => {
            text.push_str(&flow(other));
            text.push('\n');
        }
    }
    text
}

fn write_map(text: &mut String, map: &Map<String, Value>, indent: usize) {
    let mut keys: Vec<&String> = map.keys().collect();
    keys.sort_by_key(|key| match key.as_str() {
        "@type" | "name" | "node" => (0, key.as_str()),
        other => (1, other),
    });
    for (place, key) in keys.into_iter().enumerate() {
        // The first key of a list's entry stands behind the dash.
        let behind_dash = place == 0 && text.ends_with("- ");
        if !behind_dash {
            if let Some((_, why)) = WHY.iter().find(|(known, _)| known == key) {
                let _infallible = writeln!(text, "{:indent$}# {why}", "");
            }
            let _infallible = write!(text, "{:indent$}", "");
        }
        let _infallible = write!(text, "{}:", scalar(key));
        write_value(text, &map[key], indent);
    }
}

fn write_value(text: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            text.push('\n');
            write_map(text, map, indent + 2);
        }
        Value::Array(items) if !items.is_empty() => {
            text.push('\n');
            for item in items {
                let _infallible = write!(text, "{:indent$}- ", "");
                match item {
                    Value::Object(map) if !map.is_empty() => write_map(text, map, indent + 2),
                    other => {
                        text.push_str(&flow(other));
                        text.push('\n');
                    }
                }
            }
        }
        other => {
            let _infallible = writeln!(text, " {}", flow(other));
        }
    }
}

/// On one line; YAML takes JSON as it is.
fn flow(value: &Value) -> String {
    match value {
        Value::String(text) => scalar(text),
        other => other.to_string(),
    }
}

/// A text; in quotes unless nothing else can be read out of it.
fn scalar(text: &str) -> String {
    const OTHERS: [&str; 9] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    let plain = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "_-./".contains(c))
        && !OTHERS.contains(&text.to_ascii_lowercase().as_str());
    if plain {
        text.to_owned()
    } else {
        Value::from(text).to_string()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lists_and_maps_are_blocks_with_the_name_first() {
        let value = json!({"a": [{"z": {"x": 1}, "name": "web"}, "s"], "empty": {}, "none": [], "is": true});
        assert_eq!(
            document(&value),
            "a:\n- name: web\n  z:\n    x: 1\n- s\nempty: {}\nis: true\nnone: []\n"
        );
    }

    #[test]
    fn what_could_be_read_as_something_else_is_quoted() {
        for (text, written) in [
            ("TLSv1_3", "TLSv1_3"),
            ("/run/a-b/sds.sock", "/run/a-b/sds.sock"),
            ("0s", "\"0s\""),
            ("yes", "\"yes\""),
            ("127.0.0.1", "\"127.0.0.1\""),
            ("a: b", "\"a: b\""),
            ("a\nb", "\"a\\nb\""),
            ("", "\"\""),
            ("@type", "\"@type\""),
        ] {
            assert_eq!(scalar(text), written);
        }
    }

    #[test]
    fn what_is_not_obvious_is_explained_above_it() {
        let value = json!({"x": {"initial_fetch_timeout": "0s"}});
        assert_eq!(
            document(&value),
            "x:\n  # wait for ever rather than open without a certificate\n  initial_fetch_timeout: \"0s\"\n"
        );
    }
}
