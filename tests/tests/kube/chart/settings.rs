//! Every setting of the programs can be had by the chart's values, or is the chart's own to decide.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, ensure};
use arx_daemon::config::{File, Span};
use arx_tests::kube::Chart;
use serde_json::Value;

use super::rendered::ALL_SET;

/// Settings of the authority that are refused among the others, and the value that says them; none where
/// the chart does.
const OF_AUTHORITY: &[(&str, &str)] = &[
    ("trust_domain", "trustDomain"),
    ("log.level", "ca.log.level"),
    ("ops.address", ""),
    ("node_api.address", ""),
    ("node_api.announce", ""),
    ("admin.socket", ""),
    ("state.directory", ""),
    ("state.seal_key_file", "ca.sealingKey"),
    ("state.seal", "ca.sealingKey"),
    ("state.etcd.endpoints", "ca.state"),
    ("state.etcd.ca_file", "ca.state"),
    ("state.etcd.certificate_file", "ca.state"),
    ("state.etcd.key_file", "ca.state"),
    ("state.etcd.prefix", "ca.state"),
    ("state.etcd.deadline", "ca.state"),
    ("state.kubernetes.namespace", "ca.stateNamespace"),
    ("state.kubernetes.kubeconfig", ""),
    ("policy.ttl", "ca.ttl"),
    ("cluster.name", "cluster.name"),
    ("cluster.issuer", "cluster.issuer"),
    ("cluster.audiences", "cluster.audience"),
    ("cluster.agents", ""),
    ("cluster.verification", "cluster.verification"),
    ("cluster.jwks_file", ""),
    ("cluster.discovery_url", ""),
    ("cluster.ca_file", ""),
    ("cluster.token_file", ""),
    ("cluster.kubeconfig", ""),
    ("cluster.watch_pods", "cluster.verification"),
    ("cluster.csi_driver", "podSockets.driver"),
    ("publish", "publish"),
    ("publish.cluster", "cluster.name"),
    ("publish.config_map", "publish.configMap"),
    ("publish.key", ""),
    ("publish.istio", "publish.istio"),
    ("publish.namespaces", "publish.namespaces"),
    ("publish.namespace_selector", "publish.namespaceSelector"),
    ("publish.cluster_trust_bundle", "publish.clusterTrustBundle"),
    ("publish.mutating_webhooks", "publish.caBundles"),
    ("publish.validating_webhooks", "publish.caBundles"),
    ("publish.api_services", "publish.caBundles"),
    ("publish.settle", "publish.settle"),
];

/// The same of agents.
const OF_AGENT: &[(&str, &str)] = &[
    ("trust_domain", "trustDomain"),
    ("cluster", "cluster.name"),
    ("node", ""),
    ("authority.bundle_file", "publish.configMap"),
    ("authority.token_file", "cluster.audience"),
    ("socket.path", "agent.socketDirectory"),
    ("pod_sockets.driver", "podSockets.driver"),
    ("pod_sockets.audience", "cluster.audience"),
    ("pod_sockets.kubelet_root", "podSockets.kubeletRoot"),
    ("pod_sockets.directory", "agent.runDirectory"),
    ("attestation.attestors", "agent.attestors"),
    ("state.directory", "agent.stateDirectory"),
    ("state.cache_key_file", "agent.runDirectory"),
    ("ops.address", ""),
    ("log.level", "agent.log.level"),
];

/// The settings that docs/operate.md has a row for.
fn settings(of: &str) -> anyhow::Result<BTreeSet<String>> {
    let text = std::fs::read_to_string(Chart::folder().join("../../docs/operate.md"))?;
    let title = format!("### Configuration of the {of}\n");
    let (_, section) = text.split_once(&title).context("the section")?;
    let (section, _) = section.split_once("\n### ").context("its end")?;
    let mut settings = BTreeSet::new();
    for line in section.lines() {
        let Some((cell, _)) = line.strip_prefix("| `").and_then(|it| it.split_once(" |")) else {
            continue;
        };
        let mut words = cell.split(", ").map(|word| word.trim_matches('`'));
        let first = words.next().context("a setting")?;
        let (parent, _) = first.rsplit_once('.').unwrap_or_default();
        settings.extend(words.map(|word| format!("{parent}.{word}")));
        settings.insert(first.to_owned());
    }
    Ok(settings)
}

