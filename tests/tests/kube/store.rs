//! State in Secrets: every promise of a store kept by a real API server, and an authority that
//! lives on it, under a service account that may do nothing else.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use arx_ca::store::faults::Faulty;
use arx_ca::store::{Kubernetes, KubernetesOptions};
use arx_ca::store_keeps_all_promises;
use arx_daemon::config::Span;
use arx_daemon::files::write_atomically;
use arx_tests::http as web;
use arx_tests::kube::{Cluster, Kubelet, NewPod, Token, is_ours};
use arx_tests::mesh::{Mesh, Options};
use arx_tests::pair::Pair;
use arx_tests::process::{binary, until};
use arx_tests::rotating::{quickly, reaches, roots, rotate};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use rustix::process::Signal;
use serde_json::{Value, json};

const NODE: &str = "node-1";
/// All that the store may need.
const VERBS: [&str; 6] = ["get", "list", "watch", "create", "update", "delete"];

/// A cluster in which an account may do these things with Secrets of its own namespace.
struct Site {
    cluster: Cluster,
    _kubelet: Kubelet,
    namespace: String,
    kubeconfig: PathBuf,
    _folder: tempfile::TempDir,
}

impl Site {
    async fn open(verbs: &[&str]) -> anyhow::Result<Self> {
        let cluster = Cluster::start().await?;
        let namespace = cluster.namespace("arx-system").await?;
        let kubelet = cluster.kubelet(NODE).await?;
        cluster.service_account(&namespace, "arx-ca").await?;
        let pod = NewPod {
            namespace: &namespace,
            name: "arx-ca",
            account: "arx-ca",
            node: NODE,
            audiences: &[""],
        };
        cluster.pod(pod).await?;
        let folder = tempfile::Builder::new().prefix("arx-").tempdir_in("/tmp")?;
        let own = folder.path().join("api-token");
        let token = Token {
            namespace: &namespace,
            pod: "arx-ca",
            audience: "",
        };
        kubelet.project(token, &own).await?;
        let kubeconfig = cluster.kubeconfig("arx-ca", &own)?;
        let this = Self {
            cluster,
            _kubelet: kubelet,
            namespace,
            kubeconfig,
            _folder: folder,
        };
        this.permit(verbs).await?;
        Ok(this)
    }

