//! `arx rotate report`: the evidence of a rotation.
//!
//! The report is the authority's, one JSON object. As text it shows what this version
//! knows by name.

use std::path::Path;

use arx_proto::admin::v1 as wire;
use serde_json::Value;

use super::show;
use crate::client::{Failure, connect};
use crate::output::{Output, Style};

pub(super) async fn run(socket: &Path, style: Style, id: String) -> Result<Output, Failure> {
    let request = wire::RotationReportRequest { id };
    let mut client = connect(socket).await?;
    let mut chunks = client.rotation_report(request).await?.into_inner();
    let mut text = Vec::new();
    while let Some(chunk) = chunks.message().await? {
        text.extend_from_slice(&chunk.json);
    }
    let report: Value = serde_json::from_slice(&text).map_err(|error| {
        Failure::Failed(format!(
            "the authority sent a report that is no JSON: {error}"
        ))
    })?;
    Ok(if style.json {
        Output::json(&report)
    } else {
        Output::text(&to_text(&report))
    })
}

/// Times stand as they are in the report: it is read long after.
fn to_text(report: &Value) -> String {
    let mut lines = Vec::new();
    let mut line = |name: &str, value: String| {
        if !value.is_empty() {
            lines.push(format!("{name:<10}{value}"));
        }
    };
    line(
        "rotation",
        spaced(&[text(&report["id"]), after("of ", &report["trust_domain"])]),
    );
    line("kind", text(&report["kind"]));
    line("outcome", text(&report["outcome"]));
    line("from", root(&report["from"]));
    line("to", root(&report["to"]));
    line(
        "started",
        spaced(&[
            text(&report["started"]),
            after("by ", &report["started_by"]),
            after("because ", &report["reason"]),
        ]),
    );
    line("ended", text(&report["ended"]));
    lines.push(String::new());
    lines.extend(items(&report["phases"]).iter().map(phase));
    for forced in items(&report["forced"]) {
        lines.push(String::new());
        lines.push(spaced(&[
            after("forced past ", &forced["left_behind"]),
            after("in ", &forced["phase"]),
            after("at ", &forced["at"]),
            // Of a distrust, that is why.
            if forced["by"] == forced["reason"] {
                String::new()
            } else {
                after("by ", &forced["by"])
            },
            after("because ", &forced["reason"]),
        ]));
        for name in items(&forced["names"]) {
            lines.push(format!("  {}", text(name)));
        }
    }
    for denied in items(&report["denied"]) {
        lines.push(String::new());
        lines.push(spaced(&[
            after("left out, because denied: ", &denied["left_out"]),
            after("in ", &denied["phase"]),
            after("until ", &denied["at"]),
        ]));
        holders(&denied["holders"], &mut lines);
    }
    lines.extend(cut_off(report));
    show::join(&lines)
}

/// Of a distrust: who lost something, who has to come back, and what survives.
fn cut_off(report: &Value) -> Vec<String> {
    if text(&report["kind"]) != "distrust" {
        return Vec::new();
    }
    let off = items(&report["cut_off"]);
    let mut lines = vec![String::new()];
    let alone = report["without_successor"] == true;
    if alone {
        lines.push(
            "no other root took its place: nothing was issued any more, and nothing connected"
                .to_owned(),
        );
    }
    if off.is_empty() {
        lines.push("cut off: nobody who is known".to_owned());
    } else {
        lines.push(format!("cut off: {}", off.len()));
    }
    holders(&report["cut_off"], &mut lines);
    let away = items(&report["to_come_back"]);
    if !away.is_empty() {
        let away: Vec<_> = away.iter().map(text).collect();
        lines.push(format!(
            "to come back: {}; each joins again by its token, if its bundle file has the new root",
            away.join(", ")
        ));
    }
    lines.push(
        "connections that proxies had open survive until they close them: restart a proxy that may have talked to the thief"
            .to_owned(),
    );
    lines
}

/// Each with what it holds.
fn holders(holders: &Value, lines: &mut Vec<String>) {
    for one in items(holders) {
        let who = [&one["node"], &one["process"], &one["reason"]].map(text);
        lines.push(format!("  {}", spaced(&who)));
        let named = items(&one["workloads"]);
        lines.extend(named.iter().map(|id| format!("    {}", text(id))));
        let count = one["workload_count"].as_u64().unwrap_or(0);
        let rest = count.saturating_sub(u64::try_from(named.len()).unwrap_or(u64::MAX));
        if rest > 0 {
            lines.push(format!("    and {rest} more"));
        }
    }
}

fn phase(phase: &Value) -> String {
    let back = if phase["aborting"] == true {
        ", back"
    } else {
        ""
    };
    spaced(&[
        format!("{}{back}:", text(&phase["phase"])),
        after("from ", &phase["started"]),
        after("to ", &phase["ended"]),
        after("sequence ", &phase["sequence"]),
        match text(&phase["confirmed_count"]).as_str() {
            "" | "0" => String::new(),
            // What is counted there are certificates.
            count if phase["phase"] == "reissue" => format!("({count} issued anew)"),
            count => format!("({count} confirmed)"),
        },
    ])
}

fn root(root: &Value) -> String {
    spaced(&[
        text(&root["key_id"]),
        text(&root["subject"]),
        after("ends ", &root["not_after"]),
    ])
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A text or a number; empty where there is none.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => String::new(),
    }
}

fn after(word: &str, value: &Value) -> String {
    match text(value) {
        text if text.is_empty() => text,
        text => format!("{word}{text}"),
    }
}

fn spaced(parts: &[String]) -> String {
    let parts: Vec<_> = parts.iter().filter(|part| !part.is_empty()).collect();
    parts
        .iter()
        .map(|part| part.as_str())
        .collect::<Vec<_>>()
        .join(" ")
}
