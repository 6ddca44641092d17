//! `[policy]`, and what is said about one that can't work.

use arx_daemon::config::File;
use serde::Deserialize;

use super::*;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Whole {
    #[serde(default)]
    policy: Config,
}

fn found(text: &str) -> Vec<String> {
    let file = File::from_text("ca.toml", text).expect("TOML");
    let whole: Whole = match file.parse() {
        Ok(whole) => whole,
        Err(error) => return vec![error.to_string()],
    };
    let mut problems = file.problems();
    whole.policy.problems(&domain(), &clusters(), &mut problems);
    let finished = problems.finish().err();
    let found: Vec<_> = finished.map_or_else(Vec::new, |error| {
        error.to_string().lines().map(str::to_owned).collect()
    });
    let built = Policy::new(&domain(), &whole.policy, &clusters());
    assert_eq!(built.is_ok(), found.is_empty(), "{found:?}");
    found
}

#[test]
fn a_file_without_a_policy_has_the_documented_one() {
    assert_eq!(found(""), [""; 0]);
    let documented = r#"
        template = "/ns/{namespace}/sa/{serviceaccount}"
        keys = ["ecdsa-p256", "ecdsa-p384", "ed25519", "rsa-2048", "rsa-3072", "rsa-4096"]
        ttl = "1h"
        max_ttl = "24h"
        node_ttl = "1h"
    "#;
    assert_eq!(config(documented), Config::default());
    assert_eq!(Config::default().longest_ttl(), Duration::from_secs(86_400));
    let short = config(
        "max_ttl = \"1h\"\n[[exception]]\nnamespace = \"a\"\nservice_account = \"b\"\nmax_ttl = \"2h\"",
    );
    assert_eq!(short.longest_ttl(), Duration::from_secs(7200));
}

#[test]
fn each_general_setting_that_cannot_work_is_named() {
    for (line, says) in [
        ("tll = \"1h\"", "did you mean \"ttl\""),
        (
            "template = \"/arx/{namespace}/{serviceaccount}\"",
            "reserved",
        ),
        ("template = \"/ns/{namespace}\"", "one identity"),
        ("template = \"/{serviceaccount}\"", "one identity"),
        ("template = \"/{namespace}.{serviceaccount}\"", "two names"),
        ("template = \"/{ns}/{serviceaccount}\"", "unknown"),
        ("template = \"\"", "start with /"),
        ("keys = []", "no kind of key"),
        ("keys = [\"rsa-1024\"]", "rsa-1024"),
        ("keys = [\"ed25519\", \"ed25519\"]", "twice"),
        ("ttl = \"25h\"", "longer than max_ttl"),
        ("max_ttl = \"25h\"", "longer than 24h"),
        ("max_ttl = \"30m\"", "longer than max_ttl"),
        ("ttl = \"4s\"", "too short"),
        ("ttl = 3600", "duration in quotes"),
        ("node_ttl = \"2d\"", "longer than 24h"),
        ("node_ttl = \"0s\"", "too short"),
    ] {
        let found = found(&format!("[policy]\n{line}"));
        let all = found.join("\n");
        assert!(all.contains(says), "{line}: {all}");
        // A maximum below the usual lifetime is the fault of that, which stands nowhere.
        let at = if line == "max_ttl = \"30m\"" {
            "ca.toml:1: policy.ttl"
        } else {
            "ca.toml:2: "
        };
        assert!(all.contains(at), "{line}: {all}");
    }
}

