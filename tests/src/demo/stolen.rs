//! `make demo-distrust`: somebody has stolen the key of the root, and it is cut out while two
//! Envoys talk. Only he notices.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use arx_daemon::Clock;
use arx_identity::{Certificate, Sequence, Svid, TrustBundle, TrustDomain};
use arx_proto::admin::v1::GetBundleRequest;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::mesh::{Mesh, Options, TRUST_DOMAIN};
use crate::pair::{API, Pair, WEB};
use crate::process::binary;
use crate::thief::{Line, Thief, call};

/// When it ends at the latest.
const LONGEST: Duration = Duration::from_secs(110);
/// Between two calls of the thief.
const PAUSE: Duration = Duration::from_millis(100);
/// How long he is watched before and after.
const WATCHED: Duration = Duration::from_secs(3);

/// Runs the demo.
///
/// # Errors
/// If anything does not start, a request of anybody but the thief failed, or the thief is
/// believed when the distrust is done.
pub async fn run() -> anyhow::Result<()> {
    let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    // Dropping what runs ends it; the folder goes last.
    let temporary = tempfile::Builder::new()
        .prefix("arx-demo-")
        .tempdir_in("/tmp")?;
    tokio::select! {
        outcome = timeout(LONGEST, play(temporary.path())) => {
            outcome.with_context(|| format!("it took longer than {} s: is this machine very busy?", LONGEST.as_secs()))?
        }
        _ = interrupt.recv() => anyhow::bail!("it was ended by a signal"),
        _ = terminate.recv() => anyhow::bail!("it was ended by a signal"),
    }
}

async fn play(directory: &Path) -> anyhow::Result<()> {
    let clock = Clock::system();
    let started = Instant::now();
    let say = |what: &str| println!("[{:>3} s] {what}", started.elapsed().as_secs());
    println!("Starting, in {}:", directory.display());
    let mut mesh = Mesh::at(directory, Options::default())?;
    mesh.start_authority().await.context("the authority")?;
    mesh.stop_authority().await?;
    let thief = Thief::of(&mesh, clock.now()).await?;
    mesh.spawn_authority()?;
    mesh.authority_is_ready().await?;
    println!(
        "  arx-ca             the authority; its root is {}",
        thief.root.subject()
    );
    println!(
        "  a thief            part of this demo: it has copied the state file and the sealing key, and so has the root's key"
    );
    let pair = Pair::over(mesh, |_| {}).await?;
    println!(
        "  arx-node-agent x2, envoy x2, and an application behind each: web calls api, by mTLS\n"
    );
    let load = pair.load();
    let port = pair.api.ports.inbound;
    let forged = thief.forge(WEB, clock.now())?;
    let mut kept = Line::open(&forged, &roots(&pair.mesh).await?, port, API).await?;
    kept.call().await.context("the thief is not believed")?;
    let calls = Calls::start(&pair.mesh, &forged, port).await?;
    sleep(WATCHED).await;
    let (believed, refused) = calls.so_far();
    say(&format!(
        "the thief has made itself a certificate for {WEB}, and calls api: answered {believed} times, refused {refused} times"
    ));
    ensure!(believed > 0 && refused == 0, "the thief is not believed");

    let root = thief.root_id()?.to_string();
    let root = &root[..16];
    say(&format!("$ arx distrust {root} --dry-run"));
    arx(&pair.mesh, &["distrust", root, "--dry-run"]).await?;
    say(&format!(
        "$ arx distrust {root} --reason \"its key was stolen\" --watch"
    ));
    let begun = Instant::now();
    let reason = ["--reason", "its key was stolen", "--watch"];
    arx(&pair.mesh, &[&["distrust", root][..], &reason].concat()).await?;
    let took = begun.elapsed();
    calls.know(roots(&pair.mesh).await?);
    let before = calls.so_far();
    sleep(WATCHED).await;
    let after = calls.so_far();
    let last = call(&forged, &roots(&pair.mesh).await?, port, API).await;
    say("$ arx rotate report r1");
    arx(&pair.mesh, &["rotate", "report", "r1"]).await?;

    let outcome = load.stop().await;
    println!("\nAfter {} s:", started.elapsed().as_secs());
    println!(
        "  the stolen root was cut out in {}.{} s",
        took.as_secs(),
        took.subsec_millis() / 100
    );
    println!(
        "  web calls api: {} requests sent, {} failed",
        outcome.good + outcome.failed,
        outcome.failed
    );
    let late = after.0 - before.0;
    println!(
        "  the thief calls api, on new connections: answered {} times until then, {late} times since, refused {} times since",
        before.0,
        after.1 - before.1
    );
    let survives = kept.call().await.is_ok();
    println!(
        "  the connection that the thief had open before {}",
        if survives {
            "still works: proxies keep open connections; restarting the proxy of api ends it"
        } else {
            "is closed"
        }
    );
    outcome.without_failure()?;
    ensure!(late == 0 && last.is_err(), "the thief is still believed");
    ensure!(after.1 > before.1, "the thief has not even tried");
    pair.talks().await?;
    println!("Nobody but the thief has noticed anything.");
    Ok(())
}

