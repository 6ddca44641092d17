//! A real Envoy: its configuration, its process, and what its admin port says.

mod bootstrap;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::Value;

pub use bootstrap::bootstrap;

use crate::http as web;
use crate::process::{Process, free_port, tool, until};

/// What an Envoy is told.
#[derive(Clone, Debug)]
pub struct Options {
    /// `node.id`.
    pub id: String,
    /// The agent's socket.
    pub socket: PathBuf,
    /// Sent as `authorization: Bearer` with each stream, for the attestor `token`.
    pub token: Option<String>,
    /// Where the application behind it listens.
    pub app: u16,
    /// Who may connect: a URI, or the beginning of one that ends in `/`.
    pub accept: String,
    /// Another Envoy that requests go to, and who that has to be.
    pub peer: Option<(u16, String)>,
    /// Delta instead of state-of-the-world.
    pub delta: bool,
    /// Name of the certificate's secret.
    pub certificate: String,
    /// Name of the roots' secret.
    pub trust: String,
    /// A PEM file that it trusts in place of what agents tell, and never reads again.
    pub roots_file: Option<PathBuf>,
    /// Bytes of metadata in `node`: a real sidecar's has some 61,000.
    pub padding: usize,
    /// The control group that it starts in, if not ours.
    pub group: Option<PathBuf>,
    /// Gives it a rule of its own that it can't read, so that it refuses (NACKs) whatever
    /// roots come.
    pub refuses_roots: bool,
}

impl Options {
    /// An Envoy behind this socket that accepts everybody of the trust domain.
    #[must_use]
    pub fn new(id: &str, socket: &Path, app: u16) -> Self {
        Self {
            id: id.to_owned(),
            socket: socket.to_owned(),
            token: None,
            app,
            accept: "spiffe://example.org/".to_owned(),
            peer: None,
            delta: false,
            certificate: "default".to_owned(),
            trust: "ROOTCA".to_owned(),
            roots_file: None,
            padding: 0,
            group: None,
            refuses_roots: false,
        }
    }
}

/// Where an Envoy listens, on loopback.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    /// The admin port.
    pub admin: u16,
    /// Where peers connect, by mTLS.
    pub inbound: u16,
    /// Where the own application sends its requests, in plain text.
    pub outbound: u16,
}

impl Ports {
    /// Ports that nobody uses: known before the Envoy starts, so that two can be each
    /// other's peer.
    ///
    /// # Errors
    /// If there are none.
    pub fn free() -> anyhow::Result<Self> {
        Ok(Self {
            admin: free_port()?,
            inbound: free_port()?,
            outbound: free_port()?,
        })
    }
}

/// A running Envoy.
pub struct Envoy {
    /// The process.
    pub process: Process,
    /// Where it listens.
    pub ports: Ports,
    options: Options,
    config: PathBuf,
}

/// A certificate as an Envoy serves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// Hexadecimal.
    pub serial: String,
    /// RFC 3339.
    pub expires: String,
    /// The URI of its subject alternative name.
    pub identity: String,
}

/// The certificate that the Envoy with this admin port serves, as `/certs` tells it.
///
/// # Errors
/// If it does not answer or serves none.
pub async fn served(admin: u16) -> anyhow::Result<Served> {
    let (_, text) = web::get(admin, "/certs").await?;
    let certs: Value = serde_json::from_str(&text)?;
    let chains = certs["certificates"].as_array().context("certificates")?;
    let leaf = chains
        .iter()
        .find_map(|entry| entry["cert_chain"].as_array()?.first())
        .context("it serves no certificate")?;
    let text = |value: &Value| value.as_str().map(str::to_owned);
    Ok(Served {
        serial: text(&leaf["serial_number"]).context("a serial number")?,
        expires: text(&leaf["expiration_time"]).context("an end")?,
        identity: text(&leaf["subject_alt_names"][0]["uri"]).context("a URI")?,
    })
}

/// A part of a URL's query (RFC 3986 section 2.1).
fn percent_encode(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
            char::from(byte).to_string()
        }
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}

/// Each Envoy needs a number of its own on one machine.
fn base_id() -> String {
    let random = arx_identity::crypto::random::<4>();
    (u32::from_be_bytes(random) % 1_000_000_000).to_string()
}

impl Envoy {
    /// Starts it. It may not be ready yet: it waits for its secrets.
    ///
    /// # Errors
    /// If it can't be started.
    pub fn start(folder: &Path, options: Options) -> anyhow::Result<Self> {
        Self::start_on(Ports::free()?, folder, options)
    }

