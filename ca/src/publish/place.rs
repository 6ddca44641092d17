//! What is kept in a cluster: where the roots stand in each kind of object, and what is applied
//! to put them there.

use std::collections::BTreeMap;

use arx_identity::crypto::sha256;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube::api::{ApiResource, DynamicObject};
use serde_json::{Value, json};

use super::config::{ISTIO, ISTIO_KEY, Options, signer};
use super::wanted::{self, Stamp, Wanted};

/// Kinds of objects that hold roots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    ConfigMap,
    ClusterTrustBundle,
    MutatingWebhook,
    ValidatingWebhook,
    ApiService,
}

/// Objects of one kind and name; of a ConfigMap there is one in each namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) kind: Kind,
    pub(super) name: String,
    /// In a ConfigMap.
    key: String,
    labels: BTreeMap<&'static str, &'static str>,
}

/// What is read of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// Whose roots it says to hold, and of which sequence.
    pub(super) stamp: Option<Stamp>,
    /// SHA-256 of the roots in it, PEM; nothing if it has none, or not the same everywhere.
    pub(super) content: Option<[u8; 32]>,
    /// The names of its webhooks.
    pub(super) parts: Vec<String>,
    /// Its `resourceVersion`.
    pub(super) version: Option<String>,
}

impl Seen {
    /// Whether both hold the same, though something else of it may have changed.
    pub(super) fn holds_as(&self, other: &Self) -> bool {
        let Self {
            stamp,
            content,
            parts,
            version: _,
        } = self;
        *stamp == other.stamp && *content == other.content && *parts == other.parts
    }
}

impl Kind {
    /// As people call it.
    fn word(self) -> &'static str {
        match self {
            Self::ConfigMap => "config-map",
            Self::ClusterTrustBundle => "cluster-trust-bundle",
            Self::MutatingWebhook => "mutating-webhook",
            Self::ValidatingWebhook => "validating-webhook",
            Self::ApiService => "api-service",
        }
    }

    /// The API that it is of; `version` counts where there are several.
    pub(super) fn resource(self, version: &str) -> ApiResource {
        let (group, version, kind, plural) = match self {
            Self::ConfigMap => ("", "v1", "ConfigMap", "configmaps"),
            Self::ClusterTrustBundle => (
                "certificates.k8s.io",
                version,
                "ClusterTrustBundle",
                "clustertrustbundles",
            ),
            Self::MutatingWebhook => (
                "admissionregistration.k8s.io",
                "v1",
                "MutatingWebhookConfiguration",
                "mutatingwebhookconfigurations",
            ),
            Self::ValidatingWebhook => (
                "admissionregistration.k8s.io",
                "v1",
                "ValidatingWebhookConfiguration",
                "validatingwebhookconfigurations",
            ),
            Self::ApiService => ("apiregistration.k8s.io", "v1", "APIService", "apiservices"),
        };
        resource(group, version, kind, plural)
    }

    /// Whether it is ours to make; others are of those whom they serve.
    pub(super) fn is_made_here(self) -> bool {
        matches!(self, Self::ConfigMap | Self::ClusterTrustBundle)
    }

    /// Whether pods read it as a file, into which a kubelet brings it.
    pub(super) fn is_file_in_pods(self) -> bool {
        self.is_made_here()
    }
}

pub(super) fn resource(group: &str, version: &str, kind: &str, plural: &str) -> ApiResource {
    ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version: match group {
            "" => version.to_owned(),
            group => format!("{group}/{version}"),
        },
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    }
}

impl Place {
    /// All that the configuration names.
    pub(super) fn all(options: &Options) -> Vec<Self> {
        let named = |kind, name: &String| Self {
            kind,
            name: name.clone(),
            key: String::new(),
            labels: BTreeMap::new(),
        };
        let mut places = Vec::new();
        places.extend(options.config_map.iter().map(|name| Self {
            key: options.key.clone(),
            ..named(Kind::ConfigMap, name)
        }));
        if options.istio {
            places.push(Self {
                key: ISTIO_KEY.to_owned(),
                labels: BTreeMap::from([("istio.io/config", "true")]),
                ..named(Kind::ConfigMap, &ISTIO.to_owned())
            });
        }
        let kinds = [
            (
                Kind::ClusterTrustBundle,
                options.cluster_trust_bundle.as_slice(),
            ),
            (Kind::MutatingWebhook, &options.mutating_webhooks),
            (Kind::ValidatingWebhook, &options.validating_webhooks),
            (Kind::ApiService, &options.api_services),
        ];
        for (kind, names) in kinds {
            places.extend(names.iter().map(|name| named(kind, name)));
        }
        places
    }

