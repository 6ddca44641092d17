//! `arx backup` and `arx restore`: a copy of the state, and what follows when one was put back.

use std::io::{IsTerminal as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use arx_proto::admin::v1 as wire;
use arx_proto::admin::v1::recovery_client::RecoveryClient;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tonic::transport::Channel;

use crate::client::{Failure, channel};
use crate::output::{Output, Style, columns, count, hex, instant_json, one_line};

/// Answers are longer than others may be, and bounded all the same.
const LIMIT: usize = 16 * 1024 * 1024;

#[derive(Debug, Args)]
pub(crate) struct Backup {
    /// Where it goes: a new file, which only you can read; `-` for standard output.
    file: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// How an authority stands whose state was put back by `arx-ca restore FILE`.
    Status,
    /// Trust a root that the fleet has and this state does not know, and rotate away from it.
    ///
    /// Only if there is no newer backup. The root's key is gone with the state that had it; what
    /// stands under it stays valid until everybody has certificates under the root that is here.
    Adopt {
        /// The fleet's bundle, PEM: from a node, a ConfigMap, or any proxy's secrets; `-` for
        /// standard input. Compare the root with what you know of it first.
        roots: PathBuf,
        /// For the ledger.
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
    /// Have it issue without waiting for agents any longer.
    Open {
        /// Without this nothing is done: agents that were not heard may trust roots that this
        /// state does not know.
        #[arg(long, required = true)]
        no_fleet: bool,
        /// Also if agents hold, or the ledger tells of, roots that this state does not know: whatever
        /// stands under these is not believed any more.
        #[arg(long)]
        although_ahead: bool,
        /// For the ledger.
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
}

async fn connect(socket: &Path) -> Result<RecoveryClient<Channel>, Failure> {
    let client = RecoveryClient::new(channel(socket).await?);
    Ok(client.max_decoding_message_size(LIMIT))
}

pub(crate) async fn backup(socket: &Path, style: Style, to: &Backup) -> Result<Output, Failure> {
    let is_piped = to.file == Path::new("-");
    if is_piped && style.json {
        return Err(Failure::Usage(
            "standard output is for the backup or for JSON: name a file, or leave out -o json"
                .to_owned(),
        ));
    }
    if is_piped && std::io::stdout().is_terminal() {
        return Err(Failure::Usage(
            "a backup is nothing for a terminal: name a file, or lead standard output to one"
                .to_owned(),
        ));
    }
    let mut client = connect(socket).await?;
    let answer = client.backup(wire::BackupRequest {}).await?.into_inner();
    if !is_piped {
        write(&to.file, &answer.content).map_err(|error| unwritten(&to.file, &error))?;
    }
    let bytes = answer.content.len();
    if style.json {
        return Ok(Output::json(&json!({
            "id": answer.id, "made": instant_json(answer.made_unix_ms),
            "bundle_sequence": sequence(answer.epoch, answer.number), "bytes": bytes,
            "sealed": answer.sealed, "agents": answer.agents,
            "silent_replicas": answer.silent_replicas,
        })));
    }
    let said = format!(
        "{}: backup {} of bundle {}, {}, {bytes} bytes\n",
        to.file.display(),
        one_line(&answer.id),
        sequence(answer.epoch, answer.number),
        count(answer.agents, "agent"),
    );
    let mut output = match is_piped {
        true => Output {
            note: said,
            ..Output::raw(answer.content)
        },
        false => Output::text(&said),
    };
    output.note += match answer.sealed {
        true => {
            "keep it apart from the sealing key, which it is worth nothing without; the ledger is not in it\n"
        }
        false => {
            "it is NOT sealed, and has the root's key unless that is elsewhere: keep it as you would keep that; the ledger is not in it\n"
        }
    };
    if !answer.silent_replicas.is_empty() {
        output.note += &format!(
            "agents of {} are not counted, which has not said who they are: if it runs, take another one in a minute\n",
            one_line(&answer.silent_replicas.join(", "))
        );
    }
    Ok(output)
}

fn unwritten(path: &Path, error: &std::io::Error) -> Failure {
    let path = path.display();
    Failure::Failed(match error.kind() {
        std::io::ErrorKind::AlreadyExists => format!(
            "{path} is there already, and may be the backup that is needed one day: name another file"
        ),
        std::io::ErrorKind::NotFound => format!("{path}: its folder is not there: make it first"),
        _ => format!("{path}: {error}"),
    })
}

/// Never in the place of anything: an earlier backup may be the one that is needed.
fn write(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    let written = file
        .set_permissions(std::fs::Permissions::from_mode(0o600))
        .and_then(|()| file.write_all(content))
        .and_then(|()| file.sync_all());
    if written.is_err() {
        // Half a backup is none.
        let _already_gone = std::fs::remove_file(path);
    }
    written
}

pub(crate) async fn restore(
    socket: &Path,
    style: Style,
    command: Command,
) -> Result<Output, Failure> {
    let mut client = connect(socket).await?;
    let answer = match command {
        Command::Status => client.restore_status(wire::RestoreStatusRequest {}).await?,
        Command::Adopt { roots, reason } => {
            let roots = crate::authority::read(&roots)?;
            client
                .adopt_root(wire::AdoptRootRequest { roots, reason })
                .await?
        }
        Command::Open {
            no_fleet: _,
            although_ahead,
            reason,
        } => {
            let request = wire::OpenRestoredRequest {
                reason,
                although_ahead,
            };
            client.open_restored(request).await?
        }
    };
    let answer = answer.into_inner();
    let output = match style.json {
        true => Output::json(&to_json(&answer)),
        false => Output::text(&to_text(&answer, style)),
    };
    Ok(output.well_if(!answer.shut))
}

fn to_json(answer: &wire::RestoreStatusResponse) -> Value {
    let bundles = |all: &[wire::AheadBundle]| all.iter().map(bundle_json).collect::<Vec<_>>();
    json!({
        "restored": !answer.backup.is_empty(), "shut": answer.shut, "backup": answer.backup,
        "made": instant_json(answer.made_unix_ms), "at": instant_json(answer.at_unix_ms),
        "bundle_sequence": sequence(answer.epoch, answer.number), "agents": answer.agents,
        "counted": answer.counted, "needed": answer.needed, "agree": answer.agree,
        "ahead": bundles(&answer.ahead), "doubtful": bundles(&answer.doubtful),
        "opened": instant_json(answer.opened_unix_ms), "reason": answer.opened_reason,
    })
}

fn bundle_json(bundle: &wire::AheadBundle) -> Value {
    let missing = bundle.missing_key_ids.iter().map(|id| hex(id));
    json!({
        "bundle_sequence": sequence(bundle.epoch, bundle.number), "sha256": hex(&bundle.sha256),
        "agents": bundle.agents, "missing": missing.collect::<Vec<_>>(), "nodes": bundle.nodes,
        "ledgers": bundle.ledgers,
    })
}

fn to_text(answer: &wire::RestoreStatusResponse, style: Style) -> String {
    let bundle = sequence(answer.epoch, answer.number);
    if answer.backup.is_empty() {
        return format!("this state was never put back; bundle {bundle} is published\n");
    }
    let mut text = format!(
        "backup     {} made {}, put back {}\n",
        one_line(&answer.backup),
        style.time(answer.made_unix_ms),
        style.time(answer.at_unix_ms)
    );
    text += &match (answer.shut, answer.opened_reason.as_str()) {
        (true, _) => "state      shut: nothing is issued, and nothing published\n".to_owned(),
        (false, "") => format!(
            "state      open since {}, by the agents' word\n",
            style.time(answer.opened_unix_ms)
        ),
        (false, reason) => format!(
            "state      open since {}, by an operator's word: {}\n",
            style.time(answer.opened_unix_ms),
            one_line(reason)
        ),
    };
    text += &format!("bundle     {bundle}\n");
    text += &agents(answer);
    if !answer.shut {
        return text;
    }
    text += &format!("verdict    {}\n", one_line(&answer.verdict));
    for it in &answer.doubtful {
        text += &format!(
            "doubtful   {}: no history leads to bundle {}, so that word does not count; see what it is, and deny the node or empty its agent's state\n",
            who(it),
            sequence(it.epoch, it.number),
        );
    }
    if answer.ahead.is_empty() {
        text += "\nif the agents are gone for good, or there are none: arx restore open --no-fleet --reason TEXT\n";
        return text;
    }
    let rows: Vec<_> = answer.ahead.iter().map(row).collect();
    text += "\nwhat this state does not know:\n";
    text += &columns(
        &[
            "BUNDLE",
            "AGENTS",
            "ROOTS THAT ARE MISSING HERE",
            "WHO SAYS SO",
        ],
        &rows,
    );
    text += "\nif there is a newer backup: stop arx-ca, empty its state directory but for the ledger, and restore that\notherwise, if one root is missing: arx restore adopt ROOTS --reason TEXT, with the fleet's bundle in ROOTS\n";
    text
}

fn sequence(epoch: u64, number: u64) -> String {
    format!("{epoch}.{number}")
}

fn row(ahead: &wire::AheadBundle) -> Vec<String> {
    let missing: Vec<_> = ahead.missing_key_ids.iter().map(|id| hex(id)).collect();
    vec![
        sequence(ahead.epoch, ahead.number),
        ahead.agents.to_string(),
        match missing.is_empty() {
            true => "none, but the root that signs here is not among theirs".to_owned(),
            false => missing.join(" "),
        },
        who(ahead),
    ]
}

/// Who tells of a bundle.
fn who(bundle: &wire::AheadBundle) -> String {
    let named = u64::try_from(bundle.nodes.len()).unwrap_or(u64::MAX);
    let mut all = bundle.nodes.clone();
    if bundle.agents > named {
        all.push(format!("{} more", bundle.agents - named));
    }
    let ledgers = bundle.ledgers.iter();
    all.extend(ledgers.map(|replica| format!("the ledger of {replica}")));
    one_line(&all.join(", "))
}

/// How many agree, and have to.
fn agents(answer: &wire::RestoreStatusResponse) -> String {
    let (agree, needed) = (answer.agree, answer.needed);
    match (answer.agents, answer.counted) {
        (0, _) => format!("agents     {agree} agree; there were none when it was made\n"),
        (all, counted) if counted < all => format!(
            "agents     {agree} agree, {needed} have to, of {counted} that are counted as a sample of {all} that there were\n"
        ),
        (all, _) => {
            format!("agents     {agree} agree, {needed} have to, of {all} that there were\n")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shut() -> wire::RestoreStatusResponse {
        wire::RestoreStatusResponse {
            backup: "b1".to_owned(),
            shut: true,
            agents: 3,
            counted: 3,
            needed: 2,
            agree: 1,
            verdict: "1 of the 2 agents that are needed have come and agree".to_owned(),
            ..wire::RestoreStatusResponse::default()
        }
    }

    fn told(answer: &wire::RestoreStatusResponse) -> String {
        let style = Style {
            json: false,
            wide: false,
            now_ms: 0,
        };
        to_text(answer, style)
    }

    #[test]
    fn a_file_that_is_there_is_left_as_it_is_and_what_keeps_a_backup_from_a_file_is_said() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("backup");
        write(&path, b"first").expect("a new file");
        let said = |path: &Path| {
            let error = write(path, b"second").expect_err("it cannot");
            unwritten(path, &error).to_string()
        };
        assert!(said(&path).contains("name another file"));
        assert_eq!(std::fs::read(&path).expect("still there"), b"first");
        assert!(said(&folder.path().join("none/backup")).contains("make it first"));
    }

    #[test]
    fn the_status_says_who_tells_of_what_is_not_known_and_whose_word_does_not_count() {
        let ahead = wire::AheadBundle {
            epoch: 1,
            number: 5,
            missing_key_ids: vec![vec![9; 20].into()],
            agents: 3,
            nodes: vec!["c1/n1".to_owned(), "c1/n2".to_owned()],
            ledgers: vec!["ca-1".to_owned()],
            ..wire::AheadBundle::default()
        };
        let doubtful = wire::AheadBundle {
            epoch: u64::MAX,
            number: 1,
            agents: 1,
            nodes: vec!["c1/n7".to_owned()],
            ..wire::AheadBundle::default()
        };
        let text = told(&wire::RestoreStatusResponse {
            ahead: vec![ahead],
            doubtful: vec![doubtful],
            ..shut()
        });
        for part in [
            "c1/n1, c1/n2, 1 more, the ledger of ca-1",
            "doubtful   c1/n7: no history leads to bundle 18446744073709551615.1",
            "arx restore adopt ROOTS",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }

    #[test]
    fn of_no_agents_no_half_is_told_and_of_many_that_a_sample_is_counted() {
        let text = told(&wire::RestoreStatusResponse {
            agents: 0,
            counted: 0,
            ..shut()
        });
        assert!(text.contains("there were none when it was made"), "{text}");
        assert!(text.contains("arx restore open --no-fleet"), "{text}");
        assert!(!text.contains("arx restore status"), "{text}");
        let text = told(&wire::RestoreStatusResponse {
            agents: 100_000,
            counted: 2048,
            needed: 1025,
            ..shut()
        });
        let sample = "1025 have to, of 2048 that are counted as a sample of 100000";
        assert!(text.contains(sample), "{text}");
    }
}
