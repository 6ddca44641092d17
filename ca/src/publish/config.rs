//! `[[publish]]`: in which objects of a cluster the roots are to be found.

use std::collections::BTreeSet;
use std::time::Duration;

use arx_daemon::config::{Problems, Span};
use serde::Deserialize;

use crate::token::{Cluster, is_segment};

/// Where Istio's proxies look for the roots.
pub(super) const ISTIO: &str = "istio-ca-root-cert";
/// And under which key there.
pub(super) const ISTIO_KEY: &str = "root-cert.pem";
/// Longest time that something written may need to arrive.
const LONGEST: Duration = Duration::from_secs(3600);

/// One `[[publish]]` of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// The `[[cluster]]` whose API server is written to.
    pub cluster: String,
    /// Name of a ConfigMap with the roots in each namespace.
    pub config_map: Option<String>,
    /// The key in it.
    #[serde(default = "bundle_pem")]
    pub key: String,
    /// Whether `istio-ca-root-cert` is written in each namespace.
    #[serde(default)]
    pub istio: bool,
    /// Only in these namespaces; in all if empty.
    #[serde(default)]
    pub namespaces: Vec<String>,
    /// Only in namespaces with labels that this selects, as of `kubectl get -l`.
    pub namespace_selector: Option<String>,
    /// Name of a ClusterTrustBundle: its signer's with `:` for `/`, and then `:` and its own.
    pub cluster_trust_bundle: Option<String>,
    /// MutatingWebhookConfigurations whose webhooks serve with certificates of this authority.
    #[serde(default)]
    pub mutating_webhooks: Vec<String>,
    /// ValidatingWebhookConfigurations of the same kind.
    #[serde(default)]
    pub validating_webhooks: Vec<String>,
    /// APIServices of the same kind.
    #[serde(default)]
    pub api_services: Vec<String>,
    /// How long after it was written something in a file of a pod counts as there.
    #[serde(default = "three_minutes")]
    pub settle: Span,
}

fn bundle_pem() -> String {
    "bundle.pem".to_owned()
}

fn three_minutes() -> Span {
    Span::from_secs(180)
}

/// The signer that the name of a ClusterTrustBundle is of.
pub(crate) fn signer(bundle: &str) -> Option<String> {
    let (signer, own) = bundle.rsplit_once(':')?;
    (signer.contains(':') && !own.is_empty()).then(|| signer.replace(':', "/"))
}

/// Notes everything that is wrong with what is to be published.
pub(crate) fn problems(all: &[Options], clusters: &[Cluster], problems: &mut Problems<'_>) {
    let mut seen = BTreeSet::new();
    for (n, options) in all.iter().enumerate() {
        let mut add = |name: &str, reason: String, remedy: &str| {
            problems.add(&format!("publish[{n}].{name}"), reason, remedy);
        };
        let cluster = &options.cluster;
        if !clusters.iter().any(|it| it.name == *cluster) {
            let reason = format!("there is no [[cluster]] \"{cluster}\"");
            add("cluster", reason, "name one of those");
        }
        if !seen.insert(cluster) {
            let reason = format!("\"{cluster}\" twice");
            add(
                "cluster",
                reason,
                "say all about a cluster in one [[publish]]",
            );
        }
        options.problems(&mut add);
    }
}

impl Options {
    /// The ConfigMaps in each namespace: what they are called, and under which key the roots are.
    pub(crate) fn maps(&self) -> Vec<(&str, &str)> {
        let own = self.config_map.as_deref().map(|name| (name, &*self.key));
        let istio = self.istio.then_some((ISTIO, ISTIO_KEY));
        own.into_iter().chain(istio).collect()
    }

