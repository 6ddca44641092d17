//! The reference signer as a process, with keys that lie beside its socket.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use arx_daemon::files::write_atomically;
use arx_identity::{KeyAlgorithm, PrivateKey};
use arx_proto::signer::v1::signer_client::SignerClient;
use tonic::transport::Channel;

use crate::admin::channel;
use crate::process::{Process, binary, until};

/// A folder with a signer's socket and keys.
#[derive(Clone, Debug)]
pub struct Signer(PathBuf);

impl Signer {
    /// In this folder.
    #[must_use]
    pub fn at(folder: &Path) -> Self {
        Self(folder.to_owned())
    }

    /// Its socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.0.join("signer.sock")
    }

    /// The file of the key that is called so.
    #[must_use]
    pub fn key(&self, name: &str) -> PathBuf {
        self.0.join(format!("{name}.key"))
    }

    /// Makes a key that is called so, in the place of one that there may be.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn make(&self, name: &str, algorithm: KeyAlgorithm) -> anyhow::Result<()> {
        let key = PrivateKey::generate(algorithm)?;
        write_atomically(self.key(name), key.pkcs8_pem().as_bytes(), 0o600)?;
        Ok(())
    }

    /// Starts it with these keys, on its Unix socket.
    ///
    /// # Errors
    /// If it can't be started.
    pub fn start(&self, keys: &[&str]) -> anyhow::Result<Process> {
        self.start_with(keys, &["--socket", &self.socket().display().to_string()])
    }

    /// The same with these arguments besides the keys.
    ///
    /// # Errors
    /// If it can't be started.
    pub fn start_with(&self, keys: &[&str], arguments: &[&str]) -> anyhow::Result<Process> {
        let keys: Vec<_> = keys
            .iter()
            .map(|name| format!("--key={name}={}", self.key(name).display()))
            .collect();
        let keys = keys.iter().map(String::as_str);
        let arguments: Vec<_> = keys.chain(arguments.iter().copied()).collect();
        Process::start("arx-signer", &binary("arx-signer")?, &arguments)
    }

    /// A client of its own, as soon as it listens.
    ///
    /// # Errors
    /// If it does not.
    pub async fn client(&self) -> anyhow::Result<SignerClient<Channel>> {
        until("the signer listens", || async {
            Ok(self.socket().exists())
        })
        .await?;
        Ok(SignerClient::new(channel(&self.socket()).await?))
    }

    /// `[authority.signer]` with the key that is called so.
    #[must_use]
    pub fn table(&self, key: &str) -> String {
        let socket = self.socket();
        format!("[authority.signer]\nsocket = {socket:?}\nkey = {key:?}\ndeadline = \"1s\"\n")
    }

    /// Makes certificates by openssl: an authority, the signer's for `localhost`, and its caller's.
    ///
    /// # Errors
    /// If openssl does not make them.
    pub fn certificates(&self) -> anyhow::Result<()> {
        let openssl = |arguments: &str| -> anyhow::Result<()> {
            let mut command = Command::new("openssl");
            command.current_dir(&self.0).args(arguments.split(' '));
            let output = command.output().context("openssl")?;
            ensure!(output.status.success(), "{arguments}: {output:?}");
            Ok(())
        };
        let key = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1";
        openssl(&format!(
            "{key} -subj /CN=authority -keyout ca.key -out ca.pem"
        ))?;
        for (name, alternative) in [("server", "DNS:localhost"), ("client", "DNS:arx-ca")] {
            let own = format!(
                "-subj /CN={name} -keyout {name}.key -out {name}.pem -CA ca.pem -CAkey ca.key"
            );
            let leaf = "-addext basicConstraints=critical,CA:FALSE";
            openssl(&format!(
                "{key} {own} {leaf} -addext subjectAltName={alternative}"
            ))?;
            let content = std::fs::read(self.key(name))?;
            std::fs::remove_file(self.key(name))?;
            write_atomically(self.key(name), &content, 0o600)?;
        }
        Ok(())
    }

    /// Starts it with these keys, by mutual TLS.
    ///
    /// # Errors
    /// If it can't be started.
    pub fn start_tls(&self, keys: &[&str], port: u16) -> anyhow::Result<Process> {
        let file = |name: &str| self.0.join(name).display().to_string();
        self.start_with(
            keys,
            &[
                "--listen",
                &format!("127.0.0.1:{port}"),
                "--certificate",
                &file("server.pem"),
                "--tls-key",
                &file("server.key"),
                "--clients",
                &file("ca.pem"),
            ],
        )
    }

    /// `[authority.signer]` for that, with the key and the caller's certificate that are called so.
    #[must_use]
    pub fn tls_table(&self, key: &str, port: u16, certificate: &str) -> String {
        let file = |name: &str| self.0.join(name).display().to_string();
        format!(
            "[authority.signer]\naddress = \"127.0.0.1:{port}\"\nserver_name = \"localhost\"\n\
             ca_file = {:?}\ncertificate_file = {:?}\nkey_file = {:?}\nkey = {key:?}\ndeadline = \"1s\"\n",
            file("ca.pem"),
            file(&format!("{certificate}.pem")),
            file(&format!("{certificate}.key")),
        )
    }
}
