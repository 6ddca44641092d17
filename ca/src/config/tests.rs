use super::*;

/// A configuration that is in order; the tests break it in one place each.
pub(super) const GOOD: &str = r#"trust_domain = "example.org"
replica = "ca-1"

[node_api]
address = "127.0.0.1:8443"

[admin]
socket = "/run/arx/admin.sock"

[state]
directory = "/var/lib/arx"
seal_key_file = "/etc/arx/seal.key"

[authority]
intermediate_ttl = "7d"

[policy]
ttl = "1h"
max_ttl = "24h"

[[cluster]]
name = "c1"
issuer = "https://kubernetes.default.svc"
audiences = ["arx"]
agents = ["arx-system/arx-node-agent"]
verification = "review"
"#;

pub(super) fn read(text: &str) -> Result<Config, ConfigError> {
    Config::read(&File::from_text("arx-ca.toml", text)?, |_, _| {})
}

/// The message for the good configuration with `from` replaced by `to`.
pub(super) fn broken(from: &str, to: &str) -> String {
    assert!(
        GOOD.contains(from),
        "the test replaces what is not there: {from}"
    );
    match read(&GOOD.replace(from, to)) {
        Ok(_) => panic!("{to:?} was taken"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_configuration_in_order_is_taken_with_the_documented_defaults() {
    let config = read(GOOD).expect("in order");
    assert_eq!(config.ops.address, SocketAddr::from(([127, 0, 0, 1], 9901)));
    assert_eq!(config.node_api.max_connections, 10_000);
    assert_eq!(config.authority.root_key, KeyAlgorithm::EcdsaP256);
    assert_eq!(config.ledger.gather.get(), Duration::from_millis(1));
    assert!(config.fixed_differences(&config).is_empty());
}

#[test]
fn an_unknown_key_is_refused_with_its_line_and_a_near_match() {
    let message = broken("max_ttl = \"24h\"", "max_tll = \"24h\"");
    assert!(message.contains("arx-ca.toml:19"), "{message}");
    assert!(message.contains("max_ttl"), "{message}");
}

#[test]
fn a_wrong_type_is_refused_with_its_line() {
    let message = broken("replica = \"ca-1\"", "replica = 7");
    assert!(message.contains("arx-ca.toml:2"), "{message}");
}

#[test]
fn a_leaf_that_would_outlive_its_issuer_is_refused() {
    let message = broken("intermediate_ttl = \"7d\"", "intermediate_ttl = \"12h\"");
    assert!(message.contains("arx-ca.toml:15"), "{message}");
    assert!(message.contains("intermediate_ttl"), "{message}");
}

#[test]
fn secrets_in_plain_text_are_kept_only_where_that_was_said() {
    let message = broken("seal_key_file = \"/etc/arx/seal.key\"\n", "");
    assert!(message.contains("seal = \"none\""), "{message}");
    let message = broken("[authority]", "seal = \"none\"\n[authority]");
    assert!(message.contains("remove one of the two"), "{message}");
    read(&GOOD.replace("seal_key_file = \"/etc/arx/seal.key\"", "seal = \"none\""))
        .expect("said so");
}

#[test]
fn paths_are_absolute_and_a_socket_s_path_fits_into_an_address() {
    assert!(broken("/var/lib/arx", "lib/arx").contains("relative"));
    let long = format!("/run/{}", "x".repeat(120));
    let message = broken("/run/arx/admin.sock", &long);
    assert!(message.contains("125 bytes"), "{message}");
}

#[test]
fn half_of_the_operator_s_own_authority_is_refused() {
    let message = broken(
        "intermediate_ttl = \"7d\"",
        "certificate_file = \"/etc/arx/ca.pem\"",
    );
    assert!(message.contains("key_file"), "{message}");
}

#[test]
fn what_is_said_of_rotations_has_to_make_sense() {
    let config = read(GOOD).expect("in order");
    assert_eq!(config.rotation.dwell.get(), Duration::from_secs(15));
    let message = broken("[authority]", "[rotation]\nwindow = \"2d\"\n[authority]");
    assert!(message.contains("rotation.window"), "{message}");
    let message = broken("[authority]", "[rotation]\ndwell = \"2h\"\n[authority]");
    assert!(message.contains("rotation.dwell"), "{message}");
    let message = broken(
        "[authority]",
        "[authority]\nroot_renewal = \"manual\"\nroot_renewal_lead = \"30d\"",
    );
    assert!(message.contains("root_renewal_lead"), "{message}");
    let message = broken("[authority]", "[authority]\nroot_renewal = \"sometimes\"");
    assert!(message.contains("auto"), "{message}");
    let lead = GOOD.replace("[authority]", "[authority]\nroot_renewal_lead = \"30d\"");
    read(&lead).expect("in order");
}

#[test]
fn two_ports_of_one_process_differ() {
    let message = broken("[admin]", "[ops]\naddress = \"127.0.0.1:8443\"\n[admin]");
    assert!(message.contains("a port of its own"), "{message}");
    let any = GOOD.replace("127.0.0.1:8443", "127.0.0.1:0");
    read(&any.replace("[admin]", "[ops]\naddress = \"127.0.0.1:0\"\n[admin]"))
        .expect("the system chooses two");
}

#[test]
fn a_cluster_whose_nodes_could_never_join_is_refused() {
    let message = broken("agents = [\"arx-system/arx-node-agent\"]", "agents = []");
    assert!(message.contains("arx-ca.toml:25"), "{message}");
    assert!(message.contains("nobody may join"), "{message}");
}

#[test]
fn certificates_that_would_end_before_they_are_renewed_are_refused() {
    for key in ["serving_ttl", "intermediate_ttl"] {
        let message = broken("intermediate_ttl = \"7d\"", &format!("{key} = \"1s\""));
        assert!(message.contains("arx-ca.toml:15"), "{message}");
        assert!(
            message.contains("1s is not between 5s and 100 years"),
            "{message}"
        );
    }
}

#[test]
fn everything_that_is_wrong_is_said_at_once() {
    let text = GOOD
        .replace("/var/lib/arx", "lib/arx")
        .replace("/run/arx/admin.sock", "admin.sock");
    let error = read(&text).expect_err("two mistakes");
    assert_eq!(error.problems().len(), 2, "{error}");
}

#[test]
fn what_cannot_change_while_the_process_runs_is_named() {
    let running = read(GOOD).expect("in order");
    let changed = GOOD
        .replace("127.0.0.1:8443", "127.0.0.1:9443")
        .replace("example.org", "example.com");
    let new = read(&changed).expect("in order by itself");
    assert_eq!(
        running.fixed_differences(&new),
        ["trust_domain", "node_api"]
    );
    let policy = read(&GOOD.replace("ttl = \"1h\"", "ttl = \"30m\"")).expect("in order");
    assert!(running.fixed_differences(&policy).is_empty());
}

#[test]
fn a_token_or_a_signer_that_is_half_described_is_refused_by_name() {
    let broken = |table: &str| {
        let text = format!("{GOOD}\n{table}\n");
        read(&text).expect_err("it is half described").to_string()
    };
    let token = "[authority.pkcs11]\nmodule = \"/m.so\"\nkey_label = \"k\"\npin_file = \"/pin\"";
    let message = broken(token);
    assert!(message.contains("token_label"), "{message}");
    let message = broken(&format!("{token}\nslot = 1\ndeadline = \"0s\""));
    assert!(message.contains("1s and 5m"), "{message}");
    let signer = "[authority.signer]\nkey = \"k\"";
    let message = broken(signer);
    assert!(message.contains("either socket or address"), "{message}");
    let message = broken(&format!("{signer}\naddress = \"signer:8600\""));
    assert!(message.contains("ca_file"), "{message}");
    let message = broken(&format!("{signer}\nsocket = \"signer.sock\""));
    assert!(message.contains("relative"), "{message}");
    let both = format!("{token}\nslot = 1\n{signer}\nsocket = \"/signer.sock\"");
    assert!(broken(&both).contains("root_custody"));
}

#[test]
fn a_root_s_key_is_made_where_a_place_for_it_is_described() {
    let next = |tables: &str| {
        let config = read(&format!("{GOOD}\n{tables}\n")).expect("in order");
        config.authority_options().outside.next
    };
    let signer = "[authority.signer]\nkey = \"k\"\nsocket = \"/signer.sock\"";
    assert_eq!(next(""), Custody::State);
    assert_eq!(next(signer), Custody::Signer);
}

/// The good configuration with this `[page]`.
fn with_page(lines: &str) -> String {
    GOOD.replace("[admin]", &format!("[page]\n{lines}\n[admin]"))
}

#[test]
fn the_status_page_is_on_the_operators_port_as_long_as_that_is_on_loopback() {
    use crate::page::Place;
    let place = |text: &str| {
        let config = read(text).expect("in order");
        config.page.place(config.ops.address)
    };
    assert_eq!(place(GOOD), Place::Ops);
    let open = "[ops]\naddress = \"0.0.0.0:9901\"\n[admin]";
    assert_eq!(place(&GOOD.replace("[admin]", open)), Place::Nowhere);
    assert_eq!(place(&with_page("enabled = false")), Place::Nowhere);
    let own = |lines: &str| match place(&with_page(lines)) {
        Place::Own { tls, .. } => tls,
        other => panic!("{other:?}"),
    };
    assert!(!own("address = \"127.0.0.1:9903\""));
    let client = "clients = [\"spiffe://example.org/ops\"]";
    assert!(own(&format!("address = \"127.0.0.1:9903\"\n{client}")));
    assert!(own(&format!("address = \"192.0.2.1:9903\"\n{client}")));
}

#[test]
fn a_status_page_that_others_can_reach_needs_to_know_who_may_see_it() {
    for (lines, reason) in [
        (
            "address = \"0.0.0.0:9903\"",
            "nothing says who may see the page",
        ),
        (
            "address = \"[::]:9903\"",
            "nothing says who may see the page",
        ),
        ("address = \"127.0.0.1:9901\"", "the same address"),
        (
            "clients = [\"spiffe://example.org/ops\"]",
            "give page.address",
        ),
        (
            "address = \"127.0.0.1:9903\"\nclients = [\"spiffe://other.org/ops\"]",
            "another trust domain",
        ),
        ("hosts = [\"https://ca.example.org\"]", "neither a DNS name"),
        ("token_file = \"token\"", "relative"),
        ("token_file = \"/nowhere/token\"", "no such file"),
    ] {
        let error = read(&with_page(lines)).expect_err(lines).to_string();
        assert!(error.contains(reason), "{lines}: {error}");
        assert!(error.contains("page."), "{error}");
    }
}

#[test]
fn a_token_does_not_go_over_the_network_in_the_clear() {
    let text = with_page("token_file = \"/nowhere/token\"")
        .replace("[admin]", "[ops]\naddress = \"192.0.2.1:9901\"\n[admin]");
    let error = read(&text).expect_err("refused").to_string();
    assert!(error.contains("in the clear"), "{error}");
}
