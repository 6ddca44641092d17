//! `arx-ca restore FILE`, from the configuration to what is printed.

use std::path::Path;
use std::process::ExitCode;

use arx_daemon::clock::rfc3339;
use arx_daemon::{Clock, exit};

use super::{PutBack, PutError, put_back};
use crate::config::Config;
use crate::run::seal_source;

/// Puts the backup in `file` where the configuration says that state is kept.
#[must_use]
pub fn command(config: &Config, clock: &Clock, file: &Path) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("can't start: {error}");
            return exit::RUNTIME.into();
        }
    };
    let place = config.state.place();
    let put = runtime.block_on(async {
        // The key that it was sealed with has to be there already.
        let seal = seal_source(config).seal(false).map_err(told)?;
        std::fs::create_dir_all(&config.state.directory)
            .map_err(|error| format!("{}: {error}", config.state.directory.display()))?;
        let store = place
            .open(clock.now())
            .await
            .map_err(|error| format!("{error} ({})", error.code()))?;
        let now = clock.now();
        put_back(file, &store, &seal, &config.trust_domain, now)
            .await
            .map_err(told)
    });
    match put {
        Ok(put) => {
            let PutBack {
                id,
                made,
                sequence,
                agents,
            } = put;
            println!(
                "backup {id} of {} is in {}: bundle {sequence}, {agents} agents",
                rfc3339(made),
                place
            );
            let before = match agents {
                0 => {
                    "it knows of no agents, so it issues nothing before one has come and agrees, or `arx restore open --no-fleet`"
                }
                _ => "it issues nothing before more than half of the agents have come and agree",
            };
            println!("start arx-ca now: {before}; `arx restore status` shows how that stands");
            exit::OK.into()
        }
        Err(error) => {
            eprintln!("nothing can start on this: {error}");
            exit::RUNTIME.into()
        }
    }
}

fn told(error: impl Into<PutError>) -> String {
    let error = error.into();
    format!("{error} ({})", error.code())
}
