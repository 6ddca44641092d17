//! etcd as processes: a cluster of members on loopback, which show certificates and want to see
//! one.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use arx_ca::store::{Etcd as Store, EtcdOptions, Store as _};
use arx_daemon::config::Span;
use arx_daemon::files::write_atomically;

use crate::kube::programs;
use crate::mesh::{Mesh, Options};
use crate::openssl::{Ca, openssl};
use crate::process::{Process, free_port, until};

/// Days that certificates are good for.
const DAYS: u32 = 30;

/// A cluster; its processes end with it.
pub struct Etcd {
    members: Vec<Member>,
    authority: Ca,
    folder: tempfile::TempDir,
}

struct Member {
    name: String,
    client_port: u16,
    peer_port: u16,
    process: Option<Process>,
}

impl Etcd {
    /// So many members, with a quorum.
    ///
    /// # Errors
    /// If they do not start.
    pub async fn start(members: usize) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("arx-").tempdir_in("/tmp")?;
        let authority = Ca::root(folder.path(), "etcd-ca")?;
        let members = (0..members).map(|n| {
            Ok(Member {
                name: format!("m{n}"),
                client_port: free_port()?,
                peer_port: free_port()?,
                process: None,
            })
        });
        let mut this = Self {
            members: members.collect::<anyhow::Result<_>>()?,
            authority,
            folder,
        };
        this.certificate("server", "serverAuth,clientAuth", "IP:127.0.0.1")?;
        this.certificate("client", "clientAuth", "DNS:arx-ca")?;
        for n in 0..this.members.len() {
            this.spawn(n)?;
        }
        this.is_ready().await?;
        Ok(this)
    }

    /// Starts a member that was killed.
    ///
    /// # Errors
    /// If it can't be started.
    pub fn spawn(&mut self, n: usize) -> anyhow::Result<()> {
        let process = self.process(n)?;
        self.members[n].process = Some(process);
        Ok(())
    }

    /// Ends a member in the middle of whatever it does.
    ///
    /// # Errors
    /// If it does not run.
    pub async fn kill(&mut self, n: usize) -> anyhow::Result<()> {
        let process = self.members[n].process.take();
        process.context("it runs")?.kill().await?;
        Ok(())
    }

    /// The process of a member that runs, to be stopped and continued.
    ///
    /// # Errors
    /// If it does not run.
    pub fn member(&self, n: usize) -> anyhow::Result<&Process> {
        self.members[n].process.as_ref().context("it runs")
    }

    /// Waits until something can be written.
    ///
    /// # Errors
    /// If it can't.
    pub async fn is_ready(&self) -> anyhow::Result<()> {
        let store = self.store("ready/")?;
        let ready = until("a quorum of etcd", || async {
            store.probe().await?;
            Ok(true)
        });
        let running = self.members.iter().filter_map(|it| it.process.as_ref());
        let said = || -> String { running.map(|it| it.log().tail()).collect() };
        ready
            .await
            .with_context(|| format!("etcd says:\n{}", said()))
    }

    /// A store that is empty, if nobody has used this prefix.
    ///
    /// # Errors
    /// If its options can't be used.
    pub fn store(&self, prefix: &str) -> anyhow::Result<Store> {
        Ok(Store::new(&EtcdOptions {
            endpoints: self.endpoints(),
            ca_file: Some(self.path("etcd-ca.pem")),
            certificate_file: Some(self.path("client.pem")),
            key_file: Some(self.path("client.key")),
            prefix: prefix.to_owned(),
            deadline: Span::from_secs(5),
        })?)
    }

    /// One of several replicas of an authority that keeps its state here, not started yet. All
    /// have the same key for it.
    ///
    /// # Errors
    /// If it cannot be prepared.
    pub fn replica(&self, name: &str) -> anyhow::Result<Mesh> {
        let mesh = Mesh::prepare(Options {
            replica: Some(name.to_owned()),
            authority: self.config(),
            ..Options::default()
        })?;
        let key = [7, 5, 3, 2].repeat(8);
        write_atomically(mesh.directory.join("seal.key"), &key, 0o600)?;
        Ok(mesh)
    }

    /// A table of an authority's configuration, by which it keeps its state here.
    #[must_use]
    pub fn config(&self) -> String {
        let folder = self.folder.path().display();
        format!(
            r#"
[state.etcd]
endpoints = {:?}
ca_file = "{folder}/etcd-ca.pem"
certificate_file = "{folder}/client.pem"
key_file = "{folder}/client.key"
"#,
            self.endpoints()
        )
    }

    /// Where its members are.
    #[must_use]
    pub fn endpoints(&self) -> Vec<String> {
        let ports = self.members.iter().map(|it| it.client_port);
        ports
            .map(|port| format!("https://127.0.0.1:{port}"))
            .collect()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn certificate(&self, name: &str, usage: &str, names: &str) -> anyhow::Result<()> {
        let (key, request) = (self.path(&format!("{name}.key")), self.path("csr"));
        openssl(&[
            "req",
            "-new",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-noenc",
            "-subj",
            &format!("/CN={name}"),
            "-keyout",
            text(&key)?,
            "-out",
            text(&request)?,
        ])?;
        let request = std::fs::read_to_string(request)?;
        let extensions = format!("extendedKeyUsage={usage}\nsubjectAltName={names}\n");
        let chain = self.authority.sign(&request, &extensions, DAYS)?;
        std::fs::write(self.path(&format!("{name}.pem")), chain)?;
        Ok(())
    }

    fn process(&self, n: usize) -> anyhow::Result<Process> {
        let member = &self.members[n];
        let clients = format!("https://127.0.0.1:{}", member.client_port);
        let peers = format!("http://127.0.0.1:{}", member.peer_port);
        let cluster = self
            .members
            .iter()
            .map(|it| format!("{}=http://127.0.0.1:{}", it.name, it.peer_port));
        let cluster = cluster.collect::<Vec<_>>().join(",");
        let path = |name: &str| Ok::<_, anyhow::Error>(text(&self.path(name))?.to_owned());
        let arguments = [
            "--name",
            &member.name,
            "--data-dir",
            &path(&member.name)?,
            "--listen-client-urls",
            &clients,
            "--advertise-client-urls",
            &clients,
            "--listen-peer-urls",
            &peers,
            "--initial-advertise-peer-urls",
            &peers,
            "--initial-cluster",
            &cluster,
            "--client-cert-auth",
            "--trusted-ca-file",
            &path("etcd-ca.pem")?,
            "--cert-file",
            &path("server.pem")?,
            "--key-file",
            &path("server.key")?,
            // Nothing that is kept here is worth a wait for the disk.
            "--unsafe-no-fsync",
        ];
        Process::start(&member.name, &programs("etcd")?, &arguments)
    }
}

fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("a path that is text")
}
