//! What a kubelet is answered.

use super::request::{Publish, Terms, Unpublish};
use super::volumes::Volumes;
use super::{Refused, Registered};
use crate::metrics::Metrics;
use arx_daemon::drain::{OnPanic, Tasks};
use arx_proto::csi::v1::identity_server::Identity;
use arx_proto::csi::v1::node_server::Node;
use arx_proto::csi::v1::*;
use arx_proto::pluginregistration::registration_server::Registration;
use arx_proto::pluginregistration::{
    InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse,
};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::{Mutex, oneshot};
use tonic::{Request, Response, Status};

/// What plugin managers of kubelets call drivers of volumes.
const PLUGIN: &str = "CSIPlugin";
/// The only version of the interface that there is for kubelets; its later minor versions add to it.
const VERSION: &str = "1.0.0";

/// The driver, for its services. Clones are the same.
#[derive(Clone, Debug)]
pub(super) struct Driver(pub(super) Arc<Parts>);

/// What it is made of.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) name: String,
    pub(super) node: String,
    pub(super) root: PathBuf,
    pub(super) audience: Option<String>,
    /// Where it answers.
    pub(super) endpoint: PathBuf,
    pub(super) volumes: Arc<Mutex<Volumes>>,
    pub(super) tasks: Tasks,
    pub(super) metrics: Metrics,
    pub(super) registered: Registered,
}

impl Driver {
    /// Does the work of a call to its end, whether or not the caller waits for it.
    async fn work<F>(&self, call: &'static str, work: F) -> Result<(), Status>
    where
        F: Future<Output = Result<(), Refused>> + Send + 'static,
    {
        let (done, result) = oneshot::channel();
        self.0.tasks.spawn("csi", OnPanic::Continue, async move {
            let _gave_up = done.send(work.await);
        });
        let lost = || Err(Refused::Unusable("the call has failed; try again"));
        self.outcome(call, result.await.unwrap_or_else(|_| lost()))
    }

    fn outcome<T>(&self, call: &'static str, result: Result<T, Refused>) -> Result<T, Status> {
        let code = result.as_ref().err().map_or("OK", Refused::code);
        self.0.metrics.csi(call, code);
        result.map_err(|refused| {
            tracing::warn!(code, call, "a kubelet's call is refused: {refused}");
            refused.into()
        })
    }
}

#[tonic::async_trait]
impl Identity for Driver {
    async fn get_plugin_info(
        &self,
        _: Request<GetPluginInfoRequest>,
    ) -> Result<Response<GetPluginInfoResponse>, Status> {
        Ok(Response::new(GetPluginInfoResponse {
            name: self.0.name.clone(),
            vendor_version: env!("CARGO_PKG_VERSION").to_owned(),
        }))
    }

    async fn get_plugin_capabilities(
        &self,
        _: Request<GetPluginCapabilitiesRequest>,
    ) -> Result<Response<GetPluginCapabilitiesResponse>, Status> {
        Ok(Response::new(GetPluginCapabilitiesResponse {}))
    }

    async fn probe(&self, _: Request<ProbeRequest>) -> Result<Response<ProbeResponse>, Status> {
        // Whoever can be asked can publish: the authority is not needed for that.
        Ok(Response::new(ProbeResponse { ready: Some(true) }))
    }
}

#[tonic::async_trait]
impl Node for Driver {
    async fn node_publish_volume(
        &self,
        request: Request<NodePublishVolumeRequest>,
    ) -> Result<Response<NodePublishVolumeResponse>, Status> {
        let terms = Terms {
            root: &self.0.root,
            audience: self.0.audience.as_deref(),
            node: &self.0.node,
        };
        const CALL: &str = "publish";
        let call = match Publish::read(request.into_inner(), terms) {
            Ok(call) => call,
            Err(refused) => return self.outcome(CALL, Err(refused)),
        };
        let volumes = Arc::clone(&self.0.volumes);
        let work = async move { volumes.lock().await.publish(call).await };
        self.work(CALL, work).await?;
        Ok(Response::new(NodePublishVolumeResponse {}))
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<NodeUnpublishVolumeRequest>,
    ) -> Result<Response<NodeUnpublishVolumeResponse>, Status> {
        const CALL: &str = "unpublish";
        let call = match Unpublish::read(request.into_inner(), &self.0.root) {
            Ok(call) => call,
            Err(refused) => return self.outcome(CALL, Err(refused)),
        };
        let volumes = Arc::clone(&self.0.volumes);
        let work = async move { volumes.lock().await.unpublish(call).await };
        self.work(CALL, work).await?;
        Ok(Response::new(NodeUnpublishVolumeResponse {}))
    }

    async fn node_get_capabilities(
        &self,
        _: Request<NodeGetCapabilitiesRequest>,
    ) -> Result<Response<NodeGetCapabilitiesResponse>, Status> {
        Ok(Response::new(NodeGetCapabilitiesResponse {}))
    }

    async fn node_get_info(
        &self,
        _: Request<NodeGetInfoRequest>,
    ) -> Result<Response<NodeGetInfoResponse>, Status> {
        Ok(Response::new(NodeGetInfoResponse {
            node_id: self.0.node.clone(),
            max_volumes_per_node: 0,
        }))
    }
}

#[tonic::async_trait]
impl Registration for Driver {
    async fn get_info(&self, _: Request<InfoRequest>) -> Result<Response<PluginInfo>, Status> {
        Ok(Response::new(PluginInfo {
            r#type: PLUGIN.to_owned(),
            name: self.0.name.clone(),
            endpoint: self.0.endpoint.display().to_string(),
            supported_versions: vec![VERSION.to_owned()],
        }))
    }

    async fn notify_registration_status(
        &self,
        request: Request<RegistrationStatus>,
    ) -> Result<Response<RegistrationStatusResponse>, Status> {
        let RegistrationStatus {
            plugin_registered,
            error,
        } = request.into_inner();
        self.0.registered.told(plugin_registered, &error);
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}
