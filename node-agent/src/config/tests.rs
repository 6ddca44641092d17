use super::*;
use crate::testing;
use std::io;

/// The shortest configuration, with the files that it names.
pub(crate) fn text(directory: &Path) -> String {
    std::fs::write(directory.join("bundle.pem"), testing::root().pem()).expect("writable");
    std::fs::write(directory.join("token"), testing::JWT).expect("writable");
    let path = directory.display();
    format!(
        r#"trust_domain = "example.org"
cluster = "demo"
node = "node-1"
[authority]
address = "127.0.0.1:8443"
bundle_file = "{path}/bundle.pem"
token_file = "{path}/token"
[socket]
path = "{path}/sds.sock"
[state]
directory = "{path}/state"
cache_key_file = "{path}/cache.key"
"#
    )
}

fn check(directory: &Path, change: impl FnOnce(String) -> String) -> Result<Config, ConfigError> {
    let text = text(directory);
    Config::read(&File::from_text("agent.toml", change(text))?)
}

fn refused(change: impl FnOnce(String) -> String) -> String {
    let directory = tempfile::tempdir().expect("a directory");
    let error = check(directory.path(), change).expect_err("must be refused");
    error.to_string()
}

#[test]
fn a_short_file_is_enough() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let config = check(directory.path(), |text| text)?;
    assert_eq!(config.names.certificate, "default");
    assert_eq!(config.socket.mode, Mode(0o666));
    assert_eq!(config.ops.address.port(), 9902);
    Ok(())
}

#[test]
fn everything_can_be_said() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let config = check(directory.path(), |text| {
        text.replace("[state]", "mode = \"0660\"\nmax_connections = 9\n[state]")
            + r#"
[names]
certificate = "me"
trust = "roots"
all = "everyone"
[attestation]
attestors = ["local"]
hash_executables = true
linger = "1m"
[certificates]
key = "ecdsa-p384"
ttl = "1h30m"
[ops]
address = "[::1]:1"
[log]
format = "text"
level = "debug"
"#
    })?;
    assert_eq!(config.certificates.key, KeyAlgorithm::EcdsaP384);
    assert_eq!(config.attestation.attestors, [Attestor::Local]);
    assert_eq!(config.socket.mode, Mode(0o660));
    Ok(())
}

#[test]
fn mistakes_are_named_with_line_and_remedy() {
    let unknown = refused(|t| t.replace("[socket]\npath", "[socket]\npaht"));
    assert!(
        unknown.contains("agent.toml:9") && unknown.contains("\"path\""),
        "{unknown}"
    );
    let trust_domain = refused(|t| t.replace("example.org", "Example.org"));
    assert!(trust_domain.starts_with("agent.toml:1"), "{trust_domain}");
    let slash = refused(|t| t.replace("\"node-1\"", "\"a/b\""));
    assert!(slash.starts_with("agent.toml:3: node"), "{slash}");
    let port = refused(|t| t.replace("127.0.0.1:8443", "127.0.0.1"));
    assert!(port.contains("authority.address: not host:port"), "{port}");
    let ttl = refused(|t| t + "[certificates]\nttl = \"1s\"\n");
    assert!(ttl.contains("certificates.ttl"), "{ttl}");
    let mode = refused(|t| t.replace("[state]", "mode = \"0999\"\n[state]"));
    assert!(mode.contains("socket.mode"), "{mode}");
    let same = refused(|t| t + "[names]\ntrust = \"default\"\n");
    assert!(
        same.contains("names.trust: used for another secret"),
        "{same}"
    );
    let nobody = refused(|t| t + "[attestation]\nattestors = []\n");
    assert!(nobody.contains("attestation.attestors"), "{nobody}");
    let root = refused(|t| t + "[attestation]\ncgroup_root = \"kubelet\"\n");
    assert!(root.contains("attestation.cgroup_root"), "{root}");
    for never in [
        "[\"local\", \"token\"]",
        "[\"token\", \"token\"]",
        "[\"process\", \"token\", \"process\"]",
        "[\"token\", \"local\", \"local\"]",
    ] {
        let never = refused(|t| t + &format!("[attestation]\nattestors = {never}\n"));
        assert!(never.contains("would never be asked"), "{never}");
    }
}