    /// The same on these ports.
    ///
    /// # Errors
    /// If it can't be started.
    pub fn start_on(ports: Ports, folder: &Path, options: Options) -> anyhow::Result<Self> {
        let config = folder.join(format!("{}.json", options.id));
        std::fs::write(&config, bootstrap(&options, ports).to_string())?;
        let process = run(&config, options.group.as_deref())?;
        Ok(Self {
            process,
            ports,
            options,
            config,
        })
    }

    /// Starts it and waits until both sides are open: the secrets have come.
    ///
    /// # Errors
    /// If they do not.
    pub async fn warm(folder: &Path, options: Options) -> anyhow::Result<Self> {
        let envoy = Self::start(folder, options)?;
        envoy.is_warm().await?;
        Ok(envoy)
    }

    /// Waits until peers can connect.
    ///
    /// # Errors
    /// If they can't.
    pub async fn is_warm(&self) -> anyhow::Result<()> {
        let warm = until("warming", || async {
            Ok(
                tokio::net::TcpStream::connect(("127.0.0.1", self.ports.inbound))
                    .await
                    .is_ok(),
            )
        });
        warm.await
            .with_context(|| format!("{} says:\n{}", self.options.id, self.process.log().tail()))
    }

    /// Writes the configuration anew and starts it again on the same ports.
    ///
    /// # Errors
    /// If it can't be started.
    pub async fn restart(self, change: impl FnOnce(&mut Options)) -> anyhow::Result<Self> {
        let Self {
            process,
            ports,
            mut options,
            config,
        } = self;
        process.kill().await?;
        change(&mut options);
        std::fs::write(&config, bootstrap(&options, ports).to_string())?;
        let process = run(&config, options.group.as_deref())?;
        Ok(Self {
            process,
            ports,
            options,
            config,
        })
    }

    /// A counter or gauge of its statistics; 0 if there is none of this name.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn stat(&self, name: &str) -> anyhow::Result<u64> {
        let found = self
            .stats(&format!("^{}$", name.replace('.', "\\.")))
            .await?;
        Ok(found.get(name).copied().unwrap_or(0))
    }

    /// Those of its counters and gauges whose names this regular expression meets.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn stats(&self, filter: &str) -> anyhow::Result<BTreeMap<String, u64>> {
        let filter = percent_encode(filter);
        let (_, text) = web::get(self.ports.admin, &format!("/stats?filter={filter}")).await?;
        let counted = text.lines().filter_map(|line| line.split_once(": "));
        let counted = counted.map(|(name, value)| Ok((name.to_owned(), value.parse()?)));
        counted.collect()
    }

    /// The certificate that it serves, as `/certs` tells it.
    ///
    /// # Errors
    /// If it does not answer or serves none.
    pub async fn certificate(&self) -> anyhow::Result<Served> {
        served(self.ports.admin).await
    }

    /// Serial numbers of the roots that it trusts now, as `/certs` tells them.
    ///
    /// # Errors
    /// If it does not answer, or says nothing of roots.
    pub async fn trusted(&self) -> anyhow::Result<BTreeSet<String>> {
        let (_, text) = web::get(self.ports.admin, "/certs").await?;
        let certs: Value = serde_json::from_str(&text)?;
        let contexts = certs["certificates"].as_array().context("certificates")?;
        let roots = contexts
            .iter()
            .filter_map(|context| context["ca_cert"].as_array())
            .flatten()
            .map(|root| root["serial_number"].as_str().map(str::to_owned));
        let roots: Option<BTreeSet<_>> = roots.collect();
        roots
            .filter(|roots| !roots.is_empty())
            .context("it says nothing of roots")
    }

    /// How often it was given a certificate; the same one again counts too.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn pushes(&self) -> anyhow::Result<u64> {
        self.stat(&format!("sds.{}.update_success", self.options.certificate))
            .await
    }
}

fn run(config: &Path, group: Option<&Path>) -> anyhow::Result<Process> {
    let text = |path: &Path| path.to_str().map(str::to_owned);
    let config = text(config).context("the folder's name is text")?;
    let (id, envoy) = (base_id(), tool("envoy")?);
    let arguments = [
        "-c",
        &config,
        "--concurrency",
        "1",
        "--base-id",
        &id,
        "--disable-hot-restart",
        "-l",
        "warn",
    ];
    let Some(group) = group else {
        return Process::start("envoy", &envoy, &arguments);
    };
    // It has to be there before it connects to anybody.
    let enter = "echo $$ > \"$0/cgroup.procs\" && exec \"$@\"";
    let group = text(group).context("a group's name is text")?;
    let envoy = text(&envoy).context("the folder's name is text")?;
    let arguments = [&["-c", enter, &group, &envoy][..], &arguments].concat();
    Process::start("envoy", Path::new("/bin/sh"), &arguments)
}
