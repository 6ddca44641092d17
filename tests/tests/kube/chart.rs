//! The chart on a real API server: what it makes is taken there, its programs run with what it gives
//! them, and need all that it grants and nothing else.

mod injected;
mod rendered;
mod rights;

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};
use arx_proto::admin::v1::admin_client::AdminClient;
use arx_tests::kube::{Chart, Cluster, Driver, Installed, Kubelet, NewPod, Token};
use arx_tests::mesh::AUDIENCE;
use arx_tests::process::{Process, free_port, until};
use arx_tests::sds::{self, Connection};
use arx_tests::{admin, http as web};
use http::StatusCode;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::ResourceExt as _;
use kube::api::{Api, ListParams, PostParams};
use serde_json::json;
use tonic::transport::Channel;

/// A node with an authority and an agent of the chart on it.
struct Site {
    cluster: Cluster,
    kubelet: Kubelet,
    chart: Chart,
    /// Of the chart.
    system: String,
    /// Of workloads.
    shop: String,
    authority: Installed,
    agent: Installed,
    /// The agent, as its kubelet has found it.
    taken: Option<Driver>,
    /// Both programs.
    running: Vec<Process>,
    folder: tempfile::TempDir,
}

const NODE: &str = "node-1";

impl Site {
    /// The chart with these values besides, applied; nothing of it runs.
    async fn install(values: &str) -> anyhow::Result<Self> {
        let cluster = Cluster::start().await?;
        let system = cluster.namespace("arx-system").await?;
        let shop = cluster.namespace("shop").await?;
        cluster.service_account(&shop, "web").await?;
        let kubelet = cluster.kubelet(NODE).await?;
        let key: Secret = serde_json::from_value(json!({
            "metadata": {"name": "arx-sealing-key"},
            "stringData": {"key": "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"},
        }))?;
        let secrets = Api::<Secret>::namespaced(cluster.admin.clone(), &system);
        secrets.create(&PostParams::default(), &key).await?;

        let issuer = &cluster.issuer;
        // Objects of drivers have no namespace.
        let own = format!(
            "trustDomain: example.org\ncluster: {{issuer: '{issuer}'}}\npodSockets: {{driver: {shop}.csi.arx.dev}}\n"
        );
        let values = values.replace("SYSTEM", &system).replace("SHOP", &shop);
        let chart = Chart::render(&system, &format!("{own}{values}"))?;
        chart.apply(&cluster, false).await?;
        let folder = tempfile::Builder::new().prefix("arx-").tempdir_in("/tmp")?;
        let authority = chart.program("StatefulSet", "arx-ca", &folder.path().join("ca"))?;
        let agent = chart.program("DaemonSet", "arx-node-agent", &folder.path().join("agent"))?;
        Ok(Self {
            cluster,
            kubelet,
            chart,
            system,
            shop,
            authority,
            agent,
            taken: None,
            running: Vec::new(),
            folder,
        })
    }

    /// Starts both, as the pods that their controllers have made.
    async fn start(&mut self) -> anyhow::Result<()> {
        let (node_port, ops_port, page_port) = (free_port()?, free_port()?, free_port()?);
        let pod = self.pod_of("arx-ca").await?;
        let token = self.folder.path().join("api-token");
        let asked = Token {
            namespace: &self.system,
            pod: &pod,
            audience: "",
        };
        self.kubelet.project(asked, &token).await?;
        let kubeconfig = self.cluster.kubeconfig("arx-ca", &token)?;
        let account = self
            .authority
            .path("/var/run/secrets/kubernetes.io/serviceaccount");
        std::fs::create_dir_all(&account)?;
        std::fs::copy(&token, account.join("token"))?;
        std::fs::copy(self.cluster.ca_file()?, account.join("ca.crt"))?;
        self.authority
            .mount(&self.kubelet, &self.system, &pod)
            .await?;
        let loopback = |port: u16| format!("\"127.0.0.1:{port}\"");
        self.authority.configure(&[
            ("\"0.0.0.0:8443\"", loopback(node_port)),
            ("\"0.0.0.0:9901\"", loopback(ops_port)),
            ("\"127.0.0.1:9903\"", loopback(page_port)),
            (
                "\"https://kubernetes.default.svc\"",
                format!("\"{}\"", self.cluster.url()?),
            ),
            // In a pod the address comes from the environment, and the token from a path that is fixed.
            (
                "watch_pods = true",
                format!(
                    "watch_pods = true\nkubeconfig = \"{}\"",
                    kubeconfig.display()
                ),
            ),
        ])?;
        self.running.push(self.authority.start()?);
        self.is_ready(ops_port).await?;

        let (pod, agent_port) = (self.pod_of("arx-node-agent").await?, free_port()?);
        self.agent.mount(&self.kubelet, &self.system, &pod).await?;
        self.agent.configure(&[
            (
                &format!("\"arx-ca.{}.svc:8443\"", self.system),
                loopback(node_port),
            ),
            ("\"0.0.0.0:9902\"", loopback(agent_port)),
        ])?;
        self.running.push(self.agent.start()?);
        let kubelet_root = self.agent.path("/var/lib/kubelet");
        self.taken = Some(self.kubelet.register(&kubelet_root, &self.driver()).await?);
        self.is_ready(agent_port).await
    }

