//! What the chart grants is what is needed, by the API server's own record.

use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};
use arx_ca::store::{Key, Segment, Store as _};
use arx_identity::TrustDomain;
use arx_proto::admin::v1::{CheckClustersRequest, DenyRequest};
use arx_tests::kube::{Asked, Chart, is_ours};
use arx_tests::process::until;
use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use k8s_openapi::api::certificates::v1::ClusterTrustBundle;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::events::v1::Event;
use kube::api::{Api, ListParams, PostParams};
use serde_json::{Value, json};

use super::super::served::Served;
use super::Site;
use super::replicas::SHARED;

/// Group, resource, verb, and the object's name where only that is granted.
type Right = (String, String, String, String);

/// What the roles of the chart grant.
fn granted(chart: &Chart) -> BTreeSet<Right> {
    let texts = |value: &Value| -> Vec<String> {
        let all = value.as_array().into_iter().flatten();
        all.filter_map(|it| Some(it.as_str()?.to_owned())).collect()
    };
    let mut granted = BTreeSet::new();
    let roles = chart
        .objects
        .iter()
        .filter(|it| it["kind"] == "ClusterRole" || it["kind"] == "Role");
    for rule in roles.flat_map(|it| it["rules"].as_array().cloned().unwrap_or_default()) {
        let mut names = texts(&rule["resourceNames"]);
        if names.is_empty() {
            names.push(String::new());
        }
        for group in texts(&rule["apiGroups"]) {
            for resource in texts(&rule["resources"]) {
                for verb in texts(&rule["verbs"]) {
                    let right = |name: &String| {
                        (group.clone(), resource.clone(), verb.clone(), name.clone())
                    };
                    granted.extend(names.iter().map(right));
                }
            }
        }
    }
    granted
}

/// What a request shows to have been needed.
fn needed(asked: &Asked, granted: &BTreeSet<Right>) -> Vec<Right> {
    let right = |verb: &str, name: &str| {
        (
            asked.group.clone(),
            asked.resource.clone(),
            verb.to_owned(),
            name.to_owned(),
        )
    };
    // A rule without names is meant by requests about any.
    let named = |verb: &str| {
        let any = right(verb, "");
        if granted.contains(&any) {
            any
        } else {
            right(verb, &asked.name)
        }
    };
    let mut needed = vec![named(&asked.verb)];
    // An apply that makes its object is a patch by its verb, and is let through by `create` alone.
    if asked.verb == "patch" && asked.code == 201 {
        needed.push(named("create"));
    }
    // Whoever writes the bundle of a signer is asked for this (KEP-3257), which no log tells.
    if asked.resource == "clustertrustbundles" && asked.verb == "patch" && asked.code < 300 {
        let signer = asked
            .name
            .rsplit_once(':')
            .map(|(signer, _)| signer.replace(':', "/"));
        let group = "certificates.k8s.io".to_owned();
        needed.push((
            group,
            "signers".to_owned(),
            "attest".to_owned(),
            signer.unwrap_or_default(),
        ));
    }
    needed
}

/// What makes an authority need each of its rights, whatever its state is in.
async fn everything_is_asked(site: &Site) -> anyhow::Result<()> {
    // A join is reviewed, or a workload, or both.
    let token = site.workload("web-1").await?;
    let web = format!("spiffe://example.org/ns/{}/sa/web", site.shop);
    ensure!(site.identity(&token).await? == web);
    // The roots are where they should be.
    let client = site.cluster.admin.clone();
    for namespace in [&site.system, &site.shop] {
        let maps = Api::<ConfigMap>::namespaced(client.clone(), namespace);
        for (name, key) in [
            ("arx-trust", "bundle.pem"),
            ("istio-ca-root-cert", "root-cert.pem"),
        ] {
            let data = maps.get(name).await?.data.unwrap_or_default();
            ensure!(
                data.get(key)
                    .is_some_and(|pem| pem.contains("BEGIN CERTIFICATE")),
                "{name}"
            );
        }
    }
    let bundle = format!("example.org:mesh:{}", site.system);
    Api::<ClusterTrustBundle>::all(client.clone())
        .get(&bundle)
        .await?;
    // So are those of webhooks and of an API service that somebody makes now.
    let served = Served::of(&site.cluster, &site.system);
    served.make().await?;
    let maps = Api::<ConfigMap>::namespaced(client.clone(), &site.system);
    let pem = maps.get("arx-trust").await?.data.unwrap_or_default();
    let pem = pem.get("bundle.pem").context("the roots")?;
    until("every caBundle is there", async || {
        let others = served.others_than(pem).await?;
        ensure!(others.is_empty(), "{others:?}");
        Ok(true)
    })
    .await?;
    served.remove().await?;
    let denied = site.workload("web-3").await?;
    let request = DenyRequest {
        subject: format!("sa/{}/web", site.shop),
        reason: "a test".to_owned(),
        ..DenyRequest::default()
    };
    site.admin().await?.deny(request).await?;
    site.is_refused(&denied, "ARX-DENIED").await?;
    if site.configured()?.contains("watch_pods = true") {
        // That is told on its pod, and one that is gone is asked for by name.
        let events = Api::<Event>::namespaced(client, &site.shop);
        until("an event", || async {
            Ok(!events.list(&ListParams::default()).await?.items.is_empty())
        })
        .await?;
        let gone = site.workload("web-2").await?;
        site.cluster.delete_pod(&site.shop, "web-2").await?;
        site.is_refused(&gone, "ARX-TOKEN-POD-GONE").await?;
    }
    // It looks at what else it needs, and misses no right.
    let mut admin = site.admin().await?;
    let found = admin.check_clusters(CheckClustersRequest {}).await?;
    let found = found.into_inner().findings;
    let mut rights = found.iter().filter(|it| it.test.contains("it may "));
    ensure!(
        rights.clone().count() > 0 && rights.all(|it| it.wrong.is_empty()),
        "{found:#?}"
    );
    Ok(())
}

