//! Bad days: wrong configurations, files that are not as they should be, a full disk.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context as _, ensure};

use arx_proto::admin::v1::StatusRequest;
use arx_tests::http as web;
use arx_tests::mesh::{AUDIENCE, Mesh, Options};
use arx_tests::node::Authority;
use arx_tests::process::{Process, binary, free_port, until};
use arx_tests::token_issuer::Claims;
use rustix::process::Signal;

fn run(program: &str, config: &Path, more: &[&str]) -> anyhow::Result<Output> {
    Ok(Command::new(binary(program)?)
        .arg("--config")
        .arg(config)
        .args(more)
        .output()?)
}

/// The program refuses its configuration, and says all of `parts`.
fn refused(program: &str, config: &Path, parts: &[&str]) -> anyhow::Result<()> {
    let output = run(program, config, &[])?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(2),
        "{program} ended with {:?}: {said}",
        output.status
    );
    for part in parts {
        ensure!(said.contains(part), "{part:?} is missing in: {said}");
    }
    Ok(())
}

/// A copy of a configuration with one change.
fn changed(config: &Path, from: &str, to: &str) -> anyhow::Result<std::path::PathBuf> {
    let text = std::fs::read_to_string(config)?;
    ensure!(text.contains(from), "{from:?} is not in {text}");
    let copy = config.with_file_name("changed.toml");
    std::fs::write(&copy, text.replacen(from, to, 1))?;
    Ok(copy)
}

