//! Which cluster keeps the state, as configured.

use std::path::PathBuf;
use std::time::Duration;

use arx_daemon::config::{Problems, Span};
use serde::Deserialize;

/// `[state.kubernetes]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// The namespace of its Secrets; by default that of the service account or the kubeconfig.
    pub namespace: Option<String>,
    /// How to reach the API server; by default as the pod that this process runs in.
    pub kubeconfig: Option<PathBuf>,
    /// How long a call may take.
    #[serde(default = "five_seconds")]
    pub deadline: Span,
}

fn five_seconds() -> Span {
    Span::from_secs(5)
}

impl Options {
    /// Notes what cannot work.
    pub(crate) fn problems(&self, problems: &mut Problems<'_>) {
        let is_name = |name: &str| {
            let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
            let ends =
                name.bytes().next().is_some_and(inner) && name.bytes().last().is_some_and(inner);
            name.len() <= 63 && ends && name.bytes().all(|byte| inner(byte) || byte == b'-')
        };
        if let Some(namespace) = self.namespace.as_deref().filter(|it| !is_name(it)) {
            problems.add(
                "state.kubernetes.namespace",
                format!("{namespace:?} is no name of a namespace"),
                "leave it out for the one of the service account",
            );
        }
        if !(Duration::from_secs(1)..=Duration::from_secs(60)).contains(&self.deadline.get()) {
            problems.add(
                "state.kubernetes.deadline",
                format!("{} is not between 1s and 1m", self.deadline),
                "leave it out for 5s",
            );
        }
    }

    /// The file that it names, by key.
    pub(crate) fn paths(&self) -> Vec<(&'static str, &PathBuf)> {
        let file = self.kubeconfig.as_ref();
        file.map(|path| ("state.kubernetes.kubeconfig", path))
            .into_iter()
            .collect()
    }
}
