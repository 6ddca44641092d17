//! A pod's own socket: from kubelet's call to the pod's first secret.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context as _;
use arx_proto::csi::v1::node_client::NodeClient;
use arx_proto::csi::v1::volume_capability::{AccessType, Mount};
use arx_proto::csi::v1::{NodePublishVolumeRequest, NodeUnpublishVolumeRequest, VolumeCapability};
use arx_proto::pluginregistration::registration_client::RegistrationClient;
use arx_proto::pluginregistration::{InfoRequest, RegistrationStatus};
use serde_json::json;

use super::Effort;
use super::authority::mesh;
use super::figure::{Figure, Goal, median};
use super::issue::percentile;
use super::proxies;
use crate::admin::channel;
use crate::mesh::{AUDIENCE, Mesh};
use crate::process::until;
use crate::token_issuer::Claims;

const DRIVER: &str = "csi.arx.dev";
const NODE: &str = "node-1";

/// The volume of one pod.
struct Pod {
    number: u64,
    uid: String,
}

impl Pod {
    fn new(number: u64) -> Self {
        let uid = format!("6f7c4d2e-0000-4000-8000-{number:012x}");
        Self { number, uid }
    }

    fn target(&self, root: &Path) -> PathBuf {
        root.join("pods")
            .join(&self.uid)
            .join("volumes/kubernetes.io~csi/arx/mount")
    }

    fn id(&self) -> String {
        format!("csi-{:064x}", self.number)
    }

    /// Kubelet's call.
    fn call(&self, mesh: &Mesh, root: &Path) -> NodePublishVolumeRequest {
        let name = format!("web-{}", self.number);
        let token = mesh.issuer.mint(&Claims {
            pod: Some(name.clone()),
            pod_uid: Some(self.uid.clone()),
            ..Claims::new(AUDIENCE, "shop", "web", NODE)
        });
        let tokens =
            json!({AUDIENCE: {"token": token, "expirationTimestamp": "2033-05-18T03:33:20Z"}});
        let context = [
            ("pod.name", name),
            ("pod.namespace", "shop".to_owned()),
            ("pod.uid", self.uid.clone()),
            ("serviceAccount.name", "web".to_owned()),
            ("ephemeral", "true".to_owned()),
            ("serviceAccount.tokens", tokens.to_string()),
        ];
        let key = |(name, value)| (format!("csi.storage.k8s.io/{name}"), value);
        NodePublishVolumeRequest {
            volume_id: self.id(),
            target_path: self.target(root).display().to_string(),
            volume_capability: Some(VolumeCapability {
                access_type: Some(AccessType::Mount(Mount::default())),
            }),
            readonly: true,
            volume_context: context.into_iter().map(key).collect(),
            ..NodePublishVolumeRequest::default()
        }
    }
}

/// Pods come one after the other, each to a socket of its own. Needs root, to mount.
pub(crate) async fn first_secret(effort: Effort) -> anyhow::Result<Vec<Figure>> {
    let mut mesh = mesh().await?;
    let root = mesh.directory.join("kubelet");
    let table = format!(
        "[pod_sockets]\naudience = \"{AUDIENCE}\"\nkubelet_root = \"{}\"\ndirectory = \"{}\"\n[attestation]\nattestors = [\"token\"]\n",
        root.display(),
        mesh.directory.join("pods").display(),
    );
    mesh.reconfigure(|options| options.agent = table)?;
    let mut agent = mesh.prepare_agent(NODE)?;
    mesh.write_join_token(&agent)?;
    agent.spawn()?;
    let registry = root
        .join("plugins_registry")
        .join(format!("{DRIVER}-reg.sock"));
    until("the driver's socket", || async {
        Ok(channel(&registry).await.is_ok())
    })
    .await?;
    let mut registration = RegistrationClient::new(channel(&registry).await?);
    let info = registration.get_info(InfoRequest {}).await?.into_inner();
    let taken = RegistrationStatus {
        plugin_registered: true,
        error: String::new(),
    };
    registration.notify_registration_status(taken).await?;
    agent.is_ready().await?;
    let mut driver = NodeClient::new(channel(Path::new(&info.endpoint)).await?);
    let pods = effort.of(100);
    let (mut p50, mut p99) = (vec![], vec![]);
    for repetition in 0..u64::try_from(effort.repetitions)? {
        let mut times = Vec::new();
        for number in 0..pods {
            let pod = Pod::new(repetition * pods + number);
            let call = pod.call(&mesh, &root);
            let target = pod.target(&root);
            std::fs::create_dir_all(target.parent().context("it lies somewhere")?)?;
            // The path of a socket is short, and kubelet's are not.
            let seen = mesh.directory.join(format!("p{}", pod.number));
            std::os::unix::fs::symlink(&target, &seen)?;
            let start = Instant::now();
            driver.node_publish_volume(call).await?;
            proxies::first_secret(&seen.join("socket"), "default").await?;
            times.push(start.elapsed());
            let gone = NodeUnpublishVolumeRequest {
                volume_id: pod.id(),
                target_path: target.display().to_string(),
            };
            driver.node_unpublish_volume(gone).await?;
        }
        times.sort_unstable();
        p50.push(percentile(&times, 50));
        p99.push(percentile(&times, 99));
    }
    let figure = Figure::new("pod_to_identity_ms", "ms", Goal::Below(50.0), p99);
    Ok(vec![figure.note(format!(
        "p99 of {pods} pods; p50 {:.1} ms; from kubelet's call to the first certificate at the mounted socket",
        median(&p50)
    ))])
}
