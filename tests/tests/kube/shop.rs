//! An authority and an agent in a cluster, each under its own service account and with no more
//! rights than those.

use std::path::Path;

use anyhow::{Context as _, ensure};
use arx_tests::kube::{Cluster, Kubelet, NewPod, Token};
use arx_tests::mesh::{AUDIENCE, Agent, Mesh, Options};
use arx_tests::sds::{Connection, chain, secrets};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::Api;
use serde_json::{Value, json};

/// An authority of its own account in the cluster, and an agent on a node.
pub(super) struct Shop {
    pub(super) cluster: Cluster,
    pub(super) kubelet: Kubelet,
    pub(super) mesh: Mesh,
    pub(super) agent: Agent,
    /// Of authority and agents.
    pub(super) system: String,
    /// Of the workloads.
    pub(super) namespace: String,
}

pub(super) const NODE: &str = "node-1";
const JOIN: &str = "arx/join";

/// How tokens are verified.
#[derive(Clone, Copy, Debug)]
pub(super) enum Verification {
    /// With keys by discovery.
    Keys,
    /// With keys, while their pods are there.
    Watched,
    /// By the API server.
    Review,
}

/// Where an authority is that is about to start.
pub(super) struct Site<'a> {
    /// Its files.
    pub(super) folder: &'a Path,
    /// Its namespace.
    pub(super) system: &'a str,
}

impl Shop {
    /// With tokens verified as `verification` says.
    pub(super) async fn open(verification: Verification) -> anyhow::Result<Self> {
        Self::open_with(verification, |_, _| Vec::new()).await
    }

    /// The same with another configuration of the authority, for which it has these rights more.
    pub(super) async fn open_with(
        verification: Verification,
        change: impl FnOnce(&mut Options, &Site<'_>) -> Vec<Value>,
    ) -> anyhow::Result<Self> {
        let cluster = Cluster::start().await?;
        let system = cluster.namespace("arx-system").await?;
        let namespace = cluster.namespace("shop").await?;
        let kubelet = cluster.kubelet(NODE).await?;
        for (namespace, account) in [
            (&system, "arx-ca"),
            (&system, "arx-node-agent"),
            (&namespace, "web"),
        ] {
            cluster.service_account(namespace, account).await?;
        }
        // What authority and agent have as pods of their own.
        let pods = [("arx-ca", &[""][..]), ("arx-node-agent", &[JOIN][..])];
        for (name, audiences) in pods {
            let pod = NewPod {
                namespace: &system,
                name,
                account: name,
                node: NODE,
                audiences,
            };
            cluster.pod(pod).await?;
        }
        let rules = match verification {
            Verification::Keys => json!([]),
            Verification::Watched => json!([{
                "apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"],
            }]),
            Verification::Review => json!([{
                "apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"],
                "verbs": ["create"],
            }]),
        };
        grant(&cluster, &system, "own", &rules).await?;
        let mut mesh = Mesh::prepare(Options {
            issuer: Some(cluster.issuer.clone()),
            agents: format!("{system}/arx-node-agent"),
            ..Options::default()
        })?;
        let own = mesh.directory.join("api-token");
        let token = Token {
            namespace: &system,
            pod: "arx-ca",
            audience: "",
        };
        kubelet.project(token, &own).await?;
        let kubeconfig = cluster.kubeconfig("arx-ca", &own)?;
        let kubeconfig = format!("kubeconfig = \"{}\"", kubeconfig.display());
        let discovery = format!(
            "discovery_url = \"{}\"\nca_file = \"{}\"\ntoken_file = \"{}\"",
            cluster.url()?,
            cluster.ca_file()?.display(),
            own.display(),
        );
        let keys = match verification {
            Verification::Keys => discovery,
            Verification::Watched => format!("{discovery}\n{kubeconfig}\npod_grace = \"1h\""),
            Verification::Review => format!("verification = \"review\"\n{kubeconfig}"),
        };
        let folder = mesh.directory.clone();
        let site = Site {
            folder: &folder,
            system: &system,
        };
        let mut rules = Vec::new();
        mesh.reconfigure(|options| {
            options.keys = Some(keys);
            rules = change(options, &site);
        })?;
        grant(&cluster, &system, "more", &json!(rules)).await?;
        mesh.start_authority().await?;
        let mut agent = mesh.prepare_agent(NODE)?;
        let token = Token {
            namespace: &system,
            pod: "arx-node-agent",
            audience: JOIN,
        };
        kubelet.project(token, &agent.token()).await?;
        agent.start().await?;
        Ok(Self {
            cluster,
            kubelet,
            mesh,
            agent,
            system,
            namespace,
        })
    }

    /// A pod of the shop, and its token for us.
    pub(super) async fn pod(&self, name: &str) -> anyhow::Result<String> {
        let pod = NewPod {
            namespace: &self.namespace,
            name,
            account: "web",
            node: NODE,
            audiences: &[AUDIENCE],
        };
        self.cluster.pod(pod).await?;
        let token = Token {
            namespace: &self.namespace,
            pod: name,
            audience: AUDIENCE,
        };
        self.kubelet.token(token).await
    }

    /// Who somebody with this token is.
    pub(super) async fn identity(&self, token: &str) -> anyhow::Result<String> {
        let connection = Connection::open(&self.agent.socket, Some(token)).await?;
        let mut stream = connection.stream(&["default"]).await?;
        let response = stream.next().await?;
        let secret = secrets(&response)?.pop().context("a secret")?;
        Ok(chain(&secret)?.spiffe_id().to_string())
    }

    /// Nobody is anybody by this token, and the agent says why.
    pub(super) async fn is_refused(&self, token: &str, code: &str) -> anyhow::Result<()> {
        let agent = self.agent.process.as_ref().context("the agent runs")?;
        let mut log = agent.log();
        let from = log.lines().len();
        let connection = Connection::open(&self.agent.socket, Some(token)).await?;
        let mut stream = connection.stream(&["default"]).await?;
        log.until(code, from).await?;
        ensure!(stream.is_silent().await);
        Ok(())
    }
}

/// Gives the authority's account the rights of these rules in all of the cluster.
pub(super) async fn grant(
    cluster: &Cluster,
    system: &str,
    name: &str,
    rules: &Value,
) -> anyhow::Result<()> {
    let role = format!("{system}-{name}");
    let object = json!({"metadata": {"name": role}, "rules": rules});
    let roles = Api::<ClusterRole>::all(cluster.admin.clone());
    cluster.create(roles, object).await?;
    bind(cluster, system, name, &role).await
}

/// Gives the authority's account a role in all of the cluster.
async fn bind(cluster: &Cluster, system: &str, name: &str, role: &str) -> anyhow::Result<()> {
    let binding: Value = json!({
        "metadata": {"name": format!("{system}-arx-ca-{name}")},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": "arx-ca", "namespace": system}],
    });
    let bindings = Api::<ClusterRoleBinding>::all(cluster.admin.clone());
    cluster.create(bindings, binding).await?;
    Ok(())
}
