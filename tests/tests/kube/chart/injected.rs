//! Pods into which the API server has put a socket, by the chart's policy.

use std::process::Command;

use anyhow::{Context as _, ensure};
use arx_tests::process::until;
use arx_tests::sds::{self, Connection};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::{Site, node_name};

const PATH: &str = "/var/run/secrets/workload-spiffe-uds";
const VARIABLE: &str = "SPIFFE_ENDPOINT_SOCKET";

/// A pod with a container of each kind: one that runs before, one beside, one as itself.
fn pod(name: &str) -> Value {
    let container = |name: &str| json!({"name": name, "image": "registry.invalid/app"});
    let mut app = container("app");
    app["env"] = json!([{"name": "MODE", "value": "live"}]);
    app["volumeMounts"] = json!([{"name": "tmp", "mountPath": "/tmp"}]);
    let mut sidecar = container("sidecar");
    sidecar["restartPolicy"] = json!("Always");
    json!({
        "metadata": {"name": name},
        "spec": {
            "serviceAccountName": "web",
            "automountServiceAccountToken": false,
            "nodeName": node_name(0),
            "containers": [app],
            "initContainers": [container("before"), sidecar],
            "volumes": [{"name": "tmp", "emptyDir": {}}],
        }
    })
}

/// The containers of a pod of all kinds.
fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    let lists = ["containers", "initContainers"].map(|list| pod["spec"][list].as_array());
    lists.into_iter().flatten().flatten()
}

fn has(list: &Value, key: &str, value: &str) -> bool {
    list.as_array()
        .into_iter()
        .flatten()
        .any(|it| it[key] == value)
}

/// Whether a pod has nothing of ours.
fn is_untouched(pod: &Value) -> bool {
    let volumes = &pod["spec"]["volumes"];
    !has(volumes, "name", "arx-identity")
        && containers(pod).all(|it| !has(&it["env"], "name", VARIABLE))
}

impl Site {
    async fn label(&self, label: &str, value: &str) -> anyhow::Result<()> {
        let labels = json!({"metadata": {"labels": {label: value}}});
        let namespaces = Api::<Namespace>::all(self.cluster.admin.clone());
        namespaces
            .patch(&self.shop, &PatchParams::default(), &Patch::Merge(labels))
            .await?;
        Ok(())
    }

    /// What becomes of a pod when it is made.
    async fn made(&self, pod: &Value, dry_run: bool) -> anyhow::Result<Value> {
        let pods = Api::<Pod>::namespaced(self.cluster.admin.clone(), &self.shop);
        let parameters = PostParams {
            dry_run,
            ..PostParams::default()
        };
        let made = pods
            .create(&parameters, &serde_json::from_value(pod.clone())?)
            .await?;
        Ok(serde_json::to_value(made)?)
    }

