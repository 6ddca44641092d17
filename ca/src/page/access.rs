//! Who may see the page, and how it may be asked for. Decided before anything is looked up.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use arx_daemon::config::secret_file;
use arx_identity::crypto::sha256;
use arx_identity::{SpiffeId, VerifiedPeer};
use http::header::{AUTHORIZATION, HOST};
use http::request::Parts;
use http::{Method, StatusCode};

use super::query::names_one_of;

/// A shorter token can be guessed.
const SHORTEST_TOKEN: usize = 16;

/// Names under which secrets are put into addresses.
const SECRETS: [&str; 9] = [
    "token",
    "access_token",
    "id_token",
    "bearer",
    "authorization",
    "auth",
    "api_key",
    "apikey",
    "password",
];

/// What is asked of a request.
#[derive(Clone, Debug, Default)]
pub(super) struct Access {
    /// Lower case.
    pub(super) hosts: Vec<String>,
    /// Where the page listens, if that is one address.
    pub(super) address: Option<IpAddr>,
    pub(super) clients: Vec<SpiffeId>,
    pub(super) token_file: Option<PathBuf>,
}

/// By what somebody was let in: looked at again while they follow the page.
#[derive(Clone, Debug)]
pub(super) enum Entitled {
    /// Nothing is asked of anybody.
    Open,
    /// Their certificate.
    Client(Box<VerifiedPeer>),
    /// SHA-256 of the token that they gave.
    Token([u8; 32]),
}

/// Why a request is not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) status: StatusCode,
    pub(super) code: &'static str,
    pub(super) message: String,
}

impl Refused {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
        }
    }
}

impl Access {
    /// Lets the request in, or says why not.
    pub(super) async fn admit(
        &self,
        request: &Parts,
        peer: Option<&VerifiedPeer>,
    ) -> Result<Entitled, Refused> {
        self.form(request)?;
        if self.clients.is_empty() && self.token_file.is_none() {
            return Ok(Entitled::Open);
        }
        if let Some(peer) = peer.filter(|peer| self.clients.contains(&peer.id)) {
            return Ok(Entitled::Client(Box::new(peer.clone())));
        }
        if let (Some(_), Some(given)) = (&self.token_file, bearer(request)) {
            let given = sha256(given.as_bytes());
            if same(&given, &self.token().await?) {
                return Ok(Entitled::Token(given));
            }
        }
        Err(match peer {
            Some(peer) => Refused::new(
                StatusCode::FORBIDDEN,
                "ARX-PAGE-FORBIDDEN",
                format!("{} may not see this page: add it to page.clients", peer.id),
            ),
            None => Refused::new(
                StatusCode::UNAUTHORIZED,
                "ARX-PAGE-UNAUTHENTICATED",
                "show the certificate of one of page.clients, or send the token of page.token_file as `Authorization: Bearer TOKEN`",
            ),
        })
    }

