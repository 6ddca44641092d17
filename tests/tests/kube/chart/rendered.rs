//! What is rendered, for the values that matter.

use anyhow::{Context as _, ensure};
use arx_ca::store::{Key, Kubernetes, KubernetesOptions, Segment, Store as _};
use arx_daemon::config::{File, Span};
use arx_identity::TrustDomain;
use arx_tests::kube::{Chart, Cluster, helm};
use arx_tests::process::until;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, PersistentVolumeClaim, Pod};
use k8s_openapi::api::rbac::v1::ClusterRole;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

/// Values that differ in what they make, each in a line of YAML.
pub(super) const VALUES: &[&str] = &[
    "trustDomain: example.org",
    THREE,
    RESTORE,
    ALL_SET,
    "{trustDomain: example.org, ca: {replicas: 0, restore: arx-backup, podDisruptionBudget: {enabled: false}}}",
    "{trustDomain: example.org, cluster: {verification: review}}",
    "{trustDomain: example.org, cluster: {verification: local, others: [{name: b, issuer: 'https://b', audiences: [arx], agents: [a/b], jwks_file: /etc/b.json}]}}",
    "{trustDomain: example.org, publish: {istio: true, clusterTrustBundle: 'example.org:mesh:roots', namespaces: [shop]}}",
    "{trustDomain: example.org, agent: {attestors: [process, token], config: {certificates: {ttl: 30m}}, maxUnavailable: 3}}",
    "{trustDomain: example.org, podSockets: {enabled: false}}",
    "{trustDomain: example.org, podSockets: {driver: other.csi.arx.dev, kubeletRoot: /data/kubelet}, injection: {enabled: true, istioLabel: true, mountPath: /run/arx}}",
    "{trustDomain: example.org, image: {repository: registry.example.org/arx, digest: 'sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef'}, imagePullSecrets: [pull]}",
    "{trustDomain: example.org, ca: {service: {type: LoadBalancer}, storage: {storageClassName: fast}, podDisruptionBudget: {enabled: false}, config: {node_api: {queue: 20000}, authority: {root_key: ecdsa-p384}}}}",
    "{trustDomain: example.org, networkPolicy: {metricsFrom: [{namespaceSelector: {matchLabels: {a: b}}}]}, monitoring: {dashboard: {enabled: true}}}",
    "{trustDomain: example.org, networkPolicy: {enabled: false}, ca: {extraVolumes: [{name: more, emptyDir: {}}], extraVolumeMounts: [{name: more, mountPath: /more}], nodeSelector: {a: b}, podAnnotations: {a: b}}}",
];

/// What may be left to its defaults for long.
pub(super) const ALL_SET: &str = "
trustDomain: example.org
cluster:
  config:
    pod_grace: 30m
    stale_grace: 2h
    refetch_interval: 30s
    pod_labels: [app, team]
    pod_events: false
    allow_unbound: true
    allow_extended: true
  others: [{name: b, issuer: 'https://b', audiences: [arx], agents: [a/b], kubeconfig: /etc/b}]
publish:
  namespaces: [shop]
  namespaceSelector: example.org/mesh in (a, b), !off
  settle: 1m
  caBundles:
    - {kind: MutatingWebhookConfiguration, name: guard}
    - {kind: ValidatingWebhookConfiguration, name: guard}
    - {kind: APIService, name: v1.example.org}
    - {kind: MutatingWebhookConfiguration, name: sidecars}
  others: [{cluster: b, istio: true}]
ca: {state: kubernetes, config: {state: {restore_settle: 1m, kubernetes: {deadline: 10s}}}}
agent:
  config:
    authority: {addresses: ['a.example.org:8443', 'b.example.org:8443'], rebalance: 1m}
    pod_sockets: {max_connections: 8}
";
const RESTORE: &str =
    "{trustDomain: example.org, ca: {state: kubernetes, replicas: 0, restore: arx-backup}}";
pub(super) const THREE: &str = "{trustDomain: example.org, ca: {state: kubernetes, replicas: 3}}";

