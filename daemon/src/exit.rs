//! Exit codes of every Arx daemon, for init systems and scripts: `std::process::ExitCode::from(exit::CONFIG)`.

/// The process did what it was started for, and drained when it was told to end.
pub const OK: u8 = 0;

/// The process could not go on: a dependency, a panic, or an end that was forced. Starting it again may help.
pub const RUNTIME: u8 = 1;

/// The configuration, or a file that it names, was refused. Starting again without a change cannot help.
pub const CONFIG: u8 = 2;
