//! `arx distrust`: a root or an intermediate whose key is in somebody else's hands.

mod intermediate;
mod plan;

use std::path::Path;
use std::time::Duration;

use arx_proto::admin::v1 as wire;
use clap::Args;
use wire::distrust_response::Outcome;

use crate::client::{Failure, connect};
use crate::output::{Output, Style, parse_span};
use crate::rotate;

#[derive(Debug, Args)]
pub(crate) struct Distrust {
    /// A root by its subject or the first digits of its key identifier, or an intermediate by those of its key identifier or serial number.
    #[arg(value_name = "AUTHORITY")]
    authority: String,
    /// Show who would fail, by name, and change nothing.
    #[arg(long, conflicts_with = "watch")]
    dry_run: bool,
    /// For the ledger.
    #[arg(
        long,
        value_name = "TEXT",
        required_unless_present = "dry_run",
        value_parser = rotate::reason
    )]
    reason: Option<String>,
    /// How long each phase waits for whoever has not followed [default: 5s].
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    cap: Option<Duration>,
    /// Distrust the root also if no other can take its place: nothing is issued then, and nothing connects, until the authority is started with another one.
    #[arg(long = "i-understand-nothing-will-connect")]
    nothing_will_connect: bool,
    /// Follow it until it has ended.
    #[arg(long)]
    watch: bool,
}

pub(crate) async fn run(
    socket: &Path,
    style: Style,
    distrust: Distrust,
) -> Result<Output, Failure> {
    let request = wire::DistrustRequest {
        authority: distrust.authority,
        dry_run: distrust.dry_run,
        reason: distrust.reason.unwrap_or_default(),
        cap_ms: distrust.cap.map(rotate::millis),
        dwell_ms: None,
        nothing_will_connect: distrust.nothing_will_connect,
    };
    let answer = connect(socket).await?.distrust(request).await?;
    match answer.into_inner().outcome {
        Some(Outcome::Plan(plan)) => Ok(plan::output(&plan, style)),
        Some(Outcome::Intermediate(told)) => Ok(intermediate::output(&told, style)),
        Some(Outcome::Rotation(rotation)) if distrust.watch => {
            rotate::follow(socket, style, rotation.id).await
        }
        Some(Outcome::Rotation(rotation)) => Ok(rotate::begun(&rotation, style)),
        None => Err(rotate::nothing_said()),
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use tests::example;
