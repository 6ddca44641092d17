//! What proxies are pushed over a whole rotation: the roots when they change, and not when another
//! of them begins to sign.

use anyhow::{Context as _, ensure};
use arx_proto::envoy::extensions::transport_sockets::tls::v3::Secret;
use arx_tests::mesh::{Mesh, Options};
use arx_tests::rotating::{quickly, reaches, roots, rotate};
use arx_tests::sds::{Connection, Stream, chain, secrets, trusted};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

const TRUST: [&str; 3] = ["ROOTCA", "ALL", "spiffe://example.org"];

/// Takes whatever comes, as long as anything does.
async fn take(mut stream: Stream, taken: mpsc::UnboundedSender<Secret>) -> anyhow::Result<()> {
    loop {
        let response = stream.next().await?;
        for secret in secrets(&response)? {
            taken.send(secret)?;
        }
        stream.ack(&response)?;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn activation_pushes_no_roots() -> anyhow::Result<()> {
    let mesh = Mesh::start(Options::default()).await?;
    let agent = mesh.agent("n1").await?;
    let token = mesh.token("shop", "web", "n1");
    let proxy = Connection::open(&agent.socket, Some(&token)).await?;
    let (taken, mut all) = mpsc::unbounded_channel();
    let mut takers = JoinSet::new();
    for name in TRUST.iter().chain(&["default"]) {
        takers.spawn(take(proxy.stream(&[name]).await?, taken.clone()));
    }
    let old = roots(&mesh).await?.pop().context("a root")?;
    rotate(&mesh, quickly()).await?;
    // Not before the proxy has taken all that it was pushed.
    reaches(&mesh, "done", |it| it.phase == "done").await?;
    let new = roots(&mesh).await?.pop().context("a root")?;

    let mut pushed = Vec::new();
    while let Ok(secret) = all.try_recv() {
        pushed.push(secret);
    }
    let of = |name: &'static str| pushed.iter().filter(move |it| it.name == name);
    for name in TRUST {
        ensure!(
            of(name).count() == 3,
            "{name} came {} times",
            of(name).count()
        );
    }
    let contents: Vec<_> = of("ROOTCA").map(trusted).collect::<Result<_, _>>()?;
    let contents: Vec<Vec<_>> = contents
        .iter()
        .map(|roots| roots.iter().map(|root| root.der()).collect())
        .collect();
    // However often and whichever signs: the old root stays first while it is there.
    ensure!(contents == [vec![&*old], vec![&*old, &*new], vec![&*new]]);
    // It did sign: the proxy has a leaf under each, below an intermediate.
    let leaves: Vec<_> = of("default").map(chain).collect::<Result<_, _>>()?;
    let issuers: Vec<_> = leaves.iter().map(|it| it.authorities().nth(1)).collect();
    ensure!(issuers.len() >= 2 && issuers.first() != issuers.last());
    Ok(())
}
