//! The roots in ConfigMaps, read as pods read them and not as the publisher does: each certificate
//! against those that are trusted, in every namespace.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use arx_daemon::clock::rfc3339;
use arx_identity::{Certificate, TrustBundle};
use serde::Deserialize;

use super::ask::Api;
use super::{Findings, NAMED, some_of};
use crate::kubernetes::encoded;
use crate::publish;

#[derive(Default, Deserialize)]
#[serde(default)]
struct Map {
    metadata: Metadata,
    data: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Metadata {
    name: String,
    namespace: String,
    deletion_timestamp: Option<String>,
    annotations: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Namespace {
    metadata: Metadata,
}

/// Looks at each ConfigMap in which roots are published.
pub(super) async fn look(
    api: &Api,
    options: &publish::Options,
    bundle: &TrustBundle,
    now: SystemTime,
    findings: &mut Findings,
) {
    let maps = options.maps();
    if maps.is_empty() {
        return;
    }
    let chosen = match chosen(api, options).await {
        Ok(chosen) => chosen,
        Err(why) => {
            return findings.not_known("the namespaces have the roots", &why);
        }
    };
    for (name, key) in maps {
        let judge = |map: &Map| wrong(map, key, bundle, now);
        let seen = match seen(api, name, &chosen, bundle, judge).await {
            Ok(seen) => seen,
            Err(why) => {
                let test = format!("ConfigMaps {name} hold the roots and no others");
                findings.not_known(test, &why);
                continue;
            }
        };
        seen.tell(name, &chosen, findings);
    }
}

/// The namespaces in which roots are to be.
async fn chosen(api: &Api, options: &publish::Options) -> Result<BTreeSet<String>, String> {
    let mut path = "/api/v1/namespaces".to_owned();
    if let Some(selector) = &options.namespace_selector {
        path.push_str(&format!("?labelSelector={}", encoded(selector)));
    }
    let mut chosen = BTreeSet::new();
    let only = &options.namespaces;
    api.pages(&path, |namespace: Namespace| {
        let Metadata {
            name,
            deletion_timestamp,
            ..
        } = namespace.metadata;
        // In one that is being deleted nothing can be made any more.
        let is_living = deletion_timestamp.is_none();
        if is_living && (only.is_empty() || only.contains(&name)) {
            chosen.insert(name);
        }
    })
    .await?;
    Ok(chosen)
}

/// What was seen of the ConfigMaps of one name.
#[derive(Default)]
struct Seen {
    well: usize,
    /// The first of those with something wrong, with what, and how many there are.
    wrong: Cut,
    there: BTreeSet<String>,
    /// Of ours that are in other namespaces, those that hold other roots.
    left: Cut,
}

/// A list that is cut.
#[derive(Default)]
struct Cut {
    named: Vec<String>,
    total: usize,
}

impl Cut {
    fn add(&mut self, text: impl FnOnce() -> String) {
        self.total += 1;
        if self.named.len() < NAMED {
            self.named.push(text());
        }
    }

    fn shown(&self) -> Option<String> {
        some_of(&self.named, self.total)
    }
}

async fn seen(
    api: &Api,
    name: &str,
    chosen: &BTreeSet<String>,
    bundle: &TrustBundle,
    judge: impl Fn(&Map) -> Vec<String>,
) -> Result<Seen, String> {
    let selector = encoded(&format!("metadata.name={name}"));
    let mut seen = Seen::default();
    let path = format!("/api/v1/configmaps?fieldSelector={selector}");
    api.pages(&path, |map: Map| {
        let Metadata {
            namespace,
            annotations,
            ..
        } = &map.metadata;
        let of = annotations.get(publish::DOMAIN);
        let is_ours = of.is_some_and(|it| *it == bundle.trust_domain().to_string());
        let is_chosen = chosen.contains(namespace);
        if !is_chosen && !is_ours {
            return;
        }
        let wrong = judge(&map);
        let text = || format!("{namespace} {}", wrong.join(" and "));
        match (is_chosen, wrong.is_empty()) {
            (true, true) => seen.well += 1,
            (true, false) => seen.wrong.add(text),
            (false, true) => {}
            (false, false) => seen.left.add(text),
        }
        if is_chosen {
            seen.there.insert(namespace.clone());
        }
    })
    .await?;
    Ok(seen)
}

impl Seen {
    fn tell(mut self, name: &str, chosen: &BTreeSet<String>, findings: &mut Findings) {
        for namespace in chosen.difference(&self.there) {
            self.wrong.add(|| format!("{namespace} has none"));
        }
        let of = match self.well + self.wrong.total {
            1 => "1 namespace".to_owned(),
            many => format!("{many} namespaces"),
        };
        let test = format!("ConfigMaps {name} hold the roots and no others, in {of}");
        let wrong = self.wrong.shown();
        let wrong = wrong.map(|it| {
            format!("{it}: delete it, and the authority makes it anew; `arx status` says why it does not")
        });
        findings.test(test, wrong);
        if let Some(left) = self.left.shown() {
            let test =
                format!("no ConfigMap {name} with other roots is left where none are written now");
            findings.warn(test, Some(format!("{left}: delete it, if nobody reads it")));
        }
    }
}

/// What is wrong with the roots of one, for whoever trusts them.
fn wrong(map: &Map, key: &str, bundle: &TrustBundle, now: SystemTime) -> Vec<String> {
    let Some(pem) = map.data.get(key) else {
        return vec![format!("has no key {key}")];
    };
    let Ok(found) = Certificate::list_from_pem(pem) else {
        return vec![format!("has something else than certificates under {key}")];
    };
    let mut wrong = Vec::new();
    let ours = bundle.roots();
    for certificate in &found {
        let end = rfc3339(certificate.not_after());
        if !ours.contains(certificate) {
            wrong.push(format!("has a foreign root ({})", named(certificate)));
        }
        if certificate.not_after() <= now {
            wrong.push(format!(
                "has a root that has ended ({}, at {end})",
                named(certificate)
            ));
        }
    }
    for root in ours.iter().filter(|root| !found.contains(root)) {
        wrong.push(format!("lacks a root that is trusted ({})", named(root)));
    }
    // Somebody may have put hundreds there.
    let more = wrong.len().saturating_sub(NAMED);
    if more > 0 {
        wrong.truncate(NAMED);
        wrong.push(format!("{more} more"));
    }
    wrong
}

/// By what others name it: its subject key id, or its serial number where it has none.
fn named(certificate: &Certificate) -> String {
    match certificate.subject_key_id() {
        Some(id) => format!("key {id}"),
        None => format!("serial {}", certificate.serial()),
    }
}