async fn joins(mesh: &Mesh, node: &str) -> anyhow::Result<()> {
    let authority = Authority {
        port: mesh.node_port,
        bundle: mesh.bundle(),
    };
    let claims = Claims::new(
        &format!("{AUDIENCE}/join"),
        "arx-system",
        "arx-node-agent",
        node,
    );
    authority
        .new_node(&authority.tls(None)?, &mesh.issuer.mint(&claims))
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_wrong_configuration_is_refused_with_file_line_reason_and_remedy() -> anyhow::Result<()> {
    let mut mesh = Mesh::start(Options::default()).await?;
    mesh.kill_authority().await?;
    let good = mesh.authority_config();
    let cases: [(&str, &str, &[&str]); 5] = [
        (
            "node_ttl =",
            "node_tll =",
            &["changed.toml:", "node_tll", "node_ttl"],
        ),
        (
            "node_ttl = \"1h\"",
            "node_ttl = 24",
            &["changed.toml:", "node_ttl"],
        ),
        (
            "node_ttl = \"1h\"",
            "node_ttl = \"8d\"",
            &["changed.toml:", "intermediate_ttl"],
        ),
        (
            "/jwks.json",
            "/missing.json",
            &["changed.toml:", "missing.json", "No such file"],
        ),
        (
            "trust_domain = \"example.org\"",
            "trust_domain = \"Example.org\"",
            &["changed.toml:1", "trust_domain"],
        ),
    ];
    for (from, to, parts) in cases {
        refused("arx-ca", &changed(&good, from, to)?, parts)?;
    }
    refused(
        "arx-ca",
        Path::new("/nonexistent.toml"),
        &["/nonexistent.toml", "no such file"],
    )?;

    let agent = mesh.prepare_agent("n1")?;
    let cases: [(&str, &str, &[&str]); 4] = [
        (
            "[socket]",
            "[sokcet]",
            &["changed.toml:", "sokcet", "socket"],
        ),
        (
            "token_file = ",
            "token_file = 1 # ",
            &["changed.toml:", "token_file"],
        ),
        (
            "/bundle.pem",
            "/missing.pem",
            &["changed.toml:", "missing.pem"],
        ),
        (
            "/sds.sock",
            &format!("/{}.sock", "x".repeat(120)),
            &["changed.toml:", "bytes"],
        ),
    ];
    for (from, to, parts) in cases {
        refused("arx-node-agent", &changed(&agent.config, from, to)?, parts)?;
    }
    Ok(())
}

#[test]
fn two_clusters_of_one_issuer_are_refused_at_the_start() -> anyhow::Result<()> {
    let mut mesh = Mesh::prepare(Options::default())?;
    let keys = mesh.directory.join("jwks.json");
    let of = |issuer: &str| {
        format!(
            "[[cluster]]\nname = \"c2\"\nissuer = \"{issuer}\"\naudiences = [\"arx\"]\nagents = [\"arx-system/arx-node-agent\"]\njwks_file = \"{}\"\n",
            keys.display()
        )
    };
    let same = of("https://issuer.example.org");
    mesh.reconfigure(|options| options.authority = same)?;
    let says = ["cluster[1].issuer", "cluster \"c1\" has the same issuer"];
    refused("arx-ca", &mesh.authority_config(), &says)?;
    let other = of("https://issuer-2.example.org");
    mesh.reconfigure(|options| options.authority = other)?;
    let output = run("arx-ca", &mesh.authority_config(), &["check"])?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(!said.contains("same issuer"), "{said}");
    Ok(())
}

#[tokio::test]
async fn check_says_everything_without_starting_or_changing_anything() -> anyhow::Result<()> {
    let mesh = Mesh::prepare(Options::default())?;
    let before = std::fs::read_dir(&mesh.directory)?.count();
    let output = run("arx-ca", &mesh.authority_config(), &["check"])?;
    ensure!(output.status.success(), "{output:?}");
    ensure!(
        String::from_utf8_lossy(&output.stdout).contains("all is well"),
        "{output:?}"
    );
    ensure!(
        std::fs::read_dir(&mesh.directory)?.count() == before,
        "it has made something"
    );
    let unreachable = changed(
        &mesh.authority_config(),
        "jwks_file = ",
        "discovery_url = \"http://127.0.0.1:1\" # ",
    )?;
    let output = run("arx-ca", &unreachable, &["check"])?;
    ensure!(output.status.code() == Some(2), "{output:?}");
    ensure!(
        String::from_utf8_lossy(&output.stdout).contains("cluster c1"),
        "{output:?}"
    );
    Ok(())
}

/// Whatever keeps the authority from starting is found without starting it.
#[tokio::test]
async fn what_keeps_an_authority_from_starting_is_told_by_its_check() -> anyhow::Result<()> {
    let mut mesh = Mesh::start(Options::default()).await?;
    joins(&mesh, "n1").await?;
    mesh.stop_authority().await?;
    let good = mesh.authority_config();
    let directory = mesh.directory.display();
    let both = |config: &Path, parts: &[&str]| {
        refused("arx-ca", config, parts)?;
        let output = run("arx-ca", config, &["check"])?;
        ensure!(output.status.code() == Some(2), "{output:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(parts.iter().all(|part| said.contains(part)), "{said}");
        Ok(())
    };
    std::fs::write(mesh.directory.join("file"), "")?;
    let cases: [(String, String, &[&str]); 4] = [
        (
            format!("{directory}/authority\""),
            format!("{directory}/file\""),
            &["changed.toml:", "state.directory", "not a directory"],
        ),
        (
            format!("{directory}/admin.sock"),
            format!("{directory}/file"),
            &["changed.toml:", "admin.socket", "not a socket"],
        ),
        (
            format!("{directory}/seal.key"),
            format!("{directory}/missing/seal.key"),
            &["changed.toml:", "state.seal_key_file", "is missing"],
        ),
        (
            "agents = [\"arx-system/arx-node-agent\"]".to_owned(),
            "agents = []".to_owned(),
            &["changed.toml:", "agents", "nobody may join"],
        ),
    ];
    for (from, to, parts) in cases {
        both(&changed(&good, &from, &to)?, parts)?;
    }
    // A damaged record of the ledger, with whole ones behind it.
    let segment = std::fs::read_dir(mesh.directory.join("authority/ledger"))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|it| it == "seg"))
        .context("a segment")?;
    let mut bytes = std::fs::read(&segment)?;
    let place = bytes.len() / 3;
    bytes[place] ^= 1;
    std::fs::write(&segment, &bytes)?;
    let output = run("arx-ca", &good, &["check"])?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.code() == Some(2)
            && said.contains(&segment.display().to_string())
            && said.contains("at byte")
            && said.contains("ARX-LEDGER-DAMAGED"),
        "{output:?}"
    );
    ensure!(
        std::fs::read(&segment)? == bytes,
        "it has changed something"
    );
    let output = run("arx-ca", &good, &[])?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        !output.status.success() && said.contains("verify-ledger"),
        "{output:?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_state_directory_that_is_open_to_others_is_closed_and_that_is_said() -> anyhow::Result<()>
{
    let mut mesh = Mesh::prepare(Options::default())?;
    let state = mesh.directory.join("authority");
    std::fs::create_dir(&state)?;
    std::fs::set_permissions(&state, Permissions::from_mode(0o755))?;
    mesh.start_authority().await?;
    ensure!(state.metadata()?.permissions().mode() & 0o777 == 0o700);
    let log = mesh.authority.as_ref().context("it runs")?.log();
    ensure!(log.count("ARX-STATE-DIRECTORY") == 1, "{}", log.tail());
    ensure!(log.count("mode 0755") == 1, "{}", log.tail());
    Ok(())
}

