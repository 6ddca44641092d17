//! The admin socket, which opens as soon as there is something to answer: earlier than
//! everything else, if the authority waits for its certificate from outside.

use std::path::{Path, PathBuf};

use arx_daemon::drain::{Drain, OnPanic, Tasks};
use arx_daemon::files;
use tokio::net::UnixListener;

use super::open::StartError;
use crate::serve::{Answers, Operator, serve_admin};

pub(super) struct Door {
    socket: PathBuf,
    tasks: Tasks,
    drain: Drain,
    operator: Operator,
    is_open: bool,
}

impl Door {
    pub(super) fn new(socket: &Path, tasks: &Tasks, drain: &Drain) -> Self {
        Self {
            socket: socket.to_owned(),
            tasks: tasks.clone(),
            drain: drain.clone(),
            operator: Operator::default(),
            is_open: false,
        }
    }

    /// Opens it, if it is not. Only once the state is ours: until then, the socket may be that
    /// of another process.
    pub(super) fn open(&mut self) -> Result<(), StartError> {
        if !self.is_open {
            let listener = bind(&self.socket)?;
            self.tasks.spawn(
                "admin listener",
                OnPanic::End,
                serve_admin(
                    listener,
                    self.operator.clone(),
                    self.tasks.clone(),
                    self.drain.clone(),
                ),
            );
            self.is_open = true;
        }
        Ok(())
    }

    /// From now on, this is answered.
    pub(super) fn answer(&self, answers: Answers) {
        self.operator.answer(answers);
    }
}

/// The socket is for root and the own user; the permissions say so too.
fn bind(path: &Path) -> Result<UnixListener, StartError> {
    let what = format!("can't bind admin.socket {}", path.display());
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(StartError::io(&what))?;
    }
    files::bind_socket(path, 0o600)
        .map_err(|error| StartError::new("ARX-START", format!("admin.socket: {error}")))
        .and_then(|listener| UnixListener::from_std(listener).map_err(StartError::io(&what)))
}
