//! What the chart says of its pods to kubelets and to the scheduler: where they are probed, what they
//! need, and who goes first where there is not enough of it.

use anyhow::{Context as _, ensure};
use arx_daemon::config::File;
use arx_tests::http as web;
use arx_tests::kube::Chart;
use arx_tests::mesh::{Mesh, Options};
use http::StatusCode;
use serde_json::{Value, json};

const AUTHORITY: (&str, &str) = ("StatefulSet", "arx-ca");
const AGENT: (&str, &str) = ("DaemonSet", "arx-node-agent");
const BEGINS: &str = "startupProbe";
const LIVES: &str = "livenessProbe";
const READY: &str = "readinessProbe";

/// The pod of an object, and its one container.
fn pod<'a>(chart: &'a Chart, (kind, name): (&str, &str)) -> anyhow::Result<(&'a Value, &'a Value)> {
    let pod = &chart.object(kind, name)?["spec"]["template"]["spec"];
    let containers = pod["containers"].as_array().context("containers")?;
    ensure!(containers.len() == 1 && pod["initContainers"].is_null());
    Ok((pod, &containers[0]))
}

/// The path of a probe, which goes to the port `ops`.
fn path<'a>(container: &'a Value, probe: &str) -> anyhow::Result<&'a str> {
    let get = &container[probe]["httpGet"];
    ensure!(
        get["port"] == "ops" && get["scheme"].is_null(),
        "{probe}: {get}"
    );
    get["path"]
        .as_str()
        .with_context(|| format!("{probe} has a path"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs helm: make test-kube"]
async fn the_programs_answer_every_probe_of_the_chart() -> anyhow::Result<()> {
    let chart = Chart::render("arx-system", "trustDomain: example.org")?;
    let mut mesh = Mesh::start(Options::default()).await?;
    let agent = mesh.agent("n1").await?;
    let (_, authority) = pod(&chart, AUTHORITY)?;
    let (_, node_agent) = pod(&chart, AGENT)?;
    for (container, port, probes) in [
        (authority, mesh.ops_port, &[BEGINS, LIVES, READY][..]),
        (node_agent, agent.ops_port, &[LIVES, READY]),
    ] {
        for probe in probes {
            let path = path(container, probe)?;
            let (status, body) = web::get(port, path).await?;
            ensure!(status == StatusCode::OK, "{probe} {path}: {status} {body}");
        }
        // No pod is ended because of what it waits for.
        ensure!(path(container, LIVES)? != path(container, READY)?);
    }
    ensure!(path(authority, BEGINS)? == path(authority, LIVES)?);
    // An agent that has never reached its authority lives, and is not ready.
    mesh.stop_authority().await?;
    let mut alone = mesh.prepare_agent("n2")?;
    alone.spawn()?;
    arx_tests::process::until("it lives", || async {
        Ok(web::get(alone.ops_port, path(node_agent, LIVES)?).await?.0 == StatusCode::OK)
    })
    .await?;
    let ready = web::get(alone.ops_port, path(node_agent, READY)?).await?;
    ensure!(ready.0 == StatusCode::SERVICE_UNAVAILABLE, "{ready:?}");
    Ok(())
}

#[test]
#[ignore = "needs helm: make test-kube"]
fn each_program_listens_where_its_pod_is_probed() -> anyhow::Result<()> {
    for values in super::rendered::VALUES {
        let chart = Chart::render("arx-system", values)?;
        let file = |name: &str, key: &str| -> anyhow::Result<File> {
            let text = chart.object("ConfigMap", name)?["data"][key].as_str();
            Ok(File::from_text(key, text.context("text")?.to_owned())?)
        };
        let authority = file("arx-ca", "ca.toml")?.parse::<arx_ca::config::Config>()?;
        let agent = file("arx-node-agent", "node-agent.toml")?;
        let agent = agent.parse::<arx_node_agent::config::Config>()?;
        for (object, address) in [
            (AUTHORITY, authority.ops.address),
            (AGENT, agent.ops.address),
        ] {
            let ports = &pod(&chart, object)?.1["ports"];
            let mut named = ports.as_array().into_iter().flatten();
            let ops = named.find(|it| it["name"] == "ops").context("its port")?;
            ensure!(ops["containerPort"] == address.port(), "{object:?}: {ops}");
            // Kubelets come from outside of the pod.
            ensure!(address.ip().is_unspecified(), "{object:?}: {address}");
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs helm: make test-kube"]
fn agents_reach_an_authority_that_is_not_ready() -> anyhow::Result<()> {
    for values in super::rendered::VALUES {
        let chart = Chart::render("arx-system", values)?;
        let services: Vec<_> = chart
            .objects
            .iter()
            .filter(|object| object["kind"] == "Service")
            .filter(|object| object["spec"]["selector"]["app.kubernetes.io/name"] == "arx-ca")
            .collect();
        ensure!(!services.is_empty(), "{values}");
        for service in services {
            ensure!(
                service["spec"]["publishNotReadyAddresses"] == true,
                "{service}"
            );
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs helm: make test-kube"]
fn pods_go_before_others_and_ask_for_what_the_values_say() -> anyhow::Result<()> {
    let chart = Chart::render("arx-system", "trustDomain: example.org")?;
    for (object, class) in [
        (AUTHORITY, "system-cluster-critical"),
        (AGENT, "system-node-critical"),
    ] {
        let (pod, container) = pod(&chart, object)?;
        ensure!(pod["priorityClassName"] == class, "{object:?}");
        let resources = &container["resources"];
        for asked in ["/requests/cpu", "/requests/memory", "/limits/memory"] {
            let asked = resources.pointer(asked).and_then(Value::as_str);
            ensure!(
                asked.is_some_and(|it| !it.is_empty()),
                "{object:?}: {resources}"
            );
        }
        // A whole fleet that starts at once would wait for it.
        ensure!(
            resources["limits"]["cpu"].is_null(),
            "{object:?}: {resources}"
        );
    }

    let other = |class: &str, memory: &str| {
        let resources =
            json!({"requests": {"cpu": "1", "memory": memory}, "limits": {"memory": memory}});
        json!({"priorityClassName": class, "resources": resources})
    };
    let (authority, agent) = (other("first", "1Gi"), other("second", "2Gi"));
    let mut values = json!({"trustDomain": "example.org", "ca": authority, "agent": agent});
    let chart = Chart::render("arx-system", &values.to_string())?;
    for (object, wanted) in [(AUTHORITY, &authority), (AGENT, &agent)] {
        let (pod, container) = pod(&chart, object)?;
        ensure!(
            pod["priorityClassName"] == wanted["priorityClassName"],
            "{object:?}"
        );
        ensure!(container["resources"] == wanted["resources"], "{object:?}");
    }
    values["ca"]["replicas"] = json!(0);
    values["ca"]["restore"] = json!("arx-backup");
    let chart = Chart::render("arx-system", &values.to_string())?;
    let restore = &chart.object("Pod", "arx-ca-restore")?["spec"]["containers"][0];
    ensure!(restore["resources"] == authority["resources"], "{restore}");
    Ok(())
}
