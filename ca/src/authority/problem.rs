//! What is wrong with how the authority is configured, one by one, so that all of it can be
//! told at once.

use std::fmt;

/// Something that the operator must change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The setting that it concerns, as `section.key`.
    pub setting: &'static str,
    /// The stable reason code.
    pub code: &'static str,
    /// What is wrong and what to do.
    pub message: String,
}

impl Problem {
    pub(super) fn new(
        setting: &'static str,
        code: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self {
            setting,
            code,
            message: message.into(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.setting, self.message)
    }
}

/// A duration as an operator writes one.
pub(super) fn human(duration: std::time::Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{}ms", duration.as_millis()),
        _ if seconds.is_multiple_of(86_400) => format!("{}d", seconds / 86_400),
        _ if seconds.is_multiple_of(3_600) => format!("{}h", seconds / 3_600),
        _ if seconds.is_multiple_of(60) => format!("{}m", seconds / 60),
        _ => format!("{seconds}s"),
    }
}