/// Values as the chart has them.
fn defaults() -> anyhow::Result<Value> {
    let text = std::fs::read_to_string(Chart::folder().join("values.yaml"))?;
    Ok(serde_saphyr::from_str(&text)?)
}

/// The schema of a tree of further settings, such as of `ca.config`.
fn schema(of: &str) -> anyhow::Result<Value> {
    let text = std::fs::read_to_string(Chart::folder().join("values.schema.json"))?;
    let all: Value = serde_json::from_str(&text)?;
    let schema = all.pointer(&format!("/properties/{of}/properties/config"));
    Ok(schema.context("it is there")?.clone())
}

/// Whether a setting is refused by the schema of a tree.
fn is_refused(schema: &Value, setting: &str) -> bool {
    let mut at = schema;
    for part in setting.split('.') {
        at = &at["properties"][part];
        if at.is_boolean() {
            return at == false;
        }
    }
    false
}

/// What a schema refuses, each with what it is in.
fn refused(schema: &Value, within: &str, into: &mut BTreeSet<String>) {
    for (name, at) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{within}{name}");
        if at == false {
            into.insert(path);
        } else {
            refused(at, &format!("{path}."), into);
        }
    }
}

/// Where a setting of the authority or of an agent would stand.
fn place<'a>(program: &str, setting: &'a str) -> (&'static str, &'a str) {
    match (program, setting.strip_prefix("cluster.")) {
        ("authority", Some(setting)) => ("cluster", setting),
        ("authority", None) => ("ca", setting),
        _ => ("agent", setting),
    }
}

#[test]
#[ignore = "needs helm: make test-kube"]
fn every_setting_can_be_had_by_the_chart_or_is_decided_by_it() -> anyhow::Result<()> {
    let defaults = defaults()?;
    let mut schemas = BTreeMap::new();
    for tree in ["ca", "cluster", "agent"] {
        schemas.insert(tree, schema(tree)?);
    }
    let mut known = BTreeMap::<_, BTreeSet<&str>>::new();
    let (authority, agent) = (settings("authority")?, settings("node agent")?);
    ensure!(authority.len() > 100 && agent.len() > 30);
    for (program, settings, decided) in [
        ("authority", &authority, OF_AUTHORITY),
        ("node agent", &agent, OF_AGENT),
    ] {
        for setting in settings {
            let (tree, name) = place(program, setting);
            known.entry(tree).or_default().insert(name);
            let by = decided.iter().find(|(it, _)| it == setting);
            ensure!(
                is_refused(&schemas[tree], name) == by.is_some(),
                "{setting} of the {program}: {by:?}"
            );
        }
        for (setting, by) in decided {
            ensure!(settings.contains(*setting), "there is no {setting}");
            let pointer = format!("/{}", by.replace('.', "/"));
            ensure!(
                by.is_empty() || defaults.pointer(&pointer).is_some(),
                "{by}"
            );
        }
    }
    // What is refused is a setting, or all that begin with it.
    for (tree, schema) in &schemas {
        let mut all = BTreeSet::new();
        refused(schema, "", &mut all);
        for path in all {
            let mut known = known[tree].iter();
            let within = format!("{path}.");
            let is_known = known.any(|it| *it == path || it.starts_with(&within))
                // The settings of these stand in other trees.
                || ["cluster", "publish"].contains(&&*path);
            ensure!(is_known, "{tree}: {path} is no setting");
        }
    }
    Ok(())
}

fn file(chart: &Chart, name: &str, key: &str) -> anyhow::Result<File> {
    let text = chart.object("ConfigMap", name)?["data"][key].as_str();
    Ok(File::from_text(key, text.context("text")?.to_owned())?)
}

