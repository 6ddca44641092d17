//! Two replicas of one authority whose clocks are minutes apart.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use arx_ca::seal::Source;
use arx_ca::state::{Decision, Document as _, Lease, Loaded, State, StateError};
use arx_identity::TrustDomain;
use arx_tests::etcd::Etcd;
use arx_tests::faketime;
use arx_tests::mesh::{Mesh, TRUST_DOMAIN};
use arx_tests::process::{Process, until};
use arx_tests::rotating::{abort, quickly, reaches, roots, rotate, stands};
use rustix::process::Signal;

/// So often a lease is renewed in more than the time that it lasts.
const OUTLASTS: u64 = 10;

/// The replicas, of which the first leads; each with a file that says how far its clock is off.
struct Two {
    one: Mesh,
    other: Mesh,
    clocks: [PathBuf; 2],
    state: State,
    _etcd: Etcd,
}

impl Two {
    async fn start(library: &std::path::Path, offsets: [&str; 2]) -> anyhow::Result<Self> {
        let etcd = Etcd::start(1).await?;
        let mut meshes = [etcd.replica("ca-1")?, etcd.replica("ca-2")?];
        let clocks = [0, 1].map(|n: usize| meshes[n].directory.join("clock"));
        for (n, mesh) in meshes.iter_mut().enumerate() {
            std::fs::write(&clocks[n], offsets[n])?;
            let environment = faketime::environment(library, &clocks[n]);
            mesh.reconfigure(|options| options.environment = environment)?;
            mesh.start_authority().await?;
            if n == 0 {
                leads(process(mesh)?, true).await?;
            }
        }
        let trust_domain = TrustDomain::parse(TRUST_DOMAIN)?;
        let store = Arc::new(etcd.store("arx/")?);
        let seal = Source::File {
            path: meshes[0].directory.join("seal.key"),
            create: false,
        };
        let state = State::open(store, seal.seal(false)?, &trust_domain, "tests").await?;
        let [one, other] = meshes;
        Ok(Self {
            one,
            other,
            clocks,
            state,
            _etcd: etcd,
        })
    }

    /// The lease as it is now.
    async fn lease(&self) -> anyhow::Result<Lease> {
        let key = self.state.key(&Lease::KIND);
        let look = |found: Option<Loaded<Lease>>| {
            Ok::<_, StateError>(Decision::<Lease, _>::Keep(found.map(|it| it.value)))
        };
        let lease = self.state.update(&key, look).await?;
        lease.context("there is a lease")
    }

    /// Waits for longer than a lease lasts, all of which this replica has it in one term.
    async fn keeps(&self, holder: &str) -> anyhow::Result<Lease> {
        let before = self.lease().await?;
        ensure!(before.holder == holder, "{before:?}");
        until("the lease is renewed", || async {
            let lease = self.lease().await?;
            Ok(lease.term > before.term || lease.renewed >= before.renewed + OUTLASTS)
        })
        .await?;
        let after = self.lease().await?;
        ensure!(
            after.holder == holder && after.term == before.term,
            "{after:?}"
        );
        Ok(before)
    }
}

fn process(mesh: &Mesh) -> anyhow::Result<&Process> {
    mesh.authority.as_ref().context("it runs")
}

/// Waits until a replica says that it leads, or does not any more.
async fn leads(process: &Process, leads: bool) -> anyhow::Result<()> {
    let mut log = process.log();
    let said = |record: &serde_json::Value| {
        record["message"] == "the leader has changed" && record["leads"] == leads
    };
    log.record("the leader has changed", said).await?;
    Ok(())
}

/// How often it has begun to lead.
fn began(process: &Process) -> usize {
    let log = process.log();
    let lines = log.lines();
    let changes = lines
        .iter()
        .filter(|it| it.contains("the leader has changed"));
    changes.filter(|it| it.contains("true")).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn replicas_whose_clocks_are_minutes_apart_never_both_lead_and_a_late_one_changes_nothing()
-> anyhow::Result<()> {
    let Some(library) = faketime::library()? else {
        return Ok(());
    };
    let two = Two::start(&library, ["+30m", "+40m"]).await?;
    let (one, other) = (process(&two.one)?, process(&two.other)?);
    let first = two.keeps("ca-1").await?;
    // Further apart, at one blow: for the clock of the other, the lease has not been renewed for long.
    for (n, offset, jumps) in [(0, "+10m", one), (1, "+60m", other)] {
        std::fs::write(&two.clocks[n], offset)?;
        jumps.log().until("ARX-CLOCK-JUMP", 0).await?;
        ensure!(two.keeps("ca-1").await?.term == first.term);
    }
    ensure!(began(one) == 1 && began(other) == 0);

    // The leader stops in the middle of a rotation, and the other has decided when it goes on.
    let before = roots(&two.other).await?;
    other.signal(Signal::STOP)?;
    rotate(&two.one, quickly()).await?;
    reaches(&two.one, "it waits", |it| it.phase == "distribute").await?;
    one.signal(Signal::STOP)?;
    other.signal(Signal::CONT)?;
    leads(other, true).await?;
    abort(&two.other).await?;
    let aborted = reaches(&two.other, "aborted", |it| it.phase == "aborted").await?;
    one.signal(Signal::CONT)?;
    leads(one, false).await?;
    reaches(&two.one, "aborted there", |it| it.phase == "aborted").await?;
    ensure!(two.keeps("ca-2").await?.term == first.term + 1);
    ensure!(began(one) == 1 && began(other) == 1);
    let stands = stands(&two.other).await?;
    ensure!(
        stands.id == aborted.id && stands.phase == "aborted",
        "{stands:#?}"
    );
    ensure!(roots(&two.other).await? == before && roots(&two.one).await? == before);
    Ok(())
}
