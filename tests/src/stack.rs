//! An Arx of one machine, in the background, for one's own proxy: an authority, an agent
//! that knows processes by their user, and a key that signs the agent's own token.
//!
//! Everything lies in one folder and is found again there by the next `up`.

mod background;
mod files;
mod snippet;

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use arx_daemon::files::{LONGEST_SOCKET_PATH, Lock, lock_exclusive, write_atomically};
use arx_proto::admin::v1::GetBundleRequest;
use rustix::process::geteuid;
use serde::{Deserialize, Serialize};

use crate::admin;
use crate::mesh::pem;
use crate::process::{binary, free_port};
use crate::token_issuer::now;

const TRUST_DOMAIN: &str = "local.arx";
const AUTHORITY: &str = "arx-ca";
const AGENT: &str = "arx-node-agent";

/// A stack in its folder.
#[derive(Debug)]
pub struct Stack {
    directory: PathBuf,
}

/// How it was started, for the next `up`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Settings {
    node_api: u16,
    authority_ops: u16,
    agent_ops: u16,
    ttl: String,
}

impl Stack {
    /// The stack in `directory`, which need not be there.
    ///
    /// # Errors
    /// If the folder can't be made, or the path of a socket in it would be too long.
    pub fn new(directory: &Path) -> anyhow::Result<Self> {
        let cannot = || format!("can't make {}: choose another DIR", directory.display());
        fs::create_dir_all(directory).with_context(cannot)?;
        let directory = directory.canonicalize().with_context(cannot)?;
        let text = directory
            .to_str()
            .context("the folder's name is not text: choose another DIR")?;
        ensure!(
            !text.contains(['"', '\\', '\'', '\n']),
            "the folder's name has quotes or backslashes: choose another DIR"
        );
        let longest = text.len() + "/admin.sock".len();
        ensure!(
            longest <= LONGEST_SOCKET_PATH,
            "the path of a socket in {text} would have {longest} bytes, and {LONGEST_SOCKET_PATH} fit: choose a shorter DIR"
        );
        Ok(Self { directory })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// One `up` or `down` at a time.
    fn lock(&self) -> anyhow::Result<Lock> {
        let lock = lock_exclusive(self.path("stack.lock"), now());
        lock.context("another `make up` or `make down` works here: wait for it")
    }

    /// Starts what is not running, with certificates that live for `ttl`, and tells how to
    /// use it.
    ///
    /// # Errors
    /// If it does not start, with the end of the log of what did not.
    pub async fn up(&self, ttl: &str) -> anyhow::Result<()> {
        fs::set_permissions(&self.directory, fs::Permissions::from_mode(0o700))?;
        let _lock = self.lock()?;
        let authority_runs = self.alive(AUTHORITY).is_some();
        let agent_runs = self.alive(AGENT).is_some();
        let kept = self.kept();
        let settings = match kept {
            Some(kept) if authority_runs => kept,
            Some(kept) if agent_runs || kept.ports_are_free() => Settings {
                ttl: ttl.to_owned(),
                ..kept
            },
            _ => Settings::new(ttl)?,
        };
        if authority_runs && agent_runs {
            println!("It is running already in {}.", self.directory.display());
        } else {
            self.write(&settings)?;
        }
        if !authority_runs {
            self.start(AUTHORITY, settings.authority_ops).await?;
        }
        if !agent_runs {
            self.write_bundle().await?;
            self.start(AGENT, settings.agent_ops).await?;
        }
        self.tell(&settings)?;
        if settings.ttl != ttl {
            println!(
                "Certificates live for {}, not {ttl}: stop it first to change that.",
                settings.ttl
            );
        }
        Ok(())
    }

    /// Ends what runs. The state is kept.
    ///
    /// # Errors
    /// If a process does not end.
    pub async fn down(&self) -> anyhow::Result<()> {
        let _lock = self.lock()?;
        let mut ended = 0;
        for name in [AGENT, AUTHORITY] {
            ended += usize::from(self.end(name).await?);
        }
        let folder = self.directory.display();
        match ended {
            0 => println!("Nothing is running in {folder}."),
            _ => println!(
                "Stopped. Its state is kept in {folder}: the next `make up` there goes on with it."
            ),
        }
        Ok(())
    }

    fn kept(&self) -> Option<Settings> {
        let text = fs::read(self.path("settings.json")).ok()?;
        serde_json::from_slice(&text).ok()
    }

    async fn write_bundle(&self) -> anyhow::Result<()> {
        let mut client = admin::connect(&self.path("admin.sock")).await?;
        let bundle = client.get_bundle(GetBundleRequest {}).await?.into_inner();
        let pem: String = bundle
            .roots
            .iter()
            .map(|root| pem("CERTIFICATE", root))
            .collect();
        write_atomically(self.path("bundle.pem"), pem.as_bytes(), 0o644)?;
        Ok(())
    }

    fn tell(&self, settings: &Settings) -> anyhow::Result<()> {
        let folder = self.directory.display();
        let facts = format!(
            "export ARX_SDS_SOCKET='{folder}/sds.sock'
export ARX_ADMIN_SOCKET='{folder}/admin.sock'
export ARX_TRUST_DOMAIN='{TRUST_DOMAIN}'
export ARX_BUNDLE_FILE='{folder}/bundle.pem'
"
        );
        write_atomically(self.path("env"), facts.as_bytes(), 0o644)?;
        let snippet = snippet::snippet(&self.path("sds.sock"));
        write_atomically(self.path("envoy-snippet.yaml"), snippet.as_bytes(), 0o644)?;
        let identity = identity();
        let arx = binary("arx")?;
        let arx = arx.display();
        println!(
            "Arx is running.

  socket for proxies   {folder}/sds.sock
  secrets there        default     certificate and key; also as {identity}
                       ROOTCA      roots to trust; also as spiffe://{TRUST_DOMAIN}
  who is who           every process of this user is {identity}
  certificates live    {}
  logs                 {folder}/{AUTHORITY}.log, {folder}/{AGENT}.log
  the same for scripts . '{folder}/env'

Look at it:
  {arx} --socket '{folder}/admin.sock' status
  http://localhost:{}/   in a browser

For your Envoy (kept in {folder}/envoy-snippet.yaml):

{snippet}
Or a whole configuration, for an application on port 8080:
  {arx} envoy bootstrap --sds-socket '{folder}/sds.sock' --app 8080 --accept spiffe://{TRUST_DOMAIN}/

Stop it:
  make down DIR='{folder}'",
            settings.ttl, settings.authority_ops
        );
        Ok(())
    }
}

impl Settings {
    fn new(ttl: &str) -> anyhow::Result<Self> {
        Ok(Self {
            node_api: free_port()?,
            authority_ops: free_port()?,
            agent_ops: free_port()?,
            ttl: ttl.to_owned(),
        })
    }

    /// Whether nobody has taken a port meanwhile.
    fn ports_are_free(&self) -> bool {
        [self.node_api, self.authority_ops, self.agent_ops]
            .into_iter()
            .all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok())
    }
}

/// The identity of this user's processes.
fn identity() -> String {
    format!("spiffe://{TRUST_DOMAIN}{}", identity_path())
}

fn identity_path() -> String {
    let user = std::env::var("USER").unwrap_or_default();
    let fits = !user.is_empty()
        && user
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    if fits {
        format!("/user/{user}")
    } else {
        format!("/user/{}", geteuid().as_raw())
    }
}
