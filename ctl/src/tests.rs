//! Commands as they are typed, against an authority on a real socket.

use std::path::Path;

use arx_identity::profile::{Validity, root};
use arx_identity::{KeyAlgorithm, PrivateKey, TrustDomain};
use arx_proto::admin::v1 as wire;
use serde_json::Value;

use super::*;
use crate::fake::{Answers, Authority};

pub(crate) async fn arx(socket: &Path, arguments: &[&str]) -> Result<Output, Failure> {
    let start = ["arx", "--socket", socket.to_str().expect("text")];
    let line = [&start, arguments].concat();
    run(Arguments::try_parse_from(line).expect("a command line in order")).await
}

pub(crate) async fn text(socket: &Path, arguments: &[&str]) -> String {
    let output = arx(socket, arguments).await.expect("an answer");
    String::from_utf8(output.body).expect("text")
}

pub(crate) async fn json(socket: &Path, arguments: &[&str]) -> Value {
    let output = arx(socket, &[&["-o", "json"], arguments].concat())
        .await
        .expect("an answer");
    serde_json::from_slice(&output.body).expect("JSON")
}

fn agents(number: u8) -> Vec<wire::Agent> {
    let agent = |number| wire::Agent {
        cluster: "c1".to_owned(),
        node: format!("n{number}"),
        connected: true,
        ..Default::default()
    };
    (0..number).map(agent).collect()
}

fn well() -> Answers {
    let now_ms = output::unix_ms(output::now());
    Answers {
        status: wire::StatusResponse {
            version: "arx-ca 7".to_owned(),
            clock_unix_ms: now_ms,
            index_ready: true,
            ..Default::default()
        },
        agents: agents(1),
        ledger: Some(wire::VerifyLedgerResponse::default()),
        ..Default::default()
    }
}

#[tokio::test]
async fn lists_are_followed_page_by_page_up_to_the_limit() {
    let svid = |number| wire::SvidRecord {
        serial: vec![number].into(),
        ..Default::default()
    };
    let authority = Authority::start(Answers {
        agents: agents(5),
        svids: (1..=5).map(svid).collect(),
        records: (0..5)
            .map(|number| format!("{{\"index\":{number}}}"))
            .collect(),
        ..Answers::default()
    });
    let socket = authority.path();
    for (arguments, expected) in [
        (&["agents"][..], 5),
        (&["agents", "--limit", "3"], 3),
        (&["svid", "list"], 5),
        (&["svid", "list", "--limit", "3"], 3),
    ] {
        let list = json(socket, arguments).await;
        assert_eq!(
            list.as_array().map(Vec::len),
            Some(expected),
            "{arguments:?}"
        );
    }
    for (limit, more) in [(4, true), (5, false), (6, false)] {
        let limit = limit.to_string();
        let search = ["ledger", "search", "--serial", "01", "--limit", &limit];
        let found = json(socket, &search).await;
        let shown = found["records"].as_array().map(Vec::len);
        assert_eq!(
            (shown, &found["more"]),
            (Some(if more { 4 } else { 5 }), &more.into())
        );
    }
    let short = text(socket, &["svid", "list", "--limit", "3"]).await;
    assert!(
        short.ends_with("only the first 3; --limit shows more\n"),
        "{short}"
    );
    let whole = text(socket, &["svid", "list", "--limit", "5"]).await;
    assert!(!whole.contains("--limit"), "{whole}");
}

#[tokio::test]
async fn what_is_not_found_is_exit_code_1() {
    let authority = Authority::start(Answers::default());
    let socket = authority.path();
    let missing = arx(socket, &["svid", "show", "01"])
        .await
        .expect_err("none");
    assert_eq!(missing.exit_code(), 1);
    assert!(
        missing
            .to_string()
            .contains("arx ledger search --serial 01")
    );
    let nothing = arx(socket, &["ledger", "search", "--serial", "01"])
        .await
        .expect("an answer");
    assert_eq!(nothing.exit_code, 1);
    let nobody = arx(socket, &["svid", "renew", "--all"])
        .await
        .expect("an answer");
    assert_eq!(nobody.exit_code, 1);
    let all = arx(socket, &["svid", "renew"]).await.expect_err("refused");
    assert_eq!(
        all.exit_code(),
        2,
        "everything is renewed only when that is said"
    );
}

