//! What anybody at the socket can cause, told in the log without filling it: the first time
//! at once, and from then on how often, once a minute.

use std::collections::BTreeMap;
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

/// Occurrences by reason code: the first of each code is told at once.
#[derive(Debug, Default)]
pub(crate) struct QuietByCode(BTreeMap<String, Quiet>);

impl QuietByCode {
    /// Codes that are told apart; those beyond count as one.
    const MOST: usize = 64;

    /// As [`Quiet::happened`], of this code.
    pub(crate) fn happened(&mut self, code: &str, now: Instant) -> Option<u64> {
        let room = self.0.len() < Self::MOST || self.0.contains_key(code);
        let code = if room { code } else { "" };
        let quiet = self.0.entry(code.to_owned()).or_default();
        quiet.happened(now)
    }

    /// Each code of which it is time to tell how many were not told, and how many.
    pub(crate) fn due(&mut self, now: Instant) -> impl Iterator<Item = (&str, u64)> {
        let all = self.0.iter_mut();
        all.filter_map(move |(code, quiet)| Some((code.as_str(), quiet.due(now)?)))
    }

    /// When something is due.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.0.values().filter_map(Quiet::next).min()
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
    #[test]
    fn each_code_is_told_once_by_itself_and_there_are_only_so_many() {
        let start = Instant::now();
        let mut quiet = QuietByCode::default();
        assert_eq!(quiet.happened("A", start), Some(0));
        assert_eq!(quiet.happened("B", start), Some(0));
        assert_eq!(quiet.happened("A", start), None);
        let due: Vec<_> = quiet.due(start + MINUTE).collect();
        assert_eq!(due, [("A", 1)]);
        for number in 0..1000 {
            let _told = quiet.happened(&number.to_string(), start);
        }
        assert_eq!(quiet.0.len(), QuietByCode::MOST + 1);
    }
}
