//! Sockets of pods: a kubelet calls the agent as a driver of volumes, and an Envoy in the pod's
//! place connects to what is mounted. These need root, to mount.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use arx_proto::admin::v1::RequestRenewalRequest;
use arx_tests::envoy::{Envoy, Options};
use arx_tests::kube::{Driver, NewPod, Volume};
use arx_tests::mesh::{self, AUDIENCE, Mesh};
use arx_tests::process::{free_port, tool, until};
use k8s_openapi::api::storage::v1::CSIDriver;
use kube::api::{Api, DeleteParams};
use serde_json::json;

use super::shop::{NODE, Shop, Verification};

/// Its kubelet has taken the agent of its node as a driver.
struct Booth {
    shop: Shop,
    driver: Driver,
    root: PathBuf,
}

impl Booth {
    async fn open() -> anyhow::Result<Self> {
        let mut shop = Shop::open(Verification::Watched).await?;
        // Objects of drivers have no namespace.
        let name = format!("{}.csi.arx.dev", shop.namespace);
        let drivers = Api::<CSIDriver>::all(shop.cluster.admin.clone());
        let object = json!({
            "metadata": {"name": name},
            "spec": {
                "attachRequired": false,
                "podInfoOnMount": true,
                "requiresRepublish": true,
                "fsGroupPolicy": "None",
                "volumeLifecycleModes": ["Ephemeral"],
                "tokenRequests": [{"audience": AUDIENCE, "expirationSeconds": 3600}],
            },
        });
        shop.cluster.create(drivers, object).await?;
        let root = shop.mesh.directory.join("kubelet");
        let text = std::fs::read_to_string(&shop.agent.config)?;
        let options = format!(
            "[pod_sockets]\ndriver = \"{name}\"\naudience = \"{AUDIENCE}\"\nkubelet_root = \"{}\"\ndirectory = \"{}\"\n[attestation]\nattestors = [\"token\"]\n",
            root.display(),
            shop.mesh.directory.join("pods").display(),
        );
        std::fs::write(&shop.agent.config, text + &options)?;
        shop.agent.stop().await?;
        shop.agent.spawn()?;
        let driver = shop.kubelet.register(&root, &name).await?;
        shop.agent.is_ready().await?;
        Ok(Self { shop, driver, root })
    }

    /// A pod with a volume of the driver.
    async fn pod(&self, name: &str) -> anyhow::Result<()> {
        let pod = NewPod {
            namespace: &self.shop.namespace,
            name,
            account: "web",
            node: NODE,
            audiences: &[],
        };
        let volume = json!({"name": "arx", "csi": {"driver": self.driver.name, "readOnly": true}});
        self.shop.cluster.pod_with(pod, vec![volume]).await?;
        Ok(())
    }

    /// What a container sees of a volume, bound to a path of its own as by its runtime.
    fn container(&self, volume: &Volume) -> anyhow::Result<PathBuf> {
        let seen = self.root.with_file_name("seen");
        std::fs::create_dir_all(&seen)?;
        let mount = Command::new("mount")
            .arg("--bind")
            .args([&volume.target, &seen])
            .status()?;
        ensure!(
            mount.success(),
            "{} can't be bound",
            volume.target.display()
        );
        Ok(seen)
    }

    /// An Envoy in a container.
    async fn envoy(&self, id: &str, container: &Path) -> anyhow::Result<Envoy> {
        let options = Options::new(id, &container.join("socket"), free_port()?);
        Envoy::warm(&self.shop.mesh.directory, options).await
    }

    fn expected(&self) -> String {
        format!("spiffe://example.org/ns/{}/sa/web", self.shop.namespace)
    }

    async fn close(self) -> anyhow::Result<()> {
        let drivers = Api::<CSIDriver>::all(self.shop.cluster.admin.clone());
        let parameters = DeleteParams::default();
        drivers.delete(&self.driver.name, &parameters).await?;
        Ok(())
    }
}

