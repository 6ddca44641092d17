//! `arx-node-agent --config FILE`: runs the agent of this node. `... check` only says
//! whether the configuration would work.

use arx_daemon::{Clock, exit, log};
use arx_node_agent::config::Config;
use arx_node_agent::heap;
use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

#[global_allocator]
static ALLOCATOR: heap::Allocator = heap::Allocator;

/// Enough for keys, the cache and name look-ups at once; each has a heap of its own.
const BLOCKING_THREADS: usize = 4;

/// And an idle one soon goes, with its stack.
const BLOCKING_IDLE: Duration = Duration::from_secs(1);

/// The node agent of Arx: proves who asks, makes keys, and feeds proxies.
#[derive(Debug, Parser)]
#[command(name = "arx-node-agent", version, disable_help_subcommand = true)]
struct Arguments {
    /// The configuration file (TOML).
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check the configuration and the files that it names, without starting.
    Check,
}

fn main() -> ExitCode {
    heap::share_one();
    let arguments = Arguments::parse();
    let config = match arguments.command {
        Some(Command::Check) => Config::check(&arguments.config),
        None => Config::load(&arguments.config),
    };
    match (config, arguments.command) {
        (Err(error), _) => {
            eprintln!("{error}");
            ExitCode::from(exit::CONFIG)
        }
        (Ok(_), Some(Command::Check)) => {
            println!("{}: ok", arguments.config.display());
            ExitCode::from(exit::OK)
        }
        (Ok(config), None) => run(config, arguments.config),
    }
}

fn run(config: Config, path: PathBuf) -> ExitCode {
    let clock = Clock::system();
    let log = log::init(config.log, &clock).ok();
    // One thread: the work is small, and every node pays for the memory.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_keep_alive(BLOCKING_IDLE)
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(code = "ARX-FAILED", %error, "no runtime could be started");
            return ExitCode::from(exit::RUNTIME);
        }
    };
    let code = runtime.block_on(Box::pin(arx_node_agent::run::run(config, path, clock, log)));
    // A name look-up that hangs must not keep the process.
    runtime.shutdown_background();
    match code {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            tracing::error!(code = "ARX-FAILED", "the agent cannot start: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
