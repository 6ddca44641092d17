//! The roots in a cluster's own objects, written with exactly the rights that this takes.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use arx_identity::{Certificate, KeyId};
use arx_proto::admin::v1::Unconfirmed;
use arx_tests::http as web;
use arx_tests::mesh::Options;
use arx_tests::process::until;
use arx_tests::rotating::{quickly, reaches, rotate};
use futures_util::StreamExt as _;
use k8s_openapi::api::certificates::v1::ClusterTrustBundle;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, WatchEvent, WatchParams};
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};

use super::served::Served;
use super::shop::{Shop, Site, Verification, grant};

/// All that is published in these tests, in namespaces with a label of the test's own.
fn everything(options: &mut Options, site: &Site<'_>) -> Vec<Value> {
    let system = site.system;
    options.authority = format!(
        r#"
[[publish]]
cluster = "c1"
config_map = "arx-trust"
istio = true
namespace_selector = "example.org/mesh={system}"
cluster_trust_bundle = "example.org:mesh:{system}"
mutating_webhooks = ["{system}-m"]
validating_webhooks = ["{system}-v"]
api_services = ["v1.{system}.example.org"]
settle = "1s"
"#
    );
    rules(system, &["list", "watch", "create", "patch"])
}

/// The rights that take all of it, with these for ConfigMaps.
fn rules(system: &str, of_maps: &[&str]) -> Vec<Value> {
    let bundle = format!("example.org:mesh:{system}");
    let held = ["list", "watch", "patch"];
    vec![
        json!({"apiGroups": [""], "resources": ["namespaces"], "verbs": ["list", "watch"]}),
        json!({
            "apiGroups": [""], "resources": ["configmaps"], "verbs": of_maps,
            "resourceNames": ["arx-trust", "istio-ca-root-cert"],
        }),
        json!({
            "apiGroups": ["certificates.k8s.io"], "resources": ["clustertrustbundles"],
            "verbs": ["list", "watch", "create", "patch"], "resourceNames": [bundle],
        }),
        json!({
            "apiGroups": ["certificates.k8s.io"], "resources": ["signers"], "verbs": ["attest"],
            "resourceNames": ["example.org/mesh"],
        }),
        json!({
            "apiGroups": ["admissionregistration.k8s.io"],
            "resources": ["mutatingwebhookconfigurations"],
            "verbs": held, "resourceNames": [format!("{system}-m")],
        }),
        json!({
            "apiGroups": ["admissionregistration.k8s.io"],
            "resources": ["validatingwebhookconfigurations"],
            "verbs": held, "resourceNames": [format!("{system}-v")],
        }),
        json!({
            "apiGroups": ["apiregistration.k8s.io"], "resources": ["apiservices"],
            "verbs": held, "resourceNames": [format!("v1.{system}.example.org")],
        }),
    ]
}

/// What is in a cluster for a test.
struct Stage {
    shop: Shop,
    client: Client,
}

impl Stage {
    async fn open(
        change: impl FnOnce(&mut Options, &Site<'_>) -> Vec<Value>,
    ) -> anyhow::Result<Self> {
        let shop = Shop::open_with(Verification::Watched, change).await?;
        let client = shop.cluster.admin.clone();
        Ok(Self { shop, client })
    }

    /// Chooses a namespace, as its owner does.
    async fn choose(&self, namespace: &str) -> anyhow::Result<()> {
        let labels = json!({"metadata": {"labels": {"example.org/mesh": self.shop.system}}});
        Api::<Namespace>::all(self.client.clone())
            .patch(namespace, &PatchParams::default(), &Patch::Merge(labels))
            .await?;
        Ok(())
    }

    fn maps(&self, namespace: &str) -> Api<ConfigMap> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Webhooks and an API service, whose `caBundle` is kept.
    fn served(&self) -> Served<'_> {
        Served::of(&self.shop.cluster, &self.shop.system)
    }

    /// What the ClusterTrustBundle has.
    async fn bundle(&self) -> anyhow::Result<Option<String>> {
        let name = format!("example.org:mesh:{}", self.shop.system);
        let api = Api::<ClusterTrustBundle>::all(self.client.clone());
        let found = api.get_opt(&name).await?;
        Ok(found.map(|bundle| bundle.spec.trust_bundle))
    }

