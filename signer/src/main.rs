//! `arx-signer`: signs for an authority by keys from files, over a Unix socket or mutual TLS.
//!
//! It is the whole of the service `arx.signer.v1`, and meant to be read: to put a cloud's key
//! management service behind a socket, answer the same two calls from there.

mod keys;
mod listen;
mod service;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use arx_daemon::drain::{self, OnPanic, Tasks};
use arx_daemon::{Clock, exit, log};
use arx_proto::signer::v1::signer_server::SignerServer;
use clap::Parser;

use crate::keys::{Keys, Named};
use crate::listen::{Tls, listen_tls, listen_unix};
use crate::service::Service;

/// How long calls may go on after the end was asked for.
const DRAIN: Duration = Duration::from_secs(5);

/// Signs by keys from files, for whoever may connect.
#[derive(Debug, Parser)]
#[command(name = "arx-signer", version, arg_required_else_help = true)]
struct Arguments {
    /// A key: what it is called, and its file (PKCS #8 in PEM, mode 0600).
    #[arg(long = "key", value_name = "NAME=FILE", required = true)]
    keys: Vec<Named>,
    /// Listen on this Unix socket. Whoever may write to it may have anything signed.
    #[arg(long, value_name = "PATH", required_unless_present = "listen")]
    socket: Option<PathBuf>,
    /// Permissions of the socket, octal.
    #[arg(long, value_name = "MODE", default_value = "600", value_parser = mode)]
    socket_mode: u32,
    /// Listen on this address, by mutual TLS.
    #[arg(long, value_name = "ADDRESS:PORT", requires_all = ["certificate", "tls_key", "clients"])]
    listen: Option<SocketAddr>,
    /// The certificate to show, followed by its chain, PEM.
    #[arg(long, value_name = "FILE")]
    certificate: Option<PathBuf>,
    /// Its key, PKCS #8 in PEM, mode 0600.
    #[arg(long, value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// The authorities of those who may have anything signed, PEM.
    #[arg(long, value_name = "FILE")]
    clients: Option<PathBuf>,
}

fn mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => Err("takes three octal digits, such as 660".to_owned()),
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments) {
        Ok(code) => code.into(),
        Err(error) => {
            eprintln!("{error:#}");
            exit::RUNTIME.into()
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<u8> {
    let keys = Keys::read(&arguments.keys)?;
    let clock = Clock::system();
    let _log = log::init(log::Options::default(), &clock)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let (drain, _reloads) = drain::listen(DRAIN)?;
        let tasks = Tasks::new(&drain);
        let service = SignerServer::new(Service::new(keys)).max_decoding_message_size(service::LARGEST);
        if let Some(path) = &arguments.socket {
            let listener = listen::bind_unix(path, arguments.socket_mode)?;
            tracing::info!(socket = %path.display(), "signing for whoever may connect here");
            tasks.spawn(
                "unix socket",
                OnPanic::End,
                listen_unix(listener, service.clone(), tasks.clone(), drain.clone()),
            );
        }
        if let Some(address) = arguments.listen {
            let (Some(certificate), Some(key), Some(clients)) = (
                &arguments.certificate,
                &arguments.tls_key,
                &arguments.clients,
            ) else {
                bail!("--listen needs --certificate, --tls-key and --clients");
            };
            let tls = Tls::read(certificate, key, clients)?;
            let listener = tokio::net::TcpListener::bind(address)
                .await
                .with_context(|| format!("can't listen on {address}"))?;
            tracing::info!(address = %listener.local_addr()?, "signing for clients of {}", clients.display());
            tasks.spawn(
                "tls",
                OnPanic::End,
                listen_tls(listener, tls, service, tasks.clone(), drain.clone()),
            );
        }
        drain.requested().await;
        let _cut = tasks.finish().await;
        Ok(drain.exit_code())
    })
}
