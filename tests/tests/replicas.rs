//! Several replicas of one authority on one etcd: whoever leads sees the whole fleet.

use anyhow::{Context as _, ensure};
use arx_daemon::files::write_atomically;
use arx_proto::admin::v1::{DenyRequest, Unconfirmed};
use arx_tests::etcd::Etcd;
use arx_tests::http as web;
use arx_tests::mesh::Mesh;
use arx_tests::pair::Pair;
use arx_tests::process::until;
use arx_tests::rotating::{abort, force, quickly, reaches, roots, rotate};
use arx_tests::sds::Connection;
use rustix::process::Signal;

/// Two nodes with an Envoy each, at two replicas of an authority: `n1` at the first, which has all
/// that a pair has, and `n2` at the other.
struct Two {
    pair: Pair,
    other: Mesh,
    _etcd: Etcd,
}

impl Two {
    async fn start() -> anyhow::Result<Self> {
        let etcd = Etcd::start(1).await?;
        let mut one = etcd.replica("ca-1")?;
        let mut other = etcd.replica("ca-2")?;
        other.joins_cluster_of(&one)?;
        one.start_authority().await?;
        other.start_authority().await?;
        let pair = Pair::over(one, |_| {}).await?;
        let mut two = Self {
            pair,
            other,
            _etcd: etcd,
        };
        two.goes_over(1).await?;
        Ok(two)
    }

