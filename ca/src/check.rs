//! `arx-ca check` and `arx-ca verify-ledger`: everything that can be found out without
//! running, and without changing anything.

use std::path::Path;
use std::process::ExitCode;

use arx_daemon::{Clock, exit};

use crate::authority;
use crate::config::Config;
use crate::ledger::Ledger;
use crate::run::seal_source;
use crate::state::State;
use crate::store;
use crate::token::Tokens;
use crate::trust::{Evidence, Trust, TrustError};

/// Validates what the configuration names: state, key files, the authority's own material,
/// the sources of token keys. Prints a line for each.
#[must_use]
pub fn everything(path: &Path, config: &Config, clock: &Clock) -> ExitCode {
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
    let mut report = Report { wrong: 0 };
    report.well(&format!("{}: configuration", path.display()));
    runtime.block_on(async {
        match report.state(config).await {
            Ok(state) => report.authority(config, clock, state.as_ref()).await,
            Err(Unreadable) => {
                println!("note  authority and trust are not looked at before the state can be read")
            }
        }
        report.tokens(config, clock).await;
    });
    if report.wrong == 0 {
        println!("all is well");
        return exit::OK.into();
    }
    eprintln!(
        "{} problem{} found",
        report.wrong,
        if report.wrong == 1 { "" } else { "s" }
    );
    exit::CONFIG.into()
}

/// Verifies the chain of the ledger, from the first segment that is there.
#[must_use]
pub fn ledger(config: &Config) -> ExitCode {
    let directory = config.state.directory.join("ledger");
    match Ledger::verify_directory(&directory, config.trust_domain.as_str()) {
        Ok(report) => {
            println!("{} records in {} segments", report.records, report.segments);
            if let Some(torn) = &report.torn {
                println!(
                    "note  the end is torn, and the next start cuts it: {torn}; it was never acknowledged"
                );
            }
            for problem in &report.problems {
                eprintln!("wrong {problem}");
            }
            if report.problems.is_empty() {
                println!("the chain holds");
                exit::OK.into()
            } else {
                exit::RUNTIME.into()
            }
        }
        Err(error) => {
            eprintln!("{error}");
            exit::RUNTIME.into()
        }
    }
}

struct Report {
    wrong: usize,
}

/// There is a state, and what it holds can't be said. Nothing may be concluded from it.
struct Unreadable;

impl Report {
    fn well(&self, what: &str) {
        println!("ok    {what}");
    }

    fn wrong(&mut self, what: &str) {
        self.wrong += 1;
        println!("wrong {what}");
    }

    /// Looks into a copy of the state file, so that a running authority is not disturbed.
    async fn state(&mut self, config: &Config) -> Result<Option<State>, Unreadable> {
        let file = config.state.directory.join("state.redb");
        let first = !file.exists();
        let seal = match seal_source(config).look(first) {
            Ok(seal) => seal,
            Err(error) => {
                self.wrong(&format!("sealing key: {error} ({})", error.code()));
                return Err(Unreadable);
            }
        };
        let (Some(seal), false) = (seal, first) else {
            self.well(&format!(
                "state: {} will be made at the first start",
                file.display()
            ));
            return Ok(None);
        };
        let opened = match store::Redb::peek(&file) {
            Ok(copy) => State::inspect(std::sync::Arc::new(copy), seal, &config.trust_domain).await,
            Err(error) => {
                self.wrong(&format!("state: {error} ({})", error.code()));
                return Err(Unreadable);
            }
        };
        match opened {
            Ok(state) => {
                self.well(&format!("state: {}", file.display()));
                Ok(state)
            }
            Err(error) => {
                self.wrong(&format!("state: {error} ({})", error.code()));
                Err(Unreadable)
            }
        }
    }

    /// What signs, and what is trusted.
    async fn authority(&mut self, config: &Config, clock: &Clock, state: Option<&State>) {
        let options = config.authority_options();
        let now = clock.now();
        let checked = authority::check(&options, &config.trust_domain, state, now).await;
        for problem in &checked.problems {
            self.wrong(&format!(
                "{}: {problem} ({})",
                problem.setting, problem.code
            ));
        }
        if checked.problems.is_empty() {
            self.well("authority");
        }
        for note in checked.notes {
            println!("note  {note}");
        }
        self.trust(config, state).await;
    }

    /// What the ledger knows to have been published has to be in the state.
    async fn trust(&mut self, config: &Config, state: Option<&State>) {
        let highest = match Ledger::peek_sequence(&config.state.directory.join("ledger")) {
            Ok(highest) => highest,
            Err(error) => return self.wrong(&format!("ledger: {error} ({})", error.code())),
        };
        match (state, highest) {
            (None, Some(known)) => {
                let lost = TrustError::Lost { known };
                self.wrong(&format!("state: {lost} ({})", lost.code()));
            }
            (Some(state), _) => {
                let evidence = Evidence {
                    highest,
                    accept_loss: false,
                };
                match Trust::examine(state, None, evidence).await {
                    Ok(()) => self.well("trust"),
                    Err(error) => self.wrong(&format!("trust: {error} ({})", error.code())),
                }
            }
            (None, None) => {}
        }
    }

    async fn tokens(&mut self, config: &Config, clock: &Clock) {
        let tokens = match Tokens::new(&config.clusters, clock).await {
            Ok(tokens) => tokens,
            Err(error) => return self.wrong(&format!("{error} ({})", error.code())),
        };
        for finding in tokens.check().await {
            match finding.code {
                None => self.well(&format!("cluster {}: {}", finding.cluster, finding.message)),
                Some(code) => self.wrong(&format!(
                    "cluster {}: {} ({code})",
                    finding.cluster, finding.message
                )),
            }
        }
    }
}
