//! State in etcd: every promise of a store kept by real members, members that go and come back,
//! and an authority that lives on it.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use anyhow::ensure;
use arx_ca::seal::Seal;
use arx_ca::state::State;
use arx_ca::store::faults::Faulty;
use arx_ca::store::{CasError, Key, Prefix, Segment, Shared, Store};
use arx_ca::store_keeps_all_promises;
use arx_daemon::files::write_atomically;
use arx_identity::TrustDomain;
use arx_tests::etcd::Etcd;
use arx_tests::http as web;
use arx_tests::mesh::{Mesh, Options, TRUST_DOMAIN};
use arx_tests::openssl::Ca;
use arx_tests::pair::Pair;
use arx_tests::process::{PATIENCE, binary, until};
use arx_tests::rotating::{quickly, reaches, roots, rotate};
use rustix::process::Signal;

fn trust_domain() -> anyhow::Result<TrustDomain> {
    Ok(TrustDomain::parse(TRUST_DOMAIN)?)
}

fn key(name: &str) -> anyhow::Result<Key> {
    let key = Key::new(&trust_domain()?, &Segment::fixed("kind"));
    Ok(key.named(Segment::parse(name)?))
}

/// Writes `key` until that is known to be done.
async fn write(store: &dyn Store, key: &Key) -> anyhow::Result<()> {
    until("a write", || async {
        match store.compare_and_swap(key, None, "one".into()).await {
            // It is there already: an attempt of ours whose answer was lost.
            Ok(_) | Err(CasError::Conflict { .. }) => Ok(true),
            Err(error) => Err(error.into()),
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_keeps_every_promise_of_a_store_also_behind_faults() -> anyhow::Result<()> {
    let etcd = Etcd::start(1).await?;
    let store = |prefix: &str| etcd.store(prefix).expect("its options can be used");
    store_keeps_all_promises!(async |name: &str| store(&format!("{name}/")));
    let faulty = async |name: &str| Faulty::new(Arc::new(store(&format!("faulty/{name}/"))));
    store_keeps_all_promises!(faulty);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_replica_promises_in_etcd_holds_whatever_is_lost_or_late() -> anyhow::Result<()> {
    let etcd = Etcd::start(1).await?;
    for seed in 1..=5 {
        let prefix = format!("seed-{seed}/");
        let faulty: Shared = Faulty::seeded(Arc::new(etcd.store(&prefix)?), seed, 30).into();
        let state = until_done(|| State::open(faulty.clone(), Seal::plain(), &TD, "tests")).await;
        let replica = until_done(|| state.replica(Some("r1"), UNIX_EPOCH)).await;
        let whole: Shared = Arc::new(etcd.store(&prefix)?);
        let seen = State::open(whole, Seal::plain(), &TD, "tests").await?;
        for generation in 1..=20 {
            until_done(|| replica.saw_authorities(generation)).await;
            let stored = seen.replicas().await?;
            let promised = stored
                .first()
                .map(|(_, document)| document.seen.authorities);
            ensure!(promised == Some(generation), "{promised:?}");
        }
    }
    Ok(())
}

static TD: std::sync::LazyLock<TrustDomain> =
    std::sync::LazyLock::new(|| trust_domain().expect("it is one"));

/// What comes out when `act` is done again as often as it fails.
async fn until_done<T, E, F>(mut act: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, E>>,
{
    loop {
        if let Ok(done) = act().await {
            return done;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_member_of_three_may_hang_or_die_and_nothing_that_was_written_is_missed()
-> anyhow::Result<()> {
    let mut etcd = Etcd::start(3).await?;
    let (store, other) = (etcd.store("arx/")?, etcd.store("arx/")?);
    let all = Prefix::trust_domain(&trust_domain()?);
    let mut changes = store.changes(&all);
    for n in 0..3 {
        etcd.member(n)?.signal(Signal::STOP)?;
        write(&store, &key(&format!("hangs-{n}"))?).await?;
        etcd.member(n)?.signal(Signal::CONT)?;
        etcd.is_ready().await?;
        etcd.kill(n).await?;
        let killed = key(&format!("dies-{n}"))?;
        write(&other, &killed).await?;
        let told = async {
            while store.get(&killed).await.ok().flatten().is_none() {
                changes.changed().await?;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(PATIENCE, told).await??;
        etcd.spawn(n)?;
        etcd.is_ready().await?;
    }
    let found = arx_ca::store::list_all(&store, &all).await?;
    ensure!(found.len() == 6, "{found:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_the_store_says_so_and_goes_on_when_members_are_back() -> anyhow::Result<()>
{
    let mut etcd = Etcd::start(3).await?;
    let store = etcd.store("arx/")?;
    write(&store, &key("before")?).await?;
    etcd.kill(1).await?;
    etcd.member(2)?.signal(Signal::STOP)?;
    until("the word of the member that is left", || async {
        let said = store.probe().await;
        Ok(said.is_err_and(|error| error.code() == "ARX-STORE-NO-QUORUM"))
    })
    .await?;
    let read = store.get(&key("before")?).await;
    ensure!(read.as_ref().is_err_and(|error| error.passes()), "{read:?}");
    etcd.member(2)?.signal(Signal::CONT)?;
    etcd.spawn(1)?;
    etcd.is_ready().await?;
    write(&store, &key("after")?).await?;
    ensure!(store.get(&key("before")?).await?.is_some());
    Ok(())
}

/// Puts a sealing key there, another for each number.
fn seal_with(mesh: &Mesh, number: u8) -> anyhow::Result<()> {
    let key: [u8; 32] = std::array::from_fn(|n| [number, 3, 5, 7][n % 4]);
    Ok(write_atomically(
        mesh.directory.join("seal.key"),
        &key,
        0o600,
    )?)
}

/// A mesh whose authority keeps its state in etcd; the key that seals it is there.
fn mesh(etcd: &Etcd) -> anyhow::Result<Mesh> {
    let mesh = Mesh::prepare(Options {
        authority: etcd.config(),
        ..Options::default()
    })?;
    seal_with(&mesh, 1)?;
    Ok(mesh)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_authority_on_etcd_comes_back_after_a_kill_and_rotates_while_members_die()
-> anyhow::Result<()> {
    let mut etcd = Etcd::start(3).await?;
    let mut mesh = mesh(&etcd)?;
    mesh.start_authority().await?;
    ensure!(!mesh.directory.join("authority/state.redb").exists());
    let mut pair = Pair::over(mesh, |_| {}).await?;
    let before = roots(&pair.mesh).await?;
    let load = pair.load();
    pair.mesh.kill_authority().await?;
    pair.mesh.spawn_authority()?;
    pair.mesh.authority_is_ready().await?;
    ensure!(roots(&pair.mesh).await? == before, "it began anew");
    until("both agents' return", || async {
        Ok(pair.mesh.status().await?.agents_connected == 2)
    })
    .await?;
    rotate(&pair.mesh, quickly()).await?;
    etcd.kill(0).await?;
    reaches(&pair.mesh, "reissue", |it| {
        ["reissue", "retire", "done"].contains(&&*it.phase)
    })
    .await?;
    pair.mesh.kill_authority().await?;
    etcd.spawn(0)?;
    etcd.is_ready().await?;
    etcd.kill(1).await?;
    pair.mesh.spawn_authority()?;
    pair.mesh.authority_is_ready().await?;
    reaches(&pair.mesh, "done", |it| it.phase == "done").await?;
    load.stop().await.without_failure()?;
    ensure!(roots(&pair.mesh).await? != before);
    pair.talks().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_authority_without_its_etcd_goes_on_issuing_and_says_what_is_missing()
-> anyhow::Result<()> {
    let mut etcd = Etcd::start(3).await?;
    let mut mesh = mesh(&etcd)?;
    mesh.start_authority().await?;
    let _first = mesh.agent("n1").await?;
    etcd.kill(0).await?;
    etcd.kill(1).await?;
    until("its word", || async {
        let (status, said) = web::get(mesh.ops_port, "/readyz").await?;
        Ok(status == 503 && said.contains("ARX-STORE-NO-QUORUM"))
    })
    .await?;
    let _second = mesh.agent("n2").await?;
    etcd.spawn(0)?;
    mesh.authority_is_ready().await?;
    // At a start without it the process is there, and waits.
    etcd.kill(0).await?;
    mesh.kill_authority().await?;
    mesh.spawn_authority()?;
    until("its word at the start", || async {
        let (status, said) = web::get(mesh.ops_port, "/readyz").await?;
        Ok(status == 503 && said.contains("ARX-STORE-"))
    })
    .await?;
    etcd.spawn(0)?;
    mesh.authority_is_ready().await
}

/// What `arx-ca check` says, and with which exit code.
fn check(config: &Path) -> anyhow::Result<(Option<i32>, String)> {
    let output = Command::new(binary("arx-ca")?)
        .args(["--config".as_ref(), config.as_os_str(), "check".as_ref()])
        .output()?;
    let said = [output.stdout, output.stderr].concat();
    Ok((
        output.status.code(),
        String::from_utf8_lossy(&said).into_owned(),
    ))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_check_tells_whether_etcd_lets_the_authority_in() -> anyhow::Result<()> {
    let mut etcd = Etcd::start(1).await?;
    let mesh = mesh(&etcd)?;
    let config = mesh.authority_config();
    let (code, said) = check(&config)?;
    ensure!(code == Some(0) && said.contains("will be made"), "{said}");
    // Authorities that did not sign the members' certificates.
    let text = std::fs::read_to_string(&config)?;
    let _stranger = Ca::root(&mesh.directory, "stranger")?;
    let believed = text.lines().find(|line| line.starts_with("ca_file"));
    let stranger = format!("ca_file = {:?}", mesh.directory.join("stranger.pem"));
    std::fs::write(&config, text.replace(believed.unwrap_or("?"), &stranger))?;
    let (code, said) = check(&config)?;
    ensure!(
        code == Some(2) && said.contains("ARX-STORE-UNAVAILABLE"),
        "{said}"
    );
    std::fs::write(&config, text.replace("/client.key", "/nothing.key"))?;
    let (code, said) = check(&config)?;
    ensure!(
        code == Some(2) && said.contains("state.etcd") && said.contains("nothing.key"),
        "{said}"
    );
    std::fs::write(&config, &text)?;
    std::fs::remove_file(mesh.directory.join("seal.key"))?;
    let (code, said) = check(&config)?;
    ensure!(
        code == Some(2) && said.contains("all replicas need the same key"),
        "{said}"
    );
    seal_with(&mesh, 1)?;
    etcd.kill(0).await?;
    let (code, said) = check(&config)?;
    ensure!(
        code == Some(2) && said.contains("ARX-STORE-UNAVAILABLE"),
        "{said}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn another_sealing_key_opens_nothing_of_a_shared_state() -> anyhow::Result<()> {
    let etcd = Etcd::start(1).await?;
    let mut mesh = mesh(&etcd)?;
    mesh.start_authority().await?;
    mesh.stop_authority().await?;
    seal_with(&mesh, 2)?;
    mesh.spawn_authority()?;
    let Some(process) = &mut mesh.authority else {
        anyhow::bail!("it was started");
    };
    let ended = process.ended().await?;
    ensure!(!ended.success(), "{ended}");
    let said = process.log().tail();
    ensure!(said.contains("ARX-SEAL-"), "{said}");
    Ok(())
}
