//! A kubelet, as far as drivers of volumes are concerned.

use crate::authority::Channel;
use arx_proto::csi::v1::identity_client::IdentityClient;
use arx_proto::csi::v1::node_client::NodeClient;
use arx_proto::csi::v1::volume_capability::{AccessType, Mount};
use arx_proto::csi::v1::*;
use arx_proto::pluginregistration::registration_client::RegistrationClient;
use arx_proto::pluginregistration::{InfoRequest, PluginInfo, RegistrationStatus};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::path::{Path, PathBuf};
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tonic::Status;

/// With its root.
#[derive(Debug)]
pub(crate) struct Kubelet {
    pub(crate) root: PathBuf,
    driver: String,
    connections: JoinSet<()>,
}

/// What it asks to have for a pod.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) volume: String,
    pub(crate) uid: String,
    pub(crate) name: String,
    pub(crate) token: String,
}

impl Kubelet {
    pub(crate) fn new(root: &Path, driver: &str) -> Self {
        Self {
            root: root.to_owned(),
            driver: driver.to_owned(),
            connections: JoinSet::new(),
        }
    }

    async fn channel(&mut self, path: &Path) -> Channel {
        let stream = UnixStream::connect(path).await.expect("the driver listens");
        let (send, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .expect("it speaks HTTP/2");
        self.connections
            .spawn(async move { drop(connection.await) });
        Channel::from(send)
    }

    fn registry(&self) -> PathBuf {
        let registry = self.root.join("plugins_registry");
        registry.join(format!("{}-reg.sock", self.driver))
    }

    /// Finds the driver, takes it or not, and says so.
    pub(crate) async fn register(&mut self, error: &str) -> PluginInfo {
        let channel = self.channel(&self.registry()).await;
        let mut client = RegistrationClient::with_origin(channel, origin());
        let info = client.get_info(InfoRequest {}).await.expect("an answer");
        let status = RegistrationStatus {
            plugin_registered: error.is_empty(),
            error: error.to_owned(),
        };
        let told = client.notify_registration_status(status).await;
        told.expect("it is heard");
        info.into_inner()
    }

    pub(crate) async fn node(&mut self) -> NodeClient<Channel> {
        let endpoint = self
            .root
            .join("plugins")
            .join(&self.driver)
            .join("csi.sock");
        let channel = self.channel(&endpoint).await;
        NodeClient::with_origin(channel, origin())
    }

    pub(crate) async fn identity(&mut self) -> IdentityClient<Channel> {
        let endpoint = self.root.join("plugins").join(&self.driver);
        let channel = self.channel(&endpoint.join("csi.sock")).await;
        IdentityClient::with_origin(channel, origin())
    }

    /// Where it wants a pod's volume.
    pub(crate) fn target(&self, uid: &str) -> PathBuf {
        let pod = self.root.join("pods").join(uid);
        pod.join("volumes/kubernetes.io~csi/arx/mount")
    }

    /// The call for a pod of `a`, whose account is `b`.
    pub(crate) fn call(&self, wanted: &Wanted) -> NodePublishVolumeRequest {
        let tokens = serde_json::json!({"arx": {
            "token": wanted.token, "expirationTimestamp": "2033-05-18T03:33:20Z",
        }});
        let key = |key: &str| format!("csi.storage.k8s.io/{key}");
        NodePublishVolumeRequest {
            volume_id: wanted.volume.clone(),
            target_path: self.target(&wanted.uid).display().to_string(),
            volume_capability: Some(VolumeCapability {
                access_type: Some(AccessType::Mount(Mount::default())),
            }),
            volume_context: [
                ("pod.name", wanted.name.clone()),
                ("pod.namespace", "a".to_owned()),
                ("pod.uid", wanted.uid.clone()),
                ("serviceAccount.name", "b".to_owned()),
                ("ephemeral", "true".to_owned()),
                ("serviceAccount.tokens", tokens.to_string()),
            ]
            .map(|(name, value)| (key(name), value))
            .into(),
            ..NodePublishVolumeRequest::default()
        }
    }

    /// Makes the directory above, as kubelets do, and asks.
    pub(crate) async fn publish(&mut self, wanted: &Wanted) -> Result<PathBuf, Status> {
        let target = self.target(&wanted.uid);
        let above = target.parent().expect("not the root");
        std::fs::create_dir_all(above).expect("writable");
        let call = self.call(wanted);
        self.node().await.node_publish_volume(call).await?;
        Ok(target)
    }

    pub(crate) async fn unpublish(&mut self, volume: &str, target: &Path) -> Result<(), Status> {
        let call = NodeUnpublishVolumeRequest {
            volume_id: volume.to_owned(),
            target_path: target.display().to_string(),
        };
        self.node().await.node_unpublish_volume(call).await?;
        Ok(())
    }
}

fn origin() -> http::Uri {
    http::Uri::from_static("http://csi")
}
