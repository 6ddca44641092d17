//! The watch of pods, by which keys alone are as good as reviews.

use anyhow::ensure;
use arx_tests::http as web;
use arx_tests::kube::is_ours;
use arx_tests::process::until;
use rustix::process::Signal;

use super::shop::{Shop, Verification};

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs a control plane: make test-kube"]
async fn a_token_verified_with_keys_counts_no_more_once_its_pod_is_gone() -> anyhow::Result<()> {
    let shop = Shop::open(Verification::Watched).await?;
    let (kept, lost) = (shop.pod("web-1").await?, shop.pod("web-2").await?);
    let expected = format!("spiffe://example.org/ns/{}/sa/web", shop.namespace);
    ensure!(shop.identity(&kept).await? == expected);
    shop.cluster.delete_pod(&shop.namespace, "web-2").await?;
    shop.is_refused(&lost, "ARX-TOKEN-POD-GONE").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs a control plane: make test-kube"]
async fn while_the_api_server_is_away_pods_that_are_known_get_in_and_others_wait()
-> anyhow::Result<()> {
    if !is_ours("stops the API server") {
        return Ok(());
    }
    let shop = Shop::open(Verification::Watched).await?;
    let known = shop.pod("web-1").await?;
    let unheard = shop.pod("web-2").await?;
    shop.is_known(4).await?;
    shop.cluster.delete_pod(&shop.namespace, "web-2").await?;
    shop.is_known(3).await?;
    shop.cluster.api_server()?.signal(Signal::STOP)?;
    let expected = format!("spiffe://example.org/ns/{}/sa/web", shop.namespace);
    ensure!(shop.identity(&known).await? == expected);
    shop.is_refused(&unheard, "ARX-TOKEN-POD-UNKNOWN").await?;
    shop.cluster.api_server()?.signal(Signal::CONT)?;
    shop.is_refused(&unheard, "ARX-TOKEN-POD-GONE").await?;
    // And whoever asks how the authority is hears whose pods are not read any more.
    shop.cluster.api_server()?.signal(Signal::KILL)?;
    let port = shop.mesh.ops_port;
    let told = "the pods of cluster c1 can't be watched";
    until("it is told", || async move {
        let (_, body) = web::get(port, "/readyz").await?;
        Ok(body.contains("ARX-PODS-AWAY") && body.contains(told))
    })
    .await
}

impl Shop {
    /// Waits until the authority knows so many pods.
    async fn is_known(&self, pods: u32) -> anyhow::Result<()> {
        let port = self.mesh.ops_port;
        until("the pods are known", || async move {
            let known = web::metric(port, "arx_ca_pods{cluster=\"c1\"}").await?;
            Ok(known == Some(f64::from(pods)))
        })
        .await
    }
}
