//! The files of a ledger: `00000001.seg` and so on, each a header and then records.
//!
//! ```text
//! magic [8] | format u16 | min reader u16 | header length u32 | number u32 | zero u32
//! | index of first record u64 | previous chain [32] | trust domain | chain [32]   (little-endian)
//! ```
//!
//! The header is part of the chain, and repeats the chain value that the segment before
//! ended with, so that the rest verifies when older segments are gone.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use arx_identity::crypto::sha256;

use super::error::{Error, Problem};
use super::frame::{CHAIN, Chain};

const MAGIC: [u8; 8] = *b"ARXLEDGR";
/// What this version writes, and the newest that it reads.
const FORMAT: u16 = 1;
const FIXED: usize = 72;
/// Longest trust domain name (SPIFFE-ID, 2.1).
const MAX_DOMAIN: usize = 255;

/// Where segment `number` lies.
pub(super) fn path(dir: &Path, number: u32) -> PathBuf {
    dir.join(file_name(number))
}

fn file_name(number: u32) -> String {
    format!("{number:08}.seg")
}

/// Whether segment `number` was one of the oldest and has been pruned: no answer to a
/// reader that has come too late for it is an error then.
pub(super) fn is_pruned(dir: &Path, number: u32) -> bool {
    list(dir).is_ok_and(|numbers| numbers.first().is_some_and(|first| number < *first))
}

/// The numbers of all segments in `dir`, ascending and without a gap.
pub(super) fn list(dir: &Path) -> Result<Vec<u32>, Error> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(dir).map_err(Error::io("list", dir))? {
        let name = entry.map_err(Error::io("list", dir))?.file_name();
        let stem = name.to_str().and_then(|name| name.strip_suffix(".seg"));
        let number = stem.and_then(|stem| stem.parse::<u32>().ok());
        // `1.seg` is somebody else's.
        numbers.extend(number.filter(|number| *name == *file_name(*number)));
    }
    numbers.sort_unstable();
    for pair in numbers.windows(2) {
        if pair[1] != pair[0] + 1 {
            return Err(Error::Missing(path(dir, pair[0] + 1)));
        }
    }
    Ok(numbers)
}

/// What a segment says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) number: u32,
    /// Index of its first record among all that the ledger ever had.
    pub(super) first: u64,
    /// Chain value that the segment before ended with; zeros in the very first.
    pub(super) previous: Chain,
    pub(super) trust_domain: String,
}

impl Header {
    /// Length of the header in the file, and so the offset of the first record.
    pub(super) fn length(&self) -> u64 {
        (FIXED + self.trust_domain.len() + CHAIN) as u64
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(FIXED + self.trust_domain.len() + CHAIN);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        let length = u32::try_from(self.length()).unwrap_or(u32::MAX);
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&self.number.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&self.first.to_le_bytes());
        bytes.extend_from_slice(&self.previous);
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(self.trust_domain.as_bytes());
        let chain = sha256(&bytes);
        bytes.extend_from_slice(&chain);
        bytes
    }

    /// Reads the header of the segment at `path`.
    pub(super) fn read(file: &File, path: &Path) -> Result<Self, Error> {
        let mut bytes = vec![0; FIXED + MAX_DOMAIN + CHAIN];
        let mut filled = 0;
        while filled < bytes.len() {
            match file.read_at(&mut bytes[filled..], filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io("read", path)(error)),
            }
        }
        bytes.truncate(filled);
        if let Some([f0, f1]) = bytes
            .strip_prefix(&MAGIC)
            .and_then(|rest| rest.get(2..)?.first_chunk())
        {
            let format = u16::from_le_bytes([*f0, *f1]);
            if format > FORMAT {
                return Err(Error::Newer {
                    file: path.to_owned(),
                    format,
                    known: FORMAT,
                });
            }
        }
        Self::decode(&bytes).ok_or_else(|| {
            Error::Damaged(Problem {
                file: path.to_owned(),
                offset: 0,
                what: "the segment's header is damaged".to_owned(),
            })
        })
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(&MAGIC)?;
        let (_formats, rest) = rest.split_first_chunk::<4>()?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let (number, rest) = rest.split_first_chunk::<4>()?;
        let (_zero, rest) = rest.split_first_chunk::<4>()?;
        let (first, rest) = rest.split_first_chunk::<8>()?;
        let (previous, rest) = rest.split_first_chunk::<CHAIN>()?;
        let (_zero, _rest) = rest.split_first_chunk::<8>()?;
        let covered = (u32::from_le_bytes(*length) as usize).checked_sub(CHAIN)?;
        let domain = bytes.get(FIXED..covered)?;
        if sha256(&bytes[..covered]) != *bytes.get(covered..)?.first_chunk::<CHAIN>()? {
            return None;
        }
        Some(Self {
            number: u32::from_le_bytes(*number),
            first: u64::from_le_bytes(*first),
            previous: *previous,
            trust_domain: String::from_utf8(domain.to_vec()).ok()?,
        })
    }
}

/// A segment of which `header` is the beginning, durable also after a power cut.
pub(super) fn create(dir: &Path, header: &Header) -> Result<(File, Chain), Error> {
    let path = path(dir, header.number);
    let beside = dir.join(".new.seg");
    let bytes = header.encode();
    let mut chain = [0; CHAIN];
    chain.copy_from_slice(&bytes[bytes.len() - CHAIN..]);
    let _left_behind = fs::remove_file(&beside);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&beside)
        .map_err(Error::io("make", &beside))?;
    let made = file
        .write_all(&bytes)
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&beside, &path))
        .and_then(|()| File::open(dir)?.sync_all());
    if let Err(error) = made {
        let _unused = fs::remove_file(&beside);
        return Err(Error::io("make", &path)(error));
    }
    Ok((file, chain))
}

/// Makes durable which files are in `dir`.
pub(super) fn sync_directory(dir: &Path) -> Result<(), Error> {
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(Error::io("sync", dir))
}

/// Opens a segment to be read and, if it is the newest, written.
pub(super) fn open(dir: &Path, number: u32, write: bool) -> Result<(File, PathBuf), Error> {
    let path = path(dir, number);
    let file = OpenOptions::new()
        .read(true)
        .write(write)
        .open(&path)
        .map_err(Error::io("open", &path))?;
    Ok((file, path))
}

/// How long the file is, or why that is not known.
pub(super) fn length(file: &File, path: &Path) -> Result<u64, Error> {
    Ok(file.metadata().map_err(Error::io("look at", path))?.len())
}

/// Whether the file was removed while it is open.
pub(super) fn is_removed(file: &File) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.nlink() == 0)
}
