//! What every Arx process does the same way: it reads a configuration that is refused rather than guessed at, keeps
//! the one wall clock, writes files that survive a power cut, logs, answers its operator, and ends in good order.
//!
//! Nothing here knows what a process is for. A new daemon is put together like this:
//!
//! ```no_run
//! use arx_daemon::{Clock, config, drain, exit, log, ops};
//!
//! #[derive(serde::Deserialize)]
//! #[serde(deny_unknown_fields)]
//! struct Config {
//!     #[serde(default)]
//!     log: log::Options,
//!     ops_address: std::net::SocketAddr,
//! }
//!
//! async fn run(config: Config) -> std::io::Result<u8> {
//!     let clock = Clock::system();
//!     let (drain, mut reloads) = drain::listen(std::time::Duration::from_secs(20))?;
//!     let tasks = drain::Tasks::new(&drain);
//!     let readiness = ops::Readiness::new();
//!     let process = ops::Process { name: "arx-example", version: env!("CARGO_PKG_VERSION") };
//!     let registry = ops::registry(&process, &clock, &readiness, &tasks);
//!     let ops = ops::Server::bind(config.ops_address).await?.start(readiness.clone(), registry, drain.clone());
//!
//!     let store = readiness.condition("store"); // failing until it is said to be well
//!     store.set_ok();
//!     tasks.spawn("clock", drain::OnPanic::End, { let drain = drain.clone(); async move {
//!         tokio::select! { () = clock.watch() => {} () = drain.requested() => {} }
//!     }});
//!     while tokio::select! { () = drain.requested() => false, () = reloads.next() => true } {
//!         // read the configuration again: whole or not at all
//!     }
//!     tasks.finish().await;
//!     drop(ops);
//!     Ok(drain.exit_code())
//! }
//! # let _ = (run, exit::OK, |path: &str| config::load::<Config>(path));
//! ```
#![deny(missing_docs)]

pub mod calls;
pub mod clock;
pub mod config;
pub mod drain;
pub mod exit;
pub mod files;
pub mod idle;
pub mod log;
pub mod ops;
pub mod places;

pub use clock::Clock;