#[test]
fn a_socket_path_that_does_not_fit_an_address_is_refused() {
    let long = "x".repeat(108);
    let message = refused(|t| t.replace("sds.sock", &long));
    assert!(
        message.contains("socket.path") && message.contains("107"),
        "{message}"
    );
}

#[test]
fn files_that_are_named_must_be_there_and_good() -> io::Result<()> {
    let message = refused(|t| {
        t.replace("bundle.pem", "absent.pem")
            .replace("/token", "/absent")
    });
    assert!(message.contains("authority.bundle_file"), "{message}");
    assert!(
        message.contains("authority.token_file"),
        "both at once: {message}"
    );
    let message = refused(|t| t.replace("bundle.pem", "token"));
    assert!(message.contains("authority.bundle_file"), "{message}");
    assert!(!message.contains(testing::JWT), "{message}");
    Ok(())
}

#[test]
fn paths_of_the_wrong_kind_are_refused_with_their_line() {
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join("state"), "").expect("writable");
    std::fs::create_dir(directory.path().join("sds.sock")).expect("writable");
    std::fs::create_dir(directory.path().join("cache.key")).expect("writable");
    let error = check(directory.path(), |text| text).expect_err("three mistakes");
    let said = error.to_string();
    for part in [
        "agent.toml:9: socket.path: ",
        "sds.sock is a directory, not a socket; move it away",
        "agent.toml:11: state.directory: ",
        "state is not a directory; move away what lies there",
        "agent.toml:12: state.cache_key_file: ",
        "not a regular file",
    ] {
        assert!(said.contains(part), "{part} is missing in:\n{said}");
    }
    assert_eq!(error.problems().len(), 3, "{said}");
}

#[test]
fn an_address_is_a_host_and_a_port_and_no_url() {
    let said = refused(|t| t.replace("127.0.0.1:8443", "http://ca.arx.svc:8443"));
    assert!(
        said.starts_with("agent.toml:5: authority.address: a URL"),
        "{said}"
    );
    assert!(said.contains("write it as ca.arx.svc:8443"), "{said}");
    for wrong in [
        ":8443", "ca:0", "ca:x", "ca/x:1", "::1:8443", "[ca]:1", "a b:1", "u@ca:1",
    ] {
        let said = refused(|t| t.replace("127.0.0.1:8443", wrong));
        assert!(said.contains("authority.address"), "{wrong}: {said}");
    }
    let directory = tempfile::tempdir().expect("a directory");
    for good in ["ca.arx.svc:8443", "[::1]:8443", "ca_1:1"] {
        check(directory.path(), |t| t.replace("127.0.0.1:8443", good)).expect(good);
    }
}

#[test]
fn a_bundle_without_a_root_of_the_trust_domain_is_refused() {
    let said = refused(|t| t.replacen("example.org", "other.org", 1));
    assert!(said.contains("authority.bundle_file"), "{said}");
    assert!(said.contains("example.org"), "{said}");
    let directory = tempfile::tempdir().expect("a directory");
    let said = check(directory.path(), |text| {
        std::fs::write(directory.path().join("bundle.pem"), "").expect("writable");
        text
    });
    let said = said.expect_err("no root at all").to_string();
    assert!(said.contains("authority.bundle_file"), "{said}");
}

/// A token that names a node.
fn token(node: &str) -> String {
    use base64::Engine as _;
    let claims = format!(r#"{{"kubernetes.io":{{"node":{{"name":"{node}"}}}}}}"#);
    let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(claims);
    format!("e30.{claims}.c2ln")
}

#[test]
fn a_node_that_is_not_named_is_that_of_the_token() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let nameless = text(directory.path()).replace("node = \"node-1\"\n", "");
    let file = || File::from_text("agent.toml", nameless.clone());
    let said = Config::read(&file()?)
        .expect_err("nobody names it")
        .to_string();
    assert!(said.contains("node: not given, and the token"), "{said}");
    std::fs::write(directory.path().join("token"), token("node-7"))?;
    assert_eq!(Config::read(&file()?)?.node, "node-7");
    Ok(())
}

