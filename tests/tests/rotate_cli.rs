//! `arx rotate` against a real authority with real Envoys: what an operator types, what a
//! script reads, and which exit codes both get.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, ensure};
use arx_tests::mesh::Options;
use arx_tests::pair::Pair;
use arx_tests::process::{binary, until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

fn command(socket: &Path, arguments: &[&str]) -> anyhow::Result<Command> {
    let mut command = Command::new(binary("arx")?);
    command.arg("--socket").arg(socket).args(arguments);
    Ok(command)
}

fn arx(socket: &Path, arguments: &[&str]) -> anyhow::Result<Output> {
    Ok(command(socket, arguments)?.output()?)
}

/// What it prints as JSON, and its exit code.
fn json(socket: &Path, arguments: &[&str]) -> anyhow::Result<(Value, Option<i32>)> {
    let output = arx(socket, &[&["-o", "json"], arguments].concat())?;
    let value = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("{arguments:?} printed {output:?}"))?;
    Ok((value, output.status.code()))
}

/// What it prints for people, with the exit code that is expected.
fn text(socket: &Path, arguments: &[&str], code: i32) -> anyhow::Result<String> {
    let output = arx(socket, arguments)?;
    ensure!(
        output.status.code() == Some(code),
        "{arguments:?}: not {code}: {output:?}"
    );
    let mut text = String::from_utf8(output.stdout)?;
    text.push_str(std::str::from_utf8(&output.stderr)?);
    Ok(text)
}

fn says(text: &str, parts: &[&str]) -> anyhow::Result<()> {
    for part in parts {
        ensure!(text.contains(part), "{part:?} is not in:\n{text}");
    }
    Ok(())
}

/// Waits until `arx rotate status` tells this phase.
async fn reaches(socket: &Path, phase: &str) -> anyhow::Result<Value> {
    until(phase, || async {
        Ok(json(socket, &["rotate", "status"])?.0["phase"] == phase)
    })
    .await?;
    Ok(json(socket, &["rotate", "status"])?.0)
}