/// Compares what was asked so far with what the chart grants.
fn as_much_as_is_needed_is_granted(site: &Site) -> anyhow::Result<()> {
    let account = |name: &str| format!("system:serviceaccount:{}:{name}", site.system);
    let asked = site.cluster.asked(&account("arx-ca"))?;
    let forbidden: Vec<_> = asked.iter().filter(|it| it.code == 403).collect();
    ensure!(forbidden.is_empty(), "not granted: {forbidden:#?}");
    let granted = granted(&site.chart);
    let needed: BTreeSet<Right> = asked.iter().flat_map(|it| needed(it, &granted)).collect();
    let unused: Vec<_> = granted.difference(&needed).collect();
    ensure!(unused.is_empty(), "granted and never used: {unused:#?}");
    let agent = site.cluster.asked(&account("arx-node-agent"))?;
    ensure!(agent.is_empty(), "{agent:#?}");
    let roles = site
        .chart
        .objects
        .iter()
        .filter(|it| it["kind"] == "ClusterRoleBinding" || it["kind"] == "RoleBinding");
    for binding in roles {
        let subjects = binding["subjects"].as_array().context("subjects")?;
        ensure!(
            subjects.iter().all(|it| it["name"] == "arx-ca"),
            "{binding}"
        );
    }
    Ok(())
}

const ALL: &str = "publish:
  istio: true
  namespaces: [SHOP]
  clusterTrustBundle: 'example.org:mesh:SYSTEM'
  caBundles:
    - {kind: MutatingWebhookConfiguration, name: SYSTEM-m}
    - {kind: ValidatingWebhookConfiguration, name: SYSTEM-v}
    - {kind: APIService, name: v1.SYSTEM.example.org}
";

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs a control plane: make test-kube"]
async fn the_authority_needs_all_that_the_chart_grants_and_its_agents_ask_nothing()
-> anyhow::Result<()> {
    if !is_ours("reads the audit log") {
        return Ok(());
    }
    let mut site = Site::install(ALL).await?;
    site.start().await?;
    everything_is_asked(&site).await?;
    as_much_as_is_needed_is_granted(&site)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs a control plane: make test-kube"]
async fn whoever_verifies_tokens_the_authority_needs_all_that_the_chart_grants_for_it()
-> anyhow::Result<()> {
    if !is_ours("reads the audit log") {
        return Ok(());
    }
    for (verification, rights) in [
        ("local", ["pods", "events"]),
        ("review", ["tokenreviews"; 2]),
    ] {
        let values = format!("{ALL}cluster: {{verification: {verification}}}\n");
        let mut site = Site::install(&values).await?;
        let granted = granted(&site.chart);
        let mut is_granted = rights
            .iter()
            .map(|it| granted.iter().any(|(_, resource, ..)| resource == it));
        ensure!(is_granted.all(|it| it), "{verification}: {granted:#?}");
        site.start().await?;
        everything_is_asked(&site).await?;
        as_much_as_is_needed_is_granted(&site).context(verification)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs a control plane: make test-kube"]
async fn three_replicas_need_all_that_the_chart_grants_and_their_agents_ask_nothing()
-> anyhow::Result<()> {
    if !is_ours("reads the audit log") {
        return Ok(());
    }
    let mut site = Site::install_on(3, &format!("{ALL}{SHARED}")).await?;
    site.start().await?;
    everything_is_asked(&site).await?;
    // What can't be opened of a replica's own is taken away when it starts again.
    let kind = Segment::fixed("sealed-intermediate");
    let key = Key::new(&TrustDomain::parse("example.org")?, &kind);
    let key = key.named(Segment::fixed("arx-ca-2"));
    let store = site.store().await?;
    let rubbish = bytes::Bytes::from_static(b"rubbish");
    store.compare_and_swap(&key, None, rubbish).await?;
    site.again(2).await?;
    ensure!(store.get(&key).await?.is_none());
    as_much_as_is_needed_is_granted(&site)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs a control plane: make test-kube"]
async fn whoever_has_the_authoritys_token_may_read_the_sealed_state_and_not_the_key_that_opens_it()
-> anyhow::Result<()> {
    let site = Site::install_on(0, SHARED).await?;
    let reviews = Api::<SubjectAccessReview>::all(site.cluster.admin.clone());
    let may = async |verb: &str, namespace: &str| {
        let review = serde_json::from_value(json!({
            "metadata": {},
            "spec": {
                "user": format!("system:serviceaccount:{}:arx-ca", site.system),
                "resourceAttributes": {
                    "namespace": namespace, "verb": verb, "resource": "secrets",
                },
            },
        }))?;
        let answer = reviews.create(&PostParams::default(), &review).await?;
        anyhow::Ok(answer.status.is_some_and(|status| status.allowed))
    };
    until("the role is known", async || may("get", &site.state).await).await?;
    for verb in ["get", "list", "watch"] {
        ensure!(may(verb, &site.state).await?, "{verb}");
        ensure!(!may(verb, &site.system).await?, "{verb}");
    }
    Ok(())
}