#[test]
#[ignore = "needs helm: make test-kube"]
fn what_the_values_say_is_in_the_configurations() -> anyhow::Result<()> {
    let chart = Chart::render("arx-system", ALL_SET)?;
    let config = file(&chart, "arx-ca", "ca.toml")?.parse::<arx_ca::config::Config>()?;
    let own = &config.clusters[0];
    ensure!(own.name == "cluster" && own.watch_pods == Some(true));
    ensure!(own.pod_grace == Span::from_secs(1800));
    ensure!(own.stale_grace == Span::from_secs(7200));
    ensure!(own.refetch_interval == Span::from_secs(30));
    ensure!(own.pod_labels == ["app", "team"] && !own.pod_events);
    ensure!(own.allow_unbound && own.allow_extended);
    let [published, other] = &config.publish[..] else {
        anyhow::bail!("{:?}", config.publish);
    };
    ensure!(published.cluster == "cluster");
    ensure!(published.namespaces == ["shop", "arx-system"]);
    ensure!(published.namespace_selector.as_deref() == Some("example.org/mesh in (a, b), !off"));
    ensure!(published.settle == Span::from_secs(60));
    ensure!(published.mutating_webhooks == ["guard", "sidecars"]);
    ensure!(published.validating_webhooks == ["guard"]);
    ensure!(published.api_services == ["v1.example.org"]);
    ensure!(other.cluster == "b" && other.istio);
    ensure!(config.state.restore_settle == Span::from_secs(60));
    let shared = config.state.kubernetes.context("it is shared")?;
    ensure!(shared.namespace.as_deref() == Some("arx-state"));
    ensure!(shared.deadline == Span::from_secs(10));

    let agent = file(&chart, "arx-node-agent", "node-agent.toml")?;
    let agent = agent.parse::<arx_node_agent::config::Config>()?;
    ensure!(agent.authority.address.is_empty());
    ensure!(agent.authority.addresses == ["a.example.org:8443", "b.example.org:8443"]);
    ensure!(agent.authority.rebalance == Span::from_secs(60));
    let sockets = agent.pod_sockets.context("pod sockets")?;
    ensure!(sockets.max_connections == 8 && sockets.driver == "csi.arx.dev");

    // Agents alone, of an authority elsewhere.
    let chart = Chart::render(
        "arx-system",
        "{trustDomain: example.org, cluster: {name: b}, ca: {replicas: 0}, agent: {config: {authority: {address: 'a.example.org:8443'}}}}",
    )?;
    let agent = file(&chart, "arx-node-agent", "node-agent.toml")?;
    let agent = agent.parse::<arx_node_agent::config::Config>()?;
    ensure!(agent.cluster == "b" && agent.authority.address == "a.example.org:8443");
    Ok(())
}

#[test]
#[ignore = "needs helm: make test-kube"]
fn each_ca_bundle_is_the_authoritys_to_write_by_its_name_and_events_only_where_they_are_told()
-> anyhow::Result<()> {
    let rules = |values: &str| -> anyhow::Result<Vec<Value>> {
        let chart = Chart::render("arx-system", values)?;
        let role = chart.object("ClusterRole", "arx-system:arx-ca")?;
        Ok(role["rules"].as_array().context("rules")?.clone())
    };
    let names = |rules: &[Value], resource: &str| {
        let mut rules = rules.iter();
        let rule = rules.find(|it| it["resources"][0] == resource);
        rule.map(|it| it["resourceNames"].to_string())
    };
    let all = rules(ALL_SET)?;
    for (resource, named) in [
        (
            "mutatingwebhookconfigurations",
            Some(r#"["guard","sidecars"]"#),
        ),
        ("validatingwebhookconfigurations", Some(r#"["guard"]"#)),
        ("apiservices", Some(r#"["v1.example.org"]"#)),
        ("events", None),
    ] {
        ensure!(
            names(&all, resource).as_deref() == named,
            "{resource}: {all:#?}"
        );
    }
    let usual = rules("trustDomain: example.org")?;
    ensure!(names(&usual, "events").is_some());
    for resource in [
        "mutatingwebhookconfigurations",
        "validatingwebhookconfigurations",
        "apiservices",
    ] {
        ensure!(names(&usual, resource).is_none(), "{usual:#?}");
    }
    Ok(())
}
