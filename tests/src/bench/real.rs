//! A real API server: what the index of its pods takes, and how soon what happens there is known.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use arx_identity::{KeyAlgorithm, PrivateKey};
use arx_proto::node::v1::issue_item::Evidence;
use arx_proto::node::v1::node_client::NodeClient;
use arx_proto::node::v1::{IssueItem, IssueRequest};
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::{Api, ResourceExt as _};
use serde_json::json;

use super::Effort;
use super::authority::{process, reach};
use super::cpu::Cpu;
use super::figure::{Figure, Goal, median};
use super::issue::percentile;
use crate::http as web;
use crate::kube::{Cluster, Kubelet, NewPod, Token};
use crate::mesh::{AUDIENCE, Mesh, Options};
use crate::node::{Http2, issued, unique};

const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
const NODE: &str = "node-1";
const JOIN: &str = "arx/join";
/// Pods that are made at a time.
const AT_ONCE: usize = 16;
/// Longer than anything here may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A cluster without controllers, and an authority that watches it by an account of its own.
struct Site {
    cluster: Cluster,
    kubelet: Kubelet,
    mesh: Mesh,
    /// Of authority and agent.
    system: String,
    /// Of the workloads.
    shop: String,
}

impl Site {
    async fn open() -> anyhow::Result<Self> {
        let cluster = Cluster::another(ISSUER).await?;
        let system = cluster.namespace("arx-system").await?;
        let shop = cluster.namespace("shop").await?;
        for (namespace, account) in [
            (&system, "arx-ca"),
            (&system, "arx-node-agent"),
            (&shop, "web"),
        ] {
            cluster.service_account(namespace, account).await?;
        }
        permit(&cluster, &system).await?;
        let kubelet = cluster.kubelet(NODE).await?;
        let mut mesh = Mesh::prepare(Options {
            issuer: Some(ISSUER.to_owned()),
            agents: format!("{system}/arx-node-agent"),
            authority: "[[publish]]\ncluster = \"c1\"\nconfig_map = \"arx-trust\"\n".to_owned(),
            ..Options::default()
        })?;
        let own = mesh.directory.join("api-token");
        let token = cluster.token(&system, "arx-ca").await?;
        arx_daemon::files::write_atomically(&own, token.as_bytes(), 0o600)?;
        let keys = format!(
            "discovery_url = \"{}\"\nca_file = \"{}\"\ntoken_file = \"{}\"\nkubeconfig = \"{}\"",
            cluster.url()?,
            cluster.ca_file()?.display(),
            own.display(),
            cluster.kubeconfig("arx-ca", &own)?.display(),
        );
        mesh.reconfigure(|options| options.keys = Some(keys))?;
        mesh.start_authority().await?;
        Ok(Self {
            cluster,
            kubelet,
            mesh,
            system,
            shop,
        })
    }

    async fn pod(&self, name: &str) -> anyhow::Result<Pod> {
        let pod = NewPod {
            namespace: &self.shop,
            name,
            account: "web",
            node: NODE,
            audiences: &[AUDIENCE],
        };
        self.cluster.pod(pod).await
    }

    /// Waits until the index has so many pods.
    async fn knows(&self, pods: usize) -> anyhow::Result<()> {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            let known = web::metric(self.mesh.ops_port, "arx_ca_pods{cluster=\"c1\"}").await?;
            if known.is_some_and(|known| known >= pods as f64) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        anyhow::bail!("the index does not get {pods} pods")
    }

    /// Another process in the authority's place, which reads these pods, and its memory at rest.
    async fn again(&mut self, pods: usize) -> anyhow::Result<f64> {
        self.mesh.stop_authority().await?;
        self.mesh.start_authority().await?;
        self.knows(pods).await?;
        Cpu::at_rest(process(&self.mesh)?).await?;
        let authority = self.mesh.authority.as_ref().context("the authority runs")?;
        Ok(authority.rss_kib()? as f64 / 1024.0)
    }

    /// A connection as the node's agent.
    async fn joins(&self) -> anyhow::Result<NodeClient<Http2>> {
        let pod = NewPod {
            namespace: &self.system,
            name: "agent",
            account: "arx-node-agent",
            node: NODE,
            audiences: &[JOIN],
        };
        self.cluster.pod(pod).await?;
        let token = self.token(&self.system, "agent", JOIN).await?;
        let authority = reach(&self.mesh);
        let svid = authority.new_node(&authority.tls(None)?, &token).await?;
        authority.connect(&authority.tls(Some(&svid))?).await
    }

    async fn token(&self, namespace: &str, pod: &str, audience: &str) -> anyhow::Result<String> {
        let token = Token {
            namespace,
            pod,
            audience,
        };
        self.kubelet.token(token).await
    }

