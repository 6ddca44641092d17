//! `[page]`: where the status page is, and who may see it.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use arx_daemon::config::{Problems, secret_file};
use arx_identity::{SpiffeId, TrustDomain};
use serde::Deserialize;

use super::access::{Access, read_token};
use crate::policy::is_dns_name;

/// Names and clients that may be listed.
const MOST: usize = 64;

/// `[page]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Whether there is a page at all.
    pub enabled: bool,
    /// A listener of its own; without one the page is on the operator's port, if that is on
    /// loopback.
    pub address: Option<SocketAddr>,
    /// Names under which it may be asked for, beside those of loopback.
    pub hosts: Vec<String>,
    /// SPIFFE ids that may see it, by their certificates.
    pub clients: Vec<String>,
    /// A file with a bearer token.
    pub token_file: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            enabled: true,
            address: None,
            hosts: Vec::new(),
            clients: Vec::new(),
            token_file: None,
        }
    }
}

/// Where the page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Nowhere.
    Nowhere,
    /// At the operator's port.
    Ops,
    /// At a listener of its own.
    Own {
        /// Its address.
        address: SocketAddr,
        /// Whether it speaks TLS.
        tls: bool,
    },
}

impl Options {
    /// Where it is, if the operator's port is at `ops`.
    #[must_use]
    pub fn place(&self, ops: SocketAddr) -> Place {
        match self.address {
            _ if !self.enabled => Place::Nowhere,
            Some(address) => Place::Own {
                address,
                tls: !address.ip().is_loopback() || !self.clients.is_empty(),
            },
            None if ops.ip().is_loopback() => Place::Ops,
            None => Place::Nowhere,
        }
    }

    /// DNS names for the certificate that a listener of its own shows.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let tls = matches!(self.address, Some(address) if !address.ip().is_loopback() || !self.clients.is_empty());
        let names = self.hosts.iter().filter(|_| self.enabled && tls);
        names
            .filter(|host| host.parse::<IpAddr>().is_err())
            .cloned()
            .collect()
    }

    pub(super) fn access(&self) -> Access {
        let address = self.address.map(|address| address.ip());
        let ids = self.clients.iter();
        Access {
            hosts: self
                .hosts
                .iter()
                .map(|host| host.to_ascii_lowercase())
                .collect(),
            address: address.filter(|ip| !ip.is_unspecified()),
            clients: ids.filter_map(|id| SpiffeId::parse(id).ok()).collect(),
            token_file: self.token_file.clone(),
        }
    }

    /// Notes what can't work.
    pub fn problems(
        &self,
        ops: SocketAddr,
        node_api: SocketAddr,
        domain: &TrustDomain,
        problems: &mut Problems<'_>,
    ) {
        if !self.enabled {
            return;
        }
        self.place_problems(ops, node_api, problems);
        for (key, length) in [
            ("page.hosts", self.hosts.len()),
            ("page.clients", self.clients.len()),
        ] {
            if length > MOST {
                problems.add(
                    key,
                    format!("{length} entries"),
                    format!("list at most {MOST}"),
                );
            }
        }
        for host in &self.hosts {
            let name = is_dns_name(host);
            if !name && host.parse::<IpAddr>().is_err() {
                problems.add(
                    "page.hosts",
                    format!("{host:?} is neither a DNS name nor an IP address"),
                    "give the name alone, without scheme and port",
                );
            }
        }
        for id in &self.clients {
            match SpiffeId::parse(id) {
                Ok(id) if id.trust_domain() == domain => {}
                Ok(id) => problems.add(
                    "page.clients",
                    format!("{id} is of another trust domain than {domain}"),
                    "only certificates of this authority can be verified: list ids of its own",
                ),
                Err(error) => problems.add(
                    "page.clients",
                    format!("{id:?}: {error}"),
                    "give the whole id, spiffe://...",
                ),
            }
        }
        if let Some(path) = &self.token_file {
            if !path.is_absolute() {
                problems.add(
                    "page.token_file",
                    format!("{} is relative", path.display()),
                    "give the whole path, from /",
                );
            } else if let Some(bytes) = problems.take("page.token_file", secret_file(path))
                && let Err(reason) = read_token(&bytes)
            {
                problems.add(
                    "page.token_file",
                    reason,
                    "write a random text of at least 16 characters into it, such as `openssl rand -hex 32` makes",
                );
            }
        }
    }

    fn place_problems(&self, ops: SocketAddr, node_api: SocketAddr, problems: &mut Problems<'_>) {
        let known = !self.clients.is_empty() || self.token_file.is_some();
        match self.address {
            Some(address) if address == ops || address == node_api => problems.add(
                "page.address",
                "the same address as another listener",
                "give each a port of its own, or leave it out: then the page is on ops.address",
            ),
            Some(address) if !address.ip().is_loopback() && !known => problems.add(
                "page.address",
                format!(
                    "{address} can be reached from elsewhere, and nothing says who may see the page"
                ),
                "give clients (SPIFFE ids) or token_file, or an address on loopback",
            ),
            None if !self.clients.is_empty() => problems.add(
                "page.clients",
                "certificates are asked for on a listener of its own",
                "give page.address",
            ),
            None if known && !ops.ip().is_loopback() => problems.add(
                "page.token_file",
                format!("a token would go over the network in the clear, for ops.address is {ops}"),
                "give page.address: a listener of its own speaks TLS there",
            ),
            _ => {}
        }
    }
}
