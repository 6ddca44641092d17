//! What only this machine can answer: whether the paths that a configuration names lead to what
//! the authority could use. Nothing is changed.

use arx_daemon::config::Problems;

use super::Config;
use crate::state;
use crate::store::Place;

/// Notes everything that would keep the authority from starting here.
pub(super) fn problems(config: &Config, problems: &mut Problems<'_>) {
    let directory = &config.state.directory;
    problems.directory("state.directory", directory);
    let ledger = directory.join("ledger");
    if ledger.exists() {
        problems.directory("state.directory", &ledger);
    }
    let place = config.state.place();
    if let Place::File(path) = &place {
        problems.regular_file("state.directory", path);
    }
    if place.is_shared() && config.replica.is_none() {
        let name = name().unwrap_or_default();
        if state::replica_name(&name).is_err() {
            problems.add(
                "replica",
                format!("nothing says what this replica is called among those that share the state, and the machine's name {name:?} can't be used"),
                "give each a name of its own: lower-case letters, digits, dots and hyphens, at most 64",
            );
        }
    }
    problems.socket("admin.socket", &config.admin.socket);
    // The first start makes it.
    if let Some(key) = &config.state.seal_key_file
        && key.symlink_metadata().is_err()
    {
        if place.is_shared() {
            problems.add(
                "state.seal_key_file",
                format!(
                    "{} is missing, and all replicas need the same key",
                    key.display()
                ),
                "make it once (openssl rand -base64 32), and give it to each",
            );
        } else {
            problems.new_file("state.seal_key_file", key);
        }
    }
}

/// What this machine is called.
pub(super) fn name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::tests::GOOD;
    use super::*;
    use arx_daemon::config::File;
    use std::path::Path;

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    /// What is said of the good configuration with everything in `folder`, which may lack
    /// some of it.
    fn said(folder: &Path) -> Result<Vec<String>, Box<dyn std::error::Error>> {
        let folder = folder.display();
        let text = GOOD
            .replace("/run/arx/admin.sock", &format!("{folder}/run/admin.sock"))
            .replace("/var/lib/arx", &format!("{folder}/state"))
            .replace("/etc/arx/seal.key", &format!("{folder}/keys/seal.key"));
        let file = File::from_text("arx-ca.toml", text)?;
        let config = file.parse()?;
        let mut found = file.problems();
        problems(&config, &mut found);
        Ok(match found.finish() {
            Ok(()) => Vec::new(),
            Err(error) => error.problems().iter().map(ToString::to_string).collect(),
        })
    }

    #[test]
    fn a_machine_that_has_what_is_needed_is_well_before_and_after_the_first_start() -> Outcome {
        let folder = tempfile::tempdir()?;
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("keys"))?;
        assert_eq!(said(folder.path())?, [""; 0]);
        std::fs::create_dir_all(at("state/ledger"))?;
        std::fs::create_dir(at("run"))?;
        std::fs::write(at("keys/seal.key"), "x")?;
        std::fs::write(at("state/state.redb"), "x")?;
        let _socket = std::os::unix::net::UnixListener::bind(at("run/admin.sock"))?;
        assert_eq!(said(folder.path())?, [""; 0]);
        Ok(())
    }

    #[test]
    fn each_path_of_the_wrong_kind_is_named_with_its_line() -> Outcome {
        let wrong = |make: &dyn Fn(&Path) -> std::io::Result<()>| {
            let folder = tempfile::tempdir()?;
            std::fs::create_dir(folder.path().join("keys"))?;
            make(folder.path())?;
            Ok::<_, Box<dyn std::error::Error>>(said(folder.path())?.join("\n"))
        };
        let text = wrong(&|at| std::fs::write(at.join("state"), ""))?;
        assert!(
            text.starts_with("arx-ca.toml:11: state.directory: "),
            "{text}"
        );
        assert!(
            text.contains("state is not a directory; move away"),
            "{text}"
        );
        let text = wrong(&|at| std::fs::create_dir_all(at.join("state/state.redb")))?;
        assert!(text.contains("state.redb is not a regular file"), "{text}");
        let text = wrong(&|at| {
            std::fs::create_dir(at.join("state"))?;
            std::fs::write(at.join("state/ledger"), "")
        })?;
        assert!(text.contains("ledger is not a directory"), "{text}");
        let text = wrong(&|at| std::fs::create_dir_all(at.join("run/admin.sock")))?;
        assert!(text.starts_with("arx-ca.toml:8: admin.socket: "), "{text}");
        assert!(text.contains("is a directory, not a socket"), "{text}");
        let text = wrong(&|at| {
            std::fs::create_dir(at.join("run"))?;
            std::fs::write(at.join("run/admin.sock"), "")
        })?;
        assert!(text.contains("is a file, not a socket"), "{text}");
        let text = wrong(&|at| std::fs::write(at.join("run"), ""))?;
        assert!(text.contains("run is not a directory; move away"), "{text}");
        let text = wrong(&|at| std::fs::remove_dir(at.join("keys")))?;
        assert!(
            text.starts_with("arx-ca.toml:12: state.seal_key_file: "),
            "{text}"
        );
        assert!(text.contains("keys is missing"), "{text}");
        Ok(())
    }
}
