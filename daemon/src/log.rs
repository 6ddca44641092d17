//! Logs: one line per event on standard error, as JSON for machines or text for eyes. Reason codes are fields (`code`).
//! A value can forge no line of its own: control characters are escaped in both formats.

mod layer;
mod record;

use std::any::Any;
use std::fmt;
use std::io::Write;

use serde::Deserialize;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Layer as _, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, reload};

use crate::Clock;
use layer::Lines;

/// Libraries that tell each frame and each poll below `info`: at most `info` is heard of them.
const TALKATIVE: [&str; 8] = [
    "h2",
    "hyper",
    "hyper_util",
    "rustls",
    "tokio_rustls",
    "tokio_util",
    "tonic",
    "tower",
];

/// The `[log]` table of a configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// `json` (the default) or `text`.
    pub format: Format,
    /// `error`, `warn`, `info` (the default), `debug` or `trace`.
    pub level: Level,
}

/// How a line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// An object per line: `time`, `level`, `target`, `message`, then the event's fields beside them.
    #[default]
    Json,
    /// `TIME LEVEL TARGET: MESSAGE key=value ...`
    Text,
}

/// The least important events that are logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Something failed that somebody must look at.
    Error,
    /// Something is wrong that Arx copes with.
    Warn,
    /// What an operator wants to read afterwards.
    #[default]
    Info,
    /// What somebody who looks for a fault wants to read.
    Debug,
    /// Everything.
    Trace,
}

impl Level {
    fn targets(self) -> Targets {
        let level = match self {
            Level::Error => LevelFilter::ERROR,
            Level::Warn => LevelFilter::WARN,
            Level::Info => LevelFilter::INFO,
            Level::Debug => LevelFilter::DEBUG,
            Level::Trace => LevelFilter::TRACE,
        };
        let quiet = level.min(LevelFilter::INFO);
        // What whoever is at the other end does wrong can be done without end.
        let peers = match self {
            Level::Debug | Level::Trace => quiet,
            _ => LevelFilter::ERROR,
        };
        Targets::new()
            .with_default(level)
            .with_targets(TALKATIVE.map(|target| (target, quiet)))
            .with_target("h2", peers)
    }
}

/// The process's log, to change its level while it runs.
#[derive(Clone)]
pub struct Log {
    filter: reload::Handle<Targets, Registry>,
}

impl Log {
    /// Logs from `level` up from now on.
    pub fn set_level(&self, level: Level) {
        // Fails only if the subscriber is gone, and then nobody logs.
        let _ = self.filter.reload(level.targets());
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Log")
    }
}

/// Logging was set up before, by whomever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("logging is already set up in this process; call log::init once, in main")]
pub struct AlreadySet;

/// Sets up logging to standard error for the whole process, and logs panics from then on as errors instead of as loose
/// text. `clock` stamps the lines.
pub fn init(options: Options, clock: &Clock) -> Result<Log, AlreadySet> {
    // Whole lines by one call each: lines of several threads don't mix. If nobody reads them there is nobody to tell.
    let write = |line: &[u8]| drop(std::io::stderr().lock().write_all(line));
    let (subscriber, log) = subscriber(options, clock, write);
    subscriber.try_init().map_err(|_| AlreadySet)?;
    std::panic::set_hook(Box::new(|panic| {
        let location = panic
            .location()
            .map(ToString::to_string)
            .unwrap_or_default();
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("unnamed");
        let reason = panic_reason(panic.payload());
        tracing::error!(
            code = "ARX-PANIC",
            location,
            thread,
            "panicked: {reason}; please report this"
        );
    }));
    Ok(log)
}

/// What a panic said, from its payload.
pub(crate) fn panic_reason(payload: &(dyn Any + Send)) -> &str {
    let literal = payload.downcast_ref::<&str>().copied();
    literal
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no reason given")
}

fn subscriber(
    options: Options,
    clock: &Clock,
    write: impl Fn(&[u8]) + Send + Sync + 'static,
) -> (impl tracing::Subscriber + Send + Sync, Log) {
    let (filter, handle) = reload::Layer::new(options.level.targets());
    let lines = Lines::new(options.format, clock.clone(), write);
    (
        tracing_subscriber::registry().with(lines.with_filter(filter)),
        Log { filter: handle },
    )
}

#[cfg(test)]
mod tests;
