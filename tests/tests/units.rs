//! The service units in `deploy/systemd`: systemd takes them, they give away little, and the programs
//! take the arguments that stand in them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context as _, ensure};
use arx_tests::process::binary;

/// Each unit with the exposure that it may have at most, in tenths, as systemd counts it: below 2 is
/// what it calls safe, and the agent looks at other users' processes.
const UNITS: [(&str, u8); 3] = [
    ("arx-ca.service", 20),
    ("arx-node-agent.service", 25),
    ("arx-signer.service", 10),
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/systemd")
}

fn unit(name: &str) -> anyhow::Result<String> {
    fs::read_to_string(folder().join(name)).with_context(|| name.to_owned())
}

/// What stands after `key=`.
fn value<'a>(unit: &'a str, key: &str) -> anyhow::Result<&'a str> {
    let mut lines = unit.lines();
    let value = lines.find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    value.with_context(|| format!("no {key}"))
}

fn run(program: &str, arguments: &[&str]) -> anyhow::Result<Output> {
    let output = Command::new(program).args(arguments).output();
    output.with_context(|| format!("{program} can't be run: install systemd"))
}

#[test]
fn systemd_takes_every_unit_without_a_word() -> anyhow::Result<()> {
    let place = tempfile::tempdir()?;
    for (name, _) in UNITS {
        let text = unit(name)?;
        let program = name.trim_end_matches(".service");
        let built = binary(program)?.display().to_string();
        let path = place.path().join(name);
        fs::write(&path, text.replace(&format!("/usr/bin/{program}"), &built))?;
        let path = path.display().to_string();
        let said = run("systemd-analyze", &["verify", "--man=no", &path])?;
        ensure!(
            said.status.success() && said.stderr.is_empty(),
            "{name}: {said:?}"
        );
    }
    Ok(())
}

#[test]
fn no_unit_is_more_exposed_than_it_has_to_be() -> anyhow::Result<()> {
    for (name, most) in UNITS {
        let path = folder().join(name).display().to_string();
        let threshold = format!("--threshold={most}");
        let said = run(
            "systemd-analyze",
            &["security", "--offline=true", &threshold, &path],
        )?;
        let text = String::from_utf8_lossy(&said.stdout);
        let summary = text.lines().last().unwrap_or_default();
        ensure!(said.status.success(), "{name}: {summary}");
    }
    Ok(())
}

#[test]
fn each_program_takes_the_arguments_of_its_unit() -> anyhow::Result<()> {
    for (name, _) in UNITS {
        let text = unit(name)?;
        let mut words = value(&text, "ExecStart")?.split(' ');
        let program = words.next().and_then(|path| path.strip_prefix("/usr/bin/"));
        let program = binary(program.context("programs are in /usr/bin")?)?;
        // Its files are nowhere, so that it ends once it has understood what they are for.
        let missing = "/nonexistent/etc";
        let arguments: Vec<_> = words.map(|word| word.replace("/etc", missing)).collect();
        let said = Command::new(program).args(arguments).output()?;
        let error = String::from_utf8_lossy(&said.stderr);
        ensure!(
            error.contains(missing) && !error.contains("Usage"),
            "{name}: {error}"
        );
    }
    Ok(())
}

#[test]
fn every_unit_has_its_account_and_the_authority_may_use_the_signer() -> anyhow::Result<()> {
    let root = tempfile::tempdir()?;
    let there = root.path().join("usr/lib/sysusers.d");
    fs::create_dir_all(&there)?;
    fs::create_dir(root.path().join("etc"))?;
    fs::copy(folder().join("arx.sysusers.conf"), there.join("arx.conf"))?;
    let said = run(
        "systemd-sysusers",
        &["--root", &root.path().display().to_string()],
    )?;
    ensure!(said.status.success(), "{said:?}");
    let passwd = fs::read_to_string(root.path().join("etc/passwd"))?;
    let group = fs::read_to_string(root.path().join("etc/group"))?;
    for (name, _) in UNITS {
        let user = value(&unit(name)?, "User")?.to_owned();
        ensure!(passwd.contains(&format!("{user}:x:")), "{passwd}");
    }
    let signer = group.lines().find(|line| line.starts_with("arx-signer:"));
    let signer = signer.context("it has a group")?;
    ensure!(signer.ends_with(":arx-ca"), "{signer}");
    Ok(())
}
