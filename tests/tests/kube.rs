//! In a cluster: a real API server and controller manager, and what stands in for kubelets.

use anyhow::ensure;
use arx_tests::kube::{Cluster, NewPod, Token};

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
    ensure!(near.pods().await?.len() == 1);
    ensure!(far.pods().await?.is_empty());
    Ok(())
}
