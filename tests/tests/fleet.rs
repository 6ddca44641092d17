//! Twenty real Envoys on two nodes, all under load: what rotations do to them, counted by the
//! callers and by the Envoys' own statistics.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::ensure;
use arx_identity::{Certificate, Sequence, Svid, TrustBundle, TrustDomain};
use arx_proto::admin::v1::RotateRootRequest;
use arx_tests::fleet::{Fleet, identity, stopped};
use arx_tests::mesh::{Mesh, Options, TRUST_DOMAIN};
use arx_tests::rotating::{abort, distrust, quickly, reaches, roots, rotate};
use arx_tests::thief::{Thief, call};

const NODES: usize = 2;
const PROXIES: usize = 20;
/// What he is refused this often is enough.
const REFUSALS: u64 = 5;

fn now() -> SystemTime {
    arx_daemon::Clock::system().now()
}

/// One call of a thief, who knows whom to believe himself, to the second proxy.
async fn steals(mesh: &Mesh, forged: &Svid, port: u16) -> anyhow::Result<String> {
    let roots = roots(mesh).await?;
    let roots: Result<_, _> = roots.iter().map(|it| Certificate::from_der(it)).collect();
    let trust_domain = TrustDomain::parse(TRUST_DOMAIN)?;
    let roots = TrustBundle::new(trust_domain, Sequence::default(), roots?)?;
    call(forged, &roots, port, &identity(1)).await
}

/// How often he was answered, and how often he was refused, until `over` and some more.
async fn goes_on_stealing(
    mesh: &Mesh,
    forged: &Svid,
    port: u16,
    over: &AtomicBool,
) -> anyhow::Result<(u64, u64)> {
    let (mut answered, mut refused) = (0, 0);
    loop {
        let ended = over.load(Ordering::Relaxed);
        match steals(mesh, forged, port).await {
            Ok(_) => {
                ensure!(!ended, "he is still believed");
                answered += 1;
            }
            Err(_) => refused += 1,
        }
        if ended && refused >= REFUSALS {
            return Ok((answered, refused));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_proxies_follow_a_rotation_one_that_is_turned_round_and_a_distrust_without_a_failed_request()
-> anyhow::Result<()> {
    let mut fleet = Fleet::start(Options::default(), NODES, PROXIES).await?;
    let mesh = &fleet.mesh;
    let first = (roots(mesh).await?, fleet.serials().await?);
    let loads = fleet.load();

    rotate(mesh, quickly()).await?;
    let done = reaches(mesh, "done", |it| it.phase == "done").await?;
    ensure!(done.forced.is_empty() && !done.aborting, "{done:?}");
    let second = (roots(mesh).await?, fleet.serials().await?);
    ensure!(second.0.len() == 1 && second.0 != first.0);
    let renewed = first.1.iter().zip(&second.1);
    ensure!(renewed.filter(|(before, after)| before == after).count() == 0);

    // Half of them are renewed by the time that it is turned round, more or less.
    let slowly = RotateRootRequest {
        window_ms: Some(4000),
        ..quickly()
    };
    rotate(mesh, slowly).await?;
    reaches(mesh, "half-way", |it| {
        it.phase == "reissue" && it.unconfirmed_total <= PROXIES as u64 / 2
    })
    .await?;
    abort(mesh).await?;
    let ended = reaches(mesh, "aborted", |it| it.phase == "aborted").await?;
    ensure!(ended.forced.is_empty(), "{ended:?}");
    ensure!(roots(mesh).await? == second.0, "it ends as it began");
    let failures = fleet.failures().await?;
    ensure!(failures.is_empty(), "{failures:?}");

    // Somebody takes the state with him, and is believed by it.
    fleet.mesh.stop_authority().await?;
    let thief = Thief::of(&fleet.mesh, now()).await?;
    fleet.mesh.spawn_authority()?;
    fleet.mesh.authority_is_ready().await?;
    let mesh = &fleet.mesh;
    let forged = thief.forge(&identity(0), now())?;
    let port = fleet.proxies[1].ports.inbound;
    let said = steals(mesh, &forged, port).await?;
    ensure!(said.contains(&identity(0)), "{said}");
    let third = fleet.serials().await?;

    let over = AtomicBool::new(false);
    let stealing = goes_on_stealing(mesh, &forged, port, &over);
    let cutting = async {
        let root = thief.root_id()?.to_string();
        distrust(mesh, &root, Duration::from_secs(30)).await?;
        let done = reaches(mesh, "cut off", |it| it.phase == "done").await?;
        over.store(true, Ordering::Relaxed);
        anyhow::Ok(done)
    };
    let ((answered, refused), done) = tokio::try_join!(stealing, cutting)?;
    ensure!(answered > 0, "he is believed until the end");
    ensure!(
        done.kind == "distrust" && done.forced.is_empty(),
        "{done:?}"
    );
    let fourth = (roots(mesh).await?, fleet.serials().await?);
    ensure!(fourth.0.len() == 1 && fourth.0 != second.0);
    let renewed = third.iter().zip(&fourth.1);
    ensure!(renewed.filter(|(before, after)| before == after).count() == 0);

    tokio::time::timeout(Duration::from_secs(30), fleet.talks()).await??;
    let outcome = stopped(loads).await?;
    outcome.without_failure()?;
    eprintln!(
        "{} requests were answered; {answered} of the thief's were, and {refused} not",
        outcome.good
    );
    // What failed is what he was refused, each time, and nothing else.
    let failures = fleet.failures().await?;
    let name = format!("p1 listener.127.0.0.1_{port}.ssl.fail_verify_error");
    ensure!(
        failures.len() == 1 && failures.get(&name) == Some(&refused),
        "{refused} refusals: {failures:?}"
    );
    Ok(())
}
