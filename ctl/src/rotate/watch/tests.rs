//! A watch from its first word to its end, however that comes.

use std::future::pending;
use std::sync::Mutex;

use serde_json::Value;

use super::super::example::{STYLE, authority, away, later, waiting};
use super::*;
use crate::fake::Rotations;
use crate::tests::json;

/// What a watch of these says, up to its end.
async fn watched(watches: &[&[wire::Rotation]], view: View) -> Result<(Ended, String), Failure> {
    let watches = watches.iter().map(|told| told.to_vec()).collect();
    let authority = authority(Rotations {
        watches: Mutex::new(watches),
        ..Rotations::default()
    });
    let mut out = Vec::new();
    let id = String::new();
    let ended = follow(authority.path(), id, view, STYLE, &mut out, pending()).await?;
    Ok((ended, String::from_utf8(out).expect("text")))
}

#[tokio::test]
async fn a_watch_goes_on_behind_a_restart_of_the_authority_to_the_end() {
    let waits = waiting(vec![away()]);
    let watches: &[&[wire::Rotation]] = &[
        &[later("prepare"), waits.clone()],
        &[waits, later("activate"), later("done")],
    ];
    let (ended, out) = watched(watches, View::Lines(Teller::default()))
        .await
        .expect("the end");
    assert!(matches!(ended, Ended::With(rotation) if rotation.phase == "done"));
    assert_eq!(
        out.matches("the authority has gone away").count(),
        1,
        "{out}"
    );
    assert_eq!(out.matches("118 of 119 confirmed").count(), 1, "{out}");
    assert!(out.contains("activate: entered"), "{out}");
    assert!(
        out.trim_end().ends_with("done: the rotation has ended"),
        "{out}"
    );

    let (_, out) = watched(watches, View::Json).await.expect("the end");
    let phases: Vec<_> = out
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON")["phase"].clone())
        .collect();
    let expected = ["prepare", "distribute", "distribute", "activate", "done"];
    assert_eq!(phases, expected);
}

#[tokio::test]
async fn a_watch_of_another_rotation_is_not_taken_for_this_one() {
    let mut other = later("done");
    other.id = "r2".to_owned();
    let failure = watched(
        &[&[waiting(vec![away()])], &[other]],
        View::Lines(Teller::default()),
    )
    .await
    .expect_err("r1 is gone");
    assert_eq!(failure.exit_code(), 1, "{failure}");
}

/// Ctrl-C comes when the first thing has been shown.
struct Reader(Option<tokio::sync::oneshot::Sender<()>>);

impl Write for Reader {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        if let Some(shown) = self.0.take() {
            shown.send(()).expect("the watch runs");
        }
        Ok(text.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn ctrl_c_ends_the_watch_and_asks_nothing_of_the_authority() {
    let waits = waiting(vec![away()]);
    let authority = authority(Rotations {
        watches: Mutex::new([vec![waits.clone()]].into()),
        ..Rotations::saying([waits])
    });
    let (shown, interrupted) = tokio::sync::oneshot::channel();
    let mut out = Reader(Some(shown));
    let ended = follow(
        authority.path(),
        String::new(),
        View::Lines(Teller::default()),
        STYLE,
        &mut out,
        async { interrupted.await.expect("it was shown") },
    )
    .await;
    assert!(matches!(ended, Ok(Ended::Interrupted)), "{ended:?}");
    let after = json(authority.path(), &["rotate", "status"]).await;
    assert_eq!(after["phase"], "distribute");
    assert_eq!(after["aborting"], false);
}

/// A reader such as `head` that has gone.
struct Gone;

impl Write for Gone {
    fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
        Err(std::io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_watch_that_nobody_reads_ends() {
    let authority = authority(Rotations {
        watches: Mutex::new([vec![waiting(Vec::new())]].into()),
        ..Rotations::default()
    });
    let id = String::new();
    let ended = follow(
        authority.path(),
        id,
        View::Json,
        STYLE,
        &mut Gone,
        pending(),
    )
    .await;
    assert!(matches!(ended, Ok(Ended::Unread)), "{ended:?}");
}
