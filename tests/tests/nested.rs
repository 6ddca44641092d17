//! An authority below another one, in one trust domain, with real processes and Envoys.

use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use arx_daemon::files::write_atomically;
use arx_identity::{Certificate, tls};
use arx_proto::nested::v1::CertifyRequest;
use arx_proto::nested::v1::nested_client::NestedClient;
use arx_tests::across::{Across, BELOW, above, below, points_to, token};
use arx_tests::http as web;
use arx_tests::mesh::{Mesh, Options, TRUST_DOMAIN};
use arx_tests::node::{Authority, Http2};
use arx_tests::process::until;
use arx_tests::rotating::roots;
use arx_tests::sds::{Connection, secrets, svid};

/// Waits until the authority says on its operator's port that it does not start, and why.
async fn waits(mesh: &Mesh, words: &[&str]) -> anyhow::Result<()> {
    let seen = until(words[0], || async {
        let (status, body) = web::get(mesh.ops_port, "/readyz").await?;
        Ok(status == 503 && words.iter().all(|word| body.contains(word)))
    });
    let log = || mesh.authority.as_ref().map(|it| it.log().tail());
    seen.await.with_context(|| format!("{:?}", log()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn proxies_of_an_authority_and_of_one_below_it_believe_each_other_and_neither_needs_the_other()
-> anyhow::Result<()> {
    let mut up = Mesh::start(above()).await?;
    let mut down = below(&up, "arx-ca", "")?;
    // What is above is away at the first start, which waits for it.
    up.stop_authority().await?;
    down.spawn_authority()?;
    waits(&down, &["ARX-UPSTREAM-UNREACHABLE", "cannot be reached"]).await?;
    up.start_authority().await?;
    down.authority_is_ready().await?;
    down.write_bundle().await?;
    ensure!(roots(&down).await? == roots(&up).await?);

    let across = Across::start(&up, &down).await?;
    across.talks().await?;
    let status = down.status().await?;
    let upper = status.authorities.iter().find(|it| it.role == "upper");
    let upper = Certificate::from_der(&upper.context("an upper intermediate")?.certificate)?;
    ensure!(upper.subject().contains("nested:west"), "{upper:?}");
    let days = upper
        .not_after()
        .duration_since(upper.not_before())?
        .as_secs()
        / 86_400;
    ensure!(days == 30, "as long as it may: {days} days");

    // It is in the ledger above who was certified, and on what.
    let records = std::process::Command::new(arx_tests::process::binary("arx")?)
        .arg("--socket")
        .arg(up.admin_socket())
        .args(["ledger", "export", "--last", "1h"])
        .output()?;
    let records = String::from_utf8(records.stdout)?;
    ensure!(
        records
            .lines()
            .any(|line| line.contains("certify authority")
                && line.contains(BELOW)
                && line.contains("nested:west")
                && line.contains("token of arx-system/arx-ca")),
        "{records}"
    );

    // Once it has certified, it may be away, and the one below starts again.
    up.stop_authority().await?;
    down.stop_authority().await?;
    down.spawn_authority()?;
    down.authority_is_ready().await?;
    across.talks().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_authority_comes_by_mutual_tls_with_a_certificate_of_the_one_above_and_of_none_below()
-> anyhow::Result<()> {
    let up = Mesh::start(above()).await?;
    let files = |mesh: &Mesh| -> (PathBuf, PathBuf) {
        let at = |name: &str| mesh.directory.join(name);
        (at("own.pem"), at("own.key"))
    };
    // What a client of the agent's socket keeps of the identity of `arx-ca`.
    let keep = async |of: &Mesh, node: &str, at: &(PathBuf, PathBuf)| -> anyhow::Result<()> {
        let agent = of.agent(node).await?;
        let token = of.token("arx-system", "arx-ca", node);
        let connection = Connection::open(&agent.socket, Some(&token)).await?;
        let response = connection.stream(&["default"]).await?.next().await?;
        let svid = svid(&secrets(&response)?[0])?;
        write_atomically(&at.0, svid.chain().pem().as_bytes(), 0o644)?;
        write_atomically(&at.1, svid.key().pkcs8_pem().as_bytes(), 0o600)?;
        Ok(())
    };
    let start = async |at: &(PathBuf, PathBuf)| -> anyhow::Result<Mesh> {
        let mut down = Mesh::prepare(Options::default())?;
        let (certificate, key) = at;
        let identity = format!("certificate_file = {certificate:?}, key_file = {key:?}");
        points_to(&mut down, &up, &identity)?;
        down.spawn_authority()?;
        Ok(down)
    };
    let own = files(&up);
    keep(&up, "n1", &own).await?;
    let mut down = start(&own).await?;
    down.authority_is_ready().await?;
    down.write_bundle().await?;

    // The same identity by the authority below, which could issue any.
    let forged = files(&down);
    keep(&down, "n2", &forged).await?;
    let third = start(&forged).await?;
    waits(
        &third,
        &["ARX-UPSTREAM-REFUSED", "ARX-NESTED-ISSUER", "issued itself"],
    )
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn who_is_not_on_the_list_or_asks_for_more_than_it_may_have_gets_nothing_and_is_told_why()
-> anyhow::Result<()> {
    let up = Mesh::start(above()).await?;
    for (account, more, words) in [
        ("other", "", &["ARX-NESTED-NOT-ALLOWED", "[[nested]]"][..]),
        (
            "arx-ca",
            "ttl = \"31d\"",
            &["ARX-NESTED-TTL", "30d", "2678400 s"],
        ),
    ] {
        let mut down = below(&up, account, more)?;
        down.spawn_authority()?;
        let words = [&["ARX-UPSTREAM-REFUSED"], words].concat();
        waits(&down, &words).await.context(account)?;
    }

    // By hand, what no authority of ours would ask.
    let authority = Authority {
        port: up.node_port,
        bundle: up.bundle(),
    };
    let ask = async |domain: &str, path_length: u32, token: &str| -> anyhow::Result<String> {
        let client: tls::Client = authority.tls(None)?;
        let stream = tokio::net::TcpStream::connect(("127.0.0.1", up.node_port)).await?;
        let http = Http2::over(client.connect(stream).await?).await?;
        let key = arx_identity::PrivateKey::generate(arx_identity::KeyAlgorithm::EcdsaP256)?;
        let mut request = tonic::Request::new(CertifyRequest {
            csr: key.create_csr()?.into(),
            trust_domain: domain.to_owned(),
            path_length,
            ttl_seconds: 0,
            ..CertifyRequest::default()
        });
        let bearer = format!("Bearer {token}").parse()?;
        request.metadata_mut().insert("authorization", bearer);
        let origin = http::Uri::from_static("https://authority");
        let answer = NestedClient::with_origin(http, origin)
            .certify(request)
            .await;
        let status = answer.err().context("it is refused")?;
        let code = status.metadata().get("arx-code").context("a code")?;
        Ok(code.to_str()?.to_owned())
    };
    let good = token(&up, "arx-ca");
    ensure!(ask("example.com", 1, &good).await? == "ARX-NESTED-TRUST-DOMAIN");
    ensure!(ask(TRUST_DOMAIN, 2, &good).await? == "ARX-NESTED-PATH-LENGTH");
    ensure!(ask(TRUST_DOMAIN, 0, &good).await? == "ARX-NESTED-PATH-LENGTH");
    // A token that every agent on its node has seen.
    let workload = up.token("arx-system", "arx-ca", "n9");
    ensure!(ask(TRUST_DOMAIN, 1, &workload).await? == "ARX-TOKEN-PURPOSE");
    ensure!(ask(TRUST_DOMAIN, 1, "nonsense").await? == "ARX-TOKEN-MALFORMED");
    Ok(())
}