    fn problems(&self, add: &mut impl FnMut(&str, String, &str)) {
        let names = [
            &self.mutating_webhooks,
            &self.validating_webhooks,
            &self.api_services,
        ];
        let in_namespaces = self.config_map.is_some() || self.istio;
        let any = in_namespaces
            || self.cluster_trust_bundle.is_some()
            || names.iter().any(|names| !names.is_empty());
        if !any {
            let reason = "it names nothing to write".to_owned();
            add(
                "cluster",
                reason,
                "set config_map, istio or cluster_trust_bundle, or remove it",
            );
        }
        if self.config_map.as_deref() == Some(ISTIO) {
            let reason = format!("{ISTIO} has its own key and label");
            add("config_map", reason, "set istio = true for it");
        }
        if !in_namespaces && (!self.namespaces.is_empty() || self.namespace_selector.is_some()) {
            let reason = "nothing is written in namespaces".to_owned();
            add(
                "namespaces",
                reason,
                "set config_map or istio, or remove it",
            );
        }
        if !is_segment(&self.key) {
            let reason = format!("\"{}\" can't be a key of a ConfigMap", self.key);
            add("key", reason, "use letters, digits, . - _ only");
        }
        if let Some(name) = &self.cluster_trust_bundle
            && signer(name).is_none()
        {
            let reason = format!("\"{name}\" does not begin with the name of a signer");
            add(
                "cluster_trust_bundle",
                reason,
                "write it like \"example.org:mesh:roots\"",
            );
        }
        let objects = [
            ("config_map", self.config_map.as_slice()),
            ("namespaces", &self.namespaces),
            ("mutating_webhooks", &self.mutating_webhooks),
            ("validating_webhooks", &self.validating_webhooks),
            ("api_services", &self.api_services),
        ];
        for (key, names) in objects {
            for name in names {
                if !is_name(name) {
                    let reason = format!("\"{name}\" can't be the name of an object");
                    add(key, reason, "use lower-case letters, digits, . and - only");
                }
            }
        }
        if self.settle.get() > LONGEST {
            let reason = format!("{}: kubelets are not that slow", self.settle);
            add("settle", reason, "leave it out for 3m");
        }
    }
}

/// Whether an object of Kubernetes can have this name (RFC 1123, as Kubernetes reads it).
fn is_name(name: &str) -> bool {
    let inside = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let edges = [name.bytes().next(), name.bytes().last()];
    name.len() <= 253
        && edges.into_iter().all(|edge| edge.is_some_and(inside))
        && name
            .bytes()
            .all(|byte| inside(byte) || matches!(byte, b'-' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arx_daemon::config::File;

    #[derive(Deserialize)]
    struct Config {
        publish: Vec<Options>,
    }

    fn found(text: &str) -> String {
        let file = File::from_text("ca.toml", format!("[[publish]]\n{text}")).expect("TOML");
        let config: Config = file.parse().expect("it is read");
        let cluster: Cluster = File::from_text(
            "ca.toml",
            "name = \"c1\"\nissuer = \"https://c1\"\naudiences = [\"arx\"]\nagents = [\"a/b\"]",
        )
        .and_then(|file| file.parse())
        .expect("a cluster");
        let mut noted = file.problems();
        problems(&config.publish, &[cluster], &mut noted);
        let wrong = noted.finish().err();
        wrong.map_or_else(String::new, |error| error.to_string())
    }

    #[test]
    fn what_can_not_be_published_is_refused_by_name() {
        let sound = "cluster = \"c1\"\nconfig_map = \"arx-trust\"";
        assert_eq!(found(sound), "");
        for (text, says) in [
            (
                "cluster = \"c2\"\nistio = true".to_owned(),
                "no [[cluster]]",
            ),
            ("cluster = \"c1\"".to_owned(), "nothing to write"),
            (format!("{sound}\n[[publish]]\n{sound}"), "twice"),
            (format!("{sound}\nkey = \"a/b\""), "key of a ConfigMap"),
            (format!("{sound}\nsettle = \"2h\""), "slow"),
            (
                format!("{sound}\nnamespaces = [\"A\"]"),
                "name of an object",
            ),
            (
                format!("{sound}\ncluster_trust_bundle = \"roots\""),
                "name of a signer",
            ),
            (
                "cluster = \"c1\"\nconfig_map = \"istio-ca-root-cert\"".to_owned(),
                "its own key",
            ),
        ] {
            let found = found(&text);
            assert!(found.contains(says), "{text}: {found}");
        }
    }

    #[test]
    fn the_name_of_a_cluster_trust_bundle_says_whose_it_is() {
        let of = |name| signer(name);
        assert_eq!(
            of("example.org:mesh:roots").as_deref(),
            Some("example.org/mesh")
        );
        for name in ["roots", "example.org:roots", "example.org:mesh:"] {
            assert_eq!(of(name), None, "{name}");
        }
    }
}
