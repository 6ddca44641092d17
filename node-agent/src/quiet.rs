//! What anybody at the socket can cause, told in the log without filling it: the first time
//! at once, and from then on how often, once a minute.

use std::time::{Duration, Instant};

const MINUTE: Duration = Duration::from_secs(60);

/// One kind of occurrence.
#[derive(Debug, Default)]
pub(crate) struct Quiet {
    /// Nothing is told before this.
    until: Option<Instant>,
    /// How many were not told.
    untold: u64,
}

impl Quiet {
    /// It happened. If it is to be told now, how many before it were not.
    pub(crate) fn happened(&mut self, now: Instant) -> Option<u64> {
        if self.until.is_some_and(|until| now < until) {
            self.untold += 1;
            return None;
        }
        self.until = Some(now + MINUTE);
        Some(std::mem::take(&mut self.untold))
    }

    /// How many were not told, if it is time to tell that.
    pub(crate) fn due(&mut self, now: Instant) -> Option<u64> {
        self.next().filter(|at| *at <= now)?;
        self.until = Some(now + MINUTE);
        Some(std::mem::take(&mut self.untold))
    }

    /// When something is due.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.until.filter(|_| self.untold > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_told_at_once_and_the_others_are_counted_once_a_minute() {
        let start = Instant::now();
        let mut quiet = Quiet::default();
        assert_eq!(quiet.happened(start), Some(0));
        assert_eq!(quiet.next(), None, "there is nothing to tell");
        for second in 1..50 {
            assert_eq!(quiet.happened(start + Duration::from_secs(second)), None);
        }
        assert_eq!(quiet.next(), Some(start + MINUTE));
        assert_eq!(quiet.due(start + Duration::from_secs(59)), None);
        assert_eq!(quiet.due(start + MINUTE), Some(49));
        assert_eq!(
            quiet.happened(start + MINUTE + Duration::from_secs(1)),
            None
        );
        assert_eq!(quiet.happened(start + 3 * MINUTE), Some(1));
    }
}