#[tokio::test]
async fn an_agent_with_the_token_of_another_node_is_told_so() -> anyhow::Result<()> {
    let mesh = Mesh::start(Options::default()).await?;
    let mut agent = mesh.prepare_agent("n1")?;
    let other = mesh.prepare_agent("n2")?;
    std::fs::copy(other.token(), agent.token())?;
    let output = run("arx-node-agent", &agent.config, &["check"])?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(2) && said.contains("authority.token_file"),
        "{output:?}"
    );
    agent.spawn()?;
    let mut log = agent.process.as_ref().context("it runs")?.log();
    let next = log.until("ARX-AGENT-OTHER-NODE", 0).await?;
    let line = &log.lines()[next - 1];
    ensure!(
        line.contains("/arx/node/c1/n2") && line.contains("/arx/node/c1/n1"),
        "{line}"
    );
    Ok(())
}

#[tokio::test]
async fn a_key_that_others_can_read_is_refused() -> anyhow::Result<()> {
    let mut mesh = Mesh::start(Options::default()).await?;
    mesh.kill_authority().await?;
    let key = mesh.directory.join("seal.key");
    std::fs::set_permissions(&key, Permissions::from_mode(0o644))?;
    let output = run("arx-ca", &mesh.authority_config(), &[])?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(2) && said.contains("seal.key") && said.contains("chmod 600"),
        "{said}"
    );
    Ok(())
}

#[tokio::test]
async fn the_second_authority_on_one_state_is_told_who_holds_it() -> anyhow::Result<()> {
    let mesh = Mesh::start(Options::default()).await?;
    let other = changed(
        &mesh.authority_config(),
        &mesh.node_port.to_string(),
        &free_port()?.to_string(),
    )?;
    let other = changed(
        &other,
        &mesh.ops_port.to_string(),
        &free_port()?.to_string(),
    )?;
    let output = run("arx-ca", &other, &[])?;
    let said = String::from_utf8_lossy(&output.stderr);
    let holder = mesh.authority.as_ref().context("it runs")?.id();
    ensure!(
        output.status.code() == Some(1) && said.contains(&format!("process {holder}")),
        "{said}"
    );
    ensure!(
        mesh.status().await?.trust_domain == "example.org",
        "the first goes on"
    );
    Ok(())
}

#[tokio::test]
async fn a_truncated_state_file_is_refused_and_left_as_it_is() -> anyhow::Result<()> {
    let mut mesh = Mesh::start(Options::default()).await?;
    mesh.kill_authority().await?;
    let file = mesh.directory.join("authority/state.redb");
    let whole = std::fs::read(&file)?;
    std::fs::write(&file, &whole[..whole.len() / 3])?;
    // Nothing is concluded from what can't be read, least of all that it was lost.
    let output = run("arx-ca", &mesh.authority_config(), &["check"])?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.code() == Some(2)
            && said.contains("ARX-STORE-DAMAGED")
            && !said.contains("accept-loss")
            && !said.contains("will make"),
        "{said}"
    );
    let output = run("arx-ca", &mesh.authority_config(), &[])?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(1) && said.contains("ARX-STORE-DAMAGED"),
        "{said}"
    );
    ensure!(
        std::fs::read(&file)? == whole[..whole.len() / 3],
        "it was changed"
    );
    std::fs::write(&file, whole)?;
    mesh.start_authority().await
}

#[tokio::test]
async fn a_state_that_was_lost_is_not_begun_anew_unless_that_is_said() -> anyhow::Result<()> {
    let mut mesh = Mesh::start(Options::default()).await?;
    mesh.kill_authority().await?;
    std::fs::remove_file(mesh.directory.join("authority/state.redb"))?;
    let output = run("arx-ca", &mesh.authority_config(), &["check"])?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.code() == Some(2) && said.contains("ARX-TRUST-LOST"),
        "{said}"
    );
    let output = run("arx-ca", &mesh.authority_config(), &[])?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(1)
            && said.contains("ARX-TRUST-LOST")
            && said.contains("--accept-loss"),
        "{said}"
    );
    Ok(())
}

