//! `arx-ca`: the certificate authority as a process.

use std::path::PathBuf;
use std::process::ExitCode;

use arx_ca::config::Config;
use arx_ca::{check, restore, run};
use arx_daemon::{Clock, exit};
use clap::{Parser, Subcommand};

/// The certificate authority of a service mesh.
#[derive(Debug, Parser)]
#[command(name = "arx-ca", version, arg_required_else_help = true)]
struct Arguments {
    /// The configuration, a TOML file.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Start although newer state was lost: what is stored is published in a new epoch, and
    /// where nothing is, another root is made that has to be given to everybody.
    #[arg(long)]
    accept_loss: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Validate the configuration and everything that it names, change nothing, and exit
    /// with 0 or 2.
    Check,
    /// Verify the hash chain of the whole ledger while the authority does not run.
    VerifyLedger,
    /// Put a backup into a state that is empty, while the authority does not run.
    Restore {
        /// What `arx backup` has written.
        file: PathBuf,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let config = match Config::load(&arguments.config) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("{error}");
            return exit::CONFIG.into();
        }
    };
    let clock = Clock::system();
    match arguments.command {
        None => run::process(arguments.config, config, clock, arguments.accept_loss),
        Some(Command::Check) => check::everything(&arguments.config, &config, &clock),
        Some(Command::VerifyLedger) => check::ledger(&config),
        Some(Command::Restore { file }) => restore::command(&config, &clock, &file),
    }
}