    /// What the chart calls the driver.
    fn driver(&self) -> String {
        format!("{}.csi.arx.dev", self.shop)
    }

    async fn is_ready(&self, port: u16) -> anyhow::Result<()> {
        let ready = until("readiness", || async move {
            Ok(web::get(port, "/readyz").await?.0 == StatusCode::OK)
        });
        let last = self.running.last().context("it runs")?;
        ready
            .await
            .with_context(|| format!("it says:\n{}", last.log().tail()))
    }

    /// The pod that a controller has made of the chart, put onto the node as a scheduler does.
    async fn pod_of(&self, part: &str) -> anyhow::Result<String> {
        let pods = Api::<Pod>::namespaced(self.cluster.admin.clone(), &self.system);
        let of_part = ListParams::default().labels(&format!("app.kubernetes.io/name={part}"));
        until(&format!("a pod {part}"), || async {
            Ok(!pods.list(&of_part).await?.items.is_empty())
        })
        .await?;
        let made = pods.list(&of_part).await?.items.pop().context("a pod")?;
        let name = made.name_any();
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding", "metadata": {"name": name},
            "target": {"kind": "Node", "name": NODE},
        });
        let _bound: serde_json::Value = pods
            .create_subresource("binding", &name, &PostParams::default(), &binding)
            .await?;
        Ok(name)
    }

    /// A pod of the shop, and its token.
    async fn workload(&self, name: &str) -> anyhow::Result<String> {
        let pod = NewPod {
            namespace: &self.shop,
            name,
            account: "web",
            node: NODE,
            audiences: &[AUDIENCE],
        };
        self.cluster.pod(pod).await?;
        let token = Token {
            namespace: &self.shop,
            pod: name,
            audience: AUDIENCE,
        };
        self.kubelet.token(token).await
    }

    /// Who somebody with this token is, at the agent's socket.
    async fn identity(&self, token: &str) -> anyhow::Result<String> {
        let socket = self.agent.path("/run/arx/sds.sock");
        let connection = Connection::open(&socket, Some(token)).await?;
        let mut stream = connection.stream(&["default"]).await?;
        let secret = sds::secrets(&stream.next().await?)?
            .pop()
            .context("a secret")?;
        Ok(sds::chain(&secret)?.spiffe_id().to_string())
    }

    /// The same, which comes to nothing with this code in the agent's log.
    async fn is_refused(&self, token: &str, code: &str) -> anyhow::Result<()> {
        let mut log = self.running.last().context("the agent runs")?.log();
        let from = log.lines().len();
        let socket = self.agent.path("/run/arx/sds.sock");
        let connection = Connection::open(&socket, Some(token)).await?;
        let mut stream = connection.stream(&["default"]).await?;
        log.until(code, from).await?;
        ensure!(stream.is_silent().await);
        Ok(())
    }

    async fn admin(&self) -> anyhow::Result<AdminClient<Channel>> {
        admin::connect(&self.authority.path("/run/arx-ca/admin.sock")).await
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        for line in mounts.lines() {
            let place = line.split(' ').nth(1).unwrap_or_default();
            if Path::new(place).starts_with(self.folder.path()) {
                let _gone = Command::new("umount").args(["--lazy", place]).status();
            }
        }
    }
}
