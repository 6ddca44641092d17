//! libfaketime: lets wall time jump for the processes that it is loaded into, and leaves monotonic
//! time alone.

use std::path::{Path, PathBuf};

/// Where Debian's package `faketime` puts it, on each architecture. Only where nobody checks in
/// earnest may it be missing.
///
/// # Errors
/// If it is missing and `CI` is set.
pub fn library() -> anyhow::Result<Option<PathBuf>> {
    let folders = std::fs::read_dir("/usr/lib")?.filter_map(|entry| Some(entry.ok()?.path()));
    let library = folders
        .map(|folder| folder.join("faketime/libfaketime.so.1"))
        .find(|path| path.exists());
    let missing = "libfaketime is not there: install Debian's package faketime first";
    match library {
        None if std::env::var_os("CI").is_some() => anyhow::bail!(missing),
        None => eprintln!("skipped: {missing}"),
        Some(_) => {}
    }
    Ok(library)
}

/// What a process has in its environment whose clock is off by what the file `clock` says, such
/// as `+1h`.
#[must_use]
pub fn environment(library: &Path, clock: &Path) -> Vec<(String, String)> {
    [
        ("LD_PRELOAD", library.display().to_string()),
        ("FAKETIME_TIMESTAMP_FILE", clock.display().to_string()),
        ("FAKETIME_NO_CACHE", "1".to_owned()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}
