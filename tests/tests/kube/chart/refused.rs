//! What is refused before anything is made.

use anyhow::{Context as _, ensure};
use arx_tests::kube::Chart;

use super::rendered::THREE;

/// Values that can't work, and what the refusal names.
const REFUSED: &[(&str, &str)] = &[
    (
        "{trustDomain: example.org, injection: {enabled: true}, podSockets: {enabled: false}}",
        "podSockets",
    ),
    (
        "{trustDomain: example.org, podSockets: {driver: Arx}}",
        "driver",
    ),
    (
        "{trustDomain: example.org, podSockets: {kubeletRoot: kubelet}}",
        "kubeletRoot",
    ),
    (
        "{trustDomain: example.org, injection: {mountPath: /run/}}",
        "mountPath",
    ),
    ("{}", "trustDomain"),
    ("trustDomain: Example.org", "trustDomain"),
    ("{trustDomain: example.org, trustdomain: x}", "trustdomain"),
    ("{trustDomain: example.org, ca: {replicas: 3}}", "replicas"),
    (
        "{trustDomain: example.org, ca: {state: kubernetes, replicas: 6}}",
        "replicas",
    ),
    ("{trustDomain: example.org, ca: {state: etcd}}", "state"),
    (
        "{trustDomain: example.org, ca: {state: kubernetes, replicas: 3, restore: arx-backup}}",
        "replicas",
    ),
    (
        "{trustDomain: example.org, ca: {state: kubernetes, stateNamespace: ''}}",
        "stateNamespace",
    ),
    (
        "{trustDomain: example.org, ca: {state: kubernetes, config: {replica: ca-1}}}",
        "replica",
    ),
    ("{trustDomain: example.org, ca: {ttl: 25h}}", "ttl"),
    ("{trustDomain: example.org, ca: {ttl: 2d}}", "ttl"),
    ("{trustDomain: example.org, ca: {user: 0}}", "user"),
    (
        "{trustDomain: example.org, ca: {config: {state: {seal: none}}}}",
        "state",
    ),
    (
        "{trustDomain: example.org, ca: {config: {cluster: []}}}",
        "cluster",
    ),
    (
        "{trustDomain: example.org, ca: {config: {publish: []}}}",
        "publish",
    ),
    (
        "{trustDomain: example.org, ca: {config: {policy: {ttl: 2h}}}}",
        "ttl",
    ),
    (
        "{trustDomain: example.org, ca: {config: {state: {kubernetes: {deadline: 9s}}}}}",
        "kubernetes",
    ),
    (
        "{trustDomain: example.org, ca: {state: kubernetes, config: {state: {kubernetes: {namespace: a}}}}}",
        "namespace",
    ),
    (
        "{trustDomain: example.org, cluster: {config: {audiences: [a]}}}",
        "audiences",
    ),
    (
        "{trustDomain: example.org, cluster: {config: {pod_events: 'no'}}}",
        "pod_events",
    ),
    (
        "{trustDomain: example.org, publish: {caBundles: [{kind: Secret, name: a}]}}",
        "kind",
    ),
    (
        "{trustDomain: example.org, publish: {caBundles: [{kind: APIService}]}}",
        "name",
    ),
    (
        "{trustDomain: example.org, publish: {caBundles: [{kind: APIService, name: A}]}}",
        "name",
    ),
    (
        "{trustDomain: example.org, publish: {namespaceSelector: 'a=b;c'}}",
        "namespaceSelector",
    ),
    (
        "{trustDomain: example.org, publish: {settle: 2h}}",
        "settle",
    ),
    (
        "{trustDomain: example.org, publish: {others: [{istio: true}]}}",
        "cluster",
    ),
    (
        "{trustDomain: example.org, agent: {config: {node: n1}}}",
        "node",
    ),
    (
        "{trustDomain: example.org, agent: {config: {socket: {path: /a}}}}",
        "path",
    ),
    (
        "{trustDomain: example.org, podSockets: {enabled: false}, agent: {config: {pod_sockets: {max_connections: 8}}}}",
        "pod_sockets",
    ),
    (
        "{trustDomain: example.org, agent: {attestors: []}}",
        "attestors",
    ),
    (
        "{trustDomain: example.org, agent: {attestors: [local]}}",
        "attestors",
    ),
    (
        "{trustDomain: example.org, agent: {socketDirectory: run/arx}}",
        "socketDirectory",
    ),
    (
        "{trustDomain: example.org, cluster: {verification: none}}",
        "verification",
    ),
    (
        "{trustDomain: example.org, cluster: {audience: arx/join}}",
        "audience",
    ),
    (
        "{trustDomain: example.org, publish: {configMap: istio-ca-root-cert}}",
        "configMap",
    ),
    (
        "{trustDomain: example.org, publish: {configMap: ''}}",
        "configMap",
    ),
    (
        "{trustDomain: example.org, publish: {clusterTrustBundle: roots}}",
        "clusterTrustBundle",
    ),
    (
        "{trustDomain: example.org, image: {digest: 'sha256:12'}}",
        "digest",
    ),
    (
        "{trustDomain: example.org, monitoring: {serviceMonitor: {interval: often}}}",
        "interval",
    ),
];

#[test]
#[ignore = "needs helm: make test-kube"]
fn a_value_that_can_not_work_is_refused_by_its_name() -> anyhow::Result<()> {
    for (values, names) in REFUSED {
        let refused = Chart::render("arx-system", values).err();
        let refused = refused
            .with_context(|| format!("{values} was rendered"))?
            .to_string();
        ensure!(
            refused.contains("schema") && refused.contains(names),
            "{values}: {refused}"
        );
    }
    Ok(())
}

#[test]
#[ignore = "needs helm: make test-kube"]
fn state_is_refused_beside_the_sealing_key() -> anyhow::Result<()> {
    let refused = Chart::render("arx-state", THREE).err();
    let refused = refused.context("it was rendered")?.to_string();
    ensure!(refused.contains("ca.stateNamespace"), "{refused}");
    Ok(())
}
