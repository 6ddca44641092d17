//! Which rights the configuration needs, and which of them are missing.

use super::Findings;
use super::ask::Api;
use crate::kubernetes::access::{self, Right, Scope};
use crate::publish::{self, signer};
use crate::token::{Cluster, Verification};

/// Of the Secrets that the state is in.
pub(super) const OF_STATE: &str = "it may work with the Secrets that its state is in";
const MORE: &str = "docs/kubernetes.md, \"What it may do, and why\"";

/// A right, and what breaks without it.
pub(super) struct Need {
    right: Right,
    without: &'static str,
    /// It may be left out, at a loss.
    is_optional: bool,
}

#[cfg(test)]
impl std::fmt::Display for Need {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.right.fmt(f)
    }
}

const REVIEWED: &str = "tokens can't be reviewed, and each is refused";
const REVIEWED_TO_JOIN: &str = "tokens for joining can't be reviewed: no new node joins";
const PODS: &str =
    "pods are not known: their tokens are refused, once none was heard of for pod_grace";
const POD: &str = "a pod that the watch has not shown yet is refused";
const EVENTS: &str = "refusals are not told as Events on their pods";
const NAMESPACES: &str = "where the roots are to be is not known, and they are written nowhere";
const MAPS: &str = "the roots are not written there: pods and proxies begin with none, or stay behind a rotation, which waits for them";
const BUNDLE: &str = "the roots are not written there: pods that mount them stay behind a rotation, which waits for them";
const CA_BUNDLES: &str =
    "the caBundle there stays behind a rotation, which waits for it, and calls fail after";
const DRIVER: &str = "`arx check --kube` can't look at it";

/// All that the authority asks of a cluster's API server.
pub(super) fn needed(cluster: &Cluster, published: Option<&publish::Options>) -> Vec<Need> {
    let mut needs = Needs::default();
    match cluster.verification {
        Verification::Local => {}
        Verification::Review => needs.reviews(REVIEWED),
        Verification::LocalThenReview => needs.reviews(REVIEWED_TO_JOIN),
    }
    if cluster.watches_pods() {
        needs.all(&["list", "watch"], ("", "pods"), PODS);
        needs.all(&["get"], ("", "pods"), POD);
        if cluster.pod_events {
            needs.all(&["create"], ("events.k8s.io", "events"), EVENTS);
            needs.is_optional();
        }
    }
    if let Some(options) = published {
        needs.published(options);
    }
    if let Some(driver) = &cluster.csi_driver {
        let resource = ("storage.k8s.io", "csidrivers");
        needs.named(&["get"], resource, driver, &Scope::Cluster, DRIVER);
        needs.is_optional();
    }
    needs.0
}

#[derive(Default)]
struct Needs(Vec<Need>);

