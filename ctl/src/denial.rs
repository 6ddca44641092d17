//! `arx deny` and `arx allow`: who gets no new certificates.

use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use arx_proto::admin::v1 as wire;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::client::{Client, Failure, connect};
use crate::output::{Output, Style, columns, instant_json, now, one_line, parse_span, unix_ms};

/// Entries that are asked for at a time.
const PAGE: u32 = 100;

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Deny {
    #[command(subcommand)]
    command: Option<Command>,
    /// Whom: a SPIFFE id, sa/NAMESPACE/NAME, or node/CLUSTER/NODE with everything on it.
    #[arg(value_name = "WHOM", required = true)]
    subject: Option<String>,
    /// Until then: a time like 2026-11-26T18:00:00Z, or a span from now like 8h [default: until `arx allow`].
    #[arg(long, value_name = "TIME|SPAN", value_parser = until)]
    until: Option<i64>,
    /// For the ledger, and for whoever reads the list.
    #[arg(long, value_name = "TEXT", required = true, value_parser = reason)]
    reason: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List who is denied, what each still holds, and until when.
    List,
}

#[derive(Debug, Args)]
pub(crate) struct Allow {
    /// Whom, as `arx deny list` names them.
    #[arg(value_name = "WHOM")]
    subject: String,
    /// For the ledger.
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
}

pub(crate) async fn deny(socket: &Path, style: Style, deny: Deny) -> Result<Output, Failure> {
    let mut client = connect(socket).await?;
    if let Some(Command::List) = deny.command {
        return list(&mut client, style).await;
    }
    let request = wire::DenyRequest {
        subject: deny.subject.unwrap_or_default(),
        until_unix_ms: deny.until.unwrap_or_default(),
        reason: deny.reason.unwrap_or_default(),
    };
    let answer = client.deny(request).await?.into_inner();
    let denial = answer.denial.unwrap_or_default();
    let reached = answer.unreached.is_empty();
    if style.json {
        let mut value = to_json(&denial);
        value["unreached"] = answer.unreached.into();
        value["index_ready"] = answer.index_ready.into();
        return Ok(Output::json(&value).well_if(reached));
    }
    let end = match denial.until_unix_ms {
        0 => "until `arx allow`".to_owned(),
        until => format!("until {}", style.time(until)),
    };
    let mut text = format!("{} is denied {end}\n", one_line(&denial.subject));
    text += &match denial.certificates {
        _ if !answer.index_ready => {
            "what it still holds is being counted; `arx deny list` tells\n".to_owned()
        }
        0 => "it holds no valid certificate\n".to_owned(),
        1 => format!(
            "it still holds a valid certificate, which ends {}\n",
            style.time(denial.last_certificate_ends_unix_ms)
        ),
        count => format!(
            "it still holds {count} valid certificates; the last ends {}\n",
            style.time(denial.last_certificate_ends_unix_ms)
        ),
    };
    text += &not_reached(&answer.unreached);
    Ok(Output::text(&text).well_if(reached))
}

pub(crate) async fn allow(socket: &Path, style: Style, allow: Allow) -> Result<Output, Failure> {
    let subject = allow.subject;
    let request = wire::AllowRequest {
        subject: subject.clone(),
        reason: allow.reason,
    };
    let answer = connect(socket).await?.allow(request).await?.into_inner();
    let reached = answer.unreached.is_empty();
    let output = if style.json {
        Output::json(&json!({ "subject": subject, "unreached": answer.unreached }))
    } else {
        let unreached = not_reached(&answer.unreached);
        Output::text(&format!(
            "{} is allowed again\n{unreached}",
            one_line(&subject)
        ))
    };
    Ok(output.well_if(reached))
}

async fn list(client: &mut Client, style: Style) -> Result<Output, Failure> {
    let mut denials = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = wire::ListDenialsRequest {
            page_size: PAGE,
            page_token,
        };
        let page = client.list_denials(request).await?.into_inner();
        denials.extend(page.denials);
        page_token = page.page_token;
        if page_token.is_empty() {
            break;
        }
    }
    if style.json {
        let denials = denials.iter().map(to_json).collect();
        return Ok(Output::json(&Value::Array(denials)));
    }
    if denials.is_empty() {
        return Ok(Output::text("nobody is denied\n"));
    }
    let rows: Vec<_> = denials.iter().map(|one| row(one, style)).collect();
    let heading = ["DENIED", "SINCE", "UNTIL", "HOLDS", "LAST ENDS", "WHY"];
    Ok(Output::text(&columns(&heading, &rows)))
}

fn row(denial: &wire::Denial, style: Style) -> Vec<String> {
    vec![
        one_line(&denial.subject),
        style.time(denial.since_unix_ms),
        style.time(denial.until_unix_ms),
        denial.certificates.to_string(),
        style.time(denial.last_certificate_ends_unix_ms),
        one_line(&denial.reason),
    ]
}

fn to_json(denial: &wire::Denial) -> Value {
    json!({
        "subject": denial.subject, "reason": denial.reason,
        "since": instant_json(denial.since_unix_ms), "until": instant_json(denial.until_unix_ms),
        "certificates": denial.certificates, "identities": denial.identities,
        "identity_count": denial.identity_count,
        "last_certificate_ends": instant_json(denial.last_certificate_ends_unix_ms),
    })
}

