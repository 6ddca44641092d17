//! A cluster without machines: a real control plane of Kubernetes on loopback, or the cluster
//! that `ARX_TEST_KUBECONFIG` names, and what stands in for its kubelets.

mod audit;
mod chart;
mod control_plane;
mod credentials;
mod kubelet;

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{Namespace, Pod, ServiceAccount};
use kube::api::{Api, DeleteParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, ResourceExt as _};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::process::{Process, until};
pub use audit::Asked;
pub use chart::{Chart, Installed, helm};
use control_plane::ControlPlane;
pub use control_plane::programs;
pub use kubelet::{Driver, Kubelet, Token, Volume};

/// Names a cluster to test against, by a kubeconfig that may do everything there.
const ELSEWHERE: &str = "ARX_TEST_KUBECONFIG";

/// Of the tokens of a control plane of our own.
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// A cluster, and somebody who may do everything in it. What tests make there carries names of
/// their own, and goes with their namespaces.
pub struct Cluster {
    /// May do everything.
    pub admin: Client,
    /// Issuer of its service-account tokens.
    pub issuer: String,
    kubeconfig: Kubeconfig,
    folder: tempfile::TempDir,
    own: Option<ControlPlane>,
}

/// Whether the cluster is the tests' own. In one that `ARX_TEST_KUBECONFIG` names, a test is skipped
/// that `needs` what nobody does to somebody else's.
#[must_use]
pub fn is_ours(needs: &str) -> bool {
    let is_ours = std::env::var_os(ELSEWHERE).is_none();
    if !is_ours {
        eprintln!("skipped: it {needs}, which needs a cluster of its own: unset {ELSEWHERE}");
    }
    is_ours
}

/// What a new pod is like.
#[derive(Clone, Copy, Debug)]
pub struct NewPod<'a> {
    /// Where it is.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Its service account.
    pub account: &'a str,
    /// The node that it runs on.
    pub node: &'a str,
    /// For whom it has tokens projected into it; the empty one is the API server.
    pub audiences: &'a [&'a str],
}

impl Cluster {
    /// A control plane of its own, ready; or the one that was named.
    ///
    /// # Errors
    /// If it does not become ready.
    pub async fn start() -> anyhow::Result<Self> {
        let Some(path) = std::env::var_os(ELSEWHERE) else {
            let folder = folder()?;
            let mut own = ControlPlane::start(folder.path(), ISSUER).await?;
            own.control().await?;
            return Self::of(own.kubeconfig()?, folder, Some(own)).await;
        };
        Self::of(Kubeconfig::read_from(path)?, folder()?, None).await
    }

    /// A control plane of its own without controllers, whose tokens are of this issuer: another cluster
    /// beside the first, for little.
    ///
    /// # Errors
    /// If it does not become ready.
    pub async fn another(issuer: &str) -> anyhow::Result<Self> {
        let folder = folder()?;
        let own = ControlPlane::start(folder.path(), issuer).await?;
        Self::of(own.kubeconfig()?, folder, Some(own)).await
    }

    async fn of(
        kubeconfig: Kubeconfig,
        folder: tempfile::TempDir,
        own: Option<ControlPlane>,
    ) -> anyhow::Result<Self> {
        let admin = client(&kubeconfig).await?;
        let issuer = issuer(&admin).await?;
        Ok(Self {
            admin,
            issuer,
            kubeconfig,
            folder,
            own,
        })
    }

    /// A namespace of this name and four random letters, with its default service account.
    ///
    /// # Errors
    /// If the API server refuses it.
    pub async fn namespace(&self, name: &str) -> anyhow::Result<String> {
        let object: Namespace = object(json!({"metadata": {"generateName": format!("{name}-")}}))?;
        let made = Api::<Namespace>::all(self.admin.clone())
            .create(&PostParams::default(), &object)
            .await?;
        let name = made.name_any();
        let accounts = Api::<ServiceAccount>::namespaced(self.admin.clone(), &name);
        if self.own.as_ref().is_some_and(|own| !own.is_controlled()) {
            self.service_account(&name, "default").await?;
        }
        until("the default service account", || async {
            Ok(accounts.get_opt("default").await?.is_some())
        })
        .await?;
        Ok(name)
    }

    /// A service account.
    ///
    /// # Errors
    /// If the API server refuses it.
    pub async fn service_account(&self, namespace: &str, name: &str) -> anyhow::Result<()> {
        let account: ServiceAccount = object(json!({"metadata": {"name": name}}))?;
        Api::<ServiceAccount>::namespaced(self.admin.clone(), namespace)
            .create(&PostParams::default(), &account)
            .await?;
        Ok(())
    }

    /// A pod that the scheduler, if there were one, has put on its node.
    ///
    /// # Errors
    /// If the API server refuses it.
    pub async fn pod(&self, wanted: NewPod<'_>) -> anyhow::Result<Pod> {
        self.pod_with(wanted, Vec::new()).await
    }

