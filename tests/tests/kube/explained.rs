//! Refusals explain themselves: to whoever owns the pod, and to operators.

use anyhow::{Context as _, ensure};
use arx_proto::admin::v1::{AllowRequest, DenyRequest, ExplainRequest, ExplainedPod};
use arx_proto::node::v1::issue_item::Evidence;
use arx_tests::http as web;
use arx_tests::process::until;
use k8s_openapi::api::events::v1::Event;
use kube::api::{Api, ListParams};
use serde_json::json;

use super::agents::Rogue;
use super::shop::{Shop, Verification};

impl Shop {
    /// The events about a pod, by reason and note.
    async fn events(&self, uid: &str) -> anyhow::Result<Vec<(String, String)>> {
        let events = Api::<Event>::namespaced(self.cluster.admin.clone(), &self.namespace);
        let all = events.list(&ListParams::default()).await?.items;
        let of_it = all.into_iter().filter(|event| {
            let regarding = event.regarding.as_ref();
            regarding.is_some_and(|it| it.uid.as_deref() == Some(uid))
        });
        let told = of_it.map(|event| {
            let text = |text: Option<String>| text.unwrap_or_default();
            (text(event.reason), text(event.note))
        });
        Ok(told.collect())
    }

    async fn explain(&self, pod: &str) -> anyhow::Result<ExplainedPod> {
        let request = ExplainRequest {
            pod: pod.to_owned(),
            cluster: String::new(),
        };
        let answer = self.mesh.admin().await?.explain(request).await?;
        let mut pods = answer.into_inner().pods;
        pods.pop().context("one pod")
    }

    async fn deny(&self, whom: &str) -> anyhow::Result<()> {
        let request = DenyRequest {
            subject: whom.to_owned(),
            reason: "a test".to_owned(),
            ..DenyRequest::default()
        };
        self.mesh.admin().await?.deny(request).await?;
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs a control plane: make test-kube"]
async fn a_refusal_is_an_event_on_its_pod_once_and_the_decision_can_be_asked_for()
-> anyhow::Result<()> {
    let shop = Shop::open_with(Verification::Watched, |_, _| {
        vec![json!({
            "apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create"],
        })]
    })
    .await?;
    let (near, _kubelet) = Rogue::on(&shop, "near").await?;
    let evidence = shop.pod_on("near", "web-1").await?;
    let Evidence::PodUid(uid) = evidence.clone() else {
        anyhow::bail!("a UID");
    };
    let account = format!("sa/{}/web", shop.namespace);
    shop.deny(&account).await?;
    near.becomes_refused(evidence.clone(), "ARX-DENIED").await?;
    until("the pod has an event", || async {
        Ok(!shop.events(&uid).await?.is_empty())
    })
    .await?;
    for _ in 0..5 {
        near.is_refused(evidence.clone(), "ARX-DENIED").await?;
    }
    let events = shop.events(&uid).await?;
    ensure!(events.len() == 1, "{events:?}");
    let (reason, note) = &events[0];
    ensure!(
        reason == "IdentityRefused" && note.starts_with("ARX-DENIED: "),
        "{events:?}"
    );

    let name = format!("{}/web-1", shop.namespace);
    let explained = shop.explain(&name).await?;
    ensure!(explained.uid == uid);
    let decision = explained.decision.context("a decision")?;
    ensure!(decision.code == "ARX-DENIED", "{decision:?}");
    let refusal = explained.refusal.context("a refusal")?;
    ensure!(
        refusal.code == "ARX-DENIED" && refusal.node == "near",
        "{refusal:?}"
    );
    let index = explained.index.context("it is watched")?;
    ensure!(
        index.trouble.is_empty() && index.node == "near",
        "{index:?}"
    );

    let allowed = AllowRequest {
        subject: account,
        reason: "a test".to_owned(),
    };
    shop.mesh.admin().await?.allow(allowed).await?;
    ensure!(near.ask(evidence.clone()).await? == shop.web());
    let explained = shop.explain(&uid).await?;
    let decision = explained.decision.context("a decision")?;
    ensure!(decision.spiffe_id == shop.web(), "{decision:?}");
    let certificate = explained.certificate.context("a certificate")?;
    ensure!(certificate.spiffe_id == shop.web() && certificate.evidence.contains(&uid));

    shop.cluster.delete_pod(&shop.namespace, "web-1").await?;
    near.becomes_refused(evidence, "ARX-POD-GONE").await?;
    let gone = shop.explain(&uid).await?;
    let decision = gone.decision.context("a decision")?;
    ensure!(decision.code == "ARX-POD-GONE", "{decision:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs a control plane: make test-kube"]
async fn without_the_right_to_events_refusals_are_what_they_were_and_it_is_counted()
-> anyhow::Result<()> {
    let shop = Shop::open(Verification::Watched).await?;
    let (near, _kubelet) = Rogue::on(&shop, "near").await?;
    let evidence = shop.pod_on("near", "web-1").await?;
    shop.deny(&format!("sa/{}/web", shop.namespace)).await?;
    near.becomes_refused(evidence, "ARX-DENIED").await?;
    let port = shop.mesh.ops_port;
    until("it is counted", || async move {
        let name = "arx_ca_refusal_events_total{cluster=\"c1\",outcome=\"forbidden\"}";
        Ok(web::metric(port, name).await? == Some(1.0))
    })
    .await
}