#[tokio::test]
async fn what_a_dead_agent_left_is_replaced_and_a_living_one_keeps_its_socket() -> anyhow::Result<()>
{
    let mesh = Mesh::start(Options::default()).await?;
    let mut agent = mesh.agent("n1").await?;
    let other = changed(&agent.config, "/state\"", "/other\"")?;
    let other = changed(&other, &agent.ops_port.to_string(), "0")?;
    let output = run("arx-node-agent", &other, &[])?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        !output.status.success() && said.contains("in use"),
        "{said}"
    );
    agent.kill().await?;
    ensure!(agent.socket.exists(), "it was killed");
    agent.start().await
}

#[tokio::test]
async fn a_configuration_is_reloaded_whole_or_not_at_all() -> anyhow::Result<()> {
    let mut mesh = Mesh::start(Options::default()).await?;
    let path = mesh.authority_config();
    let good = std::fs::read_to_string(&path)?;
    let process = mesh.authority.as_mut().context("it runs")?;
    let mut log = process.log();
    std::fs::write(
        &path,
        good.replace("node_ttl = \"1h\"", "node_ttl = \"30m\""),
    )?;
    process.signal(Signal::HUP)?;
    let next = log.until("\"generation\":2", 0).await?;
    std::fs::write(&path, good.replace("node_ttl", "node_tll"))?;
    process.signal(Signal::HUP)?;
    let next = log.until("configuration refused", next).await?;
    std::fs::write(
        &path,
        good.replace(
            "trust_domain = \"example.org\"",
            "trust_domain = \"example.com\"",
        ),
    )?;
    process.signal(Signal::HUP)?;
    log.until("trust_domain can't change while the process runs", next)
        .await?;
    ensure!(mesh.status().await?.configuration_generation == 2);
    Ok(())
}

