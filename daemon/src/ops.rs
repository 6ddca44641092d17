//! The operator's port: is it alive, is it ready and if not why, and its metrics.

mod metrics;
mod readiness;
mod server;
pub mod web;

pub use metrics::{Process, registry};
pub use readiness::{Condition, Failing, Readiness, STARTING, Said};
pub use server::{Server, Serving, Site};
