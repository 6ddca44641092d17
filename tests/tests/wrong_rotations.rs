//! What is asked of rotations that can't be: refused, with what to do, and nothing is changed.

use std::process::Command;

use anyhow::{Context as _, ensure};
use arx_proto::admin::v1::{ContinueRotationRequest, RotateRootRequest};
use arx_tests::mesh::{Mesh, Options};
use arx_tests::process::{binary, until};
use arx_tests::rotating::{abort, quickly, reaches, roots, rotate, stands};

/// A mesh with an agent that has gone, for which every gate stays shut.
async fn waiting() -> anyhow::Result<Mesh> {
    let mesh = Mesh::start(Options::default()).await?;
    let mut agent = mesh.agent("n1").await?;
    agent.kill().await?;
    rotate(&mesh, quickly()).await?;
    reaches(&mesh, "it waits", |it| {
        it.phase == "distribute" && it.unconfirmed_total > 0
    })
    .await?;
    Ok(mesh)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn of_many_who_begin_a_rotation_at_once_one_does_and_the_others_are_told_which()
-> anyhow::Result<()> {
    let mesh = Mesh::start(Options::default()).await?;
    let slowly = || RotateRootRequest {
        dwell_ms: Some(60_000),
        ..quickly()
    };
    let many: Vec<_> = (0..8).map(|_| rotate(&mesh, slowly())).collect();
    let (mut begun, mut refused) = (Vec::new(), Vec::new());
    for outcome in futures_util::future::join_all(many).await {
        match outcome {
            Ok(rotation) => begun.push(rotation.id),
            Err(error) => refused.push(error.to_string()),
        }
    }
    ensure!(
        begun == ["r1"] && refused.len() == 7,
        "{begun:?} {refused:?}"
    );
    for told in &refused {
        ensure!(
            told.contains("rotation r1 is under way") && told.contains("`arx rotate abort`"),
            "{told}"
        );
    }
    ensure!(stands(&mesh).await?.id == "r1");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn no_gate_is_forced_without_a_reason_neither_by_the_command_nor_by_the_interface()
-> anyhow::Result<()> {
    let mesh = waiting().await?;
    let before = stands(&mesh).await?;
    for reason in ["", "  "] {
        let request = ContinueRotationRequest {
            force: true,
            reason: reason.to_owned(),
            digest: before.unconfirmed_digest.clone(),
            ..ContinueRotationRequest::default()
        };
        let refused = mesh.admin().await?.continue_rotation(request).await;
        let refused = refused.err().context("it is refused")?;
        ensure!(refused.message().contains("--reason"), "{refused:?}");
    }
    for line in [&["--force"][..], &["--force", "--reason", ""]] {
        let mut command = Command::new(binary("arx")?);
        command.arg("--socket").arg(mesh.admin_socket());
        let output = command.args(["rotate", "continue"]).args(line).output()?;
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            output.status.code() == Some(2) && told.contains("--reason"),
            "{told}"
        );
    }
    let after = stands(&mesh).await?;
    ensure!(
        after.phase == "distribute" && after.forced.is_empty(),
        "{after:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_is_over_is_neither_turned_round_nor_gone_on_with_and_nothing_is_changed_by_asking()
-> anyhow::Result<()> {
    let mesh = Mesh::start(Options::default()).await?;
    let before = roots(&mesh).await?;
    let ended = |phase: &'static str| {
        let mesh = &mesh;
        async move { reaches(mesh, phase, |it| it.phase == phase).await }
    };
    rotate(&mesh, quickly()).await?;
    ended("done").await?;
    let after = roots(&mesh).await?;
    ensure!(after != before);
    let slowly = RotateRootRequest {
        dwell_ms: Some(60_000),
        ..quickly()
    };
    for (id, phase) in [("r1", "done"), ("r2", "aborted")] {
        if phase == "aborted" {
            rotate(&mesh, slowly.clone()).await?;
            abort(&mesh).await?;
        }
        let stood = ended(phase).await?;
        for line in [
            &["abort", "--reason", "too late"][..],
            &["continue"],
            &["continue", "--force", "--reason", "too late"],
        ] {
            let mut command = Command::new(binary("arx")?);
            command.arg("--socket").arg(mesh.admin_socket());
            let output = command.arg("rotate").args(line).output()?;
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            ensure!(
                output.status.code() == Some(1)
                    && told.contains(&format!("rotation {id} has ended"))
                    && (told.contains("ARX-ROTATION-NONE")
                        || told.contains("there is nothing to force")),
                "{line:?}: {told}"
            );
        }
        let stands = stands(&mesh).await?;
        ensure!(stands.id == id && stands.phases == stood.phases);
        ensure!(stands.forced.is_empty() && stands.abort_reason != "too late");
        ensure!(roots(&mesh).await? == after);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_state_of_before_that_is_put_back_in_the_middle_of_a_rotation_is_not_gone_on_with()
-> anyhow::Result<()> {
    let mut mesh = Mesh::start(Options::default()).await?;
    let state = mesh.directory.join("authority/state.redb");
    let (backup, newest) = (
        mesh.directory.join("old.redb"),
        mesh.directory.join("new.redb"),
    );
    mesh.stop_authority().await?;
    std::fs::copy(&state, &backup)?;
    mesh.spawn_authority()?;
    mesh.authority_is_ready().await?;
    let _agent = mesh.agent("n1").await?;
    let slowly = RotateRootRequest {
        window_ms: Some(3_600_000),
        ..quickly()
    };
    rotate(&mesh, slowly).await?;
    reaches(&mesh, "both roots sign", |it| it.phase == "reissue").await?;
    let both = roots(&mesh).await?;
    mesh.stop_authority().await?;
    std::fs::copy(&state, &newest)?;

    std::fs::copy(&backup, &state)?;
    mesh.spawn_authority()?;
    let mut process = mesh.authority.take().context("it was started")?;
    let log = process.log();
    let status = process.ended().await?;
    let told = log.tail();
    ensure!(!status.success(), "it goes on");
    for part in ["1.1", "1.2", "--accept-loss"] {
        ensure!(told.contains(part), "{part:?} is not in {told}");
    }

    // With the right one, the rotation goes on where it was.
    std::fs::copy(&newest, &state)?;
    mesh.spawn_authority()?;
    mesh.authority_is_ready().await?;
    until("it is there", || async {
        Ok(stands(&mesh).await?.phase == "reissue")
    })
    .await?;
    ensure!(roots(&mesh).await? == both);
    Ok(())
}