/// A file system of its own, as small as a test needs it.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn mount(path: &Path) -> anyhow::Result<Option<Self>> {
        std::fs::create_dir_all(path)?;
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
            .arg(path)
            .output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Ok(Some(Self(path.to_owned())));
        }
        eprintln!("skipped: mounting a file system needs root");
        Ok(None)
    }

    fn remount(&self, options: &str) -> anyhow::Result<()> {
        let output = Command::new("mount")
            .args(["-o", &format!("remount,{options}")])
            .arg(&self.0)
            .output()?;
        ensure!(output.status.success(), "{output:?}");
        Ok(())
    }

    /// Takes all space that is left.
    fn fill(&self) -> anyhow::Result<std::path::PathBuf> {
        use std::io::Write as _;
        let path = self.0.join("filling");
        let mut file = std::fs::File::create(&path)?;
        while file.write_all(&[0; 4096]).is_ok() {}
        while file.write_all(&[0]).is_ok() {}
        Ok(path)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _unmounted = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

async fn pauses(
    mesh: &Mesh,
    break_it: impl FnOnce() -> anyhow::Result<()>,
    mend: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    joins(mesh, "before").await?;
    break_it()?;
    until("a refusal", || async {
        Ok(joins(mesh, "during").await.is_err())
    })
    .await?;
    until("the reason in /readyz", || async {
        let (status, text) = web::get(mesh.ops_port, "/readyz").await?;
        Ok(status == 503 && text.contains("ARX-LEDGER-PAUSED"))
    })
    .await?;
    mend()?;
    until("readiness", || async {
        Ok(web::get(mesh.ops_port, "/readyz").await?.0 == 200)
    })
    .await?;
    joins(mesh, "after").await?;
    let report = mesh
        .admin()
        .await?
        .verify_ledger(arx_proto::admin::v1::VerifyLedgerRequest {})
        .await?
        .into_inner();
    ensure!(report.problems.is_empty(), "{:?}", report.problems);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_full_disk_pauses_issuance_with_a_reason_until_space_returns() -> anyhow::Result<()> {
    let mut mesh = Mesh::prepare(Options::default())?;
    let Some(disk) = SmallDisk::mount(&mesh.directory.join("authority"))? else {
        return Ok(());
    };
    mesh.start_authority().await?;
    let filling = std::cell::Cell::new(None);
    pauses(
        &mesh,
        || {
            filling.set(Some(disk.fill()?));
            Ok(())
        },
        || {
            Ok(std::fs::remove_file(
                filling.take().context("it was filled")?,
            )?)
        },
    )
    .await
}

/// Starts an authority whose disk can't be written, and mends that when it has said so.
async fn starts_later(
    mesh: &mut Mesh,
    codes: [&str; 3],
    mend: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    mesh.spawn_authority()?;
    let told = until("the reason in /readyz", || async {
        let (status, text) = web::get(mesh.ops_port, "/readyz").await?;
        Ok(status == 503 && codes.iter().any(|code| text.contains(code)))
    });
    let said = || {
        mesh.authority
            .as_ref()
            .map(|process| process.log().tail())
            .unwrap_or_default()
    };
    told.await.with_context(said)?;
    mend()?;
    mesh.authority_is_ready().await?;
    joins(mesh, "after").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_authority_starts_on_a_full_disk_says_so_and_goes_on_by_itself() -> anyhow::Result<()> {
    let mut mesh = Mesh::prepare(Options::default())?;
    let Some(disk) = SmallDisk::mount(&mesh.directory.join("authority"))? else {
        return Ok(());
    };
    mesh.start_authority().await?;
    mesh.kill_authority().await?;
    let filling = disk.fill()?;
    let mend = || Ok(std::fs::remove_file(filling)?);
    starts_later(
        &mut mesh,
        ["ARX-STORE-FULL", "ARX-LEDGER-IO", "ARX-LEDGER-PAUSED"],
        mend,
    )
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_authority_on_a_read_only_disk_says_so_and_goes_on_by_itself() -> anyhow::Result<()> {
    let mut mesh = Mesh::prepare(Options::default())?;
    let Some(disk) = SmallDisk::mount(&mesh.directory.join("authority"))? else {
        return Ok(());
    };
    mesh.start_authority().await?;
    mesh.kill_authority().await?;
    disk.remount("ro")?;
    starts_later(
        &mut mesh,
        ["ARX-STORE-READ-ONLY", "ARX-LEDGER-IO", "ARX-LEDGER-PAUSED"],
        || disk.remount("rw"),
    )
    .await
}

#[tokio::test]
async fn a_process_that_is_asked_to_end_does_so_with_exit_code_0() -> anyhow::Result<()> {
    let mut mesh = Mesh::start(Options::default()).await?;
    let mut agent = mesh.agent("n1").await?;
    let process: Process = agent.process.take().context("it runs")?;
    ensure!(process.stop().await?.success());
    let process = mesh.authority.take().context("it runs")?;
    ensure!(process.stop().await?.success());
    ensure!(!mesh.admin_socket().exists(), "its socket is left");
    Ok(())
}

/// More than there are places, of those that say nothing and of those that have asked once.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn idle_connections_to_the_admin_socket_keep_no_operator_out() -> anyhow::Result<()> {
    let mesh = Mesh::start(Options::default()).await?;
    let mut silent = Vec::new();
    let mut asked = Vec::new();
    for _ in 0..100 {
        silent.push(tokio::net::UnixStream::connect(mesh.admin_socket()).await?);
    }
    for _ in 0..100 {
        let mut client = mesh.admin().await?;
        client.status(StatusRequest {}).await?;
        asked.push(client);
    }
    mesh.status().await?;
    Ok(())
}

#[tokio::test]
async fn a_user_who_is_neither_root_nor_the_authoritys_own_is_not_heard_at_the_admin_socket()
-> anyhow::Result<()> {
    if !rustix::process::getuid().is_root() {
        eprintln!("skipped: only root can be somebody else");
        return Ok(());
    }
    let mesh = Mesh::start(Options::default()).await?;
    let socket = mesh.admin_socket();
    // Were the modes of files not in the way, the kernel's word on who connects would do.
    for path in [mesh.directory.as_path(), &socket] {
        std::fs::set_permissions(path, Permissions::from_mode(0o777))?;
    }
    let script = "import socket, sys\n\
        s = socket.socket(socket.AF_UNIX)\n\
        s.settimeout(20)\n\
        s.connect(sys.argv[1])\n\
        s.sendall(b'PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n\\0\\0\\0\\4\\0\\0\\0\\0\\0')\n\
        sys.exit(0 if s.recv(1) else 7)";
    let answered = |uid: u32| {
        let mut python = Command::new("python3");
        python.args(["-c", script]).arg(&socket).uid(uid);
        let output = python.output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        anyhow::Ok((output.status.success(), said))
    };
    let (own, said) = answered(0)?;
    ensure!(own, "{said}");
    for _ in 0..5 {
        let (other, said) = answered(65_534)?;
        ensure!(!other, "{said}");
    }
    let authority = mesh.authority.as_ref().context("it runs")?;
    let mut log = authority.log();
    log.until("ARX-ADMIN-REFUSED", 0).await?;
    // Whatever was to be told of them comes before this.
    authority.signal(Signal::HUP)?;
    log.until("\"generation\":2", 0).await?;
    let lines = log.lines();
    let told = lines.iter().filter(|it| it.contains("ARX-ADMIN-REFUSED"));
    ensure!(told.count() == 1, "{}", log.tail());
    Ok(())
}