#[test]
#[ignore = "needs helm: make test-kube"]
fn helm_has_nothing_to_say_against_the_chart_and_it_has_no_hooks() -> anyhow::Result<()> {
    let folder = Chart::folder();
    let folder = folder.to_str().context("text")?;
    helm(&[
        "lint",
        "--strict",
        folder,
        "--set",
        "trustDomain=example.org",
    ])?;
    for values in VALUES {
        for object in Chart::render("arx-system", values)?.objects {
            let annotations = object["metadata"]["annotations"].as_object();
            let mut keys = annotations.into_iter().flat_map(|it| it.keys());
            ensure!(!keys.any(|key| key.starts_with("helm.sh/hook")), "{object}");
            // Whoever may read a release may read its values.
            ensure!(object["kind"] != "Secret", "{object}");
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs helm: make test-kube"]
fn rules_and_dashboard_are_those_of_their_folders_to_the_letter() -> anyhow::Result<()> {
    let values = "{trustDomain: example.org, monitoring: {serviceMonitor: {enabled: true}, rules: {enabled: true}, dashboard: {enabled: true}}}";
    let chart = Chart::render("arx-system", values)?;
    let deploy = Chart::folder().join("..");
    let dashboard = &chart.object("ConfigMap", "arx-dashboard")?["data"]["arx.json"];
    ensure!(dashboard == &std::fs::read_to_string(deploy.join("grafana/arx.json"))?);
    let rules: Value = serde_saphyr::from_str(&std::fs::read_to_string(
        deploy.join("prometheus/arx-rules.yaml"),
    )?)?;
    ensure!(chart.object("PrometheusRule", "arx")?["spec"] == rules);
    let ports = &chart.object("ServiceMonitor", "arx")?["spec"]["endpoints"];
    ensure!(ports[0]["port"] == "ops", "{ports}");
    Ok(())
}

#[test]
#[ignore = "needs helm: make test-kube"]
fn the_manifests_are_what_the_chart_makes() -> anyhow::Result<()> {
    for (file, values) in [("arx.yaml", VALUES[0]), ("arx-replicas.yaml", THREE)] {
        let path = Chart::folder().join("../manifests").join(file);
        let kept = Chart::parse(&std::fs::read_to_string(path)?)?;
        let chart = Chart::render("arx-system", values)?;
        ensure!(
            kept.objects == chart.objects,
            "deploy/manifests/{file} is not what the chart makes: run make manifests"
        );
    }
    Ok(())
}

#[test]
#[ignore = "needs helm: make test-kube"]
fn several_replicas_start_at_once_on_different_nodes_leave_one_at_a_time_and_reach_each_other()
-> anyhow::Result<()> {
    let chart = Chart::render("arx-system", THREE)?;
    let set = &chart.object("StatefulSet", "arx-ca")?["spec"];
    ensure!(set["replicas"] == 3 && set["podManagementPolicy"] == "Parallel");
    ensure!(set["updateStrategy"]["type"] == "RollingUpdate" && set["minReadySeconds"] == 10);
    let spread = &set["template"]["spec"]["topologySpreadConstraints"][0];
    ensure!(spread["topologyKey"] == "kubernetes.io/hostname");
    ensure!(spread["whenUnsatisfiable"] == "DoNotSchedule", "{spread}");
    let labels = &set["template"]["metadata"]["labels"];
    for (kind, name, selector) in [
        (
            "PodDisruptionBudget",
            "arx-ca",
            "/spec/selector/matchLabels",
        ),
        ("NetworkPolicy", "arx-ca", "/spec/podSelector/matchLabels"),
        ("Service", "arx-ca", "/spec/selector"),
        ("Service", "arx-ca-replicas", "/spec/selector"),
    ] {
        let selector = chart.object(kind, name)?.pointer(selector);
        let selector = selector.and_then(Value::as_object).context("a selector")?;
        let all = selector.iter().all(|(key, value)| labels[key] == *value);
        ensure!(all && !selector.is_empty(), "{kind} {name}");
    }
    let budget = &chart.object("PodDisruptionBudget", "arx-ca")?["spec"];
    ensure!(budget["maxUnavailable"] == 1, "{budget}");
    let replicas = &chart.object("Service", "arx-ca-replicas")?["spec"];
    ensure!(replicas["clusterIP"] == "None" && set["serviceName"] == "arx-ca-replicas");
    let agent = &chart.object("ConfigMap", "arx-node-agent")?["data"]["node-agent.toml"];
    let agent = agent.as_str().context("text")?;
    ensure!(agent.contains("\"arx-ca-replicas.arx-system.svc:8443\""));
    // Each is called by its name there, and the others are let in.
    let config = &chart.object("ConfigMap", "arx-ca")?["data"]["ca.toml"];
    let config = File::from_text("ca.toml", config.as_str().context("text")?.to_owned())?;
    let config: arx_ca::config::Config = config.parse()?;
    let announced = config.announced("arx-ca-2");
    ensure!(announced.as_deref() == Some("arx-ca-2.arx-ca-replicas.arx-system.svc:8443"));
    let policy = &chart.object("NetworkPolicy", "arx-ca")?["spec"]["ingress"][0];
    let from = policy["from"].as_array().context("peers")?;
    let mut others = from
        .iter()
        .filter_map(|it| it["podSelector"]["matchLabels"].as_object());
    ensure!(
        policy["ports"][0]["port"] == 8443
            && others.any(|it| it.iter().all(|(key, value)| labels[key] == *value)),
        "{policy}"
    );
    let alone = Chart::render("arx-system", VALUES[0])?;
    let policy = &alone.object("NetworkPolicy", "arx-ca")?["spec"]["ingress"][0];
    ensure!(
        policy["from"].as_array().map(Vec::len) == Some(1),
        "{policy}"
    );
    // Authorities below come from anywhere.
    let above = "{trustDomain: example.org, ca: {config: {nested: [{name: west, max_ttl: 1d}]}}}";
    let above = Chart::render("arx-system", above)?;
    let policy = &above.object("NetworkPolicy", "arx-ca")?["spec"]["ingress"][0];
    ensure!(policy["from"].is_null(), "{policy}");
    Ok(())
}

#[test]
#[ignore = "needs helm: make test-kube"]
fn the_programs_know_every_key_of_the_configurations_that_the_chart_makes() -> anyhow::Result<()> {
    for values in VALUES {
        let chart = Chart::render("arx-system", values)?;
        let file = |name: &str, key: &str| -> anyhow::Result<File> {
            let text = chart.object("ConfigMap", name)?["data"][key].as_str();
            let text = text.context("text")?.to_owned();
            Ok(File::from_text(key, text)?)
        };
        let authority = file("arx-ca", "ca.toml")?.parse::<arx_ca::config::Config>();
        authority.with_context(|| (*values).to_owned())?;
        let agent = file("arx-node-agent", "node-agent.toml")?;
        let agent = agent.parse::<arx_node_agent::config::Config>();
        agent.with_context(|| (*values).to_owned())?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs a control plane: make test-kube"]
async fn an_api_server_takes_every_field_that_the_chart_makes() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let system = cluster.namespace("arx-system").await?;
    let state = cluster.namespace("arx-state").await?;
    // No pod is made, not even for trial, without its account.
    cluster.service_account(&system, "arx-ca").await?;
    let there = format!("state: kubernetes, stateNamespace: {state}");
    for values in VALUES {
        let values = values.replace("state: kubernetes", &there);
        let chart = Chart::render(&system, &values)?;
        let applied = chart.apply(&cluster, true).await;
        applied.with_context(|| values)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs a control plane: make test-kube"]
async fn helm_installs_upgrades_and_removes_it() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let system = cluster.namespace("arx-system").await?;
    let (folder, kubeconfig) = (Chart::folder(), cluster.admin_kubeconfig()?);
    let run = |command: &[&str]| {
        let to = ["--namespace", &system, "--kubeconfig"];
        let file = kubeconfig.to_str().context("text")?;
        helm(&[command, &to, &[file]].concat())
    };
    let folder = folder.to_str().context("text")?;
    run(&["install", "arx", folder, "--set", "trustDomain=example.org"])?;
    let maps = Api::<ConfigMap>::namespaced(cluster.admin.clone(), &system);
    let ttl = |maps: Api<ConfigMap>| async move {
        let data = maps.get("arx-ca").await?.data.unwrap_or_default();
        let text = data.get("ca.toml").cloned();
        text.context("a configuration")
    };
    ensure!(ttl(maps.clone()).await?.contains("ttl = \"1h\""));
    run(&[
        "upgrade",
        "arx",
        folder,
        "--reset-then-reuse-values",
        "--set",
        "ca.ttl=30m",
    ])?;
    ensure!(ttl(maps.clone()).await?.contains("ttl = \"30m\""));
    run(&["uninstall", "arx"])?;
    ensure!(maps.get_opt("arx-ca").await?.is_none());
    let roles = Api::<ClusterRole>::all(cluster.admin.clone());
    ensure!(roles.get_opt(&format!("{system}:arx-ca")).await?.is_none());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs a control plane: make test-kube"]
async fn no_replicas_take_the_place_of_an_authority_whose_state_was_not_brought_along()
-> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let system = cluster.namespace("arx-system").await?;
    let state = cluster.namespace("arx-state").await?;
    let (folder, kubeconfig) = (Chart::folder(), cluster.admin_kubeconfig()?);
    let (folder, file) = (folder.to_str(), kubeconfig.to_str());
    let (folder, file) = (folder.context("text")?, file.context("text")?);
    let run = |command: &str, set: &str| {
        let to = ["--namespace", &system, "--kubeconfig", file, "--set", set];
        helm(&[&[command, "arx", folder], &to[..]].concat())
    };
    run("install", "trustDomain=example.org")?;
    let claims = Api::<PersistentVolumeClaim>::namespaced(cluster.admin.clone(), &system);
    until("its volume", async || {
        Ok(claims.get_opt("state-arx-ca-0").await?.is_some())
    })
    .await?;
    let with = |replicas: u32| {
        let state = format!("ca.state=kubernetes,ca.stateNamespace={state}");
        let set = format!("trustDomain=example.org,{state},ca.replicas={replicas}");
        run("upgrade", &set)
    };
    let is_refused = || {
        let refused = with(3).err().context("it was upgraded")?.to_string();
        ensure!(refused.contains("put a backup there first"), "{refused}");
        anyhow::Ok(())
    };
    is_refused()?;
    let sets = Api::<StatefulSet>::namespaced(cluster.admin.clone(), &system);
    sets.delete("arx-ca", &DeleteParams::foreground()).await?;
    until("its pods are gone", async || {
        Ok(sets.get_opt("arx-ca").await?.is_none())
    })
    .await?;
    is_refused()?;
    // While none of them runs, the backup can be put there.
    with(0)?;
    is_refused()?;
    let options = KubernetesOptions {
        namespace: Some(state.clone()),
        kubeconfig: Some(kubeconfig.clone()),
        deadline: Span::from_secs(5),
    };
    let key = Key::new(
        &TrustDomain::parse("example.org")?,
        &Segment::fixed("authorities"),
    );
    let store = Kubernetes::new(&options).await?;
    let value = bytes::Bytes::from_static(b"a backup");
    store.compare_and_swap(&key, None, value).await?;
    with(3)?;
    let set = sets.get("arx-ca").await?.spec;
    ensure!(set.replicas == Some(3));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs a control plane: make test-kube"]
async fn the_authority_runs_where_pods_are_restricted_and_the_agent_needs_directories_of_its_node()
-> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let system = cluster.namespace("arx-system").await?;
    let chart = Chart::render(
        &system,
        "{trustDomain: example.org, podSockets: {enabled: false}}",
    )?;
    // The accounts that the pods name.
    chart.apply(&cluster, false).await?;
    let level =
        json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}});
    let namespaces = Api::<Namespace>::all(cluster.admin.clone());
    namespaces
        .patch(&system, &PatchParams::default(), &Patch::Merge(level))
        .await?;
    let pods = Api::<Pod>::namespaced(cluster.admin.clone(), &system);
    let dry_run = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let pod = |kind, name: &str| -> anyhow::Result<Pod> {
        let template = &chart.object(kind, name)?["spec"]["template"];
        let mut spec = template["spec"].clone();
        if kind == "StatefulSet" {
            // Its controller adds what comes of the claim's template.
            let claim = json!({"name": "state", "persistentVolumeClaim": {"claimName": "state-0"}});
            spec["volumes"]
                .as_array_mut()
                .context("volumes")?
                .push(claim);
        }
        Ok(serde_json::from_value(
            json!({"metadata": {"name": "try"}, "spec": spec}),
        )?)
    };
    pods.create(&dry_run, &pod("StatefulSet", "arx-ca")?)
        .await?;
    let restore = Chart::render(&system, RESTORE)?;
    let restore = restore.object("Pod", "arx-ca-restore")?.clone();
    pods.create(&dry_run, &serde_json::from_value(restore)?)
        .await?;
    let refused = pods
        .create(&dry_run, &pod("DaemonSet", "arx-node-agent")?)
        .await;
    let refused = refused.err().context("an agent is restricted")?.to_string();
    for why in ["hostPath", "runAsUser=0"] {
        ensure!(refused.contains(why), "{refused}");
    }
    for not_needed in [
        "privileged",
        "capabilities",
        "hostPID",
        "seccomp",
        "allowPrivilegeEscalation",
    ] {
        ensure!(
            !refused.contains(&format!("{not_needed} "))
                && !refused.contains(&format!("{not_needed}=")),
            "{refused}"
        );
    }
    Ok(())
}
