//! What is opened from the disk, in the order in which the parts need each other.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arx_daemon::Clock;
use arx_daemon::drain::Drain;

use super::SOFTWARE;
use super::door::Door;
use super::keep::Conditions;
use super::waiting::Room;
use crate::authority::{self, Authority, AuthorityError};
use crate::checkpoint::{self, CompareError};
use crate::config::Config;
use crate::denial;
use crate::ledger::{self, Ledger};
use crate::restore;
use crate::seal;
use crate::state::{LedgerLost, State, StateError};
use crate::store;
use crate::token::SourceError;
use crate::trust::{Evidence, Trust, TrustError};

/// Between attempts to open what can't be written at the moment.
const AGAIN: Duration = Duration::from_secs(2);

/// Why an authority can't start.
#[derive(Debug)]
pub(super) struct StartError {
    pub(super) code: &'static str,
    pub(super) message: String,
    /// It may be otherwise soon, without anybody restarting the process.
    passes: bool,
    /// Starting again can't help before somebody has changed a file.
    pub(super) configuration: bool,
}

impl StartError {
    pub(super) fn new(code: &'static str, message: impl ToString) -> Self {
        Self {
            code,
            message: message.to_string(),
            passes: false,
            configuration: false,
        }
    }

    pub(super) fn io(what: impl std::fmt::Display) -> impl FnOnce(io::Error) -> Self {
        let what = what.to_string();
        move |error| Self::new("ARX-START", format!("{what}: {error}"))
    }
}

impl From<CompareError> for StartError {
    fn from(error: CompareError) -> Self {
        match error {
            CompareError::State(error) => error.into(),
            CompareError::Ledger(error) => error.into(),
            CompareError::Ended(error) => Self::new("ARX-START", error),
        }
    }
}

macro_rules! start_error_from {
    ($($error:ty: $passes:expr, $configuration:expr;)*) => {$(
        impl From<$error> for StartError {
            fn from(error: $error) -> Self {
                let passes: fn(&$error) -> bool = $passes;
                let configuration: fn(&$error) -> bool = $configuration;
                Self { code: error.code(), message: error.to_string(), passes: passes(&error), configuration: configuration(&error) }
            }
        }
    )*};
}
start_error_from!(
    store::OpenError: |error| matches!(error, store::OpenError::Store(error) if error.passes()), |_| false;
    seal::SourceError: |_| false, |_| true;
    SourceError: |_| false, |_| true;
    StateError: StateError::passes, |_| false;
    AuthorityError: AuthorityError::passes, |error| error.is_configuration();
    TrustError: TrustError::passes, |_| false;
    ledger::Error: ledger::Error::passes, |_| false;
    ledger::AppendError: |error| matches!(error, ledger::AppendError::Paused(_)), |_| false;
);

/// What is opened from the disk.
pub(super) struct Parts {
    pub(super) replica: Arc<str>,
    pub(super) denials: denial::Current,
    pub(super) restore: restore::Current,
    pub(super) state: State,
    pub(super) authority: Authority,
    pub(super) trust: Trust,
    pub(super) ledger: Ledger,
    /// That what was issued earlier is not known.
    pub(super) lost: Option<LedgerLost>,
}

/// How a process starts.
#[derive(Clone, Copy)]
pub(super) struct Start<'a> {
    pub(super) config: &'a Config,
    pub(super) clock: &'a Clock,
    pub(super) accept_loss: bool,
    pub(super) conditions: &'a Conditions,
    pub(super) drain: &'a Drain,
}

impl Parts {
    /// Opens them, and waits as long as the disk is full or read-only: the process is there
    /// and says so, and goes on by itself. `None` if its end is asked for meanwhile.
    pub(super) async fn open(
        start: Start<'_>,
        door: &mut Door,
    ) -> Result<Option<Self>, StartError> {
        let mut told = String::new();
        loop {
            let error = match Self::try_open(start, door).await {
                Ok(parts) => return Ok(parts),
                Err(error) if error.passes => error,
                Err(error) => return Err(error),
            };
            if told != error.message {
                tracing::error!(code = error.code, "can't start yet: {}", error.message);
                let store = &start.conditions.store;
                store.set_failing(error.code, error.message.clone());
                told = error.message;
            }
            tokio::select! {
                () = tokio::time::sleep(AGAIN) => {}
                () = start.drain.requested() => return Ok(None),
            }
        }
    }

