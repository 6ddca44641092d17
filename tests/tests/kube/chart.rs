//! The chart on a real API server: what it makes is taken there, its programs run with what it gives
//! them, and need all that it grants and nothing else.

mod checked;
mod injected;
mod monitored;
mod moved;
mod probed;
mod refused;
mod rendered;
mod replicas;
mod rights;
mod settings;
mod table;

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
use kube::ResourceExt;
use kube::api::{Api, ListParams, PostParams};
use serde_json::json;
use tonic::transport::Channel;

/// Nodes with an authority and an agent of the chart on each.
struct Site {
    cluster: Cluster,
    nodes: Vec<Node>,
    chart: Chart,
    /// Of the chart.
    system: String,
    /// Of the authority's state, where that is in Secrets.
    state: String,
    /// Of workloads.
    shop: String,
    folder: tempfile::TempDir,
}

/// A node, and what runs on it.
struct Node {
    kubelet: Kubelet,
    authority: Program,
    agent: Program,
    /// The agent, as its kubelet has found it.
    taken: Option<Driver>,
}

/// A program of the chart.
struct Program {
    installed: Installed,
    /// The pod that it is of, once that is there.
    pod: String,
    /// While it runs.
    process: Option<Process>,
    ops_port: u16,
}

impl Program {
    fn new(installed: Installed) -> anyhow::Result<Self> {
        Ok(Self {
            installed,
            pod: String::new(),
            process: None,
            ops_port: free_port()?,
        })
    }

    /// Starts it, as what its pod is called.
    fn start(&mut self) -> anyhow::Result<()> {
        self.process = Some(self.installed.start(&self.pod)?);
        Ok(())
    }

    fn running(&self) -> anyhow::Result<&Process> {
        self.process.as_ref().context("it runs")
    }

    async fn is_ready(&self) -> anyhow::Result<()> {
        let port = self.ops_port;
        let ready = until("readiness", || async move {
            Ok(web::get(port, "/readyz").await?.0 == StatusCode::OK)
        });
        let said = || format!("{} says:\n{}", self.pod, self.said());
        ready.await.with_context(said)
    }

    fn said(&self) -> String {
        let process = self.process.as_ref();
        process.map_or_else(String::new, |it| it.log().tail())
    }
}

impl Site {
    /// The chart with these values besides, applied to a cluster of one node; nothing of it runs.
    async fn install(values: &str) -> anyhow::Result<Self> {
        Self::install_on(1, values).await
    }

    /// The same with so many nodes.
    async fn install_on(nodes: usize, values: &str) -> anyhow::Result<Self> {
        let cluster = Cluster::start().await?;
        let system = cluster.namespace("arx-system").await?;
        let state = cluster.namespace("arx-state").await?;
        let shop = cluster.namespace("shop").await?;
        cluster.service_account(&shop, "web").await?;
        let key: Secret = serde_json::from_value(json!({
            "metadata": {"name": "arx-sealing-key"},
            "stringData": {"key": "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"},
        }))?;
        let secrets = Api::<Secret>::namespaced(cluster.admin.clone(), &system);
        secrets.create(&PostParams::default(), &key).await?;

        let folder = tempfile::Builder::new().prefix("arx-").tempdir_in("/tmp")?;
        let mut site = Self {
            cluster,
            nodes: Vec::new(),
            chart: Chart::default(),
            system,
            state,
            shop,
            folder,
        };
        site.upgrade(values).await?;
        for n in 0..nodes {
            let node = site.node(n).await?;
            site.nodes.push(node);
        }
        Ok(site)
    }

    /// Applies the chart with other values.
    async fn upgrade(&mut self, values: &str) -> anyhow::Result<()> {
        let (issuer, shop) = (&self.cluster.issuer, &self.shop);
        // Objects of drivers have no namespace.
        let own = format!("trustDomain: example.org\npodSockets: {{driver: {shop}.csi.arx.dev}}\n");
        let cluster = format!("cluster: {{issuer: '{issuer}'");
        let values = match values.contains("cluster: {") {
            true => values.replace("cluster: {", &format!("{cluster}, ")),
            false => format!("{cluster}}}\n{values}"),
        };
        let values = values
            .replace("SYSTEM", &self.system)
            .replace("STATE", &self.state)
            .replace("SHOP", shop);
        self.chart = Chart::render(&self.system, &format!("{own}{values}"))?;
        self.chart.apply(&self.cluster, false).await
    }

