//! The embedded store: one file, one process.
//!
//! The file is read once, at the start, and reads are answered from memory ever after. So
//! they go on while the disk is full or failing, and what this process acknowledged is at hand
//! to write anew when the disk is well again.

mod file;
mod medium;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::SystemTime;

use arx_daemon::files::{Held, Lock, lock_exclusive};
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use redb::Database;
use tokio::task::spawn_blocking;

use self::file::{Identity, Unreadable};
use self::medium::Media;
use super::changes::Hub;
use super::table::{Change, Table};
use super::{
    CasError, Changes, Cursor, Entry, Key, Memory, Page, Prefix, Store, StoreError, Version,
};

/// A store in one file, held by one process at a time.
#[derive(Debug)]
pub struct Redb(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    media: Media,
    view: RwLock<View>,
    disk: Mutex<Disk>,
    hub: Hub,
    _lock: Lock,
}

/// What reads are answered from.
#[derive(Debug)]
struct View {
    /// Exactly what has been acknowledged.
    table: Table,
    /// The key of a write of which nobody knows yet whether it reached the disk. To answer
    /// with the old value would be a lie if a restart then showed the new one.
    suspect: Option<Key>,
}

/// The writer's side. Whoever writes holds its lock until the disk has answered.
#[derive(Debug)]
struct Disk {
    database: State,
    /// The file that this process opened or made.
    identity: Identity,
}

#[derive(Debug)]
enum State {
    Open(Database),
    /// The last write failed, or the disk had no space to open the file for writing.
    Closed,
    /// The file is not what this process wrote. It stays as it is.
    Damaged(StoreError),
}

/// A state file cannot be used. It was not changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error(
        "state file {} is in use by {holder}: one process can use it at a time, stop that one first",
        path.display()
    )]
    Held {
        /// The state file.
        path: PathBuf,
        /// The process, and since when it has the file, as far as it has noted them.
        holder: String,
    },
    /// There is no file.
    #[error(
        "state file {} does not exist: restore it, mount its volume, or let a first start make it",
        path.display()
    )]
    Missing {
        /// The state file.
        path: PathBuf,
    },
    /// Its directory is not there.
    #[error(
        "the directory of state file {} does not exist: mount its volume, or make it",
        path.display()
    )]
    NoDirectory {
        /// The state file.
        path: PathBuf,
    },
    /// It is not whole, or not a state file.
    #[error(
        "state file {} is damaged ({detail}): it was left as it is; restore a backup in its \
         place. Without it the authority begins anew, with another root",
        path.display()
    )]
    Damaged {
        /// The state file.
        path: PathBuf,
        /// What does not hold.
        detail: String,
    },
    /// A newer version of Arx wrote it in a form that this one cannot read.
    #[error(
        "state file {} was written by a newer version of Arx (layout {layout}, this one reads \
         {}): run that version, or restore a backup from before the upgrade",
        path.display(),
        file::LAYOUT
    )]
    Newer {
        /// The state file.
        path: PathBuf,
        /// The layout it has.
        layout: u64,
    },
    /// The file system refuses.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl OpenError {
    fn held(path: &Path, holder: impl Into<String>) -> Self {
        Self::Held {
            path: path.to_owned(),
            holder: holder.into(),
        }
    }

    /// The stable reason code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Held { .. } => "ARX-STORE-HELD",
            Self::Missing { .. } | Self::NoDirectory { .. } => "ARX-STORE-MISSING",
            Self::Damaged { .. } => "ARX-STORE-DAMAGED",
            Self::Newer { .. } => "ARX-STORE-NEWER",
            Self::Store(error) => error.code(),
        }
    }
}

impl Redb {
    /// Opens the state file at `path`. Blocks on the file system. `now` is what a second process
    /// is told: since when this one has the file.
    ///
    /// If there is no space to write, it opens all the same: reads are answered, and writes
    /// begin to succeed when space returns.
    ///
    /// # Errors
    /// [`OpenError`]; the file is as it was.
    pub fn open(path: &Path, now: SystemTime) -> Result<Self, OpenError> {
        Self::start(path, now, false, Media::default())
    }

    /// Opens the state file at `path`, or makes it if there is none. Otherwise as
    /// [`Redb::open`].
    ///
    /// # Errors
    /// [`OpenError`]; a file that was there is as it was.
    pub fn open_or_create(path: &Path, now: SystemTime) -> Result<Self, OpenError> {
        Self::start(path, now, true, Media::default())
    }

