//! The signals that a daemon understands.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{Cause, Drain};
use crate::exit;

/// SIGHUP, as a wish to read the configuration again.
#[derive(Debug)]
pub struct Reloads {
    hangup: Signal,
}

impl Reloads {
    /// Waits for the next SIGHUP. Several that come before the process is ready for one are one.
    pub async fn next(&mut self) {
        if self.hangup.recv().await.is_none() {
            // No more signals can come; the caller's loop must not spin.
            std::future::pending::<()>().await;
        }
    }
}

/// From now on SIGTERM and SIGINT ask for the end of the process, which then has `grace` to finish. The second of them
/// ends it on the spot with [`exit::RUNTIME`]; what was promised to be durable is on disk by then, as after a SIGKILL.
///
/// Once per process, on a tokio runtime with I/O.
pub fn listen(grace: Duration) -> io::Result<(Drain, Reloads)> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let reloads = Reloads {
        hangup: signal(SignalKind::hangup())?,
    };
    let drain = Drain::new(grace);
    let token = drain.clone();
    let watching = async move {
        let mut next = async || {
            tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            }
        };
        let name = next().await;
        token.request(Cause::Signal(name));
        let name = next().await;
        tracing::warn!(
            code = "ARX-FORCED-END",
            signal = name,
            "second signal, ending at once"
        );
        std::process::exit(exit::RUNTIME.into());
    };
    #[expect(
        clippy::disallowed_methods,
        reason = "watches for the end, so it cannot be waited for at the end"
    )]
    tokio::spawn(watching);
    Ok((drain, reloads))
}
