//! The state file itself: reading one without touching it, writing a whole one, and adding a
//! change to one.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use redb::backends::InMemoryBackend;
use redb::{
    Builder, Database, Error, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition,
};

use super::medium::Media;
use super::{OpenError, StoreError};
use crate::store::table::{Change, Table};
use crate::store::{Key, MAX_VALUE};

/// The form of the file: these two tables. What the values mean has a number of its own.
pub(super) const LAYOUT: u64 = 1;

/// Text of the key -> (revision of the write, value).
const ENTRIES: TableDefinition<'_, &str, (u64, &[u8])> = TableDefinition::new("entries");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const META_LAYOUT: &str = "layout";
const META_REVISION: &str = "revision";

/// Reads are answered from memory, so redb's own cache only has to hold what a write touches.
const CACHE: usize = 1024 * 1024;

/// How far beyond its own length a file may grow when it is tried out in memory: a damaged
/// one may ask for anything.
const TRIAL_GROWTH: u64 = 64 * 1024 * 1024;

/// Which file it is, whatever it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
}

/// Why a file could not be read.
#[derive(Debug)]
pub(super) enum Unreadable {
    Missing,
    Damaged(String),
    Newer(u64),
    Io(io::Error),
}

/// What the file holds, found out on a copy in memory: to open a file, redb writes to it, and
/// one that turns out to be damaged must stay as it is.
pub(super) fn read(path: &Path) -> Result<(Table, Identity), Unreadable> {
    let (bytes, identity) = match File::open(path).and_then(|mut file| contents(&mut file)) {
        Ok(read) => read,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Unreadable::Missing),
        Err(error) => return Err(Unreadable::Io(error)),
    };
    // redb takes an empty file for a new database. Ours appear by a rename, never empty.
    if bytes.is_empty() {
        return Err(Unreadable::Damaged("it is empty".to_owned()));
    }
    Ok((parse(bytes)?, identity))
}

fn contents(file: &mut File) -> io::Result<(Vec<u8>, Identity)> {
    let mut bytes = Vec::new();
    io::Read::read_to_end(file, &mut bytes)?;
    Ok((bytes, Identity::of(file)?))
}

fn parse(bytes: Vec<u8>) -> Result<Table, Unreadable> {
    let database = builder()
        .set_check_integrity_on_open(true)
        .create_with_backend(Trial::new(&bytes).map_err(Unreadable::Io)?)
        .map_err(|error| Unreadable::Damaged(error.to_string()))?;
    drop(bytes);
    load(&database).map_err(|error| Unreadable::Damaged(error.to_string()))?
}

fn load(database: &Database) -> Result<Result<Table, Unreadable>, Error> {
    let transaction = database.begin_read()?;
    let meta = transaction.open_table(META)?;
    let layout = meta.get(META_LAYOUT)?.map_or(0, |layout| layout.value());
    if layout > LAYOUT {
        return Ok(Err(Unreadable::Newer(layout)));
    }
    let damaged = |detail: String| Ok(Err(Unreadable::Damaged(detail)));
    if layout < LAYOUT {
        return damaged("it does not say which layout it has".to_owned());
    }
    let mut table = Table::default();
    table.revision = meta
        .get(META_REVISION)?
        .map_or(0, |revision| revision.value());
    for row in transaction.open_table(ENTRIES)?.iter()? {
        let (text, row) = row?;
        let (revision, value) = row.value();
        match text.value().parse::<Key>() {
            Ok(key) if revision <= table.revision && value.len() <= MAX_VALUE => {
                table.insert(key, revision, Bytes::copy_from_slice(value));
            }
            Ok(key) => return damaged(format!("the entry {key} cannot have been written by Arx")),
            Err(error) => return damaged(error.to_string()),
        }
    }
    Ok(Ok(table))
}

/// Opens the file for writing. It has been read before.
pub(super) fn open(path: &Path, media: &Media) -> Result<Database, Error> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    Ok(builder().create_with_backend(media.medium(file)?)?)
}

/// Writes a whole new file in place of the one at `path`, or of none.
pub(super) fn write(
    path: &Path,
    table: &Table,
    media: &Media,
) -> Result<(Database, Identity), StoreError> {
    let new = beside(path, ".new");
    write_to(&new, path, table, media).map_err(|error| {
        // It would only take up space.
        let _ = std::fs::remove_file(&new);
        why(path, &error)
    })
}

fn write_to(
    new: &Path,
    path: &Path,
    table: &Table,
    media: &Media,
) -> Result<(Database, Identity), Error> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(new)?;
    let identity = Identity::of(&file)?;
    let database = builder().create_with_backend(media.medium(file.try_clone()?)?)?;
    let transaction = database.begin_write()?;
    {
        let mut meta = transaction.open_table(META)?;
        meta.insert(META_LAYOUT, LAYOUT)?;
        meta.insert(META_REVISION, table.revision)?;
        let mut entries = transaction.open_table(ENTRIES)?;
        for (text, revision, value) in table.rows() {
            entries.insert(text, (revision, value))?;
        }
    }
    transaction.commit()?;
    // redb syncs the data; the name and the length need a full one.
    file.sync_all()?;
    std::fs::rename(new, path)?;
    File::open(directory(path))?.sync_all()?;
    Ok((database, identity))
}

