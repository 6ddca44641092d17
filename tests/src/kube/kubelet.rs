//! What stands in for a kubelet: it does with the API what a kubelet does, by a kubelet's own
//! credentials, and nothing that those would not allow.

mod volumes;

use std::path::Path;

use anyhow::Context as _;
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Secret, ServiceAccount};
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt as _};
use serde_json::json;

use super::{Cluster, client, credentials, object};
use crate::process::until;

pub use volumes::{Driver, Volume};

/// A kubelet asks for tokens of an hour.
const TOKEN_SECONDS: u32 = 3600;

/// The kubelet of one node.
pub struct Kubelet {
    /// Its node.
    pub node: String,
    /// With its own credentials.
    pub api: Client,
}

/// Whom a token is for, and which pod it is bound to.
#[derive(Clone, Copy, Debug)]
pub struct Token<'a> {
    /// Of the pod.
    pub namespace: &'a str,
    /// Of the pod.
    pub pod: &'a str,
    /// For whom; the empty one is the API server.
    pub audience: &'a str,
}

impl Kubelet {
    /// Gets credentials as a kubelet does that is new to its cluster, by a
    /// CertificateSigningRequest which somebody approves, and registers its node.
    pub(super) async fn start(cluster: &Cluster, node: &str) -> anyhow::Result<Self> {
        let api = credentials(cluster, node).await?;
        let object: Node = object(json!({"metadata": {"name": node}}))?;
        Api::<Node>::all(api.clone())
            .create(&PostParams::default(), &object)
            .await?;
        Ok(Self {
            node: node.to_owned(),
            api,
        })
    }

    /// The pods that were put on its node.
    ///
    /// # Errors
    /// If the API server does not tell.
    pub async fn pods(&self) -> anyhow::Result<Vec<Pod>> {
        let mine = ListParams::default().fields(&format!("spec.nodeName={}", self.node));
        Ok(Api::<Pod>::all(self.api.clone()).list(&mine).await?.items)
    }

    /// Reports the phase of a pod of its node.
    ///
    /// # Errors
    /// If the API server refuses, as it does for pods of other nodes.
    pub async fn report(&self, namespace: &str, pod: &str, phase: &str) -> anyhow::Result<()> {
        let pods = Api::<Pod>::namespaced(self.api.clone(), namespace);
        let status = Patch::Strategic(json!({"status": {"phase": phase}}));
        pods.patch_status(pod, &PatchParams::default(), &status)
            .await?;
        Ok(())
    }

    /// A token for a pod's service account, bound to the pod, as it is projected into its
    /// volumes or handed to a CSI driver.
    ///
    /// # Errors
    /// If the API server refuses, as it does for pods of other nodes.
    pub async fn token(&self, token: Token<'_>) -> anyhow::Result<String> {
        let Token {
            namespace,
            pod,
            audience,
        } = token;
        let pods = Api::<Pod>::namespaced(self.api.clone(), namespace);
        if self.pods().await?.iter().any(|it| it.name_any() == pod) {
            // Who may see what is an index of the API server's own, which follows.
            until("the pod is shown to its kubelet", || async {
                Ok(pods.get(pod).await.is_ok())
            })
            .await?;
        }
        let bound = pods.get(pod).await?;
        let account = bound
            .spec
            .as_ref()
            .and_then(|spec| spec.service_account_name.clone())
            .context("a pod has a service account")?;
        let audiences: Vec<&str> = Some(audience)
            .filter(|it| !it.is_empty())
            .into_iter()
            .collect();
        let request: TokenRequest = object(json!({"spec": {
            "audiences": audiences,
            "expirationSeconds": TOKEN_SECONDS,
            "boundObjectRef": {
                "apiVersion": "v1", "kind": "Pod", "name": pod, "uid": bound.uid(),
            },
        }}))?;
        let made = Api::<ServiceAccount>::namespaced(self.api.clone(), namespace)
            .create_token_request(&account, &PostParams::default(), &request)
            .await?;
        let token = made.status.and_then(|status| status.token);
        token.context("a token request is answered by a token")
    }

