use std::collections::BTreeMap;
use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;

use proptest::prelude::*;
use serde::Deserialize;

use super::*;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Example {
    name: String,
    #[serde(default)]
    agent: Agent,
    #[serde(default)]
    clusters: Vec<Cluster>,
    #[serde(default)]
    limits: BTreeMap<String, u16>,
    root: Option<Root>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Agent {
    socket: Option<PathBuf>,
    listen: Option<SocketAddr>,
    lifetime: Option<Span>,
    memory: Option<ByteSize>,
    policy: Option<Policy>,
    verbose: bool,
    ratio: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cluster {
    issuer: String,
    #[serde(default)]
    audiences: Vec<String>,
}

#[derive(Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
enum Policy {
    Local,
    Review,
    LocalThenReview,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, tag = "source", rename_all = "kebab-case")]
enum Root {
    Generated { algorithm: String },
    Files { certificate: PathBuf, key: PathBuf },
}

fn parse(text: &str) -> Result<Example, ConfigError> {
    File::from_text("arx.toml", text)?.parse()
}

fn refusal(text: &str) -> String {
    match parse(text) {
        Ok(example) => panic!("accepted as {example:?}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_sound_file_is_read() -> Result<(), ConfigError> {
    let example = parse(
        r#"
        name = "a"
        [agent]
        socket = "/run/arx/sds.sock"
        listen = "127.0.0.1:1"
        lifetime = "1h30m"
        memory = "64KiB"
        policy = "local-then-review"
        verbose = true
        ratio = 0.5
        [[clusters]]
        issuer = "https://one"
        audiences = ["x", "y"]
        [limits]
        streams = 0x10
        [root]
        source = "files"
        certificate = "c.pem"
        key = "k.pem"
        "#,
    )?;
    assert_eq!(example.name, "a");
    assert_eq!(example.agent.socket, Some("/run/arx/sds.sock".into()));
    assert_eq!(example.agent.listen, Some(([127, 0, 0, 1], 1).into()));
    assert_eq!(example.agent.lifetime, Some(Span::from_secs(5_400)));
    assert_eq!(example.agent.memory, Some(ByteSize::from_bytes(65_536)));
    assert_eq!(example.agent.policy, Some(Policy::LocalThenReview));
    assert!(example.agent.verbose && example.agent.ratio == 0.5);
    assert_eq!(example.clusters[0].issuer, "https://one");
    assert_eq!(example.clusters[0].audiences, ["x", "y"]);
    assert_eq!(example.limits["streams"], 16);
    match example.root {
        Some(Root::Files { certificate, key }) => {
            assert!(certificate.ends_with("c.pem") && key.ends_with("k.pem"))
        }
        other => panic!("not files: {other:?}"),
    }
    Ok(())
}

#[test]
fn an_unknown_key_is_refused_with_line_table_and_near_match() {
    assert_eq!(
        refusal("name = \"a\"\n[agent]\nsokcet = \"/x\"\n"),
        "arx.toml:3: unknown key \"sokcet\" in [agent]; did you mean \"socket\"?"
    );
    assert_eq!(
        refusal("name = \"a\"\nagnet = 1\n"),
        "arx.toml:2: unknown key \"agnet\" at the top level; did you mean \"agent\"?"
    );
    assert_eq!(
        refusal("name = \"a\"\n\n[[clusters]]\nissuer = \"x\"\n\n[[clusters]]\nisuer = \"y\"\n"),
        "arx.toml:7: unknown key \"isuer\" in [[clusters]]; did you mean \"issuer\"?"
    );
}

#[test]
fn an_unknown_key_without_a_near_match_gets_the_list_of_known_ones() {
    assert_eq!(
        refusal("name = \"a\"\n[[clusters]]\ncolour = \"x\"\n"),
        "arx.toml:3: unknown key \"colour\" in [[clusters]]; keys here: issuer, audiences"
    );
}

#[test]
fn an_unknown_key_inside_a_tagged_table_still_has_its_line() {
    assert_eq!(
        refusal("name = \"a\"\n[root]\nsource = \"generated\"\n\nalgorythm = \"x\"\n"),
        "arx.toml:5: unknown key \"algorythm\" in [root]; did you mean \"algorithm\"?"
    );
}

#[test]
fn a_wrong_type_is_refused_with_what_was_expected() {
    for (line, message) in [
        (
            "verbose = \"yes\"",
            "agent.verbose: found a string; give true or false",
        ),
        (
            "socket = 5",
            "agent.socket: found the number 5; give a path in quotes",
        ),
        (
            "lifetime = 90",
            "agent.lifetime: found the number 90; give a duration in quotes, such as \"90s\", \"1h30m\" or \"500ms\"",
        ),
        (
            "memory = [1]",
            "agent.memory: found an array; give a size in quotes, such as \"64KiB\" or \"10GiB\"",
        ),
        (
            "policy = 3",
            "agent.policy: found a number; give one of its words in quotes",
        ),
        (
            "policy = { a = 1, b = 2 }",
            "agent.policy: a table with one key was expected; correct this value",
        ),
    ] {
        assert_eq!(
            refusal(&format!("name = \"a\"\n[agent]\n{line}\n")),
            format!("arx.toml:3: {message}"),
            "{line}"
        );
    }
    assert_eq!(
        refusal("name = \"a\"\nagent = 5\n"),
        "arx.toml:2: agent: found the number 5; give a table"
    );
    assert_eq!(
        refusal("name = \"a\"\n[limits]\nstreams = 70000\n"),
        "arx.toml:3: limits.streams: found the number 70000; give a whole number from 0 to 65535"
    );
    assert_eq!(
        refusal("name = \"a\"\n[[clusters]]\nissuer = \"x\"\naudiences = [\n \"a\",\n 7,\n]\n"),
        "arx.toml:6: clusters[0].audiences[1]: found the number 7; give a string"
    );
}

#[test]
fn an_unknown_word_is_refused_with_the_known_ones() {
    let with = |word: &str| refusal(&format!("name = \"a\"\n[agent]\npolicy = \"{word}\"\n"));
    assert_eq!(
        with("locl"),
        "arx.toml:3: agent.policy: unknown value \"locl\"; did you mean \"local\"?"
    );
    assert_eq!(
        with("nothing"),
        "arx.toml:3: agent.policy: unknown value \"nothing\"; values here: local, review, local-then-review"
    );
}

#[test]
fn a_value_that_its_type_refuses_says_why() {
    assert_eq!(
        refusal("name = \"a\"\n[agent]\nlifetime = \"3w\"\n"),
        "arx.toml:3: agent.lifetime: unknown unit \"w\" in a duration; use d, h, m, s or ms; correct this value"
    );
}

#[test]
fn a_missing_key_is_named_with_its_table() {
    assert_eq!(
        refusal(""),
        "arx.toml: the key \"name\" is missing at the top level; add it"
    );
    assert_eq!(
        refusal("name = \"a\"\n\n[[clusters]]\naudiences = []\n"),
        "arx.toml:3: the key \"issuer\" is missing in [[clusters]]; add it"
    );
    assert_eq!(
        refusal("name = \"a\"\n\n[root]\nsource = \"generated\"\n"),
        "arx.toml:3: the key \"algorithm\" is missing in [root]; add it"
    );
}

#[test]
fn broken_syntax_is_refused_with_its_line() {
    for (text, line) in [
        ("name = \"a\"\nagent = = 1\n", 2),
        ("a = 1\n\na = 2\n", 3),
        ("name = \"a\n", 1),
    ] {
        let message = refusal(text);
        assert!(
            message.starts_with(&format!("arx.toml:{line}: not TOML: ")),
            "{message}"
        );
        assert!(
            message.ends_with("; correct the syntax of this line"),
            "{message}"
        );
    }
}

#[test]
fn a_text_where_it_does_not_belong_is_not_repeated() {
    let message = refusal("name = \"a\"\n[agent]\nverbose = \"-----BEGIN PRIVATE KEY-----\"\n");
    assert!(!message.contains("PRIVATE"), "{message}");
    let message = refusal(&format!(
        "name = \"a\"\n[agent]\npolicy = \"{}\"\n",
        "x".repeat(500)
    ));
    assert!(message.len() < 250, "{message}");
}

#[test]
fn a_file_that_cannot_be_read_is_named_with_what_to_do() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let refused = |path: &std::path::Path| match load::<Example>(path) {
        Ok(_) => panic!("accepted"),
        Err(error) => error.to_string(),
    };
    let path = dir.path().join("arx.toml");
    assert_eq!(
        refused(&path),
        format!(
            "{}: no such file; create it, or name another with --config FILE",
            path.display()
        )
    );
    assert!(refused(dir.path()).contains("cannot be read: "));
    std::fs::write(&path, b"name = \"a\"\nx = \"\xff\"\n")?;
    assert_eq!(
        refused(&path),
        format!("{}:2: not UTF-8; save it as UTF-8 text", path.display())
    );
    std::fs::write(&path, vec![b'#'; (1 << 20) + 1])?;
    assert!(refused(&path).contains("longer than 1 MiB"));
    std::fs::write(&path, "name = \"a\"\n")?;
    assert_eq!(load::<Example>(&path)?.name, "a");
    Ok(())
}

#[test]
fn a_check_lists_all_problems_at_once_with_their_lines() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let key = dir.path().join("key");
    let text = "name = \"a\"\n[agent]\nlifetime = \"1s\"\n[[clusters]]\nissuer = \"x\"\n[[clusters]]\nissuer = \"x\"\n";
    let file = File::from_text("arx.toml", text)?;
    let mut problems = file.problems();
    assert!(problems.is_empty());
    problems.add("agent.lifetime", "shorter than 10s", "make it longer");
    problems.add("agent.socket", "needed where listen is not set", "add it");
    problems.add(
        "clusters[1].issuer",
        "the same as in clusters[0]",
        "remove one",
    );
    assert!(problems.take("agent.key_file", secret_file(&key)).is_none());
    assert_eq!(problems.take("agent.key_file", Ok(7)), Some(7));
    let error = problems.finish().expect_err("four problems were noted");
    assert_eq!(error.problems().len(), 4);
    assert_eq!(
        error.to_string(),
        format!(
            "arx.toml:3: agent.lifetime: shorter than 10s; make it longer\n\
             arx.toml:2: agent.socket: needed where listen is not set; add it\n\
             arx.toml:7: clusters[1].issuer: the same as in clusters[0]; remove one\n\
             arx.toml:2: agent.key_file: {}: no such file; create it, or correct the path",
            key.display()
        )
    );
    assert_eq!(file.problems().finish(), Ok(()));
    Ok(())
}

#[test]
fn a_table_tagged_by_a_key_is_read_by_its_tag() -> Result<(), ConfigError> {
    let example =
        parse("name = \"a\"\nroot = { source = \"generated\", algorithm = \"ecdsa-p256\" }\n")?;
    assert!(
        matches!(example.root, Some(Root::Generated { algorithm }) if algorithm == "ecdsa-p256")
    );
    Ok(())
}

#[test]
fn dates_and_inline_tables_are_read() -> Result<(), ConfigError> {
    let file = File::from_text(
        "arx.toml",
        "when = 2026-01-02T03:04:05Z\nagent = { verbose = true }\n",
    )?;
    #[derive(Deserialize)]
    struct Dated {
        when: String,
        agent: Agent,
    }
    let dated: Dated = file.parse()?;
    assert_eq!(dated.when, "2026-01-02T03:04:05Z");
    assert!(dated.agent.verbose);
    Ok(())
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in "\\PC{0,80}|([a-z.\\[\\]=\"{}0-9\n ]{0,60})") {
        if let Ok(file) = File::from_text("x", text) {
            let _ = file.parse::<Example>();
        }
    }

    #[test]
    fn no_key_path_makes_the_search_for_its_line_panic(key in "\\PC{0,40}|[a-z.\\[\\]0-9]{0,20}") {
        let file = File::from_text("x", "name = \"a\"\n[[clusters]]\nissuer = \"b\"\n").expect("sound");
        let _ = file.line(&key);
    }
}
