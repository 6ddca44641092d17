//! The root's key in a PKCS #11 token: a real one, SoftHSM2, that is asked by real processes.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use arx_identity::Certificate;
use arx_proto::admin::v1::{
    Authority, ContinueRotationRequest, DistrustRequest, RotateRootRequest, RotationStatusRequest,
};
use arx_tests::http;
use arx_tests::mesh::{Mesh, Options};
use arx_tests::process::until;
use arx_tests::rotating::{distrust, quickly, reaches, roots, rotate};
use arx_tests::sds::{Connection, chain, secrets};
use arx_tests::token::{PIN, Token};

/// A mesh whose root has its key in a token, before anything runs.
fn mesh(
    roots: &str,
    table: impl Fn(&Token) -> anyhow::Result<String>,
) -> anyhow::Result<(Mesh, Token)> {
    let mut mesh = Mesh::prepare(Options {
        roots: roots.to_owned(),
        ..Options::default()
    })?;
    let token = Token::new(&mesh.directory.join("hsm"))?;
    let table = table(&token)?;
    mesh.reconfigure(|options| {
        options.authority = table;
        options.environment = token.environment();
    })?;
    Ok((mesh, token))
}

/// The root as the authority describes it.
async fn root(mesh: &Mesh) -> anyhow::Result<Authority> {
    let status = mesh.status().await?;
    let root = status
        .authorities
        .into_iter()
        .find(|one| one.role == "root");
    root.context("there is a root")
}

/// A new workload certificate, verified from the leaf up to the root.
async fn issues(mesh: &Mesh, node: &str) -> anyhow::Result<()> {
    let agent = mesh.agent(node).await?;
    let token = mesh.token("shop", "web", node);
    let pod = Connection::open(&agent.socket, Some(&token)).await?;
    let response = pod.stream(&["default"]).await?.next().await?;
    let chain = chain(&secrets(&response)?[0])?;
    let root = Certificate::from_der(&root(mesh).await?.certificate)?;
    let last = chain.certificates().last().context("not empty")?;
    ensure!(last.is_signed_by(&root), "it stands under the token's root");
    Ok(())
}

