//! The API server itself: its version, its clock, whose tokens it issues, which APIs it serves.

use std::time::{Duration, SystemTime};

use arx_daemon::Clock;
use http::StatusCode;
use serde::Deserialize;

use super::Findings;
use super::ask::{Answer, Api};
use crate::publish;
use crate::token::{Cluster, SKEW};

pub(super) const ANSWERS: &str = "its API server answers";
const CLOCK: &str = "its clock agrees with the authority's";
const ISSUER: &str = "its tokens are of the issuer that is configured";
const AUDIENCES: &str = "tokens for the API server are none for the authority";
const BUNDLES: &str = "it serves ClusterTrustBundles";
const POLICIES: &str = "it serves MutatingAdmissionPolicies";

/// Tokens name their node from there on.
const OLDEST: u32 = 30;

/// Whether it answers at all, and with what time.
pub(super) async fn answers(api: &Api, clock: &Clock, findings: &mut Findings) -> bool {
    #[derive(Default, Deserialize)]
    #[serde(default, rename_all = "camelCase")]
    struct Version {
        major: String,
        minor: String,
        git_version: String,
    }
    let sent = clock.now();
    let answer = match api.get("/version").await {
        Ok(answer) => answer,
        Err(why) => {
            let wrong = format!("{why}: see the network between, and the kubeconfig");
            findings.test(ANSWERS, Some(wrong));
            return false;
        }
    };
    let received = clock.now();
    findings.test(ANSWERS, None);
    match answer.json::<Version>() {
        Err(why) => findings.not_known("it is of a version that Arx can work with", &why),
        Ok(version) => {
            let shown: String = version.git_version.escape_debug().take(64).collect();
            // Some clouds write `30+`.
            let minor = version
                .minor
                .trim_end_matches('+')
                .parse()
                .unwrap_or(OLDEST);
            let is_old = version.major == "1" && minor < OLDEST;
            let wrong = is_old
                .then(|| format!("its tokens name no node: upgrade it to 1.{OLDEST} or newer"));
            findings.test(
                format!("it is of a version that Arx can work with, {shown}"),
                wrong,
            );
        }
    }
    skew(&answer, sent, received, findings);
    true
}

/// Tokens begin and end by its clock, and count by ours.
fn skew(answer: &Answer, sent: SystemTime, received: SystemTime, findings: &mut Findings) {
    let Some(date) = answer.date else {
        return findings.not_known(CLOCK, "its answer has no Date");
    };
    // It says whole seconds, and any moment between question and answer may be meant.
    let behind = sent.duration_since(date + Duration::from_secs(1));
    let ahead = date.duration_since(received);
    let (by, how) = match (behind, ahead) {
        (Ok(by), _) => (by, "behind"),
        (_, Ok(by)) => (by, "ahead of"),
        _ => (Duration::ZERO, "at"),
    };
    let wrong = (by > SKEW).then(|| {
        format!(
            "it is {} s {how} the authority's, and more than {} s make good tokens count as ended or not begun: check the time synchronisation of both",
            by.as_secs(),
            SKEW.as_secs()
        )
    });
    findings.test(CLOCK, wrong);
}

/// Whose tokens it issues (OpenID Connect Discovery 1.0, 3), and for whom.
pub(super) async fn tokens(api: &Api, cluster: &Cluster, findings: &mut Findings) {
    #[derive(Deserialize)]
    struct Document {
        issuer: String,
    }
    let answer = api.get("/.well-known/openid-configuration").await;
    let document = answer.and_then(|answer| answer.json::<Document>());
    let issuer = match document {
        Ok(document) => document.issuer,
        Err(why) => {
            let why = format!(
                "{why}; the role system:service-account-issuer-discovery lets its account see it"
            );
            return findings.not_known(ISSUER, &why);
        }
    };
    let wrong = (issuer != cluster.issuer).then(|| {
        let shown: String = issuer.escape_debug().take(300).collect();
        format!(
            "it issues them as \"{shown}\", and cluster.issuer is \"{}\": every one is refused; set issuer to what it says",
            cluster.issuer
        )
    });
    findings.test(ISSUER, wrong);
    // That is its own audience unless --api-audiences says otherwise.
    let wrong = cluster.audiences.contains(&issuer).then(|| {
        format!(
            "cluster.audiences has \"{}\", for which every pod has a token that others see too: name another",
            cluster.issuer
        )
    });
    findings.test(AUDIENCES, wrong);
}

/// Whether it has the APIs that are used or that the chart can use.
pub(super) async fn versions(
    api: &Api,
    published: Option<&publish::Options>,
    findings: &mut Findings,
) {
    if published.is_some_and(|options| options.cluster_trust_bundle.is_some()) {
        let served = served(
            api,
            "certificates.k8s.io",
            &["v1", "v1beta1"],
            "clustertrustbundles",
        );
        match served.await {
            Ok(Some(version)) => findings.test(format!("{BUNDLES}, {version}"), None),
            Ok(None) => findings.test(
                BUNDLES,
                Some("neither as v1 nor as v1beta1, so pods can't mount the roots from one: enable certificates.k8s.io/v1beta1 there, or remove cluster_trust_bundle (ARX-PUBLISH-UNSERVED)".to_owned()),
            ),
            Err(why) => findings.not_known(BUNDLES, &why),
        }
    }
    let served = served(
        api,
        "admissionregistration.k8s.io",
        &["v1"],
        "mutatingadmissionpolicies",
    );
    match served.await {
        Ok(Some(version)) => findings.test(format!("{POLICIES}, {version}"), None),
        Ok(None) => findings.warn(
            POLICIES,
            Some("not as v1, so the chart's injection.enabled can't be used: pods describe the volume of their socket themselves".to_owned()),
        ),
        Err(why) => findings.not_known(POLICIES, &why),
    }
}

/// By which of these versions something is served.
async fn served(
    api: &Api,
    group: &str,
    versions: &[&'static str],
    plural: &str,
) -> Result<Option<&'static str>, String> {
    #[derive(Deserialize)]
    struct List {
        #[serde(default)]
        resources: Vec<Resource>,
    }
    #[derive(Deserialize)]
    struct Resource {
        name: String,
    }
    for version in versions {
        let answer = api.get(&format!("/apis/{group}/{version}")).await?;
        if answer.status == StatusCode::NOT_FOUND {
            continue;
        }
        let list: List = answer.json()?;
        if list.resources.iter().any(|it| it.name == plural) {
            return Ok(Some(version));
        }
    }
    Ok(None)
}
