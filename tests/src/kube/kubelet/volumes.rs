//! What a kubelet does about the ephemeral CSI volumes of its pods: its plugin manager, which
//! finds drivers, and its volume manager, which calls them.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use arx_identity::crypto::sha256;
use arx_proto::csi::v1::identity_client::IdentityClient;
use arx_proto::csi::v1::node_client::NodeClient;
use arx_proto::csi::v1::volume_capability::{AccessType, Mount};
use arx_proto::csi::v1::{
    GetPluginInfoRequest, NodeGetInfoRequest, NodePublishVolumeRequest, NodeUnpublishVolumeRequest,
    ProbeRequest, VolumeCapability,
};
use arx_proto::pluginregistration::registration_client::RegistrationClient;
use arx_proto::pluginregistration::{InfoRequest, RegistrationStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode};
use kube::ResourceExt as _;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tonic::transport::Channel;

use super::{Kubelet, Token};
use crate::admin::channel;
use crate::kube::object;
use crate::process::until;

/// A driver that its kubelet has taken.
#[derive(Clone, Debug)]
pub struct Driver {
    /// Its name.
    pub name: String,
    root: PathBuf,
    endpoint: PathBuf,
}

/// A volume of a pod.
#[derive(Clone, Debug)]
pub struct Volume {
    /// Where its content is.
    pub target: PathBuf,
    id: String,
}

impl Driver {
    /// Its node service, on a connection of its own, as a kubelet has for each call.
    ///
    /// # Errors
    /// If nobody listens.
    pub async fn node(&self) -> anyhow::Result<NodeClient<Channel>> {
        Ok(NodeClient::new(channel(&self.endpoint).await?))
    }
}

