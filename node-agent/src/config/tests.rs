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
    for never in [
        "[\"local\", \"token\"]",
        "[\"token\", \"token\"]",
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