#[test]
fn a_token_of_another_node_is_told_by_the_check_and_is_in_no_message() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("agent.toml");
    std::fs::write(&path, text(directory.path())).expect("writable");
    let write = |token: &str| {
        std::fs::write(directory.path().join("token"), token).expect("writable");
    };
    write(&token("node-2"));
    // An agent with a cache serves with it, and waits for another.
    Config::load(&path).expect("it starts");
    let said = Config::check(&path).expect_err("it can't join").to_string();
    assert!(
        said.contains("agent.toml:7: authority.token_file"),
        "{said}"
    );
    assert!(
        said.contains(r#"on node "node-2", and this is "node-1""#),
        "{said}"
    );
    assert!(!said.contains(&token("node-2")), "{said}");
    write(&token("node-1"));
    Config::check(&path).expect("its own");
    write(testing::JWT);
    Config::check(&path).expect("it does not say");
}

#[test]
fn a_driver_that_could_not_work_is_refused_with_its_line() {
    for (options, part) in [
        ("driver = \"9.x\"", "no driver's name"),
        ("audience = \"\"", "which is the API server"),
        (
            "kubelet_root = \"kubelet\"",
            "pod_sockets.kubelet_root: not an absolute path",
        ),
        (
            "directory = \"/var/lib/kubelet/pods/arx\"",
            "where the kubelet keeps its pods",
        ),
        ("max_connections = 0", "nobody could connect"),
        ("republish = true", "republish"),
    ] {
        let message = refused(|t| t + &format!("[pod_sockets]\n{options}\n"));
        assert!(message.contains(part), "{message}");
    }
    let long = format!("directory = \"/{}\"", "x".repeat(80));
    let message = refused(|t| t + &format!("[pod_sockets]\n{long}\n"));
    assert!(
        message.contains("pod_sockets.directory") && message.contains("107"),
        "{message}"
    );
}

#[test]
fn an_empty_table_of_pod_sockets_is_enough() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    assert!(check(directory.path(), |text| text)?.pod_sockets.is_none());
    let config = check(directory.path(), |text| text + "[pod_sockets]\n")?;
    let pods = config.pod_sockets.ok_or("it has some")?;
    assert_eq!(
        pods.endpoint(),
        Path::new("/var/lib/kubelet/plugins/csi.arx.dev/csi.sock")
    );
    let registration = "/var/lib/kubelet/plugins_registry/csi.arx.dev-reg.sock";
    assert_eq!(pods.registration(), Path::new(registration));
    Ok(())
}

#[test]
fn an_authority_has_one_name_or_a_list_of_them_and_never_both()
-> Result<(), Box<dyn std::error::Error>> {
    let one = "address = \"127.0.0.1:8443\"";
    let directory = tempfile::tempdir()?;
    let list = "addresses = [\"ca-0.ca:8443\", \"ca-1.ca:8443\"]";
    let config = check(directory.path(), |text| text.replace(one, list))?;
    let names: Vec<_> = config.authority.names().collect();
    assert_eq!(names, ["ca-0.ca:8443", "ca-1.ca:8443"]);
    let both = refused(|text| text.replace(one, &format!("{one}\n{list}")));
    assert!(both.contains("authority.addresses too"), "{both}");
    let wrong = refused(|text| text.replace(one, "addresses = [\"ca:8443\", \"ca\"]"));
    assert!(
        wrong.contains("authority.addresses: not host:port"),
        "{wrong}"
    );
    let none = refused(|text| text.replace(one, ""));
    assert!(none.contains("authority.address"), "{none}");
    let many = format!("addresses = [{}]", "\"ca:1\",".repeat(17));
    let many = refused(|text| text.replace(one, &many));
    assert!(many.contains("more than 16"), "{many}");
    Ok(())
}
