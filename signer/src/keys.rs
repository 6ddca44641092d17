//! The keys, read once: they stay in memory for as long as the process runs.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use arx_daemon::config::secret_file;
use arx_identity::PrivateKey;

/// A key as it is named on the command line.
#[derive(Clone, Debug)]
pub(crate) struct Named {
    name: String,
    file: PathBuf,
}

impl FromStr for Named {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((name, file)) if !name.is_empty() && !file.is_empty() => Ok(Self {
                name: name.to_owned(),
                file: file.into(),
            }),
            _ => Err("takes a name and a file, such as root=/etc/arx-signer/root.key".to_owned()),
        }
    }
}

/// All keys, by name.
#[derive(Debug)]
pub(crate) struct Keys(HashMap<String, Arc<PrivateKey>>);

impl Keys {
    /// Reads the files.
    pub(crate) fn read(named: &[Named]) -> anyhow::Result<Self> {
        let mut keys = HashMap::new();
        for Named { name, file } in named {
            let key = read(file).with_context(|| format!("key {name}"))?;
            if keys.insert(name.clone(), Arc::new(key)).is_some() {
                bail!("two keys are called {name}");
            }
        }
        Ok(Self(keys))
    }

    pub(crate) fn get(&self, name: &str) -> Option<Arc<PrivateKey>> {
        self.0.get(name).cloned()
    }
}

/// The private key in a file.
pub(crate) fn read(file: &Path) -> anyhow::Result<PrivateKey> {
    let content = secret_file(file)?;
    let text = std::str::from_utf8(&content)
        .map_err(|_| anyhow::anyhow!("{} is not PEM", file.display()))?;
    PrivateKey::from_pem(text).with_context(|| file.display().to_string())
}