/// An authority of three replicas, of which one does not answer.
fn of_three(records: &[&str]) -> Authority {
    Authority::start(Answers {
        records: records.iter().map(|record| (*record).to_owned()).collect(),
        replicas: 3,
        unanswered: vec![wire::Unanswered {
            replica: "ca-3".to_owned(),
            reason: "10.0.0.3:8443 cannot be reached: connection refused".to_owned(),
        }],
        ..Answers::default()
    })
}

#[tokio::test]
async fn an_explanation_names_whose_word_is_missing() {
    let unanswered = wire::Unanswered {
        replica: "ca-3".to_owned(),
        reason: "10.0.0.3:8443 has not answered within 5 s".to_owned(),
    };
    let mut pod = explain::example();
    pod.agent = Some(wire::Agent {
        cluster: "c1".to_owned(),
        node: "n1".to_owned(),
        connected: true,
        replica: "ca-2".to_owned(),
        ..wire::Agent::default()
    });
    let authority = Authority::start(Answers {
        explained: vec![pod],
        replicas: 3,
        unanswered: vec![unanswered],
        ..Answers::default()
    });
    let asked = ["explain", "shop/web-1"];
    let shown = arx(authority.path(), &asked).await.expect("an answer");
    let told = String::from_utf8(shown.body).expect("text");
    assert!(told.contains("c1/n1, connected at ca-2 since"), "{told}");
    let gap = "2 of 3 replicas answered; ca-3: 10.0.0.3:8443 has not answered within 5 s\n";
    assert!(told.ends_with(gap), "{told}");
    let value = json(authority.path(), &asked).await;
    assert_eq!(value[0]["agent"]["replica"], "ca-2");
    assert_eq!(value[0]["unanswered"][0]["replica"], "ca-3");
}