    pub(super) fn is_in_namespaces(&self) -> bool {
        self.kind == Kind::ConfigMap
    }

    /// `config-map shop/arx-trust`; without a namespace where there is none.
    pub(super) fn describe(&self, namespace: &str) -> String {
        let slash = if namespace.is_empty() { "" } else { "/" };
        format!("{} {namespace}{slash}{}", self.kind.word(), self.name)
    }

    /// What an object holds.
    pub(super) fn read(&self, object: &DynamicObject) -> Seen {
        let labels = object.metadata.labels.as_ref();
        let labelled = self.labels.iter().all(|(name, value)| {
            labels.is_some_and(|labels| labels.get(*name).is_some_and(|it| it == value))
        });
        let webhooks = object.data.get("webhooks").and_then(Value::as_array);
        let webhooks = webhooks.map(Vec::as_slice).unwrap_or_default();
        let content = match self.kind {
            Kind::ConfigMap => object.data["data"][&self.key]
                .as_str()
                .filter(|_| labelled)
                .map(|pem| sha256(pem.as_bytes())),
            Kind::ClusterTrustBundle => object.data["spec"]["trustBundle"]
                .as_str()
                .map(|pem| sha256(pem.as_bytes())),
            Kind::ApiService => decoded(&object.data["spec"]["caBundle"]),
            Kind::MutatingWebhook | Kind::ValidatingWebhook => {
                let mut all = webhooks
                    .iter()
                    .map(|webhook| decoded(&webhook["clientConfig"]["caBundle"]));
                let first = all.next().flatten();
                first.filter(|first| all.all(|it| it.as_ref() == Some(first)))
            }
        };
        Seen {
            stamp: wanted::stamp(object),
            content,
            parts: webhooks
                .iter()
                .filter_map(|webhook| Some(webhook["name"].as_str()?.to_owned()))
                .collect(),
            version: object.metadata.resource_version.clone(),
        }
    }

    /// What is applied to an object that was `seen` so, for it to hold what is wanted.
    pub(super) fn apply(
        &self,
        resource: &ApiResource,
        seen: Option<&Seen>,
        wanted: &Wanted,
    ) -> Value {
        let mut object = json!({
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": {"name": self.name, "annotations": wanted.annotations()},
        });
        if !self.labels.is_empty() {
            object["metadata"]["labels"] = json!(self.labels);
        }
        // Only to what was seen: whoever was away for a while must not undo what others did since.
        if let Some(version) = seen.and_then(|seen| seen.version.as_ref()) {
            object["metadata"]["resourceVersion"] = json!(version);
        }
        let encoded = || STANDARD.encode(wanted.pem.as_bytes());
        match self.kind {
            Kind::ConfigMap => object["data"] = json!({&self.key: *wanted.pem}),
            Kind::ClusterTrustBundle => {
                object["spec"] = json!({
                    "signerName": signer(&self.name),
                    "trustBundle": *wanted.pem,
                });
            }
            Kind::ApiService => object["spec"] = json!({"caBundle": encoded()}),
            Kind::MutatingWebhook | Kind::ValidatingWebhook => {
                let parts = seen.map(|seen| seen.parts.as_slice()).unwrap_or_default();
                let of = |name| json!({"name": name, "clientConfig": {"caBundle": encoded()}});
                object["webhooks"] = parts.iter().map(of).collect();
            }
        }
        object
    }
}

/// SHA-256 of what stands there in base64.
fn decoded(value: &Value) -> Option<[u8; 32]> {
    let bytes = STANDARD.decode(value.as_str()?).ok()?;
    (!bytes.is_empty()).then(|| sha256(&bytes))
}
