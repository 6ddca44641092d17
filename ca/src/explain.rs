//! What is decided for a pod, and by what: each step of an admission again, without issuing
//! anything, and what was last asked for it. By what this replica knows; [`crate::peer`] asks the
//! others.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arx_daemon::clock::unix_ms;
use arx_identity::KeyAlgorithm;
use arx_identity::profile::Validity;
use arx_proto::admin::v1 as wire;
use bytes::Bytes;

use crate::admin::agents;
use crate::ca::{Ca, Rules};
use crate::caller::NodeName;
use crate::ledger::{Content, Entry, Event, Query};
use crate::pods::{Found, Pods, Unproved};
use crate::policy::{Agent, Evidence, Request};
use crate::recent::{Last, LastRefusal, TokenSeen};
use crate::refusal::{Fault, Refusal};

/// Records of an identity among which its last certificate is looked for, newest first.
const RECORDS: usize = 500;

/// A pod that somebody wants to know about.
struct Wanted<'a> {
    uid: Option<String>,
    /// Namespace and name.
    name: Option<(&'a str, &'a str)>,
}

/// The pod in each cluster that is asked for, where it is known here.
pub(crate) async fn here(
    ca: &Arc<Ca>,
    request: &wire::ExplainRequest,
) -> Result<Vec<wire::ExplainedPod>, Refusal> {
    let rules = ca.rules.get();
    let clusters = rules.tokens.clusters();
    let chosen: Vec<_> = clusters
        .filter(|name| request.cluster.is_empty() || ***name == *request.cluster)
        .collect();
    if chosen.is_empty() {
        return Err(malformed(&format!(
            "there is no [[cluster]] \"{}\"",
            request.cluster
        )));
    }
    let mut pods = Vec::new();
    for cluster in chosen {
        let wanted = wanted(&request.pod)?;
        pods.extend(in_cluster(ca, &rules, cluster, wanted).await?);
    }
    Ok(pods)
}

fn wanted(pod: &str) -> Result<Wanted<'_>, Refusal> {
    let name = pod.split_once('/');
    let parts = name.map_or(vec![pod], |(namespace, name)| vec![namespace, name]);
    if !parts.iter().all(|part| crate::token::is_segment(part)) {
        return Err(malformed("a pod is named as NAMESPACE/NAME, or by its UID"));
    }
    Ok(Wanted {
        uid: name.is_none().then(|| pod.to_owned()),
        name,
    })
}

async fn in_cluster(
    ca: &Arc<Ca>,
    rules: &Rules,
    cluster: &Arc<str>,
    wanted: Wanted<'_>,
) -> Result<Option<wire::ExplainedPod>, Refusal> {
    let pods = rules.tokens.pods_of(cluster);
    let mut uid = wanted.uid;
    let mut away = None;
    if let (Some(pods), Some((namespace, name))) = (pods, wanted.name) {
        match pods.uid_of(namespace, name).await {
            Ok(found) => uid = found,
            Err(why) => away = Some(why),
        }
    }
    let last = match (&uid, wanted.name) {
        (Some(uid), _) => ca.recent.of(uid),
        (None, Some((namespace, name))) => {
            let mut named = ca.recent.named(namespace, name);
            named.sort_by_key(|last| last.refusal.as_ref().map(|it| it.at));
            named.pop()
        }
        (None, None) => None,
    };
    let last = last.filter(|last| last.pod.cluster == *cluster);
    let Some(uid) = uid.or_else(|| last.as_ref().map(|last| last.pod.uid.clone())) else {
        return match away {
            Some(why) => Err(Refusal::new(
                "ARX-POD-UNKNOWN",
                Fault::Dependency,
                format!(
                    "which pod has this name can't be told, as the API server of cluster {cluster} gives no answer ({why}): name it by its UID"
                ),
            )),
            None => Ok(None),
        };
    };
    let known = pods.and_then(|pods| pods.find(&uid));
    if known.is_none() && last.is_none() {
        return Ok(None);
    }
    let live = known.clone().and_then(Result::ok);
    // By the index where there is one, and else by its last word.
    let said = last.as_ref().map(|last| last.pod.clone());
    let pod = live.or(said).unwrap_or_else(|| Found {
        cluster: Arc::clone(cluster),
        namespace: wanted.name.map_or("", |(namespace, _)| namespace).into(),
        name: wanted.name.map_or("", |(_, name)| name).to_owned(),
        uid: uid.clone(),
        service_account: "".into(),
        node: None,
        labels: Vec::new(),
    });
    let node = pod.node.as_ref().map(|node| NodeName {
        cluster: Arc::clone(cluster),
        node: Arc::clone(node),
    });
    let asked = last.as_ref().and_then(|last| last.ttl);
    let decided = decide(ca, pods, &pod, node.as_ref(), asked);
    let identity = match &decided {
        Ok(decision) => decision.spiffe_id.clone(),
        Err(_) => grant(rules, &pod, node.as_ref(), asked)
            .map_or_else(|_| String::new(), |grant| grant.id.as_str().to_owned()),
    };
    let newest = ca.trust.current().sequence();
    let agent = node.as_ref().and_then(|node| {
        ca.fleet
            .show(node, |agent| agents::agent(ca, agent, newest))
    });
    let certificate = certificate(ca, identity, uid.clone()).await;
    Ok(Some(wire::ExplainedPod {
        cluster: cluster.to_string(),
        namespace: pod.namespace.to_string(),
        name: pod.name.clone(),
        index: Some(indexed(pods, known.as_ref())),
        token: last.as_ref().and_then(token),
        decision: Some(decided.unwrap_or_else(|refusal| refused(&refusal))),
        agent,
        certificate,
        refusal: last.and_then(|last| last.refusal).map(refusal),
        uid,
    }))
}

