//! `[[cluster]]`, and what is said about one that can't work.

use arx_daemon::config::File;
use serde::Deserialize;

use crate::token::{Cluster, Verification, problems};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    #[serde(default)]
    cluster: Vec<Cluster>,
}

fn found(text: &str) -> Vec<String> {
    let file = File::from_text("ca.toml", text).expect("TOML");
    let config: Config = match file.parse() {
        Ok(config) => config,
        Err(error) => return vec![error.to_string()],
    };
    let mut problems_found = file.problems();
    problems(&config.cluster, &mut problems_found);
    let finished = problems_found.finish().err();
    finished.map_or_else(Vec::new, |error| {
        error.to_string().lines().map(str::to_owned).collect()
    })
}

const SOUND: &str = r#"
[[cluster]]
name = "c1"
issuer = "https://kubernetes.default.svc"
audiences = ["arx"]
agents = ["arx-system/arx-node-agent"]
"#;

#[test]
fn the_shortest_cluster_is_local_with_discovery_and_careful() {
    assert_eq!(found(SOUND), [""; 0]);
    let file = File::from_text("ca.toml", SOUND).expect("TOML");
    let config: Config = file.parse().expect("sound");
    let cluster = &config.cluster[0];
    assert_eq!(cluster.verification, Verification::Local);
    assert!(!cluster.allow_unbound && !cluster.allow_extended);
    assert_eq!(cluster.stale_grace.to_string(), "1h");
    assert_eq!(cluster.refetch_interval.to_string(), "10s");
}

#[test]
fn each_setting_that_cannot_work_is_named_with_its_line() {
    let missing = "/nonexistent/file";
    for (line, key, says) in [
        (
            "verification = \"remote\"".to_owned(),
            "verification",
            "unknown value",
        ),
        ("jwks = 1".to_owned(), "jwks", "unknown key"),
        (
            "discovery_url = \"http://issuer.example\"".to_owned(),
            "discovery_url",
            "https",
        ),
        (
            "discovery_url = \"http://localhost:1\"".to_owned(),
            "discovery_url",
            "loopback address",
        ),
        (
            "discovery_url = \"https://user@issuer.example\"".to_owned(),
            "discovery_url",
            "user name",
        ),
        (
            "discovery_url = \"issuer\"".to_owned(),
            "discovery_url",
            "URL",
        ),
        (
            format!("jwks_file = \"{missing}\""),
            "jwks_file",
            "No such file",
        ),
        (
            "jwks_file = \"/dev/null\"".to_owned(),
            "jwks_file",
            "regular",
        ),
        (
            format!("ca_file = \"{missing}\""),
            "ca_file",
            "No such file",
        ),
        (
            format!("token_file = \"{missing}\""),
            "token_file",
            "No such file",
        ),
        (
            "kubeconfig = \"/etc/hostname\"\nwatch_pods = false".to_owned(),
            "kubeconfig",
            "not used",
        ),
        (
            "refetch_interval = \"500ms\"".to_owned(),
            "refetch_interval",
            "1s",
        ),
        ("stale_grace = \"15s\"".to_owned(), "stale_grace", "refetch"),
        ("stale_grace = \"8d\"".to_owned(), "stale_grace", "7d"),
        ("pod_grace = \"8d\"".to_owned(), "pod_grace", "7d"),
        (
            "csi_driver = \"csi/arx\"".to_owned(),
            "csi_driver",
            "name of an object",
        ),
        (
            "pod_labels = [\"app\"]".to_owned(),
            "pod_labels",
            "not watched",
        ),
        (
            "pod_labels = [\"app\", \"app\"]\nwatch_pods = true".to_owned(),
            "pod_labels",
            "twice",
        ),
    ] {
        let found = found(&format!("{SOUND}{line}"));
        let found = found
            .first()
            .unwrap_or_else(|| panic!("{line}: nothing found"));
        assert!(found.starts_with("ca.toml:7"), "{found}");
        assert!(
            found.contains(key) && found.contains(says),
            "{line}: {found}"
        );
    }
}

#[test]
fn names_audiences_and_agents_are_held_to_their_forms() {
    for (from, to, says) in [
        ("\"c1\"", "\"\"", "SPIFFE id"),
        ("\"c1\"", "\"a/b\"", "SPIFFE id"),
        ("\"c1\"", "\"..\"", "SPIFFE id"),
        ("\"https://kubernetes.default.svc\"", "\"\"", "empty"),
        (
            "\"https://kubernetes.default.svc\"",
            "\"kubernetes/serviceaccount\"",
            "jwks_file",
        ),
        ("[\"arx\"]", "[]", "no audience"),
        ("[\"arx\"]", "[\"arx\", \"arx\"]", "twice"),
        ("[\"arx\"]", "[\"\"]", "empty"),
        ("[\"arx\"]", "[\"arx/join\"]", "/join"),
        (
            "arx-system/arx-node-agent",
            "arx-node-agent",
            "<namespace>/<service account>",
        ),
        ("arx-system/arx-node-agent", "arx-system/*", "not allowed"),
        (
            "arx-system/arx-node-agent",
            "a/b/c",
            "<namespace>/<service account>",
        ),
    ] {
        let found = found(&SOUND.replace(from, to));
        assert!(found.iter().any(|it| it.contains(says)), "{to}: {found:?}");
    }
}

#[test]
fn clusters_that_could_be_taken_for_each_other_are_refused() {
    let twice = found(&format!("{SOUND}{SOUND}"));
    assert!(twice[0].contains("cluster[1].name"), "{twice:?}");
    let other = SOUND.replace("\"c1\"", "\"c2\"");
    let shared = found(&format!("{SOUND}{other}"));
    assert!(shared[0].contains("cluster[1].issuer"), "{shared:?}");
    assert!(
        shared[0].contains("cluster \"c1\" has the same issuer"),
        "{shared:?}"
    );
    let own = other.replace("https://kubernetes", "https://c2.kubernetes");
    assert_eq!(found(&format!("{SOUND}{own}")), [""; 0]);
    let review = found(&format!(
        "{SOUND}verification = \"review\"\ntoken_file = \"/etc/hostname\""
    ));
    assert!(
        review[0].contains("not used with verification = \"review\""),
        "{review:?}"
    );
}

#[test]
fn without_any_cluster_nobody_could_prove_anything() {
    assert!(found("")[0].contains("no cluster"));
}
