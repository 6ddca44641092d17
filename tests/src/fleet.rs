//! Many proxies on few nodes, each with an application behind it; each calls the next, so
//! that every one is both caller and callee, across nodes.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, ensure};

use crate::app::App;
use crate::envoy::{Envoy, Options as Proxy, Ports};
use crate::http as web;
use crate::load::{Load, Outcome};
use crate::mesh::{Agent, Mesh, Options, TRUST_DOMAIN};

/// Counters of an Envoy that stand still for as long as nothing fails.
const FAILURES: [&str; 8] = [
    r"cluster\.peer\.upstream_cx_connect_fail",
    r"cluster\.peer\.ssl\.connection_error",
    r"cluster\.peer\.ssl\.fail_verify_error",
    r"cluster\.peer\.ssl\.fail_verify_san",
    r"listener\..*\.ssl\.fail_verify_error",
    r"listener\..*\.ssl\.fail_verify_san",
    r"http\.(in|out)bound\.downstream_rq_5xx",
    r"sds\.[^.]*\.update_rejected",
];

/// What runs.
pub struct Fleet {
    /// Proxy `p0` is on node `n0`, `p1` on `n1`, and so on, round and round.
    pub proxies: Vec<Envoy>,
    /// One for each node.
    pub agents: Vec<Agent>,
    /// Authority and issuer; last, because the folder of all goes with it.
    pub mesh: Mesh,
    _app: App,
}

impl Fleet {
    /// Starts so many proxies on so many nodes, and waits until all have their secrets.
    ///
    /// # Errors
    /// If anything does not start.
    pub async fn start(options: Options, nodes: usize, proxies: usize) -> anyhow::Result<Self> {
        let mesh = Mesh::start(options).await?;
        let mut agents = Vec::new();
        for node in 0..nodes {
            agents.push(mesh.agent(&format!("n{node}")).await?);
        }
        let app = App::start().await?;
        let ports = (0..proxies).map(|_| Ports::free());
        let ports = ports.collect::<anyhow::Result<Vec<_>>>()?;
        let mut started = Vec::new();
        for at in 0..proxies {
            let (agent, next) = (&agents[at % nodes], (at + 1) % proxies);
            let mut proxy = Proxy::new(&account(at), &agent.socket, app.port);
            proxy.token = Some(mesh.token("shop", &account(at), &agent.node));
            proxy.accept = identity((at + proxies - 1) % proxies);
            proxy.peer = Some((ports[next].inbound, identity(next)));
            started.push(Envoy::start_on(ports[at], &mesh.directory, proxy)?);
        }
        for envoy in &started {
            envoy.is_warm().await?;
        }
        Ok(Self {
            proxies: started,
            agents,
            mesh,
            _app: app,
        })
    }

    /// From each proxy to the next, two callers send requests.
    #[must_use]
    pub fn load(&self) -> Vec<Load> {
        let load = |proxy: &Envoy| Load::start(proxy.ports.outbound, 2, Duration::from_millis(100));
        self.proxies.iter().map(load).collect()
    }

    /// Sends one request from each proxy to the next: all are answered.
    ///
    /// # Errors
    /// If not.
    pub async fn talks(&self) -> anyhow::Result<()> {
        for (at, proxy) in self.proxies.iter().enumerate() {
            let (status, body) = web::get(proxy.ports.outbound, "/").await?;
            ensure!(
                status == 200 && body.contains(&format!("URI={}", identity(at))),
                "p{at}: {status}: {body}"
            );
        }
        Ok(())
    }

    /// Serial numbers of what the proxies serve.
    ///
    /// # Errors
    /// If one does not answer.
    pub async fn serials(&self) -> anyhow::Result<Vec<String>> {
        let mut serials = Vec::new();
        for proxy in &self.proxies {
            serials.push(proxy.certificate().await?.serial);
        }
        Ok(serials)
    }

    /// What the proxies' own statistics count of what failed, by proxy and name; nothing if
    /// nothing did.
    ///
    /// # Errors
    /// If one does not answer, or has none of these counters.
    pub async fn failures(&self) -> anyhow::Result<BTreeMap<String, u64>> {
        let mut failures = BTreeMap::new();
        for (at, proxy) in self.proxies.iter().enumerate() {
            let filter = format!("^({})$", FAILURES.join("|"));
            let counted = proxy.stats(&filter).await?;
            ensure!(
                counted.len() >= FAILURES.len(),
                "p{at} counts only {counted:?}"
            );
            for (name, count) in counted.into_iter().filter(|(_, count)| *count > 0) {
                failures.insert(format!("p{at} {name}"), count);
            }
        }
        Ok(failures)
    }
}

/// What became of all these together.
///
/// # Errors
/// If one of them was never answered.
pub async fn stopped(loads: Vec<Load>) -> anyhow::Result<Outcome> {
    let mut all = Outcome::default();
    for (at, load) in loads.into_iter().enumerate() {
        let one = load.stop().await;
        (one.good > 0)
            .then_some(())
            .with_context(|| format!("nothing from p{at} was answered: {:?}", one.reasons))?;
        all.good += one.good;
        all.failed += one.failed;
        let named = one
            .reasons
            .into_iter()
            .map(|reason| format!("p{at}: {reason}"));
        all.reasons.extend(named);
    }
    Ok(all)
}

fn account(at: usize) -> String {
    format!("p{at}")
}

/// Who proxy `p{at}` is.
#[must_use]
pub fn identity(at: usize) -> String {
    format!("spiffe://{TRUST_DOMAIN}/ns/shop/sa/{}", account(at))
}
