//! Whether the clusters are as the authority needs them, found out from outside of what it does
//! all day: with its own account, at an operator's wish, changing nothing (`arx check --kube`).
//!
//! What is not asked for by the configuration is not looked at. An API server that gives no answer
//! is one finding, not many.

mod ask;
mod driver;
mod maps;
mod nodes;
mod rights;
mod server;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::ca::{Ca, Rules};
use crate::publish;
use crate::store::{Kubernetes, Place};
use crate::token::Cluster;
use ask::Api;

/// Objects and nodes that are named one by one.
const NAMED: usize = 5;

/// One thing that should be so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    /// Empty of what is not of one cluster.
    pub(crate) cluster: Arc<str>,
    pub(crate) test: String,
    /// What is wrong and what to do; `None` if it is well.
    pub(crate) wrong: Option<String>,
    /// Nothing fails by it, or it is not known.
    pub(crate) is_warning: bool,
}

/// What was found of one cluster.
struct Findings {
    cluster: Arc<str>,
    all: Vec<Finding>,
}

impl Findings {
    fn of(cluster: &str) -> Self {
        Self {
            cluster: cluster.into(),
            all: Vec::new(),
        }
    }

    fn add(&mut self, test: impl Into<String>, wrong: Option<String>, is_warning: bool) {
        self.all.push(Finding {
            cluster: Arc::clone(&self.cluster),
            test: test.into(),
            wrong,
            is_warning,
        });
    }

    fn test(&mut self, test: impl Into<String>, wrong: Option<String>) {
        self.add(test, wrong, false);
    }

    fn warn(&mut self, test: impl Into<String>, wrong: Option<String>) {
        self.add(test, wrong, true);
    }

    /// It can't be said whether it is so.
    fn not_known(&mut self, test: impl Into<String>, why: &str) {
        self.warn(test, Some(format!("not known: {why}")));
    }
}

impl Ca {
    /// Looks at every cluster of the configuration.
    pub(crate) async fn examine(&self) -> Vec<Finding> {
        let rules = self.rules.get();
        let mut found = Vec::new();
        let tried = rules.tokens.check().await;
        for cluster in rules.tokens.configured() {
            let mut findings = Findings::of(&cluster.name);
            for tried in tried.iter().filter(|it| *it.cluster == *cluster.name) {
                if let Some(test) = tried.test {
                    let wrong = tried.code.map(|code| format!("{} ({code})", tried.message));
                    findings.test(test, wrong);
                }
            }
            let published = self.publishers.of(&cluster.name);
            if is_reached(cluster, published) {
                match Api::of(cluster.kubeconfig.as_deref()).await {
                    Ok(api) => {
                        self.examine_cluster(&api, &rules, cluster, &mut findings)
                            .await;
                    }
                    Err(why) => findings.test(server::ANSWERS, Some(why)),
                }
            }
            found.extend(findings.all);
        }
        found.extend(self.examine_store().await);
        found
    }

    async fn examine_cluster(
        &self,
        api: &Api,
        rules: &Rules,
        cluster: &Cluster,
        findings: &mut Findings,
    ) {
        let published = self.publishers.of(&cluster.name);
        if !server::answers(api, &self.clock, findings).await {
            return;
        }
        server::tokens(api, cluster, findings).await;
        let needed = rights::needed(cluster, published);
        rights::look(api, needed, findings).await;
        server::versions(api, published, findings).await;
        if let Some(driver) = &cluster.csi_driver {
            driver::look(api, driver, &cluster.audiences, findings).await;
        }
        if let Some(published) = published {
            let bundle = self.trust.current();
            maps::look(api, published, &bundle, self.clock.now(), findings).await;
        }
        nodes::look(self, rules, cluster, findings).await;
    }

    /// What the state is in, where that is a cluster.
    async fn examine_store(&self) -> Vec<Finding> {
        let Place::Kubernetes(options) = &self.place else {
            return Vec::new();
        };
        let mut findings = Findings::of("");
        match Kubernetes::missing_rights(options).await {
            Ok(missing) => rights::tell_of_state(&missing, &mut findings),
            Err(error) => {
                let wrong = format!("{error} ({})", error.code());
                findings.test(rights::OF_STATE, Some(wrong));
            }
        }
        findings.all
    }
}

/// Whether anything is asked of its API server.
fn is_reached(cluster: &Cluster, published: Option<&publish::Options>) -> bool {
    let asked = cluster.reviews() || cluster.watches_pods();
    asked || published.is_some() || cluster.kubeconfig.is_some() || cluster.csi_driver.is_some()
}

/// `a; b; and 3 more`, of which `total` there are.
fn some_of(named: &[String], total: usize) -> Option<String> {
    let more = match total.saturating_sub(named.len()) {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    (total > 0).then(|| format!("{}{more}", named.join("; ")))
}
