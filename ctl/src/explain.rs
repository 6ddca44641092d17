//! `arx explain`: what the authority decides for a pod, and why.

use std::path::Path;

use arx_proto::admin::v1 as wire;
use clap::Args;
use serde_json::{Map, Value, json};

use crate::client::{Failure, connect};
use crate::output::{Output, Style, hex, instant_json};
use crate::unanswered::Unanswered;

#[derive(Debug, Args)]
pub(crate) struct Explain {
    /// The pod, as NAMESPACE/NAME or by its UID.
    pod: String,
    /// Only in this cluster, as the authority's configuration calls it.
    #[arg(long, value_name = "NAME", default_value = "")]
    cluster: String,
}

pub(crate) async fn run(socket: &Path, style: Style, asked: Explain) -> Result<Output, Failure> {
    let request = wire::ExplainRequest {
        pod: asked.pod,
        cluster: asked.cluster,
    };
    let answer = connect(socket).await?.explain(request).await?;
    let wire::ExplainResponse {
        pods,
        replicas,
        unanswered,
    } = answer.into_inner();
    let unanswered = Unanswered::from(unanswered);
    let granted = |pod: &wire::ExplainedPod| {
        let decision = pod.decision.as_ref();
        decision.is_some_and(|decision| decision.code.is_empty())
    };
    let well = pods.iter().all(granted);
    if style.json {
        let pods = pods.iter().map(|pod| to_json(pod, &unanswered)).collect();
        return Ok(Output::json(&Value::Array(pods)).well_if(well));
    }
    let each: Vec<_> = pods.iter().map(|pod| shown(pod, style)).collect();
    let text = each.join("\n") + &unanswered.gaps(replicas);
    Ok(Output::text(&text).well_if(well))
}

fn shown(pod: &wire::ExplainedPod, style: Style) -> String {
    let mut lines = vec![(
        "pod",
        format!(
            "{}/{} ({}) of cluster {}",
            pod.namespace, pod.name, pod.uid, pod.cluster
        ),
    )];
    lines.push(("index", index(pod.index.as_ref())));
    lines.push(("token", token(pod.token.as_ref(), style)));
    decision(pod.decision.as_ref(), style, &mut lines);
    lines.push(("agent", agent(pod, style)));
    lines.push(("last", certificate(pod.certificate.as_ref(), style)));
    match &pod.refusal {
        None => lines.push((
            "refused",
            "never since the authority was started".to_owned(),
        )),
        Some(refusal) => {
            let at = style.time(refusal.at_unix_ms);
            let node = format!("{}/{}", refusal.cluster, refusal.node);
            let code = &refusal.code;
            lines.push(("refused", format!("{code}, {at}, to the agent of {node}")));
            lines.push(("", refusal.message.clone()));
            lines.push(("", refusal.page.clone()));
        }
    }
    let lines = lines
        .iter()
        .map(|(name, text)| format!("{name:<9} {text}\n"));
    lines.collect()
}

fn index(index: Option<&wire::IndexedPod>) -> String {
    let Some(index) = index.filter(|index| index.watched) else {
        return "the pods of this cluster are not watched".to_owned();
    };
    let mut text = match index.trouble.as_str() {
        "" => match index.node.as_str() {
            "" => format!("live, on no node yet, as {}", index.service_account),
            node => format!("live on {node}, as {}", index.service_account),
        },
        trouble => trouble.to_owned(),
    };
    for (name, value) in sorted(index) {
        text.push_str(&format!(", {name}={value}"));
    }
    text.push_str(&format!("; heard {} s ago", index.age_ms / 1000));
    text
}

fn sorted(index: &wire::IndexedPod) -> Vec<(&String, &String)> {
    let mut labels: Vec<_> = index.labels.iter().collect();
    labels.sort();
    labels
}

fn token(token: Option<&wire::SeenToken>, style: Style) -> String {
    let Some(token) = token else {
        return "none was shown since the authority was started".to_owned();
    };
    let node = match token.node.as_str() {
        "" => "no node",
        node => node,
    };
    let audience = match token.audience.as_str() {
        "" => String::new(),
        audience => format!(", for {audience}"),
    };
    format!(
        "{} as {} on {node}{audience}, ends {}, seen {}",
        token.id,
        token.service_account,
        style.time(token.expires_unix_ms),
        style.time(token.seen_unix_ms)
    )
}