    /// Writes such a token into a file, as into a projected volume.
    ///
    /// # Errors
    /// If the API server refuses, or the file can't be written.
    pub async fn project(&self, token: Token<'_>, file: &Path) -> anyhow::Result<()> {
        let token = self.token(token).await?;
        arx_daemon::files::write_atomically(file, token.as_bytes(), 0o600)?;
        Ok(())
    }

    /// Writes a ConfigMap that a pod of this node mounts into a directory, as soon as it is there.
    ///
    /// # Errors
    /// If it does not come, or can't be written.
    pub async fn config_map(&self, namespace: &str, name: &str, to: &Path) -> anyhow::Result<()> {
        let maps = Api::<ConfigMap>::namespaced(self.api.clone(), namespace);
        until(&format!("the ConfigMap {name}"), || async {
            Ok(maps.get(name).await.is_ok())
        })
        .await?;
        for (key, value) in maps.get(name).await?.data.unwrap_or_default() {
            std::fs::write(to.join(key), value)?;
        }
        Ok(())
    }

    /// What is under a key of a Secret that a pod of this node mounts.
    ///
    /// # Errors
    /// If the API server does not show it.
    pub async fn secret(&self, namespace: &str, name: &str, key: &str) -> anyhow::Result<Vec<u8>> {
        let secrets = Api::<Secret>::namespaced(self.api.clone(), namespace);
        until(&format!("the Secret {name}"), || async {
            Ok(secrets.get(name).await.is_ok())
        })
        .await?;
        let data = secrets.get(name).await?.data.unwrap_or_default();
        let value = data.get(key).with_context(|| format!("no key {key}"))?;
        Ok(value.0.clone())
    }
}

async fn credentials(cluster: &Cluster, node: &str) -> anyhow::Result<Client> {
    if let Some(own) = cluster.own.as_ref().filter(|own| !own.is_controlled()) {
        // Nobody there signs requests.
        let (certificate, key) = own.certificate(&format!("system:node:{node}"), "system:nodes")?;
        return by(cluster, &certificate, &key).await;
    }
    let subject = format!("/O=system:nodes/CN=system:node:{node}");
    let (request, key) = credentials::request(cluster.folder.path(), node, &subject)?;
    let requests = Api::<CertificateSigningRequest>::all(cluster.admin.clone());
    let wanted = json!({
        "metadata": {"generateName": format!("{node}-")},
        "spec": {
            "request": credentials::base64(&request),
            "signerName": "kubernetes.io/kube-apiserver-client-kubelet",
            "usages": ["digital signature", "client auth"],
        },
    });
    let made = cluster.create(requests.clone(), wanted).await?;
    let name = made.name_any();
    let approved = Patch::Strategic(json!({"status": {"conditions": [{
        "type": "Approved", "status": "True", "reason": "Test", "message": "it is ours",
    }]}}));
    requests
        .patch_approval(&name, &PatchParams::default(), &approved)
        .await?;
    until("a kubelet's certificate", || async {
        let request = requests.get(&name).await?;
        Ok(request.status.is_some_and(|it| it.certificate.is_some()))
    })
    .await?;
    let signed = requests.get(&name).await?;
    let certificate = signed
        .status
        .and_then(|status| status.certificate)
        .context("it was signed")?;
    by(cluster, &String::from_utf8(certificate.0)?, &key).await
}

/// Whoever has this certificate and its key.
async fn by(cluster: &Cluster, certificate: &str, key: &str) -> anyhow::Result<Client> {
    let user = json!({
        "client-certificate-data": credentials::base64(certificate),
        "client-key-data": credentials::base64(key),
    });
    client(&credentials::kubeconfig(&cluster.kubeconfig, user)?).await
}