#[tokio::test]
async fn a_search_names_who_has_not_answered_and_finds_nothing_for_certain_without_them() {
    let search = ["ledger", "search", "--serial", "01"];
    let gap =
        "2 of 3 replicas answered; ca-3: 10.0.0.3:8443 cannot be reached: connection refused\n";
    let found = of_three(&[r#"{"event":"issued","ledger":"ca-2"}"#]);
    let shown = arx(found.path(), &search).await.expect("an answer");
    let told = String::from_utf8(shown.body).expect("text");
    assert!(told.contains("LEDGER") && told.contains("ca-2"), "{told}");
    assert!(told.ends_with(gap), "{told}");
    assert_eq!(shown.exit_code, 0);
    let nothing = of_three(&[]);
    let shown = arx(nothing.path(), &search).await.expect("an answer");
    let told = String::from_utf8(shown.body).expect("text");
    assert_eq!((told, shown.exit_code), (format!("no record\n{gap}"), 4));
    let value = json(nothing.path(), &search).await;
    assert_eq!(value["replicas"], 3);
    assert_eq!(value["unanswered"][0]["replica"], "ca-3");
    // Here, nobody else is asked.
    let here = [&search[..], &["--here"]].concat();
    let shown = arx(nothing.path(), &here).await.expect("an answer");
    assert_eq!((&*shown.body, shown.exit_code), (&b"no record\n"[..], 1));
    let shown = text(found.path(), &here).await;
    assert!(
        !shown.contains("LEDGER") && !shown.contains("replica"),
        "{shown}"
    );
}

#[tokio::test]
async fn where_it_is_not_known_who_else_there_is_a_search_says_so() {
    let authority = Authority::start(Answers {
        replicas: 1,
        unanswered: vec![wire::Unanswered {
            replica: String::new(),
            reason: "the state is away".to_owned(),
        }],
        ..Answers::default()
    });
    let search = ["ledger", "search", "--serial", "01"];
    let shown = arx(authority.path(), &search).await.expect("an answer");
    let told = String::from_utf8(shown.body).expect("text");
    assert_eq!(shown.exit_code, 4);
    assert!(
        told.ends_with(
            "1 of 1 replica answered; which others there are is not known: the state is away\n"
        ),
        "{told}"
    );
    let value = json(authority.path(), &search).await;
    assert!(value["unanswered"][0]["replica"].is_null(), "{value}");
}

#[tokio::test]
async fn the_check_goes_on_behind_a_line_that_failed() {
    let authority = Authority::start(well());
    let output = arx(authority.path(), &["check"]).await.expect("lines");
    let shown = String::from_utf8(output.body).expect("text");
    assert_eq!(output.exit_code, 0, "{shown}");
    assert!(shown.contains("all is well"), "{shown}");

    let broken = Authority::start(Answers {
        ledger: None,
        ..well()
    });
    let output = arx(broken.path(), &["check"]).await.expect("lines");
    let shown = String::from_utf8(output.body).expect("text");
    assert_eq!(output.exit_code, 1, "{shown}");
    assert!(
        shown.contains("FAILED the ledger can be verified\n       the ledger's folder"),
        "{shown}"
    );
}

#[tokio::test]
async fn clusters_are_checked_at_a_wish_and_count_as_every_other_line() {
    let finding = |test: &str, wrong: &str, warning| wire::ClusterFinding {
        cluster: "c1".to_owned(),
        test: test.to_owned(),
        wrong: wrong.to_owned(),
        warning,
    };
    let of = |clusters| Authority::start(Answers { clusters, ..well() });
    let checked = async |authority: &Authority, arguments: &[&str]| {
        let output = arx(authority.path(), arguments).await.expect("lines");
        let shown = String::from_utf8(output.body).expect("text");
        (output.exit_code, shown)
    };
    let failing = of(Some(vec![
        finding("its API server answers", "", false),
        finding("it serves x", "it does not", true),
        finding("it may list pods", "it may not", false),
    ]));
    let (code, shown) = checked(&failing, &["check"]).await;
    assert_eq!(code, 0, "{shown}");
    assert!(!shown.contains("cluster c1"), "{shown}");
    let (code, shown) = checked(&failing, &["check", "--kube"]).await;
    assert_eq!(code, 1, "{shown}");
    for line in [
        "ok     cluster c1: its API server answers\n",
        "warn   cluster c1: it serves x\n       it does not\n",
        "FAILED cluster c1: it may list pods\n       it may not\n",
    ] {
        assert!(shown.contains(line), "{shown}");
    }
    let (code, shown) = checked(&failing, &["-o", "json", "check", "--kube"]).await;
    assert_eq!(code, 1);
    let lines: Value = serde_json::from_str(&shown).expect("JSON");
    let last = lines.as_array().and_then(|it| it.last()).expect("a line");
    assert_eq!(last["result"], "failed");
    assert_eq!(last["hint"], "it may not");
    let warned = of(Some(vec![finding("it serves x", "it does not", true)]));
    let (code, shown) = checked(&warned, &["check", "--kube"]).await;
    assert_eq!(code, 0, "{shown}");
    let (code, shown) = checked(&of(None), &["check", "--kube"]).await;
    assert_eq!(code, 1, "{shown}");
    assert!(shown.contains("older version"), "{shown}");
}

#[tokio::test]
async fn an_authority_that_is_not_there_is_the_check_s_first_line() {
    let nowhere = Path::new("/nonexistent/admin.sock");
    let output = arx(nowhere, &["-o", "json", "check"]).await.expect("lines");
    assert_eq!(output.exit_code, 3);
    let lines: Value = serde_json::from_slice(&output.body).expect("JSON");
    assert_eq!(lines[0]["result"], "failed");
    assert!(
        lines[0]["hint"]
            .as_str()
            .expect("text")
            .contains("ARX_ADMIN_SOCKET")
    );
}

#[tokio::test(start_paused = true)]
async fn an_authority_that_hangs_is_not_waited_for_for_ever() {
    let authority = Authority::silent();
    let failure = arx(authority.path(), &["status"])
        .await
        .expect_err("no answer");
    assert_eq!(failure.exit_code(), 3, "{failure}");
    assert!(failure.to_string().contains("hangs"), "{failure}");
}

#[tokio::test]
async fn versions_are_told_also_without_an_authority() {
    let authority = Authority::start(well());
    assert_eq!(
        json(authority.path(), &["version"]).await["authority"],
        "arx-ca 7"
    );
    let nowhere = Path::new("/nonexistent/admin.sock");
    let alone = json(nowhere, &["version"]).await;
    assert_eq!(alone["authority"], Value::Null);
    assert_eq!(alone["arx"], env!("CARGO_PKG_VERSION"));
}

#[tokio::test]
async fn a_bundle_is_exported_in_every_form_and_each_is_read_back() {
    let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).expect("a key");
    let trust_domain = TrustDomain::parse("example.org").expect("a name");
    let validity = Validity::authority(output::now(), std::time::Duration::from_secs(86_400));
    let unsigned = root(key.public_key(), &trust_domain, validity).expect("a root");
    let signature = key.sign(unsigned.to_be_signed()).expect("signed");
    let root = unsigned.complete(&signature).expect("in order");
    let authority = Authority::start(Answers {
        roots: vec![root.der().to_vec()],
        ..Answers::default()
    });
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("bundle");
    for form in ["pem", "der", "spiffe"] {
        let exported = arx(authority.path(), &["bundle", "export", "--format", form])
            .await
            .expect("a bundle");
        std::fs::write(&file, &exported.body).expect("written");
        let found = json(authority.path(), &["inspect", file.to_str().expect("text")]).await;
        let serials: Vec<_> = found
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(|finding| finding["fields"]["serial"].as_str())
            .collect();
        assert_eq!(serials, [root.serial().to_string()], "{form}");
    }
    let shown = json(authority.path(), &["bundle", "show"]).await;
    assert_eq!(shown["sequence"], "1.7");
    assert_eq!(shown["roots"][0]["serial"], root.serial().to_string());
}

#[tokio::test]
async fn in_an_exported_file_the_root_that_signs_stands_first() {
    let trust_domain = TrustDomain::parse("example.org").expect("a name");
    let roots = [(); 3].map(|()| {
        let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).expect("a key");
        let day = std::time::Duration::from_secs(86_400);
        let validity = Validity::authority(output::now(), day);
        let unsigned = root(key.public_key(), &trust_domain, validity).expect("a root");
        let signature = key.sign(unsigned.to_be_signed()).expect("signed");
        unsigned.complete(&signature).expect("in order")
    });
    for active in &roots {
        let name = active.subject_key_id().expect("a root has one");
        let authority = Authority::start(Answers {
            roots: roots.iter().map(|root| root.der().to_vec()).collect(),
            active_root: name.as_bytes().to_vec(),
            ..Answers::default()
        });
        let line = ["bundle", "export", "--format", "pem"];
        let exported = arx(authority.path(), &line).await.expect("a bundle");
        let text = String::from_utf8(exported.body).expect("text");
        assert!(text.starts_with(&active.pem()), "{text}");
        assert_eq!(text.matches("BEGIN").count(), 3);
    }
}

