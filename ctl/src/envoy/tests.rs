use clap::Parser as _;
use serde_json::Value;

use super::*;

#[derive(Debug, clap::Parser)]
struct CommandLine {
    #[command(flatten)]
    options: Options,
}

fn parse(arguments: &[&str]) -> Result<Options, String> {
    CommandLine::try_parse_from([&["bootstrap"], arguments].concat())
        .map(|line| line.options)
        .map_err(|error| error.to_string())
}

fn printed(arguments: &[&str]) -> Value {
    let options = parse(arguments).expect("in order");
    bootstrap::bootstrap(&options, None)
}

const TYPICAL: [&str; 6] = [
    "--accept",
    "spiffe://example.org/ns/a/",
    "--accept",
    "spiffe://example.org/ns/b/sa/c",
    "--upstream",
    "9001=10.0.0.1:15443,spiffe://example.org/ns/x/sa/y",
];

/// Every value in `value` whose key is `key`.
fn all<'a>(value: &'a Value, key: &str) -> Vec<&'a Value> {
    match value {
        Value::Object(map) => map
            .iter()
            .flat_map(|(name, inner)| {
                let own = (name == key).then_some(inner);
                own.into_iter().chain(all(inner, key))
            })
            .collect(),
        Value::Array(items) => items.iter().flat_map(|item| all(item, key)).collect(),
        _ => Vec::new(),
    }
}

#[test]
fn everything_that_the_contract_with_envoy_recommends_is_there() {
    let config = printed(&TYPICAL);
    let sources = all(&config, "sds_config");
    assert_eq!(
        sources.len(),
        4,
        "two secrets for what comes in, two for what goes out"
    );
    for source in sources {
        assert_eq!(source["initial_fetch_timeout"], "0s");
        let api = &source["api_config_source"];
        assert_eq!(api["set_node_on_first_message_only"], true);
        let grpc = &api["grpc_services"][0]["envoy_grpc"];
        assert_eq!(grpc["retry_policy"]["retry_back_off"]["max_interval"], "1s");
        assert!(
            format!("http://{}/", grpc["cluster_name"].as_str().expect("text"))
                .parse::<tonic::codegen::http::Uri>()
                .is_ok()
        );
    }
    assert_eq!(all(&config, "require_client_certificate"), [true]);
    assert_eq!(
        all(&config, "tls_maximum_protocol_version"),
        ["TLSv1_3", "TLSv1_3"]
    );
    assert_eq!(all(&config, "connection_keepalive").len(), 1);
    // In what comes in, in what the application sends, and to the peer.
    assert_eq!(all(&config, "max_connection_duration").len(), 3);
}

