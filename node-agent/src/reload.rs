//! SIGHUP: the configuration is read again, whole or not at all. What can change while
//! the process runs does; what can't is named.

use crate::config::Config;
use arx_daemon::log::Log;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::watch;

/// Reads `path` again and takes over what can be changed.
pub fn reload(path: &Path, current: &watch::Sender<Arc<Config>>, log: Option<&Log>) {
    let next = match Config::load(path) {
        Ok(next) => next,
        Err(error) => {
            for problem in error.problems() {
                tracing::error!(
                    code = "ARX-AGENT-RELOAD-REFUSED",
                    "the configuration stays as it was: {problem}"
                );
            }
            return;
        }
    };
    let before = Arc::clone(&current.borrow());
    let fixed = fixed(&before, &next);
    if !fixed.is_empty() {
        let keys = fixed.join(", ");
        tracing::warn!(
            code = "ARX-AGENT-RESTART-NEEDED",
            keys,
            "these keys have changed and take effect when the agent is started again: {keys}"
        );
    }
    if let Some(log) = log {
        log.set_level(next.log.level);
    }
    let mut merged = Config::clone(&before);
    merged.attestation = next.attestation;
    merged.certificates = next.certificates;
    merged.log.level = next.log.level;
    current.send_replace(Arc::new(merged));
    tracing::info!("configuration reloaded");
}

/// The keys that differ and can't be changed at run time.
fn fixed(before: &Config, next: &Config) -> Vec<&'static str> {
    let differs = [
        ("trust_domain", before.trust_domain != next.trust_domain),
        ("cluster", before.cluster != next.cluster),
        ("node", before.node != next.node),
        ("authority", before.authority != next.authority),
        ("socket", before.socket != next.socket),
        ("pod_sockets", before.pod_sockets != next.pod_sockets),
        ("names", before.names != next.names),
        ("state", before.state != next.state),
        ("ops", before.ops != next.ops),
        ("log.format", before.log.format != next.log.format),
    ];
    differs
        .into_iter()
        .filter(|(_, differs)| *differs)
        .map(|(key, _)| key)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn what_can_change_does_and_the_rest_is_named() -> Result<(), Box<dyn std::error::Error>> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("agent.toml");
        let text = config::tests::text(directory.path());
        std::fs::write(&path, &text)?;
        let (current, _) = watch::channel(Arc::new(Config::load(&path)?));

        let changed = text.replace("\"node-1\"", "\"node-2\"") + "[attestation]\nlinger = \"5s\"\n";
        std::fs::write(&path, changed)?;
        assert_eq!(fixed(&current.borrow(), &Config::load(&path)?), ["node"]);
        reload(&path, &current, None);
        assert_eq!(current.borrow().attestation.linger.get().as_secs(), 5);
        assert_eq!(current.borrow().node, "node-1");

        std::fs::write(&path, "nonsense = 1")?;
        reload(&path, &current, None);
        assert_eq!(
            current.borrow().attestation.linger.get().as_secs(),
            5,
            "refused as a whole"
        );
        Ok(())
    }
}