#[test]
fn the_command_line_is_in_order() {
    Arguments::command().debug_assert();
}

#[test]
fn every_command_and_option_is_in_the_manual_with_an_example() {
    fn look(command: &clap::Command, path: &str, manual: &str) {
        let path = format!("{path}{}", command.get_name());
        let subcommands = command.get_subcommands();
        for sub in subcommands.filter(|sub| sub.get_name() != "help") {
            look(sub, &format!("{path} "), manual);
        }
        for option in command.get_arguments().filter_map(clap::Arg::get_long) {
            let told = manual.contains(&format!("--{option}"));
            assert!(
                told || ["help", "version"].contains(&option),
                "{path} --{option} is missing"
            );
        }
        if !command.has_subcommands() {
            assert!(manual.contains(&format!("`{path}")), "{path} is missing");
            let example =
                |line: &str| line.starts_with(&path) || line.contains(&format!("| {path}"));
            assert!(manual.lines().any(example), "{path} has no example");
        }
    }
    let mut command = Arguments::command();
    command.build();
    look(&command, "", include_str!("../../docs/cli.md"));
}

#[tokio::test]
async fn the_manual_names_every_field_of_the_json() {
    let manual = include_str!("../../docs/cli.md");
    let mut answers = well();
    answers.status.authorities.push(wire::Authority::default());
    answers.status.health.push(wire::Health::default());
    answers.svids.push(wire::SvidRecord::default());
    answers.rotations = rotate::example::rotations().into();
    answers.distrust = Some(distrust::example());
    answers.explained = vec![explain::example()];
    let authority = Authority::start(answers);
    for arguments in [
        &["status"][..],
        &["explain", "shop/web-1"],
        &["check"],
        &["agents"],
        &["svid", "list"],
        &["svid", "renew", "--all"],
        &["ledger", "verify"],
        &["ledger", "search", "--serial", "01"],
        &["version"],
        &["rotate", "root"],
        &["rotate", "root", "--dry-run"],
        &["rotate", "status"],
        &["rotate", "continue", "--force", "--reason", "x"],
        &["rotate", "history"],
        &["rotate", "report", "r1"],
        &["distrust", "0101", "--dry-run"],
    ] {
        let mut left = vec![json(authority.path(), arguments).await];
        while let Some(value) = left.pop() {
            match value {
                Value::Array(items) => left.extend(items),
                Value::Object(map) => {
                    for (name, inner) in map {
                        assert!(
                            manual.contains(&format!("`{name}`")),
                            "{arguments:?}: {name}"
                        );
                        left.push(inner);
                    }
                }
                _ => {}
            }
        }
    }
}

