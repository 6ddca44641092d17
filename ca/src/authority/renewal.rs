//! When a root that is made here is to be replaced by another one.

use std::time::{Duration, SystemTime};

/// Whether roots that are made here are replaced by themselves, and when.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RootRenewal {
    /// A rotation begins by itself, so long before the root's end; by default when a third of
    /// its life is left.
    Auto(Option<Duration>),
    /// Only when an operator says so.
    #[default]
    Manual,
}

impl RootRenewal {
    /// How long before its end a root is replaced that lives for `life`; nothing, if that is
    /// the operator's to do.
    #[must_use]
    pub fn lead(self, life: Duration) -> Option<Duration> {
        match self {
            Self::Auto(lead) => Some(lead.unwrap_or(life / 3)),
            Self::Manual => None,
        }
    }

    /// When a root is due that was made at `made` and ends at `ends`.
    #[must_use]
    pub fn due(self, made: SystemTime, ends: SystemTime) -> Option<SystemTime> {
        let lead = self.lead(ends.duration_since(made).unwrap_or_default())?;
        // No later than that, whatever a shorter life or a clock that went back makes of it.
        Some(ends.checked_sub(lead).unwrap_or(made))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn a_root_is_due_when_a_third_of_its_life_is_left() {
        let made = SystemTime::UNIX_EPOCH + 1000 * DAY;
        let due = RootRenewal::Auto(None).due(made, made + 3 * DAY);
        assert_eq!(due, Some(made + 2 * DAY));
    }

    #[test]
    fn or_so_long_before_its_end_as_the_operator_says_or_never() {
        let made = SystemTime::UNIX_EPOCH + 1000 * DAY;
        let due = RootRenewal::Auto(Some(DAY)).due(made, made + 30 * DAY);
        assert_eq!(due, Some(made + 29 * DAY));
        assert_eq!(RootRenewal::Manual.due(made, made + DAY), None);
    }
}