    /// Waits until the API server acts by the policy, which it hears of like anybody else.
    async fn is_injected(&self) -> anyhow::Result<()> {
        until("a pod is injected", || async {
            Ok(!is_untouched(&self.made(&pod("try"), true).await?))
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs a control plane: make test-kube"]
async fn every_container_of_a_pod_gets_the_socket_where_its_namespace_asks_for_it_and_no_other_pod()
-> anyhow::Result<()> {
    let site = Site::install("injection: {enabled: true, istioLabel: true}\n").await?;
    ensure!(is_untouched(&site.made(&pod("before"), true).await?));
    site.label("arx.dev/inject", "enabled").await?;
    site.is_injected().await?;

    let injected = site.made(&pod("web"), true).await?;
    let volumes = injected["spec"]["volumes"].as_array().context("volumes")?;
    let ours = volumes
        .iter()
        .find(|it| it["name"] == "arx-identity")
        .context("ours")?;
    ensure!(
        ours["csi"] == json!({"driver": site.driver(), "readOnly": true}),
        "{ours}"
    );
    ensure!(
        has(&injected["spec"]["volumes"], "name", "tmp"),
        "{injected}"
    );
    ensure!(containers(&injected).count() == 3);
    for container in containers(&injected) {
        let mount = json!({"name": "arx-identity", "mountPath": PATH, "readOnly": true});
        let mounts = container["volumeMounts"].as_array().context("mounts")?;
        ensure!(mounts.contains(&mount), "{container}");
        let variable = json!({"name": VARIABLE, "value": format!("unix://{PATH}/socket")});
        let env = container["env"].as_array().context("variables")?;
        ensure!(env.contains(&variable), "{container}");
    }
    let app = containers(&injected).next().context("app")?;
    ensure!(
        has(&app["env"], "name", "MODE") && has(&app["volumeMounts"], "name", "tmp"),
        "{app}"
    );
    let sidecar = containers(&injected).find(|it| it["name"] == "sidecar");
    ensure!(sidecar.is_some_and(|it| it["restartPolicy"] == "Always"));

    // What a container says for itself stays.
    let mut own = pod("own");
    own["spec"]["containers"][0]["env"] = json!([{"name": VARIABLE, "value": "unix:///own"}]);
    own["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "tmp", "mountPath": PATH}]);
    let made = site.made(&own, true).await?;
    let app = containers(&made).next().context("app")?;
    for (list, what) in [("env", "unix:///own"), ("volumeMounts", "tmp")] {
        let key = if list == "env" { "value" } else { "name" };
        ensure!(
            app[list].as_array().is_some_and(|it| it.len() == 1) && has(&app[list], key, what),
            "{app}"
        );
    }

    // Opted out; with a volume that its author has written; and in a namespace that asks for nothing.
    let mut out = pod("out");
    out["metadata"]["annotations"] = json!({"arx.dev/inject": "disabled"});
    ensure!(is_untouched(&site.made(&out, true).await?));
    let mut written = pod("written");
    written["spec"]["volumes"] = json!([
        {"name": "tmp", "emptyDir": {}},
        {"name": "mine", "csi": {"driver": site.driver(), "readOnly": true}},
    ]);
    ensure!(is_untouched(&site.made(&written, true).await?));
    site.label("arx.dev/inject", "disabled").await?;
    site.label("istio-injection", "enabled").await?;
    until("the namespace is left alone", || async {
        Ok(is_untouched(&site.made(&pod("none"), true).await?))
    })
    .await?;
    // Whoever says nothing of ours means Istio's label, if the values say that this counts.
    let none = json!({"metadata": {"labels": {"arx.dev/inject": null}}});
    let namespaces = Api::<Namespace>::all(site.cluster.admin.clone());
    namespaces
        .patch(&site.shop, &PatchParams::default(), &Patch::Merge(none))
        .await?;
    site.is_injected().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs a control plane: make test-kube"]
async fn an_injected_pod_is_itself_at_the_socket_that_its_kubelet_has_mounted() -> anyhow::Result<()>
{
    let mut site = Site::install("injection: {enabled: true}\n").await?;
    site.start().await?;
    site.label("arx.dev/inject", "enabled").await?;
    site.is_injected().await?;
    site.made(&pod("web"), false).await?;
    let node = &site.nodes[0];
    let driver = node
        .taken
        .as_ref()
        .context("the kubelet has taken the driver")?;
    let volume = node.kubelet.publish(driver, &site.shop, "web").await?;
    // As a container sees it, at a path that a socket's address has room for.
    let seen = site.folder.path().join("seen");
    std::fs::create_dir_all(&seen)?;
    let bound = Command::new("mount")
        .arg("--bind")
        .args([&volume.target, &seen])
        .status()?;
    ensure!(
        bound.success(),
        "{} can't be bound",
        volume.target.display()
    );
    let connection = Connection::open(&seen.join("socket"), None).await?;
    let mut stream = connection.stream(&["default"]).await?;
    let secret = sds::secrets(&stream.next().await?)?
        .pop()
        .context("a secret")?;
    let identity = sds::chain(&secret)?.spiffe_id().to_string();
    ensure!(identity == format!("spiffe://example.org/ns/{}/sa/web", site.shop));
    Ok(())
}