#[tokio::test]
async fn what_names_nothing_is_refused_with_how_to_write_it() {
    let nowhere = Path::new("/nowhere/admin.sock");
    for (line, says) in [
        (
            &["svid", "list", "--identity", "foo"][..],
            "write it as spiffe://",
        ),
        (&["svid", "show", "00"], "is not 0"),
        (&["svid", "show", "xyz"], "written in hex"),
        (&["ledger", "search", "--serial", "0"], "is not 0"),
    ] {
        let line = [&["arx", "--socket", "/nowhere/admin.sock"], line].concat();
        let error = Arguments::try_parse_from(&line).expect_err("refused");
        assert!(error.to_string().contains(says), "{line:?}: {error}");
    }
    let failure = arx(nowhere, &["ledger", "search"])
        .await
        .expect_err("of what");
    assert_eq!(failure.exit_code(), 2);
    assert!(failure.to_string().contains("--serial HEX"), "{failure}");
}

#[tokio::test]
async fn names_from_outside_reach_no_terminal_as_commands_and_read_in_one_direction() {
    let mut answers = well();
    answers.agents[0].software = "evil\u{202e}txt\u{1b}[2J\u{200b}".to_owned();
    let authority = Authority::start(answers);
    let told = text(authority.path(), &["agents"]).await;
    assert!(
        told.contains("evil\\u{202e}txt\\u{1b}[2J\\u{200b}"),
        "{told}"
    );
    let output = arx(authority.path(), &["-o", "json", "agents"]).await;
    let told = String::from_utf8(output.expect("an answer").body).expect("text");
    assert!(told.contains("evil\\u202etxt\\u001b[2J\\u200b"), "{told}");
}
