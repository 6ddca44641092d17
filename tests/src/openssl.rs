//! A CA that is made of nothing but `openssl`: what an operator's own offline root is.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context as _, ensure};

/// The extensions of an authority with so many below it.
fn extensions(path_length: Option<u8>) -> String {
    let path_length = path_length.map_or(String::new(), |it| format!(",pathlen:{it}"));
    format!(
        "basicConstraints=critical,CA:TRUE{path_length}\n\
         keyUsage=critical,keyCertSign,cRLSign\n\
         subjectKeyIdentifier=hash\n\
         authorityKeyIdentifier=keyid\n"
    )
}

/// An authority of `openssl`, its key in a file.
pub struct Ca {
    folder: PathBuf,
    name: String,
    /// Its certificate, and those above it, PEM.
    pub chain: String,
}

impl Ca {
    /// A root.
    ///
    /// # Errors
    /// If `openssl` makes none.
    pub fn root(folder: &Path, name: &str) -> anyhow::Result<Self> {
        let mut this = Self::keyed(folder, name)?;
        let (key, config) = (this.path("key"), this.path("cnf"));
        let text = format!(
            "[req]\nprompt=no\ndistinguished_name=name\nx509_extensions=ca\n\
             [name]\nO=example.org\nCN={name}\n[ca]\n{}",
            extensions(None)
        );
        std::fs::write(&config, text)?;
        let out = this.path("pem");
        // The certificates of a day before need a root that was there.
        run(
            "-1000d",
            &[
                "req",
                "-x509",
                "-new",
                "-sha256",
                "-days",
                "3650",
                "-config",
                text_of(&config)?,
                "-key",
                text_of(&key)?,
                "-out",
                text_of(&out)?,
            ],
        )?;
        this.chain = std::fs::read_to_string(out)?;
        Ok(this)
    }

    /// An intermediate under it, with so many authorities below.
    ///
    /// # Errors
    /// If `openssl` makes none.
    pub fn intermediate(&self, name: &str, path_length: u8) -> anyhow::Result<Self> {
        let mut this = Self::keyed(&self.folder, name)?;
        let (key, request) = (this.path("key"), this.path("csr"));
        openssl(&[
            "req",
            "-new",
            "-subj",
            &format!("/O=example.org/CN={name}"),
            "-key",
            text_of(&key)?,
            "-out",
            text_of(&request)?,
        ])?;
        let request = std::fs::read_to_string(request)?;
        this.chain = self.sign(&request, &extensions(Some(path_length)), 1000)?;
        std::fs::write(this.path("pem"), &this.chain)?;
        Ok(this)
    }

    /// An authority's certificate for a request, with its chain, as an operator would sign it.
    ///
    /// # Errors
    /// If `openssl` refuses.
    pub fn certify(&self, request: &str, path_length: u8, days: u32) -> anyhow::Result<String> {
        self.sign(request, &extensions(Some(path_length)), days)
    }

    /// The certificate for a request that says what `extensions` do, with its chain.
    ///
    /// # Errors
    /// If `openssl` refuses.
    pub fn sign(&self, request: &str, extensions: &str, days: u32) -> anyhow::Result<String> {
        self.sign_at("+0d", request, extensions, days)
    }

    /// The same as [`Ca::certify`], on a day before this one, such as `-90d`.
    ///
    /// # Errors
    /// If `openssl` refuses, or there is no `faketime`.
    pub fn certify_at(
        &self,
        when: &str,
        request: &str,
        path_length: u8,
        days: u32,
    ) -> anyhow::Result<String> {
        self.sign_at(when, request, &extensions(Some(path_length)), days)
    }

    fn sign_at(
        &self,
        when: &str,
        request: &str,
        extensions: &str,
        days: u32,
    ) -> anyhow::Result<String> {
        let asked = tempfile::NamedTempFile::new_in(&self.folder)?;
        std::fs::write(asked.path(), request)?;
        let said = tempfile::NamedTempFile::new_in(&self.folder)?;
        std::fs::write(said.path(), extensions)?;
        let output = run(
            when,
            &[
                "x509",
                "-req",
                "-sha256",
                "-days",
                &days.to_string(),
                "-in",
                text_of(asked.path())?,
                "-extfile",
                text_of(said.path())?,
                "-CA",
                text_of(&self.path("pem"))?,
                "-CAkey",
                text_of(&self.path("key"))?,
                "-set_serial",
                &serial(),
            ],
        )?;
        Ok(String::from_utf8(output.stdout)? + &self.chain)
    }

    fn keyed(folder: &Path, name: &str) -> anyhow::Result<Self> {
        let this = Self {
            folder: folder.to_owned(),
            name: name.to_owned(),
            chain: String::new(),
        };
        openssl(&[
            "ecparam",
            "-name",
            "prime256v1",
            "-genkey",
            "-noout",
            "-out",
            text_of(&this.path("key"))?,
        ])?;
        Ok(this)
    }

    /// Where its key (`key`) and certificate (`pem`) are.
    #[must_use]
    pub fn path(&self, what: &str) -> PathBuf {
        self.folder.join(format!("{}.{what}", self.name))
    }
}

fn serial() -> String {
    let bytes: [u8; 15] = arx_identity::crypto::random();
    bytes
        .iter()
        .fold("0x4".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

fn text_of(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("a path that is text")
}

/// Runs `openssl`.
///
/// # Errors
/// If it fails, with what it said.
pub fn openssl(arguments: &[&str]) -> anyhow::Result<Output> {
    run("+0d", arguments)
}

/// Runs it on another day.
fn run(when: &str, arguments: &[&str]) -> anyhow::Result<Output> {
    let mut command = match when {
        "+0d" => Command::new("openssl"),
        when => {
            let mut command = Command::new("faketime");
            command.args(["-f", when, "openssl"]);
            command
        }
    };
    let output = command
        .args(arguments)
        .stdin(std::process::Stdio::null())
        .output()
        .context("openssl and faketime are needed")?;
    // faketime names what it shares by its process id, and one that was killed leaves that behind.
    if String::from_utf8_lossy(&output.stderr).contains("sem_open: File exists") {
        return run(when, arguments);
    }
    ensure!(
        output.status.success(),
        "openssl {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(output)
}
