//! Three replicas of one authority on one etcd, and two nodes with an Envoy each whose agents know
//! all of them.

use std::path::Path;

use anyhow::{Context as _, ensure};
use arx_daemon::files::write_atomically;
use arx_proto::admin::v1::SearchLedgerRequest;

use crate::etcd::Etcd;
use crate::http as web;
use crate::mesh::{Agent, CLUSTER, Mesh, TRUST_DOMAIN};
use crate::pair::Pair;
use crate::process::{Process, binary, until};

/// How many replicas there are.
pub const REPLICAS: usize = 3;

/// How agents know the replicas.
#[derive(Clone, Copy, Debug)]
pub enum Known {
    /// Each by its address.
    Listed,
    /// By one name, which has an address for each.
    Named,
}

/// What runs.
pub struct Several {
    /// The Envoys and their agents, and the first replica.
    pub pair: Pair,
    /// The second one and the third.
    others: Vec<Mesh>,
    _etcd: Etcd,
}

impl Several {
    /// Agents that know each replica by its address.
    ///
    /// # Errors
    /// If anything does not start.
    pub async fn start() -> anyhow::Result<Self> {
        Self::known(Known::Listed).await
    }

    /// The same where agents know the replicas like this.
    ///
    /// # Errors
    /// If anything does not start.
    pub async fn known(how: Known) -> anyhow::Result<Self> {
        let etcd = Etcd::start(1).await?;
        let mut meshes = Vec::new();
        for n in 0..REPLICAS {
            let mut mesh = etcd.replica(&format!("ca-{n}"))?;
            if let Some(first) = meshes.first() {
                mesh.joins_cluster_of(first)?;
                if matches!(how, Known::Named) {
                    moves(&mut mesh, &format!("127.0.0.{}", n + 1), first.node_port)?;
                }
            }
            mesh.start_authority().await?;
            meshes.push(mesh);
        }
        let ports: Vec<_> = meshes.iter().map(|it| it.node_port).collect();
        let addresses: Vec<_> = ports
            .iter()
            .map(|it| format!("\"127.0.0.1:{it}\""))
            .collect();
        let known = match how {
            Known::Listed => format!("addresses = [{}]", addresses.join(", ")),
            Known::Named => format!("address = \"{NAME}:{}\"", ports[0]),
        };
        let known = format!("{known}\nrebalance = \"1s\"");
        let first = meshes.remove(0);
        let mut pair = Pair::over(first, |_| {}).await?;
        for agent in &mut pair.agents {
            agent.stop().await?;
            let text = std::fs::read_to_string(&agent.config)?;
            let one = format!("address = \"127.0.0.1:{}\"", pair.mesh.node_port);
            write_atomically(&agent.config, text.replace(&one, &known).as_bytes(), 0o644)?;
            match how {
                Known::Listed => agent.spawn()?,
                Known::Named => agent.process = Some(with_names(agent)?),
            }
            agent.is_ready().await?;
        }
        let several = Self {
            pair,
            others: meshes,
            _etcd: etcd,
        };
        several.follow_among(&[true; REPLICAS]).await?;
        Ok(several)
    }

    /// The replica `n`, from 0 on.
    #[must_use]
    pub fn replica(&self, n: usize) -> &Mesh {
        match n.checked_sub(1) {
            None => &self.pair.mesh,
            Some(n) => &self.others[n],
        }
    }

    /// The same, to be ended and started.
    pub fn replica_mut(&mut self, n: usize) -> &mut Mesh {
        match n.checked_sub(1) {
            None => &mut self.pair.mesh,
            Some(n) => &mut self.others[n],
        }
    }

    /// Without the replica `n`, which is away, every agent is at another.
    ///
    /// # Errors
    /// If one is at none.
    pub async fn without(&self, n: usize) -> anyhow::Result<()> {
        let mut asked = [true; REPLICAS];
        asked[n] = false;
        self.follow_among(&asked).await
    }