/// Waits until the authority is not ready for the reason with this code; answers what it says.
async fn refuses(mesh: &Mesh, code: &str) -> anyhow::Result<String> {
    let port = mesh.ops_port;
    let said = std::cell::RefCell::new(String::new());
    until(code, || async {
        let (_, text) = http::get(port, "/readyz").await?;
        let found = text.contains(code);
        said.replace(text);
        Ok(found)
    })
    .await?;
    Ok(said.into_inner())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn each_kind_of_key_is_made_in_the_token_never_leaves_it_and_is_found_again()
-> anyhow::Result<()> {
    for kind in ["ecdsa-p256", "ecdsa-p384", "rsa-3072", "rsa-4096"] {
        let roots = format!("root_key = \"{kind}\"");
        let (mut mesh, token) = mesh(&roots, |token| Ok(token.table("arx-root", true)))?;
        mesh.start_authority().await?;
        let made = root(&mesh).await?;
        ensure!(made.key_algorithm == kind, "{made:?}");
        ensure!(
            made.custody == "PKCS#11 token arx, key arx-root",
            "{made:?}"
        );
        issues(&mesh, "n1").await?;
        let keys = token.private_keys()?;
        ensure!(keys.len() == 1, "{keys:?}");
        for word in ["arx-root", "never extractable", "always sensitive"] {
            ensure!(keys[0].contains(word), "{word}: {keys:?}");
        }

        mesh.stop_authority().await?;
        mesh.start_authority().await?;
        ensure!(root(&mesh).await?.certificate == made.certificate);
        ensure!(token.private_keys()?.len() == 1, "no other was made");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_key_that_the_operator_has_made_is_found_by_its_label_and_none_is_made_beside_it()
-> anyhow::Result<()> {
    for (kind, made) in [
        ("EC:prime256v1", "ecdsa-p256"),
        ("EC:secp384r1", "ecdsa-p384"),
        ("rsa:3072", "rsa-3072"),
        ("rsa:4096", "rsa-4096"),
    ] {
        let (mut mesh, token) = mesh("", |token| Ok(token.table("ceremony", false)))?;
        token.make_key("EC:prime256v1", "of-somebody-else")?;
        mesh.spawn_authority()?;
        let said = refuses(&mesh, "ARX-SIGNER-KEY-MISSING").await?;
        ensure!(
            said.contains("ceremony") && said.contains("make = true"),
            "{said}"
        );

        token.make_key(kind, "ceremony")?;
        // By itself, once it is there.
        mesh.authority_is_ready().await?;
        mesh.stop_authority().await?;
        mesh.start_authority().await?;
        ensure!(root(&mesh).await?.key_algorithm == made);
        issues(&mesh, "n1").await?;
        ensure!(token.private_keys()?.len() == 2, "none was made");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_root_of_the_operators_is_taken_whose_key_is_in_the_token() -> anyhow::Result<()> {
    // The certificate comes from a first authority; the second knows nothing of that one.
    let (mut mesh, _token) = mesh("", |token| Ok(token.table("arx-root", true)))?;
    mesh.start_authority().await?;
    let certificate = root(&mesh).await?.certificate;
    mesh.stop_authority().await?;
    std::fs::remove_dir_all(mesh.directory.join("authority"))?;
    let file = mesh.directory.join("root.pem");
    std::fs::write(&file, arx_tests::mesh::pem("CERTIFICATE", &certificate))?;
    mesh.reconfigure(|options| options.roots = format!("certificate_file = {file:?}"))?;

    mesh.start_authority().await?;
    let taken = root(&mesh).await?;
    ensure!(taken.certificate == certificate);
    ensure!(
        taken.custody == "PKCS#11 token arx, key arx-root",
        "{taken:?}"
    );
    issues(&mesh, "n1").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_root_in_the_token_is_rotated_to_one_with_a_key_that_is_made_beside_it()
-> anyhow::Result<()> {
    let (mut mesh, token) = mesh("", |token| Ok(token.table("arx-root", true)))?;
    mesh.start_authority().await?;
    let before = root(&mesh).await?;
    issues(&mesh, "n1").await?;
    let request = RotateRootRequest {
        window_ms: Some(0),
        dwell_ms: Some(100),
        ..RotateRootRequest::default()
    };
    // With an agent, so that there is somebody who has to confirm.
    let _agent = mesh.agent("n2").await?;
    mesh.admin().await?.rotate_root(request).await?;
    until("it is done", || async {
        let request = RotationStatusRequest::default();
        let answer = mesh.admin().await?.rotation_status(request).await?;
        let rotation = answer.into_inner().rotation.context("it is under way")?;
        if rotation.unconfirmed.iter().any(|one| one.node == "c1/n1") {
            // Its agent is gone.
            let request = ContinueRotationRequest {
                id: rotation.id,
                force: true,
                reason: "it is gone".to_owned(),
                digest: rotation.unconfirmed_digest,
            };
            let _grown = mesh.admin().await?.continue_rotation(request).await;
        }
        Ok(rotation.phase == "done" && rotation.message.contains("yours to remove"))
    })
    .await?;
    let after = root(&mesh).await?;
    ensure!(after.certificate != before.certificate);
    ensure!(after.custody.starts_with("PKCS#11 token arx, key arx-root"));
    ensure!(after.custody != before.custody, "{after:?}");
    ensure!(token.private_keys()?.len() == 2);
    mesh.stop_authority().await?;
    mesh.start_authority().await?;
    ensure!(root(&mesh).await?.certificate == after.certificate);
    issues(&mesh, "n3").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_rotation_that_is_asked_for_while_the_token_is_out_says_so_and_goes_on_when_it_is_back()
-> anyhow::Result<()> {
    let (mut mesh, token) = mesh("", |token| Ok(token.table("arx-root", true)))?;
    mesh.start_authority().await?;
    let before = root(&mesh).await?;
    let now = || async {
        let request = RotationStatusRequest::default();
        let answer = mesh.admin().await?.rotation_status(request).await?;
        answer.into_inner().rotation.context("it is under way")
    };
    for id in ["r1", "r2"] {
        token.unplug()?;
        let request = RotateRootRequest {
            window_ms: Some(0),
            dwell_ms: Some(100),
            ..RotateRootRequest::default()
        };
        mesh.admin().await?.rotate_root(request).await?;
        until("it says what keeps it from going on", || async {
            let rotation = now().await?;
            let says = rotation.message.contains("ARX-SIGNER-UNREACHABLE");
            let trouble = http::metric(mesh.ops_port, "arx_ca_rotation_trouble").await?;
            let told = says && trouble == Some(1.0);
            Ok(told && (&*rotation.id, &*rotation.phase) == (id, "prepare"))
        })
        .await?;
        token.plug()?;
        until("it is done", || async { Ok(now().await?.phase == "done") }).await?;
    }
    ensure!(root(&mesh).await?.certificate != before.certificate);
    ensure!(token.private_keys()?.len() == 3);
    mesh.write_bundle().await?;
    issues(&mesh, "n1").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_token_that_is_unplugged_in_the_middle_of_a_rotation_keeps_it_where_it_is_until_it_is_back()
-> anyhow::Result<()> {
    let (mut mesh, token) = mesh("", |token| Ok(token.table("arx-root", true)))?;
    mesh.start_authority().await?;
    let before = root(&mesh).await?;
    let slowly = RotateRootRequest {
        dwell_ms: Some(2000),
        ..quickly()
    };
    rotate(&mesh, slowly).await?;
    reaches(&mesh, "both are published", |it| it.bundle_number == 2).await?;
    token.unplug()?;
    let told = reaches(&mesh, "it says what keeps it", |it| {
        it.phase == "activate" && it.message.contains("ARX-SIGNER-UNREACHABLE")
    })
    .await?;
    ensure!(
        told.ended_unix_ms == 0 && told.forced.is_empty(),
        "{told:?}"
    );
    token.plug()?;
    reaches(&mesh, "done", |it| it.phase == "done").await?;
    ensure!(root(&mesh).await?.certificate != before.certificate);
    mesh.write_bundle().await?;
    issues(&mesh, "n1").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_token_that_is_unplugged_once_the_new_root_has_taken_over_does_not_keep_the_rotation_where_it_is()
-> anyhow::Result<()> {
    let (mut mesh, token) = mesh("", |token| Ok(token.table("arx-root", true)))?;
    mesh.start_authority().await?;
    let before = root(&mesh).await?;
    let slowly = RotateRootRequest {
        dwell_ms: Some(2000),
        ..quickly()
    };
    rotate(&mesh, slowly).await?;
    reaches(&mesh, "the new root signs", |it| {
        it.phase == "activate" && it.gate == "dwell"
    })
    .await?;
    token.unplug()?;
    reaches(&mesh, "it has gone on", |it| it.phase != "activate").await?;
    token.plug()?;
    let done = reaches(&mesh, "done", |it| it.phase == "done").await?;
    ensure!(done.forced.is_empty(), "{done:?}");
    ensure!(root(&mesh).await?.certificate != before.certificate);
    mesh.write_bundle().await?;
    issues(&mesh, "n2").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_distrust_that_finds_no_token_for_the_next_root_goes_on_without_one_if_that_is_understood()
-> anyhow::Result<()> {
    let (mut mesh, token) = mesh("", |token| Ok(token.table("arx-root", true)))?;
    mesh.start_authority().await?;
    let before = Certificate::from_der(&root(&mesh).await?.certificate)?;
    token.unplug()?;
    let id = before.subject_key_id().context("a root has one")?;
    let id = id.to_string();
    distrust(&mesh, &id, Duration::from_secs(2)).await?;
    reaches(&mesh, "no other root can be made", |it| {
        it.phase == "prepare" && it.message.contains("ARX-SIGNER-UNREACHABLE")
    })
    .await?;
    let request = DistrustRequest {
        authority: id,
        reason: "at once".to_owned(),
        nothing_will_connect: true,
        ..DistrustRequest::default()
    };
    mesh.admin().await?.distrust(request).await?;
    let done = reaches(&mesh, "done", |it| it.phase == "done").await?;
    ensure!(done.without_successor && done.id == "r1", "{done:?}");
    refuses(&mesh, "ARX-AUTHORITY-NOTHING-TRUSTED").await?;

    // The token is back: the next start makes another root there.
    token.plug()?;
    mesh.stop_authority().await?;
    mesh.spawn_authority()?;
    mesh.authority_is_ready().await?;
    let roots = roots(&mesh).await?;
    ensure!(roots.len() == 1 && roots[0] != *before.der());
    ensure!(token.private_keys()?.len() == 2);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_wrong_pin_is_tried_once_and_again_only_when_its_file_has_changed() -> anyhow::Result<()>
{
    let (mut mesh, token) = mesh("", |token| token.spied("arx-root", true))?;
    token.write_pin("pin-99999999")?;
    mesh.spawn_authority()?;
    let said = refuses(&mesh, "ARX-SIGNER-PIN").await?;
    ensure!(said.contains("not tried again"), "{said}");
    // It goes on asking for the key, and does not log in.
    let asked = token.calls_of("C_GetTokenInfo")?;
    until("more attempts", || async {
        Ok(token.calls_of("C_GetTokenInfo")? > asked + 2)
    })
    .await?;
    ensure!(
        token.calls_of("C_Login")? == 1,
        "tokens lock after some tries"
    );

    token.write_pin(PIN)?;
    mesh.authority_is_ready().await?;
    ensure!(token.calls_of("C_Login")? == 2);
    let log = mesh.authority.as_ref().context("it runs")?.log();
    for pin in ["pin-99999999", PIN] {
        ensure!(log.count(pin) == 0, "a PIN is in the log");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn while_the_token_is_out_issuance_goes_on_and_everybody_is_told_until_when()
-> anyhow::Result<()> {
    let (mut mesh, token) = mesh("", |token| Ok(token.table("arx-root", true)))?;
    mesh.start_authority().await?;
    let port = mesh.ops_port;
    let reachable = |wanted: f64| async move {
        until("the metric", || async {
            let found = http::metric(port, "arx_ca_root_key_reachable").await?;
            Ok(found == Some(wanted))
        })
        .await
    };
    reachable(1.0).await?;
    let before = root(&mesh).await?;

    token.unplug()?;
    reachable(0.0).await?;
    told(&mesh).await?;
    // Also by a process that has never seen the token.
    mesh.kill_authority().await?;
    mesh.start_authority().await?;
    issues(&mesh, "n1").await?;
    reachable(0.0).await?;
    told(&mesh).await?;

    token.plug()?;
    reachable(1.0).await?;
    let (_, ready) = http::get(port, "/readyz").await?;
    ensure!(!ready.contains("ARX-SIGNER"), "{ready}");
    ensure!(root(&mesh).await?.certificate == before.certificate);
    Ok(())
}

/// What an operator sees while the token is out.
async fn told(mesh: &Mesh) -> anyhow::Result<()> {
    let (code, ready) = http::get(mesh.ops_port, "/readyz").await?;
    ensure!(code == ::http::StatusCode::OK, "{ready}");
    ensure!(
        ready.contains("ARX-SIGNER-UNREACHABLE") && ready.contains("until"),
        "{ready}"
    );
    let health = mesh.status().await?.health;
    let key = health.iter().find(|one| one.component == "root key");
    let key = key.context("the status tells of it")?;
    ensure!(key.warning && key.ok, "{key:?}");
    ensure!(key.message.contains("until"), "{key:?}");
    let until = http::metric(
        mesh.ops_port,
        "arx_ca_authority_expiry_timestamp_seconds{role=\"intermediate\"}",
    )
    .await?;
    ensure!(until.is_some_and(|until| until > 0.0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_intermediate_that_falls_due_while_the_token_is_out_is_renewed_when_it_is_back()
-> anyhow::Result<()> {
    let (mut mesh, token) = mesh(
        "intermediate_ttl = \"40s\"\nserving_ttl = \"10s\"",
        |token| Ok(token.table("arx-root", true)),
    )?;
    mesh.reconfigure(|options| {
        options.ttl = "10s".to_owned();
        options.node_ttl = "10s".to_owned();
        options.policy = "max_ttl = \"10s\"".to_owned();
    })?;
    mesh.start_authority().await?;
    let now = || async {
        let status = mesh.status().await?;
        let found = status
            .authorities
            .into_iter()
            .find(|one| one.role == "intermediate");
        anyhow::Ok(found.context("there is one")?.certificate)
    };
    let before = now().await?;
    token.unplug()?;
    let mut log = mesh.authority.as_ref().context("it runs")?.log();
    log.until("could not be renewed", 0).await?;
    ensure!(
        now().await? == before,
        "it goes on under the one that is there"
    );
    issues(&mesh, "n1").await?;
    token.plug()?;
    until("a new intermediate", || async {
        Ok(now().await? != before)
    })
    .await?;
    issues(&mesh, "n2").await
}
