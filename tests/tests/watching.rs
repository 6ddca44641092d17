//! What an operator sees without asking: metrics of a rotation, and the alert rules and the
//! dashboard over them, which name nothing that is not there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use arx_proto::admin::v1::{
    ContinueRotationRequest, RotateRootRequest, RotationStatusRequest, StatusResponse,
};
use arx_tests::http::{get, metric};
use arx_tests::mesh::{Mesh, Options};
use arx_tests::process::until;
use arx_tests::sds::Connection;
use serde_json::Value;

/// These have no sample before something has happened, so a process that is well does not
/// show them. They stand here with how they are registered.
const AFTER_AN_EVENT: [(&str, &str); 8] = [
    ("arx_ca_upstream_reachable", "\"arx_ca_upstream_reachable\""),
    ("arx_ca_published_objects", "\"arx_ca_published_objects\""),
    ("arx_agent_rejected_total", "\"rejected\""),
    ("arx_ca_refusals_total", "\"arx_ca_refusals\""),
    ("arx_ca_files_in_use", "\"arx_ca_files_in_use\""),
    (
        "arx_ca_unpublished_objects",
        "\"arx_ca_unpublished_objects\"",
    ),
    (
        "arx_ca_configuration_reloads_total",
        "\"arx_ca_configuration_reloads\"",
    ),
    ("arx_task_panics_total", "\"arx_task_panics\""),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> anyhow::Result<String> {
    fs::read_to_string(root().join(path)).with_context(|| path.to_owned())
}

/// Prometheus' own grammar of rules, as far as it is used.
fn rules() -> anyhow::Result<Vec<Value>> {
    let file: Value = serde_saphyr::from_str(&read("deploy/prometheus/arx-rules.yaml")?)?;
    let groups = file["groups"].as_array().context("groups")?;
    let rules = groups.iter().flat_map(|group| group["rules"].as_array());
    let rules: Vec<_> = rules.flatten().cloned().collect();
    ensure!(rules.len() > 20, "only {} rules", rules.len());
    Ok(rules)
}

fn panels() -> anyhow::Result<Vec<Value>> {
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana/arx.json")?)?;
    let panels = dashboard["panels"].as_array().context("panels")?;
    ensure!(panels.len() > 20, "only {} panels", panels.len());
    Ok(panels.clone())
}

/// Every expression of rules and dashboard.
fn expressions() -> anyhow::Result<Vec<String>> {
    let panels = panels()?;
    let targets = panels
        .iter()
        .filter_map(|panel| panel["targets"].as_array());
    let of_panels = targets.flatten().map(|target| &target["expr"]);
    let rules = rules()?;
    let all = of_panels.chain(rules.iter().map(|rule| &rule["expr"]));
    all.map(|expression| {
        let text = expression.as_str().context("an expression is a string")?;
        Ok(text.to_owned())
    })
    .collect()
}

/// The metrics of an expression, each with the labels that it is selected by.
fn selected(expression: &str) -> Vec<(String, BTreeSet<String>)> {
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let mut found = Vec::new();
    let mut rest = expression;
    while let Some(start) = rest.find(is_name) {
        rest = &rest[start..];
        let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        rest = after;
        if !(name.starts_with("arx_") || name.starts_with("process_")) {
            continue;
        }
        let mut labels = BTreeSet::new();
        if let Some((selector, after)) = after.strip_prefix('{').and_then(|it| it.split_once('}')) {
            rest = after;
            labels.extend(selector.split(',').map(|matcher| {
                let end = matcher.find(|c| !is_name(c)).unwrap_or(matcher.len());
                matcher[..end].to_owned()
            }));
        }
        found.push((name.to_owned(), labels));
    }
    found
}

/// What processes export: each metric as it is queried, with its labels as far as there are
/// samples.
#[derive(Default)]
struct Exported(BTreeMap<String, BTreeSet<String>>);

impl Exported {
    async fn add(&mut self, port: u16) -> anyhow::Result<()> {
        let (status, text) = get(port, "/metrics").await?;
        ensure!(status == 200, "{status}");
        for line in text.lines() {
            if let Some(declared) = line.strip_prefix("# TYPE ") {
                let (name, kind) = declared.split_once(' ').context("a type")?;
                let added: &[&str] = match kind {
                    "counter" => &["_total"],
                    "histogram" => &["_bucket", "_sum", "_count"],
                    "info" => &["_info"],
                    _ => &[""],
                };
                for added in added {
                    self.0.entry(format!("{name}{added}")).or_default();
                }
            } else if let Some((name, rest)) = line.split_once('{') {
                let labels = rest.split('=').filter_map(|part| {
                    let name = part.rsplit(['{', ',', '"']).next()?;
                    (!name.is_empty()).then(|| name.to_owned())
                });
                self.0.entry(name.to_owned()).or_default().extend(labels);
            }
        }
        Ok(())
    }
}

async fn rotate(mesh: &Mesh) -> anyhow::Result<()> {
    let request = RotateRootRequest {
        window_ms: Some(500),
        dwell_ms: Some(200),
        ..RotateRootRequest::default()
    };
    mesh.admin().await?.rotate_root(request).await?;
    Ok(())
}

fn roots(status: &StatusResponse) -> Vec<&str> {
    let roots = status.authorities.iter().filter(|it| it.role == "root");
    roots.map(|it| &*it.state).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_rotation_is_seen_in_metrics_and_status() -> anyhow::Result<()> {
    let mesh = Mesh::start(Options::default()).await?;
    let mut agent = mesh.agent("n1").await?;
    let port = mesh.ops_port;
    let reads = |name: &'static str, wanted: f64| {
        until(name, move || async move {
            Ok(metric(port, name).await? == Some(wanted))
        })
    };
    let waits = "arx_ca_rotation_phase{phase=\"distribute\"}";
    let away = "arx_ca_rotation_unconfirmed{reason=\"agent-away\"}";
    let done = "arx_ca_rotations_total{outcome=\"done\"}";
    let forced = "arx_ca_rotation_forced_gates_total";
    for name in [waits, done, forced] {
        ensure!(metric(port, name).await? == Some(0.0), "{name}");
    }
    let status = mesh.status().await?;
    ensure!(roots(&status) == ["active"] && status.rotation.is_none());
    let root = status.health.iter().find(|it| it.component == "root");
    ensure!(root.is_some_and(|it| it.ok && !it.warning), "{root:?}");

    agent.kill().await?;
    rotate(&mesh).await?;
    reads(waits, 1.0).await?;
    reads(away, 1.0).await?;
    let status = mesh.status().await?;
    ensure!(roots(&status) == ["active", "prepared"], "{status:?}");
    let rotation = status.rotation.as_ref().context("it is under way")?;
    ensure!(rotation.phase == "distribute" && rotation.unconfirmed.is_empty());
    ensure!(rotation.unconfirmed_total > 0, "{rotation:?}");
    let (_, text) = get(port, "/metrics").await?;
    for state in ["active", "prepared"] {
        let line = format!("arx_ca_root_expiry_timestamp_seconds{{state=\"{state}\",key_id=\"");
        ensure!(text.contains(&line), "{line} is not in:\n{text}");
    }
    let age = "arx_ca_rotation_oldest_unconfirmed_seconds";
    ensure!(metric(port, age).await?.is_some_and(|age| age < 120.0));

    agent.start().await?;
    reads(done, 1.0).await?;
    reads(waits, 0.0).await?;
    let status = mesh.status().await?;
    ensure!(roots(&status) == ["active"] && status.rotation.is_none());

    agent.kill().await?;
    rotate(&mesh).await?;
    reads(away, 1.0).await?;
    until("the gate is forced", || async {
        let mut admin = mesh.admin().await?;
        let request = RotationStatusRequest::default();
        let rotation = admin.rotation_status(request).await?.into_inner().rotation;
        let request = ContinueRotationRequest {
            force: true,
            reason: "a test".to_owned(),
            digest: rotation.context("it is under way")?.unconfirmed_digest,
            ..ContinueRotationRequest::default()
        };
        // Refused while the list still grows.
        Ok(admin.continue_rotation(request).await.is_ok())
    })
    .await?;
    reads(forced, 1.0).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_root_that_ends_soon_is_a_warning_and_no_failure() -> anyhow::Result<()> {
    let options = Options {
        roots: "root_ttl = \"20d\"\nroot_renewal = \"manual\"".to_owned(),
        ..Options::default()
    };
    let mesh = Mesh::start(options).await?;
    let status = mesh.status().await?;
    let root = status.health.iter().find(|it| it.component == "root");
    let root = root.context("the root is among what can be well")?;
    ensure!(root.ok && root.warning && root.code == "ARX-ROOT-ENDING");
    ensure!(root.message.contains("within 30 days"), "{root:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_root_that_renews_itself_in_time_is_no_warning() -> anyhow::Result<()> {
    let options = Options {
        roots: "root_ttl = \"20d\"".to_owned(),
        ..Options::default()
    };
    let mesh = Mesh::start(options).await?;
    until("its renewal is planned", || async {
        let due = "arx_ca_authority_renewal_timestamp_seconds{role=\"root\"}";
        let ends = "arx_ca_authority_expiry_timestamp_seconds{role=\"root\"}";
        let (due, ends) = (
            metric(mesh.ops_port, due).await?,
            metric(mesh.ops_port, ends).await?,
        );
        let left = due.zip(ends).map(|(due, ends)| ends - due);
        // A third of 20 days.
        Ok(left.is_some_and(|left| (left - 576_000.0).abs() < 60.0))
    })
    .await?;
    let status = mesh.status().await?;
    let root = status.health.iter().find(|it| it.component == "root");
    let root = root.context("the root is among what can be well")?;
    ensure!(root.ok && !root.warning && root.code.is_empty(), "{root:?}");
    Ok(())
}

/// An authority whose records are gathered by whoever listens there.
fn gathering(socket: &Path) -> Options {
    Options {
        authority: format!("[ledger]\nsink = \"unix:{}\"", socket.display()),
        ..Options::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_sink_that_is_away_is_a_warning_in_status_with_how_many_records_wait()
-> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let socket = directory.path().join("lines");
    let mesh = Mesh::start(gathering(&socket)).await?;
    let sink = || async {
        let health = mesh.status().await?.health;
        let sink = health.into_iter().find(|it| it.component == "ledger sink");
        sink.context("a row of its own")
    };
    until("it is told", || async {
        let sink = sink().await?;
        ensure!(sink.ok, "nothing waits for it: {sink:?}");
        Ok(sink.code == "ARX-LEDGER-SINK" && sink.warning)
    })
    .await?;
    let message = sink().await?.message;
    ensure!(message.contains("records wait"), "{message}");
    let warned = "arx_warned{condition=\"ledger sink\"}";
    ensure!(metric(mesh.ops_port, warned).await? == Some(1.0));
    ensure!(metric(mesh.ops_port, "arx_ca_ledger_sink_waiting").await? > Some(0.0));

    let listener = tokio::net::UnixListener::bind(&socket)?;
    let (_stream, _) = listener.accept().await?;
    until("everything has come", || async {
        let sink = sink().await?;
        Ok(sink.code.is_empty() && sink.message.starts_with("0 records wait"))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn who_leads_is_seen_in_metrics() -> anyhow::Result<()> {
    let mesh = Mesh::start(Options::default()).await?;
    until("it leads", || async {
        Ok(metric(mesh.ops_port, "arx_ca_leads").await? == Some(1.0))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn every_metric_of_rules_and_dashboard_is_exported() -> anyhow::Result<()> {
    let gathered = tempfile::tempdir()?;
    let mesh = Mesh::start(gathering(&gathered.path().join("lines"))).await?;
    let mut agent = mesh.agent("n1").await?;
    // A proxy that refuses what it gets, so that the agent has something to count.
    let token = mesh.token("shop", "web", "n1");
    let proxy = Connection::open(&agent.socket, Some(&token)).await?;
    let mut stream = proxy.stream(&["default"]).await?;
    let first = stream.next().await?;
    stream.nack(&first, "not this one")?;
    let mut log = agent.process.as_ref().context("it runs")?.log();
    log.until("not this one", 0).await?;
    let mut exported = Exported::default();
    exported.add(agent.ops_port).await?;
    exported.add(mesh.ops_port).await?;
    // Somebody is in the way, so that this has samples too.
    agent.kill().await?;
    rotate(&mesh).await?;
    until("somebody is in the way", || async {
        let name = "arx_ca_rotation_unconfirmed{reason=\"agent-away\"}";
        Ok(metric(mesh.ops_port, name).await?.is_some())
    })
    .await?;
    exported.add(mesh.ops_port).await?;

    let source = [
        "ca/src/metrics.rs",
        "ca/src/metrics/published.rs",
        "node-agent/src/metrics.rs",
        "daemon/src/ops/metrics.rs",
    ];
    let source = source
        .map(read)
        .into_iter()
        .collect::<Result<String, _>>()?;
    for expression in expressions()? {
        let all = selected(&expression);
        ensure!(!all.is_empty(), "no metric in {expression}");
        for (name, labels) in all {
            let event = AFTER_AN_EVENT.iter().find(|(known, _)| *known == name);
            if let Some((_, registered)) = event {
                ensure!(source.contains(registered), "nothing registers {name}");
                continue;
            }
            let known = exported.0.get(&name);
            let known = known.with_context(|| format!("{name} of {expression} is not exported"))?;
            let lacking: Vec<_> = labels
                .iter()
                .filter(|label| !["job", "instance"].contains(&label.as_str()))
                .filter(|label| !known.contains(*label))
                .collect();
            ensure!(lacking.is_empty(), "{name} has no label {lacking:?}");
        }
    }
    Ok(())
}

#[test]
fn every_alert_says_what_it_means_and_what_to_do() -> anyhow::Result<()> {
    let tests = read("deploy/prometheus/arx-rules.test.yaml")?;
    let _parses: Value = serde_saphyr::from_str(&tests)?;
    let mut names = BTreeSet::new();
    for rule in rules()? {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let name = text(&rule["alert"]);
        ensure!(name.starts_with("Arx"), "{rule}");
        ensure!(names.insert(name.clone()), "{name} is there twice");
        let severity = text(&rule["labels"]["severity"]);
        ensure!(
            ["info", "warning", "critical"].contains(&&*severity),
            "{name}: {severity}"
        );
        let annotations = &rule["annotations"];
        for part in ["summary", "description"] {
            ensure!(text(&annotations[part]).len() > 20, "{name} has no {part}");
        }
        let runbook = text(&annotations["runbook_url"]);
        let (page, place) = runbook.split_once('#').context("a place in a page")?;
        let page = read(page)?;
        let section = page
            .split("\n##")
            .find(|section| {
                let heading = section.lines().next().unwrap_or_default();
                let heading = heading.trim_start_matches('#').trim();
                heading.to_lowercase().replace(' ', "-") == place
            })
            .with_context(|| format!("{name}: there is no {runbook}"))?;
        ensure!(section.contains(&name), "{runbook} does not explain {name}");
        ensure!(tests.contains(&name), "{name} is not tested");
    }
    Ok(())
}

#[test]
fn every_panel_has_a_place_and_a_description() -> anyhow::Result<()> {
    let mut ids = BTreeSet::new();
    for panel in panels()? {
        let title = panel["title"].as_str().context("a title")?;
        ensure!(ids.insert(panel["id"].as_u64()), "{title}: its id is taken");
        let number = |key: &str| panel["gridPos"][key].as_u64();
        ensure!(
            matches!((number("x"), number("w")), (Some(x), Some(w)) if x + w <= 24),
            "{title} is too wide"
        );
        let is_row = panel["type"] == "row";
        let described = panel["description"]
            .as_str()
            .is_some_and(|it| !it.is_empty());
        ensure!(is_row || described, "{title} has no description");
    }
    Ok(())
}

#[test]
fn a_metric_is_found_in_an_expression_with_its_labels() {
    let found = selected("sum by (le) (rate(arx_a_bucket{kind=\"x\",job=~\"arx_b\"}[5m])) - arx_c");
    let labels = ["job", "kind"].map(str::to_owned);
    assert_eq!(
        found,
        [
            ("arx_a_bucket".to_owned(), BTreeSet::from(labels)),
            ("arx_c".to_owned(), BTreeSet::new())
        ]
    );
}
