//! Agents that know several replicas of their authority.

use std::path::Path;

use anyhow::Context as _;
use arx_daemon::files::write_atomically;
use arx_tests::etcd::Etcd;
use arx_tests::mesh::{Agent, Mesh};
use arx_tests::pair::Pair;
use arx_tests::process::{Process, binary, until};
use arx_tests::rotating::{quickly, reaches, rotate};
use rustix::process::Signal;

const REPLICAS: usize = 3;

/// How agents know the replicas.
enum Known {
    /// Each by its address.
    Listed,
    /// By one name, which has an address for each.
    Named,
}

/// Replicas of one authority, and two nodes whose agents know all of them.
struct Several {
    pair: Pair,
    /// The second one and the third.
    others: Vec<Mesh>,
    _etcd: Etcd,
}

impl Several {
    async fn start() -> anyhow::Result<Self> {
        Self::known(Known::Listed).await
    }

    async fn known(how: Known) -> anyhow::Result<Self> {
        let etcd = Etcd::start(1).await?;
        let mut meshes = Vec::new();
        for n in 0..REPLICAS {
            let mut mesh = etcd.replica(&format!("ca-{n}"))?;
            if let Some(first) = meshes.first() {
                // The same cluster.
                let keys = |mesh: &Mesh| mesh.directory.join("jwks.json");
                std::fs::copy(keys(first), keys(&mesh))?;
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

    fn replica(&self, n: usize) -> &Mesh {
        match n.checked_sub(1) {
            None => &self.pair.mesh,
            Some(n) => &self.others[n],
        }
    }

    fn replica_mut(&mut self, n: usize) -> &mut Mesh {
        match n.checked_sub(1) {
            None => &mut self.pair.mesh,
            Some(n) => &mut self.others[n],
        }
    }

    /// Without the replica `n`, which is away, every agent is at another.
    async fn without(&self, n: usize) -> anyhow::Result<()> {
        let mut asked = [true; REPLICAS];
        asked[n] = false;
        self.follow_among(&asked).await
    }

    /// The replica `n` begins again.
    async fn is_back(&mut self, n: usize) -> anyhow::Result<()> {
        let replica = self.replica_mut(n);
        replica.spawn_authority()?;
        replica.authority_is_ready().await?;
        self.follow_among(&[true; REPLICAS]).await
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

    async fn follow_among(&self, asked: &[bool]) -> anyhow::Result<()> {
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
    anyhow::ensure!(text.contains(&from), "{text}");
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

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn agents_go_to_every_address_that_the_name_of_their_authority_has() -> anyhow::Result<()> {
    let mut several = Several::known(Known::Named).await?;
    let load = several.pair.load();
    for n in 0..REPLICAS {
        several.replica_mut(n).kill_authority().await?;
        several.without(n).await?;
        several.is_back(n).await?;
    }
    load.stop().await.without_failure()?;
    several.pair.talks().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn whichever_replica_hangs_its_agents_are_at_the_others_and_no_request_is_lost()
-> anyhow::Result<()> {
    let several = Several::start().await?;
    let load = several.pair.load();
    for n in 0..REPLICAS {
        let process = several.replica(n).authority.as_ref().context("it runs")?;
        process.signal(Signal::STOP)?;
        several.without(n).await?;
        process.signal(Signal::CONT)?;
        several.follow_among(&[true; REPLICAS]).await?;
    }
    load.stop().await.without_failure()?;
    several.pair.talks().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_rolling_upgrade_in_a_rotation_loses_no_request_and_no_confirmation() -> anyhow::Result<()>
{
    let mut several = Several::start().await?;
    let load = several.pair.load();
    let mut slowly = quickly();
    slowly.window_ms = Some(20_000);
    rotate(several.replica(0), slowly).await?;
    for n in 0..REPLICAS {
        several.replica_mut(n).stop_authority().await?;
        several.without(n).await?;
        several.is_back(n).await?;
    }
    let done = reaches(several.replica(0), "done", |it| it.phase == "done").await?;
    anyhow::ensure!(done.forced.is_empty(), "{done:#?}");
    load.stop().await.without_failure()?;
    several.pair.talks().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn whichever_replica_is_killed_in_a_rotation_no_request_is_lost_and_no_confirmation()
-> anyhow::Result<()> {
    let mut several = Several::start().await?;
    let load = several.pair.load();
    for n in 0..REPLICAS {
        rotate(several.replica((n + 1) % REPLICAS), quickly()).await?;
        several.replica_mut(n).kill_authority().await?;
        several.without(n).await?;
        several.is_back(n).await?;
        let done = reaches(several.replica(n), "done", |it| it.phase == "done").await?;
        anyhow::ensure!(done.forced.is_empty(), "{done:#?}");
    }
    load.stop().await.without_failure()?;
    several.pair.talks().await
}
