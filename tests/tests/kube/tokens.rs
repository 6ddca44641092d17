//! Service-account tokens of a real API server: who gets in by them.

use anyhow::ensure;
use arx_tests::kube::{Cluster, NewPod, Token};

use super::shop::{NODE, Shop, Verification};

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
    let shop = Shop::open(Verification::Keys).await?;
    let token = shop.pod("web-1").await?;
    let expected = format!("spiffe://example.org/ns/{}/sa/web", shop.namespace);
    ensure!(shop.identity(&token).await? == expected);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs a control plane: make test-kube"]
async fn with_reviews_a_pod_s_token_is_refused_once_the_pod_is_gone() -> anyhow::Result<()> {
    let shop = Shop::open(Verification::Review).await?;
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
    let shop = Shop::open(Verification::Keys).await?;
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
