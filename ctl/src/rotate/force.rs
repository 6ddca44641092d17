//! `arx rotate continue --force`: past those who have not confirmed, and only past those
//! whom the operator was shown.

use std::collections::HashSet;
use std::path::Path;

use arx_proto::admin::v1 as wire;

use super::{begun, show, told, unconfirmed};
use crate::client::{Client, Failure, connect};
use crate::output::{Output, Style, hex};

/// A list that changes all the time is not forced past.
const ATTEMPTS: usize = 5;

pub(super) async fn run(
    socket: &Path,
    style: Style,
    reason: String,
    digest: Option<String>,
) -> Result<Output, Failure> {
    let mut client = connect(socket).await?;
    let shown = status(&mut client, String::new()).await?;
    can_be_forced(&shown)?;
    let list = hex(&shown.unconfirmed_digest);
    if digest.is_some_and(|digest| !digest.eq_ignore_ascii_case(&list)) {
        return Err(Failure::Failed(format!(
            "the list of those who have not confirmed is not that one any more, but {list}: see `arx rotate status`"
        )));
    }
    let mut now = shown.clone();
    for _ in 0..ATTEMPTS {
        let request = wire::ContinueRotationRequest {
            id: now.id.clone(),
            force: true,
            reason: reason.clone(),
            digest: now.unconfirmed_digest.clone(),
        };
        match client.continue_rotation(request).await {
            Ok(answer) => {
                let after = told(answer.into_inner().rotation)?;
                return Ok(done(&now, &after, style));
            }
            Err(status) if status.code() == tonic::Code::Aborted => {}
            Err(status) => return Err(status.into()),
        }
        // It is another list: whoever has confirmed since may go, nobody may come.
        now = status(&mut client, shown.id.clone()).await?;
        can_be_forced(&now)?;
        nobody_came(&shown, &now)?;
    }
    Err(Failure::Failed(
        "those who have not confirmed change too fast: nothing was forced; see `arx rotate status --watch`, and try again"
            .to_owned(),
    ))
}

async fn status(client: &mut Client, id: String) -> Result<wire::Rotation, Failure> {
    let request = wire::RotationStatusRequest {
        id,
        unconfirmed_limit: 0,
    };
    let answer = client.rotation_status(request).await?.into_inner();
    answer.rotation.ok_or_else(|| {
        Failure::Failed("there is no rotation to go on with: see `arx rotate history`".to_owned())
    })
}

fn can_be_forced(rotation: &wire::Rotation) -> Result<(), Failure> {
    let id = &rotation.id;
    if show::has_ended(rotation) {
        return Err(Failure::Failed(format!(
            "rotation {id} has ended ({}): there is nothing to force",
            rotation.phase
        )));
    }
    if rotation.unconfirmed_total == 0 {
        let held = if rotation.held {
            "go on without --force"
        } else {
            "see `arx rotate status`"
        };
        return Err(Failure::Failed(format!(
            "nobody keeps rotation {id} waiting in {}: {held}",
            rotation.phase
        )));
    }
    Ok(())
}

/// Whatever was shown is the most that is left behind.
fn nobody_came(shown: &wire::Rotation, now: &wire::Rotation) -> Result<(), Failure> {
    let gate = |rotation: &wire::Rotation| {
        let sequence = (rotation.bundle_epoch, rotation.bundle_number);
        (rotation.phase.clone(), rotation.aborting, sequence)
    };
    if gate(shown) != gate(now) {
        return Err(Failure::Failed(format!(
            "the rotation has gone on to {} by itself: nothing was forced; see `arx rotate status`",
            now.phase
        )));
    }
    let known: HashSet<_> = shown.unconfirmed.iter().map(unconfirmed::key).collect();
    let came: Vec<_> = now
        .unconfirmed
        .iter()
        .filter(|one| !known.contains(&unconfirmed::key(one)))
        .take(3)
        .map(unconfirmed::who)
        .collect();
    let whole = u64::try_from(now.unconfirmed.len()).is_ok_and(|len| len == now.unconfirmed_total);
    if came.is_empty() && whole {
        return Ok(());
    }
    let who = if came.is_empty() {
        String::new()
    } else {
        format!(" ({})", crate::output::one_line(&came.join(", ")))
    };
    Err(Failure::Failed(format!(
        "others have come to those who have not confirmed{who}: nothing was forced; see `arx rotate status`, and decide again"
    )))
}

fn done(left: &wire::Rotation, after: &wire::Rotation, style: Style) -> Output {
    if style.json {
        let mut value = show::to_json(after);
        let list = left.unconfirmed.iter().map(unconfirmed::to_json).collect();
        value["left_behind"] = serde_json::Value::Array(list);
        return Output::json(&value);
    }
    let total = left.unconfirmed_total;
    let mut lines = vec![format!("left behind in {}: {total}", left.phase)];
    for one in &left.unconfirmed {
        lines.extend(unconfirmed::entry(one, style, usize::MAX));
    }
    let shown = u64::try_from(left.unconfirmed.len()).unwrap_or(u64::MAX);
    if shown < total {
        lines.push(format!(
            "and {} more; `arx rotate report {}` lists them",
            total - shown,
            left.id
        ));
    }
    lines.push(String::new());
    let mut output = Output::text(&show::join(&lines));
    output.body.extend(begun(after, style).body);
    output
}

#[cfg(test)]
mod tests;
