//! `make demo` and `make demo-distrust`.

use std::process::ExitCode;

use clap::Parser;

/// Two Envoys speak mTLS while everything is renewed, killed and brought back, and the root is replaced.
#[derive(Debug, Parser)]
#[command(name = "arx-demo", version)]
struct Arguments {
    /// Leave everything running at the end, until Ctrl-C.
    #[arg(long)]
    keep: bool,
    /// Instead, cut out a root whose key was stolen.
    #[arg(long, conflicts_with = "keep")]
    distrust: bool,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 1)]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = if arguments.distrust {
        arx_tests::demo::stolen::run().await
    } else {
        arx_tests::demo::run(arguments.keep).await
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("The demo failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}
