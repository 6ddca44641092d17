//! `[authority.upstream]`: how another CA is asked.

use std::path::{Path, PathBuf};
use std::time::Duration;

use arx_daemon::config::{Problems, Span};
use serde::Deserialize;

use crate::authority;

/// `[authority.upstream]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Upstream {
    /// A program and its arguments: request on standard input, chain on standard output.
    pub command: Option<Vec<String>>,
    /// Another Arx, instead.
    pub arx: Option<Arx>,
    /// How long it may take.
    #[serde(default = "a_minute")]
    pub deadline: Span,
    /// Names of the variables that the program gets of this process's environment.
    #[serde(default)]
    pub environment: Vec<String>,
}

/// `[authority.upstream.arx]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Arx {
    /// Host and port of its node API.
    pub address: String,
    /// The roots that it is believed by at first, PEM.
    pub bundle_file: PathBuf,
    /// The service-account token to come with.
    pub token_file: Option<PathBuf>,
    /// Or the certificate, followed by its intermediates, PEM.
    pub certificate_file: Option<PathBuf>,
    /// The key of that, PKCS #8 in PEM. Mode 0600.
    pub key_file: Option<PathBuf>,
    /// How long the certificate is to live.
    pub ttl: Option<Span>,
}

fn a_minute() -> Span {
    Span::from_secs(60)
}

impl Upstream {
    pub(super) fn problems(&self, problems: &mut Problems<'_>) {
        match (&self.command, &self.arx) {
            (Some(command), None) => program(command.first(), problems),
            (None, Some(arx)) => {
                arx.problems(problems);
                if !self.environment.is_empty() {
                    problems.add(
                        "authority.upstream.environment",
                        "no program is run, so none gets variables",
                        "leave it out",
                    );
                }
            }
            _ => problems.add(
                "authority.upstream",
                "it takes either a command or [authority.upstream.arx]",
                "give one of the two",
            ),
        }
        let deadline = self.deadline.get();
        if !(Duration::from_secs(1)..=Duration::from_secs(3600)).contains(&deadline) {
            problems.add(
                "authority.upstream.deadline",
                format!("{} is not between 1s and 1h", self.deadline),
                "leave it out for 1m",
            );
        }
        let bad = |name: &&String| name.is_empty() || name.contains(['=', '\0']);
        if let Some(name) = self.environment.iter().find(bad) {
            problems.add(
                "authority.upstream.environment",
                format!("{name:?} is no name of a variable"),
                "give names only, such as [\"PATH\", \"HOME\"]; values come from this process's own environment",
            );
        }
    }

    /// The files that it names, by key.
    pub(super) fn paths(&self) -> Vec<(&'static str, &PathBuf)> {
        let Some(arx) = &self.arx else {
            return Vec::new();
        };
        let optional = [
            ("authority.upstream.arx.token_file", &arx.token_file),
            (
                "authority.upstream.arx.certificate_file",
                &arx.certificate_file,
            ),
            ("authority.upstream.arx.key_file", &arx.key_file),
        ];
        let optional = optional
            .into_iter()
            .filter_map(|(key, path)| Some((key, path.as_ref()?)));
        std::iter::once(("authority.upstream.arx.bundle_file", &arx.bundle_file))
            .chain(optional)
            .collect()
    }

    pub(super) fn options(&self) -> authority::Upstream {
        if let Some(arx) = &self.arx {
            return authority::Upstream::Arx(arx.options(self.deadline.get()));
        }
        let command = self.command.clone().unwrap_or_default();
        let (program, arguments) = command.split_first().unzip();
        authority::Upstream::Command(authority::Command {
            program: program.map(PathBuf::from).unwrap_or_default(),
            arguments: arguments.map(<[String]>::to_vec).unwrap_or_default(),
            deadline: self.deadline.get(),
            environment: self.environment.clone(),
        })
    }
}

fn program(program: Option<&String>, problems: &mut Problems<'_>) {
    match program {
        None => problems.add(
            "authority.upstream.command",
            "it is empty",
            "give a program and its arguments, such as [\"/usr/local/bin/sign-authority\"]",
        ),
        Some(program) if !Path::new(program).is_absolute() => problems.add(
            "authority.upstream.command",
            format!("{program:?} is not a path from /"),
            "give the whole path of the program: it is not looked for",
        ),
        Some(program) if program.contains('\0') => problems.add(
            "authority.upstream.command",
            "there is a NUL character in it",
            "leave it out",
        ),
        Some(_) => {}
    }
}

impl Arx {
    fn problems(&self, problems: &mut Problems<'_>) {
        let port = self.address.rsplit_once(':').map(|(_, port)| port);
        if port.is_none_or(|port| port.parse::<u16>().is_err()) {
            problems.add(
                "authority.upstream.arx.address",
                format!("{:?} is not a host and a port", self.address),
                "give those of the other authority's node API, such as arx.example.org:8443",
            );
        }
        let files = (&self.token_file, &self.certificate_file, &self.key_file);
        if !matches!(files, (Some(_), None, None) | (None, Some(_), Some(_))) {
            problems.add(
                "authority.upstream.arx",
                "it takes either a token_file, or a certificate_file with its key_file",
                "name the one or the other, by which the other authority knows this one",
            );
        }
    }

    fn options(&self, deadline: Duration) -> authority::Arx {
        let files = (&self.certificate_file, &self.key_file);
        authority::Arx {
            address: self.address.clone(),
            bundle: self.bundle_file.clone(),
            identity: match files {
                (Some(certificate), Some(key)) => authority::Credentials::Svid {
                    certificate: certificate.clone(),
                    key: key.clone(),
                },
                _ => authority::Credentials::Token(self.token_file.clone().unwrap_or_default()),
            },
            ttl: self.ttl.map(Span::get),
            deadline,
        }
    }
}
