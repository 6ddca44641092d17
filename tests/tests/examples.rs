//! The configurations in `deploy/examples` work, have every key that there is, and show
//! the defaults that are in force; and `docs/operate.md` explains each key.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context as _, ensure};
use arx_identity::profile::{self, Validity};
use arx_identity::{KeyAlgorithm, PrivateKey, TrustDomain};
use arx_tests::mesh::{AUDIENCE, CLUSTER, TRUST_DOMAIN, pem};
use arx_tests::token_issuer::{Claims, TokenIssuer};

/// Inserted to be refused: the refusal lists the keys that there are.
const NONSENSE: &str = "qqqqqqqqqqqqqqqqqqqqqqqqqqqq = 1\n";

/// A program's example, and how it reads it.
struct Program {
    example: &'static str,
    /// Its heading in `docs/operate.md`.
    heading: &'static str,
    /// Loads a file; what was understood, or what is wrong.
    load: fn(&Path) -> Result<String, String>,
    /// Keys that are shown as alternatives, or that have no default, and tables of such.
    alternatives: &'static [&'static str],
}

const AUTHORITY: Program = Program {
    example: "arx-ca.toml",
    heading: "### Configuration of the authority",
    load: |path| match arx_ca::config::Config::load(path) {
        Ok(config) => Ok(format!("{config:?}")),
        Err(error) => Err(error.to_string()),
    },
    alternatives: &[
        "replica",
        "page.address",
        "page.token_file",
        "state.seal",
        "node_api.announce",
        "state.etcd",
        "state.kubernetes",
        "authority.root_renewal_lead",
        "authority.certificate_file",
        "authority.key_file",
        "authority.previous_certificate_file",
        "authority.previous_key_file",
        "authority.root_custody",
        "authority.pkcs11",
        "authority.signer",
        "authority.root",
        "authority.upstream",
        "rotation.window",
        "ledger.sink",
        "policy.local.executable_sha256",
        "cluster.jwks_file",
        "cluster.discovery_url",
        "cluster.ca_file",
        "cluster.token_file",
        "cluster.kubeconfig",
        "cluster.watch_pods",
        "cluster.pod_labels",
        "cluster.csi_driver",
    ],
};

const AGENT: Program = Program {
    example: "arx-node-agent.toml",
    heading: "### Configuration of the node agent",
    load: |path| match arx_node_agent::config::Config::load(path) {
        Ok(config) => Ok(format!("{config:?}")),
        Err(error) => Err(error.to_string()),
    },
    alternatives: &["authority.addresses", "certificates.ttl", "pod_sockets"],
};

/// A line of an example.
#[derive(Clone)]
enum Line {
    /// `[table]` or `[[table]]`, with the table's dotted name; or a table in a comment.
    Table(String),
    /// `key = value`, commented out or not, with the dotted key.
    Key {
        key: String,
        commented: bool,
    },
    Other,
}

/// The example's lines, each with what it is.
fn lines(text: &str) -> Vec<(Line, &str)> {
    let mut table = String::new();
    text.lines()
        .map(|line| {
            let bare = line.strip_prefix("# ").unwrap_or(line);
            let word = bare.split_once(" = ").map(|(word, _)| word);
            let is_key = |word: &&str| {
                !word.is_empty()
                    && word
                        .bytes()
                        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
            };
            let kind = if bare.starts_with('[') && bare.ends_with(']') {
                table = bare.trim_matches(['[', ']']).to_owned();
                Line::Table(table.clone())
            } else if let Some(word) = word.filter(is_key) {
                Line::Key {
                    key: dotted(&table, word),
                    commented: bare != line,
                }
            } else {
                Line::Other
            };
            (kind, line)
        })
        .collect()
}

fn dotted(table: &str, key: &str) -> String {
    match table {
        "" => key.to_owned(),
        table => format!("{table}.{key}"),
    }
}

/// The folder that stands for `/etc/arx`, with what the examples name there.
fn folder() -> anyhow::Result<tempfile::TempDir> {
    let folder = tempfile::tempdir()?;
    let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256)?;
    let validity = Validity {
        not_before: UNIX_EPOCH,
        not_after: UNIX_EPOCH + Duration::from_secs(4_000_000_000),
    };
    let root = profile::root(
        key.public_key(),
        &TrustDomain::parse(TRUST_DOMAIN)?,
        validity,
    )?;
    let signature = key.sign(root.to_be_signed())?;
    let root = root.complete(&signature)?;
    fs::write(
        folder.path().join("bundle.pem"),
        pem("CERTIFICATE", root.der()),
    )?;
    let issuer = TokenIssuer::new("https://issuer.example.org", KeyAlgorithm::EcdsaP256)?;
    let claims = Claims::new(&format!("{AUDIENCE}/join"), "arx-system", CLUSTER, "node-1");
    fs::write(folder.path().join("join-token"), issuer.mint(&claims))?;
    Ok(folder)
}

impl Program {
    fn text(&self) -> anyhow::Result<String> {
        let path = root().join("deploy/examples").join(self.example);
        fs::read_to_string(&path).with_context(|| path.display().to_string())
    }

