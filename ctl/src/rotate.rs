//! `arx rotate`: a planned rotation of the root, from the plan to the evidence.
//!
//! The rotation is the authority's own: whatever ends this program, it goes on.

mod force;
mod history;
mod lines;
mod live;
pub(crate) mod plan;
mod report;
pub(crate) mod show;
pub(crate) mod unconfirmed;
mod watch;

use std::path::Path;
use std::time::Duration;

use arx_proto::admin::v1 as wire;
use clap::Subcommand;

use crate::client::{Failure, connect};
use crate::output::{Output, Style, limit, parse_span};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Begin to replace the root by a new one.
    Root {
        /// Spread the renewals over this long; 0 is at once [default: half the leaves' lifetime].
        #[arg(long, value_name = "SPAN", value_parser = window)]
        window: Option<Duration>,
        /// Show the plan, and who would hold it up, and change nothing.
        #[arg(long, conflicts_with = "watch")]
        dry_run: bool,
        /// Go on without those who have not confirmed for this long, and record it; otherwise they are waited for.
        #[arg(long, value_name = "SPAN", value_parser = parse_span)]
        wait_unconfirmed: Option<Duration>,
        /// For the ledger.
        #[arg(long, value_name = "TEXT", default_value = "")]
        reason: String,
        /// Follow it until it has ended.
        #[arg(long)]
        watch: bool,
    },
    /// Where the rotation stands, and who has not confirmed.
    Status {
        /// An earlier one.
        id: Option<String>,
        /// Follow it until it has ended.
        #[arg(long)]
        watch: bool,
    },
    /// Go back to the root that the rotation came from.
    Abort {
        /// For the ledger.
        #[arg(long, value_name = "TEXT", default_value = "")]
        reason: String,
    },
    /// Go on with a rotation that is held, or by force past those who have not confirmed.
    Continue {
        /// Leave behind those who have not confirmed.
        #[arg(long, requires = "reason")]
        force: bool,
        /// For the ledger; needed with --force.
        #[arg(long, value_name = "TEXT", value_parser = reason)]
        reason: Option<String>,
        /// Only if the list is still the one that `arx rotate status` named so.
        #[arg(long, value_name = "HEX", requires = "force")]
        digest: Option<String>,
    },
    /// List the rotations, newest first.
    History {
        /// Stop after so many.
        #[arg(long, default_value_t = 20, value_parser = limit)]
        limit: usize,
    },
    /// Show the evidence of a rotation: who confirmed what and when.
    Report {
        /// The rotation, as `arx rotate history` names it.
        id: String,
    },
}

pub(crate) async fn run(socket: &Path, style: Style, command: Command) -> Result<Output, Failure> {
    match command {
        Command::Root {
            window,
            dry_run,
            wait_unconfirmed,
            reason,
            watch,
        } => {
            let request = wire::RotateRootRequest {
                window_ms: window.map(millis),
                dry_run,
                wait_unconfirmed_ms: wait_unconfirmed.map(millis),
                dwell_ms: None,
                reason,
            };
            root(socket, style, request, watch).await
        }
        Command::Status { id, watch: true } => {
            watch::run(socket, style, id.unwrap_or_default()).await
        }
        Command::Status { id, watch: false } => status(socket, style, id.unwrap_or_default()).await,
        Command::Abort { reason } => {
            let request = wire::AbortRotationRequest {
                id: String::new(),
                reason,
            };
            let answer = connect(socket).await?.abort_rotation(request).await?;
            Ok(begun(&told(answer.into_inner().rotation)?, style))
        }
        Command::Continue {
            force: true,
            reason,
            digest,
        } => force::run(socket, style, reason.unwrap_or_default(), digest).await,
        Command::Continue {
            force: false,
            reason,
            ..
        } => {
            let request = wire::ContinueRotationRequest {
                reason: reason.unwrap_or_default(),
                ..Default::default()
            };
            let answer = connect(socket).await?.continue_rotation(request).await?;
            Ok(begun(&told(answer.into_inner().rotation)?, style))
        }
        Command::History { limit } => history::run(socket, style, limit).await,
        Command::Report { id } => report::run(socket, style, id).await,
    }
}

async fn root(
    socket: &Path,
    style: Style,
    request: wire::RotateRootRequest,
    watch: bool,
) -> Result<Output, Failure> {
    use wire::rotate_root_response::Outcome;
    let answer = connect(socket).await?.rotate_root(request).await?;
    match answer.into_inner().outcome {
        Some(Outcome::Plan(plan)) => Ok(plan::output(&plan, style)),
        Some(Outcome::Rotation(rotation)) if watch => watch::run(socket, style, rotation.id).await,
        Some(Outcome::Rotation(rotation)) => Ok(begun(&rotation, style)),
        None => Err(nothing_said()),
    }
}

async fn status(socket: &Path, style: Style, id: String) -> Result<Output, Failure> {
    let request = wire::RotationStatusRequest {
        id,
        unconfirmed_limit: 0,
    };
    let answer = connect(socket).await?.rotation_status(request).await?;
    let rotation = answer.into_inner().rotation;
    let held = rotation.as_ref().is_some_and(|rotation| rotation.held);
    let output = match rotation {
        _ if style.json => Output::json(&show::to_json(&rotation.unwrap_or_default())),
        Some(rotation) => Output::text(&show::to_text(&rotation, style)),
        None => Output::text("there has been no rotation; `arx rotate root --dry-run` plans one\n"),
    };
    Ok(output.well_if(!held))
}

/// Follows one until it has ended.
pub(crate) async fn follow(socket: &Path, style: Style, id: String) -> Result<Output, Failure> {
    watch::run(socket, style, id).await
}

/// After a command that changed the course of a rotation, which now runs by itself.
pub(crate) fn begun(rotation: &wire::Rotation, style: Style) -> Output {
    if style.json {
        return Output::json(&show::to_json(rotation));
    }
    let mut text = show::to_text(rotation, style);
    if !show::has_ended(rotation) && !rotation.held {
        text.push_str("\nit goes on by itself; `arx rotate status --watch` follows it\n");
    }
    Output::text(&text)
}

fn told(rotation: Option<wire::Rotation>) -> Result<wire::Rotation, Failure> {
    rotation.ok_or_else(nothing_said)
}

pub(crate) fn nothing_said() -> Failure {
    Failure::Failed(
        "the authority's answer says nothing that this program knows: take an arx of its version"
            .to_owned(),
    )
}

pub(crate) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// The argument of `--window`.
fn window(text: &str) -> Result<Duration, String> {
    match text {
        "0" => Ok(Duration::ZERO),
        text => parse_span(text),
    }
}

/// A reason that is needed, as an argument.
pub(crate) fn reason(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("say why, for whoever reads the ledger later".to_owned()),
        text => Ok(text.to_owned()),
    }
}

#[cfg(test)]
pub(crate) mod example;
#[cfg(test)]
mod tests;