/// What would be decided for the pod now.
fn decide(
    ca: &Ca,
    pods: Option<&Arc<Pods>>,
    pod: &Found,
    node: Option<&NodeName>,
    asked: Option<Duration>,
) -> Result<wire::ExplainedDecision, Refusal> {
    let (rules, now) = (ca.rules.get(), ca.clock.now());
    let node = node.ok_or_else(|| Unproved::Unheard(pod.cluster.clone()))?;
    if let Some(pods) = pods {
        pods.on(&node.node, &pod.uid)?;
    }
    let grant = grant(&rules, pod, Some(node), asked)?;
    let account = crate::token::Account {
        namespace: &pod.namespace,
        name: &pod.service_account,
    };
    ca.not_denied(&grant.id, node, Some(account), now)?;
    ca.restore.is_open()?;
    let issuing = ca.authority.issuing().filter(|it| now < it.not_after());
    let issuing = issuing.ok_or_else(|| {
        Refusal::new(
            "ARX-AUTHORITY-NOT-READY",
            Fault::Dependency,
            "the authority has no valid intermediate now: see its readiness",
        )
    })?;
    let ends = Validity::leaf(issuing.issuer(), now, grant.ttl).not_after;
    let ttl = ends.duration_since(now).unwrap_or_default();
    let ttl_by = if ttl < grant.ttl {
        "the intermediate, which ends then".to_owned()
    } else {
        rules.policy.lifetime_by(pod, asked)
    };
    let key_id = |id: arx_identity::KeyId| Bytes::copy_from_slice(id.as_bytes());
    Ok(wire::ExplainedDecision {
        spiffe_id: grant.id.as_str().to_owned(),
        dns_names: grant.dns_names.to_vec(),
        rule: grant.rule.to_string(),
        ttl_seconds: ttl.as_secs(),
        ttl_by,
        intermediate_key_id: key_id(issuing.intermediate()),
        intermediate_not_after_unix_ms: unix_ms(issuing.not_after()),
        root_key_id: key_id(issuing.root()),
        ..wire::ExplainedDecision::default()
    })
}

fn grant(
    rules: &Rules,
    pod: &Found,
    node: Option<&NodeName>,
    ttl: Option<Duration>,
) -> Result<crate::policy::Grant, Refusal> {
    let node = node.ok_or_else(|| Unproved::Unheard(pod.cluster.clone()))?;
    let agent = Agent {
        cluster: &node.cluster,
        node: &node.node,
    };
    let grant = rules.policy.decide(&Request {
        agent,
        evidence: Evidence::Pod(pod),
        key: KeyAlgorithm::EcdsaP256,
        ttl,
    });
    Ok(grant?)
}

