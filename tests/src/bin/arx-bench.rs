//! `arx-bench`: measures the release binaries, prints a table, and writes it as JSON.

use std::process::ExitCode;

fn main() -> ExitCode {
    arx_tests::bench::main()
}
