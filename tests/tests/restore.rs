//! Backup and restore: another authority takes the place of one that is lost.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};
use arx_tests::etcd::Etcd;
use arx_tests::mesh::{Mesh, Options, TRUST_DOMAIN};
use arx_tests::pair::Pair;
use arx_tests::process::{binary, until};
use arx_tests::rotating::{quickly, reaches, rotate};
use serde_json::Value;

/// A backup is opened as soon as enough agents agree.
fn options() -> Options {
    Options {
        state: "restore_settle = \"1s\"".to_owned(),
        authority: "[rotation]\nwindow = \"1s\"\ndwell = \"1s\"".to_owned(),
        ..Options::default()
    }
}

/// What `arx` prints, with its exit code.
fn ask(mesh: &Mesh, arguments: &[&str]) -> anyhow::Result<(Option<i32>, String)> {
    let mut command = Command::new(binary("arx")?);
    let command = command.arg("--socket").arg(mesh.admin_socket());
    let output = command.args(arguments).output()?;
    let both = [output.stdout, output.stderr].concat();
    Ok((
        output.status.code(),
        String::from_utf8_lossy(&both).into_owned(),
    ))
}

fn arx(mesh: &Mesh, arguments: &[&str]) -> anyhow::Result<Value> {
    let mut command = Command::new(binary("arx")?);
    let command = command.arg("--socket").arg(mesh.admin_socket());
    let output = command.args(["-o", "json"]).args(arguments).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    serde_json::from_str(&text).with_context(|| format!("{arguments:?}: {text} {error}"))
}

/// What `arx-ca restore` says, with its exit code.
fn put_back(mesh: &Mesh, file: &Path) -> anyhow::Result<(Option<i32>, String)> {
    let mut command = Command::new(binary("arx-ca")?);
    let command = command.arg("--config").arg(mesh.authority_config());
    let output = command.arg("restore").arg(file).output()?;
    let both = [output.stdout, output.stderr].concat();
    Ok((
        output.status.code(),
        String::from_utf8_lossy(&both).into_owned(),
    ))
}

/// Everything of the authority is gone but its configuration and its sealing key.
async fn burns(mesh: &mut Mesh) -> anyhow::Result<()> {
    mesh.kill_authority().await?;
    std::fs::remove_dir_all(mesh.directory.join("authority"))?;
    Ok(())
}

/// Another begins with a backup.
async fn begins_with(mesh: &mut Mesh, file: &Path) -> anyhow::Result<()> {
    let (code, said) = put_back(mesh, file)?;
    ensure!(code == Some(0), "{code:?}: {said}");
    mesh.spawn_authority()?;
    mesh.authority_is_ready().await
}

/// Waits until the restored authority stands like that.
async fn stands(mesh: &Mesh, what: &str, like: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
    let status = || arx(mesh, &["restore", "status"]);
    let reached = until(what, || async { Ok(like(&status()?)) }).await;
    let stands = status()?;
    reached.with_context(|| format!("it stands like this: {stands:#}"))?;
    Ok(stands)
}

fn is_open(status: &Value) -> bool {
    status["shut"] == false
}