    fn understood(&self, folder: &Path, text: &str) -> Result<String, String> {
        let path = folder.join(self.example);
        let here = format!("{}/", folder.display());
        fs::write(&path, text.replace("/etc/arx/", &here)).map_err(|error| error.to_string())?;
        (self.load)(&path)
    }

    /// All keys of the table whose header is the line before `at`, by the program's own
    /// word.
    fn known(&self, folder: &Path, lines: &[&str], at: usize) -> anyhow::Result<Vec<String>> {
        let header = lines[..at].last().and_then(|line| line.strip_prefix("# "));
        let header = header.map(|header| format!("{header}\n"));
        let text: String = lines[..at]
            .iter()
            .map(|line| format!("{line}\n"))
            .chain(header)
            .chain([NONSENSE.to_owned()])
            .chain(lines[at..].iter().map(|line| format!("{line}\n")))
            .collect();
        let refusal = self
            .understood(folder, &text)
            .err()
            .context("a key that there is not was taken")?;
        let (_, keys) = refusal
            .split_once("keys here: ")
            .with_context(|| format!("no list of keys in: {refusal}"))?;
        let keys = keys.lines().next().unwrap_or_default();
        Ok(keys.split(", ").map(|key| key.trim().to_owned()).collect())
    }

    /// Every key that the program has, dotted, except for tables.
    fn keys(&self, folder: &Path) -> anyhow::Result<Vec<String>> {
        let text = self.text()?;
        let lines = lines(&text);
        let raw: Vec<_> = lines.iter().map(|(_, line)| *line).collect();
        let mut tables: Vec<(String, usize)> = vec![(String::new(), 0)];
        for (n, (line, _)) in lines.iter().enumerate() {
            if let Line::Table(name) = line
                && !tables.iter().any(|(known, _)| known == name)
            {
                tables.push((name.clone(), n + 1));
            }
        }
        let mut keys = Vec::new();
        for (table, at) in &tables {
            for key in self.known(folder, &raw, *at)? {
                let key = dotted(table, &key);
                if !tables.iter().any(|(name, _)| *name == key) {
                    keys.push(key);
                }
            }
        }
        Ok(keys)
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

#[test]
fn the_examples_are_taken_as_they_are() -> anyhow::Result<()> {
    let folder = folder()?;
    for program in [AUTHORITY, AGENT] {
        program
            .understood(folder.path(), &program.text()?)
            .map_err(anyhow::Error::msg)?;
    }
    Ok(())
}

#[test]
fn every_key_stands_in_an_example() -> anyhow::Result<()> {
    let folder = folder()?;
    for program in [AUTHORITY, AGENT] {
        let text = program.text()?;
        let shown: Vec<_> = lines(&text)
            .into_iter()
            .filter_map(|(line, _)| match line {
                Line::Key { key, .. } => Some(key),
                _ => None,
            })
            .collect();
        let known = program.keys(folder.path())?;
        ensure!(known.len() > 20, "{}: only {known:?}", program.example);
        for key in &known {
            ensure!(shown.contains(key), "{} lacks {key}", program.example);
        }
        for key in &shown {
            ensure!(
                known.contains(key),
                "{}: there is no {key}",
                program.example
            );
        }
    }
    Ok(())
}

#[test]
fn what_an_example_shows_as_a_default_is_the_default() -> anyhow::Result<()> {
    let folder = folder()?;
    for program in [AUTHORITY, AGENT] {
        let text = program.text()?;
        let before = program
            .understood(folder.path(), &text)
            .map_err(anyhow::Error::msg)?;
        let lines = lines(&text);
        for (n, (line, _)) in lines.iter().enumerate() {
            let Line::Key {
                key,
                commented: true,
            } = line
            else {
                continue;
            };
            let table = key.rsplit_once('.').map_or("", |(table, _)| table);
            let alternative = |name| program.alternatives.contains(&name);
            if alternative(key) || alternative(table) {
                continue;
            }
            let said: String = lines
                .iter()
                .enumerate()
                .map(|(m, (_, line))| match line.strip_prefix("# ") {
                    Some(line) if m == n => format!("{line}\n"),
                    _ => format!("{line}\n"),
                })
                .collect();
            let after = program
                .understood(folder.path(), &said)
                .map_err(|error| anyhow::anyhow!("{key}: {error}"))?;
            ensure!(
                before == after,
                "{}: {key} has another default",
                program.example
            );
        }
    }
    Ok(())
}

#[test]
fn every_key_is_explained() -> anyhow::Result<()> {
    let folder = folder()?;
    let page = fs::read_to_string(root().join("docs/operate.md"))?;
    for program in [AUTHORITY, AGENT] {
        let (_, section) = page
            .split_once(program.heading)
            .with_context(|| format!("docs/operate.md has no {}", program.heading))?;
        let section = section.split("\n##").next().unwrap_or_default();
        for key in program.keys(folder.path())? {
            ensure!(
                section.contains(&format!("\n| `{key}` |")),
                "docs/operate.md does not explain {key} below {}",
                program.heading
            );
        }
    }
    Ok(())
}
