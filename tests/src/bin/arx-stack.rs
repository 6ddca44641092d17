//! `make up` and `make down`.

use std::path::PathBuf;
use std::process::ExitCode;

use arx_tests::stack::Stack;
use clap::{Parser, Subcommand};

/// An Arx of one machine in the background, for your own proxy.
#[derive(Debug, Parser)]
#[command(name = "arx-stack")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start it, and tell how to use it.
    Up {
        /// Where everything is kept.
        #[arg(long)]
        dir: PathBuf,
        /// Lifetime of certificates, such as 1h or 90s.
        #[arg(long, default_value = "1h")]
        ttl: String,
    },
    /// Stop it. Its state is kept.
    Down {
        /// Where everything is kept.
        #[arg(long)]
        dir: PathBuf,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let command = Arguments::parse().command;
    let done = async {
        match command {
            Command::Up { dir, ttl } => Stack::new(&dir)?.up(&ttl).await,
            Command::Down { dir } if !dir.exists() => {
                println!("Nothing is running in {}: it is not there.", dir.display());
                Ok(())
            }
            Command::Down { dir } => Stack::new(&dir)?.down().await,
        }
    };
    match done.await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
