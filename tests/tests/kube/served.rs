//! Webhooks and an API service of somebody who serves with certificates of the mesh.

use anyhow::{Context as _, ensure};
use arx_tests::kube::Cluster;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::api::{Api, DeleteParams};
use serde_json::json;

/// Two webhooks of each kind, and an API, all named after a namespace.
pub(super) struct Served<'a> {
    cluster: &'a Cluster,
    system: &'a str,
}

impl<'a> Served<'a> {
    pub(super) fn of(cluster: &'a Cluster, system: &'a str) -> Self {
        Self { cluster, system }
    }

    fn mutating(&self) -> Api<MutatingWebhookConfiguration> {
        Api::all(self.cluster.admin.clone())
    }

    fn validating(&self) -> Api<ValidatingWebhookConfiguration> {
        Api::all(self.cluster.admin.clone())
    }

    fn services(&self) -> Api<APIService> {
        Api::all(self.cluster.admin.clone())
    }

    /// What its owner makes, without any `caBundle`.
    pub(super) async fn make(&self) -> anyhow::Result<()> {
        let (cluster, system) = (self.cluster, self.system);
        let service = json!({"namespace": system, "name": "guard"});
        let webhook = |name: &str| {
            json!({
                "name": format!("{name}.example.org"),
                "clientConfig": {"service": service},
                "failurePolicy": "Ignore",
                "sideEffects": "None",
                "admissionReviewVersions": ["v1"],
                "rules": [{
                    "apiGroups": ["none.example.org"], "apiVersions": ["v1"],
                    "operations": ["CREATE"], "resources": ["none"],
                }],
            })
        };
        let both = json!([webhook("a"), webhook("b")]);
        let of = |name: &str| json!({"metadata": {"name": format!("{system}-{name}")}, "webhooks": both});
        cluster.create(self.mutating(), of("m")).await?;
        cluster.create(self.validating(), of("v")).await?;
        let group = format!("{system}.example.org");
        let served = json!({
            "metadata": {"name": format!("v1.{group}")},
            "spec": {
                "group": group, "version": "v1", "groupPriorityMinimum": 100,
                "versionPriority": 10, "service": service,
            },
        });
        cluster.create(self.services(), served).await?;
        Ok(())
    }

    /// All of `caBundle` that are not what is given, by name.
    pub(super) async fn others_than(&self, pem: &str) -> anyhow::Result<Vec<String>> {
        let system = self.system;
        let mut all: Vec<(String, Option<Vec<u8>>)> = Vec::new();
        let object = self.mutating().get(&format!("{system}-m")).await?;
        for webhook in object.webhooks.unwrap_or_default() {
            all.push((webhook.name, webhook.client_config.ca_bundle.map(|it| it.0)));
        }
        let object = self.validating().get(&format!("{system}-v")).await?;
        for webhook in object.webhooks.unwrap_or_default() {
            all.push((webhook.name, webhook.client_config.ca_bundle.map(|it| it.0)));
        }
        let name = format!("v1.{system}.example.org");
        let spec = self.services().get(&name).await?.spec.context("a spec")?;
        all.push((name, spec.ca_bundle.map(|it| it.0)));
        ensure!(all.len() == 5, "{all:?}");
        let others = all
            .into_iter()
            .filter(|(_, it)| it.as_deref() != Some(pem.as_bytes()));
        Ok(others.map(|(name, _)| name).collect())
    }

    /// Removes what does not go with the namespace.
    pub(super) async fn remove(&self) -> anyhow::Result<()> {
        let (system, gone) = (self.system, DeleteParams::default());
        let _m = self
            .mutating()
            .delete(&format!("{system}-m"), &gone)
            .await?;
        let _v = self
            .validating()
            .delete(&format!("{system}-v"), &gone)
            .await?;
        let name = format!("v1.{system}.example.org");
        let _a = self.services().delete(&name, &gone).await?;
        Ok(())
    }
}
