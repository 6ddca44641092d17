//! Service-account tokens of a real API server: who gets in by them.

use anyhow::{Context as _, ensure};
use arx_tests::kube::{Cluster, Kubelet, NewPod, Token};
use arx_tests::mesh::{AUDIENCE, Agent, Mesh, Options};
use arx_tests::sds::{Connection, chain, secrets};
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use kube::Api;
use serde_json::json;

/// An authority of its own account in the cluster, and an agent on a node.
struct Shop {
    cluster: Cluster,
    kubelet: Kubelet,
    _mesh: Mesh,
    agent: Agent,
    /// Of the workloads.
    namespace: String,
}

const NODE: &str = "node-1";
const JOIN: &str = "arx/join";

impl Shop {
    /// With tokens verified as `verification` says.
    async fn open(verification: &str) -> anyhow::Result<Self> {
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
        let binding = json!({
            "metadata": {"name": format!("{system}-reviews")},
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "ClusterRole",
                "name": "system:auth-delegator",
            },
            "subjects": [{"kind": "ServiceAccount", "name": "arx-ca", "namespace": system}],
        });
        let bindings = Api::<ClusterRoleBinding>::all(cluster.admin.clone());
        cluster.create(bindings, binding).await?;
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
        let keys = match verification {
            "local" => format!(
                "discovery_url = \"{}\"\nca_file = \"{}\"\ntoken_file = \"{}\"",
                cluster.url()?,
                cluster.ca_file()?.display(),
                own.display(),
            ),
            _ => format!(
                "verification = \"{verification}\"\nkubeconfig = \"{}\"",
                cluster.kubeconfig("arx-ca", &own)?.display(),
            ),
        };
        mesh.reconfigure(|options| options.keys = Some(keys))?;
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
            _mesh: mesh,
            agent,
            namespace,
        })
    }

    /// A pod of the shop, and its token for us.
    async fn pod(&self, name: &str) -> anyhow::Result<String> {
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
    async fn identity(&self, token: &str) -> anyhow::Result<String> {
        let connection = Connection::open(&self.agent.socket, Some(token)).await?;
        let mut stream = connection.stream(&["default"]).await?;
        let response = stream.next().await?;
        let secret = secrets(&response)?.pop().context("a secret")?;
        Ok(chain(&secret)?.spiffe_id().to_string())
    }

    /// Nobody is anybody by this token, and the agent says why.
    async fn is_refused(&self, token: &str, code: &str) -> anyhow::Result<()> {
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

#[tokio::test]
#[ignore = "needs a control plane: make test-kube"]
async fn a_kubelet_gets_tokens_for_pods_of_its_own_node_and_for_no_others() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let namespace = cluster.namespace("shop").await?;
    let (near, far) = (
        cluster.kubelet("near").await?,
        cluster.kubelet("far").await?,
    );
    let pod = NewPod {
        namespace: &namespace,
        name: "web",
        account: "default",
        node: "near",
        audiences: &["arx"],
    };
    cluster.pod(pod).await?;
    let token = Token {
        namespace: &namespace,
        pod: "web",
        audience: "arx",
    };
    ensure!(near.token(token).await?.split('.').count() == 3);
    let refused = far.token(token).await;
    ensure!(
        refused.is_err(),
        "the API server lets a kubelet have tokens of other nodes"
    );
    let pods = near.pods().await?;
    ensure!(pods.len() == 1, "{pods:?}");
    ensure!(far.pods().await?.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs a control plane: make test-kube"]
async fn with_keys_by_discovery_a_pod_s_token_becomes_its_identity() -> anyhow::Result<()> {
    let shop = Shop::open("local").await?;
    let token = shop.pod("web-1").await?;
    let expected = format!("spiffe://example.org/ns/{}/sa/web", shop.namespace);
    ensure!(shop.identity(&token).await? == expected);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs a control plane: make test-kube"]
async fn with_reviews_a_pod_s_token_is_refused_once_the_pod_is_gone() -> anyhow::Result<()> {
    let shop = Shop::open("review").await?;
    let token = shop.pod("web-1").await?;
    let expected = format!("spiffe://example.org/ns/{}/sa/web", shop.namespace);
    ensure!(shop.identity(&token).await? == expected);
    let late = shop.pod("web-2").await?;
    shop.cluster.delete_pod(&shop.namespace, "web-2").await?;
    shop.is_refused(&late, "ARX-TOKEN-REVIEW-REFUSED").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs a control plane: make test-kube"]
async fn a_token_for_somebody_else_is_worth_nothing_here() -> anyhow::Result<()> {
    let shop = Shop::open("local").await?;
    let pod = NewPod {
        namespace: &shop.namespace,
        name: "web-1",
        account: "web",
        node: NODE,
        audiences: &["vault"],
    };
    shop.cluster.pod(pod).await?;
    let token = Token {
        namespace: &shop.namespace,
        pod: "web-1",
        audience: "vault",
    };
    let token = shop.kubelet.token(token).await?;
    shop.is_refused(&token, "ARX-TOKEN-AUDIENCE").await
}
