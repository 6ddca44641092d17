//! `arx distrust ROOT --dry-run`: who would fail.

use arx_proto::admin::v1 as wire;
use serde_json::{Value, json};

use crate::output::{Output, Style, span};
use crate::rotate::{show, unconfirmed};

pub(super) fn output(plan: &wire::DistrustPlan, style: Style) -> Output {
    let output = if style.json {
        Output::json(&to_json(plan))
    } else {
        Output::text(&to_text(plan, style))
    };
    output.well_if(plan.refusals.is_empty())
}

/// From the first to the last gate: at least the dwell of each, at most the cap as well.
fn takes(plan: &wire::DistrustPlan) -> (u64, u64) {
    let steps = plan.steps.iter().map(|step| step.at_least_ms);
    let least = steps.fold(0, u64::saturating_add);
    let gates = plan.steps.iter().filter(|step| step.at_least_ms > 0);
    let gates = u64::try_from(gates.count()).unwrap_or(u64::MAX);
    let most = gates.saturating_mul(plan.cap_ms);
    (least, most.saturating_add(plan.window_ms).max(least))
}

fn to_text(plan: &wire::DistrustPlan, style: Style) -> String {
    let (least, most) = takes(plan);
    let mut lines = vec![
        format!("distrusts   {}", show::root(plan.root.as_ref(), style)),
        if plan.without_successor {
            format!(
                "ends        {}, at once: no other root takes its place, so nothing is issued",
                show::certificates(plan.live_certificates)
            )
        } else {
            format!(
                "reissues    {}, {}",
                show::certificates(plan.live_certificates),
                match plan.window_ms {
                    0 => "at once".to_owned(),
                    window => format!("within {}: so long this authority needs", span(window)),
                }
            )
        },
        format!(
            "takes       {} to {}: each phase waits {} at most",
            span(least),
            span(most),
            span(plan.cap_ms)
        ),
        if plan.without_successor {
            "loses       everything: nothing connects until the authority is started with another root, and the nodes have its bundle file".to_owned()
        } else {
            format!(
                "loses       nothing for the {} agents and proxies within reach",
                plan.reachable
            )
        },
    ];
    if !plan.rotation.is_empty() {
        lines.push(format!(
            "rotation    {} is under way, and becomes this",
            plan.rotation
        ));
    }
    lines.push(String::new());
    let shown = u64::try_from(plan.fails.len()).unwrap_or(u64::MAX);
    let total = plan.fails_total.max(shown);
    if total == 0 {
        lines.push("fails: nobody who is known".to_owned());
    } else if plan.without_successor {
        lines.push(format!("fails: {total}, all that hold something under it"));
    } else {
        lines.push(format!("fails: {total}, until they come back"));
    }
    for one in &plan.fails {
        lines.push(unconfirmed::who_and_why(one, style));
        lines.extend(one.workloads.iter().map(|id| format!("   {id}")));
        let named = u32::try_from(one.workloads.len()).unwrap_or(u32::MAX);
        if one.workload_count > named {
            lines.push(format!("   and {} more", one.workload_count - named));
        }
    }
    if shown < total {
        lines.push(format!("and {} more", total - shown));
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

fn to_json(plan: &wire::DistrustPlan) -> Value {
    let fails: Vec<_> = plan.fails.iter().map(unconfirmed::to_json).collect();
    let denied: Vec<_> = plan.denied.iter().map(unconfirmed::to_json).collect();
    let steps = plan.steps.iter();
    let steps = steps.map(
        |step| json!({ "phase": step.phase, "at_least_ms": step.at_least_ms, "why": step.why }),
    );
    let refusals = plan.refusals.iter();
    let refusals =
        refusals.map(|refusal| json!({ "code": refusal.code, "message": refusal.message }));
    let (at_least_ms, at_most_ms) = takes(plan);
    json!({
        "root": show::root_json(plan.root.as_ref()), "live_certificates": plan.live_certificates,
        "reachable": plan.reachable, "fails": fails, "fails_total": plan.fails_total,
        "denied": denied, "denied_total": plan.denied_total,
        "steps": steps.collect::<Vec<_>>(), "refusals": refusals.collect::<Vec<_>>(),
        "window_ms": plan.window_ms, "cap_ms": plan.cap_ms, "at_least_ms": at_least_ms,
        "at_most_ms": at_most_ms,
        "without_successor": plan.without_successor,
        "rotation": (!plan.rotation.is_empty()).then_some(&plan.rotation),
    })
}