    async fn node(&self, n: usize) -> anyhow::Result<Node> {
        let at = |what: &str| self.folder.path().join(format!("{what}-{n}"));
        let (chart, name) = (&self.chart, node_name(n));
        Ok(Node {
            kubelet: self.cluster.kubelet(&name).await?,
            authority: Program::new(chart.program("StatefulSet", "arx-ca", &at("ca"))?)?,
            agent: Program::new(chart.program("DaemonSet", "arx-node-agent", &at("agent"))?)?,
            taken: None,
        })
    }

    /// Starts everything, as the pods that the controllers have made: all authorities at once, then each
    /// node's agent, which follows the authority beside it.
    async fn start(&mut self) -> anyhow::Result<()> {
        let mut ports = Vec::new();
        for n in 0..self.nodes.len() {
            ports.push(free_port()?);
            self.start_authority(n, ports[n]).await?;
        }
        for (n, port) in ports.into_iter().enumerate() {
            self.nodes[n].authority.is_ready().await?;
            self.start_agent(n, port).await?;
        }
        Ok(())
    }

    /// Starts a replica whose agents find it at this port.
    async fn start_authority(&mut self, n: usize, node_port: u16) -> anyhow::Result<()> {
        let pod = format!("arx-ca-{n}");
        self.is_put_onto(&pod, n).await?;
        let authority = &self.nodes[n].authority;
        self.is_given(&authority.installed, n, &pod).await?;
        authority.installed.change(&[
            ("\"0.0.0.0:8443\"", loopback(node_port)),
            ("\"0.0.0.0:9901\"", loopback(authority.ops_port)),
            ("\"127.0.0.1:9903\"", loopback(free_port()?)),
        ])?;
        let authority = &mut self.nodes[n].authority;
        authority.pod = pod;
        authority.start()
    }

    /// What a kubelet and the cluster's network give to a pod of the authority.
    async fn is_given(&self, installed: &Installed, n: usize, pod: &str) -> anyhow::Result<()> {
        let token = self.folder.path().join(format!("{pod}-token"));
        let asked = Token {
            namespace: &self.system,
            pod,
            audience: "",
        };
        let kubelet = &self.nodes[n].kubelet;
        kubelet.project(asked, &token).await?;
        let kubeconfig = self.cluster.kubeconfig(pod, &token)?;
        let kubeconfig = format!("kubeconfig = \"{}\"", kubeconfig.display());
        let account = installed.path("/var/run/secrets/kubernetes.io/serviceaccount");
        std::fs::create_dir_all(&account)?;
        std::fs::copy(&token, account.join("token"))?;
        std::fs::copy(self.cluster.ca_file()?, account.join("ca.crt"))?;
        installed.mount(kubelet, &self.system, pod).await?;
        installed.configure(&[
            // In a pod the address comes from the environment, and the token from a path that is fixed.
            ("verification =", format!("{kubeconfig}\nverification =")),
            // Nobody else comes.
            (
                "seal_key_file",
                "restore_settle = \"1s\"\nseal_key_file".to_owned(),
            ),
            // No kubelet brings ConfigMaps anew.
            ("[[publish]]", "[[publish]]\nsettle = \"1s\"".to_owned()),
        ])?;
        if self.has_keys()? {
            let url = format!("\"{}\"", self.cluster.url()?);
            installed.change(&[("\"https://kubernetes.default.svc\"", url)])?;
        }
        if self.is_shared()? {
            let namespace = format!("namespace = \"{}\"", self.state);
            let there = format!("{namespace}\n{kubeconfig}");
            installed.change(&[(&namespace, there)])?;
        }
        Ok(())
    }

    /// Whether the state is in Secrets.
    fn is_shared(&self) -> anyhow::Result<bool> {
        Ok(self.configured()?.contains("[state.kubernetes]"))
    }

    /// Whether the authority verifies any tokens itself.
    fn has_keys(&self) -> anyhow::Result<bool> {
        Ok(self.configured()?.contains("discovery_url"))
    }

    /// The authority's configuration, as the chart has it.
    fn configured(&self) -> anyhow::Result<&str> {
        let text = &self.chart.object("ConfigMap", "arx-ca")?["data"]["ca.toml"];
        text.as_str().context("text")
    }

    async fn start_agent(&mut self, n: usize, node_port: u16) -> anyhow::Result<()> {
        let pod = self.agent_of(n).await?;
        self.is_put_onto(&pod, n).await?;
        let driver = self.driver();
        let service = match self.is_shared()? {
            true => format!("\"arx-ca-replicas.{}.svc:8443\"", self.system),
            false => format!("\"arx-ca.{}.svc:8443\"", self.system),
        };
        let node = &mut self.nodes[n];
        let installed = &node.agent.installed;
        installed.mount(&node.kubelet, &self.system, &pod).await?;
        installed.configure(&[
            (&service, loopback(node_port)),
            ("\"0.0.0.0:9902\"", loopback(node.agent.ops_port)),
        ])?;
        let kubelet_root = installed.path("/var/lib/kubelet");
        node.agent.pod = pod;
        node.agent.start()?;
        node.taken = Some(node.kubelet.register(&kubelet_root, &driver).await?);
        node.agent.is_ready().await
    }

