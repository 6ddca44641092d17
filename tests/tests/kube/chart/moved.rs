//! From one replica to three, as docs/kubernetes.md leads through it.

use std::process::Command;

use anyhow::{Context as _, ensure};
use arx_proto::admin::v1::RestoreStatusRequest;
use arx_proto::admin::v1::recovery_client::RecoveryClient;
use arx_tests::admin::channel;
use arx_tests::process::{binary, free_port, until};
use k8s_openapi::ByteString;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, DeleteParams, ObjectMeta, PostParams};
use tokio::task::JoinSet;

use super::Site;
use super::replicas::SHARED;

impl Site {
    /// A backup, as it comes out of a pod in which there is no shell.
    fn backup(&self) -> anyhow::Result<Vec<u8>> {
        let authority = &self.nodes[0].authority.installed;
        let output = Command::new(binary("arx")?)
            .args(["backup", "-"])
            .env("ARX_ADMIN_SOCKET", authority.path("/run/arx-ca/admin.sock"))
            .output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success() && said.contains("keep it apart"),
            "{said}"
        );
        Ok(output.stdout)
    }

    /// Ends the only replica, with its StatefulSet; its volume stays.
    async fn ends(&mut self) -> anyhow::Result<()> {
        let sets = Api::<StatefulSet>::namespaced(self.cluster.admin.clone(), &self.system);
        sets.delete("arx-ca", &DeleteParams::default()).await?;
        let process = self.nodes[0].authority.process.take();
        process.context("it runs")?.stop().await?;
        self.cluster.delete_pod(&self.system, "arx-ca-0").await
    }

    /// Runs the pod that puts a backup back.
    async fn put_back(&self) -> anyhow::Result<()> {
        let pod = "arx-ca-restore";
        self.is_put_onto(pod, 0).await?;
        let root = self.folder.path().join("restore");
        let installed = self.chart.program("Pod", pod, &root)?;
        self.is_given(&installed, 0, pod).await?;
        let mut process = installed.start(pod)?;
        let ended = process.ended().await?;
        ensure!(ended.success(), "{ended:?}");
        self.cluster.delete_pod(&self.system, pod).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs a control plane: make test-kube"]
async fn an_authority_moves_from_its_file_to_three_replicas_by_a_backup_and_its_agents_go_on()
-> anyhow::Result<()> {
    let mut site = Site::install_on(3, "").await?;
    let port = free_port()?;
    site.start_authority(0, port).await?;
    site.nodes[0].authority.is_ready().await?;
    for n in 0..3 {
        site.start_agent(n, port).await?;
    }
    let mut followers = JoinSet::new();
    site.follower(0, &mut followers).await?;
    let before = site.roots_of(0).await?;

    let backup = Secret {
        metadata: ObjectMeta {
            name: Some("arx-backup".to_owned()),
            ..ObjectMeta::default()
        },
        data: Some([("backup".to_owned(), ByteString(site.backup()?))].into()),
        ..Secret::default()
    };
    let secrets = Api::<Secret>::namespaced(site.cluster.admin.clone(), &site.system);
    secrets.create(&PostParams::default(), &backup).await?;
    site.ends().await?;
    let none = SHARED.replace("replicas: 3", "replicas: 0, restore: arx-backup");
    site.upgrade(&none).await?;
    site.put_back().await?;

    site.upgrade(SHARED).await?;
    for n in 0..3 {
        // The agents' pods are what they were: the first replica is where the only one was.
        let port = if n == 0 { port } else { free_port()? };
        site.start_authority(n, port).await?;
    }
    for n in 0..3 {
        site.nodes[n].authority.is_ready().await?;
        ensure!(site.roots_of(n).await? == before, "arx-ca-{n}");
    }
    // It opens by itself once more than half of the agents have come.
    let socket = site.nodes[2]
        .authority
        .installed
        .path("/run/arx-ca/admin.sock");
    let recovery = RecoveryClient::new(channel(&socket).await?);
    let stands = async || {
        let mut recovery = recovery.clone();
        let status = recovery.restore_status(RestoreStatusRequest {}).await?;
        anyhow::Ok(status.into_inner())
    };
    let opened = until("it opens", async || Ok(!stands().await?.shut)).await;
    let stands = stands().await?;
    opened.with_context(|| format!("it stands like this: {stands:#?}"))?;
    let token = site.workload_on(2, "later").await?;
    site.identity_on(2, &token).await?;
    Ok(())
}