    /// From the wish that a pod be deleted to the refusal of its token.
    async fn deletion(
        &self,
        agent: &mut NodeClient<Http2>,
        csr: &Bytes,
        name: &str,
    ) -> anyhow::Result<Duration> {
        self.pod(name).await?;
        let token = self.token(&self.shop, name, AUDIENCE).await?;
        ask(agent, csr, &token).await.context("while it is there")?;
        let start = Instant::now();
        self.cluster.delete_pod(&self.shop, name).await?;
        while start.elapsed() < PATIENCE {
            if let Err(refused) = ask(agent, csr, &token).await {
                let why = refused.to_string();
                ensure!(why.starts_with("ARX-TOKEN-POD-GONE"), "{why}");
                return Ok(start.elapsed());
            }
        }
        anyhow::bail!("the token of {name} is good for ever")
    }

    /// From the wish for a namespace to the roots in it.
    async fn roots_in_new(&self) -> anyhow::Result<Duration> {
        let start = Instant::now();
        let name = self.cluster.namespace("new").await?;
        let maps = Api::<ConfigMap>::namespaced(self.cluster.admin.clone(), &name);
        while start.elapsed() < PATIENCE {
            if maps.get_opt("arx-trust").await?.is_some() {
                return Ok(start.elapsed());
            }
        }
        anyhow::bail!("there are no roots in {name}")
    }
}

/// Gives the authority's account what it needs here.
async fn permit(cluster: &Cluster, system: &str) -> anyhow::Result<()> {
    let roles = Api::<ClusterRole>::all(cluster.admin.clone());
    let role = json!({"metadata": {"name": "arx-ca"}, "rules": [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["list", "watch"]},
        {
            "apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["arx-trust"],
            "verbs": ["list", "watch", "create", "patch"],
        },
    ]});
    cluster.create(roles, role).await?;
    let bindings = Api::<ClusterRoleBinding>::all(cluster.admin.clone());
    let binding = json!({
        "metadata": {"name": "arx-ca"},
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "arx-ca",
        },
        "subjects": [{"kind": "ServiceAccount", "name": "arx-ca", "namespace": system}],
    });
    cluster.create(bindings, binding).await?;
    Ok(())
}

async fn ask(agent: &mut NodeClient<Http2>, csr: &Bytes, token: &str) -> anyhow::Result<()> {
    let item = IssueItem {
        idempotency_key: unique(),
        csr: csr.clone(),
        evidence: Some(Evidence::ServiceAccountToken(token.to_owned())),
        ..IssueItem::default()
    };
    let items = vec![item];
    let answer = agent.issue(IssueRequest { items }).await?.into_inner();
    let result = answer.results.into_iter().next().context("one result")?;
    issued(result.outcome)?;
    Ok(())
}

/// 1,000 pods: the memory of their index, and from a deletion to the refusal; and from a new namespace
/// to the roots in it.
pub(crate) async fn api_server(effort: Effort) -> anyhow::Result<Vec<Figure>> {
    let pods = usize::try_from(effort.of(1000))?;
    let mut site = Site::open().await?;
    let mut empty = Vec::new();
    for _ in 0..effort.repetitions {
        empty.push(site.again(0).await?);
    }
    let empty = median(&empty);
    let start = Instant::now();
    let names = futures_util::stream::iter((0..pods).map(|number| format!("web-{number}")));
    let shared = &site;
    let made = names.map(|name| async move { shared.pod(&name).await.map(|pod| pod.name_any()) });
    let made: Vec<String> = made.buffer_unordered(AT_ONCE).try_collect().await?;
    ensure!(made.len() == pods, "{} pods were made", made.len());
    site.knows(pods).await?;
    let watched = start.elapsed();
    let mut resident = Vec::new();
    for _ in 0..effort.repetitions {
        resident.push(site.again(pods).await? - empty);
    }

    let mut agent = site.joins().await?;
    let csr: Bytes = PrivateKey::generate(KeyAlgorithm::EcdsaP256)?
        .create_csr()?
        .into();
    let each = effort.of(20);
    let (mut gone, mut new) = (vec![], vec![]);
    for repetition in 0..effort.repetitions {
        let (mut deletions, mut namespaces) = (vec![], vec![]);
        for number in 0..each {
            let name = format!("gone-{repetition}-{number}");
            deletions.push(site.deletion(&mut agent, &csr, &name).await?);
            namespaces.push(site.roots_in_new().await?);
        }
        deletions.sort_unstable();
        namespaces.sort_unstable();
        gone.push(percentile(&deletions, 99));
        new.push(percentile(&namespaces, 99));
    }
    let least = format!("p99 of {each}, each while {pods} pods are watched");
    Ok(vec![
        Figure::new("index_mib_1k_real", "MiB", Goal::AtMost(40.0), resident).note(format!(
            "{pods} pods on a real API server, all heard of {:.1} s after the first was begun; beyond the {empty:.1} MiB of an authority without pods",
            watched.as_secs_f64()
        )),
        Figure::new("pod_gone_ms", "ms", Goal::AtMost(2000.0), gone)
            .note(format!("{least}; from the deletion's request to the refusal of the pod's token")),
        Figure::new("namespace_roots_ms", "ms", Goal::Below(1000.0), new)
            .note(format!("{least}; from the namespace's request to the ConfigMap in it")),
    ])
}
