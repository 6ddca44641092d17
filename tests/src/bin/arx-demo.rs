//! `make demo`.

use std::process::ExitCode;

use clap::Parser;

/// Two Envoys speak mTLS while everything is renewed, killed and brought back, and the root is replaced.
#[derive(Debug, Parser)]
#[command(name = "arx-demo", version)]
struct Arguments {
    /// Leave everything running at the end, until Ctrl-C.
    #[arg(long)]
    keep: bool,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 1)]
async fn main() -> ExitCode {
    match arx_tests::demo::run(Arguments::parse().keep).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("The demo failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}