    /// A warning of readiness with this code, which says this.
    async fn is_told(&self, code: &str, says: &str) -> anyhow::Result<()> {
        let port = self.shop.mesh.ops_port;
        until(code, || async move {
            let (status, text) = web::get(port, "/readyz").await?;
            ensure!(status == http::StatusCode::OK, "{text}");
            let line = text.lines().find(|line| line.contains(code));
            let line = line.with_context(|| format!("{code} is not in:\n{text}"))?;
            ensure!(line.contains(says), "{line}");
            Ok(true)
        })
        .await
    }
}

/// The roots in a ConfigMap, in their order.
fn roots(map: &ConfigMap, key: &str) -> anyhow::Result<Vec<KeyId>> {
    let data = map.data.as_ref().and_then(|data| data.get(key));
    names(data.context("the key is there")?)
}

fn names(pem: &str) -> anyhow::Result<Vec<KeyId>> {
    let list = Certificate::list_from_pem(pem)?;
    let names = list.iter().map(Certificate::subject_key_id);
    names.map(|name| name.context("a root has one")).collect()
}

const OWN: (&str, &str) = ("arx-trust", "bundle.pem");
const ISTIO: (&str, &str) = ("istio-ca-root-cert", "root-cert.pem");

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs a control plane: make test-kube"]
async fn the_roots_are_in_every_object_that_is_named_and_in_a_new_namespace_too()
-> anyhow::Result<()> {
    let stage = Stage::open(everything).await?;
    stage.served().make().await?;
    stage.choose(&stage.shop.namespace).await?;
    let pem = std::fs::read_to_string(stage.shop.mesh.bundle())?;
    let new = stage.shop.cluster.namespace("new").await?;
    stage.choose(&new).await?;
    for namespace in [&stage.shop.namespace, &new] {
        for (name, key) in [OWN, ISTIO] {
            until("the ConfigMap is there", || async {
                let map = stage.maps(namespace).get(name).await?;
                ensure!(roots(&map, key)? == names(&pem)?);
                Ok(true)
            })
            .await?;
        }
    }
    let map = stage.maps(&new).get(ISTIO.0).await?;
    let label = map.labels().get("istio.io/config").map(String::as_str);
    ensure!(label == Some("true"), "{map:?}");
    let elsewhere = stage.maps(&stage.shop.system).get_opt(OWN.0).await?;
    ensure!(elsewhere.is_none(), "that namespace is not chosen");
    until("the ClusterTrustBundle is there", || async {
        Ok(stage.bundle().await?.as_deref() == Some(&pem))
    })
    .await?;
    until("every caBundle is there", || async {
        let others = stage.served().others_than(&pem).await?;
        ensure!(others.is_empty(), "{others:?}");
        Ok(true)
    })
    .await?;
    // What is deleted comes again.
    let maps = stage.maps(&new);
    let _deleted = maps.delete(OWN.0, &DeleteParams::default()).await?;
    until("the ConfigMap is there again", || async {
        Ok(maps.get_opt(OWN.0).await?.is_some())
    })
    .await?;
    stage.served().remove().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs a control plane: make test-kube"]
async fn a_rotation_waits_for_each_object_and_each_sees_the_roots_in_their_order()
-> anyhow::Result<()> {
    let stage = Stage::open(everything).await?;
    stage.served().make().await?;
    let namespace = stage.shop.namespace.clone();
    stage.choose(&namespace).await?;
    let maps = stage.maps(&namespace);
    until("both ConfigMaps are there", || async {
        Ok(maps.get_opt(OWN.0).await?.is_some() && maps.get_opt(ISTIO.0).await?.is_some())
    })
    .await?;
    until("the ClusterTrustBundle is there", || async {
        Ok(stage.bundle().await?.is_some())
    })
    .await?;
    // Somebody else has a ConfigMap of that name, in a namespace that is chosen then.
    let other = stage.shop.cluster.namespace("other").await?;
    let foreign = json!({"metadata": {"name": OWN.0}, "data": {OWN.1: "not PEM"}});
    stage
        .shop
        .cluster
        .create(stage.maps(&other), foreign)
        .await?;
    stage.choose(&other).await?;
    let name = format!("config-map {other}/{}", OWN.0);
    stage
        .is_told("ARX-PUBLISH-FOREIGN", &format!("{name} not written"))
        .await?;

    let from = maps.list(&ListParams::default()).await?;
    let from = from.metadata.resource_version.context("a version")?;
    let before = roots(&maps.get(OWN.0).await?, OWN.1)?;
    let mesh = &stage.shop.mesh;
    rotate(mesh, quickly()).await?;
    let waits = |it: &Unconfirmed| it.process == name && it.reason == "not-written";
    let stuck = reaches(mesh, "that object alone is in the way", |it| {
        it.phase == "distribute" && it.unconfirmed.len() == 1 && it.unconfirmed.iter().all(waits)
    })
    .await?;
    ensure!(stuck.unconfirmed[0].node == "c1", "{stuck:?}");
    ensure!(
        stuck.unconfirmed[0].detail.contains("somebody else"),
        "{stuck:?}"
    );
    let both = roots(&maps.get(OWN.0).await?, OWN.1)?;
    ensure!(both.len() == 2 && both[0] == before[0], "the old one signs");
    let in_bundle = stage.bundle().await?.context("it is there")?;
    ensure!(names(&in_bundle)? == both);
    // They let go of it, and it is ours.
    let theirs = stage.maps(&other);
    let _deleted = theirs.delete(OWN.0, &DeleteParams::default()).await?;
    let over = reaches(mesh, "it is over", |it| it.phase == "done").await?;
    ensure!(over.unconfirmed.is_empty(), "{over:?}");
    let after = vec![both[1]];
    let pem = stage.bundle().await?.context("it is there")?;
    ensure!(names(&pem)? == after);
    ensure!(roots(&theirs.get(OWN.0).await?, OWN.1)? == after);
    ensure!(stage.served().others_than(&pem).await?.is_empty());

    // What whoever watches has seen.
    let order = [
        before.clone(),
        both.clone(),
        vec![both[1], both[0]],
        after.clone(),
    ];
    for (name, key) in [OWN, ISTIO] {
        let seen = seen(&maps, name, key, &from, &after).await?;
        let places = seen
            .iter()
            .map(|roots| order.iter().position(|it| it == roots));
        let places = places.collect::<Option<Vec<_>>>().context("another")?;
        ensure!(places.is_sorted(), "{places:?}");
        ensure!(
            places.contains(&1),
            "both before the new one alone: {places:?}"
        );
    }
    stage.served().remove().await
}

/// The roots of each version of a ConfigMap from there on until it has `last`.
async fn seen(
    maps: &Api<ConfigMap>,
    name: &str,
    key: &str,
    from: &str,
    last: &[KeyId],
) -> anyhow::Result<Vec<Vec<KeyId>>> {
    let only = WatchParams::default().fields(&format!("metadata.name={name}"));
    let mut events = std::pin::pin!(maps.watch(&only, from).await?);
    let mut seen = Vec::new();
    loop {
        let event = tokio::time::timeout(Duration::from_secs(30), events.next()).await?;
        if let WatchEvent::Added(map) | WatchEvent::Modified(map) = event.context("it ended")?? {
            seen.push(roots(&map, key)?);
            if seen.last().is_some_and(|roots| roots == last) {
                return Ok(seen);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs a control plane: make test-kube"]
async fn a_verb_that_is_missing_is_named_and_everything_else_goes_on() -> anyhow::Result<()> {
    let stage = Stage::open(|options, site| {
        let _all = everything(options, site);
        rules(site.system, &["list", "watch", "create"])
    })
    .await?;
    let namespace = stage.shop.namespace.clone();
    stage.choose(&namespace).await?;
    stage
        .is_told("ARX-PUBLISH-FORBIDDEN", "cannot patch")
        .await?;
    until("the ClusterTrustBundle is there", || async {
        Ok(stage.bundle().await?.is_some())
    })
    .await?;
    ensure!(stage.maps(&namespace).get_opt(OWN.0).await?.is_none());
    let missing = json!([{
        "apiGroups": [""], "resources": ["configmaps"], "verbs": ["patch"],
        "resourceNames": ["arx-trust", "istio-ca-root-cert"],
    }]);
    grant(&stage.shop.cluster, &stage.shop.system, "patch", &missing).await?;
    until("the ConfigMap is there", || async {
        Ok(stage.maps(&namespace).get_opt(OWN.0).await?.is_some())
    })
    .await
}