#[test]
fn each_side_accepts_those_who_were_named_for_it_and_nobody_else() {
    let config = printed(&TYPICAL);
    let accepted: Vec<String> = all(&config, "match_typed_subject_alt_names")
        .into_iter()
        .map(ToString::to_string)
        .collect();
    let uri = |matcher: &str| format!(r#"{{"matcher":{matcher},"san_type":"URI"}}"#);
    assert_eq!(
        accepted,
        [
            format!("[{}]", uri(r#"{"exact":"spiffe://example.org/ns/x/sa/y"}"#)),
            format!(
                "[{},{}]",
                uri(r#"{"prefix":"spiffe://example.org/ns/a/"}"#),
                uri(r#"{"exact":"spiffe://example.org/ns/b/sa/c"}"#)
            ),
        ]
    );
}

#[test]
fn who_may_connect_has_to_be_somebody() {
    let refused = |accept: &str| parse(&["--accept", accept]).expect_err("refused");
    assert!(refused("example.org").contains("no SPIFFE id"));
    assert!(refused("spiffe://example.org").contains("end it with /"));
    assert!(parse(&[]).expect_err("refused").contains("--accept"));
    parse(&["--accept", "spiffe://example.org/"]).expect("everybody of a trust domain");
}

#[test]
fn an_upstream_says_where_and_who() {
    let peer = |text: &str| Peer::from_str(text).expect("a peer");
    let expected = Upstream {
        local: 1,
        host: "::1".to_owned(),
        port: 2,
        peers: vec![peer("spiffe://a/b"), peer("spiffe://a/c/")],
    };
    assert_eq!("1=[::1]:2,spiffe://a/b,spiffe://a/c/".parse(), Ok(expected));
    for wrong in [
        "1=a:2",
        "a:2,spiffe://a/b",
        "1=a,spiffe://a/b",
        "1=a:b,spiffe://a/b",
        "1=:2,spiffe://a/b",
        "1=a:2,spiffe://a",
    ] {
        assert!(wrong.parse::<Upstream>().is_err(), "{wrong}");
    }
    let by_name = printed(&[
        "--accept",
        "spiffe://a/b",
        "--upstream",
        "1=api.shop:2,spiffe://a/b",
    ]);
    assert!(all(&by_name, "type").contains(&&Value::from("STRICT_DNS")));
}

#[test]
fn two_listeners_at_one_port_are_refused() {
    let options = parse(&["--accept", "spiffe://a/b", "--listen", "8080"]).expect("in order");
    let message = options.ports_differ().expect_err("refused");
    assert!(
        message.contains("--listen and --app both want port 8080"),
        "{message}"
    );
    assert!(parse(&TYPICAL).expect("in order").ports_differ().is_ok());
}

#[test]
fn a_token_goes_with_every_question_and_a_file_without_one_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("token");
    let path = file.to_str().expect("text");
    let arguments = [&TYPICAL[..], &["--token-file", path]].concat();
    let options = parse(&arguments).expect("in order");
    assert!(options.token().expect_err("no file").contains("can't read"));
    std::fs::write(&file, "hello\n").expect("written");
    assert!(
        options
            .token()
            .expect_err("none")
            .contains("holds no token")
    );
    std::fs::write(&file, "a.b.c\n").expect("written");
    let token = options.token().expect("one");
    let config = bootstrap::bootstrap(&options, token.as_deref());
    let metadata = all(&config, "initial_metadata");
    assert_eq!(metadata.len(), 4);
    assert_eq!(metadata[0][0]["value"], "Bearer a.b.c");
    assert!(all(&printed(&TYPICAL), "initial_metadata").is_empty());
}

#[test]
fn what_is_given_can_not_break_out_of_its_place() {
    let config = printed(&[&TYPICAL[..], &["--node", "a\" }\nadmin: x"]].concat());
    let yaml = yaml::document(&config);
    assert!(!yaml.contains("\nadmin: x"), "{yaml}");
}

/// A real Envoy reads both forms, if there is one (`make tools`, then ARX_TOOLS=target/tools).
#[test]
fn envoy_takes_what_is_printed() {
    let Some(tools) = std::env::var_os("ARX_TOOLS") else {
        println!("skipped: ARX_TOOLS does not say where Envoy is");
        return;
    };
    let config = printed(&TYPICAL);
    let folder = tempfile::tempdir().expect("a folder");
    let forms = [
        ("envoy.yaml", yaml::document(&config)),
        ("envoy.json", config.to_string()),
    ];
    for (name, text) in forms {
        let file = folder.path().join(name);
        std::fs::write(&file, &text).expect("written");
        let output = std::process::Command::new(PathBuf::from(&tools).join("bin/envoy"))
            .args(["--mode", "validate", "-l", "warn", "-c"])
            .arg(&file)
            .output()
            .expect("Envoy in $ARX_TOOLS/bin");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name}: {said}\n{text}");
    }
}

#[test]
fn ports_that_nobody_can_call_and_paths_that_mean_nothing_elsewhere_are_refused() {
    let refused = |more: &[&str]| {
        let start = [
            "arx",
            "envoy",
            "bootstrap",
            "--accept",
            "spiffe://example.org/x",
        ];
        let line = [&start, more].concat();
        let error = crate::Arguments::try_parse_from(line).expect_err("refused");
        error.to_string()
    };
    for option in ["--listen", "--app", "--admin"] {
        assert!(
            refused(&[option, "0"]).contains("from 1 to 65535"),
            "{option}"
        );
    }
    let upstream = |text| refused(&["--upstream", text]);
    assert!(upstream("0=h:1,spiffe://example.org/y").contains("no upstream"));
    assert!(upstream("9001=h:0,spiffe://example.org/y").contains("no upstream"));
    assert!(refused(&["--sds-socket", "run/sds.sock"]).contains("from /"));
}