fn path(mesh: &Mesh, name: &str) -> anyhow::Result<String> {
    let path = mesh.directory.join(name);
    Ok(path
        .to_str()
        .context("the folder's name is text")?
        .to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn another_authority_takes_the_place_of_one_that_burned_and_no_proxy_notices()
-> anyhow::Result<()> {
    let mut pair = Pair::start(options()).await?;
    let file = path(&pair.mesh, "backup")?;
    let made = arx(&pair.mesh, &["backup", &file])?;
    ensure!(made["sealed"] == true && made["bundle_sequence"] == "1.1");
    let again = ask(&pair.mesh, &["backup", &file])?;
    ensure!(
        again.0 == Some(1) && again.1.contains("name another file"),
        "{again:?}"
    );
    let size = std::fs::metadata(&file)?.len();
    ensure!(size < 1024 * 1024, "{size} bytes");

    let load = pair.load();
    burns(&mut pair.mesh).await?;
    begins_with(&mut pair.mesh, Path::new(&file)).await?;
    let open = stands(&pair.mesh, "open", is_open).await?;
    ensure!(open["restored"] == true && open["agree"] == 2, "{open:#}");
    ensure!(open["bundle_sequence"] == "2.1", "{open:#}");

    let since = pair.serials().await?;
    arx(&pair.mesh, &["svid", "renew", "--all", "--within", "1s"])?;
    pair.renewed(&since).await?;
    pair.talks().await?;
    load.stop().await.without_failure()?;

    // Nobody knows any more who was issued what.
    rotate(&pair.mesh, quickly()).await?;
    reaches(&pair.mesh, "what is not known is waited for", |it| {
        let mut waits = it.unconfirmed.iter();
        it.phase == "distribute" && waits.any(|it| it.reason == "history-lost")
    })
    .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_backup_that_is_older_than_the_fleets_trust_stays_shut_and_names_the_missing_roots()
-> anyhow::Result<()> {
    let mut pair = Pair::start(options()).await?;
    let [old, new] = [path(&pair.mesh, "old")?, path(&pair.mesh, "new")?];
    arx(&pair.mesh, &["backup", &old])?;
    rotate(&pair.mesh, quickly()).await?;
    reaches(&pair.mesh, "done", |it| it.phase == "done").await?;
    let status = arx(&pair.mesh, &["status"])?;
    let roots = status["authorities"].as_array().context("authorities")?;
    let active = roots.iter().find(|it| it["state"] == "active");
    let active = active.context("one signs")?["key_id"].clone();
    arx(&pair.mesh, &["backup", &new])?;

    let load = pair.load();
    burns(&mut pair.mesh).await?;
    begins_with(&mut pair.mesh, Path::new(&old)).await?;
    let shut = stands(&pair.mesh, "the fleet is ahead", |it| {
        let ahead = it["ahead"].as_array();
        ahead.is_some_and(|all| all.iter().any(|it| it["agents"] == 2))
    });
    let shut = shut.await?;
    ensure!(shut["shut"] == true, "{shut:#}");
    ensure!(
        shut["ahead"][0]["missing"] == serde_json::json!([active]),
        "{shut:#}"
    );
    let (code, said) = ask(&pair.mesh, &["restore", "status"])?;
    ensure!(
        code == Some(1) && said.contains("if there is a newer backup"),
        "{said}"
    );
    let (code, said) = ask(
        &pair.mesh,
        &["restore", "open", "--no-fleet", "--reason", "a test"],
    )?;
    ensure!(
        code == Some(1) && said.contains("ARX-RESTORE-AHEAD"),
        "{said}"
    );
    let (_, ready) = arx_tests::http::get(pair.mesh.ops_port, "/readyz").await?;
    ensure!(ready.contains("ARX-RESTORE-SHUT"), "{ready}");

    pair.mesh.stop_authority().await?;
    let (code, said) = put_back(&pair.mesh, Path::new(&new))?;
    ensure!(
        code == Some(1) && said.contains("ARX-RESTORE-NOT-EMPTY"),
        "{said}"
    );
    std::fs::remove_file(pair.mesh.directory.join("authority/state.redb"))?;
    begins_with(&mut pair.mesh, Path::new(&new)).await?;
    stands(&pair.mesh, "open", is_open).await?;
    let since = pair.serials().await?;
    arx(&pair.mesh, &["svid", "renew", "--all", "--within", "1s"])?;
    pair.renewed(&since).await?;
    load.stop().await.without_failure()?;
    pair.talks().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn without_a_newer_backup_the_fleets_root_is_trusted_until_everybody_has_left_it()
-> anyhow::Result<()> {
    let mut pair = Pair::start(options()).await?;
    let [old, fleet] = [path(&pair.mesh, "old")?, path(&pair.mesh, "fleet.pem")?];
    arx(&pair.mesh, &["backup", &old])?;
    let first = ask(&pair.mesh, &["bundle", "export"])?.1;
    rotate(&pair.mesh, quickly()).await?;
    reaches(&pair.mesh, "done", |it| it.phase == "done").await?;
    let second = ask(&pair.mesh, &["bundle", "export"])?.1;

    let load = pair.load();
    pair.mesh.stop_authority().await?;
    std::fs::remove_file(pair.mesh.directory.join("authority/state.redb"))?;
    begins_with(&mut pair.mesh, Path::new(&old)).await?;
    stands(&pair.mesh, "the fleet is ahead", |it| {
        let ahead = it["ahead"].as_array();
        ahead.is_some_and(|all| all.iter().any(|it| it["agents"] == 2))
    })
    .await?;
    let adopt = [
        "restore",
        "adopt",
        &fleet,
        "--reason",
        "there is no newer one",
    ];
    std::fs::write(&fleet, &first)?;
    let (code, said) = ask(&pair.mesh, &adopt)?;
    ensure!(
        code == Some(1) && said.contains("ARX-RESTORE-ADOPT"),
        "{said}"
    );
    std::fs::write(&fleet, &second)?;
    let (_, said) = ask(&pair.mesh, &adopt)?;
    ensure!(said.contains("begins when everybody has"), "{said}");
    let (code, said) = ask(&pair.mesh, &["rotate", "abort"])?;
    ensure!(
        code == Some(1) && said.contains("ARX-ROTATION-ADOPTED"),
        "{said}"
    );

    stands(&pair.mesh, "open", is_open).await?;
    let since = pair.serials().await?;
    pair.renewed(&since).await?;
    let done = reaches(&pair.mesh, "done", |it| it.phase == "done").await?;
    ensure!(
        done.kind == "adoption" && done.forced.is_empty(),
        "{done:#?}"
    );
    let left = ask(&pair.mesh, &["bundle", "export"])?.1;
    ensure!(left == first, "{left}");
    load.stop().await.without_failure()?;
    pair.talks().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_the_ledger_knows_to_be_distrusted_is_not_brought_back_by_a_backup()
-> anyhow::Result<()> {
    let mut mesh = Mesh::start(options()).await?;
    let _agent = mesh.agent("n1").await?;
    let old = path(&mesh, "old")?;
    arx(&mesh, &["backup", &old])?;
    let status = arx(&mesh, &["status"])?;
    let root = status["authorities"][0]["key_id"].clone();
    let id = root.as_str().context("an id")?;
    arx(&mesh, &["distrust", id, "--reason", "a test"])?;
    reaches(&mesh, "done", |it| it.phase == "done").await?;
    mesh.stop_authority().await?;
    std::fs::remove_file(mesh.directory.join("authority/state.redb"))?;
    begins_with(&mut mesh, Path::new(&old)).await?;
    let status = arx(&mesh, &["status"])?;
    let all = status["authorities"].as_array().context("authorities")?;
    let left = all.iter().find(|it| it["key_id"] == root);
    ensure!(left.context("what is left of it")?["state"] == "distrusted");
    let (code, said) = ask(&mesh, &["restore", "status"])?;
    ensure!(code == Some(1), "it is open: {said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_operator_opens_what_no_agent_has_come_to_and_says_why() -> anyhow::Result<()> {
    let mut mesh = Mesh::start(options()).await?;
    let file = path(&mesh, "backup")?;
    arx(&mesh, &["backup", &file])?;
    let (code, said) = ask(&mesh, &["restore", "status"])?;
    ensure!(code == Some(0) && said.contains("never put back"), "{said}");
    burns(&mut mesh).await?;
    std::fs::rename(
        mesh.directory.join("seal.key"),
        mesh.directory.join("elsewhere"),
    )?;
    let (code, said) = put_back(&mesh, Path::new(&file))?;
    ensure!(
        code == Some(1) && said.contains("ARX-SEAL-KEY-LOST"),
        "{said}"
    );
    std::fs::rename(
        mesh.directory.join("elsewhere"),
        mesh.directory.join("seal.key"),
    )?;
    begins_with(&mut mesh, Path::new(&file)).await?;
    let (code, said) = ask(&mesh, &["rotate", "root"])?;
    ensure!(
        code == Some(1) && said.contains("ARX-RESTORE-SHUT"),
        "{said}"
    );
    let (code, _) = ask(&mesh, &["restore", "open", "--reason", "a test"])?;
    ensure!(
        code == Some(2),
        "it has to be said that no agent is waited for"
    );
    let open = arx(
        &mesh,
        &[
            "restore",
            "open",
            "--no-fleet",
            "--reason",
            "there are no agents yet",
        ],
    )?;
    ensure!(
        is_open(&open) && open["reason"] == "there are no agents yet",
        "{open:#}"
    );
    let _agent = mesh.agent("n1").await?;
    let (code, records) = ask(&mesh, &["ledger", "export"])?;
    ensure!(
        code == Some(0) && records.contains("there are no agents yet"),
        "{records}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_start_that_is_refused_leaves_the_place_free_for_the_backup_that_it_names()
-> anyhow::Result<()> {
    let mut mesh = Mesh::start(options()).await?;
    let file = path(&mesh, "backup")?;
    arx(&mesh, &["backup", &file])?;
    mesh.kill_authority().await?;
    std::fs::remove_file(mesh.directory.join("authority/state.redb"))?;
    let mut command = Command::new(binary("arx-ca")?);
    let output = command
        .arg("--config")
        .arg(mesh.authority_config())
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(1)
            && said.contains("ARX-TRUST-LOST")
            && said.contains("arx-ca restore FILE"),
        "{said}"
    );
    begins_with(&mut mesh, Path::new(&file)).await?;
    let (code, said) = ask(&mesh, &["restore", "status"])?;
    ensure!(
        code == Some(1) && said.contains("knows of no agents"),
        "{said}"
    );
    ensure!(!said.contains("arx restore status"), "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_file_that_is_cut_off_or_of_another_trust_domain_says_which_it_is() -> anyhow::Result<()>
{
    let mut mesh = Mesh::start(options()).await?;
    let file = path(&mesh, "backup")?;
    arx(&mesh, &["backup", &file])?;
    burns(&mut mesh).await?;
    let content = std::fs::read(&file)?;
    std::fs::write(&file, &content[..content.len() - 1])?;
    let (code, said) = put_back(&mesh, Path::new(&file))?;
    ensure!(
        code == Some(1) && said.contains("ARX-BACKUP-UNREADABLE") && said.contains("it is cut off"),
        "{said}"
    );
    let ours = TRUST_DOMAIN.as_bytes();
    let at = content.windows(ours.len()).position(|it| it == ours);
    let at = at.context("it says of whom it is")?;
    let mut other = content.clone();
    other[at] = b'x';
    std::fs::write(&file, &other)?;
    let (code, said) = put_back(&mesh, Path::new(&file))?;
    ensure!(
        code == Some(1) && said.contains("ARX-BACKUP-FOREIGN") && said.contains("trust domain x"),
        "{said}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_running_authority_says_that_its_state_file_was_moved_away_and_loses_nothing()
-> anyhow::Result<()> {
    let mut mesh = Mesh::start(options()).await?;
    let agent = mesh.agent("n1").await?;
    let state = mesh.directory.join("authority/state.redb");
    let away = mesh.directory.join("authority/away");
    std::fs::rename(&state, &away)?;
    let (code, said) = ask(&mesh, &["deny", "node/c1/n9", "--reason", "a test"])?;
    ensure!(
        code == Some(1) && said.contains("ARX-STORE-MOVED"),
        "{said}"
    );
    until("whoever looks is told", || async {
        let (status, ready) = arx_tests::http::get(mesh.ops_port, "/readyz").await?;
        Ok(status == 200 && ready.contains("ARX-STORE-MOVED"))
    })
    .await?;
    std::fs::rename(&away, &state)?;
    let (code, said) = ask(&mesh, &["deny", "node/c1/n9", "--reason", "a test"])?;
    ensure!(code == Some(0), "{said}");
    drop(agent);
    mesh.kill_authority().await?;
    mesh.start_authority().await?;
    let (_, said) = ask(&mesh, &["deny", "list"])?;
    ensure!(said.contains("node/c1/n9"), "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_backup_that_one_replica_makes_knows_of_the_agents_of_the_other() -> anyhow::Result<()> {
    let etcd = Etcd::start(1).await?;
    let mut one = etcd.replica("ca-1")?;
    let mut other = etcd.replica("ca-2")?;
    one.start_authority().await?;
    other.start_authority().await?;
    let _here = one.agent("n1").await?;
    let _there = other.agent("n2").await?;
    // It tells at its start, and every minute.
    other.stop_authority().await?;
    other.start_authority().await?;
    let number = std::cell::Cell::new(0);
    let make = || {
        number.set(number.get() + 1);
        let file = path(&one, &format!("backup-{}", number.get()))?;
        arx(&one, &["backup", &file])
    };
    until("both agents are counted, and nobody is silent", || async {
        let made = make()?;
        Ok(made["agents"] == 2 && made["silent_replicas"] == serde_json::json!([]))
    })
    .await?;
    let made = make()?;
    ensure!(made["agents"] == 2, "{made:#}");
    Ok(())
}