    /// What the state file at `path` holds, as a copy in memory: nothing is written, no lock is
    /// taken, and a process that has the file does not notice. Blocks on the file system.
    ///
    /// # Errors
    /// [`OpenError`]; [`OpenError::Damaged`] also if a process was writing all the time.
    pub fn peek(path: &Path) -> Result<Memory, OpenError> {
        let path = &file::resolve(path)?;
        let mut looks = 3;
        loop {
            looks -= 1;
            match file::read(path) {
                Ok((table, _)) => return Ok(Memory::holding(table)),
                // Between two writes of another process it is not whole.
                Err(Unreadable::Damaged(_)) if looks > 0 => {}
                Err(unreadable) => return Err(unreadable.of(path)),
            }
        }
    }

    fn start(path: &Path, now: SystemTime, create: bool, media: Media) -> Result<Self, OpenError> {
        let path = &file::resolve(path)?;
        let lock = lock(path, now)?;
        let (table, disk) = match file::read(path) {
            Ok((table, identity)) => (
                table,
                Disk {
                    database: begin(path, &media)?,
                    identity,
                },
            ),
            Err(Unreadable::Missing) if create => {
                let table = Table::default();
                let (database, identity) = file::write(path, &table, &media)?;
                (
                    table,
                    Disk {
                        database: State::Open(database),
                        identity,
                    },
                )
            }
            Err(unreadable) => return Err(unreadable.of(path)),
        };
        Ok(Self(Arc::new(Inner {
            path: path.clone(),
            media,
            view: RwLock::new(View {
                table,
                suspect: None,
            }),
            disk: Mutex::new(disk),
            hub: Hub::default(),
            _lock: lock,
        })))
    }

    fn write(
        &self,
        key: &Key,
        expected: Option<&Version>,
        value: Option<Bytes>,
    ) -> BoxFuture<'static, Result<Version, CasError>> {
        let (inner, key, expected) = (self.0.clone(), key.clone(), expected.cloned());
        async move {
            let unknown = key.clone();
            spawn_blocking(move || inner.write(&key, expected.as_ref(), value))
                .await
                .unwrap_or_else(|gone| Err(CasError::unknown(&unknown, gone.to_string())))
        }
        .boxed()
    }

    /// An answer from memory; if a write below `prefix` or to `key` is in doubt, only after it
    /// has been decided.
    fn read<R: Send + 'static>(
        &self,
        concerns: impl FnOnce(&Key) -> bool,
        answer: impl FnOnce(&Table) -> R + Send + 'static,
    ) -> BoxFuture<'static, Result<R, StoreError>> {
        let view = self.0.view();
        if !view.suspect.as_ref().is_some_and(concerns) {
            return std::future::ready(Ok(answer(&view.table))).boxed();
        }
        let inner = self.0.clone();
        async move {
            inner.clone().settled().await?;
            Ok(answer(&inner.view().table))
        }
        .boxed()
    }
}

fn lock(path: &Path, now: SystemTime) -> Result<Lock, OpenError> {
    lock_exclusive(file::beside(path, ".lock"), now).map_err(|held| match held {
        Held::By {
            holder: Some(holder),
            ..
        } => OpenError::held(path, holder.to_string()),
        Held::By { holder: None, .. } => OpenError::held(path, "another process"),
        Held::Io { error, .. } => StoreError::io(path, &error).into(),
    })
}

fn begin(path: &Path, media: &Media) -> Result<State, OpenError> {
    match file::open(path, media) {
        Ok(database) => Ok(State::Open(database)),
        // redb has a lock of its own, which says no more than that. It is what remains when
        // somebody has deleted our lock file.
        Err(redb::Error::DatabaseAlreadyOpen) => Err(OpenError::held(path, "another process")),
        Err(error) => match file::why(path, &error) {
            StoreError::Full { .. } => Ok(State::Closed),
            error => Err(error.into()),
        },
    }
}

impl Inner {
    // A panic while either lock is held leaves what a failed write leaves: the acknowledged
    // table, a closed file and a suspect key.
    fn view(&self) -> RwLockReadGuard<'_, View> {
        self.view.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn view_mut(&self) -> RwLockWriteGuard<'_, View> {
        self.view.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(
        &self,
        key: &Key,
        expected: Option<&Version>,
        value: Option<Bytes>,
    ) -> Result<Version, CasError> {
        let mut disk = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
        self.reopen(&mut disk)?;
        file::in_place(&self.path, disk.identity)?;
        let change = self.view().table.prepare(key, expected, value)?;
        let State::Open(database) = std::mem::replace(&mut disk.database, State::Closed) else {
            unreachable!("it was opened just now");
        };
        self.view_mut().suspect = Some(key.clone());
        if let Err(error) = file::commit(&database, &change) {
            // Closes it: redb refuses everything after a failed write.
            drop(database);
            return Err(self.failed(&mut disk, &change, file::why(&self.path, &error)));
        }
        disk.database = State::Open(database);
        let version = Version::from(change.revision);
        let mut view = self.view_mut();
        view.table.apply(change);
        view.suspect = None;
        drop(view);
        self.hub.notify(key);
        Ok(version)
    }

