//! `arx check --kube` in a cluster as the chart makes it, and in one where things are wrong.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use arx_daemon::Clock;
use arx_tests::kube::NewPod;
use arx_tests::process::{binary, until};
use arx_tests::root::Root;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::rbac::v1::ClusterRole;
use k8s_openapi::api::storage::v1::CSIDriver;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};

use super::Site;

const PUBLISHED: &str = "publish:
  istio: true
  namespaces: [SHOP]
  clusterTrustBundle: 'example.org:mesh:SYSTEM'
  caBundles: [{kind: ValidatingWebhookConfiguration, name: SYSTEM-v}]
";

impl Site {
    /// Whether all is well, and each line that was printed, by what it is about.
    async fn check(&self) -> anyhow::Result<(bool, Vec<(String, String)>)> {
        let authority = &self.nodes[0].authority.installed;
        let socket = authority.path("/run/arx-ca/admin.sock");
        let mut command = tokio::process::Command::from(Command::new(binary("arx")?));
        command.arg("--socket").arg(socket);
        let output = command.args(["-o", "json", "check", "--kube"]).output();
        let output = output.await?;
        let lines: Value = serde_json::from_slice(&output.stdout)
            .with_context(|| format!("it printed {output:?}"))?;
        let lines = lines.as_array().context("a list")?.iter().map(|line| {
            let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
            let what = format!("{} {}", text("result"), text("test"));
            (what, text("hint"))
        });
        Ok((output.status.success(), lines.collect()))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs a control plane: make test-kube"]
async fn a_cluster_as_the_chart_makes_it_is_well_and_whatever_is_wrong_with_it_is_named()
-> anyhow::Result<()> {
    let mut site = Site::install(PUBLISHED).await?;
    site.start().await?;
    until("all is well", async || {
        let (is_well, lines) = site.check().await?;
        ensure!(is_well, "{lines:#?}");
        Ok(true)
    })
    .await?;
    let (_, lines) = site.check().await?;
    for test in [
        "the keys of its tokens can be had",
        "its API server answers",
        "it is of a version that Arx can work with",
        "its clock agrees",
        "its tokens are of the issuer",
        "tokens for the API server are none",
        "its API server answers token reviews",
        "its API server lists pods",
        "it may do all that it is configured for",
        "it serves ClusterTrustBundles",
        "it serves MutatingAdmissionPolicies",
        "the CSIDriver",
        "ConfigMaps arx-trust hold the roots and no others, in 2 namespaces",
        "ConfigMaps istio-ca-root-cert hold the roots and no others, in 2 namespaces",
        "each node on which pods run has an agent, 1 in all",
    ] {
        let test = format!("ok cluster cluster: {test}");
        ensure!(
            lines.iter().any(|(it, _)| it.starts_with(&test)),
            "{test}: {lines:#?}"
        );
    }

    spoil(&site).await?;
    let driver = format!("the CSIDriver {} is as agents need it", site.driver());
    let right = format!(
        "it may patch configmaps \"arx-trust\" in namespace {}",
        site.shop
    );
    let bundle = format!(
        "it may patch validatingwebhookconfigurations.admissionregistration.k8s.io \"{}-v\"",
        site.system
    );
    let wrong = [
        (right, "the roots are not written there"),
        (bundle, "the caBundle there stays behind a rotation"),
        (driver, "tokenRequests is empty"),
        (
            "ConfigMaps arx-trust hold the roots and no others, in 2 namespaces".to_owned(),
            "has a foreign root",
        ),
        (
            "each node on which pods run has an agent, 2 in all".to_owned(),
            "node-2 has no pod of an agent",
        ),
    ];
    until("all of it is named", async || {
        let (is_well, lines) = site.check().await?;
        ensure!(!is_well);
        for (test, says) in &wrong {
            let test = format!("failed cluster cluster: {test}");
            let line = lines.iter().find(|(it, _)| *it == test);
            let (_, hint) = line.with_context(|| format!("{test}: {lines:#?}"))?;
            ensure!(hint.contains(says), "{test}: {hint}");
        }
        Ok(true)
    })
    .await?;
    let (_, lines) = site.check().await?;
    let line = |test: &str| lines.iter().find(|(it, _)| it.contains(test));
    let (_, hint) = line("may patch").context("it is there")?;
    let account = format!("system:serviceaccount:{}:arx-ca may not", site.system);
    ensure!(hint.contains(&account), "{hint}");
    let (_, hint) = line("ConfigMaps arx-trust").context("it is there")?;
    ensure!(hint.starts_with(&format!("{} has", site.shop)), "{hint}");
    Ok(())
}

/// Somebody takes rights away, writes another root where ours is, empties the driver's audiences, and
/// adds a node.
async fn spoil(site: &Site) -> anyhow::Result<()> {
    let client = &site.cluster.admin;
    let merge = PatchParams::default();
    let roles = Api::<ClusterRole>::all(client.clone());
    let name = format!("{}:arx-ca", site.system);
    let mut role = serde_json::to_value(roles.get(&name).await?)?;
    let rules = role["rules"].as_array_mut().context("rules")?;
    for rule in rules.iter_mut() {
        if rule["resources"] == json!(["configmaps"]) {
            rule["verbs"] = json!(["list", "watch", "create"]);
        }
        if rule["resources"] == json!(["validatingwebhookconfigurations"]) {
            rule["verbs"] = json!(["list", "watch"]);
        }
    }
    let rules = Patch::Merge(json!({"rules": rules}));
    roles.patch(&name, &merge, &rules).await?;

    let day = Duration::from_secs(86_400);
    let foreign = Root::new("example.org", Clock::system().now(), day)?;
    let data = json!({"data": {"bundle.pem": foreign.certificate.pem()}});
    let data = Patch::Merge(data);
    let maps = Api::<ConfigMap>::namespaced(client.clone(), &site.shop);
    maps.patch("arx-trust", &merge, &data).await?;

    let drivers = Api::<CSIDriver>::all(client.clone());
    let spec = Patch::Merge(json!({"spec": {"tokenRequests": []}}));
    drivers.patch(&site.driver(), &merge, &spec).await?;

    let kubelet = site.cluster.kubelet("node-2").await?;
    let pod = NewPod {
        namespace: &site.shop,
        name: "web-far",
        account: "web",
        node: &kubelet.node,
        audiences: &[],
    };
    site.cluster.pod(pod).await?;
    Ok(())
}
