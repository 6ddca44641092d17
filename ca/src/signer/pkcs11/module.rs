//! The threads that call modules: one for each, for as long as the process lives, because a
//! module is initialised once per process, and knows of one user at a time.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;

use tokio::sync::oneshot;

use super::connection::Loaded;
use crate::signer::SignerError;

/// Calls that may wait behind one that does not come back.
const WAITING: usize = 8;

type Job = Box<dyn FnOnce(&mut Loaded) + Send>;

/// Has `work` done by the thread of the module at `path`. Whoever stops to wait has it done
/// nevertheless, if it has begun.
pub(super) async fn call<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce(&mut Loaded) -> Result<T, SignerError> + Send + 'static,
) -> Result<T, SignerError> {
    let (answer, answered) = oneshot::channel();
    let job = Box::new(move |loaded: &mut Loaded| {
        if !answer.is_closed() {
            // Nobody waits any more: nothing to do about it.
            let _ = answer.send(work(loaded));
        }
    });
    let unreachable = |reason: &str| SignerError::Unreachable {
        custody: format!("PKCS#11 module {}", path.display()),
        reason: reason.to_owned(),
    };
    match thread_of(path)?.try_send(job) {
        Ok(()) => {}
        Err(TrySendError::Full(_)) => {
            return Err(unreachable(
                "an earlier call to it has not come back: see what the token does",
            ));
        }
        Err(TrySendError::Disconnected(_)) => {
            return Err(unreachable("the thread that calls it has ended: restart"));
        }
    }
    answered
        .await
        .unwrap_or_else(|_| Err(unreachable("a call to it has failed: see the log")))
}

fn thread_of(path: &Path) -> Result<SyncSender<Job>, SignerError> {
    static THREADS: OnceLock<Mutex<HashMap<PathBuf, SyncSender<Job>>>> = OnceLock::new();
    let mut threads = THREADS
        .get_or_init(Mutex::default)
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    if let Some(thread) = threads.get(path) {
        return Ok(thread.clone());
    }
    let (jobs, waiting) = sync_channel(WAITING);
    let loaded = Loaded::new(path.to_owned());
    thread::Builder::new()
        .name("pkcs11".to_owned())
        .spawn(move || work(loaded, &waiting))
        .map_err(|error| SignerError::CutOff(format!("no thread for PKCS#11: {error}")))?;
    threads.insert(path.to_owned(), jobs.clone());
    Ok(jobs)
}

fn work(mut loaded: Loaded, jobs: &Receiver<Job>) {
    while let Ok(job) = jobs.recv() {
        if catch_unwind(AssertUnwindSafe(|| job(&mut loaded))).is_err() {
            loaded.reset();
        }
    }
}