    /// The replica `n` begins again.
    ///
    /// # Errors
    /// If it does not, or agents do not come to where they belong.
    pub async fn is_back(&mut self, n: usize) -> anyhow::Result<()> {
        let replica = self.replica_mut(n);
        replica.spawn_authority()?;
        replica.authority_is_ready().await?;
        self.follow_among(&[true; REPLICAS]).await
    }

    /// The replica that takes the steps of rotations.
    ///
    /// # Errors
    /// If none does.
    pub async fn leader(&self) -> anyhow::Result<usize> {
        let leader = std::cell::Cell::new(None);
        until("a replica leads", || async {
            for n in 0..REPLICAS {
                let leads = web::metric(self.replica(n).ops_port, "arx_ca_leads");
                if leads.await? == Some(1.0) {
                    leader.set(Some(n));
                }
            }
            Ok(leader.get().is_some())
        })
        .await?;
        leader.get().context("one was found")
    }

    /// Nodes have renewed their own certificates, at whichever replica, and none had to join again.
    ///
    /// # Errors
    /// If one has.
    pub async fn nodes_have_joined_once(&self) -> anyhow::Result<()> {
        let mut admin = self.replica(0).admin().await?;
        for node in ["n1", "n2"] {
            let request = SearchLedgerRequest {
                identity: format!("spiffe://{TRUST_DOMAIN}/arx/node/{CLUSTER}/{node}"),
                page_size: 100,
                ..SearchLedgerRequest::default()
            };
            let found = admin.search_ledger(request).await?.into_inner();
            let renewals = found.records.iter();
            let renewals = renewals.filter(|record| record.contains("\"replaces\":"));
            let joins = found.records.len() - renewals.clone().count();
            ensure!(
                found.unanswered.is_empty() && joins == 1 && renewals.count() > 0,
                "{found:#?}"
            );
        }
        Ok(())
    }

    /// Agents that are connected to those that are asked.
    async fn agents(&self, asked: &[bool]) -> anyhow::Result<u64> {
        let mut sum = 0;
        for (n, asked) in asked.iter().enumerate() {
            if *asked {
                sum += u64::from(self.replica(n).status().await?.agents_connected);
            }
        }
        Ok(sum)
    }

    /// Waits until every agent is at one of those that are asked.
    ///
    /// # Errors
    /// If one does not come.
    pub async fn follow_among(&self, asked: &[bool]) -> anyhow::Result<()> {
        until("every agent is at a replica", || async {
            Ok(self.agents(asked).await? == 2)
        })
        .await
    }
}

/// A name that only those know who have been told of it.
const NAME: &str = "arx-ca.test";

/// Has a replica listen for agents elsewhere on loopback.
fn moves(mesh: &mut Mesh, address: &str, port: u16) -> anyhow::Result<()> {
    let config = mesh.authority_config();
    let text = std::fs::read_to_string(&config)?;
    let from = format!("address = \"127.0.0.1:{}\"", mesh.node_port);
    ensure!(text.contains(&from), "{text}");
    let to = format!("address = \"{address}:{port}\"");
    write_atomically(&config, text.replace(&from, &to).as_bytes(), 0o644)?;
    mesh.node_port = port;
    Ok(())
}

/// Starts an agent for which the name has an address for each replica.
fn with_names(agent: &Agent) -> anyhow::Result<Process> {
    let hosts = agent.config.with_file_name("hosts");
    let lines = (1..=REPLICAS).map(|n| format!("127.0.0.{n} {NAME}\n"));
    std::fs::write(&hosts, lines.collect::<String>())?;
    let text = |path: &Path| path.to_str().context("text").map(str::to_owned);
    let (hosts, config) = (text(&hosts)?, text(&agent.config)?);
    let program = text(&binary("arx-node-agent")?)?;
    // Its own view of files, in which only this one differs.
    let script = "mount --bind \"$0\" /etc/hosts && exec \"$@\"";
    let arguments = [
        "--mount", "--", "sh", "-c", script, &hosts, &program, "--config", &config,
    ];
    Process::start("arx-node-agent", Path::new("unshare"), &arguments)
}