    /// Finds out what became of a write that failed.
    fn failed(&self, disk: &mut Disk, change: &Change, error: StoreError) -> CasError {
        if let StoreError::Damaged { .. } = error {
            disk.database = State::Damaged(error.clone());
        }
        // Either the disk takes a file without the write, or the file that is there shows that
        // the write never got as far as to count.
        let undone = self.reopen(disk).is_ok() || {
            let acknowledged = self.view().table.revision;
            file::read(&self.path).is_ok_and(|(table, _)| table.revision == acknowledged)
        };
        if undone {
            self.view_mut().suspect = None;
            CasError::Store(error)
        } else {
            CasError::unknown(&change.key, error.to_string())
        }
    }

    /// Opens the file again after a failure, by writing what was acknowledged to a new one.
    ///
    /// The old one cannot be trusted: after a failed sync the system may show what is not on
    /// the disk.
    fn reopen(&self, disk: &mut Disk) -> Result<(), StoreError> {
        match &disk.database {
            State::Open(_) => return Ok(()),
            State::Damaged(error) => return Err(error.clone()),
            State::Closed => {}
        }
        if let Err(replaced) = file::still(&self.path, disk.identity) {
            disk.database = State::Damaged(replaced.clone());
            return Err(replaced);
        }
        let (database, identity) = file::write(&self.path, &self.view().table, &self.media)?;
        *disk = Disk {
            database: State::Open(database),
            identity,
        };
        self.view_mut().suspect = None;
        Ok(())
    }

    /// Whether writes succeed, as far as can be told without one.
    async fn tried(self: Arc<Self>) -> Result<(), StoreError> {
        let inner = Arc::clone(&self);
        self.blocking(move || {
            let mut disk = inner.disk.lock().unwrap_or_else(PoisonError::into_inner);
            inner.reopen(&mut disk)?;
            file::in_place(&inner.path, disk.identity)
        })
        .await
    }

    /// Waits until no write is in doubt.
    async fn settled(self: Arc<Self>) -> Result<(), StoreError> {
        let inner = Arc::clone(&self);
        self.blocking(move || {
            inner.reopen(&mut inner.disk.lock().unwrap_or_else(PoisonError::into_inner))
        })
        .await
    }

    async fn blocking(
        &self,
        work: impl FnOnce() -> Result<(), StoreError> + Send + 'static,
    ) -> Result<(), StoreError> {
        spawn_blocking(work).await.unwrap_or_else(|gone| {
            let place = StoreError::state_file(&self.path);
            Err(StoreError::Unavailable {
                place,
                detail: gone.to_string(),
            })
        })
    }
}

impl Store for Redb {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Entry>, StoreError>> {
        let wanted = key.clone();
        self.read(|suspect| suspect == key, move |table| table.get(&wanted))
    }

    fn compare_and_swap<'a>(
        &'a self,
        key: &'a Key,
        expected: Option<&'a Version>,
        value: Bytes,
    ) -> BoxFuture<'a, Result<Version, CasError>> {
        self.write(key, expected, Some(value))
    }

    fn delete<'a>(
        &'a self,
        key: &'a Key,
        expected: &'a Version,
    ) -> BoxFuture<'a, Result<(), CasError>> {
        self.write(key, Some(expected), None)
            .map(|outcome| outcome.map(drop))
            .boxed()
    }

    fn list<'a>(
        &'a self,
        prefix: &'a Prefix,
        from: Option<&'a Cursor>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page, StoreError>> {
        let (wanted, from) = (prefix.clone(), from.cloned());
        self.read(
            |suspect| prefix.covers(suspect),
            move |table| table.list(&wanted, from.as_ref(), limit),
        )
    }

    fn changes(&self, prefix: &Prefix) -> Changes {
        self.0.hub.subscribe(prefix)
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        self.0.clone().tried().boxed()
    }
}

#[cfg(test)]
mod tests;