    /// An agent leaves the first replica for the other.
    async fn goes_over(&mut self, agent: usize) -> anyhow::Result<()> {
        let before = self.other.status().await?.agents_connected;
        let agent = &mut self.pair.agents[agent];
        agent.stop().await?;
        let text = std::fs::read_to_string(&agent.config)?;
        let [from, to] = [self.pair.mesh.node_port, self.other.node_port]
            .map(|port| format!("address = \"127.0.0.1:{port}\""));
        write_atomically(&agent.config, text.replace(&from, &to).as_bytes(), 0o644)?;
        agent.start().await?;
        until("the agent comes to the other", || async {
            Ok(self.other.status().await?.agents_connected == before + 1)
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_rotation_waits_for_the_agents_of_every_replica_and_for_one_that_hangs()
-> anyhow::Result<()> {
    let two = Two::start().await?;
    let load = two.pair.load();
    let other = two.other.authority.as_ref().context("it runs")?;
    other.signal(Signal::STOP)?;
    rotate(&two.pair.mesh, quickly()).await?;
    let waits = reaches(&two.pair.mesh, "it waits for the other replica", |it| {
        let mut open = it.unconfirmed.iter();
        it.phase == "distribute" && open.any(|it| it.node == "ca-2")
    });
    let waits = waits.await?;
    ensure!(waits.bundle_number > 0, "{waits:#?}");
    other.signal(Signal::CONT)?;
    let done = reaches(&two.pair.mesh, "done", |it| it.phase == "done").await?;
    ensure!(done.forced.is_empty(), "{done:#?}");
    // Both tell the same.
    let told = reaches(&two.other, "done there", |it| it.phase == "done").await?;
    ensure!(told.id == done.id && told.to == done.to, "{told:#?}");
    load.stop().await.without_failure()?;
    two.pair.talks().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn when_the_leader_dies_another_goes_on_as_far_as_may_be_and_ends_it_when_the_first_is_back()
-> anyhow::Result<()> {
    let mut two = Two::start().await?;
    let load = two.pair.load();
    let mut slowly = quickly();
    slowly.window_ms = Some(20_000);
    rotate(&two.pair.mesh, slowly).await?;
    // A leader that dies before it has said that it signs under the new root is waited for.
    let signs = |it: &Unconfirmed| it.node == "ca-1" && it.reason == "replica-signs";
    reaches(
        &two.other,
        "the leader has said what it signs under",
        |it| it.phase == "reissue" && !it.unconfirmed.iter().any(signs),
    )
    .await?;
    two.pair.mesh.kill_authority().await?;
    two.goes_over(0).await?;
    // What it has issued is known by those who have it; whether it hands out the bundle of before
    // is not.
    let waits = reaches(&two.other, "retire", |it| {
        let mut open = it.unconfirmed.iter();
        it.phase == "retire" && open.all(|it| it.node == "ca-1")
    });
    ensure!(waits.await?.forced.is_empty());
    two.pair.mesh.spawn_authority()?;
    two.pair.mesh.authority_is_ready().await?;
    let done = reaches(&two.other, "done", |it| it.phase == "done").await?;
    ensure!(done.forced.is_empty(), "{done:#?}");
    load.stop().await.without_failure()?;
    two.pair.talks().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_leader_that_was_stopped_finds_what_another_has_decided_meanwhile_and_changes_none_of_it()
-> anyhow::Result<()> {
    let two = Two::start().await?;
    let load = two.pair.load();
    let before = roots(&two.other).await?;
    let one = two.pair.mesh.authority.as_ref().context("it runs")?;
    let other = two.other.authority.as_ref().context("it runs")?;
    other.signal(Signal::STOP)?;
    rotate(&two.pair.mesh, quickly()).await?;
    reaches(&two.pair.mesh, "it waits", |it| it.phase == "distribute").await?;
    one.signal(Signal::STOP)?;
    other.signal(Signal::CONT)?;
    reaches(&two.other, "it is seen", |it| it.phase == "distribute").await?;
    abort(&two.other).await?;
    // Nobody but the one that takes the lease goes on.
    let aborted = reaches(&two.other, "aborted", |it| it.phase == "aborted").await?;
    one.signal(Signal::CONT)?;
    let told = reaches(&two.pair.mesh, "aborted there", |it| it.phase == "aborted").await?;
    ensure!(told.id == aborted.id, "{told:#?}");
    ensure!(roots(&two.other).await? == before && roots(&two.pair.mesh).await? == before);
    rotate(&two.pair.mesh, quickly()).await?;
    reaches(&two.other, "done", |it| it.phase == "done").await?;
    load.stop().await.without_failure()?;
    two.pair.talks().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_replica_whose_ledger_was_lost_is_named_and_waited_for_also_by_the_others()
-> anyhow::Result<()> {
    let mut two = Two::start().await?;
    let load = two.pair.load();
    two.other.stop_authority().await?;
    std::fs::remove_dir_all(two.other.directory.join("authority/ledger"))?;
    // Another start forgets nothing of it.
    for _ in 0..2 {
        two.other.spawn_authority()?;
        two.other.authority_is_ready().await?;
        let (status, body) = web::get(two.other.ops_port, "/readyz").await?;
        ensure!(status == 200, "{status} {body}");
        ensure!(body.contains("ARX-LEDGER-LOST"), "{body}");
        two.other.kill_authority().await?;
    }
    two.other.spawn_authority()?;
    two.other.authority_is_ready().await?;
    let health = two.other.status().await?.health;
    let told = health.iter().find(|it| it.code == "ARX-LEDGER-LOST");
    ensure!(told.is_some_and(|it| it.ok && it.warning), "{health:#?}");
    let is_lost = |it: &Unconfirmed| it.node == "ca-2" && it.reason == "history-lost";
    rotate(&two.pair.mesh, quickly()).await?;
    for phase in ["distribute", "reissue", "retire"] {
        force(&two.pair.mesh, phase, is_lost).await?;
    }
    let done = reaches(&two.pair.mesh, "done", |it| it.phase == "done").await?;
    ensure!(done.forced.len() == 3, "{done:#?}");
    load.stop().await.without_failure()?;
    two.pair.talks().await
}

/// What a denial at the first replica says of those that it has not reached.
async fn deny(two: &Two, subject: &str) -> anyhow::Result<Vec<String>> {
    let request = DenyRequest {
        subject: subject.to_owned(),
        reason: "a test".to_owned(),
        ..DenyRequest::default()
    };
    let answer = two.pair.mesh.admin().await?.deny(request).await?;
    Ok(answer.into_inner().unreached)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn who_is_denied_at_one_replica_gets_nothing_from_another_and_one_that_hangs_is_named()
-> anyhow::Result<()> {
    let two = Two::start().await?;
    ensure!(deny(&two, "sa/shop/late").await?.is_empty());
    // The agent of `n2` asks the other replica.
    let agent = &two.pair.agents[1];
    let mut log = agent.process.as_ref().context("it runs")?.log();
    let token = two.pair.mesh.token("shop", "late", "n2");
    let late = Connection::open(&agent.socket, Some(&token)).await?;
    let mut waiting = late.stream(&["default"]).await?;
    log.until("ARX-DENIED", 0).await?;
    ensure!(waiting.is_silent().await);
    let other = two.other.authority.as_ref().context("it runs")?;
    other.signal(Signal::STOP)?;
    ensure!(deny(&two, "sa/shop/later").await? == ["ca-2"]);
    other.signal(Signal::CONT)?;
    Ok(())
}