/// What scripts rely on.
fn has_the_names(value: &Value) -> anyhow::Result<()> {
    for name in ["phase", "id", "from", "to", "confirmed", "unconfirmed"] {
        ensure!(
            value.get(name).is_some(),
            "{name} is not at the top of {value}"
        );
    }
    ensure!(value["unconfirmed"].is_array(), "{value}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_operator_plans_rotates_follows_and_reads_the_evidence() -> anyhow::Result<()> {
    let pair = Pair::start(Options::default()).await?;
    let socket = pair.mesh.admin_socket();
    let load = pair.load();

    // Before there was any.
    let (nothing, code) = json(&socket, &["rotate", "status"])?;
    ensure!(code == Some(0) && nothing["phase"].is_null() && nothing["id"].is_null());
    has_the_names(&nothing)?;
    says(
        &text(&socket, &["rotate", "status", "--watch"], 1)?,
        &["arx rotate root"],
    )?;
    says(&text(&socket, &["rotate", "history"], 0)?, &["no rotation"])?;
    for line in [&["rotate", "abort"][..], &["rotate", "continue"]] {
        says(&text(&socket, line, 1)?, &["ARX-ROTATION-NONE"])?;
    }

    let (plan, code) = json(&socket, &["rotate", "root", "--dry-run", "--window", "0"])?;
    ensure!(code == Some(0), "{plan}");
    ensure!(plan["must_confirm_agents"] == 2 && plan["refusals"] == json!([]));
    let (still, _) = json(&socket, &["rotate", "status"])?;
    ensure!(still == nothing, "a plan changes nothing: {still}");

    let before = json(&socket, &["bundle", "show"])?.0;
    let watching = command(
        &socket,
        &[
            "-o", "json", "rotate", "root", "--window", "0", "--reason", "a test", "--watch",
        ],
    )?
    .stdout(Stdio::piped())
    .stderr(Stdio::piped())
    .spawn()?;
    let running = reaches(&socket, "distribute").await?;
    has_the_names(&running)?;
    ensure!(running["id"] == "r1" && running["from"]["key_id"] == before["roots"][0]["key_id"]);
    says(
        &text(&socket, &["rotate", "root"], 1)?,
        &["ARX-ROTATION-UNDER-WAY", "r1"],
    )?;
    says(
        &text(&socket, &["rotate", "continue"], 1)?,
        &["ARX-ROTATION-NOT-HELD"],
    )?;
    let forced = ["rotate", "continue", "--force"];
    says(&text(&socket, &forced, 2)?, &["--reason"])?;

    let watched = tokio::task::spawn_blocking(|| watching.wait_with_output()).await??;
    ensure!(watched.status.code() == Some(0), "{watched:?}");
    load.stop().await.without_failure()?;
    let mut phases = Vec::new();
    for line in String::from_utf8(watched.stdout)?.lines() {
        let value: Value = serde_json::from_str(line)?;
        has_the_names(&value)?;
        if phases.last() != Some(&value["phase"]) {
            phases.push(value["phase"].clone());
        }
    }
    for phase in ["distribute", "reissue", "retire", "done"] {
        ensure!(phases.contains(&json!(phase)), "{phase} in {phases:?}");
    }
    ensure!(phases.last() == Some(&json!("done")), "{phases:?}");

    let (done, code) = json(&socket, &["rotate", "status"])?;
    ensure!(code == Some(0) && done["phase"] == "done", "{done}");
    let after = json(&socket, &["bundle", "show"])?.0;
    ensure!(
        done["to"]["key_id"] == after["roots"][0]["key_id"],
        "{after}"
    );
    let (history, _) = json(&socket, &["rotate", "history"])?;
    ensure!(history[0]["id"] == "r1" && history[0]["phase"] == "done");
    let (report, code) = json(&socket, &["rotate", "report", "r1"])?;
    ensure!(code == Some(0) && report["outcome"] == "done", "{report}");
    ensure!(
        report["reason"] == "a test" && report["to"]["key_id"] == done["to"]["key_id"],
        "{report}"
    );
    says(
        &text(&socket, &["rotate", "report", "r1"], 0)?,
        &["outcome   done", "retire:", "(4 confirmed)"],
    )?;
    says(
        &text(&socket, &["rotate", "report", "r7"], 1)?,
        &["ARX-ROTATION-UNKNOWN"],
    )?;
    says(
        &text(&socket, &["rotate", "abort"], 1)?,
        &[
            "ARX-ROTATION-NONE",
            "rotation r1 has ended",
            "arx rotate report r1",
        ],
    )?;
    pair.talks().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_operator_stops_watching_then_goes_back_and_a_forced_gate_names_who_was_left()
-> anyhow::Result<()> {
    let mut pair = Pair::start(Options::default()).await?;
    let socket = pair.mesh.admin_socket();
    let before = json(&socket, &["bundle", "show"])?.0["roots"].clone();

    // An agent that is away keeps it in Distribute; Ctrl-C ends the watch and nothing else.
    pair.agents[1].kill().await?;
    let watching = command(&socket, &["rotate", "root", "--window", "0", "--watch"])?
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let pid = Pid::from_raw(i32::try_from(watching.id())?).context("a process")?;
    until("the agent that is away is named", || async {
        let unconfirmed = json(&socket, &["rotate", "status"])?.0["unconfirmed"].clone();
        Ok(unconfirmed[0]["node"] == "c1/n2" && unconfirmed[0]["reason"] == "agent-away")
    })
    .await?;
    kill_process(pid, Signal::INT)?;
    let watched = tokio::task::spawn_blocking(|| watching.wait_with_output()).await??;
    ensure!(watched.status.code() == Some(130), "{watched:?}");
    says(
        std::str::from_utf8(&watched.stderr)?,
        &["the rotation goes on"],
    )?;
    says(
        &text(&socket, &["rotate", "status"], 0)?,
        &["distribute", "c1/n2: agent-away", "arx rotate abort"],
    )?;

    let (turned, code) = json(&socket, &["rotate", "abort", "--reason", "not today"])?;
    ensure!(code == Some(0), "{turned}");
    has_the_names(&turned)?;
    let aborted = reaches(&socket, "aborted").await?;
    ensure!(aborted["abort_reason"] == "not today", "{aborted}");
    ensure!(json(&socket, &["bundle", "show"])?.0["roots"] == before);
    let ended = ["rotate", "status", "--watch"];
    says(&text(&socket, &ended, 1)?, &["aborted"])?;

    // Again, and this time it is left behind.
    ensure!(
        arx(&socket, &["rotate", "root", "--window", "0"])?
            .status
            .success()
    );
    until("nobody but the agent that is away", || async {
        let unconfirmed = json(&socket, &["rotate", "status"])?.0["unconfirmed"].clone();
        let all = unconfirmed.as_array().context("a list")?;
        Ok(!all.is_empty() && all.iter().all(|one| one["reason"] == "agent-away"))
    })
    .await?;
    let digest = json(&socket, &["rotate", "status"])?.0["unconfirmed_digest"].clone();
    let force = |digest: &str| {
        let line = ["rotate", "continue", "--force", "--reason", "scrapped"];
        [&line[..], &["--digest", digest]].concat().join("\n")
    };
    let line = force("00ff");
    let other: Vec<_> = line.split('\n').collect();
    says(&text(&socket, &other, 1)?, &["not that one any more"])?;
    let line = force(digest.as_str().context("a digest")?);
    let seen: Vec<_> = line.split('\n').collect();
    let (forced, code) = json(&socket, &seen)?;
    ensure!(code == Some(0), "{forced}");
    ensure!(forced["left_behind"][0]["node"] == "c1/n2", "{forced}");
    ensure!(forced["forced"][0]["phase"] == "distribute", "{forced}");
    says(
        &text(&socket, &["rotate", "report", "r2"], 0)?,
        &["forced past 1", "because scrapped", "c1/n2 agent-away"],
    )?;
    Ok(())
}