    /// What the chart calls the driver.
    fn driver(&self) -> String {
        format!("{}.csi.arx.dev", self.shop)
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.cluster.admin.clone(), &self.system)
    }

    /// The pod that the DaemonSet's controller has made for a node.
    async fn agent_of(&self, n: usize) -> anyhow::Result<String> {
        let (pods, name) = (self.pods(), node_name(n));
        let agents = ListParams::default().labels("app.kubernetes.io/name=arx-node-agent");
        let find = async || {
            let made = pods.list(&agents).await?.items;
            let mut made = made.iter().filter(|pod| is_meant_for(pod, &name));
            anyhow::Ok(made.next().map(ResourceExt::name_any))
        };
        until(&format!("an agent for {name}"), async || {
            Ok(find().await?.is_some())
        })
        .await?;
        find().await?.context("a pod")
    }

    /// Puts a pod that a controller has made onto a node, as a scheduler does.
    async fn is_put_onto(&self, pod: &str, n: usize) -> anyhow::Result<()> {
        let pods = self.pods();
        until(&format!("a pod {pod}"), || async {
            Ok(pods.get_opt(pod).await?.is_some())
        })
        .await?;
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding", "metadata": {"name": pod},
            "target": {"kind": "Node", "name": node_name(n)},
        });
        let _bound: serde_json::Value = pods
            .create_subresource("binding", pod, &PostParams::default(), &binding)
            .await?;
        Ok(())
    }

    /// A pod of the shop on the first node, and its token.
    async fn workload(&self, name: &str) -> anyhow::Result<String> {
        self.workload_on(0, name).await
    }

    async fn workload_on(&self, n: usize, name: &str) -> anyhow::Result<String> {
        let pod = NewPod {
            namespace: &self.shop,
            name,
            account: "web",
            node: &node_name(n),
            audiences: &[AUDIENCE],
        };
        self.cluster.pod(pod).await?;
        let token = Token {
            namespace: &self.shop,
            pod: name,
            audience: AUDIENCE,
        };
        self.nodes[n].kubelet.token(token).await
    }

    /// Who somebody with this token is, at the first node's agent.
    async fn identity(&self, token: &str) -> anyhow::Result<String> {
        self.identity_on(0, token).await
    }

    async fn identity_on(&self, n: usize, token: &str) -> anyhow::Result<String> {
        let socket = self.nodes[n].agent.installed.path("/run/arx/sds.sock");
        let connection = Connection::open(&socket, Some(token)).await?;
        let mut stream = connection.stream(&["default"]).await?;
        let secret = sds::secrets(&stream.next().await?)?
            .pop()
            .context("a secret")?;
        Ok(sds::chain(&secret)?.spiffe_id().to_string())
    }

    /// The same, which comes to nothing with this code in the agent's log.
    async fn is_refused(&self, token: &str, code: &str) -> anyhow::Result<()> {
        let agent = &self.nodes[0].agent;
        let mut log = agent.running()?.log();
        let from = log.lines().len();
        let socket = agent.installed.path("/run/arx/sds.sock");
        let connection = Connection::open(&socket, Some(token)).await?;
        let mut stream = connection.stream(&["default"]).await?;
        log.until(code, from).await?;
        ensure!(stream.is_silent().await);
        Ok(())
    }

    /// The admin API of the first replica.
    async fn admin(&self) -> anyhow::Result<AdminClient<Channel>> {
        self.admin_of(0).await
    }

    async fn admin_of(&self, n: usize) -> anyhow::Result<AdminClient<Channel>> {
        let authority = &self.nodes[n].authority.installed;
        admin::connect(&authority.path("/run/arx-ca/admin.sock")).await
    }
}

fn node_name(n: usize) -> String {
    format!("node-{}", n + 1)
}

fn loopback(port: u16) -> String {
    format!("\"127.0.0.1:{port}\"")
}

/// Whether a DaemonSet's pod may run on this node alone.
fn is_meant_for(pod: &Pod, node: &str) -> bool {
    let spec = serde_json::to_value(&pod.spec).unwrap_or_default();
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    let terms = &spec["affinity"]["nodeAffinity"][required]["nodeSelectorTerms"];
    terms[0]["matchFields"][0]["values"][0] == node
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