/// Of processes that may go on as before.
fn not_reached(replicas: &[String]) -> String {
    if replicas.is_empty() {
        return String::new();
    }
    let names: Vec<_> = replicas.iter().map(|name| one_line(name)).collect();
    format!(
        "not known to have reached {}: it goes by this as soon as it reads the state store; end it if it can't\n",
        names.join(", ")
    )
}

/// The argument of `--until`, as Unix time in milliseconds.
fn until(text: &str) -> Result<i64, String> {
    let wrong = || {
        format!(
            "{text:?} is no time: write it like 2026-11-26T18:00:00Z, or as a span like 90s, 8h or 7d"
        )
    };
    let now = now();
    let millis = match OffsetDateTime::parse(text, &Rfc3339) {
        Ok(time) => i64::try_from(time.unix_timestamp_nanos() / 1_000_000).map_err(|_| wrong())?,
        Err(_) => {
            let span: Duration = parse_span(text).map_err(|_| wrong())?;
            let end = now.checked_add(span).ok_or_else(wrong)?;
            // Later ends can't be told to the authority.
            let end = end.duration_since(UNIX_EPOCH).map_err(|_| wrong())?;
            i64::try_from(end.as_millis()).map_err(|_| wrong())?
        }
    };
    if millis > unix_ms(now) {
        Ok(millis)
    } else {
        Err("that lies in the past".to_owned())
    }
}

/// The argument of `--reason`.
fn reason(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("say why, for whoever reads the ledger later".to_owned()),
        text => Ok(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::Arguments;
    use crate::fake::{Answers, Authority};
    use crate::tests::{arx, json, text};

    #[tokio::test]
    async fn who_was_denied_is_listed_page_by_page_until_allowed() {
        let authority = Authority::start(Answers::default());
        let socket = authority.path();
        assert_eq!(text(socket, &["deny", "list"]).await, "nobody is denied\n");
        for subject in ["sa/shop/web", "node/c1/n1", "spiffe://example.org/x"] {
            let denied = text(socket, &["deny", subject, "--reason", "stolen"]).await;
            assert_eq!(
                denied,
                format!(
                    "{subject} is denied until `arx allow`\nit still holds 2 valid certificates; the last ends in 1h\n"
                )
            );
        }
        let list = json(socket, &["deny", "list"]).await;
        assert_eq!(list.as_array().map(Vec::len), Some(3), "{list}");
        assert_eq!(list[0]["subject"], "sa/shop/web");
        assert_eq!(list[0]["reason"], "stolen");
        assert_eq!(list[0]["until"], Value::Null);
        let shown = text(socket, &["deny", "list"]).await;
        assert!(shown.starts_with("DENIED  "), "{shown}");
        let allowed = text(socket, &["allow", "sa/shop/web"]).await;
        assert_eq!(allowed, "sa/shop/web is allowed again\n");
        let list = json(socket, &["deny", "list"]).await;
        assert_eq!(list.as_array().map(Vec::len), Some(2), "{list}");
    }

    #[tokio::test]
    async fn a_process_that_was_not_reached_is_named_and_is_exit_code_1() {
        let answers = Answers::default();
        let unreached = vec!["ca-2".to_owned()];
        answers.denials.lock().expect("no panic").unreached = unreached;
        let authority = Authority::start(answers);
        let line = ["deny", "sa/shop/web", "--reason", "stolen"];
        let output = arx(authority.path(), &line).await.expect("an answer");
        assert_eq!(output.exit_code, 1);
        let told = String::from_utf8(output.body).expect("text");
        assert!(told.contains("not known to have reached ca-2"), "{told}");
        let told = json(authority.path(), &line).await;
        assert_eq!(told["unreached"], json!(["ca-2"]));
        let output = arx(authority.path(), &["allow", "sa/shop/web"]).await;
        assert_eq!(output.expect("an answer").exit_code, 1);
    }

    #[test]
    fn a_denial_needs_a_subject_and_a_reason_and_an_end_that_is_to_come() {
        let parse = |arguments: &[&str]| {
            let line = [&["arx", "deny"], arguments].concat();
            Arguments::try_parse_from(line).map(drop)
        };
        for good in [
            &["list"][..],
            &["sa/a/b", "--reason", "x"],
            &["sa/a/b", "--reason", "x", "--until", "8h"],
            &["sa/a/b", "--reason", "x", "--until", "2999-01-01T00:00:00Z"],
        ] {
            assert!(parse(good).is_ok(), "{good:?}");
        }
        for wrong in [
            &[][..],
            &["sa/a/b"],
            &["--reason", "x"],
            &["sa/a/b", "--reason", " "],
            &["sa/a/b", "--reason", "x", "--until", "2001-01-01T00:00:00Z"],
            &["sa/a/b", "--reason", "x", "--until", "tomorrow"],
            &["sa/a/b", "--reason", "x", "--until", "999999999999d"],
            &["sa/a/b", "--reason", "x", "list"],
        ] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