    /// What is asked of every request, whoever sends it.
    fn form(&self, request: &Parts) -> Result<(), Refused> {
        let host = host(request).filter(|host| self.knows(host));
        if host.is_none() {
            // A name that somebody else's DNS points here would let their pages read this one.
            return Err(Refused::new(
                StatusCode::MISDIRECTED_REQUEST,
                "ARX-PAGE-HOST",
                "this page is not known by that name: ask for localhost, or add the name to page.hosts",
            ));
        }
        if request.method != Method::GET {
            return Err(Refused::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "ARX-PAGE-METHOD",
                "there is nothing to do here but look: only GET",
            ));
        }
        if names_one_of(&request.uri, &SECRETS) {
            return Err(Refused::new(
                StatusCode::BAD_REQUEST,
                "ARX-PAGE-TOKEN-IN-URL",
                "a token in an address stays in histories and logs: send it as `Authorization: Bearer TOKEN`, and if it was the real one, replace it",
            ));
        }
        Ok(())
    }

    fn knows(&self, host: &str) -> bool {
        let literal = host
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));
        match literal.unwrap_or(host).parse::<IpAddr>() {
            Ok(ip) => {
                let configured = self.hosts.iter().filter_map(|host| host.parse().ok());
                ip.is_loopback()
                    || self.address == Some(ip)
                    || configured.into_iter().any(|it: IpAddr| it == ip)
            }
            Err(_) => {
                host.eq_ignore_ascii_case("localhost")
                    || self
                        .hosts
                        .iter()
                        .any(|known| host.eq_ignore_ascii_case(known))
            }
        }
    }

    /// Whether whoever was let in would still be.
    pub(super) async fn still(&self, entitled: &Entitled) -> bool {
        match entitled {
            Entitled::Open | Entitled::Client(_) => true,
            Entitled::Token(given) => match self.token().await {
                Ok(token) => same(given, &token),
                Err(_) => false,
            },
        }
    }

    /// SHA-256 of the token as the file has it now: replaced, the old one counts no longer.
    async fn token(&self) -> Result<[u8; 32], Refused> {
        let path = self.token_file.clone().unwrap_or_default();
        let read = tokio::task::spawn_blocking(move || {
            let bytes = secret_file(&path).map_err(|error| error.to_string())?;
            read_token(&bytes).map(|token| sha256(token.as_bytes()))
        });
        let read = read
            .await
            .unwrap_or_else(|_| Err("it could not be read".to_owned()));
        read.map_err(|reason| {
            tracing::error!(code = "ARX-PAGE-TOKEN-FILE", "page.token_file: {reason}");
            Refused::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "ARX-PAGE-TOKEN-FILE",
                "the authority can't read its token: see its log",
            )
        })
    }
}

/// The token in a file: its text without the white space around it.
pub(super) fn read_token(bytes: &[u8]) -> Result<&str, String> {
    let token = std::str::from_utf8(bytes)
        .map(str::trim)
        .unwrap_or_default();
    if token.len() < SHORTEST_TOKEN || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!(
            "the token is not one word of at least {SHORTEST_TOKEN} ASCII characters"
        ));
    }
    Ok(token)
}

/// The name that the request is for, without its port; nothing if that is not said once and
/// clearly (RFC 9112, 3.2).
fn host(request: &Parts) -> Option<&str> {
    let mut hosts = request.headers.get_all(HOST).iter();
    let host = hosts.next()?.to_str().ok()?;
    let target = request.uri.authority().map(http::uri::Authority::as_str);
    if hosts.next().is_some() || target.is_some_and(|target| target != host) {
        return None;
    }
    match host.strip_prefix('[') {
        Some(rest) => {
            let end = rest.find(']')?;
            port(&rest[end + 1..])?;
            host.get(..end + 2)
        }
        None => {
            let name = host.split(':').next()?;
            port(&host[name.len()..])?;
            Some(name)
        }
    }
}

fn port(rest: &str) -> Option<()> {
    let digits = match rest.strip_prefix(':') {
        Some(digits) => digits,
        None => return rest.is_empty().then_some(()),
    };
    digits
        .bytes()
        .all(|digit| digit.is_ascii_digit())
        .then_some(())
}

fn bearer(request: &Parts) -> Option<&str> {
    let mut values = request.headers.get_all(AUTHORIZATION).iter();
    let (scheme, token) = values.next()?.to_str().ok()?.split_once(' ')?;
    let one = values.next().is_none() && scheme.eq_ignore_ascii_case("bearer");
    one.then(|| token.trim())
}

/// In a time that does not tell where they differ.
fn same(one: &[u8; 32], other: &[u8; 32]) -> bool {
    let differ = one
        .iter()
        .zip(other)
        .fold(0, |differ, (a, b)| differ | (a ^ b));
    std::hint::black_box(differ) == 0
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", self.code, self.message)
    }
}

#[cfg(test)]
mod tests;