impl Drop for Booth {
    fn drop(&mut self) {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        for line in mounts.lines() {
            let place = line.split(' ').nth(1).unwrap_or_default();
            if Path::new(place).starts_with(&self.shop.mesh.directory) {
                let _gone = Command::new("umount").args(["--lazy", place]).status();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs a control plane: make test-kube"]
async fn a_pod_gets_its_identity_at_the_socket_in_its_own_volume_until_it_has_ended()
-> anyhow::Result<()> {
    let mut booth = Booth::open().await?;
    let (kubelet, driver) = (&booth.shop.kubelet, &booth.driver);
    let namespace = booth.shop.namespace.clone();
    booth.pod("web-1").await?;
    let volume = kubelet.publish(driver, &namespace, "web-1").await?;
    let container = booth.container(&volume)?;
    let envoy = booth.envoy("web-1", &container).await?;
    let served = envoy.certificate().await?;
    ensure!(served.identity == booth.expected(), "{served:?}");

    // Published again and again, as by a kubelet each minute: nothing comes of it.
    let pushes = envoy.pushes().await?;
    for _ in 0..3 {
        kubelet.publish(driver, &namespace, "web-1").await?;
    }
    ensure!(envoy.pushes().await? == pushes);

    // The agent is killed: what the pod sees is what it saw, and serves from the cache alone.
    booth.shop.agent.kill().await?;
    booth.shop.mesh.kill_authority().await?;
    booth.shop.agent.spawn()?;
    let again = booth.envoy("web-1-again", &container).await?;
    ensure!(again.certificate().await?.serial == served.serial);
    booth.shop.mesh.spawn_authority()?;
    booth.shop.mesh.authority_is_ready().await?;
    let (kubelet, name) = (&booth.shop.kubelet, booth.driver.name.clone());
    let driver = kubelet.register(&booth.root, &name).await?;
    booth.shop.agent.is_ready().await?;
    kubelet.publish(&driver, &namespace, "web-1").await?;
    ensure!(again.certificate().await?.serial == served.serial);

    // And it is renewed by the token that has come since.
    let renewal = RequestRenewalRequest {
        identity: booth.expected(),
        ..RequestRenewalRequest::default()
    };
    let mut admin = booth.shop.mesh.admin().await?;
    admin.request_renewal(renewal).await?;
    until("the certificate is renewed", || async {
        Ok(again.certificate().await?.serial != served.serial)
    })
    .await?;

    // The pod ends.
    booth.shop.cluster.delete_pod(&namespace, "web-1").await?;
    drop((envoy, again));
    kubelet.unpublish(&driver, &volume).await?;
    ensure!(!volume.target.exists());
    kubelet.unpublish(&driver, &volume).await?;
    let left = std::fs::read_dir(booth.shop.mesh.directory.join("pods"))?.count();
    ensure!(left == 0, "{left} directories are left");
    booth.close().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs a control plane: make test-kube"]
async fn what_a_pod_s_author_writes_into_its_volume_makes_it_no_other_pod() -> anyhow::Result<()> {
    let booth = Booth::open().await?;
    let (kubelet, driver) = (&booth.shop.kubelet, &booth.driver);
    let namespace = &booth.shop.namespace;
    for pod in ["web-1", "web-2"] {
        booth.pod(pod).await?;
    }
    let (_, victim) = kubelet.call(driver, namespace, "web-2").await?;
    let (volume, own) = kubelet.call(driver, namespace, "web-1").await?;
    std::fs::create_dir_all(volume.target.parent().context("it lies somewhere")?)?;
    // As with a CSIDriver object that says neither podInfoOnMount nor tokenRequests: all that the
    // driver is told is what stands in the pod, and the path.
    let mut stolen = own.clone();
    stolen.volume_context = victim.volume_context.clone();
    // And with one that says them, where tokens are in the context: a Secret of the author's.
    let key = "csi.storage.k8s.io/serviceAccount.tokens";
    let mut secret = own.clone();
    let tokens = victim.volume_context.get(key).context("it has tokens")?;
    secret.secrets.insert(key.to_owned(), tokens.clone());
    for (call, code) in [(stolen, "ARX-CSI-TARGET"), (secret, "ARX-CSI-DISAGREES")] {
        let refused = driver.node().await?.node_publish_volume(call).await;
        let status = refused.err().context("it was published")?;
        ensure!(status.message().starts_with(code), "{status}");
    }
    ensure!(!volume.target.exists());
    // Whose call is as it should be gets its identity all the same.
    let volume = kubelet.publish(driver, namespace, "web-1").await?;
    let envoy = booth.envoy("web-1", &booth.container(&volume)?).await?;
    ensure!(envoy.certificate().await?.identity == booth.expected());
    booth.close().await
}

/// Tests of the suite that are left out, by a part of their names, and why. It leaves out by itself
/// what a driver does not say that it can do: staging, growing and measuring volumes, snapshots,
/// and whatever begins with a volume that a controller has made and asks whether there is one.
const LEFT_OUT: &[(&str, &str)] = &[
    (
        "Controller",
        "there is no controller: volumes are ephemeral, and made on their node",
    ),
    (
        "should remove target path",
        "a controller would have to make the volume; that nothing is left is shown with a kubelet's calls",
    ),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs csi-sanity: make test-kube"]
async fn the_conformance_suite_of_csi_finds_nothing() -> anyhow::Result<()> {
    let mut mesh = Mesh::start(mesh::Options::default()).await?;
    let root = mesh.directory.join("kubelet");
    mesh.reconfigure(|options| {
        options.agent = format!(
            "[pod_sockets]\nkubelet_root = \"{}\"\ndirectory = \"{}\"\n",
            root.display(),
            root.with_file_name("pods").display(),
        );
    })?;
    let mut agent = mesh.prepare_agent(NODE)?;
    agent.spawn()?;
    let socket = root.join("plugins/csi.arx.dev/csi.sock");
    until("the driver's socket", || async { Ok(socket.exists()) }).await?;
    let target = root.join("pods/sanity/volumes/kubernetes.io~csi");
    std::fs::create_dir_all(&target)?;
    let suite = tokio::task::spawn_blocking(move || {
        Command::new(tool("csi-sanity")?)
            .arg(format!("--csi.endpoint={}", socket.display()))
            .arg(format!("--csi.mountdir={}", target.join("arx").display()))
            .arg("--ginkgo.no-color")
            .args(
                LEFT_OUT
                    .iter()
                    .map(|(name, _why)| format!("--ginkgo.skip={name}")),
            )
            .output()
            .context("it does not run")
    });
    let output = suite.await??;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{said}");
    // Whatever else it leaves out, it says: `Ran 12 of 90 Specs`.
    let ran = said
        .split_once("Ran ")
        .and_then(|(_, rest)| rest.split(' ').next());
    let ran: u32 = ran.context("it does not say how many ran")?.parse()?;
    ensure!(ran >= 10, "only {ran} ran:\n{said}");
    Ok(())
}