async fn roots(mesh: &Mesh) -> anyhow::Result<TrustBundle> {
    let bundle = mesh.admin().await?.get_bundle(GetBundleRequest {}).await?;
    let roots = bundle.into_inner().roots;
    let roots: Result<_, _> = roots
        .iter()
        .map(|root| Certificate::from_der(root))
        .collect();
    let trust_domain = TrustDomain::parse(TRUST_DOMAIN)?;
    Ok(TrustBundle::new(trust_domain, Sequence::default(), roots?)?)
}

/// Runs `arx`, and shows what it says.
async fn arx(mesh: &Mesh, arguments: &[&str]) -> anyhow::Result<()> {
    let mut child = Command::new(binary("arx")?)
        .arg("--socket")
        .arg(mesh.admin_socket())
        .args(arguments)
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let out = child.stdout.take().context("standard output is piped")?;
    let mut lines = BufReader::new(out).lines();
    while let Some(line) = lines.next_line().await? {
        println!("        {line}");
    }
    let status = child.wait().await?;
    ensure!(status.success(), "arx {arguments:?}: {status}");
    Ok(())
}

/// The thief's calls, each on a connection of its own.
struct Calls {
    shared: Arc<Mutex<Told>>,
    _calling: JoinSet<()>,
}

struct Told {
    roots: TrustBundle,
    believed: u64,
    refused: u64,
}

impl Told {
    fn count(&mut self, believed: bool) {
        if believed {
            self.believed += 1;
        } else {
            self.refused += 1;
        }
    }
}

impl Calls {
    async fn start(mesh: &Mesh, forged: &Svid, port: u16) -> anyhow::Result<Self> {
        let shared = Arc::new(Mutex::new(Told {
            roots: roots(mesh).await?,
            believed: 0,
            refused: 0,
        }));
        let (told, forged) = (Arc::clone(&shared), forged.clone());
        let mut calling = JoinSet::new();
        calling.spawn(async move {
            loop {
                let roots = locked(&told).roots.clone();
                let answer = call(&forged, &roots, port, API).await;
                locked(&told).count(answer.is_ok());
                sleep(PAUSE).await;
            }
        });
        Ok(Self {
            shared,
            _calling: calling,
        })
    }

    /// He trusts whatever api trusts: it is api that has to refuse.
    fn know(&self, roots: TrustBundle) {
        locked(&self.shared).roots = roots;
    }

    /// Answered, and refused.
    fn so_far(&self) -> (u64, u64) {
        let told = locked(&self.shared);
        (told.believed, told.refused)
    }
}

fn locked(told: &Mutex<Told>) -> std::sync::MutexGuard<'_, Told> {
    told.lock().unwrap_or_else(PoisonError::into_inner)
}
