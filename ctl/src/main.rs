//! `arx`: the operator's command line. It asks an authority over its admin socket, and
//! explains certificates, requests, bundles and tokens.

mod agents;
mod authority;
mod backup;
mod bundle;
mod check;
mod client;
mod denial;
mod distrust;
mod envoy;
mod explain;
mod inspect;
mod ledger;
mod output;
mod rotate;
mod status;
mod svid;
mod unanswered;
mod version;

#[cfg(test)]
mod fake;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand, ValueEnum};

use client::Failure;
use output::{Output, Style};

/// Exit codes: 0 it is well; 1 it is not, or could not be done; 2 the command line is
/// wrong; 3 the authority can't be reached; 4 nothing was found, and not everybody who was asked has
/// answered; 130 a watch was interrupted.
#[derive(Debug, Parser)]
#[command(
    name = "arx",
    version,
    arg_required_else_help = true,
    after_help = "Exit codes: 0 well, 1 not well or not done, 2 wrong usage, 3 authority not reached, 4 nothing found and not all answered, 130 watch interrupted. More in docs/cli.md."
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
    /// Tell times also by the clock, in UTC.
    #[arg(short, long, global = true)]
    wide: bool,
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
    Check {
        /// Have the authority ask the API servers of its clusters, too: its rights, their clocks
        /// and APIs, roots in ConfigMaps, nodes without agents.
        #[arg(long)]
        kube: bool,
    },
    /// List the node agents.
    Agents {
        /// Only those that are not connected.
        #[arg(long)]
        away: bool,
        /// Stop after so many.
        #[arg(long, default_value_t = 1000, value_parser = output::limit)]
        limit: usize,
    },
    /// Tell what the authority decides for a pod, and why.
    Explain(explain::Explain),
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
    /// Replace the root of the trust domain, with proof that everybody has taken the new one.
    #[command(subcommand)]
    Rotate(rotate::Command),
    /// A root whose key is elsewhere: have what signs here certified by it.
    #[command(subcommand)]
    Authority(authority::Command),
    /// Stop trusting a root or an intermediate whose key is in somebody else's hands.
    Distrust(distrust::Distrust),
    /// Issue no new certificates to an identity, a service account or a node.
    Deny(denial::Deny),
    /// End a denial.
    Allow(denial::Allow),
    /// Write a copy of the authority's state, sealed, into a file: small, whatever the fleet.
    Backup(backup::Backup),
    /// An authority that runs on a backup which was put back.
    #[command(subcommand)]
    Restore(backup::Command),
    /// The versions of this program and of the authority, if that answers.
    Version,
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
        Ok(output) => match print(&output.body) {
            Ok(()) => {
                let _unheard = std::io::stderr().write_all(output.note.as_bytes());
                ExitCode::from(output.exit_code)
            }
            Err(failure) => fail(&failure),
        },
        Err(failure) => fail(&failure),
    }
}

/// A reader that has seen enough is no failure: `arx svid list | head`.
fn print(body: &[u8]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(body).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Failure::Failed(
            format!("can't write to standard output: {error}"),
        )),
        _ => Ok(()),
    }
}

fn fail(failure: &Failure) -> ExitCode {
    // Where standard error is closed, the exit code still tells.
    let _unheard = writeln!(
        std::io::stderr(),
        "arx: {}",
        output::escaped(&failure.to_string(), true)
    );
    ExitCode::from(failure.exit_code())
}

async fn run(arguments: Arguments) -> Result<Output, Failure> {
    let style = Style {
        json: matches!(arguments.output, Format::Json),
        wide: arguments.wide,
        now_ms: output::unix_ms(output::now()),
    };
    let socket = &arguments.socket;
    match arguments.command {
        Command::Status => status::run(socket, style).await,
        Command::Check { kube } => check::run(socket, style, kube).await,
        Command::Agents { away, limit } => agents::run(socket, style, away, limit).await,
        Command::Explain(command) => explain::run(socket, style, command).await,
        Command::Svid(command) => svid::run(socket, style, command).await,
        Command::Bundle(command) => bundle::run(socket, style, command).await,
        Command::Inspect { file } => inspect::run(&file, style),
        Command::Envoy(command) => envoy::run(&command, style),
        Command::Ledger(command) => ledger::run(socket, style, command).await,
        Command::Rotate(command) => rotate::run(socket, style, command).await,
        Command::Authority(command) => authority::run(socket, style, command).await,
        Command::Distrust(command) => distrust::run(socket, style, command).await,
        Command::Deny(command) => denial::deny(socket, style, command).await,
        Command::Allow(command) => denial::allow(socket, style, command).await,
        Command::Backup(to) => backup::backup(socket, style, &to).await,
        Command::Restore(command) => backup::restore(socket, style, command).await,
        Command::Version => version::run(socket, style).await,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "arx", &mut script);
            Ok(Output::raw(script))
        }
    }
}

#[cfg(test)]
mod tests;