/// Makes one change durable.
pub(super) fn commit(database: &Database, change: &Change) -> Result<(), Error> {
    let transaction = database.begin_write()?;
    {
        let mut entries = transaction.open_table(ENTRIES)?;
        let text = change.key.to_string();
        match &change.value {
            Some(value) => entries.insert(text.as_str(), (change.revision, &value[..]))?,
            None => entries.remove(text.as_str())?,
        };
        transaction
            .open_table(META)?
            .insert(META_REVISION, change.revision)?;
    }
    transaction.commit()?;
    Ok(())
}

/// Whether the file at `path` is the one that this process opened, or is gone. Anything else
/// was put there by somebody.
pub(super) fn still(path: &Path, identity: Identity) -> Result<(), StoreError> {
    match File::open(path).and_then(|file| Identity::of(&file)) {
        Ok(found) if found == identity => Ok(()),
        Ok(_) => Err(StoreError::Damaged {
            place: StoreError::state_file(path),
            detail: "the file was replaced while it was in use".to_owned(),
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(StoreError::io(path, &error)),
    }
}

/// Whether the file at `path` is the one that is open: otherwise what is written to that has no
/// name, and is gone when it is closed.
pub(super) fn in_place(path: &Path, identity: Identity) -> Result<(), StoreError> {
    let moved = |detail: &str| StoreError::Moved {
        place: StoreError::state_file(path),
        detail: detail.to_owned(),
    };
    match std::fs::metadata(path) {
        Ok(found) if Identity::from(&found) == identity => Ok(()),
        Ok(_) => Err(moved("was replaced by another file")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(moved("was moved away or deleted"))
        }
        Err(error) => Err(StoreError::io(path, &error)),
    }
}

/// What redb's error means for whoever wanted to write.
pub(super) fn why(path: &Path, error: &Error) -> StoreError {
    match error {
        Error::Io(error) => StoreError::io(path, error),
        Error::Corrupted(detail) => StoreError::Damaged {
            place: StoreError::state_file(path),
            detail: detail.clone(),
        },
        other => StoreError::Unavailable {
            place: StoreError::state_file(path),
            detail: other.to_string(),
        },
    }
}

/// The path without symbolic links, so that one file has one lock, and is replaced where it is.
pub(super) fn resolve(path: &Path) -> Result<PathBuf, OpenError> {
    let resolved = path.canonicalize().or_else(|error| match path.file_name() {
        Some(name) if error.kind() == io::ErrorKind::NotFound => {
            Ok(directory(path).canonicalize()?.join(name))
        }
        _ => Err(error),
    });
    resolved.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => OpenError::NoDirectory {
            path: path.to_owned(),
        },
        _ => StoreError::io(path, &error).into(),
    })
}

/// A file of the same name with something added.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE);
    builder
}

impl Identity {
    fn of(file: &File) -> io::Result<Self> {
        Ok(Self::from(&file.metadata()?))
    }
}

impl From<&Metadata> for Identity {
    fn from(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
        }
    }
}

impl Unreadable {
    pub(super) fn of(self, path: &Path) -> OpenError {
        let path = path.to_owned();
        match self {
            Self::Missing => OpenError::Missing { path },
            Self::Damaged(detail) => OpenError::Damaged { path, detail },
            Self::Newer(layout) => OpenError::Newer { path, layout },
            Self::Io(error) => StoreError::io(&path, &error).into(),
        }
    }
}

/// A copy of a file in memory.
#[derive(Debug)]
struct Trial {
    copy: InMemoryBackend,
    limit: u64,
}

impl Trial {
    fn new(bytes: &[u8]) -> io::Result<Self> {
        let copy = InMemoryBackend::new();
        copy.set_len(bytes.len() as u64)?;
        copy.write(0, bytes)?;
        Ok(Self {
            copy,
            limit: bytes.len() as u64 + TRIAL_GROWTH,
        })
    }
}

impl StorageBackend for Trial {
    fn len(&self) -> io::Result<u64> {
        self.copy.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.copy.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if len > self.limit {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.copy.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.copy.write(offset, data)
    }
}

/// Makes a file say that it has another layout.
#[cfg(test)]
pub(super) fn mark_layout(path: &Path, layout: u64) {
    let mark = || -> Result<(), Error> {
        let database = builder().open(path)?;
        let transaction = database.begin_write()?;
        transaction.open_table(META)?.insert(META_LAYOUT, layout)?;
        transaction.commit()?;
        Ok(())
    };
    mark().expect("the file can be written");
}