    /// The same with further volumes.
    ///
    /// # Errors
    /// If the API server refuses it.
    pub async fn pod_with(
        &self,
        wanted: NewPod<'_>,
        mut volumes: Vec<Value>,
    ) -> anyhow::Result<Pod> {
        // A kubelet may ask for tokens only for the audiences that its pods name.
        let tokens = wanted.audiences.iter().map(|audience| {
            let path = format!("token-{}", audience.replace('/', "-"));
            json!({"serviceAccountToken": {"audience": audience, "path": path}})
        });
        let tokens: Vec<Value> = tokens.collect();
        volumes.push(json!({"name": "tokens", "projected": {"sources": tokens}}));
        let pod: Pod = object(json!({
            "metadata": {"name": wanted.name},
            "spec": {
                "serviceAccountName": wanted.account,
                "automountServiceAccountToken": false,
                "nodeName": wanted.node,
                "containers": [{"name": "app", "image": "registry.invalid/app"}],
                "volumes": volumes,
            }
        }))?;
        let pods = Api::<Pod>::namespaced(self.admin.clone(), wanted.namespace);
        Ok(pods.create(&PostParams::default(), &pod).await?)
    }

    /// Deletes a pod at once, as when its node is gone.
    ///
    /// # Errors
    /// If the API server refuses.
    pub async fn delete_pod(&self, namespace: &str, name: &str) -> anyhow::Result<()> {
        let pods = Api::<Pod>::namespaced(self.admin.clone(), namespace);
        pods.delete(name, &DeleteParams::default().grace_period(0))
            .await?;
        Ok(())
    }

    /// The kubelet of a node, which it registers.
    ///
    /// # Errors
    /// If it is not let in.
    pub async fn kubelet(&self, node: &str) -> anyhow::Result<Kubelet> {
        Kubelet::start(self, node).await
    }

    /// Applies the objects of a manifest in YAML, as `kubectl create` does.
    ///
    /// # Errors
    /// If the API server refuses one.
    pub async fn create<K>(&self, api: Api<K>, value: Value) -> anyhow::Result<K>
    where
        K: kube::Resource + Clone + std::fmt::Debug + DeserializeOwned + serde::Serialize,
    {
        Ok(api.create(&PostParams::default(), &object(value)?).await?)
    }

    /// A token of a service account that is bound to nothing, as whoever works from outside of the
    /// cluster has one.
    ///
    /// # Errors
    /// If the API server refuses it.
    pub async fn token(&self, namespace: &str, account: &str) -> anyhow::Result<String> {
        let request: TokenRequest = object(json!({"spec": {"audiences": []}}))?;
        let made = Api::<ServiceAccount>::namespaced(self.admin.clone(), namespace)
            .create_token_request(account, &PostParams::default(), &request)
            .await?;
        let token = made.status.and_then(|status| status.token);
        token.context("a token request is answered by a token")
    }

    /// A kubeconfig file for somebody whose token is in the file `token`.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn kubeconfig(&self, name: &str, token: &Path) -> anyhow::Result<PathBuf> {
        let user = json!({"tokenFile": token});
        let path = self.folder.path().join(format!("{name}.kubeconfig"));
        let text = serde_json::to_vec(&credentials::kubeconfig(&self.kubeconfig, user)?)?;
        std::fs::write(&path, text)?;
        Ok(path)
    }

    /// The process of the API server, to be stopped and killed.
    ///
    /// # Errors
    /// If it is not one of ours.
    pub fn api_server(&self) -> anyhow::Result<&Process> {
        let own = self.own.as_ref();
        Ok(&own
            .context("this cluster's API server is not ours")?
            .api_server)
    }

    /// A kubeconfig file for somebody who may do everything.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn admin_kubeconfig(&self) -> anyhow::Result<PathBuf> {
        let path = self.folder.path().join("admin.kubeconfig");
        std::fs::write(&path, serde_json::to_vec(&self.kubeconfig)?)?;
        Ok(path)
    }

    /// What somebody has asked of the API server so far.
    ///
    /// # Errors
    /// If it is not one of ours, or its audit log can't be read.
    pub fn asked(&self, user: &str) -> anyhow::Result<Vec<Asked>> {
        let own = self.own.as_ref();
        let own = own.context("this cluster's API server is not ours")?;
        audit::read(&own.audit_log(), user)
    }

    /// The certificates that the API server is verified by, PEM, in a file.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn ca_file(&self) -> anyhow::Result<PathBuf> {
        let path = self.folder.path().join("api-server-ca.pem");
        std::fs::write(&path, credentials::authority(&self.kubeconfig)?)?;
        Ok(path)
    }

    /// Where the API server is.
    ///
    /// # Errors
    /// If the kubeconfig does not say.
    pub fn url(&self) -> anyhow::Result<String> {
        credentials::server(&self.kubeconfig)
    }
}

fn folder() -> anyhow::Result<tempfile::TempDir> {
    // Short, because the path of a socket is.
    Ok(tempfile::Builder::new().prefix("arx-").tempdir_in("/tmp")?)
}

/// An object of Kubernetes, written as JSON.
fn object<K: DeserializeOwned>(value: Value) -> anyhow::Result<K> {
    Ok(serde_json::from_value(value)?)
}

async fn client(kubeconfig: &Kubeconfig) -> anyhow::Result<Client> {
    let options = KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig.clone(), &options).await?;
    Ok(Client::try_from(config)?)
}

/// Whom the API server says that its tokens are of (OpenID Connect Discovery 1.0, 3).
async fn issuer(client: &Client) -> anyhow::Result<String> {
    let request = http::Request::get("/.well-known/openid-configuration").body(Vec::new())?;
    let document: Value = client.request(request).await?;
    let issuer = document["issuer"].as_str();
    Ok(issuer
        .context("a discovery document names its issuer")?
        .to_owned())
}