impl Needs {
    fn named(
        &mut self,
        verbs: &[&'static str],
        (group, resource): (&'static str, &'static str),
        name: &str,
        scope: &Scope,
        without: &'static str,
    ) {
        self.0.extend(verbs.iter().map(|verb| Need {
            right: Right {
                verb,
                group,
                resource,
                name: name.to_owned(),
                scope: scope.clone(),
            },
            without,
            is_optional: false,
        }));
    }

    /// In all namespaces.
    fn all(
        &mut self,
        verbs: &[&'static str],
        resource: (&'static str, &'static str),
        without: &'static str,
    ) {
        self.named(verbs, resource, "", &Scope::Everywhere, without);
    }

    fn reviews(&mut self, without: &'static str) {
        let resource = ("authentication.k8s.io", "tokenreviews");
        self.named(&["create"], resource, "", &Scope::Cluster, without);
    }

    /// The last one is.
    fn is_optional(&mut self) {
        if let Some(last) = self.0.last_mut() {
            last.is_optional = true;
        }
    }

    /// What server-side apply asks for, and what hears of others' writes.
    fn published(&mut self, options: &publish::Options) {
        let maps = options.maps();
        if !maps.is_empty() {
            let resource = ("", "namespaces");
            self.named(
                &["list", "watch"],
                resource,
                "",
                &Scope::Cluster,
                NAMESPACES,
            );
        }
        for (name, _) in maps {
            let resource = ("", "configmaps");
            self.named(&["list", "watch"], resource, name, &Scope::Everywhere, MAPS);
            let mut scopes: Vec<_> = options
                .namespaces
                .iter()
                .cloned()
                .map(Scope::Namespace)
                .collect();
            if scopes.is_empty() {
                scopes.push(Scope::Everywhere);
            }
            for scope in scopes {
                self.named(&["create", "patch"], resource, name, &scope, MAPS);
            }
        }
        if let Some(name) = &options.cluster_trust_bundle {
            let verbs = ["list", "watch", "create", "patch"];
            let resource = ("certificates.k8s.io", "clustertrustbundles");
            self.named(&verbs, resource, name, &Scope::Cluster, BUNDLE);
            let signer = signer(name).unwrap_or_default();
            let resource = ("certificates.k8s.io", "signers");
            self.named(&["attest"], resource, &signer, &Scope::Cluster, BUNDLE);
        }
        let admission = "admissionregistration.k8s.io";
        for (resource, names) in [
            (
                (admission, "mutatingwebhookconfigurations"),
                &options.mutating_webhooks,
            ),
            (
                (admission, "validatingwebhookconfigurations"),
                &options.validating_webhooks,
            ),
            (
                ("apiregistration.k8s.io", "apiservices"),
                &options.api_services,
            ),
        ] {
            for name in names {
                let verbs = ["list", "watch", "patch"];
                self.named(&verbs, resource, name, &Scope::Cluster, CA_BUNDLES);
            }
        }
    }
}

/// Asks for each of them.
pub(super) async fn look(api: &Api, needed: Vec<Need>, findings: &mut Findings) {
    let who = who(api).await;
    let (mut granted, total) = (0, needed.len());
    for need in needed {
        let answer = api.post(access::PATH, &need.right.review()).await;
        let answer = answer.and_then(|answer| match answer.status.is_success() {
            true => access::is_allowed(&answer.body).ok_or_else(|| "its answer is none".to_owned()),
            false => Err(answer.refusal()),
        });
        match answer {
            Ok(true) => granted += 1,
            Ok(false) => {
                let Need {
                    right,
                    without,
                    is_optional,
                } = need;
                let wrong = format!("{who} may not. Without it {without}: grant it ({MORE})");
                findings.add(format!("it may {right}"), Some(wrong), is_optional);
            }
            Err(why) => {
                let wrong = format!("the API server does not say: {why}");
                return findings.test("its rights can be asked for", Some(wrong));
            }
        }
    }
    if granted == total {
        let test = format!("it may do all that it is configured for, {total} rights");
        findings.test(test, None);
    }
}

/// What is missing of the rights on the state's Secrets.
pub(super) fn tell_of_state(missing: &[Right], findings: &mut Findings) {
    for right in missing {
        let wrong = format!(
            "its account may not. Without it the state is not kept or not followed: grant it with a Role ({MORE})"
        );
        findings.test(format!("it may {right}"), Some(wrong));
    }
    if missing.is_empty() {
        findings.test(OF_STATE, None);
    }
}

/// Who is asking, by the API server's word (SelfSubjectReview), for whoever grants something.
async fn who(api: &Api) -> String {
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let review = serde_json::json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview",
    });
    let answer = api.post(path, &review).await;
    let answer: Result<serde_json::Value, _> = answer.and_then(|answer| answer.json());
    let name = answer.ok().and_then(|answer| {
        let name = answer["status"]["userInfo"]["username"].as_str()?;
        Some(name.escape_debug().take(300).collect::<String>())
    });
    name.unwrap_or_else(|| "the authority's account".to_owned())
}