impl Kubelet {
    /// Finds a driver in the registry below `root`, takes it, and notes that on its node.
    ///
    /// # Errors
    /// If there is none, or it does not answer.
    pub async fn register(&self, root: &Path, name: &str) -> anyhow::Result<Driver> {
        let socket = root
            .join("plugins_registry")
            .join(format!("{name}-reg.sock"));
        until("the driver's socket", || async {
            Ok(channel(&socket).await.is_ok())
        })
        .await?;
        let mut registration = RegistrationClient::new(channel(&socket).await?);
        let info = registration.get_info(InfoRequest {}).await?.into_inner();
        ensure!(info.r#type == "CSIPlugin" && info.name == name, "{info:?}");
        ensure!(info.supported_versions == ["1.0.0"], "{info:?}");
        let driver = Driver {
            name: info.name,
            root: root.to_owned(),
            endpoint: info.endpoint.into(),
        };
        let mut identity = IdentityClient::new(channel(&driver.endpoint).await?);
        let plugin = identity.get_plugin_info(GetPluginInfoRequest {}).await?;
        ensure!(plugin.into_inner().name == name);
        let probe = identity.probe(ProbeRequest {}).await?;
        ensure!(probe.into_inner().ready == Some(true));
        let mut service = driver.node().await?;
        let node = service.node_get_info(NodeGetInfoRequest {}).await?;
        let node = node.into_inner().node_id;
        self.note(&driver.name, &node).await?;
        let taken = RegistrationStatus {
            plugin_registered: true,
            error: String::new(),
        };
        registration.notify_registration_status(taken).await?;
        Ok(driver)
    }

    async fn note(&self, driver: &str, id: &str) -> anyhow::Result<()> {
        let nodes = Api::<CSINode>::all(self.api.clone());
        let object: CSINode = object(json!({
            "metadata": {"name": self.node},
            "spec": {"drivers": [{"name": driver, "nodeID": id}]},
        }))?;
        if nodes.get_opt(&self.node).await?.is_none() {
            nodes.create(&PostParams::default(), &object).await?;
        } else {
            let patch = Patch::Strategic(json!({"spec": object.spec}));
            let parameters = PatchParams::default();
            nodes.patch(&self.node, &parameters, &patch).await?;
        }
        Ok(())
    }

    /// Publishes the volume that a pod has of a driver; again, with a fresh token.
    ///
    /// # Errors
    /// If the API server or the driver refuses.
    pub async fn publish(
        &self,
        driver: &Driver,
        namespace: &str,
        pod: &str,
    ) -> anyhow::Result<Volume> {
        let (volume, call) = self.call(driver, namespace, pod).await?;
        let above = volume.target.parent().context("a target lies somewhere")?;
        std::fs::create_dir_all(above)?;
        driver.node().await?.node_publish_volume(call).await?;
        Ok(volume)
    }

    /// The call by which a pod's volume is published.
    ///
    /// # Errors
    /// If the API server refuses what goes into it.
    pub async fn call(
        &self,
        driver: &Driver,
        namespace: &str,
        pod: &str,
    ) -> anyhow::Result<(Volume, NodePublishVolumeRequest)> {
        let about = Api::<CSIDriver>::all(self.api.clone())
            .get(&driver.name)
            .await?
            .spec;
        // Before anything else, since the first token waits until its pod is shown.
        let mut tokens = serde_json::Map::new();
        for request in about.token_requests.iter().flatten() {
            let token = Token {
                namespace,
                pod,
                audience: &request.audience,
            };
            let token = self.token(token).await?;
            let issued = json!({"token": token, "expirationTimestamp": "2033-05-18T03:33:20Z"});
            tokens.insert(request.audience.clone(), issued);
        }
        let pods = Api::<Pod>::namespaced(self.api.clone(), namespace);
        let pod = pods.get(pod).await?;
        let uid = pod.uid().context("a pod has a UID")?;
        let spec = pod.spec.as_ref().context("a pod has a spec")?;
        let (name, source) = spec
            .volumes
            .iter()
            .flatten()
            .find_map(|volume| Some((&volume.name, volume.csi.as_ref()?)))
            .filter(|(_, source)| source.driver == driver.name)
            .context("the pod has no volume of this driver")?;
        let mut context = source.volume_attributes.clone().unwrap_or_default();
        if about.pod_info_on_mount == Some(true) {
            let account = spec.service_account_name.clone().unwrap_or_default();
            for (key, value) in [
                ("pod.name", pod.name_any()),
                ("pod.namespace", namespace.to_owned()),
                ("pod.uid", uid.clone()),
                ("serviceAccount.name", account),
                ("ephemeral", "true".to_owned()),
            ] {
                context.insert(format!("csi.storage.k8s.io/{key}"), value);
            }
        }
        let key = "csi.storage.k8s.io/serviceAccount.tokens".to_owned();
        context.insert(key, Value::Object(tokens).to_string());
        let digest = sha256(format!("{uid}{name}").as_bytes());
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let volume = Volume {
            target: driver
                .root
                .join("pods")
                .join(&uid)
                .join("volumes/kubernetes.io~csi")
                .join(name)
                .join("mount"),
            id: format!("csi-{digest}"),
        };
        let call = NodePublishVolumeRequest {
            volume_id: volume.id.clone(),
            target_path: volume.target.display().to_string(),
            volume_capability: Some(VolumeCapability {
                access_type: Some(AccessType::Mount(Mount::default())),
            }),
            readonly: source.read_only.unwrap_or_default(),
            volume_context: context.into_iter().collect(),
            ..NodePublishVolumeRequest::default()
        };
        Ok((volume, call))
    }

    /// Takes a volume away, once no container of its pod runs.
    ///
    /// # Errors
    /// If the driver refuses.
    pub async fn unpublish(&self, driver: &Driver, volume: &Volume) -> anyhow::Result<()> {
        let call = NodeUnpublishVolumeRequest {
            volume_id: volume.id.clone(),
            target_path: volume.target.display().to_string(),
        };
        driver.node().await?.node_unpublish_volume(call).await?;
        Ok(())
    }
}
