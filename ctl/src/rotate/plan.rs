//! `arx rotate root --dry-run`: what a rotation would do, and what would hold it up.

use arx_proto::admin::v1 as wire;
use serde_json::{Value, json};

use super::{show, unconfirmed};
use crate::output::{Output, Style, span};

pub(super) fn output(plan: &wire::RotationPlan, style: Style) -> Output {
    let output = if style.json {
        Output::json(&to_json(plan))
    } else {
        Output::text(&to_text(plan, style))
    };
    output.well_if(plan.refusals.is_empty())
}

fn at_least(plan: &wire::RotationPlan) -> u64 {
    let steps = plan.steps.iter().map(|step| step.at_least_ms);
    steps.fold(0, u64::saturating_add)
}

fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

pub(crate) fn to_text(plan: &wire::RotationPlan, style: Style) -> String {
    let mut lines = vec![
        format!("from         {}", show::root(plan.from.as_ref(), style)),
        format!(
            "to confirm   {}, {}",
            counted(plan.must_confirm_agents.into(), "agent", "agents"),
            counted(plan.must_confirm_subscribers.into(), "proxy", "proxies")
        ),
        format!(
            "to reissue   {}, {}",
            show::certificates(plan.live_certificates),
            match plan.window_ms {
                0 => "at once".to_owned(),
                window => format!("within {}", span(window)),
            }
        ),
        match plan.window_ms {
            0 => format!("takes        at least {}", span(at_least(plan))),
            window => format!(
                "takes        at least {}; the window adds up to {}",
                span(at_least(plan)),
                span(window)
            ),
        },
        String::new(),
    ];
    for step in &plan.steps {
        let line = format!(
            "{:<12} {:<8} {}",
            step.phase,
            match step.at_least_ms {
                0 => "at once".to_owned(),
                least => span(least),
            },
            step.why
        );
        lines.push(line.trim_end().to_owned());
    }
    let shown = u64::try_from(plan.blockers.len()).unwrap_or(u64::MAX);
    let total = plan.blockers_total.max(shown);
    if total > 0 {
        lines.push(String::new());
        lines.push(format!(
            "would wait for {total} as things are, most blocking first"
        ));
        for one in &plan.blockers {
            lines.extend(unconfirmed::entry(one, style, usize::MAX));
        }
        if shown < total {
            lines.push(format!("and {} more", total - shown));
        }
    }
    lines.extend(unconfirmed::left_out(
        &plan.denied,
        plan.denied_total,
        style,
    ));
    lines.push(String::new());
    if plan.refusals.is_empty() {
        lines.push("nothing was changed; it would start: leave out --dry-run".to_owned());
    } else {
        for refusal in &plan.refusals {
            lines.push(format!("refused: {} ({})", refusal.message, refusal.code));
        }
        lines.push("nothing was changed; it would NOT start".to_owned());
    }
    show::join(&lines)
}

pub(crate) fn to_json(plan: &wire::RotationPlan) -> Value {
    let steps: Vec<_> = plan
        .steps
        .iter()
        .map(
            |step| json!({ "phase": step.phase, "at_least_ms": step.at_least_ms, "why": step.why }),
        )
        .collect();
    let blockers: Vec<_> = plan.blockers.iter().map(unconfirmed::to_json).collect();
    let denied: Vec<_> = plan.denied.iter().map(unconfirmed::to_json).collect();
    let refusals: Vec<_> = plan
        .refusals
        .iter()
        .map(|refusal| json!({ "code": refusal.code, "message": refusal.message }))
        .collect();
    json!({
        "from": show::root_json(plan.from.as_ref()), "steps": steps, "at_least_ms": at_least(plan),
        "must_confirm_agents": plan.must_confirm_agents, "must_confirm_subscribers": plan.must_confirm_subscribers,
        "live_certificates": plan.live_certificates, "window_ms": plan.window_ms,
        "blockers": blockers, "blockers_total": plan.blockers_total,
        "denied": denied, "denied_total": plan.denied_total, "refusals": refusals,
    })
}