fn refused(refusal: &Refusal) -> wire::ExplainedDecision {
    wire::ExplainedDecision {
        code: refusal.code.to_owned(),
        message: refusal.message.clone(),
        page: page(refusal.code),
        ..wire::ExplainedDecision::default()
    }
}

fn indexed(
    pods: Option<&Arc<Pods>>,
    known: Option<&Result<Found, &'static str>>,
) -> wire::IndexedPod {
    let Some(pods) = pods else {
        return wire::IndexedPod::default();
    };
    let health = pods.health();
    let indexed = wire::IndexedPod {
        watched: true,
        age_ms: health
            .age
            .map_or(0, |age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
        ..wire::IndexedPod::default()
    };
    match known {
        Some(Ok(pod)) => wire::IndexedPod {
            service_account: pod.service_account.to_string(),
            node: pod.node.as_deref().unwrap_or_default().to_owned(),
            labels: pod
                .labels
                .iter()
                .map(|(name, value)| (name.to_string(), value.to_string()))
                .collect(),
            ..indexed
        },
        Some(Err(why)) => wire::IndexedPod {
            trouble: (*why).to_owned(),
            ..indexed
        },
        None => wire::IndexedPod {
            trouble: "there is none of this UID".to_owned(),
            ..indexed
        },
    }
}

fn token(last: &Last) -> Option<wire::SeenToken> {
    let TokenSeen {
        audience,
        id,
        issued,
        expires,
        seen,
    } = last.token.clone()?;
    Some(wire::SeenToken {
        service_account: last.pod.service_account.to_string(),
        node: last.pod.node.as_deref().unwrap_or_default().to_owned(),
        audience,
        id,
        issued_unix_ms: known_ms(issued),
        expires_unix_ms: unix_ms(expires),
        seen_unix_ms: unix_ms(seen),
    })
}

/// 0 for the epoch itself, by which a token says nothing.
fn known_ms(time: SystemTime) -> i64 {
    if time == SystemTime::UNIX_EPOCH {
        0
    } else {
        unix_ms(time)
    }
}

fn refusal(last: LastRefusal) -> wire::LastRefusal {
    wire::LastRefusal {
        code: last.code.to_owned(),
        message: last.message,
        at_unix_ms: unix_ms(last.at),
        cluster: last.node.cluster.to_string(),
        node: last.node.node.to_string(),
        page: page(last.code),
    }
}

fn page(code: &str) -> String {
    format!("docs/errors.md#{}", code.to_ascii_lowercase())
}

/// The newest certificate of the identity that was issued for this very pod.
async fn certificate(ca: &Arc<Ca>, identity: String, uid: String) -> Option<wire::LastCertificate> {
    if identity.is_empty() {
        return None;
    }
    let ca = Arc::clone(ca);
    let search = tokio::task::spawn_blocking(move || {
        ca.ledger.search(&Query::Identity(identity), RECORDS, "")
    });
    let page = search.await.ok()?.ok()?;
    let of_it = format!("({uid})");
    page.records.into_iter().find_map(|entry| {
        let Entry { time, content, .. } = entry;
        let Content::Known(Event::Issued(issued)) = content else {
            return None;
        };
        issued
            .evidence
            .contains(&of_it)
            .then(|| wire::LastCertificate {
                serial: issued.serial.into(),
                spiffe_id: issued.spiffe_id,
                issued_unix_ms: unix_ms(time),
                not_after_unix_ms: unix_ms(issued.validity.not_after),
                cluster: issued.cluster,
                node: issued.node,
                evidence: issued.evidence,
                replica: issued.replica,
            })
    })
}

fn malformed(message: &str) -> Refusal {
    Refusal::new("ARX-REQUEST-MALFORMED", Fault::Request, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::denial::Subject;
    use crate::testing::{House, Outcome, node};
    use arx_daemon::Clock;
    use arx_proto::node::v1::issue_item::Evidence as Brought;

    async fn asked(house: &House, pod: &str) -> Result<Vec<wire::ExplainedPod>, Refusal> {
        let request = wire::ExplainRequest {
            pod: pod.to_owned(),
            cluster: String::new(),
        };
        Ok(house.ca.explain(request).await?.pods)
    }

    async fn issue(house: &House, token: String) {
        let item = house.item(Brought::ServiceAccountToken(token));
        house.ca.issue(&node(), vec![item]).await;
    }

    #[tokio::test]
    async fn the_steps_of_a_decision_are_told_with_what_was_last_issued_and_refused() -> Outcome {
        let house = House::new().await?;
        let unknown = asked(&house, "shop/pod").await.expect_err("nobody asked");
        assert_eq!(unknown.code, "ARX-REQUEST-MALFORMED");
        let token = house.token("arx", "shop", "web", "n1");
        issue(&house, token.clone()).await;
        for name in ["shop/pod", "pod-uid"] {
            let [pod] = &asked(&house, name).await?[..] else {
                panic!("one pod");
            };
            let decision = pod.decision.as_ref().expect("it is told");
            let identity = "spiffe://example.org/ns/shop/sa/web";
            assert_eq!((&*decision.code, &*decision.spiffe_id), ("", identity));
            assert_eq!(decision.ttl_by, "policy.ttl");
            assert_eq!(decision.ttl_seconds, 3600);
            let token = pod.token.as_ref().expect("it was shown");
            assert_eq!((&*token.audience, &*token.node), ("arx", "n1"));
            let certificate = pod.certificate.as_ref().expect("it was issued");
            assert_eq!(certificate.spiffe_id, identity);
            assert!(!certificate.serial.is_empty());
            assert_eq!(pod.refusal, None);
        }
        let subject = Subject::parse("sa/shop/web", &house.ca.trust_domain)?;
        house.ca.deny(&subject, None, "a test".to_owned()).await?;
        issue(&house, token).await;
        let pods = asked(&house, "shop/pod").await?;
        let decision = pods[0].decision.as_ref().expect("it is told");
        assert_eq!(decision.code, "ARX-DENIED");
        let refusal = pods[0].refusal.as_ref().expect("it was refused");
        assert_eq!(refusal.code, "ARX-DENIED");
        assert_eq!(refusal.page, "docs/errors.md#arx-denied");
        assert!(pods[0].certificate.is_some(), "it has one all the same");
        Ok(())
    }

    #[tokio::test]
    async fn a_lifetime_that_the_end_of_the_intermediate_cuts_short_is_told_so() -> Outcome {
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_780_000_000);
        let house = House::with("", Clock::manual(start)).await?;
        // It could not be renewed in time: the root's key is out of reach.
        let issuing = house.ca.authority.issuing().ok_or("it issues")?;
        house
            .clock
            .set(issuing.not_after() - Duration::from_secs(1800));
        issue(&house, house.token("arx", "shop", "web", "n1")).await;
        let pods = asked(&house, "shop/pod").await?;
        let decision = pods[0].decision.as_ref().expect("it is told");
        assert_eq!(decision.ttl_by, "the intermediate, which ends then");
        // The policy gives an hour.
        assert_eq!(decision.ttl_seconds, 1800);
        Ok(())
    }

    #[tokio::test]
    async fn a_forged_token_is_about_nobody_and_a_genuine_one_of_elsewhere_is() -> Outcome {
        let house = House::new().await?;
        let genuine = house.token("arx", "shop", "web", "n2");
        let mut forged = genuine.clone();
        forged.truncate(forged.len() - 4);
        forged.push_str("AAAA");
        issue(&house, forged).await;
        assert!(asked(&house, "shop/pod").await.is_err());
        issue(&house, genuine).await;
        let pods = asked(&house, "shop/pod").await?;
        let refusal = pods[0].refusal.as_ref().expect("it was refused");
        assert_eq!(refusal.code, "ARX-EVIDENCE-NODE");
        assert_eq!((&*refusal.cluster, &*refusal.node), ("c1", "n1"));
        Ok(())
    }
}
