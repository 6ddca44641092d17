//! etcd, an API server and, unless it is to be small, a controller manager as processes, with RBAC
//! and Node authorization.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Api;
use kube::config::Kubeconfig;
use serde_json::json;

use super::{audit, credentials};
use crate::openssl::{Ca, openssl};
use crate::process::{Process, free_port, tool, until};

/// Where the programs are, if not among the tools: the variable that Kubernetes' own test
/// frameworks use.
const ASSETS: &str = "KUBEBUILDER_ASSETS";
/// Addresses of services; nothing answers there.
const SERVICES: &str = "10.96.0.0/24";

/// A control plane; its processes end with it.
pub(super) struct ControlPlane {
    site: Site,
    pub(super) api_server: Process,
    _etcd: Process,
    controllers: Option<Process>,
}

/// Where its files and ports are.
struct Site {
    authority: Ca,
    folder: PathBuf,
    port: u16,
    etcd_port: u16,
    issuer: String,
}

/// One of the programs of a control plane.
///
/// # Errors
/// If it is not there, with what brings it.
pub fn programs(name: &str) -> anyhow::Result<PathBuf> {
    let Some(folder) = std::env::var_os(ASSETS) else {
        return tool(name).context("the control plane of the tests comes by `make kube`");
    };
    let path = Path::new(&folder).join(name);
    if !path.exists() {
        bail!("{} is not there, where {ASSETS} says", path.display());
    }
    Ok(path)
}

impl ControlPlane {
    /// One whose tokens are of this issuer, and in which nobody controls anything yet.
    pub(super) async fn start(folder: &Path, issuer: &str) -> anyhow::Result<Self> {
        let site = Site {
            authority: Ca::root(folder, "kubernetes")?,
            folder: folder.to_owned(),
            port: free_port()?,
            etcd_port: free_port()?,
            issuer: issuer.to_owned(),
        };
        let (etcd, api_server) = (site.etcd()?, site.api_server()?);
        let config = site.kubeconfig()?;
        let client = super::client(&config).await?;
        // The hooks that make its own roles and namespaces included.
        until("the API server's readiness", || async {
            let request = http::Request::get("/readyz").body(Vec::new())?;
            Ok(client.request_text(request).await? == "ok")
        })
        .await
        .with_context(|| format!("the API server says:\n{}", api_server.log().tail()))?;
        Ok(Self {
            site,
            api_server,
            _etcd: etcd,
            controllers: None,
        })
    }

    /// Starts its controllers.
    pub(super) async fn control(&mut self) -> anyhow::Result<()> {
        let config = self.site.kubeconfig()?;
        let controllers = self.site.controller_manager(&config)?;
        let client = super::client(&config).await?;
        let accounts = Api::<ServiceAccount>::namespaced(client, "default");
        until("the controllers' first service account", || async {
            Ok(accounts.get_opt("default").await?.is_some())
        })
        .await
        .with_context(|| format!("the controller manager says:\n{}", controllers.log().tail()))?;
        self.controllers = Some(controllers);
        Ok(())
    }

    /// Whether somebody makes what belongs to others: service accounts, pods, certificates.
    pub(super) fn is_controlled(&self) -> bool {
        self.controllers.is_some()
    }

    /// A certificate for a client of this name and group, and its key, PEM.
    pub(super) fn certificate(&self, name: &str, group: &str) -> anyhow::Result<(String, String)> {
        credentials::client(&self.site.authority, &self.site.folder, name, group)
    }

    /// Where it writes what service accounts ask of it.
    pub(super) fn audit_log(&self) -> PathBuf {
        self.site.folder.join(audit::LOG)
    }

    /// For somebody who may do everything.
    pub(super) fn kubeconfig(&self) -> anyhow::Result<Kubeconfig> {
        self.site.kubeconfig()
    }
}

impl Site {
    fn kubeconfig(&self) -> anyhow::Result<Kubeconfig> {
        let (certificate, key) =
            credentials::client(&self.authority, &self.folder, "admin", "system:masters")?;
        let server = json!({
            "server": format!("https://127.0.0.1:{}", self.port),
            "certificate-authority-data": credentials::base64(&self.authority.chain),
        });
        let user = json!({
            "client-certificate-data": credentials::base64(&certificate),
            "client-key-data": credentials::base64(&key),
        });
        credentials::written(&server, &user)
    }