    async fn permit(&self, verbs: &[&str]) -> anyhow::Result<()> {
        let roles = Api::<Role>::namespaced(self.cluster.admin.clone(), &self.namespace);
        let rules = json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": verbs}]);
        let role = json!({"metadata": {"name": "arx-state"}, "rules": rules});
        self.cluster.create(roles, role).await?;
        let bindings = Api::<RoleBinding>::namespaced(self.cluster.admin.clone(), &self.namespace);
        let binding: Value = json!({
            "metadata": {"name": "arx-state"},
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "arx-state",
            },
            "subjects": [
                {"kind": "ServiceAccount", "name": "arx-ca", "namespace": self.namespace},
            ],
        });
        self.cluster.create(bindings, binding).await?;
        Ok(())
    }

    fn options(&self, namespace: &str) -> KubernetesOptions {
        KubernetesOptions {
            namespace: Some(namespace.to_owned()),
            kubeconfig: Some(self.kubeconfig.clone()),
            deadline: Span::from_secs(5),
        }
    }

    fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.cluster.admin.clone(), &self.namespace)
    }

    /// A store without anything in it.
    async fn empty(&self) -> Kubernetes {
        let secrets = self.secrets();
        let all = ListParams::default().labels("arx.dev/state-of");
        let found = secrets.list(&all).await.expect("they can be listed");
        for secret in found {
            secrets
                .delete(&secret.name_any(), &DeleteParams::default())
                .await
                .expect("it can be deleted");
        }
        let options = self.options(&self.namespace);
        Kubernetes::new(&options)
            .await
            .expect("its options can be used")
    }

    /// A mesh whose authority keeps its state here; the key that seals it is there.
    fn mesh(&self) -> anyhow::Result<Mesh> {
        let (kubeconfig, namespace) = (self.kubeconfig.display(), &self.namespace);
        let table = format!(
            "\n[state.kubernetes]\nkubeconfig = \"{kubeconfig}\"\nnamespace = \"{namespace}\"\n"
        );
        let mesh = Mesh::prepare(Options {
            authority: table,
            ..Options::default()
        })?;
        let key: [u8; 32] = std::array::from_fn(|n| [1, 3, 5, 7][n % 4]);
        write_atomically(mesh.directory.join("seal.key"), &key, 0o600)?;
        Ok(mesh)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a control plane: make test-kube"]
async fn secrets_keep_every_promise_of_a_store_also_behind_faults() -> anyhow::Result<()> {
    let site = Site::open(&VERBS).await?;
    let empty = async |_: &str| site.empty().await;
    store_keeps_all_promises!(empty);
    let faulty = async |_: &str| Faulty::new(Arc::new(site.empty().await));
    store_keeps_all_promises!(faulty);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs a control plane: make test-kube"]
async fn an_authority_in_secrets_comes_back_after_a_kill_rotates_and_survives_its_api_server()
-> anyhow::Result<()> {
    if !is_ours("stops the API server") {
        return Ok(());
    }
    let site = Site::open(&VERBS).await?;
    let mut mesh = site.mesh()?;
    mesh.start_authority().await?;
    ensure!(!mesh.directory.join("authority/state.redb").exists());
    let mut pair = Pair::over(mesh, |_| {}).await?;
    let before = roots(&pair.mesh).await?;
    let load = pair.load();
    pair.mesh.kill_authority().await?;
    pair.mesh.spawn_authority()?;
    pair.mesh.authority_is_ready().await?;
    ensure!(roots(&pair.mesh).await? == before, "it began anew");
    until("both agents' return", || async {
        Ok(pair.mesh.status().await?.agents_connected == 2)
    })
    .await?;
    // While the API server hangs, certificates are issued.
    let server = site.cluster.api_server()?;
    server.signal(Signal::STOP)?;
    until("its word", || async {
        let (status, said) = web::get(pair.mesh.ops_port, "/readyz").await?;
        Ok(status == 503 && said.contains("ARX-STORE-"))
    })
    .await?;
    let _third = pair.mesh.agent("n3").await?;
    server.signal(Signal::CONT)?;
    pair.mesh.authority_is_ready().await?;
    rotate(&pair.mesh, quickly()).await?;
    reaches(&pair.mesh, "reissue", |it| {
        ["reissue", "retire", "done"].contains(&&*it.phase)
    })
    .await?;
    pair.mesh.kill_authority().await?;
    pair.mesh.spawn_authority()?;
    pair.mesh.authority_is_ready().await?;
    reaches(&pair.mesh, "done", |it| it.phase == "done").await?;
    load.stop().await.without_failure()?;
    ensure!(roots(&pair.mesh).await? != before);
    pair.talks().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs a control plane: make test-kube"]
async fn a_secret_whose_sealed_value_was_edited_by_hand_is_refused_and_the_old_state_is_kept()
-> anyhow::Result<()> {
    let site = Site::open(&VERBS).await?;
    let mut mesh = site.mesh()?;
    mesh.start_authority().await?;
    let before = roots(&mesh).await?;
    let secrets = site.secrets();
    let all = ListParams::default().labels("arx.dev/state-kind=authorities");
    let found = secrets.list(&all).await?.items.pop();
    let whole = found.context("the authorities are in a Secret")?;
    let name = whole.name_any();
    let value = whole.data.clone().and_then(|mut data| data.remove("value"));
    let mut broken = value.context("it has a value")?.0;
    let last = broken.last_mut().context("it is not empty")?;
    *last ^= 1;
    let patch = |value: &[u8]| {
        use base64::Engine as _;
        let text = base64::engine::general_purpose::STANDARD.encode(value);
        Patch::Merge(json!({"data": {"value": text}}))
    };
    secrets
        .patch(&name, &PatchParams::default(), &patch(&broken))
        .await?;
    // It issues by what it has, and changes nothing by what it can't open.
    let _agent = mesh.agent("n1").await?;
    let refused = rotate(&mesh, quickly()).await;
    ensure!(refused.is_err(), "{refused:?}");
    ensure!(roots(&mesh).await? == before);
    mesh.stop_authority().await?;
    mesh.spawn_authority()?;
    let process = mesh.authority.as_mut().context("it was started")?;
    let ended = process.ended().await?;
    let said = process.log().tail();
    ensure!(!ended.success() && said.contains("ARX-SEAL-"), "{said}");
    *broken.last_mut().context("it is not empty")? ^= 1;
    secrets
        .patch(&name, &PatchParams::default(), &patch(&broken))
        .await?;
    mesh.start_authority().await?;
    ensure!(roots(&mesh).await? == before);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs a control plane: make test-kube"]
async fn a_check_names_the_verb_that_is_missing_and_a_start_waits_for_it() -> anyhow::Result<()> {
    let site = Site::open(&["get", "list", "watch", "update", "delete"]).await?;
    let mut mesh = site.mesh()?;
    let output = Command::new(binary("arx-ca")?)
        .arg("--config")
        .arg(mesh.authority_config())
        .arg("check")
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.code() == Some(2)
            && said.contains("state.kubernetes: its service account may not create Secrets"),
        "{said}"
    );
    mesh.spawn_authority()?;
    until("its word", || async {
        let (status, said) = web::get(mesh.ops_port, "/readyz").await?;
        Ok(status == 503 && said.contains("ARX-STORE-REFUSED"))
    })
    .await?;
    let roles = Api::<Role>::namespaced(site.cluster.admin.clone(), &site.namespace);
    let rules = json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": VERBS}]);
    roles
        .patch(
            "arx-state",
            &PatchParams::default(),
            &Patch::Merge(json!({"rules": rules})),
        )
        .await?;
    mesh.authority_is_ready().await?;
    let output = Command::new(binary("arx-ca")?)
        .arg("--config")
        .arg(mesh.authority_config())
        .arg("check")
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(said.contains("ok    state: Secrets of namespace"), "{said}");
    Ok(())
}
