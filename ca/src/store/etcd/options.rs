//! Where etcd is, as configured.

use std::path::PathBuf;
use std::time::Duration;

use arx_daemon::config::{Problems, Span};
use http::Uri;
use serde::Deserialize;

use crate::dial::Files;

/// `[state.etcd]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// Its members, such as `https://etcd-0.example.org:2379`; in plain HTTP only on loopback.
    pub endpoints: Vec<String>,
    /// The authorities of its members' certificates, PEM.
    pub ca_file: Option<PathBuf>,
    /// The certificate that they are shown, followed by its chain, PEM.
    pub certificate_file: Option<PathBuf>,
    /// The key of that, PKCS #8 in PEM. Mode 0600.
    pub key_file: Option<PathBuf>,
    /// What all keys begin with.
    #[serde(default = "prefix")]
    pub prefix: String,
    /// How long a call may take, over however many members.
    #[serde(default = "five_seconds")]
    pub deadline: Span,
}

fn prefix() -> String {
    "arx/".to_owned()
}

fn five_seconds() -> Span {
    Span::from_secs(5)
}

/// One member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// Host and port.
    pub(super) address: String,
    /// What its certificate has to be for; in plain HTTP without.
    pub(super) name: Option<String>,
}

impl Options {
    /// Notes what cannot work.
    pub(crate) fn problems(&self, problems: &mut Problems<'_>) {
        if self.endpoints.is_empty() || self.endpoints.len() > MOST {
            problems.add(
                "state.etcd.endpoints",
                format!("there are {}", self.endpoints.len()),
                format!("name each member of etcd, {MOST} at most"),
            );
        }
        for text in &self.endpoints {
            if let Err(reason) = endpoint(text) {
                problems.add(
                    "state.etcd.endpoints",
                    format!("{text:?}: {reason}"),
                    "give an address such as https://etcd-0.example.org:2379",
                );
            }
        }
        let named = [&self.ca_file, &self.certificate_file, &self.key_file];
        let named = named.into_iter().flatten().count();
        let tls = self.endpoints.iter().any(|it| it.starts_with("https:"));
        match (tls, named) {
            (true, 3) | (false, 0) => {}
            (true, _) => problems.add(
                "state.etcd",
                "both sides have to show who they are, and files are missing",
                "name ca_file, certificate_file and key_file",
            ),
            (false, _) => problems.add(
                "state.etcd.endpoints",
                "there are certificates, and no member is reached by https",
                "begin its address with https://, or leave the files out",
            ),
        }
        if self.prefix.is_empty() || self.prefix.len() > 256 || !self.prefix.ends_with('/') {
            problems.add(
                "state.etcd.prefix",
                format!("{:?} does not end in a slash, or is too long", self.prefix),
                "leave it out for \"arx/\"",
            );
        }
        if !(Duration::from_secs(1)..=Duration::from_secs(60)).contains(&self.deadline.get()) {
            problems.add(
                "state.etcd.deadline",
                format!("{} is not between 1s and 1m", self.deadline),
                "leave it out for 5s",
            );
        }
    }

    /// The files that it names, by key.
    pub(crate) fn paths(&self) -> Vec<(&'static str, &PathBuf)> {
        let files = [
            ("state.etcd.ca_file", &self.ca_file),
            ("state.etcd.certificate_file", &self.certificate_file),
            ("state.etcd.key_file", &self.key_file),
        ];
        files
            .into_iter()
            .filter_map(|(key, path)| Some((key, path.as_ref()?)))
            .collect()
    }

    pub(super) fn files(&self) -> Option<Files> {
        Some(Files {
            certificate: self.certificate_file.clone()?,
            key: self.key_file.clone()?,
            authorities: self.ca_file.clone()?,
        })
    }

    /// Whether the files can be used, for `arx-ca check`.
    ///
    /// # Errors
    /// Which of them cannot, and why.
    pub(crate) fn try_files(&self) -> Result<(), String> {
        self.files().map_or(Ok(()), |files| files.read().map(drop))
    }
}

/// A cluster of etcd has seven members at most.
const MOST: usize = 9;

pub(super) fn endpoint(text: &str) -> Result<Endpoint, String> {
    let uri: Uri = text.parse().map_err(|_| "it is not an address")?;
    let (Some(host), Some(port)) = (uri.host(), uri.port_u16()) else {
        return Err("it names no host and port".to_owned());
    };
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return Err("there is something after the port".to_owned());
    }
    if uri.authority().is_some_and(|it| it.as_str().contains('@')) {
        return Err("there is a user in it".to_owned());
    }
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let loopback = bare
        .parse::<std::net::IpAddr>()
        .map_or(bare == "localhost", |it| it.is_loopback());
    match uri.scheme_str() {
        Some("https") => Ok(Endpoint {
            address: format!("{host}:{port}"),
            name: Some(bare.to_owned()),
        }),
        Some("http") if loopback => Ok(Endpoint {
            address: format!("{host}:{port}"),
            name: None,
        }),
        Some("http") => Err("in plain HTTP only a member on loopback is reached".to_owned()),
        _ => Err("it begins with neither https:// nor http://".to_owned()),
    }
}
