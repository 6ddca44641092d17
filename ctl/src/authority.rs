//! `arx authority`: an offline root. Its CA certifies what signs here.

use std::fmt::Write as _;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use arx_proto::admin::v1 as wire;
use arx_proto::admin::v1::custody_client::CustodyClient;
use clap::Subcommand;
use serde_json::json;

use crate::client::{Failure, channel};
use crate::output::{Output, Style, instant_json, one_line, span};
use crate::rotate::plan;

/// Longer chains are refused by the authority too.
const LIMIT: u64 = 256 * 1024;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print the request (PKCS #10, PEM) for a certificate by the offline CA; what that has to say is told on standard error.
    ///
    /// The key is made by the authority and stays there. The request is the same until a chain
    /// for it was installed.
    Csr,
    /// Install the signed certificate with its chain up to the root, after everything about it was checked.
    Install {
        /// PEM: the certificate, then each that signs the one before, the root included; `-` for standard input.
        chain: PathBuf,
        /// Check everything, show what would follow, and change nothing.
        #[arg(long)]
        dry_run: bool,
    },
}

pub(crate) async fn run(socket: &Path, style: Style, command: Command) -> Result<Output, Failure> {
    match command {
        Command::Csr => csr(socket, style).await,
        Command::Install { chain, dry_run } => install(socket, style, &chain, dry_run).await,
    }
}

async fn csr(socket: &Path, style: Style) -> Result<Output, Failure> {
    let mut client = CustodyClient::new(channel(socket).await?);
    let answer = client
        .authority_request(wire::AuthorityRequestRequest {})
        .await?
        .into_inner();
    if style.json {
        return Ok(Output::json(&json!({
            "request": answer.request, "made": instant_json(answer.made_unix_ms),
            "path_length": answer.path_length, "longest_leaf_ms": answer.longest_leaf_ms,
            "intermediate_ms": answer.intermediate_ms, "root": answer.root,
        })));
    }
    let mut output = Output::text(&answer.request);
    output.note = wanted(&answer);
    Ok(output)
}

/// What the certificate has to say, and what to do with it.
fn wanted(answer: &wire::AuthorityRequestResponse) -> String {
    let mut note = String::new();
    let mut line = |text: &str| {
        let _infallible = writeln!(note, "{text}");
    };
    line("have this signed by the offline CA; the certificate has to say:");
    line(&format!(
        "  basicConstraints   critical, CA:TRUE, pathlen:{} or more",
        answer.path_length
    ));
    line("  keyUsage           critical, keyCertSign, cRLSign");
    line("  both key identifiers, and the subject of the request");
    line(&format!(
        "  validity           more than {}, better many times {}: a year or more",
        span(answer.longest_leaf_ms),
        span(answer.intermediate_ms)
    ));
    if !answer.root.is_empty() {
        line(&format!("  under the root     {}", one_line(&answer.root)));
    }
    line("then: arx authority install CHAIN, with the certificate first and the root last");
    note
}

async fn install(
    socket: &Path,
    style: Style,
    path: &Path,
    dry_run: bool,
) -> Result<Output, Failure> {
    let request = wire::InstallAuthorityRequest {
        chain: read(path)?,
        dry_run,
    };
    let mut client = CustodyClient::new(channel(socket).await?);
    let answer = client.install_authority(request).await?.into_inner();
    let taken = answer.problems.is_empty();
    if style.json {
        let problems: Vec<_> = answer
            .problems
            .iter()
            .map(|problem| json!({ "code": problem.code, "message": problem.message }))
            .collect();
        let value = json!({
            "outcome": answer.outcome, "problems": problems, "subject": answer.subject,
            "not_after": instant_json(answer.not_after_unix_ms),
            "renewal": instant_json(answer.renewal_unix_ms),
            "rotation": answer.rotation, "dry_run": dry_run,
            "plan": answer.plan.as_ref().map(plan::to_json),
        });
        return Ok(Output::json(&value).well_if(taken));
    }
    if !taken {
        let mut text = "the chain is refused, and nothing was changed:\n".to_owned();
        for problem in &answer.problems {
            text += &format!("- {} ({})\n", one_line(&problem.message), problem.code);
        }
        return Ok(Output::text(&text).well_if(false));
    }
    if let Some(plan) = &answer.plan {
        return Ok(Output::text(&format!(
            "{}: in order, and under another root than the present one; nothing was changed, and a \
             rotation to it would begin:\n{}",
            one_line(&answer.subject),
            plan::to_text(plan, style)
        )));
    }
    let what = match answer.outcome.as_str() {
        "first" | "restart" | "renewed" | "already" if dry_run => {
            "it is in order, and nothing was changed"
        }
        "follows" => {
            "it stands under another root, and a rotation to that has begun: see `arx rotate status --watch`"
        }
        "first" => "the authority begins to issue under it",
        "restart" => {
            "it is taken at the next start: start the authority again, and replace the bundle files of the nodes"
        }
        "already" => "it was installed already",
        _ => "intermediates are issued under it from now on",
    };
    let announced = if answer.renewal_unix_ms > style.now_ms {
        "is announced"
    } else {
        "was due"
    };
    Ok(Output::text(&format!(
        "{}: {what}\nit ends {}, and its renewal {announced} {}\n",
        one_line(&answer.subject),
        style.time(answer.not_after_unix_ms),
        style.time(answer.renewal_unix_ms),
    )))
}

pub(crate) fn read(path: &Path) -> Result<String, Failure> {
    let wrong = |what: String| Failure::Failed(format!("{}: {what}", path.display()));
    let mut text = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin().take(LIMIT + 1).read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(LIMIT + 1).read_to_string(&mut text))
    };
    let length = read.map_err(|error| wrong(error.to_string()))?;
    if length as u64 > LIMIT {
        return Err(wrong("longer than 256 KiB, and no chain is".to_owned()));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operator_is_told_what_the_certificate_has_to_say_and_how_long() {
        let day = 24 * 3_600_000;
        let note = wanted(&wire::AuthorityRequestResponse {
            path_length: 1,
            longest_leaf_ms: day,
            intermediate_ms: 7 * day,
            root: "CN=a\u{1b}[2J".to_owned(),
            ..Default::default()
        });
        for part in [
            "CA:TRUE, pathlen:1 or more",
            "keyCertSign",
            "more than 1d, better many times 7d",
            "CN=a\\u{1b}[2J",
            "arx authority install CHAIN",
        ] {
            assert!(note.contains(part), "{part} is missing in:\n{note}");
        }
    }
}
