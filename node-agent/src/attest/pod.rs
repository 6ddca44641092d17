//! Evidence of a pod: what its kubelet says of the socket that was made for it alone, or
//! what the kernel says of a process.

use std::fmt;
use std::sync::Arc;

/// The longest UID of a pod, in bytes. They are UUIDs, and digests where a pod comes from a file.
const LONGEST: usize = 64;

/// What one pod among all that ever were is called by (`metadata.uid`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodUid(Arc<str>);

impl PodUid {
    /// Takes what can be one: letters, digits and dashes. None for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        let good = !text.is_empty() && text.len() <= LONGEST && text.bytes().all(fits);
        good.then(|| Self(text.into()))
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PodUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A pod, as its kubelet has described it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pod {
    /// Its UID.
    pub uid: PodUid,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its service account.
    pub service_account: String,
}

impl Pod {
    /// What its tokens have as `sub`.
    #[must_use]
    pub fn account(&self) -> String {
        format!(
            "system:serviceaccount:{}:{}",
            self.namespace, self.service_account
        )
    }
}

impl fmt::Display for Pod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} ({})", self.namespace, self.name, self.uid)
    }
}
