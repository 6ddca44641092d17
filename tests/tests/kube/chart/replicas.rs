//! Several replicas of the chart's authority, with their state in Secrets.

use std::path::Path;

use anyhow::{Context as _, ensure};
use arx_ca::store::{Kubernetes, KubernetesOptions};
use arx_daemon::config::Span;
use arx_proto::admin::v1::rotate_root_response::Outcome;
use arx_proto::admin::v1::{GetBundleRequest, Rotation, RotationStatusRequest, StatusRequest};
use arx_tests::process::until;
use arx_tests::rotating::quickly;
use arx_tests::sds::Connection;
use bytes::Bytes;
use tokio::task::JoinSet;

use super::Site;

/// Three of them.
pub(super) const SHARED: &str = "ca: {state: kubernetes, replicas: 3, stateNamespace: STATE}\n";

impl Site {
    /// Where the state is, for somebody who may do everything.
    pub(super) async fn store(&self) -> anyhow::Result<Kubernetes> {
        let options = KubernetesOptions {
            namespace: Some(self.state.clone()),
            kubeconfig: Some(self.cluster.admin_kubeconfig()?),
            deadline: Span::from_secs(5),
        };
        Ok(Kubernetes::new(&options).await?)
    }

    /// Ends a replica and starts it again, as its kubelet does with another version of its pod.
    pub(super) async fn again(&mut self, n: usize) -> anyhow::Result<()> {
        let replica = &mut self.nodes[n].authority;
        replica.process.take().context("it runs")?.stop().await?;
        replica.start()?;
        replica.is_ready().await
    }

    /// The published roots, as a replica has them.
    pub(super) async fn roots_of(&self, n: usize) -> anyhow::Result<Vec<Bytes>> {
        let mut admin = self.admin_of(n).await?;
        let bundle = admin.get_bundle(GetBundleRequest::default()).await?;
        Ok(bundle.into_inner().roots)
    }

    /// A workload on a node that takes its certificate and the roots for as long as it is followed.
    pub(super) async fn follower(
        &self,
        n: usize,
        followers: &mut JoinSet<()>,
    ) -> anyhow::Result<()> {
        let token = self.workload_on(n, &format!("web-{n}")).await?;
        let identity = self.identity_on(n, &token).await?;
        ensure!(identity == format!("spiffe://example.org/ns/{}/sa/web", self.shop));
        let socket = self.nodes[n].agent.installed.path("/run/arx/sds.sock");
        for name in ["default", "ROOTCA"] {
            let (socket, token) = (socket.clone(), token.clone());
            followers.spawn(async move {
                loop {
                    // Nothing new for long ends a stream of the tests, and the next one goes on.
                    let _over = take(&socket, &token, name).await;
                }
            });
        }
        Ok(())
    }

    async fn rotation_of(&self, n: usize) -> anyhow::Result<Rotation> {
        let mut admin = self.admin_of(n).await?;
        let answer = admin.rotation_status(RotationStatusRequest::default());
        let rotation = answer.await?.into_inner().rotation;
        rotation.context("there is a rotation")
    }
}

async fn take(socket: &Path, token: &str, name: &str) -> anyhow::Result<()> {
    let connection = Connection::open(socket, Some(token)).await?;
    let mut stream = connection.stream(&[name]).await?;
    loop {
        let response = stream.next().await?;
        stream.ack(&response)?;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs a control plane: make test-kube"]
async fn three_replicas_that_start_at_once_are_one_authority_and_a_rotation_that_one_is_asked_for_ends_at_all()
-> anyhow::Result<()> {
    let mut site = Site::install_on(3, SHARED).await?;
    site.start().await?;
    let before = site.roots_of(0).await?;
    ensure!(before.len() == 1);
    let mut followers = JoinSet::new();
    for n in 0..3 {
        ensure!(site.roots_of(n).await? == before, "arx-ca-{n}");
        // It is called as its pod, and its node's agent has joined there.
        let status = site.admin_of(n).await?.status(StatusRequest {}).await?;
        let status = status.into_inner();
        ensure!(status.replica_id == format!("arx-ca-{n}"), "{status:#?}");
        ensure!(status.agents_connected == 1, "{status:#?}");
        site.follower(n, &mut followers).await?;
    }
    let begun = site.admin_of(1).await?.rotate_root(quickly()).await?;
    let Some(Outcome::Rotation(begun)) = begun.into_inner().outcome else {
        anyhow::bail!("it does not begin");
    };
    for phases in [
        &["reissue", "retire", "done"][..],
        &["retire", "done"],
        &["done"],
    ] {
        for n in 0..3 {
            let what = format!("{phases:?} at arx-ca-{n}");
            let reached = until(&what, || async {
                Ok(phases.contains(&&*site.rotation_of(n).await?.phase))
            });
            let reached = reached.await;
            let stands = site.rotation_of(n).await?;
            reached.with_context(|| format!("it stands like this: {stands:#?}"))?;
            ensure!(
                stands.id == begun.id && stands.forced.is_empty(),
                "{stands:#?}"
            );
        }
    }
    let after = site.roots_of(0).await?;
    ensure!(after.len() == 1 && after != before);
    for n in 0..3 {
        ensure!(site.roots_of(n).await? == after, "arx-ca-{n}");
        let token = site.workload_on(n, &format!("later-{n}")).await?;
        site.identity_on(n, &token).await?;
    }
    Ok(())
}
