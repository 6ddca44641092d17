//! A real PKCS #11 token in a folder: SoftHSM2, used by its own tool, by OpenSC's and by ours.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context as _, bail, ensure};
use arx_daemon::files::write_atomically;

/// The PIN of every token here. Not to be found in any log.
pub const PIN: &str = "pin-48151623";

/// Where Debian has the module.
const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";

/// OpenSC's module that writes down every call and passes it on.
const SPY: &str = "pkcs11-spy.so";

/// A token with the label `arx`.
pub struct Token {
    folder: PathBuf,
}

impl Token {
    /// A new token in this folder, which holds nothing else.
    ///
    /// # Errors
    /// If SoftHSM2 is not installed, or does not make it.
    pub fn new(folder: &Path) -> anyhow::Result<Self> {
        ensure!(
            Path::new(MODULE).exists(),
            "{MODULE} is not there: install softhsm2 and opensc"
        );
        let token = Self {
            folder: folder.to_owned(),
        };
        std::fs::create_dir_all(token.objects())?;
        let text = format!(
            "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
            token.objects().display()
        );
        write_atomically(token.conf(), text.as_bytes(), 0o644)?;
        token.write_pin(PIN)?;
        token.run(
            "softhsm2-util",
            &[
                "--init-token",
                "--free",
                "--label",
                "arx",
                "--so-pin",
                "so-1234",
                "--pin",
                PIN,
            ],
        )?;
        Ok(token)
    }

    fn objects(&self) -> PathBuf {
        self.folder.join("tokens")
    }

    fn conf(&self) -> PathBuf {
        self.folder.join("softhsm2.conf")
    }

    fn pin_file(&self) -> PathBuf {
        self.folder.join("pin")
    }

    fn calls(&self) -> PathBuf {
        self.folder.join("calls")
    }

    /// What every process needs in its environment that uses the token.
    #[must_use]
    pub fn environment(&self) -> Vec<(String, String)> {
        [
            ("SOFTHSM2_CONF", self.conf()),
            ("PKCS11SPY", MODULE.into()),
            ("PKCS11SPY_OUTPUT", self.calls()),
        ]
        .map(|(name, path)| (name.to_owned(), path.display().to_string()))
        .into()
    }

    /// Writes the file that the authority has the PIN from.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn write_pin(&self, pin: &str) -> anyhow::Result<()> {
        Ok(write_atomically(
            self.pin_file(),
            format!("{pin}\n").as_bytes(),
            0o600,
        )?)
    }

    /// `[authority.pkcs11]` for the key with this label.
    #[must_use]
    pub fn table(&self, key: &str, make: bool) -> String {
        self.table_of(Path::new(MODULE), key, make)
    }

    /// The same by way of a module that writes down every call.
    ///
    /// # Errors
    /// If OpenSC is not installed.
    pub fn spied(&self, key: &str, make: bool) -> anyhow::Result<String> {
        let folders = [
            "/usr/lib/x86_64-linux-gnu",
            "/usr/lib/aarch64-linux-gnu",
            "/usr/lib",
        ];
        let spy = folders
            .iter()
            .flat_map(|folder| {
                [
                    Path::new(folder).join(SPY),
                    Path::new(folder).join("pkcs11").join(SPY),
                ]
            })
            .find(|path| path.exists())
            .with_context(|| format!("no {SPY}: install opensc-pkcs11"))?;
        Ok(self.table_of(&spy, key, make))
    }

    fn table_of(&self, module: &Path, key: &str, make: bool) -> String {
        format!(
            "[authority.pkcs11]\nmodule = {module:?}\ntoken_label = \"arx\"\nkey_label = {key:?}\n\
             pin_file = {:?}\nmake = {make}\ndeadline = \"5s\"\n",
            self.pin_file()
        )
    }

    /// How often a call of this name was made by way of the module that writes them down.
    ///
    /// # Errors
    /// If none was.
    pub fn calls_of(&self, name: &str) -> anyhow::Result<usize> {
        let calls = std::fs::read_to_string(self.calls())?;
        Ok(calls.lines().filter(|line| line.ends_with(name)).count())
    }

    /// What OpenSC's tool says about the private keys: one entry for each.
    ///
    /// # Errors
    /// If the token is not there.
    pub fn private_keys(&self) -> anyhow::Result<Vec<String>> {
        let listed = self.pkcs11_tool(&["--list-objects", "--type", "privkey"])?;
        let listed = String::from_utf8(listed.stdout)?;
        let keys = listed.split("Private Key Object").skip(1);
        Ok(keys.map(str::to_owned).collect())
    }

    /// Makes a key by OpenSC's tool, as `EC:prime256v1` or `rsa:3072`.
    ///
    /// # Errors
    /// If it is not made.
    pub fn make_key(&self, kind: &str, label: &str) -> anyhow::Result<()> {
        self.pkcs11_tool(&[
            "--keypairgen",
            "--key-type",
            kind,
            "--label",
            label,
            "--id",
            "0a",
        ])?;
        Ok(())
    }

    /// Deletes a key with its public half.
    ///
    /// # Errors
    /// If it is not there.
    pub fn delete_key(&self, label: &str) -> anyhow::Result<()> {
        for half in ["privkey", "pubkey"] {
            self.pkcs11_tool(&["--delete-object", "--type", half, "--label", label])?;
        }
        Ok(())
    }

    /// Takes the token out.
    ///
    /// # Errors
    /// If it is out.
    pub fn unplug(&self) -> anyhow::Result<()> {
        std::fs::rename(self.objects(), self.folder.join("elsewhere"))?;
        // The module wants its folder.
        Ok(std::fs::create_dir(self.objects())?)
    }

    /// Puts it back.
    ///
    /// # Errors
    /// If it is not out.
    pub fn plug(&self) -> anyhow::Result<()> {
        std::fs::remove_dir_all(self.objects())?;
        Ok(std::fs::rename(
            self.folder.join("elsewhere"),
            self.objects(),
        )?)
    }

    fn pkcs11_tool(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        let usual = [
            "--module",
            MODULE,
            "--token-label",
            "arx",
            "--login",
            "--pin",
            PIN,
        ];
        self.run("pkcs11-tool", &[&usual, arguments].concat())
    }

    fn run(&self, program: &str, arguments: &[&str]) -> anyhow::Result<Output> {
        let mut command = Command::new(program);
        command.args(arguments).envs(self.environment());
        let output = command
            .output()
            .with_context(|| format!("{program} can't be run: install softhsm2 and opensc"))?;
        if !output.status.success() {
            bail!("{program} {arguments:?}: {output:?}");
        }
        Ok(output)
    }
}