fn decision(
    decision: Option<&wire::ExplainedDecision>,
    style: Style,
    lines: &mut Vec<(&'static str, String)>,
) {
    let Some(decision) = decision else { return };
    if !decision.code.is_empty() {
        lines.push(("decision", format!("nothing: {}", decision.code)));
        lines.push(("", decision.message.clone()));
        lines.push(("", decision.page.clone()));
        return;
    }
    let mut text = format!("{} by {}", decision.spiffe_id, decision.rule);
    if !decision.dns_names.is_empty() {
        text.push_str(&format!(", with {}", decision.dns_names.join(", ")));
    }
    lines.push(("decision", text));
    let ttl = format!("{} s: {}", decision.ttl_seconds, decision.ttl_by);
    lines.push(("lifetime", ttl));
    let issuer = format!(
        "intermediate {}, which ends {}, under root {}",
        hex(&decision.intermediate_key_id),
        style.time(decision.intermediate_not_after_unix_ms),
        hex(&decision.root_key_id)
    );
    lines.push(("issuer", issuer));
}

fn agent(pod: &wire::ExplainedPod, style: Style) -> String {
    match &pod.agent {
        None => "none of its node is known".to_owned(),
        Some(agent) => {
            let state = if agent.connected { "connected" } else { "away" };
            let since = style.time(agent.since_unix_ms);
            let at = match &*agent.replica {
                "" => String::new(),
                replica => format!(" at {replica}"),
            };
            format!(
                "{}/{}, {state}{at} since {since}",
                agent.cluster, agent.node
            )
        }
    }
}

fn certificate(certificate: Option<&wire::LastCertificate>, style: Style) -> String {
    let Some(certificate) = certificate else {
        return "no certificate is in the newest records of its identity".to_owned();
    };
    format!(
        "certificate {}, issued {}, ends {}, on {}",
        hex(&certificate.serial),
        style.time(certificate.issued_unix_ms),
        style.time(certificate.not_after_unix_ms),
        certificate.evidence
    )
}

fn to_json(pod: &wire::ExplainedPod, unanswered: &Unanswered) -> Value {
    let index = pod.index.as_ref().map(|index| {
        let labels: Map<String, Value> = sorted(index)
            .into_iter()
            .map(|(name, value)| (name.clone(), value.as_str().into()))
            .collect();
        json!({
            "watched": index.watched, "trouble": index.trouble, "service_account": index.service_account,
            "node": index.node, "labels": labels, "age_ms": index.age_ms,
        })
    });
    let token = pod.token.as_ref().map(|token| {
        json!({
            "service_account": token.service_account, "node": token.node, "audience": token.audience,
            "id": token.id, "issued": instant_json(token.issued_unix_ms),
            "expires": instant_json(token.expires_unix_ms), "seen": instant_json(token.seen_unix_ms),
        })
    });
    let decision = pod.decision.as_ref().map(|decision| {
        json!({
            "code": decision.code, "message": decision.message, "page": decision.page,
            "spiffe_id": decision.spiffe_id, "dns_names": decision.dns_names, "rule": decision.rule,
            "ttl_seconds": decision.ttl_seconds, "ttl_by": decision.ttl_by,
            "intermediate_key_id": hex(&decision.intermediate_key_id),
            "intermediate_ends": instant_json(decision.intermediate_not_after_unix_ms),
            "root_key_id": hex(&decision.root_key_id),
        })
    });
    let agent = pod.agent.as_ref().map(|agent| {
        json!({
            "cluster": agent.cluster, "node": agent.node, "connected": agent.connected,
            "since": instant_json(agent.since_unix_ms), "replica": agent.replica,
        })
    });
    let certificate = pod.certificate.as_ref().map(|it| {
        json!({
            "serial": hex(&it.serial), "spiffe_id": it.spiffe_id, "issued": instant_json(it.issued_unix_ms),
            "ends": instant_json(it.not_after_unix_ms), "cluster": it.cluster, "node": it.node,
            "evidence": it.evidence, "replica": it.replica,
        })
    });
    let refusal = pod.refusal.as_ref().map(|it| {
        json!({
            "code": it.code, "message": it.message, "at": instant_json(it.at_unix_ms),
            "cluster": it.cluster, "node": it.node, "page": it.page,
        })
    });
    json!({
        "cluster": pod.cluster, "namespace": pod.namespace, "name": pod.name, "uid": pod.uid,
        "index": index, "token": token, "decision": decision, "agent": agent,
        "certificate": certificate, "refusal": refusal, "unanswered": unanswered.json(),
    })
}

#[cfg(test)]
pub(crate) fn example() -> wire::ExplainedPod {
    wire::ExplainedPod {
        cluster: "c1".to_owned(),
        namespace: "shop".to_owned(),
        name: "web-1".to_owned(),
        uid: "u-1".to_owned(),
        index: Some(wire::IndexedPod {
            watched: true,
            service_account: "web".to_owned(),
            node: "n1".to_owned(),
            age_ms: 3200,
            ..wire::IndexedPod::default()
        }),
        decision: Some(wire::ExplainedDecision {
            spiffe_id: "spiffe://example.org/ns/shop/sa/web".to_owned(),
            rule: "policy.template".to_owned(),
            ttl_seconds: 3600,
            ttl_by: "policy.max_ttl; 86400 s were asked for".to_owned(),
            intermediate_key_id: vec![0x1a].into(),
            root_key_id: vec![0x2b].into(),
            intermediate_not_after_unix_ms: 61_000_000,
            ..wire::ExplainedDecision::default()
        }),
        ..wire::ExplainedPod::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STYLE: Style = Style {
        json: false,
        wide: false,
        now_ms: 1_000_000,
    };

    #[test]
    fn each_step_of_a_decision_has_its_line() {
        let mut pod = example();
        let index = pod.index.get_or_insert_default();
        index.labels.insert("app".to_owned(), "web".to_owned());
        let text = shown(&pod, STYLE);
        for line in [
            "pod       shop/web-1 (u-1) of cluster c1\n",
            "index     live on n1, as web, app=web; heard 3 s ago\n",
            "token     none was shown since the authority was started\n",
            "decision  spiffe://example.org/ns/shop/sa/web by policy.template\n",
            "lifetime  3600 s: policy.max_ttl; 86400 s were asked for\n",
            "issuer    intermediate 1a, which ends in 16h40m, under root 2b\n",
            "agent     none of its node is known\n",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }

    #[test]
    fn a_refusal_says_where_its_code_is_explained() {
        let pod = wire::ExplainedPod {
            decision: Some(wire::ExplainedDecision {
                code: "ARX-DENIED".to_owned(),
                message: "it is denied".to_owned(),
                page: "docs/errors.md#arx-denied".to_owned(),
                ..wire::ExplainedDecision::default()
            }),
            ..example()
        };
        let text = shown(&pod, STYLE);
        assert!(
            text.contains("decision  nothing: ARX-DENIED\n          it is denied\n          docs/errors.md#arx-denied\n"),
            "{text}"
        );
        assert_eq!(
            to_json(&pod, &Unanswered::default())["decision"]["code"],
            "ARX-DENIED"
        );
    }
}
