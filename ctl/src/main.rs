//! `arx`: the operator's command line. It asks an authority over its admin socket, and
//! explains certificates, requests, bundles and tokens.

mod bundle;
mod check;
mod client;
mod envoy;
mod inspect;
mod ledger;
mod output;
mod status;
mod svid;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand, ValueEnum};

use client::Failure;
use output::Output;

/// Exit codes: 0 it is well; 1 it is not, or could not be done; 2 the command line is
/// wrong; 3 the authority can't be reached.
#[derive(Debug, Parser)]
#[command(
    name = "arx",
    version,
    arg_required_else_help = true,
    after_help = "Exit codes: 0 well, 1 not well or not done, 2 wrong usage, 3 authority not reached."
)]
struct Arguments {
    /// The authority's admin socket.
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        env = "ARX_ADMIN_SOCKET",
        default_value = "/run/arx-ca/admin.sock"
    )]
    socket: PathBuf,
    /// How to print.
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Text)]
    output: Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// For people.
    Text,
    /// For programs: one JSON value.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Authorities, agents, certificates and health on one screen.
    Status,
    /// Check everything that can be checked from here; each line is a test, with a hint when it fails.
    Check,
    /// List the node agents.
    Agents {
        /// Only those that are not connected.
        #[arg(long)]
        away: bool,
    },
    /// Valid certificates.
    #[command(subcommand)]
    Svid(svid::Command),
    /// The roots of the trust domain.
    #[command(subcommand)]
    Bundle(bundle::Command),
    /// Explain a certificate, chain, request, bundle or token, and name what is wrong with it.
    Inspect {
        /// The file, or `-` for standard input.
        file: PathBuf,
    },
    /// What a proxy needs.
    #[command(subcommand)]
    Envoy(envoy::Command),
    /// The record of all that was issued and refused.
    #[command(subcommand)]
    Ledger(ledger::Command),
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return fail(&Failure::Failed(error.to_string())),
    };
    match runtime.block_on(run(arguments)) {
        Ok(output) => match std::io::stdout().lock().write_all(output.text.as_bytes()) {
            // A reader that has seen enough is no failure: `arx svid list | head`.
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                fail(&Failure::Failed(error.to_string()))
            }
            _ if output.well => ExitCode::SUCCESS,
            _ => ExitCode::from(1),
        },
        Err(failure) => fail(&failure),
    }
}

fn fail(failure: &Failure) -> ExitCode {
    eprintln!("{failure}");
    ExitCode::from(failure.exit_code())
}

async fn run(arguments: Arguments) -> Result<Output, Failure> {
    let json = matches!(arguments.output, Format::Json);
    let socket = &arguments.socket;
    match arguments.command {
        Command::Status => status::run(socket, json).await,
        Command::Check => check::run(socket, json).await,
        Command::Agents { away } => status::agents(socket, json, away).await,
        Command::Svid(command) => svid::run(socket, json, command).await,
        Command::Bundle(command) => bundle::run(socket, json, command).await,
        Command::Inspect { file } => inspect::run(&file, json),
        Command::Envoy(command) => envoy::run(&command),
        Command::Ledger(command) => ledger::run(socket, json, command).await,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "arx", &mut script);
            Ok(Output::text(String::from_utf8_lossy(&script).into_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_in_order() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_command_is_in_the_manual() {
        let manual = include_str!("../../docs/cli.md");
        let mut command = Arguments::command();
        command.build();
        for sub in command
            .get_subcommands()
            .filter(|sub| sub.get_name() != "help")
        {
            let inner: Vec<_> = sub
                .get_subcommands()
                .map(|inner| inner.get_name().to_owned())
                .filter(|name| name != "help")
                .collect();
            if inner.is_empty() {
                assert!(
                    manual.contains(&format!("`arx {}", sub.get_name())),
                    "{}",
                    sub.get_name()
                );
            }
            for name in inner {
                assert!(
                    manual.contains(&format!("`arx {} {name}", sub.get_name())),
                    "{} {name}",
                    sub.get_name()
                );
            }
        }
    }
}
