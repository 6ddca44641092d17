//! `arx-ca check` and `arx-ca verify-ledger`: everything that can be found out without
//! running, and without changing anything.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::ExitCode;

use arx_daemon::config::File;
use arx_daemon::{Clock, exit};

use crate::authority;
use crate::config::Config;
use crate::ledger::{self, Ledger};
use crate::run::seal_source;
use crate::state::State;
use crate::store::Place;
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
    let mut report = Report {
        file: File::read(path).ok(),
        wrong: 0,
    };
    report.well(&format!("{}: configuration", path.display()));
    report.address("node_api.address", config.node_api.address);
    report.address("ops.address", config.ops.address);
    runtime.block_on(async {
        match report.state(config).await {
            Ok(state) => report.authority(config, clock, state.as_ref()).await,
            Err(Unreadable) => {
                println!("note  authority and trust are not looked at before the state can be read")
            }
        }
        report.ledger(config);
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
            println!("{}", extent(&report));
            if let Some(torn) = &report.torn {
                println!("note  {}", torn_end(torn));
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

/// "7 records in 2 segments".
fn extent(report: &ledger::Report) -> String {
    let plural = |count: u64| if count == 1 { "" } else { "s" };
    format!(
        "{} record{} in {} segment{}",
        report.records,
        plural(report.records),
        report.segments,
        plural(report.segments.into())
    )
}

fn torn_end(torn: &ledger::Torn) -> String {
    format!("a crash has left half a record at the end, and the next start cuts it off: {torn}")
}

struct Report {
    /// The configuration, to say where in it something stands.
    file: Option<File>,
    wrong: usize,
}

/// Problems of one ledger that are listed; `verify-ledger` lists all.
const SOME: usize = 5;

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

    /// Something that concerns a setting: with the line that it stands on.
    fn wrong_at(&mut self, setting: &str, what: &str) {
        let place = self.file.as_ref().map(|file| {
            let line = file.line(setting).map(|line| format!(":{line}"));
            format!("{}{}: ", file.path().display(), line.unwrap_or_default())
        });
        let place = place.unwrap_or_default();
        self.wrong(&format!("{place}{setting}: {what}"));
    }

    /// Whether an address could be bound, as the start would.
    fn address(&mut self, setting: &str, address: SocketAddr) {
        match TcpListener::bind(address) {
            Ok(_listener) => {}
            // The authority itself may be running.
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
                println!("note  {setting}: {address} is in use: well, if that is this authority");
            }
            Err(error) => self.wrong_at(
                setting,
                &format!("{address}: {error}; give an address of this machine, and a port that this process's user may bind (ARX-START)"),
            ),
        }
    }

    /// Every record, as `verify-ledger` reads it: the start reads the newest segment, and the
    /// index of valid certificates needs the others.
    fn ledger(&mut self, config: &Config) {
        let directory = config.state.directory.join("ledger");
        if !directory.exists() {
            return;
        }
        match Ledger::verify_directory(&directory, config.trust_domain.as_str()) {
            Ok(report) => {
                for problem in report.problems.iter().take(SOME) {
                    self.wrong(&format!(
                        "ledger: {problem}; put back an undamaged copy of the file (ARX-LEDGER-DAMAGED)"
                    ));
                }
                if report.problems.len() > SOME {
                    println!(
                        "note  `arx-ca verify-ledger` lists all {} places",
                        report.problems.len()
                    );
                }
                if let Some(torn) = &report.torn {
                    println!("note  {}", torn_end(torn));
                }
                if report.problems.is_empty() {
                    self.well(&format!("ledger: {}", extent(&report)));
                }
            }
            Err(error) => self.wrong(&format!("ledger: {error} ({})", error.code())),
        }
    }

    /// Looks into a copy of the state file, so that a running authority is not disturbed, or into
    /// the service where state is kept.
    async fn state(&mut self, config: &Config) -> Result<Option<State>, Unreadable> {
        let place = config.state.place();
        if let Err(reason) = place.try_rights().await {
            let setting = match place {
                Place::Kubernetes(_) => "state.kubernetes",
                _ => "state.etcd",
            };
            self.wrong_at(setting, &reason);
            return Err(Unreadable);
        }
        let unreadable = |this: &mut Self, error: &dyn std::fmt::Display, code: &str| {
            this.wrong(&format!("state: {error} ({code})"));
            Unreadable
        };
        let store = match place.look().await {
            Ok(store) => store,
            Err(error) => return Err(unreadable(self, &error, error.code())),
        };
        if let Some(store) = store.as_ref().filter(|_| place.is_shared())
            && let Err(error) = store.probe().await
        {
            return Err(unreadable(self, &error, error.code()));
        }
        let first = match &store {
            None => true,
            // Of a file that is there the key cannot be made any more.
            Some(_) if !place.is_shared() => false,
            Some(store) => match State::is_new(store, &config.trust_domain).await {
                Ok(first) => first,
                Err(error) => return Err(unreadable(self, &error, error.code())),
            },
        };
        let seal = match seal_source(config).look(first) {
            Ok(seal) => seal,
            Err(error) => {
                self.wrong_at(
                    "state.seal_key_file",
                    &format!("{error} ({})", error.code()),
                );
                return Err(Unreadable);
            }
        };
        let (Some(seal), Some(store), false) = (seal, store, first) else {
            self.well(&format!("state: {place} will be made at the first start"));
            return Ok(None);
        };
        match State::inspect(store, seal, &config.trust_domain).await {
            Ok(state) => {
                self.well(&format!("state: {place}"));
                Ok(state)
            }
            Err(error) => Err(unreadable(self, &error, error.code())),
        }
    }

    /// What signs, and what is trusted.
    async fn authority(&mut self, config: &Config, clock: &Clock, state: Option<&State>) {
        let options = config.authority_options();
        let now = clock.now();
        let checked = authority::check(&options, &config.trust_domain, state, now).await;
        for problem in &checked.problems {
            self.wrong_at(
                problem.setting,
                &format!("{} ({})", problem.message, problem.code),
            );
        }
        if checked.problems.is_empty() {
            self.well("authority");
        }
        if let Some(custody) = checked.reached {
            self.well(&format!("the root's key: {custody}"));
        }
        if let Some(error) = checked.unreachable {
            self.wrong(&format!("the root's key: {error} ({})", error.code()));
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
            // Told below, with the ledger.
            Err(_) => return,
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
                    is_restored: state
                        .restored()
                        .await
                        .is_ok_and(|it| it.is_some_and(|it| it.is_shut())),
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
