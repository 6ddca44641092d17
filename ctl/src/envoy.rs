//! `arx envoy bootstrap`: a configuration that works, for a proxy that takes its identity
//! from an agent's socket.

mod bootstrap;
mod yaml;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;

use arx_identity::SpiffeId;
use clap::{Args, Subcommand};

use crate::client::Failure;
use crate::output::{Output, Style};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print a configuration for Envoy: mTLS in front of an application, and to its peers.
    Bootstrap(Options),
}

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The agent's socket.
    #[arg(
        long,
        value_name = "PATH",
        default_value = "/run/arx-node-agent/sds.sock",
        value_parser = absolute
    )]
    sds_socket: PathBuf,
    /// Where peers connect, by mTLS.
    #[arg(long, value_name = "PORT", default_value_t = 15443, value_parser = port)]
    listen: u16,
    /// Port of the application behind it, on loopback.
    #[arg(long, value_name = "PORT", default_value_t = 8080, value_parser = port)]
    app: u16,
    /// Who may connect: a SPIFFE id, or the beginning of ids, ending in `/`. May be given
    /// several times.
    #[arg(long, value_name = "SPIFFE-ID", required = true)]
    accept: Vec<Peer>,
    /// A peer that the application calls: the local port, where the peer is, and who it may
    /// be (one or more, as for --accept). May be given several times.
    #[arg(long, value_name = "PORT=HOST:PORT,SPIFFE-ID[,...]")]
    upstream: Vec<Upstream>,
    /// Port of Envoy's own admin interface, on loopback.
    #[arg(long, value_name = "PORT", default_value_t = 15000, value_parser = port)]
    admin: u16,
    /// `node.id`, for logs.
    #[arg(long, default_value = "envoy")]
    node: String,
    /// A file with the workload's service-account token, for the agent's attestor `token`.
    /// It is written into the configuration, so keep that as secret as the token.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// A port that somebody can be called at.
fn port(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err("a port is a number from 1 to 65535".to_owned()),
    }
}

/// Envoy may run in another directory than this does.
fn absolute(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.is_absolute() {
        Ok(path)
    } else {
        Err("give the whole path, from /".to_owned())
    }
}

/// Who a peer may be.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Peer {
    Exactly(SpiffeId),
    /// Whoever's id begins so; ends in `/`.
    Under(String),
}

impl FromStr for Peer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (id, under) = match text.strip_suffix('/') {
            Some(id) => (id, true),
            None => (text, false),
        };
        let id =
            SpiffeId::parse(id).map_err(|error| format!("{text:?} is no SPIFFE id: {error}"))?;
        if under {
            Ok(Self::Under(text.to_owned()))
        } else if id.path().is_empty() {
            Err(format!(
                "{text:?} names a trust domain and nobody in it: end it with / to mean everybody"
            ))
        } else {
            Ok(Self::Exactly(id))
        }
    }
}

/// A peer that is called.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Upstream {
    /// Where the application calls it, on loopback.
    local: u16,
    host: String,
    port: u16,
    peers: Vec<Peer>,
}

impl FromStr for Upstream {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("{text:?} is no upstream: write it as LOCAL-PORT=HOST:PORT,SPIFFE-ID");
        let (local, rest) = text.split_once('=').ok_or_else(wrong)?;
        let (address, peers) = rest.split_once(',').ok_or_else(wrong)?;
        let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err(wrong());
        }
        Ok(Self {
            local: self::port(local).map_err(|_| wrong())?,
            host: host.to_owned(),
            port: self::port(port).map_err(|_| wrong())?,
            peers: peers
                .split(',')
                .map(Peer::from_str)
                .collect::<Result<_, _>>()?,
        })
    }
}

pub(crate) fn run(command: &Command, style: Style) -> Result<Output, Failure> {
    let Command::Bootstrap(options) = command;
    options.ports_differ().map_err(Failure::Usage)?;
    let token = options.token().map_err(Failure::Failed)?;
    let bootstrap = bootstrap::bootstrap(options, token.as_deref());
    Ok(if style.json {
        Output::json(&bootstrap)
    } else {
        Output::raw(yaml::document(&bootstrap))
    })
}

impl Options {
    /// Envoy would find out late, when one of the listeners can't bind.
    fn ports_differ(&self) -> Result<(), String> {
        let fixed = [
            ("--listen", self.listen),
            ("--app", self.app),
            ("--admin", self.admin),
        ];
        let upstreams = self.upstream.iter().map(|one| ("--upstream", one.local));
        let mut taken = BTreeMap::new();
        for (option, port) in fixed.into_iter().chain(upstreams) {
            if let Some(other) = taken.insert(port, option) {
                return Err(format!(
                    "{other} and {option} both want port {port}: give one of them another"
                ));
            }
        }
        Ok(())
    }

    fn token(&self) -> Result<Option<String>, String> {
        let Some(path) = &self.token_file else {
            return Ok(None);
        };
        let shown = path.display();
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("can't read {shown}: {error}"))?;
        let token = text.trim();
        if token.split('.').count() != 3 || token.contains(char::is_whitespace) {
            return Err(format!(
                "{shown} holds no token: give the file that kubelet or `kubectl create token` wrote"
            ));
        }
        Ok(Some(token.to_owned()))
    }
}

#[cfg(test)]
mod tests;
