//! Processes in control groups that are named as runtimes name them, on one shared socket. These
//! need root, to make the groups.

use std::path::Path;

use anyhow::{Context as _, ensure};
use arx_proto::node::v1::issue_item::Evidence;
use arx_tests::cgroup::{Group, Runtime, hierarchies};
use arx_tests::envoy::{Envoy, Options};
use arx_tests::process::free_port;
use arx_tests::sds::Connection;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt as _};

use super::shop::{NODE, Shop, Verification};

const BY_PROCESS: &str = "[attestation]\nattestors = [\"process\"]\n";
const BY_BOTH: &str = "[attestation]\nattestors = [\"token\", \"process\"]\n";

async fn open(attestation: &'static str) -> anyhow::Result<Shop> {
    Shop::open_with(Verification::Watched, |options, _| {
        options.agent = attestation.to_owned();
        Vec::new()
    })
    .await
}

/// A container's group, in the hierarchy that this machine has first.
fn container(uid: &str) -> anyhow::Result<Group> {
    let hierarchy = hierarchies()?.into_iter().next().context("there is one")?;
    Group::of_container(&hierarchy, Runtime::ContainerdSystemd, uid)
}

impl Shop {
    /// UID of a pod of the shop.
    async fn uid_of(&self, pod: &str) -> anyhow::Result<String> {
        let pods = Api::<Pod>::namespaced(self.cluster.admin.clone(), &self.namespace);
        pods.get(pod).await?.uid().context("it has one")
    }
}

/// What an Envoy is told that starts in a group.
fn within(shop: &Shop, id: &str, group: &Group) -> anyhow::Result<Options> {
    Ok(Options {
        group: Some(group.path().to_owned()),
        ..Options::new(id, &shop.agent.socket, free_port()?)
    })
}

fn uid(pod: &Evidence) -> anyhow::Result<&str> {
    match pod {
        Evidence::PodUid(uid) => Ok(uid),
        _ => anyhow::bail!("not a UID"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs a control plane: make test-kube"]
async fn a_process_gets_its_pod_s_identity_by_every_name_that_runtimes_give_its_group()
-> anyhow::Result<()> {
    let shop = open(BY_PROCESS).await?;
    let pod = shop.pod_on(NODE, "web-1").await?;
    for (n, hierarchy) in hierarchies()?.iter().enumerate() {
        for runtime in [
            Runtime::Containerd,
            Runtime::ContainerdSystemd,
            Runtime::CriO,
        ] {
            let group = Group::of_container(hierarchy, runtime, uid(&pod)?)?;
            let options = within(&shop, &format!("{runtime:?}-{n}"), &group)?;
            let envoy = Envoy::warm(&shop.mesh.directory, options).await?;
            let served = envoy.certificate().await?;
            ensure!(served.identity == shop.web(), "{runtime:?}: {served:?}");
            envoy.process.kill().await?;
        }
    }
    // A group that the pod makes below its own, named like another pod's, changes nothing.
    let hierarchy = hierarchies()?.into_iter().next().context("there is one")?;
    let (own, other) = (uid(&pod)?, "00000000-0000-4000-8000-000000000000");
    let nested = format!("kubepods/besteffort/pod{own}/c/kubepods/besteffort/pod{other}/c");
    let group = Group::make(&hierarchy, &nested)?;
    let envoy = Envoy::warm(&shop.mesh.directory, within(&shop, "nested", &group)?).await?;
    ensure!(envoy.certificate().await?.identity == shop.web());
    envoy.process.kill().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs a control plane: make test-kube"]
async fn processes_of_no_pod_of_other_nodes_pods_and_of_pods_that_are_gone_get_nothing()
-> anyhow::Result<()> {
    let shop = open(BY_PROCESS).await?;
    let _far = shop.cluster.kubelet("far").await?;
    let near = shop.pod_on(NODE, "web-1").await?;
    let other = shop.pod_on("far", "web-2").await?;
    // This program is in no pod.
    let outside = Connection::open(&shop.agent.socket, None).await?;
    let mut stream = outside.stream(&["default"]).await;
    let refused = match &mut stream {
        Ok(stream) => stream.next().await.map(|_| ()),
        Err(_) => Ok(()),
    };
    ensure!(stream.is_err() || refused.is_err(), "it got something");
    refused_as(&shop, uid(&other)?, "far", "ARX-EVIDENCE-NODE").await?;
    shop.cluster.delete_pod(&shop.namespace, "web-1").await?;
    refused_as(&shop, uid(&near)?, "gone", "ARX-POD-GONE").await
}

/// A process of this pod gets no certificate, for this reason.
async fn refused_as(shop: &Shop, uid: &str, id: &str, code: &str) -> anyhow::Result<()> {
    let agent = shop.agent.process.as_ref().context("the agent runs")?;
    let mut log = agent.log();
    let from = log.lines().len();
    let group = container(uid)?;
    let envoy = Envoy::start(&shop.mesh.directory, within(shop, id, &group)?)?;
    log.until(code, from).await?;
    ensure!(envoy.certificate().await.is_err(), "it got a certificate");
    envoy.process.kill().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs a control plane: make test-kube"]
async fn a_token_counts_only_in_the_pod_that_it_was_issued_for() -> anyhow::Result<()> {
    let shop = open(BY_BOTH).await?;
    let token = shop.pod("web-1").await?;
    let own = shop.uid_of("web-1").await?;
    let other = shop.pod_on(NODE, "web-2").await?;
    let other = uid(&other)?.to_owned();
    let at = |group: &Group, id: &str| -> anyhow::Result<Options> {
        Ok(Options {
            token: Some(token.clone()),
            ..within(&shop, id, group)?
        })
    };
    let folder: &Path = &shop.mesh.directory;
    let group = container(&own)?;
    let envoy = Envoy::warm(folder, at(&group, "own")?).await?;
    ensure!(envoy.certificate().await?.identity == shop.web());
    envoy.process.kill().await?;

    let agent = shop.agent.process.as_ref().context("the agent runs")?;
    let mut log = agent.log();
    let from = log.lines().len();
    let group = container(&other)?;
    let envoy = Envoy::start(folder, at(&group, "carried-off")?)?;
    log.until("ARX-AGENT-POD-DISAGREES", from).await?;
    ensure!(envoy.certificate().await.is_err(), "it got a certificate");
    envoy.process.kill().await?;
    Ok(())
}