    fn etcd(&self) -> anyhow::Result<Process> {
        let data = self.path("etcd")?;
        let clients = format!("http://127.0.0.1:{}", self.etcd_port);
        let peers = format!("http://127.0.0.1:{}", free_port()?);
        let arguments = [
            "--data-dir",
            &data,
            "--listen-client-urls",
            &clients,
            "--advertise-client-urls",
            &clients,
            "--listen-peer-urls",
            &peers,
            "--initial-advertise-peer-urls",
            &peers,
            "--initial-cluster",
            &format!("default={peers}"),
            // Nothing that is kept here is worth a wait for the disk.
            "--unsafe-no-fsync",
        ];
        Process::start("etcd", &programs("etcd")?, &arguments)
    }

    fn api_server(&self) -> anyhow::Result<Process> {
        let (certificate, key) = credentials::server_certificate(&self.authority, &self.folder)?;
        let account_key = self.path("service-accounts.key")?;
        openssl(&["genrsa", "-out", &account_key, "2048"])?;
        let port = self.port.to_string();
        let authority = self.authority_file()?;
        let policy = self.folder.join("audit-policy.json");
        std::fs::write(&policy, serde_json::to_vec(&audit::policy())?)?;
        let arguments = [
            format!("--audit-policy-file={}", text(&policy)?),
            format!("--audit-log-path={}", self.path(audit::LOG)?),
            format!("--etcd-servers=http://127.0.0.1:{}", self.etcd_port),
            "--bind-address=127.0.0.1".to_owned(),
            "--advertise-address=127.0.0.1".to_owned(),
            "--endpoint-reconciler-type=none".to_owned(),
            format!("--secure-port={port}"),
            format!("--tls-cert-file={}", text(&certificate)?),
            format!("--tls-private-key-file={}", text(&key)?),
            format!("--client-ca-file={authority}"),
            "--authorization-mode=Node,RBAC".to_owned(),
            "--enable-admission-plugins=NodeRestriction".to_owned(),
            format!("--service-account-issuer={}", self.issuer),
            format!("--service-account-jwks-uri=https://127.0.0.1:{port}/openid/v1/jwks"),
            format!("--service-account-key-file={account_key}"),
            format!("--service-account-signing-key-file={account_key}"),
            format!("--service-cluster-ip-range={SERVICES}"),
            "--allow-privileged=true".to_owned(),
            "--profiling=false".to_owned(),
        ];
        start("kube-apiserver", &arguments)
    }

    fn controller_manager(&self, config: &Kubeconfig) -> anyhow::Result<Process> {
        let kubeconfig = self.folder.join("controllers.kubeconfig");
        std::fs::write(&kubeconfig, serde_json::to_vec(config)?)?;
        let authority = self.authority_file()?;
        let authority_key = self.authority.path("key");
        let arguments = [
            format!("--kubeconfig={}", text(&kubeconfig)?),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--secure-port={}", free_port()?),
            "--leader-elect=false".to_owned(),
            "--use-service-account-credentials=true".to_owned(),
            // Kubelets that stand in send no heartbeats, and have no networks.
            "--controllers=*,-node-lifecycle-controller,-node-ipam-controller".to_owned(),
            format!("--root-ca-file={authority}"),
            format!(
                "--service-account-private-key-file={}",
                self.path("service-accounts.key")?
            ),
            format!("--cluster-signing-cert-file={authority}"),
            format!("--cluster-signing-key-file={}", text(&authority_key)?),
        ];
        start("kube-controller-manager", &arguments)
    }

    fn authority_file(&self) -> anyhow::Result<String> {
        Ok(text(&self.authority.path("pem"))?.to_owned())
    }

    fn path(&self, name: &str) -> anyhow::Result<String> {
        Ok(text(&self.folder.join(name))?.to_owned())
    }
}

fn start(name: &str, arguments: &[String]) -> anyhow::Result<Process> {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    Process::start(name, &programs(name)?, &arguments)
}

fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("a path that is text")
}
