//! `arx rotate history`: which rotations there were.

use std::path::Path;

use arx_proto::admin::v1 as wire;
use serde_json::Value;

use super::show;
use crate::client::{Failure, connect};
use crate::output::{Output, Style, columns, hex, one_line, span};

pub(super) async fn run(socket: &Path, style: Style, limit: usize) -> Result<Output, Failure> {
    let mut client = connect(socket).await?;
    let mut rotations = Vec::new();
    let mut page_token = String::new();
    loop {
        let left = limit.saturating_sub(rotations.len());
        let request = wire::ListRotationsRequest {
            page_size: u32::try_from(left.min(500)).unwrap_or(500),
            page_token,
        };
        let page = client.list_rotations(request).await?.into_inner();
        rotations.extend(page.rotations);
        page_token = page.page_token;
        if page_token.is_empty() || rotations.len() >= limit {
            break;
        }
    }
    let more = !page_token.is_empty() || rotations.len() > limit;
    rotations.truncate(limit);
    if style.json {
        let rotations = rotations.iter().map(show::to_json).collect();
        return Ok(Output::json(&Value::Array(rotations)));
    }
    if rotations.is_empty() {
        return Ok(Output::text("there has been no rotation\n"));
    }
    let rows: Vec<_> = rotations.iter().map(|one| row(one, style)).collect();
    let heading = [
        "ROTATION", "KIND", "STARTED", "TOOK", "PHASE", "FROM", "TO", "FORCED", "BY", "WHY",
    ];
    let mut text = columns(&heading, &rows);
    if more {
        text.push_str(&format!("only the newest {limit}; --limit shows more\n"));
    }
    Ok(Output::text(&text))
}

fn row(rotation: &wire::Rotation, style: Style) -> Vec<String> {
    let took = match rotation.ended_unix_ms {
        0 => "-".to_owned(),
        ended => span(ended.abs_diff(rotation.started_unix_ms)),
    };
    let root = |root: &Option<wire::RotationRoot>| {
        let id = root.as_ref().map(|root| hex(&root.key_id));
        id.map_or_else(|| "-".to_owned(), |id| id.chars().take(16).collect())
    };
    let back = if rotation.aborting && !show::has_ended(rotation) {
        ", back"
    } else {
        ""
    };
    let or_none = |text: &str| match text {
        "" => "-".to_owned(),
        text => one_line(text),
    };
    vec![
        one_line(&rotation.id),
        or_none(&rotation.kind),
        style.time(rotation.started_unix_ms),
        took,
        format!("{}{back}", one_line(&rotation.phase)),
        root(&rotation.from),
        root(&rotation.to),
        rotation.forced.len().to_string(),
        or_none(&rotation.started_by),
        or_none(&rotation.reason),
    ]
}
