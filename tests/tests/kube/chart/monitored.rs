//! What the chart makes for the Prometheus operator, taken by an API server that knows those kinds.

use anyhow::{Context as _, ensure};
use arx_tests::kube::{Chart, Cluster};
use arx_tests::process::until;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, PostParams};
use serde_json::{Value, json};

const MONITORED: &str = "trustDomain: example.org
monitoring:
  serviceMonitor: {enabled: true, labels: {release: prometheus}}
  rules: {enabled: true, labels: {release: prometheus}}
  dashboard: {enabled: true}
";

/// Of the operator's API (monitoring.coreos.com/v1) those fields that the chart may use, and no others.
fn kinds() -> [Value; 2] {
    let texts = || json!({"type": "object", "additionalProperties": {"type": "string"}});
    let text = || json!({"type": "string"});
    let span = || {
        let pattern = "^(0|(([0-9]+)y)?(([0-9]+)w)?(([0-9]+)d)?(([0-9]+)h)?(([0-9]+)m)?(([0-9]+)s)?(([0-9]+)ms)?)$";
        json!({"type": "string", "pattern": pattern})
    };
    let object = |required: &[&str], properties: Value| json!({"type": "object", "required": required, "properties": properties});
    let list = |items: Value| json!({"type": "array", "items": items});
    let kind = |kind: &str, spec: Value| {
        let (singular, plural) = (kind.to_lowercase(), format!("{}s", kind.to_lowercase()));
        let group = "monitoring.coreos.com";
        json!({
            "metadata": {"name": format!("{plural}.{group}")},
            "spec": {
                "group": group, "scope": "Namespaced",
                "names": {"kind": kind, "plural": plural, "singular": singular},
                "versions": [{
                    "name": "v1", "served": true, "storage": true,
                    "schema": {"openAPIV3Schema": object(&["spec"], json!({"spec": spec}))},
                }],
            },
        })
    };
    let endpoint = json!({"port": text(), "path": text(), "interval": span()});
    let monitor = json!({
        "selector": object(&[], json!({"matchLabels": texts()})),
        "endpoints": list(object(&[], endpoint)),
    });
    let rule = json!({
        "alert": text(), "record": text(), "for": span(), "labels": texts(), "annotations": texts(),
        "expr": {
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "x-kubernetes-int-or-string": true,
        },
    });
    let group = json!({"name": text(), "interval": span(), "rules": list(object(&["expr"], rule))});
    let rules = json!({"groups": list(object(&["name"], group))});
    [
        kind(
            "ServiceMonitor",
            object(&["selector", "endpoints"], monitor),
        ),
        kind("PrometheusRule", object(&[], rules)),
    ]
}

/// Makes a kind known, unless the cluster has it. Whether it was made here.
async fn is_made(cluster: &Cluster, kind: Value) -> anyhow::Result<Option<String>> {
    let known = Api::<CustomResourceDefinition>::all(cluster.admin.clone());
    let kind: CustomResourceDefinition = serde_json::from_value(kind)?;
    let name = kind.metadata.name.clone().context("a name")?;
    if known.get_opt(&name).await?.is_some() {
        return Ok(None);
    }
    known.create(&PostParams::default(), &kind).await?;
    until(&format!("{name} is served"), async || {
        let status = known.get(&name).await?.status.unwrap_or_default();
        let mut conditions = status.conditions.into_iter().flatten();
        Ok(conditions.any(|it| it.type_ == "Established" && it.status == "True"))
    })
    .await?;
    Ok(Some(name))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs a control plane: make test-kube"]
async fn an_api_server_that_knows_the_prometheus_operators_kinds_takes_the_monitor_and_the_rules()
-> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let system = cluster.namespace("arx-system").await?;
    let mut made = Vec::new();
    for kind in kinds() {
        made.extend(is_made(&cluster, kind).await?);
    }
    let chart = Chart::render(&system, MONITORED)?;
    // A kind may be a moment later in being served than in being known.
    until("all of it is taken", async || {
        chart.apply(&cluster, true).await?;
        Ok(true)
    })
    .await?;
    // A field that the kind does not have would not have been taken.
    let mut other = Chart {
        objects: vec![chart.object("ServiceMonitor", "arx")?.clone()],
    };
    other.objects[0]["spec"]["endpoints"][0]["route"] = json!("/metrics");
    let refused = other.apply(&cluster, true).await.err();
    let refused = format!("{:#}", refused.context("it was taken")?);
    ensure!(refused.contains("route"), "{refused}");
    let known = Api::<CustomResourceDefinition>::all(cluster.admin.clone());
    for name in made {
        let _gone = known.delete(&name, &DeleteParams::default()).await?;
    }
    Ok(())
}