    async fn try_open(start: Start<'_>, door: &mut Door) -> Result<Option<Self>, StartError> {
        let Start {
            config,
            clock,
            accept_loss,
            ..
        } = start;
        let directory = &config.state.directory;
        let opened = private_directory(directory).map_err(StartError::io(format!(
            "can't prepare state.directory {}",
            directory.display()
        )))?;
        if let Some(mode) = opened {
            tracing::warn!(code = "ARX-STATE-DIRECTORY", directory = %directory.display(), "others had access to state.directory (mode {mode:04o}): it is closed to them now (0700)");
        }
        let now = clock.now();
        let store = config.state.place().open(now).await?;
        let first = State::is_new(&store, &config.trust_domain).await?;
        let (ledger, recovery) = Ledger::open(ledger_options(config), now)?;
        if let Some(torn) = &recovery.torn {
            tracing::warn!(code = "ARX-LEDGER-TORN", file = %torn.file.display(), offset = torn.offset, bytes = torn.bytes, "half a record at the end of the ledger was cut off, which a crash had left: {torn}");
        }
        let mut evidence = Evidence {
            highest: ledger.last_sequence(),
            accept_loss,
            is_restored: false,
        };
        if first {
            // Before anything is in the store: a backup is put into an empty one.
            Trust::may_begin(evidence)?;
        }
        let seal = seal_source(config).seal(first)?;
        let state = State::open(store, seal, &config.trust_domain, SOFTWARE).await?;
        let is_restored = state.restored().await?.is_some_and(|it| it.is_shut());
        evidence.is_restored = is_restored;
        // Before this start is noted anywhere, and again with what this replica has seen.
        Trust::examine(&state, None, evidence).await?;
        let replica = state.replica(config.replica_name().as_deref(), now).await?;
        let announced = config.announced(replica.name());
        replica.announce(announced.as_deref()).await?;
        Trust::examine(&state, Some(&replica), evidence).await?;
        restore::note_history(&state, replica.name(), &ledger).await?;
        let longest = config.policy.longest_ttl();
        let lost = checkpoint::compare(&state, &replica, &ledger, longest, now).await?;
        if accept_loss || is_restored {
            // A backup may be from before a root was distrusted; the ledger knows.
            let reading = ledger.clone();
            let distrusted = tokio::task::spawn_blocking(move || reading.distrusted(now)).await;
            let distrusted = distrusted.map_err(|error| StartError::new("ARX-START", error))??;
            for root in &distrusted {
                tracing::warn!(%root, "a root that was distrusted stays so");
            }
            state.bury(&distrusted, now).await?;
        }
        let options = config.authority_options();
        if let Some(reason) = authority::awaits(&state, &options, now).await? {
            let room = Room {
                state: state.clone(),
                replica: replica.clone(),
                options: options.clone(),
                ledger: ledger.clone(),
            };
            if !room.wait(reason, start, door).await? {
                return Ok(None);
            }
        }
        // It may have been a long time.
        let now = clock.now();
        let authority = Authority::open(state.clone(), &replica, options, now).await?;
        for note in authority.notes() {
            tracing::warn!(code = "ARX-AUTHORITY-NOTE", "{note}");
        }
        let trust = Trust::open(state.clone(), &replica, &authority.root(), evidence, now).await?;
        let denials = denial::Current::open(state.clone(), &replica).await?;
        let restore = restore::Current::open(state.clone()).await?;
        if let Some(said) = restore::ledgers_word(&state, &ledger).await? {
            restore.note_ledger(said);
        }
        Ok(Some(Self {
            replica: replica.name().into(),
            denials,
            restore,
            state,
            authority,
            trust,
            ledger,
            lost,
        }))
    }
}

/// A directory for its owner alone. The mode that it had, if that was another and it was there
/// before.
fn private_directory(directory: &Path) -> io::Result<Option<u32>> {
    let existed = directory.exists();
    std::fs::create_dir_all(directory)?;
    let mode = std::fs::metadata(directory)?.permissions().mode() & 0o7777;
    if mode & 0o777 == 0o700 {
        return Ok(None);
    }
    std::fs::set_permissions(directory, Permissions::from_mode(0o700))?;
    Ok(existed.then_some(mode))
}

/// Where the sealing key comes from.
pub(crate) fn seal_source(config: &Config) -> seal::Source {
    match &config.state.seal_key_file {
        Some(path) => seal::Source::File {
            path: path.clone(),
            // Each replica would make another one.
            create: !config.state.place().is_shared(),
        },
        None => seal::Source::None,
    }
}

/// Where keys are that are in the state, in words.
pub(super) fn custody(config: &Config) -> String {
    let kind = config.state.place().kind();
    match &config.state.seal_key_file {
        Some(_) => format!("{kind}, sealed"),
        None => format!("{kind}, in plain text"),
    }
}

/// The ledger as configured.
fn ledger_options(config: &Config) -> ledger::Options {
    ledger::Options {
        directory: config.state.directory.join("ledger"),
        trust_domain: config.trust_domain.clone(),
        segment_bytes: config.ledger.segment_size.bytes(),
        gather: config.ledger.gather.get(),
    }
}
