//! Where the replicas that share a state reach each other.

use arx_daemon::config::Problems;

use super::{Config, host};

/// Stands for the replica's name in `node_api.announce`.
const NAME: &str = "{replica}";

impl Config {
    /// Where other replicas reach the one of this name; nothing where there can be no others. If
    /// nothing is said of that, where agents connect; on all addresses, by the machine's name.
    #[must_use]
    pub fn announced(&self, replica: &str) -> Option<String> {
        if !self.state.place().is_shared() {
            return None;
        }
        let address = self.node_api.address;
        match &self.node_api.announce {
            Some(announce) => Some(announce.replace(NAME, replica)),
            None if address.ip().is_unspecified() => {
                Some(format!("{}:{}", host::name()?, address.port()))
            }
            None => Some(address.to_string()),
        }
    }
}

/// Notes what is wrong with `node_api.announce`.
pub(super) fn problems(config: &Config, problems: &mut Problems<'_>) {
    let Some(announce) = &config.node_api.announce else {
        return;
    };
    if !is_address(&announce.replace(NAME, "name")) {
        problems.add(
            "node_api.announce",
            format!("{announce:?} is no host and port"),
            "write where other replicas reach this one, such as ca-1.example.org:8443, or {replica}.example.org:8443",
        );
    }
}

fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else {
        return false;
    };
    // An address of IPv6 stands in brackets.
    let of_six = host.starts_with('[') && host.ends_with(']');
    let is_part =
        |c: char| c.is_ascii_alphanumeric() || "-._".contains(c) || of_six && "[]:".contains(c);
    !host.is_empty() && host.chars().all(is_part) && port.parse().is_ok_and(|it: u16| it > 0)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{GOOD, broken, read};

    /// With the state in etcd, and these lines in `[node_api]`.
    fn announced(node_api: &str) -> Option<String> {
        let text = GOOD
            .replace("address = \"127.0.0.1:8443\"", node_api)
            .replace(
                "[authority]",
                "[state.etcd]\nendpoints = [\"http://127.0.0.1:1\"]\n[authority]",
            );
        read(&text).expect("in order").announced("ca-1")
    }

    #[test]
    fn a_replica_is_reached_where_agents_connect_unless_another_address_is_given() {
        let here = announced("address = \"127.0.0.1:8443\"");
        assert_eq!(here.as_deref(), Some("127.0.0.1:8443"));
        let all = announced("address = \"[::]:8443\"").expect("the machine has a name");
        assert!(all.ends_with(":8443") && !all.contains("::"), "{all}");
        let named = "address = \"0.0.0.0:8443\"\nannounce = \"{replica}.example.org:443\"";
        assert_eq!(announced(named).as_deref(), Some("ca-1.example.org:443"));
        // In a file, there is nobody else.
        let alone = read(GOOD).expect("in order");
        assert_eq!(alone.announced("ca-1"), None);
    }

    #[test]
    fn an_announced_address_has_a_host_and_a_port() {
        for wrong in [
            "ca-1",
            ":8443",
            "ca-1:0",
            "ca-1:https",
            "https://ca-1:8443",
            "::1:8443",
            "{name}:8443",
            "ca 1:8443",
        ] {
            let said = broken(
                "address = \"127.0.0.1:8443\"",
                &format!("address = \"127.0.0.1:8443\"\nannounce = {wrong:?}"),
            );
            assert!(said.contains("node_api.announce: "), "{wrong}: {said}");
            assert!(said.contains("is no host and port"), "{wrong}: {said}");
        }
        for well in ["[::1]:8443", "10.0.0.1:8443", "ca_1:1", "{replica}.ca:8443"] {
            let given = format!("address = \"127.0.0.1:8443\"\nannounce = {well:?}");
            assert!(announced(&given).is_some(), "{well}");
        }
    }
}