#[test]
fn exceptions_that_conflict_or_change_nothing_are_named() {
    let head = "[[policy.exception]]\nnamespace = \"a\"\nservice_account = ";
    for (rest, says) in [
        ("\"b\"", "changes nothing"),
        ("\"*\"", "changes nothing"),
        ("\"b/c\"\nttl = \"1m\"", "not the name of a service account"),
        ("\"b\"\ndeny = true\nttl = \"1m\"", "what is denied"),
        (
            "\"b\"\nttl = \"2h\"\nmax_ttl = \"1h\"",
            "longer than the max_ttl",
        ),
        ("\"b\"\nmax_ttl = \"25h\"", "longer than 24h"),
        ("\"b\"\npath = \"/arx/ca\"", "reserved"),
        ("\"b\"\npath = \"/arx\"", "reserved"),
        ("\"b\"\npath = \"b\"", "start with /"),
        ("\"*\"\npath = \"/b\"", "one identity"),
        ("\"b\"\ndns_names = [\"B.svc\"]", "not a DNS name"),
        ("\"b\"\ndns_names = [\"*.svc\"]", "not a DNS name"),
        ("\"b\"\ndns_names = [\"b.svc.\"]", "not a DNS name"),
        ("\"b\"\ndns_names = [\"b\", \"b\"]", "twice"),
        ("\"b\"\nallow = true", "unknown key"),
    ] {
        let all = found(&format!("{head}{rest}")).join("\n");
        assert!(all.contains(says), "{rest}: {all}");
    }
    let one = format!("{head}\"b\"\nttl = \"1m\"\n");
    let all = found(&format!("{one}{one}")).join("\n");
    assert!(
        all.contains("policy.exception[1].service_account") && all.contains("another exception"),
        "{all}"
    );
    let wild = one.replace("\"a\"", "\"*\"");
    assert!(found(&wild).join("\n").contains("* is not allowed"));
    let exempt = format!("{head}\"*\"\ndeny = true\n{head}\"b\"\n");
    assert_eq!(found(&exempt), [""; 0], "b is taken out of what is for all");
}

#[test]
fn local_rules_that_fit_everything_nothing_or_never_are_named() {
    let rule = |path: &str, nodes: &str, selectors: &str| {
        format!("[[policy.local]]\npath = {path:?}\nnodes = {nodes}\n{selectors}\n")
    };
    let sound = rule("/local/web", "[\"c1/node-1\"]", "uid = 1");
    assert_eq!(found(&sound), [""; 0]);
    let group = rule(
        "/local/web",
        "[\"c1/*\"]",
        "gid = 1\nexecutable = \"/usr/bin/envoy\"",
    );
    assert_eq!(found(&group), [""; 0]);
    for (text, says) in [
        (rule("/local/web", "[\"c1/node-1\"]", ""), "every process"),
        (
            rule(
                "/local/web",
                "[\"c1/*\"]",
                "executable = \"/usr/bin/envoy\"",
            ),
            "give uid or gid beside it",
        ),
        (
            rule(
                "/local/web",
                "[\"c1/*\"]",
                &format!("executable_sha256 = \"{}\"", "0".repeat(64)),
            ),
            "give uid or gid beside it",
        ),
        (rule("/local/web", "[]", "uid = 1"), "no node"),
        (
            rule("/local/web", "[\"node-1\"]", "uid = 1"),
            "<cluster>/<node>",
        ),
        (
            rule("/local/web", "[\"c1/a/b\"]", "uid = 1"),
            "<cluster>/<node>",
        ),
        (
            rule("/local/web", "[\"*/node-1\"]", "uid = 1"),
            "not configured",
        ),
        (
            rule("/local/web", "[\"c9/node-1\"]", "uid = 1"),
            "not configured",
        ),
        (rule("/arx/node/c1/x", "[\"c1/*\"]", "uid = 1"), "reserved"),
        (
            rule("/local/{namespace}", "[\"c1/*\"]", "uid = 1"),
            "without braces",
        ),
        (rule("local", "[\"c1/*\"]", "uid = 1"), "start with /"),
        (
            rule("/local/web", "[\"c1/*\"]", "executable = \"envoy\""),
            "absolute",
        ),
        (
            rule("/local/web", "[\"c1/*\"]", "executable_sha256 = \"abc\""),
            "SHA-256",
        ),
        (
            rule("/local/web", "[\"c1/*\"]", "uid = -1"),
            "policy.local[0].uid",
        ),
        (
            rule("/a", "[\"c1/*\"]", "uid = 1")
                + &rule("/b", "[\"c1/node-1\"]", "uid = 1\ngid = 2"),
            "never reached",
        ),
    ] {
        let all = found(&text).join("\n");
        assert!(all.contains(says), "{text}: {all}");
    }
    let narrow_first =
        rule("/b", "[\"c1/node-1\"]", "uid = 1\ngid = 2") + &rule("/a", "[\"c1/*\"]", "uid = 1");
    assert_eq!(found(&narrow_first), [""; 0]);
    let other_uid = rule("/a", "[\"c1/*\"]", "uid = 1") + &rule("/b", "[\"c1/*\"]", "uid = 2");
    assert_eq!(found(&other_uid), [""; 0]);
}
