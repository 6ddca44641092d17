//! Two clusters with an API server each, under one authority that watches the pods of both: what is
//! called the same in both is nevertheless of one of them.

use anyhow::{Context as _, ensure};
use arx_proto::node::v1::issue_item::Evidence;
use arx_tests::kube::{Cluster, Kubelet, NewPod, Token, is_ours};
use arx_tests::mesh::{AUDIENCE, CLUSTER};
use arx_tests::process::until;
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, ResourceExt as _};
use serde_json::json;

use super::agents::Rogue;
use super::shop::{Shop, Verification, grant};

const ISSUER: &str = "https://kubernetes.other.example.org";
const NODE: &str = "node-a";
const POD: &str = "web-1";

/// The other cluster, in which the authority has an account that may watch pods and nothing else.
struct Other {
    cluster: Cluster,
    /// Of the agents.
    system: String,
    /// What the authority is told of it.
    table: String,
    _folder: tempfile::TempDir,
}

impl Other {
    async fn start() -> anyhow::Result<Self> {
        let cluster = Cluster::another(ISSUER).await?;
        let system = cluster.namespace("arx-system").await?;
        for account in ["arx-ca", "arx-node-agent"] {
            cluster.service_account(&system, account).await?;
        }
        let watch = json!([{
            "apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"],
        }]);
        grant(&cluster, &system, "pods", &watch).await?;
        let folder = tempfile::tempdir()?;
        let own = folder.path().join("token");
        std::fs::write(&own, cluster.token(&system, "arx-ca").await?)?;
        std::fs::set_permissions(&own, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        let table = format!(
            r#"
[[cluster]]
name = "c2"
issuer = "{ISSUER}"
audiences = ["{AUDIENCE}"]
agents = ["{system}/arx-node-agent"]
discovery_url = "{}"
ca_file = "{}"
token_file = "{}"
kubeconfig = "{}"
"#,
            cluster.url()?,
            cluster.ca_file()?.display(),
            own.display(),
            cluster.kubeconfig("arx-ca", &own)?.display(),
        );
        Ok(Self {
            cluster,
            system,
            table,
            _folder: folder,
        })
    }
}

/// A pod of the shop, by its UID and by its token.
async fn pod(
    cluster: &Cluster,
    kubelet: &Kubelet,
    namespace: &str,
) -> anyhow::Result<[Evidence; 2]> {
    let pod = NewPod {
        namespace,
        name: POD,
        account: "web",
        node: NODE,
        audiences: &[AUDIENCE],
    };
    let uid = cluster.pod(pod).await?.uid().context("it has one")?;
    let token = Token {
        namespace,
        pod: POD,
        audience: AUDIENCE,
    };
    let token = kubelet.token(token).await?;
    Ok([Evidence::PodUid(uid), Evidence::ServiceAccountToken(token)])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs a control plane: make test-kube"]
async fn an_agent_of_one_cluster_gets_nothing_for_pods_of_another_that_are_called_the_same()
-> anyhow::Result<()> {
    if !is_ours("starts a second one") {
        return Ok(());
    }
    let other = Other::start().await?;
    let shop = Shop::open_with(Verification::Watched, |options, _| {
        options.authority.clone_from(&other.table);
        Vec::new()
    })
    .await?;
    // The same namespace, account, node and pod in both.
    let namespaces = Api::<Namespace>::all(other.cluster.admin.clone());
    let same = json!({"metadata": {"name": shop.namespace}});
    other.cluster.create(namespaces, same).await?;
    let account = other.cluster.service_account(&shop.namespace, "web");
    account.await?;
    let (here, kubelet) = Rogue::on(&shop, NODE).await?;
    let (there, its_kubelet) = Rogue::of(&shop, &other.cluster, &other.system, NODE).await?;
    let node = |cluster| format!("spiffe://example.org/arx/node/{cluster}/{NODE}");
    ensure!(here.id() == node(CLUSTER) && there.id() == node("c2"));
    let [uid, token] = pod(&shop.cluster, &kubelet, &shop.namespace).await?;
    let [its_uid, its_token] = pod(&other.cluster, &its_kubelet, &shop.namespace).await?;

    let both = [
        (&here, &uid, &token, &its_uid, &its_token),
        (&there, &its_uid, &its_token, &uid, &token),
    ];
    for (agent, uid, token, other_uid, other_token) in both {
        until("its own pod is heard of", || async {
            Ok(agent.ask(uid.clone()).await? == shop.web())
        })
        .await?;
        ensure!(agent.ask(token.clone()).await? == shop.web());
        let refused = agent.is_refused(other_uid.clone(), "ARX-POD-GONE");
        refused.await?;
        let refused = agent.is_refused(other_token.clone(), "ARX-TOKEN-ISSUER");
        refused.await?;
    }

    // What happens to one happens to that one.
    other.cluster.delete_pod(&shop.namespace, POD).await?;
    there.becomes_refused(its_uid, "ARX-POD-GONE").await?;
    there.is_refused(its_token, "ARX-TOKEN-POD-GONE").await?;
    ensure!(here.ask(uid).await? == shop.web() && here.ask(token).await? == shop.web());
    Ok(())
}
