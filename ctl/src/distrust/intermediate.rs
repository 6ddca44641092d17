//! What became of the distrust of an intermediate, and what it can't do.

use arx_proto::admin::v1 as wire;
use serde_json::{Value, json};

use crate::output::{Output, Style, hex, instant_json};
use crate::rotate::show;

pub(super) fn output(told: &wire::IntermediateDistrust, style: Style) -> Output {
    if style.json {
        Output::json(&to_json(told))
    } else {
        Output::text(&to_text(told, style))
    }
}

fn to_text(told: &wire::IntermediateDistrust, style: Style) -> String {
    let signs = told.replacement_key_id != told.key_id;
    let mut lines = vec![format!(
        "intermediate  {} {}",
        hex(&told.key_id),
        told.subject
    )];
    let mut line = |name: &str, text: String| lines.push(format!("{name:<14}{text}"));
    if told.dry_run {
        let certificates = show::certificates(told.certificates);
        line("reissues", format!("{certificates} under it, at once"));
    } else {
        line("signs now", hex(&told.replacement_key_id));
        line(
            "reissues",
            format!(
                "{} under it, at once; told {}",
                show::certificates(told.certificates),
                match told.agents {
                    1 => "1 agent".to_owned(),
                    agents => format!("{agents} agents"),
                }
            ),
        );
    }
    line(
        "BUT",
        format!(
            "whoever has its key is still believed until it ends, {}: bundles hold only roots",
            style.time(told.not_after_unix_ms)
        ),
    );
    if let Some(root) = &told.root {
        let id: String = hex(&root.key_id).chars().take(16).collect();
        line(
            "sooner",
            format!("`arx distrust {id}` distrusts the root above it: see it with --dry-run first"),
        );
    }
    if told.dry_run {
        let text = if signs {
            "nothing was changed; it signs nothing any more"
        } else {
            "nothing was changed: leave out --dry-run"
        };
        lines.extend([String::new(), text.to_owned()]);
    }
    show::join(&lines)
}

fn to_json(told: &wire::IntermediateDistrust) -> Value {
    json!({
        "subject": told.subject, "key_id": hex(&told.key_id), "serial": hex(&told.serial),
        "not_after": instant_json(told.not_after_unix_ms), "root": show::root_json(told.root.as_ref()),
        "certificates": told.certificates, "agents": told.agents,
        "signs_now": hex(&told.replacement_key_id), "dry_run": told.dry_run,
    })
}
